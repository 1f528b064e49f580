//! What the fuzz targets in `fuzz/` need of the host, and nobody else. It is there only where cargo-fuzz builds, which
//! sets `cfg(fuzzing)`; the rest of the host stays as private as it is.

mod edge;

use axum::http::HeaderMap;
use bytes::Bytes;

use crate::ingress::{self, EncodedEvent, Fill, Mode};
use crate::log::redb_log::recode;
use crate::message::{Event, Millis};
use crate::topic::TopicName;
pub use edge::{Answer, Edge};

/// Decodes a stored value and encodes it again: the case as it is written now, and what it means. See
/// `log::redb_log::recode`.
pub fn recode(case: &[u8]) -> Option<(Vec<u8>, String)> {
    recode::recode(case).map(|recoded| (recoded.case, recoded.meaning))
}

/// The events of a publish, or what a client is told is wrong with it.
pub fn decode(topic: &TopicName, headers: &HeaderMap, body: &Bytes, now_ms: Millis) -> Result<Vec<Event>, String> {
    let fill = || Fill { id: "filled".to_owned(), time: "2026-01-31T09:30:00Z".to_owned() };
    ingress::decode(Mode::of(headers), topic, headers, body, now_ms, fill)
        .map_err(|error| format!("{error} {}", serde_json::Value::from(error.error.facts())))
}

/// An event in the JSON event format.
pub fn encode(event: &Event) -> String {
    serde_json::to_string(&EncodedEvent(event)).expect("strings and numbers always serialize")
}
