//! A WASI command handles a message as a process would: the data on stdin, the rest in the environment, and the exit
//! code says how it went.

use bytes::{Buf, Bytes};

use super::call::Version;
use super::guest::Guest;
use super::imports::{log_text, report_dropped_lines};
use super::output::Output;
use super::publish::{self, Parts};
use super::records::Level;
use super::{Offer, ending};
use crate::limits;
use crate::message::Message;
use crate::outcome::Outcome;
use crate::policy::Stdout;

/// `EX_TEMPFAIL` of sysexits.h: try again.
const EXIT_RETRY: i32 = 75;
/// Environment variables of the message begin so; those of the manifest have their own names.
const PREFIX: &str = "SANDPOST_";

/// What a command is given, and what it printed.
pub(super) struct CommandCall {
    pub(super) args: Vec<String>,
    pub(super) environ: Vec<(String, String)>,
    pub(super) stdin: Bytes,
    pub(super) stdout: Output,
    /// Arguments and variables as the shim reads them: with a NUL after each.
    args_text: Vec<u8>,
    environ_text: Vec<u8>,
}

impl CommandCall {
    pub(super) fn new(version: &Version, message: &Message, offer: &Offer) -> Self {
        let policy = version.command.as_ref();
        let mut args = vec![version.consumer.to_string()];
        args.extend(policy.iter().flat_map(|policy| policy.args.iter().cloned()));
        let environ = environ(version, message, offer);
        let stdout_bytes_max = match policy.map(|policy| &policy.stdout) {
            Some(Stdout::Publish { .. }) => limits::STAGED_BYTES_MAX,
            Some(Stdout::Log) | None => limits::GUEST_LOG_BYTES_MAX,
        };
        let variables: Vec<String> = environ.iter().map(|(name, value)| format!("{name}={value}")).collect();
        Self {
            args_text: texts(&args),
            environ_text: texts(&variables),
            args,
            environ,
            stdin: message.event.data.clone(),
            stdout: Output::first(stdout_bytes_max),
        }
    }

    /// The next bytes of stdin.
    pub(super) fn read(&mut self, bytes_max: usize) -> Bytes {
        self.stdin.split_to(bytes_max.min(self.stdin.remaining()))
    }

    pub(super) fn args_size(&self) -> u64 {
        size(self.args.len(), &self.args_text)
    }

    pub(super) fn environ_size(&self) -> u64 {
        size(self.environ.len(), &self.environ_text)
    }

    pub(super) fn args_word(&self, at: u32) -> u64 {
        word(&self.args_text, at)
    }

    pub(super) fn environ_word(&self, at: u32) -> u64 {
        word(&self.environ_text, at)
    }
}

fn texts(texts: &[String]) -> Vec<u8> {
    let mut all = Vec::new();
    for text in texts {
        // A NUL within would end it early for a guest of C, and shift all that follows it.
        all.extend(text.bytes().filter(|byte| *byte != 0));
        all.push(0);
    }
    all
}

fn size(count: usize, text: &[u8]) -> u64 {
    (count as u64) << 32 | text.len() as u64
}

fn word(text: &[u8], at: u32) -> u64 {
    let rest = text.get(at as usize..).unwrap_or_default();
    let mut word = [0; 8];
    let bytes = rest.len().min(8);
    word[..bytes].copy_from_slice(&rest[..bytes]);
    u64::from_le_bytes(word)
}

/// The message and the delivery under names of their own, then the manifest's `[config]`.
fn environ(version: &Version, message: &Message, offer: &Offer) -> Vec<(String, String)> {
    let event = &message.event;
    let timeout_ms = u64::try_from(offer.timeout.as_millis()).unwrap_or(u64::MAX);
    let mut environ = Vec::new();
    let mut set = |name: &str, value: String| environ.push((format!("{PREFIX}{name}"), value));
    set("ID", event.id.clone());
    set("SOURCE", event.source.clone());
    set("TYPE", event.kind.clone());
    set("TOPIC", event.topic.as_str().to_owned());
    for (name, value) in [("SUBJECT", &event.subject), ("KEY", &event.key), ("CONTENT_TYPE", &event.content_type)] {
        if let Some(value) = value {
            set(name, value.clone());
        }
    }
    set("ACCEPTED_MS", message.accepted_ms.to_string());
    for (name, value) in &event.attributes {
        set(&format!("ATTRIBUTE_{}", name.to_ascii_uppercase()), value.clone());
    }
    set("SUBSCRIPTION", offer.subscription.to_string());
    set("SEQUENCE", message.sequence.to_string());
    set("ATTEMPT", offer.attempt.to_string());
    set("MAX_ATTEMPTS", offer.max_attempts.to_string());
    set("REDRIVES", offer.redrives.to_string());
    set("FIRST_ATTEMPT_MS", offer.first_attempt_ms.to_string());
    set("DEADLINE_MS", offer.now_ms.saturating_add(timeout_ms).to_string());
    set("IDEMPOTENCY_KEY", offer.idempotency_key.clone());
    for (name, value) in &version.config {
        environ.push((name.clone(), value.clone()));
    }
    environ
}

/// What follows from a command's end. `code` is its exit code, where it came to one.
pub(super) fn ended(code: Option<i32>, guest: &mut Guest, message: &Message) -> Option<Outcome> {
    let command = guest.command.take()?;
    let (printed, lost) = command.stdout.take();
    let publish = match guest.version.command.as_ref().map(|policy| &policy.stdout) {
        Some(Stdout::Publish { topic, content_type }) => Some((topic.clone(), content_type.clone())),
        Some(Stdout::Log) | None => None,
    };
    let denied = guest.limiter.denied();
    let outcome = code.map(|code| match code {
        0 => Outcome::Acked,
        // Whatever its language makes of that, it ran into its limit.
        _ if denied => Outcome::OutOfMemory {
            limit_bytes: guest.limiter.memory_bytes_max(),
            report: ending::printed_or(guest, &format!("it exited with {code}")),
        },
        EXIT_RETRY => Outcome::Retry { reason: ending::printed_or(guest, "it exited with 75"), after: None },
        code => Outcome::Reject { reason: ending::printed_or(guest, &format!("it exited with {code}")) },
    });
    match publish {
        None => log_lines(guest, &printed, lost),
        Some(_) if outcome != Some(Outcome::Acked) => {}
        Some(_) if lost > 0 => {
            let bytes_max = limits::STAGED_BYTES_MAX;
            let reason = format!("its stdout, which is published, has more than {bytes_max} bytes; nothing of it was");
            return Some(Outcome::Retry { reason, after: None });
        }
        Some((topic, content_type)) => {
            if let Err(reason) = publish_lines(guest, message, topic.as_str(), content_type.as_deref(), &printed) {
                return Some(Outcome::Retry { reason, after: None });
            }
        }
    }
    if outcome == Some(Outcome::Acked) {
        // Of a failure it is the reason; of a success it is told, for it was printed to be read.
        let printed = guest.output_tail(limits::GUEST_LOG_BYTES_MAX);
        log_lines(guest, printed.as_bytes(), 0);
    }
    outcome
}

fn lines(printed: &[u8]) -> impl Iterator<Item = &[u8]> {
    printed
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty())
}

fn log_lines(guest: &mut Guest, printed: &[u8], lost: u64) {
    for line in lines(printed) {
        log_text(guest, Level::Info, &String::from_utf8_lossy(line));
    }
    if lost > 0 {
        guest.call.log_lines_dropped += 1;
    }
    report_dropped_lines(guest);
    guest.call.log_lines_dropped = 0;
}

/// Stages one message for each line, with the key of the message that is handled.
fn publish_lines(
    guest: &mut Guest,
    message: &Message,
    topic: &str,
    content_type: Option<&str>,
    printed: &[u8],
) -> Result<(), String> {
    for (index, line) in lines(printed).enumerate() {
        let parts = Parts {
            topic: topic.into(),
            kind: "".into(),
            key: message.event.key.as_deref().map(Into::into),
            id: None,
            subject: None,
            content_type: content_type.map(Into::into),
            attributes: Vec::new(),
            data: line,
            deliver_at_ms: None,
            expires_ms: None,
        };
        publish::stage(guest, parts).map_err(|refusal| {
            format!("line {} of its stdout could not be published to `{topic}`: {}", index + 1, refusal.text())
        })?;
    }
    Ok(())
}
