//! Dispatch: which message of a subscription runs next, and what its end means for the others.
//!
//! [`Dispatcher`] is a state machine without IO: it is told what happened ([`Event`]) and says what is
//! to be done ([`Action`]). It owns its subscription's position. The edges around it live beside it:
//! [`subscription`] drives it, [`runner`] calls the sandbox, [`workers`] are the threads, [`reader`]
//! reads the log for it, and [`router`] tells it what was synced.
//!
//! A pending message is in exactly one place:
//! - **unread**: in the log, at or past the cursor;
//! - **window**: in memory, passed by nothing yet (waiting in a lane, ready, or running);
//! - **retry**: in a retry row, until it is due and runs;
//! - **held**: in a packed row of its key, behind a message in retry.
//!
//! Messages of one key form a **lane**, which runs them in order, one at a time. A lane runs its
//! messages in retry first, by offset, then its queue, then its held rows.

pub mod announce;
mod breaker;
mod expiry;
mod explain;
mod fault;
mod gate;
mod intake;
mod item;
mod lane;
#[cfg(test)]
mod model;
mod park;
mod rate;
pub mod reader;
mod refund;
mod refunding;
mod reload;
mod retries;
pub mod router;
pub mod runner;
pub mod seek;
mod settling;
mod state_reads;
pub mod subscription;
pub mod turnstile;
mod window;
mod witness;
pub mod workers;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

pub use explain::Explanation;
pub use item::{Finished, Item, Origin};
pub use refund::{Refund, Refunded};
pub use refunding::RefundError;
pub(crate) use state_reads::check_room;
pub use witness::Witness;

use crate::limits::{
    FETCH_MESSAGES_MAX, HELD_ROW_OFFSETS_MAX, UNCHARGED_RERUNS_MAX, WINDOW_BYTES_MAX, WINDOW_MESSAGES_MAX,
};
use crate::log::position::Position;
use crate::log::{
    Batch, DeadRow, HeldAt, HeldRow, KeyHash, LoadedSubscription, RetryRow, Selection, Settlement, SubscriptionId,
};
use crate::message::{Message, Millis, Offset, SharedMessage};
use crate::outcome::{Digest, OutcomeKind};
use crate::policy::{Order, Policy};
use lane::Lanes;
use park::Parking;
use retries::Retries;
use window::Window;

/// How long the window may have no room and nothing to run before waiting messages make room. Short enough
/// that no key starves the others, long enough that a burst of one fast key writes no rows.
const STARVED_MS_MAX: Millis = 100;

/// Lanes whose held rows are read at a time. What is read of one row is bounded by who reads it.
const ROWS_READ_MAX: usize = 64;

/// What a dispatcher keeps in memory at most. The model narrows it to reach the corners with few messages.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    window_messages_max: usize,
    window_bytes_max: usize,
    fetch_messages_max: usize,
    held_row_offsets_max: usize,
    rows_read_max: usize,
    starved_ms_max: Millis,
    uncharged_reruns_max: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            window_messages_max: WINDOW_MESSAGES_MAX,
            window_bytes_max: WINDOW_BYTES_MAX,
            fetch_messages_max: FETCH_MESSAGES_MAX,
            held_row_offsets_max: HELD_ROW_OFFSETS_MAX,
            rows_read_max: ROWS_READ_MAX,
            starved_ms_max: STARVED_MS_MAX,
            uncharged_reruns_max: UNCHARGED_RERUNS_MAX,
        }
    }
}

/// What happened.
pub enum Event<'a> {
    /// Messages that the subscription takes became durable. In order, and told of once.
    Synced(&'a [SharedMessage]),
    /// The answer to [`Action::Fetch`].
    Fetched(Batch),
    /// The answer to [`Action::LoadRetries`].
    RetriesLoaded(Vec<(SharedMessage, Arc<RetryRow>)>),
    /// The answer to [`Action::LoadRow`]: the row, and its messages from its front on.
    RowLoaded { at: HeldAt, row: Arc<HeldRow>, messages: Vec<SharedMessage> },
    /// Items that were taken and did not run.
    Returned(Vec<Item>),
    /// Items that were taken were over before their call began ([`expiry`]).
    Expired(Vec<Item>),
    /// Calls ended, and what [`Dispatcher::record`] said of them is sequenced.
    Settled(Vec<Finished>),
    /// A call stood on state that changed meanwhile: it runs again, uncharged.
    Conflicted(Item),
    /// A call's effects found no room: it runs again, uncharged.
    NoRoom(Item),
    /// Dead letters are offered again.
    Redriven(Vec<(SharedMessage, Arc<DeadRow>)>),
    /// Dead letters are dropped by an operator.
    Dropped(Vec<Offset>),
    /// Attempts are taken back. The rows are those of the log, sequenced settlements included.
    Refunded { refund: &'a Refund, retries: Vec<(Offset, Arc<RetryRow>)>, dead: Vec<(Offset, Arc<DeadRow>)> },
    /// An operator holds everything back, or no longer.
    Paused(bool),
    /// The manifest changed. Up to the log's end, the selection before took `untold` messages from
    /// [`Dispatcher::known_end`] on, and `skipped_unread` messages that are not read yet
    /// ([`Dispatcher::reading_from`]) and that this one does not take. What it takes anew begins at `end`
    /// or later. Without a change of the selection all three are 0.
    Configured { policy: Policy, selection: Selection, untold: u64, skipped_unread: u64, end: Offset },
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a few at a time, and the large one is the one there is most of")]
pub enum Action {
    /// Commit this, before anything else of this subscription.
    Commit(Settlement),
    /// Read messages from the log, from this offset on.
    Fetch { from: Offset, messages_max: usize, bytes_max: usize },
    /// Read these retry rows and their messages; an answer may leave out the later ones, to bound its bytes.
    LoadRetries(Vec<Offset>),
    /// Read this row, and at least one of its messages from its front on.
    LoadRow(HeldAt),
    /// Read the rows and dead letters of these messages, and tell of them as [`Event::Refunded`].
    Refund(Refund),
}

/// Something that can run now.
enum Ready {
    Lane(KeyHash),
    /// A message without a key.
    Loose(Item),
}

/// One subscription's messages, and what may run.
pub struct Dispatcher {
    id: SubscriptionId,
    name: Arc<str>,
    epoch: u64,
    policy: Policy,
    selection: Selection,
    /// Whether its consumer can run. Orphaned subscriptions hold no window.
    active: bool,
    random: fastrand::Rng,
    bounds: Bounds,

    /// Before it, messages with a dead letter are not among those that are read.
    passes_dead_before: Offset,
    /// Everything before it was read.
    cursor: Offset,
    /// The offset after the last message that is counted: in `unread`, or read.
    known_end: Offset,
    /// Messages in `[cursor, known_end)` that the position has not passed.
    unread: u64,
    /// The offset after the last message that was admitted: where the next one's range begins.
    admitted_to: Offset,
    /// What was passed above the floor before this process began; empty once the cursor is past it.
    passed_before: Position,
    /// Where rows that an earlier process wrote end at the latest.
    rows_end: Offset,
    fetching: bool,
    /// Whether the selection changed since the fetch that is under way was asked for.
    fetch_is_stale: bool,
    /// Since when the window is known to be starved.
    starved_since_ms: Option<Millis>,

    window: Window,
    lanes: Lanes,
    ready: VecDeque<Ready>,
    retries: Retries,
    parking: Parking,
    /// Messages in held rows, loaded and running ones included.
    held: u64,
    running: Running,
    /// What may begin at all.
    gate: gate::Gate,
    /// The time of the last event or take.
    now_ms: Millis,
    /// What runs, if its consumer can run.
    version: Option<Digest>,
    /// Dead letters of a streak whose refund is under way: unless they leave before, it marks them.
    excusable: BTreeSet<Offset>,
    refund_wanted: Vec<Refund>,
    /// Calls that were made again, or failed, and were not charged, since the process began.
    reruns: u64,
    /// Components that were rolled back, calls of which may still run.
    discredited: BTreeSet<Digest>,
    /// What was refunded since the process began.
    refunds: Refunded,
    /// Calls by outcome since the process began.
    outcomes: [u64; OutcomeKind::ALL.len()],
}

/// Calls that run now, by where their message came from.
#[derive(Clone, Copy, Debug, Default)]
struct Running {
    window: u64,
    retry: u64,
    row: u64,
}

impl Running {
    fn of(&mut self, origin: &Origin) -> &mut u64 {
        match origin {
            Origin::Window { .. } => &mut self.window,
            Origin::Retry(_) => &mut self.retry,
            Origin::Row { .. } => &mut self.row,
        }
    }

    fn total(&self) -> u64 {
        self.window + self.retry + self.row
    }
}

impl Dispatcher {
    /// Rebuilds a dispatcher from what is durable. `unread` is how many messages the subscription
    /// matched and its position has not passed; `end` is the log's end that this count stands on.
    pub fn load(loaded: &LoadedSubscription, policy: Policy, unread: u64, end: Offset, seed: u64) -> Self {
        Self::load_bounded(loaded, policy, unread, end, seed, Bounds::default())
    }

    fn load_bounded(
        loaded: &LoadedSubscription,
        policy: Policy,
        unread: u64,
        end: Offset,
        seed: u64,
        bounds: Bounds,
    ) -> Self {
        let floor = loaded.position.floor();
        let gate = gate::Gate::new(loaded.record.paused, &policy);
        let mut dispatcher = Self {
            id: loaded.id,
            name: loaded.name.as_str().into(),
            epoch: loaded.record.epoch,
            policy,
            selection: loaded.record.selection.clone(),
            active: false,
            random: fastrand::Rng::with_seed(seed),
            bounds,
            passes_dead_before: loaded.record.passes_dead_before,
            cursor: floor,
            known_end: end.max(floor),
            unread,
            admitted_to: floor,
            passed_before: loaded.position.clone(),
            rows_end: loaded.position.end(),
            fetching: false,
            fetch_is_stale: false,
            starved_since_ms: None,
            window: Window::default(),
            lanes: Lanes::new(bounds.held_row_offsets_max, bounds.rows_read_max),
            ready: VecDeque::new(),
            retries: Retries::default(),
            parking: Parking::default(),
            held: 0,
            running: Running::default(),
            gate,
            now_ms: 0,
            version: None,
            excusable: BTreeSet::new(),
            refund_wanted: Vec::new(),
            reruns: 0,
            discredited: BTreeSet::new(),
            refunds: Refunded::default(),
            outcomes: [0; OutcomeKind::ALL.len()],
        };
        for &(offset, parks) in &loaded.parks {
            dispatcher.park(offset, parks, &mut Settlement::new(loaded.id, loaded.record.epoch));
        }
        for retry in &loaded.retries {
            let leads = retry.redrive.is_some_and(|redrive| redrive.leads());
            dispatcher.enter_retry(retry.offset, retry.due_ms, retry.accepted_ms, retry.key, leads);
        }
        for &(at, waiting, accepted_ms) in &loaded.held {
            dispatcher.held += u64::from(waiting);
            dispatcher.lanes.open(at.key).add_stored_row(at.first, waiting, accepted_ms);
        }
        // An earlier process may have made rows of messages whose predecessors in their key it had not
        // passed when it ended: those are read again first, and get rows that come before.
        dispatcher.lanes.rows_wait = true;
        dispatcher.release_rows();
        dispatcher
    }

    /// Moves on. What is to be done is added to `actions`, in the order in which it must be done.
    pub fn step(&mut self, event: Event<'_>, now_ms: Millis, actions: &mut Vec<Action>) {
        let mut settlement = Settlement::new(self.id, self.epoch);
        self.now_ms = now_ms;
        self.gate.breaker.tick(now_ms);
        match event {
            Event::Synced(messages) => self.synced(messages, &mut settlement),
            Event::Fetched(batch) => self.fetched(batch, &mut settlement),
            Event::RetriesLoaded(loaded) => self.retries_loaded(loaded, &mut settlement),
            Event::RowLoaded { at, row, messages } => self.row_loaded(at, &row, messages, &mut settlement),
            Event::Returned(items) => self.returned(items, &mut settlement),
            Event::Expired(items) => self.expired(items, now_ms, &mut settlement),
            Event::Settled(finished) => {
                for finished in finished {
                    self.settled(finished, &mut settlement);
                }
            }
            Event::Conflicted(item) => self.conflicted(item, &mut settlement),
            Event::NoRoom(item) => self.found_no_room(item, &mut settlement),
            Event::Paused(paused) => self.pause(paused),
            Event::Redriven(letters) => self.redriven(letters, now_ms, &mut settlement),
            Event::Dropped(offsets) => self.dropped(&offsets, &mut settlement),
            Event::Refunded { refund, retries, dead } => {
                let refunded = self.refunded(refund, retries, dead, now_ms, &mut settlement);
                self.refunds += refunded;
            }
            Event::Configured { policy, selection, untold, skipped_unread, end } => {
                self.known_end = self.known_end.max(end);
                self.unread += untold;
                self.configured(policy, selection, skipped_unread, &mut settlement);
            }
            Event::Tick => {}
        }
        self.release_rows();
        self.relieve_starvation(now_ms, &mut settlement);
        self.lanes.seal_dirty(self.id, &mut settlement);
        if !settlement.is_empty() {
            actions.push(Action::Commit(settlement));
        }
        self.want_retries(now_ms, actions);
        self.want_rows(actions);
        self.want_messages(actions);
        actions.extend(self.refund_wanted.drain(..).map(Action::Refund));
    }

    /// Takes up to `max` messages that can run now; those of one lane stand together and in order.
    /// They count as running until they are told of as settled, returned or conflicted.
    pub fn take(&mut self, max: usize, now_ms: Millis) -> Vec<Item> {
        self.now_ms = now_ms;
        if !self.active {
            return Vec::new();
        }
        let max = max.min(self.gate.allowance(now_ms));
        let mut taken = Vec::with_capacity(max.min(self.ready_to_run()));
        while taken.len() < max {
            match self.next_ready() {
                None => break,
                Some(Ready::Loose(item)) => taken.push(item),
                Some(Ready::Lane(key)) => self.lanes.take(key, max - taken.len(), &mut taken),
            }
        }
        for item in &mut taken {
            *self.running.of(&item.origin) += 1;
            if let Origin::Retry(row) = &mut item.origin {
                self.retries.runs(item.message.offset);
                self.retries.refresh(item.message.offset, row);
            }
        }
        self.begin(&taken);
        taken
    }

    /// How many things may run now: messages without a key, and lanes.
    pub fn ready(&self) -> usize {
        if self.active { self.ready_to_run().min(self.gate.allowance(self.now_ms)) } else { 0 }
    }

    /// When [`Event::Tick`] is wanted, at once where that is past: the next retry is due, the gate opens, the
    /// window has starved long enough, or a take made room. Asked after every step and after every [`Self::take`].
    pub fn next_due_ms(&self) -> Option<Millis> {
        if !self.active {
            return None;
        }
        if self.lanes.has_row_to_read() || (self.is_starved() && self.starved_since_ms.is_none()) {
            return Some(0);
        }
        let starved = self.starved_since_ms.filter(|_| self.is_starved());
        let starved = starved.map(|since_ms| since_ms.saturating_add(self.bounds.starved_ms_max));
        self.next_retry_ms().into_iter().chain(starved).chain(self.gate_opens_ms()).min()
    }

    /// Takes over what the dispatcher before it knew and is not durable.
    fn inherit(&mut self, before: &mut Self) {
        self.active = before.active;
        self.version = before.version;
        self.reruns = before.reruns;
        self.gate.breaker.inherit(&before.gate.breaker);
        self.outcomes = before.outcomes;
        self.refunds = before.refunds;
        self.discredited = std::mem::take(&mut before.discredited);
    }

    pub fn passes_dead_before(&self) -> Offset {
        self.passes_dead_before
    }

    pub fn id(&self) -> SubscriptionId {
        self.id
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Where reading stands, and what was already passed beyond it before this process began.
    pub fn reading_from(&self) -> (Offset, &Position) {
        (self.cursor, &self.passed_before)
    }

    /// Messages before it are counted, if this subscription takes them; it is told of all others.
    pub fn known_end(&self) -> Offset {
        self.known_end
    }

    pub fn count_outcome(&mut self, kind: OutcomeKind) {
        self.outcomes[kind as usize] += 1;
    }

    /// The lane of a message under this subscription's order.
    fn lane_of(&self, message: &Message) -> Option<KeyHash> {
        match self.policy.order {
            Order::Key => message.event.key.as_deref().map(hash),
            Order::Topic => Some(hash(message.event.topic.as_str())),
            Order::None => None,
        }
    }

    fn takes(&self, message: &Message) -> bool {
        self.selection.from_offset(message.event.topic.as_str()).is_some_and(|from| from <= message.offset)
    }

    /// Puts a lane among the ready ones if it can run, and forgets it if nothing is left of it.
    fn wake_lane(&mut self, key: KeyHash) {
        self.promote_retry(key);
        if self.lanes.wake(key) {
            self.ready.push_back(Ready::Lane(key));
        }
    }

    fn window_is_full(&self) -> bool {
        self.window.len() >= self.bounds.window_messages_max || self.window.bytes() >= self.bounds.window_bytes_max
    }

    /// Whether a good part of the window is free, so that reads stay large.
    fn window_has_room(&self) -> bool {
        self.window.len() <= self.bounds.window_messages_max - self.bounds.fetch_messages_max
            && self.window.bytes() <= self.bounds.window_bytes_max / 4 * 3
    }

    /// Whether nothing in the window can run, and nothing can come into it.
    fn is_starved(&self) -> bool {
        let blocked = self.ready.is_empty() && !self.window_has_room();
        self.active && self.unread > 0 && blocked && !self.parking.holds_back()
    }

    fn want_messages(&mut self, actions: &mut Vec<Action>) {
        let bounds = self.bounds;
        if self.active && !self.fetching && self.unread > 0 && self.window_has_room() {
            self.fetching = true;
            actions.push(Action::Fetch {
                from: self.cursor,
                messages_max: bounds.fetch_messages_max,
                bytes_max: bounds.window_bytes_max / 4,
            });
        }
    }

    /// Lets held rows be read once nothing that comes before any of them is unread.
    fn release_rows(&mut self) {
        if self.lanes.rows_wait && (self.unread == 0 || self.cursor >= self.rows_end) {
            self.lanes.rows_wait = false;
            for key in self.lanes.keys() {
                self.wake_lane(key);
            }
        }
    }

    fn want_rows(&mut self, actions: &mut Vec<Action>) {
        if !self.active {
            return;
        }
        for (key, first) in self.lanes.rows_wanted() {
            actions.push(Action::LoadRow(HeldAt { subscription: self.id, key, first }));
        }
    }
}

fn hash(text: &str) -> KeyHash {
    KeyHash(xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
}
