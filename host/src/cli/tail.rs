//! `sandpost tail`: events as they are synced.

use clap::Args;
use serde_json::Value;

use super::client::{Client, segment};
use super::failure::Failure;
use super::output::{Event, Output, text};

/// Print events as they are synced.
///
/// FILTER is a topic or a filter: `*` stands for one token, a last `>` for the rest. Quote it, for the
/// shell knows both. Without --from it begins with what is published from now on.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sandpost tail order.placed
  sandpost tail 'order.>' --from 0 --json | jq .data
  sandpost tail '>' --limit 1")]
pub(super) struct TailArgs {
    /// A topic or a filter such as 'order.*' or '>'
    filter: String,
    /// The offset to begin at; 0 is the beginning
    #[arg(long, value_name = "OFFSET")]
    from: Option<u64>,
    /// End after this many events
    #[arg(long, value_name = "EVENTS", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

pub(super) fn run(args: &TailArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let query: Vec<_> = args.from.map(|from| ("from", from.to_string())).into_iter().collect();
    let path = format!("/topics/{}/tail", segment(&args.filter));
    let mut parser = Parser::default();
    let mut printed = 0;
    for line in client.lines(&path, &query)? {
        let Some(received) = parser.line(&line?) else { continue };
        if received.name == "problem" {
            let document: Value = serde_json::from_str(&received.data).unwrap_or(Value::Null);
            let status = document["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(500);
            return Err(Failure::Problem { status, document });
        }
        print(output, &received.data)?;
        printed += 1;
        if args.limit == Some(printed) {
            return Ok(());
        }
    }
    Err(Failure::Unreachable("the bus has ended the stream; it is stopping".to_owned()))
}

/// Prints an event on one line: as it is for scripts, its place, key and data for people.
pub(super) fn print(output: &Output, event: &str) -> Result<(), Failure> {
    match Event::parse(event) {
        Some(event) if !output.json => output.line(summary(&event)),
        _ => output.line(event),
    }
}

fn summary(event: &Event<'_>) -> String {
    let member = |name: &str| event.attributes.get(name).map(text).unwrap_or_default();
    let key = match member("partitionkey") {
        key if key.is_empty() => key,
        key => format!(" [{key}]"),
    };
    format!("{} {} #{}{key} {}", member("offset"), member("topic"), member("sequence"), event.preview())
}

/// A server-sent event.
#[derive(Debug, PartialEq, Eq)]
struct Received {
    name: String,
    data: String,
}

/// Puts events together from the lines of the stream.
#[derive(Default)]
struct Parser {
    name: String,
    data: Vec<String>,
}

impl Parser {
    fn line(&mut self, line: &str) -> Option<Received> {
        if line.is_empty() {
            let Self { name, data } = std::mem::take(self);
            return (!data.is_empty()).then(|| Received { name, data: data.join("\n") });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => self.data.push(value.to_owned()),
            // The id stands in the data as well; a line without a field's name is a comment.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_put_together_from_lines() {
        let mut parser = Parser::default();
        let lines = [": alive", "", "id: 4", "data: {\"a\": 1}", "", "event: problem", "data:x", "data: y", "", ""];
        let received: Vec<_> = lines.iter().filter_map(|line| parser.line(line)).collect();
        let expected = [("", "{\"a\": 1}"), ("problem", "x\ny")]
            .map(|(name, data)| Received { name: name.to_owned(), data: data.to_owned() });
        assert_eq!(received, expected);
    }

    #[test]
    fn a_summary_is_one_line() {
        let event = json!({"topic": "order.placed", "sequence": 3, "offset": 9, "partitionkey": "k\u{1b}",
            "data": "two\nlines"});
        assert_eq!(summary(&Event::parse(&event.to_string()).unwrap()), "9 order.placed #3 [k\\u{1b}] two lines");
    }
}
