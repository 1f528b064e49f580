//! What a seek makes of a subscription's account. Pure: the edge counts what lies where, and commits.
//!
//! Everything before the target is passed, and everything from it on is unread again, with fresh attempts.
//! Dead letters stay dead, and are passed over; what was being redriven returns to them.

use std::sync::Arc;

use crate::log::position::Position;
use crate::log::{Change, DeadRow, LoadedSubscription, Parks, Redrive, RetryRow, Selection, SubscriptionRecord};
use crate::message::{Message, Offset};

/// What lies where, of messages that are still there. *Taken* is what the selection before the seek takes.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Taken messages at or past the target, and those of them that the position has not passed.
    pub taken: u64,
    pub taken_in_gaps: u64,
    /// Unread messages before the target.
    pub unread_before: u64,
    /// Taken messages at or past the target that are dead and that the position has passed.
    pub dead_passed: u64,
    /// Messages in rows that are not redriven ones: at or past the target, taken or not, and before it.
    pub rows_taken: u64,
    pub rows_left: u64,
    pub rows_before: u64,
    /// Messages that are being redriven, and how many of them are at or past the target and taken.
    pub redriven: Vec<(Offset, Arc<DeadRow>, Option<Parks>)>,
    pub redriven_taken: u64,
    /// Messages that the selection after the seek takes at or past the target, and those of them that are
    /// dead then.
    pub taken_after: u64,
    pub dead_after: u64,
    /// Whether a dead letter is at or past the target, then.
    pub passes_dead: bool,
}

/// What a seek comes to, in messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sought {
    /// What is pending afterwards.
    pub pending: u64,
    /// Settled messages that are met again.
    pub reopened: u64,
    /// Held ones and ones in retry, that are met again with fresh attempts.
    pub restarted: u64,
    /// Pending ones before the target, which count as skipped.
    pub skipped: u64,
    /// Dead letters at or past the target, which stay what they are.
    pub passed_over: u64,
    /// Messages that were being redriven, and are dead letters again.
    pub returned: u64,
}

impl Survey {
    /// What the seek would come to.
    pub fn sought(&self) -> Sought {
        Sought {
            pending: self.taken_after.saturating_sub(self.dead_after),
            reopened: self.passed_again().saturating_sub(self.rows_taken),
            restarted: self.rows_taken,
            skipped: self.unread_before + self.rows_before + self.rows_left,
            passed_over: self.dead_after,
            returned: self.redriven.len() as u64,
        }
    }

    /// Messages that the position passed and passes no longer.
    fn passed_again(&self) -> u64 {
        // Counted while messages are settled, as for a preview, these may disagree a little.
        self.taken.saturating_sub(self.taken_in_gaps + self.dead_passed + self.redriven_taken)
    }

    /// The change that carries it out, on a subscription at a standstill. `end` is the log's end.
    pub fn change(self, before: &LoadedSubscription, target: Offset, end: Offset) -> Change {
        let sought = self.sought();
        let mut counts = before.counts;
        counts.passed = counts.passed + self.unread_before - self.passed_again();
        counts.rows = 0;
        counts.dead += sought.returned;
        counts.skipped += sought.skipped;
        counts.reopened += sought.reopened;
        let mut parks = Vec::new();
        let mut dead = Vec::new();
        for (offset, row, parked) in self.redriven {
            dead.push((offset, row));
            parks.extend(parked.map(|parked| (offset, parked)));
        }
        let record = SubscriptionRecord {
            selection: selection_from(&before.record.selection, target),
            epoch: before.record.epoch + 1,
            passes_dead_before: if self.passes_dead { end } else { 0 },
            ..before.record.clone()
        };
        Change::Seek { id: before.id, record, position: Position::starting_at(target), counts, dead, parks }
    }
}

/// What is taken after a seek: its filters reach back as far as the target.
pub fn selection_from(selection: &Selection, target: Offset) -> Selection {
    let filters = selection.filters.iter().map(|(filter, from)| (filter.clone(), (*from).min(target)));
    Selection { filters: filters.collect(), removed: selection.removed.clone() }
}

/// A message that was being redriven, as a dead letter again.
pub fn returned(message: &Message, row: &RetryRow, redrive: Redrive) -> Arc<DeadRow> {
    let Redrive { reason, died_ms, excused, .. } = redrive;
    Arc::new(DeadRow { excused, ..DeadRow::of(message, reason, died_ms, row.history.clone()) })
}
