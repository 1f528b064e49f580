//! What each consumer's state holds, and whether it may hold more.
//!
//! The writer counts exactly, from the values that it replaces, and keeps the figures in a table. What is
//! sequenced and not yet synced is added here: a write grows its consumer's state by its size less that of
//! the value it replaces, if that is known. It is where the value is not synced yet either, or where a bound
//! is near enough to matter, for then whoever commits looks at the disk first. Elsewhere a replaced value
//! counts twice until its sync.
//!
//! The figures are nobody's read: a call does not conflict with another one because both of them write.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::group::StateGrowth;
use super::overlay::StateOverlay;
use super::{CommitError, StateSize, StateWrite};

/// Bytes that states may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateBounds {
    /// Of one consumer.
    pub consumer_bytes_max: u64,
    /// Of all consumers together.
    pub total_bytes_max: u64,
}

pub(super) struct StateSizes {
    bounds: StateBounds,
    /// Within this much of a bound, the sizes of replaced values are wanted.
    near_bytes: u64,
    /// As of the last sync.
    synced: BTreeMap<Arc<str>, StateSize>,
    /// What came since, by consumer.
    growth: HashMap<Arc<str>, i64>,
    total: u64,
    total_growth: i64,
}

impl StateSizes {
    pub(super) fn new(bounds: StateBounds, near_bytes: u64, recovered: Vec<(String, StateSize)>) -> Self {
        let total = recovered.iter().map(|(_, size)| size.bytes).sum();
        let synced = recovered.into_iter().map(|(consumer, size)| (consumer.into(), size)).collect();
        Self { bounds, near_bytes, synced, growth: HashMap::new(), total, total_growth: 0 }
    }

    pub(super) fn synced(&self) -> Vec<(String, StateSize)> {
        self.synced.iter().map(|(consumer, size)| (consumer.to_string(), *size)).collect()
    }

    /// Bytes of a consumer's state, and of all, with what is sequenced.
    fn held(&self, consumer: &str) -> (u64, u64) {
        let bytes = self.synced.get(consumer).map_or(0, |size| size.bytes);
        let growth = self.growth.get(consumer).copied().unwrap_or(0);
        (bytes.saturating_add_signed(growth), self.total.saturating_add_signed(self.total_growth))
    }

    /// Bytes that a consumer's state may take on for sure.
    pub(super) fn room(&self, consumer: &str) -> u64 {
        let (own, all) = self.held(consumer);
        let left = |held: u64, bytes_max: u64| bytes_max.saturating_sub(held);
        left(own, self.bounds.consumer_bytes_max).min(left(all, self.bounds.total_bytes_max))
    }

    /// Whether the sizes of the values that writes replace are wanted.
    pub(super) fn is_near(&self, writes: &[StateWrite]) -> bool {
        writes.iter().any(|write| self.room(&write.consumer) < self.near_bytes)
    }

    /// Refuses writes by which a state would grow past a bound. One that is past it already, because the bound
    /// was lowered, may still shrink and be rewritten.
    pub(super) fn check(
        &self,
        writes: &[StateWrite],
        replaced: Option<&[u64]>,
        overlay: &StateOverlay,
    ) -> Result<(), CommitError> {
        let mut growth: HashMap<&str, i64> = HashMap::new();
        for (index, write) in writes.iter().enumerate() {
            let by = grows_by(write, replaced.map(|replaced| replaced[index]), overlay);
            *growth.entry(&write.consumer).or_default() += by;
        }
        let all_grow_by: i64 = growth.values().sum();
        for (consumer, by) in growth {
            let (own, all) = self.held(consumer);
            let is_past = |held: u64, by: i64, bytes_max| by > 0 && held.saturating_add_signed(by) > bytes_max;
            let full = |bytes, bytes_max, whole| CommitError::StateFull {
                consumer: consumer.to_owned(),
                bytes,
                bytes_max,
                whole,
            };
            if is_past(own, by, self.bounds.consumer_bytes_max) {
                return Err(full(own, self.bounds.consumer_bytes_max, false));
            }
            if is_past(all, all_grow_by, self.bounds.total_bytes_max) {
                return Err(full(all, self.bounds.total_bytes_max, true));
            }
        }
        Ok(())
    }

    /// Counts a write that is being sequenced, before the overlay has it.
    pub(super) fn count(
        &mut self,
        write: &StateWrite,
        replaced: Option<u64>,
        overlay: &StateOverlay,
        group: &mut StateGrowth,
    ) {
        let by = grows_by(write, replaced, overlay);
        *self.growth.entry(write.consumer.clone()).or_default() += by;
        *group.entry(write.consumer.clone()).or_default() += by;
        self.total_growth += by;
    }

    /// A group became durable: what it added is in the exact figures now.
    pub(super) fn settle(&mut self, group: &StateGrowth, exact: Vec<(Arc<str>, StateSize)>) {
        for (consumer, by) in group {
            self.total_growth -= by;
            // It may have been forgotten at zero, while groups were left that change nothing.
            let growth = self.growth.entry(consumer.clone()).or_default();
            *growth -= by;
            if *growth == 0 {
                self.growth.remove(consumer);
            }
        }
        for (consumer, size) in exact {
            let before =
                if size.entries == 0 { self.synced.remove(&consumer) } else { self.synced.insert(consumer, size) };
            self.total = self.total - before.map_or(0, |before| before.bytes) + size.bytes;
        }
    }
}

/// By how many bytes a write makes a state grow, as far as is known.
fn grows_by(write: &StateWrite, replaced: Option<u64>, overlay: &StateOverlay) -> i64 {
    let size = |value: &bytes::Bytes| (write.key.len() + value.len()) as i64;
    let before = match overlay.get(&write.consumer, &write.key) {
        Some(value) => value.as_ref().map_or(0, size),
        None => i64::try_from(replaced.unwrap_or(0)).unwrap_or(i64::MAX),
    };
    write.value.as_ref().map_or(0, size) - before
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn write(consumer: &str, key: &str, bytes: Option<usize>) -> StateWrite {
        StateWrite {
            consumer: consumer.into(),
            key: key.to_owned(),
            value: bytes.map(|bytes| Bytes::from(vec![0; bytes])),
        }
    }

    fn sizes(consumer_bytes_max: u64, total_bytes_max: u64, held: &[(&str, u64)]) -> StateSizes {
        let recovered = held.iter().map(|(name, bytes)| ((*name).to_owned(), StateSize { entries: 1, bytes: *bytes }));
        StateSizes::new(StateBounds { consumer_bytes_max, total_bytes_max }, 100, recovered.collect())
    }

    #[test]
    fn a_state_is_full_by_its_own_bound_or_by_that_of_all() {
        let overlay = StateOverlay::default();
        let sizes = sizes(100, 150, &[("a", 90), ("b", 50)]);
        let check = |consumer, bytes| sizes.check(&[write(consumer, "k", Some(bytes))], None, &overlay);
        assert!(check("a", 9).is_ok());
        assert!(matches!(check("a", 10), Err(CommitError::StateFull { bytes: 90, bytes_max: 100, whole: false, .. })));
        assert!(matches!(check("b", 10), Err(CommitError::StateFull { bytes: 140, bytes_max: 150, whole: true, .. })));
        // What it replaces makes room, and what is removed always does.
        assert!(sizes.check(&[write("a", "k", Some(40))], Some(&[50]), &overlay).is_ok());
        assert!(sizes.check(&[write("a", "k", None)], None, &overlay).is_ok());
        assert_eq!((sizes.room("a"), sizes.room("c")), (10, 10));
    }

    #[test]
    fn a_state_past_its_bound_may_shrink_and_be_rewritten_but_not_grow() {
        let overlay = StateOverlay::default();
        let sizes = sizes(100, 1_000, &[("a", 400)]);
        assert!(sizes.is_near(&[write("a", "k", None)]));
        assert!(sizes.check(&[write("a", "k", Some(20))], Some(&[21]), &overlay).is_ok());
        assert!(sizes.check(&[write("a", "k", Some(21))], Some(&[21]), &overlay).is_err());
    }

    proptest! {
        /// Whatever is written, and whenever it is synced: past the last sync the figures are those of the entries, and
        /// before it they are never too low.
        #[test]
        fn what_is_counted_is_what_is_there(
            steps in prop::collection::vec((0..2usize, 0..4usize, prop::option::of(0..50usize), any::<bool>()), 1..80),
        ) {
            let mut sizes = sizes(1 << 40, 1 << 40, &[]);
            let mut overlay = StateOverlay::default();
            let mut there: BTreeMap<(usize, usize), usize> = BTreeMap::new();
            let mut durable = there.clone();
            let mut group = StateGrowth::default();
            let held = |there: &BTreeMap<(usize, usize), usize>, consumer: usize| {
                let entries = there.range((consumer, 0)..(consumer + 1, 0));
                entries.map(|((_, _), bytes)| 2 + *bytes as u64).sum::<u64>()
            };
            for (txn, (consumer, key, value, sync)) in (1..).zip(steps) {
                let one = write(["a", "b"][consumer], ["k0", "k1", "k2", "k3"][key], value);
                let replaced = durable.get(&(consumer, key)).map_or(0, |bytes| 2 + *bytes as u64);
                sizes.count(&one, Some(replaced), &overlay, &mut group);
                overlay.put(txn, &one.consumer, &Arc::from(one.key.as_str()), one.value.clone());
                match value {
                    Some(bytes) => drop(there.insert((consumer, key), bytes)),
                    None => drop(there.remove(&(consumer, key))),
                }
                prop_assert_eq!(sizes.held(&one.consumer).0, held(&there, consumer));
                prop_assert_eq!(sizes.held(&one.consumer).1, held(&there, 0) + held(&there, 1));
                if sync {
                    let exact = [0, 1].map(|consumer| {
                        let entries = there.range((consumer, 0)..(consumer + 1, 0)).count() as u64;
                        (Arc::from(["a", "b"][consumer]), StateSize { entries, bytes: held(&there, consumer) })
                    });
                    sizes.settle(&std::mem::take(&mut group), exact.to_vec());
                    overlay.forget(txn);
                    durable = there.clone();
                    prop_assert!(sizes.growth.is_empty() && sizes.total_growth == 0);
                }
            }
        }
    }
}
