//! What people see of the bus: the same shapes in HTTP answers, on the command line and in metrics.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;

use crate::log::Scheduled;
use crate::message::{Millis, Offset, Sequence, SharedMessage, rfc3339};

/// A subscription as people see it.
#[derive(Clone, Debug, Serialize)]
pub struct SubscriptionView {
    pub name: String,
    pub consumer: String,
    pub topics: Vec<String>,
    /// `active`, `paused` by an operator, or `orphaned` where its consumer's files are gone.
    pub status: SubscriptionStatus,
    pub created_ms: Millis,
    /// The digest of the component it runs, if any.
    pub digest: Option<String>,
    pub order: &'static str,
    pub concurrency: u32,
    pub max_attempts: u32,
    pub matched: u64,
    pub pending: u64,
    pub dead: u64,
    pub acked: u64,
    pub expired: u64,
    pub skipped: u64,
    pub reopened: u64,
    pub redriven: u64,
    /// Dead letters ever made, by reason.
    pub died: BTreeMap<&'static str, u64>,
    /// Age in seconds of the oldest pending message; 0 where none is pending.
    pub oldest_pending_seconds: f64,
    /// Whether that is more than the subscription's `lag_warn`.
    pub lagging: bool,
    /// The policy's `lag_warn`.
    pub lag_warn_seconds: f64,
    /// How often it came to that since the bus started.
    pub lag_episodes: u64,
    /// Why every pending message waits. The counts add up to `pending`.
    pub waiting: Waiting,
    /// Ids of the dead letters that hold a key or the subscription back, and of those among them that are
    /// redriven and not settled; those first that hold back the most, at most 20.
    pub parked_by: Vec<String>,
    /// What waits for a dead letter: `dead-letter` (nothing), `park-key` or `park`.
    pub on_exhausted: &'static str,
    /// The offset up to which messages were read from the log.
    pub read_to: Offset,
    /// Calls by outcome since the bus started.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Whether an operator holds it back.
    pub paused: bool,
    /// Null where it is switched off.
    pub breaker: Option<BreakerView>,
    /// As the manifest writes it; null where there is none.
    pub rate: Option<String>,
    /// Keys that a message in retry, or a dead letter that parks its key, holds back.
    pub blocked_keys: u64,
    /// Calls that were made again, or failed, and were not charged, since the bus started.
    pub reruns: u64,
    /// Attempts that were charged and taken back, since the bus started.
    pub refunded: u64,
    pub instances: u32,
    /// Why its messages could not be read from the log, if so.
    pub problem: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SubscriptionStatus {
    Active,
    Paused,
    Orphaned,
}

/// The named reasons to wait, in messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// A call is running.
    pub running: u64,
    /// It could run now and waits for a worker or a slot.
    pub runnable: u64,
    /// It waits for its retry to become due.
    pub due_later: u64,
    /// When the next retry is due.
    pub next_due_ms: Option<Millis>,
    /// A topic that its consumer publishes to holds as many bytes as it may: by topic.
    pub full: BTreeMap<String, u64>,
    /// It waits behind another message of its key.
    pub behind_key: u64,
    /// It is in the log, past what the dispatcher holds in memory.
    pub behind_window: u64,
    /// It waits for a dead letter, or for one that is redriven: `parked_by` names it.
    pub parked: u64,
    /// An operator holds the subscription back.
    pub paused: u64,
    /// The breaker is open, or lets no more calls run at once.
    pub breaker: u64,
    /// Until when the breaker is open.
    pub breaker_until_ms: Option<Millis>,
    /// The subscription has made all the calls that its rate allows for now.
    pub over_rate: u64,
    /// Its consumer's files are gone.
    pub orphaned: u64,
}

impl Waiting {
    /// All of them.
    pub fn total(&self) -> u64 {
        let full: u64 = self.full.values().sum();
        full + self.running
            + self.runnable
            + self.due_later
            + self.behind_key
            + self.behind_window
            + self.paused
            + self.breaker
            + self.over_rate
            + self.parked
            + self.orphaned
    }
}

/// A subscription's breaker as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BreakerView {
    /// `closed`, `open`, or `half-open`: some calls run, to see whether they succeed.
    pub state: &'static str,
    /// When an open one lets the next call run.
    pub until_ms: Option<Millis>,
    /// How many calls a half-open one lets run at once.
    pub at_once: Option<u32>,
    /// Different keys, or messages without one, that failed in a row; how many open it.
    pub failures_in_a_row: u64,
    pub failures_max: u32,
    /// How often it opened since the bus started.
    pub opened: u64,
    pub last_failures: Vec<FailureView>,
}

/// A call that failed, as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailureView {
    pub offset: Offset,
    pub outcome: &'static str,
    /// The first line of its text.
    pub text: String,
}

/// A topic as people see it.
#[derive(Clone, Debug, Serialize)]
pub struct TopicView {
    pub name: String,
    /// Messages that are retained.
    pub messages: u64,
    /// The sequence of the first one; absent where none is.
    pub first_sequence: Option<Sequence>,
    pub last_sequence: Sequence,
    pub last_offset: Offset,
    /// Bytes of the messages that are retained.
    pub bytes: u64,
    pub created_ms: Millis,
    /// Names of the subscriptions that take it.
    pub subscriptions: Vec<String>,
}

/// What taking a topic away comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TopicRemovalView {
    pub topic: String,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Messages that are no longer read, listed or delivered.
    pub messages: u64,
    /// Where its sequence goes on, should it be published to again.
    pub last_sequence: Sequence,
    /// What is skipped at once, by subscription. What is in retry or held is skipped when its turn comes.
    pub skipped: Vec<SkippedView>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SkippedView {
    pub subscription: String,
    pub skipped: u64,
}

/// What a seek comes to, in messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SeekView {
    pub subscription: String,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// The place: everything from this offset on is met again.
    pub offset: Offset,
    /// What is pending afterwards.
    pub pending: u64,
    /// Settled messages that are met again.
    pub reopened: u64,
    /// Held ones and ones in retry that are met again with fresh attempts.
    pub restarted: u64,
    /// Pending ones before the place, which count as skipped.
    pub skipped: u64,
    /// Dead letters from the place on, which stay what they are.
    pub passed_over: u64,
    /// Messages that were being redriven, and are dead letters again.
    pub returned: u64,
    /// Messages from the place on that retention removed, as far as sequences tell.
    pub gone: u64,
}

/// A dead letter as people see it. Its id is `SUBSCRIPTION:OFFSET`.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetterView {
    pub id: String,
    pub subscription: String,
    pub reason: &'static str,
    /// `breaker` or `rolled-back`, where it turned out later that not the message is at fault.
    pub excused: Option<&'static str>,
    pub died_ms: Millis,
    pub topic: String,
    pub sequence: Sequence,
    pub offset: Offset,
    pub accepted_ms: Millis,
    pub key: Option<String>,
    pub message_id: String,
    pub source: String,
    /// What its consumer was given in every attempt.
    pub idempotency_key: String,
    pub redrives: u32,
    /// Attempts made since the first delivery, uncharged and omitted ones included.
    pub attempts_total: u64,
    pub attempts: Vec<AttemptView>,
    /// Where the message itself is asked for; absent in lists.
    #[serde(skip)]
    pub message: Option<SharedMessage>,
}

#[derive(Clone, Debug, Serialize)]
pub struct AttemptView {
    pub at_ms: Millis,
    pub duration_us: u64,
    pub outcome: &'static str,
    pub text: String,
    pub digest: String,
    pub charged: bool,
}

/// What would become of dead letters under another component. Nothing of it was committed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RehearsalView {
    /// Absent where no dead letter was chosen.
    pub consumer: Option<String>,
    /// The component's.
    pub digest: Option<String>,
    pub rehearsed: u64,
    /// Chosen, and not rehearsed: the time was over, or the message cannot be read.
    pub left: u64,
    /// How many calls ended how.
    pub outcomes: BTreeMap<&'static str, u64>,
    pub letters: Vec<RehearsedView>,
}

#[derive(Clone, Debug, Serialize)]
pub struct RehearsedView {
    pub id: String,
    /// How the call ended; `needs-http` where it was about to make a request, whatever came of it then;
    /// `not-called` where no call could be made.
    pub outcome: &'static str,
    pub text: String,
    pub duration_us: u64,
    /// What it staged, in messages and in keys of its state.
    pub publishes: usize,
    pub writes: usize,
}

/// A consumer as people see it.
#[derive(Clone, Debug, Serialize)]
pub struct PluginView {
    pub name: String,
    /// `running`, `compiling` (its first version is about to run), or `failed` (nothing runs).
    pub status: &'static str,
    /// What it was built as: `component`, `core module`, `WASI command`, ...
    pub kind: Option<&'static str>,
    /// What runs.
    pub digest: Option<String>,
    pub deployed_ms: Option<Millis>,
    /// What brought it in: `folder`, `start`, `probation` (the one after it failed) or `operator`.
    pub deployed_by: Option<&'static str>,
    /// The component that is being compiled to take its place.
    pub compiling: Option<String>,
    /// Since when it is being compiled: a large one takes seconds.
    pub compiling_since_ms: Option<Millis>,
    /// Where what runs has to prove itself.
    pub probation: Option<ProbationView>,
    /// Versions that are not deployed again by themselves, the oldest first.
    pub rolled_back: Vec<RolledBackView>,
    /// Deployments ever made, by what brought them in.
    pub deployments: Vec<(&'static str, u64)>,
    pub subscriptions: Vec<String>,
    pub publish: Vec<String>,
    /// Requests that it may make, each as its grant in words.
    pub http: Vec<String>,
    /// Why the files in the plugin folder are not what runs, if they are not.
    pub problem: Option<String>,
}

/// How a version on probation does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProbationView {
    /// Messages that it ended, of those it has to end.
    pub messages: u64,
    pub messages_max: u64,
    /// Of those, messages that failed of its own fault, of as many as may.
    pub failures: u64,
    pub max_failures: u64,
    /// The digest of what it is rolled back to where it fails.
    pub back_to: String,
}

/// A version that was rolled back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RolledBackView {
    pub digest: String,
    pub at_ms: Millis,
    /// `probation` or `operator`.
    pub by: &'static str,
    pub why: String,
}

/// One deployment of a consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeploymentView {
    /// Counts the deployments of a consumer, from 1.
    pub number: u64,
    pub digest: String,
    /// The digest of the manifest's text.
    pub manifest_digest: String,
    pub deployed_ms: Millis,
    pub deployed_by: &'static str,
    /// What is another than in the deployment before: `component`, `manifest`.
    pub changed: Vec<&'static str>,
    /// Whether it can be gone back to.
    pub kept: bool,
    pub probation: Option<DeploymentProbationView>,
}

/// The probation of one deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeploymentProbationView {
    /// `running`, `proven`, `failed`, or `replaced` by another version before it was decided.
    pub status: &'static str,
    pub messages: u64,
    pub failures: u64,
    /// Its last failures, once it has ended.
    pub last_failures: String,
}

/// What a consumer's state holds, as people see it.
#[derive(Clone, Debug, Serialize)]
pub struct StateSizeView {
    pub consumer: String,
    pub entries: u64,
    /// Of keys and values.
    pub bytes: u64,
    pub deployed: bool,
}

/// An entry of a consumer's state.
#[derive(Clone, Debug, Serialize)]
pub struct StateEntryView {
    pub key: String,
    /// Where it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
}

impl StateEntryView {
    pub fn new((key, value): (String, Bytes)) -> Self {
        match String::from_utf8(value.into()) {
            Ok(text) => Self { key, value: Some(text), value_base64: None },
            Err(error) => Self { key, value: None, value_base64: Some(STANDARD.encode(error.as_bytes())) },
        }
    }
}

/// Some entries of a consumer's state.
#[derive(Clone, Debug, Serialize)]
pub struct StatePageView {
    pub entries: Vec<StateEntryView>,
    /// The key after which there are more.
    pub next: Option<String>,
}

/// Whether the bus can serve.
#[derive(Clone, Debug, Serialize)]
pub struct Readiness {
    pub ready: bool,
    pub reason: Option<String>,
}

/// A message that waits for its time. Lists leave out the event itself.
#[derive(Clone, Debug, Serialize)]
pub struct ScheduledView {
    /// Its number in the schedule.
    pub scheduled: u64,
    pub deliver_at: String,
    pub deliver_at_ms: Millis,
    pub accepted_ms: Millis,
    pub topic: String,
    pub id: String,
    pub source: String,
    pub key: Option<String>,
    /// Bytes of the event, attributes included.
    pub bytes: usize,
}

impl From<&Scheduled> for ScheduledView {
    fn from(scheduled: &Scheduled) -> Self {
        let event = &scheduled.event;
        Self {
            scheduled: scheduled.at.number,
            deliver_at: rfc3339(scheduled.at.due_ms),
            deliver_at_ms: scheduled.at.due_ms,
            accepted_ms: scheduled.accepted_ms,
            topic: event.topic.to_string(),
            id: event.id.clone(),
            source: event.source.clone(),
            key: event.key.clone(),
            bytes: event.bytes(),
        }
    }
}
