//! Where a message stands, as the promise sees it.

use crate::log::Parks;
use crate::message::{Millis, SharedMessage};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// With the attempts charged to it since it was first offered or last redriven, and the time before
    /// which it asked not to be tried again.
    Pending {
        charged: Charges,
        /// Failures that were not charged, `unavailable` ones aside.
        reruns: u32,
        not_before_ms: Millis,
        /// Whether a call of it ended ever.
        attempted: bool,
        /// Whether it was a dead letter, and whether it parked the subscription then.
        redriven: bool,
        leads: bool,
        /// What its dead letter held back.
        was: Option<Parks>,
    },
    /// With what it holds back.
    Dead {
        parks: Option<Parks>,
    },
    Acked,
    /// Its time was over before it was ever attempted.
    Expired,
    /// A dead letter that an operator dropped.
    Dropped,
}

pub(super) const FRESH: State = State::Pending {
    charged: Charges { versions: [0; 8], count: 0, last: None },
    reruns: 0,
    not_before_ms: 0,
    attempted: false,
    redriven: false,
    leads: false,
    was: None,
};

/// Charged attempts, oldest first, by the version that ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Charges {
    pub(super) versions: [u8; 8],
    pub(super) count: usize,
    /// The version of the last attempt, charged or not.
    pub(super) last: Option<u8>,
}

impl Charges {
    pub(super) fn with(mut self, version: u8) -> Self {
        self.versions[self.count] = version;
        self.count += 1;
        self.after(version)
    }

    pub(super) fn after(mut self, version: u8) -> Self {
        self.last = Some(version);
        self
    }

    pub(super) fn without(self, version: u8) -> Self {
        let left = self.versions[..self.count].iter().filter(|one| **one != version);
        let left = left.fold(Self { count: 0, ..self }, |charges, one| charges.with(*one));
        Self { last: self.last, ..left }
    }

    pub(super) fn without_newest(mut self, count: u32) -> Self {
        self.count = self.count.saturating_sub(count as usize);
        self
    }
}

/// Where a message that was handed out stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hand {
    Waiting,
    Calling,
    /// Acked, and not recorded yet.
    Acked,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) hand: Hand,
    /// When it was handed out, in steps of this auditor.
    pub(super) at: u64,
}

/// Under which order a message was met, by its index in the orders that there were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Met {
    NotYet,
    Under(u32),
    /// Under one first and under another one later, so that it may come out of turn.
    UnderTwo,
}

pub(super) struct Seen {
    pub(super) message: SharedMessage,
    /// Whether a filter of its time took it.
    pub(super) matched: bool,
    /// Whether none of the filters of now takes it.
    pub(super) leaving: bool,
    pub(super) met: Met,
}

#[derive(Debug, Default)]
pub(super) struct Past {
    pub(super) acked: u64,
    pub(super) expired: u64,
    pub(super) dropped: u64,
    pub(super) reopened: u64,
    /// Of messages whose topic was taken out and is taken again: they are matched twice.
    pub(super) matched: u64,
    pub(super) skipped: u64,
}

impl Past {
    pub(super) fn add(&mut self, state: State) {
        match state {
            State::Acked => self.acked += 1,
            State::Expired => self.expired += 1,
            State::Dropped => self.dropped += 1,
            State::Pending { .. } | State::Dead { .. } => {}
        }
    }
}
