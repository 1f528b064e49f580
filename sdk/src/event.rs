//! What a consumer publishes.

use serde::Serialize;
use std::fmt;

/// An event to be [published](crate::Bus::publish). The bus fills in the source and the time.
///
/// ```
/// use sandpost_sdk::Event;
///
/// let event = Event::json("stock.low", &serde_json::json!({ "sku": "BOOK-1", "left": 3 }))?
///     .key("BOOK-1")
///     .subject("BOOK-1");
/// assert_eq!(event.data, br#"{"left":3,"sku":"BOOK-1"}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The topic; it must be granted under `[grants] publish` in the manifest.
    pub topic: String,
    /// The event's `type`; the topic's name is used where it is empty.
    pub event_type: String,
    /// The event's `partitionkey`, which orders it among messages of the same key.
    pub key: Option<String>,
    /// The event's `id`. The bus makes one from the idempotency key where absent, so that it is stable.
    pub id: Option<String>,
    /// The event's `subject`.
    pub subject: Option<String>,
    /// The media type of `data`.
    pub content_type: Option<String>,
    /// Further attributes. Names are lower-case letters and digits.
    pub attributes: Vec<(String, String)>,
    /// The payload, at most 1 MiB by default.
    pub data: Vec<u8>,
    /// Deliver not before this time, in milliseconds since 1970-01-01T00:00:00Z.
    pub deliver_at_ms: Option<u64>,
    /// Do not deliver after this time, in milliseconds since 1970-01-01T00:00:00Z.
    pub expires_ms: Option<u64>,
}

impl Event {
    /// An event with these bytes as data, and no content type.
    pub fn bytes(topic: impl Into<String>, data: impl Into<Vec<u8>>) -> Self {
        Event {
            topic: topic.into(),
            event_type: String::new(),
            key: None,
            id: None,
            subject: None,
            content_type: None,
            attributes: Vec::new(),
            data: data.into(),
            deliver_at_ms: None,
            expires_ms: None,
        }
    }

    /// An event with this text as data, of the type `text/plain; charset=utf-8`.
    pub fn text(topic: impl Into<String>, text: impl Into<String>) -> Self {
        Event::bytes(topic, text.into()).content_type("text/plain; charset=utf-8")
    }

    /// An event with this value as data, encoded as JSON, of the type `application/json`.
    ///
    /// # Errors
    /// Where the value cannot be JSON, such as a map whose keys are not texts.
    pub fn json(topic: impl Into<String>, value: &(impl Serialize + ?Sized)) -> Result<Self, serde_json::Error> {
        Ok(Event::bytes(topic, serde_json::to_vec(value)?).content_type("application/json"))
    }

    /// Sets the event's `type`.
    #[must_use]
    pub fn event_type(mut self, event_type: impl Into<String>) -> Self {
        self.event_type = event_type.into();
        self
    }

    /// Sets the key: messages of one key are handled in order, one at a time.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the event's `id`.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets the event's `subject`.
    #[must_use]
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Sets the media type of the data.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// Adds an attribute. Its name is lower-case letters and digits.
    #[must_use]
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.push((name.into(), value.into()));
        self
    }

    /// Delivers it not before this time, in milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn deliver_at_ms(mut self, time_ms: u64) -> Self {
        self.deliver_at_ms = Some(time_ms);
        self
    }

    /// Does not deliver it after this time, in milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn expires_ms(mut self, time_ms: u64) -> Self {
        self.expires_ms = Some(time_ms);
        self
    }
}

/// Why an event was not staged. Nothing else of the call is affected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishError {
    /// The manifest does not grant publishing to this topic.
    NotGranted(String),
    /// A name or attribute is not valid; the text says which and why.
    Invalid(String),
    /// The event is larger than the bus accepts; the text gives both sizes.
    TooLarge(String),
    /// The call has staged as many events, or as many bytes, as one call may.
    TooMany(String),
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PublishError::NotGranted(text) => write!(f, "publishing is not granted: {text}"),
            PublishError::Invalid(text) => write!(f, "the event is not valid: {text}"),
            PublishError::TooLarge(text) => write!(f, "the event is too large: {text}"),
            PublishError::TooMany(text) => write!(f, "the call publishes too much: {text}"),
        }
    }
}

impl std::error::Error for PublishError {}
