//! The JSON event format: one object is one event, an array of them is a batch.
//!
//! `data` is kept as the bytes that the producer wrote, so that no number loses digits on its way.

use std::fmt;

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::attributes::Attributes;
use super::{DELIVER_AFTER, DELIVER_AT, DecodeError, EXPIRY, EventError, is_json};
use crate::message::{Event, Millis};
use crate::topic::TopicName;

pub(super) fn decode(
    topic: &TopicName,
    headers: &HeaderMap,
    body: &Bytes,
    now_ms: Millis,
) -> Result<Event, EventError> {
    check_format(headers, "application/cloudevents")?;
    decode_event(topic, parse(body)?, now_ms)
}

pub(super) fn decode_batch(
    topic: &TopicName,
    headers: &HeaderMap,
    body: &Bytes,
    now_ms: Millis,
) -> Result<Vec<Event>, DecodeError> {
    let whole = |error| DecodeError { index: None, error };
    check_format(headers, "application/cloudevents-batch").map_err(whole)?;
    let array = parse(body).map_err(whole)?;
    if !array.get().starts_with('[') {
        return Err(whole(EventError::NotAnArray { found: kind(array) }));
    }
    let events: Vec<&RawValue> = serde_json::from_str(array.get()).map_err(|error| whole(json_error(&error)))?;
    let decode =
        |(index, event)| decode_event(topic, event, now_ms).map_err(|error| DecodeError { index: Some(index), error });
    events.into_iter().enumerate().map(decode).collect()
}

/// The media type may name a format after a `+`. Without one it is JSON.
fn check_format(headers: &HeaderMap, media_type: &str) -> Result<(), EventError> {
    let value = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase());
    let value = value.unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    match essence.strip_prefix(media_type) {
        Some("" | "+json") => Ok(()),
        _ => Err(EventError::Format { found: essence.to_owned() }),
    }
}

fn parse(body: &Bytes) -> Result<&RawValue, EventError> {
    // Some producers begin their JSON with a byte order mark.
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    serde_json::from_slice(body).map_err(|error| json_error(&error))
}

fn json_error(error: &serde_json::Error) -> EventError {
    EventError::Json { reason: error.to_string(), line: error.line(), column: error.column() }
}

fn decode_event(topic: &TopicName, event: &RawValue, now_ms: Millis) -> Result<Event, EventError> {
    if !event.get().starts_with('{') {
        return Err(EventError::NotAnObject { found: kind(event) });
    }
    let members: Members<'_> = serde_json::from_str(event.get()).map_err(|error| json_error(&error))?;
    let mut attributes = Attributes::default();
    let mut data = None;
    let mut base64 = None;
    for (name, value) in members.0 {
        let slot = match name.as_str() {
            "data" => &mut data,
            "data_base64" => &mut base64,
            _ => {
                if let Some(text) = attribute(&name, value)? {
                    attributes.set(&name, text)?;
                }
                continue;
            }
        };
        if slot.replace(value).is_some() {
            return Err(EventError::Repeated { attribute: name });
        }
    }
    // As for attributes, a null is the same as a member that is not there.
    let present = |value: &&RawValue| value.get() != "null";
    let data = match (data.filter(present), base64.filter(present)) {
        (Some(_), Some(_)) => return Err(EventError::DataTwice),
        (None, None) => Bytes::new(),
        (None, Some(base64)) => decode_base64(base64)?,
        (Some(data), None) => {
            if attributes.content_type().is_none() {
                // The format says that `data` without a type is JSON; consumers should not have to know.
                attributes.set("datacontenttype", "application/json".to_owned())?;
            }
            decode_data(data, attributes.content_type())?
        }
    };
    attributes.finish(topic, data, now_ms)
}

/// A JSON string under a type that is not JSON is a text; everything else is itself.
fn decode_data(data: &RawValue, content_type: Option<&str>) -> Result<Bytes, EventError> {
    if data.get().starts_with('"') && !content_type.is_none_or(is_json) {
        let text: String = serde_json::from_str(data.get()).map_err(|error| json_error(&error))?;
        return Ok(text.into());
    }
    Ok(Bytes::copy_from_slice(data.get().as_bytes()))
}

fn decode_base64(value: &RawValue) -> Result<Bytes, EventError> {
    if !value.get().starts_with('"') {
        let attribute = "data_base64".to_owned();
        return Err(EventError::Kind { attribute, found: kind(value), allowed: "it must be a string" });
    }
    let text: String = serde_json::from_str(value.get()).map_err(|error| json_error(&error))?;
    match STANDARD.decode(text) {
        Ok(bytes) => Ok(bytes.into()),
        Err(error) => Err(EventError::Base64 { reason: error.to_string() }),
    }
}

/// An attribute's value as text; `None` where it is null, which means that it is not there.
fn attribute(name: &str, value: &RawValue) -> Result<Option<String>, EventError> {
    // What CloudEvents defines is a string; extensions may also be whole numbers and booleans.
    let string_only = matches!(
        name,
        "specversion"
            | "id"
            | "source"
            | "type"
            | "subject"
            | "time"
            | "datacontenttype"
            | "dataschema"
            | "partitionkey"
            | DELIVER_AT
            | DELIVER_AFTER
            | EXPIRY
    );
    let text = value.get();
    let allowed = if string_only { "it must be a string" } else { "it must be a string, a whole number or a boolean" };
    match text.as_bytes().first() {
        Some(b'"') => serde_json::from_str(text).map(Some).map_err(|error| json_error(&error)),
        Some(b'n') => Ok(None),
        Some(b't' | b'f') if !string_only => Ok(Some(text.to_owned())),
        Some(b'0'..=b'9' | b'-') if !string_only && text.parse::<i64>().is_ok() => Ok(Some(text.to_owned())),
        _ => Err(EventError::Kind { attribute: name.to_owned(), found: kind(value), allowed }),
    }
}

/// What a JSON value is, for people.
fn kind(value: &RawValue) -> &'static str {
    match value.get().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// The members of an object in their order, repeated names included.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}
