//! The bus's own events: one for each time that a message dies, and none about a subscription that takes such topics.

use super::Auditor;
use crate::dispatch::model::journal::Entry;
use crate::message::Offset;

/// Deaths that are to be told of.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Events that were there before the subscription was.
    before: usize,
    deaths: Vec<(Entry, Offset)>,
}

impl Told {
    pub(super) fn after(before: usize) -> Self {
        Self { before, deaths: Vec::new() }
    }

    pub(super) fn crashed(&mut self, entry: Entry) {
        self.deaths.retain(|(at, _)| *at <= entry);
    }
}

impl Auditor {
    /// A message died.
    pub(super) fn tells(&mut self, entry: Entry, offset: Offset) {
        let (_, _, selection) = self.selections.last().expect("there is a first one");
        let watches = selection.filters.iter().any(|(filter, _)| filter.as_str().starts_with('$'));
        let is_own = self.messages[offset as usize].message.event.topic.as_str().starts_with('$');
        if !watches && !is_own {
            self.told.deaths.push((entry, offset));
        }
    }

    /// Looks at all that was told.
    pub(in crate::dispatch::model) fn check_told(&self, told: impl Iterator<Item = Offset>) {
        let told: Vec<Offset> = told.skip(self.told.before).collect();
        let deaths: Vec<Offset> = self.told.deaths.iter().map(|(_, offset)| *offset).collect();
        assert_eq!(told, deaths, "each death is told of once");
    }
}
