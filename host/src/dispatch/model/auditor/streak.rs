//! A row of failures, as the promise sees it: where it opens the breaker, all that it charged is taken back.

use std::collections::BTreeMap;

use super::Auditor;
use crate::dispatch::Finished;
use crate::message::Offset;
use crate::outcome::Outcome;
use crate::settle::Decision;

/// How many attempts each message was charged since the last success.
#[derive(Debug, Default)]
pub(super) struct Streak {
    charged: BTreeMap<Offset, u32>,
}

impl Streak {
    pub(super) fn forget(&mut self, offset: Offset) {
        self.charged.remove(&offset);
    }
}

impl Auditor {
    /// Calls of the version that runs ended, with the breaker closed.
    pub(in crate::dispatch::model) fn judged(&mut self, calls: &[Finished]) {
        for call in calls {
            if call.outcome == Outcome::Acked {
                self.streak = Streak::default();
            }
            let charged = !matches!(call.decision, Some(Decision::Held { charged: false, .. }));
            if call.outcome.is_failure() && charged {
                *self.streak.charged.entry(call.item.message.offset).or_default() += 1;
            }
        }
    }

    /// Nothing is held against the consumer any more.
    pub(in crate::dispatch::model) fn streak_ends(&mut self) {
        self.streak = Streak::default();
    }

    /// The breaker opened, and this is what it asked to be taken back.
    pub(in crate::dispatch::model) fn opened(&mut self, asked: Option<&BTreeMap<Offset, u32>>) {
        let streak = std::mem::take(&mut self.streak);
        assert_eq!(asked.cloned().unwrap_or_default(), streak.charged, "a streak that opens the breaker is refunded");
    }
}
