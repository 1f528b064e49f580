//! A version on probation: what its calls say of it, and when that is enough. A state machine without IO.
//!
//! Messages are counted, not calls: a message that is tried six times is one message, so that a poison
//! message is one failure. What had failed before the version met it says nothing when it fails again.

use std::collections::VecDeque;

use crate::headline::headline;
use crate::limits::{PROBATION_TOLD_BYTES_MAX, PROBATION_TOLD_MAX};
use crate::outcome::{Attempt, History, OutcomeKind};
use crate::policy::ProbationPolicy;

/// What one call says of the version that it ran on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    Good,
    Bad,
    /// The message was counted before, or others failed on it, or something outside was down.
    None,
}

/// What came of a probation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Proven,
    Failed,
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Messages that were counted, and those of them that failed.
    pub(crate) messages: u64,
    pub(crate) failures: u64,
    /// The last failures, for people.
    pub(crate) last: VecDeque<String>,
}

#[derive(Debug)]
pub(crate) struct Probation {
    policy: ProbationPolicy,
    standing: Standing,
    verdict: Option<Verdict>,
}

impl Probation {
    pub(crate) fn new(policy: ProbationPolicy) -> Self {
        Self { policy, standing: Standing::default(), verdict: None }
    }

    /// Counts a call. Answers the verdict when this call decided it, and never again. `told` says what
    /// went wrong, where something did.
    pub(crate) fn count(&mut self, sign: Sign, told: impl FnOnce() -> String) -> Option<Verdict> {
        if self.verdict.is_some() || sign == Sign::None {
            return None;
        }
        self.standing.messages += 1;
        if sign == Sign::Bad {
            self.standing.failures += 1;
            self.standing.last.push_back(shortened(told()));
            if self.standing.last.len() > PROBATION_TOLD_MAX {
                self.standing.last.pop_front();
            }
        }
        self.verdict = if self.standing.failures > self.policy.max_failures {
            Some(Verdict::Failed)
        } else if self.standing.messages >= self.policy.messages {
            Some(Verdict::Proven)
        } else {
            None
        };
        self.verdict
    }

    pub(crate) fn policy(&self) -> ProbationPolicy {
        self.policy
    }

    pub(crate) fn standing(&self) -> &Standing {
        &self.standing
    }

    pub(crate) fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }
}

/// What a call says of its version. `history` are the attempts before it, `own` are those of this version,
/// and `forced` is whether the host made a dead letter of the message whatever the outcome was. Whether an
/// attempt was charged is of no matter: with the breaker open none is.
pub(crate) fn sign(history: &History, own: impl Fn(&Attempt) -> bool, outcome: OutcomeKind, forced: bool) -> Sign {
    let mut failures = history.attempts.iter().filter(|attempt| is_failure(attempt.outcome));
    if forced || is_failure(outcome) {
        if failures.next().is_some() { Sign::None } else { Sign::Bad }
    } else if outcome == OutcomeKind::Acked {
        if failures.any(own) { Sign::None } else { Sign::Good }
    } else {
        Sign::None
    }
}

/// Whether a version is to blame: not where something outside was down, or the bus was in the way.
fn is_failure(outcome: OutcomeKind) -> bool {
    match outcome {
        OutcomeKind::Retry
        | OutcomeKind::Reject
        | OutcomeKind::Trapped
        | OutcomeKind::Exited
        | OutcomeKind::TimedOut
        | OutcomeKind::OutOfMemory => true,
        OutcomeKind::Acked | OutcomeKind::Unavailable | OutcomeKind::Conflict | OutcomeKind::TopicFull => false,
    }
}

/// The line that says most, as long as a line may be.
fn shortened(text: String) -> String {
    let line = headline(&text);
    match line.char_indices().map(|(at, one)| at + one.len_utf8()).find(|end| *end > PROBATION_TOLD_BYTES_MAX) {
        Some(end) => {
            let start = line[..end].char_indices().next_back().map_or(0, |(at, _)| at);
            format!("{}\u{2026}", &line[..start])
        }
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::outcome::Digest;

    const OLD: Digest = Digest([1; 32]);
    const NEW: Digest = Digest([2; 32]);

    fn attempt(digest: Digest, outcome: OutcomeKind) -> Attempt {
        Attempt { at_ms: 1, duration_us: 1, outcome, text: String::new(), digest, charged: false }
    }

    fn history(attempts: &[(Digest, OutcomeKind)]) -> History {
        let mut history = History::default();
        attempts.iter().for_each(|(digest, outcome)| history.record(attempt(*digest, *outcome)));
        history
    }

    #[test]
    fn only_the_versions_own_failures_speak_against_it() {
        use OutcomeKind::{Acked, Conflict, Reject, Retry, TopicFull, Trapped, Unavailable};
        type Row<'a> = (&'a [(Digest, OutcomeKind)], OutcomeKind, Sign);
        let table: [Row<'_>; 14] = [
            (&[], Acked, Sign::Good),
            (&[], Retry, Sign::Bad),
            (&[], Reject, Sign::Bad),
            (&[], Unavailable, Sign::None),
            (&[], TopicFull, Sign::None),
            (&[], Conflict, Sign::None),
            // It failed on the old version: that it fails again says nothing, and that it succeeds does.
            (&[(OLD, Trapped)], Retry, Sign::None),
            (&[(OLD, Reject)], Reject, Sign::None),
            (&[(OLD, Trapped)], Acked, Sign::Good),
            // It was counted.
            (&[(NEW, Trapped)], Retry, Sign::None),
            (&[(NEW, Trapped)], Acked, Sign::None),
            // What was down is nobody's failure.
            (&[(OLD, Unavailable), (NEW, Unavailable)], Retry, Sign::Bad),
            (&[(NEW, Unavailable)], Acked, Sign::Good),
            (&[(NEW, TopicFull)], Reject, Sign::Bad),
        ];
        let own = |attempt: &Attempt| attempt.digest == NEW;
        for (attempts, outcome, expected) in table {
            assert_eq!(sign(&history(attempts), own, outcome, false), expected, "{attempts:?}, then {outcome:?}");
        }
        assert_eq!(sign(&history(&[]), own, Acked, true), Sign::Bad);
    }

    #[test]
    fn as_many_failures_as_may_be_are_borne_and_one_more_is_not() {
        let mut probation = Probation::new(ProbationPolicy { messages: 5, max_failures: 1 });
        assert_eq!(probation.count(Sign::Bad, || "one\nmore".into()), None);
        assert_eq!(probation.count(Sign::None, || unreachable!("nothing happened")), None);
        assert_eq!(probation.count(Sign::Bad, || "two".into()), Some(Verdict::Failed));
        assert_eq!(probation.standing().last, ["one", "two"]);
        let mut strict = Probation::new(ProbationPolicy { messages: 1, max_failures: 0 });
        // The last message decides against it, though it is the one that would have proven it.
        assert_eq!(strict.count(Sign::Bad, String::new), Some(Verdict::Failed));
    }

    #[test]
    fn long_failures_are_shortened_between_characters() {
        let mut probation = Probation::new(ProbationPolicy { messages: 5, max_failures: 4 });
        probation.count(Sign::Bad, || "\u{1f680}".repeat(200));
        let told = &probation.standing().last[0];
        assert!(told.len() <= PROBATION_TOLD_BYTES_MAX + 3 && told.ends_with("\u{1f680}\u{2026}"), "{told}");
    }

    proptest! {
        /// Messages are tried until they are acknowledged or dead, on the old version and on the new one,
        /// against a count made at the end of what each message met first on the new one.
        #[test]
        fn the_verdict_is_that_of_the_first_counted_messages(
            messages in 1..30u64, max_failures in 0..30u64,
            calls in prop::collection::vec((0..40u64, any::<bool>(), 0..5u8), 0..200),
        ) {
            let policy = ProbationPolicy { messages, max_failures: max_failures.min(messages - 1) };
            let mut probation = Probation::new(policy);
            let mut histories: BTreeMap<u64, Option<History>> = BTreeMap::new();
            let mut expected: Vec<bool> = Vec::new();
            let mut verdicts = Vec::new();
            for (message, on_new, end) in calls {
                // `None` is settled.
                let Some(history) = histories.entry(message).or_insert_with(|| Some(History::default())) else { continue };
                let digest = if on_new { NEW } else { OLD };
                let (outcome, ends) = match end {
                    0 | 1 => (OutcomeKind::Acked, true),
                    2 => (OutcomeKind::Retry, false),
                    3 => (OutcomeKind::Unavailable, false),
                    _ => (OutcomeKind::Reject, true),
                };
                if on_new {
                    let failed_on = |digest: Option<Digest>| history.attempts.iter().any(|one| {
                        one.outcome != OutcomeKind::Unavailable && digest.is_none_or(|digest| one.digest == digest)
                    });
                    let says_something = match end {
                        0 | 1 => !failed_on(Some(NEW)),
                        3 => false,
                        _ => !failed_on(None),
                    };
                    if says_something {
                        expected.push(end <= 1);
                    }
                    let sign = sign(history, |attempt| attempt.digest == NEW, outcome, false);
                    verdicts.extend(probation.count(sign, || "failed".into()));
                }
                if ends {
                    histories.insert(message, None);
                } else {
                    history.record(attempt(digest, outcome));
                }
            }
            let mut naive = None;
            let (mut counted, mut failed) = (0, 0);
            for good in &expected {
                counted += 1;
                failed += u64::from(!good);
                if failed > policy.max_failures {
                    naive = Some(Verdict::Failed);
                } else if counted >= policy.messages {
                    naive = Some(Verdict::Proven);
                }
                if naive.is_some() {
                    break;
                }
            }
            prop_assert_eq!(verdicts, naive.into_iter().collect::<Vec<_>>(), "one verdict at most");
            prop_assert_eq!(probation.verdict(), naive);
            prop_assert_eq!((probation.standing().messages, probation.standing().failures), (counted, failed));
        }
    }
}
