//! How a call ended, and the evidence that is kept of it.

use std::fmt;
use std::time::Duration;

use crate::limits::UNCHARGED_RERUNS_MAX;
use crate::message::Millis;
use crate::topic::TopicName;

/// The SHA-256 of a component's bytes as they were deployed: the same as `sha256sum FILE` prints.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The first 12 hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Digest({})", self.short())
    }
}

impl std::str::FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 64 || !text.is_ascii() {
            return Err(DigestError);
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(|_| DigestError)?;
        }
        Ok(Self(bytes))
    }
}

/// A text is no digest.
#[derive(Debug, thiserror::Error)]
#[error("a digest is 64 hexadecimal digits")]
pub struct DigestError;

/// How one call of a consumer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Acked,
    /// The guest asked for another attempt, after its own delay if it gave one.
    Retry {
        reason: String,
        after: Option<Duration>,
    },
    /// The guest said that the message can never succeed.
    Reject {
        reason: String,
    },
    /// The guest said that something it depends on is down.
    Unavailable {
        reason: String,
        after: Option<Duration>,
    },
    /// The guest trapped: its panic or trap text with the backtrace.
    Trapped {
        report: String,
    },
    /// The guest called `exit`.
    Exited {
        code: i32,
        report: String,
    },
    /// The call ran longer than the subscription's `timeout`.
    TimedOut {
        limit: Duration,
    },
    /// The limiter refused memory to the guest, and the guest ended on that.
    OutOfMemory {
        limit_bytes: usize,
        report: String,
    },
    /// What the guest published did not fit its topic: nothing of the call was recorded.
    TopicFull {
        topic: TopicName,
        bytes: u64,
        bytes_max: u64,
    },
    /// State that the call read was changed meanwhile, more often than it may be without being charged.
    Conflict,
}

/// The name of an outcome, as metrics, JSON and stored evidence spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OutcomeKind {
    Acked = 0,
    Retry = 1,
    Reject = 2,
    Unavailable = 3,
    Trapped = 4,
    Exited = 5,
    TimedOut = 6,
    OutOfMemory = 7,
    /// What the call read was changed meanwhile; it is run again.
    Conflict = 8,
    TopicFull = 9,
}

impl OutcomeKind {
    pub const ALL: [Self; 10] = [
        Self::Acked,
        Self::Retry,
        Self::Reject,
        Self::Unavailable,
        Self::Trapped,
        Self::Exited,
        Self::TimedOut,
        Self::OutOfMemory,
        Self::Conflict,
        Self::TopicFull,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acked => "acked",
            Self::Retry => "retry",
            Self::Reject => "reject",
            Self::Unavailable => "unavailable",
            Self::Trapped => "trapped",
            Self::Exited => "exited",
            Self::TimedOut => "timed-out",
            Self::OutOfMemory => "out-of-memory",
            Self::Conflict => "conflict",
            Self::TopicFull => "topic-full",
        }
    }

    /// The kind that a stored number stands for.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

impl Outcome {
    pub fn kind(&self) -> OutcomeKind {
        match self {
            Self::Acked => OutcomeKind::Acked,
            Self::Retry { .. } => OutcomeKind::Retry,
            Self::Reject { .. } => OutcomeKind::Reject,
            Self::Unavailable { .. } => OutcomeKind::Unavailable,
            Self::Trapped { .. } => OutcomeKind::Trapped,
            Self::Exited { .. } => OutcomeKind::Exited,
            Self::TimedOut { .. } => OutcomeKind::TimedOut,
            Self::OutOfMemory { .. } => OutcomeKind::OutOfMemory,
            Self::TopicFull { .. } => OutcomeKind::TopicFull,
            Self::Conflict => OutcomeKind::Conflict,
        }
    }

    /// Whether the consumer failed: it neither succeeded, nor decided that the message can never succeed, nor
    /// was refused by the bus.
    pub fn is_failure(&self) -> bool {
        !matches!(self, Self::Acked | Self::Reject { .. } | Self::Conflict | Self::TopicFull { .. })
    }

    /// What the person who reads the dead letter is told.
    pub fn text(&self) -> String {
        match self {
            Self::Acked => String::new(),
            Self::Retry { reason, .. } | Self::Reject { reason } | Self::Unavailable { reason, .. } => reason.clone(),
            Self::Trapped { report } => report.clone(),
            Self::Exited { code, report } if report.is_empty() => format!("the guest called exit({code})"),
            Self::Exited { code, report } => format!("the guest called exit({code}): {report}"),
            Self::TopicFull { topic, bytes, bytes_max } => {
                format!("topic `{topic}` is full: it holds {bytes} bytes of at most {bytes_max}")
            }
            Self::Conflict => {
                format!("state that it read was changed meanwhile, in more than {UNCHARGED_RERUNS_MAX} reruns")
            }
            Self::TimedOut { limit } => {
                format!("the call ran longer than its timeout of {}", humantime::format_duration(*limit))
            }
            Self::OutOfMemory { limit_bytes, report } => {
                format!("the guest wanted more than its {} MiB of memory: {report}", limit_bytes.div_ceil(1024 * 1024))
            }
        }
    }
}

/// A text, cut where it is longer than `bytes_max` and marked as cut.
pub fn shortened(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    format!("{}\u{2026}", &text[..text.floor_char_boundary(bytes_max)])
}

/// One attempt, as a dead letter keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// When the call began.
    pub at_ms: Millis,
    pub duration_us: u64,
    pub outcome: OutcomeKind,
    /// Error text or trap backtrace, at most [`crate::limits::EVIDENCE_TEXT_BYTES_MAX`] bytes.
    pub text: String,
    /// The component that ran.
    pub digest: Digest,
    /// Whether the attempt counts toward `max_attempts`.
    pub charged: bool,
}

/// What is known of a message's earlier attempts in one subscription. Empty for a first attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Attempts that count toward `max_attempts`, since the last redrive.
    pub charged: u32,
    /// `unavailable` or `topic-full` outcomes in a row, for their backoff.
    pub unavailable: u32,
    /// Calls that failed or conflicted and were not charged, `unavailable` ones aside: past a bound each
    /// further one is.
    pub reruns: u32,
    /// How many times the message was redriven from the dead letters.
    pub redrives: u32,
    /// When the first attempt began that failed since the last redrive; 0 where none did.
    pub failing_since_ms: Millis,
    /// When the first attempt of all began; 0 where there was none.
    pub first_attempt_ms: Millis,
    /// The first and the last attempts; those between are only counted.
    pub attempts: Vec<Attempt>,
    /// Attempts that were made and are not in `attempts`.
    pub omitted: u64,
}

impl History {
    /// Adds an attempt, and forgets the middle ones past the bounds.
    pub fn record(&mut self, attempt: Attempt) {
        use crate::limits::{EVIDENCE_FIRST_MAX, EVIDENCE_LAST_MAX};
        if self.first_attempt_ms == 0 {
            self.first_attempt_ms = attempt.at_ms;
        }
        self.attempts.push(attempt);
        if self.attempts.len() > EVIDENCE_FIRST_MAX + EVIDENCE_LAST_MAX {
            self.attempts.remove(EVIDENCE_FIRST_MAX);
            self.omitted += 1;
        }
    }

    /// Takes back attempts that are charged since the last redrive, the newest first and `attempts_max` at
    /// most, of those that are `selected`. Answers how many. Omitted ones are not known, and stay charged.
    pub fn refund(&mut self, attempts_max: u32, selected: impl Fn(&Attempt) -> bool) -> u32 {
        let omitted = u32::try_from(self.omitted).unwrap_or(u32::MAX);
        let (mut left, mut refunded) = (self.charged, 0);
        for (index, attempt) in self.attempts.iter_mut().enumerate().rev() {
            if index + 1 == crate::limits::EVIDENCE_FIRST_MAX {
                left = left.saturating_sub(omitted);
            }
            if left == 0 || refunded == attempts_max {
                break;
            }
            if attempt.charged {
                left -= 1;
                if selected(attempt) {
                    attempt.charged = false;
                    refunded += 1;
                }
            }
        }
        self.charged -= refunded;
        refunded
    }
}

/// Why a dead letter is not its message's own fault, as was found out after it died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Excuse {
    /// It died in a row of failures of many messages, which opened the breaker.
    Breaker = 1,
    /// It died of a version of the consumer that was rolled back.
    RolledBack = 2,
}

impl Excuse {
    pub const ALL: [Self; 2] = [Self::Breaker, Self::RolledBack];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Breaker => "breaker",
            Self::RolledBack => "rolled-back",
        }
    }

    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|excuse| *excuse as u8 == number)
    }
}

/// Why a message became a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DeadReason {
    /// Its last allowed attempt failed.
    AttemptsExhausted = 0,
    /// The guest rejected it.
    Rejected = 1,
    /// It expired after it had been attempted.
    Expired = 2,
    /// It was the result of more staged publishes in a row than a chain may have.
    TooManyHops = 3,
    /// Its stored bytes are damaged, so that it cannot be delivered.
    Damaged = 4,
}

impl DeadReason {
    pub const ALL: [Self; 5] =
        [Self::AttemptsExhausted, Self::Rejected, Self::Expired, Self::TooManyHops, Self::Damaged];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::AttemptsExhausted => "attempts-exhausted",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::TooManyHops => "too-many-hops",
            Self::Damaged => "damaged",
        }
    }

    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{EVIDENCE_FIRST_MAX, EVIDENCE_LAST_MAX};

    fn attempt(digest: u8, charged: bool) -> Attempt {
        let digest = Digest([digest; 32]);
        Attempt { at_ms: 1, duration_us: 1, outcome: OutcomeKind::Trapped, text: String::new(), digest, charged }
    }

    fn history(attempts: impl IntoIterator<Item = (u8, bool)>) -> History {
        let mut history = History::default();
        for (digest, charged) in attempts {
            history.record(attempt(digest, charged));
            history.charged += u32::from(charged);
        }
        history
    }

    #[test]
    fn a_refund_takes_back_what_one_version_charged() {
        let mut one = history([(1, true), (2, true), (2, false), (1, true), (2, true)]);
        assert_eq!(one.refund(u32::MAX, |attempt| attempt.digest == Digest([2; 32])), 2);
        assert_eq!(one.charged, 2);
        let charged: Vec<bool> = one.attempts.iter().map(|attempt| attempt.charged).collect();
        assert_eq!(charged, [true, false, false, true, false]);
        assert_eq!(one.refund(u32::MAX, |attempt| attempt.digest == Digest([2; 32])), 0);
    }

    #[test]
    fn a_refund_of_some_takes_back_the_newest() {
        let mut one = history([(1, true), (1, true), (1, false), (1, true)]);
        assert_eq!(one.refund(2, |_| true), 2);
        let charged: Vec<bool> = one.attempts.iter().map(|attempt| attempt.charged).collect();
        assert_eq!((one.charged, charged), (1, vec![true, false, false, false]));
    }

    #[test]
    fn what_was_charged_before_a_redrive_stays_as_it_is() {
        let mut one = history([(1, true), (1, true)]);
        one.charged = 0;
        one.record(attempt(1, true));
        one.charged = 1;
        assert_eq!(one.refund(u32::MAX, |_| true), 1);
        assert_eq!(one.attempts.iter().filter(|attempt| attempt.charged).count(), 2);
    }

    #[test]
    fn what_is_no_longer_known_stays_charged() {
        let kept = EVIDENCE_FIRST_MAX + EVIDENCE_LAST_MAX;
        let mut one = history((0..kept + 10).map(|_| (1, true)));
        assert_eq!(one.refund(u32::MAX, |_| true) as usize, kept);
        assert_eq!(one.charged, 10);
    }
}
