//! What travels: an [`Event`] as a producer hands it in, and a [`Message`] once it has its place in the log.

use std::sync::Arc;

use bytes::Bytes;

use crate::topic::TopicName;

/// A place in the bus-wide order of acceptance, from 0.
pub type Offset = u64;
/// A place within one topic, dense from 1.
pub type Sequence = u64;
/// Milliseconds since 1970-01-01T00:00:00Z.
pub type Millis = u64;

/// A topic's short name inside the log. Never reused, also where a topic is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub u32);

/// A validated CloudEvents 1.0 event on its way into a topic. Immutable once built; cloning is cheap
/// only for `topic` and `data`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub topic: TopicName,
    pub id: String,
    pub source: String,
    /// The attribute `type`.
    pub kind: String,
    pub subject: Option<String>,
    /// The attribute `partitionkey`.
    pub key: Option<String>,
    /// The attribute `datacontenttype`.
    pub content_type: Option<String>,
    /// All other attributes, `time` and extensions included, in the producer's order.
    pub attributes: Vec<(String, String)>,
    pub data: Bytes,
    /// How many staged publishes led here from an event that came from outside. Kept by the host.
    pub hops: u8,
    /// Whether the producer gave the `id`: only then can a second event of that `id` be a duplicate.
    pub named: bool,
    /// Not to be delivered before this time. An event that waits for it stands in the schedule; once it is
    /// a message this is `None`.
    pub deliver_at_ms: Option<Millis>,
}

impl Event {
    /// Bytes that the event occupies, closely enough for limits and windows.
    pub fn bytes(&self) -> usize {
        self.data.len() + self.attribute_bytes()
    }

    /// When it is over, from its attribute `expirytime`, which was checked where the event came in.
    pub fn expires_ms(&self) -> Option<Millis> {
        let (_, time) = self.attributes.iter().find(|(name, _)| name == "expirytime")?;
        let time: jiff::Timestamp = time.parse().ok()?;
        Some(Millis::try_from(time.as_millisecond()).unwrap_or(0))
    }

    /// Bytes of everything but the data.
    pub fn attribute_bytes(&self) -> usize {
        let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        self.topic.as_str().len()
            + self.id.len()
            + self.source.len()
            + self.kind.len()
            + optional(&self.subject)
            + optional(&self.key)
            + optional(&self.content_type)
            + self.attributes.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
    }
}

/// An event with its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub offset: Offset,
    pub sequence: Sequence,
    pub topic_id: TopicId,
    pub accepted_ms: Millis,
    pub event: Event,
}

impl Message {
    /// Bytes that the message occupies in memory, closely enough for bounds.
    pub fn bytes(&self) -> usize {
        self.event.bytes() + size_of::<Self>()
    }
}

/// A time as RFC 3339 writes it; the last moment of the year 9999 where it is later.
pub fn rfc3339(time_ms: Millis) -> String {
    let time = i64::try_from(time_ms).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    time.unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// Messages are shared by the recent cache and by every subscription that holds them.
pub type SharedMessage = Arc<Message>;
