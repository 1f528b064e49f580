//! What a handler can rely on, as `testing` keeps it.

use sandpost_sdk::prelude::*;
use sandpost_sdk::testing::{Settlement, TestBus, json_message, message};
use sandpost_sdk::{PublishError, StateError};
use serde_json::json;
use std::time::Duration;

#[derive(serde::Deserialize)]
struct Order {
    id: String,
    total_cents: u64,
}

fn count(Json(order): Json<Order>, bus: &Bus) -> Result<(), Failure> {
    let cents = bus.state().update_json("cents", |cents: &mut u64| *cents += order.total_cents)?;
    bus.publish(Event::json("counted", &json!({ "order": order.id, "cents": cents }))?.key(order.id))?;
    bus.info("counted");
    let last_good: u64 = bus.config_or("last_good", u64::MAX)?;
    if cents > last_good {
        return Err(Failure::retry(format!("{cents} cents are too many")));
    }
    Ok(())
}

sandpost_sdk::consumer!(count);

#[test]
fn effects_stay_with_an_acknowledgement_and_vanish_with_a_failure() {
    let mut bus = TestBus::new().grant("counted").config("last_good", "500").max_attempts(3);
    let order = json_message("order.placed", &json!({ "id": "o-1", "total_cents": 300 }));

    let run = bus.deliver(count, &order);
    assert_eq!(run.outcome, Ok(()));
    assert_eq!(run.published_json::<serde_json::Value>("counted"), [json!({ "order": "o-1", "cents": 300 })]);
    assert_eq!(run.published[0].key.as_deref(), Some("o-1"));
    assert_eq!(bus.stored_json::<u64>("cents"), Some(300));

    let (settlement, runs) = bus.settle(count, &order);
    assert_eq!(settlement, Settlement::Dead("600 cents are too many".into()));
    assert_eq!(runs.len(), 3);
    assert!(runs.iter().all(|run| run.published.is_empty() && run.state_changes.is_empty()));
    assert!(runs.iter().all(|run| run.logged == [(Level::Info, "counted".to_owned())]), "a line stays");
    assert_eq!(bus.stored_json::<u64>("cents"), Some(300));
}

#[test]
fn data_of_another_shape_is_rejected_with_what_is_wrong() {
    let run = TestBus::new().deliver(count, &message("order.placed", r#"{"id":"o-1"}"#));
    let failure = run.outcome.unwrap_err();
    assert!(matches!(failure, Failure::Reject(_)));
    assert!(failure.reason().contains("consumer::Order: missing field `total_cents`"), "{failure}");
}

#[test]
fn a_manifest_that_is_wrong_is_not_charged_to_the_message() {
    let order = json_message("order.placed", &json!({ "id": "o-1", "total_cents": 300 }));
    let mut bus = TestBus::new().grant("counted").config("last_good", "many");
    let (settlement, runs) = bus.settle(count, &order);
    assert!(matches!(&settlement, Settlement::Pending(reason) if reason.contains("last_good")), "{settlement:?}");
    assert_eq!(runs.len(), 1);
}

#[test]
fn a_manifest_gives_config_grants_and_attempts() {
    let mut bus = TestBus::with_manifest(
        r#"
        [[subscription]]
        topics = ["order.placed"]
        [subscription.retry]
        max_attempts = 2
        [grants]
        publish = ["counted"]
        [config]
        last_good = "0"
        "#,
    );
    let order = json_message("order.placed", &json!({ "id": "o-1", "total_cents": 300 }));
    assert_eq!(bus.settle(count, &order).1.len(), 2);
}

#[test]
fn raw_messages_and_texts_are_inputs_too() {
    fn raw(message: &Message, bus: &Bus) -> Result<(), Failure> {
        bus.state().set(&message.topic, &message.data)?;
        Ok(())
    }
    fn text(text: String, bus: &Bus) -> Result<(), Failure> {
        bus.state().set("text", text)?;
        Ok(())
    }
    let mut bus = TestBus::new();
    assert_eq!(bus.deliver(raw, &message("bytes", [0xff, 0x00])).outcome, Ok(()));
    assert_eq!(bus.deliver(text, &message("text", "hello")).outcome, Ok(()));
    assert_eq!(bus.stored()["bytes"], [0xff, 0x00]);
    assert_eq!(bus.stored()["text"], b"hello");
    assert!(matches!(bus.deliver(text, &message("text", [0xff])).outcome, Err(Failure::Reject(_))));
}

#[test]
fn a_retry_moves_the_attempt_and_the_clock() {
    fn third_time(_: &Message, bus: &Bus) -> Result<(), Failure> {
        let delivery = bus.delivery();
        let waited_ms = u64::from(delivery.attempt - 1) * 10_000;
        assert_eq!(bus.now_ms() - delivery.first_attempt_ms, waited_ms);
        assert_eq!(delivery.remaining(bus.now_ms()), Duration::from_secs(5));
        if delivery.attempt < 3 {
            return Err(Failure::retry("not yet").after(Duration::from_secs(10)));
        }
        Ok(())
    }
    let (settlement, runs) = TestBus::new().settle(third_time, &message("t", ""));
    assert_eq!((settlement, runs.len()), (Settlement::Acked, 3));
}

#[test]
fn what_a_refused_publish_says() {
    fn publish(message: &Message, bus: &Bus) -> Result<(), Failure> {
        let refused = |event| bus.publish(event).unwrap_err();
        assert!(matches!(refused(Event::text("other", "x")), PublishError::NotGranted(_)));
        assert!(matches!(refused(Event::text("a..b", "x")), PublishError::Invalid(_)));
        assert!(matches!(refused(Event::text("$lag.x", "x")), PublishError::Invalid(_)));
        let event = Event::text(&message.topic, "x");
        assert!(matches!(refused(event.clone().attribute("Trace-Id", "1")), PublishError::Invalid(_)));
        let large = Event::bytes(&message.topic, vec![0; 1024 * 1024 + 1]);
        assert!(matches!(refused(large), PublishError::TooLarge(_)));
        for _ in 0..1_000 {
            bus.publish(event.clone())?;
        }
        assert!(matches!(refused(event), PublishError::TooMany(_)));
        Ok(())
    }
    let run = TestBus::new().grant("t").deliver(publish, &message("t", ""));
    assert_eq!((run.outcome, run.published.len()), (Ok(()), 1_000));
}

#[test]
fn a_call_sees_its_own_writes_in_order() {
    fn keys(bus: &Bus, prefix: &str) -> Vec<String> {
        bus.state().entries(prefix).map(|entry| entry.unwrap().key).collect()
    }
    fn write(_: &Message, bus: &Bus) -> Result<(), Failure> {
        let state = bus.state();
        state.delete("a/1")?;
        state.set("a/3", "three")?;
        state.set("b/1", "other")?;
        assert_eq!(keys(bus, "a/"), ["a/2", "a/3"]);
        assert_eq!(state.get("a/3")?.as_deref(), Some(b"three".as_slice()));
        assert_eq!(state.scan("a/", Some("a/2"), 10)?.len(), 1);
        assert_eq!(state.scan("", None, 1)?.len(), 1);
        assert!(matches!(state.get(""), Err(StateError::InvalidKey(_))));
        assert!(matches!(state.set(&"k".repeat(1_025), "v"), Err(StateError::InvalidKey(_))));
        assert!(matches!(state.set("k", vec![0; 1024 * 1024 + 1]), Err(StateError::TooLarge(_))));
        assert!(matches!(state.get_json::<u64>("a/3"), Err(StateError::NotJson { .. })));
        for n in 0..600 {
            state.set_json(&format!("many/{n:04}"), &n)?;
        }
        assert_eq!(keys(bus, "many/").len(), 600, "more than one page");
        Ok(())
    }
    let mut bus = TestBus::new().state("a/1", "one").state("a/2", "two");
    let run = bus.deliver(write, &message("t", ""));
    assert_eq!(run.outcome, Ok(()));
    assert_eq!(run.state_changes["a/1"], None);
    assert!(!bus.stored().contains_key("a/1"));
}
