//! A log in memory that obeys the seam: what is committed is sequenced at once and synced later, in one
//! order, and a crash leaves what was synced. It is strict where the real log trusts its dispatchers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::log::position::Position;
use crate::log::{
    Batch, Counts, DeadRow, HeldAt, HeldRow, LoadedRetry, LoadedSubscription, Parks, RetryRow, Selection, Settlement,
    SubscriptionId, SubscriptionRecord,
};
use crate::message::{Event, Message, Millis, Offset, SharedMessage, TopicId};

/// Counts what was committed, from 1.
pub(super) type Entry = u64;

/// One subscription's account.
#[derive(Clone)]
pub(super) struct Account {
    pub(super) id: SubscriptionId,
    pub(super) record: SubscriptionRecord,
    pub(super) position: Position,
    pub(super) counts: Counts,
    pub(super) retries: BTreeMap<Offset, Arc<RetryRow>>,
    pub(super) held: BTreeMap<HeldAt, Arc<HeldRow>>,
    pub(super) dead: BTreeMap<Offset, Arc<DeadRow>>,
    pub(super) parks: BTreeMap<Offset, Parks>,
}

#[expect(clippy::large_enum_variant, reason = "a test has few of them")]
enum Change {
    Append,
    /// What is settled, and the record that changes with it.
    Settle(Settlement, Option<SubscriptionRecord>),
    /// A seek, or another subscription of the same name, with the account that it leaves.
    Replace(Box<Account>),
}

pub(super) struct Journal {
    row_offsets_max: usize,
    /// Whether every account is checked as a whole, which takes time with all that it holds.
    pub(super) checks: bool,
    /// A message's index is its offset.
    messages: Vec<SharedMessage>,
    /// The account with everything that is sequenced.
    pub(super) sequenced: Account,
    /// The account as a crash would leave it.
    pub(super) synced: Account,
    unsynced: VecDeque<Change>,
    last_synced: Entry,
    end: Offset,
}

impl Journal {
    pub(super) fn new(selection: Selection, row_offsets_max: usize) -> Self {
        let account = Account::new(SubscriptionId(7), selection, 0);
        Self {
            row_offsets_max,
            checks: true,
            messages: Vec::new(),
            sequenced: account.clone(),
            synced: account,
            unsynced: VecDeque::new(),
            last_synced: 0,
            end: 0,
        }
    }

    pub(super) fn append(&mut self, event: Event, now_ms: Millis) {
        self.store(event, now_ms);
        self.unsynced.push_back(Change::Append);
    }

    fn store(&mut self, event: Event, accepted_ms: Millis) {
        let offset = self.messages.len() as Offset;
        let message = Message { offset, sequence: offset + 1, topic_id: TopicId(0), accepted_ms, event };
        self.messages.push(Arc::new(message));
    }

    /// Whether a settlement is of the subscription that there is, and of its time.
    pub(super) fn accepts(&self, settlement: &Settlement) -> bool {
        let account = &self.sequenced;
        (settlement.subscription, settlement.epoch) == (account.id, account.record.epoch)
    }

    /// The messages that events of the bus's own say have died, in their order; what is not synced included.
    pub(super) fn told(&self) -> impl Iterator<Item = Offset> {
        let own = self.messages.iter().filter(|message| message.event.topic.as_str().starts_with('$'));
        own.map(|message| {
            let subject = message.event.subject.as_deref().expect("it says what it is about");
            subject.strip_prefix("model:").and_then(|offset| offset.parse().ok()).expect("it names a dead letter")
        })
    }

    /// Another subscription of the same name, and nothing of the one before.
    pub(super) fn begin_anew(&mut self, selection: Selection, from: Offset) {
        self.sequenced = Account::new(SubscriptionId(self.sequenced.id.0 + 1), selection, from);
        self.unsynced.push_back(Change::Replace(Box::new(self.sequenced.clone())));
    }

    pub(super) fn settle(&mut self, settlement: Settlement) -> Entry {
        self.commit(settlement, None)
    }

    /// One transaction: what is settled, and the record that changes with it.
    pub(super) fn commit(&mut self, settlement: Settlement, record: Option<SubscriptionRecord>) -> Entry {
        assert!(self.accepts(&settlement), "{settlement:?} is of another subscription or time");
        self.sequenced.apply(&settlement, record.as_ref(), self.row_offsets_max);
        if self.checks {
            self.sequenced.check(&format!("{settlement:?}"));
        }
        let died_ms = settlement.dead.iter().filter_map(|(_, row)| Some(row.as_ref()?.died_ms)).max();
        for event in &settlement.events {
            self.store(event.clone(), died_ms.expect("an event tells of a dead letter"));
        }
        self.unsynced.push_back(Change::Settle(settlement, record));
        self.sequenced_to()
    }

    /// A seek, with everything synced that was sequenced before it.
    pub(super) fn seek(
        &mut self,
        record: SubscriptionRecord,
        position: Position,
        counts: Counts,
        dead: Vec<(Offset, Arc<DeadRow>)>,
        parks: Vec<(Offset, Parks)>,
    ) -> Entry {
        assert!(self.unsynced.is_empty(), "a seek stands on what is synced");
        assert_eq!(record.epoch, self.sequenced.record.epoch + 1);
        let account = &mut self.sequenced;
        (account.record, account.position, account.counts) = (record, position, counts);
        account.retries.clear();
        account.held.clear();
        account.dead.extend(dead);
        account.parks.extend(parks);
        account.check("a seek");
        self.unsynced.push_back(Change::Replace(Box::new(account.clone())));
        self.sequenced_to()
    }

    /// The last entry that is sequenced.
    pub(super) fn sequenced_to(&self) -> Entry {
        self.last_synced + self.unsynced.len() as Entry
    }

    /// Syncs the first `count` of what is sequenced. Answers up to where all is durable now.
    pub(super) fn sync(&mut self, count: usize) -> Entry {
        for change in self.unsynced.drain(..count) {
            self.last_synced += 1;
            match change {
                Change::Append => self.end += 1,
                Change::Settle(settlement, record) => {
                    self.synced.apply(&settlement, record.as_ref(), self.row_offsets_max);
                    self.end += settlement.events.len() as Offset;
                }
                Change::Replace(account) => self.synced = *account,
            }
        }
        self.last_synced
    }

    pub(super) fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Forgets what was not synced.
    pub(super) fn crash(&mut self) {
        self.unsynced.clear();
        self.sequenced = self.synced.clone();
        self.messages.truncate(usize::try_from(self.end).unwrap());
    }

    /// The offset after the last synced message.
    pub(super) fn end(&self) -> Offset {
        self.end
    }

    /// Synced messages in `[from, to)`.
    pub(super) fn messages(&self, from: Offset, to: Offset) -> &[SharedMessage] {
        &self.messages[usize::try_from(from).unwrap()..usize::try_from(to.min(self.end)).unwrap()]
    }

    pub(super) fn message(&self, offset: Offset) -> &SharedMessage {
        assert!(offset < self.end, "only synced messages are asked for");
        &self.messages[usize::try_from(offset).unwrap()]
    }

    pub(super) fn read(&self, selection: &Selection, from: Offset, messages_max: usize, bytes_max: usize) -> Batch {
        let mut batch = Batch { messages: Vec::new(), next: self.end, end: self.end };
        let mut bytes = 0;
        for message in self.messages(from, self.end).iter().filter(|message| takes(selection, message)) {
            let full = batch.messages.len() >= messages_max || bytes + message.bytes() > bytes_max;
            if full && !batch.messages.is_empty() {
                batch.next = message.offset;
                break;
            }
            bytes += message.bytes();
            batch.messages.push(message.clone());
        }
        batch
    }

    /// How many synced messages in `[from, to)` the selection takes.
    pub(super) fn count(&self, selection: &Selection, from: Offset, to: Offset) -> u64 {
        let taken = |message: &&SharedMessage| takes(selection, message);
        if from < to.min(self.end) { self.messages(from, to).iter().filter(taken).count() as u64 } else { 0 }
    }

    /// Synced messages that an account's selection takes and its position has not passed.
    pub(super) fn unread(&self, account: &Account) -> u64 {
        self.unread_in(account, &account.record.selection, &account.position.gaps(self.end))
    }

    /// Synced messages in ranges that a selection takes and that an account does not pass over.
    pub(super) fn unread_in(&self, account: &Account, selection: &Selection, ranges: &[(Offset, Offset)]) -> u64 {
        let passed_over = |message: &Message| {
            message.offset < account.record.passes_dead_before && account.dead.contains_key(&message.offset)
        };
        let messages = ranges.iter().flat_map(|&(from, to)| self.messages(from, to.max(from)));
        messages.filter(|message| takes(selection, message) && !passed_over(message)).count() as u64
    }

    /// Messages that a subscription matched, by what is synced of the messages and sequenced of its account.
    pub(super) fn matched(&self) -> u64 {
        self.sequenced.counts.passed + self.unread(&self.sequenced)
    }

    pub(super) fn load(&self) -> LoadedSubscription {
        let account = &self.synced;
        let retries = account.retries.iter();
        let held = account.held.iter();
        LoadedSubscription {
            id: account.id,
            name: "model".to_owned(),
            record: account.record.clone(),
            position: account.position.clone(),
            counts: account.counts,
            retries: retries
                .map(|(&offset, row)| LoadedRetry {
                    offset,
                    due_ms: row.due_ms,
                    accepted_ms: row.accepted_ms,
                    key: row.key,
                    redrive: row.redrive,
                })
                .collect(),
            held: held.map(|(at, row)| (*at, waiting(row), row.accepted_ms)).collect(),
            parks: account.parks.iter().map(|(offset, parks)| (*offset, *parks)).collect(),
        }
    }
}

impl Account {
    fn new(id: SubscriptionId, selection: Selection, from: Offset) -> Self {
        let record = SubscriptionRecord {
            consumer: "model".to_owned(),
            selection,
            created_ms: 0,
            epoch: 3,
            passes_dead_before: 0,
            paused: false,
        };
        Self {
            id,
            record,
            position: Position::starting_at(from),
            counts: Counts::default(),
            retries: BTreeMap::new(),
            held: BTreeMap::new(),
            dead: BTreeMap::new(),
            parks: BTreeMap::new(),
        }
    }

    fn apply(&mut self, settlement: &Settlement, record: Option<&SubscriptionRecord>, row_offsets_max: usize) {
        for &(from, to) in &settlement.passed {
            assert!(from < to, "a range of the position is not empty");
            self.position.pass(from, to);
        }
        for (offset, row) in &settlement.retries {
            match row {
                Some(row) => drop(self.retries.insert(*offset, row.clone())),
                None => assert!(self.retries.remove(offset).is_some(), "no retry row of {offset} to remove"),
            }
        }
        for (offset, row) in &settlement.dead {
            match row {
                Some(row) => {
                    let before = self.dead.insert(*offset, row.clone());
                    if let Some(before) = before {
                        let same = (before.died_ms, &before.history) == (row.died_ms, &row.history);
                        assert!(row.excused.is_some() && same, "{offset} is dead already, {before:?}, and now {row:?}");
                    }
                }
                None => assert!(self.dead.remove(offset).is_some(), "no dead letter {offset} to remove"),
            }
        }
        for (at, row) in &settlement.held {
            match row {
                Some(row) => {
                    assert_eq!((at.subscription, at.first), (self.id, row.offsets[0]));
                    assert!(row.offsets.is_sorted_by(|a, b| a < b), "a row ascends: {row:?}");
                    assert!(row.offsets.len() <= row_offsets_max, "a row is bounded: {row:?}");
                    assert!((row.front as usize) < row.offsets.len(), "a row with nothing left is removed");
                    if let Some(old) = self.held.insert(*at, row.clone()) {
                        assert!(row.offsets.starts_with(&old.offsets), "a row only grows: {old:?} to {row:?}");
                        assert!(row.front >= old.front, "a row's front only advances: {old:?} to {row:?}");
                    }
                }
                None => assert!(self.held.remove(at).is_some(), "no held row {at:?} to remove"),
            }
        }
        for (offset, parks) in &settlement.parks {
            match parks {
                Some(parks) => assert_eq!(self.parks.insert(*offset, *parks), None, "{offset} parks already"),
                None => assert!(self.parks.remove(offset).is_some(), "{offset} parks nothing"),
            }
        }
        self.counts.apply(&settlement.counts);
        if let Some(record) = record {
            self.record = record.clone();
        }
    }

    fn check(&self, after: &str) {
        let alive = self.parks.keys().find(|offset| !self.dead.contains_key(offset));
        assert_eq!(alive, None, "only a dead letter parks, after {after}");
        assert!(self.counts.conserved(), "{:?} after {after}", self.counts);
        let rows = self.retries.len() as u64 + self.held.values().map(|row| u64::from(waiting(row))).sum::<u64>();
        assert_eq!(self.counts.rows, rows, "rows are counted as they are, after {after}");
        assert_eq!(self.counts.dead, self.dead.len() as u64, "dead letters are counted as they are");
        let mut places: Vec<Offset> = self.retries.keys().chain(self.dead.keys()).copied().collect();
        places.extend(self.held.values().flat_map(|row| &row.offsets[row.front as usize..]));
        places.sort_unstable();
        assert!(places.is_sorted_by(|a, b| a < b), "a message has one place: {places:?} after {after}");
        let passed_over = |offset| offset < self.record.passes_dead_before && self.dead.contains_key(&offset);
        let unpassed = places.iter().find(|offset| !self.position.contains(**offset) && !passed_over(**offset));
        assert_eq!(unpassed, None, "what has a row is passed, after {after}");
    }
}

pub(super) fn takes(selection: &Selection, message: &Message) -> bool {
    selection.from_offset(message.event.topic.as_str()).is_some_and(|from| from <= message.offset)
}

fn waiting(row: &HeldRow) -> u32 {
    u32::try_from(row.offsets.len()).unwrap() - row.front
}
