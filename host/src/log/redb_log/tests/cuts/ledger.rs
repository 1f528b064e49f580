//! What the log must hold after so many transactions, as naive maps; and the same as it is read from a log.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;

use super::super::{Bench, WIDE, selection};
use crate::log::{
    Change, Counts, DeadRow, HeldAt, HeldRow, Log as _, Parks, Place, PluginRecord, Release, RetryRow, Scheduled,
    Settlement, SubscriptionId, SubscriptionRecord, Txn,
};
use crate::message::{Event, Millis, Offset, Sequence, TopicId};

#[derive(Clone, Debug, Default, PartialEq)]
pub(in super::super) struct Ledger {
    /// Messages that are there.
    pub(super) messages: BTreeMap<Offset, Stored>,
    end: Offset,
    topics: BTreeMap<String, Topic>,
    /// By number.
    pub(super) scheduled: BTreeMap<u64, Scheduled>,
    state: BTreeMap<(String, String), Bytes>,
    pub(super) accounts: BTreeMap<String, Account>,
    plugins: BTreeMap<String, PluginRecord>,
}

#[derive(Clone, Debug, PartialEq)]
struct Topic {
    id: TopicId,
    last_sequence: Sequence,
    removed_before: Offset,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stored {
    pub(super) sequence: Sequence,
    pub(super) accepted_ms: Millis,
    pub(super) event: Event,
}

impl Stored {
    /// Whether subscriptions take it: they have `order.>` alone.
    pub(super) fn is_matched(&self) -> bool {
        self.event.topic.as_str().starts_with("order.")
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Account {
    pub(super) id: SubscriptionId,
    pub(super) record: SubscriptionRecord,
    /// Every offset below the end that its position passed.
    pub(super) passed: BTreeSet<Offset>,
    pub(super) counts: Counts,
    pub(super) retries: BTreeMap<Offset, Arc<RetryRow>>,
    pub(super) held: BTreeMap<HeldAt, Arc<HeldRow>>,
    pub(super) dead: BTreeMap<Offset, Arc<DeadRow>>,
    pub(super) parks: BTreeMap<Offset, Parks>,
}

impl Account {
    /// Whether it has a row for a message, of whatever kind.
    pub(super) fn has_row(&self, offset: Offset) -> bool {
        let is_held = self.held.values().any(|row| row.offsets.contains(&offset));
        self.retries.contains_key(&offset) || self.dead.contains_key(&offset) || is_held
    }

    fn settle(&mut self, settlement: &Settlement) {
        fn put<K: Ord + Copy, V: Clone>(rows: &mut BTreeMap<K, V>, changes: &[(K, Option<V>)]) {
            for (key, row) in changes {
                match row {
                    Some(row) => rows.insert(*key, row.clone()),
                    None => rows.remove(key),
                };
            }
        }
        for &(from, to) in &settlement.passed {
            self.passed.extend(from..to);
        }
        self.counts.apply(&settlement.counts);
        put(&mut self.retries, &settlement.retries);
        put(&mut self.held, &settlement.held);
        put(&mut self.dead, &settlement.dead);
        put(&mut self.parks, &settlement.parks);
    }
}

impl Ledger {
    pub(super) fn end(&self) -> Offset {
        self.end
    }

    pub(super) fn topic_id(&self, name: &str) -> Option<TopicId> {
        self.topics.get(name).map(|topic| topic.id)
    }

    /// A transaction happened; `stored` are those of its appends that are no duplicates, with their places, and `created` is
    /// the id of the subscription that it made.
    pub(super) fn apply(&mut self, txn: &Txn, stored: &[(Event, Place)], created: Option<SubscriptionId>) {
        for (event, place) in stored {
            match *place {
                Place::Scheduled(at) => {
                    let scheduled = Scheduled { at, accepted_ms: txn.now_ms, event: event.clone() };
                    self.scheduled.insert(at.number, scheduled);
                }
                Place::Message { offset, sequence } => {
                    let next = self.topics.get(event.topic.as_str()).map_or(1, |topic| topic.last_sequence + 1);
                    assert_eq!((offset, sequence), (self.end, next), "offsets and sequences are dense");
                    self.store(event, txn.now_ms);
                }
            }
        }
        for release in &txn.releases {
            let (Release::Due(scheduled) | Release::Cancelled(scheduled)) = release;
            self.scheduled.remove(&scheduled.at.number);
            if matches!(release, Release::Due(_)) {
                self.store(&scheduled.event, txn.now_ms);
            }
        }
        for write in &txn.writes {
            let key = (write.consumer.to_string(), write.key.clone());
            match &write.value {
                Some(value) => self.state.insert(key, value.clone()),
                None => self.state.remove(&key),
            };
        }
        for settlement in &txn.settlements {
            let account = self.accounts.values_mut().find(|account| account.id == settlement.subscription);
            account.expect("it is there").settle(settlement);
            for event in &settlement.events {
                self.store(event, txn.now_ms);
            }
        }
        for change in &txn.changes {
            self.change(change, created);
        }
    }

    fn store(&mut self, event: &Event, accepted_ms: Millis) {
        let id = TopicId(u32::try_from(self.topics.len()).expect("there are a few topics"));
        let new = Topic { id, last_sequence: 0, removed_before: 0 };
        let topic = self.topics.entry(event.topic.as_str().to_owned()).or_insert(new);
        topic.last_sequence += 1;
        // What is a message waits no longer.
        let event = Event { deliver_at_ms: None, ..event.clone() };
        self.messages.insert(self.end, Stored { sequence: topic.last_sequence, accepted_ms, event });
        self.end += 1;
    }

    fn change(&mut self, change: &Change, created: Option<SubscriptionId>) {
        let end = self.end;
        match change {
            Change::CreateSubscription { name, record, position } => {
                let account = Account {
                    id: created.expect("it has an id"),
                    record: record.clone(),
                    passed: (0..position.floor()).collect(),
                    counts: Counts::default(),
                    retries: BTreeMap::new(),
                    held: BTreeMap::new(),
                    dead: BTreeMap::new(),
                    parks: BTreeMap::new(),
                };
                self.accounts.insert(name.clone(), account);
            }
            Change::RemoveSubscription { id } => self.accounts.retain(|_, account| account.id != *id),
            Change::UpdateSubscription { id, record } => self.account(*id).record = record.clone(),
            Change::PauseSubscription { id, paused } => self.account(*id).record.paused = *paused,
            Change::Seek { id, record, position, counts, dead, parks } => {
                let account = self.account(*id);
                account.record = record.clone();
                account.passed = (0..end).filter(|offset| position.contains(*offset)).collect();
                account.counts = *counts;
                account.retries.clear();
                account.held.clear();
                account.dead.extend(dead.iter().cloned());
                account.parks.extend(parks.iter().cloned());
            }
            Change::SetPlugin { stem, record: Some(record) } => {
                self.plugins.insert(stem.clone(), record.clone());
            }
            Change::SetPlugin { stem, record: None } => {
                self.plugins.remove(stem);
            }
            Change::RemoveMessages(removal) => {
                for &(from, to) in &removal.ranges {
                    self.messages.retain(|offset, _| !(from..to).contains(offset));
                }
            }
            Change::RemoveTopic { topic: id, before } => {
                let topic = self.topics.values_mut().find(|topic| topic.id == *id).expect("it is there");
                topic.removed_before = topic.removed_before.max(*before);
            }
        }
    }

    fn account(&mut self, id: SubscriptionId) -> &mut Account {
        self.accounts.values_mut().find(|account| account.id == id).expect("it is there")
    }

    /// What a log holds, by all ways of reading it.
    pub(in super::super) fn of(bench: &Bench) -> Result<Self, Box<dyn Error>> {
        let log = &bench.log;
        let mut ledger = Self { end: log.end(), ..Self::default() };
        let mut next = 0;
        // Wildcards do not match what is the bus's own.
        let everything = selection(">,$dead-letters.*");
        while next < ledger.end {
            let batch = log.read(&everything, next, WIDE)?;
            next = batch.next;
            for message in batch.messages {
                let (sequence, accepted_ms) = (message.sequence, message.accepted_ms);
                ledger.messages.insert(message.offset, Stored { sequence, accepted_ms, event: message.event.clone() });
            }
        }
        for topic in log.topics() {
            let (id, last_sequence, removed_before) = (topic.id, topic.last_sequence, topic.removed_before);
            ledger.topics.insert(topic.name.as_str().to_owned(), Topic { id, last_sequence, removed_before });
        }
        for scheduled in log.scheduled(None, None, WIDE)? {
            ledger.scheduled.insert(scheduled.at.number, scheduled);
        }
        // One that is damaged is passed over, so that it keeps no other one waiting.
        if log.figures().scheduled_messages != ledger.scheduled.len() as u64 {
            return Err("a scheduled message that is counted cannot be read".into());
        }
        for (consumer, _) in log.state_sizes() {
            let entries = log.state_scan(&consumer, "", None, 1_000)?;
            for (key, value) in entries.entries {
                ledger.state.insert((consumer.clone(), key.to_string()), value);
            }
        }
        let loaded = log.load()?;
        for found in loaded.subscriptions {
            let mut retries = BTreeMap::new();
            for retry in &found.retries {
                let row = log.retry(found.id, retry.offset)?.ok_or("a retry row that is listed is not there")?;
                retries.insert(retry.offset, row);
            }
            let mut held = BTreeMap::new();
            for &(at, ..) in &found.held {
                held.insert(at, log.held(at)?.ok_or("a held row that is listed is not there")?);
            }
            let dead = log.dead_letters(Some(found.id), None, usize::MAX)?;
            let account = Account {
                id: found.id,
                record: found.record,
                passed: (0..ledger.end).filter(|offset| found.position.contains(*offset)).collect(),
                counts: found.counts,
                retries,
                held,
                dead: dead.into_iter().map(|letter| (letter.offset, letter.row)).collect(),
                parks: found.parks.into_iter().collect(),
            };
            ledger.accounts.insert(found.name, account);
        }
        ledger.plugins = loaded.plugins.into_iter().collect();
        Ok(ledger)
    }

    /// The promise, for what is in an account.
    pub(super) fn check(&self) {
        for (name, account) in &self.accounts {
            let counts = &account.counts;
            assert!(counts.conserved(), "{name}: {counts:?}");
            let held: usize = account.held.values().map(|row| row.offsets.len() - row.front as usize).sum();
            assert_eq!(counts.rows, (account.retries.len() + held) as u64, "{name}: a row for each pending message");
            assert_eq!(counts.dead, account.dead.len() as u64, "{name}: a dead letter for each dead message");
            let needed = account.retries.keys().chain(account.dead.keys());
            let needed = needed.chain(account.held.values().flat_map(|row| &row.offsets[row.front as usize..]));
            for offset in needed {
                assert!(self.messages.contains_key(offset), "{name}: the message at {offset} is needed");
                assert!(account.passed.contains(offset), "{name}: {offset} has a row and is not passed");
            }
        }
    }

    /// Where two differ, in a few words.
    pub(in super::super) fn difference(&self, found: &Self) -> String {
        let mut parts = Vec::new();
        if self.end != found.end {
            parts.push(format!("the end is {} and not {}", found.end, self.end));
        }
        if self.messages != found.messages {
            let offsets: BTreeSet<_> = self.messages.keys().chain(found.messages.keys()).collect();
            let other = offsets.into_iter().filter(|offset| self.messages.get(offset) != found.messages.get(offset));
            parts.push(format!("messages at {:?}", other.take(5).collect::<Vec<_>>()));
        }
        if self.scheduled != found.scheduled {
            parts.push(format!("scheduled {:?} and not {:?}", found.scheduled.keys(), self.scheduled.keys()));
        }
        if self.state != found.state {
            parts.push("state".to_owned());
        }
        for name in self.accounts.keys().chain(found.accounts.keys()).collect::<BTreeSet<_>>() {
            let (one, other) = (self.accounts.get(name), found.accounts.get(name));
            if one != other {
                let counts = |account: Option<&Account>| account.map(|account| account.counts);
                parts.push(format!("account {name}: {:?} and not {:?}", counts(other), counts(one)));
            }
        }
        if self.plugins != found.plugins || self.topics != found.topics {
            parts.push("plugins or topics".to_owned());
        }
        parts.join("; ")
    }
}
