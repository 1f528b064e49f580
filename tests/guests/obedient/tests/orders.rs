//! The guest obeys, and its orders survive the way through JSON.

use obedient::{Order, handle};
use sandpost_sdk::prelude::*;
use sandpost_sdk::testing::{Settlement, TestBus, message};
use serde_json::{Value, json};
use std::time::Duration;

fn bus() -> TestBus {
    TestBus::new().grant("told").config("name", "value").at_ms(1_000)
}

fn order(json: Value) -> Order {
    serde_json::from_value(json).unwrap()
}

fn told(order: &Order) -> Message {
    Message { key: Some("k".into()), ..message("orders", order.to_json()) }
}

#[test]
fn orders_are_read_as_they_are_written() {
    let publish = json!({ "do": "publish", "topic": "told", "then": { "do": "retry-until", "attempt": 3 } });
    let orders = [
        json!({ "do": "ack" }),
        json!({ "do": "retry", "reason": "not now", "after_ms": 20 }),
        json!({ "do": "trap-when-reused", "text": "again?" }),
        json!({ "do": "flood-stderr", "lines": 10, "bytes": 20 }),
        json!({ "do": "all", "orders": [{ "do": "spin" }, { "do": "increment", "key": "n" }] }),
        publish,
    ];
    for json in orders {
        let order = order(json);
        assert_eq!(serde_json::from_str::<Order>(&order.to_json()).unwrap(), order);
    }
    assert!(serde_json::from_str::<Order>(r#"{"do":"retry","reason":"r","after":1}"#).is_err(), "a typing error");
}

#[test]
fn it_fails_as_told() {
    let fails = |json| bus().deliver(handle, &told(&order(json))).outcome.unwrap_err();
    let delay = Duration::from_millis(20);
    let retry = json!({ "do": "retry", "reason": "not now", "after_ms": 20 });
    assert_eq!(fails(retry), Failure::retry("not now").after(delay));
    let unavailable = json!({ "do": "unavailable", "reason": "closed", "after_ms": 20 });
    assert_eq!(fails(unavailable), Failure::unavailable("closed").after(delay));
    assert_eq!(fails(json!({ "do": "reject", "reason": "never" })), Failure::reject("never"));
    assert!(matches!(bus().deliver(handle, &message("orders", "no order")).outcome, Err(Failure::Reject(_))));

    let third =
        order(json!({ "do": "retry-until", "attempt": 3, "then": { "do": "set-state", "key": "k", "value": "v" } }));
    let mut bus = bus();
    let (settlement, runs) = bus.settle(handle, &told(&third));
    assert_eq!((settlement, runs.len()), (Settlement::Acked, 3));
    assert_eq!(bus.stored()["k"], b"v");
}

#[test]
#[should_panic(expected = "as told")]
fn it_panics_as_told() {
    bus().deliver(handle, &told(&Order::Trap { text: "as told".into() }));
}

#[test]
fn it_publishes_and_writes_as_told() {
    let mut bus = bus();
    let orders = order(json!({ "do": "all", "orders": [
        { "do": "publish", "topic": "told", "count": 2, "data": "hello", "key": "other", "deliver_after_ms": 500 },
        { "do": "increment", "key": "n" },
        { "do": "increment", "key": "n" },
        { "do": "fill-state", "prefix": "many/", "count": 3, "bytes": 1 },
        { "do": "delete-state", "key": "many/000001" },
        { "do": "get-state", "key": "n", "topic": "told" },
        { "do": "scan-state", "prefix": "many/", "limit": 10, "topic": "told" },
    ] }));
    let run = bus.deliver(handle, &told(&orders));
    assert_eq!(run.outcome, Ok(()));
    let event = Event::text("told", "hello").key("other").deliver_at_ms(1_500);
    assert_eq!(run.published[..2], [event.clone(), event]);
    assert_eq!(run.published[2].data, br#"{"key":"n","value":"2"}"#);
    assert_eq!(run.published[3].data, br#"{"entries":[["many/000000","x"],["many/000002","x"]]}"#);
    assert_eq!(run.published[3].key.as_deref(), Some("k"));

    let failing = order(json!({ "do": "increment", "key": "n", "then": { "do": "retry", "reason": "no" } }));
    assert!(bus.deliver(handle, &told(&failing)).outcome.is_err());
    assert_eq!(bus.stored_json::<u64>("n"), Some(2));
}

#[test]
fn it_reports_what_it_finds() {
    let report = |json| {
        let run = bus().deliver(handle, &told(&order(json)));
        assert_eq!(run.outcome, Ok(()));
        run.published_json::<Value>("told").remove(0)
    };
    assert_eq!(report(json!({ "do": "config", "name": "name", "topic": "told" }))["value"], "value");
    let echo = report(json!({ "do": "echo", "topic": "told" }));
    assert_eq!(echo["message"]["topic"], "orders");
    assert_eq!(echo["delivery"]["attempt"], 1);
    assert_eq!(echo["now_ms"], 1_000);
    let refused = report(json!({ "do": "try-publish", "to": "elsewhere", "bytes": 1, "topic": "told" }));
    assert!(refused["error"].as_str().unwrap().starts_with("NotGranted"), "{refused}");
    let missing = report(json!({ "do": "read-file", "path": "/no/such/file", "topic": "told" }));
    assert!(missing["error"].is_string() && missing.get("ok").is_none(), "{missing}");
    let random = json!({ "do": "random", "topic": "told" });
    assert_ne!(report(random.clone()), report(random));
}
