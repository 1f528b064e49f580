//! What the runners do: they take messages, call, and settle when they like to.

use std::collections::VecDeque;
use std::time::Duration;

use super::reading::Read;
use super::{World, digest};
use crate::dispatch::model::auditor::Terms;
use crate::dispatch::{Event, Finished, Item, Ready, Refund, expiry};
use crate::log::Settlement;
use crate::message::{Millis, Offset};
use crate::outcome::{Digest, Outcome};
use crate::topic::TopicName;

/// A call that runs, and the version that it runs on.
pub(super) struct Call {
    pub(super) item: Item,
    pub(super) began_ms: Millis,
    pub(super) version: Digest,
}

impl Call {
    pub(super) fn finished(self, outcome: Outcome) -> Finished {
        Finished {
            item: self.item,
            outcome,
            began_ms: self.began_ms,
            duration: Duration::ZERO,
            digest: self.version,
            of_host: false,
            forced: None,
            decision: None,
        }
    }
}

/// What a worker took at once. It calls one after the other, and settles when it likes to.
#[derive(Default)]
pub(super) struct Run {
    pub(super) waiting: VecDeque<Item>,
    pub(super) calling: Option<Call>,
    /// Acked, and not recorded yet.
    pub(super) acked: Vec<Finished>,
    /// Its call does not end.
    pub(super) stuck: bool,
}

impl Run {
    pub(super) fn has(&self, offset: Offset) -> bool {
        let calling = self.calling.iter().map(|call| &call.item);
        let mut items = self.waiting.iter().chain(calling).chain(self.acked.iter().map(|call| &call.item));
        items.any(|item| item.message.offset == offset)
    }
}

impl World {
    pub(super) fn take(&mut self) {
        let max = self.random.usize(1..6);
        let held = self.dispatcher.is_held();
        let probed = self.dispatcher.gate.breaker.avoids();
        let can_run = |ready: &&Ready| self.dispatcher.may_lead(ready) && self.dispatcher.front(ready).is_some();
        let ready: Vec<&Item> =
            self.dispatcher.ready.iter().filter(can_run).filter_map(|ready| self.dispatcher.front(ready)).collect();
        let others = ready.iter().filter(|item| Some(item.message.offset) != probed);
        let fresh = self.dispatcher.gate.breaker.is_half_open() && others.clone().any(|item| !item.has_failed());
        let items = self.dispatcher.take(max, self.now_ms);
        if let Some(first) = items.first() {
            assert!(!(fresh && first.has_failed()), "{} is probed, and others did not fail yet", first.message.offset);
        }
        assert!(items.len() <= max);
        assert!(items.is_empty() || !held, "nothing is taken while the gate is shut");
        if let Some(item) = items.iter().find(|item| Some(item.message.offset) == probed) {
            let others = (items.len() - 1, self.dispatcher.ready_to_run());
            assert_eq!(others, (0, 0), "{} is probed again, where another can run", item.message.offset);
        }
        if items.is_empty() {
            return;
        }
        for item in &items {
            trace!(self, "take {} of {:?}, {:?}", item.message.offset, item.lane, item.origin);
            self.auditor.was_taken(item.message.offset, item.lane);
        }
        self.runs.push(Run { waiting: items.into(), ..Run::default() });
    }

    /// A worker takes a run, and begins nothing of it.
    pub(super) fn take_in_vain(&mut self) {
        let runs = self.runs.len();
        self.take();
        if self.runs.len() > runs {
            let rest = self.runs.pop().map(|run| run.waiting.into()).expect("it was put there");
            self.give_back(rest);
        }
    }

    /// Something goes on in one of the runs.
    pub(super) fn work(&mut self) {
        if self.runs.is_empty() {
            return;
        }
        let index = self.random.usize(..self.runs.len());
        match self.random.u32(0..12) {
            0 => self.settle_acked(index, Vec::new()),
            // A worker stops in the middle, as where the consumer is swapped out.
            1 if self.random.u32(0..4) == 0 => {
                let rest = self.runs[index].waiting.drain(..).collect();
                self.settle_acked(index, rest);
            }
            _ => match self.runs[index].calling.take() {
                None => self.begin(index),
                Some(call) => self.end(index, call),
            },
        }
        self.runs.retain(|run| !(run.waiting.is_empty() && run.calling.is_none() && run.acked.is_empty()));
    }

    pub(super) fn begin(&mut self, index: usize) {
        if self.dispatcher.is_held() {
            // What was taken and did not begin goes back.
            let rest = self.runs[index].waiting.drain(..).collect();
            return self.settle_acked(index, rest);
        }
        let Some(item) = self.runs[index].waiting.pop_front() else { return self.settle_acked(index, Vec::new()) };
        let offset = item.message.offset;
        if expiry::is_over(&item, self.now_ms) {
            self.settle_acked(index, Vec::new());
            trace!(self, "{offset} is over");
            let entry = self.step_with(Event::Expired(vec![item]), None);
            return self.auditor.expired(entry, offset, self.now_ms);
        }
        trace!(self, "begin {offset}");
        self.auditor.started(offset, self.now_ms);
        self.runs[index].calling = Some(self.call(item));
    }

    fn call(&self, item: Item) -> Call {
        Call { item, began_ms: self.now_ms, version: digest(self.version) }
    }

    fn end(&mut self, index: usize, call: Call) {
        let outcome = self.outcome();
        let conflicts = self.random.u32(0..12) == 0;
        self.ended(index, call, outcome, conflicts);
    }

    pub(super) fn ended(&mut self, index: usize, call: Call, outcome: Outcome, conflicts: bool) {
        let Call { item, began_ms, version } = call;
        trace!(self, "end {}: {outcome:?}", item.message.offset);
        let (offset, lane) = (item.message.offset, item.lane);
        let acked = outcome == Outcome::Acked && !conflicts;
        let call = Call { item, began_ms, version }.finished(outcome);
        if acked {
            self.auditor.acked(offset);
            return self.runs[index].acked.push(call);
        }
        // What failed holds back its key: the rest of the key did not run.
        let run = &mut self.runs[index];
        let (rest, others): (Vec<_>, Vec<_>) =
            run.waiting.drain(..).partition(|other| lane.is_some() && other.lane == lane);
        run.waiting = others.into();
        self.settle_acked(index, rest);
        let mut finished = [call];
        let settlement = self.dispatcher.record(&mut finished, self.now_ms);
        let [finished] = finished;
        if conflicts && self.dispatcher.charges_conflict(&finished.item) {
            trace!(self, "one conflict of {offset} too many");
            let mut finished = [Finished { outcome: Outcome::Conflict, ..finished }];
            let settlement = self.dispatcher.record(&mut finished, self.now_ms);
            return self.recorded(finished.into(), settlement);
        }
        if conflicts {
            trace!(self, "conflict {offset}");
            self.auditor.conflicted(offset);
            let no_room = self.random.u32(0..3) == 0;
            return self.step(if no_room { Event::NoRoom(finished.item) } else { Event::Conflicted(finished.item) });
        }
        self.recorded(vec![finished], settlement);
    }

    /// Items come back that did not run.
    fn give_back(&mut self, rest: Vec<Item>) {
        if !rest.is_empty() {
            for item in &rest {
                trace!(self, "return {}", item.message.offset);
                self.auditor.returned(item.message.offset);
            }
            self.step(Event::Returned(rest));
        }
    }

    /// Settles the acks of a run, and gives items of it back that did not run.
    pub(super) fn settle_acked(&mut self, index: usize, rest: Vec<Item>) {
        self.give_back(rest);
        let mut finished = std::mem::take(&mut self.runs[index].acked);
        if !finished.is_empty() {
            let settlement = self.dispatcher.record(&mut finished, self.now_ms);
            self.recorded(finished, settlement);
        }
    }

    fn recorded(&mut self, finished: Vec<Finished>, settlement: Settlement) {
        trace!(self, "settle {settlement:?}");
        let entry = self.journal.settle(settlement);
        let terms = Terms {
            policy: &self.policy,
            uncharged_reruns_max: self.bounds.uncharged_reruns_max,
            breaker_closed: self.dispatcher.gate.breaker.is_closed(),
            now_ms: self.now_ms,
        };
        for call in &finished {
            let version = call.digest.0[0];
            self.auditor.recorded(entry, call, self.rolled_back.contains(&version), &terms);
        }
        let closed = self.dispatcher.gate.breaker.is_closed();
        if closed && self.policy.breaker.is_some() && finished.iter().all(|call| self.runs_now(call.digest)) {
            self.auditor.judged(&finished);
        }
        let asked = self.asked.len();
        self.step(Event::Settled(finished));
        if closed && !self.dispatcher.gate.breaker.is_closed() {
            let refund = self.asked[asked..].iter().find_map(|read| match read {
                Read::Refund(Refund::Streak(charged), _) => Some(charged),
                _ => None,
            });
            self.auditor.opened(refund);
        }
    }

    fn runs_now(&self, version: Digest) -> bool {
        self.active && version == digest(self.version)
    }

    pub(super) fn outcome(&mut self) -> Outcome {
        let reason = || "r".to_owned();
        let after = if self.random.bool() { None } else { Some(Duration::from_millis(self.random.u64(0..300))) };
        match self.random.u32(0..if self.outage { 6 } else { 16 }) {
            0..2 => Outcome::Retry { reason: reason(), after },
            2 => Outcome::Unavailable { reason: reason(), after },
            3 => Outcome::Trapped { report: reason() },
            4 => Outcome::Reject { reason: reason() },
            5 => Outcome::TopicFull { topic: TopicName::any("full").unwrap(), bytes: 9, bytes_max: 9 },
            _ => Outcome::Acked,
        }
    }
}
