//! `bus.publish`: from what the guest wants to publish to an event that may be committed.

use std::borrow::Cow;

use bytes::Bytes;
use wasmtime::StoreContextMut;
use wasmtime::component::WasmStr;

use super::guest::{Call, Guest};
use super::records::{Outgoing, PublishRefusal};
use crate::limits;
use crate::message::{Event, Millis};
use crate::topic::{TopicFilter, TopicName};

type Answer<T> = Result<T, PublishRefusal>;

/// CloudEvents attributes that are fields of their own, or the host's to set.
const RESERVED_ATTRIBUTES: [&str; 8] =
    ["id", "source", "specversion", "type", "subject", "datacontenttype", "partitionkey", "data"];

/// Stages an event, or says why not. Errors are guest texts that are not UTF-8, and publishing while
/// the guest is set up: traps, both.
pub(super) fn publish(mut store: StoreContextMut<'_, Guest>, outgoing: &Outgoing) -> wasmtime::Result<Answer<()>> {
    // Nothing may be staged before there is a message whose acknowledgement would commit it.
    store.data_mut().call.source()?;
    // Before the event is copied out of the guest's memory.
    if let Err(refusal) = check_count(&store.data().call) {
        return Ok(Err(refusal));
    }
    let event = match read(&mut store, outgoing)? {
        Ok(event) => event,
        Err(refusal) => return Ok(Err(refusal)),
    };
    Ok(keep(&mut store.data_mut().call, event))
}

/// Stages an event that stands in the host's memory.
pub(super) fn stage(guest: &mut Guest, parts: Parts<'_>) -> Answer<()> {
    check_count(&guest.call)?;
    let event = parts.into_event(&guest.call, &guest.version.publish)?;
    keep(&mut guest.call, event)
}

fn check_count(call: &Call) -> Answer<()> {
    let messages_max = limits::STAGED_MESSAGES_MAX;
    if call.publishes.len() >= messages_max {
        return Err(PublishRefusal::TooMany(format!("one call publishes at most {messages_max} events")));
    }
    Ok(())
}

fn keep(call: &mut Call, event: Event) -> Answer<()> {
    let bytes = call.staged_bytes + event.bytes();
    let bytes_max = limits::STAGED_BYTES_MAX;
    if bytes > bytes_max {
        return Err(PublishRefusal::TooMany(format!("one call stages at most {bytes_max} bytes")));
    }
    call.staged_bytes = bytes;
    call.publishes.push(event);
    Ok(())
}

/// Reads the record out of the guest's memory, and copies only what passed its checks.
fn read(store: &mut StoreContextMut<'_, Guest>, outgoing: &Outgoing) -> wasmtime::Result<Answer<Event>> {
    let mut attributes = Vec::new();
    if outgoing.attributes.len() > limits::MESSAGE_ATTRIBUTES_MAX {
        let (count, count_max) = (outgoing.attributes.len(), limits::MESSAGE_ATTRIBUTES_MAX);
        return Ok(Err(PublishRefusal::TooLarge(format!(
            "the event has {count} attributes; at most {count_max} are accepted"
        ))));
    }
    for index in 0..outgoing.attributes.len() {
        attributes.extend(outgoing.attributes.get(&mut *store, index).transpose()?);
    }

    let text = |text: &WasmStr| text.to_str(&*store);
    let optional = |text: &Option<WasmStr>| text.as_ref().map(|text| text.to_str(&*store)).transpose();
    let mut texts = Vec::with_capacity(attributes.len());
    for (name, value) in &attributes {
        texts.push((text(name)?, text(value)?));
    }
    let parts = Parts {
        topic: text(&outgoing.topic)?,
        kind: text(&outgoing.kind)?,
        key: optional(&outgoing.key)?,
        id: optional(&outgoing.id)?,
        subject: optional(&outgoing.subject)?,
        content_type: optional(&outgoing.content_type)?,
        attributes: texts,
        data: outgoing.data.as_le_slice(&*store),
        deliver_at_ms: outgoing.deliver_at_ms,
        expires_ms: outgoing.expires_ms,
    };
    let guest = store.data();
    Ok(parts.into_event(&guest.call, &guest.version.publish))
}

/// An outgoing event as a guest gave it.
pub(super) struct Parts<'a> {
    pub(super) topic: Cow<'a, str>,
    pub(super) kind: Cow<'a, str>,
    pub(super) key: Option<Cow<'a, str>>,
    pub(super) id: Option<Cow<'a, str>>,
    pub(super) subject: Option<Cow<'a, str>>,
    pub(super) content_type: Option<Cow<'a, str>>,
    pub(super) attributes: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    pub(super) data: &'a [u8],
    pub(super) deliver_at_ms: Option<u64>,
    pub(super) expires_ms: Option<u64>,
}

impl Parts<'_> {
    fn into_event(self, call: &Call, grants: &[TopicFilter]) -> Answer<Event> {
        let topic = TopicName::client(&self.topic)
            .map_err(|error| PublishRefusal::Invalid(format!("topic `{}`: {error}", shortened(&self.topic))))?;
        if !grants.iter().any(|filter| filter.matches(topic.as_str())) {
            return Err(PublishRefusal::NotGranted(format!(
                "the manifest does not grant publishing to `{topic}`; add it to `publish` under [grants]"
            )));
        }
        let latest_ms = call.now_ms.saturating_add(limits::DELIVER_LATER_MAX.as_millis() as u64);
        if let Some(deliver_at_ms) = self.deliver_at_ms.filter(|deliver_at_ms| *deliver_at_ms > latest_ms) {
            return Err(PublishRefusal::Invalid(format!(
                "`deliver-at-ms` is {deliver_at_ms}, which is more than {} days ahead",
                limits::DELIVER_LATER_MAX.as_secs() / (24 * 3600)
            )));
        }
        self.check_sizes(call.message_data_bytes_max)?;

        let number = call.publishes.len() + 1;
        let named = self.id.is_some();
        let mut event = Event {
            topic,
            id: match self.id {
                Some(id) => filled("id", id)?,
                None => format!("{}-{number}", call.idempotency_key),
            },
            source: format!("/subscriptions/{}", call.subscription),
            kind: if self.kind.is_empty() { self.topic.into_owned() } else { filled("type", self.kind)? },
            subject: self.subject.map(|text| filled("subject", text)).transpose()?,
            key: self.key.map(|text| filled("key", text)).transpose()?,
            content_type: self.content_type.map(|text| filled("content-type", text)).transpose()?,
            attributes: Vec::with_capacity(self.attributes.len() + 2),
            data: Bytes::new(),
            hops: call.hops.saturating_add(1),
            named,
            deliver_at_ms: self.deliver_at_ms,
        };
        if let Some(key) = event.key.as_ref().filter(|key| key.len() > limits::KEY_BYTES_MAX) {
            let (bytes, bytes_max) = (key.len(), limits::KEY_BYTES_MAX);
            return Err(PublishRefusal::TooLarge(format!(
                "the key has {bytes} bytes; at most {bytes_max} are accepted"
            )));
        }
        if let Some(content_type) = &event.content_type
            && content_type.parse::<mime::Mime>().is_err()
        {
            return Err(PublishRefusal::Invalid(format!("`content-type` {content_type:?} is no media type")));
        }
        for (name, value) in self.attributes {
            let attribute = checked_attribute(name, value, &event.attributes)?;
            event.attributes.push(attribute);
        }
        if !event.attributes.iter().any(|(name, _)| name == "time") {
            event.attributes.push(("time".to_owned(), timestamp("the call's time", call.now_ms)?));
        }
        if let Some(expires_ms) = self.expires_ms {
            if event.attributes.iter().any(|(name, _)| name == "expirytime") {
                return Err(PublishRefusal::Invalid("both `expires-ms` and `expirytime` are given".to_owned()));
            }
            event.attributes.push(("expirytime".to_owned(), timestamp("`expires-ms`", expires_ms)?));
        }
        event.data = Bytes::copy_from_slice(self.data);
        Ok(event)
    }

    fn check_sizes(&self, data_bytes_max: usize) -> Answer<()> {
        let bytes = self.data.len();
        if bytes > data_bytes_max {
            return Err(PublishRefusal::TooLarge(format!(
                "the data has {bytes} bytes; at most {data_bytes_max} are accepted. Put it where consumers can fetch it, and \
                 publish its address as the attribute `dataref`"
            )));
        }
        let optional = |text: &Option<Cow<'_, str>>| text.as_ref().map_or(0, |text| text.len());
        let bytes = self.topic.len()
            + self.kind.len()
            + optional(&self.key)
            + optional(&self.id)
            + optional(&self.subject)
            + optional(&self.content_type)
            + self.attributes.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        let bytes_max = limits::MESSAGE_ATTRIBUTES_BYTES_MAX;
        if bytes > bytes_max {
            return Err(PublishRefusal::TooLarge(format!(
                "names and attributes have {bytes} bytes; at most {bytes_max} are accepted"
            )));
        }
        Ok(())
    }
}

/// CloudEvents texts are not empty, and hold no control characters.
fn filled(field: &str, text: Cow<'_, str>) -> Answer<String> {
    if text.is_empty() {
        return Err(PublishRefusal::Invalid(format!("`{field}` is given and empty")));
    }
    without_controls(field, text)
}

fn without_controls(field: &str, text: Cow<'_, str>) -> Answer<String> {
    match text.chars().find(|character| character.is_control()) {
        None => Ok(text.into_owned()),
        Some(character) => Err(PublishRefusal::Invalid(format!("`{field}` holds the control character {character:?}"))),
    }
}

fn checked_attribute(
    name: Cow<'_, str>,
    value: Cow<'_, str>,
    earlier: &[(String, String)],
) -> Answer<(String, String)> {
    let invalid = |why: &str| Err(PublishRefusal::Invalid(format!("attribute `{}` {why}", shortened(&name))));
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        return invalid("is no name; names are lower-case letters and digits");
    }
    if RESERVED_ATTRIBUTES.contains(&&*name) {
        return invalid("is not for extensions; it is a field of the record or set by the bus");
    }
    if earlier.iter().any(|(other, _)| *other == name) {
        return invalid("is given twice");
    }
    if (name == "time" || name == "expirytime") && value.parse::<jiff::Timestamp>().is_err() {
        return invalid("is no time as RFC 3339 writes it");
    }
    let value = without_controls(&name, value)?;
    Ok((name.into_owned(), value))
}

/// A time as RFC 3339 writes it.
fn timestamp(what: &str, millis: Millis) -> Answer<String> {
    let time = i64::try_from(millis).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    time.map(|time| time.to_string())
        .ok_or_else(|| PublishRefusal::Invalid(format!("{what} of {millis} ms is past the year 9999")))
}

/// What an error repeats of a text that a guest gave.
fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(64)]
}

#[cfg(test)]
mod tests {
    use super::super::tests;
    use super::*;

    fn parts<'a>() -> Parts<'a> {
        Parts {
            topic: "out.a".into(),
            kind: "com.example.a".into(),
            key: None,
            id: None,
            subject: None,
            content_type: None,
            attributes: Vec::new(),
            data: b"data",
            deliver_at_ms: None,
            expires_ms: None,
        }
    }

    fn event(parts: Parts<'_>) -> Answer<Event> {
        parts.into_event(&tests::call(), &[TopicFilter::parse("out.>").unwrap()])
    }

    fn attributes<'a>(attributes: &[(&'a str, &'a str)]) -> Parts<'a> {
        let attributes = attributes.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Parts { attributes, ..parts() }
    }

    #[test]
    fn what_the_guest_gives_is_kept() {
        let given = Parts {
            key: Some("key".into()),
            id: Some("id".into()),
            subject: Some("subject".into()),
            content_type: Some("application/json; charset=utf-8".into()),
            ..attributes(&[("correlationid", "c-1"), ("time", "2026-02-03T04:05:06Z")])
        };
        let event = event(given).unwrap();
        assert_eq!((event.id.as_str(), event.kind.as_str()), ("id", "com.example.a"));
        assert_eq!(event.key.as_deref(), Some("key"));
        assert_eq!(event.subject.as_deref(), Some("subject"));
        assert_eq!(event.content_type.as_deref(), Some("application/json; charset=utf-8"));
        let kept = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(event.attributes, [kept("correlationid", "c-1"), kept("time", "2026-02-03T04:05:06Z")]);
        assert_eq!(&event.data[..], b"data");
    }

    #[test]
    fn what_is_no_cloud_event_is_invalid() {
        let control = || Some("a\nb".into());
        let empty = || Some("".into());
        let table = [
            (Parts { id: empty(), ..parts() }, "`id` is given and empty"),
            (Parts { key: empty(), ..parts() }, "`key` is given and empty"),
            (Parts { subject: control(), ..parts() }, "`subject` holds the control character '\\n'"),
            (Parts { kind: "a\u{0}".into(), ..parts() }, "`type` holds the control character '\\0'"),
            (Parts { content_type: Some("json".into()), ..parts() }, "`content-type` \"json\" is no media type"),
            (attributes(&[("Upper", "")]), "attribute `Upper` is no name; names are lower-case letters and digits"),
            (attributes(&[("", "")]), "attribute `` is no name; names are lower-case letters and digits"),
            (
                attributes(&[("source", "me")]),
                "attribute `source` is not for extensions; it is a field of the record or set by the bus",
            ),
            (attributes(&[("a", "1"), ("a", "2")]), "attribute `a` is given twice"),
            (attributes(&[("a", "\u{1b}[0m")]), "`a` holds the control character '\\u{1b}'"),
            (attributes(&[("time", "noon")]), "attribute `time` is no time as RFC 3339 writes it"),
            (
                Parts { expires_ms: Some(1), ..attributes(&[("expirytime", "2026-02-03T04:05:06Z")]) },
                "both `expires-ms` and `expirytime` are given",
            ),
            (
                Parts { expires_ms: Some(u64::MAX), ..parts() },
                "`expires-ms` of 18446744073709551615 ms is past the year 9999",
            ),
        ];
        for (parts, reason) in table {
            assert_eq!(event(parts), Err(PublishRefusal::Invalid(reason.to_owned())));
        }
    }

    #[test]
    fn an_event_is_named_by_its_id_and_delivered_when_it_says() {
        let later = tests::call().now_ms + 5_000;
        let named = event(Parts { id: Some("mine".into()), deliver_at_ms: Some(later), ..parts() }).unwrap();
        assert_eq!((named.named, named.deliver_at_ms), (true, Some(later)));
        let unnamed = event(parts()).unwrap();
        assert_eq!((unnamed.named, unnamed.deliver_at_ms), (false, None));
    }

    #[test]
    fn sizes_are_bounded() {
        let long = "x".repeat(limits::MESSAGE_ATTRIBUTES_BYTES_MAX);
        let data = vec![0; limits::MIB + 1];
        let table = [
            (
                Parts { data: &data, ..parts() },
                "the data has 1048577 bytes; at most 1048576 are accepted. Put it where consumers can fetch it, and publish its address as the attribute `dataref`",
            ),
            (attributes(&[("a", &long)]), "names and attributes have 65555 bytes; at most 65536 are accepted"),
            (
                Parts { key: Some(long[..limits::KEY_BYTES_MAX + 1].into()), ..parts() },
                "the key has 1025 bytes; at most 1024 are accepted",
            ),
        ];
        for (parts, reason) in table {
            assert_eq!(event(parts), Err(PublishRefusal::TooLarge(reason.to_owned())));
        }
    }
}
