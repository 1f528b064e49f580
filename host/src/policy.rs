//! What a manifest decides about a subscription and its consumer, validated.

pub mod address;
pub mod http;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::limits;
use crate::message::{Millis, Offset, Sequence};
use crate::topic::{TopicError, TopicFilter, TopicName};
use http::HttpGrant;

/// One subscription of a consumer, as its manifest declares it.
#[derive(Clone, Debug, PartialEq)]
pub struct SubscriptionSpec {
    /// Unique on the bus: the file's stem, or the manifest's `name`.
    pub name: String,
    pub topics: Vec<TopicFilter>,
    /// Read once, when the subscription is created.
    pub from: StartAt,
    pub policy: Policy,
}

/// Where a new subscription begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// With what is accepted after its creation.
    Now,
    Beginning,
    Offset(Offset),
    /// At a topic's message, for all of its topics.
    Sequence(TopicName, Sequence),
    Time(Millis),
}

/// What a place to begin at may be, in the words of errors.
pub const START_ALLOWED: &str = "\"now\", \"beginning\", an offset, \"TOPIC@SEQUENCE\" (from 1), or a time with its zone since 1970, such as \"2026-01-31T12:00:00Z\"";

/// Why a text is no place to begin at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error("it must be {START_ALLOWED}")]
    Unknown,
    #[error("`{topic}` is not a topic: {error}")]
    Topic { topic: String, error: TopicError },
}

impl FromStr for StartAt {
    type Err = StartError;

    fn from_str(text: &str) -> Result<Self, StartError> {
        let number = |digits: &str| digits.parse().ok().filter(|number: &u64| *number <= limits::INTEGER_MAX);
        match text {
            "now" => Ok(Self::Now),
            "beginning" => Ok(Self::Beginning),
            digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                number(digits).map(Self::Offset).ok_or(StartError::Unknown)
            }
            place if place.contains('@') => {
                let (topic, sequence) = place.rsplit_once('@').ok_or(StartError::Unknown)?;
                let sequence = number(sequence).filter(|sequence| *sequence >= 1);
                let named = TopicName::any(topic).map_err(|error| StartError::Topic { topic: topic.to_owned(), error });
                Ok(Self::Sequence(named?, sequence.ok_or(StartError::Unknown)?))
            }
            time => {
                let time: jiff::Timestamp = time.parse().map_err(|_| StartError::Unknown)?;
                Millis::try_from(time.as_millisecond()).map(Self::Time).map_err(|_| StartError::Unknown)
            }
        }
    }
}

/// How a subscription is delivered.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub order: Order,
    /// Calls at once, 1 to [`limits::GUEST_CONCURRENCY_MAX`].
    pub concurrency: u32,
    /// Wall time of one call.
    pub timeout: Duration,
    /// Age of the oldest pending message past which the bus warns.
    pub lag_warn: Duration,
    pub retry: RetryPolicy,
    /// None where the manifest switches it off.
    pub breaker: Option<BreakerPolicy>,
    /// How many calls may begin in a time; None where that is not limited.
    pub rate: Option<Rate>,
    pub isolation: Isolation,
}

/// When failures of different messages hold back a whole subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Failures in a row, of different keys, that open it: 2 to [`limits::BREAKER_FAILURES_MAX`].
    pub failures: u32,
    /// The first pause; each further one is twice as long.
    pub pause: Duration,
    /// The longest one.
    pub pause_max: Duration,
}

/// A number of calls in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// 1 to [`limits::RATE_COUNT_MAX`].
    pub count: u32,
    /// A second, a minute or an hour.
    pub per: Duration,
}

impl Rate {
    /// Calls that may begin at once after a quiet time.
    pub fn burst(self) -> u32 {
        let per_second = u64::from(self.count) / self.per.as_secs().max(1);
        let burst = per_second / u64::from(limits::RATE_BURSTS_PER_SECOND);
        u32::try_from(burst).unwrap_or(u32::MAX).max(1)
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unit = match self.per.as_secs() {
            1 => "s",
            60 => "m",
            _ => "h",
        };
        write!(formatter, "{}/{unit}", self.count)
    }
}

/// What is kept in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Messages of one key; those without a key are unordered.
    Key,
    /// Messages of one topic.
    Topic,
    /// Nothing.
    None,
}

/// Whether instances are used for many messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    Reuse,
    Fresh,
}

/// When a failed message is tried again, and when no more.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// 1 to [`limits::MAX_ATTEMPTS_MAX`].
    pub max_attempts: u32,
    pub backoff: Backoff,
    pub on_exhausted: OnExhausted,
}

/// What waits for a dead letter. One that expired holds nothing back: nobody waits for it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExhausted {
    /// Nothing.
    DeadLetter,
    /// The messages of its key, until it is redriven or dropped. One without a key holds nothing back.
    ParkKey,
    /// All messages of its subscription, until it is redriven or dropped.
    Park,
}

impl OnExhausted {
    pub const ALL: [(&'static str, Self); 3] =
        [("dead-letter", Self::DeadLetter), ("park-key", Self::ParkKey), ("park", Self::Park)];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeadLetter => "dead-letter",
            Self::ParkKey => "park-key",
            Self::Park => "park",
        }
    }
}

/// Exponential backoff. The delay before attempt n+1 is `initial * factor^(n-1)`, at most `max`, of
/// which the part `jitter` (0 to 1) is drawn at random: 1 is full jitter, 0 is none.
#[derive(Clone, Debug, PartialEq)]
pub struct Backoff {
    pub initial: Duration,
    pub factor: f64,
    pub max: Duration,
    pub jitter: f64,
}

/// What a consumer may use.
#[derive(Clone, Debug, PartialEq)]
pub struct GuestLimits {
    /// Linear memory of one instance, in bytes.
    pub memory_bytes: usize,
    /// Body of one outgoing request, in bytes.
    pub http_request_bytes: u64,
    /// Body of one response, in bytes.
    pub http_response_bytes: u64,
}

/// Where a secret's value is read, when its consumer is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// A variable of the environment, named `SANDPOST_SECRET_...`.
    Variable(String),
    /// A file, of which a line end at its end is no part.
    File(PathBuf),
}

/// How a new version of a consumer has to prove itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbationPolicy {
    /// Messages after which it is proven, 1 to [`limits::PROBATION_MESSAGES_MAX`].
    pub messages: u64,
    /// Messages among them that may fail of its own fault; fewer than `messages`. One more, and it is
    /// rolled back.
    pub max_failures: u64,
}

/// A consumer's manifest, validated. The default declares nothing and grants nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    /// At least one.
    pub subscriptions: Vec<SubscriptionSpec>,
    pub limits: GuestLimits,
    /// Topics that its handler may publish to.
    pub publish: Vec<TopicFilter>,
    /// Requests that its handler may make.
    pub http: Vec<HttpGrant>,
    pub config: BTreeMap<String, String>,
    /// Only for a consumer that is a WASI command.
    pub command: Option<CommandPolicy>,
    /// How its authors build it. Nothing to the bus.
    pub build: Option<BuildSpec>,
    /// By the name under which the guest asks for them; none is a name of `config`.
    pub secrets: BTreeMap<String, SecretSource>,
    /// Without it a new version takes over for good at once.
    pub probation: Option<ProbationPolicy>,
}

/// How a consumer is built, for `sandpost dev`. Paths are below the manifest's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildSpec {
    /// Given to the shell. Without one there is nothing to build.
    pub command: Option<String>,
    /// The consumer that is built.
    pub output: PathBuf,
    /// Files and folders whose change means to build again, beside the manifest.
    pub watch: Vec<PathBuf>,
}

/// How a WASI command is run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandPolicy {
    /// What follows its name, which is the consumer's.
    pub args: Vec<String>,
    pub stdout: Stdout,
}

/// What becomes of the lines that a command prints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stdout {
    #[default]
    Log,
    /// Each is the data of a message, published if the call is acknowledged.
    Publish { topic: TopicName, content_type: Option<String> },
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            order: Order::Key,
            concurrency: limits::GUEST_CONCURRENCY_DEFAULT,
            timeout: limits::GUEST_TIMEOUT_DEFAULT,
            lag_warn: limits::LAG_WARN_DEFAULT,
            retry: RetryPolicy::default(),
            breaker: Some(BreakerPolicy::default()),
            rate: None,
            isolation: Isolation::Reuse,
        }
    }
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            failures: limits::BREAKER_FAILURES_DEFAULT,
            pause: limits::BREAKER_PAUSE_DEFAULT,
            pause_max: limits::BREAKER_PAUSE_MAX_DEFAULT,
        }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: limits::MAX_ATTEMPTS_DEFAULT,
            backoff: Backoff::default(),
            on_exhausted: OnExhausted::DeadLetter,
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: limits::BACKOFF_INITIAL_DEFAULT,
            factor: limits::BACKOFF_FACTOR_DEFAULT,
            max: limits::BACKOFF_MAX_DEFAULT,
            jitter: 1.0,
        }
    }
}

impl Default for GuestLimits {
    fn default() -> Self {
        Self {
            memory_bytes: limits::GUEST_MEMORY_BYTES_DEFAULT,
            http_request_bytes: limits::HTTP_BODY_BYTES_DEFAULT,
            http_response_bytes: limits::HTTP_BODY_BYTES_DEFAULT,
        }
    }
}
