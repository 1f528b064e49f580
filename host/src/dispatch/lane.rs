//! Lanes: the messages of one key, in order and one at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Bound;
use std::sync::Arc;

use crate::log::{HeldAt, HeldRow, KeyHash, Settlement, SubscriptionId};
use crate::message::{Message, Millis, Offset};

use super::item::{Item, Origin};

/// One key's messages that are known to memory.
#[derive(Default)]
pub(super) struct Lane {
    /// Waiting in memory, ascending: messages of the window, then of the first held row.
    pub(super) queue: VecDeque<Item>,
    /// In retry, by offset. While there is one, nothing else of the lane runs.
    pub(super) fronts: BTreeSet<Offset>,
    /// Those in retry that are due and were read.
    pub(super) loaded: BTreeMap<Offset, Item>,
    /// Dead letters that hold it back.
    pub(super) parked: BTreeSet<Offset>,
    /// How many are at a worker.
    pub(super) taken: usize,
    /// Whether it stands among the ready ones.
    ready: bool,
    /// Held rows by their first offset.
    rows: BTreeMap<Offset, RowState>,
    /// The row that this process wrote last, and that grows.
    tail: Option<Arc<HeldRow>>,
    /// Whether the tail no longer grows, because it is being drained.
    tail_sealed: bool,
    loading_row: bool,
}

struct RowState {
    waiting: u32,
    accepted_ms: Millis,
}

impl Lane {
    pub(super) fn add_stored_row(&mut self, first: Offset, waiting: u32, accepted_ms: Millis) {
        self.rows.insert(first, RowState { waiting, accepted_ms });
    }

    /// Whether messages that arrive now have to wait behind rows.
    pub(super) fn is_blocked(&self) -> bool {
        !self.fronts.is_empty() || !self.rows.is_empty() || !self.parked.is_empty()
    }

    /// Messages that a dead letter of it holds back.
    pub(super) fn parked_messages(&self) -> u64 {
        if self.parked.is_empty() {
            return 0;
        }
        debug_assert_eq!(self.taken, 0, "a lane that is parked runs nothing");
        let in_rows: u64 = self.rows.values().map(|row| u64::from(row.waiting)).sum();
        let queued = self.queue.iter().filter(|item| matches!(item.origin, Origin::Window { .. }));
        in_rows + self.fronts.len() as u64 + queued.count() as u64
    }

    fn is_done(&self) -> bool {
        self.taken == 0 && self.queue.is_empty() && !self.is_blocked() && !self.loading_row
    }

    /// One message of a row no longer waits there.
    pub(super) fn row_advanced(&mut self, first: Offset) {
        let row = self.rows.get_mut(&first).expect("a message of a row leaves it before the row is gone");
        row.waiting -= 1;
        if row.waiting == 0 {
            self.rows.remove(&first);
            if self.tail.as_ref().is_some_and(|tail| tail.offsets[0] == first) {
                self.tail = None;
            }
        }
    }

    /// Whether a row of it is being read, or messages of one stand in its queue.
    fn is_reading(&self) -> bool {
        self.loading_row || self.queue.front().is_some_and(|item| matches!(item.origin, Origin::Row { .. }))
    }

    /// Whether what was read of its row has to wait.
    fn reads_needlessly(&self) -> bool {
        !self.loading_row && !self.can_run()
    }

    /// Forgets messages of its row that no worker has; they are read again when their turn comes.
    pub(super) fn forget_row(&mut self) {
        self.queue.retain(|item| !matches!(item.origin, Origin::Row { .. }));
    }

    /// When the oldest message in its rows was accepted.
    pub(super) fn oldest_held_ms(&self) -> Option<Millis> {
        self.rows.first_key_value().map(|(_, row)| row.accepted_ms)
    }

    pub(super) fn can_run(&self) -> bool {
        self.taken == 0
            && self.parked.is_empty()
            && match self.fronts.first() {
                Some(front) => self.loaded.contains_key(front),
                None => !self.queue.is_empty(),
            }
    }

    /// Whether nothing but the reading of its first row keeps it from running.
    pub(super) fn waits_for_row(&self) -> bool {
        self.taken == 0
            && self.parked.is_empty()
            && self.queue.is_empty()
            && self.fronts.is_empty()
            && !self.rows.is_empty()
    }
}

/// A key is a hash already, so the map takes it as it is: lanes are looked up several times per message.
#[derive(Default)]
struct Prehashed(u64);

impl Hasher for Prehashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a key hash is one number");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Queues that are kept for lanes to come, and how many messages they have room for at most: where most keys have one
/// message at a time, a lane comes and goes with each message.
const SPARE_QUEUES_MAX: usize = 1_024;
const SPARE_QUEUE_MESSAGES_MAX: usize = 16;

/// All lanes of a dispatcher. A lane exists while something of its key is pending in memory or in rows.
pub(super) struct Lanes {
    row_offsets_max: usize,
    rows_read_max: usize,
    lanes: HashMap<KeyHash, Lane, BuildHasherDefault<Prehashed>>,
    /// Empty queues of lanes that are gone.
    spare_queues: Vec<VecDeque<Item>>,
    /// Lanes whose tail row grew in this step.
    dirty: HashSet<KeyHash>,
    /// Lanes that want their first row read, in turn.
    want_rows: VecDeque<KeyHash>,
    /// Lanes whose first row is being read, or has messages in their queue.
    reading: BTreeSet<KeyHash>,
    /// Whether no row is read yet, because messages that come before it may still be unread.
    pub(super) rows_wait: bool,
}

impl Lanes {
    pub(super) fn new(row_offsets_max: usize, rows_read_max: usize) -> Self {
        Self {
            row_offsets_max,
            rows_read_max,
            lanes: HashMap::default(),
            spare_queues: Vec::new(),
            dirty: HashSet::new(),
            want_rows: VecDeque::new(),
            reading: BTreeSet::new(),
            rows_wait: false,
        }
    }

    pub(super) fn open(&mut self, key: KeyHash) -> &mut Lane {
        let spare = &mut self.spare_queues;
        self.lanes.entry(key).or_insert_with(|| Lane { queue: spare.pop().unwrap_or_default(), ..Lane::default() })
    }

    /// Forgets a lane of which nothing is pending.
    fn close(&mut self, key: KeyHash) {
        let Some(lane) = self.lanes.remove(&key) else { return };
        if lane.queue.capacity() <= SPARE_QUEUE_MESSAGES_MAX && self.spare_queues.len() < SPARE_QUEUES_MAX {
            self.spare_queues.push(lane.queue);
        }
    }

    pub(super) fn get(&mut self, key: KeyHash) -> &mut Lane {
        self.lanes.get_mut(&key).expect("a lane lives while something of it is pending")
    }

    pub(super) fn peek(&self, key: KeyHash) -> Option<&Lane> {
        self.lanes.get(&key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&KeyHash, &Lane)> {
        self.lanes.iter()
    }

    /// All keys, in a fixed order, so that the same events make the same log.
    pub(super) fn keys(&self) -> Vec<KeyHash> {
        let mut keys: Vec<KeyHash> = self.lanes.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    /// The first message in retry of a lane that is not parked and of which no worker has messages.
    pub(super) fn first_front_of_idle(&self, key: KeyHash) -> Option<Offset> {
        let lane = self.lanes.get(&key).filter(|lane| lane.taken == 0 && lane.parked.is_empty())?;
        lane.fronts.first().copied()
    }

    /// The message of a lane that would run first, if one can.
    pub(super) fn front(&self, key: KeyHash) -> Option<&Item> {
        let lane = self.lanes.get(&key).filter(|lane| lane.can_run())?;
        match lane.fronts.first() {
            Some(front) => lane.loaded.get(front),
            None => lane.queue.front(),
        }
    }

    /// Keys that a message in retry or a dead letter holds back.
    pub(super) fn blocked(&self) -> usize {
        self.lanes.values().filter(|lane| !(lane.fronts.is_empty() && lane.parked.is_empty())).count()
    }

    /// Looks at a lane after something of it changed. True if it became ready now.
    pub(super) fn wake(&mut self, key: KeyHash) -> bool {
        let Some(lane) = self.lanes.get_mut(&key) else { return false };
        if lane.taken > 0 {
            return false;
        }
        if lane.can_run() {
            return !std::mem::replace(&mut lane.ready, true);
        }
        if lane.waits_for_row() && !lane.loading_row && !self.rows_wait {
            lane.loading_row = true;
            // A row that is being drained no longer grows, so that its offsets stay what was read.
            lane.tail_sealed |=
                lane.tail.as_ref().is_some_and(|tail| lane.rows.keys().next() == Some(&tail.offsets[0]));
            self.want_rows.push_back(key);
            self.reading.remove(&key);
        }
        // One that still stands among the ready ones is forgotten when its turn comes.
        if lane.is_done() && !lane.ready {
            self.close(key);
        }
        false
    }

    /// Takes what may run of a ready lane.
    pub(super) fn take(&mut self, key: KeyHash, max: usize, taken: &mut Vec<Item>) {
        let Some(lane) = self.lanes.get_mut(&key) else { return };
        lane.ready = false;
        if lane.is_done() {
            self.close(key);
            return;
        }
        if !lane.parked.is_empty() {
            return;
        }
        if let Some(front) = lane.fronts.first() {
            if let Some(item) = lane.loaded.remove(front) {
                lane.taken = 1;
                taken.push(item);
            }
            return;
        }
        let count = lane.queue.len().min(max);
        lane.taken = count;
        taken.extend(lane.queue.drain(..count));
    }

    /// Rows that are to be read now, by key and first offset.
    pub(super) fn rows_wanted(&mut self) -> Vec<(KeyHash, Offset)> {
        let mut wanted = Vec::new();
        while !self.want_rows.is_empty() && self.may_read_row() {
            let Some(key) = self.want_rows.pop_front() else { break };
            let first = self.lanes.get(&key).and_then(|lane| lane.rows.keys().next());
            if let Some(first) = first {
                self.reading.insert(key);
                wanted.push((key, *first));
            }
        }
        wanted
    }

    /// Whether a row is wanted and may be read.
    pub(super) fn has_row_to_read(&self) -> bool {
        let needless = |key| self.lanes.get(key).is_none_or(|lane| !lane.is_reading() || lane.reads_needlessly());
        !self.want_rows.is_empty() && (self.reading.len() < self.rows_read_max || self.reading.iter().any(needless))
    }

    /// Makes room for another row to be read. Where too many are, those that wait behind a running message
    /// or one in retry are forgotten, to be read again: so that no key keeps others from being read.
    fn may_read_row(&mut self) -> bool {
        if self.reading.len() < self.rows_read_max {
            return true;
        }
        let lanes = &mut self.lanes;
        self.reading.retain(|key| {
            let Some(lane) = lanes.get_mut(key) else { return false };
            if lane.reads_needlessly() {
                lane.forget_row();
            }
            lane.is_reading()
        });
        self.reading.len() < self.rows_read_max
    }

    /// The answer to a wanted row came. True if its messages may join the queue.
    pub(super) fn row_came(&mut self, at: HeldAt) -> bool {
        let Some(lane) = self.lanes.get_mut(&at.key) else { return false };
        lane.loading_row = false;
        let first = lane.rows.first_key_value().map(|(first, _)| *first);
        let is_free = lane.queue.is_empty() && lane.taken == 0 && lane.fronts.is_empty() && lane.parked.is_empty();
        is_free && first == Some(at.first)
    }

    /// Adds a message to the end of its key's rows.
    pub(super) fn join(
        &mut self,
        key: KeyHash,
        message: &Message,
        subscription: SubscriptionId,
        settlement: &mut Settlement,
    ) {
        let row_offsets_max = self.row_offsets_max;
        let lane = self.open(key);
        // Before rows of an earlier process, messages that it had not passed are read again: rows do not overlap.
        let grows = |tail: &Arc<HeldRow>| {
            let between = (Bound::Excluded(tail.offsets[0]), Bound::Excluded(message.offset));
            tail.offsets.len() < row_offsets_max && lane.rows.range(between).next().is_none()
        };
        if lane.tail_sealed || !lane.tail.as_ref().is_some_and(grows) {
            self.record_tail(subscription, key, settlement);
            let row = HeldRow { offsets: Vec::new(), front: 0, accepted_ms: message.accepted_ms };
            let lane = self.get(key);
            lane.tail = Some(Arc::new(row));
            lane.tail_sealed = false;
        }
        let lane = self.get(key);
        let row = Arc::make_mut(lane.tail.as_mut().expect("a tail that grows was made sure of"));
        row.offsets.push(message.offset);
        let first = row.offsets[0];
        let state = lane.rows.entry(first).or_insert(RowState { waiting: 0, accepted_ms: message.accepted_ms });
        state.waiting += 1;
        self.dirty.insert(key);
    }

    /// Records the tail row of one lane as it stands.
    fn record_tail(&mut self, subscription: SubscriptionId, key: KeyHash, settlement: &mut Settlement) {
        if !self.dirty.remove(&key) {
            return;
        }
        let lane = self.lanes.get(&key).expect("a dirty lane is there");
        if let Some(tail) = &lane.tail {
            let at = HeldAt { subscription, key, first: tail.offsets[0] };
            settlement.held.push((at, Some(tail.clone())));
        }
    }

    /// Records every row that grew in this step.
    pub(super) fn seal_dirty(&mut self, subscription: SubscriptionId, settlement: &mut Settlement) {
        let mut dirty: Vec<KeyHash> = self.dirty.iter().copied().collect();
        // A fixed order, so that the same events make the same log.
        dirty.sort_unstable();
        for key in dirty {
            self.record_tail(subscription, key, settlement);
        }
    }

    /// Makes rows of the queue's messages that stand in the window, ahead of the rows that are there.
    /// Messages that came from a row just stay in it. Returns those that left the window.
    pub(super) fn spill(
        &mut self,
        key: KeyHash,
        subscription: SubscriptionId,
        settlement: &mut Settlement,
    ) -> Vec<Item> {
        let row_offsets_max = self.row_offsets_max;
        let lane = self.get(key);
        let spilled: Vec<Item> =
            lane.queue.drain(..).filter(|item| matches!(item.origin, Origin::Window { .. })).collect();
        for chunk in spilled.chunks(row_offsets_max) {
            let accepted_ms = chunk[0].message.accepted_ms;
            let row =
                HeldRow { offsets: chunk.iter().map(|item| item.message.offset).collect(), front: 0, accepted_ms };
            let first = row.offsets[0];
            let waiting = u32::try_from(row.offsets.len()).expect("a row is bounded");
            let row = Arc::new(row);
            let is_last = lane.rows.last_key_value().is_none_or(|(last, _)| *last < first);
            lane.rows.insert(first, RowState { waiting, accepted_ms });
            settlement.held.push((HeldAt { subscription, key, first }, Some(row.clone())));
            if is_last {
                lane.tail = Some(row);
                lane.tail_sealed = false;
            }
        }
        spilled
    }
}
