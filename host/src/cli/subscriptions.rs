//! `sandpost subscriptions`: where each one stands, and why its messages wait.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, segment};
use super::confirm::confirm;
use super::failure::Failure;
use super::output::{Output, Text, age, alarm, clean, plain, text, time};

#[derive(Subcommand, Debug)]
pub(super) enum SubscriptionsCommand {
    /// List the subscriptions with their lag
    List,
    /// Show one: its account, and why each pending message waits
    Show { name: String },
    /// Hold one back: running calls end, nothing new begins, and messages gather
    Pause { name: String },
    /// Let a paused one go on
    Resume { name: String },
    /// Move one to another place in the log: what it has behind it is met again, or what is before it skipped
    Seek(SeekArgs),
    /// Remove one whose consumer's files are gone, with its account and its dead letters
    Remove { name: String },
}

#[derive(Args, Debug)]
pub(super) struct SeekArgs {
    name: String,
    /// beginning, now, an offset, TOPIC@SEQUENCE, or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "PLACE")]
    to: String,
    /// Only say what it would come to
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
}

pub(super) fn run(command: &SubscriptionsCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        SubscriptionsCommand::List => list(client, output),
        SubscriptionsCommand::Show { name } => show(name, client, output),
        SubscriptionsCommand::Pause { name } => {
            let answer = client.post(&format!("/subscriptions/{}/pause", segment(name)), &[], b"")?;
            let words = format!("{name} is paused; `sandpost subscriptions resume {name}` lets it go on");
            output.done(&answer.value()?, &words)
        }
        SubscriptionsCommand::Resume { name } => {
            let answer = client.post(&format!("/subscriptions/{}/resume", segment(name)), &[], b"")?;
            output.done(&answer.value()?, &format!("{name} is not paused"))
        }
        SubscriptionsCommand::Seek(args) => seek(args, client, output),
        SubscriptionsCommand::Remove { name } => {
            client.delete(&format!("/subscriptions/{}", segment(name)))?;
            output.done(&json!({ "removed": name }), &format!("{name} is removed"))
        }
    }
}

fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let subscriptions = client.get("/subscriptions", &[])?;
    if output.json {
        return output.line(&subscriptions.text);
    }
    let subscriptions = subscriptions.list()?;
    let rows = subscriptions.iter().map(|one| {
        let status = text(&one["status"]);
        vec![
            plain(&one["name"]),
            if status == "active" { Text::Good(status) } else { Text::Bad(status) },
            plain(&one["topics"]),
            plain(&one["pending"]),
            Text::Plain(age(&one["oldest_pending_seconds"])),
            plain(&one["acked"]),
            alarm(&one["dead"]),
        ]
    });
    output.table(&["subscription", "status", "topics", "pending", "oldest", "acked", "dead"], rows)
}

fn show(name: &str, client: &Client, output: &Output) -> Result<(), Failure> {
    let one = client.get(&format!("/subscriptions/{}", segment(name)), &[])?;
    if output.json {
        return output.line(&one.text);
    }
    let one = one.value()?;
    let member = |name: &str| text(&one[name]);
    let mut facts = vec![
        ("name", member("name")),
        ("status", member("status")),
        ("consumer", member("consumer")),
        ("digest", member("digest")),
        ("topics", member("topics")),
        ("order", member("order")),
        ("concurrency", member("concurrency")),
        ("instances", member("instances")),
        ("max attempts", member("max_attempts")),
        ("on exhausted", member("on_exhausted")),
        ("created", time(&one["created_ms"])),
        ("read to", member("read_to")),
        ("oldest pending", age(&one["oldest_pending_seconds"])),
        ("keys held back", member("blocked_keys")),
        ("uncharged reruns", member("reruns")),
        ("refunded attempts", member("refunded")),
        ("breaker", breaker(&one["breaker"])),
    ];
    if !one["rate"].is_null() {
        facts.push(("rate", member("rate")));
    }
    output.facts(&facts)?;
    output.heading("Account: matched = pending + dead + acked + expired + skipped - reopened")?;
    let counts = ["matched", "pending", "dead", "acked", "expired", "skipped", "reopened", "redriven"];
    let counts = counts.map(|count| (count, member(count)));
    output.facts(&counts)?;
    output.heading("Why pending messages wait")?;
    let reasons = waiting(&one["waiting"]);
    output.facts(&reasons.iter().map(|(words, count)| (words.as_str(), count.clone())).collect::<Vec<_>>())?;
    if one["parked_by"].as_array().is_some_and(|letters| !letters.is_empty()) {
        output.heading("Parked until these are redriven or dropped, or redriven and settled")?;
        output.facts(&[("dead letters", member("parked_by"))])?;
    }
    let failures: Vec<_> = one["breaker"]["last_failures"].as_array().into_iter().flatten().collect();
    if !failures.is_empty() {
        output.heading("The last failures in a row")?;
        let rows = failures.iter().map(|failure| {
            vec![plain(&failure["offset"]), Text::Bad(text(&failure["outcome"])), plain(&failure["text"])]
        });
        output.table(&["offset", "outcome", "error"], rows)?;
    }
    for (heading, name) in [("Calls since the bus started", "outcomes"), ("Dead letters ever made", "died")] {
        let counts: Vec<_> = one[name].as_object().into_iter().flatten().collect();
        if !counts.is_empty() {
            output.heading(heading)?;
            let counts: Vec<_> = counts.into_iter().map(|(name, count)| (name.as_str(), text(count))).collect();
            output.facts(&counts)?;
        }
    }
    Ok(())
}

/// What the breaker does, in words.
fn breaker(breaker: &Value) -> String {
    let member = |name: &str| text(&breaker[name]);
    match breaker["state"].as_str() {
        None => "switched off".to_owned(),
        Some("open") => format!("open until {}; then one call is tried", time(&breaker["until_ms"])),
        Some("half-open") => format!("half open: {} at once, to see whether they succeed", member("at_once")),
        Some(_) => format!("closed; {} of {} failures in a row", member("failures_in_a_row"), member("failures_max")),
    }
}

fn seek(args: &SeekArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let ask = |dry_run: bool| {
        let body = json!({ "to": args.to, "dry_run": dry_run }).to_string();
        let headers = [("content-type".to_owned(), "application/json".to_owned())];
        client.post(&format!("/subscriptions/{}/seek", segment(&args.name)), &headers, body.as_bytes())
    };
    if args.dry_run || !args.yes {
        let preview = ask(true)?;
        if args.dry_run && output.json {
            return output.line(&preview.text);
        }
        if !output.json {
            print_seek(&preview.value()?, output)?;
        }
        if args.dry_run {
            return Ok(());
        }
        confirm(&format!("Move {} there?", args.name), args.yes)?;
    }
    let sought = ask(false)?;
    if output.json {
        return output.line(&sought.text);
    }
    print_seek(&sought.value()?, output)?;
    output.line(format!("{} is moved", args.name))
}

fn print_seek(view: &Value, output: &Output) -> Result<(), Failure> {
    let member = |name: &str| text(&view[name]);
    output.facts(&[
        ("to offset", member("offset")),
        ("pending afterwards", member("pending")),
        ("settled, and met again", member("reopened")),
        ("held, with fresh attempts", member("restarted")),
        ("pending, and skipped", member("skipped")),
        ("dead letters passed over", member("passed_over")),
        ("redriven, and dead again", member("returned")),
        ("gone by retention", member("gone")),
    ])
}

/// The reasons in words, those without a message left out.
fn waiting(waiting: &Value) -> Vec<(String, String)> {
    let reasons = [
        ("running", "a call is running"),
        ("runnable", "waiting for a worker or a slot"),
        ("due_later", "waiting for the next attempt"),
        ("behind_key", "behind another message of the same key"),
        ("behind_window", "in the log, not read yet"),
        ("paused", "the subscription is paused"),
        ("breaker", "the breaker holds them back"),
        ("over_rate", "over the subscription's rate"),
        ("orphaned", "the consumer's files are gone"),
        ("parked", "parked by a dead letter"),
    ];
    let mut lines: Vec<_> = reasons
        .into_iter()
        .filter(|(name, _)| waiting[name].as_u64() != Some(0))
        .map(|(name, words)| (words.to_owned(), text(&waiting[name])))
        .collect();
    let full = waiting["full"].as_object().into_iter().flatten();
    lines.extend(full.map(|(topic, count)| (format!("full: {}", clean(topic)), text(count))));
    if waiting["next_due_ms"].is_u64() {
        lines.push(("next attempt due".to_owned(), time(&waiting["next_due_ms"])));
    }
    if waiting["breaker_until_ms"].is_u64() {
        lines.push(("breaker open until".to_owned(), time(&waiting["breaker_until_ms"])));
    }
    if lines.is_empty() {
        lines.push(("nothing waits".to_owned(), String::new()));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Waiting;

    #[test]
    fn every_reason_to_wait_is_put_in_words() {
        let all = Waiting {
            running: 1,
            runnable: 2,
            due_later: 3,
            full: [("order.placed".to_owned(), 8)].into(),
            next_due_ms: Some(4),
            behind_key: 5,
            behind_window: 6,
            orphaned: 7,
            parked: 8,
            paused: 12,
            breaker: 9,
            breaker_until_ms: Some(10),
            over_rate: 11,
        };
        let view = serde_json::to_value(&all).unwrap();
        assert_eq!(waiting(&view).len(), view.as_object().unwrap().len());
        let none = serde_json::to_value(Waiting::default()).unwrap();
        assert_eq!(waiting(&none), [("nothing waits".to_owned(), String::new())]);
    }
}
