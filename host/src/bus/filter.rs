//! Which dead letters are meant: one filter for lists, redrives, drops and rehearsals, and one reading of it,
//! for HTTP and the command line alike.

use serde::Deserialize;

use crate::log::DeadRow;
use crate::message::Millis;
use crate::outcome::{DeadReason, Digest, Excuse};
use crate::topic::TopicFilter;

/// Fewer digits of a digest would often name several versions.
const DIGEST_DIGITS_MIN: usize = 6;

/// Which dead letters a command means. All given parts must hold; without any, all are meant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeadLetterFilter {
    pub subscription: Option<String>,
    pub reason: Option<DeadReason>,
    pub topic: Option<TopicFilter>,
    pub key: Option<String>,
    /// Those that died then or later, and then or earlier.
    pub since_ms: Option<Millis>,
    pub until_ms: Option<Millis>,
    /// The component of the attempt that failed last.
    pub digest: Option<DigestPrefix>,
    /// A part of the last error.
    pub error: Option<String>,
    pub excused: Option<Excused>,
    /// Ids as `SUBSCRIPTION:OFFSET`. An empty list means none.
    pub ids: Option<Vec<String>>,
}

/// The first digits of a digest, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestPrefix(String);

/// Whether it was found out later that the message is not at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excused {
    No,
    Any,
    By(Excuse),
}

/// A filter as it is typed: in a query, in JSON, or as flags.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterText {
    pub subscription: Option<String>,
    pub reason: Option<String>,
    pub topic: Option<String>,
    pub key: Option<String>,
    pub since: Option<String>,
    pub until: Option<String>,
    pub digest: Option<String>,
    pub error: Option<String>,
    pub excused: Option<String>,
    pub ids: Option<Vec<String>>,
}

/// A part of a filter that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{part}` is `{found}`; it must be {allowed}")]
pub struct FilterError {
    pub part: &'static str,
    pub found: String,
    pub allowed: String,
}

impl FilterText {
    /// What is meant. A duration is the time so long before `now_ms`.
    pub fn parse(self, now_ms: Millis) -> Result<DeadLetterFilter, FilterError> {
        let reason = self.reason.map(|text| {
            let known = DeadReason::ALL.into_iter().find(|reason| reason.as_str() == text);
            known.ok_or_else(|| impossible("reason", text, one_of(DeadReason::ALL.map(DeadReason::as_str))))
        });
        let topic = self.topic.map(|text| {
            TopicFilter::parse(&text).map_err(|error| impossible("topic", text, format!("a filter of topics: {error}")))
        });
        Ok(DeadLetterFilter {
            subscription: self.subscription,
            reason: reason.transpose()?,
            topic: topic.transpose()?,
            key: self.key,
            since_ms: self.since.map(|text| time("since", text, now_ms)).transpose()?,
            until_ms: self.until.map(|text| time("until", text, now_ms)).transpose()?,
            digest: self.digest.map(digest).transpose()?,
            error: self.error,
            excused: self.excused.map(excused).transpose()?,
            ids: self.ids,
        })
    }
}

impl DeadLetterFilter {
    /// Whether a dead letter is meant, as far as its row tells. `topic` is its topic's name; the subscription and
    /// the ids say where to look, and are not looked at here.
    pub fn takes(&self, topic: &str, row: &DeadRow) -> bool {
        let last = row.last_attempt();
        self.reason.is_none_or(|reason| reason == row.reason)
            && self.topic.as_ref().is_none_or(|filter| filter.matches(topic))
            && self.key.as_ref().is_none_or(|key| row.key.as_ref() == Some(key))
            && self.since_ms.is_none_or(|since_ms| row.died_ms >= since_ms)
            && self.until_ms.is_none_or(|until_ms| row.died_ms <= until_ms)
            && self.digest.as_ref().is_none_or(|digest| last.is_some_and(|last| digest.begins(&last.digest)))
            && self.error.as_ref().is_none_or(|error| last.is_some_and(|last| last.text.contains(error.as_str())))
            && self.excused.is_none_or(|excused| match excused {
                Excused::No => row.excused.is_none(),
                Excused::Any => row.excused.is_some(),
                Excused::By(excuse) => row.excused == Some(excuse),
            })
    }
}

impl DigestPrefix {
    fn begins(&self, digest: &Digest) -> bool {
        self.0.bytes().enumerate().all(|(index, digit)| {
            let byte = digest.0[index / 2];
            let nibble = if index % 2 == 0 { byte >> 4 } else { byte & 15 };
            char::from_digit(u32::from(nibble), 16) == Some(char::from(digit))
        })
    }
}

/// A time: RFC 3339, or a duration before now.
fn time(part: &'static str, text: String, now_ms: Millis) -> Result<Millis, FilterError> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(Millis::try_from(time.as_millisecond()).unwrap_or(0));
    }
    match humantime::parse_duration(&text) {
        Ok(ago) => Ok(now_ms.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX))),
        Err(_) => Err(impossible(part, text, "a time such as `2026-01-31T12:00:00Z`, or how long ago, such as `1h`")),
    }
}

fn digest(text: String) -> Result<DigestPrefix, FilterError> {
    let is_prefix =
        (DIGEST_DIGITS_MIN..=64).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    if !is_prefix {
        let allowed = format!("a digest, or at least its first {DIGEST_DIGITS_MIN} hexadecimal digits");
        return Err(impossible("digest", text, allowed));
    }
    Ok(DigestPrefix(text.to_ascii_lowercase()))
}

fn excused(text: String) -> Result<Excused, FilterError> {
    match text.as_str() {
        "no" => Ok(Excused::No),
        "any" => Ok(Excused::Any),
        _ => match Excuse::ALL.into_iter().find(|excuse| excuse.as_str() == text) {
            Some(excuse) => Ok(Excused::By(excuse)),
            None => {
                let allowed = ["any", "no"].into_iter().chain(Excuse::ALL.map(Excuse::as_str));
                Err(impossible("excused", text, one_of(allowed)))
            }
        },
    }
}

fn one_of(names: impl IntoIterator<Item = &'static str>) -> String {
    let names: Vec<_> = names.into_iter().map(|name| format!("`{name}`")).collect();
    format!("one of {}", names.join(", "))
}

fn impossible(part: &'static str, found: String, allowed: impl Into<String>) -> FilterError {
    FilterError { part, found, allowed: allowed.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::TopicId;
    use crate::outcome::{Attempt, History, OutcomeKind};

    const NOW_MS: Millis = 1_800_000_000_000;

    fn row() -> DeadRow {
        let attempt = |digest, text: &str| Attempt {
            at_ms: 1,
            duration_us: 1,
            outcome: OutcomeKind::Reject,
            text: text.to_owned(),
            digest: Digest([digest; 32]),
            charged: true,
        };
        let mut history = History::default();
        history.record(attempt(0x11, "the first error"));
        history.record(attempt(0xa5, "no total in the order"));
        DeadRow {
            reason: DeadReason::Rejected,
            died_ms: NOW_MS - 60_000,
            accepted_ms: 1,
            topic: TopicId(0),
            sequence: 1,
            key: Some("customer-7".to_owned()),
            message_id: "m".to_owned(),
            source: "/tests".to_owned(),
            history,
            excused: Some(Excuse::Breaker),
        }
    }

    /// The filter of one part.
    fn filter(part: &str, value: &str) -> Result<DeadLetterFilter, FilterError> {
        let text: FilterText = serde_json::from_value(serde_json::json!({ part: value })).unwrap();
        text.parse(NOW_MS)
    }

    #[test]
    fn every_part_chooses_on_its_own() {
        let row = row();
        for (part, yes, no) in [
            ("reason", "rejected", "attempts-exhausted"),
            ("topic", "order.*", "payment.>"),
            ("key", "customer-7", "customer"),
            ("since", "2m", "30s"),
            ("until", "30s", "2m"),
            ("digest", "a5a5a5", "111111"),
            ("digest", "A5A5A5A", "a5a5a50"),
            ("error", "no total", "first error"),
            ("excused", "breaker", "rolled-back"),
            ("excused", "any", "no"),
        ] {
            assert!(filter(part, yes).unwrap().takes("order.placed", &row), "{part}={yes}");
            assert!(!filter(part, no).unwrap().takes("order.placed", &row), "{part}={no}");
        }
        let neither = DeadRow { key: None, excused: None, history: History::default(), ..row };
        for (part, value) in [("key", "customer-7"), ("digest", "a5a5a5"), ("error", ""), ("excused", "any")] {
            assert!(!filter(part, value).unwrap().takes("order.placed", &neither), "{part}");
        }
        assert!(filter("excused", "no").unwrap().takes("order.placed", &neither));
        assert!(DeadLetterFilter::default().takes("order.placed", &neither));
    }

    #[test]
    fn all_parts_must_hold() {
        let text = FilterText {
            key: Some("customer-7".to_owned()),
            reason: Some("rejected".to_owned()),
            ..FilterText::default()
        };
        let both = text.parse(NOW_MS).unwrap();
        assert!(both.takes("order.placed", &row()));
        assert!(!both.takes("order.placed", &DeadRow { key: None, ..row() }));
        assert!(!both.takes("order.placed", &DeadRow { reason: DeadReason::Expired, ..row() }));
    }

    #[test]
    fn a_time_is_a_moment_or_how_long_ago() {
        assert_eq!(filter("since", "1970-01-01T00:00:01.5Z").unwrap().since_ms, Some(1_500));
        assert_eq!(filter("since", "1h 5s").unwrap().since_ms, Some(NOW_MS - 3_605_000));
        assert_eq!(filter("until", "1000 years").unwrap().until_ms, Some(0));
    }

    #[test]
    fn what_means_nothing_is_refused_with_what_is_allowed() {
        for (part, value, allowed) in [
            ("reason", "reject", "`rejected`"),
            ("topic", "a..b", "empty token"),
            ("since", "yesterday", "2026"),
            ("until", "", "`1h`"),
            ("digest", "a5a5a", "6 hexadecimal"),
            ("digest", "a5a5a5x", "6 hexadecimal"),
            ("excused", "yes", "`rolled-back`"),
        ] {
            let error = filter(part, value).unwrap_err();
            assert_eq!((error.part, error.found.as_str()), (part, value));
            assert!(error.allowed.contains(allowed), "{error}");
        }
        assert!(serde_json::from_str::<FilterText>(r#"{"subscriptoin": "email"}"#).is_err());
    }
}
