//! The bus's HTTP interface.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use crate::views::{Accepted, DeadLetter, Event, Message, Plugin, Subscription, Topic};
use crate::{Tail, wait_for};

/// Messages that are asked for at a time; the bus gives at most as many.
const PAGE_MESSAGES: usize = 1_000;
/// No answer is longer: the bus ends a page of messages after 8 MiB.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// A client of one bus. Clones share its connections.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
    url: String,
}

impl Client {
    /// A client of the bus at this address, such as `http://127.0.0.1:7480`.
    #[must_use]
    pub fn new(url: &str) -> Self {
        let config = Agent::config_builder()
            // A status other than 2xx has a text that says what is wrong.
            .http_status_as_error(false)
            // The bus is on this machine, whatever proxy leads out of it.
            .proxy(None)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(crate::PATIENCE))
            .build();
        Self { agent: config.new_agent(), url: url.trim_end_matches('/').to_owned() }
    }

    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Publishes an event in structured mode. It is durable when this returns.
    ///
    /// # Errors
    /// Where the bus refuses it, with its reason.
    pub fn publish(&self, topic: &str, event: &Event<'_>) -> Result<Accepted> {
        self.post(topic, "application/cloudevents+json", event)
    }

    /// Publishes events as a batch, all or none of them.
    ///
    /// # Errors
    /// Where the bus refuses it, with its reason.
    pub fn publish_batch(&self, topic: &str, events: &[Event<'_>]) -> Result<Vec<Accepted>> {
        self.post(topic, "application/cloudevents-batch+json", events)
    }

    /// Publishes an event in binary mode: the attributes are headers, and the data is the body as it is.
    /// The attributes are to be visible ASCII without `%` and `"`, which would have to be encoded.
    ///
    /// # Errors
    /// Where the bus refuses it, with its reason.
    pub fn publish_binary(&self, topic: &str, event: &Event<'_>) -> Result<Accepted> {
        let mut request = self
            .agent
            .post(format!("{}/topics/{topic}", self.url))
            .header("ce-specversion", event.specversion)
            .header("ce-id", &event.id)
            .header("ce-source", event.source)
            .header("ce-type", event.r#type);
        for (name, value) in [
            ("content-type", event.datacontenttype),
            ("ce-subject", event.subject),
            ("ce-partitionkey", event.partitionkey),
            ("ce-dataref", event.dataref.as_deref()),
        ] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        let data = event.data.as_ref().map_or("", |data| data.get());
        self.read(&format!("POST /topics/{topic}"), request.send(data.as_bytes()))
    }

    /// Publishes a body that is no event, which the bus makes one of. Answers the status and the answer, also where the
    /// bus refuses it.
    ///
    /// # Errors
    /// Where the bus does not answer.
    pub fn publish_plain(&self, topic: &str, content_type: &str, body: &[u8]) -> Result<(u16, Value)> {
        let request = self.agent.post(format!("{}/topics/{topic}", self.url)).header("content-type", content_type);
        let answer = request.send(body).with_context(|| format!("POST /topics/{topic}"))?;
        let status = answer.status().as_u16();
        Ok((status, answer.into_body().read_json()?))
    }

    fn post<T: DeserializeOwned>(
        &self,
        topic: &str,
        content_type: &str,
        body: &(impl Serialize + ?Sized),
    ) -> Result<T> {
        let body = serde_json::to_vec(body)?;
        let request = self.agent.post(format!("{}/topics/{topic}", self.url)).header("content-type", content_type);
        self.read(&format!("POST /topics/{topic}"), request.send(&body))
    }

    /// All messages of a topic, in their order. None where there is no such topic yet.
    ///
    /// # Errors
    /// Where the bus does not answer.
    pub fn messages(&self, topic: &str) -> Result<Vec<Message>> {
        let mut messages: Vec<Message> = Vec::new();
        if !self.topics()?.iter().any(|known| known.name == topic) {
            return Ok(messages);
        }
        loop {
            let from = messages.last().map_or(1, |last| last.sequence + 1);
            let page: Vec<Message> =
                self.get(&format!("/topics/{topic}/messages?from={from}&limit={PAGE_MESSAGES}"))?;
            if page.is_empty() {
                return Ok(messages);
            }
            messages.extend(page);
        }
    }

    /// The same, once there are so many of them. What a handler published is counted with its acknowledgement, and
    /// can be read a moment later: when it is synced.
    ///
    /// # Errors
    /// Where the bus does not answer, or there never are so many.
    pub fn messages_once(&self, topic: &str, count: u64) -> Result<Vec<Message>> {
        wait_for(&format!("{count} messages in {topic}"), || {
            let topics = self.topics()?;
            let last = topics.iter().find(|known| known.name == topic).map_or(0, |known| known.last_sequence);
            Ok((last >= count).then_some(()))
        })?;
        self.messages(topic)
    }

    /// Follows the messages of a topic filter, from the ones accepted from now on.
    ///
    /// # Errors
    /// Where the bus does not answer.
    pub fn tail(&self, filter: &str) -> Result<Tail> {
        let path = format!("/topics/{filter}/tail");
        let answer = self.agent.get(format!("{}{path}", self.url)).call();
        Ok(Tail::new(ok(&format!("GET {path}"), answer)?.into_body()))
    }

    /// # Errors
    /// Where the bus does not answer.
    pub fn topics(&self) -> Result<Vec<Topic>> {
        self.get("/topics")
    }

    /// # Errors
    /// Where the bus does not answer, or there is no such subscription.
    pub fn subscription(&self, name: &str) -> Result<Subscription> {
        self.get(&format!("/subscriptions/{name}"))
    }

    /// # Errors
    /// Where the bus does not answer.
    pub fn subscriptions(&self) -> Result<Vec<Subscription>> {
        self.get("/subscriptions")
    }

    /// The dead letters of a subscription, with their evidence.
    ///
    /// # Errors
    /// Where the bus does not answer.
    pub fn dead_letters(&self, subscription: &str) -> Result<Vec<DeadLetter>> {
        self.get(&format!("/dead-letters?subscription={subscription}"))
    }

    /// # Errors
    /// Where the bus does not answer.
    pub fn plugins(&self) -> Result<Vec<Plugin>> {
        self.get("/plugins")
    }

    /// Whether the bus says that it is ready: its log is read, and its consumers are loaded.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.agent.get(format!("{}/readyz", self.url)).call().is_ok_and(|answer| answer.status() == StatusCode::OK)
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.read(&format!("GET {path}"), self.agent.get(format!("{}{path}", self.url)).call())
    }

    fn read<T: DeserializeOwned>(&self, what: &str, answer: Result<Response<Body>, ureq::Error>) -> Result<T> {
        ok(what, answer)?
            .into_body()
            .into_with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_json()
            .with_context(|| format!("{what}: the answer is not what was expected"))
    }
}

/// The bus did not do what it was asked for.
#[derive(Debug)]
struct Refused {
    what: String,
    status: StatusCode,
    text: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}: {}", self.what, self.status, self.text)
    }
}

impl std::error::Error for Refused {}

/// Whether a request had no answer, so that nobody knows what became of it, or had the answer that the bus cannot do
/// it now, as while it starts: it may be sent again.
#[must_use]
pub fn may_be_sent_again(error: &anyhow::Error) -> bool {
    let refused = error.downcast_ref::<Refused>();
    error.is::<ureq::Error>() || refused.is_some_and(|refused| refused.status == StatusCode::SERVICE_UNAVAILABLE)
}

/// The answer, where it is a good one.
fn ok(what: &str, answer: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>> {
    let mut answer = answer.with_context(|| what.to_owned())?;
    if !answer.status().is_success() {
        let text = answer.body_mut().read_to_string().unwrap_or_default();
        return Err(Refused { what: what.to_owned(), status: answer.status(), text }.into());
    }
    Ok(answer)
}
