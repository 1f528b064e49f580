//! The sequencer: decides the place and the validity of every transaction. A state machine without IO,
//! clock or threads.
//!
//! It assigns transaction numbers, offsets, sequences and ids; holds what is sequenced and not yet
//! synced, so that later reads see it; and gathers the next group for the writer. A refused transaction
//! changes nothing: everything is checked first, and then applied without a way to fail.

mod dedupe;
mod group;
mod overlay;
mod recent_writes;
mod state_sizes;

use std::collections::HashMap;
use std::collections::VecDeque;
use std::mem::take;
use std::sync::Arc;

use bytes::Bytes;

use dedupe::Dedupe;
pub(crate) use dedupe::{DedupeBounds, Known, NameHash};
pub(crate) use group::{AccountState, Group, StateGrowth, SubscriptionChange};
use overlay::{Rows, StateOverlay};
use recent_writes::RecentWrites;
pub use state_sizes::StateBounds;
use state_sizes::StateSizes;

use super::{
    Change, CommitError, Counts, HeldAt, HeldRow, Place, Placed, PluginRecord, Release, Removal, RetryRow, Scheduled,
    ScheduledAt, Sequenced, Settlement, StateRead, StateSize, StateWrite, SubscriptionId, SubscriptionRecord,
    SyncWaiter, TopicCap, TopicInfo, Txn, TxnNumber,
};
use crate::message::{Event, Message, Millis, Offset, SharedMessage, TopicId};
use crate::topic::TopicName;
use position::Position;

use super::position;

/// What was found on the disk, from which sequencing goes on.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub next_offset: Offset,
    pub next_subscription: u32,
    /// The number of the next message that has to wait for its time.
    pub next_scheduled: u64,
    /// By id, without gaps.
    pub topics: Vec<TopicInfo>,
    pub state_sizes: Vec<(String, StateSize)>,
    pub subscriptions: Vec<(SubscriptionId, String, SubscriptionRecord, Position, Counts)>,
    /// The newest events that their producers named.
    pub known: Vec<Known>,
}

/// Bounds of what may gather, in bytes.
#[derive(Clone, Debug)]
pub(crate) struct SequencerBounds {
    /// What is sequenced and not yet synced, past which publishes from outside are refused. Effects of
    /// handlers have as much again, so that publishers cannot starve them.
    pub unsynced_bytes_max: usize,
    /// A group is closed when it would grow past this, so that one commit stays short.
    pub group_bytes_max: usize,
    pub topic_caps: Vec<TopicCap>,
    pub dedupe: DedupeBounds,
    pub state: StateBounds,
}

/// A transaction weighs at least this much, so that many small ones are bounded too.
const TXN_BYTES: usize = 64;

pub(crate) struct Sequencer {
    bounds: SequencerBounds,
    last_txn: TxnNumber,
    next_offset: Offset,
    next_subscription: u32,
    next_scheduled: u64,
    dedupe: Dedupe,
    topics: Vec<Topic>,
    topic_ids: HashMap<Arc<str>, TopicId>,
    accounts: HashMap<SubscriptionId, Account>,
    names: HashMap<String, SubscriptionId>,
    state: StateOverlay,
    state_sizes: StateSizes,
    retries: Rows<(SubscriptionId, Offset), RetryRow>,
    held: Rows<HeldAt, HeldRow>,
    recent_writes: RecentWrites,
    /// Groups that were closed because of their size, oldest first.
    closed: VecDeque<Group>,
    gathering: Group,
    /// Counts groups, to know whether a topic or account is already noted in the gathering one.
    group_number: u64,
    unsynced_bytes: usize,
    stopped: bool,
}

struct Topic {
    info: TopicInfo,
    /// Bytes that it may hold.
    bytes_max: Option<u64>,
    noted_in: u64,
}

impl Topic {
    /// Has its figures written with the group that gathers.
    fn note(&mut self, id: TopicId, group_number: u64, gathering: &mut Group) {
        if self.noted_in != group_number {
            self.noted_in = group_number;
            gathering.noted_topics.push(id);
        }
    }
}

struct Account {
    name: String,
    record: SubscriptionRecord,
    position: Position,
    counts: Counts,
    noted_in: u64,
}

impl Sequencer {
    pub(crate) fn new(recovered: Recovered, bounds: SequencerBounds) -> Self {
        let dedupe = Dedupe::new(bounds.dedupe, recovered.known);
        let mut names = HashMap::new();
        let mut accounts = HashMap::new();
        for (id, name, record, position, counts) in recovered.subscriptions {
            names.insert(name.clone(), id);
            accounts.insert(id, Account { name, record, position, counts, noted_in: 0 });
        }
        let topic_ids = recovered.topics.iter().map(|info| (Arc::from(info.name.as_str()), info.id)).collect();
        // What may be unsynced at once may be counted twice, which must not reach a bound.
        let near_bytes = 2 * bounds.unsynced_bytes_max as u64;
        let state_sizes = StateSizes::new(bounds.state, near_bytes, recovered.state_sizes);
        let mut sequencer = Self {
            bounds,
            last_txn: 0,
            next_offset: recovered.next_offset,
            next_subscription: recovered.next_subscription,
            next_scheduled: recovered.next_scheduled,
            dedupe,
            topics: Vec::new(),
            topic_ids,
            accounts,
            names,
            state: StateOverlay::default(),
            state_sizes,
            retries: Rows::default(),
            held: Rows::default(),
            recent_writes: RecentWrites::default(),
            closed: VecDeque::new(),
            gathering: Group::default(),
            group_number: 1,
            unsynced_bytes: 0,
            stopped: false,
        };
        let topic = |info: TopicInfo| Topic { bytes_max: sequencer.cap_of(info.name.as_str()), info, noted_in: 0 };
        sequencer.topics = recovered.topics.into_iter().map(topic).collect();
        sequencer
    }

    /// Sequences a transaction, or says why it has no effect. `replaced` are the sizes of the synced values that
    /// its writes replace, where they are known: see [`Self::is_state_near`].
    pub(crate) fn commit(
        &mut self,
        txn: Txn,
        replaced: Option<&[u64]>,
        on_synced: Option<SyncWaiter>,
    ) -> Result<Sequenced, CommitError> {
        if self.stopped {
            return Err(CommitError::Stopped);
        }
        let bytes = txn_bytes(&txn);
        self.check_room(&txn, bytes)?;
        self.check_settlements(&txn.settlements)?;
        self.check_changes(&txn.changes)?;
        self.check_reads(&txn.reads)?;
        // After what cannot be mended by waiting.
        self.check_caps(&txn)?;
        self.check_state(&txn.writes, replaced)?;
        Ok(self.apply(txn, bytes, replaced, on_synced))
    }

    fn check_room(&self, txn: &Txn, bytes: usize) -> Result<(), CommitError> {
        // A settlement alone always finds room: it ends work, and what it records is small.
        if txn.appends.is_empty() && txn.writes.is_empty() && txn.releases.is_empty() {
            return Ok(());
        }
        let bound = self.bounds.unsynced_bytes_max.saturating_mul(if txn.outside { 1 } else { 2 });
        if self.unsynced_bytes > 0 && self.unsynced_bytes + bytes > bound {
            return Err(CommitError::Busy { unsynced_bytes: self.unsynced_bytes });
        }
        Ok(())
    }

    /// Refuses messages for a topic that holds as many bytes as it may. The bus's own topics take everything,
    /// for what they tell of is recorded with it; and so does a topic whose messages were accepted before.
    fn check_caps(&self, txn: &Txn) -> Result<(), CommitError> {
        let may_be_refused = txn.outside || !txn.settlements.is_empty();
        if self.bounds.topic_caps.is_empty() || !may_be_refused {
            return Ok(());
        }
        let mut more: HashMap<&str, u64> = HashMap::new();
        for event in &txn.appends {
            *more.entry(event.topic.as_str()).or_default() += event.bytes() as u64;
        }
        for (name, more) in more {
            let id = self.topic_ids.get(name);
            let bytes_max = match id {
                Some(id) => self.topics[id.0 as usize].bytes_max,
                None => self.cap_of(name),
            };
            let bytes = id.map_or(0, |id| self.topics[id.0 as usize].info.bytes);
            if let Some(bytes_max) = bytes_max.filter(|bytes_max| bytes.saturating_add(more) > *bytes_max) {
                let event = txn.appends.iter().find(|event| event.topic.as_str() == name);
                let topic = event.expect("an event names it").topic.clone();
                return Err(CommitError::TopicFull { topic, bytes, bytes_max, more });
            }
        }
        Ok(())
    }

    fn cap_of(&self, topic: &str) -> Option<u64> {
        let caps = &self.bounds.topic_caps;
        caps.iter().find(|cap| cap.filter.matches(topic))?.bytes_max.filter(|_| !topic.starts_with('$'))
    }

    fn check_settlements(&self, settlements: &[Settlement]) -> Result<(), CommitError> {
        for settlement in settlements {
            let now = self.accounts.get(&settlement.subscription).map(|account| account.record.epoch);
            if now != Some(settlement.epoch) {
                return Err(CommitError::StaleEpoch { expected: settlement.epoch, now });
            }
        }
        Ok(())
    }

    fn check_changes(&self, changes: &[Change]) -> Result<(), CommitError> {
        // What earlier changes of the same transaction made of the names and ids.
        let mut created: Vec<&str> = Vec::new();
        let mut removed: Vec<SubscriptionId> = Vec::new();
        for change in changes {
            match change {
                Change::CreateSubscription { name, .. } => {
                    let standing = self.names.get(name).is_some_and(|id| !removed.contains(id));
                    if standing || created.contains(&name.as_str()) {
                        return Err(CommitError::NameTaken { name: name.clone() });
                    }
                    created.push(name);
                }
                Change::PauseSubscription { id, .. } => {
                    if !self.accounts.contains_key(id) || removed.contains(id) {
                        return Err(CommitError::StaleEpoch { expected: 0, now: None });
                    }
                }
                Change::UpdateSubscription { id, record } => {
                    if !self.accounts.contains_key(id) || removed.contains(id) {
                        return Err(CommitError::StaleEpoch { expected: record.epoch, now: None });
                    }
                }
                Change::Seek { id, record, .. } => {
                    let now = self.accounts.get(id).filter(|_| !removed.contains(id));
                    let (now, expected) = (now.map(|account| account.record.epoch), record.epoch - 1);
                    if now != Some(expected) {
                        return Err(CommitError::StaleEpoch { expected, now });
                    }
                }
                Change::RemoveSubscription { id } => {
                    if !self.accounts.contains_key(id) || removed.contains(id) {
                        return Err(CommitError::StaleEpoch { expected: 0, now: None });
                    }
                    removed.push(*id);
                }
                Change::SetPlugin { .. } | Change::RemoveTopic { .. } => {}
                Change::RemoveMessages(removal) => self.check_removal(removal)?,
            }
        }
        Ok(())
    }

    /// Refuses a removal that was planned before a subscription came to need what it takes. That is a
    /// second lock on the door: who plans one keeps operators' commands out until it is synced. What stands
    /// in a row is not known here; the plan answers for it (see [`Removal`]).
    fn check_removal(&self, removal: &Removal) -> Result<(), CommitError> {
        for removed in &removal.topics {
            let topic = &self.topics[removed.topic.0 as usize].info.name;
            for account in self.accounts.values() {
                let from = account.record.selection.from_offset(topic.as_str());
                if from.is_some_and(|from| from.max(account.position.floor()) < removed.end) {
                    let (subscription, topic) = (account.name.clone(), topic.to_string());
                    return Err(CommitError::StillNeeded { subscription, topic });
                }
            }
        }
        Ok(())
    }

    fn check_reads(&self, reads: &[StateRead]) -> Result<(), CommitError> {
        match reads.iter().find(|read| self.recent_writes.changed_since(read)) {
            Some(read) => Err(CommitError::Conflict { consumer: read.consumer.to_string() }),
            None => Ok(()),
        }
    }

    /// Refuses writes for which a state has no room.
    pub(crate) fn check_state(&self, writes: &[StateWrite], replaced: Option<&[u64]>) -> Result<(), CommitError> {
        self.state_sizes.check(writes, replaced, &self.state)
    }

    /// Whether the sizes of what these writes replace are to be found out before they are committed.
    pub(crate) fn is_state_near(&self, writes: &[StateWrite]) -> bool {
        self.state_sizes.is_near(writes)
    }

    pub(crate) fn state_room(&self, consumer: &str) -> u64 {
        self.state_sizes.room(consumer)
    }

    pub(crate) fn state_sizes(&self) -> Vec<(String, StateSize)> {
        self.state_sizes.synced()
    }

    fn apply(&mut self, txn: Txn, bytes: usize, replaced: Option<&[u64]>, on_synced: Option<SyncWaiter>) -> Sequenced {
        if !self.gathering.is_empty() && self.gathering.bytes + bytes > self.bounds.group_bytes_max {
            self.close_group();
        }
        self.last_txn += 1;
        let number = self.last_txn;
        self.unsynced_bytes += bytes;
        self.gathering.bytes += bytes;
        self.gathering.last = number;
        self.gathering.urgent |=
            on_synced.is_some() || !txn.appends.is_empty() || !txn.writes.is_empty() || !txn.changes.is_empty();

        let placed = txn.appends.into_iter().map(|event| self.place(event, txn.now_ms)).collect();
        for release in txn.releases {
            self.release(release, txn.now_ms);
        }
        for (index, write) in txn.writes.into_iter().enumerate() {
            let replaced = replaced.map(|replaced| replaced[index]);
            self.state_sizes.count(&write, replaced, &self.state, &mut self.gathering.state_growth);
            let key: Arc<str> = write.key.into();
            self.recent_writes.record(number, &write.consumer, &key);
            self.state.put(number, &write.consumer, &key, write.value.clone());
            self.gathering.state.insert((write.consumer, key), write.value);
        }
        for settlement in txn.settlements {
            self.settle(number, settlement, txn.now_ms);
        }
        let mut created = Vec::new();
        for change in txn.changes {
            created.extend(self.change(change));
        }
        self.gathering.waiters.extend(on_synced);
        Sequenced { txn: number, placed, created }
    }

    /// Finds the place of an event: the one of an earlier event of its name, one in the schedule, or the next
    /// one of its topic.
    fn place(&mut self, event: Event, now_ms: Millis) -> Placed {
        let name = (event.named && self.dedupe.is_on()).then(|| NameHash::of(&event));
        if let Some(place) = name.and_then(|name| self.dedupe.find(name, now_ms)) {
            return Placed { place, duplicate: true };
        }
        let place = match event.deliver_at_ms.filter(|due_ms| *due_ms > now_ms) {
            Some(due_ms) => self.schedule(event, due_ms, now_ms),
            None => self.append(event, now_ms),
        };
        if let Some(name) = name {
            self.dedupe.record(name, place, now_ms);
        }
        Placed { place, duplicate: false }
    }

    fn schedule(&mut self, event: Event, due_ms: Millis, now_ms: Millis) -> Place {
        let at = ScheduledAt { due_ms, number: self.next_scheduled };
        self.next_scheduled += 1;
        self.gathering.scheduled.push(Scheduled { at, accepted_ms: now_ms, event });
        Place::Scheduled(at)
    }

    fn release(&mut self, release: Release, now_ms: Millis) {
        let (scheduled, is_due) = match release {
            Release::Due(scheduled) => (scheduled, true),
            Release::Cancelled(scheduled) => (scheduled, false),
        };
        self.gathering.released.push(scheduled.at);
        let event = scheduled.event;
        let name = (event.named && self.dedupe.is_on()).then(|| NameHash::of(&event));
        if is_due {
            let place = self.append(event, now_ms);
            if let Some(name) = name {
                self.dedupe.record(name, place, now_ms);
            }
        } else if let Some(name) = name {
            self.dedupe.forget(name);
        }
    }

    fn append(&mut self, mut event: Event, now_ms: Millis) -> Place {
        let id = match self.topic_ids.get(event.topic.as_str()) {
            Some(id) => *id,
            None => self.create_topic(event.topic.clone(), now_ms),
        };
        let topic = &mut self.topics[id.0 as usize];
        let offset = self.next_offset;
        self.next_offset += 1;
        topic.info.last_sequence += 1;
        topic.info.last_offset = offset;
        topic.info.messages += 1;
        topic.info.bytes += event.bytes() as u64;
        topic.note(id, self.group_number, &mut self.gathering);
        event.deliver_at_ms = None;
        // All messages of a topic share one copy of its name.
        event.topic = topic.info.name.clone();
        let sequence = topic.info.last_sequence;
        let message = Message { offset, sequence, topic_id: id, accepted_ms: now_ms, event };
        self.gathering.messages.push(Arc::new(message));
        Place::Message { offset, sequence }
    }

    fn create_topic(&mut self, name: TopicName, created_ms: Millis) -> TopicId {
        let id = TopicId(u32::try_from(self.topics.len()).expect("there are fewer than 2^32 topics"));
        self.topic_ids.insert(name.as_str().into(), id);
        let info = TopicInfo {
            id,
            name,
            created_ms,
            last_sequence: 0,
            last_offset: 0,
            messages: 0,
            bytes: 0,
            gaps_end: 0,
            removed_before: 0,
        };
        let bytes_max = self.cap_of(info.name.as_str());
        self.topics.push(Topic { info, bytes_max, noted_in: 0 });
        id
    }

    fn settle(&mut self, number: TxnNumber, settlement: Settlement, now_ms: Millis) {
        let id = settlement.subscription;
        let account = self.accounts.get_mut(&id).expect("the settlement's subscription was checked");
        for &(from, to) in &settlement.passed {
            assert!(to <= self.next_offset, "{} passes {from}..{to}, past the log's end", account.name);
            account.position.pass(from, to);
        }
        account.counts.apply(&settlement.counts);
        assert!(account.counts.conserved(), "{} loses a message: {:?}", account.name, account.counts);
        if account.noted_in != self.group_number {
            account.noted_in = self.group_number;
            self.gathering.noted_accounts.push(id);
        }
        for (offset, row) in settlement.retries {
            self.retries.put(number, (id, offset), row.clone());
            self.gathering.retries.insert((id, offset), row);
        }
        for (at, row) in settlement.held {
            assert_eq!(at.subscription, id, "a settlement holds rows of its own subscription");
            self.held.put(number, at, row.clone());
            self.gathering.held.insert(at, row);
        }
        for (offset, row) in settlement.dead {
            self.gathering.dead.insert((id, offset), row);
        }
        for (offset, parks) in settlement.parks {
            self.gathering.parks.insert((id, offset), parks);
        }
        for event in settlement.events {
            self.append(event, now_ms);
        }
    }

    fn change(&mut self, change: Change) -> Option<SubscriptionId> {
        match change {
            Change::CreateSubscription { name, record, position } => {
                let id = SubscriptionId(self.next_subscription);
                self.next_subscription += 1;
                self.names.insert(name.clone(), id);
                self.gathering
                    .subscriptions
                    .push((id, SubscriptionChange::Put { name: name.clone(), record: record.clone() }));
                let noted_in = self.group_number;
                self.gathering.noted_accounts.push(id);
                self.accounts.insert(id, Account { name, record, position, counts: Counts::default(), noted_in });
                Some(id)
            }
            Change::UpdateSubscription { id, record } => {
                let account = self.accounts.get_mut(&id).expect("the subscription was checked");
                account.record = record.clone();
                let name = account.name.clone();
                self.gathering.subscriptions.push((id, SubscriptionChange::Put { name, record }));
                None
            }
            Change::Seek { id, record, position, counts, dead, parks } => {
                assert!(position.end() <= self.next_offset, "a seek leads past the log's end");
                let account = self.accounts.get_mut(&id).expect("the subscription was checked");
                account.record = record.clone();
                account.position = position;
                account.counts = counts;
                assert!(counts.conserved(), "{} loses a message in a seek: {counts:?}", account.name);
                if account.noted_in != self.group_number {
                    account.noted_in = self.group_number;
                    self.gathering.noted_accounts.push(id);
                }
                let name = account.name.clone();
                self.gathering.subscriptions.push((id, SubscriptionChange::Seek { name, record }));
                self.gathering.dead.extend(dead.into_iter().map(|(offset, row)| ((id, offset), Some(row))));
                self.gathering.parks.extend(parks.into_iter().map(|(offset, parks)| ((id, offset), Some(parks))));
                None
            }
            Change::PauseSubscription { id, paused } => {
                let account = self.accounts.get_mut(&id).expect("the subscription was checked");
                account.record.paused = paused;
                let (name, record) = (account.name.clone(), account.record.clone());
                self.gathering.subscriptions.push((id, SubscriptionChange::Put { name, record }));
                None
            }
            Change::RemoveSubscription { id } => {
                let account = self.accounts.remove(&id).expect("the subscription was checked");
                self.names.remove(&account.name);
                self.gathering.subscriptions.push((id, SubscriptionChange::Remove));
                None
            }
            Change::SetPlugin { stem, record } => {
                self.gathering.plugins.push((stem, record));
                None
            }
            Change::RemoveTopic { topic: id, before } => {
                let topic = &mut self.topics[id.0 as usize];
                topic.info.removed_before = topic.info.removed_before.max(before);
                topic.note(id, self.group_number, &mut self.gathering);
                None
            }
            Change::RemoveMessages(removal) => {
                for removed in &removal.topics {
                    let topic = &mut self.topics[removed.topic.0 as usize];
                    let less = |count: &mut u64, by| *count = count.checked_sub(by).expect("what goes was there");
                    less(&mut topic.info.messages, removed.messages);
                    less(&mut topic.info.bytes, removed.bytes);
                    topic.info.gaps_end = topic.info.gaps_end.max(removed.end);
                    topic.note(removed.topic, self.group_number, &mut self.gathering);
                }
                self.gathering.removals.push(removal);
                None
            }
        }
    }

    fn close_group(&mut self) {
        let mut group = take(&mut self.gathering);
        for id in take(&mut group.noted_topics) {
            group.topics.push(self.topics[id.0 as usize].info.clone());
        }
        for id in take(&mut group.noted_accounts) {
            // A subscription that was removed meanwhile has no account to write.
            if let Some(account) = self.accounts.get(&id) {
                let state = AccountState { position: account.position.clone(), counts: account.counts };
                group.accounts.push((id, state));
            }
        }
        group.next_subscription = self.next_subscription;
        group.next_scheduled = self.next_scheduled;
        self.group_number += 1;
        self.closed.push_back(group);
    }

    /// Whether something waits to be written, and whether it waits for nobody's sake.
    pub(crate) fn demand(&self) -> Demand {
        if !self.closed.is_empty() || self.gathering.urgent {
            Demand::Now
        } else if self.gathering.is_empty() {
            Demand::None
        } else {
            Demand::CanRide
        }
    }

    /// The next group to be written, in the order of sequencing; `None` where there is none.
    pub(crate) fn take_group(&mut self) -> Option<Group> {
        if self.closed.is_empty() && !self.gathering.is_empty() {
            self.close_group();
        }
        self.closed.pop_front()
    }

    /// A group became durable: what it wrote is read from the disk from now on.
    pub(crate) fn synced(
        &mut self,
        txn: TxnNumber,
        bytes: usize,
        growth: &StateGrowth,
        state_sizes: Vec<(Arc<str>, StateSize)>,
    ) {
        self.state_sizes.settle(growth, state_sizes);
        self.state.forget(txn);
        self.retries.forget(txn);
        self.held.forget(txn);
        self.unsynced_bytes -= bytes;
    }

    /// Refuses everything from now on, and gives up what was not yet taken.
    pub(crate) fn stop(&mut self) -> Vec<Group> {
        self.stopped = true;
        let mut groups: Vec<Group> = take(&mut self.closed).into();
        groups.push(take(&mut self.gathering));
        groups
    }

    /// Refuses everything from now on; what is sequenced is still to be written.
    pub(crate) fn refuse(&mut self) {
        self.stopped = true;
    }

    /// Keeps the writes that come after now, for validation. Answers what to give to [`Self::unpin`].
    pub(crate) fn pin(&mut self) -> TxnNumber {
        self.recent_writes.pin(self.last_txn);
        self.last_txn
    }

    pub(crate) fn unpin(&mut self, at: TxnNumber) {
        self.recent_writes.unpin(at);
    }

    /// The last transaction that was sequenced.
    pub(crate) fn last_txn(&self) -> TxnNumber {
        self.last_txn
    }

    /// How far back names are known, in milliseconds, and how many duplicates came since the start.
    pub(crate) fn dedupe_figures(&self) -> (Millis, u64) {
        (self.dedupe.window_ms(), self.dedupe.duplicates())
    }

    pub(crate) fn unsynced_bytes(&self) -> usize {
        self.unsynced_bytes
    }

    /// A state key's value where it is sequenced and not yet synced: `Some(None)` is a removal.
    pub(crate) fn state(&self, consumer: &str, key: &str) -> Option<Option<Bytes>> {
        self.state.get(consumer, key)
    }

    /// The entries of a scan that are sequenced and not yet synced, removals included, up to the one
    /// that fills `limit`.
    pub(crate) fn state_range(
        &self,
        consumer: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<(Arc<str>, Option<Bytes>)> {
        self.state.range(consumer, prefix, after, limit)
    }

    /// A retry row that is sequenced and not yet synced: `Some(None)` where it is removed.
    pub(crate) fn retry(&self, subscription: SubscriptionId, offset: Offset) -> Option<Option<Arc<RetryRow>>> {
        if !self.accounts.contains_key(&subscription) {
            return Some(None);
        }
        self.retries.get(&(subscription, offset))
    }

    /// A held row that is sequenced and not yet synced: `Some(None)` where it is removed.
    pub(crate) fn held(&self, at: &HeldAt) -> Option<Option<Arc<HeldRow>>> {
        if !self.accounts.contains_key(&at.subscription) {
            return Some(None);
        }
        self.held.get(at)
    }
}

/// What the writer has to do, in ascending urgency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Demand {
    None,
    /// Settlements only: they may wait for company.
    CanRide,
    Now,
}

/// Bytes that a transaction occupies until it is synced, closely enough for bounds.
fn txn_bytes(txn: &Txn) -> usize {
    let released = txn.releases.iter().filter_map(|release| match release {
        Release::Due(scheduled) => Some(&scheduled.event),
        Release::Cancelled(_) => None,
    });
    let appends: usize = txn.appends.iter().chain(released).map(|event| event.bytes() + size_of::<Message>()).sum();
    let writes: usize =
        txn.writes.iter().map(|write| TXN_BYTES + write.key.len() + write.value.as_ref().map_or(0, Bytes::len)).sum();
    let settlements: usize = txn.settlements.iter().map(settlement_bytes).sum();
    TXN_BYTES + appends + writes + settlements
}

fn settlement_bytes(settlement: &Settlement) -> usize {
    let history = |history: &crate::outcome::History| {
        history.attempts.iter().map(|attempt| TXN_BYTES + attempt.text.len()).sum::<usize>()
    };
    let retries = settlement.retries.iter().map(|(_, row)| row.as_ref().map_or(0, |row| history(&row.history)));
    let dead = settlement.dead.iter().map(|(_, row)| row.as_ref().map_or(0, |row| row.bytes()));
    let events = settlement.events.iter().map(|event| event.bytes() + size_of::<Message>());
    let held = settlement.held.iter().map(|(_, row)| row.as_ref().map_or(0, |row| 8 * row.offsets.len()));
    let rows = settlement.retries.len() + settlement.dead.len() + settlement.held.len() + settlement.parks.len();
    TXN_BYTES * rows + retries.sum::<usize>() + dead.sum::<usize>() + held.sum::<usize>() + events.sum::<usize>()
}

#[cfg(test)]
mod histories;
#[cfg(test)]
mod tests;
