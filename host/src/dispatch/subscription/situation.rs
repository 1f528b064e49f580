//! What a subscription does at the moment, for people to look at.

use std::sync::atomic::Ordering;

use super::Subscription;
use crate::dispatch::Explanation;
use crate::log::{Counts, Selection};
use crate::message::Offset;
use crate::policy::Policy;

/// Of the dead letters that hold something back, this many are shown: enough to begin with.
const HOLDERS_SHOWN_MAX: usize = 20;

/// A subscription's state of the moment.
pub struct Situation {
    pub explanation: Explanation,
    /// Messages that others wait for, dead ones and redriven ones.
    pub holders: Vec<Offset>,
    pub counts: Counts,
    pub unread: u64,
    pub cursor: Offset,
    pub selection: Selection,
    pub policy: Policy,
    pub epoch: u64,
    pub instances: u32,
    pub problem: Option<String>,
    /// How often its backlog grew too old since the process began.
    pub lag_episodes: u64,
}

impl Subscription {
    /// What it does, and why each pending message waits.
    pub fn explain(&self) -> Situation {
        let inner = self.lock();
        let mut explanation = inner.dispatcher.explain();
        // What waits at the turnstile was taken, and does not run yet.
        let at_turnstile = u64::from(self.at_turnstile.load(Ordering::Relaxed)).min(explanation.waiting.running);
        explanation.waiting.running -= at_turnstile;
        explanation.waiting.runnable += at_turnstile;
        Situation {
            counts: inner.counts,
            unread: inner.dispatcher.unread(),
            cursor: inner.dispatcher.reading_from().0,
            selection: inner.dispatcher.selection().clone(),
            policy: inner.dispatcher.policy().clone(),
            epoch: inner.dispatcher.epoch(),
            instances: inner.runners + u32::try_from(inner.idle.len()).unwrap_or(u32::MAX),
            problem: inner.problem.clone(),
            lag_episodes: inner.lag.episodes,
            holders: inner.dispatcher.holders().take(HOLDERS_SHOWN_MAX).collect(),
            explanation,
        }
    }
}
