//! `sandpost topics`: what topics there are, and the messages of one.

use clap::Subcommand;
use serde_json::Value;

use super::client::{Client, segment};
use super::confirm::confirm;
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
    /// Take a topic away with all its messages: what is pending of it is skipped, its dead letters stay
    Remove {
        topic: String,
        /// Only say what it would come to
        #[arg(long)]
        dry_run: bool,
        /// Do not ask
        #[arg(long, conflicts_with = "dry_run")]
        yes: bool,
    },
}

pub(super) fn run(command: &TopicsCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        TopicsCommand::List => list(client, output),
        TopicsCommand::Remove { topic, dry_run, yes } => remove(topic, *dry_run, *yes, client, output),
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

fn remove(topic: &str, dry_run: bool, yes: bool, client: &Client, output: &Output) -> Result<(), Failure> {
    let path = format!("/topics/{}", segment(topic));
    if dry_run || !yes {
        let preview = client.remove(&path, &[("dry_run", "true".to_owned())])?;
        if dry_run && output.json {
            return output.line(&preview.text);
        }
        if !output.json {
            print_removal(&preview.value()?, output)?;
        }
        if dry_run {
            return Ok(());
        }
        confirm(&format!("Take `{topic}` away?"), yes)?;
    }
    let removed = client.remove(&path, &[])?;
    if output.json {
        return output.line(&removed.text);
    }
    print_removal(&removed.value()?, output)?;
    output.line(format!("{topic} is taken away"))
}

fn print_removal(view: &Value, output: &Output) -> Result<(), Failure> {
    let mut facts = vec![
        ("topic", text(&view["topic"])),
        ("messages", text(&view["messages"])),
        ("last sequence", text(&view["last_sequence"])),
    ];
    for one in view["skipped"].as_array().into_iter().flatten() {
        facts.push(("skipped", format!("{} of {}", text(&one["skipped"]), text(&one["subscription"]))));
    }
    output.facts(&facts)
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
