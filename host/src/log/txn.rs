//! Transactions: what is asked of the log as one step, and what it answers.

use std::sync::Arc;

use super::position::Position;
use super::removal::Removal;
use super::{
    Counts, DeadRow, Parks, PluginRecord, Settlement, StateRead, StateWrite, SubscriptionId, SubscriptionRecord,
    TxnNumber,
};
use crate::message::{Event, Millis, Offset, Sequence, TopicId};
use crate::topic::TopicName;

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
    /// The log found no room a moment ago, although its disk has some.
    #[error("the log's file cannot grow: {error}")]
    CannotGrow { error: String },
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

/// What an operator or a deployment changes, in the same order as everything else.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new subscription. Its id is assigned here, and reported by [`Log::load`](super::Log::load) and the result.
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
