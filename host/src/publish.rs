//! Publishing: from an event that ingress decoded to a message that is durable.

use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;

use crate::engine::Engine;
use crate::limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, MESSAGE_ATTRIBUTES_BYTES_MAX, UNSYNCED_BYTES_MAX};
use crate::log::{CommitError, LogFailure, Place, Txn};
use crate::message::{self, Event, Offset, Sequence};

/// How often a publisher waits for a sync to make room before it is told that the bus is busy.
const BUSY_SYNCS_MAX: u32 = 64;

/// An event was accepted, and is synced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Accepted {
    pub topic: String,
    #[serde(flatten)]
    pub place: AcceptedPlace,
    pub id: String,
    pub source: String,
    /// It came before, with the same topic, source and id: this is where the first one stands.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
}

/// Where an accepted event stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum AcceptedPlace {
    Message {
        sequence: Sequence,
        offset: Offset,
    },
    /// In the schedule, under this number, until it is due.
    Scheduled {
        scheduled: u64,
        deliver_at: String,
    },
}

impl From<Place> for AcceptedPlace {
    fn from(place: Place) -> Self {
        match place {
            Place::Message { offset, sequence } => Self::Message { sequence, offset },
            Place::Scheduled(at) => Self::Scheduled { scheduled: at.number, deliver_at: message::rfc3339(at.due_ms) },
        }
    }
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
    /// The log's file may not grow, whatever the disk has free.
    #[error("the log's file cannot grow: {error}")]
    CannotGrow { error: String },
    /// A topic holds as many bytes as it may, because its subscriptions did not come to settle them.
    #[error("topic `{topic}` is full: it holds {bytes} bytes of at most {bytes_max}, and this adds {more}")]
    TopicFull { topic: String, bytes: u64, bytes_max: u64, more: u64 },
    /// More is waiting for the disk than may; try again shortly.
    #[error("{unsynced_bytes} bytes wait to be synced")]
    Busy { unsynced_bytes: usize },
    /// The log failed after the message was handed to it. Nothing says that it is stored, and nothing that it is not.
    #[error("the log failed before the message was synced")]
    NotSynced,
    /// The bus has not looked at its consumers yet: nothing was stored.
    #[error("the bus is starting, and loads its consumers")]
    Starting,
    /// The bus is shutting down, or has no log now: nothing was stored.
    #[error("the bus is stopping, and accepts no message")]
    Stopping,
}

/// How long the log may take to say why it failed.
const FAILURE_PATIENCE: Duration = Duration::from_secs(1);

/// Refuses what is larger than the bus takes. Names were validated where the events were made.
pub(crate) fn check(events: &[Event], data_bytes_max: usize) -> Result<(), PublishError> {
    if events.len() > BATCH_MESSAGES_MAX {
        return Err(PublishError::TooManyMessages { messages: events.len(), messages_max: BATCH_MESSAGES_MAX });
    }
    let mut total = 0;
    for event in events {
        let topic = || event.topic.to_string();
        if event.data.len() > data_bytes_max {
            return Err(PublishError::TooLarge { topic: topic(), bytes: event.data.len(), bytes_max: data_bytes_max });
        }
        let bytes = event.attribute_bytes();
        if bytes > MESSAGE_ATTRIBUTES_BYTES_MAX {
            return Err(PublishError::AttributesTooLarge {
                topic: topic(),
                bytes,
                bytes_max: MESSAGE_ATTRIBUTES_BYTES_MAX,
            });
        }
        total += event.bytes();
    }
    // A single message is bounded by its own limit, which an operator may have raised.
    if events.len() > 1 && total > BATCH_BYTES_MAX {
        return Err(PublishError::BatchTooLarge { bytes: total, bytes_max: BATCH_BYTES_MAX });
    }
    Ok(())
}

/// Stores events, all or none of them, and answers once they are synced.
pub(crate) async fn publish(engine: &Engine, events: Vec<Event>) -> Result<Vec<Accepted>, PublishError> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<_> =
        events.iter().map(|event| (event.topic.to_string(), event.id.clone(), event.source.clone())).collect();
    wait_for_room(engine).await?;
    let (waiter, durable) = oneshot::channel();
    let txn = Txn { now_ms: engine.now_ms(), outside: true, appends: events, ..Txn::default() };
    let sequenced = engine.log.commit(txn, Some(waiter))?;
    let accepted = names.into_iter().zip(sequenced.placed).map(|((topic, id, source), placed)| Accepted {
        topic,
        place: placed.place.into(),
        id,
        source,
        duplicate: placed.duplicate,
    });
    // A dropped waiter means that the log failed before the message was durable: it was not accepted.
    match durable.await {
        Ok(()) => Ok(accepted.collect()),
        Err(_) => Err(not_synced(engine).await),
    }
}

/// What a publisher is told whose message was not synced. The log lets its waiters go before it says why
/// it failed, so the reason may be a moment away.
async fn not_synced(engine: &Engine) -> PublishError {
    let mut failure = engine.failure();
    let known = tokio::time::timeout(FAILURE_PATIENCE, failure.wait_for(Option::is_some)).await;
    match known.ok().and_then(Result::ok).as_deref() {
        // What does not fit is taken back as a whole: it is not stored.
        Some(Some(LogFailure::Full { error, .. })) => PublishError::CannotGrow { error: error.clone() },
        _ => PublishError::NotSynced,
    }
}

/// Makes a publisher wait while others' bytes are synced, in place of turning it away at once.
async fn wait_for_room(engine: &Engine) -> Result<(), PublishError> {
    if engine.log.unsynced_bytes() <= UNSYNCED_BYTES_MAX {
        return Ok(());
    }
    // Followed before the next look, so that no sync between the two goes unseen.
    let mut synced = engine.synced();
    for _ in 0..BUSY_SYNCS_MAX {
        if engine.log.unsynced_bytes() <= UNSYNCED_BYTES_MAX {
            return Ok(());
        }
        synced.changed().await.map_err(|_| PublishError::Stopping)?;
    }
    Err(PublishError::Busy { unsynced_bytes: engine.log.unsynced_bytes() })
}

impl From<CommitError> for PublishError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::NoRoom { free_bytes, min_bytes } => Self::NoRoom { free_bytes, min_bytes },
            CommitError::CannotGrow { error } => Self::CannotGrow { error },
            CommitError::Busy { unsynced_bytes } => Self::Busy { unsynced_bytes },
            CommitError::TopicFull { topic, bytes, bytes_max, more } => {
                Self::TopicFull { topic: topic.to_string(), bytes, bytes_max, more }
            }
            CommitError::Stopped => Self::Stopping,
            CommitError::Conflict { .. }
            | CommitError::StaleEpoch { .. }
            | CommitError::NameTaken { .. }
            | CommitError::StateFull { .. }
            | CommitError::StillNeeded { .. } => {
                unreachable!("a publish expects nothing: {error}")
            }
        }
    }
}
