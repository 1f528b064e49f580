//! What is done to the log before it is cut off: all that a transaction can hold, in an order that a seed decides.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::super::{Bench, event, options, record, sized};
use super::ledger::{Account, Ledger, Stored};
use crate::log::disk::faults::{FakeDisk, Hold, Step};
use crate::log::position::Position;
use crate::log::redb_log::open::open;
use crate::log::removal::Removal;
use crate::log::{
    Change, CommitError, DeadRow, HeldAt, HeldRow, KeyHash, Listener, Log as _, LogFailure, Parks, Place, PluginRecord,
    Redrive, Release, RetryRow, Scheduled, Settlement, StateWrite, SubscriptionRecord, Txn, TxnNumber,
};
use crate::message::{Event, Message, Millis, Offset, SharedMessage};
use crate::outcome::{Attempt, DeadReason, Digest, History, OutcomeKind};

/// All happens at one time, so that what came before stays known for a duplicate.
pub(super) const NOW_MS: Millis = 1_000;
const DUE_MS: Millis = 50_000;
const TRANSACTIONS: usize = 90;
const TOPICS: [&str; 3] = ["order.placed", "order.paid", "stock.low"];
const SUBSCRIPTIONS: [&str; 2] = ["email", "inventory"];
/// Transactions that are committed before any of them has to be synced.
const OUTSTANDING: usize = 6;

/// What happened on the disk, and what the log must hold at each time.
pub(in super::super) struct Lived {
    /// The disk as it was left, with the log closed.
    pub(in super::super) disk: FakeDisk,
    pub(in super::super) steps: Vec<Step>,
    /// From which step on the disk holds a log. One that is cut off before has no name yet, and is begun again.
    pub(super) begun: usize,
    /// After so many transactions.
    pub(in super::super) ledgers: Vec<Ledger>,
    /// How many steps the disk had made when so many transactions were answered.
    answered: Vec<(usize, TxnNumber)>,
    /// Events that their producers named, with their places and the transaction that stored them.
    names: Vec<(Event, Place, usize)>,
}

impl Lived {
    /// How many transactions were answered when the disk had made so many steps.
    pub(super) fn answered_by(&self, steps: usize) -> usize {
        let answered = self.answered.iter().rev().find(|(at, _)| *at <= steps);
        answered.map_or(0, |(_, txn)| usize::try_from(*txn).unwrap())
    }

    /// The newest named events that are there after so many transactions.
    pub(super) fn names_of(&self, txns: usize) -> impl Iterator<Item = (&Event, Place)> {
        let ledger = &self.ledgers[txns];
        let is_there = |place: &Place| match place {
            Place::Message { offset, .. } => ledger.messages.contains_key(offset),
            Place::Scheduled(at) => ledger.scheduled.contains_key(&at.number),
        };
        let stored = self.names.iter().filter(move |(_, place, txn)| *txn <= txns && is_there(place));
        stored.rev().take(2).map(|(event, place, _)| (event, *place))
    }
}

/// Remembers how far the disk was at each answer. The writer waits for it, and so has not gone on.
struct Answers {
    disk: FakeDisk,
    answered: Arc<Mutex<Vec<(usize, TxnNumber)>>>,
}

impl Listener for Answers {
    fn synced(&self, txn: TxnNumber, _: &[SharedMessage]) {
        self.answered.lock().unwrap().push((self.disk.step_count(), txn));
    }

    fn rescheduled(&self) {}

    fn failed(&self, failure: LogFailure) {
        panic!("the disk does not fail before it is cut off: {failure}");
    }
}

struct Workload {
    bench: Bench,
    random: fastrand::Rng,
    ledgers: Vec<Ledger>,
    names: Vec<(Event, Place, usize)>,
    taken: HashSet<(String, String)>,
    scheduled: Vec<Scheduled>,
    next_id: u64,
    waiting: Vec<oneshot::Receiver<()>>,
    disk: FakeDisk,
    /// While it is there, what is committed gathers: so groups are those of the seed, and not of the moment.
    hold: Option<Hold>,
}

/// Does it all, and answers what happened.
pub(in super::super) fn live(seed: u64) -> Lived {
    let disk = FakeDisk::recording();
    let folder = Arc::new(TempDir::new().unwrap());
    let log = open(&options(&folder), Some(disk.backend())).unwrap();
    let answered = Arc::default();
    log.start(Arc::new(Answers { disk: disk.clone(), answered: Arc::clone(&answered) }));
    let begun = disk.step_count();
    // What its listener is told goes to the answers.
    let bench = Bench { log, told: std::sync::mpsc::channel().1, folder };
    let mut workload = Workload {
        bench,
        random: fastrand::Rng::with_seed(seed),
        ledgers: vec![Ledger::default()],
        names: Vec::new(),
        taken: HashSet::new(),
        scheduled: Vec::new(),
        next_id: 0,
        waiting: Vec::new(),
        disk: disk.clone(),
        hold: None,
    };
    for name in SUBSCRIPTIONS {
        workload.subscribe(name, 0);
    }
    for _ in 0..TRANSACTIONS {
        workload.step();
    }
    workload.wait();
    workload.bench.log.close();
    let answered = answered.lock().unwrap().clone();
    Lived { steps: disk.steps(), disk, begun, ledgers: workload.ledgers, answered, names: workload.names }
}

impl Workload {
    fn ledger(&self) -> &Ledger {
        self.ledgers.last().expect("there is one of no transaction")
    }

    fn step(&mut self) {
        match self.random.u8(..100) {
            0..35 => self.publish(),
            35..80 => self.settle(),
            80..85 => self.release(),
            85..88 => self.seek(),
            88..90 => self.deploy(),
            90..92 => self.reconfigure(),
            92..94 => self.pause(),
            94..97 => self.remove(),
            97 => self.remove_topic(),
            _ => self.replace(),
        }
        if self.waiting.len() >= OUTSTANDING || self.random.u8(..4) == 0 {
            self.wait();
        }
    }

    /// Waits until all is synced.
    fn wait(&mut self) {
        self.hold = None;
        for waiting in self.waiting.drain(..) {
            waiting.blocking_recv().expect("it is synced");
        }
    }

    fn commit(&mut self, txn: Txn) {
        let copy = Txn {
            now_ms: txn.now_ms,
            outside: txn.outside,
            appends: txn.appends.clone(),
            releases: txn.releases.clone(),
            reads: Vec::new(),
            writes: txn.writes.clone(),
            settlements: txn.settlements.clone(),
            changes: txn.changes.clone(),
        };
        let is_first = self.waiting.is_empty();
        if is_first {
            self.hold = Some(self.disk.hold_syncs());
        }
        let (waiter, synced) = oneshot::channel();
        let sequenced = match self.bench.log.commit(txn, Some(waiter)) {
            Ok(sequenced) => sequenced,
            // A row needs what was to go: it was planned from what was synced.
            Err(CommitError::StillNeeded { .. }) => return,
            Err(error) => panic!("{error}"),
        };
        self.waiting.push(synced);
        if is_first {
            // The first one is a group of its own, and all after it are one.
            self.disk.await_held_sync();
        }
        let mut ledger = self.ledger().clone();
        let mut stored = Vec::new();
        for (event, placed) in copy.appends.iter().zip(&sequenced.placed) {
            let name = (event.topic.as_str().to_owned(), event.id.clone());
            let is_known = event.named && !self.taken.insert(name);
            assert_eq!(placed.duplicate, is_known, "{:?}", event.id);
            if is_known {
                continue;
            }
            stored.push((event.clone(), placed.place));
            if event.named {
                self.names.push((event.clone(), placed.place, self.ledgers.len()));
            }
            if let Place::Scheduled(at) = placed.place {
                self.scheduled.push(Scheduled { at, accepted_ms: copy.now_ms, event: event.clone() });
            }
        }
        ledger.apply(&copy, &stored, sequenced.created.first().copied());
        ledger.check();
        self.ledgers.push(ledger);
        assert_eq!(sequenced.txn as usize, self.ledgers.len() - 1, "transactions are counted from 1");
    }

    fn id(&mut self) -> String {
        self.next_id += 1;
        self.next_id.to_string()
    }

    fn event(&mut self) -> Event {
        let topic = TOPICS[self.random.usize(..TOPICS.len())];
        // Some are large, so that blocks and pages of all sizes come up.
        let bytes = if self.random.u8(..8) == 0 { 30_000 } else { self.random.usize(..600) };
        let id = self.id();
        let named = self.random.bool();
        let deliver_at_ms = (self.random.u8(..8) == 0).then_some(DUE_MS + self.random.u64(..100));
        Event { named, deliver_at_ms, key: Some(format!("k{}", self.random.u8(..3))), ..sized(topic, &id, bytes) }
    }

    fn publish(&mut self) {
        let mut appends: Vec<Event> = (0..self.random.usize(1..6)).map(|_| self.event()).collect();
        // Some come again.
        if self.random.bool()
            && let Some((event, ..)) = self.names.last()
        {
            appends.push(event.clone());
        }
        self.commit(Txn { now_ms: NOW_MS, outside: true, appends, ..Txn::default() });
    }

    fn release(&mut self) {
        // It leaves the schedule once it is durable.
        self.wait();
        if self.scheduled.is_empty() {
            return;
        }
        let scheduled = self.scheduled.swap_remove(self.random.usize(..self.scheduled.len()));
        let release = if self.random.u8(..3) == 0 {
            let name = (scheduled.event.topic.as_str().to_owned(), scheduled.event.id.clone());
            self.taken.remove(&name);
            self.names.retain(|(_, place, _)| *place != Place::Scheduled(scheduled.at));
            Release::Cancelled(scheduled)
        } else {
            self.names.retain(|(_, place, _)| *place != Place::Scheduled(scheduled.at));
            Release::Due(scheduled)
        };
        self.commit(Txn { now_ms: NOW_MS, releases: vec![release], ..Txn::default() });
    }

    fn any_account(&mut self) -> (String, Account) {
        let count = self.ledger().accounts.len();
        let index = self.random.usize(..count);
        let (name, account) = self.ledger().accounts.iter().nth(index).expect("there are some");
        (name.clone(), account.clone())
    }

    /// Something becomes of a message of some subscription, with effects where it is acknowledged.
    fn settle(&mut self) {
        let (name, account) = self.any_account();
        let mut settlement = Settlement::new(account.id, account.record.epoch);
        let mut txn = Txn { now_ms: NOW_MS, ..Txn::default() };
        let acked = match self.random.u8(..5) {
            0..3 => self.settle_next(&account, &mut settlement),
            3 => self.settle_pending(&account, &mut settlement),
            _ => self.settle_dead(&account, &mut settlement),
        };
        let Some(acked) = acked else { return };
        if acked {
            if self.random.bool() {
                txn.appends.push(self.event());
            }
            for _ in 0..self.random.usize(..3) {
                let key = format!("key-{}", self.random.u8(..6));
                let value = (self.random.u8(..4) > 0).then(|| Bytes::from(vec![b'v'; self.random.usize(1..2_000)]));
                txn.writes.push(StateWrite { consumer: name.as_str().into(), key, value });
            }
        }
        if !settlement.dead.is_empty() && self.random.bool() {
            let id = self.id();
            settlement.events.push(event(&format!("$dead-letters.{name}"), &id));
        }
        txn.settlements.push(settlement);
        self.commit(txn);
    }

    /// The next message that the subscription has not passed. None where there is none; true where it is acknowledged.
    fn settle_next(&mut self, account: &Account, settlement: &mut Settlement) -> Option<bool> {
        let end = self.bench.log.end();
        let from = (0..end).find(|offset| !account.passed.contains(offset))?;
        // They take `order.>` alone; what is none of it is passed on the way.
        let ledger = self.ledger();
        let is_matched = |offset: &Offset| ledger.messages.get(offset).is_some_and(Stored::is_matched);
        // After a seek, dead letters stand behind the gap that are passed already.
        let offset = (from..end).filter(|offset| !account.passed.contains(offset)).find(is_matched)?;
        settlement.passed.push((from, offset + 1));
        settlement.counts.passed = 1;
        Some(self.ends(account, offset, settlement, None))
    }

    /// A message in retry, or the front of a held row, is tried again.
    fn settle_pending(&mut self, account: &Account, settlement: &mut Settlement) -> Option<bool> {
        if self.random.bool()
            && let Some((at, row)) = account.held.first_key_value()
        {
            settlement.counts.rows = -1;
            settlement.counts.acked = 1;
            let front = row.front + 1;
            let left = (row.offsets.len() > front as usize).then(|| Arc::new(HeldRow { front, ..HeldRow::clone(row) }));
            settlement.held.push((*at, left));
            return Some(true);
        }
        let (offset, row) = account.retries.first_key_value()?;
        settlement.counts.rows = -1;
        settlement.retries.push((*offset, None));
        Some(self.ends(account, *offset, settlement, row.redrive))
    }

    /// A dead letter is redriven, or dropped.
    fn settle_dead(&mut self, account: &Account, settlement: &mut Settlement) -> Option<bool> {
        let (offset, row) = account.dead.first_key_value()?;
        let parks = account.parks.get(offset).copied();
        settlement.dead.push((*offset, None));
        settlement.counts.dead = -1;
        if parks.is_some() {
            settlement.parks.push((*offset, None));
        }
        if self.random.bool() {
            settlement.counts.skipped = 1;
        } else {
            settlement.counts.rows = 1;
            settlement.counts.redriven = 1;
            let redrive = Redrive { reason: row.reason, died_ms: row.died_ms, excused: None, parks };
            settlement.retries.push((*offset, Some(retry(row.history.clone(), Some(redrive)))));
        }
        Some(false)
    }

    /// How an attempt ends. True where it is acknowledged.
    fn ends(
        &mut self,
        account: &Account,
        offset: Offset,
        settlement: &mut Settlement,
        redrive: Option<Redrive>,
    ) -> bool {
        let history = self.history(redrive.is_some());
        match self.random.u8(..8) {
            0..4 => {
                settlement.counts.acked += 1;
                return true;
            }
            4..6 => {
                settlement.counts.rows += 1;
                settlement.retries.retain(|(at, _)| *at != offset);
                settlement.retries.push((offset, Some(retry(history, redrive))));
            }
            6 if redrive.is_none() && settlement.retries.is_empty() => self.hold(account, offset, settlement),
            _ => {
                settlement.counts.dead += 1;
                settlement.counts.died[DeadReason::Rejected as usize] += 1;
                let message = self.message(offset);
                let row = DeadRow::of(&message, DeadReason::Rejected, NOW_MS, history);
                settlement.dead.push((offset, Some(Arc::new(row))));
                if self.random.u8(..3) == 0 {
                    settlement.parks.push((offset, Some(Parks::Key(KeyHash(self.random.u64(..3))))));
                }
            }
        }
        false
    }

    /// The message joins the row of its key, or begins one.
    fn hold(&mut self, account: &Account, offset: Offset, settlement: &mut Settlement) {
        let key = KeyHash(self.random.u64(..3));
        settlement.counts.rows += 1;
        let last = account.held.iter().rev().find(|(at, row)| at.key == key && row.offsets.last() < Some(&offset));
        let (at, row) = match last {
            Some((at, row)) => {
                let mut row = HeldRow::clone(row);
                row.offsets.push(offset);
                (*at, row)
            }
            None => {
                let at = HeldAt { subscription: account.id, key, first: offset };
                (at, HeldRow { offsets: vec![offset], front: 0, accepted_ms: NOW_MS })
            }
        };
        settlement.held.push((at, Some(Arc::new(row))));
    }

    fn history(&mut self, is_redriven: bool) -> History {
        let mut history = History { charged: 1, redrives: u32::from(is_redriven), ..History::default() };
        history.record(Attempt {
            at_ms: NOW_MS,
            duration_us: self.random.u64(..10_000),
            outcome: OutcomeKind::Reject,
            text: "x".repeat(self.random.usize(..3_000)),
            digest: Digest([self.random.u8(..); 32]),
            charged: true,
        });
        history
    }

    fn message(&self, offset: Offset) -> Message {
        let Stored { sequence, accepted_ms, event } = self.ledger().messages[&offset].clone();
        let topic_id = self.ledger().topic_id(event.topic.as_str()).expect("it has a message");
        Message { offset, sequence, topic_id, accepted_ms, event }
    }

    /// Back to the beginning, or on to the end.
    fn seek(&mut self) {
        self.wait();
        let (_, account) = self.any_account();
        let end = self.bench.log.end();
        let mut counts = account.counts;
        // What is redriven is dead again; all other rows go.
        let (mut dead, mut parks) = (Vec::new(), Vec::new());
        for (offset, row) in &account.retries {
            let Some(redrive) = row.redrive else { continue };
            let again = DeadRow::of(&self.message(*offset), redrive.reason, redrive.died_ms, row.history.clone());
            dead.push((*offset, Arc::new(again)));
            parks.extend(redrive.parks.map(|parks| (*offset, parks)));
        }
        counts.dead += dead.len() as u64;
        let position = if self.random.bool() {
            // All is met again but the dead letters, which stay as they are.
            let mut position = Position::default();
            for offset in account.dead.keys().chain(dead.iter().map(|(offset, _)| offset)) {
                position.pass(*offset, offset + 1);
            }
            counts.passed = counts.dead;
            counts.reopened = counts.acked + counts.expired + counts.skipped;
            position
        } else {
            // What was not settled is passed over.
            let ledger = self.ledger();
            let is_matched = |offset: &Offset| ledger.messages.get(offset).is_some_and(Stored::is_matched);
            let unread = (0..end).filter(|offset| !account.passed.contains(offset)).filter(is_matched).count() as u64;
            counts.passed += unread;
            counts.skipped += unread + account.counts.rows - dead.len() as u64;
            Position::starting_at(end)
        };
        counts.rows = 0;
        let record = SubscriptionRecord { epoch: account.record.epoch + 1, ..account.record };
        let seek = Change::Seek { id: account.id, record, position, counts, dead, parks };
        self.commit(Txn { now_ms: NOW_MS, changes: vec![seek], ..Txn::default() });
    }

    /// A deployment changes what is kept of a subscription.
    fn reconfigure(&mut self) {
        let (_, account) = self.any_account();
        let record = SubscriptionRecord { consumer: self.id(), created_ms: NOW_MS, ..account.record };
        let change = Change::UpdateSubscription { id: account.id, record };
        self.commit(Txn { now_ms: NOW_MS, changes: vec![change], ..Txn::default() });
    }

    /// An operator takes a topic away, which is a mark: its messages go by retention.
    fn remove_topic(&mut self) {
        let ledger = self.ledger();
        let (topic, before) = (ledger.topic_id(TOPICS[2]), ledger.end());
        if let Some(topic) = topic {
            let change = Change::RemoveTopic { topic, before };
            self.commit(Txn { now_ms: NOW_MS, changes: vec![change], ..Txn::default() });
        }
    }

    fn deploy(&mut self) {
        let digest = Digest([self.random.u8(..); 32]);
        let record = (self.random.u8(..4) > 0).then(|| PluginRecord::new(digest, "x".repeat(700), NOW_MS));
        let change = Change::SetPlugin { stem: SUBSCRIPTIONS[self.random.usize(..2)].to_owned(), record };
        self.commit(Txn { now_ms: NOW_MS, changes: vec![change], ..Txn::default() });
    }

    fn pause(&mut self) {
        let (_, account) = self.any_account();
        let change = Change::PauseSubscription { id: account.id, paused: !account.record.paused };
        self.commit(Txn { now_ms: NOW_MS, changes: vec![change], ..Txn::default() });
    }

    /// Retention takes what nobody needs, oldest first.
    fn remove(&mut self) {
        self.wait();
        let topics: Vec<_> = self.bench.log.topics().iter().map(|topic| (topic.id, Offset::MAX)).collect();
        let stretches = self.bench.log.stretches(&topics, 0, usize::MAX).unwrap();
        let mut removal = Removal::default();
        let below = self.bench.log.end() / 2;
        for message in stretches.into_iter().flat_map(|stretch| self.bench.log.survey(stretch).unwrap()) {
            let is_needed =
                |account: &Account| !account.passed.contains(&message.offset) || account.has_row(message.offset);
            if message.offset < below && !self.ledger().accounts.values().any(is_needed) {
                removal.add(&message);
            }
        }
        if !removal.is_empty() {
            let changes = vec![Change::RemoveMessages(removal)];
            self.commit(Txn { now_ms: NOW_MS, changes, ..Txn::default() });
        }
    }

    /// A subscription goes, with its account, and another of its name begins at the end.
    fn replace(&mut self) {
        let (name, account) = self.any_account();
        let change = Change::RemoveSubscription { id: account.id };
        self.commit(Txn { now_ms: NOW_MS, changes: vec![change], ..Txn::default() });
        let end = self.ledger().end();
        self.subscribe(&name, end);
    }

    fn subscribe(&mut self, name: &str, from: Offset) {
        let position = Position::starting_at(from);
        let change = Change::CreateSubscription { name: name.to_owned(), record: record(), position };
        self.commit(Txn { now_ms: NOW_MS, changes: vec![change], ..Txn::default() });
    }
}

fn retry(history: History, redrive: Option<Redrive>) -> Arc<RetryRow> {
    Arc::new(RetryRow { due_ms: DUE_MS, accepted_ms: NOW_MS, key: Some(KeyHash(1)), redrive, history })
}
