//! The binary mode, where attributes are headers and the body is the data, and plain bodies.

use std::borrow::Cow;

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use percent_encoding::percent_decode;

use super::attributes::Attributes;
use super::{EventError, Fill, PLAIN_HEADERS, PLAIN_SOURCE};
use crate::message::{Event, Millis};
use crate::topic::TopicName;

const PREFIX: &str = "ce-";

pub(super) fn decode(
    topic: &TopicName,
    headers: &HeaderMap,
    body: &Bytes,
    now_ms: Millis,
) -> Result<Event, EventError> {
    let mut attributes = Attributes::default();
    set_content_type(&mut attributes, headers)?;
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix(PREFIX) else { continue };
        if name == "datacontenttype" {
            return Err(EventError::ContentTypeAttribute);
        }
        attributes.set(name, text(value.as_bytes()))?;
    }
    attributes.finish(topic, body.clone(), now_ms)
}

/// A body that is no CloudEvent. The bus names it, and its `type` is the topic.
pub(super) fn decode_plain(
    topic: &TopicName,
    headers: &HeaderMap,
    body: &Bytes,
    now_ms: Millis,
    fill: impl FnOnce() -> Fill,
) -> Result<Event, EventError> {
    // Somebody who sends `ce-id` means an event; to drop it in silence would lose their `id`.
    if let Some(header) = headers.keys().find(|name| name.as_str().starts_with(PREFIX)) {
        return Err(EventError::StrayAttribute { header: header.as_str().to_owned() });
    }
    let mut attributes = Attributes::default();
    set_content_type(&mut attributes, headers)?;
    for (header, attribute) in PLAIN_HEADERS {
        for value in headers.get_all(header) {
            attributes.set(attribute, text(value.as_bytes()))?;
        }
    }
    let Fill { id, time } = fill();
    attributes.set("specversion", "1.0".to_owned())?;
    attributes.set("id", id)?;
    attributes.set("source", PLAIN_SOURCE.to_owned())?;
    attributes.set("type", topic.to_string())?;
    attributes.set("time", time)?;
    // The bus named it, so it comes once.
    Ok(Event { named: false, ..attributes.finish(topic, body.clone(), now_ms)? })
}

/// An empty `Content-Type` says nothing, and counts as none.
fn set_content_type(attributes: &mut Attributes, headers: &HeaderMap) -> Result<(), EventError> {
    for value in headers.get_all(CONTENT_TYPE) {
        let text = utf8_or_latin1(Cow::Borrowed(value.as_bytes()));
        if !text.is_empty() {
            attributes.set("datacontenttype", text)?;
        }
    }
    Ok(())
}

/// A header's value as text: percent-decoded once, where a `%` without two hexadecimal digits is itself. One
/// that stands in double quotes is taken out of them first, as the binding asks of receivers.
pub(super) fn text(value: &[u8]) -> String {
    match value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")) {
        Some(quoted) => utf8_or_latin1(percent_decode(&unescaped(quoted)).collect::<Vec<u8>>().into()),
        None => utf8_or_latin1(percent_decode(value).into()),
    }
}

/// What stands in a quoted string: a backslash stands before what is meant as itself.
fn unescaped(quoted: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(quoted.len());
    let mut bytes = quoted.iter().copied();
    while let Some(byte) = bytes.next() {
        plain.push(if byte == b'\\' { bytes.next().unwrap_or(byte) } else { byte });
    }
    plain
}

/// Some clients send Latin-1 as it is; what is no UTF-8 is taken for that.
fn utf8_or_latin1(bytes: Cow<'_, [u8]>) -> String {
    match String::from_utf8(bytes.into_owned()) {
        Ok(text) => text,
        Err(error) => error.as_bytes().iter().copied().map(char::from).collect(),
    }
}
