//! The bus over HTTP.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use ureq::http::{Request, Response};

use crate::PATIENCE;
use crate::process::Output;
use crate::views::{Accepted, DeadLetter, Event, Plugin, Problem, Subscription, Topic};

/// Bytes of an answer that are read at most.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Events in one batch.
const BATCH_MAX: usize = 1_000;

/// Numbers the events of all tests of a process.
static EVENTS: AtomicU64 = AtomicU64::new(0);

/// Asks one running daemon. Clones may be used from other threads, also past the daemon's end.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
    base: String,
    /// What the daemon printed, to be shown where something goes wrong.
    output: Arc<Output>,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// By lower-case name.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Answer {
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:#?}"))
    }

    /// # Panics
    /// Unless it is a problem document of this status and kind.
    #[track_caller]
    pub fn problem(&self, status: u16, kind: &str) -> Problem {
        assert_eq!(self.status, status, "{self:#?}");
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:#?}");
        let problem: Problem = self.json();
        assert_eq!(
            (problem.status, problem.kind.as_str()),
            (status, format!("/problems/{kind}").as_str()),
            "{self:#?}"
        );
        assert!(!problem.title.is_empty() && !problem.detail.is_empty() && !problem.hint.is_empty(), "{self:#?}");
        problem
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:#?}");
        self
    }
}

/// Why a publish was not acknowledged.
#[derive(Debug)]
pub enum Unacknowledged {
    /// The bus said no: nothing was stored.
    Refused(Answer),
    /// There was no answer: it may be stored or not.
    Broken(String),
}

impl Client {
    pub(crate) fn new(base: String, output: Arc<Output>) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_global(Some(PATIENCE))
            .build();
        Self { agent: config.into(), base, output }
    }

    /// The address, such as `http://127.0.0.1:7480`.
    pub fn address(&self) -> &str {
        &self.base
    }

    /// What the daemon has logged and printed.
    pub fn log(&self) -> String {
        self.output.text()
    }

    pub(crate) fn output(&self) -> &Output {
        &self.output
    }

    /// One request with any method, headers and body. Fails where no whole answer came.
    pub fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, ureq::Error> {
        let mut response = self.open(method, path, headers, body)?;
        let headers = response.headers().iter();
        let headers = headers.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()));
        let (status, headers) = (response.status().as_u16(), headers.collect());
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string()?;
        Ok(Answer { status, headers, body })
    }

    /// The same, but the body is left to be read as it comes.
    pub fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response<ureq::Body>, ureq::Error> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let valid = "a test's own request can be spelled";
        if body.is_empty() && method != "POST" {
            self.agent.run(request.body(()).expect(valid))
        } else {
            self.agent.run(request.body(body).expect(valid))
        }
    }

    #[track_caller]
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        match self.try_request(method, path, headers, body) {
            Ok(answer) => answer,
            Err(error) => panic!("{method} {path}: {error}\n{}", self.output.tail()),
        }
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], b"")
    }

    #[track_caller]
    pub fn delete(&self, path: &str) -> Answer {
        self.request("DELETE", path, &[], b"")
    }

    #[track_caller]
    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Answer {
        self.request("POST", path, headers, body.as_ref())
    }

    /// Publishes JSON as an event, and answers once it is durable.
    #[track_caller]
    pub fn publish<'a>(&self, topic: &str, key: impl Into<Option<&'a str>>, data: impl Display) -> Accepted {
        match self.try_publish(topic, key, &next_id(), data) {
            Ok(accepted) => accepted,
            Err(error) => panic!("publish to {topic}: {error:#?}\n{}", self.output.tail()),
        }
    }

    /// The same under an id of the caller's, who also hears of failures.
    pub fn try_publish<'a>(
        &self,
        topic: &str,
        key: impl Into<Option<&'a str>>,
        id: &str,
        data: impl Display,
    ) -> Result<Accepted, Unacknowledged> {
        let mut headers = vec![
            ("content-type", "application/json"),
            ("ce-specversion", "1.0"),
            ("ce-id", id),
            ("ce-source", "/tests"),
            ("ce-type", "test.order"),
        ];
        headers.extend(key.into().map(|key| ("ce-partitionkey", key)));
        let path = format!("/topics/{topic}");
        match self.try_request("POST", &path, &headers, data.to_string().as_bytes()) {
            Ok(answer) if answer.status == 201 => Ok(answer.json()),
            Ok(answer) => Err(Unacknowledged::Refused(answer)),
            Err(error) => Err(Unacknowledged::Broken(error.to_string())),
        }
    }

    /// Publishes many events in batches, in their order. Each is a key and JSON.
    #[track_caller]
    pub fn publish_many<K, D>(&self, topic: &str, events: impl IntoIterator<Item = (K, D)>) -> Vec<Accepted>
    where
        K: Into<Option<String>>,
        D: Display,
    {
        let mut accepted = Vec::new();
        let mut events = events.into_iter().peekable();
        while events.peek().is_some() {
            let batch: Vec<Value> = events
                .by_ref()
                .take(BATCH_MAX)
                .map(|(key, data)| {
                    let data: Value = serde_json::from_str(&data.to_string()).expect("events of tests are JSON");
                    let mut event = json!({
                        "specversion": "1.0", "id": next_id(), "source": "/tests", "type": "test.order", "data": data,
                    });
                    if let Some(key) = key.into() {
                        event["partitionkey"] = key.into();
                    }
                    event
                })
                .collect();
            let headers = [("content-type", "application/cloudevents-batch+json")];
            let answer = self.post(&format!("/topics/{topic}"), &headers, Value::from(batch).to_string());
            accepted.extend(answer.expect(201).json::<Vec<Accepted>>());
        }
        accepted
    }

    /// Every message of a topic; none where there is no such topic.
    #[track_caller]
    pub fn messages(&self, topic: &str) -> Vec<Event> {
        let mut messages: Vec<Event> = Vec::new();
        loop {
            let from = messages.last().map_or(1, |last| last.sequence + 1);
            let answer = self.get(&format!("/topics/{topic}/messages?from={from}&limit=1000"));
            if answer.status == 404 && from == 1 {
                return messages;
            }
            let page: Vec<Event> = answer.expect(200).json();
            if page.is_empty() {
                return messages;
            }
            messages.extend(page);
        }
    }

    #[track_caller]
    pub fn topics(&self) -> Vec<Topic> {
        self.get("/topics").expect(200).json()
    }

    #[track_caller]
    pub fn subscriptions(&self) -> Vec<Subscription> {
        let subscriptions: Vec<Subscription> = self.get("/subscriptions").expect(200).json();
        subscriptions.iter().for_each(Subscription::check);
        subscriptions
    }

    /// # Panics
    /// Where it is not there, or where its account is not in balance.
    #[track_caller]
    pub fn subscription(&self, name: &str) -> Subscription {
        let subscription: Subscription = self.get(&format!("/subscriptions/{name}")).expect(200).json();
        subscription.check();
        subscription
    }

    /// Every dead letter of a subscription, without the messages.
    #[track_caller]
    pub fn dead_letters(&self, subscription: &str) -> Vec<DeadLetter> {
        let mut letters: Vec<DeadLetter> = Vec::new();
        loop {
            let after = letters.last().map_or(String::new(), |last| format!("&after={}", last.id));
            let path = format!("/dead-letters?subscription={subscription}&limit=1000{after}");
            let page: Vec<DeadLetter> = self.get(&path).expect(200).json();
            if page.is_empty() {
                return letters;
            }
            letters.extend(page);
        }
    }

    /// One dead letter with its message.
    #[track_caller]
    pub fn dead_letter(&self, id: &str) -> DeadLetter {
        self.get(&format!("/dead-letters/{id}")).expect(200).json()
    }

    /// How many were redriven.
    #[track_caller]
    pub fn redrive(&self, filter: &Value) -> u64 {
        let answer: Value =
            self.post("/dead-letters/redrive", &[], json!({ "filter": filter }).to_string()).expect(200).json();
        answer["redriven"].as_u64().unwrap_or_else(|| panic!("no count in {answer}"))
    }

    #[track_caller]
    pub fn plugins(&self) -> Vec<Plugin> {
        self.get("/plugins").expect(200).json()
    }

    /// A consumer, where the bus knows of one.
    #[track_caller]
    pub fn plugin(&self, name: &str) -> Option<Plugin> {
        self.plugins().into_iter().find(|plugin| plugin.name == name)
    }

    /// The samples of `/metrics`, by name with labels.
    #[track_caller]
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let text = self.get("/metrics").expect(200).body;
        let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
        };
        samples.map(sample).collect()
    }
}

/// An id that no other event of this process has.
pub fn next_id() -> String {
    format!("event-{}", EVENTS.fetch_add(1, Ordering::Relaxed))
}
