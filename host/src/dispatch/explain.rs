//! Why every pending message waits, and since when.

use crate::message::{Millis, Offset};
use crate::outcome::OutcomeKind;
use crate::view::{BreakerView, Waiting};

use super::{Dispatcher, Ready};

/// A dispatcher's state, as people are told of it.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The counts add up to `pending`.
    pub waiting: Waiting,
    pub pending: u64,
    /// When the oldest pending message that memory knows of was accepted.
    pub oldest_ms: Option<Millis>,
    /// Keys that a message in retry, or a dead letter that parks its key, holds back.
    pub blocked_keys: u64,
    pub paused: bool,
    pub breaker: Option<BreakerView>,
    /// Uncharged reruns, and attempts that were refunded, since the process began.
    pub reruns: u64,
    pub refunded: u64,
    pub outcomes: [u64; OutcomeKind::ALL.len()],
}

impl Dispatcher {
    /// Messages that are neither settled nor dead.
    pub fn pending(&self) -> u64 {
        self.unread + self.window.len() as u64 + self.retries.len() as u64 + self.held
    }

    /// Messages in the log that were not read yet.
    pub fn unread(&self) -> u64 {
        self.unread
    }

    /// Names a reason for every pending message.
    pub fn explain(&self) -> Explanation {
        let pending = self.pending();
        let oldest_ms = self.oldest_ms();
        let waiting = if self.active { self.reasons() } else { Waiting { orphaned: pending, ..Waiting::default() } };
        Explanation {
            waiting,
            pending,
            oldest_ms,
            blocked_keys: self.lanes.blocked() as u64,
            paused: self.is_paused(),
            breaker: self.breaker(),
            reruns: self.reruns,
            refunded: self.refunds().attempts,
            outcomes: self.outcomes,
        }
    }

    /// The dead letters and redriven messages that others wait for, those first that hold back the most.
    pub fn holders(&self) -> impl Iterator<Item = Offset> {
        self.parking.holders()
    }

    fn reasons(&self) -> Waiting {
        if self.parking.holds_back() {
            return self.reasons_while_parked();
        }
        let loose = self.ready.iter().filter(|ready| matches!(ready, Ready::Loose(_))).count();
        let (due_later, next_due_ms) = self.retries.due();
        let loading = self.retries.loading();
        let lanes_that_can_run = self.lanes.iter().filter(|(_, lane)| lane.can_run() || lane.waits_for_row()).count();
        let full = self.retries.full();
        let due_later = due_later as u64 - full.values().sum::<u64>();
        let running = self.running.total();
        let runnable = (loose + loading + lanes_that_can_run) as u64;
        let parked = self.parked_in_lanes();
        let known = self.pending() - self.unread;
        self.gated(Waiting {
            running,
            runnable,
            due_later,
            next_due_ms,
            // Everything else that memory knows of stands behind a message of its key.
            behind_key: known.saturating_sub(running + runnable + due_later + full.values().sum::<u64>() + parked),
            full,
            behind_window: self.unread,
            parked,
            ..Waiting::default()
        })
    }

    fn reasons_while_parked(&self) -> Waiting {
        let due = self.leading_due();
        let (running, runnable) = (self.running.total(), self.leading_runnable());
        let due_later = due.len() as u64;
        self.gated(Waiting {
            running,
            runnable,
            due_later,
            next_due_ms: due.into_iter().map(|(due_ms, _)| due_ms).min(),
            parked: self.pending().saturating_sub(running + runnable + due_later),
            ..Waiting::default()
        })
    }

    /// When the oldest pending message was accepted, as far as memory knows; the unread ones are newer
    /// than what is in memory, so they count only where nothing else is pending.
    fn oldest_ms(&self) -> Option<Millis> {
        let window = self.window.oldest_ms();
        let retry = self.retries.oldest_ms();
        let held = self.lanes.iter().filter_map(|(_, lane)| lane.oldest_held_ms()).min();
        window.into_iter().chain(retry).chain(held).min()
    }
}
