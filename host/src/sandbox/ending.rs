//! What the end of a call means: the guest's own answer, or why it could give none.

use std::fmt::Write;
use std::time::Duration;

use wasmtime::WasmBacktrace;
use wasmtime_wasi::I32Exit;

use super::guest::Guest;
use super::records::{Failure, RetryRecord};
use crate::headline::{BACKTRACE, PRINTED};
use crate::limits::{EVIDENCE_TEXT_BYTES_MAX, RETRY_DELAY_MAX};
use crate::outcome::Outcome;

/// How much of the evidence may be what the guest printed: the rest is for the backtrace.
const OUTPUT_BYTES_MAX: usize = EVIDENCE_TEXT_BYTES_MAX / 2;

/// The outcome of a call that returned. A guest may catch what its language throws where memory is refused, and pass it
/// on as a failure: what it ran into is still its limit.
pub(super) fn returned(result: Result<(), Failure>, guest: &Guest) -> Outcome {
    match result {
        Ok(()) => Outcome::Acked,
        Err(Failure::Retry(RetryRecord { reason, .. })) if guest.limiter.denied() => {
            Outcome::OutOfMemory { limit_bytes: guest.limiter.memory_bytes_max(), report: clipped(reason) }
        }
        Err(Failure::Retry(RetryRecord { reason, after_ms })) => {
            Outcome::Retry { reason: clipped(reason), after: delay(after_ms) }
        }
        Err(Failure::Reject(reason)) => Outcome::Reject { reason: clipped(reason) },
        Err(Failure::Unavailable(RetryRecord { reason, after_ms })) => {
            Outcome::Unavailable { reason: clipped(reason), after: delay(after_ms) }
        }
    }
}

/// The outcome of a call that ended in an error: a trap, `exit`, or the host's refusal to go on.
pub(super) fn failed(error: &wasmtime::Error, guest: &Guest) -> Outcome {
    if guest.limiter.denied() {
        return Outcome::OutOfMemory { limit_bytes: guest.limiter.memory_bytes_max(), report: report(error, guest) };
    }
    match error.downcast_ref::<I32Exit>() {
        Some(I32Exit(code)) => Outcome::Exited { code: *code, report: guest.output_tail(OUTPUT_BYTES_MAX) },
        None => Outcome::Trapped { report: report(error, guest) },
    }
}

/// What the call printed last, or this where it printed nothing.
pub(super) fn printed_or(guest: &Guest, otherwise: &str) -> String {
    match guest.output_tail(EVIDENCE_TEXT_BYTES_MAX) {
        printed if printed.is_empty() => otherwise.to_owned(),
        printed => clipped(printed),
    }
}

/// Why a call ended, what it printed last, and where it was.
fn report(error: &wasmtime::Error, guest: &Guest) -> String {
    let mut text = String::new();
    let backtrace = error.downcast_ref::<WasmBacktrace>().map(ToString::to_string);
    // The backtrace is one of the error's contexts, and is written last.
    for cause in error.chain().map(ToString::to_string).filter(|cause| Some(cause) != backtrace.as_ref()) {
        let separator = if text.is_empty() { "" } else { ": " };
        let _ = write!(text, "{separator}{cause}");
    }
    let output = guest.output_tail(OUTPUT_BYTES_MAX);
    if !output.is_empty() {
        let _ = write!(text, "{PRINTED}{output}");
    }
    if let Some(backtrace) = backtrace {
        text.push_str(BACKTRACE);
        // Its first line is a heading.
        for frame in backtrace.lines().skip(1) {
            text.push('\n');
            text.push_str(&without_hashes(frame));
        }
    }
    clipped(text)
}

/// A function's name without the hashes by which Rust tells versions of crates apart: `core[0123...]::`
/// and `::h0123...` say nothing to the person who reads them.
fn without_hashes(name: &str) -> String {
    const DIGITS: usize = 16;
    let is_hash = |text: &str| text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut plain = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find(['[', ':']) {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let (opening, closing) = if rest.starts_with('[') { ("[", "]") } else { ("::h", "") };
        let hash = rest.strip_prefix(opening).and_then(|after| after.split_at_checked(DIGITS));
        match hash {
            Some((hash, after)) if is_hash(hash) && after.starts_with(closing) => rest = &after[closing.len()..],
            _ => {
                plain.push_str(&rest[..1]);
                rest = &rest[1..];
            }
        }
    }
    plain + rest
}

fn clipped(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(EVIDENCE_TEXT_BYTES_MAX));
    text
}

fn delay(after_ms: Option<u64>) -> Option<Duration> {
    after_ms.map(|millis| Duration::from_millis(millis).min(RETRY_DELAY_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_hashes_and_nothing_else() {
        let table = [
            ("core[6d9e98711c484d2e]::panicking::panic_fmt", "core::panicking::panic_fmt"),
            ("obedient::misdeed::told_to_trap::h1b3957386e3658f0", "obedient::misdeed::told_to_trap"),
            ("<a[0000000000000000]::b::h0123456789abcdef as c>::d", "<a::b as c>::d"),
            ("a[0]::h[::hello[0123456789abcdef", "a[0]::h[::hello[0123456789abcdef"),
            (
                "\u{fc}ber::h\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}[",
                "\u{fc}ber::h\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}[",
            ),
        ];
        for (name, plain) in table {
            assert_eq!(without_hashes(name), plain);
        }
    }
}
