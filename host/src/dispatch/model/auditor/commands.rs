//! What operators and deployments do to what waits and to what is dead.

use super::{Auditor, FRESH, Met, State};
use crate::dispatch::Refund;
use crate::dispatch::model::journal::{Entry, takes};
use crate::log::{Parks, Selection};
use crate::message::{Millis, Offset};
use crate::policy::{OnExhausted, Policy};

impl Auditor {
    /// Whether it died before a step, and was dead ever since.
    pub(in crate::dispatch::model) fn is_dead_since(&self, offset: Offset, step: u64) -> bool {
        matches!(self.state(offset), State::Dead { .. })
            && self.died.get(&offset).is_some_and(|died_at| *died_at <= step)
    }

    /// A policy is in force from now on.
    pub(in crate::dispatch::model) fn configured(&mut self, entry: Entry, policy: &Policy) {
        if policy.breaker.is_none() {
            self.streak_ends();
        }
        if policy.retry.on_exhausted != OnExhausted::DeadLetter {
            return;
        }
        for (offset, state) in self.now.clone() {
            match state {
                State::Dead { parks: Some(_) } => self.set(entry, offset, State::Dead { parks: None }),
                State::Pending { charged, reruns, not_before_ms, attempted, redriven, leads: true, was } => {
                    let leads = false;
                    let state = State::Pending { charged, reruns, not_before_ms, attempted, redriven, leads, was };
                    self.set(entry, offset, state);
                }
                _ => {}
            }
        }
    }

    /// The subscription was moved. `returned` are the messages that were being redriven.
    pub(in crate::dispatch::model) fn sought(
        &mut self,
        entry: Entry,
        target: Offset,
        selection: Selection,
        returned: impl Fn(Offset) -> bool,
        parks_now: bool,
    ) {
        self.steps += 1;
        self.reselected_at = self.steps;
        self.sought = target;
        self.taken.clear();
        self.read_to = 0;
        for index in 0..self.messages.len() {
            let seen = &self.messages[index];
            let (offset, matched, taken) = (seen.message.offset, seen.matched, !seen.leaving);
            let taken_after = takes(&selection, &seen.message);
            if offset >= target {
                self.messages[index].met = Met::NotYet;
            }
            let state = self.state(offset);
            match state {
                State::Pending { was, .. } if returned(offset) => {
                    self.set(entry, offset, State::Dead { parks: was.filter(|_| parks_now) });
                }
                State::Dead { .. } => {}
                State::Pending { .. } if offset < target && matched && taken => {
                    self.set(entry, offset, State::Dropped);
                }
                _ if offset < target || !taken_after => {}
                _ if !matched => drop(self.rematched.insert(offset)),
                state if taken => {
                    self.past.add(state);
                    self.past.reopened += u64::from(!matches!(state, State::Pending { .. }));
                    self.set(entry, offset, FRESH);
                }
                state => {
                    self.past.add(state);
                    self.past.matched += 1;
                    self.past.skipped += u64::from(matches!(state, State::Pending { .. }));
                    self.set(entry, offset, FRESH);
                }
            }
        }
        let end = self.messages.len() as Offset;
        self.selections.push((end, entry, selection));
        self.see_anew();
    }

    pub(in crate::dispatch::model) fn redriven(&mut self, entry: Entry, offset: Offset) {
        self.steps += 1;
        let State::Dead { parks } = self.state(offset) else { panic!("{offset} is no dead letter") };
        self.redriven.insert(offset, self.steps);
        if self.messages[offset as usize].met != Met::Under(self.order_now()) {
            self.messages[offset as usize].met = Met::UnderTwo;
        }
        self.conflicts.remove(&offset);
        self.streak.forget(offset);
        let leads = parks == Some(Parks::Subscription);
        let State::Pending { charged, reruns, .. } = FRESH else { unreachable!("what is fresh is pending") };
        let not_before_ms = 0;
        let fresh =
            State::Pending { charged, reruns, not_before_ms, attempted: true, redriven: true, leads, was: parks };
        self.set(entry, offset, fresh);
    }

    /// Attempts were taken back of what is pending.
    pub(in crate::dispatch::model) fn refunded(&mut self, entry: Entry, refund: &Refund, now_ms: Millis) {
        let pending: Vec<_> = self.now.iter().map(|(offset, state)| (*offset, *state)).collect();
        for (offset, state) in pending {
            let State::Pending { charged, reruns, not_before_ms, attempted, redriven, leads, was } = state else {
                continue;
            };
            let before = (charged, not_before_ms);
            let (left, not_before_ms) = match refund {
                Refund::Streak(attempts) => {
                    (charged.without_newest(attempts.get(&offset).copied().unwrap_or(0)), not_before_ms)
                }
                // What a version did last is due at once.
                Refund::Version(digest) if charged.last == Some(digest.0[0]) => {
                    (charged.without(digest.0[0]), not_before_ms.min(now_ms))
                }
                Refund::Version(digest) => (charged.without(digest.0[0]), not_before_ms),
            };
            if (left, not_before_ms) != before {
                let charged = left;
                let state = State::Pending { charged, reruns, not_before_ms, attempted, redriven, leads, was };
                self.set(entry, offset, state);
            }
        }
    }

    pub(in crate::dispatch::model) fn dropped(&mut self, entry: Entry, offset: Offset) {
        assert!(matches!(self.state(offset), State::Dead { .. }), "{offset} is no dead letter");
        self.streak.forget(offset);
        self.set(entry, offset, State::Dropped);
    }
}
