//! Blocks: consecutive messages packed into one value.
//!
//! Layout: the span (offsets that the block accounts for, from its key on), the number of messages,
//! acceptance of the first and of the last message; then each message: the length of its entry, and in
//! the entry the offset (as the difference to the offset after the one before), topic id, sequence,
//! acceptance (as the signed difference to the first), hops and whether the producer named it, id, source, type, subject, key, content
//! type, attributes, and the data, which is the rest. The topic's name is in the `topics` table.
//!
//! Where messages are removed, the block is written anew under its own key with the others ([`without`]):
//! the span stays, so that what was removed differs from what is missing.

use std::sync::Arc;

use bytes::Bytes;

use super::encoding::{Decoder, Malformed, number_bytes, put_number, put_optional_text, put_signed, put_text};
use super::rows::TopicBlock;
use super::tables::CHECKSUM_BYTES;
use crate::limits::{BLOCK_BYTES_MAX, HOPS_MAX};
use crate::message::{Event, Message, Millis, Offset, Sequence, SharedMessage, TopicId};
use crate::topic::TopicName;

/// redb gives a large value a power of two of pages; this much is left for what it adds to the value.
const PAGE_OVERHEAD_BYTES: usize = 512;
/// Header fields at their longest.
const HEADER_BYTES: usize = 4 * 10;
/// In the byte of the hops: the producer gave the id. Hops stay well below.
const NAMED: u8 = 0x80;
const _: () = assert!(HOPS_MAX < NAMED - 1, "hops and the flag share a byte");
const MESSAGES_BYTES_MAX: usize = BLOCK_BYTES_MAX - PAGE_OVERHEAD_BYTES - HEADER_BYTES - CHECKSUM_BYTES;

/// A block as it is written.
pub(super) struct Packed {
    pub(super) first: Offset,
    /// With room for the checksum in front.
    pub(super) stored: Vec<u8>,
    /// In the order of first appearance.
    pub(super) topics: Vec<(TopicId, TopicBlock)>,
}

/// Packs messages, at least one and without a gap between their offsets, into as many blocks as they need.
pub(super) fn pack(messages: &[SharedMessage]) -> Vec<Packed> {
    let mut blocks = Vec::new();
    let mut rest = messages;
    let mut entry = Vec::new();
    while let Some(front) = rest.first() {
        let mut entries = Vec::new();
        let mut taken = 0;
        let mut topics = TopicBlocks::default();
        for message in rest {
            entry.clear();
            put_entry(&mut entry, message, front.accepted_ms);
            if taken > 0 && entries.len() + entry.len() + number_bytes(entry.len() as u64) > MESSAGES_BYTES_MAX {
                break;
            }
            put_number(&mut entries, entry.len() as u64);
            entries.extend_from_slice(&entry);
            topics.add(message.topic_id, message.offset, message.sequence);
            taken += 1;
        }
        let last = &rest[taken - 1];
        let header =
            Header { end: last.offset + 1, messages: taken, first_ms: front.accepted_ms, last_ms: last.accepted_ms };
        let stored = whole(front.offset, header, &entries);
        blocks.push(Packed { first: front.offset, stored, topics: topics.entries });
        rest = &rest[taken..];
    }
    blocks
}

/// A block's value, with room for the checksum in front.
fn whole(first: Offset, header: Header, entries: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(CHECKSUM_BYTES + HEADER_BYTES + entries.len());
    stored.resize(CHECKSUM_BYTES, 0);
    put_number(&mut stored, header.end - first);
    put_number(&mut stored, header.messages as u64);
    put_number(&mut stored, header.first_ms);
    put_number(&mut stored, header.last_ms);
    stored.extend_from_slice(entries);
    stored
}

/// What is left of a block.
pub(super) struct Remainder {
    /// With room for the checksum in front; `None` where no message is left.
    pub(super) stored: Option<Vec<u8>>,
    /// All topics that it had messages of, with what it has of them now.
    pub(super) topics: Vec<(TopicId, Option<TopicBlock>)>,
}

/// A block without some of its messages. Its span and times stay; so what is found by time is found still.
pub(super) fn without(first: Offset, value: &[u8], is_gone: impl Fn(Offset) -> bool) -> Result<Remainder, Malformed> {
    let (header, found) = open(first, value)?;
    let mut entries = Vec::with_capacity(value.len());
    let mut left = 0;
    let mut next = first;
    let mut topics = TopicBlocks::default();
    let mut all = Vec::new();
    let mut front = Vec::new();
    for entry in found {
        let entry = entry?;
        if !all.contains(&entry.topic) {
            all.push(entry.topic);
        }
        if is_gone(entry.offset) {
            continue;
        }
        front.clear();
        put_number(&mut front, entry.offset - next);
        put_number(&mut entries, (front.len() + entry.tail.len()) as u64);
        entries.extend_from_slice(&front);
        entries.extend_from_slice(entry.tail);
        topics.add(entry.topic, entry.offset, entry.sequence);
        next = entry.offset + 1;
        left += 1;
    }
    let stored = (left > 0).then(|| whole(first, Header { messages: left, ..header }, &entries));
    let of = |topic: TopicId| (topic, topics.places.get(&topic).map(|place| topics.entries[*place].1));
    Ok(Remainder { stored, topics: all.into_iter().map(of).collect() })
}

/// Gathers the index rows of one block.
#[derive(Default)]
struct TopicBlocks {
    entries: Vec<(TopicId, TopicBlock)>,
    places: std::collections::HashMap<TopicId, usize>,
}

impl TopicBlocks {
    fn add(&mut self, topic: TopicId, offset: Offset, sequence: Sequence) {
        let place = *self.places.entry(topic).or_insert(self.entries.len());
        match self.entries.get_mut(place) {
            Some((_, entry)) => {
                entry.messages += 1;
                entry.last = offset;
            }
            None => {
                let entry = TopicBlock { first_sequence: sequence, messages: 1, first: offset, last: offset };
                self.entries.push((topic, entry));
            }
        }
    }
}

fn put_entry(out: &mut Vec<u8>, message: &Message, first_ms: Millis) {
    // Messages that are packed have no gaps; a rewritten block may.
    put_number(out, 0);
    put_number(out, u64::from(message.topic_id.0));
    put_number(out, message.sequence);
    put_signed(out, message.accepted_ms.wrapping_sub(first_ms) as i64);
    put_event(out, &message.event);
}

/// An event without its topic. The data is the rest.
pub(super) fn put_event(out: &mut Vec<u8>, event: &Event) {
    out.push(event.hops | if event.named { NAMED } else { 0 });
    put_text(out, &event.id);
    put_text(out, &event.source);
    put_text(out, &event.kind);
    put_optional_text(out, event.subject.as_deref());
    put_optional_text(out, event.key.as_deref());
    put_optional_text(out, event.content_type.as_deref());
    put_number(out, event.attributes.len() as u64);
    for (name, value) in &event.attributes {
        put_text(out, name);
        put_text(out, value);
    }
    out.extend_from_slice(&event.data);
}

/// The event that [`put_event`] wrote. Its data is copied, so that one message does not keep a block in memory.
pub(super) fn event(mut decoder: Decoder<'_>, topic: TopicName) -> Result<Event, Malformed> {
    let flags = decoder.byte()?;
    let (hops, named) = (flags & !NAMED, flags & NAMED != 0);
    let id = decoder.owned_text()?;
    let source = decoder.owned_text()?;
    let kind = decoder.owned_text()?;
    let subject = decoder.optional_text()?;
    let key = decoder.optional_text()?;
    let content_type = decoder.optional_text()?;
    let count = decoder.count()?;
    let mut attributes = Vec::new();
    for _ in 0..count {
        attributes.push((decoder.owned_text()?, decoder.owned_text()?));
    }
    let data = Bytes::copy_from_slice(decoder.remaining());
    let deliver_at_ms = None;
    Ok(Event { topic, id, source, kind, subject, key, content_type, attributes, data, hops, named, deliver_at_ms })
}

/// Id and source of the event that [`put_event`] wrote, where its producer named it.
pub(super) fn event_name<'a>(mut decoder: Decoder<'a>) -> Result<Option<(&'a str, &'a str)>, Malformed> {
    if decoder.byte()? & NAMED == 0 {
        return Ok(None);
    }
    Ok(Some((decoder.text()?, decoder.text()?)))
}

/// The front of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// The offset after the last one that the block accounts for.
    pub(super) end: Offset,
    pub(super) messages: usize,
    pub(super) last_ms: Millis,
    first_ms: Millis,
}

/// A message within a block: enough to choose it, and the rest to be decoded if it is chosen.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) offset: Offset,
    pub(super) topic: TopicId,
    pub(super) sequence: Sequence,
    pub(super) accepted_ms: Millis,
    /// All of the entry behind the offset.
    tail: &'a [u8],
    rest: Decoder<'a>,
}

/// Reads a block's front. The entries that follow are read by the iterator.
pub(super) fn open(first: Offset, value: &[u8]) -> Result<(Header, Entries<'_>), Malformed> {
    let mut decoder = Decoder::new(value);
    let end = first.checked_add(decoder.number()?).ok_or(Malformed("its span is too large"))?;
    let messages = decoder.count()?;
    let first_ms = decoder.number()?;
    let last_ms = decoder.number()?;
    let header = Header { end, messages, last_ms, first_ms };
    Ok((header, Entries { decoder, next: first, left: messages, header }))
}

/// The entries of a block, in order.
pub(super) struct Entries<'a> {
    decoder: Decoder<'a>,
    next: Offset,
    left: usize,
    header: Header,
}

impl<'a> Entries<'a> {
    fn read(&mut self) -> Result<Entry<'a>, Malformed> {
        let mut rest = Decoder::new(self.decoder.bytes()?);
        let offset = self.next.checked_add(rest.number()?).ok_or(Malformed("an offset is too large"))?;
        if offset >= self.header.end {
            return Err(Malformed("a message is outside its span"));
        }
        self.next = offset + 1;
        let tail = rest.remaining();
        let topic = TopicId(rest.small()?);
        let sequence = rest.number()?;
        let accepted_ms = self.header.first_ms.wrapping_add(rest.signed()? as u64);
        Ok(Entry { offset, topic, sequence, accepted_ms, tail, rest })
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let entry = self.read();
        if entry.is_err() {
            self.left = 0;
        }
        Some(entry)
    }
}

impl Entry<'_> {
    /// The whole message.
    pub(super) fn message(self, topic: TopicName) -> Result<SharedMessage, Malformed> {
        let event = event(self.rest, topic)?;
        Ok(Arc::new(Message {
            offset: self.offset,
            sequence: self.sequence,
            topic_id: self.topic,
            accepted_ms: self.accepted_ms,
            event,
        }))
    }

    /// Id and source, where the producer named the event.
    pub(super) fn name(&self) -> Result<Option<(&str, &str)>, Malformed> {
        event_name(self.rest)
    }
}

#[cfg(test)]
mod tests;
