//! A message on its way through a call, and how the call ended.

use std::sync::Arc;
use std::time::Duration;

use crate::limits::CONFLICTS_MAX;
use crate::log::{HeldAt, HeldRow, KeyHash, Redrive, RetryRow};
use crate::message::{Millis, Offset, SharedMessage};
use crate::outcome::{DeadReason, Digest, History, Outcome};
use crate::settle::Decision;

/// A message that can run.
#[derive(Debug)]
pub struct Item {
    pub message: SharedMessage,
    pub lane: Option<KeyHash>,
    pub origin: Origin,
    /// How often it conflicted since it was read: in a row, for everything else ends its stay.
    pub conflicts: u32,
}

/// Where a message stood before it ran; settling clears that place.
#[derive(Debug)]
pub enum Origin {
    /// In the window. Settling it passes `[covers_from, offset]`: also what lies between it and the
    /// message before, which is none of this subscription's.
    Window {
        covers_from: Offset,
    },
    Retry(Arc<RetryRow>),
    /// In a held row, at this index.
    Row {
        at: HeldAt,
        row: Arc<HeldRow>,
        index: u32,
    },
}

impl Item {
    /// Whether its next call is the only one of its consumer.
    pub fn runs_alone(&self) -> bool {
        self.conflicts >= CONFLICTS_MAX
    }

    /// Calls of it that were not charged, `unavailable` ones aside.
    pub fn reruns(&self) -> u32 {
        self.history().map_or(0, |history| history.reruns).saturating_add(self.conflicts)
    }

    /// Whether it failed since it was first offered or last redriven.
    pub fn has_failed(&self) -> bool {
        self.history().is_some_and(|history| history.failing_since_ms != 0)
    }

    /// What is known of earlier attempts; `None` where there were none.
    pub fn history(&self) -> Option<&History> {
        match &self.origin {
            Origin::Retry(row) => Some(&row.history),
            Origin::Window { .. } | Origin::Row { .. } => None,
        }
    }

    /// What its dead letter was, where it is redriven.
    pub fn redrive(&self) -> Option<Redrive> {
        match &self.origin {
            Origin::Retry(row) => row.redrive,
            Origin::Window { .. } | Origin::Row { .. } => None,
        }
    }
}

/// A call that ended.
#[derive(Debug)]
pub struct Finished {
    pub item: Item,
    pub outcome: Outcome,
    pub began_ms: Millis,
    pub duration: Duration,
    pub digest: Digest,
    /// Whether not the consumer failed, but the host could not make the call.
    pub of_host: bool,
    /// A dead letter whatever the outcome says, for a reason of the host's.
    pub forced: Option<DeadReason>,
    /// Set by [`super::Dispatcher::record`].
    pub decision: Option<Decision>,
}
