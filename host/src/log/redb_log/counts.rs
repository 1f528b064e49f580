//! Counting messages without reading them: in memory where they are new, otherwise by the index, or entry by
//! entry where that is less.

use std::collections::HashMap;

use super::Inner;
use super::blocks::Blocks;
use super::messages::INDEXED_TOPICS_MAX;
use super::topic_choice::TopicChoice;
use crate::log::{ReadError, Selection, TopicInfo};
use crate::message::{Offset, TopicId};

/// A range of at most this many offsets is counted entry by entry where many topics are taken: of the ranges
/// that a position has not passed most are short, and there may be thousands.
const SCANNED_OFFSETS_MAX: u64 = 1_024;

/// A topic that may have messages to be counted.
struct Counted {
    topic: TopicInfo,
    /// From where on its messages are taken; `None` where the selection does not take the topic.
    start: Option<Offset>,
}

impl Inner {
    pub(super) fn count(&self, selection: &Selection, ranges: &[(Offset, Offset)]) -> Result<u64, ReadError> {
        let mut count = 0;
        let mut stored = Vec::new();
        let chosen: Vec<(TopicId, Option<Offset>)> = {
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
            there.map(|topic| (topic.id, selection.from_offset(topic.name.as_str()))).collect()
        };
        let blocks = self.noted(Blocks::open(self))?;
        let mut topics = HashMap::new();
        for (id, start) in chosen {
            // As of what is read now: some of it may have been removed meanwhile.
            topics.insert(id, Counted { topic: self.noted(blocks.topic(id))?, start });
        }
        let few = topics.values().filter(|topic| topic.start.is_some()).count() <= INDEXED_TOPICS_MAX;
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
    let (whole, others): (Vec<&Counted>, Vec<&Counted>) =
        topics.values().partition(|topic| topic.start.is_some_and(|start| start <= from));
    let within = |one: &Counted, start: Offset| blocks.count(&one.topic, start, to);
    let mut count = 0;
    // Where no offset is missing and most of many topics are wanted, the others are subtracted.
    let is_dense = topics.values().all(|one| one.topic.gaps_end <= from);
    if is_dense && whole.len() > INDEXED_TOPICS_MAX + others.len() {
        count = to - from;
        for topic in &others {
            count = count.saturating_sub(within(topic, from)?);
        }
    } else {
        for topic in &whole {
            count += within(topic, from)?;
        }
    }
    for topic in others {
        if let Some(start) = topic.start {
            count += within(topic, start)?;
        }
    }
    Ok(count)
}
