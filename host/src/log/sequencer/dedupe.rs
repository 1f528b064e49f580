//! Which events came before: by topic, source and id, for a while.
//!
//! Only events whose producers named them are here, because an id that the bus made never comes twice. The
//! window is bounded in time and in number, whichever is less; what is known is rebuilt at the start from
//! the newest messages and the schedule.

use std::collections::{HashMap, VecDeque};

use xxhash_rust::xxh3::Xxh3;

use crate::log::Place;
use crate::message::{Event, Millis};

/// How long an event is known, and how many are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DedupeBounds {
    /// 0 where nothing is a duplicate.
    pub window_ms: Millis,
    pub names_max: usize,
}

/// A hash of topic, source and id. At 128 bits, no two events of a window share one by chance; who would make
/// them share one on purpose can as well publish under the other's source and id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NameHash(u128);

impl NameHash {
    pub(crate) fn new(topic: &str, source: &str, id: &str) -> Self {
        let mut hash = Xxh3::new();
        for text in [topic, source, id] {
            // With its length, so that no two triples are the same bytes.
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        Self(hash.digest128())
    }

    pub(super) fn of(event: &Event) -> Self {
        Self::new(event.topic.as_str(), &event.source, &event.id)
    }
}

/// An event that came, as it is rebuilt from the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub hash: NameHash,
    pub place: Place,
    pub accepted_ms: Millis,
}

pub(super) struct Dedupe {
    bounds: DedupeBounds,
    places: HashMap<NameHash, (Place, Millis)>,
    /// In the order of acceptance. One that was recorded again or forgotten is left behind here.
    order: VecDeque<(NameHash, Millis)>,
    /// The acceptance of the newest one that had to go before its time.
    crowded_out_ms: Option<Millis>,
    now_ms: Millis,
    duplicates: u64,
}

impl Dedupe {
    pub(super) fn new(bounds: DedupeBounds, mut known: Vec<Known>) -> Self {
        let mut dedupe = Self {
            bounds,
            places: HashMap::new(),
            order: VecDeque::new(),
            crowded_out_ms: None,
            now_ms: 0,
            duplicates: 0,
        };
        known.sort_by_key(|known| known.accepted_ms);
        for Known { hash, place, accepted_ms } in known {
            dedupe.record(hash, place, accepted_ms);
        }
        dedupe
    }

    pub(super) fn is_on(&self) -> bool {
        self.bounds.window_ms > 0
    }

    /// Where an event of this name stands, if one came within the window. Counted as a duplicate.
    pub(super) fn find(&mut self, hash: NameHash, now_ms: Millis) -> Option<Place> {
        let (place, accepted_ms) = *self.places.get(&hash)?;
        if accepted_ms.saturating_add(self.bounds.window_ms) <= now_ms {
            return None;
        }
        self.duplicates += 1;
        Some(place)
    }

    pub(super) fn record(&mut self, hash: NameHash, place: Place, now_ms: Millis) {
        self.now_ms = self.now_ms.max(now_ms);
        while let Some(&(oldest, accepted_ms)) = self.order.front() {
            let over = accepted_ms.saturating_add(self.bounds.window_ms) <= now_ms;
            let crowded = self.order.len() >= self.bounds.names_max;
            if !over && !crowded {
                break;
            }
            self.order.pop_front();
            if self.places.get(&oldest).is_some_and(|(_, at)| *at == accepted_ms) {
                self.places.remove(&oldest);
                if !over {
                    self.crowded_out_ms = Some(accepted_ms);
                }
            }
        }
        self.places.insert(hash, (place, now_ms));
        self.order.push_back((hash, now_ms));
    }

    /// Its message is gone, so the next event of this name is a new one.
    pub(super) fn forget(&mut self, hash: NameHash) {
        self.places.remove(&hash);
    }

    /// How far back names are known now, in milliseconds.
    pub(super) fn window_ms(&self) -> Millis {
        let crowded = self.crowded_out_ms.map(|crowded_ms| self.now_ms.saturating_sub(crowded_ms));
        crowded.map_or(self.bounds.window_ms, |crowded| crowded.min(self.bounds.window_ms))
    }

    pub(super) fn duplicates(&self) -> u64 {
        self.duplicates
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn at(offset: u64) -> Place {
        Place::Message { offset, sequence: offset + 1 }
    }

    #[test]
    fn names_are_told_apart_by_each_of_their_parts() {
        let names = [("a", "b", "c"), ("ab", "", "c"), ("a", "bc", ""), ("a", "b", "cc"), ("b", "a", "c")];
        let hashes: std::collections::HashSet<_> =
            names.iter().map(|(topic, source, id)| NameHash::new(topic, source, id)).collect();
        assert_eq!(hashes.len(), names.len());
    }

    #[test]
    fn what_is_crowded_out_shortens_the_window_that_is_told() {
        let mut dedupe = Dedupe::new(DedupeBounds { window_ms: 1_000, names_max: 2 }, Vec::new());
        assert_eq!(dedupe.window_ms(), 1_000);
        for number in 0..4 {
            dedupe.record(NameHash(number), at(0), 100 + 10 * number as u64);
        }
        assert_eq!(dedupe.window_ms(), 20, "the second of four, accepted at 110, is gone at 130");
        assert_eq!(dedupe.find(NameHash(1), 130), None);
        assert_eq!(dedupe.find(NameHash(2), 130), Some(at(0)));
    }

    #[test]
    fn a_name_that_is_forgotten_is_new_again() {
        let mut dedupe = Dedupe::new(DedupeBounds { window_ms: 1_000, names_max: 9 }, Vec::new());
        dedupe.record(NameHash(7), at(1), 5);
        dedupe.forget(NameHash(7));
        assert_eq!(dedupe.find(NameHash(7), 6), None);
        dedupe.record(NameHash(7), at(2), 6);
        // What was left behind of the first one does not take the second along.
        dedupe.record(NameHash(8), at(3), 1_005);
        assert_eq!(dedupe.find(NameHash(7), 1_005), Some(at(2)));
    }

    proptest! {
        /// Against a map of everything that ever came, with a window and a number that hold both.
        #[test]
        fn a_duplicate_is_one_within_the_window(
            names_max in 1..20usize, events in prop::collection::vec((0..12u128, 0..40u64), 1..200),
        ) {
            let window_ms = 100;
            let mut dedupe = Dedupe::new(DedupeBounds { window_ms, names_max }, Vec::new());
            // Of each name its last place, its time, and how many were recorded before it.
            let mut last: HashMap<u128, (u64, u64, usize)> = HashMap::new();
            let (mut now_ms, mut recorded) = (0, 0);
            for (offset, (name, forward)) in (0..).zip(events) {
                now_ms += forward;
                let within = last.get(&name).copied().filter(|(_, ms, before)| {
                    ms + window_ms > now_ms && recorded - before <= names_max
                });
                let expected = within.map(|(first, ..)| at(first));
                prop_assert_eq!(dedupe.find(NameHash(name), now_ms), expected);
                if expected.is_none() {
                    dedupe.record(NameHash(name), at(offset), now_ms);
                    last.insert(name, (offset, now_ms, recorded));
                    recorded += 1;
                }
                prop_assert!(dedupe.order.len() <= names_max && dedupe.places.len() <= dedupe.order.len());
            }
        }
    }
}
