//! `sandpost scheduled`: messages that wait for their time.

use clap::{Args, Subcommand};
use serde::Deserialize;

use super::client::Client;
use super::failure::Failure;
use super::output::{Event, Output, Text, plain, text, time};

#[derive(Subcommand, Debug)]
pub(super) enum ScheduledCommand {
    /// List scheduled messages, in the order of their times
    List(ListArgs),
    /// Show one with its event
    Show {
        /// Its number, as `list` prints it
        number: u64,
    },
    /// Take messages out of the schedule: they are never delivered
    Cancel {
        /// Their numbers, as `list` prints them
        #[arg(required = true)]
        numbers: Vec<u64>,
    },
}

#[derive(Args, Debug)]
pub(super) struct ListArgs {
    /// Those of a topic or filter
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Those after this place, as the list before ended with it
    #[arg(long, value_name = "PLACE")]
    after: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    limit: u64,
}

pub(super) fn run(command: &ScheduledCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        ScheduledCommand::List(args) => list(args, client, output),
        ScheduledCommand::Show { number } => show(*number, client, output),
        ScheduledCommand::Cancel { numbers } => cancel(numbers, client, output),
    }
}

fn list(args: &ListArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let mut query = vec![("limit", args.limit.to_string())];
    query.extend(args.topic.clone().map(|topic| ("topic", topic)));
    query.extend(args.after.clone().map(|after| ("after", after)));
    let scheduled = client.get("/scheduled", &query)?;
    if output.json {
        return output.line(&scheduled.text);
    }
    let scheduled = scheduled.list()?;
    let rows = scheduled.iter().map(|one| {
        vec![
            plain(&one["scheduled"]),
            Text::Plain(time(&one["deliver_at_ms"])),
            plain(&one["topic"]),
            plain(&one["key"]),
            plain(&one["id"]),
            plain(&one["bytes"]),
        ]
    });
    output.table(&["scheduled", "deliver at", "topic", "key", "id", "bytes"], rows)?;
    match scheduled.last() {
        Some(last) if scheduled.len() as u64 == args.limit => {
            output.line(format!("There may be more: --after {}-{}", last["deliver_at_ms"], last["scheduled"]))
        }
        _ => Ok(()),
    }
}

#[derive(Deserialize)]
struct WithEvent<'a> {
    #[serde(borrow)]
    message: Event<'a>,
}

fn show(number: u64, client: &Client, output: &Output) -> Result<(), Failure> {
    let answer = client.get(&format!("/scheduled/{number}"), &[])?;
    if output.json {
        return output.line(&answer.text);
    }
    let scheduled = answer.value()?;
    output.facts(&[
        ("scheduled", text(&scheduled["scheduled"])),
        ("deliver at", time(&scheduled["deliver_at_ms"])),
        ("accepted", time(&scheduled["accepted_ms"])),
        ("topic", text(&scheduled["topic"])),
        ("key", text(&scheduled["key"])),
        ("id", text(&scheduled["id"])),
        ("source", text(&scheduled["source"])),
    ])?;
    let Ok(with_event) = serde_json::from_str::<WithEvent<'_>>(&answer.text) else { return Ok(()) };
    output.heading("Data")?;
    output.line(with_event.message.data())
}

fn cancel(numbers: &[u64], client: &Client, output: &Output) -> Result<(), Failure> {
    for number in numbers {
        client.delete(&format!("/scheduled/{number}"))?;
        if !output.json {
            output.line(format!("{number} cancelled"))?;
        }
    }
    Ok(())
}
