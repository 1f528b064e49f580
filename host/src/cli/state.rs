//! `sandpost state`: what consumers keep.

use std::io::{BufRead, BufReader};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use serde_json::Value;

use super::client::{Client, segment};
use super::failure::Failure;
use super::output::{Output, Text, clean, plain, text};

#[derive(Subcommand, Debug)]
pub(super) enum StateCommand {
    /// List the consumers that keep something, and how much
    List,
    /// Print one value as it is
    Get { consumer: String, key: String },
    /// List keys with their values, in the order of the keys
    Scan {
        consumer: String,
        /// Only keys that begin with this
        #[arg(default_value = "")]
        prefix: String,
        /// Only keys after this one
        #[arg(long, value_name = "KEY")]
        after: Option<String>,
        /// How many at most
        #[arg(long, value_name = "ENTRIES", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
    },
    /// Print all entries of one moment as JSON lines: `key`, and `value` or, where it is no text, `value_base64`
    Export {
        consumer: String,
        /// Only keys that begin with this
        #[arg(long, default_value = "")]
        prefix: String,
    },
    /// Remove everything that a consumer keeps which is not deployed
    Remove {
        consumer: String,
        /// Yes, remove it: it cannot be brought back
        #[arg(long)]
        yes: bool,
    },
}

pub(super) fn run(command: &StateCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        StateCommand::List => list(client, output),
        StateCommand::Get { consumer, key } => get(consumer, key, client, output),
        StateCommand::Scan { consumer, prefix, after, limit } => {
            scan(consumer, prefix, after.clone(), *limit, client, output)
        }
        StateCommand::Export { consumer, prefix } => export(consumer, prefix, client, output),
        StateCommand::Remove { consumer, yes: false } => Err(Failure::Usage(format!(
            "this removes everything that `{consumer}` keeps, and cannot be undone; say --yes if that is meant"
        ))),
        StateCommand::Remove { consumer, yes: true } => {
            let removed = client.remove(&path(consumer), &[])?.value()?;
            let words = format!("{} entries of {consumer} are removed", text(&removed["removed"]));
            output.done(&removed, &words)
        }
    }
}

fn path(consumer: &str) -> String {
    format!("/state/{}", segment(consumer))
}

fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let sizes = client.get("/state", &[])?;
    if output.json {
        return output.line(&sizes.text);
    }
    let sizes = sizes.list()?;
    let rows = sizes.iter().map(|one| {
        let deployed = one["deployed"].as_bool().unwrap_or(false);
        vec![
            plain(&one["consumer"]),
            plain(&one["entries"]),
            plain(&one["bytes"]),
            Text::Plain((if deployed { "yes" } else { "no" }).to_owned()),
        ]
    });
    output.table(&["consumer", "entries", "bytes", "deployed"], rows)
}

fn get(consumer: &str, key: &str, client: &Client, output: &Output) -> Result<(), Failure> {
    let entry = client.get(&format!("{}/{}", path(consumer), segment(key)), &[])?;
    if output.json {
        return output.line(&entry.text);
    }
    output.raw(&value(&entry.value()?))
}

/// The bytes of a value.
fn value(entry: &Value) -> Vec<u8> {
    match (entry["value"].as_str(), entry["value_base64"].as_str()) {
        (Some(text), _) => text.as_bytes().to_vec(),
        (None, Some(base64)) => STANDARD.decode(base64).unwrap_or_default(),
        (None, None) => Vec::new(),
    }
}

fn scan(
    consumer: &str,
    prefix: &str,
    mut after: Option<String>,
    limit: u64,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    const PAGE: u64 = 1_000;
    let mut rows = Vec::new();
    let mut left = limit;
    while left > 0 {
        let mut query = vec![("prefix", prefix.to_owned()), ("limit", left.min(PAGE).to_string())];
        query.extend(after.take().map(|after| ("after", after)));
        let page = client.get(&path(consumer), &query)?.value()?;
        let entries = page["entries"].as_array().cloned().unwrap_or_default();
        left = left.saturating_sub(entries.len() as u64);
        for entry in entries {
            if output.json {
                output.line(entry.to_string())?;
            } else {
                rows.push(vec![plain(&entry["key"]), Text::Plain(preview(&entry))]);
            }
        }
        match page["next"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => break,
        }
    }
    if output.json { Ok(()) } else { output.table(&["key", "value"], rows) }
}

/// The beginning of a value, on one line.
fn preview(entry: &Value) -> String {
    const CHARACTERS: usize = 60;
    let Some(text) = entry["value"].as_str() else { return format!("({} bytes, no text)", value(entry).len()) };
    let line = clean(text).replace(['\n', '\t'], " ");
    match line.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

fn export(consumer: &str, prefix: &str, client: &Client, output: &Output) -> Result<(), Failure> {
    let query = [("export", "true".to_owned()), ("prefix", prefix.to_owned())];
    let path = path(consumer);
    let body = BufReader::new(client.stream(&path, &query)?);
    for line in body.lines() {
        // What was printed so far is not all there is, and must not be taken for it.
        let line = line.map_err(|error| Failure::Failed(format!("the export of `{consumer}` broke off: {error}")))?;
        output.line(line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_shown_as_text_where_they_are_text() {
        assert_eq!(preview(&json!({ "value": "a\tb\u{1b}" })), "a b\\u{1b}");
        assert_eq!(preview(&json!({ "value": "x".repeat(70) })), format!("{}...", "x".repeat(60)));
        assert_eq!(preview(&json!({ "value_base64": "/wA=" })), "(2 bytes, no text)");
        assert_eq!(value(&json!({ "value_base64": "/wA=" })), [255, 0]);
    }
}
