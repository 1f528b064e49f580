//! What commands print: tables for people, JSON for scripts, colours on a terminal only.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::failure::Failure;

/// Columns of a message's data in a list.
const PREVIEW_CHARACTERS: usize = 72;

/// Where a command prints.
pub(crate) struct Output {
    pub(crate) json: bool,
    terminal: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { json, terminal: io::stdout().is_terminal() && !plain }
    }

    /// Prints a line. A reader that has gone away ends the command without a complaint.
    pub(crate) fn line(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::OutputClosed),
            Err(error) => Err(Failure::Failed(format!("the output cannot be written: {error}"))),
        }
    }

    /// Prints bytes as they are.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::OutputClosed),
            Err(error) => Err(Failure::Failed(format!("the output cannot be written: {error}"))),
        }
    }

    /// Says what was done.
    pub(crate) fn done(&self, json: &Value, words: &str) -> Result<(), Failure> {
        if self.json { self.line(json.to_string()) } else { self.line(words) }
    }

    pub(crate) fn table(&self, header: &[&str], rows: impl IntoIterator<Item = Vec<Text>>) -> Result<(), Failure> {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        if self.terminal {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        } else {
            table.force_no_tty();
        }
        table.set_header(header.iter().map(|name| Cell::new(name.to_uppercase()).add_attribute(Attribute::Bold)));
        for row in rows {
            table.add_row(row.into_iter().map(Text::cell));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for line in table.lines() {
            self.line(line.trim_end())?;
        }
        Ok(())
    }

    /// Prints names with their values, one a line, aligned.
    pub(crate) fn facts(&self, facts: &[(&str, String)]) -> Result<(), Failure> {
        let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in facts {
            self.line(format!("{name:width$}  {value}"))?;
        }
        Ok(())
    }

    pub(crate) fn heading(&self, text: &str) -> Result<(), Failure> {
        self.line("")?;
        if self.terminal { self.line(format!("\x1b[1m{text}\x1b[0m")) } else { self.line(text) }
    }
}

/// A table's cell.
pub(crate) enum Text {
    Plain(String),
    Good(String),
    Bad(String),
}

impl Text {
    fn cell(self) -> Cell {
        match self {
            Self::Plain(text) => Cell::new(text),
            Self::Good(text) => Cell::new(text).fg(comfy_table::Color::Green),
            Self::Bad(text) => Cell::new(text).fg(comfy_table::Color::Red),
        }
    }
}

/// A member of an answer as plain text: `-` where there is none.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => clean(text),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

pub(crate) fn plain(value: &Value) -> Text {
    Text::Plain(text(value))
}

/// A count that should be zero.
pub(crate) fn alarm(value: &Value) -> Text {
    if value.as_u64().unwrap_or(0) == 0 { plain(value) } else { Text::Bad(text(value)) }
}

/// Milliseconds since 1970 as a time in UTC.
pub(crate) fn time(value: &Value) -> String {
    let time = value.as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| "-".to_owned(), |time| format!("{time:.3}"))
}

/// Microseconds, in the unit that people would choose.
pub(crate) fn duration(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// Seconds of an age.
pub(crate) fn age(value: &Value) -> String {
    let seconds = value.as_f64().unwrap_or(0.0);
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = std::time::Duration::from_secs(seconds as u64);
    humantime::format_duration(whole).to_string()
}

/// The first digits of a digest.
pub(crate) fn short(digest: &Value) -> String {
    digest.as_str().map_or_else(|| "-".to_owned(), |digest| clean(digest).chars().take(12).collect())
}

/// A text from producers and guests, without what would move a terminal's cursor or change its state.
/// Line breaks and tabs stay.
pub(crate) fn clean(text: &str) -> String {
    let is_safe = |c: char| !c.is_control() || c == '\n' || c == '\t';
    if text.chars().all(is_safe) {
        return text.to_owned();
    }
    text.chars().map(|c| if is_safe(c) { c.to_string() } else { c.escape_default().to_string() }).collect()
}

/// A structured CloudEvent, as the bus wrote it.
#[derive(Deserialize)]
pub(crate) struct Event<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
    #[serde(flatten)]
    pub(crate) attributes: BTreeMap<String, Value>,
}

impl<'a> Event<'a> {
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The data, as people read it: the digits of its numbers stay as they were published.
    pub(crate) fn data(&self) -> String {
        let Some(data) = self.data else {
            return self.data_base64.as_deref().map_or_else(String::new, decoded);
        };
        match serde_json::from_str::<String>(data.get()) {
            Ok(text) => clean(&text),
            Err(_) => clean(data.get()),
        }
    }

    /// The beginning of the data, on one line.
    pub(crate) fn preview(&self) -> String {
        let line = self.data().replace(['\n', '\t'], " ");
        match line.char_indices().nth(PREVIEW_CHARACTERS) {
            Some((end, _)) => format!("{}...", &line[..end]),
            None => line,
        }
    }
}

fn decoded(base64: &str) -> String {
    match STANDARD.decode(base64).map(String::from_utf8) {
        Ok(Ok(text)) => clean(&text),
        Ok(Err(error)) => format!("({} bytes, no text) {base64}", error.as_bytes().len()),
        Err(_) => clean(base64),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_from_outside_reaches_the_terminal_as_a_command() {
        assert_eq!(clean("a\x1b[31mb\r\u{9b}\n\tc"), "a\\u{1b}[31mb\\r\\u{9b}\n\tc");
        assert_eq!(text(&json!({"a": "\x1b"})), r#"{"a":"\u001b"}"#, "JSON escapes by itself");
    }

    #[test]
    fn data_is_shown_as_text_where_it_is_text() {
        let table = [
            ("{}", ""),
            (r#"{"id": "1", "data": {"a": 1.50}}"#, r#"{"a": 1.50}"#),
            (r#"{"data": 12345678901234567890123}"#, "12345678901234567890123"),
            (r#"{"data": "hello"}"#, "hello"),
            (r#"{"data_base64": "aGVsbG8="}"#, "hello"),
            (r#"{"data_base64": "/w=="}"#, "(1 bytes, no text) /w=="),
            (r#"{"data_base64": "?"}"#, "?"),
        ];
        for (event, expected) in table {
            assert_eq!(Event::parse(event).unwrap().data(), expected, "{event}");
        }
    }

    #[test]
    fn times_are_utc_and_durations_have_units() {
        assert_eq!(time(&json!(1_700_000_000_123_u64)), "2023-11-14T22:13:20.123Z");
        assert_eq!(time(&json!(u64::MAX)), "-");
        assert_eq!(duration(999), "999 us");
        assert_eq!(duration(1_500), "1.5 ms");
        assert_eq!(duration(2_000_000), "2.00 s");
        assert_eq!(age(&json!(3.25)), "3.2 s");
        assert_eq!(age(&json!(3_661.0)), "1h 1m 1s");
    }
}
