//! What a handler is given: the message, and this delivery of it.

use crate::Failure;
use serde::Deserialize;
use std::time::Duration;

/// A CloudEvents 1.0 event, stored in a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The event's `id`: unique together with `source`.
    pub id: String,
    /// The event's `source`, a URI reference that names the producer.
    pub source: String,
    /// The event's `type`, such as `com.example.order.placed`.
    pub event_type: String,
    /// The event's `subject`, where the producer gave one.
    pub subject: Option<String>,
    /// The topic it was published to, such as `order.placed`.
    pub topic: String,
    /// The event's `partitionkey`. Messages of one key arrive in order, one at a time.
    pub key: Option<String>,
    /// The media type of `data` (`datacontenttype`), such as `application/json`.
    pub content_type: Option<String>,
    /// When the bus accepted the message, in milliseconds since 1970-01-01T00:00:00Z.
    pub accepted_ms: u64,
    /// The event's other attributes by name: `time`, `dataschema`, `traceparent` and extensions.
    pub attributes: Vec<(String, String)>,
    /// The payload as the producer sent it, at most 1 MiB by default.
    pub data: Vec<u8>,
}

impl Message {
    /// The data, decoded as JSON. The content type is not asked for: plenty of producers send JSON
    /// under another name, or under none.
    ///
    /// # Errors
    /// A [rejection](Failure::reject) where the data is no JSON or does not fit `T`, which names `T`, what
    /// is wrong, and where: the same data would fail again.
    pub fn json<'m, T: Deserialize<'m>>(&'m self) -> Result<T, Failure> {
        serde_json::from_slice(&self.data).map_err(|error| {
            let wanted = std::any::type_name::<T>();
            Failure::reject(format!("the data does not decode as JSON of {wanted}: {error}"))
        })
    }

    /// The data as text.
    ///
    /// # Errors
    /// A [rejection](Failure::reject) where the data is not UTF-8.
    pub fn text(&self) -> Result<&str, Failure> {
        std::str::from_utf8(&self.data).map_err(|error| Failure::reject(format!("the data is not UTF-8: {error}")))
    }

    /// The value of an attribute that has no field of its own, such as `traceparent`.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// This offer of the message to this subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The subscription's name.
    pub subscription: String,
    /// The message's place in its topic, dense from 1.
    pub sequence: u64,
    /// Which attempt this is, from 1. Only the message's own failures are counted.
    pub attempt: u32,
    /// The attempt after whose failure the message becomes a dead letter.
    pub max_attempts: u32,
    /// How many times the message was redriven from the dead letters.
    pub redrives: u32,
    /// When its first attempt began, in milliseconds since 1970-01-01T00:00:00Z.
    pub first_attempt_ms: u64,
    /// When this call will be ended if it still runs, in milliseconds since 1970-01-01T00:00:00Z.
    pub deadline_ms: u64,
    /// The same for every attempt of this message by this subscription, over retries, crashes and
    /// redrives. Hand it to services outside the bus, so that they can drop repetitions.
    pub idempotency_key: String,
}

impl Delivery {
    /// Whether a failure of this attempt makes the message a dead letter.
    #[must_use]
    pub fn is_last_attempt(&self) -> bool {
        self.attempt >= self.max_attempts
    }

    /// How long the call may still run at `now_ms`; see [`Bus::now_ms`](crate::Bus::now_ms).
    #[must_use]
    pub fn remaining(&self, now_ms: u64) -> Duration {
        Duration::from_millis(self.deadline_ms.saturating_sub(now_ms))
    }
}
