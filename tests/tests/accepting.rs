//! What comes in twice, too early, too late or too large.

use obedient::Order;
use sandpost_tests::{Answer, Client, Daemon, guest, publishing};
use serde_json::{Value, json};

const MANIFEST: &str = r#"
[[subscription]]
topics = ["orders"]
[grants]
publish = ["staged"]
"#;

/// A binary event with this id, and with further headers.
fn event(bus: &Client, id: &str, headers: &[(&str, &str)], data: impl AsRef<[u8]>) -> Answer {
    let mut all = vec![
        ("ce-specversion", "1.0"),
        ("ce-id", id),
        ("ce-source", "/shop"),
        ("ce-type", "order"),
        ("content-type", "application/json"),
    ];
    all.extend_from_slice(headers);
    bus.post("/topics/orders", &all, data)
}

fn in_milliseconds(ms: u64) -> String {
    format!("{ms}ms")
}

fn order(order: &Order) -> String {
    serde_json::to_string(order).unwrap()
}

#[test]
fn an_event_that_comes_twice_is_stored_once_also_over_a_crash() {
    let mut daemon = Daemon::with("worker", &guest("obedient"), MANIFEST);
    let bus = daemon.client();
    let ack = order(&Order::Ack);
    let first: Value = event(&bus, "a", &[], &ack).expect(201).json();
    let again: Value = event(&bus, "a", &[], "\"other data\"").expect(200).json();
    assert_eq!((&again["sequence"], &again["offset"]), (&first["sequence"], &first["offset"]));
    assert_eq!((&first["duplicate"], &again["duplicate"]), (&Value::Null, &json!(true)));
    // Another source or topic makes it another event.
    bus.post(
        "/topics/orders",
        &[("ce-specversion", "1.0"), ("ce-id", "a"), ("ce-source", "/other"), ("ce-type", "order")],
        &ack,
    )
    .expect(201);
    // What has no id of its own is stored as often as it comes.
    for _ in 0..2 {
        bus.post("/topics/orders", &[], &ack).expect(201);
    }

    let one = |id: &str| json!({ "specversion": "1.0", "id": id, "source": "/shop", "type": "order", "data": { "do": "ack" } });
    let batch = |ids: [&str; 3]| {
        let body = json!(ids.map(one)).to_string();
        bus.post("/topics/orders", &[("content-type", "application/cloudevents-batch+json")], body)
    };
    let answered: Vec<Value> = batch(["b", "a", "b"]).expect(201).json();
    assert_eq!(answered.iter().map(|one| one["duplicate"] == true).collect::<Vec<_>>(), [false, true, true]);
    assert_eq!(answered[0]["offset"], answered[2]["offset"]);
    assert_eq!(answered[1]["offset"], first["offset"]);
    batch(["b", "a", "b"]).expect(200);

    daemon.kill();
    daemon.restart();
    let bus = daemon.client();
    let after: Value = event(&bus, "a", &[], &ack).expect(200).json();
    assert_eq!(after["offset"], first["offset"]);
    let worker = daemon.settled("worker");
    assert_eq!((worker.matched, worker.acked), (5, 5));
    assert_eq!(bus.messages("orders").len(), 5);
    assert!(bus.metrics()["sandpost_duplicates_total"] >= 1.0);
    assert_eq!(bus.metrics()["sandpost_dedupe_window_seconds"], 120.0);
}

#[test]
fn many_who_publish_the_same_at_once_are_all_answered_with_one_place() {
    let mut daemon = Daemon::with("worker", &guest("obedient"), MANIFEST);
    let bus = daemon.client();
    let ack = order(&Order::Ack);
    let answers: Vec<(u16, u64)> = std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    (0..20)
                        .map(|number| {
                            let answer = event(&bus, &format!("event-{number}"), &[], &ack);
                            (answer.status, answer.json::<Value>()["offset"].as_u64().unwrap())
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        publishers.into_iter().flat_map(|publisher| publisher.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|(status, _)| *status == 201).count(), 20);
    assert_eq!(answers.iter().filter(|(status, _)| *status == 200).count(), 140);
    let places: std::collections::BTreeSet<u64> = answers.iter().map(|(_, offset)| *offset).collect();
    assert_eq!(places.len(), 20);
    assert_eq!(daemon.settled("worker").acked, 20);
}

#[test]
fn without_a_window_every_event_is_stored() {
    let daemon = Daemon::setup().flag("--dedupe-window", "0s").start();
    let bus = daemon.client();
    for _ in 0..2 {
        event(&bus, "a", &[], "{}").expect(201);
    }
}

fn scheduled(bus: &Client) -> Vec<Value> {
    bus.get("/scheduled").expect(200).json()
}

#[test]
fn a_message_for_later_waits_over_a_crash_and_comes_once() {
    let mut daemon = Daemon::with("worker", &guest("obedient"), MANIFEST);
    let bus = daemon.client();
    let ack = order(&Order::Ack);
    // Far enough ahead that it cannot come while the test looks at it.
    let far: Value =
        event(&bus, "far", &[("ce-deliverafter", "1h"), ("ce-partitionkey", "k")], &ack).expect(202).json();
    let soon: Value = event(&bus, "soon", &[("ce-deliverafter", &in_milliseconds(700))], &ack).expect(202).json();
    assert_eq!((&far["sequence"], &far["id"]), (&Value::Null, &json!("far")));
    assert_ne!(far["scheduled"], soon["scheduled"]);
    // A duplicate is answered with the first one's number and time, whatever it asks for.
    let again: Value = event(&bus, "far", &[], &ack).expect(202).json();
    assert_eq!((&again["scheduled"], &again["deliver_at"]), (&far["scheduled"], &far["deliver_at"]));

    daemon.kill();
    daemon.restart();
    daemon.wait_until("the message that is due comes", |bus| scheduled(bus).len() == 1);
    let bus = daemon.client();
    assert_eq!(daemon.settled("worker").acked, 1);
    let messages = bus.messages("orders");
    assert_eq!(messages.iter().map(|message| message.id.as_str()).collect::<Vec<_>>(), ["soon"]);
    assert!(!messages[0].others.contains_key("deliverafter"), "{messages:?}");
    event(&bus, "soon", &[], &ack).expect(200);

    let listed = scheduled(&bus);
    assert_eq!(
        (&listed[0]["id"], &listed[0]["key"], &listed[0]["topic"]),
        (&json!("far"), &json!("k"), &json!("orders"))
    );
    let number = listed[0]["scheduled"].as_u64().unwrap();
    let whole: Value = bus.get(&format!("/scheduled/{number}")).expect(200).json();
    assert_eq!(whole["message"]["data"], json!({ "do": "ack" }));
    assert_eq!(whole["message"]["deliverat"], listed[0]["deliver_at"]);
    assert_eq!(bus.metrics()["sandpost_scheduled_messages"], 1.0);

    bus.delete(&format!("/scheduled/{number}")).expect(204);
    bus.delete(&format!("/scheduled/{number}")).problem(404, "unknown-scheduled");
    bus.get(&format!("/scheduled/{number}")).problem(404, "unknown-scheduled");
    daemon.kill();
    daemon.restart();
    assert!(scheduled(&daemon.client()).is_empty(), "what was cancelled stays so");
}

#[test]
fn the_schedule_is_read_in_pages_and_by_topic() {
    let daemon = Daemon::setup().start();
    let bus = daemon.client();
    for number in 0..25 {
        let topic = if number % 5 == 0 { "odd.one" } else { "plain.one" };
        let after = format!("{}s", 3_600 + (number * 7) % 25);
        bus.post(&format!("/topics/{topic}"), &[("sandpost-deliver-after", &after)], "x").expect(202);
    }
    let mut seen: Vec<Value> = Vec::new();
    let mut next = "/scheduled?limit=4".to_owned();
    loop {
        let answer = bus.get(&next).expect(200);
        seen.extend(answer.json::<Vec<Value>>());
        let Some(link) = answer.headers.get("link") else { break };
        next = link.trim_start_matches('<').split('>').next().unwrap().to_owned();
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.windows(2).all(|two| two[0]["deliver_at_ms"].as_u64() <= two[1]["deliver_at_ms"].as_u64()));
    let odd: Vec<Value> = bus.get("/scheduled?topic=odd.*").expect(200).json();
    assert_eq!(odd.len(), 5);
    bus.get("/scheduled?after=yesterday").problem(400, "bad-parameter");

    // The same on the command line.
    let number = odd[0]["scheduled"].to_string();
    let listed = daemon.cli(&["scheduled", "list", "--topic", "odd.>"]);
    assert!(listed.success().stdout.lines().count() == 6, "{listed:?}");
    assert!(daemon.cli(&["scheduled", "show", &number]).success().stdout.contains("odd.one"));
    daemon.cli(&["scheduled", "cancel", &number]).success();
    assert_eq!(bus.get("/scheduled?topic=odd.*").expect(200).json::<Vec<Value>>().len(), 4);
    let published =
        daemon.cli(&["publish", "later.one", "--data", "x", "--deliver-after", "1h", "--expires-after", "2h"]);
    assert!(published.success().stdout.starts_with("later.one at 2"), "{published:?}");
}

#[test]
fn thousands_that_are_due_at_once_come_in_the_order_of_their_times() {
    let mut daemon = Daemon::with("worker", &guest("obedient"), MANIFEST);
    let bus = daemon.client();
    let due = time_in(6_000);
    for page in 0..5 {
        let batch: Vec<Value> = (0..1_000)
            .map(|number| {
                json!({ "specversion": "1.0", "id": format!("{page}-{number}"), "source": "/shop", "type": "order",
                    "partitionkey": format!("k{}", number % 7), "deliverat": due, "data": { "do": "ack" } })
            })
            .collect();
        let headers = [("content-type", "application/cloudevents-batch+json")];
        bus.post("/topics/orders", &headers, json!(batch).to_string()).expect(202);
    }
    daemon.kill();
    daemon.restart();
    daemon.wait_until("all are due and come", |bus| bus.subscription("worker").acked == 5_000);
    let ids: Vec<String> = daemon.client().messages("orders").into_iter().map(|message| message.id).collect();
    let expected: Vec<String> = (0..5).flat_map(|page| (0..1_000).map(move |n| format!("{page}-{n}"))).collect();
    assert_eq!(ids, expected, "of the same time, in the order of acceptance");
}

/// The time so many milliseconds from now, as RFC 3339 writes it.
fn time_in(ms: i64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let at = i64::try_from(now.as_millis()).unwrap() + ms;
    jiff::Timestamp::from_millisecond(at).unwrap().to_string()
}

#[test]
fn a_handler_publishes_for_later_with_its_acknowledgement_or_not_at_all() {
    let mut daemon = Daemon::with("worker", &guest("obedient"), MANIFEST);
    let bus = daemon.client();
    let later = |ms| match publishing("staged", "later", 2) {
        Order::Publish { topic, count, data, attributes, .. } => Order::Publish {
            topic,
            count,
            data,
            attributes,
            key: None,
            id: None,
            deliver_after_ms: Some(ms),
            expires_after_ms: None,
            then: None,
        },
        other => other,
    };
    let then_rejected = Order::All { orders: vec![later(3_600_000), Order::Reject { reason: "as told".into() }] };
    bus.publish("orders", None, order(&then_rejected));
    assert_eq!(daemon.settled("worker").dead, 1);
    assert!(scheduled(&bus).is_empty());
    bus.publish("orders", None, order(&later(3_600_000)));
    assert_eq!(daemon.settled("worker").acked, 1);
    assert_eq!(scheduled(&bus).len(), 2);
    bus.publish("orders", None, order(&later(200)));
    daemon.wait_until("the staged messages are due", |bus| bus.messages("staged").len() == 2);
}

#[test]
fn what_is_too_large_is_told_how_to_go_by_reference() {
    let mut daemon =
        Daemon::setup().flag("--message-data-max", "1KiB").plugin("worker", &guest("obedient"), MANIFEST).start();
    let bus = daemon.client();
    let refused = event(&bus, "large", &[], vec![b'x'; 2_000]).problem(413, "too-large");
    assert!(refused.hint.contains("dataref"), "{refused:?}");
    let body = json!([{ "specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": "x".repeat(2_000) }]);
    let headers = [("content-type", "application/cloudevents-batch+json")];
    let refused = bus.post("/topics/orders", &headers, body.to_string()).problem(413, "too-large");
    assert!(refused.hint.contains("dataref"), "{refused:?}");
    let refused = daemon.cli(&["publish", "orders", "--data", &"x".repeat(2_000)]);
    assert!(refused.stderr.contains("dataref"), "{refused:?}");

    // The reference survives every path: all modes, the schedule, a read, a dead letter and its redrive.
    let reference = "https://store.example.com/a%20b?c=d";
    let reject = order(&Order::Reject { reason: "as told".into() });
    event(&bus, "binary", &[("ce-dataref", "https://store.example.com/a%2520b?c=d")], &reject).expect(201);
    let one = |id: &str, more: Value| {
        let mut event = json!({ "specversion": "1.0", "id": id, "source": "/s", "type": "t", "dataref": reference, "data": { "do": "ack" } });
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    };
    let structured = [("content-type", "application/cloudevents+json")];
    bus.post("/topics/orders", &structured, one("structured", json!({})).to_string()).expect(201);
    bus.post("/topics/orders", &structured, one("later", json!({ "deliverafter": "300ms" })).to_string()).expect(202);
    bus.post("/topics/orders", &headers, json!([one("batched", json!({}))]).to_string()).expect(201);
    daemon.wait_until("all four are messages", |bus| bus.messages("orders").len() == 4);
    for message in bus.messages("orders") {
        assert_eq!(message.others["dataref"], reference, "{message:?}");
    }
    let letter = &daemon.settled("worker");
    assert_eq!((letter.dead, letter.acked), (1, 3));
    let id = bus.dead_letters("worker")[0].id.clone();
    let shown: Value = bus.get(&format!("/dead-letters/{id}")).expect(200).json();
    assert_eq!(shown["message"]["dataref"], reference);
    assert_eq!(bus.redrive(&json!({ "ids": [id] })), 1);
    assert_eq!(daemon.settled("worker").dead, 1);
    assert_eq!(bus.messages("orders")[0].others["dataref"], reference);
}
