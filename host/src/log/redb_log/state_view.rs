//! The state as people read it: what is synced, as of one moment.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use redb::ReadTransaction;

use super::tables::{STATE, state_key};
use super::{Inner, reader};
use crate::log::{CommitError, ReadError, StateView, StateWrite};

/// One snapshot. While it is held, what is freed in the file is not used again.
pub(super) struct Snapshot(Arc<ReadTransaction>);

impl StateView for Snapshot {
    fn get(&self, consumer: &str, key: &str) -> Result<Option<Bytes>, ReadError> {
        let key = state_key(consumer, key);
        let mut found = None;
        reader::for_each(&self.0, &STATE, &key[..]..=&key[..], |_, value| {
            found = Some(Bytes::copy_from_slice(value));
            Ok(())
        })?;
        Ok(found)
    }

    fn page(
        &self,
        consumer: &str,
        prefix: &str,
        after: Option<&str>,
        entries_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<(String, Bytes)>, ReadError> {
        let owner = state_key(consumer, "").len();
        let first = state_key(consumer, prefix);
        let past = after.filter(|after| *after >= prefix).map(|after| state_key(consumer, after));
        let start = past.as_deref().map_or(Bound::Included(&*first), Bound::Excluded);
        let (mut entries, mut bytes) = (Vec::new(), 0);
        if entries_max == 0 {
            return Ok(entries);
        }
        reader::each_until(&self.0, &STATE, (start, Bound::Unbounded), |stored_key, value| {
            if !stored_key.starts_with(&first) {
                return Ok(false);
            }
            let key = std::str::from_utf8(&stored_key[owner..])
                .map_err(|_| STATE.damaged(stored_key, "its key is not UTF-8"))?;
            bytes += key.len() + value.len();
            entries.push((key.to_owned(), Bytes::copy_from_slice(value)));
            Ok(entries.len() < entries_max && bytes < bytes_max)
        })?;
        Ok(entries)
    }
}

impl Inner {
    pub(super) fn state_view(&self) -> Box<dyn StateView> {
        Box::new(Snapshot(self.snapshot()))
    }

    pub(super) fn check_state(&self, writes: &[StateWrite]) -> Result<(), CommitError> {
        let replaced = self.replaced(writes);
        self.queue.with(|sequencer| sequencer.check_state(writes, replaced.as_deref()))
    }

    /// The sizes of the synced values that writes replace, where a bound is near.
    pub(super) fn replaced(&self, writes: &[StateWrite]) -> Option<Vec<u64>> {
        if writes.is_empty() || !self.queue.with(|sequencer| sequencer.is_state_near(writes)) {
            return None;
        }
        let view = Snapshot(self.snapshot());
        let size = |write: &StateWrite| match view.get(&write.consumer, &write.key) {
            Ok(value) => value.map_or(0, |value| (write.key.len() + value.len()) as u64),
            // Who reads it is told; for the bound it counts as nothing.
            Err(_) => 0,
        };
        Some(writes.iter().map(size).collect())
    }
}
