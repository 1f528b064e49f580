//! Dead letters that hold something back until they are redriven or dropped: their key, or all of the
//! subscription.
//!
//! A parked lane runs nothing, and what comes to it goes to held rows. A parked subscription hands out
//! nothing. Once it is parked no more, the messages that parked it come first: they **lead**, and all else
//! waits until they are settled.

use std::collections::{BTreeMap, BTreeSet};

use crate::log::{KeyHash, Parks, Settlement};
use crate::message::{Millis, Offset};
use crate::outcome::DeadReason;
use crate::policy::OnExhausted;

use super::item::Item;
use super::lane::Lane;
use super::{Dispatcher, Ready};

/// What dead letters hold back.
#[derive(Default)]
pub(super) struct Parking {
    letters: BTreeMap<Offset, Parks>,
    /// Those of `letters` that park the subscription.
    of_all: BTreeSet<Offset>,
    /// Messages in retry that parked the subscription when they were dead.
    leading: BTreeSet<Offset>,
}

impl Parking {
    /// Whether nothing may be handed out.
    pub(super) fn is_shut(&self) -> bool {
        !self.of_all.is_empty()
    }

    /// Whether nothing may be handed out, or only what leads.
    pub(super) fn holds_back(&self) -> bool {
        self.is_shut() || !self.leading.is_empty()
    }

    pub(super) fn lead(&mut self, offset: Offset) {
        self.leading.insert(offset);
    }

    /// A message is no longer in retry.
    pub(super) fn leads_no_more(&mut self, offset: Offset) {
        self.leading.remove(&offset);
    }

    /// What everything waits for: the letters that park the subscription, or else what leads; then the
    /// letters that park a key.
    pub(super) fn holders(&self) -> impl Iterator<Item = Offset> {
        let leading = self.leading.iter().filter(|_| !self.is_shut());
        let of_keys = self.letters.iter().filter(|(_, parks)| **parks != Parks::Subscription).map(|(offset, _)| offset);
        self.of_all.iter().chain(leading).chain(of_keys).copied()
    }
}

impl Dispatcher {
    /// Whether a dead letter holds back the whole subscription.
    pub fn is_parked(&self) -> bool {
        self.parking.is_shut()
    }

    /// What a message that dies holds back.
    pub(super) fn parks(&self, reason: DeadReason, lane: Option<KeyHash>) -> Option<Parks> {
        match (self.policy.retry.on_exhausted, lane) {
            _ if reason == DeadReason::Expired => None,
            (OnExhausted::ParkKey, Some(key)) => Some(Parks::Key(key)),
            (OnExhausted::Park, _) => Some(Parks::Subscription),
            (OnExhausted::DeadLetter, _) | (OnExhausted::ParkKey, None) => None,
        }
    }

    /// A dead letter holds something back from now on.
    pub(super) fn park(&mut self, offset: Offset, parks: Parks, settlement: &mut Settlement) {
        self.parking.letters.insert(offset, parks);
        match parks {
            Parks::Subscription => drop(self.parking.of_all.insert(offset)),
            Parks::Key(key) => {
                let lane = self.lanes.open(key);
                lane.parked.insert(offset);
                lane.loaded.clear();
                for front in lane.fronts.clone() {
                    self.retries.give_up_turn(front);
                }
                self.spill(key, settlement);
            }
        }
    }

    /// A dead letter holds nothing back any more. Answers what it held back; a key's lane is to be woken.
    pub(super) fn unpark(&mut self, offset: Offset, settlement: &mut Settlement) -> Option<Parks> {
        let parks = self.parking.letters.remove(&offset)?;
        settlement.parks.push((offset, None));
        match parks {
            Parks::Subscription => drop(self.parking.of_all.remove(&offset)),
            Parks::Key(key) => drop(self.lanes.get(key).parked.remove(&offset)),
        }
        Some(parks)
    }

    /// The policy holds nothing back any more: everything goes on past the dead letters.
    pub(super) fn unpark_all(&mut self, settlement: &mut Settlement) {
        self.parking.leading.clear();
        let letters: Vec<Offset> = self.parking.letters.keys().copied().collect();
        for offset in letters {
            if let Some(Parks::Key(key)) = self.unpark(offset, settlement) {
                self.wake_lane(key);
            }
        }
    }

    /// Whether a message of a lane leads. Those in retry before it come before it.
    fn lane_leads(&self, key: KeyHash) -> bool {
        self.lanes.peek(key).is_some_and(|lane| lane.fronts.iter().any(|front| self.parking.leading.contains(front)))
    }

    fn entry_leads(&self, entry: &Ready) -> bool {
        match entry {
            Ready::Lane(key) => self.lane_leads(*key),
            Ready::Loose(item) => self.parking.leading.contains(&item.message.offset),
        }
    }

    /// Whether one of the ready things may run.
    pub(super) fn may_lead(&self, entry: &Ready) -> bool {
        !self.parking.is_shut() && (self.parking.leading.is_empty() || self.entry_leads(entry))
    }

    /// How many of the ready things may run.
    pub(super) fn ready_to_run(&self) -> usize {
        if self.parking.is_shut() {
            0
        } else if self.parking.leading.is_empty() {
            self.ready.len()
        } else {
            self.ready.iter().filter(|entry| self.entry_leads(entry)).count()
        }
    }

    /// The messages in retry whose turn it is among those that lead.
    fn leading_turns(&self) -> Vec<Offset> {
        if self.parking.is_shut() {
            return Vec::new();
        }
        let turn = |offset: &Offset| match self.retries.lane(*offset) {
            None => Some(*offset),
            Some(key) => self.lanes.first_front_of_idle(key),
        };
        let mut turns: Vec<_> = self.parking.leading.iter().filter_map(turn).collect();
        turns.sort_unstable();
        turns.dedup();
        turns
    }

    /// Those of them that wait for their time, and when that is.
    pub(super) fn leading_due(&self) -> Vec<(Millis, Offset)> {
        let due = |offset| Some((self.retries.due_ms(offset)?, offset));
        self.leading_turns().into_iter().filter_map(due).collect()
    }

    /// Pending messages in parked lanes.
    pub(super) fn parked_in_lanes(&self) -> u64 {
        self.lanes.iter().map(|(_, lane)| lane.parked_messages()).sum()
    }

    /// How many of what leads can run or is being read.
    pub(super) fn leading_runnable(&self) -> u64 {
        if self.parking.is_shut() {
            return 0;
        }
        // A lane stands among the ready ones also while the message that leads it is still being read.
        let can_run = |entry: &&Ready| match entry {
            Ready::Lane(key) => self.lanes.peek(*key).is_some_and(Lane::can_run),
            Ready::Loose(_) => true,
        };
        let ready = self.ready.iter().filter(|entry| self.entry_leads(entry)).filter(can_run).count();
        let loading = self.leading_turns().into_iter().filter(|offset| self.retries.is_loading(*offset));
        (ready + loading.count()) as u64
    }
}

/// Whether a message parked its subscription, so that all else waits until it is settled.
pub(super) fn leads(item: &Item) -> bool {
    item.redrive().is_some_and(|redrive| redrive.leads())
}
