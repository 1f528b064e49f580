//! The gate: whether anything may begin at all, and how much of it.
//!
//! An operator's pause, the breaker and the rate hold back calls, and nothing else: messages gather, retries
//! become due, and what runs ends. What is held back stands where it stood.

use crate::message::{Millis, Offset};
use crate::outcome::{Digest, Outcome};
use crate::policy::Policy;
use crate::settle::Decision;
use crate::view::{BreakerView, Waiting};

use super::breaker::{Breaker, Failure, Source};
use super::item::Finished;
use super::rate::Bucket;
use super::refund::Refund;
use super::{Dispatcher, Item, Ready, hash};

pub(super) struct Gate {
    /// By an operator's command.
    paused: bool,
    pub(super) breaker: Breaker,
    bucket: Option<Bucket>,
}

impl Gate {
    pub(super) fn new(paused: bool, policy: &Policy) -> Self {
        Self { paused, breaker: Breaker::new(policy.breaker.clone()), bucket: policy.rate.map(Bucket::new) }
    }

    /// Takes a changed policy.
    pub(super) fn configure(&mut self, policy: &Policy) {
        self.breaker.configure(policy.breaker.clone());
        if self.bucket.as_ref().map(Bucket::rate) != policy.rate {
            self.bucket = policy.rate.map(Bucket::new);
        }
    }

    /// How many calls may begin now.
    pub(super) fn allowance(&self, now_ms: Millis) -> usize {
        let tokens = self.bucket.as_ref().map_or(usize::MAX, |bucket| bucket.tokens(now_ms));
        if self.paused { 0 } else { self.breaker.allowance().min(tokens) }
    }

    /// When it opens by itself, where it is closed now and a time decides that.
    fn opens_ms(&self, now_ms: Millis) -> Option<Millis> {
        if self.paused {
            return None;
        }
        if let Some(until_ms) = self.breaker.open_until_ms() {
            return Some(until_ms);
        }
        let bucket = self.bucket.as_ref().filter(|bucket| bucket.tokens(now_ms) == 0)?;
        Some(bucket.next_ms(now_ms))
    }

    /// This many calls begin.
    fn spend(&mut self, calls: usize, now_ms: Millis) {
        if let Some(bucket) = &mut self.bucket {
            bucket.take(calls, now_ms);
        }
    }

    /// A call did not begin after all.
    fn save(&mut self) {
        if let Some(bucket) = &mut self.bucket {
            bucket.give_back(1);
        }
    }
}

impl Dispatcher {
    /// Holds back everything, or no longer.
    pub(super) fn pause(&mut self, paused: bool) {
        self.gate.paused = paused;
    }

    pub fn is_paused(&self) -> bool {
        self.gate.paused
    }

    /// Whether nothing may begin until that changes: also not what a runner has taken.
    pub fn is_held(&self) -> bool {
        self.gate.paused || self.gate.breaker.open_until_ms().is_some()
    }

    pub fn breaker(&self) -> Option<BreakerView> {
        self.gate.breaker.view()
    }

    /// Lets a version of its consumer run, or stops offering it messages. A version that comes in begins
    /// with the breaker closed.
    pub fn set_version(&mut self, version: Option<Digest>) {
        self.active = version.is_some();
        self.version = version;
        if let Some(digest) = version {
            self.discredited.remove(&digest);
            self.gate.breaker.close();
        }
    }

    /// When the gate opens by itself, where that is waited for.
    pub(super) fn gate_opens_ms(&self) -> Option<Millis> {
        let waited_for = self.gate.breaker.open_until_ms().is_some() || self.ready_to_run() > 0;
        if waited_for { self.gate.opens_ms(self.now_ms) } else { None }
    }

    /// The next thing to run. A probe of the breaker is another message than the one before, where there is one, and
    /// one that did not fail yet, where there is one: what failed before says little when it fails again, and many such
    /// messages, tried one after the other, would hold back all that could succeed.
    pub(super) fn next_ready(&mut self) -> Option<Ready> {
        let probes = self.gate.breaker.is_half_open();
        if !probes && !self.parking.holds_back() {
            return self.ready.pop_front();
        }
        let avoided = self.gate.breaker.avoids();
        let rank = |ready: &Ready| {
            let front = self.front(ready).filter(|_| probes);
            let is_avoided = front.is_some_and(|item| Some(item.message.offset) == avoided);
            (is_avoided, front.is_some_and(Item::has_failed))
        };
        let may_lead = self.ready.iter().enumerate().filter(|(_, ready)| self.may_lead(ready));
        let (index, _) = may_lead.min_by_key(|(index, ready)| (rank(ready), *index))?;
        self.ready.remove(index)
    }

    /// The message that a ready thing would run first.
    pub(super) fn front<'a>(&'a self, ready: &'a Ready) -> Option<&'a Item> {
        match ready {
            Ready::Loose(item) => Some(item),
            Ready::Lane(key) => self.lanes.front(*key),
        }
    }

    /// Messages were taken.
    pub(super) fn begin(&mut self, taken: &[Item]) {
        self.gate.spend(taken.len(), self.now_ms);
        if !self.gate.breaker.is_closed() {
            taken.iter().for_each(|item| self.gate.breaker.begins(item.message.offset));
        }
    }

    /// A message that was taken did not run.
    pub(super) fn did_not_begin(&mut self, offset: Offset) {
        self.gate.save();
        self.gate.breaker.says_nothing(offset);
    }

    /// Tells the breaker of a call that is settled.
    pub(super) fn judge(&mut self, call: &Finished) {
        let message = &call.item.message;
        let offset = message.offset;
        // What the host could not do, and what a version did that no longer runs, says nothing of this one.
        if call.of_host || self.version != Some(call.digest) {
            return self.gate.breaker.says_nothing(offset);
        }
        if call.outcome == Outcome::Acked {
            return self.gate.breaker.succeeded(offset, self.policy.concurrency, self.now_ms);
        }
        if !call.outcome.is_failure() {
            return self.gate.breaker.says_nothing(offset);
        }
        let source = message.event.key.as_deref().map_or(Source::Message(offset), |key| Source::Key(hash(key)));
        let (charged, died) = match call.decision {
            Some(Decision::Held { charged, .. }) => (charged, false),
            Some(Decision::Dead { .. }) => (true, true),
            Some(Decision::Acked) | None => (false, false),
        };
        let (outcome, text) = (call.outcome.kind(), call.outcome.text());
        let failing_since_ms = call.item.history().map_or(0, |history| history.failing_since_ms);
        let failure = Failure { offset, source, charged, died, failing_since_ms, outcome, text };
        if let Some(streak) = self.gate.breaker.failed(failure, self.now_ms) {
            self.excusable.extend(&streak.dead);
            if !streak.charged.is_empty() {
                self.refund_wanted.push(Refund::Streak(streak.charged));
            }
        }
    }

    /// Dead letters that are redriven or dropped are marked no more.
    pub(super) fn dead_letter_leaves(&mut self, offset: Offset) {
        self.gate.breaker.forget(offset);
        self.excusable.remove(&offset);
    }

    /// What the gate holds back waits for the gate, whatever else it may have to wait for.
    pub(super) fn gated(&self, mut waiting: Waiting) -> Waiting {
        let held = |waiting: &mut Waiting| -> u64 {
            let full: u64 = std::mem::take(&mut waiting.full).into_values().sum();
            let all =
                [&mut waiting.runnable, &mut waiting.due_later, &mut waiting.behind_key, &mut waiting.behind_window];
            waiting.next_due_ms = None;
            full + all.into_iter().map(std::mem::take).sum::<u64>()
        };
        if self.gate.paused {
            waiting.paused = held(&mut waiting);
        } else if let Some(until_ms) = self.gate.breaker.open_until_ms() {
            waiting.breaker = held(&mut waiting);
            waiting.breaker_until_ms = Some(until_ms);
        } else if self.gate.breaker.allowance() == 0 {
            waiting.breaker = std::mem::take(&mut waiting.runnable);
        } else if self.gate.allowance(self.now_ms) == 0 {
            waiting.over_rate = std::mem::take(&mut waiting.runnable);
        }
        waiting
    }
}
