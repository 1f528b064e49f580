//! Writing a removal: blocks are written anew without what goes, or go with it.

use redb::{ReadableTable, WriteTransaction};

use super::blocks::removed_end;
use super::encoding::put_number;
use super::tables::{BLOCKS, REMOVED, TOPIC_BLOCKS, offset_key, parse_offset_key, topic_block_key};
use super::writer::Sheet;
use super::{block, rows};
use crate::log::ReadError;
use crate::log::removal::{Removal, ranges_contain};
use crate::message::Offset;

/// Takes messages out. All of it is in the writer's transaction: a crash leaves all of a removal or nothing.
pub(super) fn write_removals(write: &WriteTransaction, removals: &[Removal]) -> Result<(), redb::Error> {
    if removals.is_empty() {
        return Ok(());
    }
    let mut blocks = Sheet::open(write, &BLOCKS)?;
    let mut index = Sheet::open(write, &TOPIC_BLOCKS)?;
    let mut removed = Sheet::open(write, &REMOVED)?;
    for removal in removals {
        let mut done = 0;
        for &(from, to) in &removal.ranges {
            let mut at = from.max(done);
            while at < to {
                let Some((first, value)) = block_from(&blocks, at)? else { break };
                if first >= to {
                    break;
                }
                let (end, left) = rewrite(first, &value, &removal.ranges).map_err(damaged)?;
                put(&mut blocks, &mut index, &mut removed, first, end, left)?;
                at = end;
            }
            done = done.max(at);
        }
    }
    Ok(())
}

/// The block that accounts for an offset, or the first one behind it: its first offset and its verified value.
fn block_from(blocks: &Sheet<'_>, offset: Offset) -> Result<Option<(Offset, Vec<u8>)>, redb::Error> {
    let key = offset_key(offset);
    let parsed = |row: (redb::AccessGuard<'_, &'static [u8]>, redb::AccessGuard<'_, &'static [u8]>)| {
        let key = row.0.value();
        let first = parse_offset_key(key).ok_or_else(|| damaged(BLOCKS.damaged(key, "its key is none")))?;
        let value = BLOCKS.verify(key, row.1.value()).map_err(damaged)?.to_vec();
        Ok::<_, redb::Error>((first, value))
    };
    if let Some(row) = blocks.rows.range::<&[u8]>(..=&key[..])?.next_back() {
        let (first, value) = parsed(row?)?;
        let (header, _) = block::open(first, &value).map_err(|error| damaged(BLOCKS.damaged(&key, error.0)))?;
        if offset < header.end {
            return Ok(Some((first, value)));
        }
    }
    blocks.rows.range::<&[u8]>(&key[..]..)?.next().map(|row| parsed(row?)).transpose()
}

fn rewrite(first: Offset, value: &[u8], ranges: &[(Offset, Offset)]) -> Result<(Offset, block::Remainder), ReadError> {
    let key = offset_key(first);
    let malformed = |error: super::encoding::Malformed| BLOCKS.damaged(&key, error.0);
    let (header, _) = block::open(first, value).map_err(malformed)?;
    let left = block::without(first, value, |offset| ranges_contain(ranges, offset)).map_err(malformed)?;
    Ok((header.end, left))
}

fn put(
    blocks: &mut Sheet<'_>,
    index: &mut Sheet<'_>,
    removed: &mut Sheet<'_>,
    first: Offset,
    end: Offset,
    left: block::Remainder,
) -> Result<(), redb::Error> {
    let key = offset_key(first);
    match left.stored {
        Some(mut stored) => {
            BLOCKS.seal(&key, &mut stored);
            blocks.rows.insert(&key[..], &*stored)?;
        }
        None => {
            blocks.rows.remove(&key[..])?;
            record(removed, first, end)?;
        }
    }
    for (topic, entry) in left.topics {
        index.put_or_remove(&topic_block_key(topic, first), entry.as_ref(), |out, entry| {
            rows::put_topic_block(out, first, entry);
        })?;
    }
    Ok(())
}

/// Records that nothing is retained of `[from, to)`, together with the ranges that it touches.
fn record(removed: &mut Sheet<'_>, mut from: Offset, mut to: Offset) -> Result<(), redb::Error> {
    if let Some(row) = removed.rows.range::<&[u8]>(..&offset_key(from)[..])?.next_back() {
        let (key, stored) = row?;
        let key = key.value();
        if removed_end(key, stored.value()).map_err(damaged)? == from {
            from = parse_offset_key(key).ok_or_else(|| damaged(REMOVED.damaged(key, "its key is none")))?;
        }
    }
    let behind = offset_key(to);
    let next = removed.rows.remove(&behind[..])?.map(|stored| removed_end(&behind, stored.value()));
    if let Some(end) = next.transpose().map_err(damaged)? {
        to = end;
    }
    removed.put(&offset_key(from), |out| put_number(out, to))
}

/// What is damaged is not written anew as if it were whole: the log stops, and names it.
fn damaged(error: ReadError) -> redb::Error {
    redb::Error::Corrupted(error.to_string())
}
