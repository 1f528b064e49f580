//! A stored message as a structured CloudEvent, for people and scripts that read the bus over HTTP.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{DELIVER_AT, is_json};
use crate::message::{Event, Message, rfc3339};

/// Attributes that the bus adds. A producer's attribute of the same name gives way here; consumers see it.
const OWN: [&str; 3] = ["topic", "sequence", "offset"];

/// A message as one line of JSON.
pub(crate) fn encode(message: &Message) -> String {
    serde_json::to_string(&Encoded(message)).expect("strings and numbers always serialize")
}

/// Serializes a message in the JSON event format, with its `topic`, `sequence` and `offset` as extension
/// attributes. The data is JSON where it is, a string where it is text, and Base64 otherwise, so that
/// decoding gives the same data again (JSON, up to white space around it and its line breaks).
pub(crate) struct Encoded<'a>(pub(crate) &'a Message);

impl Serialize for Encoded<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        serialize_attributes(&mut map, &self.0.event)?;
        map.serialize_entry("sequence", &self.0.sequence)?;
        map.serialize_entry("offset", &self.0.offset)?;
        serialize_data(&mut map, &self.0.event)?;
        map.end()
    }
}

/// An event that has no place in its topic yet, with `topic` and `deliverat` as extension attributes.
pub(crate) struct EncodedEvent<'a>(pub(crate) &'a Event);

impl Serialize for EncodedEvent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        serialize_attributes(&mut map, self.0)?;
        if let Some(deliver_at_ms) = self.0.deliver_at_ms {
            map.serialize_entry(DELIVER_AT, &rfc3339(deliver_at_ms))?;
        }
        serialize_data(&mut map, self.0)?;
        map.end()
    }
}

fn serialize_attributes<M: SerializeMap>(map: &mut M, event: &Event) -> Result<(), M::Error> {
    map.serialize_entry("specversion", "1.0")?;
    map.serialize_entry("id", &event.id)?;
    map.serialize_entry("source", &event.source)?;
    map.serialize_entry("type", &event.kind)?;
    let optional =
        [("subject", &event.subject), ("partitionkey", &event.key), ("datacontenttype", &event.content_type)];
    for (name, value) in optional {
        if let Some(value) = value {
            map.serialize_entry(name, value)?;
        }
    }
    for (name, value) in event.attributes.iter().filter(|(name, _)| !OWN.contains(&name.as_str())) {
        map.serialize_entry(name, value)?;
    }
    map.serialize_entry("topic", event.topic.as_str())
}

fn serialize_data<M: SerializeMap>(map: &mut M, event: &Event) -> Result<(), M::Error> {
    match Data::of(&event.data, event.content_type.as_deref()) {
        Data::None => Ok(()),
        Data::Json(json) => map.serialize_entry("data", &json),
        Data::Text(text) => map.serialize_entry("data", text),
        Data::Bytes(bytes) => map.serialize_entry("data_base64", &STANDARD.encode(bytes)),
    }
}

enum Data<'a> {
    None,
    Json(Box<RawValue>),
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl<'a> Data<'a> {
    fn of(data: &'a [u8], content_type: Option<&str>) -> Self {
        match content_type {
            _ if data.is_empty() => Self::None,
            // Without a type, `data` would be read back as JSON.
            None => Self::Bytes(data),
            Some(json) if is_json(json) => embeddable(data).map_or(Self::Bytes(data), Self::Json),
            Some(_) => std::str::from_utf8(data).map_or(Self::Bytes(data), Self::Text),
        }
    }
}

/// JSON that every reader of the surrounding document can take, on one line: parsing it to a value
/// refuses nesting without end, lone surrogates and numbers out of range. A null would be read as no data.
fn embeddable(data: &[u8]) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(data).ok()?.trim_ascii();
    // It will stand two levels deep, which counts toward the readers' limits of nesting.
    serde_json::from_str::<Value>(&format!("[[{text}]]")).ok()?;
    if text == "null" {
        return None;
    }
    // Inside of strings a line break is escaped, so the ones that are left stand between tokens.
    RawValue::from_string(text.replace(['\r', '\n'], " ")).ok()
}
