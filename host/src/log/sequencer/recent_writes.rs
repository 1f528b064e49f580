//! Recent writes of state, by which the reads of running calls are validated.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::TxnNumber;
use super::overlay::scan_start;
use crate::log::{StateRange, StateRead};

/// The last write of each key since the oldest pin. Removals count as writes.
#[derive(Default)]
pub(super) struct RecentWrites {
    consumers: HashMap<Arc<str>, BTreeMap<Arc<str>, TxnNumber>>,
    /// Writes in order. Where a key was written again, the older entry is left behind until it is
    /// pruned or [`Self::compact`] drops it.
    order: VecDeque<(TxnNumber, Arc<str>, Arc<str>)>,
    keys: usize,
    /// How many calls are pinned to which transaction.
    pins: BTreeMap<TxnNumber, usize>,
}

impl RecentWrites {
    pub(super) fn record(&mut self, txn: TxnNumber, consumer: &Arc<str>, key: &Arc<str>) {
        if self.pins.is_empty() {
            return;
        }
        let keys = self.consumers.entry(consumer.clone()).or_default();
        let before = keys.insert(key.clone(), txn);
        if before == Some(txn) {
            return;
        }
        self.keys += usize::from(before.is_none());
        self.order.push_back((txn, consumer.clone(), key.clone()));
        // A counter that is written all day while one call runs must not fill the memory.
        if self.order.len() > 2 * self.keys + 64 {
            self.compact();
        }
    }

    pub(super) fn changed_since(&self, read: &StateRead) -> bool {
        let Some(keys) = self.consumers.get(&read.consumer) else { return false };
        match &read.range {
            StateRange::Key(key) => keys.get(key.as_str()).is_some_and(|txn| *txn > read.seen),
            StateRange::Scan { prefix, after, through } => keys
                .range::<str, _>((scan_start(prefix, after.as_deref()), Bound::Unbounded))
                .take_while(|(key, _)| key.starts_with(prefix.as_str()))
                .take_while(|(key, _)| through.as_deref().is_none_or(|through| ***key <= *through))
                .any(|(_, txn)| *txn > read.seen),
        }
    }

    pub(super) fn pin(&mut self, at: TxnNumber) {
        *self.pins.entry(at).or_default() += 1;
    }

    pub(super) fn unpin(&mut self, at: TxnNumber) {
        let count = self.pins.get_mut(&at).expect("a pin is given up once");
        *count -= 1;
        if *count == 0 {
            self.pins.remove(&at);
            self.prune();
        }
    }

    /// Forgets what nobody can have missed: calls pinned at a transaction read at it or later.
    fn prune(&mut self) {
        let Some((&oldest, _)) = self.pins.first_key_value() else {
            self.consumers.clear();
            self.order.clear();
            self.keys = 0;
            return;
        };
        while self.order.front().is_some_and(|(txn, ..)| *txn <= oldest) {
            let (_, consumer, key) = self.order.pop_front().expect("there is a front");
            let Some(keys) = self.consumers.get_mut(&consumer) else { continue };
            if keys.get(&key).is_some_and(|txn| *txn <= oldest) {
                keys.remove(&key);
                self.keys -= 1;
            }
            if keys.is_empty() {
                self.consumers.remove(&consumer);
            }
        }
    }

    fn compact(&mut self) {
        let consumers = &self.consumers;
        self.order.retain(|(txn, consumer, key)| {
            consumers.get(consumer).and_then(|keys| keys.get(key)).is_some_and(|last| last == txn)
        });
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.order.len() + self.keys
    }
}
