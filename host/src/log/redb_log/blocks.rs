//! The stored blocks and their index.

use std::sync::Arc;

use redb::ReadTransaction;

use super::block::{self, Entry};
use super::block_cache::DecodedBlock;
use super::encoding::Malformed;
use super::rows::{self, TopicBlock};
use super::tables::{BLOCKS, TOPIC_BLOCKS, offset_key, parse_number_pair, parse_offset_key, topic_block_key};
use super::{Inner, reader};
use crate::log::ReadError;
use crate::message::{Millis, Offset, Sequence, SharedMessage, TopicId};

type StoredRow = (redb::AccessGuard<'static, &'static [u8]>, redb::AccessGuard<'static, &'static [u8]>);
type Rows = redb::ReadOnlyTable<&'static [u8], &'static [u8]>;

/// The blocks and their index, as of one read transaction.
pub(super) struct Blocks<'a> {
    inner: &'a Inner,
    blocks: Rows,
    index: Rows,
}

impl<'a> Blocks<'a> {
    pub(super) fn open(inner: &'a Inner, read: &ReadTransaction) -> Result<Self, ReadError> {
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
    pub(super) fn block(&self, offset: Offset) -> Result<Arc<DecodedBlock>, ReadError> {
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
    pub(super) fn decode(
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
    pub(super) fn entry_from(&self, topic: TopicId, offset: Offset) -> Result<Option<(Offset, TopicBlock)>, ReadError> {
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
    pub(super) fn first_sequence(&self, topic: TopicId, offset: Offset) -> Result<Sequence, ReadError> {
        let (block, entry) = self.entry_from(topic, offset)?.ok_or(ReadError::Missing { offset })?;
        if entry.first >= offset {
            return Ok(entry.first_sequence);
        }
        self.find(block, |entry| entry.topic == topic && entry.offset >= offset)?
            .map(|(_, sequence)| sequence)
            .ok_or_else(|| TOPIC_BLOCKS.damaged(&topic_block_key(topic, block), "its block has no such message"))
    }

    pub(super) fn locate(&self, topic: TopicId, sequence: Sequence, end: Offset) -> Result<Offset, ReadError> {
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

    pub(super) fn offset_at(&self, time_ms: Millis, end: Offset) -> Result<Offset, ReadError> {
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
