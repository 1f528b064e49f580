//! What the end of a call means: the guest's own answer, or why it could give none.

use std::fmt::Write;
use std::time::Duration;

use wasmtime::WasmBacktrace;
use wasmtime_wasi::I32Exit;

use super::guest::Guest;
use super::records::{Failure, RetryRecord};
use crate::limits::{EVIDENCE_TEXT_BYTES_MAX, RETRY_DELAY_MAX};
use crate::outcome::Outcome;

/// How much of the evidence may be what the guest printed: the rest is for the backtrace.
const OUTPUT_BYTES_MAX: usize = EVIDENCE_TEXT_BYTES_MAX / 2;

/// The outcome of a call that returned.
pub(super) fn returned(result: Result<(), Failure>) -> Outcome {
    match result {
        Ok(()) => Outcome::Acked,
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
        let _ = write!(text, "\nthe guest printed:\n{output}");
    }
    if let Some(backtrace) = backtrace {
        let _ = write!(text, "\n{backtrace}");
    }
    clipped(text)
}

fn clipped(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(EVIDENCE_TEXT_BYTES_MAX));
    text
}

fn delay(after_ms: Option<u64>) -> Option<Duration> {
    after_ms.map(|millis| Duration::from_millis(millis).min(RETRY_DELAY_MAX))
}
