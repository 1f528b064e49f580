//! `sandpost publish`: one event from an argument, a file or stdin, or one event a line.

use std::io::{self, BufRead, IsTerminal, Read};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use super::client::{Client, segment};
use super::failure::Failure;
use super::output::{Output, text};
use crate::ingress::{DELIVER_AFTER, DELIVER_AT, EXPIRY};
use crate::limits::{BATCH_MESSAGES_MAX, MIB};

/// What CloudEvents has percent-encoded in a header: all that is not visible ASCII, and `"` and `%`.
const HEADER: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');
/// Bytes of lines in one batch, well within what the bus accepts.
const LINES_BYTES_MAX: usize = 2 * MIB;

/// Publish an event to a topic.
///
/// The answer comes once the event is synced to the disk of the bus. The data is what --data says, the
/// contents of --file, or what comes on stdin. What is not given is filled in: a new id, the source
/// `/cli`, the topic as the type, the time, and the content type as the data looks (JSON, text or bytes).
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sandpost publish order.placed --key customer-7 --data '{\"order\": 1}'
  sandpost publish image.taken --file cat.png --content-type image/png
  sandpost publish basket.left --key customer-7 --deliver-after 2h --data '{\"basket\": 9}'
  sandpost publish order.placed --id 4711 --source /shop --attribute traceparent=00-...
  journalctl -f -o json | sandpost publish host.log --lines")]
pub(super) struct PublishArgs {
    /// The topic, such as `order.placed`
    topic: String,
    /// The data itself
    #[arg(long, conflicts_with_all = ["file", "lines"])]
    data: Option<String>,
    /// A file with the data
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Publish each line of the input as an event of its own, in batches of what is there
    #[arg(long, conflicts_with = "id")]
    lines: bool,
    /// The key: events of one key are delivered in order
    #[arg(long)]
    key: Option<String>,
    /// The event's id, unique together with its source
    #[arg(long)]
    id: Option<String>,
    /// The event's source: a URI that names who publishes
    #[arg(long, default_value = "/cli")]
    source: String,
    /// The event's type; the topic where it is not given
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// The event's subject
    #[arg(long)]
    subject: Option<String>,
    /// The data's media type
    #[arg(long)]
    content_type: Option<String>,
    /// Deliver it not before this time (RFC 3339)
    #[arg(long, value_name = "TIME", conflicts_with = "deliver_after")]
    deliver_at: Option<String>,
    /// Deliver it not before so long from now, such as 90s or 2h
    #[arg(long, value_name = "DURATION")]
    deliver_after: Option<String>,
    /// Do not deliver it after this time (RFC 3339); what was not delivered by then counts as expired
    #[arg(long, value_name = "TIME", conflicts_with = "expires_after")]
    expires_at: Option<String>,
    /// Do not deliver it later than so long from now, such as 90s or 2h
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    expires_after: Option<Duration>,
    /// A further attribute; may be given many times
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = attribute)]
    attributes: Vec<(String, String)>,
}

pub(super) fn attribute(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("give it as NAME=VALUE".to_owned()),
    }
}

pub(super) fn run(args: &PublishArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    if args.lines {
        return publish_lines(args, client, output);
    }
    let data = match (&args.data, &args.file) {
        (Some(data), _) => data.clone().into_bytes(),
        (None, Some(path)) => std::fs::read(path).map_err(|error| unreadable(path, &error))?,
        (None, None) => read_stdin()?,
    };
    let mut headers = vec![("content-type".to_owned(), args.media_type(&data))];
    for (name, value) in args.attributes() {
        headers.push((format!("ce-{name}"), utf8_percent_encode(&value, HEADER).to_string()));
    }
    let accepted = client.post(&args.path(), &headers, &data)?;
    if output.json {
        return output.line(&accepted.text);
    }
    let accepted = accepted.value()?;
    let member = |name: &str| text(&accepted[name]);
    let place = match accepted["scheduled"] {
        Value::Null => format!("#{} (offset {}, id {})", member("sequence"), member("offset"), member("id")),
        _ => format!("at {} (scheduled {}, id {})", member("deliver_at"), member("scheduled"), member("id")),
    };
    let before = if accepted["duplicate"] == true { ", which was there before" } else { "" };
    output.line(format!("{} {place}{before}", member("topic")))
}

fn read_stdin() -> Result<Vec<u8>, Failure> {
    if io::stdin().is_terminal() {
        eprintln!("Type the data, and end it with Ctrl-D on a line of its own.");
    }
    let mut data = Vec::new();
    io::stdin().read_to_end(&mut data).map_err(|error| Failure::Failed(format!("stdin cannot be read: {error}")))?;
    Ok(data)
}

fn unreadable(path: &std::path::Path, error: &io::Error) -> Failure {
    Failure::Failed(format!("{} cannot be read: {error}", path.display()))
}

impl PublishArgs {
    fn path(&self) -> String {
        format!("/topics/{}", segment(&self.topic))
    }

    /// All attributes of one event but the type of its data.
    fn attributes(&self) -> Vec<(String, String)> {
        let id = self.id.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let mut attributes = vec![
            ("specversion".to_owned(), "1.0".to_owned()),
            ("id".to_owned(), id),
            ("source".to_owned(), self.source.clone()),
            ("type".to_owned(), self.kind.clone().unwrap_or_else(|| self.topic.clone())),
        ];
        let expires_after = self.expires_after.map(|after| (jiff::Timestamp::now() + after).to_string());
        let optional = [
            ("subject", self.subject.clone()),
            ("partitionkey", self.key.clone()),
            (DELIVER_AT, self.deliver_at.clone()),
            (DELIVER_AFTER, self.deliver_after.clone()),
            (EXPIRY, self.expires_at.clone().or(expires_after)),
        ];
        for (name, value) in optional {
            attributes.extend(value.map(|value| (name.to_owned(), value)));
        }
        if !self.attributes.iter().any(|(name, _)| name == "time") {
            attributes.push(("time".to_owned(), jiff::Timestamp::now().to_string()));
        }
        attributes.extend(self.attributes.iter().cloned());
        attributes
    }

    fn media_type(&self, data: &[u8]) -> String {
        self.content_type.clone().unwrap_or_else(|| looks_like(data).to_owned())
    }
}

fn looks_like(data: &[u8]) -> &'static str {
    if serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok() {
        "application/json"
    } else if std::str::from_utf8(data).is_ok() {
        "text/plain; charset=utf-8"
    } else {
        "application/octet-stream"
    }
}

/// Batches hold what has been read meanwhile: a slow input is passed on line by line, a fast one in
/// batches as large as one may be.
fn publish_lines(args: &PublishArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    // Bounded, so that a fast input waits for the bus and not in our memory.
    let (sender, lines) = sync_channel(BATCH_MESSAGES_MAX);
    let input: Box<dyn BufRead + Send> = match &args.file {
        Some(path) => {
            let file = std::fs::File::open(path).map_err(|error| unreadable(path, &error))?;
            Box::new(io::BufReader::new(file))
        }
        None => Box::new(io::BufReader::new(io::stdin())),
    };
    let reader = std::thread::spawn(move || -> io::Result<()> {
        for line in input.split(b'\n') {
            let mut line = line?;
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            if !line.is_empty() && sender.send(line).is_err() {
                return Ok(());
            }
        }
        Ok(())
    });
    let mut published = 0;
    let result = send_batches(args, client, output, &lines, &mut published);
    drop(lines);
    if let Err(failure) = result {
        eprintln!("{published} lines were published before this:");
        return Err(failure);
    }
    match reader.join() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            return Err(Failure::Failed(format!("after {published} lines the input cannot be read: {error}")));
        }
        Err(panic) => std::panic::resume_unwind(panic),
    }
    if output.json { Ok(()) } else { output.line(format!("{published} published to {}", args.topic)) }
}

fn send_batches(
    args: &PublishArgs,
    client: &Client,
    output: &Output,
    lines: &Receiver<Vec<u8>>,
    published: &mut u64,
) -> Result<(), Failure> {
    let headers = [("content-type".to_owned(), "application/cloudevents-batch+json".to_owned())];
    while let Ok(first) = lines.recv() {
        let mut bytes = first.len();
        let mut batch = vec![args.structured(&first)];
        while batch.len() < BATCH_MESSAGES_MAX && bytes < LINES_BYTES_MAX {
            let Ok(line) = lines.try_recv() else { break };
            bytes += line.len();
            batch.push(args.structured(&line));
        }
        let body = serde_json::to_vec(&batch).expect("raw JSON always serializes");
        let accepted = client.post(&args.path(), &headers, &body)?;
        *published += batch.len() as u64;
        if output.json {
            accepted.items()?.iter().try_for_each(|one| output.line(one.get()))?;
        }
    }
    Ok(())
}

impl PublishArgs {
    /// A line as a structured event.
    fn structured(&self, data: &[u8]) -> Box<RawValue> {
        let media_type = self.media_type(data);
        let mut members: Map<String, Value> =
            self.attributes().into_iter().map(|(name, value)| (name, value.into())).collect();
        members.insert("datacontenttype".to_owned(), media_type.clone().into());
        let text = std::str::from_utf8(data).ok();
        // A null would be read as no data at all.
        let raw = text.filter(|text| text.trim() != "null").and_then(|text| {
            if media_type == "application/json" { serde_json::from_str::<Box<RawValue>>(text).ok() } else { None }
        });
        if let Some(raw) = raw {
            // The digits of numbers stay as they were written.
            let attributes = Value::Object(members).to_string();
            let open = attributes.strip_suffix('}').expect("it is an object");
            let event = format!("{open},\"data\":{}}}", raw.get());
            return RawValue::from_string(event).expect("an object with one more member is JSON");
        }
        let data = match text {
            Some(text) if media_type.starts_with("text/") => ("data", json!(text)),
            _ => ("data_base64", json!(STANDARD.encode(data))),
        };
        members.insert(data.0.to_owned(), data.1);
        to_raw_value(&members).expect("strings always serialize")
    }
}
