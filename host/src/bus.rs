//! The bus as its edges see it: what HTTP, the command line and deployments may ask of it.

use std::sync::Arc;

use serde::Serialize;

use crate::log::{CommitError, ReadError};
use crate::message::{Event, Millis, Offset, Sequence, SharedMessage};

/// An event was accepted, and is synced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Accepted {
    pub topic: String,
    pub sequence: Sequence,
    pub offset: Offset,
    pub id: String,
    pub source: String,
}

/// Why a publish was refused. Nothing of it was stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    #[error("the data of the message for `{topic}` has {bytes} bytes; at most {bytes_max} are accepted")]
    TooLarge { topic: String, bytes: usize, bytes_max: usize },
    #[error("the attributes of the message for `{topic}` have {bytes} bytes; at most {bytes_max} are accepted")]
    AttributesTooLarge { topic: String, bytes: usize, bytes_max: usize },
    #[error("a batch holds {messages} messages; at most {messages_max} are accepted")]
    TooManyMessages { messages: usize, messages_max: usize },
    #[error("the batch has {bytes} bytes; at most {bytes_max} are accepted")]
    BatchTooLarge { bytes: usize, bytes_max: usize },
    /// The disk is nearly full.
    #[error("{free_bytes} bytes are free on the data folder's disk; below {min_bytes} no message is accepted")]
    NoRoom { free_bytes: u64, min_bytes: u64 },
    /// More is waiting for the disk than may; try again shortly.
    #[error("{unsynced_bytes} bytes wait to be synced")]
    Busy { unsynced_bytes: usize },
    /// The bus is shutting down, or its log failed: the message was not accepted.
    #[error("the bus is stopping, and accepts no message")]
    Stopping,
}

impl From<CommitError> for PublishError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::NoRoom { free_bytes, min_bytes } => Self::NoRoom { free_bytes, min_bytes },
            CommitError::Busy { unsynced_bytes } => Self::Busy { unsynced_bytes },
            CommitError::Stopped => Self::Stopping,
            CommitError::Conflict { .. } | CommitError::StaleEpoch { .. } | CommitError::NameTaken { .. } => {
                unreachable!("a publish expects nothing: {error}")
            }
        }
    }
}

/// Why a question or command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    #[error("there is no topic `{topic}`")]
    UnknownTopic { topic: String },
    #[error("there is no subscription `{subscription}`")]
    UnknownSubscription { subscription: String, known: Vec<String> },
    #[error("there is no dead letter `{id}`")]
    UnknownDeadLetter { id: String },
    #[error("subscription `{subscription}` is declared by `{manifest}`; remove it there first")]
    StillDeclared { subscription: String, manifest: String },
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the bus is stopping")]
    Stopping,
}

/// A subscription as people see it.
#[derive(Clone, Debug, Serialize)]
pub struct SubscriptionView {
    pub name: String,
    pub consumer: String,
    pub topics: Vec<String>,
    /// `active`, or `orphaned` where its consumer's files are gone.
    pub status: SubscriptionStatus,
    pub created_ms: Millis,
    /// The digest of the component it runs, if any.
    pub digest: Option<String>,
    pub order: &'static str,
    pub concurrency: u32,
    pub max_attempts: u32,
    pub matched: u64,
    pub pending: u64,
    pub dead: u64,
    pub acked: u64,
    pub expired: u64,
    pub skipped: u64,
    pub reopened: u64,
    pub redriven: u64,
    /// Dead letters ever made, by reason.
    pub died: Vec<(&'static str, u64)>,
    /// Age in seconds of the oldest pending message; 0 where none is pending.
    pub oldest_pending_seconds: f64,
    /// Why every pending message waits. The counts add up to `pending`.
    pub waiting: Waiting,
    /// The offset below which everything is passed.
    pub floor: Offset,
    /// Calls by outcome since the bus started.
    pub outcomes: Vec<(&'static str, u64)>,
    pub instances: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SubscriptionStatus {
    Active,
    Orphaned,
}

/// The named reasons to wait, in messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// A call is running.
    pub running: u64,
    /// It could run now and waits for a worker or a slot.
    pub runnable: u64,
    /// It waits for its retry to become due.
    pub due_later: u64,
    /// When the next retry is due.
    pub next_due_ms: Option<Millis>,
    /// It waits behind another message of its key.
    pub behind_key: u64,
    /// It is in the log, past what the dispatcher holds in memory.
    pub behind_window: u64,
    /// Its consumer's files are gone.
    pub orphaned: u64,
}

/// A topic as people see it.
#[derive(Clone, Debug, Serialize)]
pub struct TopicView {
    pub name: String,
    pub messages: u64,
    pub last_sequence: Sequence,
    pub last_offset: Offset,
    pub bytes: u64,
    pub created_ms: Millis,
    /// Names of the subscriptions that take it.
    pub subscriptions: Vec<String>,
}

/// A dead letter as people see it. Its id is `SUBSCRIPTION:OFFSET`.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetterView {
    pub id: String,
    pub subscription: String,
    pub reason: &'static str,
    pub died_ms: Millis,
    pub topic: String,
    pub sequence: Sequence,
    pub offset: Offset,
    pub accepted_ms: Millis,
    pub key: Option<String>,
    pub message_id: String,
    pub source: String,
    pub redrives: u32,
    /// Attempts made since the first delivery, uncharged and omitted ones included.
    pub attempts_total: u64,
    pub attempts: Vec<AttemptView>,
    /// Where the message itself is asked for; absent in lists.
    #[serde(skip)]
    pub message: Option<SharedMessage>,
}

#[derive(Clone, Debug, Serialize)]
pub struct AttemptView {
    pub at_ms: Millis,
    pub duration_us: u64,
    pub outcome: &'static str,
    pub text: String,
    pub digest: String,
    pub charged: bool,
}

/// Which dead letters a command means. All given parts must hold.
#[derive(Clone, Debug, Default)]
pub struct DeadLetterFilter {
    pub subscription: Option<String>,
    /// Ids as `SUBSCRIPTION:OFFSET`.
    pub ids: Vec<String>,
}

/// A consumer as people see it.
#[derive(Clone, Debug, Serialize)]
pub struct PluginView {
    pub name: String,
    /// `running`, `failed` (nothing runs), or `orphaned` (its files are gone).
    pub status: &'static str,
    /// What runs.
    pub digest: Option<String>,
    pub deployed_ms: Option<Millis>,
    pub subscriptions: Vec<String>,
    pub publish: Vec<String>,
    /// Why the files in the plugin folder are not what runs, if they are not.
    pub problem: Option<String>,
}

/// Whether the bus can serve.
#[derive(Clone, Debug, Serialize)]
pub struct Readiness {
    pub ready: bool,
    pub reason: Option<String>,
}

/// The events of one publish, accepted or refused as one.
pub type Publish = Vec<Event>;

/// The bus. Cheap to clone; all clones are the same bus.
#[derive(Clone)]
pub struct Bus {
    #[allow(dead_code)]
    inner: Arc<()>,
}

impl Bus {
    /// Publishes events, all or none of them, and answers once they are synced.
    pub async fn publish(&self, _events: Publish) -> Result<Vec<Accepted>, PublishError> {
        unimplemented!()
    }

    pub fn topics(&self) -> Vec<TopicView> {
        unimplemented!()
    }

    /// Synced messages of a topic from a sequence on, at most `limit`.
    pub fn messages(&self, _topic: &str, _from: Sequence, _limit: usize) -> Result<Vec<SharedMessage>, BusError> {
        unimplemented!()
    }

    /// Synced messages of a topic filter from an offset on (the end where `None`), as they become so.
    pub fn tail(&self, _filter: crate::topic::TopicFilter, _from: Option<Offset>) -> Tail {
        unimplemented!()
    }

    pub fn subscriptions(&self) -> Vec<SubscriptionView> {
        unimplemented!()
    }

    pub fn subscription(&self, _name: &str) -> Result<SubscriptionView, BusError> {
        unimplemented!()
    }

    /// Removes an orphaned subscription with its account and dead letters.
    pub async fn remove_subscription(&self, _name: &str) -> Result<(), BusError> {
        unimplemented!()
    }

    /// Dead letters after an id, in the order of subscription and offset.
    pub fn dead_letters(
        &self,
        _filter: &DeadLetterFilter,
        _after: Option<&str>,
        _limit: usize,
    ) -> Result<Vec<DeadLetterView>, BusError> {
        unimplemented!()
    }

    pub fn dead_letter(&self, _id: &str) -> Result<DeadLetterView, BusError> {
        unimplemented!()
    }

    /// Offers dead letters again to the subscriptions they failed in. Answers how many, once that is synced.
    pub async fn redrive(&self, _filter: &DeadLetterFilter) -> Result<u64, BusError> {
        unimplemented!()
    }

    /// Drops dead letters; they count as skipped. Answers how many, once that is synced.
    pub async fn drop_dead_letters(&self, _filter: &DeadLetterFilter) -> Result<u64, BusError> {
        unimplemented!()
    }

    pub fn plugins(&self) -> Vec<PluginView> {
        unimplemented!()
    }

    pub fn readiness(&self) -> Readiness {
        unimplemented!()
    }

    /// Figures of the moment, in the Prometheus text format.
    pub fn metrics(&self) -> String {
        unimplemented!()
    }
}

/// Messages as they are synced. Reads the log at its reader's pace, so a slow reader costs no memory.
pub struct Tail {}

impl Tail {
    /// The next messages, at least one; waits for them. `None` where the bus stops.
    pub async fn next(&mut self) -> Option<Result<Vec<SharedMessage>, ReadError>> {
        unimplemented!()
    }
}
