//! What a run came to, for people and for scripts.

use serde_json::{Value, json};
use tracing::Level;

use super::Inputs;
use super::lines::Line;
use super::state::{self, Entries};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, clean, duration};
use crate::ingress::EncodedEvent;
use crate::message::Message;
use crate::outcome::Outcome;
use crate::sandbox::{Called, Offer};

/// Characters of a value in the list of changes.
const VALUE_CHARACTERS: usize = 200;

pub(super) struct Report<'a> {
    /// The median time of a call after the first, where there were any.
    pub(super) warm: Option<std::time::Duration>,
    pub(super) inputs: &'a Inputs,
    pub(super) message: &'a Message,
    pub(super) offer: &'a Offer,
    pub(super) lines: &'a [Line],
    pub(super) before: &'a Entries,
    pub(super) called: &'a Called,
}

impl Report<'_> {
    pub(super) fn print(&self, output: &Output) -> Result<(), Failure> {
        if output.json { output.line(self.json().to_string()) } else { self.words(output) }
    }

    fn json(&self) -> Value {
        let called = self.called;
        let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let log: Vec<_> = self
            .lines
            .iter()
            .map(|line| json!({ "level": line.level.as_str().to_ascii_lowercase(), "text": line.text }))
            .collect();
        let changes: Vec<_> = self
            .called
            .effects
            .writes
            .iter()
            .map(|(key, value)| {
                json!({
                    "key": key,
                    "before": self.before.get(key).map(|value| state::json(value)),
                    "after": value.as_ref().map(|value| state::json(value)),
                })
            })
            .collect();
        json!({
            "consumer": self.inputs.name,
            "kind": self.inputs.component.kind().as_str(),
            "digest": self.inputs.component.digest().to_string(),
            "topic": self.message.event.topic.as_str(),
            "subscription": &*self.offer.subscription,
            "attempt": self.offer.attempt,
            "outcome": called.outcome.kind().as_str(),
            "reason": called.outcome.text(),
            "retry_after_ms": match &called.outcome {
                Outcome::Retry { after, .. } | Outcome::Unavailable { after, .. } =>
                    after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
                _ => None,
            },
            "log": log,
            "published": called.effects.publishes.iter().map(EncodedEvent).collect::<Vec<_>>(),
            "state": changes,
            "compile_us": micros(self.inputs.compiled_in),
            "set_up_us": micros(called.set_up),
            "call_us": micros(called.duration.saturating_sub(called.set_up)),
            "warm_call_us": self.warm.map(|warm| warm.as_nanos() as f64 / 1e3),
            "memory_bytes": called.memory_bytes,
        })
    }

    fn words(&self, output: &Output) -> Result<(), Failure> {
        let (inputs, called) = (self.inputs, self.called);
        let micros = |time: std::time::Duration| duration(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        let manifest = match &inputs.manifest_path {
            Some(path) => path.display().to_string(),
            None => "none: it may publish to any topic, and has no configuration".to_owned(),
        };
        output.facts(&[
            ("consumer", format!("{}, a {}", inputs.name, inputs.component.kind())),
            ("manifest", manifest),
            ("message", format!("{} of {}", clean(&self.message.event.id), self.message.event.topic)),
        ])?;
        if !self.lines.is_empty() {
            output.heading("Log")?;
            for line in self.lines {
                output.line(format!("{:5}  {}", level(line.level), clean(&line.text)))?;
            }
        }
        if !called.effects.publishes.is_empty() {
            output.heading("Published")?;
            for event in &called.effects.publishes {
                let text =
                    serde_json::to_string(&EncodedEvent(event)).map_err(|error| Failure::Failed(error.to_string()))?;
                output.line(format!("{}  {}", event.topic, clean(&text)))?;
            }
        }
        if !called.effects.writes.is_empty() {
            output.heading("State")?;
            for (key, after) in &called.effects.writes {
                let before = self.before.get(key);
                let show = |value: Option<&bytes::Bytes>| value.map_or_else(|| "-".to_owned(), |value| preview(value));
                output.line(format!("{}  {} -> {}", clean(key), show(before), show(after.as_ref())))?;
            }
        }
        let text = called.outcome.text();
        let name = called.outcome.kind().as_str();
        output.heading(name)?;
        if !text.is_empty() {
            output.line(clean(&text))?;
        }
        if let Outcome::Retry { after: Some(after), .. } | Outcome::Unavailable { after: Some(after), .. } =
            &called.outcome
        {
            output.line(format!("to be tried again after {}", micros(*after)))?;
        }
        if let Some(warm) = self.warm {
            output.line(format!("called again in {:.1} us (median)", warm.as_nanos() as f64 / 1e3))?;
        }
        output.line(format!(
            "compiled or loaded in {}, set up in {}, called in {}, {:.1} MiB of memory",
            micros(inputs.compiled_in),
            micros(called.set_up),
            micros(called.duration.saturating_sub(called.set_up)),
            called.memory_bytes as f64 / 1_048_576.0
        ))
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::TRACE => "trace",
        Level::DEBUG => "debug",
        Level::INFO => "info",
        Level::WARN => "warn",
        Level::ERROR => "error",
    }
}

fn preview(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if text.chars().count() <= VALUE_CHARACTERS => clean(text),
        Ok(text) => clean(&text.chars().take(VALUE_CHARACTERS).collect::<String>()) + "...",
        Err(_) => format!("({} bytes, no text)", value.len()),
    }
}
