//! Messages in retry: what memory knows of all of them, and which of them are read.
//!
//! Of a lane only the first one is read, and only while no worker has messages of it, for no other can
//! run; and no more are read than may wait in memory. So every one that is read can run, and makes room
//! for the next.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::log::{KeyHash, RetryRow};
use crate::message::{Millis, Offset};
use crate::topic::TopicName;

use super::item::{Item, Origin};
use super::{Action, Dispatcher, Ready};

/// A message in retry, as memory knows it; its history stays in the log.
#[derive(Debug)]
pub(super) struct Retry {
    due_ms: Millis,
    accepted_ms: Millis,
    lane: Option<KeyHash>,
    phase: Phase,
    /// Its row, where that was rewritten: one that was read before is out of date.
    rewritten: Option<Arc<RetryRow>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waits for its time.
    Due,
    /// It is due, and stands behind another message of its lane that runs or is in retry.
    Behind,
    /// Its row and message are being read.
    Loading,
    /// It waits for a worker, in its lane or among the ready ones, with this many bytes.
    Loaded {
        bytes: usize,
    },
    Running,
}

#[derive(Default)]
pub(super) struct Retries {
    all: BTreeMap<Offset, Retry>,
    /// Those in [`Phase::Due`], and that are being read.
    due: BTreeSet<(Millis, Offset)>,
    loading: BTreeSet<Offset>,
    /// Those that are read and wait for a worker.
    loaded: usize,
    loaded_bytes: usize,
    /// Those whose effects found no room, and the topic that was full.
    full: BTreeMap<Offset, TopicName>,
}

impl Retries {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn contains(&self, offset: Offset) -> bool {
        self.all.contains_key(&offset)
    }

    /// How many wait for their time, and for which one first.
    pub(super) fn due(&self) -> (usize, Option<Millis>) {
        (self.due.len(), self.due.first().map(|(due_ms, _)| *due_ms))
    }

    /// What it waits for is room in a topic.
    pub(super) fn wait_for(&mut self, offset: Offset, topic: TopicName) {
        self.full.insert(offset, topic);
    }

    /// How many of those that wait for their time do so because a topic is full.
    pub(super) fn full(&self) -> BTreeMap<String, u64> {
        let mut waiting = BTreeMap::new();
        for (_, topic) in self.full.iter().filter(|(offset, _)| self.get(**offset).phase == Phase::Due) {
            *waiting.entry(topic.to_string()).or_default() += 1;
        }
        waiting
    }

    pub(super) fn loading(&self) -> usize {
        self.loading.len()
    }

    /// How many are in memory and no worker has them.
    #[cfg(test)]
    pub(super) fn in_memory(&self) -> usize {
        self.loading.len() + self.loaded
    }

    /// When the oldest one was accepted.
    pub(super) fn oldest_ms(&self) -> Option<Millis> {
        self.all.values().map(|retry| retry.accepted_ms).min()
    }

    fn get(&self, offset: Offset) -> &Retry {
        self.all.get(&offset).expect("a retry is known until it is settled")
    }

    pub(super) fn lane(&self, offset: Offset) -> Option<KeyHash> {
        self.get(offset).lane
    }

    fn set(&mut self, offset: Offset, phase: Phase) {
        let retry = self.all.get_mut(&offset).expect("a retry is known until it is settled");
        let (due_ms, before) = (retry.due_ms, std::mem::replace(&mut retry.phase, phase));
        self.count_out(offset, due_ms, before);
        self.count_in(offset, phase);
    }

    fn count_in(&mut self, offset: Offset, phase: Phase) {
        let due_ms = self.get(offset).due_ms;
        match phase {
            Phase::Due => drop(self.due.insert((due_ms, offset))),
            Phase::Loading => drop(self.loading.insert(offset)),
            Phase::Loaded { bytes } => {
                self.loaded += 1;
                self.loaded_bytes += bytes;
            }
            Phase::Behind | Phase::Running => {}
        }
    }

    fn count_out(&mut self, offset: Offset, due_ms: Millis, phase: Phase) {
        match phase {
            Phase::Due => drop(self.due.remove(&(due_ms, offset))),
            Phase::Loading => drop(self.loading.remove(&offset)),
            Phase::Loaded { bytes } => {
                self.loaded -= 1;
                self.loaded_bytes -= bytes;
            }
            Phase::Behind | Phase::Running => {}
        }
    }

    fn remove(&mut self, offset: Offset) -> Retry {
        let retry = self.all.remove(&offset).expect("a retry is over once");
        self.full.remove(&offset);
        self.count_out(offset, retry.due_ms, retry.phase);
        retry
    }

    /// Those after an offset, ascending.
    pub(super) fn after(&self, after: Option<Offset>) -> impl Iterator<Item = Offset> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.all.range((from, Bound::Unbounded)).map(|(offset, _)| *offset)
    }

    /// Its row was changed in place.
    pub(super) fn rewrite(&mut self, offset: Offset, row: Arc<RetryRow>) {
        let retry = self.all.get_mut(&offset).expect("a retry is known until it is settled");
        let (due_ms, phase) = (std::mem::replace(&mut retry.due_ms, row.due_ms), retry.phase);
        retry.rewritten = Some(row);
        self.count_out(offset, due_ms, phase);
        self.count_in(offset, phase);
    }

    /// Brings a row up to date that was read some time ago.
    pub(super) fn refresh(&self, offset: Offset, row: &mut Arc<RetryRow>) {
        if let Some(rewritten) = &self.get(offset).rewritten {
            row.clone_from(rewritten);
        }
    }

    pub(super) fn runs(&mut self, offset: Offset) {
        self.set(offset, Phase::Running);
    }

    /// When a message is due, if it waits for that.
    pub(super) fn due_ms(&self, offset: Offset) -> Option<Millis> {
        let retry = self.get(offset);
        (retry.phase == Phase::Due).then_some(retry.due_ms)
    }

    /// A message that no worker has stands behind others of its lane.
    pub(super) fn give_up_turn(&mut self, offset: Offset) {
        if self.get(offset).phase != Phase::Running {
            self.set(offset, Phase::Behind);
        }
    }

    pub(super) fn is_loading(&self, offset: Offset) -> bool {
        self.loading.contains(&offset)
    }

    /// Those that were asked for and not answered are asked for again.
    pub(super) fn ask_again(&mut self) {
        for offset in std::mem::take(&mut self.loading) {
            self.set(offset, Phase::Due);
        }
    }
}

impl Dispatcher {
    /// `leads` where all else of the subscription waits until it is settled.
    pub(super) fn enter_retry(
        &mut self,
        offset: Offset,
        due_ms: Millis,
        accepted_ms: Millis,
        lane: Option<KeyHash>,
        leads: bool,
    ) {
        if leads {
            self.parking.lead(offset);
        }
        self.retries.all.insert(offset, Retry { due_ms, accepted_ms, lane, phase: Phase::Behind, rewritten: None });
        self.retries.set(offset, Phase::Due);
        let Some(key) = lane else { return };
        let lane = self.lanes.open(key);
        lane.fronts.insert(offset);
        if !lane.parked.is_empty() {
            return self.retries.give_up_turn(offset);
        }
        // One that comes later and was read already gives up its place.
        let behind = lane.loaded.keys().copied().find(|other| *other > offset);
        if let Some(behind) = behind {
            lane.loaded.remove(&behind);
            self.retries.set(behind, Phase::Behind);
        }
    }

    /// A retry is over: settled one way or another.
    pub(super) fn leave_retry(&mut self, offset: Offset) {
        self.parking.leads_no_more(offset);
        let Some(key) = self.retries.remove(offset).lane else { return };
        let lane = self.lanes.get(key);
        lane.fronts.remove(&offset);
        lane.loaded.remove(&offset);
    }

    /// Of a lane whose messages no worker has, the first one in retry has its turn.
    pub(super) fn promote_retry(&mut self, key: KeyHash) {
        if let Some(next) = self.lanes.first_front_of_idle(key)
            && self.retries.get(next).phase == Phase::Behind
        {
            self.retries.set(next, Phase::Due);
        }
    }

    /// A message in retry is in memory and can run as soon as a worker is free, unless another one of its
    /// lane came before it meanwhile.
    pub(super) fn place_retry(&mut self, item: Item) {
        debug_assert!(matches!(item.origin, Origin::Retry(_)));
        let (offset, bytes) = (item.message.offset, item.message.bytes());
        match item.lane.map(|key| self.lanes.get(key)) {
            None => self.ready.push_back(Ready::Loose(item)),
            Some(lane) if lane.fronts.first() != Some(&offset) || !lane.parked.is_empty() => {
                return self.retries.set(offset, Phase::Behind);
            }
            Some(lane) => drop(lane.loaded.insert(offset, item)),
        }
        self.retries.set(offset, Phase::Loaded { bytes });
    }

    /// Whether what is due may be read: one read at a time, and no more than may wait in memory.
    fn may_load_retries(&self) -> bool {
        self.retries.loading.is_empty()
            && self.retries.loaded < self.bounds.fetch_messages_max
            && self.retries.loaded_bytes < self.bounds.window_bytes_max / 4
    }

    /// When the next one is due that could be read then.
    pub(super) fn next_retry_ms(&self) -> Option<Millis> {
        if self.parking.holds_back() {
            let may_load = self.retries.loading.is_empty();
            return self.leading_due().into_iter().filter(|_| may_load).map(|(due_ms, _)| due_ms).min();
        }
        if self.may_load_retries() { self.retries.due().1 } else { None }
    }

    pub(super) fn want_retries(&mut self, now_ms: Millis, actions: &mut Vec<Action>) {
        if self.active && self.parking.holds_back() {
            return self.want_leading(now_ms, actions);
        }
        if !(self.active && self.may_load_retries()) {
            return;
        }
        let mut wanted = Vec::new();
        while self.retries.loaded + wanted.len() < self.bounds.fetch_messages_max
            && let Some(&(due_ms, offset)) = self.retries.due.first()
            && due_ms <= now_ms
        {
            let has_turn = |key| self.lanes.first_front_of_idle(key) == Some(offset);
            if self.retries.get(offset).lane.is_none_or(has_turn) {
                self.retries.set(offset, Phase::Loading);
                wanted.push(offset);
            } else {
                self.retries.set(offset, Phase::Behind);
            }
        }
        if !wanted.is_empty() {
            actions.push(Action::LoadRetries(wanted));
        }
    }

    /// What leads is read also where others fill the memory: they wait for it.
    fn want_leading(&mut self, now_ms: Millis, actions: &mut Vec<Action>) {
        if !self.retries.loading.is_empty() {
            return;
        }
        let due = self.leading_due().into_iter().filter(|(due_ms, _)| *due_ms <= now_ms);
        let wanted: Vec<Offset> = due.map(|(_, offset)| offset).take(self.bounds.fetch_messages_max).collect();
        for &offset in &wanted {
            self.retries.set(offset, Phase::Loading);
        }
        if !wanted.is_empty() {
            actions.push(Action::LoadRetries(wanted));
        }
    }
}
