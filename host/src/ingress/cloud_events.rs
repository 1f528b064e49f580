//! CloudEvents 1.0 over HTTP: what a publish means, told from its headers and its body.
//!
//! A request is in one of four modes, told apart by its `Content-Type` (in any case) and `ce-specversion`:
//!
//! | mode | told by | attributes | data |
//! |---|---|---|---|
//! | batched | `application/cloudevents-batch...` | JSON, one object per event | `data` or `data_base64` |
//! | structured | `application/cloudevents...` | one JSON object | `data` or `data_base64` |
//! | binary | a `ce-specversion` header | `ce-*` headers, `Content-Type` | the body |
//! | plain | none of these | filled in by the bus | the body |
//!
//! Everything here is a pure function of its arguments. Whatever a client sends is answered with events
//! or with a [`DecodeError`] that carries the facts; nothing panics.

mod attributes;
mod binary;
mod encode;
mod structured;

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::limits::{KEY_BYTES_MAX, MESSAGE_ATTRIBUTES_MAX};
use crate::message::{Event, Millis};
use crate::topic::TopicName;

pub(crate) use encode::{Encoded, EncodedEvent, encode};

/// Headers that give a plain body what events carry as an attribute.
pub(crate) const PLAIN_HEADERS: [(&str, &str); 4] = [
    ("sandpost-key", "partitionkey"),
    ("sandpost-deliver-at", DELIVER_AT),
    ("sandpost-deliver-after", DELIVER_AFTER),
    ("sandpost-expires-at", EXPIRY),
];
/// The attributes that say when an event is delivered. The bus follows them and does not store them.
pub(crate) const DELIVER_AT: &str = "deliverat";
pub(crate) const DELIVER_AFTER: &str = "deliverafter";
/// The attribute after whose time an event is not delivered any more.
pub(crate) const EXPIRY: &str = "expirytime";
/// The `source` of a message that was published as a plain body.
pub(crate) const PLAIN_SOURCE: &str = "/http";
/// The longest attribute name. CloudEvents recommends 20 characters; some extensions have more.
const NAME_BYTES_MAX: usize = 64;

/// How a request carries its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Batched,
    Structured,
    Binary,
    Plain,
}

impl Mode {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let content_type = headers.get(CONTENT_TYPE).map(|value| value.as_bytes().to_ascii_lowercase());
        let content_type = content_type.as_deref().unwrap_or_default();
        // The batch is tested first: its name begins with the other's.
        if content_type.starts_with(b"application/cloudevents-batch") {
            Self::Batched
        } else if content_type.starts_with(b"application/cloudevents") {
            Self::Structured
        } else if headers.contains_key("ce-specversion") {
            Self::Binary
        } else {
            Self::Plain
        }
    }
}

/// What the bus fills in for a plain body.
pub(crate) struct Fill {
    pub(crate) id: String,
    /// RFC 3339.
    pub(crate) time: String,
}

/// The events of a request, in its order. One event, except in batched mode. `now_ms` is what times that are
/// relative count from.
pub(crate) fn decode(
    mode: Mode,
    topic: &TopicName,
    headers: &HeaderMap,
    body: &Bytes,
    now_ms: Millis,
    fill: impl FnOnce() -> Fill,
) -> Result<Vec<Event>, DecodeError> {
    let one = |event: Result<Event, EventError>| match event {
        Ok(event) => Ok(vec![event]),
        Err(error) => Err(DecodeError { index: None, error }),
    };
    let stray = PLAIN_HEADERS.into_iter().find(|(header, _)| mode != Mode::Plain && headers.contains_key(*header));
    if let Some((header, attribute)) = stray {
        return one(Err(EventError::StrayHeader { header, attribute }));
    }
    match mode {
        Mode::Batched => structured::decode_batch(topic, headers, body, now_ms),
        Mode::Structured => one(structured::decode(topic, headers, body, now_ms)),
        Mode::Binary => one(binary::decode(topic, headers, body, now_ms)),
        Mode::Plain => one(binary::decode_plain(topic, headers, body, now_ms, fill)),
    }
}

/// Whether a content type declares JSON.
pub(crate) fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.ends_with("/json") || essence.ends_with("+json")
}

/// Why a request holds no valid event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DecodeError {
    /// Which event of a batch it is, from 0.
    pub(crate) index: Option<usize>,
    pub(crate) error: EventError,
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.index {
            Some(index) => write!(formatter, "event {index} of the batch, counted from 0: {}", self.error),
            None => self.error.fmt(formatter),
        }
    }
}

/// What is wrong with an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EventError {
    #[error("the attribute `{attribute}` is missing")]
    Missing { attribute: &'static str },
    #[error("the attribute `{attribute}` is empty")]
    Empty { attribute: String },
    #[error("`specversion` is `{found}`; only 1.0 is accepted")]
    SpecVersion { found: String },
    #[error(
        "`{name}` is no attribute name; names are 1 to {NAME_BYTES_MAX} lower-case letters and digits, and not `data`"
    )]
    Name { name: String },
    #[error("the attribute `{attribute}` is given more than once")]
    Repeated { attribute: String },
    #[error("the attribute `{attribute}` holds the control character {character:?}")]
    Character { attribute: String, character: char },
    #[error("`{attribute}` is `{found}`, which is no RFC 3339 time such as 2026-01-31T09:30:00Z")]
    Time { attribute: String, found: String },
    #[error("`{attribute}` is `{found}`; it must be {allowed}")]
    DeliverTime { attribute: &'static str, found: String, allowed: &'static str },
    #[error("the event has both `deliverat` and `deliverafter`")]
    DeliverTwice,
    #[error("the event is to be delivered more than {days} days ahead")]
    DeliverTooLate { days: u64 },
    #[error("`partitionkey` has {bytes} bytes; at most {KEY_BYTES_MAX} are accepted")]
    KeyTooLong { bytes: usize },
    #[error("the event has {attributes} attributes; at most {MESSAGE_ATTRIBUTES_MAX} are accepted")]
    TooManyAttributes { attributes: usize },
    #[error("the attribute `{attribute}` is {found}; {allowed}")]
    Kind { attribute: String, found: &'static str, allowed: &'static str },
    #[error("`ce-datacontenttype` is not a header of the binary mode; the data's type is the `Content-Type`")]
    ContentTypeAttribute,
    #[error("the event has both `data` and `data_base64`")]
    DataTwice,
    #[error("`data_base64` is no Base64: {reason}")]
    Base64 { reason: String },
    #[error("the body is no JSON: {reason}")]
    Json { reason: String, line: usize, column: usize },
    #[error("the event is {found}, not a JSON object")]
    NotAnObject { found: &'static str },
    #[error("the body is {found}, not a JSON array of events")]
    NotAnArray { found: &'static str },
    #[error("the format `{found}` is not accepted; only JSON is")]
    Format { found: String },
    #[error("there is a `{header}` header, but no `ce-specversion`: is this a CloudEvent or a plain body?")]
    StrayAttribute { header: String },
    #[error("the header `{header}` is for plain bodies; an event has the attribute `{attribute}` for it")]
    StrayHeader { header: &'static str, attribute: &'static str },
}

impl EventError {
    /// The facts, as members of the answer.
    pub(crate) fn facts(&self) -> Map<String, Value> {
        let facts = match self {
            Self::Missing { attribute } => json!({ "attribute": attribute }),
            Self::Empty { attribute } | Self::Repeated { attribute } => json!({ "attribute": attribute }),
            Self::SpecVersion { found } => json!({ "attribute": "specversion", "found": found, "allowed": ["1.0"] }),
            Self::Name { name } => json!({ "attribute": name, "allowed": "[a-z0-9]{1,64}" }),
            Self::Character { attribute, character } => {
                json!({ "attribute": attribute, "found": format!("U+{:04X}", u32::from(*character)) })
            }
            Self::Time { attribute, found } => {
                json!({ "attribute": attribute, "found": found, "allowed": "RFC 3339" })
            }
            Self::DeliverTime { attribute, found, allowed } => {
                json!({ "attribute": attribute, "found": found, "allowed": allowed })
            }
            Self::DeliverTwice => json!({ "attribute": "deliverafter" }),
            Self::DeliverTooLate { days } => json!({ "days_max": days }),
            Self::KeyTooLong { bytes } => {
                json!({ "attribute": "partitionkey", "bytes": bytes, "bytes_max": KEY_BYTES_MAX })
            }
            Self::TooManyAttributes { attributes } => {
                json!({ "attributes": attributes, "attributes_max": MESSAGE_ATTRIBUTES_MAX })
            }
            Self::Kind { attribute, found, .. } => json!({ "attribute": attribute, "found": found }),
            Self::ContentTypeAttribute => json!({ "attribute": "datacontenttype" }),
            Self::DataTwice => json!({ "attribute": "data" }),
            Self::Base64 { .. } => json!({ "attribute": "data_base64" }),
            Self::Json { line, column, .. } => json!({ "line": line, "column": column }),
            Self::NotAnObject { found } | Self::NotAnArray { found } => json!({ "found": found }),
            Self::Format { found } => json!({ "found": found, "allowed": ["application/cloudevents+json",
                "application/cloudevents-batch+json"] }),
            Self::StrayAttribute { header } => json!({ "header": header }),
            Self::StrayHeader { header, attribute } => json!({ "header": header, "attribute": attribute }),
        };
        match facts {
            Value::Object(facts) => facts,
            _ => unreachable!("facts are written as objects above"),
        }
    }
}

#[cfg(test)]
mod tests;
