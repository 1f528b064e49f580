//! What the bus answers, as its documentation has it. Fields that tests do not look at are left out.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// An event was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Accepted {
    pub topic: String,
    pub sequence: u64,
    pub offset: u64,
    pub id: String,
    pub source: String,
}

/// A stored message, as a structured CloudEvent.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Event {
    pub specversion: String,
    pub id: String,
    pub source: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub topic: String,
    pub sequence: u64,
    pub offset: u64,
    #[serde(rename = "partitionkey")]
    pub key: Option<String>,
    #[serde(rename = "datacontenttype")]
    pub content_type: Option<String>,
    #[serde(default)]
    pub data: Value,
    pub data_base64: Option<String>,
    /// All other attributes.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Topic {
    pub name: String,
    /// Those that are retained, and the first of them.
    pub messages: u64,
    pub first_sequence: Option<u64>,
    pub last_sequence: u64,
    pub bytes: u64,
    pub subscriptions: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Subscription {
    pub name: String,
    pub consumer: String,
    pub topics: Vec<String>,
    pub status: String,
    pub digest: Option<String>,
    pub max_attempts: u32,
    pub matched: u64,
    pub pending: u64,
    pub dead: u64,
    pub acked: u64,
    pub expired: u64,
    pub skipped: u64,
    pub reopened: u64,
    pub redriven: u64,
    pub oldest_pending_seconds: f64,
    pub waiting: Waiting,
    /// Dead letters that hold it or keys of it back.
    pub parked_by: Vec<String>,
    pub paused: bool,
    pub breaker: Option<Breaker>,
    pub blocked_keys: u64,
    pub reruns: u64,
    pub refunded: u64,
    outcomes: BTreeMap<String, u64>,
    died: BTreeMap<String, u64>,
    pub problem: Option<String>,
}

/// Why pending messages wait.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Waiting {
    pub running: u64,
    pub runnable: u64,
    pub due_later: u64,
    /// By topic.
    pub full: BTreeMap<String, u64>,
    pub behind_key: u64,
    pub behind_window: u64,
    pub paused: u64,
    pub breaker: u64,
    pub breaker_until_ms: Option<u64>,
    pub over_rate: u64,
    pub parked: u64,
    pub orphaned: u64,
}

/// What a subscription's breaker does.
#[derive(Clone, Debug, Deserialize)]
pub struct Breaker {
    pub state: String,
    pub until_ms: Option<u64>,
    pub failures_in_a_row: u64,
    pub opened: u64,
    pub last_failures: Vec<Failed>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Failed {
    pub offset: u64,
    pub outcome: String,
    pub text: String,
}

impl Subscription {
    /// Calls since the start that ended so.
    pub fn outcomes(&self, outcome: &str) -> u64 {
        count(&self.outcomes, outcome)
    }

    /// Dead letters ever made for this reason.
    pub fn died(&self, reason: &str) -> u64 {
        count(&self.died, reason)
    }

    /// The second promise: every message is pending, dead or settled, and whatever is pending has a reason
    /// to wait. Holds of every answer that the bus gives.
    pub(crate) fn check(&self) {
        assert_eq!(
            self.matched + self.reopened,
            self.pending + self.dead + self.acked + self.expired + self.skipped,
            "messages are not conserved: {self:#?}"
        );
        let Waiting { running, runnable, due_later, behind_key, behind_window, orphaned, .. } = self.waiting;
        let Waiting { paused, breaker, over_rate, parked, .. } = self.waiting;
        let full: u64 = self.waiting.full.values().sum();
        assert_eq!(
            self.pending,
            running
                + runnable
                + due_later
                + full
                + behind_key
                + behind_window
                + orphaned
                + paused
                + breaker
                + over_rate
                + parked,
            "not every pending message has one reason to wait: {self:#?}"
        );
    }
}

fn count(counts: &BTreeMap<String, u64>, name: &str) -> u64 {
    *counts.get(name).unwrap_or_else(|| panic!("there is no `{name}` in {counts:?}"))
}

#[derive(Clone, Debug, Deserialize)]
pub struct DeadLetter {
    pub id: String,
    pub subscription: String,
    pub reason: String,
    pub excused: Option<String>,
    pub died_ms: u64,
    pub topic: String,
    pub sequence: u64,
    pub offset: u64,
    pub accepted_ms: u64,
    pub key: Option<String>,
    pub message_id: String,
    pub source: String,
    pub redrives: u32,
    pub attempts_total: u64,
    pub attempts: Vec<Attempt>,
    /// Absent in lists.
    pub message: Option<Event>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Attempt {
    pub at_ms: u64,
    pub duration_us: u64,
    pub outcome: String,
    pub text: String,
    pub digest: String,
    pub charged: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Plugin {
    pub name: String,
    pub status: String,
    pub digest: Option<String>,
    pub publish: Vec<String>,
    pub subscriptions: Vec<String>,
    pub problem: Option<String>,
}

/// A refusal, as RFC 9457 has it.
#[derive(Clone, Debug, Deserialize)]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
    /// What to do about it.
    pub hint: String,
    #[serde(flatten)]
    pub facts: BTreeMap<String, Value>,
}
