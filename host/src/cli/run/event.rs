//! What is run: an event as people have it becomes a message and the offer of it.

use std::collections::BTreeMap;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use clap::Args;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::ingress::{self, Fill, Mode};
use crate::message::{Event, Message, Millis, TopicId, rfc3339};
use crate::policy::{Manifest, Policy};
use crate::sandbox::Offer;
use crate::topic::TopicName;

/// What describes a message of which the data alone is given; of a CloudEvent it replaces what that has.
#[derive(Args, Debug, Default)]
pub(super) struct Given {
    /// The topic; otherwise the event's, or the first that the manifest takes
    #[arg(long)]
    topic: Option<String>,
    /// The key
    #[arg(long)]
    key: Option<String>,
    /// The type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// The subject
    #[arg(long)]
    subject: Option<String>,
    /// The data's media type
    #[arg(long)]
    content_type: Option<String>,
    /// A further attribute; may be given many times
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = super::super::publish::attribute)]
    attributes: Vec<(String, String)>,
    /// Which attempt it is
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
}

/// A message, and what is known of its delivery.
pub(super) struct Recorded {
    pub(super) message: Message,
    /// That of a dead letter.
    pub(super) subscription: Option<String>,
    attempt: Option<u32>,
    redrives: u32,
    first_attempt_ms: Option<Millis>,
    idempotency_key: Option<String>,
}

/// What is needed of a dead letter, as `dead-letters show --json` prints it.
#[derive(Deserialize)]
struct Letter<'a> {
    subscription: String,
    attempts: Vec<Attempt>,
    redrives: u32,
    accepted_ms: Millis,
    idempotency_key: String,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Attempt {
    at_ms: Millis,
    charged: bool,
}

impl Recorded {
    pub(super) fn offer(&self, subscription: &str, policy: &Policy, now_ms: Millis) -> Offer {
        Offer {
            subscription: subscription.into(),
            attempt: self.attempt.unwrap_or(1),
            max_attempts: policy.retry.max_attempts,
            redrives: self.redrives,
            first_attempt_ms: self.first_attempt_ms.unwrap_or(now_ms),
            idempotency_key: self
                .idempotency_key
                .clone()
                .unwrap_or_else(|| format!("run-{subscription}-{}", self.message.event.id)),
            timeout: policy.timeout,
            now_ms,
        }
    }
}

/// Understands bytes by what they look like. Fails with what is wrong with them.
pub(super) fn read(bytes: &[u8], given: &Given, manifest: &Manifest, now_ms: Millis) -> Result<Recorded, String> {
    let object: Option<BTreeMap<String, &RawValue>> = serde_json::from_slice(bytes).ok();
    let has = |name: &str| object.as_ref().is_some_and(|object| object.contains_key(name));
    let mut recorded = if has("attempts") && has("subscription") && has("idempotency_key") {
        letter(bytes, manifest, now_ms)?
    } else if has("specversion") {
        let (event, place) = cloud_event(bytes, given.topic.as_deref(), manifest, now_ms)?;
        recorded(event, place, now_ms)
    } else {
        let topic = topic(given.topic.as_deref(), None, manifest)?;
        recorded(data(topic, bytes, now_ms)?, Place::default(), now_ms)
    };
    let event = &mut recorded.message.event;
    if let Some(name) = &given.topic {
        event.topic = topic(Some(name), None, manifest)?;
    }
    for (value, own) in [
        (&given.key, &mut event.key),
        (&given.subject, &mut event.subject),
        (&given.content_type, &mut event.content_type),
    ] {
        if value.is_some() {
            own.clone_from(value);
        }
    }
    if let Some(kind) = &given.kind {
        event.kind.clone_from(kind);
    }
    for (name, value) in &given.attributes {
        event.attributes.retain(|(own, _)| own != name);
        event.attributes.push((name.clone(), value.clone()));
    }
    recorded.attempt = given.attempt.or(recorded.attempt);
    Ok(recorded)
}

fn recorded(event: Event, place: Place, now_ms: Millis) -> Recorded {
    let message = Message {
        offset: place.offset.unwrap_or(0),
        sequence: place.sequence.unwrap_or(1),
        topic_id: TopicId(0),
        accepted_ms: now_ms,
        event,
    };
    Recorded { message, subscription: None, attempt: None, redrives: 0, first_attempt_ms: None, idempotency_key: None }
}

fn letter(bytes: &[u8], manifest: &Manifest, now_ms: Millis) -> Result<Recorded, String> {
    let letter: Letter<'_> = serde_json::from_slice(bytes)
        .map_err(|error| format!("this is no dead letter as the bus prints it: {error}"))?;
    let message = letter.message.ok_or("the dead letter has no message with it: its log could not be read")?;
    let (event, place) = cloud_event(message.get().as_bytes(), None, manifest, now_ms)?;
    let charged = letter.attempts.iter().filter(|attempt| attempt.charged).count();
    let mut recorded = recorded(event, place, letter.accepted_ms);
    recorded.subscription = Some(letter.subscription);
    // The last attempt once more.
    recorded.attempt = Some(u32::try_from(charged.max(1)).unwrap_or(u32::MAX));
    recorded.redrives = letter.redrives;
    recorded.first_attempt_ms = letter.attempts.first().map(|attempt| attempt.at_ms);
    recorded.idempotency_key = Some(letter.idempotency_key);
    Ok(recorded)
}

/// Where a message stood, if it came from a bus.
#[derive(Default)]
struct Place {
    sequence: Option<u64>,
    offset: Option<u64>,
}

/// A CloudEvent by the same reader as publishes have. What the bus adds when it prints one is taken off again.
fn cloud_event(
    bytes: &[u8],
    named: Option<&str>,
    manifest: &Manifest,
    now_ms: Millis,
) -> Result<(Event, Place), String> {
    let mut members: BTreeMap<String, &RawValue> =
        serde_json::from_slice(bytes).map_err(|error| format!("the event is no JSON object: {error}"))?;
    let own_topic: Option<String> = members.remove("topic").and_then(|text| serde_json::from_str(text.get()).ok());
    let mut number = |name: &str| members.remove(name).and_then(|number| serde_json::from_str(number.get()).ok());
    let place = Place { sequence: number("sequence"), offset: number("offset") };
    let topic = topic(named, own_topic.as_deref(), manifest)?;
    let body = serde_json::to_vec(&members).map_err(|error| error.to_string())?;
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/cloudevents+json"));
    decode(Mode::Structured, &topic, &headers, body.into(), now_ms).map(|event| (event, place))
}

/// Data alone, by the reader of plain bodies.
fn data(topic: TopicName, bytes: &[u8], now_ms: Millis) -> Result<Event, String> {
    let mut headers = HeaderMap::new();
    if serde_json::from_slice::<&RawValue>(bytes).is_ok() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    decode(Mode::Plain, &topic, &headers, Bytes::copy_from_slice(bytes), now_ms)
}

fn decode(mode: Mode, topic: &TopicName, headers: &HeaderMap, body: Bytes, now_ms: Millis) -> Result<Event, String> {
    let fill = || Fill { id: "run-1".to_owned(), time: rfc3339(now_ms) };
    let events = ingress::decode(mode, topic, headers, &body, now_ms, fill);
    let events = events.map_err(|error| format!("the event is not valid: {}", error.error))?;
    events.into_iter().next().ok_or_else(|| "there is no event".to_owned())
}

/// The first of these that there is: named, the event's own, the manifest's first without a wildcard, or `test`.
fn topic(named: Option<&str>, own: Option<&str>, manifest: &Manifest) -> Result<TopicName, String> {
    let filters = manifest.subscriptions.iter().flat_map(|spec| &spec.topics).map(|filter| filter.as_str());
    let taken = filters.into_iter().find(|filter| !filter.contains(['*', '>']));
    let name = named.or(own).or(taken).unwrap_or("test");
    // What a consumer is given may come from the bus itself.
    TopicName::any(name).map_err(|error| format!("the topic `{name}`: {error}"))
}
