//! The sequencer: decides the place and the validity of every transaction. A state machine without IO,
//! clock or threads.
//!
//! It assigns transaction numbers, offsets, sequences and ids; holds what is sequenced and not yet
//! synced, so that later reads see it; and gathers the next group for the writer. A refused transaction
//! changes nothing: everything is checked first, and then applied without a way to fail.

mod apply;
mod checks;
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
    CommitError, Counts, HeldAt, HeldRow, PluginRecord, Release, Removal, RetryRow, Sequenced, Settlement, StateSize,
    StateWrite, SubscriptionId, SubscriptionRecord, SyncWaiter, TopicCap, TopicInfo, Txn, TxnNumber,
};
use crate::message::{Message, Millis, Offset, SharedMessage, TopicId};
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
