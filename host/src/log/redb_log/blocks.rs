//! The stored blocks and their index.

use std::sync::Arc;

use redb::ReadTransaction;

use super::block::{self, Entries, Entry, Header};
use super::block_cache::DecodedBlock;
use super::rows::{self, TopicBlock};
use super::tables::{
    BLOCKS, REMOVED, TOPIC_BLOCKS, TOPICS, Table, offset_key, parse_number_pair, parse_offset_key, topic_block_key,
    topic_key,
};
use super::{Inner, encoding, reader};
use crate::log::{ReadError, TopicInfo};
use crate::message::{Millis, Offset, Sequence, SharedMessage, TopicId};

type StoredRow = (redb::AccessGuard<'static, &'static [u8]>, redb::AccessGuard<'static, &'static [u8]>);
type Rows = redb::ReadOnlyTable<&'static [u8], &'static [u8]>;

/// What accounts for an offset.
pub(super) enum Place<T> {
    Block(T),
    /// Nothing is retained up to there.
    Removed {
        until: Offset,
    },
}

/// The blocks and their index, as of one read transaction.
pub(super) struct Blocks<'a> {
    inner: &'a Inner,
    blocks: Rows,
    removed: Rows,
    index: Rows,
    topics: Rows,
    /// What the cache had seen when the transaction was chosen.
    edition: u64,
}

impl<'a> Blocks<'a> {
    /// Of what is on the disk now.
    pub(super) fn open(inner: &'a Inner) -> Result<Self, ReadError> {
        // In this order: what is written anew in between is not cached as it was before.
        let edition = inner.blocks.edition();
        let read: Arc<ReadTransaction> = inner.snapshot();
        let open = |table: &'static Table| {
            read.open_table(table.definition).map_err(|error| reader::storage_error(table)(error.into()))
        };
        let (blocks, removed) = (open(&BLOCKS)?, open(&REMOVED)?);
        Ok(Self { inner, blocks, removed, index: open(&TOPIC_BLOCKS)?, topics: open(&TOPICS)?, edition })
    }

    /// Shows the stored block that accounts for an offset to `look`.
    fn stored<T>(
        &self,
        offset: Offset,
        look: impl FnOnce(&[u8], Header, Entries<'_>) -> Result<T, ReadError>,
    ) -> Result<Place<T>, ReadError> {
        let failed = reader::storage_error(&BLOCKS);
        let mut rows = self.blocks.range::<&[u8]>(..=&offset_key(offset)[..]).map_err(|error| failed(error.into()))?;
        if let Some(row) = rows.next_back() {
            let (key, stored) = row.map_err(|error| failed(error.into()))?;
            let (key, stored) = (key.value(), stored.value());
            let first = parse_offset_key(key).ok_or_else(|| BLOCKS.damaged(key, "its key is none"))?;
            let opened = block::open(first, BLOCKS.verify(key, stored)?);
            let (header, entries) = opened.map_err(|error| BLOCKS.damaged(key, error.0))?;
            if offset < header.end {
                return look(key, header, entries).map(Place::Block);
            }
        }
        Ok(Place::Removed { until: self.removed_until(offset)? })
    }

    /// Where the removed range ends that an offset without a block must be in.
    fn removed_until(&self, offset: Offset) -> Result<Offset, ReadError> {
        let failed = reader::storage_error(&REMOVED);
        let mut rows = self.removed.range::<&[u8]>(..=&offset_key(offset)[..]).map_err(|error| failed(error.into()))?;
        let row = rows.next_back().ok_or(ReadError::Missing { offset })?;
        let (key, stored) = row.map_err(|error| failed(error.into()))?;
        let until = removed_end(key.value(), stored.value())?;
        if offset < until { Ok(until) } else { Err(ReadError::Missing { offset }) }
    }

    /// The block that accounts for an offset, decoded as a whole.
    pub(super) fn block(&self, offset: Offset) -> Result<Place<Arc<DecodedBlock>>, ReadError> {
        if let Some(block) = self.inner.blocks.get(offset) {
            return Ok(Place::Block(block));
        }
        let place = self.stored(offset, |key, header, entries| {
            let mut messages = Vec::with_capacity(header.messages);
            for entry in entries {
                let entry = entry.map_err(|error| BLOCKS.damaged(key, error.0))?;
                messages.push(self.message(key, entry)?);
            }
            let first = parse_offset_key(key).expect("the key was parsed before");
            Ok(Arc::new(DecodedBlock { first, end: header.end, messages }))
        })?;
        if let Place::Block(block) = &place {
            self.inner.blocks.insert(block.clone(), self.edition);
        }
        Ok(place)
    }

    /// Shows the entries at or after `offset` of the block that accounts for it, up to `to`, each with a
    /// way to decode it. Answers the end of the block, or of the removed range that is there.
    pub(super) fn decode(
        &self,
        offset: Offset,
        to: Offset,
        mut show: impl FnMut(Entry<'_>, &mut dyn FnMut() -> Result<SharedMessage, ReadError>) -> Result<(), ReadError>,
    ) -> Result<Offset, ReadError> {
        let place = self.stored(offset, |key, header, entries| {
            for entry in entries {
                let entry = entry.map_err(|error| BLOCKS.damaged(key, error.0))?;
                if entry.offset >= offset && entry.offset < to {
                    show(entry, &mut || self.message(key, entry))?;
                }
            }
            Ok(header.end)
        })?;
        Ok(match place {
            Place::Block(end) | Place::Removed { until: end } => end,
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
    pub(super) fn entry_after(&self, topic: TopicId, block: Offset) -> Result<Option<(Offset, TopicBlock)>, ReadError> {
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

    /// The first index row of a topic.
    pub(super) fn first_entry(&self, topic: TopicId) -> Result<Option<(Offset, TopicBlock)>, ReadError> {
        self.entry_after(topic, 0)
    }

    /// A topic as of this transaction.
    pub(super) fn topic(&self, id: TopicId) -> Result<TopicInfo, ReadError> {
        let key = topic_key(id);
        let stored = self.topics.get(&key[..]).map_err(|error| reader::storage_error(&TOPICS)(error.into()))?;
        let stored = stored.ok_or_else(|| TOPICS.damaged(&key, "it is missing"))?;
        rows::topic(id, TOPICS.verify(&key, stored.value())?).map_err(|error| TOPICS.damaged(&key, error.0))
    }

    /// That a topic's message at an offset, of which the index knows nothing, was removed.
    pub(super) fn expect_removed(&self, topic: TopicId, offset: Offset) -> Result<(), ReadError> {
        if offset < self.topic(topic)?.gaps_end { Ok(()) } else { Err(ReadError::Missing { offset }) }
    }

    /// How many messages of a topic stand in `[from, to)`.
    pub(super) fn count(&self, topic: &TopicInfo, from: Offset, to: Offset) -> Result<u64, ReadError> {
        let after = |offset: Offset| -> Result<Sequence, ReadError> {
            if offset > topic.last_offset { Ok(topic.last_sequence + 1) } else { self.first_sequence(topic.id, offset) }
        };
        let mut counted = 0;
        let mut at = from;
        while at < to && at <= topic.last_offset {
            if at >= topic.gaps_end {
                // From here on nothing was removed, so that the sequences tell.
                return Ok(counted + after(to)?.saturating_sub(after(at)?));
            }
            let Some((block, entry)) = self.entry_from(topic.id, at)? else {
                self.expect_removed(topic.id, topic.last_offset)?;
                break;
            };
            if entry.first >= at && entry.last < to {
                counted += entry.messages;
            } else if entry.first < to {
                self.decode(block, to, |entry, _| {
                    counted += u64::from(entry.topic == topic.id && entry.offset >= at);
                    Ok(())
                })?;
            }
            at = entry.last + 1;
        }
        Ok(counted)
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
            match self.header_from(middle)? {
                Some((_, header)) if header.last_ms < time_ms => low = header.end.max(middle + 1),
                Some((first, _)) => high = first.min(middle),
                None => high = middle,
            }
        }
        while let Some((first, header)) = self.header_from(low)? {
            // The message that was the last one may have been removed.
            if let Some((offset, _)) = self.find(first, |entry| entry.accepted_ms >= time_ms)? {
                return Ok(offset);
            }
            low = header.end;
        }
        Ok(end)
    }

    /// The block that accounts for an offset, or the first one after it.
    fn header_from(&self, offset: Offset) -> Result<Option<(Offset, Header)>, ReadError> {
        let first_of = |key: &[u8], header: Header| (parse_offset_key(key).unwrap_or(offset), header);
        let until = match self.stored(offset, |key, header, _| Ok(first_of(key, header))) {
            Ok(Place::Block(found)) => return Ok(Some(found)),
            Ok(Place::Removed { until }) => until,
            // Past the end there is nothing, and that is no damage.
            Err(ReadError::Missing { .. }) if offset >= self.inner.visible.read().end() => return Ok(None),
            Err(error) => return Err(error),
        };
        match self.stored(until, |key, header, _| Ok(first_of(key, header))) {
            Ok(Place::Block(found)) => Ok(Some(found)),
            Ok(Place::Removed { .. }) | Err(ReadError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
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

/// The offset after a removed range.
pub(super) fn removed_end(key: &[u8], stored: &[u8]) -> Result<Offset, ReadError> {
    let mut decoder = encoding::Decoder::new(REMOVED.verify(key, stored)?);
    let end = decoder.number().map_err(|error| REMOVED.damaged(key, error.0))?;
    decoder.end().map_err(|error| REMOVED.damaged(key, error.0))?;
    Ok(end)
}
