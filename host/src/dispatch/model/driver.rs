//! Drives a dispatcher as its edges do, in an order that a seed decides.

macro_rules! trace {
    ($world:expr, $($part:tt)*) => {
        if let Some(trace) = &mut $world.trace {
            std::fmt::Write::write_fmt(trace, format_args!("{}\n", format_args!($($part)*))).unwrap();
        }
    };
}

mod gate;
mod rest;
mod seeking;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;

use crate::dispatch::{Action, Bounds, Dispatcher, Event, Finished, Item, Refund, expiry};
use crate::log::{Batch, HeldAt, HeldRow, RetryRow, Selection, Settlement, SubscriptionRecord};
use crate::message::{Millis, Offset, SharedMessage};
use crate::outcome::{Digest, Outcome};
use crate::policy::{Backoff, BreakerPolicy, OnExhausted, Order, Policy, Rate, RetryPolicy};
use crate::topic::{TopicFilter, TopicName};

use super::auditor::{Auditor, Terms};
use super::journal::{Entry, Journal, SUBSCRIPTION, takes};

const TOPICS: [&str; 3] = ["a.x", "a.y", "b"];
const FILTERS: [&str; 5] = ["a.x", "a.y", "b", "a.*", ">"];
/// Versions of the consumer.
const VERSIONS: u8 = 3;
const KEYS: [Option<&str>; 5] = [None, Some("k0"), Some("k1"), Some("k2"), Some("k3")];

/// A read that was asked for. It happens at some time after that, and is answered at some time later.
enum Read {
    Fetch {
        selection: Selection,
        passes_dead_before: Offset,
        from: Offset,
        messages_max: usize,
        bytes_max: usize,
    },
    Retries(Vec<Offset>),
    Row(HeldAt),
    /// With the time of the auditor at which it was asked for.
    Refund(Refund, u64),
}

enum Answer {
    Fetched(Batch),
    Retries(Vec<(SharedMessage, Arc<RetryRow>)>),
    Row { at: HeldAt, row: Arc<HeldRow>, messages: Vec<SharedMessage> },
}

/// A call that runs, and the version that it runs on.
struct Call {
    item: Item,
    began_ms: Millis,
    version: Digest,
}

/// What a worker took at once. It calls one after the other, and settles when it likes to.
#[derive(Default)]
struct Run {
    waiting: VecDeque<Item>,
    calling: Option<Call>,
    /// Acked, and not recorded yet.
    acked: Vec<Finished>,
    /// Its call does not end.
    stuck: bool,
}

pub(super) struct World {
    random: Rng,
    bounds: Bounds,
    journal: Journal,
    dispatcher: Dispatcher,
    auditor: Auditor,
    policy: Policy,
    active: bool,
    version: u8,
    /// Whether most calls fail.
    outage: bool,
    /// Versions that were rolled back, since the process began.
    rolled_back: BTreeSet<u8>,
    now_ms: Millis,
    /// Messages before it were told of as synced.
    told: Offset,
    asked: Vec<Read>,
    answers: Vec<Answer>,
    runs: Vec<Run>,
    /// Dead letters that a command is about, until that is synced.
    busy_letters: BTreeMap<Offset, Entry>,
    /// What happened, for people; none is kept while nobody asks.
    trace: Option<String>,
}

impl World {
    pub(super) fn new(seed: u64, traced: bool) -> Self {
        let mut random = Rng::with_seed(seed);
        let window_messages_max = random.usize(3..14);
        let bounds = Bounds {
            window_messages_max,
            window_bytes_max: if random.bool() { random.usize(2_000..6_000) } else { 1 << 20 },
            fetch_messages_max: random.usize(1..window_messages_max.min(6)),
            held_row_offsets_max: random.usize(1..6),
            rows_read_max: random.usize(1..4),
            starved_ms_max: random.u64(1..60),
            uncharged_reruns_max: random.u32(4..12),
        };
        let order = *random.choice(&[Order::Key, Order::Key, Order::Key, Order::Topic, Order::None]).unwrap();
        let policy = policy(&mut random, order);
        let selection = Selection::new(filters(&mut random).into_iter().map(|filter| (filter, 0)).collect());
        let journal = Journal::new(selection.clone(), bounds.held_row_offsets_max);
        let dispatcher = Dispatcher::load_bounded(&journal.load(), policy.clone(), 0, 0, random.u64(..), bounds);
        let mut world = Self {
            random,
            bounds,
            journal,
            dispatcher,
            auditor: Auditor::new(selection, order),
            policy,
            active: false,
            version: 0,
            outage: false,
            rolled_back: BTreeSet::new(),
            now_ms: 1_000,
            told: 0,
            asked: Vec::new(),
            answers: Vec::new(),
            runs: Vec::new(),
            busy_letters: BTreeMap::new(),
            trace: traced.then(String::new),
        };
        trace!(world, "{:?} {:?} {:?}", world.bounds, world.policy, world.journal.sequenced.record.selection);
        world.set_active(true);
        world
    }

    pub(super) fn trace(&mut self) -> String {
        self.trace.take().unwrap_or_default()
    }

    /// Something that may happen, happens.
    pub(super) fn happen(&mut self) {
        match self.random.u32(0..108) {
            0..14 => self.publish(),
            14..24 => self.sync(),
            24..32 => self.tell(),
            32..42 => self.read(),
            42..52 => self.answer(),
            52..64 => self.take(),
            64..86 => self.work(),
            86..91 => {
                let forward = *self.random.choice(&[0, 1, 10, 100, 5_000]).unwrap();
                self.now_ms += self.random.u64(0..=forward);
                self.step(Event::Tick);
            }
            91..93 => self.redrive(),
            93 => self.drop_letters(),
            94..96 => self.reload(),
            96 => self.set_active(!self.active),
            97 => self.set_active(true),
            98 => self.timer(),
            99 => self.seek(),
            100..102 => self.pause(),
            102 => self.deploy(),
            103 => self.roll_back(),
            104..106 => self.timer(),
            106 => self.outage = !self.outage,
            _ => self.crash(),
        }
        self.check();
    }

    fn publish(&mut self) {
        for _ in 0..self.random.usize(1..6) {
            let topic = *self.random.choice(&TOPICS).unwrap();
            // Some keys are busier than others.
            let keys = if self.random.bool() { &KEYS[1..2] } else { &KEYS[..] };
            let key = *self.random.choice(keys).unwrap();
            let bytes = self.random.usize(0..400);
            let expires = self.random.u32(0..6) == 0;
            let expires_ms = expires.then(|| self.now_ms + self.random.u64(0..400));
            self.append(topic, key, bytes, expires_ms);
        }
    }

    fn append(&mut self, topic: &str, key: Option<&str>, bytes: usize, expires_ms: Option<Millis>) {
        trace!(self, "publish {topic} {key:?}, expires {expires_ms:?}");
        let expiry = |ms| {
            let time = jiff::Timestamp::from_millisecond(i64::try_from(ms).unwrap()).unwrap();
            ("expirytime".to_owned(), time.to_string())
        };
        let event = crate::message::Event {
            topic: TopicName::client(topic).unwrap(),
            id: String::new(),
            source: String::new(),
            kind: String::new(),
            subject: None,
            key: key.map(str::to_owned),
            content_type: None,
            attributes: expires_ms.map(expiry).into_iter().collect(),
            data: Bytes::from(vec![0; bytes]),
            hops: 0,
            named: false,
            deliver_at_ms: None,
        };
        self.journal.append(event, self.now_ms);
    }

    fn sync(&mut self) {
        let count = self.random.usize(0..=self.journal.unsynced());
        self.sync_first(count);
    }

    fn sync_first(&mut self, count: usize) {
        let before = self.journal.end();
        let entry = self.journal.sync(count);
        trace!(self, "sync to {entry}, messages to {}", self.journal.end());
        for message in self.journal.messages(before, self.journal.end()) {
            self.auditor.message_synced(message);
        }
        self.auditor.synced(entry);
        self.busy_letters.retain(|_, at| *at > entry);
    }

    /// Tells of some messages that were synced.
    fn tell(&mut self) {
        let to = self.random.u64(self.told..=self.journal.end());
        self.tell_to(to);
    }

    fn tell_to(&mut self, to: Offset) {
        let selection = self.dispatcher.selection();
        let messages: Vec<_> =
            self.journal.messages(self.told, to).iter().filter(|message| takes(selection, message)).cloned().collect();
        self.told = to;
        if !messages.is_empty() {
            trace!(self, "tell {:?}", messages.iter().map(|message| message.offset).collect::<Vec<_>>());
            self.step(Event::Synced(&messages));
        }
    }

    fn step(&mut self, event: Event<'_>) {
        self.step_with(event, None);
    }

    /// Steps, with a record that is committed together with what the step settles. Answers up to where the
    /// log is sequenced then.
    fn step_with(&mut self, event: Event<'_>, mut record: Option<SubscriptionRecord>) -> Entry {
        let mut actions = Vec::new();
        self.dispatcher.step(event, self.now_ms, &mut actions);
        if record.is_some() && !matches!(actions.first(), Some(Action::Commit(_))) {
            actions.insert(0, Action::Commit(Settlement::new(SUBSCRIPTION, self.dispatcher.epoch())));
        }
        for action in actions {
            trace!(self, "  {action:?}");
            match action {
                Action::Commit(settlement) => drop(self.journal.commit(settlement, record.take())),
                Action::Fetch { from, messages_max, bytes_max } => {
                    let selection = self.dispatcher.selection().clone();
                    let passes_dead_before = self.dispatcher.passes_dead_before();
                    self.asked.push(Read::Fetch { selection, passes_dead_before, from, messages_max, bytes_max });
                }
                Action::LoadRetries(offsets) => self.asked.push(Read::Retries(offsets)),
                Action::LoadRow(at) => self.asked.push(Read::Row(at)),
                Action::Refund(refund) => {
                    let asked_at = self.auditor.steps();
                    self.asked.push(Read::Refund(refund, asked_at));
                }
            }
        }
        self.auditor.read_to(self.dispatcher.reading_from().0);
        self.journal.sequenced_to()
    }

    /// Carries out one of the reads that were asked for.
    fn read(&mut self) {
        if self.asked.is_empty() {
            return;
        }
        let index = self.random.usize(..self.asked.len());
        let answer = match self.asked.swap_remove(index) {
            Read::Refund(refund, asked_at) => return self.refund(&refund, asked_at),
            Read::Fetch { selection, passes_dead_before, from, messages_max, bytes_max } => {
                let mut batch = self.journal.read(&selection, from, messages_max, bytes_max);
                let synced = &self.journal.synced;
                let passed_over = |offset| offset < passes_dead_before && synced.dead.contains_key(&offset);
                batch.messages.retain(|message| !passed_over(message.offset));
                Answer::Fetched(batch)
            }
            Read::Retries(offsets) => {
                let row = |offset: Offset| {
                    let row = self.journal.sequenced.retries.get(&offset).expect("a retry that is loaded has its row");
                    (self.journal.message(offset).clone(), row.clone())
                };
                let count = self.random.usize(1..=offsets.len());
                Answer::Retries(offsets.into_iter().take(count).map(row).collect())
            }
            Read::Row(at) => {
                let row = self.journal.sequenced.held.get(&at).expect("a row that is loaded is there").clone();
                let waiting = &row.offsets[row.front as usize..];
                let count = self.random.usize(1..=waiting.len());
                let messages = waiting[..count].iter().map(|offset| self.journal.message(*offset).clone()).collect();
                Answer::Row { at, row, messages }
            }
        };
        self.answers.push(answer);
    }

    fn answer(&mut self) {
        if self.answers.is_empty() {
            return;
        }
        let index = self.random.usize(..self.answers.len());
        match self.answers.swap_remove(index) {
            Answer::Fetched(batch) => {
                let offsets: Vec<_> = batch.messages.iter().map(|message| message.offset).collect();
                trace!(self, "fetched {offsets:?}, next {}", batch.next);
                self.step(Event::Fetched(batch));
            }
            Answer::Retries(loaded) => {
                trace!(
                    self,
                    "retries loaded {:?}",
                    loaded.iter().map(|(message, _)| message.offset).collect::<Vec<_>>()
                );
                self.step(Event::RetriesLoaded(loaded));
            }
            Answer::Row { at, row, messages } => {
                let offsets: Vec<_> = messages.iter().map(|message| message.offset).collect();
                trace!(self, "row loaded {at:?} {row:?} {offsets:?}");
                self.step(Event::RowLoaded { at, row, messages });
            }
        }
    }

    fn take(&mut self) {
        let max = self.random.usize(1..6);
        let held = self.dispatcher.is_held();
        let probed = self.dispatcher.gate.breaker.avoids();
        let items = self.dispatcher.take(max, self.now_ms);
        assert!(items.len() <= max);
        assert!(items.is_empty() || !held, "nothing is taken while the gate is shut");
        if let Some(item) = items.iter().find(|item| Some(item.message.offset) == probed) {
            let others = (items.len() - 1, self.dispatcher.ready_to_run());
            assert_eq!(others, (0, 0), "{} is probed again, where another can run", item.message.offset);
        }
        if items.is_empty() {
            return;
        }
        for item in &items {
            trace!(self, "take {} of {:?}, {:?}", item.message.offset, item.lane, item.origin);
            self.auditor.was_taken(item.message.offset, item.lane);
        }
        self.runs.push(Run { waiting: items.into(), ..Run::default() });
    }

    /// Something goes on in one of the runs.
    fn work(&mut self) {
        if self.runs.is_empty() {
            return;
        }
        let index = self.random.usize(..self.runs.len());
        match self.random.u32(0..12) {
            0 => self.settle_acked(index, Vec::new()),
            // A worker stops in the middle, as where the consumer is swapped out.
            1 if self.random.u32(0..4) == 0 => {
                let rest = self.runs[index].waiting.drain(..).collect();
                self.settle_acked(index, rest);
            }
            _ => match self.runs[index].calling.take() {
                None => self.begin(index),
                Some(call) => self.end(index, call),
            },
        }
        self.runs.retain(|run| !(run.waiting.is_empty() && run.calling.is_none() && run.acked.is_empty()));
    }

    fn begin(&mut self, index: usize) {
        if self.dispatcher.is_held() {
            // What was taken and did not begin goes back.
            let rest = self.runs[index].waiting.drain(..).collect();
            return self.settle_acked(index, rest);
        }
        let Some(item) = self.runs[index].waiting.pop_front() else { return self.settle_acked(index, Vec::new()) };
        let offset = item.message.offset;
        if expiry::is_over(&item, self.now_ms) {
            self.settle_acked(index, Vec::new());
            trace!(self, "{offset} is over");
            let entry = self.step_with(Event::Expired(vec![item]), None);
            return self.auditor.expired(entry, offset, self.now_ms);
        }
        trace!(self, "begin {offset}");
        self.auditor.started(offset, self.now_ms);
        self.runs[index].calling = Some(self.call(item));
    }

    fn call(&self, item: Item) -> Call {
        Call { item, began_ms: self.now_ms, version: digest(self.version) }
    }

    fn end(&mut self, index: usize, call: Call) {
        let outcome = self.outcome();
        let conflicts = self.random.u32(0..12) == 0;
        self.ended(index, call, outcome, conflicts);
    }

    fn ended(&mut self, index: usize, call: Call, outcome: Outcome, conflicts: bool) {
        let Call { item, began_ms, version } = call;
        trace!(self, "end {}: {outcome:?}", item.message.offset);
        let (offset, lane) = (item.message.offset, item.lane);
        let acked = outcome == Outcome::Acked && !conflicts;
        let call = Finished {
            item,
            outcome,
            began_ms,
            duration: Duration::ZERO,
            digest: version,
            of_host: false,
            forced: None,
            decision: None,
        };
        if acked {
            self.auditor.acked(offset);
            return self.runs[index].acked.push(call);
        }
        // What failed holds back its key: the rest of the key did not run.
        let run = &mut self.runs[index];
        let (rest, others): (Vec<_>, Vec<_>) =
            run.waiting.drain(..).partition(|other| lane.is_some() && other.lane == lane);
        run.waiting = others.into();
        self.settle_acked(index, rest);
        let mut finished = [call];
        let settlement = self.dispatcher.record(&mut finished, self.now_ms);
        let [finished] = finished;
        if conflicts && self.dispatcher.charges_conflict(&finished.item) {
            trace!(self, "one conflict of {offset} too many");
            let mut finished = [Finished { outcome: Outcome::Conflict, ..finished }];
            let settlement = self.dispatcher.record(&mut finished, self.now_ms);
            return self.recorded(finished.into(), settlement);
        }
        if conflicts {
            trace!(self, "conflict {offset}");
            self.auditor.conflicted(offset);
            let no_room = self.random.u32(0..3) == 0;
            return self.step(if no_room { Event::NoRoom(finished.item) } else { Event::Conflicted(finished.item) });
        }
        self.recorded(vec![finished], settlement);
    }

    /// Settles the acks of a run, and gives items of it back that did not run.
    fn settle_acked(&mut self, index: usize, rest: Vec<Item>) {
        if !rest.is_empty() {
            for item in &rest {
                trace!(self, "return {}", item.message.offset);
                self.auditor.returned(item.message.offset);
            }
            self.step(Event::Returned(rest));
        }
        let mut finished = std::mem::take(&mut self.runs[index].acked);
        if !finished.is_empty() {
            let settlement = self.dispatcher.record(&mut finished, self.now_ms);
            self.recorded(finished, settlement);
        }
    }

    fn recorded(&mut self, finished: Vec<Finished>, settlement: Settlement) {
        trace!(self, "settle {settlement:?}");
        let entry = self.journal.settle(settlement);
        let terms = Terms {
            policy: &self.policy,
            uncharged_reruns_max: self.bounds.uncharged_reruns_max,
            breaker_closed: self.dispatcher.gate.breaker.is_closed(),
            now_ms: self.now_ms,
        };
        for call in &finished {
            let version = call.digest.0[0];
            self.auditor.recorded(entry, call, self.rolled_back.contains(&version), &terms);
        }
        self.step(Event::Settled(finished));
    }

    fn outcome(&mut self) -> Outcome {
        let reason = || "r".to_owned();
        let after = if self.random.bool() { None } else { Some(Duration::from_millis(self.random.u64(0..300))) };
        match self.random.u32(0..if self.outage { 6 } else { 16 }) {
            0..2 => Outcome::Retry { reason: reason(), after },
            2 => Outcome::Unavailable { reason: reason(), after },
            3 => Outcome::Trapped { report: reason() },
            4 => Outcome::Reject { reason: reason() },
            5 => Outcome::TopicFull { topic: TopicName::any("full").unwrap(), bytes: 9, bytes_max: 9 },
            _ => Outcome::Acked,
        }
    }

    /// Synced dead letters that no command is about.
    fn some_letters(&mut self) -> Vec<Offset> {
        let free = self.journal.synced.dead.keys().filter(|offset| !self.busy_letters.contains_key(offset));
        let mut letters: Vec<_> = free.copied().collect();
        self.random.shuffle(&mut letters);
        letters.truncate(self.random.usize(1..4));
        letters
    }

    fn redrive(&mut self) {
        let letters = self.some_letters();
        if !letters.is_empty() {
            self.redrive_letters(letters);
        }
    }

    fn redrive_letters(&mut self, letters: Vec<Offset>) {
        trace!(self, "redrive {letters:?}");
        let letter =
            |offset: &Offset| (self.journal.message(*offset).clone(), self.journal.synced.dead[offset].clone());
        let rows = letters.iter().map(letter).collect();
        self.command(&letters, Event::Redriven(rows));
        for offset in letters {
            self.auditor.redriven(self.busy_letters[&offset], offset);
        }
    }

    fn drop_letters(&mut self) {
        let letters = self.some_letters();
        if !letters.is_empty() {
            self.drop_these(letters);
        }
    }

    fn drop_these(&mut self, letters: Vec<Offset>) {
        trace!(self, "drop {letters:?}");
        self.command(&letters, Event::Dropped(letters.clone()));
        for offset in letters {
            self.auditor.dropped(self.busy_letters[&offset], offset);
        }
    }

    /// Carries out a command about dead letters; they are let go when it is synced.
    fn command(&mut self, letters: &[Offset], event: Event<'_>) {
        self.step(event);
        let entry = self.journal.sequenced_to();
        self.busy_letters.extend(letters.iter().map(|offset| (*offset, entry)));
    }

    /// The manifest changed, as its edge tells it.
    fn reload(&mut self) {
        let order = match self.random.u32(0..3) {
            0 => *self.random.choice(&[Order::Key, Order::Topic, Order::None]).unwrap(),
            _ => self.policy.order,
        };
        self.policy = policy(&mut self.random, order);
        self.auditor.reordered(order);
        let old = self.dispatcher.selection().clone();
        if self.random.bool() {
            trace!(self, "reload {:?}", self.policy);
            let event =
                Event::Configured { policy: self.policy.clone(), selection: old, untold: 0, skipped_unread: 0, end: 0 };
            let entry = self.step_with(event, None);
            return self.auditor.configured(entry, &self.policy);
        }
        let end = self.journal.end();
        let held_from = |filter: TopicFilter| {
            let before = old.filters.iter().find(|(one, _)| *one == filter);
            before.cloned().unwrap_or((filter, end))
        };
        let mut new = Selection::new(filters(&mut self.random).into_iter().map(held_from).collect());
        // A topic that the filters before took and the new ones take keeps its messages.
        for topic in TOPICS {
            if let (Some(before), Some(after)) = (old.from_offset(topic), new.from_offset(topic))
                && before < after
            {
                new.filters.push((TopicFilter::parse(topic).unwrap(), before));
            }
        }
        let (cursor, passed) = self.dispatcher.reading_from();
        let gaps = passed.gaps_from(cursor, end);
        let unread = |selection: &Selection| self.journal.unread_in(&self.journal.sequenced, selection, &gaps);
        let skipped_unread = unread(&old) - unread(&new);
        let untold = self.journal.count(&old, self.dispatcher.known_end(), end);
        let record = SubscriptionRecord { selection: new.clone(), ..self.journal.sequenced.record.clone() };
        trace!(self, "reload {:?} {record:?}, {untold} untold, {skipped_unread} skipped", self.policy);
        let policy = self.policy.clone();
        let event = Event::Configured { policy, selection: new.clone(), untold, skipped_unread, end };
        let entry = self.step_with(event, Some(record));
        self.auditor.reselected(end, entry, new);
        self.auditor.configured(entry, &self.policy);
    }

    fn set_active(&mut self, active: bool) {
        trace!(self, "active: {active}");
        self.active = active;
        self.dispatcher.set_version(active.then_some(digest(self.version)));
        self.rolled_back.remove(&self.version);
        self.step(Event::Tick);
    }

    /// The time comes that the dispatcher waits for.
    fn timer(&mut self) {
        if let Some(due_ms) = self.dispatcher.next_due_ms() {
            self.now_ms = self.now_ms.max(due_ms);
            trace!(self, "the time is {}", self.now_ms);
            self.step(Event::Tick);
        }
    }

    /// The process ends, and another one begins with what is durable.
    fn crash(&mut self) {
        self.journal.crash();
        let entry = self.journal.sync(0);
        self.auditor.crashed(entry, |offset| self.journal.synced.position.contains(offset));
        self.forget_hands();
        self.reload_dispatcher();
        let active = self.random.u32(0..4) > 0;
        self.set_active(active);
    }

    /// Nobody works on anything or waits for an answer any more.
    fn forget_hands(&mut self) {
        self.asked.clear();
        self.answers.clear();
        self.runs.clear();
        self.busy_letters.clear();
        self.rolled_back.clear();
    }

    /// A dispatcher begins with what is durable.
    fn reload_dispatcher(&mut self) {
        let loaded = self.journal.load();
        let end = self.journal.end();
        let unread = self.journal.unread(&self.journal.synced);
        trace!(self, "loaded: {unread} unread to {end}, {loaded:?}");
        self.told = end;
        let seed = self.random.u64(..);
        self.dispatcher = Dispatcher::load_bounded(&loaded, Policy::default(), unread, end, seed, self.bounds);
        let (policy, selection) = (self.policy.clone(), loaded.record.selection);
        let event = Event::Configured { policy, selection, untold: 0, skipped_unread: 0, end: 0 };
        let entry = self.step_with(event, None);
        self.auditor.configured(entry, &self.policy);
    }
}

fn policy(random: &mut Rng, order: Order) -> Policy {
    let backoff = Backoff {
        initial: Duration::from_millis(random.u64(0..50)),
        factor: 2.0,
        max: Duration::from_millis(400),
        jitter: *random.choice(&[0.0, 1.0]).unwrap(),
    };
    let on_exhausted = *random.choice(&[OnExhausted::DeadLetter, OnExhausted::ParkKey, OnExhausted::Park]).unwrap();
    let retry = RetryPolicy { max_attempts: random.u32(1..5), backoff, on_exhausted };
    let breaker = random.bool().then(|| BreakerPolicy {
        failures: random.u32(2..4),
        pause: Duration::from_millis(random.u64(1..200)),
        pause_max: Duration::from_millis(400),
    });
    let per = Duration::from_secs(*random.choice(&[1, 60, 3_600]).unwrap());
    let rate = (random.u32(0..4) == 0).then(|| Rate { count: random.u32(1..100), per });
    let concurrency = random.u32(1..6);
    Policy { order, retry, breaker, rate, concurrency, ..Policy::default() }
}

fn digest(version: u8) -> Digest {
    Digest([version; 32])
}

/// Some filters, at least one.
fn filters(random: &mut Rng) -> Vec<TopicFilter> {
    let mut filters = FILTERS.map(|filter| TopicFilter::parse(filter).unwrap()).to_vec();
    random.shuffle(&mut filters);
    filters.truncate(random.usize(1..4));
    filters
}
