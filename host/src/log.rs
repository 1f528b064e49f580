//! The log: what is durable. The one seam between what the host decides and what is recorded.
//!
//! A [`Txn`] is all or nothing, and is answered twice. *Sequenced*: its place and validity are decided,
//! and later reads of state and rows see it ([`Log::commit`] returns). *Synced*: it is durable (its
//! waiter is told, and [`Listener::synced`] hands out its messages). The log is one order: if a
//! transaction is durable, so is all before it.
//!
//! **Architecture invariant:** the log knows no claim, no lease and no plugin code. Delivery belongs to
//! `dispatch`; the log records what came of it. Nothing above this seam may assume redb, one process or
//! a shared clock.

pub mod disk;
mod plugins;
pub mod position;
pub mod redb_log;
pub mod removal;
pub mod sequencer;

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::message::{Event, Message, Millis, Offset, Sequence, SharedMessage, TopicId};
use crate::outcome::{Attempt, DeadReason, Excuse, History};
use crate::topic::{TopicFilter, TopicName};
use position::Position;

pub use plugins::{
    Cause, Deployment, DueRefund, PluginRecord, PluginRecords, ProbationEnd, ProbationEnded, RolledBack,
};
use removal::{Reach, Removal, Standing, Stretch};

/// Counts transactions in the order in which they were sequenced, from 1. Not kept over a restart.
pub type TxnNumber = u64;

/// A subscription's short name inside the log. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub u32);

/// A hash of a key. Two keys that collide are ordered together, which is stricter than promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub u64);

/// The seam. Every method may be called from any thread; none of them waits for a sync.
pub trait Log: Send + Sync + 'static {
    /// Begins to write and sync what is sequenced. Called once, after [`Log::load`].
    fn start(&self, listener: Arc<dyn Listener>);

    /// Sequences a transaction, or says why it has no effect at all. `on_synced` is answered when it is
    /// durable, or dropped unanswered if the log fails before.
    fn commit(&self, txn: Txn, on_synced: Option<SyncWaiter>) -> Result<Sequenced, CommitError>;

    /// Synced messages at or after `from` that `selection` takes, in order, within the bounds. At least
    /// one message is returned if there is any, however large.
    fn read(&self, selection: &Selection, from: Offset, bounds: ReadBounds) -> Result<Batch, ReadError>;

    /// The synced messages at these offsets, in this order.
    fn read_offsets(&self, offsets: &[Offset]) -> Result<Vec<SharedMessage>, ReadError>;

    /// How many synced messages in these ranges, each `[from, to)` and ascending, the selection takes. A
    /// range may reach past the end.
    fn count(&self, selection: &Selection, ranges: &[(Offset, Offset)]) -> Result<u64, ReadError>;

    /// The retry row of one message, sequenced ones included.
    fn retry(&self, subscription: SubscriptionId, offset: Offset) -> Result<Option<Arc<RetryRow>>, ReadError>;

    /// A row of held messages, sequenced ones included.
    fn held(&self, at: HeldAt) -> Result<Option<Arc<HeldRow>>, ReadError>;

    /// Synced dead letters of one subscription (of all where it is `None`) after `after`, in the order
    /// of (subscription, offset), at most `limit`.
    fn dead_letters(
        &self,
        subscription: Option<SubscriptionId>,
        after: Option<(SubscriptionId, Offset)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ReadError>;

    /// One synced dead letter.
    fn dead_letter(&self, subscription: SubscriptionId, offset: Offset) -> Result<Option<DeadLetter>, ReadError>;

    /// Keeps what validation needs for calls that read state from now on. A call takes the pin before
    /// its first read, and gives it up after its transaction was sequenced.
    fn pin(&self) -> ReadPin;

    /// The value of a state key, sequenced writes included, and the transaction number it was read at.
    fn state_get(&self, consumer: &str, key: &str) -> Result<(Option<Bytes>, TxnNumber), ReadError>;

    /// Up to `limit` entries whose keys begin with `prefix` and come after `after`.
    fn state_scan(
        &self,
        consumer: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<StateEntries, ReadError>;

    /// Bytes that a consumer's state may take on for sure, with what is sequenced.
    fn state_room(&self, consumer: &str) -> u64;

    /// Whether these writes would find room now; [`CommitError::StateFull`] where not.
    fn check_state(&self, writes: &[StateWrite]) -> Result<(), CommitError>;

    /// What every consumer's state holds, as of the last sync, by consumer.
    fn state_sizes(&self) -> Vec<(String, StateSize)>;

    /// The state as of the last sync, unchanged for as long as it is held.
    fn state_view(&self) -> Box<dyn StateView>;

    /// All topics, by id, as of the last sync.
    fn topics(&self) -> Vec<TopicInfo>;

    /// One topic, as of the last sync.
    fn topic(&self, name: &str) -> Option<TopicInfo>;

    /// The sequence and offset of a topic's first message that is still there, as of the last sync.
    fn first_retained(&self, topic: TopicId) -> Result<Option<(Sequence, Offset)>, ReadError>;

    /// Where synced messages of topics are stored that all stand below an offset, which is given for each
    /// topic. In order, from `from` on, at most `limit`.
    fn stretches(&self, topics: &[(TopicId, Offset)], from: Offset, limit: usize) -> Result<Vec<Stretch>, ReadError>;

    /// The synced messages that stand in a stretch, in order.
    fn survey(&self, stretch: Stretch) -> Result<Vec<Standing>, ReadError>;

    /// The offsets in stretches, which are in order, of which a subscription has a synced row: messages in
    /// retry, held or dead. Ascending.
    fn pinned(&self, stretches: &[Stretch]) -> Result<Vec<Offset>, ReadError>;

    /// What each subscription takes, and how far it has come, as of the last sync.
    fn reaches(&self) -> Result<Vec<Reach>, ReadError>;

    /// The offset of a topic's message, or of the first one after it that is there.
    fn locate(&self, topic: &str, sequence: Sequence) -> Result<Offset, ReadError>;

    /// The offset of the first message accepted at or after a time; the end if there is none.
    fn offset_at(&self, time_ms: Millis) -> Result<Offset, ReadError>;

    /// The offset after the last synced message.
    fn end(&self) -> Offset;

    /// Synced messages that wait for their time: in the order of it, those after `after`, and where
    /// `until_ms` is given those that are due by then.
    fn scheduled(
        &self,
        after: Option<ScheduledAt>,
        until_ms: Option<Millis>,
        bounds: ReadBounds,
    ) -> Result<Vec<Scheduled>, ReadError>;

    /// One synced message that waits for its time.
    fn scheduled_at(&self, number: u64) -> Result<Option<Scheduled>, ReadError>;

    /// The bus's id at the acceptance of a message: part of every idempotency key.
    fn bus_id(&self, offset: Offset) -> uuid::Uuid;

    /// Everything that a dispatcher is rebuilt from.
    fn load(&self) -> Result<Loaded, ReadError>;

    /// The same of one subscription, as of the last sync.
    fn load_subscription(&self, id: SubscriptionId) -> Result<Option<LoadedSubscription>, ReadError>;

    /// Bytes that are sequenced and not yet synced; publishers wait where these are too many.
    fn unsynced_bytes(&self) -> usize;

    /// Figures for metrics.
    fn figures(&self) -> LogFigures;

    /// Syncs what is sequenced, answers its waiters and stops. Afterwards every commit is refused.
    fn close(&self);
}

/// Told of what became durable. Called from the writer's thread, which syncs nothing until it returns:
/// implementations hand over and return.
pub trait Listener: Send + Sync {
    /// All transactions up to `txn` are durable. `messages` are those that became so now, in order.
    fn synced(&self, txn: TxnNumber, messages: &[SharedMessage]);

    /// Messages that wait for their time became durable, or left the schedule.
    fn rescheduled(&self);

    /// The log can go no further. Nothing after the last `synced` is durable or ever will be.
    fn failed(&self, failure: LogFailure);
}

/// Why the log stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogFailure {
    /// There was no room: everything not synced is discarded, and the log can be opened again.
    #[error("no space left for {path}: {error}")]
    Full { path: String, error: String },
    /// A write or sync failed otherwise. What the disk holds is uncertain, so the service must end.
    #[error("{path} could not be written or synced: {error}")]
    Broken { path: String, error: String },
}

/// Told when a transaction is durable; dropped unanswered where it never will be.
pub type SyncWaiter = oneshot::Sender<()>;

/// One atomic step of the bus.
#[derive(Debug, Default)]
pub struct Txn {
    /// When the host decided it; messages are accepted at this time.
    pub now_ms: Millis,
    /// Whether the appends come from outside, and so are refused below the free-space watermark.
    pub outside: bool,
    /// Events to be stored, in this order. One that is not to be delivered yet goes into the schedule; one
    /// whose producer named it, and that came before, is not stored again.
    pub appends: Vec<Event>,
    /// Messages that leave the schedule. They are there: whoever takes them out does so one after the other.
    pub releases: Vec<Release>,
    /// What was read, to be validated. Any later write inside it is a conflict.
    pub reads: Vec<StateRead>,
    /// State to be written. Later ones win.
    pub writes: Vec<StateWrite>,
    /// What follows from outcomes, by subscription.
    pub settlements: Vec<Settlement>,
    /// What an operator or a deployment changes.
    pub changes: Vec<Change>,
}

/// A transaction was sequenced.
#[derive(Debug)]
pub struct Sequenced {
    pub txn: TxnNumber,
    /// Where each append stands, in the order of the appends.
    pub placed: Vec<Placed>,
    /// The ids of the subscriptions it created, in the order of the changes.
    pub created: Vec<SubscriptionId>,
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    pub place: Place,
    /// Whether it is the place of an event that came before with the same topic, source and id: then
    /// nothing was stored.
    pub duplicate: bool,
}

/// Where an event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the log.
    Message { offset: Offset, sequence: Sequence },
    /// In the schedule, until it is due.
    Scheduled(ScheduledAt),
}

impl Placed {
    /// Offset and sequence, where it is in the log.
    pub fn message(&self) -> Option<(Offset, Sequence)> {
        match self.place {
            Place::Message { offset, sequence } => Some((offset, sequence)),
            Place::Scheduled(_) => None,
        }
    }
}

/// A place in the schedule. Numbers are those of acceptance, from 1, and never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScheduledAt {
    pub due_ms: Millis,
    pub number: u64,
}

/// A message that waits for its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduled {
    pub at: ScheduledAt,
    pub accepted_ms: Millis,
    pub event: Event,
}

/// How a message leaves the schedule.
#[derive(Clone, Debug)]
pub enum Release {
    /// It is due: it becomes a message.
    Due(Scheduled),
    /// An operator takes it out.
    Cancelled(Scheduled),
}

/// Why a transaction had no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// State that the transaction stands on was written after it was read.
    #[error("state of `{consumer}` that was read has changed meanwhile")]
    Conflict { consumer: String },
    /// The subscription was sought or removed after the call began.
    #[error("the subscription's epoch is {now:?}, not {expected}")]
    StaleEpoch { expected: u64, now: Option<u64> },
    /// A subscription of this name is there already.
    #[error("a subscription named `{name}` is there already")]
    NameTaken { name: String },
    /// A removal was planned before somebody began to need what it takes.
    #[error("subscription `{subscription}` still needs messages of `{topic}` that were to be removed")]
    StillNeeded { subscription: String, topic: String },
    /// Too little room is left on the disk to take messages from outside.
    #[error("{free_bytes} bytes are free on the data folder's disk; below {min_bytes} no message is accepted")]
    NoRoom { free_bytes: u64, min_bytes: u64 },
    /// More is waiting for the disk than may.
    #[error("{unsynced_bytes} bytes wait to be synced")]
    Busy { unsynced_bytes: usize },
    /// A topic holds as many bytes as it may.
    #[error("topic `{topic}` holds {bytes} bytes of at most {bytes_max}, and the messages for it have {more}")]
    TopicFull { topic: TopicName, bytes: u64, bytes_max: u64, more: u64 },
    /// A consumer's state, or that of all together (`whole`), holds as many bytes as it may.
    #[error(
        "the state of {} holds {bytes} bytes of at most {bytes_max}; delete what is not needed",
        if *whole { "all consumers together".to_owned() } else { format!("`{consumer}`") }
    )]
    StateFull { consumer: String, bytes: u64, bytes_max: u64, whole: bool },
    /// The log has stopped.
    #[error("the log has stopped")]
    Stopped,
}

/// How many bytes of messages topics may hold. Of several the first whose filter matches decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicCap {
    pub filter: TopicFilter,
    /// `None` sets no bound.
    pub bytes_max: Option<u64>,
}

/// A part of a consumer's state that a call read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRead {
    pub consumer: Arc<str>,
    pub range: StateRange,
    pub seen: TxnNumber,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateRange {
    Key(String),
    /// Keys that begin with `prefix`, come after `after`, and up to `through` where the scan was cut there.
    Scan {
        prefix: String,
        after: Option<String>,
        through: Option<String>,
    },
}

/// A state key's new value; `None` removes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateWrite {
    pub consumer: Arc<str>,
    pub key: String,
    pub value: Option<Bytes>,
}

/// What a consumer's state holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateSize {
    pub entries: u64,
    /// Of keys and values.
    pub bytes: u64,
}

/// The synced state of one moment.
pub trait StateView: Send + Sync {
    fn get(&self, consumer: &str, key: &str) -> Result<Option<Bytes>, ReadError>;

    /// Entries whose keys begin with `prefix` and come after `after`, in order: at most `entries_max`, and none
    /// further once they have `bytes_max` bytes.
    fn page(
        &self,
        consumer: &str,
        prefix: &str,
        after: Option<&str>,
        entries_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<(String, Bytes)>, ReadError>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateEntries {
    pub entries: Vec<(String, Bytes)>,
    pub seen: TxnNumber,
}

/// Keeps recent writes for validation until it is dropped.
pub struct ReadPin {
    release: Option<Box<dyn FnOnce() + Send>>,
}

impl ReadPin {
    pub fn new(release: impl FnOnce() + Send + 'static) -> Self {
        Self { release: Some(Box::new(release)) }
    }
}

impl Drop for ReadPin {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            release();
        }
    }
}

/// What one subscription records. A difference, applied in the order of sequencing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    pub subscription: SubscriptionId,
    /// The epoch that the decision stands on.
    pub epoch: u64,
    /// Ranges of offsets, each `[from, to)`, that the position passes: settled here, moved to a row of
    /// their own, or not matched at all.
    pub passed: Vec<(Offset, Offset)>,
    /// Changes of the counters.
    pub counts: CountsDelta,
    /// Retry rows put, or removed where `None`.
    pub retries: Vec<(Offset, Option<Arc<RetryRow>>)>,
    /// Held rows put, or removed where `None`. The subscription in `HeldAt` is this one.
    pub held: Vec<(HeldAt, Option<Arc<HeldRow>>)>,
    /// Dead letters put, or removed where `None`. One that is there already is replaced.
    pub dead: Vec<(Offset, Option<Arc<DeadRow>>)>,
    /// What dead letters hold back from now on, or no longer where `None`.
    pub parks: Vec<(Offset, Option<Parks>)>,
    /// Events of the bus's own that tell of this, to be stored with it. They are few and small, and are
    /// never refused for want of room: what they tell of must be recorded.
    pub events: Vec<Event>,
}

impl Settlement {
    pub fn new(subscription: SubscriptionId, epoch: u64) -> Self {
        Self {
            subscription,
            epoch,
            passed: Vec::new(),
            counts: CountsDelta::default(),
            retries: Vec::new(),
            held: Vec::new(),
            dead: Vec::new(),
            parks: Vec::new(),
            events: Vec::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.passed.is_empty()
            && self.counts == CountsDelta::default()
            && self.retries.is_empty()
            && self.held.is_empty()
            && self.dead.is_empty()
            && self.parks.is_empty()
            && self.events.is_empty()
    }
}

/// Durable counters of one subscription. Conserved at all times:
/// `passed = rows + dead + acked + expired + skipped - reopened`, and
/// `matched = passed + unread`, where unread are the messages that the selection takes and the position
/// has not passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Matched messages that the position passed.
    pub passed: u64,
    /// Of those, pending ones: they have a retry row or stand in a held row.
    pub rows: u64,
    /// Dead letters now.
    pub dead: u64,
    pub acked: u64,
    pub expired: u64,
    pub skipped: u64,
    pub reopened: u64,
    /// Dead letters ever made, by [`DeadReason`].
    pub died: [u64; DeadReason::ALL.len()],
    /// Redrives ever made.
    pub redriven: u64,
}

/// A change of [`Counts`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CountsDelta {
    pub passed: i64,
    pub rows: i64,
    pub dead: i64,
    pub acked: i64,
    pub expired: i64,
    pub skipped: i64,
    pub reopened: i64,
    pub died: [i64; DeadReason::ALL.len()],
    pub redriven: i64,
}

impl Counts {
    /// Applies a change. Counters never fall below zero: that would be a bug of ours.
    pub fn apply(&mut self, delta: &CountsDelta) {
        let add = |count: &mut u64, change: i64| {
            *count = count.checked_add_signed(change).expect("a counter never falls below zero");
        };
        add(&mut self.passed, delta.passed);
        add(&mut self.rows, delta.rows);
        add(&mut self.dead, delta.dead);
        add(&mut self.acked, delta.acked);
        add(&mut self.expired, delta.expired);
        add(&mut self.skipped, delta.skipped);
        add(&mut self.reopened, delta.reopened);
        for (count, change) in self.died.iter_mut().zip(delta.died) {
            add(count, change);
        }
        add(&mut self.redriven, delta.redriven);
    }

    /// Whether the counters account for every passed message.
    pub fn conserved(&self) -> bool {
        self.passed + self.reopened == self.rows + self.dead + self.acked + self.expired + self.skipped
    }
}

/// A message that waits for another attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryRow {
    pub due_ms: Millis,
    pub accepted_ms: Millis,
    /// The key that it holds back, if it has one.
    pub key: Option<KeyHash>,
    /// Where it was a dead letter that is offered again.
    pub redrive: Option<Redrive>,
    pub history: History,
}

/// A message that was dead, and is offered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redrive {
    /// What its dead letter said.
    pub reason: DeadReason,
    pub died_ms: Millis,
    pub excused: Option<Excuse>,
    /// What it held back.
    pub parks: Option<Parks>,
}

impl Redrive {
    /// Whether all else of its subscription waits until it is settled.
    pub fn leads(&self) -> bool {
        self.parks == Some(Parks::Subscription)
    }
}

/// What a dead letter holds back until it is redriven or dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parks {
    /// The other messages of its key.
    Key(KeyHash),
    /// All other messages of its subscription.
    Subscription,
}

/// Where a row of held messages stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeldAt {
    pub subscription: SubscriptionId,
    pub key: KeyHash,
    /// The row's first offset. Rows of one key do not overlap, and are drained in this order.
    pub first: Offset,
}

/// Messages of one key that wait behind a message in retry, packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldRow {
    /// Ascending, at most [`crate::limits::HELD_ROW_OFFSETS_MAX`].
    pub offsets: Vec<Offset>,
    /// How many at the front no longer wait here.
    pub front: u32,
    /// When the first one was accepted.
    pub accepted_ms: Millis,
}

/// A dead letter as it is stored; the message itself stays in its block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadRow {
    pub reason: DeadReason,
    pub died_ms: Millis,
    pub accepted_ms: Millis,
    pub topic: TopicId,
    pub sequence: Sequence,
    /// The message's key, id and source: what lists show, and choose by, without reading the message.
    pub key: Option<String>,
    pub message_id: String,
    pub source: String,
    pub history: History,
    /// Set where it turned out later that not the message is at fault.
    pub excused: Option<Excuse>,
}

impl DeadRow {
    pub fn of(message: &Message, reason: DeadReason, died_ms: Millis, history: History) -> Self {
        Self {
            reason,
            died_ms,
            accepted_ms: message.accepted_ms,
            topic: message.topic_id,
            sequence: message.sequence,
            key: message.event.key.clone(),
            message_id: message.event.id.clone(),
            source: message.event.source.clone(),
            history,
            excused: None,
        }
    }

    /// The attempt that failed last, if one was made.
    pub fn last_attempt(&self) -> Option<&Attempt> {
        self.history.attempts.last()
    }

    /// Bytes that it occupies, closely enough for bounds.
    pub fn bytes(&self) -> usize {
        let attempts = self.history.attempts.iter().map(|attempt| size_of::<Attempt>() + attempt.text.len());
        let key = self.key.as_ref().map_or(0, String::len);
        size_of::<Self>() + key + self.message_id.len() + self.source.len() + attempts.sum::<usize>()
    }
}

/// A dead letter with its place.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    pub subscription: SubscriptionId,
    pub offset: Offset,
    pub row: Arc<DeadRow>,
}

/// What an operator or a deployment changes, in the same order as everything else.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new subscription. Its id is assigned here, and reported by [`Log::load`] and the result.
    CreateSubscription { name: String, record: SubscriptionRecord, position: Position },
    /// Replaces the record of a subscription; position and counters stay.
    UpdateSubscription { id: SubscriptionId, record: SubscriptionRecord },
    /// Moves a subscription, of which all that was sequenced is synced: its retry and held rows go, and its
    /// account is this one. The record's epoch is one more than before.
    Seek {
        id: SubscriptionId,
        record: SubscriptionRecord,
        position: Position,
        counts: Counts,
        /// Dead letters that are put, and what they hold back.
        dead: Vec<(Offset, Arc<DeadRow>)>,
        parks: Vec<(Offset, Parks)>,
    },
    /// Holds a subscription back, or no longer.
    PauseSubscription { id: SubscriptionId, paused: bool },
    /// Deletes the subscription, its rows and its account.
    RemoveSubscription { id: SubscriptionId },
    /// Records what a consumer runs, or forgets it where `None`.
    SetPlugin { stem: String, record: Option<PluginRecord> },
    /// Takes a topic away: nobody needs its messages before an offset any more, but for those in rows.
    RemoveTopic { topic: TopicId, before: Offset },
    /// Takes messages out of the log.
    RemoveMessages(Removal),
}

/// What is kept of a subscription besides its account. The policy is the manifest's, not the log's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionRecord {
    /// The consumer's file stem.
    pub consumer: String,
    pub selection: Selection,
    pub created_ms: Millis,
    /// Raised by seek and remove.
    pub epoch: u64,
    /// An unread message before it that has a dead letter is passed over: a seek left it behind.
    pub passes_dead_before: Offset,
    /// Whether an operator holds it back.
    pub paused: bool,
}

/// The messages that a subscription takes: those whose topic matches one of the filters, each from an
/// offset of its own on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    pub filters: Vec<(TopicFilter, Offset)>,
    /// Topics that were taken away by command, each with the offset before which none of it is taken.
    pub removed: Vec<(TopicName, Offset)>,
}

impl Selection {
    pub fn new(filters: Vec<(TopicFilter, Offset)>) -> Self {
        Self { filters, removed: Vec::new() }
    }

    /// All messages of one topic, and of no other.
    pub fn of_topic(topic: &TopicName) -> Self {
        let filter = TopicFilter::parse(topic.as_str()).expect("the name of a topic is a filter that takes it");
        Self::new(vec![(filter, 0)])
    }

    /// The offset from which messages of a topic are taken, or `None` where no filter matches.
    pub fn from_offset(&self, topic: &str) -> Option<Offset> {
        let from = self.filters.iter().filter(|(filter, _)| filter.matches(topic)).map(|(_, from)| *from).min()?;
        let removed = self.removed.iter().find(|(name, _)| name.as_str() == topic);
        Some(removed.map_or(from, |(_, before)| from.max(*before)))
    }
}

#[derive(Clone, Copy, Debug)]
pub struct ReadBounds {
    pub messages_max: usize,
    pub bytes_max: usize,
}

/// Messages that were read, and where to go on.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub messages: Vec<SharedMessage>,
    /// Everything before this offset was looked at. Equal to `end` where all was read.
    pub next: Offset,
    /// The offset after the last synced message at the time of the read.
    pub end: Offset,
}

#[derive(Clone, Debug)]
pub struct TopicInfo {
    pub id: TopicId,
    pub name: TopicName,
    pub created_ms: Millis,
    /// The sequence of its newest message; also how many were ever published to it.
    pub last_sequence: Sequence,
    pub last_offset: Offset,
    /// Messages that are still there, and their bytes as [`Event::bytes`] counts them.
    pub messages: u64,
    pub bytes: u64,
    /// The offset after the last message of it that was removed; from there on none is missing.
    pub gaps_end: Offset,
    /// It was taken away by command, with all its messages before this offset.
    pub removed_before: Offset,
}

/// What the log holds when a bus starts.
#[derive(Debug, Default)]
pub struct Loaded {
    pub subscriptions: Vec<LoadedSubscription>,
    pub plugins: PluginRecords,
}

#[derive(Debug)]
pub struct LoadedSubscription {
    pub id: SubscriptionId,
    pub name: String,
    pub record: SubscriptionRecord,
    pub position: Position,
    pub counts: Counts,
    /// Due time, accepted time and key of every retry row; histories stay in the log.
    pub retries: Vec<LoadedRetry>,
    /// Every held row: how many still wait there, and since when.
    pub held: Vec<(HeldAt, u32, Millis)>,
    /// What its dead letters hold back.
    pub parks: Vec<(Offset, Parks)>,
}

#[derive(Clone, Copy, Debug)]
pub struct LoadedRetry {
    pub offset: Offset,
    pub due_ms: Millis,
    pub accepted_ms: Millis,
    pub key: Option<KeyHash>,
    pub redrive: Option<Redrive>,
}

/// Why something could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// A stored value does not match its checksum or cannot be decoded.
    #[error("damaged: {what} in table `{table}`")]
    Damaged { table: &'static str, what: String },
    /// The message was removed.
    #[error("the message at offset {offset} is no longer retained")]
    Removed { offset: Offset },
    /// A message is not there, and no removal recorded it.
    #[error("damaged: the message at offset {offset} is missing")]
    Missing { offset: Offset },
    #[error("there is no topic `{topic}`")]
    UnknownTopic { topic: String },
    #[error("the log could not be read: {error}")]
    Io { error: String },
}

/// Figures of the moment.
#[derive(Clone, Debug, Default)]
pub struct LogFigures {
    pub syncs: u64,
    /// How long commits took, sync included: upper bounds in seconds, and how many were at most that.
    pub sync_seconds: Vec<(f64, u64)>,
    pub sync_seconds_sum: f64,
    pub unsynced_bytes: u64,
    pub recent_bytes: u64,
    pub file_bytes: u64,
    pub free_bytes: u64,
    /// The watermark below which publishes are refused.
    pub free_bytes_min: u64,
    pub appended_messages: u64,
    pub appended_bytes: u64,
    /// Messages that retention took out since the start, and their bytes.
    pub removed_messages: u64,
    pub removed_bytes: u64,
    /// Bytes of all messages that are there.
    pub message_bytes: u64,
    pub accepting: bool,
    /// Messages that wait for their time.
    pub scheduled_messages: u64,
    /// How far back a second event of the same id is known for a duplicate, in milliseconds.
    pub dedupe_window_ms: Millis,
    /// Events since the start that were duplicates.
    pub duplicates: u64,
}
