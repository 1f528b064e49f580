//! Reading messages: from memory where they are new, otherwise from blocks, which are found by the index
//! where few topics are wanted and in a row where many are.

use std::sync::Arc;

use redb::ReadTransaction;

use super::block::{self, Entry};
use super::block_cache::DecodedBlock;
use super::encoding::Malformed;
use super::rows::{self, TopicBlock};
use super::tables::{BLOCKS, TOPIC_BLOCKS, offset_key, parse_number_pair, parse_offset_key, topic_block_key};
use super::topic_choice::{Chosen, TopicChoice, chosen_topics};
use super::{Inner, reader};
use crate::log::{Batch, ReadBounds, ReadError, Selection};
use crate::message::{Millis, Offset, Sequence, SharedMessage, TopicId};

/// Up to this many topics are looked up in the index for every block.
const INDEXED_TOPICS_MAX: usize = 32;
/// Blocks read in a row without a message for the selection, before the index is asked where to go on.
const BARREN_BLOCKS_MAX: usize = 8;

type StoredRow = (redb::AccessGuard<'static, &'static [u8]>, redb::AccessGuard<'static, &'static [u8]>);
type Rows = redb::ReadOnlyTable<&'static [u8], &'static [u8]>;

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
        let read = self.begin_read()?;
        let blocks = Blocks::open(self, &read)?;
        let few = chosen.len() <= INDEXED_TOPICS_MAX;
        let mut ahead = Ahead::new(chosen);
        let mut at = from;
        let mut barren = 0;
        while at < to {
            if few || barren >= BARREN_BLOCKS_MAX {
                if !few && !filling.messages.is_empty() {
                    return Ok(at);
                }
                at = match ahead.next(&blocks, at)? {
                    Some(next) if next < to => next,
                    _ => return Ok(to),
                };
                barren = 0;
            }
            let found = filling.messages.len();
            let mut refused = None;
            let take = |message: &SharedMessage, filling: &mut Filling| filling.add(message);
            let end = if few {
                // Not worth a decoding of all: a quiet topic has few messages in a block.
                blocks.decode(at, to, |entry, message| {
                    if refused.is_some() || !ahead.wants(entry.topic, entry.offset) {
                        return Ok(());
                    }
                    if !take(&message()?, filling) {
                        refused = Some(entry.offset);
                    }
                    Ok(())
                })?
            } else {
                let block = blocks.block(at)?;
                for message in block.from(at).iter().take_while(|message| message.offset < to) {
                    let name = || message.event.topic.as_str();
                    if choice.takes(message.topic_id, message.offset, name) && !take(message, filling) {
                        refused = Some(message.offset);
                        break;
                    }
                }
                block.end
            };
            if let Some(refused) = refused {
                return Ok(refused);
            }
            barren = if filling.messages.len() > found { 0 } else { barren + 1 };
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
            let read = self.begin_read()?;
            let blocks = self.noted(Blocks::open(self, &read))?;
            let mut block: Option<Arc<DecodedBlock>> = None;
            for (place, &offset) in found.iter_mut().zip(offsets) {
                if place.is_some() {
                    continue;
                }
                let current = match block.take().filter(|block| (block.first..block.end).contains(&offset)) {
                    Some(block) => block,
                    None => self.noted(blocks.block(offset))?,
                };
                *place = Some(current.message(offset).ok_or(ReadError::Missing { offset })?.clone());
                block = Some(current);
            }
        }
        Ok(found.into_iter().map(|message| message.expect("every place was filled")).collect())
    }

    pub(super) fn count(&self, selection: &Selection, from: Offset) -> Result<u64, ReadError> {
        let (end, topics) = {
            let view = self.visible.read();
            // One who keeps up is counted in memory.
            if from >= view.recent_from() {
                let mut choice = TopicChoice::new(selection);
                let takes = |message: &&SharedMessage| {
                    choice.takes(message.topic_id, message.offset, || message.event.topic.as_str())
                };
                return Ok(view.recent(from).filter(takes).count() as u64);
            }
            let topics: Vec<Counted> = view
                .topics()
                .iter()
                .filter(|topic| topic.last_sequence > 0 && topic.last_offset >= from)
                .map(|topic| Counted {
                    topic: topic.id,
                    last_sequence: topic.last_sequence,
                    last: topic.last_offset,
                    start: selection.from_offset(topic.name.as_str()).map(|start| start.max(from)),
                })
                .collect();
            (view.end(), topics)
        };
        let read = self.begin_read()?;
        let blocks = self.noted(Blocks::open(self, &read))?;
        let after = |topic: &Counted, start: Offset| -> Result<u64, ReadError> {
            if start > topic.last {
                return Ok(0);
            }
            Ok(topic.last_sequence + 1 - self.noted(blocks.first_sequence(topic.topic, start))?)
        };
        // Offsets have no gaps, so where most topics are wanted, the others are subtracted.
        let (whole, others): (Vec<&Counted>, Vec<&Counted>) =
            topics.iter().partition(|topic| topic.start == Some(from));
        let mut count = 0;
        if whole.len() > others.len() {
            count = end - from;
            for topic in &others {
                count -= after(topic, from)?;
            }
        } else {
            for topic in &whole {
                count += after(topic, from)?;
            }
        }
        for topic in others {
            if let Some(start) = topic.start {
                count += after(topic, start)?;
            }
        }
        Ok(count)
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
        let read = self.begin_read()?;
        self.noted(Blocks::open(self, &read).and_then(|blocks| blocks.locate(id, sequence, end)))
    }

    pub(super) fn offset_at(&self, time_ms: Millis) -> Result<Offset, ReadError> {
        let end = self.visible.read().end();
        let read = self.begin_read()?;
        self.noted(Blocks::open(self, &read).and_then(|blocks| blocks.offset_at(time_ms, end)))
    }
}

/// A topic that may have messages to be counted.
struct Counted {
    topic: TopicId,
    last_sequence: Sequence,
    last: Offset,
    /// From where on its messages are taken; `None` where the selection does not take the topic.
    start: Option<Offset>,
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

/// The index of a few topics, walked side by side.
struct Ahead {
    topics: Vec<(Chosen, Option<Offset>)>,
}

impl Ahead {
    fn new(chosen: Vec<Chosen>) -> Self {
        Self { topics: chosen.into_iter().map(|chosen| (chosen, None)).collect() }
    }

    fn wants(&self, topic: TopicId, offset: Offset) -> bool {
        self.topics.iter().any(|(chosen, _)| chosen.topic == topic && chosen.from <= offset)
    }

    /// The first offset at or after `at` at which one of the topics has a message.
    fn next(&mut self, blocks: &Blocks<'_>, at: Offset) -> Result<Option<Offset>, ReadError> {
        let mut first = None;
        for (chosen, known) in &mut self.topics {
            let from = at.max(chosen.from);
            if from > chosen.last {
                continue;
            }
            let next = match *known {
                Some(known) if known >= from => known,
                _ => {
                    let entry = blocks.entry_from(chosen.topic, from)?;
                    let entry = entry.ok_or(ReadError::Missing { offset: chosen.last })?.1;
                    // Within the block, the topic's next message stands somewhere behind this.
                    let next = entry.first.max(from);
                    *known = Some(next);
                    next
                }
            };
            first = Some(first.map_or(next, |first: Offset| first.min(next)));
        }
        Ok(first)
    }
}

/// The blocks and their index, as of one read transaction.
struct Blocks<'a> {
    inner: &'a Inner,
    blocks: Rows,
    index: Rows,
}

impl<'a> Blocks<'a> {
    fn open(inner: &'a Inner, read: &ReadTransaction) -> Result<Self, ReadError> {
        let blocks =
            read.open_table(BLOCKS.definition).map_err(|error| reader::storage_error(&BLOCKS)(error.into()))?;
        let index = read
            .open_table(TOPIC_BLOCKS.definition)
            .map_err(|error| reader::storage_error(&TOPIC_BLOCKS)(error.into()))?;
        Ok(Self { inner, blocks, index })
    }

    /// Shows the stored block that accounts for an offset to `look`.
    fn stored<T>(
        &self,
        offset: Offset,
        look: impl FnOnce(&[u8], Offset, &[u8]) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let failed = reader::storage_error(&BLOCKS);
        let mut rows = self.blocks.range::<&[u8]>(..=&offset_key(offset)[..]).map_err(|error| failed(error.into()))?;
        let row = rows.next_back().ok_or(ReadError::Missing { offset })?;
        let (key, stored) = row.map_err(|error| failed(error.into()))?;
        let first = parse_offset_key(key.value()).ok_or_else(|| BLOCKS.damaged(key.value(), "its key is none"))?;
        look(key.value(), first, BLOCKS.verify(key.value(), stored.value())?)
    }

    /// The block that accounts for an offset, decoded as a whole.
    fn block(&self, offset: Offset) -> Result<Arc<DecodedBlock>, ReadError> {
        if let Some(block) = self.inner.blocks.get(offset) {
            return Ok(block);
        }
        let block = self.stored(offset, |key, first, value| {
            let damaged = |error: Malformed| BLOCKS.damaged(key, error.0);
            let (header, entries) = block::open(first, value).map_err(damaged)?;
            if offset >= header.end {
                return Err(ReadError::Missing { offset });
            }
            let mut messages = Vec::with_capacity(header.messages);
            for entry in entries {
                let entry = entry.map_err(damaged)?;
                messages.push(self.message(key, entry)?);
            }
            Ok(Arc::new(DecodedBlock { first, end: header.end, messages }))
        })?;
        self.inner.blocks.insert(block.clone());
        Ok(block)
    }

    /// Shows the entries at or after `offset` of the block that accounts for it, up to `to`, each with a
    /// way to decode it. Answers the block's end.
    fn decode(
        &self,
        offset: Offset,
        to: Offset,
        mut show: impl FnMut(Entry<'_>, &mut dyn FnMut() -> Result<SharedMessage, ReadError>) -> Result<(), ReadError>,
    ) -> Result<Offset, ReadError> {
        self.stored(offset, |key, first, value| {
            let damaged = |error: Malformed| BLOCKS.damaged(key, error.0);
            let (header, entries) = block::open(first, value).map_err(damaged)?;
            if offset >= header.end {
                return Err(ReadError::Missing { offset });
            }
            for entry in entries {
                let entry = entry.map_err(damaged)?;
                if entry.offset >= offset && entry.offset < to {
                    show(entry, &mut || self.message(key, entry))?;
                }
            }
            Ok(header.end)
        })
    }

    fn message(&self, key: &[u8], entry: Entry<'_>) -> Result<SharedMessage, ReadError> {
        let name = self.inner.visible.read().topic_name(entry.topic);
        let name = name.ok_or_else(|| BLOCKS.damaged(key, "a message is of an unknown topic"))?;
        entry.message(name).map_err(|error| BLOCKS.damaged(key, error.0))
    }

    fn index_row(
        &self,
        topic: TopicId,
        row: Option<Result<StoredRow, redb::StorageError>>,
    ) -> Result<Option<(Offset, TopicBlock)>, ReadError> {
        let Some(row) = row else { return Ok(None) };
        let (key, stored) = row.map_err(|error| reader::storage_error(&TOPIC_BLOCKS)(error.into()))?;
        let key = key.value();
        let (found, block) = parse_number_pair(key).ok_or_else(|| TOPIC_BLOCKS.damaged(key, "its key is none"))?;
        if found != topic.0 {
            return Ok(None);
        }
        let value = TOPIC_BLOCKS.verify(key, stored.value())?;
        let entry = rows::topic_block(block, value).map_err(|error| TOPIC_BLOCKS.damaged(key, error.0))?;
        Ok(Some((block, entry)))
    }

    /// The first index row of a topic for a block that begins at or after `block`.
    fn entry_after(&self, topic: TopicId, block: Offset) -> Result<Option<(Offset, TopicBlock)>, ReadError> {
        let (from, to) = (topic_block_key(topic, block), topic_block_key(topic, Offset::MAX));
        let mut rows = self
            .index
            .range::<&[u8]>(&from[..]..=&to[..])
            .map_err(|error| reader::storage_error(&TOPIC_BLOCKS)(error.into()))?;
        self.index_row(topic, rows.next())
    }

    /// The first index row of a topic that has a message at or after an offset.
    fn entry_from(&self, topic: TopicId, offset: Offset) -> Result<Option<(Offset, TopicBlock)>, ReadError> {
        let (from, to) = (topic_block_key(topic, 0), topic_block_key(topic, offset));
        let mut rows = self
            .index
            .range::<&[u8]>(&from[..]..=&to[..])
            .map_err(|error| reader::storage_error(&TOPIC_BLOCKS)(error.into()))?;
        match self.index_row(topic, rows.next_back())? {
            Some((block, entry)) if entry.last >= offset => Ok(Some((block, entry))),
            _ => match offset.checked_add(1) {
                Some(next) => self.entry_after(topic, next),
                None => Ok(None),
            },
        }
    }

    /// The sequence of a topic's first message at or after an offset, which there must be.
    fn first_sequence(&self, topic: TopicId, offset: Offset) -> Result<Sequence, ReadError> {
        let (block, entry) = self.entry_from(topic, offset)?.ok_or(ReadError::Missing { offset })?;
        if entry.first >= offset {
            return Ok(entry.first_sequence);
        }
        self.find(block, |entry| entry.topic == topic && entry.offset >= offset)?
            .map(|(_, sequence)| sequence)
            .ok_or_else(|| TOPIC_BLOCKS.damaged(&topic_block_key(topic, block), "its block has no such message"))
    }

    fn locate(&self, topic: TopicId, sequence: Sequence, end: Offset) -> Result<Offset, ReadError> {
        // The last index row whose first sequence is not past the wanted one is found by halving.
        let (mut low, mut high) = (0, end);
        let mut best: Option<(Offset, TopicBlock)> = None;
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entry_after(topic, middle)? {
                Some((block, entry)) if entry.first_sequence <= sequence => {
                    best = Some((block, entry));
                    low = block + 1;
                }
                _ => high = middle,
            }
        }
        if let Some((block, entry)) = best {
            if entry.first_sequence == sequence {
                return Ok(entry.first);
            }
            let found = self.find(block, |entry| entry.topic == topic && entry.sequence >= sequence)?;
            if let Some((offset, _)) = found {
                return Ok(offset);
            }
        }
        let next = self.entry_after(topic, best.map_or(0, |(block, _)| block + 1))?;
        Ok(next.map_or(end, |(_, entry)| entry.first))
    }

    fn offset_at(&self, time_ms: Millis, end: Offset) -> Result<Offset, ReadError> {
        // The first block whose last message is not before the time is found by halving. Where the clock
        // was set back, that is one of the places where the time was passed.
        let (mut low, mut high) = (0, end);
        while low < high {
            let middle = low + (high - low) / 2;
            let (first, block_end, last_ms) = self.stored(middle, |key, first, value| {
                let (header, _) = block::open(first, value).map_err(|error| BLOCKS.damaged(key, error.0))?;
                Ok((first, header.end, header.last_ms))
            })?;
            if last_ms >= time_ms {
                high = first.min(middle);
            } else {
                low = block_end.max(middle + 1);
            }
        }
        if low >= end {
            return Ok(end);
        }
        Ok(self.find(low, |entry| entry.accepted_ms >= time_ms)?.map_or(end, |(offset, _)| offset))
    }

    /// The first entry that is wanted in the block that accounts for an offset: its offset and sequence.
    fn find(
        &self,
        offset: Offset,
        mut wanted: impl FnMut(&Entry<'_>) -> bool,
    ) -> Result<Option<(Offset, Sequence)>, ReadError> {
        let mut found = None;
        self.decode(offset, Offset::MAX, |entry, _| {
            if found.is_none() && wanted(&entry) {
                found = Some((entry.offset, entry.sequence));
            }
            Ok(())
        })?;
        Ok(found)
    }
}
