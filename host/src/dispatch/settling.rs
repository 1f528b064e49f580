//! How messages go out: what is recorded of a call that ended, and what that sets free.

use std::sync::Arc;

use crate::limits::EVIDENCE_TEXT_BYTES_MAX;
use crate::log::{DeadRow, Parks, Redrive, RetryRow, Settlement};
use crate::message::{Millis, Offset, SharedMessage};
use crate::outcome::{Attempt, DeadReason, History, Outcome, OutcomeKind, shortened};
use crate::settle::{Decision, settle, settle_uncharged};

use super::Dispatcher;
use super::intake::{advanced, pass};
use super::item::{Finished, Item, Origin};
use super::park::leads;

impl Dispatcher {
    /// Decides what follows from each call, and says what is to be recorded of it. Nothing else changes
    /// until [`super::Event::Settled`] tells that it was sequenced; or it is told as conflicted or
    /// returned instead, and was never recorded.
    pub fn record(&mut self, finished: &mut [Finished], now_ms: Millis) -> Settlement {
        let mut settlement = Settlement::new(self.id, self.epoch);
        for call in finished {
            self.find_place(&mut call.item);
            let decision = self.decide(call, now_ms);
            call.decision = Some(decision);
            self.record_one(call, decision, now_ms, &mut settlement);
        }
        settlement
    }

    /// What follows from a call.
    fn decide(&mut self, call: &Finished, now_ms: Millis) -> Decision {
        let none = History::default();
        let history = call.item.history().unwrap_or(&none);
        let draw = self.random.f64();
        let decision = match call.forced {
            Some(reason) => Decision::Dead { reason },
            None => settle(&self.policy.retry, history, &call.outcome, now_ms, draw),
        };
        let charges = matches!(decision, Decision::Held { charged: true, .. } | Decision::Dead { .. });
        if !charges || call.item.reruns() >= self.bounds.uncharged_reruns_max {
            return decision;
        }
        if self.discredited.contains(&call.digest) {
            // Whatever a version did that was rolled back, the one that runs now decides.
            return Decision::Held { due_ms: now_ms, charged: false };
        }
        if call.outcome.is_failure() && call.forced.is_none() && !self.gate.breaker.is_closed() {
            return settle_uncharged(&self.policy.retry, history, &call.outcome, now_ms, draw);
        }
        decision
    }

    /// Whether one more conflict of a message counts as a failed attempt.
    pub fn charges_conflict(&self, item: &Item) -> bool {
        item.reruns() >= self.bounds.uncharged_reruns_max
    }

    fn record_one(&self, call: &Finished, decision: Decision, now_ms: Millis, settlement: &mut Settlement) {
        let offset = call.item.message.offset;
        let had_retry_row = leave_place(&call.item, settlement);
        let counts = &mut settlement.counts;
        match decision {
            Decision::Acked => counts.acked += 1,
            Decision::Held { due_ms, charged } => {
                counts.rows += 1;
                let row = RetryRow {
                    due_ms,
                    accepted_ms: call.item.message.accepted_ms,
                    key: call.item.lane,
                    redrive: call.item.redrive(),
                    history: history_with(call, charged),
                };
                settlement.retries.push((offset, Some(Arc::new(row))));
                return;
            }
            Decision::Dead { reason } => {
                counts.dead += 1;
                counts.died[reason as usize] += 1;
                let message = &call.item.message;
                let row = DeadRow::of(message, reason, now_ms, history_with(call, true));
                settlement.events.extend(self.announcement(message, &row));
                settlement.dead.push((offset, Some(Arc::new(row))));
                if let Some(parks) = self.parks(reason, call.item.lane) {
                    settlement.parks.push((offset, Some(parks)));
                }
            }
        }
        if had_retry_row {
            settlement.retries.push((offset, None));
        }
    }

    /// What was recorded of a call is sequenced: the message has its new place, and its lane goes on.
    pub(super) fn settled(&mut self, call: Finished, settlement: &mut Settlement) {
        let decision = call.decision.expect("a call is recorded before it is settled");
        self.judge(&call);
        let charged = !matches!(decision, Decision::Held { charged: false, .. });
        self.reruns += u64::from(!charged && call.outcome.kind() != OutcomeKind::Unavailable);
        let (offset, accepted_ms) = (call.item.message.offset, call.item.message.accepted_ms);
        let (lane, leads) = (call.item.lane, leads(&call.item));
        self.count_outcome(call.outcome.kind());
        self.vacate(&call.item);
        match decision {
            Decision::Acked => {}
            Decision::Held { due_ms, .. } => {
                self.enter_retry(offset, due_ms, accepted_ms, lane, leads);
                if let Outcome::TopicFull { topic, .. } = call.outcome {
                    self.retries.wait_for(offset, topic);
                }
                if let Some(key) = lane {
                    self.spill(key, settlement);
                }
            }
            Decision::Dead { reason } => {
                if let Some(parks) = self.parks(reason, lane) {
                    self.park(offset, parks, settlement);
                }
            }
        }
        if let Some(key) = lane {
            self.wake_lane(key);
        }
    }

    /// A message that a worker had is no longer where it was.
    pub(super) fn vacate(&mut self, item: &Item) {
        let offset = item.message.offset;
        *self.running.of(&item.origin) -= 1;
        match &item.origin {
            Origin::Window { .. } => drop(self.window.settle(offset)),
            Origin::Retry(_) => self.leave_retry(offset),
            Origin::Row { at, .. } => {
                self.held -= 1;
                self.lanes.get(at.key).row_advanced(at.first);
            }
        }
        if let Some(key) = item.lane {
            self.lanes.open(key).taken -= 1;
        }
    }

    /// Dead letters are offered again, with fresh attempts and their evidence, ahead of what waits of their key.
    pub(super) fn redriven(
        &mut self,
        letters: Vec<(SharedMessage, Arc<DeadRow>)>,
        now_ms: Millis,
        settlement: &mut Settlement,
    ) {
        for (message, dead) in letters {
            let offset = message.offset;
            if self.retries.contains(offset) {
                continue;
            }
            let parks = self.unpark(offset, settlement);
            let lane = self.lane_of(&message);
            let redrive = Redrive { reason: dead.reason, died_ms: dead.died_ms, excused: dead.excused, parks };
            let history = History {
                charged: 0,
                unavailable: 0,
                reruns: 0,
                failing_since_ms: 0,
                redrives: dead.history.redrives + 1,
                ..dead.history.clone()
            };
            let accepted_ms = message.accepted_ms;
            let row = RetryRow { due_ms: now_ms, accepted_ms, key: lane, redrive: Some(redrive), history };
            self.dead_letter_leaves(offset);
            settlement.dead.push((offset, None));
            self.never_meet(offset, settlement);
            settlement.retries.push((offset, Some(Arc::new(row))));
            settlement.counts.dead -= 1;
            settlement.counts.rows += 1;
            settlement.counts.redriven += 1;
            self.enter_retry(offset, now_ms, accepted_ms, lane, redrive.leads());
            if let Some(Parks::Key(key)) = parks {
                self.wake_lane(key);
            }
        }
    }

    pub(super) fn dropped(&mut self, offsets: &[Offset], settlement: &mut Settlement) {
        for &offset in offsets {
            self.dead_letter_leaves(offset);
            settlement.dead.push((offset, None));
            self.never_meet(offset, settlement);
            settlement.counts.dead -= 1;
            settlement.counts.skipped += 1;
            if let Some(Parks::Key(key)) = self.unpark(offset, settlement) {
                self.wake_lane(key);
            }
        }
    }
}

impl Dispatcher {
    /// A dead letter that a seek left behind is one no more: its message must not be met where it stands.
    fn never_meet(&mut self, offset: Offset, settlement: &mut Settlement) {
        if offset < self.passes_dead_before {
            settlement.passed.push((offset, offset + 1));
            if offset >= self.cursor {
                self.passed_before.pass(offset, offset + 1);
            }
        }
    }
}

/// A message leaves its place in what is recorded. True if that was a retry row, to be replaced or removed.
pub(super) fn leave_place(item: &Item, settlement: &mut Settlement) -> bool {
    match &item.origin {
        Origin::Window { covers_from } => {
            settlement.counts.passed += 1;
            pass(settlement, *covers_from, item.message.offset + 1);
            false
        }
        Origin::Retry(_) => {
            settlement.counts.rows -= 1;
            true
        }
        Origin::Row { at, row, index } => {
            settlement.counts.rows -= 1;
            let row = advanced(row, index + 1);
            match settlement.held.last_mut() {
                Some(last) if last.0 == *at => last.1 = row,
                _ => settlement.held.push((*at, row)),
            }
            false
        }
    }
}

/// The message's history with this call in it.
fn history_with(call: &Finished, charged: bool) -> History {
    let mut history = call.item.history().cloned().unwrap_or_default();
    let kind = call.outcome.kind();
    let text = shortened(&call.outcome.text(), EVIDENCE_TEXT_BYTES_MAX);
    history.record(Attempt {
        at_ms: call.began_ms,
        duration_us: u64::try_from(call.duration.as_micros()).unwrap_or(u64::MAX),
        outcome: kind,
        text,
        digest: call.digest,
        charged,
    });
    if charged {
        history.charged += 1;
    }
    if call.outcome.is_failure() && history.failing_since_ms == 0 {
        history.failing_since_ms = call.began_ms;
    }
    let waits_for_others = matches!(kind, OutcomeKind::Unavailable | OutcomeKind::TopicFull);
    let rerun = !charged && !waits_for_others;
    history.reruns = call.item.reruns().saturating_add(u32::from(rerun));
    history.unavailable = if waits_for_others { history.unavailable + 1 } else { 0 };
    history
}

/// Reasons that a guest's outcome does not give.
pub(super) fn forced_reason(hops_max: u8, publishes: &[crate::message::Event]) -> Option<DeadReason> {
    publishes.iter().any(|event| event.hops > hops_max).then_some(DeadReason::TooManyHops)
}
