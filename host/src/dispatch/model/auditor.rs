//! The promise, as one naive map of message to state. It knows what the driver did and saw, and nothing
//! of how a dispatcher works.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::dispatch::{Finished, Refund};
use crate::log::{Counts, KeyHash, Parks, Selection};
use crate::message::{Millis, Offset, SharedMessage};
use crate::outcome::{DeadReason, Outcome};
use crate::policy::{OnExhausted, Order, Policy};
use crate::settle::Decision;

use super::journal::{Entry, takes};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// With the attempts charged to it since it was first offered or last redriven, and the time before
    /// which it asked not to be tried again.
    Pending {
        charged: Charges,
        /// Failures that were not charged, `unavailable` ones aside.
        reruns: u32,
        not_before_ms: Millis,
        /// Whether a call of it ended ever.
        attempted: bool,
        /// Whether it was a dead letter, and whether it parked the subscription then.
        redriven: bool,
        leads: bool,
        /// What its dead letter held back.
        was: Option<Parks>,
    },
    /// With what it holds back.
    Dead {
        parks: Option<Parks>,
    },
    Acked,
    /// Its time was over before it was ever attempted.
    Expired,
    /// A dead letter that an operator dropped.
    Dropped,
}

const FRESH: State = State::Pending {
    charged: Charges { versions: [0; 8], count: 0 },
    reruns: 0,
    not_before_ms: 0,
    attempted: false,
    redriven: false,
    leads: false,
    was: None,
};

/// Charged attempts, oldest first, by the version that ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Charges {
    versions: [u8; 8],
    count: usize,
}

impl Charges {
    fn with(mut self, version: u8) -> Self {
        self.versions[self.count] = version;
        self.count += 1;
        self
    }

    fn without(self, version: u8) -> Self {
        let left = self.versions[..self.count].iter().filter(|one| **one != version);
        left.fold(Self { versions: [0; 8], count: 0 }, |charges, one| charges.with(*one))
    }

    fn without_newest(mut self, count: u32) -> Self {
        self.count = self.count.saturating_sub(count as usize);
        self
    }
}

/// What decides what follows from a call.
pub(super) struct Terms<'a> {
    pub(super) policy: &'a Policy,
    pub(super) uncharged_reruns_max: u32,
    pub(super) breaker_closed: bool,
    pub(super) now_ms: Millis,
}

/// Where a message that was handed out stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hand {
    Waiting,
    Calling,
    /// Acked, and not recorded yet.
    Acked,
}

#[derive(Clone, Copy, Debug)]
struct Taken {
    hand: Hand,
    /// When it was handed out, in steps of this auditor.
    at: u64,
}

/// Under which order a message was met, by its index in the orders that there were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    NotYet,
    Under(u32),
    /// Under one first and under another one later, so that it may come out of turn.
    UnderTwo,
}

struct Seen {
    message: SharedMessage,
    /// Whether a filter of its time took it.
    matched: bool,
    /// Whether none of the filters of now takes it.
    leaving: bool,
    met: Met,
}

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
}

#[derive(Debug, Default)]
struct Past {
    acked: u64,
    expired: u64,
    dropped: u64,
    reopened: u64,
    /// Of messages whose topic was taken out and is taken again: they are matched twice.
    matched: u64,
    skipped: u64,
}

impl Past {
    fn add(&mut self, state: State) {
        match state {
            State::Acked => self.acked += 1,
            State::Expired => self.expired += 1,
            State::Dropped => self.dropped += 1,
            State::Pending { .. } | State::Dead { .. } => {}
        }
    }
}

impl Auditor {
    pub(super) fn new(selection: Selection, order: Order) -> Self {
        Self { selections: vec![(0, 0, selection)], orders: vec![order], sought: Offset::MAX, ..Self::default() }
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

    /// Whether a message that parked the subscription comes before all others now.
    pub(super) fn is_led(&self) -> bool {
        self.now.values().any(|state| matches!(state, State::Pending { was: Some(Parks::Subscription), .. }))
    }

    /// Nothing is handed out that a dead letter holds back.
    fn check_is_free(&self, offset: Offset, lane: Option<KeyHash>) {
        for (letter, state) in &self.now {
            match state {
                State::Dead { parks: Some(Parks::Subscription) } => {
                    panic!("{offset} is handed out, parked by {letter}")
                }
                State::Dead { parks: Some(Parks::Key(key)) } => {
                    assert_ne!(lane, Some(*key), "{offset} is handed out, its key parked by {letter}");
                }
                State::Pending { leads: true, .. } if !self.messages[*letter as usize].leaving => {
                    let State::Pending { leads, .. } = self.state(offset) else { panic!("{offset} is over") };
                    let before_it = lane.is_some() && offset < *letter;
                    assert!(leads || before_it, "{offset} is handed out before {letter}, which leads");
                }
                _ => {}
            }
        }
    }

    pub(super) fn was_taken(&mut self, offset: Offset, lane: Option<KeyHash>) {
        self.check_is_free(offset, lane);
        self.steps += 1;
        assert!(self.messages[offset as usize].matched, "{offset} was never matched");
        let State::Pending { .. } = self.state(offset) else { panic!("{offset} is {:?}", self.state(offset)) };
        let before = self.taken.insert(offset, Taken { hand: Hand::Waiting, at: self.steps });
        assert!(before.is_none(), "{offset} was taken twice at once");
    }

    pub(super) fn started(&mut self, offset: Offset, now_ms: Millis) {
        let seen = &self.messages[offset as usize];
        let taken_at = self.taken[&offset].at;
        let State::Pending { not_before_ms, redriven, .. } = self.state(offset) else { panic!("{offset} is over") };
        let expires_ms = seen.message.event.expires_ms();
        assert!(redriven || expires_ms.is_none_or(|ms| now_ms < ms), "{offset} begins at {now_ms}, {expires_ms:?}");
        assert!(now_ms >= not_before_ms, "{offset} begins at {now_ms}, and asked for {not_before_ms}");
        if seen.leaving {
            assert!(taken_at < self.reselected_at, "{offset} is offered after its topic was taken out");
        }
        if let Some(lane) = self.lane(seen) {
            let others = self.messages.iter().filter(|other| other.matched && self.lane(other) == Some(lane));
            for other in others {
                let at = other.message.offset;
                let hand = self.taken.get(&at).map(|taken| taken.hand);
                assert_ne!(hand, Some(Hand::Calling), "{at} and {offset} of {lane:?} at once");
                let waits = at < offset && matches!(self.state(at), State::Pending { .. }) && hand != Some(Hand::Acked);
                let redriven_later = self.redriven.get(&at).is_some_and(|redriven_at| *redriven_at > taken_at);
                // What is redriven comes before what waits, and so before what a seek has met again.
                let met_again = redriven && at >= self.sought;
                let excused = redriven_later || met_again || other.leaving;
                assert!(!waits || excused, "{offset} of {lane:?} begins before {at}");
            }
        }
        self.taken.get_mut(&offset).unwrap().hand = Hand::Calling;
    }

    pub(super) fn acked(&mut self, offset: Offset) {
        self.taken.get_mut(&offset).unwrap().hand = Hand::Acked;
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether it died before a step, and was dead ever since.
    pub(super) fn is_dead_since(&self, offset: Offset, step: u64) -> bool {
        matches!(self.state(offset), State::Dead { .. })
            && self.died.get(&offset).is_some_and(|died_at| *died_at <= step)
    }

    /// It has to run again.
    pub(super) fn conflicted(&mut self, offset: Offset) {
        *self.conflicts.entry(offset).or_default() += 1;
        self.returned(offset);
    }

    /// It was given back.
    pub(super) fn returned(&mut self, offset: Offset) {
        assert!(self.taken.remove(&offset).is_some(), "{offset} was not taken");
    }

    /// It was over before its call.
    pub(super) fn expired(&mut self, entry: Entry, offset: Offset, now_ms: Millis) {
        self.returned(offset);
        let State::Pending { attempted, redriven, .. } = self.state(offset) else { panic!("{offset} is over") };
        let expires_ms = self.messages[offset as usize].message.event.expires_ms();
        assert!(!redriven && expires_ms.is_some_and(|ms| ms <= now_ms), "{offset} is not over at {now_ms}");
        self.set(entry, offset, if attempted { State::Dead { parks: None } } else { State::Expired });
    }

    /// What a policy holds back that kills a message.
    fn parks(policy: &Policy, lane: Option<KeyHash>) -> Option<Parks> {
        match policy.retry.on_exhausted {
            OnExhausted::DeadLetter => None,
            OnExhausted::ParkKey => lane.map(Parks::Key),
            OnExhausted::Park => Some(Parks::Subscription),
        }
    }

    /// A policy is in force from now on.
    pub(super) fn configured(&mut self, entry: Entry, policy: &Policy) {
        if policy.retry.on_exhausted != OnExhausted::DeadLetter {
            return;
        }
        for (offset, state) in self.now.clone() {
            match state {
                State::Dead { parks: Some(_) } => self.set(entry, offset, State::Dead { parks: None }),
                State::Pending { charged, reruns, not_before_ms, attempted, redriven, leads: true, was } => {
                    let leads = false;
                    let state = State::Pending { charged, reruns, not_before_ms, attempted, redriven, leads, was };
                    self.set(entry, offset, state);
                }
                _ => {}
            }
        }
    }

    /// A call was recorded. What must follow from it is worked out here once more.
    pub(super) fn recorded(&mut self, entry: Entry, call: &Finished, rolled_back: bool, terms: &Terms<'_>) {
        let (offset, decision) = (call.item.message.offset, call.decision.unwrap());
        self.steps += 1;
        self.returned(offset);
        let before = self.state(offset);
        let State::Pending { charged, reruns, redriven, leads, was, .. } = before else { panic!("{offset} is over") };
        let dead = State::Dead { parks: Self::parks(terms.policy, call.item.lane) };
        if call.outcome == Outcome::Acked {
            assert_eq!(decision, Decision::Acked);
            return self.set(entry, offset, State::Acked);
        }
        let (fails, after) = match &call.outcome {
            Outcome::Unavailable { after, .. } => (false, *after),
            Outcome::TopicFull { .. } => (false, None),
            Outcome::Retry { after, .. } => (true, *after),
            _ => (true, None),
        };
        let not_before_ms = after.map_or(terms.now_ms, |after| terms.now_ms + millis(after));
        let held = |charges: bool, not_before_ms: Millis| {
            let Decision::Held { due_ms, charged } = decision else { panic!("{offset} is {decision:?}") };
            assert_eq!(charged, charges, "{offset} after {:?}", call.outcome);
            assert!(due_ms >= not_before_ms, "{offset} is due at {due_ms}, and asked for {not_before_ms}");
        };
        // Of conflicts this knows no less than the dispatcher, which forgets some; of failures as many.
        let conflicts = self.conflicts.get(&offset).copied().unwrap_or(0);
        let may_be_free = reruns < terms.uncharged_reruns_max;
        let must_be_free = reruns + conflicts < terms.uncharged_reruns_max;
        let is_free = matches!(decision, Decision::Held { charged: false, .. });
        let excused = rolled_back || (!terms.breaker_closed && call.outcome.is_failure());
        if fails && excused && (must_be_free || (may_be_free && is_free)) {
            let not_before_ms = if rolled_back { terms.now_ms } else { not_before_ms };
            held(false, not_before_ms);
            let reruns = reruns + 1;
            let state = State::Pending { charged, reruns, not_before_ms, attempted: true, redriven, leads, was };
            return self.set(entry, offset, state);
        }
        if let Outcome::Reject { .. } = call.outcome {
            assert_eq!(decision, Decision::Dead { reason: DeadReason::Rejected });
            return self.dies(entry, offset, dead);
        }
        if fails && charged.count as u32 + 1 >= terms.policy.retry.max_attempts {
            assert_eq!(
                decision,
                Decision::Dead { reason: DeadReason::AttemptsExhausted },
                "{offset} after {charged:?}"
            );
            return self.dies(entry, offset, dead);
        }
        held(fails, not_before_ms);
        let charged = if fails { charged.with(call.digest.0[0]) } else { charged };
        self.set(
            entry,
            offset,
            State::Pending { charged, reruns, not_before_ms, attempted: true, redriven, leads, was },
        );
    }

    fn dies(&mut self, entry: Entry, offset: Offset, dead: State) {
        self.died.insert(offset, self.steps);
        self.set(entry, offset, dead);
    }

    /// The subscription was moved. `returned` are the messages that were being redriven.
    pub(super) fn sought(
        &mut self,
        entry: Entry,
        target: Offset,
        selection: Selection,
        returned: impl Fn(Offset) -> bool,
        parks_now: bool,
    ) {
        self.steps += 1;
        self.reselected_at = self.steps;
        self.sought = target;
        self.taken.clear();
        self.read_to = 0;
        for index in 0..self.messages.len() {
            let seen = &self.messages[index];
            let (offset, matched, taken) = (seen.message.offset, seen.matched, !seen.leaving);
            let taken_after = takes(&selection, &seen.message);
            if offset >= target {
                self.messages[index].met = Met::NotYet;
            }
            let state = self.state(offset);
            match state {
                State::Pending { was, .. } if returned(offset) => {
                    self.set(entry, offset, State::Dead { parks: was.filter(|_| parks_now) });
                }
                State::Dead { .. } => {}
                State::Pending { .. } if offset < target && matched && taken => {
                    self.set(entry, offset, State::Dropped);
                }
                _ if offset < target || !taken_after => {}
                _ if !matched => drop(self.rematched.insert(offset)),
                state if taken => {
                    self.past.add(state);
                    self.past.reopened += u64::from(!matches!(state, State::Pending { .. }));
                    self.set(entry, offset, FRESH);
                }
                state => {
                    self.past.add(state);
                    self.past.matched += 1;
                    self.past.skipped += u64::from(matches!(state, State::Pending { .. }));
                    self.set(entry, offset, FRESH);
                }
            }
        }
        let end = self.messages.len() as Offset;
        self.selections.push((end, entry, selection));
        self.see_anew();
    }

    pub(super) fn redriven(&mut self, entry: Entry, offset: Offset) {
        self.steps += 1;
        let State::Dead { parks } = self.state(offset) else { panic!("{offset} is no dead letter") };
        self.redriven.insert(offset, self.steps);
        if self.messages[offset as usize].met != Met::Under(self.order_now()) {
            self.messages[offset as usize].met = Met::UnderTwo;
        }
        self.conflicts.remove(&offset);
        let leads = parks == Some(Parks::Subscription);
        let State::Pending { charged, reruns, .. } = FRESH else { unreachable!("what is fresh is pending") };
        let not_before_ms = 0;
        let fresh =
            State::Pending { charged, reruns, not_before_ms, attempted: true, redriven: true, leads, was: parks };
        self.set(entry, offset, fresh);
    }

    /// Attempts were taken back of what is pending.
    pub(super) fn refunded(&mut self, entry: Entry, refund: &Refund, now_ms: Millis) {
        let pending: Vec<_> = self.now.iter().map(|(offset, state)| (*offset, *state)).collect();
        for (offset, state) in pending {
            let State::Pending { charged, reruns, not_before_ms, attempted, redriven, leads, was } = state else {
                continue;
            };
            let (left, not_before_ms) = match refund {
                Refund::Streak(attempts) => {
                    (charged.without_newest(attempts.get(&offset).copied().unwrap_or(0)), not_before_ms)
                }
                // What is taken back of a version is due at once.
                Refund::Version(digest) => (charged.without(digest.0[0]), not_before_ms.min(now_ms)),
            };
            if left != charged {
                let charged = left;
                let state = State::Pending { charged, reruns, not_before_ms, attempted, redriven, leads, was };
                self.set(entry, offset, state);
            }
        }
    }

    pub(super) fn dropped(&mut self, entry: Entry, offset: Offset) {
        assert!(matches!(self.state(offset), State::Dead { .. }), "{offset} is no dead letter");
        self.set(entry, offset, State::Dropped);
    }

    /// Every matched message with its state, as a number of each; and how many of the pending ones are leaving.
    fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for seen in self.messages.iter().filter(|seen| seen.matched) {
            tally.matched += 1;
            match self.state(seen.message.offset) {
                State::Acked => tally.acked += 1,
                State::Dead { .. } => tally.dead += 1,
                State::Expired => tally.expired += 1,
                State::Dropped => tally.dropped += 1,
                State::Pending { .. } if seen.leaving => tally.leaving += 1,
                State::Pending { .. } => tally.pending += 1,
            }
        }
        tally
    }

    /// Nothing is lost and nothing is invented.
    pub(super) fn check_conservation(&self, matched: u64, counts: &Counts, pending: u64) {
        let tally = self.tally();
        let seen = format!("{tally:?}, {counts:?}, {pending} pending");
        let past = &self.past;
        assert_eq!(matched, tally.matched + past.matched, "matched: {seen}");
        let settled = counts.dead + counts.acked + counts.expired + counts.skipped;
        assert_eq!(matched, pending + settled - counts.reopened, "conserved: {seen}");
        assert_eq!((counts.acked, counts.dead), (tally.acked + past.acked, tally.dead), "{seen}");
        assert_eq!((counts.expired, counts.reopened), (tally.expired + past.expired, past.reopened), "{seen}");
        let skipped = tally.dropped + past.dropped + past.skipped;
        assert!(counts.skipped >= skipped, "{seen}");
        assert!(counts.skipped <= skipped + tally.leaving, "skipped what nobody took out: {seen}");
    }

    /// Everything that is left pending must be among what is excused.
    pub(super) fn check_done(&self, counts: &Counts, excused: impl Fn(&SharedMessage) -> bool) {
        let pending = |seen: &&Seen| matches!(self.state(seen.message.offset), State::Pending { .. });
        let waits = self.messages.iter().filter(|seen| seen.matched && !seen.leaving).filter(pending);
        let stuck: Vec<_> = waits.filter(|seen| !excused(&seen.message)).map(|seen| seen.message.offset).collect();
        assert!(stuck.is_empty(), "stuck: {stuck:?} with {counts:?}");
    }

    pub(super) fn check_all_done(&self, counts: &Counts) {
        self.check_done(counts, |_| false);
        let tally = self.tally();
        let skipped = tally.dropped + self.past.dropped + self.past.skipped + tally.leaving;
        assert_eq!(counts.skipped, skipped, "what was taken out is skipped in the end");
    }
}

#[derive(Debug, Default)]
struct Tally {
    matched: u64,
    pending: u64,
    dead: u64,
    acked: u64,
    expired: u64,
    dropped: u64,
    leaving: u64,
}

fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap()
}
