//! The messages that a dispatcher holds in memory and its position has not passed, oldest first.

use std::collections::VecDeque;

use crate::message::{Message, Millis, Offset};

/// Settled entries that are not worth a look at all entries.
const SETTLED_KEPT: usize = 64;

struct Entry {
    offset: Offset,
    accepted_ms: Millis,
    bytes: usize,
    settled: bool,
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
    pub(super) fn push(&mut self, message: &Message) {
        debug_assert!(self.entries.back().is_none_or(|last| last.offset < message.offset));
        let bytes = message.bytes();
        self.entries.push_back(Entry {
            offset: message.offset,
            accepted_ms: message.accepted_ms,
            bytes,
            settled: false,
        });
        self.len += 1;
        self.bytes += bytes;
    }

    /// Takes a message out.
    pub(super) fn settle(&mut self, offset: Offset) {
        let index = match self.entries.front() {
            Some(front) if front.offset == offset => 0,
            _ => self.entries.partition_point(|entry| entry.offset < offset),
        };
        let entry = self.entries.get_mut(index).filter(|entry| entry.offset == offset && !entry.settled);
        let entry = entry.expect("a message leaves the window once");
        entry.settled = true;
        self.len -= 1;
        self.bytes -= entry.bytes;
        while self.entries.front().is_some_and(|front| front.settled) {
            self.entries.pop_front();
        }
        // Looking at all of them is paid for by as many that were settled since.
        if self.entries.len() > 2 * self.len + SETTLED_KEPT {
            self.entries.retain(|entry| !entry.settled);
        }
    }

    /// Entries in memory, settled ones included.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.entries.len()
    }

    /// When its oldest message was accepted.
    pub(super) fn oldest_ms(&self) -> Option<Millis> {
        self.entries.front().map(|entry| entry.accepted_ms)
    }
}
