//! The records of `sdk/wit/consumer.wit` as they cross the boundary. What goes in is borrowed from the
//! message; what comes out is read where it lies in the guest's memory, and copied only within limits.

use wasmtime::component::{ComponentType, Lift, Lower, WasmList, WasmStr};

use super::Offer;
use crate::message::Message;

/// What `handle` takes and gives. An instance keeps the function for `'static`, and each call shortens it.
pub(super) type HandleParams<'a> = (MessageRecord<'a>, DeliveryRecord<'a>);
pub(super) type HandleResults = (Result<(), Failure>,);

/// `types.message`
#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct MessageRecord<'a> {
    id: &'a str,
    source: &'a str,
    #[component(name = "type")]
    kind: &'a str,
    subject: Option<&'a str>,
    topic: &'a str,
    key: Option<&'a str>,
    #[component(name = "content-type")]
    content_type: Option<&'a str>,
    #[component(name = "accepted-ms")]
    accepted_ms: u64,
    attributes: &'a [(String, String)],
    data: &'a [u8],
}

impl<'a> From<&'a Message> for MessageRecord<'a> {
    fn from(message: &'a Message) -> Self {
        let event = &message.event;
        Self {
            id: &event.id,
            source: &event.source,
            kind: &event.kind,
            subject: event.subject.as_deref(),
            topic: event.topic.as_str(),
            key: event.key.as_deref(),
            content_type: event.content_type.as_deref(),
            accepted_ms: message.accepted_ms,
            attributes: &event.attributes,
            data: &event.data,
        }
    }
}

/// `types.delivery`
#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct DeliveryRecord<'a> {
    subscription: &'a str,
    sequence: u64,
    attempt: u32,
    #[component(name = "max-attempts")]
    max_attempts: u32,
    redrives: u32,
    #[component(name = "first-attempt-ms")]
    first_attempt_ms: u64,
    #[component(name = "deadline-ms")]
    deadline_ms: u64,
    #[component(name = "idempotency-key")]
    idempotency_key: &'a str,
}

impl<'a> DeliveryRecord<'a> {
    pub(super) fn new(message: &Message, offer: &'a Offer) -> Self {
        let timeout_ms = u64::try_from(offer.timeout.as_millis()).unwrap_or(u64::MAX);
        Self {
            subscription: &offer.subscription,
            sequence: message.sequence,
            attempt: offer.attempt,
            max_attempts: offer.max_attempts,
            redrives: offer.redrives,
            first_attempt_ms: offer.first_attempt_ms,
            deadline_ms: offer.now_ms.saturating_add(timeout_ms),
            idempotency_key: &offer.idempotency_key,
        }
    }
}

/// `types.failure`
#[derive(ComponentType, Lift)]
#[component(variant)]
pub(super) enum Failure {
    #[component(name = "retry")]
    Retry(RetryRecord),
    #[component(name = "reject")]
    Reject(String),
    #[component(name = "unavailable")]
    Unavailable(RetryRecord),
}

/// `types.retry`
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct RetryRecord {
    pub(super) reason: String,
    #[component(name = "after-ms")]
    pub(super) after_ms: Option<u64>,
}

/// `bus.outgoing`
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct Outgoing {
    pub(super) topic: WasmStr,
    #[component(name = "type")]
    pub(super) kind: WasmStr,
    pub(super) key: Option<WasmStr>,
    pub(super) id: Option<WasmStr>,
    pub(super) subject: Option<WasmStr>,
    #[component(name = "content-type")]
    pub(super) content_type: Option<WasmStr>,
    pub(super) attributes: WasmList<(WasmStr, WasmStr)>,
    pub(super) data: WasmList<u8>,
    #[component(name = "deliver-at-ms")]
    pub(super) deliver_at_ms: Option<u64>,
    #[component(name = "expires-ms")]
    pub(super) expires_ms: Option<u64>,
}

/// `bus.publish-error`
#[derive(Debug, PartialEq, Eq, ComponentType, Lower)]
#[component(variant)]
pub(super) enum PublishRefusal {
    #[component(name = "not-granted")]
    NotGranted(String),
    #[component(name = "invalid")]
    Invalid(String),
    #[component(name = "too-large")]
    TooLarge(String),
    #[component(name = "too-many")]
    TooMany(String),
}

impl PublishRefusal {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::NotGranted(text) | Self::Invalid(text) | Self::TooLarge(text) | Self::TooMany(text) => text,
        }
    }
}

/// `state.state-error`
#[derive(Debug, PartialEq, Eq, ComponentType, Lower)]
#[component(variant)]
pub(super) enum StateRefusal {
    #[component(name = "invalid-key")]
    InvalidKey(String),
    #[component(name = "too-large")]
    TooLarge(String),
    #[component(name = "full")]
    Full(String),
}

impl StateRefusal {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::InvalidKey(text) | Self::TooLarge(text) | Self::Full(text) => text,
        }
    }
}

/// `state.entry`
#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct EntryRecord {
    pub(super) key: String,
    pub(super) value: Vec<u8>,
}

/// `log.level`
#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
pub(super) enum Level {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}
