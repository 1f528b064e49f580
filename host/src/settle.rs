//! Settling: what follows from an outcome. A pure function of policy, history and outcome.
//!
//! **Architecture invariant:** nothing here does IO, awaits or can fail. A guest never decides its own
//! attempt count: it says how the call ended, and this decides what that means.

use std::time::Duration;

use crate::limits::RETRY_DELAY_MAX;
use crate::message::Millis;
use crate::outcome::{DeadReason, History, Outcome};
use crate::policy::{Backoff, RetryPolicy};

/// How long a message waits whose effects found no room in their topic: long enough that many of them cost
/// little, short enough to follow soon when there is room.
const FULL_BACKOFF: Backoff =
    Backoff { initial: Duration::from_millis(200), factor: 2.0, max: Duration::from_secs(10), jitter: 0.5 };

/// What is recorded of a message after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Done.
    Acked,
    /// To be tried again at `due_ms`.
    Held { due_ms: Millis, charged: bool },
    /// A dead letter.
    Dead { reason: DeadReason },
}

/// Decides. `draw` is a random number in `[0, 1)`, for the jitter.
pub fn settle(policy: &RetryPolicy, history: &History, outcome: &Outcome, now_ms: Millis, draw: f64) -> Decision {
    let attempt = history.charged.saturating_add(1);
    let asked = match outcome {
        Outcome::Acked => return Decision::Acked,
        Outcome::Reject { .. } => return Decision::Dead { reason: DeadReason::Rejected },
        Outcome::Unavailable { after, .. } => {
            let delay = after.unwrap_or_else(|| delay(&policy.backoff, history.unavailable.saturating_add(1), draw));
            return Decision::Held { due_ms: due(now_ms, delay), charged: false };
        }
        Outcome::TopicFull { .. } => {
            // What it waits for is not the message's doing; so its policy has no say in it either.
            let delay = delay(&FULL_BACKOFF, history.unavailable.saturating_add(1), draw);
            return Decision::Held { due_ms: due(now_ms, delay), charged: false };
        }
        Outcome::Retry { after, .. } => *after,
        Outcome::Trapped { .. } | Outcome::Exited { .. } | Outcome::TimedOut { .. } | Outcome::OutOfMemory { .. } => {
            None
        }
        Outcome::Conflict => None,
    };
    if attempt >= policy.max_attempts {
        return Decision::Dead { reason: DeadReason::AttemptsExhausted };
    }
    let delay = asked.unwrap_or_else(|| delay(&policy.backoff, attempt, draw));
    Decision::Held { due_ms: due(now_ms, delay), charged: true }
}

/// Decides where the message is not at fault: what would be charged is not, and so nothing is its last attempt.
pub fn settle_uncharged(
    policy: &RetryPolicy,
    history: &History,
    outcome: &Outcome,
    now_ms: Millis,
    draw: f64,
) -> Decision {
    let endless = RetryPolicy { max_attempts: u32::MAX, ..policy.clone() };
    match settle(&endless, history, outcome, now_ms, draw) {
        Decision::Held { due_ms, .. } => Decision::Held { due_ms, charged: false },
        decision => decision,
    }
}

/// How long to wait after the given failed attempt, counted from 1: exponential, bounded, and the part
/// `jitter` of it drawn at random, so that messages that failed together do not return together.
pub fn delay(backoff: &Backoff, attempt: u32, draw: f64) -> Duration {
    let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
    let grown = backoff.initial.as_secs_f64() * backoff.factor.powi(exponent);
    // `min` also turns an overflow to infinity into the bound.
    let bounded = grown.min(backoff.max.as_secs_f64());
    Duration::from_secs_f64(bounded * (1.0 - backoff.jitter * (1.0 - draw)))
}

fn due(now_ms: Millis, delay: Duration) -> Millis {
    let delay_ms = u64::try_from(delay.min(RETRY_DELAY_MAX).as_millis()).unwrap_or(u64::MAX);
    now_ms.saturating_add(delay_ms)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::topic::TopicName;

    fn failures() -> Vec<Outcome> {
        vec![
            Outcome::Retry { reason: "later".into(), after: None },
            Outcome::Trapped { report: "unreachable".into() },
            Outcome::Exited { code: 3, report: String::new() },
            Outcome::TimedOut { limit: Duration::from_secs(5) },
            Outcome::OutOfMemory { limit_bytes: 64 << 20, report: String::new() },
        ]
    }

    #[test]
    fn every_failure_is_charged_and_the_last_one_kills() {
        let policy = RetryPolicy { max_attempts: 3, ..RetryPolicy::default() };
        for outcome in failures() {
            for charged in 0..2 {
                let history = History { charged, ..History::default() };
                assert!(
                    matches!(settle(&policy, &history, &outcome, 0, 0.5), Decision::Held { charged: true, .. }),
                    "{outcome:?} after {charged}"
                );
            }
            let last = History { charged: 2, ..History::default() };
            assert_eq!(
                settle(&policy, &last, &outcome, 0, 0.5),
                Decision::Dead { reason: DeadReason::AttemptsExhausted },
                "{outcome:?}"
            );
        }
    }

    #[test]
    fn what_is_not_the_messages_fault_is_never_charged_and_reject_kills_at_once() {
        let policy = RetryPolicy { max_attempts: 1, ..RetryPolicy::default() };
        let down = Outcome::Unavailable { reason: "down".into(), after: Some(Duration::from_millis(70)) };
        let history = History { unavailable: 1_000, ..History::default() };
        assert_eq!(settle(&policy, &history, &down, 30, 0.0), Decision::Held { due_ms: 100, charged: false });
        let full = Outcome::TopicFull { topic: TopicName::any("a").unwrap(), bytes: 9, bytes_max: 9 };
        assert_eq!(settle(&policy, &history, &full, 30, 1.0), Decision::Held { due_ms: 10_030, charged: false });
        assert_eq!(
            settle(&policy, &History::default(), &full, 30, 0.0),
            Decision::Held { due_ms: 130, charged: false }
        );
        let reject = Outcome::Reject { reason: "never".into() };
        assert_eq!(settle(&policy, &history, &reject, 0, 0.0), Decision::Dead { reason: DeadReason::Rejected });
    }

    #[test]
    fn the_guests_own_delay_wins_and_is_bounded() {
        let policy = RetryPolicy::default();
        let asked = |after| Outcome::Retry { reason: String::new(), after: Some(after) };
        let second = asked(Duration::from_secs(1));
        assert_eq!(
            settle(&policy, &History::default(), &second, 5, 0.9),
            Decision::Held { due_ms: 1_005, charged: true }
        );
        let century = asked(Duration::from_secs(u64::MAX));
        let bound = u64::try_from(RETRY_DELAY_MAX.as_millis()).unwrap();
        assert_eq!(
            settle(&policy, &History::default(), &century, 5, 0.9),
            Decision::Held { due_ms: 5 + bound, charged: true }
        );
    }

    proptest! {
        #[test]
        fn backoff_grows_to_its_bound_and_jitter_only_shortens(
            initial_ms in 0..10_000u64, factor in 1.0..10.0f64, max_ms in 0..1_000_000u64,
            jitter in 0.0..=1.0f64, attempt in 0..2_000u32, draw in 0.0..1.0f64,
        ) {
            let backoff = Backoff {
                initial: Duration::from_millis(initial_ms), factor, max: Duration::from_millis(max_ms), jitter,
            };
            let plain = Backoff { jitter: 0.0, ..backoff.clone() };
            let waited = delay(&backoff, attempt, draw);
            prop_assert!(waited <= backoff.max);
            prop_assert!(waited <= delay(&plain, attempt, draw));
            prop_assert!(delay(&plain, attempt, draw) <= delay(&plain, attempt + 1, draw));
            let least = delay(&plain, attempt, draw).as_secs_f64() * (1.0 - jitter);
            prop_assert!(waited.as_secs_f64() >= least - 1e-6);
        }
    }
}
