//! `sandpost dead-letters`: what failed for good, with the evidence, and what to do with it.

mod operate;
mod rehearse;

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Client, segment};
use super::failure::Failure;
use super::output::{Event, Output, Text, duration, plain, short, text, time};
use crate::headline::headline;
use operate::{Rate, Work};

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
    #[command(flatten)]
    filter: FilterArgs,
    /// Those after this one
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    limit: u64,
}

/// Which dead letters are meant: all that is given must hold.
#[derive(Args, Debug)]
pub(super) struct FilterArgs {
    /// Those of one subscription
    #[arg(long, value_name = "NAME")]
    subscription: Option<String>,
    /// Those that died for this reason, such as `rejected`
    #[arg(long)]
    reason: Option<String>,
    /// Those of these topics: a name, or a filter such as `order.>`
    #[arg(long, value_name = "FILTER")]
    topic: Option<String>,
    /// Those of one key
    #[arg(long)]
    key: Option<String>,
    /// Those that died then or later: a time as RFC 3339, or how long ago, such as `1h`
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Those that died then or earlier
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Those whose last attempt ran on this component: its digest, or at least 6 digits of it
    #[arg(long)]
    digest: Option<String>,
    /// Those whose last error has this text in it
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// Those that turned out not to be at fault: `breaker`, `rolled-back`, or any of these; or those that did not: `no`
    #[arg(long, value_name = "WHY", num_args = 0..=1, require_equals = true, default_missing_value = "any")]
    excused: Option<String>,
}

impl FilterArgs {
    /// Every part by the name under which the bus knows it.
    fn parts(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let parts = [
            ("subscription", &self.subscription),
            ("reason", &self.reason),
            ("topic", &self.topic),
            ("key", &self.key),
            ("since", &self.since),
            ("until", &self.until),
            ("digest", &self.digest),
            ("error", &self.error),
            ("excused", &self.excused),
        ];
        parts.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)))
    }
}

/// The names of [`FilterArgs`], one of which a command needs that is not to be about all by mistake.
const PARTS: [&str; 9] = ["subscription", "reason", "topic", "key", "since", "until", "digest", "error", "excused"];

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("which").required(true).multiple(true).args(PARTS).args(["ids", "all"]))]
pub(super) struct RedriveArgs {
    /// SUBSCRIPTION:OFFSET, as `list` prints it
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// All there are
    #[arg(long, conflicts_with_all = PARTS, conflicts_with = "ids")]
    all: bool,
    /// No faster than this, such as `50/s`, `100/m` or `1000/h`
    #[arg(long)]
    rate: Option<Rate>,
    /// Count them, and redrive none
    #[arg(long)]
    dry_run: bool,
    /// Redrive none: run them through this component, under the deployed manifest, and say what would become of
    /// them. Nothing is committed, and no request leaves
    #[arg(long, value_name = "FILE.wasm", conflicts_with_all = ["rate", "dry_run"])]
    component: Option<PathBuf>,
    /// With --component: how many at most
    #[arg(long, requires = "component", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    limit: u64,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("which").required(true).multiple(true).args(PARTS).args(["ids"]))]
pub(super) struct DropArgs {
    /// SUBSCRIPTION:OFFSET, as `list` prints it
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Count them, and drop none
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(command: &DeadLettersCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    let done = match command {
        DeadLettersCommand::List(args) => list(args, client, output),
        DeadLettersCommand::Show { id } => show(id, client, output),
        DeadLettersCommand::Redrive(args @ RedriveArgs { component: Some(component), .. }) => {
            rehearse::run(component, args, client, output)
        }
        DeadLettersCommand::Redrive(args) => {
            let work = Work { ids: &args.ids, filter: &args.filter, rate: args.rate, dry_run: args.dry_run };
            operate::run(&operate::REDRIVE, &work, client, output)
        }
        DeadLettersCommand::Drop(args) => {
            let work = Work { ids: &args.ids, filter: &args.filter, rate: None, dry_run: args.dry_run };
            operate::run(&operate::DROP, &work, client, output)
        }
    };
    done.map_err(in_flags)
}

/// What the bus says to whoever asks over HTTP, said to whoever types.
fn in_flags(failure: Failure) -> Failure {
    let Failure::Problem { status, mut document } = failure else { return failure };
    let kind = document["type"].as_str().unwrap_or_default().to_owned();
    let hint = match kind.as_str() {
        "/problems/bad-filter" => {
            let part = document["part"].as_str().unwrap_or_default();
            format!("It was given with --{part}; `sandpost dead-letters list --help` has all that can be chosen by.")
        }
        "/problems/several-consumers" => "Choose one with --subscription.".to_owned(),
        "/problems/bad-component" => "`sandpost plugins check` tells what is wrong with it.".to_owned(),
        _ => return Failure::Problem { status, document },
    };
    document["hint"] = hint.into();
    Failure::Problem { status, document }
}

fn list(args: &ListArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let mut query = vec![("limit", args.limit.to_string())];
    query.extend(args.filter.parts().map(|(name, value)| (name, value.clone())));
    query.extend(args.after.as_ref().map(|id| ("after", id.clone())));
    let letters = client.get("/dead-letters", &query)?;
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
            Text::Plain(telling_line(&error.unwrap_or_default())),
        ]
    });
    output.table(&["id", "reason", "message", "key", "attempts", "died", "last error"], rows)?;
    match last {
        Some(last) if full => output.line(format!("There may be more: --after {last}")),
        _ => Ok(()),
    }
}

fn telling_line(text: &str) -> String {
    const CHARACTERS: usize = 60;
    let line = headline(text);
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
