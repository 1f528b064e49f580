//! How a call fails, and how errors become failures.

use std::error::Error;
use std::fmt;
use std::time::Duration;

/// How a call failed. What it published and wrote to the state did not happen.
///
/// Every [`std::error::Error`] becomes a [retry](Failure::retry) by `?`. That is the safe reading: it costs
/// some attempts, and ends as a dead letter with the error's text. [`OrFail`] gives the other readings.
/// For that conversion to exist, `Failure` itself is no `Error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// This message failed now and may succeed later: charged as an attempt.
    Retry(Retry),
    /// This message can never succeed: it becomes a dead letter at once. The text is for the person who
    /// reads it.
    Reject(String),
    /// Something that the handler depends on is down: not charged as an attempt.
    Unavailable(Retry),
}

/// Why to try again, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// One sentence for the person who reads the dead letter.
    pub reason: String,
    /// How long to wait before the next attempt; the subscription's backoff decides where absent.
    pub after: Option<Duration>,
}

impl Failure {
    /// This message failed now and may succeed later. It is charged as an attempt, and after the
    /// subscription's last one the message is a dead letter.
    pub fn retry(reason: impl Into<String>) -> Self {
        Failure::Retry(Retry { reason: reason.into(), after: None })
    }

    /// This message can never succeed: it becomes a dead letter at once.
    pub fn reject(reason: impl Into<String>) -> Self {
        Failure::Reject(reason.into())
    }

    /// Something that the handler depends on is down. It is not charged as an attempt, and counts
    /// towards the breaker that pauses the subscription.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Failure::Unavailable(Retry { reason: reason.into(), after: None })
    }

    /// Asks for this delay before the next attempt, in place of the subscription's backoff. It is
    /// rounded to milliseconds, and the bus cuts it at 30 days. A rejection has no next attempt, and is
    /// returned as it is.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        if let Failure::Retry(retry) | Failure::Unavailable(retry) = &mut self {
            retry.after = Some(delay);
        }
        self
    }

    /// The text that was given for it.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Failure::Retry(retry) | Failure::Unavailable(retry) => &retry.reason,
            Failure::Reject(reason) => reason,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Failure::Retry(_) => "retry",
            Failure::Reject(_) => "reject",
            Failure::Unavailable(_) => "unavailable",
        };
        write!(f, "{kind}: {}", self.reason())
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::retry(with_causes(&error))
    }
}

/// Turns an absent value or an error into a [`Failure`], with what was tried in front of the error's text.
///
/// It is there for `Option` and for every `Result` whose error is a [`std::error::Error`] (that is `Send` and
/// `Sync`), a text, or anything else that becomes a boxed error, such as `anyhow::Error`.
///
/// ```
/// use sandpost_sdk::prelude::*;
///
/// let failure = "twelve".parse::<u32>().or_reject("the quantity").unwrap_err();
/// assert_eq!(failure, Failure::reject("the quantity: invalid digit found in string"));
///
/// let failure = None::<u32>.or_retry("no price for BOOK-1 yet").unwrap_err();
/// assert_eq!(failure, Failure::retry("no price for BOOK-1 yet"));
/// ```
pub trait OrFail<T> {
    /// Fails with [`Failure::retry`].
    ///
    /// # Errors
    /// Where there is no value.
    fn or_retry(self, what: impl fmt::Display) -> Result<T, Failure>;

    /// Fails with [`Failure::reject`].
    ///
    /// # Errors
    /// Where there is no value.
    fn or_reject(self, what: impl fmt::Display) -> Result<T, Failure>;

    /// Fails with [`Failure::unavailable`].
    ///
    /// # Errors
    /// Where there is no value.
    fn or_unavailable(self, what: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> OrFail<T> for Result<T, E> {
    fn or_retry(self, what: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::retry(explained(&what, error)))
    }

    fn or_reject(self, what: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::reject(explained(&what, error)))
    }

    fn or_unavailable(self, what: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::unavailable(explained(&what, error)))
    }
}

impl<T> OrFail<T> for Option<T> {
    fn or_retry(self, what: impl fmt::Display) -> Result<T, Failure> {
        self.ok_or_else(|| Failure::retry(what.to_string()))
    }

    fn or_reject(self, what: impl fmt::Display) -> Result<T, Failure> {
        self.ok_or_else(|| Failure::reject(what.to_string()))
    }

    fn or_unavailable(self, what: impl fmt::Display) -> Result<T, Failure> {
        self.ok_or_else(|| Failure::unavailable(what.to_string()))
    }
}

fn explained(what: &dyn fmt::Display, error: impl Into<Box<dyn Error + Send + Sync>>) -> String {
    format!("{what}: {}", with_causes(error.into().as_ref()))
}

/// The error's text and those of its causes: the person who reads a dead letter has no debugger.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(std::num::ParseIntError);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("no price")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn a_question_mark_retries_and_tells_the_causes() {
        fn fails() -> Result<u32, Failure> {
            Ok("x".parse().map_err(Outer)?)
        }
        assert_eq!(fails(), Err(Failure::retry("no price: invalid digit found in string")));
    }

    #[test]
    fn a_delay_is_kept_where_there_is_a_next_attempt() {
        let delay = Duration::from_secs(3);
        let expected = Retry { reason: "later".into(), after: Some(delay) };
        assert_eq!(Failure::retry("later").after(delay), Failure::Retry(expected.clone()));
        assert_eq!(Failure::unavailable("later").after(delay), Failure::Unavailable(expected));
        assert_eq!(Failure::reject("never").after(delay), Failure::reject("never"));
    }

    #[test]
    fn texts_and_boxed_errors_are_errors_too() {
        let text: Result<(), &str> = Err("closed");
        assert_eq!(text.or_unavailable("the shop"), Err(Failure::unavailable("the shop: closed")));
        let boxed: Result<(), Box<dyn Error + Send + Sync>> = Err("closed".into());
        assert_eq!(boxed.or_reject("the shop"), Err(Failure::reject("the shop: closed")));
    }
}
