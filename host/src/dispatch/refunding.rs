//! The edge of a refund: reads the rows that it is about, and has the dispatcher rewrite them.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::limits::REFUND_ROWS_MAX;
use crate::log::{CommitError, ReadError, Txn};
use crate::message::Millis;
use crate::outcome::Digest;

use super::refund::{Refund, Refunded};
use super::subscription::Subscription;

/// Why a refund stopped. What was refunded until then stays so.
#[derive(Debug, thiserror::Error)]
pub enum RefundError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Subscription {
    /// Takes back all that a component charged to pending messages, makes them due at once, and marks the
    /// dead letters that died of it since a time. For a rollback, after another version runs: calls that the
    /// component still has charge nothing any more, unless the other version is the same component under
    /// another manifest.
    ///
    /// Under the engine's operator lock, for dead letters are read as they are synced. Blocks for a sync;
    /// what it records is sequenced when it returns.
    pub fn refund_version(self: &Arc<Self>, digest: Digest, since_ms: Millis) -> Result<Refunded, RefundError> {
        if self.program.load().as_ref().is_none_or(|program| program.digest() != digest) {
            self.with(|session| session.dispatcher().discredit(digest));
        }
        // What the component charged until now is then among the rows that can be read.
        self.wait_for_sync()?;
        let refund = Refund::Version(digest);
        let mut total = Refunded::default();
        let mut after = None;
        while let Some(last) = self.refund_page(&refund, since_ms, after, &mut total)? {
            after = Some(last);
        }
        let mut after = None;
        loop {
            let place = after.map(|offset| (self.id, offset));
            let page = self.shared.log.dead_letters(Some(self.id), place, REFUND_ROWS_MAX)?;
            let Some(last) = page.last() else { return Ok(total) };
            after = Some(last.offset);
            let dead = page.into_iter().filter(|letter| letter.row.died_ms >= since_ms);
            let dead = dead.map(|letter| (letter.offset, letter.row)).collect();
            self.with(|session| total += session.refund(&refund, Vec::new(), dead));
        }
    }

    /// Takes back what a streak charged, and marks those that died in it. All at once, so that it can be
    /// tried again where the log cannot be read. A seek since has left nothing to take back.
    pub(super) fn refund_streak(self: &Arc<Self>, refund: &Refund, generation: u64) -> Result<Refunded, RefundError> {
        let Refund::Streak(charged) = refund else { unreachable!("versions are refunded by the page") };
        // Dead letters are read as they are synced.
        self.wait_for_sync()?;
        let log = &self.shared.log;
        let mut refunded = Ok(Refunded::default());
        self.with_generation(generation, |session| {
            let read = || {
                let (mut retries, mut dead) = (Vec::new(), Vec::new());
                for &offset in charged.keys() {
                    match log.retry(self.id, offset)? {
                        Some(row) => retries.push((offset, row)),
                        None => dead.extend(log.dead_letter(self.id, offset)?.map(|letter| (offset, letter.row))),
                    }
                }
                Ok((retries, dead))
            };
            refunded = read().map(|(retries, dead)| session.refund(refund, retries, dead));
        });
        refunded.map_err(RefundError::Read)
    }

    /// Refunds messages in retry after an offset, some at a time. Answers with the last one that it looked at.
    fn refund_page(
        self: &Arc<Self>,
        refund: &Refund,
        since_ms: Millis,
        after: Option<u64>,
        total: &mut Refunded,
    ) -> Result<Option<u64>, ReadError> {
        let mut looked_at = Ok(None);
        // Read under the lock: nothing of this subscription is settled meanwhile.
        self.with(|session| {
            let offsets = session.dispatcher().retries_after(after, REFUND_ROWS_MAX);
            let row = |offset: &u64| Ok(self.shared.log.retry(self.id, *offset)?.map(|row| (*offset, row)));
            looked_at = match offsets.iter().filter_map(|offset| row(offset).transpose()).collect::<Result<Vec<_>, _>>()
            {
                Ok(mut rows) => {
                    rows.retain(|(_, row)| row.history.attempts.iter().any(|attempt| attempt.at_ms >= since_ms));
                    *total += session.refund(refund, rows, Vec::new());
                    Ok(offsets.last().copied())
                }
                Err(error) => Err(error),
            };
        });
        looked_at
    }

    fn wait_for_sync(&self) -> Result<(), CommitError> {
        let (waiter, durable) = oneshot::channel();
        self.shared.log.commit(Txn::default(), Some(waiter))?;
        durable.blocking_recv().map_err(|_| CommitError::Stopped)
    }
}
