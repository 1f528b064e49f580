//! CloudEvents in every mode: any headers and body are events or a refusal that says why, and an event that the bus
//! took is read back from its own JSON as the same.
//!
//! An input is what a client sends: headers, an empty line, and the body. The mode follows from the headers.

#![no_main]

mod http_text;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use libfuzzer_sys::fuzz_target;
use sandpost::fuzzing::{decode, encode};
use sandpost::limits::{KEY_BYTES_MAX, MESSAGE_ATTRIBUTES_MAX};
use sandpost::message::Event;
use sandpost::topic::TopicName;

/// 2026-01-31T09:30:00Z
const NOW_MS: u64 = 1_769_851_800_000;
/// What the bus adds to an event that it shows.
const OWN: [&str; 3] = ["topic", "sequence", "offset"];

fuzz_target!(|input: &[u8]| {
    let topic = TopicName::client("order.placed").expect("it is a topic");
    let (headers, body) = http_text::message(input);
    match decode(&topic, &headers, &Bytes::copy_from_slice(body), NOW_MS) {
        Err(told) => assert!(!told.is_empty()),
        Ok(events) => {
            for event in &events {
                check(event);
                comes_back(event, &topic);
            }
        }
    }
});

/// What the rest of the bus takes for granted.
fn check(event: &Event) {
    assert!(!event.id.is_empty() && !event.source.is_empty() && !event.kind.is_empty(), "{event:?}");
    assert!(event.key.as_ref().is_none_or(|key| (1..=KEY_BYTES_MAX).contains(&key.len())), "{event:?}");
    assert!(event.deliver_at_ms.is_none_or(|at_ms| at_ms > NOW_MS), "{event:?}");
    assert!(event.attributes.len() <= MESSAGE_ATTRIBUTES_MAX);
    for (index, (name, value)) in event.attributes.iter().enumerate() {
        assert!(!value.chars().any(char::is_control), "{event:?}");
        assert!(event.attributes[..index].iter().all(|(other, _)| other != name), "{event:?}");
    }
    let _ = event.expires_ms();
}

fn comes_back(event: &Event, topic: &TopicName) {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/cloudevents+json"));
    let line = encode(event);
    assert!(!line.contains(['\r', '\n']), "a tail has one line for an event: {line}");
    let read = match decode(topic, &headers, &Bytes::from(line), NOW_MS) {
        Ok(mut read) => read.remove(0),
        // What the bus adds counts as well.
        Err(_) if event.attributes.len() + OWN.len() + 8 > MESSAGE_ATTRIBUTES_MAX => return,
        Err(told) => panic!("{told}: {event:?}"),
    };
    // JSON may lose white space around it, and its line breaks.
    let plain = |data: &[u8]| {
        data.trim_ascii()
            .iter()
            .map(|&byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte })
            .collect::<Vec<_>>()
    };
    let is_json = event.content_type.as_ref().is_some_and(|_| read.data != event.data);
    if is_json {
        assert_eq!(plain(&read.data), plain(&event.data), "{event:?}");
        assert!(serde_json::from_slice::<serde_json::Value>(&event.data).is_ok(), "{event:?}");
    }
    let own = |(name, _): &(String, String)| OWN.contains(&name.as_str());
    let without = |event: &Event| Event {
        attributes: event.attributes.iter().filter(|attribute| !own(attribute)).cloned().collect(),
        data: Bytes::new(),
        named: true,
        ..event.clone()
    };
    assert_eq!(without(&read), without(event));
}
