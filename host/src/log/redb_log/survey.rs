//! What retention asks before it chooses: where messages are stored, which ones, and who still needs them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Bound;

use redb::ReadTransaction;

use super::blocks::Blocks;
use super::tables::{
    DEAD, HELD, RETRIES, SUBSCRIPTIONS, Table, message_key, parse_held_key, parse_number_pair, parse_subscription_key,
};
use super::{Inner, open, reader, rows};
use crate::log::removal::{Reach, Standing, Stretch};
use crate::log::{ReadError, SubscriptionId};
use crate::message::{Offset, Sequence, TopicId};

impl Inner {
    pub(super) fn first_retained(&self, topic: TopicId) -> Result<Option<(Sequence, Offset)>, ReadError> {
        let first = self.noted(Blocks::open(self).and_then(|blocks| blocks.first_entry(topic)))?;
        Ok(first.map(|(_, entry)| (entry.first_sequence, entry.first)))
    }

    pub(super) fn stretches(
        &self,
        topics: &[(TopicId, Offset)],
        from: Offset,
        limit: usize,
    ) -> Result<Vec<Stretch>, ReadError> {
        let blocks = self.noted(Blocks::open(self))?;
        // The index rows of each topic come in order; the heap has the next one of each.
        let mut ahead = BinaryHeap::new();
        let look = |ahead: &mut BinaryHeap<_>, index: usize, at: Offset| -> Result<(), ReadError> {
            let (topic, below) = topics[index];
            if let Some((block, entry)) = self.noted(blocks.entry_after(topic, at))?.filter(|(_, row)| row.last < below)
            {
                ahead.push(Reverse((block, index, entry.last, entry.messages)));
            }
            Ok(())
        };
        for index in 0..topics.len() {
            look(&mut ahead, index, from)?;
        }
        let mut found: Vec<Stretch> = Vec::new();
        while let Some(Reverse((block, index, last, messages))) = ahead.pop() {
            let full = found.len() == limit;
            match found.last_mut() {
                Some(stretch) if stretch.from == block => {
                    stretch.to = stretch.to.max(last + 1);
                    stretch.messages += messages;
                }
                _ if full => break,
                _ => found.push(Stretch { from: block, to: last + 1, messages }),
            }
            look(&mut ahead, index, block + 1)?;
        }
        Ok(found)
    }

    pub(super) fn survey(&self, stretch: Stretch) -> Result<Vec<Standing>, ReadError> {
        let mut standing = Vec::new();
        let surveyed = Blocks::open(self).and_then(|blocks| {
            blocks.decode(stretch.from, stretch.to, |entry, message| {
                let bytes = message()?.event.bytes() as u64;
                standing.push(Standing { offset: entry.offset, topic: entry.topic, bytes });
                Ok(())
            })
        });
        self.noted(surveyed)?;
        Ok(standing)
    }

    pub(super) fn pinned(&self, stretches: &[Stretch]) -> Result<Vec<Offset>, ReadError> {
        let read = self.snapshot();
        self.noted(pinned(&read, stretches))
    }

    pub(super) fn reaches(&self) -> Result<Vec<Reach>, ReadError> {
        let read = self.snapshot();
        let subscriptions = self.noted(open::subscriptions(&read))?;
        let reach = |(_, _, record, position, _): open::StoredSubscription| Reach {
            selection: record.selection,
            floor: position.floor(),
        };
        Ok(subscriptions.into_iter().map(reach).collect())
    }
}

fn pinned(read: &ReadTransaction, stretches: &[Stretch]) -> Result<Vec<Offset>, ReadError> {
    let mut found = Vec::new();
    let Some(last) = stretches.last() else { return Ok(found) };
    let mut ids = Vec::new();
    reader::for_each(read, &SUBSCRIPTIONS, .., |key, _| {
        ids.extend(parse_subscription_key(key));
        Ok(())
    })?;
    for table in [&RETRIES, &DEAD] {
        for &id in &ids {
            rows_within(read, table, id, stretches, &mut found)?;
        }
    }
    // Held rows stand by key, so all are looked at, which is why many stretches are asked for at once.
    reader::for_each(read, &HELD, .., |key, value| {
        let at = parse_held_key(key).ok_or_else(|| HELD.damaged(key, "its key is none"))?;
        if at.first < last.to {
            let row = rows::held(value).map_err(|error| HELD.damaged(key, error.0))?;
            let waiting = row.offsets.iter().skip(row.front as usize);
            found.extend(waiting.filter(|offset| within(stretches, **offset).is_ok()));
        }
        Ok(())
    })?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The stretch that an offset is in, or the first one behind it.
fn within(stretches: &[Stretch], offset: Offset) -> Result<usize, usize> {
    let next = stretches.partition_point(|stretch| stretch.to <= offset);
    match stretches.get(next) {
        Some(stretch) if stretch.from <= offset => Ok(next),
        _ => Err(next),
    }
}

/// Adds the offsets of one subscription's rows that are in stretches. What is between them is leapt over.
fn rows_within(
    read: &ReadTransaction,
    table: &'static Table,
    id: SubscriptionId,
    stretches: &[Stretch],
    found: &mut Vec<Offset>,
) -> Result<(), ReadError> {
    let failed = reader::storage_error(table);
    let opened = read.open_table(table.definition).map_err(|error| failed(error.into()))?;
    let end = message_key(id, stretches[stretches.len() - 1].to);
    let mut next = stretches.first();
    while let Some(stretch) = next.take() {
        let start = message_key(id, stretch.from);
        let range = (Bound::Included(&start[..]), Bound::Excluded(&end[..]));
        for row in opened.range::<&[u8]>(range).map_err(|error| failed(error.into()))? {
            let (key, _) = row.map_err(|error| failed(error.into()))?;
            let key = key.value();
            let (_, offset) = parse_number_pair(key).ok_or_else(|| table.damaged(key, "its key is none"))?;
            match within(stretches, offset) {
                Ok(_) => found.push(offset),
                Err(behind) => {
                    next = stretches.get(behind);
                    break;
                }
            }
        }
    }
    Ok(())
}
