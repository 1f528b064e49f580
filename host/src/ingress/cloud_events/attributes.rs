//! The attributes of one event, gathered one by one and checked by the rules that all modes share.

use std::time::Duration;

use bytes::Bytes;

use super::{DELIVER_AFTER, DELIVER_AT, EXPIRY, EventError, NAME_BYTES_MAX};
use crate::limits::{DELIVER_LATER_MAX, KEY_BYTES_MAX, MESSAGE_ATTRIBUTES_MAX};
use crate::message::{Event, Millis};
use crate::topic::TopicName;

/// Attributes met so far.
#[derive(Default)]
pub(super) struct Attributes {
    spec_version: Option<String>,
    id: Option<String>,
    source: Option<String>,
    kind: Option<String>,
    subject: Option<String>,
    key: Option<String>,
    content_type: Option<String>,
    others: Vec<(String, String)>,
    deliver_at_ms: Option<Millis>,
    deliver_after: Option<Duration>,
    count: usize,
}

impl Attributes {
    pub(super) fn set(&mut self, name: &str, value: String) -> Result<(), EventError> {
        check_name(name)?;
        if let Some(character) = value.chars().find(|c| c.is_control()) {
            return Err(EventError::Character { attribute: name.to_owned(), character });
        }
        self.count += 1;
        if self.count > MESSAGE_ATTRIBUTES_MAX {
            return Err(EventError::TooManyAttributes { attributes: self.count });
        }
        if name == DELIVER_AT || name == DELIVER_AFTER {
            return self.set_delivery(name, value);
        }
        let slot = match name {
            "specversion" => &mut self.spec_version,
            "id" => &mut self.id,
            "source" => &mut self.source,
            "type" => &mut self.kind,
            "subject" => &mut self.subject,
            "partitionkey" => &mut self.key,
            "datacontenttype" => &mut self.content_type,
            _ => return self.set_other(name, value),
        };
        if slot.is_some() {
            return Err(EventError::Repeated { attribute: name.to_owned() });
        }
        if value.is_empty() {
            return Err(EventError::Empty { attribute: name.to_owned() });
        }
        if name == "partitionkey" && value.len() > KEY_BYTES_MAX {
            return Err(EventError::KeyTooLong { bytes: value.len() });
        }
        *slot = Some(value);
        Ok(())
    }

    fn set_other(&mut self, name: &str, value: String) -> Result<(), EventError> {
        if self.others.iter().any(|(other, _)| other == name) {
            return Err(EventError::Repeated { attribute: name.to_owned() });
        }
        if value.is_empty() && matches!(name, "time" | "dataschema" | EXPIRY) {
            return Err(EventError::Empty { attribute: name.to_owned() });
        }
        if (name == "time" || name == EXPIRY) && !is_rfc3339(&value) {
            return Err(EventError::Time { attribute: name.to_owned(), found: value });
        }
        self.others.push((name.to_owned(), value));
        Ok(())
    }

    fn set_delivery(&mut self, name: &str, value: String) -> Result<(), EventError> {
        let is_time = name == DELIVER_AT;
        let is_set = if is_time { self.deliver_at_ms.is_some() } else { self.deliver_after.is_some() };
        if is_set {
            return Err(EventError::Repeated { attribute: name.to_owned() });
        }
        if is_time {
            let time = is_rfc3339(&value).then(|| value.parse::<jiff::Timestamp>().ok()).flatten();
            let Some(time) = time else {
                let allowed = "an RFC 3339 time such as 2026-01-31T09:30:00Z";
                return Err(EventError::DeliverTime { attribute: DELIVER_AT, found: value, allowed });
            };
            // A time before 1970 is past, as any other time before now.
            self.deliver_at_ms = Some(Millis::try_from(time.as_millisecond()).unwrap_or(0));
        } else {
            let Ok(after) = humantime::parse_duration(&value) else {
                let allowed = "a duration with its unit, such as 90s or 2h";
                return Err(EventError::DeliverTime { attribute: DELIVER_AFTER, found: value, allowed });
            };
            self.deliver_after = Some(after);
        }
        Ok(())
    }

    /// When the event is to be delivered, if not at once.
    fn deliver_at_ms(&self, now_ms: Millis) -> Result<Option<Millis>, EventError> {
        let millis = |duration: Duration| Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX);
        let at_ms = match (self.deliver_at_ms, self.deliver_after) {
            (Some(_), Some(_)) => return Err(EventError::DeliverTwice),
            (at_ms, after) => at_ms.or(after.map(|after| now_ms.saturating_add(millis(after)))),
        };
        if at_ms.is_some_and(|at_ms| at_ms > now_ms.saturating_add(millis(DELIVER_LATER_MAX))) {
            return Err(EventError::DeliverTooLate { days: DELIVER_LATER_MAX.as_secs() / (24 * 3600) });
        }
        Ok(at_ms.filter(|at_ms| *at_ms > now_ms))
    }

    pub(super) fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    pub(super) fn finish(self, topic: &TopicName, data: Bytes, now_ms: Millis) -> Result<Event, EventError> {
        let deliver_at_ms = self.deliver_at_ms(now_ms)?;
        let required = |value: Option<String>, attribute| value.ok_or(EventError::Missing { attribute });
        let version = required(self.spec_version, "specversion")?;
        if version != "1.0" {
            return Err(EventError::SpecVersion { found: version });
        }
        Ok(Event {
            topic: topic.clone(),
            id: required(self.id, "id")?,
            source: required(self.source, "source")?,
            kind: required(self.kind, "type")?,
            subject: self.subject,
            key: self.key,
            content_type: self.content_type,
            attributes: self.others,
            data,
            hops: 0,
            named: true,
            deliver_at_ms,
        })
    }
}

fn check_name(name: &str) -> Result<(), EventError> {
    let valid = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && name != "data";
    if valid { Ok(()) } else { Err(EventError::Name { name: name.to_owned() }) }
}

/// jiff reads more forms than RFC 3339 has (a space between date and time, offsets without a colon), so
/// the outline is checked first. The text itself is kept as it came.
fn is_rfc3339(text: &str) -> bool {
    let bytes = text.as_bytes();
    let shape = |at: usize, allowed: &[u8]| bytes.get(at).is_some_and(|b| allowed.contains(b));
    let outline = bytes.len() >= 20
        && shape(4, b"-")
        && shape(7, b"-")
        && shape(10, b"Tt")
        && shape(13, b":")
        && shape(16, b":")
        && (shape(bytes.len() - 1, b"Zz") || shape(bytes.len() - 3, b":"));
    outline && !text.contains(['[', ',']) && text.parse::<jiff::Timestamp>().is_ok()
}
