//! Attempts that are taken back: they failed, and their messages were not at fault.
//!
//! A refund touches pending messages only: it lowers what is charged to them. A message that died of such
//! attempts stays dead, and is marked, so that a redrive finds it. A message on the first attempt of which
//! a call runs has nothing charged; where its component was rolled back, that call charges nothing either.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::log::{DeadRow, RetryRow, Settlement};
use crate::message::{Millis, Offset};
use crate::outcome::{DeadReason, Digest, Excuse, History};

use super::Dispatcher;

/// Which attempts are taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refund {
    /// The newest charged attempts of some messages, as many of each as failed in one streak.
    Streak(BTreeMap<Offset, u32>),
    /// All that a component charged: it was rolled back.
    Version(Digest),
}

/// What a refund came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refunded {
    /// Attempts that are no longer charged, and the pending messages that they were charged to.
    pub attempts: u64,
    pub messages: u64,
    /// Dead letters that were marked.
    pub excused: u64,
}

impl std::ops::AddAssign for Refunded {
    fn add_assign(&mut self, more: Self) {
        self.attempts += more.attempts;
        self.messages += more.messages;
        self.excused += more.excused;
    }
}

impl std::ops::Sub for Refunded {
    type Output = Self;

    fn sub(self, less: Self) -> Self {
        Self {
            attempts: self.attempts - less.attempts,
            messages: self.messages - less.messages,
            excused: self.excused - less.excused,
        }
    }
}

impl Refund {
    fn excuse(&self) -> Excuse {
        match self {
            Self::Streak(_) => Excuse::Breaker,
            Self::Version(_) => Excuse::RolledBack,
        }
    }

    fn take_back(&self, offset: Offset, history: &mut History) -> u32 {
        match self {
            Self::Streak(attempts) => history.refund(attempts.get(&offset).copied().unwrap_or(0), |_| true),
            Self::Version(digest) => history.refund(u32::MAX, |attempt| attempt.digest == *digest),
        }
    }

    /// Whether a message in retry waits for what is taken back: the delay before its next attempt was for the version
    /// that failed, whoever took back the attempt itself.
    fn hastens(&self, history: &History) -> bool {
        match self {
            Self::Streak(_) => false,
            Self::Version(digest) => history.attempts.last().is_some_and(|last| last.digest == *digest),
        }
    }

    /// Whether a message died of what is taken back.
    fn excuses(&self, offset: Offset, row: &DeadRow) -> bool {
        let killed = match self {
            Self::Streak(attempts) => attempts.contains_key(&offset),
            Self::Version(digest) => {
                row.history.attempts.last().is_some_and(|last| last.digest == *digest)
                    || self.take_back(offset, &mut row.history.clone()) > 0
            }
        };
        killed && row.excused.is_none() && row.reason != DeadReason::Damaged
    }
}

impl Dispatcher {
    /// Calls of this component that still run charge nothing any more, until it is made to run again.
    pub fn discredit(&mut self, digest: Digest) {
        self.discredited.insert(digest);
    }

    /// What was refunded since the process began.
    pub fn refunds(&self) -> Refunded {
        self.refunds
    }

    /// Messages in retry after an offset, at most `max`.
    pub fn retries_after(&self, after: Option<Offset>, max: usize) -> Vec<Offset> {
        self.retries.after(after).take(max).collect()
    }

    /// Takes attempts back. The rows are those of the log as it is sequenced now.
    pub(super) fn refunded(
        &mut self,
        refund: &Refund,
        retries: Vec<(Offset, Arc<RetryRow>)>,
        dead: Vec<(Offset, Arc<DeadRow>)>,
        now_ms: Millis,
        settlement: &mut Settlement,
    ) -> Refunded {
        let mut refunded = Refunded::default();
        for (offset, row) in retries {
            let mut history = row.history.clone();
            let attempts = refund.take_back(offset, &mut history);
            let due_ms = if refund.hastens(&history) { row.due_ms.min(now_ms) } else { row.due_ms };
            if (attempts == 0 && due_ms == row.due_ms) || !self.retries.contains(offset) {
                continue;
            }
            let row = Arc::new(RetryRow { due_ms, history, ..*row });
            self.retries.rewrite(offset, row.clone());
            settlement.retries.push((offset, Some(row)));
            refunded.attempts += u64::from(attempts);
            refunded.messages += u64::from(attempts > 0);
        }
        for (offset, row) in dead {
            // One of a streak may have been redriven or dropped since, and the row be out of date.
            let there = matches!(refund, Refund::Version(_)) || self.excusable.remove(&offset);
            if there && refund.excuses(offset, &row) {
                let row = DeadRow { excused: Some(refund.excuse()), ..DeadRow::clone(&row) };
                settlement.dead.push((offset, Some(Arc::new(row))));
                refunded.excused += 1;
            }
        }
        refunded
    }
}
