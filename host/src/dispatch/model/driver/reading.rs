//! What the reader does: it reads at some time after it was asked, and answers at some time later.

use std::sync::Arc;

use super::World;
use crate::dispatch::{Event, Refund};
use crate::log::{Batch, HeldAt, HeldRow, RetryRow, Selection};
use crate::message::{Offset, SharedMessage};

/// A read that was asked for. It happens at some time after that, and is answered at some time later.
pub(super) enum Read {
    Fetch {
        selection: Selection,
        passes_dead_before: Offset,
        from: Offset,
        messages_max: usize,
        bytes_max: usize,
    },
    Retries(Vec<Offset>),
    Row(HeldAt),
    /// With the time of the auditor at which it was asked for.
    Refund(Refund, u64),
}

pub(super) enum Answer {
    Fetched(Batch),
    /// What it is about is read when it is told.
    Refund(Refund, u64),
    Retries(Vec<(SharedMessage, Arc<RetryRow>)>),
    Row {
        at: HeldAt,
        row: Arc<HeldRow>,
        messages: Vec<SharedMessage>,
    },
}

impl World {
    /// Carries out one of the reads that were asked for.
    pub(super) fn read(&mut self) {
        if self.asked.is_empty() {
            return;
        }
        let index = self.random.usize(..self.asked.len());
        let answer = match self.asked.swap_remove(index) {
            Read::Refund(refund, asked_at) => {
                // All that was sequenced is synced first.
                self.sync_first(self.journal.unsynced());
                // An operator may be quicker than what follows from it.
                match self.random.u32(0..4) {
                    0 => self.redrive(),
                    1 => self.drop_letters(),
                    _ => {}
                }
                Answer::Refund(refund, asked_at)
            }
            Read::Fetch { selection, passes_dead_before, from, messages_max, bytes_max } => {
                let mut batch = self.journal.read(&selection, from, messages_max, bytes_max);
                let synced = &self.journal.synced;
                let passed_over = |offset| offset < passes_dead_before && synced.dead.contains_key(&offset);
                batch.messages.retain(|message| !passed_over(message.offset));
                Answer::Fetched(batch)
            }
            Read::Retries(offsets) => {
                let row = |offset: Offset| {
                    let row = self.journal.sequenced.retries.get(&offset).expect("a retry that is loaded has its row");
                    (self.journal.message(offset).clone(), row.clone())
                };
                let count = self.random.usize(1..=offsets.len());
                Answer::Retries(offsets.into_iter().take(count).map(row).collect())
            }
            Read::Row(at) => {
                let row = self.journal.sequenced.held.get(&at).expect("a row that is loaded is there").clone();
                let waiting = &row.offsets[row.front as usize..];
                let count = self.random.usize(1..=waiting.len());
                let messages = waiting[..count].iter().map(|offset| self.journal.message(*offset).clone()).collect();
                Answer::Row { at, row, messages }
            }
        };
        self.answers.push(answer);
    }

    pub(super) fn answer(&mut self) {
        if self.answers.is_empty() {
            return;
        }
        let index = self.random.usize(..self.answers.len());
        match self.answers.swap_remove(index) {
            Answer::Fetched(batch) => {
                let offsets: Vec<_> = batch.messages.iter().map(|message| message.offset).collect();
                trace!(self, "fetched {offsets:?}, next {}", batch.next);
                self.step(Event::Fetched(batch));
            }
            Answer::Retries(loaded) => {
                trace!(
                    self,
                    "retries loaded {:?}",
                    loaded.iter().map(|(message, _)| message.offset).collect::<Vec<_>>()
                );
                self.step(Event::RetriesLoaded(loaded));
            }
            Answer::Refund(refund, asked_at) => self.refund(&refund, asked_at),
            Answer::Row { at, row, messages } => {
                let offsets: Vec<_> = messages.iter().map(|message| message.offset).collect();
                trace!(self, "row loaded {at:?} {row:?} {offsets:?}");
                self.step(Event::RowLoaded { at, row, messages });
            }
        }
    }
}
