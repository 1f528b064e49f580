//! What leaves the log: messages that nobody needs any more, and the facts by which they are chosen.
//!
//! Who chooses stands above the seam, and asks in three steps: which [`Stretch`]es hold messages of topics
//! that have too much ([`super::Log::stretches`]), which messages stand there ([`super::Log::survey`]), and
//! which of those a row still needs ([`super::Log::pinned`]). What it chose is a [`Removal`].

use super::{Offset, Selection, TopicId};

/// Messages that go, as one part of a transaction.
///
/// It is planned from what is synced, while operators' commands are kept out, and it stays right however
/// much is settled meanwhile: by itself a subscription needs ever less. A message that it has not passed
/// becomes a passed one, one with a row, or both; a row moves on to another row or goes; and nothing that
/// was passed and has no row comes back. Only a seek, a redrive or a new subscription ask for what was done
/// with, and those are operators' commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Ranges of offsets, each `[from, to)`, ascending: every message that is stored in them goes.
    pub ranges: Vec<(Offset, Offset)>,
    /// What that is, by topic.
    pub topics: Vec<RemovedTopic>,
}

/// What a removal takes of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemovedTopic {
    pub topic: TopicId,
    pub messages: u64,
    /// As [`crate::message::Event::bytes`] counts them.
    pub bytes: u64,
    /// The offset after the last one.
    pub end: Offset,
}

impl Removal {
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Adds a message. They are added in their order.
    pub fn add(&mut self, message: &Standing) {
        let next = message.offset + 1;
        match self.ranges.last_mut() {
            Some(last) if last.1 == message.offset => last.1 = next,
            _ => self.ranges.push((message.offset, next)),
        }
        match self.topics.iter_mut().find(|topic| topic.topic == message.topic) {
            Some(topic) => {
                topic.messages += 1;
                topic.bytes += message.bytes;
                topic.end = next;
            }
            None => {
                self.topics.push(RemovedTopic { topic: message.topic, messages: 1, bytes: message.bytes, end: next })
            }
        }
    }

    pub fn messages(&self) -> u64 {
        self.topics.iter().map(|topic| topic.messages).sum()
    }

    pub fn bytes(&self) -> u64 {
        self.topics.iter().map(|topic| topic.bytes).sum()
    }
}

/// A part of the log that is stored together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub from: Offset,
    /// The offset after the last message that was asked for in it.
    pub to: Offset,
    /// How many messages of the topics that were asked for it holds.
    pub messages: u64,
}

/// A message that stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub offset: Offset,
    pub topic: TopicId,
    /// As [`crate::message::Event::bytes`] counts them.
    pub bytes: u64,
}

/// What a subscription still has before it.
#[derive(Clone, Debug)]
pub struct Reach {
    pub selection: Selection,
    /// Everything below it is passed.
    pub floor: Offset,
}

/// Whether one of ascending, disjoint ranges contains an offset.
pub(crate) fn ranges_contain(ranges: &[(Offset, Offset)], offset: Offset) -> bool {
    let after = ranges.partition_point(|range| range.0 <= offset);
    after > 0 && offset < ranges[after - 1].1
}
