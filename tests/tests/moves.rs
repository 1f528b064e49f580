//! What becomes of messages besides being called: parked, expired, met again, skipped, taken away.

use obedient::Order;
use sandpost_tests::{Accepted, Client, Daemon, Subscription, guest};
use serde_json::{Value, json};

/// For the guest `versioned`, which fails where it is not granted to publish.
fn versioned(on_exhausted: &str, granted: bool) -> String {
    let grants = if granted { "\"seen\"" } else { "" };
    format!(
        "[[subscription]]\ntopics = [\"orders\"]\nconcurrency = 1\n\
         [subscription.retry]\nmax_attempts = 1\non_exhausted = \"{on_exhausted}\"\n\
         [grants]\npublish = [{grants}]\n[config]\ntopic = \"seen\"\nversion = \"1\"\n"
    )
}

const OBEDIENT: &str = "[[subscription]]\ntopics = [\"orders\", \"others\"]\n[subscription.retry]\nmax_attempts = 2\n";

fn waits_parked(bus: &mut Daemon, parked: u64) -> Subscription {
    let mut last = None;
    bus.wait_until(&format!("{parked} messages are parked, and nothing else waits"), |bus| {
        let view = bus.subscription("worker");
        let holds = view.waiting.parked == parked && view.pending == parked;
        last = Some(view);
        holds
    });
    last.expect("it was looked at")
}

fn letter(accepted: &Accepted) -> String {
    format!("worker:{}", accepted.offset)
}

/// The ids that the guest handled, in this order.
fn handled(bus: &Client) -> Vec<Value> {
    bus.messages("seen").into_iter().map(|event| event.data["id"].clone()).collect()
}

fn ids<'a>(accepted: impl IntoIterator<Item = &'a Accepted>) -> Vec<Value> {
    accepted.into_iter().map(|one| Value::from(one.id.clone())).collect()
}

#[test]
fn a_parked_key_waits_for_its_dead_letter_and_goes_on_in_order() {
    let component = guest("versioned");
    let mut bus = Daemon::with("worker", &component, &versioned("park-key", false));
    let keys = [Some("a"), Some("b"), None];
    let events = (0..11).map(|n| (keys[if n == 10 { 2 } else { n % 2 }].map(str::to_owned), json!({ "number": n })));
    let published = bus.publish_many("orders", events);
    let parked = waits_parked(&mut bus, 8);
    assert_eq!((parked.dead, parked.parked_by), (3, vec![letter(&published[0]), letter(&published[1])]));
    bus.kill();
    bus.restart();
    let parked = waits_parked(&mut bus, 8);
    assert_eq!(parked.parked_by, [letter(&published[0]), letter(&published[1])]);

    // A consumer that would succeed changes nothing by itself.
    bus.put("worker", &component, &versioned("park-key", true));
    bus.wait_until("the manifest is taken over", |bus| {
        bus.plugin("worker").is_some_and(|plugin| plugin.publish == ["seen"])
    });
    waits_parked(&mut bus, 8);
    assert_eq!(bus.redrive(&json!({ "ids": [letter(&published[0])] })), 1);
    let parked = waits_parked(&mut bus, 4);
    assert_eq!(parked.parked_by, [letter(&published[1])]);
    let of_a: Vec<_> = published[..10].iter().step_by(2).collect();
    assert_eq!(handled(&bus), ids(of_a.iter().copied()), "the redriven one first, and the others in order");

    bus.kill();
    bus.restart();
    waits_parked(&mut bus, 4);
    bus.delete(&format!("/dead-letters/{}", letter(&published[1]))).expect(204);
    let account = bus.settled("worker");
    assert_eq!((account.acked, account.dead, account.skipped), (9, 1, 1));
    let of_b = published[..10].iter().skip(3).step_by(2);
    assert_eq!(handled(&bus), ids(of_a.into_iter().chain(of_b)));
}

#[test]
fn a_parked_subscription_goes_on_with_what_parked_it() {
    let component = guest("versioned");
    let mut bus = Daemon::with("worker", &component, &versioned("park", false));
    let published = bus.publish_many("orders", (0..6).map(|n| (None, json!({ "number": n }))));
    let parked = waits_parked(&mut bus, 5);
    assert_eq!((parked.dead, parked.parked_by), (1, vec![letter(&published[0])]));
    bus.kill();
    bus.restart();
    waits_parked(&mut bus, 5);
    // Redriven while the consumer still fails, it parks again.
    assert_eq!(bus.redrive(&json!({})), 1);
    bus.wait_until("it failed again", |bus| bus.dead_letters("worker").iter().any(|one| one.redrives == 1));
    waits_parked(&mut bus, 5);
    bus.put("worker", &component, &versioned("park", true));
    bus.wait_until("the manifest is taken over", |bus| {
        bus.plugin("worker").is_some_and(|plugin| plugin.publish == ["seen"])
    });
    waits_parked(&mut bus, 5);
    assert_eq!(bus.redrive(&json!({})), 1);
    assert_eq!(bus.settled("worker").acked, 6);
    let seen = handled(&bus);
    assert_eq!(seen[..1], ids(&published[..1]), "what parked it comes first");
    let mut all = seen.iter().map(Value::to_string).collect::<Vec<_>>();
    all.sort();
    let mut expected = ids(&published).iter().map(Value::to_string).collect::<Vec<_>>();
    expected.sort();
    assert_eq!(all, expected, "each was handled once");
}

#[test]
fn a_policy_that_parks_no_more_frees_what_was_parked() {
    let component = guest("versioned");
    let mut bus = Daemon::with("worker", &component, &versioned("park", false));
    let published = bus.publish_many("orders", (0..4).map(|n| (None, json!({ "number": n }))));
    waits_parked(&mut bus, 3);
    bus.put("worker", &component, &versioned("dead-letter", true));
    let account = bus.settled("worker");
    assert_eq!((account.acked, account.dead), (3, 1));
    assert_eq!(handled(&bus).len(), 3);
    // Nothing is held back again by what was freed, also not by a later policy.
    bus.put("worker", &component, &versioned("park", true));
    bus.kill();
    bus.restart();
    bus.publish("orders", None, json!({}));
    let account = bus.settled("worker");
    assert_eq!((account.acked, account.dead, account.parked_by.len()), (4, 1, 0));
    assert_eq!(bus.dead_letters("worker")[0].id, letter(&published[0]));
}

/// Publishes an order that is over at a time.
fn publish_expiring(bus: &Client, key: &str, order: &Order, expires_ms: i64) -> Accepted {
    let time = jiff::Timestamp::from_millisecond(expires_ms).expect("it is a time").to_string();
    let headers = [
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-id", &sandpost_tests::next_id()),
        ("ce-source", "/tests"),
        ("ce-type", "test.order"),
        ("ce-partitionkey", key),
        ("ce-expirytime", &time),
    ];
    let order = serde_json::to_string(order).expect("an order is JSON");
    bus.post("/topics/orders", &headers, order).expect(201).json()
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[test]
fn what_is_over_is_not_delivered_and_what_was_attempted_before_is_a_dead_letter() {
    let component = guest("obedient");
    let mut bus = Daemon::with("worker", &component, OBEDIENT);
    let expires_ms = now_ms() + 2_000;
    let again = Order::Retry { reason: "not now".into(), after_ms: Some(2_500) };
    let attempted = publish_expiring(&bus, "attempted", &again, expires_ms);
    bus.wait_until("it was attempted", |bus| bus.subscription("worker").waiting.due_later == 1);
    bus.take_away("worker");
    bus.wait_until("it is orphaned", |bus| bus.subscription("worker").status == "orphaned");
    for _ in 0..5 {
        publish_expiring(&bus, "key", &Order::Ack, expires_ms);
        bus.publish("orders", "key", Order::Ack);
    }
    bus.wait_until("the time is over", |_| now_ms() > expires_ms);
    bus.kill();
    bus.restart();
    bus.deploy("worker", &component, OBEDIENT);
    let account = bus.settled("worker");
    assert_eq!((account.expired, account.acked, account.dead, account.died("expired")), (5, 5, 1, 1));
    assert_eq!(bus.metrics()["sandpost_subscription_messages_total{subscription=\"worker\",state=\"expired\"}"], 5.0);
    let dead = bus.dead_letter(&letter(&attempted));
    assert_eq!((dead.reason.as_str(), dead.attempts_total), ("expired", 1), "it ended without another call");
    bus.kill();
    bus.restart();
    assert_eq!(bus.settled("worker").expired, 5);
    // However late it is, what is redriven is delivered.
    assert_eq!(bus.redrive(&json!({})), 1);
    bus.wait_until("it was tried again", |bus| bus.subscription("worker").waiting.due_later == 1);
}

fn seek(bus: &Client, to: Value, dry_run: bool) -> Value {
    let body = json!({ "to": to, "dry_run": dry_run }).to_string();
    bus.post("/subscriptions/worker/seek", &[("content-type", "application/json")], body).expect(200).json()
}

fn figures(view: &Value) -> [u64; 6] {
    ["pending", "reopened", "restarted", "skipped", "passed_over", "returned"].map(|name| view[name].as_u64().unwrap())
}

#[test]
fn a_seek_meets_again_what_is_behind_and_skips_what_is_before() {
    let component = guest("obedient");
    let mut bus = Daemon::with("worker", &component, OBEDIENT);
    let acks: Vec<_> = (0..10).map(|_| bus.publish("orders", "key", Order::Ack)).collect();
    let dead = bus.publish("orders", "key", Order::Reject { reason: "never".into() });
    let later = Order::Retry { reason: "later".into(), after_ms: Some(3_600_000) };
    bus.publish("orders", "held", later);
    for _ in 0..3 {
        bus.publish("orders", "held", Order::Ack);
    }
    let settled = |view: &Subscription| (view.acked, view.dead, view.pending, view.skipped, view.reopened);
    bus.wait_until("all but the held ones is settled", |bus| {
        settled(&bus.subscription("worker")) == (10, 1, 4, 0, 0) && bus.subscription("worker").waiting.due_later == 1
    });

    let preview = seek(&bus, json!("beginning"), true);
    assert_eq!(figures(&preview), [14, 10, 4, 0, 1, 0], "{preview}");
    assert_eq!(settled(&bus.subscription("worker")), (10, 1, 4, 0, 0), "a preview changes nothing");
    let sought = seek(&bus, json!("beginning"), false);
    assert_eq!((figures(&sought), &sought["dry_run"]), (figures(&preview), &json!(false)));
    bus.wait_until("what was settled is settled again", |bus| {
        settled(&bus.subscription("worker")) == (20, 1, 4, 0, 10) && bus.subscription("worker").waiting.due_later == 1
    });
    bus.kill();
    bus.restart();
    bus.wait_until("it is the same after a crash", |bus| {
        settled(&bus.subscription("worker")) == (20, 1, 4, 0, 10) && bus.subscription("worker").waiting.due_later == 1
    });
    // The letter that was passed over is met by its redrive alone.
    assert_eq!(bus.redrive(&json!({})), 1);
    bus.wait_until("it died again", |bus| bus.dead_letters("worker").iter().any(|one| one.redrives == 1));
    assert_eq!(settled(&bus.subscription("worker")), (20, 1, 4, 0, 10));

    // What is being redriven returns to the dead letters.
    bus.take_away("worker");
    bus.wait_until("it is orphaned", |bus| bus.subscription("worker").status == "orphaned");
    assert_eq!(bus.redrive(&json!({})), 1);
    let sought = seek(&bus, json!(format!("orders@{}", acks[7].sequence)), false);
    assert_eq!(sought["offset"], acks[7].offset);
    assert_eq!(figures(&sought), [7, 3, 4, 0, 1, 1], "{sought}");
    bus.kill();
    bus.restart();
    assert_eq!(settled(&bus.subscription("worker")), (20, 1, 7, 0, 13));
    assert_eq!(bus.dead_letter(&letter(&dead)).reason, "rejected");

    // Forward: what is pending before it is skipped.
    let sought = seek(&bus, json!("now"), false);
    assert_eq!(figures(&sought), [0, 0, 0, 7, 0, 0], "{sought}");
    bus.kill();
    bus.restart();
    bus.deploy("worker", &component, OBEDIENT);
    bus.publish("others", "key", Order::Ack);
    assert_eq!(settled(&bus.settled("worker")), (21, 1, 0, 7, 13));

    assert_eq!(seek(&bus, json!(acks[3].offset), true)["offset"], acks[3].offset);
    let accepted_ms = bus.dead_letter(&letter(&dead)).accepted_ms;
    let time = jiff::Timestamp::from_millisecond(accepted_ms as i64).expect("it is a time").to_string();
    assert!(seek(&bus, json!(time), true)["offset"].as_u64().unwrap() <= dead.offset);
    let ask = |to: Value| {
        let headers = [("content-type", "application/json")];
        bus.post("/subscriptions/worker/seek", &headers, json!({ "to": to }).to_string())
    };
    ask(json!("yesterday")).problem(400, "bad-body");
    ask(json!("nothing.here@1")).problem(404, "unknown-topic");
    assert_eq!(bus.cli(&["subscriptions", "seek", "worker", "--to", "beginning"]).code, Some(2), "nobody says yes");
    assert_eq!(settled(&bus.subscription("worker")), (21, 1, 0, 7, 13));
    bus.cli(&["subscriptions", "seek", "worker", "--to", "beginning", "--dry-run"]).success();
    bus.cli(&["subscriptions", "seek", "worker", "--to", "orders@10", "--yes"]).success();
    bus.wait_until("it goes on", |bus| bus.subscription("worker").reopened > 13);
}

#[test]
fn a_seek_under_load_loses_nothing() {
    let mut bus = Daemon::with("worker", &guest("obedient"), OBEDIENT);
    for round in 0..3 {
        bus.publish_many("orders", (0..600).map(|n| (Some(format!("key-{}", n % 7)), json!({ "do": "ack" }))));
        // Calls run now; every view that is looked at is checked for conservation.
        seek(&bus, if round == 1 { json!(300) } else { json!("beginning") }, false);
        bus.subscription("worker");
    }
    let account = bus.settled("worker");
    assert_eq!((account.matched, account.dead), (1_800, 0));
    assert_eq!(account.acked + account.skipped, 1_800 + account.reopened);
    bus.kill();
    bus.restart();
    let after = bus.settled("worker");
    assert_eq!((after.matched, after.acked, after.skipped), (account.matched, account.acked, account.skipped));
}

#[test]
fn a_topic_that_is_taken_away_is_skipped_and_its_dead_letters_stay() {
    let component = guest("obedient");
    let mut bus = Daemon::with("worker", &component, OBEDIENT);
    let dead = bus.publish("orders", "key", Order::Reject { reason: "never".into() });
    bus.settled("worker");
    bus.take_away("worker");
    bus.wait_until("it is orphaned", |bus| bus.subscription("worker").status == "orphaned");
    bus.publish_many("orders", (0..5).map(|_| (None, json!({ "do": "ack" }))));
    bus.publish_many("others", (0..2).map(|_| (None, json!({ "do": "ack" }))));
    assert_eq!(bus.subscription("worker").pending, 7);

    let preview: Value = bus.delete("/topics/orders?dry_run=true").expect(200).json();
    assert_eq!((&preview["messages"], &preview["skipped"][0]["skipped"]), (&json!(6), &json!(5)), "{preview}");
    assert_eq!(bus.messages("orders").len(), 6);
    assert_eq!(bus.cli(&["topics", "remove", "orders"]).code, Some(2), "nobody says yes");
    bus.cli(&["topics", "remove", "orders", "--yes"]).success();
    let gone = |bus: &mut Daemon| {
        let account = bus.subscription("worker");
        assert_eq!((account.pending, account.skipped, account.dead), (2, 5, 1));
        assert!(bus.topics().iter().all(|topic| topic.name != "orders"), "it is not listed");
        assert_eq!(bus.messages("orders"), []);
        bus.delete("/topics/orders").problem(404, "unknown-topic");
        assert!(bus.dead_letter(&letter(&dead)).message.is_some(), "its dead letter stays");
    };
    gone(&mut bus);
    bus.kill();
    bus.restart();
    gone(&mut bus);

    // A letter of it is neither redriven nor rehearsed, and both say so.
    let redriven = bus.cli(&["dead-letters", "redrive", "--all", "--json"]);
    let redriven: Value = serde_json::from_str(&redriven.success().stdout).expect("it is JSON");
    assert_eq!((&redriven["redriven"], &redriven["left"]), (&json!(0), &json!(1)));

    let next = bus.publish("orders", None, Order::Ack);
    assert_eq!(next.sequence, 7, "its sequence goes on");
    assert_eq!(bus.messages("orders").iter().map(|one| one.sequence).collect::<Vec<_>>(), [7]);
    bus.deploy("worker", &component, OBEDIENT);
    let rehearsal: Value = bus.post("/dead-letters/rehearse", &[], component.clone()).expect(200).json();
    assert_eq!((&rehearsal["rehearsed"], &rehearsal["left"]), (&json!(0), &json!(1)));
    let account = bus.settled("worker");
    assert_eq!((account.acked, account.skipped, account.matched), (3, 5, 9));
    // Not even a seek brings it back.
    seek(&bus, json!("beginning"), false);
    let account = bus.settled("worker");
    assert_eq!((account.acked, account.reopened), (6, 3));
}
