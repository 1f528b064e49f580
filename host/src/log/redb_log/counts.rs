//! Counting messages without reading them: in memory where they are new, otherwise by the index, or entry by
//! entry where that is less.

use std::collections::HashMap;

use super::Inner;
use super::blocks::Blocks;
use super::messages::INDEXED_TOPICS_MAX;
use super::topic_choice::TopicChoice;
use crate::log::{ReadError, Selection};
use crate::message::{Offset, Sequence, TopicId};

/// A range of at most this many offsets is counted entry by entry where many topics are taken: of the ranges
/// that a position has not passed most are short, and there may be thousands.
const SCANNED_OFFSETS_MAX: u64 = 1_024;

/// A topic that may have messages to be counted.
struct Counted {
    last_sequence: Sequence,
    last: Offset,
    /// From where on its messages are taken; `None` where the selection does not take the topic.
    start: Option<Offset>,
}

impl Inner {
    pub(super) fn count(&self, selection: &Selection, ranges: &[(Offset, Offset)]) -> Result<u64, ReadError> {
        let mut count = 0;
        let mut stored = Vec::new();
        let topics: HashMap<TopicId, Counted> = {
            let view = self.visible.read();
            let mut choice = TopicChoice::new(selection);
            for &(from, to) in ranges {
                let to = to.min(view.end());
                let before = (from, to.min(view.recent_from()));
                if before.0 < before.1 {
                    stored.push(before);
                }
                let recent = view.recent(from).take_while(|message| message.offset < to);
                count += recent
                    .filter(|message| choice.takes(message.topic_id, message.offset, || message.event.topic.as_str()))
                    .count() as u64;
            }
            let Some(&(first, _)) = stored.first() else { return Ok(count) };
            let there = view.topics().iter().filter(|topic| topic.last_sequence > 0 && topic.last_offset >= first);
            let counted = |topic: &crate::log::TopicInfo| Counted {
                last_sequence: topic.last_sequence,
                last: topic.last_offset,
                start: selection.from_offset(topic.name.as_str()),
            };
            there.map(|topic| (topic.id, counted(topic))).collect()
        };
        let few = topics.values().filter(|topic| topic.start.is_some()).count() <= INDEXED_TOPICS_MAX;
        let read = self.snapshot();
        let blocks = self.noted(Blocks::open(self, &read))?;
        for (from, to) in stored {
            count += self.noted(if to - from <= SCANNED_OFFSETS_MAX && !few {
                count_entries(&blocks, &topics, from, to)
            } else {
                count_by_index(&blocks, &topics, from, to)
            })?;
        }
        Ok(count)
    }
}

fn count_entries(
    blocks: &Blocks<'_>,
    topics: &HashMap<TopicId, Counted>,
    from: Offset,
    to: Offset,
) -> Result<u64, ReadError> {
    let takes = |topic: &TopicId, offset| {
        topics.get(topic).and_then(|counted| counted.start).is_some_and(|start| start <= offset)
    };
    let (mut count, mut at) = (0, from);
    while at < to {
        at = blocks.decode(at, to, |entry, _| {
            count += u64::from(takes(&entry.topic, entry.offset));
            Ok(())
        })?;
    }
    Ok(count)
}

fn count_by_index(
    blocks: &Blocks<'_>,
    topics: &HashMap<TopicId, Counted>,
    from: Offset,
    to: Offset,
) -> Result<u64, ReadError> {
    // Messages of a topic in `[start, to)`.
    let within = |id: TopicId, topic: &Counted, start: Offset| -> Result<u64, ReadError> {
        let after = |offset: Offset| -> Result<Sequence, ReadError> {
            if offset > topic.last { Ok(topic.last_sequence + 1) } else { blocks.first_sequence(id, offset) }
        };
        if start >= to || start > topic.last { Ok(0) } else { Ok(after(to)?.saturating_sub(after(start)?)) }
    };
    let (whole, others): (Vec<_>, Vec<_>) =
        topics.iter().partition(|(_, topic)| topic.start.is_some_and(|start| start <= from));
    let mut count = 0;
    // Offsets have no gaps, so where most of many topics are wanted, the others are subtracted.
    if whole.len() > INDEXED_TOPICS_MAX + others.len() {
        count = to - from;
        for (id, topic) in &others {
            count = count.saturating_sub(within(**id, topic, from)?);
        }
    } else {
        for (id, topic) in &whole {
            count += within(**id, topic, from)?;
        }
    }
    for (id, topic) in others {
        if let Some(start) = topic.start {
            count += within(*id, topic, start)?;
        }
    }
    Ok(count)
}
