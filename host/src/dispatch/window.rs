//! The messages that a dispatcher holds in memory and its position has not passed, oldest first.

use std::collections::VecDeque;

use crate::log::KeyHash;
use crate::message::{Millis, Offset, SharedMessage};

/// Settled entries that are not worth a look at all entries.
const SETTLED_KEPT: usize = 64;

struct Entry {
    offset: Offset,
    /// None once it is settled.
    waiting: Option<Waiting>,
}

/// A message of the window, wherever it is now: in a lane, among the ready ones or at a worker.
pub(super) struct Waiting {
    pub(super) message: SharedMessage,
    pub(super) lane: Option<KeyHash>,
    /// Where its range begins, as in [`super::Origin::Window`].
    pub(super) covers_from: Offset,
}

/// Bounded in count and bytes, not in span of offsets: settled entries leave at the front, and those
/// behind a message that takes long leave together when they are more than half.
#[derive(Default)]
pub(super) struct Window {
    entries: VecDeque<Entry>,
    len: usize,
    bytes: usize,
}

impl Window {
    /// Messages that are not settled.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a message; offsets ascend.
    pub(super) fn push(&mut self, message: SharedMessage, lane: Option<KeyHash>, covers_from: Offset) {
        let offset = message.offset;
        debug_assert!(self.entries.back().is_none_or(|last| last.offset < offset));
        self.len += 1;
        self.bytes += message.bytes();
        self.entries.push_back(Entry { offset, waiting: Some(Waiting { message, lane, covers_from }) });
    }

    /// Every message that is not settled, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.entries.iter().filter_map(|entry| entry.waiting.as_ref())
    }

    /// Takes a message out.
    pub(super) fn settle(&mut self, offset: Offset) -> Waiting {
        let index = match self.entries.front() {
            Some(front) if front.offset == offset => 0,
            _ => self.entries.partition_point(|entry| entry.offset < offset),
        };
        let entry = self.entries.get_mut(index).filter(|entry| entry.offset == offset);
        let settled = entry.and_then(|entry| entry.waiting.take()).expect("a message leaves the window once");
        self.len -= 1;
        self.bytes -= settled.message.bytes();
        while self.entries.front().is_some_and(|front| front.waiting.is_none()) {
            self.entries.pop_front();
        }
        // Looking at all of them is paid for by as many that were settled since.
        if self.entries.len() > 2 * self.len + SETTLED_KEPT {
            self.entries.retain(|entry| entry.waiting.is_some());
        }
        settled
    }

    /// Entries in memory, settled ones included.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.entries.len()
    }

    /// When its oldest message was accepted.
    pub(super) fn oldest_ms(&self) -> Option<Millis> {
        self.iter().next().map(|waiting| waiting.message.accepted_ms)
    }
}
