//! Which topics a selection takes, remembered for the time of one read.

use std::collections::HashMap;

use super::recent::View;
use crate::log::Selection;
use crate::message::{Offset, TopicId};

/// Answers whether a message is taken, matching each topic's name once.
pub(super) struct TopicChoice<'a> {
    selection: &'a Selection,
    known: HashMap<TopicId, Option<Offset>>,
    /// The topic asked for last: neighbours are often of one topic.
    last: Option<(TopicId, Option<Offset>)>,
}

impl<'a> TopicChoice<'a> {
    pub(super) fn new(selection: &'a Selection) -> Self {
        Self { selection, known: HashMap::new(), last: None }
    }

    /// Whether the message at `offset` of a topic is taken. `name` is asked for where it must be.
    pub(super) fn takes<'n>(&mut self, topic: TopicId, offset: Offset, name: impl FnOnce() -> &'n str) -> bool {
        let from = match self.last {
            Some((last, from)) if last == topic => from,
            _ => *self.known.entry(topic).or_insert_with(|| self.selection.from_offset(name())),
        };
        self.last = Some((topic, from));
        from.is_some_and(|from| from <= offset)
    }
}

/// A topic of which a selection takes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) topic: TopicId,
    /// From where on.
    pub(super) from: Offset,
    /// The topic's newest message, as of the last sync.
    pub(super) last: Offset,
}

/// The topics that have a message for the selection at or after `from`.
pub(super) fn chosen_topics(view: &View, selection: &Selection, from: Offset) -> Vec<Chosen> {
    let mut chosen = Vec::new();
    let mut add = |info: &crate::log::TopicInfo| {
        if info.last_sequence == 0 || info.last_offset < from {
            return;
        }
        let Some(start) = selection.from_offset(info.name.as_str()) else { return };
        let start = start.max(from);
        if start <= info.last_offset {
            chosen.push(Chosen { topic: info.id, from: start, last: info.last_offset });
        }
    };
    // Without wildcards the names lead there directly, however many topics there are.
    let literals: Option<Vec<&str>> = selection.filters.iter().map(|(filter, _)| filter.literal()).collect();
    match literals {
        Some(mut names) => {
            names.sort_unstable();
            names.dedup();
            names.into_iter().filter_map(|name| view.topic(name)).for_each(&mut add);
        }
        None => view.topics().iter().for_each(&mut add),
    }
    chosen
}
