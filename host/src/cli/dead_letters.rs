//! `sandpost dead-letters`: what failed for good, with the evidence, and what to do with it.

use clap::{ArgGroup, Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Answer, Client, segment};
use super::failure::Failure;
use super::output::{Event, Output, Text, duration, plain, short, text, time};

#[derive(Subcommand, Debug)]
pub(super) enum DeadLettersCommand {
    /// List dead letters, in the order of subscription and offset
    List(ListArgs),
    /// Show one with its evidence: every attempt, and the message itself
    Show {
        /// SUBSCRIPTION:OFFSET, as `list` prints it
        id: String,
    },
    /// Offer dead letters again to the subscriptions they failed in, and to no other
    Redrive(RedriveArgs),
    /// Drop dead letters; their messages count as skipped
    Drop(DropArgs),
}

#[derive(Args, Debug)]
pub(super) struct ListArgs {
    /// Those of one subscription
    #[arg(long, value_name = "NAME")]
    subscription: Option<String>,
    /// Those after this one
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    limit: u64,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("which").required(true).args(["ids", "subscription", "all"]))]
pub(super) struct RedriveArgs {
    /// SUBSCRIPTION:OFFSET, as `list` prints it
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// All of one subscription
    #[arg(long, value_name = "NAME")]
    subscription: Option<String>,
    /// All there are
    #[arg(long)]
    all: bool,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("which").required(true).args(["ids", "subscription"]))]
pub(super) struct DropArgs {
    /// SUBSCRIPTION:OFFSET, as `list` prints it
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// All of one subscription
    #[arg(long, value_name = "NAME")]
    subscription: Option<String>,
}

pub(super) fn run(command: &DeadLettersCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        DeadLettersCommand::List(args) => list(args, client, output),
        DeadLettersCommand::Show { id } => show(id, client, output),
        DeadLettersCommand::Redrive(args) => redrive(args, client, output),
        DeadLettersCommand::Drop(args) => drop_letters(args, client, output),
    }
}

fn page(client: &Client, subscription: Option<&String>, after: Option<&String>, limit: u64) -> Result<Answer, Failure> {
    let mut query = vec![("limit", limit.to_string())];
    query.extend(subscription.map(|name| ("subscription", name.clone())));
    query.extend(after.map(|id| ("after", id.clone())));
    client.get("/dead-letters", &query)
}

fn list(args: &ListArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let letters = page(client, args.subscription.as_ref(), args.after.as_ref(), args.limit)?;
    if output.json {
        return output.line(&letters.text);
    }
    let letters = letters.list()?;
    let last = letters.last().map(|letter| text(&letter["id"]));
    let full = letters.len() as u64 == args.limit;
    let rows = letters.iter().map(|letter| {
        let error = letter["attempts"].as_array().and_then(|attempts| attempts.last()).map(|last| text(&last["text"]));
        vec![
            plain(&letter["id"]),
            Text::Bad(text(&letter["reason"])),
            Text::Plain(format!("{} #{}", text(&letter["topic"]), text(&letter["sequence"]))),
            plain(&letter["key"]),
            plain(&letter["attempts_total"]),
            Text::Plain(time(&letter["died_ms"])),
            Text::Plain(first_line(&error.unwrap_or_default())),
        ]
    });
    output.table(&["id", "reason", "message", "key", "attempts", "died", "last error"], rows)?;
    match last {
        Some(last) if full => output.line(format!("There may be more: --after {last}")),
        _ => Ok(()),
    }
}

fn first_line(text: &str) -> String {
    const CHARACTERS: usize = 60;
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}

/// The message of a dead letter, with its data as it was published.
#[derive(Deserialize)]
struct WithMessage<'a> {
    #[serde(borrow)]
    message: Option<Event<'a>>,
}

fn show(id: &str, client: &Client, output: &Output) -> Result<(), Failure> {
    let answer = client.get(&format!("/dead-letters/{}", segment(id)), &[])?;
    if output.json {
        return output.line(&answer.text);
    }
    let letter = answer.value()?;
    let member = |name: &str| text(&letter[name]);
    let mut facts = vec![
        ("id", member("id")),
        ("subscription", member("subscription")),
        ("reason", member("reason")),
        ("died", time(&letter["died_ms"])),
        ("topic", format!("{} #{} (offset {})", member("topic"), member("sequence"), member("offset"))),
        ("accepted", time(&letter["accepted_ms"])),
        ("redriven", format!("{} times", member("redrives"))),
    ];
    facts.extend(excuse(&letter["excused"]).map(|excuse| ("excused", excuse)));
    output.facts(&facts)?;
    let attempts: Vec<_> = letter["attempts"].as_array().into_iter().flatten().collect();
    let total = letter["attempts_total"].as_u64().unwrap_or(0);
    output.heading(&format!("Attempts: {total}"))?;
    let rows = attempts.iter().map(|attempt| {
        vec![
            Text::Plain(time(&attempt["at_ms"])),
            Text::Plain(duration(attempt["duration_us"].as_u64().unwrap_or(0))),
            Text::Bad(text(&attempt["outcome"])),
            Text::Plain(if attempt["charged"] == json!(false) { "no" } else { "yes" }.to_owned()),
            Text::Plain(short(&attempt["digest"])),
        ]
    });
    output.table(&["began", "took", "outcome", "charged", "digest"], rows)?;
    if attempts.len() as u64 != total {
        output.line(format!("{} between the first and the last ones are not kept", total - attempts.len() as u64))?;
    }
    print_errors(&attempts, output)?;
    let Some(event) = answer.read::<WithMessage<'_>>()?.message else {
        return output.line("\nThe message itself is not there.");
    };
    output.heading("Message")?;
    let attributes: Vec<_> = event.attributes.iter().map(|(name, value)| (name.as_str(), text(value))).collect();
    output.facts(&attributes)?;
    output.heading("Data")?;
    output.line(event.data())
}

/// Why the message is not at fault, in words.
fn excuse(excused: &Value) -> Option<String> {
    Some(match excused.as_str()? {
        "breaker" => "breaker: it failed in a row of failures of many messages".to_owned(),
        "rolled-back" => "rolled-back: it failed in a version that was rolled back".to_owned(),
        other => other.to_owned(),
    })
}

/// Each text once, with the attempts that ended with it.
fn print_errors(attempts: &[&Value], output: &Output) -> Result<(), Failure> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for attempt in attempts {
        let error = text(&attempt["text"]);
        let at = time(&attempt["at_ms"]);
        match groups.iter_mut().find(|(own, _)| *own == error) {
            Some((_, times)) => times.push(at),
            None => groups.push((error, vec![at])),
        }
    }
    for (error, times) in groups.iter().filter(|(error, _)| !error.is_empty()) {
        let every = times.len() == attempts.len() && times.len() > 1;
        let heading =
            if every { "Error of every attempt".to_owned() } else { format!("Error of {}", times.join(", ")) };
        output.heading(&heading)?;
        output.line(error)?;
    }
    Ok(())
}

fn redrive(args: &RedriveArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let mut command = json!({});
    if let Some(subscription) = &args.subscription {
        command["subscription"] = json!(subscription);
    }
    if !args.ids.is_empty() {
        command["ids"] = json!(args.ids);
    }
    let headers = [("content-type".to_owned(), "application/json".to_owned())];
    let answer = client.post("/dead-letters/redrive", &headers, command.to_string().as_bytes())?;
    let answer = answer.value()?;
    output.done(&answer, &format!("{} redriven", text(&answer["redriven"])))
}

fn drop_letters(args: &DropArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let mut dropped = 0_u64;
    let mut drop_one = |id: &str| -> Result<(), Failure> {
        client.delete(&format!("/dead-letters/{}", segment(id)))?;
        dropped += 1;
        Ok(())
    };
    args.ids.iter().try_for_each(|id| drop_one(id))?;
    if let Some(name) = &args.subscription {
        let mut after = None;
        loop {
            let letters = page(client, Some(name), after.as_ref(), 1_000)?.list()?;
            let Some(last) = letters.last() else { break };
            after = last["id"].as_str().map(str::to_owned);
            for id in letters.iter().filter_map(|letter| letter["id"].as_str()) {
                match drop_one(id) {
                    // Somebody else has redriven or dropped it meanwhile.
                    Err(Failure::Problem { status: 404, .. }) => {}
                    result => result?,
                }
            }
        }
    }
    output.done(&json!({ "dropped": dropped }), &format!("{dropped} dropped"))
}
