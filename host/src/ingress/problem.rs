//! Refusals as people and programs read them: RFC 9457 problem documents.
//!
//! Every kind says its cause and what to do next, here and at `GET /problems/{kind}`, which is what a
//! problem's `type` points to. What only the operator should know goes to the log instead.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::body::BodyError;
use super::cloud_events::{DecodeError, EventError};
use super::guard::Refusal;
use crate::bus::{BusError, CommandError};
use crate::log::ReadError;
use crate::publish::PublishError;
use crate::topic::TopicError;

/// What is wrong, in general.
pub(crate) struct Kind {
    /// The last part of the problem's `type`.
    pub(crate) slug: &'static str,
    pub(crate) status: StatusCode,
    pub(crate) title: &'static str,
    /// What to do about it.
    pub(crate) hint: &'static str,
}

macro_rules! kinds {
    ($($name:ident = $slug:literal, $status:ident, $title:literal, $hint:literal;)+) => {
        $(pub(crate) const $name: Kind =
            Kind { slug: $slug, status: StatusCode::$status, title: $title, hint: $hint };)+
        /// Every kind of problem.
        pub(crate) const KINDS: &[Kind] = &[$($name),+];
    };
}

kinds! {
    BAD_TOPIC = "bad-topic", BAD_REQUEST, "This is no topic name or filter",
        "Name a topic with dot-separated tokens of letters, digits, `-` and `_`, such as `order.placed`.";
    BAD_EVENT = "bad-event", BAD_REQUEST, "The request holds no valid CloudEvent",
        "Correct the event as `detail` says. A plain body needs no CloudEvents header at all.";
    BAD_PARAMETER = "bad-parameter", BAD_REQUEST, "A parameter of the request is not valid",
        "Correct the parameter that `detail` names.";
    BAD_BODY = "bad-body", BAD_REQUEST, "The body of the request is not valid",
        "Send the JSON that `detail` describes.";
    UNREADABLE_BODY = "unreadable-body", BAD_REQUEST, "The body ended before it was complete",
        "Send the whole body, and as many bytes as `Content-Length` says.";
    UNSUPPORTED = "unsupported-media-type", UNSUPPORTED_MEDIA_TYPE, "The body's format or encoding is not accepted",
        "Send CloudEvents as JSON or in binary mode, and without a `Content-Encoding`.";
    FORBIDDEN_HOST = "forbidden-host", MISDIRECTED_REQUEST, "The bus is not known by this host name",
        "Use the address that the bus listens on, or add the name to `allowed_hosts` of the bus.";
    FORBIDDEN_ORIGIN = "forbidden-origin", FORBIDDEN, "Web pages of this origin may not use the bus",
        "Add the page's origin to `allowed_origins` of the bus, if it is meant to use it.";
    UNKNOWN_PATH = "unknown-path", NOT_FOUND, "There is nothing at this path",
        "`sandpost --help` and the documentation list what the bus answers.";
    UNKNOWN_TOPIC = "unknown-topic", NOT_FOUND, "There is no topic of this name",
        "A topic comes into being with its first message; `GET /topics` lists those there are.";
    UNKNOWN_SUBSCRIPTION = "unknown-subscription", NOT_FOUND, "There is no subscription of this name",
        "`GET /subscriptions` lists those there are.";
    UNKNOWN_DEAD_LETTER = "unknown-dead-letter", NOT_FOUND, "There is no such dead letter",
        "It may have been redriven or dropped; `GET /dead-letters` lists those there are.";
    UNKNOWN_SCHEDULED = "unknown-scheduled", NOT_FOUND, "There is no such scheduled message",
        "It may have become due or been cancelled; `GET /scheduled` lists those there are.";
    BAD_FILTER = "bad-filter", BAD_REQUEST, "A part of the filter of dead letters means nothing",
        "All parts are optional: subscription, reason, topic, key, since, until, digest, error, excused, ids.";
    SEVERAL_CONSUMERS = "several-consumers", BAD_REQUEST, "A component is rehearsed for one consumer",
        "Choose by `subscription`.";
    NOT_DEPLOYED = "not-deployed", CONFLICT, "Nothing of the consumer is deployed",
        "A rehearsal runs under the manifest that is deployed: deploy the consumer first.";
    BAD_COMPONENT = "bad-component", BAD_REQUEST, "The component cannot be rehearsed",
        "Send the bytes of a component as the body; `sandpost plugins check` tells what is wrong with it.";
    REHEARSING = "rehearsing", TOO_MANY_REQUESTS, "Another rehearsal runs",
        "One runs at a time: try again when it has ended.";
    UNKNOWN_PLUGIN = "unknown-plugin", NOT_FOUND, "There is no consumer of this name",
        "`GET /plugins` lists those there are.";
    UNKNOWN_CONSUMER = "unknown-consumer", NOT_FOUND, "There is no consumer of this name, and no state of it",
        "`GET /state` lists those that keep something, `GET /plugins` those that run.";
    UNKNOWN_STATE_KEY = "unknown-state-key", NOT_FOUND, "The consumer's state has no such key",
        "`GET /state/{consumer}` lists those there are.";
    STILL_DEPLOYED = "still-deployed", CONFLICT, "The consumer is deployed, and may write its state",
        "Take its files out of the plugin folder, and then remove its state.";
    WRONG_METHOD = "wrong-method", METHOD_NOT_ALLOWED, "The path does not answer this method",
        "Use one of the methods that the `Allow` header lists.";
    TOO_SLOW = "slow-body", REQUEST_TIMEOUT, "The body did not arrive in time",
        "Send the body without long pauses.";
    UNREADABLE_HEAD = "unreadable-head", BAD_REQUEST, "This is no HTTP request",
        "Speak HTTP/1.1 without TLS; `curl -v` shows what is sent.";
    HEAD_TOO_LARGE = "head-too-large", REQUEST_HEADER_FIELDS_TOO_LARGE, "The head of the request is larger than accepted",
        "Send fewer or shorter headers; what is long belongs in the data of a message.";
    SLOW_HEAD = "slow-head", REQUEST_TIMEOUT, "The head of the request did not arrive in time",
        "Send the head at once.";
    TOO_MANY_CONNECTIONS = "too-many-connections", SERVICE_UNAVAILABLE, "As many requests are open as may be",
        "Nothing was done: come back after the time in `Retry-After`, and use connections again in place of opening new ones.";
    ANSWERS_BUSY = "answers-busy", TOO_MANY_REQUESTS, "Too much of what was asked for has not been read",
        "Read answers as they come, ask for less at a time by `limit`, and come back after the time in `Retry-After`.";
    STILL_DECLARED = "still-declared", CONFLICT, "An active manifest declares the subscription",
        "Remove the subscription from the manifest, or the consumer's files, and then remove it here.";
    CANNOT_ROLL_BACK = "cannot-roll-back", CONFLICT, "The consumer cannot go back to that version",
        "`sandpost plugins history` shows which versions are kept; deploy the one that should run.";
    TOO_LARGE = "too-large", PAYLOAD_TOO_LARGE, "A message is larger than the bus accepts",
        "Put the data where consumers can fetch it, such as an object store, and publish its address as the attribute `dataref` (the header `ce-dataref`), with no data.";
    BATCH_TOO_LARGE = "batch-too-large", PAYLOAD_TOO_LARGE, "A batch is larger than the bus accepts",
        "Publish the messages in several batches.";
    ATTRIBUTES_TOO_LARGE = "attributes-too-large", PAYLOAD_TOO_LARGE, "A message's attributes are larger than accepted",
        "Move what is long from the attributes into the data.";
    BUSY = "busy", TOO_MANY_REQUESTS, "More is waiting for the disk than may",
        "Nothing was stored: publish it again after the time in `Retry-After`.";
    DAMAGED = "log-damaged", INTERNAL_SERVER_ERROR, "What is asked for cannot be read from the log",
        "The bus's own log has the details; the file or its disk is damaged.";
    STOPPING = "stopping", SERVICE_UNAVAILABLE, "The bus is stopping",
        "Nothing was stored: publish it again once the bus is back.";
    STARTING = "starting", SERVICE_UNAVAILABLE, "The bus is starting",
        "Nothing was stored: publish it again in a moment. `/readyz` tells when.";
    NOT_NOW = "not-now", SERVICE_UNAVAILABLE, "The bus cannot do it now",
        "Nothing was changed: try it again in a moment. `detail` says what is in the way.";
    NOT_SYNCED = "not-synced", SERVICE_UNAVAILABLE, "The log failed before the message was synced",
        "The message may be stored or not: once the bus is back, look for its `id` in the topic before publishing it again.";
    TOO_MANY_TAILS = "too-many-tails", SERVICE_UNAVAILABLE, "As many tails are open as may be",
        "Close tails that are not needed, and try again.";
    TOPIC_FULL = "topic-full", INSUFFICIENT_STORAGE, "The topic holds as many bytes as it may",
        "Nothing was stored, and other topics take messages: have the topic's subscriptions catch up, or raise its `cap` in the settings, then publish it again.";
    NO_ROOM = "no-room", INSUFFICIENT_STORAGE, "There is no room for more in the data folder",
        "Nothing was stored: free space on the disk of the bus, or raise its limit on the size of files (`ulimit -f`), then publish it again.";
}

/// One refusal.
pub(crate) struct Problem {
    kind: &'static Kind,
    detail: String,
    /// Replaces the kind's own hint where more is known.
    hint: Option<String>,
    facts: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub(crate) fn new(kind: &'static Kind, detail: impl ToString) -> Self {
        Self { kind, detail: detail.to_string(), hint: None, facts: Map::new(), headers: Vec::new() }
    }

    /// Adds facts as members of the document.
    pub(crate) fn facts(mut self, facts: Value) -> Self {
        if let Value::Object(facts) = facts {
            self.facts.extend(facts);
        }
        self
    }

    pub(crate) fn hint(mut self, hint: impl ToString) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// Tells the client when to come back.
    pub(crate) fn retry_after(mut self, seconds: u16) -> Self {
        self.headers.push((RETRY_AFTER, seconds.into()));
        self
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.kind.status
    }

    /// A topic name or filter in a request's path that is none.
    pub(crate) fn bad_topic(text: &str, error: &TopicError) -> Self {
        Self::new(&BAD_TOPIC, format!("`{text}` is no topic: {error}")).facts(json!({ "topic": text }))
    }

    /// Adds the nearest of the known names to the hint.
    pub(crate) fn did_you_mean<'a>(self, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        match nearest(name, known) {
            Some(near) => {
                let hint = format!("Did you mean `{near}`? {}", self.kind.hint);
                self.facts(json!({ "did_you_mean": near })).hint(hint)
            }
            None => self,
        }
    }

    pub(crate) fn document(&self) -> Value {
        let mut document = self.facts.clone();
        // After the facts, so that none of them can take the place of a standard member.
        document.insert("type".to_owned(), format!("/problems/{}", self.kind.slug).into());
        document.insert("title".to_owned(), self.kind.title.into());
        document.insert("status".to_owned(), self.kind.status.as_u16().into());
        document.insert("detail".to_owned(), self.detail.clone().into());
        document.insert("hint".to_owned(), self.hint.as_deref().unwrap_or(self.kind.hint).into());
        Value::Object(document)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status(), self.document().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.extend(self.headers);
        response
    }
}

/// The known name that is most like a mistyped one, if one is like it at all.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.into_iter().map(|candidate| (strsim::jaro_winkler(name, candidate), candidate));
    let best = scored.max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (best.0 > 0.8).then_some(best.1)
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        let (kind, facts) = match &error {
            PublishError::TooLarge { topic, bytes, bytes_max } => {
                (&TOO_LARGE, json!({ "topic": topic, "bytes": bytes, "bytes_max": bytes_max }))
            }
            PublishError::AttributesTooLarge { topic, bytes, bytes_max } => {
                (&ATTRIBUTES_TOO_LARGE, json!({ "topic": topic, "bytes": bytes, "bytes_max": bytes_max }))
            }
            PublishError::TooManyMessages { messages, messages_max } => {
                (&BATCH_TOO_LARGE, json!({ "messages": messages, "messages_max": messages_max }))
            }
            PublishError::BatchTooLarge { bytes, bytes_max } => {
                (&BATCH_TOO_LARGE, json!({ "bytes": bytes, "bytes_max": bytes_max }))
            }
            PublishError::NoRoom { free_bytes, min_bytes } => {
                (&NO_ROOM, json!({ "free_bytes": free_bytes, "min_bytes": min_bytes }))
            }
            PublishError::CannotGrow { error } => (&NO_ROOM, json!({ "error": error })),
            PublishError::TopicFull { topic, bytes, bytes_max, more } => {
                (&TOPIC_FULL, json!({ "topic": topic, "bytes": bytes, "bytes_max": bytes_max, "more": more }))
            }
            PublishError::Busy { unsynced_bytes } => (&BUSY, json!({ "unsynced_bytes": unsynced_bytes })),
            PublishError::Starting => (&STARTING, json!({})),
            PublishError::NotSynced => (&NOT_SYNCED, json!({})),
            PublishError::Stopping => (&STOPPING, json!({})),
        };
        let problem = Self::new(kind, &error).facts(facts);
        if matches!(error, PublishError::Busy { .. } | PublishError::Starting) {
            problem.retry_after(1)
        } else {
            problem
        }
    }
}

impl From<BusError> for Problem {
    fn from(error: BusError) -> Self {
        match &error {
            BusError::UnknownTopic { topic } => Self::new(&UNKNOWN_TOPIC, &error).facts(json!({ "topic": topic })),
            BusError::UnknownSubscription { subscription, known } => Self::new(&UNKNOWN_SUBSCRIPTION, &error)
                .facts(json!({ "subscription": subscription }))
                .did_you_mean(subscription, known.iter().map(String::as_str)),
            BusError::UnknownDeadLetter { id } => Self::new(&UNKNOWN_DEAD_LETTER, &error).facts(json!({ "id": id })),
            BusError::StillDeclared { subscription, manifest } => {
                Self::new(&STILL_DECLARED, &error).facts(json!({ "subscription": subscription, "manifest": manifest }))
            }
            BusError::UnknownScheduled { number } => {
                Self::new(&UNKNOWN_SCHEDULED, &error).facts(json!({ "scheduled": number }))
            }
            BusError::Filter(filter) => Self::new(&BAD_FILTER, &error)
                .facts(json!({ "part": filter.part, "found": filter.found, "allowed": filter.allowed })),
            BusError::SeveralConsumers { one, other } => {
                Self::new(&SEVERAL_CONSUMERS, &error).facts(json!({ "consumers": [one, other] }))
            }
            BusError::NotDeployed { consumer } => {
                Self::new(&NOT_DEPLOYED, &error).facts(json!({ "consumer": consumer }))
            }
            BusError::Candidate { .. } => Self::new(&BAD_COMPONENT, &error),
            BusError::Rehearsing => Self::new(&REHEARSING, &error).retry_after(1),
            BusError::UnknownConsumer { consumer, known } => Self::new(&UNKNOWN_CONSUMER, &error)
                .facts(json!({ "consumer": consumer }))
                .did_you_mean(consumer, known.iter().map(String::as_str)),
            BusError::UnknownStateKey { consumer, key } => {
                Self::new(&UNKNOWN_STATE_KEY, &error).facts(json!({ "consumer": consumer, "key": key }))
            }
            BusError::StillDeployed { consumer } => {
                Self::new(&STILL_DEPLOYED, &error).facts(json!({ "consumer": consumer }))
            }
            BusError::Read(error) => error.clone().into(),
            BusError::Deployments(error) => error.into(),
            BusError::Stopping => Self::new(&STOPPING, &error),
        }
    }
}

impl From<&CommandError> for Problem {
    fn from(error: &CommandError) -> Self {
        match error {
            CommandError::UnknownPlugin { name, known } => Self::new(&UNKNOWN_PLUGIN, error)
                .facts(json!({ "plugin": name }))
                .did_you_mean(name, known.iter().map(String::as_str)),
            CommandError::NoTarget { name, .. } => Self::new(&CANNOT_ROLL_BACK, error).facts(json!({ "plugin": name })),
            CommandError::Unusable { name, digest, .. } => {
                Self::new(&CANNOT_ROLL_BACK, error).facts(json!({ "plugin": name, "digest": digest }))
            }
            CommandError::Overtaken { name } => Self::new(&NOT_NOW, error).facts(json!({ "plugin": name })),
            CommandError::Unavailable { .. } => Self::new(&NOT_NOW, error),
            CommandError::Stopping => Self::new(&STOPPING, error),
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match &error {
            ReadError::UnknownTopic { topic } => Self::new(&UNKNOWN_TOPIC, &error).facts(json!({ "topic": topic })),
            ReadError::Damaged { .. }
            | ReadError::Missing { .. }
            | ReadError::Removed { .. }
            | ReadError::Io { .. } => {
                // Tables and paths are the operator's business.
                tracing::error!("a request could not be answered: {error}");
                Self::new(&DAMAGED, "the log of the bus could not be read")
            }
        }
    }
}

impl From<DecodeError> for Problem {
    fn from(error: DecodeError) -> Self {
        let kind = match error.error {
            EventError::Format { .. } => &UNSUPPORTED,
            _ => &BAD_EVENT,
        };
        let problem = Self::new(kind, &error).facts(error.error.facts().into());
        match error.index {
            Some(index) => problem.facts(json!({ "index": index })),
            None => problem,
        }
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        match &error {
            BodyError::TooLarge { bytes_max } => Self::new(&TOO_LARGE, &error).facts(json!({ "bytes_max": bytes_max })),
            BodyError::TooSlow { seconds } => Self::new(&TOO_SLOW, &error).facts(json!({ "seconds": seconds })),
            BodyError::Broken => Self::new(&UNREADABLE_BODY, &error),
            BodyError::Busy => Self::new(&BUSY, &error).retry_after(1),
            BodyError::Encoded { encoding } => {
                Self::new(&UNSUPPORTED, &error).facts(json!({ "content_encoding": encoding }))
            }
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match &refusal {
            Refusal::NoHost => Self::new(&FORBIDDEN_HOST, &refusal),
            Refusal::Host { host } => Self::new(&FORBIDDEN_HOST, &refusal).facts(json!({ "host": host })),
            Refusal::Origin { origin } => Self::new(&FORBIDDEN_ORIGIN, &refusal).facts(json!({ "origin": origin })),
            Refusal::CrossSite => Self::new(&FORBIDDEN_ORIGIN, &refusal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::TargetError;

    fn told(problem: Problem) -> (u16, String, Value) {
        let document = problem.document();
        let status = problem.status().as_u16();
        assert_eq!(document["status"], status);
        for member in ["title", "detail", "hint"] {
            assert!(document[member].as_str().is_some_and(|text| !text.is_empty()), "{member} of {document}");
        }
        (status, document["type"].as_str().unwrap_or_default().replace("/problems/", ""), document)
    }

    #[test]
    fn every_refused_publish_has_its_own_answer() {
        let topic = || "order.placed".to_owned();
        let table = [
            (PublishError::TooLarge { topic: topic(), bytes: 9, bytes_max: 8 }, 413, "too-large"),
            (PublishError::AttributesTooLarge { topic: topic(), bytes: 9, bytes_max: 8 }, 413, "attributes-too-large"),
            (PublishError::TooManyMessages { messages: 9, messages_max: 8 }, 413, "batch-too-large"),
            (PublishError::BatchTooLarge { bytes: 9, bytes_max: 8 }, 413, "batch-too-large"),
            (PublishError::NoRoom { free_bytes: 1, min_bytes: 2 }, 507, "no-room"),
            (PublishError::CannotGrow { error: "File too large".to_owned() }, 507, "no-room"),
            (PublishError::TopicFull { topic: topic(), bytes: 7, bytes_max: 8, more: 2 }, 507, "topic-full"),
            (PublishError::Busy { unsynced_bytes: 3 }, 429, "busy"),
            (PublishError::Starting, 503, "starting"),
            (PublishError::NotSynced, 503, "not-synced"),
            (PublishError::Stopping, 503, "stopping"),
        ];
        for (error, status, slug) in table {
            let (found, kind, document) = told(error.clone().into());
            assert_eq!((found, kind.as_str()), (status, slug), "{error}");
            if status == 413 {
                assert!(document["bytes"] == 9 || document["messages"] == 9, "{document}");
            }
        }
        let (_, _, document) = told(PublishError::TooLarge { topic: topic(), bytes: 9, bytes_max: 8 }.into());
        assert!(document["hint"].as_str().unwrap().contains("dataref"), "{document}");
        let response = Problem::from(PublishError::Busy { unsynced_bytes: 3 }).into_response();
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn every_refused_question_has_its_own_answer() {
        let known = vec!["inventory".to_owned(), "email".to_owned()];
        let unknown = |subscription: &str| BusError::UnknownSubscription {
            subscription: subscription.to_owned(),
            known: known.clone(),
        };
        let damaged = ReadError::Damaged { table: "blocks", what: "checksum of /data/log".to_owned() };
        let table = [
            (BusError::UnknownTopic { topic: "a".to_owned() }, 404, "unknown-topic"),
            (unknown("emial"), 404, "unknown-subscription"),
            (BusError::UnknownDeadLetter { id: "a:1".to_owned() }, 404, "unknown-dead-letter"),
            (
                BusError::StillDeclared { subscription: "a".to_owned(), manifest: "a.toml".to_owned() },
                409,
                "still-declared",
            ),
            (BusError::UnknownConsumer { consumer: "a".to_owned(), known: known.clone() }, 404, "unknown-consumer"),
            (BusError::UnknownStateKey { consumer: "a".to_owned(), key: "k".to_owned() }, 404, "unknown-state-key"),
            (BusError::StillDeployed { consumer: "a".to_owned() }, 409, "still-deployed"),
            (BusError::Read(damaged.clone()), 500, "log-damaged"),
            (BusError::UnknownScheduled { number: 4 }, 404, "unknown-scheduled"),
            (BusError::Stopping, 503, "stopping"),
            (CommandError::UnknownPlugin { name: "a".to_owned(), known: Vec::new() }.into(), 404, "unknown-plugin"),
            (
                CommandError::NoTarget { name: "a".to_owned(), reason: TargetError::Nothing }.into(),
                409,
                "cannot-roll-back",
            ),
            (CommandError::Unavailable { reason: "the disk is full".to_owned() }.into(), 503, "not-now"),
            (CommandError::Stopping.into(), 503, "stopping"),
        ];
        for (error, status, slug) in table {
            let (found, kind, _) = told(error.clone().into());
            assert_eq!((found, kind.as_str()), (status, slug), "{error}");
        }
        let (_, _, document) = told(unknown("emial").into());
        assert_eq!(document["did_you_mean"], "email");
        let (_, _, document) = told(unknown("zzz").into());
        assert_eq!(document["did_you_mean"], Value::Null);
        let (_, _, document) = told(BusError::Read(damaged).into());
        assert!(!document.to_string().contains("/data/log"), "the operator's business: {document}");
    }

    #[test]
    fn a_fact_never_takes_the_place_of_a_standard_member() {
        let problem = Problem::new(&BAD_EVENT, "d").facts(json!({ "status": 1, "type": "x", "attribute": "id" }));
        let (status, slug, document) = told(problem);
        assert_eq!((status, slug.as_str(), &document["attribute"]), (400, "bad-event", &json!("id")));
    }

    #[test]
    fn kinds_are_told_apart_by_their_names() {
        let mut slugs: Vec<_> = KINDS.iter().map(|kind| kind.slug).collect();
        slugs.sort_unstable();
        slugs.dedup();
        assert_eq!(slugs.len(), KINDS.len());
    }
}
