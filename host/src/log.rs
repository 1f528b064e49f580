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

mod delivery;
pub mod disk;
mod plugins;
pub mod position;
pub mod redb_log;
pub mod removal;
mod selection;
pub mod sequencer;
mod state;
mod txn;

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::message::{Millis, Offset, Sequence, SharedMessage, TopicId};
use crate::topic::{TopicFilter, TopicName};
pub use delivery::{Counts, CountsDelta, DeadLetter, DeadRow, HeldAt, HeldRow, Parks, Redrive, RetryRow, Settlement};
pub use plugins::{
    Cause, Deployment, DueRefund, PluginRecord, PluginRecords, ProbationEnd, ProbationEnded, RolledBack,
};
use position::Position;
use removal::{Reach, Removal, Standing, Stretch};
pub use selection::{Selection, SubscriptionRecord};
pub use state::{ReadPin, StateEntries, StateRange, StateRead, StateSize, StateView, StateWrite};
pub use txn::{Change, CommitError, Place, Placed, Release, Scheduled, ScheduledAt, Sequenced, Txn};

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

/// How many bytes of messages topics may hold. Of several the first whose filter matches decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicCap {
    pub filter: TopicFilter,
    /// `None` sets no bound.
    pub bytes_max: Option<u64>,
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
    /// Messages that are still there, and their bytes as [`crate::message::Event::bytes`] counts them.
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
