//! Run a consumer natively, with no bus and no WebAssembly.
//!
//! ```
//! use sandpost_sdk::prelude::*;
//! use sandpost_sdk::testing::{TestBus, json_message};
//! use serde_json::json;
//!
//! fn handle(Json(sku): Json<String>, bus: &Bus) -> Result<(), Failure> {
//!     let left: u32 = bus.state().get_json(&sku)?.or_reject("no such SKU")?;
//!     bus.publish(Event::json("stock.left", &left)?.key(sku))?;
//!     Ok(())
//! }
//!
//! let mut bus = TestBus::new().grant("stock.left").state_json("BOOK-1", &7);
//!
//! let run = bus.deliver(handle, &json_message("stock.asked", &json!("BOOK-1")));
//! assert_eq!(run.outcome, Ok(()));
//! assert_eq!(run.published_json::<u32>("stock.left"), [7]);
//!
//! let run = bus.deliver(handle, &json_message("stock.asked", &json!("MUG-2")));
//! assert_eq!(run.outcome, Err(Failure::reject("no such SKU")));
//! ```
//!
//! A [`TestBus`] keeps what the contract says: what is not granted is refused, bounds hold, a call reads its
//! own writes, and what a failed call published or wrote did not happen. It runs one call at a time, so it has
//! no conflicts, and it ends no call: a handler that loops makes the test loop, and one that panics fails it.

mod call;
mod outside;

use crate::{Bus, Delivery, Event, Failure, Handler, HttpError, HttpRequest, HttpResponse, Level, Message};
use call::Call;
use outside::{Grant, Outside};
pub use outside::{json_response, placeholder, response};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

// The bus's own defaults.
const MAX_ATTEMPTS: u32 = 6;
const TIMEOUT: Duration = Duration::from_secs(5);
/// Where the clock stands at first: 2026-01-01T00:00:00Z.
const START_MS: u64 = 1_767_225_600_000;
/// How far the clock goes between two attempts where the handler does not say.
const BACKOFF: Duration = Duration::from_secs(1);

/// A stand-in for the bus, with one subscription of one consumer.
#[derive(Clone, Debug)]
pub struct TestBus {
    config: BTreeMap<String, String>,
    granted: BTreeSet<String>,
    state: BTreeMap<String, Vec<u8>>,
    outside: Outside,
    max_attempts: u32,
    now_ms: u64,
    sequence: u64,
}

impl Default for TestBus {
    fn default() -> Self {
        TestBus {
            config: BTreeMap::new(),
            granted: BTreeSet::new(),
            state: BTreeMap::new(),
            outside: Outside::default(),
            max_attempts: MAX_ATTEMPTS,
            now_ms: START_MS,
            sequence: 0,
        }
    }
}

impl TestBus {
    /// A bus with no configuration, no grants and no state; 6 attempts; its clock at 2026-01-01T00:00:00Z.
    #[must_use]
    pub fn new() -> Self {
        TestBus::default()
    }

    /// A bus with the `[config]`, the `[grants]`, the names in `[secrets]` and the first subscription's `max_attempts`
    /// of this manifest, such as `include_str!("../email.toml")`. Nothing else of it is read or checked.
    ///
    /// # Panics
    /// Where it is not TOML, or one of these is not of its type.
    #[must_use]
    pub fn with_manifest(manifest: &str) -> Self {
        #[derive(serde::Deserialize)]
        struct Manifest {
            #[serde(default)]
            subscription: Vec<Subscription>,
            #[serde(default)]
            grants: Grants,
            #[serde(default)]
            config: BTreeMap<String, String>,
            #[serde(default)]
            secrets: BTreeMap<String, toml::Value>,
        }
        #[derive(serde::Deserialize)]
        struct Subscription {
            #[serde(default)]
            retry: Retry,
        }
        #[derive(serde::Deserialize, Default)]
        struct Retry {
            max_attempts: Option<u32>,
        }
        #[derive(serde::Deserialize, Default)]
        struct Grants {
            #[serde(default)]
            publish: BTreeSet<String>,
            #[serde(default)]
            http: Vec<Grant>,
        }

        let manifest: Manifest = toml::from_str(manifest).unwrap_or_else(|error| panic!("the manifest: {error}"));
        let max_attempts = manifest.subscription.first().and_then(|first| first.retry.max_attempts);
        TestBus {
            config: manifest.config,
            granted: manifest.grants.publish,
            outside: Outside::new(manifest.grants.http, manifest.secrets.into_keys().collect()),
            max_attempts: max_attempts.unwrap_or(MAX_ATTEMPTS),
            ..TestBus::default()
        }
    }

    /// Sets a name of the configuration.
    #[must_use]
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.insert(name.into(), value.into());
        self
    }

    /// Grants publishing to a topic.
    #[must_use]
    pub fn grant(mut self, topic: impl Into<String>) -> Self {
        self.granted.insert(topic.into());
        self
    }

    /// Grants requests to a URL and what lies below it, and these secrets to it. What a handler is told of a secret is
    /// its [`placeholder`].
    #[must_use]
    pub fn grant_http(mut self, url: impl Into<String>, secrets: &[&str]) -> Self {
        self.outside.grant(url.into(), secrets);
        self
    }

    /// Answers the requests that are granted; [`response`] and [`json_response`] make answers.
    ///
    /// ```
    /// use sandpost_sdk::prelude::*;
    /// use sandpost_sdk::testing::{TestBus, message, response};
    ///
    /// fn handle(message: &Message, bus: &Bus) -> Result<(), Failure> {
    ///     bus.http().post("https://api.example.com/mails").body("text/plain", message.data.clone()).send()?.ok()?;
    ///     Ok(())
    /// }
    ///
    /// let mut bus = TestBus::new().grant_http("https://api.example.com", &[]).http(|request| {
    ///     Ok(response(if request.body == b"hello" { 202 } else { 503 }))
    /// });
    /// assert_eq!(bus.deliver(handle, &message("greeting", "hello")).outcome, Ok(()));
    ///
    /// let run = bus.deliver(handle, &message("greeting", "hm"));
    /// assert_eq!(run.outcome, Err(Failure::unavailable("https://api.example.com/mails answered 503")));
    /// assert_eq!(run.requests[0].method, "POST");
    /// ```
    #[must_use]
    pub fn http(mut self, answer: impl Fn(&HttpRequest) -> Result<HttpResponse, HttpError> + 'static) -> Self {
        self.outside.answers(answer);
        self
    }

    /// Sets a key of the state.
    #[must_use]
    pub fn state(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.state.insert(key.into(), value.into());
        self
    }

    /// Sets a key of the state to a value encoded as JSON.
    ///
    /// # Panics
    /// Where the value cannot be JSON.
    #[must_use]
    pub fn state_json(self, key: impl Into<String>, value: &(impl Serialize + ?Sized)) -> Self {
        self.state(key, serde_json::to_vec(value).expect("the value is to be JSON"))
    }

    /// Sets the number of attempts that a message has, 1 or more.
    #[must_use]
    pub fn max_attempts(mut self, max_attempts: u32) -> Self {
        self.max_attempts = max_attempts;
        self
    }

    /// Sets the clock, in milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn at_ms(mut self, now_ms: u64) -> Self {
        self.now_ms = now_ms;
        self
    }

    /// What the state holds now: what acknowledged calls have written.
    #[must_use]
    pub fn stored(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.state
    }

    /// The value of a key of the state, decoded as JSON.
    ///
    /// # Panics
    /// Where it is not JSON of `T`.
    #[must_use]
    pub fn stored_json<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let value = self.state.get(key)?;
        Some(serde_json::from_slice(value).unwrap_or_else(|error| panic!("the value of {key:?}: {error}")))
    }

    /// The delivery that [`deliver`](Self::deliver) would offer next, to be changed and handed to
    /// [`deliver_as`](Self::deliver_as).
    #[must_use]
    pub fn next_delivery(&self, message: &Message) -> Delivery {
        Delivery {
            subscription: "test".to_owned(),
            sequence: self.sequence + 1,
            attempt: 1,
            max_attempts: self.max_attempts,
            redrives: 0,
            first_attempt_ms: self.now_ms,
            deadline_ms: self.now_ms + millis(TIMEOUT),
            idempotency_key: format!("test:{}:{}", message.source, message.id),
        }
    }

    /// Offers the message once, as its first attempt.
    pub fn deliver<Input>(&mut self, handler: impl Handler<Input>, message: &Message) -> Run {
        let delivery = self.next_delivery(message);
        self.deliver_as(handler, message, &delivery)
    }

    /// Offers the message once, in this delivery.
    pub fn deliver_as<Input>(&mut self, handler: impl Handler<Input>, message: &Message, delivery: &Delivery) -> Run {
        self.sequence = self.sequence.max(delivery.sequence);
        let call = Call::new(self);
        let outcome = handler.call(&Bus::new(&call, message, delivery));
        let staged = call.into_staged();
        let mut run = Run {
            outcome,
            published: Vec::new(),
            state_changes: BTreeMap::new(),
            logged: staged.logged,
            requests: staged.requests,
        };
        if run.outcome.is_ok() {
            run.published = staged.published;
            run.state_changes = staged.changes;
            self.state = staged.state;
        }
        run
    }

    /// Offers the message until it is settled, as the bus would: a retry comes back as the next attempt, with
    /// the clock set on by its delay or by a second, and the last one makes a dead letter. A call that
    /// is unavailable ends it with [`Settlement::Pending`], for nothing here would change for the next one.
    pub fn settle<Input>(&mut self, handler: impl Handler<Input>, message: &Message) -> (Settlement, Vec<Run>) {
        let handler = &handler;
        let mut delivery = self.next_delivery(message);
        let mut runs = Vec::new();
        loop {
            let run = self.deliver_as(|_: &Message, bus: &Bus| handler.call(bus), message, &delivery);
            let outcome = run.outcome.clone();
            runs.push(run);
            match outcome {
                Ok(()) => return (Settlement::Acked, runs),
                Err(Failure::Reject(reason)) => return (Settlement::Dead(reason), runs),
                Err(Failure::Unavailable(retry)) => return (Settlement::Pending(retry.reason), runs),
                Err(Failure::Retry(retry)) if delivery.is_last_attempt() => {
                    return (Settlement::Dead(retry.reason), runs);
                }
                Err(Failure::Retry(retry)) => {
                    self.now_ms += millis(retry.after.unwrap_or(BACKOFF));
                    delivery.attempt += 1;
                    delivery.deadline_ms = self.now_ms + millis(TIMEOUT);
                }
            }
        }
    }
}

/// What one call did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// How it ended.
    pub outcome: Result<(), Failure>,
    /// What it published, in order. Empty where it failed.
    pub published: Vec<Event>,
    /// What it wrote to the state; `None` is a removed key. Empty where it failed.
    pub state_changes: BTreeMap<String, Option<Vec<u8>>>,
    /// What it logged, in order, up to 64 KiB. It stays where the call failed.
    pub logged: Vec<(Level, String)>,
    /// The requests that it made, in order, refused ones and followed redirects included. They stay where the call
    /// failed.
    pub requests: Vec<HttpRequest>,
}

impl Run {
    /// The data of what was published to this topic, in order, decoded as JSON.
    ///
    /// # Panics
    /// Where one is not JSON of `T`.
    #[must_use]
    pub fn published_json<T: DeserializeOwned>(&self, topic: &str) -> Vec<T> {
        let events = self.published.iter().filter(|event| event.topic == topic);
        let decode = |event: &Event| {
            serde_json::from_slice(&event.data).unwrap_or_else(|error| panic!("an event in {topic}: {error}"))
        };
        events.map(decode).collect()
    }
}

/// What became of a message; see [`TestBus::settle`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It is acknowledged.
    Acked,
    /// It is a dead letter, for this reason.
    Dead(String),
    /// It is held until what is unavailable is back.
    Pending(String),
}

/// A message with these bytes as data, without key and content type. Set other fields by
/// `Message { key: Some("..".into()), ..message("orders", "..") }`.
pub fn message(topic: impl Into<String>, data: impl Into<Vec<u8>>) -> Message {
    let topic = topic.into();
    Message {
        id: "test-1".to_owned(),
        source: "/test".to_owned(),
        event_type: topic.clone(),
        subject: None,
        topic,
        key: None,
        content_type: None,
        accepted_ms: START_MS,
        attributes: Vec::new(),
        data: data.into(),
    }
}

/// A message with this value as data, encoded as JSON.
///
/// # Panics
/// Where the value cannot be JSON.
pub fn json_message(topic: impl Into<String>, value: &(impl Serialize + ?Sized)) -> Message {
    let data = serde_json::to_vec(value).expect("the data is to be JSON");
    Message { content_type: Some("application/json".to_owned()), ..message(topic, data) }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}
