//! What travels between an example and the bus, as far as the examples look at it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// A CloudEvent in the JSON format, to be published.
#[derive(Clone, Debug, Serialize)]
pub struct Event<'a> {
    pub specversion: &'static str,
    pub id: String,
    pub source: &'a str,
    pub r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<&'a str>,
    /// The message's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitionkey: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datacontenttype: Option<&'static str>,
    /// Where the data is, where it is not in the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataref: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
}

impl<'a> Event<'a> {
    /// An event with JSON data.
    ///
    /// # Errors
    /// Where the data cannot be JSON.
    pub fn json(
        id: impl Into<String>,
        source: &'a str,
        kind: &'a str,
        data: &impl Serialize,
    ) -> serde_json::Result<Self> {
        let data = Some(serde_json::value::to_raw_value(data)?);
        let empty = Self::by_reference(id, source, kind, None);
        Ok(Self { datacontenttype: Some("application/json"), data, ..empty })
    }

    /// An event whose data lies elsewhere, or that has none.
    pub fn by_reference(
        id: impl Into<String>,
        source: &'a str,
        kind: &'a str,
        dataref: impl Into<Option<String>>,
    ) -> Self {
        Self {
            specversion: "1.0",
            id: id.into(),
            source,
            r#type: kind,
            subject: None,
            partitionkey: None,
            datacontenttype: None,
            dataref: dataref.into(),
            data: None,
        }
    }

    /// Sets the subject.
    #[must_use]
    pub fn subject(mut self, subject: &'a str) -> Self {
        self.subject = Some(subject);
        self
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: Option<&'a str>) -> Self {
        self.partitionkey = key;
        self
    }
}

/// Where a published event stands.
#[derive(Clone, Debug, Deserialize)]
pub struct Accepted {
    pub sequence: u64,
    pub offset: u64,
}

/// A stored message, as the bus gives it out: a CloudEvent with its place.
#[derive(Clone, Debug, Deserialize)]
pub struct Message {
    pub id: String,
    pub source: String,
    pub topic: String,
    pub sequence: u64,
    pub offset: u64,
    pub subject: Option<String>,
    pub partitionkey: Option<String>,
    pub dataref: Option<String>,
    #[serde(default)]
    pub data: Value,
    /// In the place of `data` where that is neither JSON nor text.
    pub data_base64: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Topic {
    pub name: String,
    pub last_sequence: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Subscription {
    pub name: String,
    pub topics: Vec<String>,
    pub status: String,
    pub digest: Option<String>,
    pub concurrency: u32,
    pub max_attempts: u32,
    pub matched: u64,
    pub pending: u64,
    pub dead: u64,
    pub acked: u64,
    pub expired: u64,
    pub skipped: u64,
    pub redriven: u64,
    /// Age of the oldest pending message; 0 where none is pending.
    pub oldest_pending_seconds: f64,
    pub waiting: Waiting,
    /// Instances of the consumer that live.
    pub instances: u32,
    outcomes: BTreeMap<String, u64>,
}

impl Subscription {
    /// How many calls ended so since the bus started.
    #[must_use]
    pub fn calls(&self, outcome: &str) -> u64 {
        self.outcomes.get(outcome).copied().unwrap_or(0)
    }
}

/// Why pending messages wait, in messages.
#[derive(Clone, Debug, Deserialize)]
pub struct Waiting {
    pub running: u64,
    pub due_later: u64,
    pub behind_key: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct DeadLetter {
    pub id: String,
    pub subscription: String,
    pub reason: String,
    pub message_id: String,
    pub attempts_total: u64,
    pub attempts: Vec<Attempt>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Attempt {
    pub at_ms: u64,
    pub duration_us: u64,
    pub outcome: String,
    pub text: String,
    /// Of the component that ran.
    pub digest: String,
    pub charged: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Plugin {
    pub name: String,
    pub status: String,
    pub digest: Option<String>,
    pub publish: Vec<String>,
    /// Why the files in the plugin folder are not what runs, if they are not.
    pub problem: Option<String>,
}
