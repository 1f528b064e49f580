//! What one slow, failing or busy key may cost: at the real bounds, with everything else at its best.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::dispatch::{Action, Bounds, Dispatcher, Event, Finished, Item};
use crate::limits::{FETCH_MESSAGES_MAX, HELD_ROW_OFFSETS_MAX, RUN_MESSAGES_MAX, WINDOW_MESSAGES_MAX};
use crate::log::Selection;
use crate::message::Millis;
use crate::outcome::{Digest, Outcome};
use crate::policy::{OnExhausted, Policy, RetryPolicy};
use crate::topic::{TopicFilter, TopicName};

use super::journal::Journal;

/// Messages of a held row that are read at a time.
const ROW_MESSAGES_MAX: usize = 64;

/// A dispatcher whose log is synced and answers at once.
struct Prompt {
    journal: Journal,
    dispatcher: Dispatcher,
    now_ms: Millis,
    /// The most that ever were in memory: messages of the window, its entries, messages in lanes.
    window_max: usize,
    entries_max: usize,
    queued_max: usize,
    /// Held rows that were written, and answers that the log had to be read for.
    rows_written: usize,
    reads: usize,
}

impl Prompt {
    fn new() -> Self {
        Self::with(RetryPolicy::default())
    }

    fn with(retry: RetryPolicy) -> Self {
        let selection = Selection::new(vec![(TopicFilter::parse(">").unwrap(), 0)]);
        let journal = Journal::new(selection, HELD_ROW_OFFSETS_MAX);
        let mut dispatcher =
            Dispatcher::load(&journal.load(), Policy { retry, breaker: None, ..Policy::default() }, 0, 0, 1);
        dispatcher.set_version(Some(Digest([0; 32])));
        let mut prompt = Self {
            journal,
            dispatcher,
            now_ms: 1_000,
            window_max: 0,
            entries_max: 0,
            queued_max: 0,
            rows_written: 0,
            reads: 0,
        };
        prompt.step(Event::Tick);
        prompt
    }

    /// Publishes messages of these keys, and tells of them.
    fn publish<'a>(&mut self, keys: impl Iterator<Item = &'a str>) {
        let from = self.journal.end();
        for key in keys {
            let event = crate::message::Event {
                topic: TopicName::client("t").unwrap(),
                id: String::new(),
                source: String::new(),
                kind: String::new(),
                subject: None,
                key: Some(key.to_owned()),
                content_type: None,
                attributes: Vec::new(),
                data: Bytes::new(),
                hops: 0,
                named: false,
                deliver_at_ms: None,
            };
            self.journal.append(event, self.now_ms);
        }
        self.sync();
        let messages = self.journal.messages(from, self.journal.end()).to_vec();
        self.step(Event::Synced(&messages));
    }

    fn sync(&mut self) {
        self.journal.sync(self.journal.unsynced());
    }

    fn step(&mut self, event: Event<'_>) {
        let mut actions = Vec::new();
        self.dispatcher.step(event, self.now_ms, &mut actions);
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            let mut more = Vec::new();
            self.reads += usize::from(!matches!(action, Action::Commit(_)));
            match action {
                Action::Commit(settlement) => {
                    self.rows_written += settlement.held.iter().filter(|(_, row)| row.is_some()).count();
                    self.journal.settle(settlement);
                    self.sync();
                }
                Action::Fetch { from, messages_max, bytes_max } => {
                    let batch = self.journal.read(self.dispatcher.selection(), from, messages_max, bytes_max);
                    self.dispatcher.step(Event::Fetched(batch), self.now_ms, &mut more);
                }
                Action::LoadRetries(offsets) => {
                    let row =
                        |offset| (self.journal.message(offset).clone(), self.journal.synced.retries[&offset].clone());
                    let loaded = offsets.into_iter().map(row).collect();
                    self.dispatcher.step(Event::RetriesLoaded(loaded), self.now_ms, &mut more);
                }
                Action::Refund(refund) => unreachable!("{refund:?} without a breaker"),
                Action::LoadRow(at) => {
                    let row = self.journal.synced.held[&at].clone();
                    let offsets = row.offsets[row.front as usize..].iter().take(ROW_MESSAGES_MAX);
                    let messages = offsets.map(|offset| self.journal.message(*offset).clone()).collect();
                    self.dispatcher.step(Event::RowLoaded { at, row, messages }, self.now_ms, &mut more);
                }
            }
            actions.extend(more);
            self.window_max = self.window_max.max(self.dispatcher.window.len());
            self.entries_max = self.entries_max.max(self.dispatcher.window.entries());
            let queued = self.dispatcher.lanes.iter().map(|(_, lane)| lane.queue.len()).sum();
            self.queued_max = self.queued_max.max(queued);
        }
    }

    /// Takes a run and settles it; what fails is tried again after an hour.
    fn run(&mut self, fails: impl Fn(&Item) -> bool) -> bool {
        let items = self.dispatcher.take(RUN_MESSAGES_MAX, self.now_ms);
        let any = !items.is_empty();
        self.call(items.into(), fails);
        any
    }

    fn call(&mut self, mut items: VecDeque<Item>, fails: impl Fn(&Item) -> bool) {
        let mut finished = Vec::new();
        while let Some(item) = items.pop_front() {
            let failed = fails(&item);
            let outcome = match failed {
                true => Outcome::Retry { reason: String::new(), after: Some(Duration::from_secs(3_600)) },
                false => Outcome::Acked,
            };
            if failed {
                let (same, others): (Vec<_>, Vec<_>) = items.drain(..).partition(|other| other.lane == item.lane);
                items = others.into();
                self.step(Event::Returned(same));
            }
            let (began_ms, digest) = (self.now_ms, Digest([0; 32]));
            let duration = Duration::ZERO;
            finished.push(Finished {
                item,
                outcome,
                began_ms,
                duration,
                digest,
                of_host: false,
                forced: None,
                decision: None,
            });
            if failed {
                self.settle(&mut finished);
            }
        }
        self.settle(&mut finished);
    }

    fn settle(&mut self, finished: &mut Vec<Finished>) {
        let settlement = self.dispatcher.record(finished, self.now_ms);
        self.rows_written += settlement.held.iter().filter(|(_, row)| row.is_some()).count();
        self.journal.settle(settlement);
        self.sync();
        self.step(Event::Settled(std::mem::take(finished)));
    }

    /// Looks at the clock, if that is wanted now.
    fn tick(&mut self) {
        if self.dispatcher.next_due_ms().is_some_and(|due_ms| due_ms <= self.now_ms) {
            self.step(Event::Tick);
        }
    }

    fn acked(&self) -> u64 {
        self.journal.synced.counts.acked
    }
}

#[test]
fn a_blocked_key_costs_little_memory_and_its_neighbours_go_on() {
    let neighbours: Vec<String> = (0..50).map(|number| format!("n{number}")).collect();
    let mut bus = Prompt::new();
    let fails = |item: &Item| item.message.event.key.as_deref() == Some("blocked");
    for round in 0..40 {
        let keys = (0..500).map(|index| if index % 2 == 0 { "blocked" } else { &*neighbours[(index + round) % 50] });
        bus.publish(keys);
        while bus.run(fails) {}
    }
    assert_eq!(bus.acked(), 40 * 250, "the neighbours are done");
    assert_eq!(bus.dispatcher.pending(), 40 * 250);
    assert_eq!((bus.dispatcher.window.len(), bus.dispatcher.window.entries()), (0, 0));
    assert_eq!(bus.dispatcher.lanes.iter().count(), 1);
    let rows = bus.journal.synced.held.len();
    assert!(rows <= 40 * 250 / HELD_ROW_OFFSETS_MAX + 2, "{rows} rows");
    // What waits in rows is read in parts.
    bus.queued_max = 0;
    bus.now_ms += 3_600_000;
    bus.step(Event::Tick);
    while bus.run(|_| false) {}
    assert_eq!((bus.acked(), bus.dispatcher.pending()), (40 * 500, 0));
    assert!(bus.queued_max <= ROW_MESSAGES_MAX, "{} were in memory", bus.queued_max);
}

/// Blocks one key, and publishes so many messages of it among those of its neighbours. Answers how many runs
/// those took.
fn publish_among_neighbours(bus: &mut Prompt, blocked: usize) -> usize {
    const ROUNDS: usize = 40;
    let neighbours: Vec<String> = (0..50).map(|number| format!("n{number}")).collect();
    let fails = |item: &Item| item.message.event.key.as_deref() == Some("blocked");
    bus.publish(["blocked"].into_iter());
    while bus.run(fails) {}
    let mut runs = 0;
    for _ in 0..ROUNDS {
        let of_blocked = std::iter::repeat_n("blocked", blocked / ROUNDS);
        bus.publish(neighbours.iter().map(String::as_str).chain(of_blocked).chain(neighbours.iter().map(|key| &**key)));
        while bus.run(fails) {
            runs += 1;
        }
    }
    assert_eq!(bus.acked(), 2 * 50 * ROUNDS as u64, "the neighbours are done");
    runs
}

#[test]
fn a_million_messages_of_a_blocked_key_cost_its_neighbours_nothing_and_no_memory() {
    let parks = RetryPolicy { max_attempts: 1, on_exhausted: OnExhausted::ParkKey, ..RetryPolicy::default() };
    for (retry, blocked) in [(RetryPolicy::default(), 1_000_000), (parks, 200_000)] {
        let mut alone = Prompt::with(retry.clone());
        let runs = publish_among_neighbours(&mut alone, 0);
        let mut bus = Prompt::with(retry);
        bus.journal.checks = false;
        assert_eq!(publish_among_neighbours(&mut bus, blocked), runs, "calls are taken as without them");
        assert_eq!((alone.reads, bus.reads), (0, 0), "and nothing is read for them");
        let rows = bus.journal.synced.held.len();
        // A row that is not full is written again when more of its key come, once for each publish.
        assert!(bus.rows_written <= rows + 40, "{} written for {rows} rows", bus.rows_written);
        assert!(rows <= blocked / HELD_ROW_OFFSETS_MAX + 1, "{rows} rows");
        assert_eq!(bus.dispatcher.pending() + bus.journal.synced.counts.dead, blocked as u64 + 1);
        let dispatcher = &bus.dispatcher;
        let most = (bus.window_max, bus.entries_max, bus.queued_max);
        assert!(most.0 <= 100 && most.1 <= 100 && most.2 <= 100, "only the neighbours' are in memory: {most:?}");
        assert_eq!(
            (dispatcher.window.len(), dispatcher.lanes.iter().count(), dispatcher.retries.in_memory()),
            (0, 1, 0)
        );
    }
}

#[test]
fn many_keys_that_were_blocked_at_once_are_read_in_parts() {
    const KEYS: usize = 3_000;
    let keys: Vec<String> = (0..KEYS).map(|number| format!("k{number}")).collect();
    let mut bus = Prompt::new();
    for _ in 0..3 {
        bus.publish(keys.iter().map(String::as_str));
        while bus.run(|item| item.history().is_none()) {}
    }
    assert_eq!((bus.dispatcher.pending(), bus.journal.synced.counts.rows), (3 * KEYS as u64, 3 * KEYS as u64));
    assert_eq!((bus.dispatcher.retries.in_memory(), bus.dispatcher.window.len()), (0, 0));
    bus.queued_max = 0;
    bus.now_ms += 3_600_000;
    bus.step(Event::Tick);
    let mut retries_max = 0;
    loop {
        retries_max = retries_max.max(bus.dispatcher.retries.in_memory());
        if !bus.run(|_| false) {
            let Some(due_ms) = bus.dispatcher.next_due_ms() else { break };
            bus.now_ms = bus.now_ms.max(due_ms);
            bus.step(Event::Tick);
        }
    }
    assert_eq!((bus.acked(), bus.dispatcher.pending()), (3 * KEYS as u64, 0));
    assert!(retries_max <= FETCH_MESSAGES_MAX, "{retries_max} retries in memory");
    let queued_max = Bounds::default().rows_read_max * ROW_MESSAGES_MAX;
    assert!(bus.queued_max <= queued_max, "{} messages of rows in memory", bus.queued_max);
}

#[test]
fn calls_that_do_not_end_keep_no_other_keys_rows_from_being_read() {
    let stuck_max = 2 * Bounds::default().rows_read_max;
    let keys: Vec<String> = (0..2 * stuck_max).map(|number| format!("k{number}")).collect();
    let mut bus = Prompt::new();
    for _ in 0..3 {
        bus.publish(keys.iter().map(String::as_str));
        while bus.run(|item| item.history().is_none()) {}
    }
    bus.now_ms += 3_600_000;
    bus.step(Event::Tick);
    // The first message of each key, which was in retry, ends well; then the calls from held rows get stuck.
    let mut stuck = Vec::new();
    while stuck.len() < stuck_max {
        bus.tick();
        let items = bus.dispatcher.take(1, bus.now_ms);
        assert_eq!(items.len(), 1);
        if items[0].history().is_none() {
            stuck.extend(items);
        } else {
            bus.call(items.into(), |_| false);
        }
    }
    bus.tick();
    while bus.run(|_| false) {
        bus.tick();
    }
    let behind: u64 = stuck.len() as u64;
    assert_eq!(bus.dispatcher.explain().waiting.running, behind);
    assert_eq!(bus.dispatcher.pending(), 2 * behind, "only what is stuck and what stands behind it is left");
    for item in stuck {
        bus.step(Event::Returned(vec![item]));
    }
    while bus.run(|_| false) {}
    assert_eq!((bus.acked(), bus.dispatcher.pending()), (3 * keys.len() as u64, 0));
}

#[test]
fn a_call_that_does_not_end_costs_little_memory_and_its_neighbours_go_on() {
    let mut bus = Prompt::new();
    bus.publish(["slow"].into_iter());
    let slow = bus.dispatcher.take(1, bus.now_ms);
    for _ in 0..20 {
        bus.publish((0..1_000).map(|index| if index % 2 == 0 { "slow" } else { "fast" }));
        while bus.run(|_| false) {}
        // The window may have filled up; after a while its messages make room.
        while let Some(due_ms) = bus.dispatcher.next_due_ms() {
            bus.now_ms = bus.now_ms.max(due_ms);
            bus.step(Event::Tick);
            while bus.run(|_| false) {}
        }
    }
    assert_eq!(bus.acked(), 20 * 500, "the neighbours are done");
    assert!(bus.window_max <= WINDOW_MESSAGES_MAX, "{} in the window", bus.window_max);
    assert!(bus.entries_max <= 2 * WINDOW_MESSAGES_MAX + FETCH_MESSAGES_MAX, "{} entries", bus.entries_max);
    bus.step(Event::Returned(slow));
    while bus.run(|_| false) {}
    assert_eq!((bus.acked(), bus.dispatcher.pending()), (1 + 20 * 1_000, 0));
}

#[test]
fn messages_behind_a_call_that_does_not_end_are_forgotten_as_they_are_settled() {
    let mut bus = Prompt::new();
    bus.publish(["slow"].into_iter());
    let slow = bus.dispatcher.take(1, bus.now_ms);
    assert_eq!(slow.len(), 1);
    for _ in 0..100 {
        bus.publish(std::iter::repeat_n("fast", 500));
        while bus.run(|_| false) {}
    }
    assert_eq!(bus.acked(), 50_000);
    assert!(bus.entries_max < 2_000, "{} entries for windows of 501", bus.entries_max);
}

#[test]
fn a_burst_of_one_key_that_never_fails_writes_no_rows() {
    let mut bus = Prompt::new();
    for _ in 0..30 {
        bus.publish(std::iter::repeat_n("only", 1_000));
    }
    assert!(bus.dispatcher.unread() > 0, "more than fits the window");
    loop {
        let items = bus.dispatcher.take(RUN_MESSAGES_MAX, bus.now_ms);
        if items.is_empty() {
            break;
        }
        // While a run is at a worker, nothing of the only key can run.
        bus.now_ms += Bounds::default().starved_ms_max / 2;
        bus.step(Event::Tick);
        bus.step(Event::Returned(items));
        bus.run(|_| false);
    }
    assert_eq!((bus.acked(), bus.dispatcher.pending()), (30_000, 0));
    assert_eq!(bus.rows_written, 0);
}
