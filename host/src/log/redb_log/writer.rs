//! The writer: one thread that owns the write transaction.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::{Durability, ReadableDatabase, ReadableTable, WriteTransaction};

use super::encoding::put_number;
use super::queue::Wake;
use super::removing::write_removals;
use super::tables::{
    ACCOUNTS, BLOCKS, CHECKSUM_BYTES, DEAD, HELD, META, META_NEXT_SCHEDULED, META_NEXT_SUBSCRIPTION, PARKED, PLUGINS,
    RETRIES, SCHEDULED, SCHEDULED_NUMBERS, STATE, STATE_SIZES, SUBSCRIPTIONS, TOPIC_BLOCKS, TOPICS, Table, held_key,
    message_key, offset_key, scheduled_key, scheduled_number_key, state_key, subscription_key, topic_block_key,
    topic_key,
};
use super::{Inner, block, rows};
use crate::log::sequencer::{Group, SubscriptionChange};
use crate::log::{Listener, LogFailure, StateSize, SubscriptionId};

/// How often the free space is looked at while nothing is written.
const IDLE: Duration = Duration::from_secs(1);

/// What the states of consumers hold that a group wrote.
type ExactSizes = Vec<(Arc<str>, StateSize)>;

pub(super) struct Writer {
    inner: Arc<Inner>,
    listener: Arc<dyn Listener>,
}

impl Writer {
    pub(super) fn new(inner: Arc<Inner>, listener: Arc<dyn Listener>) -> Self {
        Self { inner, listener }
    }

    /// Runs until the log ends or fails.
    pub(super) fn run(self) {
        let _guard = PanicGuard(&self);
        loop {
            match self.inner.queue.next(IDLE) {
                Wake::Group(group) => {
                    let begun = Instant::now();
                    let state_sizes = match self.write(&group) {
                        Ok(Some(state_sizes)) => {
                            self.inner.meter.group(&group, begun.elapsed());
                            state_sizes
                        }
                        Ok(None) => Vec::new(),
                        Err(error) => {
                            // Nobody is told before the waiters of this group are gone too.
                            drop(group);
                            return self.fail(&error.to_string());
                        }
                    };
                    self.publish(*group, state_sizes);
                    self.inner.space.look();
                }
                Wake::Idle => {
                    if self.inner.disk.is_broken() {
                        return self.fail("a read failed");
                    }
                    self.inner.space.look();
                }
                Wake::End(unwritten) => return drop(unwritten),
            }
        }
    }

    fn fail(&self, error: &str) {
        // No more is sequenced before anybody can learn of it.
        let unwritten = self.inner.queue.stop();
        let failure = self.inner.disk.judge(error);
        drop(unwritten);
        if matches!(failure, LogFailure::Full { .. }) {
            self.inner.space.give_up_reserve();
        }
        tracing::error!("the log stops: {failure}");
        self.listener.failed(failure);
    }

    /// Shows a durable group to readers, then to those who wait for it.
    fn publish(&self, group: Group, state_sizes: ExactSizes) {
        let Group { last, messages, topics, removals, waiters, bytes, scheduled, released, state_growth, .. } = group;
        drop(self.inner.visible.show(&messages, topics, &removals));
        // Before anybody is answered: an operator's command that comes next meets nothing that is gone.
        removals.iter().for_each(|removal| self.inner.blocks.forget(&removal.ranges));
        // Only now may the overlay forget: readers who no longer find it there look at the disk.
        self.inner.queue.synced(last, bytes, &state_growth, state_sizes);
        for waiter in waiters {
            // One who no longer waits is not to be told.
            let _ = waiter.send(());
        }
        self.listener.synced(last, &messages);
        if !(scheduled.is_empty() && released.is_empty()) {
            self.listener.rescheduled();
        }
    }

    /// Writes and syncs a group. Answers what the consumers' states hold that it wrote; `None` where there was
    /// nothing to write.
    fn write(&self, group: &Group) -> Result<Option<ExactSizes>, redb::Error> {
        if group.writes_nothing() {
            return Ok(None);
        }
        let mut write = self.inner.database.begin_write()?;
        write.set_durability(Durability::Immediate).expect("no savepoint forbids it");
        // First, for it is about messages of earlier groups.
        write_removals(&write, &group.removals)?;
        write_messages(&write, group)?;
        write_schedule(&write, group)?;
        write_rows(&write, group)?;
        let state_sizes = write_state(&write, group)?;
        write_subscriptions(&write, group)?;
        write.commit()?;
        self.inner.disk.committed();
        self.inner.snapshot.store(Arc::new(self.inner.database.begin_read()?));
        Ok(Some(state_sizes))
    }
}

/// Ends the service if the writer panics: nobody else would ever answer those who wait.
struct PanicGuard<'a>(&'a Writer);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("the writer panicked");
        }
    }
}

/// Puts and removes sealed values in one table.
pub(super) struct Sheet<'a> {
    table: &'static Table,
    pub(super) rows: redb::Table<'a, &'static [u8], &'static [u8]>,
    /// Reused, so that a row costs no allocation.
    stored: Vec<u8>,
}

impl<'a> Sheet<'a> {
    pub(super) fn open(write: &'a WriteTransaction, table: &'static Table) -> Result<Self, redb::Error> {
        Ok(Self { table, rows: write.open_table(table.definition)?, stored: Vec::new() })
    }

    pub(super) fn put(&mut self, key: &[u8], encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), redb::Error> {
        self.stored.clear();
        self.stored.resize(CHECKSUM_BYTES, 0);
        encode(&mut self.stored);
        self.table.seal(key, &mut self.stored);
        self.rows.insert(key, &*self.stored)?;
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), redb::Error> {
        self.rows.remove(key).map(drop).map_err(Into::into)
    }

    /// The same, answering how long the value was that was there before.
    fn replace(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<Option<usize>, redb::Error> {
        let before = match value {
            Some(value) => {
                self.stored.clear();
                self.stored.resize(CHECKSUM_BYTES, 0);
                self.stored.extend_from_slice(value);
                self.table.seal(key, &mut self.stored);
                self.rows.insert(key, &*self.stored)?
            }
            None => self.rows.remove(key)?,
        };
        Ok(before.map(|stored| stored.value().len().saturating_sub(CHECKSUM_BYTES)))
    }

    pub(super) fn put_or_remove<T>(
        &mut self,
        key: &[u8],
        row: Option<&T>,
        encode: impl FnOnce(&mut Vec<u8>, &T),
    ) -> Result<(), redb::Error> {
        match row {
            Some(row) => self.put(key, |out| encode(out, row)),
            None => self.remove(key),
        }
    }

    /// Removes all rows whose keys begin with a subscription's id.
    fn remove_all(&mut self, id: SubscriptionId) -> Result<(), redb::Error> {
        let first = subscription_key(id);
        let next = id.0.checked_add(1).map(|next| subscription_key(SubscriptionId(next)));
        let end = next.as_ref().map_or(Bound::Unbounded, |next| Bound::Excluded(&next[..]));
        self.rows.retain_in::<&[u8], _>((Bound::Included(&first[..]), end), |_, _| false)?;
        Ok(())
    }
}

fn write_messages(write: &WriteTransaction, group: &Group) -> Result<(), redb::Error> {
    if group.topics.is_empty() {
        return Ok(());
    }
    let mut topics = Sheet::open(write, &TOPICS)?;
    for topic in &group.topics {
        topics.put(&topic_key(topic.id), |out| rows::put_topic(out, topic))?;
    }
    if group.messages.is_empty() {
        return Ok(());
    }
    let mut blocks = write.open_table(BLOCKS.definition)?;
    let mut index = Sheet::open(write, &TOPIC_BLOCKS)?;
    for mut packed in block::pack(&group.messages) {
        let key = offset_key(packed.first);
        BLOCKS.seal(&key, &mut packed.stored);
        blocks.insert(&key[..], &*packed.stored)?;
        // In the order of keys, neighbours share a page.
        packed.topics.sort_unstable_by_key(|(topic, _)| *topic);
        for (topic, entry) in &packed.topics {
            let key = topic_block_key(*topic, packed.first);
            index.put(&key, |out| rows::put_topic_block(out, packed.first, entry))?;
        }
    }
    Ok(())
}

fn write_schedule(write: &WriteTransaction, group: &Group) -> Result<(), redb::Error> {
    if group.scheduled.is_empty() && group.released.is_empty() {
        return Ok(());
    }
    let mut rows = Sheet::open(write, &SCHEDULED)?;
    let mut numbers = Sheet::open(write, &SCHEDULED_NUMBERS)?;
    for scheduled in &group.scheduled {
        rows.put(&scheduled_key(scheduled.at), |out| rows::put_scheduled(out, scheduled))?;
        numbers.put(&scheduled_number_key(scheduled.at.number), |out| put_number(out, scheduled.at.due_ms))?;
    }
    for &at in &group.released {
        rows.remove(&scheduled_key(at))?;
        numbers.remove(&scheduled_number_key(at.number))?;
    }
    Sheet::open(write, &META)?.put(META_NEXT_SCHEDULED, |out| put_number(out, group.next_scheduled))
}

fn write_rows(write: &WriteTransaction, group: &Group) -> Result<(), redb::Error> {
    if !group.accounts.is_empty() {
        let mut accounts = Sheet::open(write, &ACCOUNTS)?;
        for (id, account) in &group.accounts {
            accounts.put(&subscription_key(*id), |out| rows::put_account(out, &account.position, &account.counts))?;
        }
    }
    if !group.retries.is_empty() {
        let mut retries = Sheet::open(write, &RETRIES)?;
        for ((id, offset), row) in &group.retries {
            retries.put_or_remove(&message_key(*id, *offset), row.as_deref(), rows::put_retry)?;
        }
    }
    if !group.held.is_empty() {
        let mut held = Sheet::open(write, &HELD)?;
        for (at, row) in &group.held {
            held.put_or_remove(&held_key(*at), row.as_deref(), rows::put_held)?;
        }
    }
    if !group.dead.is_empty() {
        let mut dead = Sheet::open(write, &DEAD)?;
        for ((id, offset), row) in &group.dead {
            dead.put_or_remove(&message_key(*id, *offset), row.as_deref(), rows::put_dead)?;
        }
    }
    if !group.parks.is_empty() {
        let mut parked = Sheet::open(write, &PARKED)?;
        for ((id, offset), parks) in &group.parks {
            parked.put_or_remove(&message_key(*id, *offset), parks.as_ref(), rows::put_parked)?;
        }
    }
    if !group.plugins.is_empty() {
        let mut plugins = Sheet::open(write, &PLUGINS)?;
        for (stem, record) in &group.plugins {
            plugins.put_or_remove(stem.as_bytes(), record.as_ref(), rows::put_plugin)?;
        }
    }
    Ok(())
}

/// Writes state, and counts what each consumer's then holds.
fn write_state(write: &WriteTransaction, group: &Group) -> Result<ExactSizes, redb::Error> {
    let mut sizes: HashMap<Arc<str>, StateSize> = HashMap::new();
    if group.state.is_empty() {
        return Ok(Vec::new());
    }
    let mut state = Sheet::open(write, &STATE)?;
    let mut stored_sizes = Sheet::open(write, &STATE_SIZES)?;
    for ((consumer, key), value) in &group.state {
        let size = match sizes.get_mut(consumer) {
            Some(size) => size,
            None => sizes.entry(consumer.clone()).or_insert(stored_size(&stored_sizes, consumer)?),
        };
        if let Some(bytes) = state.replace(&state_key(consumer, key), value.as_deref())? {
            size.entries = size.entries.saturating_sub(1);
            size.bytes = size.bytes.saturating_sub((key.len() + bytes) as u64);
        }
        if let Some(value) = value {
            size.entries += 1;
            size.bytes += (key.len() + value.len()) as u64;
        }
    }
    for (consumer, size) in &sizes {
        let row = Some(size).filter(|size| size.entries > 0);
        stored_sizes.put_or_remove(consumer.as_bytes(), row, rows::put_state_size)?;
    }
    Ok(sizes.into_iter().collect())
}

fn stored_size(sizes: &Sheet<'_>, consumer: &str) -> Result<StateSize, redb::Error> {
    let key = consumer.as_bytes();
    let Some(stored) = sizes.rows.get(key)? else { return Ok(StateSize::default()) };
    let size = STATE_SIZES.verify(key, stored.value()).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
    rows::state_size(size).map_err(|error| redb::Error::Corrupted(STATE_SIZES.damaged(key, error.0).to_string()))
}

/// After the rows, so that nothing stays behind of a subscription that the group also removes.
fn write_subscriptions(write: &WriteTransaction, group: &Group) -> Result<(), redb::Error> {
    if group.subscriptions.is_empty() {
        return Ok(());
    }
    Sheet::open(write, &META)?
        .put(META_NEXT_SUBSCRIPTION, |out| put_number(out, u64::from(group.next_subscription)))?;
    for (id, change) in &group.subscriptions {
        match change {
            SubscriptionChange::Put { name, record } => Sheet::open(write, &SUBSCRIPTIONS)?
                .put(&subscription_key(*id), |out| rows::put_subscription(out, name, record))?,
            SubscriptionChange::Seek { name, record } => {
                for table in [&RETRIES, &HELD] {
                    Sheet::open(write, table)?.remove_all(*id)?;
                }
                Sheet::open(write, &SUBSCRIPTIONS)?
                    .put(&subscription_key(*id), |out| rows::put_subscription(out, name, record))?;
            }
            SubscriptionChange::Remove => remove_subscription(write, *id)?,
        }
    }
    Ok(())
}

fn remove_subscription(write: &WriteTransaction, id: SubscriptionId) -> Result<(), redb::Error> {
    for table in [&SUBSCRIPTIONS, &ACCOUNTS, &RETRIES, &HELD, &DEAD, &PARKED] {
        Sheet::open(write, table)?.remove_all(id)?;
    }
    Ok(())
}
