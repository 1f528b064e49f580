//! What is recorded of deliveries: counters, and a row for what is in retry, held or dead.

use std::sync::Arc;

use super::{KeyHash, SubscriptionId};
use crate::message::{Event, Message, Millis, Offset, Sequence, TopicId};
use crate::outcome::{Attempt, DeadReason, Excuse, History};

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
