//! What opens and shuts the gate, and what is taken back: pauses, deploys, rollbacks and refunds.

use crate::dispatch::{Event, Refund};
use crate::log::SubscriptionRecord;
use crate::message::Offset;
use crate::outcome::DeadReason;

use super::{Read, VERSIONS, World, digest};

impl World {
    /// An operator pauses it, or lets it go on.
    pub(super) fn pause(&mut self) {
        let paused = !self.dispatcher.is_paused();
        trace!(self, "paused: {paused}");
        let record = SubscriptionRecord { paused, ..self.journal.sequenced.record.clone() };
        self.step_with(Event::Paused(paused), Some(record));
    }

    /// Another version takes over.
    pub(super) fn deploy(&mut self) {
        self.version = (self.version + self.random.u8(1..VERSIONS)) % VERSIONS;
        self.set_active(true);
        assert!(self.dispatcher.gate.breaker.is_closed(), "a deploy closes the breaker");
    }

    /// Another version takes over, and what this one did is taken back.
    pub(super) fn roll_back(&mut self) {
        let bad = self.version;
        self.deploy();
        trace!(self, "version {bad} is rolled back");
        self.rolled_back.insert(bad);
        self.dispatcher.discredit(digest(bad));
        let asked_at = self.auditor.steps();
        self.asked.push(Read::Refund(Refund::Version(digest(bad)), asked_at));
    }

    /// Reads what a refund is about, and tells of it.
    pub(super) fn refund(&mut self, refund: &Refund, asked_at: u64) {
        if matches!(refund, Refund::Version(_)) {
            // It keeps other commands of operators out.
            self.sync_first(self.journal.unsynced());
        }
        let about = |offset: &Offset| match refund {
            Refund::Streak(charged) => charged.contains_key(offset),
            Refund::Version(_) => true,
        };
        let in_retry = &self.journal.sequenced.retries;
        let rows = in_retry.iter().filter(|(offset, _)| about(offset));
        let retries = rows.map(|(offset, row)| (*offset, row.clone())).collect();
        // Dead letters are read as they are synced: one may be redriven or dropped since.
        let letters = self.journal.synced.dead.iter();
        let letters = letters.filter(|(offset, _)| about(offset) && !in_retry.contains_key(offset));
        let dead = letters.map(|(offset, row)| (*offset, row.clone())).collect();
        trace!(self, "refund {refund:?}");
        self.step(Event::Refunded { refund, retries, dead });
        let entry = self.journal.sequenced_to();
        self.auditor.refunded(entry, refund, self.now_ms);
        if let Refund::Version(digest) = refund {
            for (offset, row) in &self.journal.sequenced.retries {
                let of_version = row.history.attempts.last().is_some_and(|last| last.digest == *digest);
                assert!(!of_version || row.due_ms <= self.now_ms, "{offset} waits for a version that is gone: {row:?}");
            }
        }
        if let Refund::Streak(charged) = refund {
            for offset in charged.keys().filter(|offset| self.auditor.is_dead_since(**offset, asked_at)) {
                let row = &self.journal.sequenced.dead[offset];
                // One that was rejected later is at fault itself, and a rollback may have excused either before.
                let exhausted = row.reason == DeadReason::AttemptsExhausted;
                assert!(row.excused.is_some() || !exhausted, "{offset} died in a streak: {row:?}");
            }
        }
    }
}
