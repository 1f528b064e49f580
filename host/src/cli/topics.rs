//! `sandpost topics`: what topics there are, and the messages of one.

use clap::Subcommand;

use super::client::{Client, segment};
use super::failure::Failure;
use super::output::{Event, Output, Text, plain, text};
use super::tail;

#[derive(Subcommand, Debug)]
pub(super) enum TopicsCommand {
    /// List the topics
    List,
    /// Print messages of a topic, the oldest first
    Messages {
        topic: String,
        /// The sequence to begin at
        #[arg(long, value_name = "SEQUENCE", default_value_t = 1)]
        from: u64,
        /// How many at most
        #[arg(long, value_name = "MESSAGES", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
    },
}

pub(super) fn run(command: &TopicsCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        TopicsCommand::List => list(client, output),
        TopicsCommand::Messages { topic, from, limit } => messages(topic, *from, *limit, client, output),
    }
}

fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let topics = client.get("/topics", &[])?;
    if output.json {
        return output.line(&topics.text);
    }
    let topics = topics.list()?;
    let rows = topics.iter().map(|topic| {
        let subscribed = topic["subscriptions"].as_array().is_some_and(|names| !names.is_empty());
        let subscriptions = text(&topic["subscriptions"]);
        vec![
            plain(&topic["name"]),
            plain(&topic["messages"]),
            plain(&topic["first_sequence"]),
            plain(&topic["last_sequence"]),
            plain(&topic["bytes"]),
            if subscribed { Text::Plain(subscriptions) } else { Text::Plain("-".to_owned()) },
        ]
    });
    output.table(&["topic", "messages", "first", "last", "bytes", "subscriptions"], rows)
}

/// One message a line, so that scripts can read them one by one. One answer holds a bounded number of bytes, so that a large topic comes in several.
fn messages(topic: &str, mut from: u64, limit: u64, client: &Client, output: &Output) -> Result<(), Failure> {
    const PAGE: u64 = 1_000;
    let path = format!("/topics/{}/messages", segment(topic));
    let mut left = limit;
    while left > 0 {
        let query = [("from", from.to_string()), ("limit", left.min(PAGE).to_string())];
        let page = client.get(&path, &query)?;
        let messages = page.items()?;
        let last =
            messages.last().and_then(|message| Event::parse(message.get())?.attributes.get("sequence")?.as_u64());
        let Some(last) = last else { break };
        messages.iter().try_for_each(|message| tail::print(output, message.get()))?;
        left = left.saturating_sub(messages.len() as u64);
        from = last + 1;
    }
    Ok(())
}
