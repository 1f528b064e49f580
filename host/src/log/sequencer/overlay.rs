//! What is sequenced and not yet synced, as later reads must see it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::TxnNumber;

/// Rows by key. A removed row stands here as `None` until its removal is synced.
pub(super) struct Rows<K, V> {
    rows: HashMap<K, (TxnNumber, Option<Arc<V>>)>,
    /// Which key was put by which transaction, in order; older than in `rows` where it was put again.
    order: VecDeque<(TxnNumber, K)>,
}

impl<K, V> Default for Rows<K, V> {
    fn default() -> Self {
        Self { rows: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Copy + Eq + Hash, V> Rows<K, V> {
    pub(super) fn put(&mut self, txn: TxnNumber, key: K, row: Option<Arc<V>>) {
        self.rows.insert(key, (txn, row));
        self.order.push_back((txn, key));
    }

    pub(super) fn get(&self, key: &K) -> Option<Option<Arc<V>>> {
        self.rows.get(key).map(|(_, row)| row.clone())
    }

    /// Forgets what transactions up to `synced` put, unless it was put again since.
    pub(super) fn forget(&mut self, synced: TxnNumber) {
        while self.order.front().is_some_and(|(txn, _)| *txn <= synced) {
            let (_, key) = self.order.pop_front().expect("there is a front");
            if self.rows.get(&key).is_some_and(|(txn, _)| *txn <= synced) {
                self.rows.remove(&key);
            }
        }
    }
}

/// Each with the transaction that wrote it last.
type Keys = BTreeMap<Arc<str>, (TxnNumber, Option<Bytes>)>;

/// State by consumer and key, ordered by key so that scans can be merged with it.
#[derive(Default)]
pub(super) struct StateOverlay {
    consumers: HashMap<Arc<str>, Keys>,
    order: VecDeque<(TxnNumber, Arc<str>, Arc<str>)>,
}

impl StateOverlay {
    pub(super) fn put(&mut self, txn: TxnNumber, consumer: &Arc<str>, key: &Arc<str>, value: Option<Bytes>) {
        self.consumers.entry(consumer.clone()).or_default().insert(key.clone(), (txn, value));
        self.order.push_back((txn, consumer.clone(), key.clone()));
    }

    pub(super) fn get(&self, consumer: &str, key: &str) -> Option<Option<Bytes>> {
        self.consumers.get(consumer)?.get(key).map(|(_, value)| value.clone())
    }

    pub(super) fn range(
        &self,
        consumer: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<(Arc<str>, Option<Bytes>)> {
        let mut found = Vec::new();
        let mut present = 0;
        let Some(keys) = self.consumers.get(consumer) else { return found };
        for (key, (_, value)) in keys.range::<str, _>((scan_start(prefix, after), Bound::Unbounded)) {
            if present == limit || !key.starts_with(prefix) {
                break;
            }
            present += usize::from(value.is_some());
            found.push((key.clone(), value.clone()));
        }
        found
    }

    pub(super) fn forget(&mut self, synced: TxnNumber) {
        while self.order.front().is_some_and(|(txn, ..)| *txn <= synced) {
            let (_, consumer, key) = self.order.pop_front().expect("there is a front");
            let Some(keys) = self.consumers.get_mut(&consumer) else { continue };
            if keys.get(&key).is_some_and(|(txn, _)| *txn <= synced) {
                keys.remove(&key);
            }
            if keys.is_empty() {
                self.consumers.remove(&consumer);
            }
        }
    }
}

/// Where a scan of `prefix` begins that goes on after a key.
pub(super) fn scan_start<'a>(prefix: &'a str, after: Option<&'a str>) -> Bound<&'a str> {
    match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    }
}
