//! The promise, as one naive map of message to state. It knows what the driver did and saw, and nothing
//! of how a dispatcher works.

mod calls;
mod commands;
mod conservation;
mod state;
mod streak;
mod told;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

pub(super) use calls::Terms;
use state::{FRESH, Hand, Met, Past, Seen, State, Taken};
use streak::Streak;
use told::Told;

use crate::log::Selection;
use crate::message::{Millis, Offset, SharedMessage};
use crate::policy::Order;

use super::journal::{Entry, takes};

/// A lane as the promise sees it: what an order keeps together, for as long as that order held.
type Lane<'a> = (u32, &'a str);

#[derive(Default)]
pub(super) struct Auditor {
    steps: u64,
    /// Every synced message, by its offset.
    messages: Vec<Seen>,
    /// The state of every matched message by all that is sequenced; one that is not here is pending.
    now: BTreeMap<Offset, State>,
    /// The same by what is synced, and what lies between.
    synced: BTreeMap<Offset, State>,
    unsynced: VecDeque<(Entry, Offset, State)>,
    /// Selections, each from an offset on, with the entry that recorded it.
    selections: Vec<(Offset, Entry, Selection)>,
    reselected_at: u64,
    orders: Vec<Order>,
    read_to: usize,
    taken: BTreeMap<Offset, Taken>,
    redriven: BTreeMap<Offset, u64>,
    /// Where the last seek led; the end of all offsets where there was none.
    sought: Offset,
    /// What came of messages before a seek had them met again.
    past: Past,
    /// Messages that a seek made matched ones.
    rematched: BTreeSet<Offset>,
    /// When each message died last, in steps.
    died: BTreeMap<Offset, u64>,
    /// Conflicts of each message; a crash forgets some of them.
    conflicts: BTreeMap<Offset, u32>,
    streak: Streak,
    told: Told,
}

impl Auditor {
    /// `told` is how many events of the bus's own there are already.
    pub(super) fn new(selection: Selection, order: Order, told: usize) -> Self {
        let selections = vec![(0, 0, selection)];
        let told = Told::after(told);
        Self { selections, orders: vec![order], sought: Offset::MAX, told, ..Self::default() }
    }

    /// Looks at a message under the selections that there were.
    fn see(&self, message: SharedMessage, met: Met) -> Seen {
        let in_force = self.selections.iter().rev().find(|(from, _, _)| *from <= message.offset);
        let (_, _, last) = self.selections.last().expect("there is a first one");
        let matched = takes(&in_force.expect("the first one begins at 0").2, &message);
        let matched = matched || self.rematched.contains(&message.offset);
        Seen { matched, leaving: !takes(last, &message), message, met }
    }

    fn see_anew(&mut self) {
        let seen = std::mem::take(&mut self.messages);
        self.messages = seen.into_iter().map(|seen| self.see(seen.message, seen.met)).collect();
    }

    fn state(&self, offset: Offset) -> State {
        self.now.get(&offset).copied().unwrap_or(FRESH)
    }

    fn set(&mut self, entry: Entry, offset: Offset, state: State) {
        self.now.insert(offset, state);
        self.unsynced.push_back((entry, offset, state));
    }

    fn lane<'a>(&self, seen: &'a Seen) -> Option<Lane<'a>> {
        let Met::Under(order) = seen.met else { return None };
        let event = &seen.message.event;
        let name = match self.orders[order as usize] {
            Order::Key => event.key.as_deref()?,
            Order::Topic => event.topic.as_str(),
            Order::None => return None,
        };
        Some((order, name))
    }

    pub(super) fn message_synced(&mut self, message: &SharedMessage) {
        self.messages.push(self.see(message.clone(), Met::NotYet));
    }

    pub(super) fn synced(&mut self, entry: Entry) {
        while let Some((_, offset, state)) = self.unsynced.pop_front_if(|(at, _, _)| *at <= entry) {
            self.synced.insert(offset, state);
        }
    }

    pub(super) fn reselected(&mut self, from: Offset, entry: Entry, selection: Selection) {
        self.steps += 1;
        self.reselected_at = self.steps;
        self.selections.push((from, entry, selection));
        self.see_anew();
    }

    /// Messages that are read from now on are met under this order.
    pub(super) fn reordered(&mut self, order: Order) {
        if self.orders.last() != Some(&order) {
            self.orders.push(order);
        }
    }

    fn order_now(&self) -> u32 {
        u32::try_from(self.orders.len() - 1).unwrap()
    }

    /// Everything before the cursor was read.
    pub(super) fn read_to(&mut self, cursor: Offset) {
        let order = self.order_now();
        while (self.read_to as Offset) < cursor && self.read_to < self.messages.len() {
            let met = &mut self.messages[self.read_to].met;
            if *met == Met::NotYet {
                *met = Met::Under(order);
            }
            self.read_to += 1;
        }
    }

    pub(super) fn crashed(&mut self, entry: Entry, passed: impl Fn(Offset) -> bool) {
        self.steps += 1;
        self.unsynced.clear();
        self.now = self.synced.clone();
        self.told.crashed(entry);
        self.selections.retain(|(_, at, _)| *at <= entry);
        self.reselected_at = self.steps;
        self.taken.clear();
        // What was not passed is met again.
        self.read_to = 0;
        let order = self.order_now();
        for seen in self.messages.iter_mut().filter(|seen| !passed(seen.message.offset)) {
            let same = [Met::NotYet, Met::Under(order)].contains(&seen.met);
            seen.met = if same { Met::NotYet } else { Met::UnderTwo };
        }
        self.see_anew();
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps
    }
}

fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap()
}
