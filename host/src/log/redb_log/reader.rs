//! Reading rows and state: what is sequenced first, then the disk.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use redb::ReadTransaction;

use super::encoding::Malformed;
use super::tables::{
    DEAD, HELD, PARKED, PLUGINS, RETRIES, STATE, Table, held_key, message_key, parse_held_key, parse_number_pair,
    state_key, subscription_key,
};
use super::{Inner, rows};
use crate::log::{
    DeadLetter, HeldAt, HeldRow, Loaded, LoadedSubscription, ReadError, RetryRow, StateEntries, SubscriptionId,
    TxnNumber,
};
use crate::message::Offset;

/// What an error of redb means for a read of `table`.
pub(super) fn storage_error(table: &'static Table) -> impl Fn(redb::Error) -> ReadError + Copy {
    |error| match error {
        redb::Error::Corrupted(what) => ReadError::Damaged { table: table.name, what },
        error => ReadError::Io { error: error.to_string() },
    }
}

/// Shows every verified row of a range.
pub(super) fn for_each<'k>(
    read: &ReadTransaction,
    table: &'static Table,
    range: impl RangeBounds<&'k [u8]> + 'k,
    mut show: impl FnMut(&[u8], &[u8]) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    each_until(read, table, range, |key, value| show(key, value).map(|()| true))
}

/// Shows verified rows of a range until one is answered with `false`.
pub(super) fn each_until<'k>(
    read: &ReadTransaction,
    table: &'static Table,
    range: impl RangeBounds<&'k [u8]> + 'k,
    mut show: impl FnMut(&[u8], &[u8]) -> Result<bool, ReadError>,
) -> Result<(), ReadError> {
    let failed = storage_error(table);
    let opened = read.open_table(table.definition).map_err(|error| failed(error.into()))?;
    for row in opened.range::<&[u8]>(range).map_err(|error| failed(error.into()))? {
        let (key, stored) = row.map_err(|error| failed(error.into()))?;
        let value = table.verify(key.value(), stored.value())?;
        if !show(key.value(), value)? {
            break;
        }
    }
    Ok(())
}

impl Inner {
    /// What is on the disk. What was synced before is seen.
    pub(super) fn snapshot(&self) -> Arc<ReadTransaction> {
        self.snapshot.load_full()
    }

    /// Has the writer look at the disk where a read failed because of it.
    pub(super) fn noted<T>(&self, result: Result<T, ReadError>) -> Result<T, ReadError> {
        if matches!(result, Err(ReadError::Io { .. })) && self.disk.is_broken() {
            self.queue.alarm();
        }
        result
    }

    fn row<T>(
        &self,
        table: &'static Table,
        key: &[u8],
        decode: impl FnOnce(&[u8]) -> Result<T, Malformed>,
    ) -> Result<Option<T>, ReadError> {
        let read = self.snapshot();
        let failed = storage_error(table);
        let stored = self.noted(
            read.open_table(table.definition)
                .map_err(|error| failed(error.into()))
                .and_then(|opened| opened.get(key).map_err(|error| failed(error.into()))),
        )?;
        let Some(stored) = stored else { return Ok(None) };
        let value = table.verify(key, stored.value())?;
        decode(value).map(Some).map_err(|error| table.damaged(key, error.0))
    }

    pub(super) fn retry(
        &self,
        subscription: SubscriptionId,
        offset: Offset,
    ) -> Result<Option<Arc<RetryRow>>, ReadError> {
        if let Some(row) = self.queue.with(|sequencer| sequencer.retry(subscription, offset)) {
            return Ok(row);
        }
        Ok(self.row(&RETRIES, &message_key(subscription, offset), rows::retry)?.map(Arc::new))
    }

    pub(super) fn held(&self, at: HeldAt) -> Result<Option<Arc<HeldRow>>, ReadError> {
        if let Some(row) = self.queue.with(|sequencer| sequencer.held(&at)) {
            return Ok(row);
        }
        Ok(self.row(&HELD, &held_key(at), rows::held)?.map(Arc::new))
    }

    pub(super) fn dead_letter(
        &self,
        subscription: SubscriptionId,
        offset: Offset,
    ) -> Result<Option<DeadLetter>, ReadError> {
        let row = self.row(&DEAD, &message_key(subscription, offset), rows::dead)?;
        Ok(row.map(|row| DeadLetter { subscription, offset, row: Arc::new(row) }))
    }

    pub(super) fn dead_letters(
        &self,
        subscription: Option<SubscriptionId>,
        after: Option<(SubscriptionId, Offset)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ReadError> {
        let mut found = Vec::new();
        if limit == 0 {
            return Ok(found);
        }
        let first = subscription.map_or_else(Vec::new, |id| subscription_key(id).to_vec());
        let after = after.map(|(id, offset)| message_key(id, offset).to_vec());
        let start = match &after {
            Some(after) if *after >= first => Bound::Excluded(&**after),
            _ => Bound::Included(&*first),
        };
        let read = self.snapshot();
        self.noted(each_until(&read, &DEAD, (start, Bound::Unbounded), |key, value| {
            let (id, offset) = parse_number_pair(key).ok_or_else(|| DEAD.damaged(key, "its key is none"))?;
            if subscription.is_some_and(|wanted| wanted.0 != id) {
                return Ok(false);
            }
            let row = rows::dead(value).map_err(|error| DEAD.damaged(key, error.0))?;
            found.push(DeadLetter { subscription: SubscriptionId(id), offset, row: Arc::new(row) });
            Ok(found.len() < limit)
        }))?;
        Ok(found)
    }

    pub(super) fn state_get(&self, consumer: &str, key: &str) -> Result<(Option<Bytes>, TxnNumber), ReadError> {
        let (sequenced, seen) = self.queue.with(|sequencer| (sequencer.state(consumer, key), sequencer.last_txn()));
        let value = match sequenced {
            Some(value) => value,
            None => self.row(&STATE, &state_key(consumer, key), |value| Ok(Bytes::copy_from_slice(value)))?,
        };
        Ok((value, seen))
    }

    pub(super) fn state_scan(
        &self,
        consumer: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<StateEntries, ReadError> {
        let (sequenced, seen) =
            self.queue.with(|sequencer| (sequencer.state_range(consumer, prefix, after, limit), sequencer.last_txn()));
        let mut entries = Vec::new();
        let mut sequenced = sequenced.into_iter().peekable();
        let owner = state_key(consumer, "").len();
        let first = state_key(consumer, prefix);
        let past = after.filter(|after| *after >= prefix).map(|after| state_key(consumer, after));
        let start = past.as_deref().map_or(Bound::Included(&*first), Bound::Excluded);
        let read = self.snapshot();
        self.noted(each_until(&read, &STATE, (start, Bound::Unbounded), |stored_key, value| {
            if !stored_key.starts_with(&first) || entries.len() >= limit {
                return Ok(false);
            }
            let key = std::str::from_utf8(&stored_key[owner..])
                .map_err(|_| STATE.damaged(stored_key, "its key is not UTF-8"))?;
            // What is sequenced comes between, and replaces what is stored.
            let mut replaced = false;
            while let Some((new, value)) = sequenced.next_if(|(new, _)| **new <= *key) {
                replaced |= *new == *key;
                if let Some(value) = value.filter(|_| entries.len() < limit) {
                    entries.push((new.to_string(), value));
                }
            }
            if !replaced && entries.len() < limit {
                entries.push((key.to_owned(), Bytes::copy_from_slice(value)));
            }
            Ok(entries.len() < limit)
        }))?;
        let rest = sequenced.filter_map(|(key, value)| Some((key.to_string(), value?)));
        entries.extend(rest.take(limit.saturating_sub(entries.len())));
        Ok(StateEntries { entries, seen })
    }

    pub(super) fn load(&self) -> Result<Loaded, ReadError> {
        let read = self.snapshot();
        self.noted(load(&read, None))
    }

    pub(super) fn load_subscription(&self, id: SubscriptionId) -> Result<Option<LoadedSubscription>, ReadError> {
        let read = self.snapshot();
        Ok(self.noted(load(&read, Some(id)))?.subscriptions.pop())
    }
}

/// Of all subscriptions, or of one and nothing else.
fn load(read: &ReadTransaction, only: Option<SubscriptionId>) -> Result<Loaded, ReadError> {
    let mut loaded = Loaded::default();
    let first = only.map(subscription_key);
    let next = only.and_then(|id| id.0.checked_add(1)).map(|next| subscription_key(SubscriptionId(next)));
    let range = (
        first.as_ref().map_or(Bound::Unbounded, |key| Bound::Included(&key[..])),
        next.as_ref().map_or(Bound::Unbounded, |key| Bound::Excluded(&key[..])),
    );
    for (id, name, record, position, counts) in super::open::subscriptions(read)? {
        if only.is_some_and(|only| only != id) {
            continue;
        }
        let (retries, held, parks) = (Vec::new(), Vec::new(), Vec::new());
        let one = LoadedSubscription { id, name, record, position, counts, retries, held, parks };
        loaded.subscriptions.push(one);
    }
    let place = |loaded: &Loaded, table: &Table, key: &[u8], id: SubscriptionId| {
        loaded
            .subscriptions
            .binary_search_by_key(&id, |subscription| subscription.id)
            .map_err(|_| table.damaged(key, "its subscription is not there"))
    };
    for_each(read, &RETRIES, range, |key, value| {
        let (id, offset) = parse_number_pair(key).ok_or_else(|| RETRIES.damaged(key, "its key is none"))?;
        let index = place(&loaded, &RETRIES, key, SubscriptionId(id))?;
        let row = rows::loaded_retry(offset, value).map_err(|error| RETRIES.damaged(key, error.0))?;
        loaded.subscriptions[index].retries.push(row);
        Ok(())
    })?;
    for_each(read, &HELD, range, |key, value| {
        let at = parse_held_key(key).ok_or_else(|| HELD.damaged(key, "its key is none"))?;
        let index = place(&loaded, &HELD, key, at.subscription)?;
        let row = rows::held(value).map_err(|error| HELD.damaged(key, error.0))?;
        let waiting = row.offsets.len() as u32 - row.front;
        loaded.subscriptions[index].held.push((at, waiting, row.accepted_ms));
        Ok(())
    })?;
    for_each(read, &PARKED, range, |key, value| {
        let (id, offset) = parse_number_pair(key).ok_or_else(|| PARKED.damaged(key, "its key is none"))?;
        let index = place(&loaded, &PARKED, key, SubscriptionId(id))?;
        let parks = rows::parked(value).map_err(|error| PARKED.damaged(key, error.0))?;
        loaded.subscriptions[index].parks.push((offset, parks));
        Ok(())
    })?;
    if only.is_some() {
        return Ok(loaded);
    }
    for_each(read, &PLUGINS, .., |key, value| {
        let stem = std::str::from_utf8(key).map_err(|_| PLUGINS.damaged(key, "its key is not UTF-8"))?;
        let record = rows::plugin(value).map_err(|error| PLUGINS.damaged(key, error.0))?;
        loaded.plugins.push((stem.to_owned(), record));
        Ok(())
    })?;
    Ok(loaded)
}
