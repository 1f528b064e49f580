//! The breaker: a row of failures of different messages and keys is not the messages' fault.
//!
//! **Closed**, it counts failures in a row by where they came from: a key, or a message without one. Enough
//! different ones open it; one poison message or key never does, nor do many that wait for their retries while
//! all others succeed: a message that failed before another succeeded does not count. **Open**, nothing begins until a time.
//! Then, **half open**, one call may begin, if it can of a message that did not fail before. Where that fails, the breaker is open again, and for longer; where
//! it succeeds, twice as many may run at once, until that is as many as the policy allows: closed.
//!
//! It is known to memory only: a process begins with it closed.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::headline::headline;
use crate::limits::{BREAKER_EVIDENCE_MAX, BREAKER_EVIDENCE_TEXT_CHARACTERS_MAX, BREAKER_STREAK_MESSAGES_MAX};
use crate::log::KeyHash;
use crate::message::{Millis, Offset};
use crate::outcome::OutcomeKind;
use crate::policy::BreakerPolicy;
use crate::view::{BreakerView, FailureView};

/// What is taken for one source of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Key(KeyHash),
    /// A message without a key.
    Message(Offset),
}

/// A call that failed, and not because its message was rejected.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) offset: Offset,
    pub(super) source: Source,
    pub(super) charged: bool,
    /// Whether the message is dead now.
    pub(super) died: bool,
    /// When it failed first, since it was first offered or last redriven; 0 where it never did before.
    pub(super) failing_since_ms: Millis,
    pub(super) outcome: OutcomeKind,
    pub(super) text: String,
}

/// The streak that opened the breaker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Streak {
    /// Different sources in it.
    sources: BTreeSet<Source>,
    /// How many attempts it charged, by message. The oldest messages of a poison key are forgotten.
    pub(super) charged: BTreeMap<Offset, u32>,
    /// Messages that died in it.
    pub(super) dead: BTreeSet<Offset>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open {
        until_ms: Millis,
    },
    HalfOpen {
        /// Calls that may run at once.
        at_once: u32,
        probes: BTreeSet<Offset>,
    },
}

pub(super) struct Breaker {
    /// None where it is switched off.
    policy: Option<BreakerPolicy>,
    phase: Phase,
    streak: Streak,
    /// When a call succeeded last; 0 where none did.
    succeeded_ms: Millis,
    /// Pauses since it was closed: each is longer than the one before.
    pauses: u32,
    /// The message that was probed last: the next probe is another one, where another can run.
    last_probe: Option<Offset>,
    /// The last failures of the row, for people.
    evidence: VecDeque<FailureView>,
    /// How often it opened since the process began.
    opened: u64,
}

impl Breaker {
    pub(super) fn new(policy: Option<BreakerPolicy>) -> Self {
        Self {
            policy,
            phase: Phase::Closed,
            streak: Streak::default(),
            succeeded_ms: 0,
            pauses: 0,
            last_probe: None,
            evidence: VecDeque::new(),
            opened: 0,
        }
    }

    /// Takes a changed policy. Switched off, it is closed.
    pub(super) fn configure(&mut self, policy: Option<BreakerPolicy>) {
        self.policy = policy;
        if self.policy.is_none() {
            self.close();
        }
    }

    /// Nothing holds calls back any more: all is well, or another version runs.
    pub(super) fn close(&mut self) {
        self.phase = Phase::Closed;
        self.streak = Streak::default();
        self.pauses = 0;
        self.last_probe = None;
        self.evidence.clear();
    }

    /// Takes over what the breaker of the dispatcher before counted. It begins closed.
    pub(super) fn inherit(&mut self, before: &Self) {
        self.opened = before.opened;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Whether what begins is a probe.
    pub(super) fn is_half_open(&self) -> bool {
        matches!(self.phase, Phase::HalfOpen { .. })
    }

    /// Until when nothing begins, where it is open.
    pub(super) fn open_until_ms(&self) -> Option<Millis> {
        match self.phase {
            Phase::Open { until_ms } => Some(until_ms),
            Phase::Closed | Phase::HalfOpen { .. } => None,
        }
    }

    /// How many calls may begin now.
    pub(super) fn allowance(&self) -> usize {
        match &self.phase {
            Phase::Closed => usize::MAX,
            Phase::Open { .. } => 0,
            Phase::HalfOpen { at_once, probes } => (*at_once as usize).saturating_sub(probes.len()),
        }
    }

    #[cfg(test)]
    pub(super) fn probes(&self) -> impl Iterator<Item = Offset> {
        let probes = match &self.phase {
            Phase::HalfOpen { probes, .. } => Some(probes),
            Phase::Closed | Phase::Open { .. } => None,
        };
        probes.into_iter().flatten().copied()
    }

    /// The message that must not be probed next, if another one can run.
    pub(super) fn avoids(&self) -> Option<Offset> {
        match self.phase {
            Phase::HalfOpen { .. } => self.last_probe,
            Phase::Closed | Phase::Open { .. } => None,
        }
    }

    /// Time passed.
    pub(super) fn tick(&mut self, now_ms: Millis) {
        if self.open_until_ms().is_some_and(|until_ms| until_ms <= now_ms) {
            self.phase = Phase::HalfOpen { at_once: 1, probes: BTreeSet::new() };
        }
    }

    /// A message was taken.
    pub(super) fn begins(&mut self, offset: Offset) {
        if let Phase::HalfOpen { probes, .. } = &mut self.phase {
            probes.insert(offset);
            self.last_probe = Some(offset);
        }
    }

    /// A message that was taken says nothing about the consumer: it did not run, has to run again, or was
    /// rejected.
    pub(super) fn says_nothing(&mut self, offset: Offset) {
        if let Phase::HalfOpen { probes, .. } = &mut self.phase {
            probes.remove(&offset);
        }
    }

    /// A call succeeded. `concurrency` is how many the policy allows at once.
    pub(super) fn succeeded(&mut self, offset: Offset, concurrency: u32, now_ms: Millis) {
        self.succeeded_ms = now_ms;
        match &mut self.phase {
            Phase::Closed if self.streak == Streak::default() => {}
            Phase::Closed => self.close(),
            // A call that began before it opened says nothing about now.
            Phase::Open { .. } => {}
            Phase::HalfOpen { at_once, probes } => {
                if probes.remove(&offset) {
                    *at_once = at_once.saturating_mul(2);
                    if *at_once >= concurrency {
                        self.close();
                    }
                }
            }
        }
    }

    /// A call failed. Where that opens it, the streak is handed out.
    pub(super) fn failed(&mut self, failure: Failure, now_ms: Millis) -> Option<Streak> {
        let policy = self.policy.clone()?;
        let offset = failure.offset;
        match &mut self.phase {
            Phase::Closed => {
                let since_ms = failure.failing_since_ms;
                let counts = since_ms == 0 || since_ms >= self.succeeded_ms;
                self.streak.add(&failure, counts);
                self.note(failure);
                if self.streak.sources.len() < policy.failures as usize {
                    return None;
                }
                self.opened += 1;
                self.open(&policy, now_ms);
                Some(std::mem::take(&mut self.streak))
            }
            Phase::HalfOpen { probes, .. } if probes.contains(&offset) => {
                self.note(failure);
                self.open(&policy, now_ms);
                None
            }
            // It began before the breaker opened.
            Phase::Open { .. } | Phase::HalfOpen { .. } => None,
        }
    }

    /// A dead letter is offered again, or dropped.
    pub(super) fn forget(&mut self, offset: Offset) {
        self.streak.charged.remove(&offset);
        self.streak.dead.remove(&offset);
    }

    pub(super) fn view(&self) -> Option<BreakerView> {
        let policy = self.policy.as_ref()?;
        let (state, until_ms, at_once) = match &self.phase {
            Phase::Closed => ("closed", None, None),
            Phase::Open { until_ms } => ("open", Some(*until_ms), None),
            Phase::HalfOpen { at_once, .. } => ("half-open", None, Some(*at_once)),
        };
        Some(BreakerView {
            state,
            until_ms,
            at_once,
            failures_in_a_row: self.streak.sources.len() as u64,
            failures_max: policy.failures,
            opened: self.opened,
            last_failures: self.evidence.iter().cloned().collect(),
        })
    }

    fn open(&mut self, policy: &BreakerPolicy, now_ms: Millis) {
        let until_ms = now_ms.saturating_add(pause_ms(policy, self.pauses));
        self.pauses = self.pauses.saturating_add(1);
        self.phase = Phase::Open { until_ms };
    }

    fn note(&mut self, failure: Failure) {
        let text = headline(&failure.text).chars().take(BREAKER_EVIDENCE_TEXT_CHARACTERS_MAX).collect();
        self.evidence.push_back(FailureView { offset: failure.offset, outcome: failure.outcome.as_str(), text });
        if self.evidence.len() > BREAKER_EVIDENCE_MAX {
            self.evidence.pop_front();
        }
    }
}

impl Streak {
    fn add(&mut self, failure: &Failure, counts: bool) {
        if counts {
            self.sources.insert(failure.source);
        }
        if failure.charged {
            *self.charged.entry(failure.offset).or_default() += 1;
        }
        if failure.died {
            self.dead.insert(failure.offset);
        }
        if self.charged.len() > BREAKER_STREAK_MESSAGES_MAX {
            self.charged.pop_first();
        }
        if self.dead.len() > BREAKER_STREAK_MESSAGES_MAX {
            self.dead.pop_first();
        }
    }
}

/// How long the pause is after this many: twice as long each time, and bounded.
fn pause_ms(policy: &BreakerPolicy, pauses: u32) -> Millis {
    let grown = policy.pause.saturating_mul(2_u32.saturating_pow(pauses));
    let pause: Duration = grown.min(policy.pause_max.max(policy.pause));
    u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)
}
