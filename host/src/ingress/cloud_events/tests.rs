use std::collections::BTreeMap;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::message::{Message, TopicId};

/// What the specification has producers encode.
const HEADER: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b' ').add(b'"').add(b'%');

fn no_time(attribute: &str, found: &str) -> EventError {
    EventError::Time { attribute: attribute.to_owned(), found: found.to_owned() }
}

/// 2026-01-31T09:30:00Z
const NOW_MS: Millis = 1_769_851_800_000;

type Pairs<'a> = &'a [(&'a str, &'a [u8])];

fn topic() -> TopicName {
    TopicName::client("order.placed").unwrap()
}

fn headers(pairs: Pairs<'_>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value).unwrap());
    }
    map
}

fn decode_with(headers: &HeaderMap, body: &[u8]) -> Result<Vec<Event>, DecodeError> {
    let fill = || Fill { id: "filled".to_owned(), time: "2026-01-31T09:30:00Z".to_owned() };
    decode(Mode::of(headers), &topic(), headers, &Bytes::copy_from_slice(body), NOW_MS, fill)
}

/// A binary event with the required attributes and these headers.
fn binary(extra: Pairs<'_>) -> Result<Event, EventError> {
    let required: [(&str, &[u8]); 4] =
        [("ce-specversion", b"1.0"), ("ce-id", b"1"), ("ce-source", b"/s"), ("ce-type", b"t")];
    let replaced = |name: &str| extra.iter().any(|(own, _)| *own == name && !own.is_empty());
    let mut pairs: Vec<_> = required.into_iter().filter(|(name, _)| !replaced(name)).collect();
    pairs.extend_from_slice(extra);
    match decode_with(&headers(&pairs), b"data") {
        Ok(mut events) => Ok(events.remove(0)),
        Err(error) => Err(error.error),
    }
}

/// A structured event with the required attributes and these members.
fn structured(members: &str) -> Result<Event, EventError> {
    let body = format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t"{members}}}"#);
    decode_structured(&body)
}

fn decode_structured(body: &str) -> Result<Event, EventError> {
    match decode_with(&headers(&[("content-type", b"application/cloudevents+json; charset=utf-8")]), body.as_bytes()) {
        Ok(mut events) => Ok(events.remove(0)),
        Err(error) => Err(error.error),
    }
}

#[test]
fn the_mode_is_told_by_the_content_type_in_any_case() {
    let table: [(Pairs<'_>, Mode); 8] = [
        (&[], Mode::Plain),
        (&[("content-type", b"application/json")], Mode::Plain),
        (&[("content-type", b"application/json"), ("ce-specversion", b"1.0")], Mode::Binary),
        (&[("ce-specversion", b"0.3")], Mode::Binary),
        (&[("content-type", b"application/cloudevents+json")], Mode::Structured),
        (&[("content-type", b"Application/CloudEvents+JSON; charset=UTF-8")], Mode::Structured),
        (&[("content-type", b"APPLICATION/cloudevents-BATCH+json")], Mode::Batched),
        // The content type goes first.
        (&[("content-type", b"application/cloudevents-batch+json"), ("ce-specversion", b"1.0")], Mode::Batched),
    ];
    for (pairs, mode) in table {
        assert_eq!(Mode::of(&headers(pairs)), mode, "{pairs:?}");
    }
}

#[test]
fn a_plain_body_is_filled_in() {
    let pairs: [(&str, &[u8]); 2] = [("content-type", b"text/csv"), ("Sandpost-Key", b"caf%C3%A9")];
    let event = decode_with(&headers(&pairs), b"a,b").unwrap().remove(0);
    let expected = Event {
        topic: topic(),
        id: "filled".to_owned(),
        source: "/http".to_owned(),
        kind: "order.placed".to_owned(),
        subject: None,
        key: Some("caf\u{e9}".to_owned()),
        content_type: Some("text/csv".to_owned()),
        attributes: vec![("time".to_owned(), "2026-01-31T09:30:00Z".to_owned())],
        data: Bytes::from_static(b"a,b"),
        hops: 0,
        named: false,
        deliver_at_ms: None,
    };
    assert_eq!(event, expected);
    let event = decode_with(&headers(&[("content-type", b"")]), b"").unwrap().remove(0);
    assert_eq!((event.content_type, event.key), (None, None));
}

#[test]
fn an_event_says_when_it_is_delivered() {
    let at = |event: Result<Event, EventError>| event.unwrap().deliver_at_ms;
    assert_eq!(at(binary(&[("ce-deliverat", b"2026-01-31T09:30:01Z")])), Some(NOW_MS + 1_000));
    assert_eq!(at(binary(&[("ce-deliverafter", b"90s")])), Some(NOW_MS + 90_000));
    assert_eq!(at(structured(r#","deliverafter":"2h 5ms""#)), Some(NOW_MS + 7_200_005));
    // What is past is delivered at once, as what has no time.
    for past in ["2026-01-31T09:30:00Z", "1969-01-01T00:00:00Z"] {
        assert_eq!(at(binary(&[("ce-deliverat", past.as_bytes())])), None, "{past}");
    }
    let plain = decode_with(
        &headers(&[("sandpost-deliver-after", b"1m"), ("sandpost-expires-at", b"2026-02-01T00:00:00Z")]),
        b"x",
    );
    let plain = plain.unwrap().remove(0);
    assert_eq!(plain.deliver_at_ms, Some(NOW_MS + 60_000));
    assert!(plain.attributes.contains(&("expirytime".to_owned(), "2026-02-01T00:00:00Z".to_owned())));
    // The bus follows it; it is no attribute of the message.
    let event = binary(&[("ce-deliverafter", b"1s")]).unwrap();
    assert!(event.attributes.is_empty() && event.named);

    let after = |found: &str| EventError::DeliverTime {
        attribute: "deliverafter",
        found: found.to_owned(),
        allowed: "a duration with its unit, such as 90s or 2h",
    };
    let table: [(Pairs<'_>, EventError); 7] = [
        (&[("ce-deliverafter", b"90")], after("90")),
        (&[("ce-deliverafter", b"-1s")], after("-1s")),
        (&[("ce-deliverafter", b"1s"), ("ce-deliverat", b"2026-01-31T09:30:01Z")], EventError::DeliverTwice),
        (&[("ce-deliverafter", b"367d")], EventError::DeliverTooLate { days: 366 }),
        (&[("ce-deliverat", b"9999-01-01T00:00:00Z")], EventError::DeliverTooLate { days: 366 }),
        (
            &[("ce-deliverafter", b"1s"), ("ce-deliverafter", b"2s")],
            EventError::Repeated { attribute: "deliverafter".to_owned() },
        ),
        (&[("ce-expirytime", b"soon")], no_time("expirytime", "soon")),
    ];
    for (pairs, error) in table {
        assert_eq!(binary(pairs), Err(error), "{pairs:?}");
    }
}

#[test]
fn a_quoted_header_is_taken_out_of_its_quotes() {
    let event = binary(&[("ce-subject", br#""two words""#), ("ce-comment", br#""a \"b\" %43 \\""#)]).unwrap();
    assert_eq!(event.subject.as_deref(), Some("two words"));
    assert_eq!(event.attributes, [("comment".to_owned(), "a \"b\" C \\".to_owned())]);
    let event = binary(&[("ce-subject", br#"""#), ("ce-comment", br#"a""#)]).unwrap();
    assert_eq!((event.subject.as_deref(), event.attributes[0].1.as_str()), (Some("\""), "a\""), "no pair of quotes");
}

#[test]
fn binary_attributes_are_headers() {
    let event = binary(&[
        ("content-type", b"application/json"),
        ("ce-subject", b"two%20words"),
        ("CE-PartitionKey", b"k"),
        ("ce-time", b"2026-01-31T09:30:00.5+01:00"),
        ("ce-traceparent", b"00-1-2-01"),
        ("x-other", b"ignored"),
    ])
    .unwrap();
    assert_eq!(event.subject.as_deref(), Some("two words"));
    assert_eq!(event.key.as_deref(), Some("k"));
    assert_eq!(event.content_type.as_deref(), Some("application/json"));
    let attributes = [("time", "2026-01-31T09:30:00.5+01:00"), ("traceparent", "00-1-2-01")];
    assert_eq!(event.attributes, attributes.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(event.data, "data");
}

#[test]
fn header_values_are_decoded_once_and_forgivingly() {
    let table: [(&[u8], &str); 14] = [
        (b"plain", "plain"),
        (b"Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro \u{20ac} \u{1f600}"),
        (b"%e2%82%ac", "\u{20ac}"),
        // Once: what was encoded twice stays encoded.
        (b"%2520", "%20"),
        // A `%` without two hexadecimal digits is itself.
        (b"100%", "100%"),
        (b"5% off", "5% off"),
        (b"%4", "%4"),
        (b"%zz%41", "%zzA"),
        // Raw UTF-8, raw Latin-1, and what only looks like UTF-8 in part.
        (b"caf\xc3\xa9", "caf\u{e9}"),
        (b"caf\xe9", "caf\u{e9}"),
        (b"\xc3\xa9\xe9", "\u{c3}\u{a9}\u{e9}"),
        (b"%E9", "\u{e9}"),
        (b"\"quoted\"", "quoted"),
        (b"a b", "a b"),
    ];
    for (raw, expected) in table {
        let event = binary(&[("ce-subject", raw)]).unwrap();
        assert_eq!(event.subject.as_deref(), Some(expected), "{}", String::from_utf8_lossy(raw));
    }
}

#[test]
fn broken_binary_events_are_refused_with_the_facts() {
    let name = |name: &str| EventError::Name { name: name.to_owned() };
    let empty = |attribute: &str| EventError::Empty { attribute: attribute.to_owned() };
    let table: [(Pairs<'_>, EventError); 13] = [
        (&[("ce-specversion", b"0.3")], EventError::SpecVersion { found: "0.3".to_owned() }),
        (&[("ce-id", b"")], empty("id")),
        (&[("ce-subject", b"")], empty("subject")),
        (&[("ce-time", b"")], empty("time")),
        (&[("ce-time", b"yesterday")], no_time("time", "yesterday")),
        (&[("ce-time", b"2026-01-31 09:30:00Z")], no_time("time", "2026-01-31 09:30:00Z")),
        (&[("ce-time", b"2026-02-30T09:30:00Z")], no_time("time", "2026-02-30T09:30:00Z")),
        (&[("ce-datacontenttype", b"text/plain")], EventError::ContentTypeAttribute),
        (&[("ce-my-ext", b"1")], name("my-ext")),
        (&[("ce-data", b"1")], name("data")),
        (&[("ce-", b"1")], name("")),
        (&[("ce-subject", b"a%00b")], EventError::Character { attribute: "subject".to_owned(), character: '\0' }),
        (&[("ce-a", b"1"), ("ce-a", b"2")], EventError::Repeated { attribute: "a".to_owned() }),
    ];
    for (pairs, error) in table {
        assert_eq!(binary(pairs), Err(error), "{pairs:?}");
    }
    for attribute in ["id", "source", "type"] {
        let mut map = headers(&[("ce-specversion", b"1.0"), ("ce-id", b"1"), ("ce-source", b"/s"), ("ce-type", b"t")]);
        map.remove(format!("ce-{attribute}"));
        let error = decode_with(&map, b"").unwrap_err();
        assert_eq!(error.error, EventError::Missing { attribute });
    }
    let key = vec![b'k'; KEY_BYTES_MAX + 1];
    assert_eq!(binary(&[("ce-partitionkey", &key)]), Err(EventError::KeyTooLong { bytes: key.len() }));
    assert!(binary(&[("ce-partitionkey", &key[1..])]).is_ok());
    assert!(binary(&[(&format!("ce-{}", "a".repeat(64)), b"1")]).is_ok());
    assert!(matches!(binary(&[(&format!("ce-{}", "a".repeat(65)), b"1")]), Err(EventError::Name { .. })));
}

#[test]
fn attributes_are_counted() {
    let names: Vec<_> = (0..MESSAGE_ATTRIBUTES_MAX - 3).map(|index| format!("ce-x{index}")).collect();
    let pairs: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), b"1".as_slice())).collect();
    let attributes = MESSAGE_ATTRIBUTES_MAX + 1;
    assert_eq!(binary(&pairs), Err(EventError::TooManyAttributes { attributes }));
    assert!(binary(&pairs[1..]).is_ok());
}

#[test]
fn an_event_and_a_plain_body_are_not_mixed_up() {
    let error = decode_with(&headers(&[("ce-id", b"1")]), b"").unwrap_err().error;
    assert_eq!(error, EventError::StrayAttribute { header: "ce-id".to_owned() });
    assert_eq!(
        binary(&[("sandpost-key", b"k")]),
        Err(EventError::StrayHeader { header: "sandpost-key", attribute: "partitionkey" })
    );
}

#[test]
fn structured_data_keeps_its_bytes() {
    let table: [(&str, Option<&str>, &[u8]); 10] = [
        (r#","data":{"a": 12345678901234567890.10}"#, Some("application/json"), br#"{"a": 12345678901234567890.10}"#),
        (r#","data":"text""#, Some("application/json"), br#""text""#),
        (r#","datacontenttype":"text/plain","data":"a\nb""#, Some("text/plain"), b"a\nb"),
        (r#","data":"a\nb","datacontenttype":"text/plain""#, Some("text/plain"), b"a\nb"),
        (r#","datacontenttype":"application/vnd.x+json","data":"t""#, Some("application/vnd.x+json"), br#""t""#),
        (r#","datacontenttype":"text/xml","data":{"a":1}"#, Some("text/xml"), br#"{"a":1}"#),
        (r#","data_base64":"AAH/""#, None, b"\0\x01\xff"),
        (r#","data":null,"data_base64":"AAH/""#, None, b"\0\x01\xff"),
        (r#","data":null"#, None, b""),
        ("", None, b""),
    ];
    for (members, content_type, data) in table {
        let event = structured(members).unwrap();
        assert_eq!((event.content_type.as_deref(), &event.data[..]), (content_type, data), "{members}");
    }
}

#[test]
fn structured_attributes_may_be_numbers_and_booleans() {
    let event = structured(r#", "n" : -7, "b":true, "gone":null, "subject":null, "s":"\u00fc""#).unwrap();
    let attributes = [("n", "-7"), ("b", "true"), ("s", "\u{fc}")];
    assert_eq!(event.attributes, attributes.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(event.subject, None);
    assert!(
        decode_structured("\u{feff}{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"s\",\"type\":\"t\"}").is_ok()
    );
}

#[test]
fn broken_structured_events_are_refused_with_the_facts() {
    let kind = |members: &str| match structured(members) {
        Err(EventError::Kind { attribute, found, .. }) => format!("{attribute} is {found}"),
        other => panic!("{members}: {other:?}"),
    };
    assert_eq!(kind(r#","subject":1"#), "subject is a number");
    assert_eq!(kind(r#","partitionkey":true"#), "partitionkey is a boolean");
    assert_eq!(kind(r#","x":1.5"#), "x is a number");
    assert_eq!(kind(r#","x":{}"#), "x is an object");
    assert_eq!(kind(r#","data_base64":[]"#), "data_base64 is an array");
    assert_eq!(structured(r#","data":1,"data_base64":"AA==""#), Err(EventError::DataTwice));
    assert_eq!(structured(r#","id":"2""#), Err(EventError::Repeated { attribute: "id".to_owned() }));
    assert_eq!(structured(r#","data":1,"data":2"#), Err(EventError::Repeated { attribute: "data".to_owned() }));
    assert_eq!(structured(r#","Upper":"1""#), Err(EventError::Name { name: "Upper".to_owned() }));
    assert!(matches!(structured(r#","data_base64":"?""#), Err(EventError::Base64 { .. })));
    assert!(matches!(structured(r#","subject":"\ud800""#), Err(EventError::Json { .. })));
    assert!(matches!(decode_structured("{"), Err(EventError::Json { line: 1, .. })));
    assert!(matches!(decode_structured(""), Err(EventError::Json { .. })));
    assert_eq!(decode_structured("[]"), Err(EventError::NotAnObject { found: "an array" }));
    assert_eq!(decode_structured("{}"), Err(EventError::Missing { attribute: "specversion" }));
    let error = decode_with(&headers(&[("content-type", b"application/cloudevents+avro")]), b"").unwrap_err();
    assert_eq!(error.error, EventError::Format { found: "application/cloudevents+avro".to_owned() });
}

#[test]
fn a_batch_is_an_array_and_names_the_event_that_is_broken() {
    let batch =
        |body: &str| decode_with(&headers(&[("content-type", b"application/cloudevents-batch+json")]), body.as_bytes());
    let event = |id: &str| format!(r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"t","data":{id}}}"#);
    assert_eq!(batch("[]"), Ok(vec![]));
    let events = batch(&format!(" [ {} , {} ]\n", event("1"), event("2"))).unwrap();
    assert_eq!(events.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), ["1", "2"]);
    let error = batch(&format!("[{},{{}}]", event("1"))).unwrap_err();
    assert_eq!(error, DecodeError { index: Some(1), error: EventError::Missing { attribute: "specversion" } });
    assert!(error.to_string().starts_with("event 1 of the batch"), "{error}");
    let whole = |error| Err(DecodeError { index: None, error });
    assert_eq!(batch("{}"), whole(EventError::NotAnArray { found: "an object" }));
    assert_eq!(batch("[1]").unwrap_err().error, EventError::NotAnObject { found: "a number" });
    assert!(matches!(batch("[").unwrap_err().error, EventError::Json { .. }));
}

fn message(event: Event) -> Message {
    Message { offset: 41, sequence: 7, topic_id: TopicId(1), accepted_ms: 0, event }
}

fn event_with(content_type: Option<&str>, data: &[u8]) -> Event {
    Event {
        topic: topic(),
        id: "1".to_owned(),
        source: "/s".to_owned(),
        kind: "t".to_owned(),
        subject: None,
        key: None,
        content_type: content_type.map(str::to_owned),
        attributes: vec![],
        data: Bytes::copy_from_slice(data),
        hops: 0,
        named: true,
        deliver_at_ms: None,
    }
}

#[test]
fn data_is_encoded_as_people_would_write_it() {
    let nested = format!("{}1{}", "[".repeat(127), "]".repeat(127));
    let table: [(Option<&str>, &[u8], &str); 12] = [
        (Some("application/json"), b"{\"a\":1e2}", r#""data":{"a":1e2}"#),
        (Some("application/json"), b" {\"a\":\r\n1}\n", r#""data":{"a":  1}"#),
        (Some("application/json"), b"{broken", r#""data_base64":"e2Jyb2tlbg==""#),
        (Some("application/json"), b"1],[2", r#""data_base64":"MV0sWzI=""#),
        (Some("application/json"), b"null", r#""data_base64":"bnVsbA==""#),
        (Some("application/json"), b"\"\\ud800\"", r#""data_base64":"Ilx1ZDgwMCI=""#),
        (Some("application/json"), b"1e999", r#""data_base64":"MWU5OTk=""#),
        (Some("text/plain"), b"a\"b", r#""data":"a\"b""#),
        (Some("image/png"), b"\x89PNG", r#""data_base64":"iVBORw==""#),
        (None, b"{}", r#""data_base64":"e30=""#),
        (Some("text/plain"), b"", r#""offset":41}"#),
        (Some("application/json"), nested.as_bytes(), r#""data_base64":"W1tb"#),
    ];
    for (content_type, data, expected) in table {
        let line = encode(&message(event_with(content_type, data)));
        assert!(line.contains(expected), "{line}");
        assert!(!line.contains(['\r', '\n']), "{line}");
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["data"].is_null() && value["data_base64"].is_null(), data.is_empty(), "{line}");
    }
}

#[test]
fn the_place_of_a_message_stands_in_its_encoding() {
    let mut event = event_with(Some("text/plain"), b"x");
    event.attributes = vec![("sequence".to_owned(), "the producer's".to_owned()), ("a".to_owned(), "1".to_owned())];
    let value: Value = serde_json::from_str(&encode(&message(event))).unwrap();
    let expected = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "datacontenttype": "text/plain",
        "a": "1", "topic": "order.placed", "sequence": 7, "offset": 41, "data": "x"});
    assert_eq!(value, expected);
}

/// Texts that an attribute may hold.
fn value() -> impl Strategy<Value = String> {
    "[^\\p{Cc}]{1,12}"
}

fn data() -> impl Strategy<Value = (Option<String>, Vec<u8>)> {
    let json = prop_oneof![
        Just("{\"a\":[1,2.50,null,\"x\\n\"]}".to_owned()),
        "[0-9]{1,30}".prop_map(|digits| format!("1{digits}")),
        value().prop_map(|text| Value::from(text).to_string()),
        "[\\[\\]{}\",:0-9a-z]{1,8}",
        Just("null".to_owned()),
    ];
    prop_oneof![
        json.prop_map(|text| (Some("application/json".to_owned()), text.into_bytes())),
        ".{0,12}".prop_map(|text| (Some("text/plain; charset=utf-8".to_owned()), text.into_bytes())),
        prop::collection::vec(any::<u8>(), 0..12).prop_map(|bytes| (Some("image/png".to_owned()), bytes)),
        prop::collection::vec(any::<u8>(), 0..12).prop_map(|bytes| (Some("application/json".to_owned()), bytes)),
        prop::collection::vec(any::<u8>(), 0..12).prop_map(|bytes| (None, bytes)),
    ]
}

prop_compose! {
    fn event()(
        id in value(), source in value(), kind in value(), subject in prop::option::of(value()),
        key in prop::option::of(value()), (content_type, data) in data(),
        others in prop::collection::btree_map("x[a-z0-9]{0,8}", "[^\\p{Cc}]{0,8}", 0..4),
    ) -> Event {
        Event {
            topic: topic(), id, source, kind, subject, key, content_type,
            attributes: others.into_iter().collect(), data: data.into(), hops: 0, named: true,
            deliver_at_ms: None,
        }
    }
}

proptest! {
    #[test]
    fn an_encoded_message_is_decoded_to_the_same_event(event in event()) {
        let line = encode(&message(event.clone()));
        let mut decoded = decode_structured(&line).unwrap();
        let place: BTreeMap<_, _> = decoded
            .attributes
            .extract_if(.., |(name, _)| matches!(name.as_str(), "topic" | "sequence" | "offset"))
            .collect();
        prop_assert_eq!(place.len(), 3);
        // White space around JSON is all that may be lost.
        if event.content_type.as_deref().is_some_and(is_json) {
            prop_assert_eq!(decoded.data.trim_ascii(), event.data.trim_ascii());
            decoded.data = event.data.clone();
        }
        prop_assert_eq!(decoded, event);
    }

    #[test]
    fn a_percent_encoded_header_is_decoded_to_the_same_text(text in "[^\\p{Cc}]{1,20}") {
        let raw = percent_encoding::utf8_percent_encode(&text, HEADER).to_string();
        prop_assert_eq!(binary(&[("ce-subject", raw.as_bytes())]).unwrap().subject, Some(text));
    }

    #[test]
    fn any_headers_and_body_are_answered_without_a_panic(
        content_type in prop_oneof![
            Just("application/cloudevents+json"), Just("application/cloudevents-batch+json"),
            Just("application/json"), Just("application/cloudevents"), Just(""),
        ],
        names in prop::collection::vec("(ce-[a-z0-9-]{0,8}|ce-id|ce-type|ce-source|sandpost-key)", 0..6),
        values in prop::collection::vec(prop::collection::vec(prop_oneof![32u8..127, 128u8..=255], 0..8), 6),
        version in any::<bool>(),
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..64),
            "[\\[\\]{}\",:a-z0-9\\\\ ]{0,64}".prop_map(String::into_bytes),
        ],
    ) {
        let mut map = headers(&[("content-type", content_type.as_bytes())]);
        if version { map.insert("ce-specversion", HeaderValue::from_static("1.0")); }
        for (name, value) in names.iter().zip(&values) {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value).unwrap());
        }
        match decode_with(&map, &body) {
            Ok(events) => for event in events {
                prop_assert!(!event.id.is_empty() && !event.source.is_empty() && !event.kind.is_empty());
                let _: Value = serde_json::from_str(&encode(&message(event))).unwrap();
            },
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
