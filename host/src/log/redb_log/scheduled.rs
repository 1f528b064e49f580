//! Reading the schedule, and what is known of named events after a start.

use std::ops::Bound;

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};

use super::encoding::{Decoder, Malformed};
use super::tables::{
    BLOCKS, SCHEDULED, SCHEDULED_NUMBERS, parse_offset_key, parse_scheduled_key, scheduled_key, scheduled_number_key,
};
use super::{Inner, block, reader, rows};
use crate::limits::DEDUPE_READ_BYTES_MAX;
use crate::log::sequencer::{DedupeBounds, Known, NameHash};
use crate::log::{Place, ReadBounds, ReadError, Scheduled, ScheduledAt, TopicInfo};
use crate::message::Millis;

impl Inner {
    pub(super) fn scheduled(
        &self,
        after: Option<ScheduledAt>,
        until_ms: Option<Millis>,
        bounds: ReadBounds,
    ) -> Result<Vec<Scheduled>, ReadError> {
        let read = self.snapshot();
        let after = after.map(scheduled_key);
        let until = until_ms.map(|due_ms| scheduled_key(ScheduledAt { due_ms, number: u64::MAX }));
        let from = after.as_ref().map_or(Bound::Unbounded, |key| Bound::Excluded(&key[..]));
        let to = until.as_ref().map_or(Bound::Unbounded, |key| Bound::Included(&key[..]));
        // A range that ends before it begins is empty, and no range at all to a tree.
        if let (Some(after), Some(until)) = (&after, &until)
            && after >= until
        {
            return Ok(Vec::new());
        }
        let failed = reader::storage_error(&SCHEDULED);
        let table = read.open_table(SCHEDULED.definition).map_err(|error| failed(error.into()));
        let stored = table.and_then(|table| table.range::<&[u8]>((from, to)).map_err(|error| failed(error.into())));
        let mut found = Vec::new();
        let mut bytes = 0;
        for row in self.noted(stored)? {
            let (key, stored) = self.noted(row.map_err(|error| failed(error.into())))?;
            // One that is damaged is told of, and keeps no other one waiting.
            match decode(key.value(), stored.value()) {
                Ok(scheduled) => {
                    bytes += scheduled.event.bytes();
                    found.push(scheduled);
                }
                Err(error) => tracing::error!(%error, "a scheduled message cannot be delivered"),
            }
            if found.len() >= bounds.messages_max || bytes >= bounds.bytes_max {
                break;
            }
        }
        Ok(found)
    }

    pub(super) fn scheduled_at(&self, number: u64) -> Result<Option<Scheduled>, ReadError> {
        let read = self.snapshot();
        self.noted(scheduled_at(&read, number))
    }

    pub(super) fn scheduled_messages(&self) -> Result<u64, ReadError> {
        let failed = reader::storage_error(&SCHEDULED);
        let read = self.snapshot();
        let table = read.open_table(SCHEDULED.definition).map_err(|error| failed(error.into()))?;
        table.len().map_err(|error| failed(error.into()))
    }
}

fn decode(key: &[u8], stored: &[u8]) -> Result<Scheduled, ReadError> {
    let at = parse_scheduled_key(key).ok_or_else(|| SCHEDULED.damaged(key, "its key is none"))?;
    rows::scheduled(at, SCHEDULED.verify(key, stored)?).map_err(|error| SCHEDULED.damaged(key, error.0))
}

fn scheduled_at(read: &ReadTransaction, number: u64) -> Result<Option<Scheduled>, ReadError> {
    let due = |value: &[u8]| Decoder::new(value).number();
    let Some(due_ms) = row(read, &SCHEDULED_NUMBERS, &scheduled_number_key(number), due)? else { return Ok(None) };
    let at = ScheduledAt { due_ms, number };
    let found = row(read, &SCHEDULED, &scheduled_key(at), |value| rows::scheduled(at, value))?;
    found.map(Some).ok_or_else(|| SCHEDULED.damaged(&scheduled_key(at), "it is missing"))
}

fn row<T>(
    read: &ReadTransaction,
    table: &'static super::tables::Table,
    key: &[u8],
    decode: impl FnOnce(&[u8]) -> Result<T, Malformed>,
) -> Result<Option<T>, ReadError> {
    let failed = reader::storage_error(table);
    let opened = read.open_table(table.definition).map_err(|error| failed(error.into()))?;
    let Some(stored) = opened.get(key).map_err(|error| failed(error.into()))? else { return Ok(None) };
    let value = table.verify(key, stored.value())?;
    decode(value).map(Some).map_err(|error| table.damaged(key, error.0))
}

/// The newest named events: those within the window before the newest message, as far as they may be kept and
/// may be read. What is damaged is named when it is read for its messages, and only passed over here.
pub(super) fn known(
    read: &ReadTransaction,
    topics: &[TopicInfo],
    bounds: DedupeBounds,
) -> Result<Vec<Known>, ReadError> {
    let mut known = Vec::new();
    if bounds.window_ms == 0 {
        return Ok(known);
    }
    let failed = reader::storage_error(&BLOCKS);
    let blocks = read.open_table(BLOCKS.definition).map_err(|error| failed(error.into()))?;
    let (mut newest_ms, mut bytes) = (None, 0);
    for stored in blocks.iter().map_err(|error| failed(error.into()))?.rev() {
        let (key, stored) = stored.map_err(|error| failed(error.into()))?;
        bytes += stored.value().len();
        let Some(first) = parse_offset_key(key.value()) else { continue };
        let Ok(value) = BLOCKS.verify(key.value(), stored.value()) else { continue };
        let Ok((header, entries)) = block::open(first, value) else { continue };
        let newest_ms = *newest_ms.get_or_insert(header.last_ms);
        if header.last_ms.saturating_add(bounds.window_ms) <= newest_ms {
            break;
        }
        for entry in entries.flatten() {
            let topic = topics.get(entry.topic.0 as usize);
            if let (Some(topic), Ok(Some((id, source)))) = (topic, entry.name()) {
                known.push(Known {
                    hash: NameHash::new(topic.name.as_str(), source, id),
                    place: Place::Message { offset: entry.offset, sequence: entry.sequence },
                    accepted_ms: entry.accepted_ms,
                });
            }
        }
        if known.len() >= bounds.names_max || bytes >= DEDUPE_READ_BYTES_MAX {
            break;
        }
    }
    known_scheduled(read, newest_ms, bounds, &mut known)?;
    Ok(known)
}

/// The same for the schedule, in the order of acceptance.
fn known_scheduled(
    read: &ReadTransaction,
    newest_ms: Option<Millis>,
    bounds: DedupeBounds,
    known: &mut Vec<Known>,
) -> Result<(), ReadError> {
    let failed = reader::storage_error(&SCHEDULED_NUMBERS);
    let numbers = read.open_table(SCHEDULED_NUMBERS.definition).map_err(|error| failed(error.into()))?;
    let mut newest_ms = newest_ms.unwrap_or(0);
    for (count, stored) in numbers.iter().map_err(|error| failed(error.into()))?.rev().enumerate() {
        let (key, stored) = stored.map_err(|error| failed(error.into()))?;
        let Ok(Some((at, accepted_ms, hash))) = named(read, key.value(), stored.value()) else { continue };
        newest_ms = newest_ms.max(accepted_ms);
        if accepted_ms.saturating_add(bounds.window_ms) <= newest_ms || count >= bounds.names_max {
            break;
        }
        known.extend(hash.map(|hash| Known { hash, place: Place::Scheduled(at), accepted_ms }));
    }
    Ok(())
}

/// The place, acceptance and name of the scheduled message of a row of [`SCHEDULED_NUMBERS`].
fn named(
    read: &ReadTransaction,
    key: &[u8],
    stored: &[u8],
) -> Result<Option<(ScheduledAt, Millis, Option<NameHash>)>, ReadError> {
    let damaged = |why: &str| SCHEDULED_NUMBERS.damaged(key, why);
    let number = parse_offset_key(key).ok_or_else(|| damaged("its key is none"))?;
    let value = SCHEDULED_NUMBERS.verify(key, stored)?;
    let due_ms = Decoder::new(value).number().map_err(|error| damaged(error.0))?;
    let at = ScheduledAt { due_ms, number };
    row(read, &SCHEDULED, &scheduled_key(at), |value| {
        let (accepted_ms, topic, decoder) = rows::scheduled_front(value)?;
        let name = block::event_name(decoder)?;
        Ok((at, accepted_ms, name.map(|(id, source)| NameHash::new(topic, source, id))))
    })
}
