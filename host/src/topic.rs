//! Topic names, and the filters with which subscriptions choose among them.

use std::fmt;
use std::sync::Arc;

use crate::limits::{TOPIC_NAME_BYTES_MAX, TOPIC_TOKENS_MAX};

/// A valid topic name: dot-separated tokens of letters, digits, `-` and `_`, such as `order.placed`.
/// A first token that begins with `$` is the bus's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

/// Why a text is no topic name, or no topic filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    #[error("it is empty; a topic is dot-separated tokens, such as `order.placed`")]
    Empty,
    #[error("it has {bytes} bytes; at most {TOPIC_NAME_BYTES_MAX} are allowed")]
    TooLong { bytes: usize },
    #[error("it has {tokens} tokens; at most {TOPIC_TOKENS_MAX} are allowed")]
    TooManyTokens { tokens: usize },
    #[error("it has an empty token; dots separate tokens and stand neither first, last nor side by side")]
    EmptyToken,
    #[error("the token `{token}` holds {character:?}; tokens are made of letters, digits, `-` and `_`")]
    Character { token: String, character: char },
    #[error("`{token}` is a wildcard, which stands in filters only")]
    Wildcard { token: String },
    #[error("`>` stands for the rest of a topic, so it must be the last token")]
    RestNotLast,
    #[error("topics that begin with `$` are the bus's own")]
    Reserved,
}

impl TopicName {
    /// A name that a client may publish to: valid, and not the bus's own.
    pub fn client(text: &str) -> Result<Self, TopicError> {
        if text.starts_with('$') {
            return Err(TopicError::Reserved);
        }
        Self::any(text)
    }

    /// Any valid name, the bus's own topics included.
    pub fn any(text: &str) -> Result<Self, TopicError> {
        for token in tokens(text)? {
            if token == "*" || token == ">" {
                return Err(TopicError::Wildcard { token: token.to_owned() });
            }
        }
        for (index, token) in text.split('.').enumerate() {
            check_token(token, index == 0)?;
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A topic filter: a topic name in which `*` stands for one token and a last `>` for one or more.
/// A wildcard in the first token does not match the bus's own topics.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter(Arc<str>);

impl TopicFilter {
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        let count = text.split('.').count();
        for (index, token) in tokens(text)?.enumerate() {
            match token {
                "*" => {}
                ">" if index + 1 == count => {}
                ">" => return Err(TopicError::RestNotLast),
                _ => check_token(token, index == 0)?,
            }
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one topic that the filter names, where it has no wildcard.
    pub fn literal(&self) -> Option<&str> {
        let wild = self.0.split('.').any(|token| token == "*" || token == ">");
        (!wild).then_some(&*self.0)
    }

    pub fn matches(&self, topic: &str) -> bool {
        let mut names = topic.split('.');
        let mut first = true;
        for token in self.0.split('.') {
            let Some(name) = names.next() else { return false };
            if first && name.starts_with('$') && token != name {
                return false;
            }
            first = false;
            match token {
                ">" => return true,
                "*" => {}
                _ if token == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

fn tokens(text: &str) -> Result<std::str::Split<'_, char>, TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > TOPIC_NAME_BYTES_MAX {
        return Err(TopicError::TooLong { bytes: text.len() });
    }
    let tokens = text.split('.').count();
    if tokens > TOPIC_TOKENS_MAX {
        return Err(TopicError::TooManyTokens { tokens });
    }
    Ok(text.split('.'))
}

fn check_token(token: &str, first: bool) -> Result<(), TopicError> {
    let body = if first { token.strip_prefix('$').unwrap_or(token) } else { token };
    if body.is_empty() {
        return Err(TopicError::EmptyToken);
    }
    match body.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '-' && *c != '_') {
        None => Ok(()),
        Some(character) => Err(TopicError::Character { token: token.to_owned(), character }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_dotted_tokens() {
        for good in ["order", "order.placed", "github.check-run.completed", "a_b.C9"] {
            assert!(TopicName::client(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "order/placed", "order.*", ">", "\u{fc}ber", "$lag.email"] {
            assert!(TopicName::client(bad).is_err(), "{bad}");
        }
        assert!(TopicName::any("$lag.email").is_ok());
        assert!(TopicName::any("a.$b").is_err());
        assert!(TopicName::client(&"x".repeat(TOPIC_NAME_BYTES_MAX + 1)).is_err());
        assert!(TopicName::client("x.".repeat(TOPIC_TOKENS_MAX).trim_end_matches('.')).is_ok());
        assert!(TopicName::client("x.".repeat(TOPIC_TOKENS_MAX + 1).trim_end_matches('.')).is_err());
    }

    #[test]
    fn filters_follow_the_wildcards_of_nats() {
        let table = [
            ("order.placed", "order.placed", true),
            ("order.placed", "order.placed.eu", false),
            ("order.*", "order.placed", true),
            ("order.*", "order", false),
            ("order.*", "order.placed.eu", false),
            ("order.>", "order.placed.eu", true),
            ("order.>", "order", false),
            ("*.placed", "order.placed", true),
            (">", "order", true),
            (">", "$lag.email", false),
            ("*.email", "$lag.email", false),
            ("$lag.*", "$lag.email", true),
            ("$lag.>", "$dead-letters.email", false),
        ];
        for (filter, topic, expected) in table {
            assert_eq!(TopicFilter::parse(filter).unwrap().matches(topic), expected, "{filter} on {topic}");
        }
        assert_eq!(TopicFilter::parse("a.>.b"), Err(TopicError::RestNotLast));
        assert!(TopicFilter::parse("a.b*").is_err());
    }

    /// Says what a filter means in the most naive way, to hold `matches` against.
    fn naive(filter: &[String], topic: &[String]) -> bool {
        match (filter.split_first(), topic.split_first()) {
            (None, None) => true,
            (Some((token, [])), Some(_)) if token == ">" => true,
            (Some((token, rest)), Some((name, others))) => (token == "*" || token == name) && naive(rest, others),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matches_agrees_with_the_naive_reading(
            filter in prop::collection::vec("[ab*]", 1..5), rest in any::<bool>(),
            topic in prop::collection::vec("[ab]", 1..6),
        ) {
            let mut filter = filter;
            if rest { filter.push(">".to_owned()); }
            let parsed = TopicFilter::parse(&filter.join(".")).unwrap();
            prop_assert_eq!(parsed.matches(&topic.join(".")), naive(&filter, &topic));
        }

        #[test]
        fn any_text_is_answered_without_a_panic(text in ".{0,40}") {
            let _ = TopicName::any(&text);
            if let Ok(filter) = TopicFilter::parse(&text) { let _ = filter.matches(&text); }
        }
    }
}
