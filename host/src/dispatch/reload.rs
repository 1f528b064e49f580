//! How a changed manifest is taken over, and how messages leave that it no longer takes.
//!
//! What waits in memory is skipped at once, and so is what was not read. Rows are looked at when their
//! turn comes. What a worker has gets a row of its own, for nothing else tells of it any more: it is settled
//! as it ends, or skipped where it comes back; should the process end before, the next one skips that row.

use std::sync::Arc;

use crate::log::{KeyHash, RetryRow, Selection, Settlement};
use crate::message::{Message, Offset};
use crate::outcome::History;
use crate::policy::{OnExhausted, Policy};

use super::intake::pass;
use super::item::{Item, Origin};
use super::window::Waiting;
use super::{Dispatcher, Ready};

impl Dispatcher {
    pub(super) fn configured(
        &mut self,
        policy: Policy,
        selection: Selection,
        skipped_unread: u64,
        settlement: &mut Settlement,
    ) {
        self.gate.configure(&policy);
        self.policy = policy;
        if self.policy.retry.on_exhausted == OnExhausted::DeadLetter {
            self.unpark_all(settlement);
        }
        if self.selection == selection {
            return;
        }
        self.selection = selection;
        // It is read for the old selection, and may pass over what the new one takes.
        self.fetch_is_stale = self.fetching;
        debug_assert!(skipped_unread <= self.unread, "what is skipped unread was counted");
        self.unread = self.unread.saturating_sub(skipped_unread);
        let skipped = i64::try_from(skipped_unread).expect("fewer messages than 2^63");
        settlement.counts.passed += skipped;
        settlement.counts.skipped += skipped;

        for entry in std::mem::take(&mut self.ready) {
            match entry {
                Ready::Loose(item) if !self.takes(&item.message) => self.skip(item, settlement),
                entry => self.ready.push_back(entry),
            }
        }
        for key in self.lanes.keys() {
            self.thin_out(key, settlement);
            self.wake_lane(key);
        }
        // All that is left in the window and not taken is at a worker.
        let left = self.window.iter().filter(|waiting| !self.takes(&waiting.message));
        for offset in left.map(|waiting| waiting.message.offset).collect::<Vec<_>>() {
            self.give_row(offset, settlement);
        }
    }

    /// Moves a message of the window that a worker has to a row of its own.
    fn give_row(&mut self, offset: Offset, settlement: &mut Settlement) {
        let Waiting { message, lane, covers_from } = self.window.settle(offset);
        let row = own_row(&message, lane);
        self.enter_retry(offset, row.due_ms, row.accepted_ms, lane, false);
        self.retries.runs(offset);
        self.running.window -= 1;
        self.running.retry += 1;
        pass(settlement, covers_from, offset + 1);
        settlement.counts.passed += 1;
        settlement.counts.rows += 1;
        settlement.retries.push((offset, Some(row)));
    }

    /// Where a message stands that comes back from a worker: it may have got a row meanwhile, or another one.
    pub(super) fn find_place(&self, item: &mut Item) {
        let offset = item.message.offset;
        if matches!(item.origin, Origin::Window { .. }) && self.retries.contains(offset) {
            item.origin = Origin::Retry(own_row(&item.message, item.lane));
        }
        if let Origin::Retry(row) = &mut item.origin {
            self.retries.refresh(offset, row);
        }
    }

    /// Skips what waits in a lane's memory and is no longer taken.
    fn thin_out(&mut self, key: KeyHash, settlement: &mut Settlement) {
        let lane = self.lanes.get(key);
        let (loaded, queue) = (std::mem::take(&mut lane.loaded), std::mem::take(&mut lane.queue));
        for (offset, item) in loaded {
            if self.takes(&item.message) {
                self.lanes.get(key).loaded.insert(offset, item);
            } else {
                self.skip(item, settlement);
            }
        }
        for item in queue {
            if self.takes(&item.message) {
                self.lanes.get(key).queue.push_back(item);
            } else if matches!(item.origin, Origin::Row { .. }) {
                // It leaves its row in order: it and all after it are read again when their turn comes.
                break;
            } else {
                self.skip(item, settlement);
            }
        }
    }

    /// A message that nobody works on is no longer taken. Those of held rows are skipped where they are read.
    pub(super) fn skip(&mut self, item: Item, settlement: &mut Settlement) {
        let offset = item.message.offset;
        match item.origin {
            Origin::Window { covers_from } => {
                self.window.settle(offset);
                pass(settlement, covers_from, offset + 1);
                settlement.counts.passed += 1;
            }
            Origin::Retry(_) => {
                self.leave_retry(offset);
                settlement.retries.push((offset, None));
                settlement.counts.rows -= 1;
            }
            Origin::Row { .. } => unreachable!("rows are skipped when they are read"),
        }
        settlement.counts.skipped += 1;
    }
}

/// The row of a message that was never tried.
fn own_row(message: &Message, lane: Option<KeyHash>) -> Arc<RetryRow> {
    let accepted_ms = message.accepted_ms;
    Arc::new(RetryRow { due_ms: accepted_ms, accepted_ms, key: lane, redrive: None, history: History::default() })
}
