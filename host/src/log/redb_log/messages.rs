//! Reading messages: from memory where they are new, otherwise from blocks, which are found by the index
//! where few topics are wanted and in a row where many are.

use std::sync::Arc;

use super::Inner;
use super::block_cache::DecodedBlock;
use super::blocks::{Blocks, Place};
use super::topic_choice::{Chosen, TopicChoice, chosen_topics};
use crate::log::{Batch, ReadBounds, ReadError, Selection};
use crate::message::{Millis, Offset, Sequence, SharedMessage, TopicId};

/// Up to this many topics are looked up in the index for every block.
pub(super) const INDEXED_TOPICS_MAX: usize = 32;
/// Blocks read in a row without a message for the selection, before the index is asked where to go on.
const BARREN_BLOCKS_MAX: usize = 8;

/// A block with this many wanted messages is decoded as a whole, and kept for others who want them.
const SHARED_MESSAGES_MIN: u64 = 32;

impl Inner {
    pub(super) fn read(&self, selection: &Selection, from: Offset, bounds: ReadBounds) -> Result<Batch, ReadError> {
        let mut filling = Filling::new(bounds);
        let mut choice = TopicChoice::new(selection);
        let (end, recent_from, chosen) = {
            let view = self.visible.read();
            let chosen = if from < view.recent_from() || selection.filters.iter().all(|(f, _)| f.literal().is_some()) {
                let chosen = chosen_topics(&view, selection, from);
                if chosen.is_empty() {
                    return Ok(Batch { messages: Vec::new(), next: view.end().max(from), end: view.end() });
                }
                chosen
            } else {
                Vec::new()
            };
            (view.end(), view.recent_from(), chosen)
        };
        let mut next = from;
        if from < recent_from {
            next = self.noted(self.read_blocks(&mut choice, chosen, from, recent_from, &mut filling))?;
        }
        if next < recent_from || filling.is_full() {
            return Ok(Batch { messages: filling.messages, next, end });
        }
        let view = self.visible.read();
        if view.recent_from() > next {
            // They left memory meanwhile; what was found is an answer, and otherwise the disk has them.
            if !filling.messages.is_empty() {
                return Ok(Batch { messages: filling.messages, next, end });
            }
            drop(view);
            return self.read(selection, next, bounds);
        }
        for message in view.recent(next) {
            if choice.takes(message.topic_id, message.offset, || message.event.topic.as_str()) && !filling.add(message)
            {
                return Ok(Batch { messages: filling.messages, next: message.offset, end: view.end() });
            }
        }
        Ok(Batch { messages: filling.messages, next: view.end().max(from), end: view.end() })
    }

    /// Reads `[from, to)` from blocks. Answers up to where it looked.
    fn read_blocks(
        &self,
        choice: &mut TopicChoice<'_>,
        chosen: Vec<Chosen>,
        from: Offset,
        to: Offset,
        filling: &mut Filling,
    ) -> Result<Offset, ReadError> {
        let blocks = Blocks::open(self)?;
        let few = chosen.len() <= INDEXED_TOPICS_MAX;
        let mut ahead = Ahead::new(chosen);
        let mut at = from;
        let mut barren = 0;
        while at < to {
            let mut quiet = false;
            if few || barren >= BARREN_BLOCKS_MAX {
                if !few && !filling.messages.is_empty() {
                    return Ok(at);
                }
                match ahead.next(&blocks, at)? {
                    Some(next) if next.offset < to => {
                        at = next.offset;
                        quiet = few && next.messages < SHARED_MESSAGES_MIN;
                    }
                    _ => return Ok(to),
                }
                barren = 0;
            }
            let mut found = false;
            let mut refused = None;
            let end = if quiet {
                // Not worth a decoding of all.
                blocks.decode(at, to, |entry, message| {
                    if refused.is_none() && ahead.wants(entry.topic, entry.offset) {
                        found = true;
                        if !filling.add(&message()?) {
                            refused = Some(entry.offset);
                        }
                    }
                    Ok(())
                })?
            } else {
                let block = match blocks.block(at)? {
                    Place::Block(block) => block,
                    Place::Removed { until } => {
                        at = until;
                        continue;
                    }
                };
                for message in block.from(at).iter().take_while(|message| message.offset < to) {
                    if choice.takes(message.topic_id, message.offset, || message.event.topic.as_str()) {
                        found = true;
                        if !filling.add(message) {
                            refused = Some(message.offset);
                            break;
                        }
                    }
                }
                block.end
            };
            if let Some(refused) = refused {
                return Ok(refused);
            }
            barren = if found { 0 } else { barren + 1 };
            at = end;
        }
        Ok(to)
    }

    pub(super) fn read_offsets(&self, offsets: &[Offset]) -> Result<Vec<SharedMessage>, ReadError> {
        let mut found: Vec<Option<SharedMessage>> = {
            let view = self.visible.read();
            if let Some(&offset) = offsets.iter().find(|offset| **offset >= view.end()) {
                return Err(ReadError::Missing { offset });
            }
            offsets.iter().map(|offset| view.recent_message(*offset).cloned()).collect()
        };
        if found.iter().any(Option::is_none) {
            let blocks = self.noted(Blocks::open(self))?;
            let mut block: Option<Arc<DecodedBlock>> = None;
            for (place, &offset) in found.iter_mut().zip(offsets) {
                if place.is_some() {
                    continue;
                }
                let current = match block.take().filter(|block| (block.first..block.end).contains(&offset)) {
                    Some(block) => block,
                    None => match self.noted(blocks.block(offset))? {
                        Place::Block(block) => block,
                        Place::Removed { .. } => return Err(ReadError::Removed { offset }),
                    },
                };
                // The block accounts for it, so it has been there.
                *place = Some(current.message(offset).ok_or(ReadError::Removed { offset })?.clone());
                block = Some(current);
            }
        }
        Ok(found.into_iter().map(|message| message.expect("every place was filled")).collect())
    }

    pub(super) fn locate(&self, topic: &str, sequence: Sequence) -> Result<Offset, ReadError> {
        let (id, last_sequence, end) = {
            let view = self.visible.read();
            let info = view.topic(topic).ok_or_else(|| ReadError::UnknownTopic { topic: topic.to_owned() })?;
            (info.id, info.last_sequence, view.end())
        };
        if sequence > last_sequence {
            return Ok(end);
        }
        self.noted(Blocks::open(self).and_then(|blocks| blocks.locate(id, sequence, end)))
    }

    pub(super) fn offset_at(&self, time_ms: Millis) -> Result<Offset, ReadError> {
        let end = self.visible.read().end();
        self.noted(Blocks::open(self).and_then(|blocks| blocks.offset_at(time_ms, end)))
    }
}

/// A batch being filled up to its bounds.
struct Filling {
    bounds: ReadBounds,
    messages: Vec<SharedMessage>,
    bytes: usize,
}

impl Filling {
    fn new(bounds: ReadBounds) -> Self {
        Self { bounds, messages: Vec::new(), bytes: 0 }
    }

    fn is_full(&self) -> bool {
        !self.messages.is_empty()
            && (self.messages.len() >= self.bounds.messages_max || self.bytes >= self.bounds.bytes_max)
    }

    /// Adds a message if it fits. The first one always does.
    fn add(&mut self, message: &SharedMessage) -> bool {
        let bytes = message.bytes();
        if self.is_full() || (!self.messages.is_empty() && self.bytes + bytes > self.bounds.bytes_max) {
            return false;
        }
        self.bytes += bytes;
        self.messages.push(message.clone());
        true
    }
}

/// The index of the chosen topics, walked side by side.
struct Ahead {
    topics: Vec<(Chosen, Option<Next>)>,
}

/// Where chosen messages are next.
#[derive(Clone, Copy)]
struct Next {
    /// No chosen message stands before it, and one stands at it or behind it in its block.
    offset: Offset,
    /// How many messages of its topic its block has.
    messages: u64,
}

impl Ahead {
    fn new(chosen: Vec<Chosen>) -> Self {
        Self { topics: chosen.into_iter().map(|chosen| (chosen, None)).collect() }
    }

    fn wants(&self, topic: TopicId, offset: Offset) -> bool {
        self.topics.iter().any(|(chosen, _)| chosen.topic == topic && chosen.from <= offset)
    }

    /// Where one of the topics has the first message at or after `at`.
    fn next(&mut self, blocks: &Blocks<'_>, at: Offset) -> Result<Option<Next>, ReadError> {
        let mut first: Option<Next> = None;
        for (chosen, known) in &mut self.topics {
            let from = at.max(chosen.from);
            if from > chosen.last {
                continue;
            }
            let next = match *known {
                Some(known) if known.offset >= from => known,
                _ => {
                    let Some((_, entry)) = blocks.entry_from(chosen.topic, from)? else {
                        blocks.expect_removed(chosen.topic, chosen.last)?;
                        chosen.from = Offset::MAX;
                        continue;
                    };
                    Next { offset: entry.first.max(from), messages: entry.messages }
                }
            };
            *known = Some(next);
            if first.is_none_or(|first| next.offset < first.offset) {
                first = Some(next);
            }
        }
        Ok(first)
    }
}
