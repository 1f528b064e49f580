//! Drives a dispatcher as its edges do, in an order that a seed decides.

macro_rules! trace {
    ($world:expr, $($part:tt)*) => {
        if let Some(trace) = &mut $world.trace {
            std::fmt::Write::write_fmt(trace, format_args!("{}\n", format_args!($($part)*))).unwrap();
        }
    };
}

mod gate;
mod letters;
mod manifest;
mod reading;
mod removal;
mod rest;
mod seeking;
mod working;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fastrand::Rng;

use manifest::{digest, filters, policy};
use reading::{Answer, Read};
use removal::Ghost;
use working::{Call, Run};

use crate::dispatch::{Action, Bounds, Dispatcher, Event};
use crate::log::{Selection, Settlement, SubscriptionRecord};
use crate::message::{Millis, Offset};
use crate::policy::{Order, Policy};
use crate::topic::TopicName;

use super::auditor::Auditor;
use super::journal::{Entry, Journal, takes};

const TOPICS: [&str; 3] = ["a.x", "a.y", "b"];
/// Versions of the consumer.
const VERSIONS: u8 = 3;
const KEYS: [Option<&str>; 5] = [None, Some("k0"), Some("k1"), Some("k2"), Some("k3")];

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
    ghosts: Vec<Ghost>,
    /// Topics that were taken away, each before an offset.
    removed: BTreeMap<&'static str, Offset>,
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
        let outage = random.u32(0..4) == 0;
        let mut world = Self {
            random,
            bounds,
            journal,
            dispatcher,
            auditor: Auditor::new(selection, order, 0),
            policy,
            active: false,
            version: 0,
            outage,
            rolled_back: BTreeSet::new(),
            now_ms: 1_000,
            told: 0,
            asked: Vec::new(),
            answers: Vec::new(),
            runs: Vec::new(),
            ghosts: Vec::new(),
            removed: BTreeMap::new(),
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
        match self.random.u32(0..113) {
            0..14 => self.publish(),
            14..24 => self.sync(),
            24..32 => self.tell(),
            32..42 => self.read(),
            42..52 => self.answer(),
            // A probe that does not begin is rare, and what follows from it is easily forgotten.
            52..64 if !self.dispatcher.gate.breaker.is_closed() && self.random.bool() => self.take_in_vain(),
            52..64 => self.take(),
            64..86 => (0..self.random.usize(1..5)).for_each(|_| self.work()),
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
            99 if self.random.bool() => self.seek(),
            // It is paused for a short part of its life, or little would happen in it.
            100..102 if self.dispatcher.is_paused() || self.random.u32(0..5) == 0 => self.pause(),
            100..102 => self.timer(),
            102 => self.deploy(),
            103 => self.roll_back(),
            104..106 => self.timer(),
            106 => self.outage = !self.outage,
            107..110 => self.haunt(),
            110 => self.remove_topic(),
            111 if self.random.u32(0..4) == 0 => self.remove_subscription(),
            112 if self.random.bool() => self.crash(),
            _ => self.work(),
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
            actions.insert(0, Action::Commit(Settlement::new(self.dispatcher.id(), self.dispatcher.epoch())));
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
        self.ghosts.clear();
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

    /// One that stands for a moment where another one comes at once.
    fn spare_dispatcher(&self) -> Dispatcher {
        Dispatcher::load_bounded(&self.journal.load(), Policy::default(), 0, 0, 0, self.bounds)
    }

    /// A dispatcher begins with what is durable.
    fn reload_dispatcher(&mut self) {
        let loaded = self.journal.load();
        let end = self.journal.end();
        let unread = self.journal.unread(&self.journal.synced);
        trace!(self, "loaded: {unread} unread to {end}, {loaded:?}");
        self.told = end;
        self.auditor.streak_ends();
        let seed = self.random.u64(..);
        self.dispatcher = Dispatcher::load_bounded(&loaded, Policy::default(), unread, end, seed, self.bounds);
        let (policy, selection) = (self.policy.clone(), loaded.record.selection);
        let event = Event::Configured { policy, selection, untold: 0, skipped_unread: 0, end: 0 };
        let entry = self.step_with(event, None);
        self.auditor.configured(entry, &self.policy);
    }
}
