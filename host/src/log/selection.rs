//! What is kept of a subscription, and which messages it takes.

use crate::message::{Millis, Offset};
use crate::topic::{TopicFilter, TopicName};

/// What is kept of a subscription besides its account. The policy is the manifest's, not the log's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionRecord {
    /// The consumer's file stem.
    pub consumer: String,
    pub selection: Selection,
    pub created_ms: Millis,
    /// Raised by seek and remove.
    pub epoch: u64,
    /// An unread message before it that has a dead letter is passed over: a seek left it behind.
    pub passes_dead_before: Offset,
    /// Whether an operator holds it back.
    pub paused: bool,
}

/// The messages that a subscription takes: those whose topic matches one of the filters, each from an
/// offset of its own on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    pub filters: Vec<(TopicFilter, Offset)>,
    /// Topics that were taken away by command, each with the offset before which none of it is taken.
    pub removed: Vec<(TopicName, Offset)>,
}

impl Selection {
    pub fn new(filters: Vec<(TopicFilter, Offset)>) -> Self {
        Self { filters, removed: Vec::new() }
    }

    /// All messages of one topic, and of no other.
    pub fn of_topic(topic: &TopicName) -> Self {
        let filter = TopicFilter::parse(topic.as_str()).expect("the name of a topic is a filter that takes it");
        Self::new(vec![(filter, 0)])
    }

    /// The offset from which messages of a topic are taken, or `None` where no filter matches.
    pub fn from_offset(&self, topic: &str) -> Option<Offset> {
        let from = self.filters.iter().filter(|(filter, _)| filter.matches(topic)).map(|(_, from)| *from).min()?;
        let removed = self.removed.iter().find(|(name, _)| name.as_str() == topic);
        Some(removed.map_or(from, |(_, before)| from.max(*before)))
    }
}
