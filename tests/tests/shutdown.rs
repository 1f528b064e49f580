//! Being told to end: what has begun is finished, and nothing is lost.

use obedient::Order;
use sandpost_tests::{Client, Daemon, Ledger, Publishers, guest, publishing};
use serde_json::json;

const MANIFEST: &str = r#"
[[subscription]]
topics = ["orders"]
timeout = "1h"
[grants]
publish = ["seen"]
[config]
topic = "seen"
version = "1"
"#;

fn seen(bus: &Client) -> Vec<String> {
    bus.messages("seen")
        .into_iter()
        .map(|event| event.data["id"].as_str().expect("the guest says it").to_owned())
        .collect()
}

#[test]
fn told_to_end_under_load_it_loses_and_repeats_nothing() {
    let mut bus = Daemon::with("worker", &guest("versioned"), MANIFEST);
    let ledger = Ledger::new();
    for round in 1..=3 {
        let make = |thread, number| (Some(format!("key-{thread}")), json!({ "number": number }));
        let publishers = Publishers::start(&bus.client(), &ledger, "orders", 3, make);
        ledger.reaches(round * 150);
        let exit = bus.terminate();
        publishers.ended();
        assert_eq!(exit.code, Some(0), "{exit}");
        assert!(exit.stderr.contains("stopped"), "{exit}");
        bus.restart();
    }
    // Who was refused was told that nothing was stored.
    for refusal in ledger.refusals() {
        refusal.problem(503, "stopping");
    }
    let messages = bus.messages("orders");
    ledger.check(&messages);
    let account = bus.settled("worker");
    assert_eq!((account.acked, account.dead), (messages.len() as u64, 0));
    let mut seen = seen(&bus);
    let mut published: Vec<_> = messages.into_iter().map(|message| message.id).collect();
    seen.sort();
    published.sort();
    assert_eq!(seen, published, "each was handled once");
    assert!(bus.messages("seen").iter().all(|event| event.data["attempt"] == 1), "nothing was charged");
}

#[test]
fn an_orderly_end_closes_the_log_so_that_the_next_start_checks_nothing() {
    let mut bus = Daemon::setup().start();
    for number in 0..5 {
        bus.publish("orders", None, json!({ "number": number }));
        bus.terminate().success();
        bus.restart();
        assert!(!bus.log().contains("not closed"), "start {number}: {}", bus.log());
    }
    assert_eq!(bus.messages("orders").len(), 5);
}

#[test]
fn calls_in_flight_are_finished_and_no_new_ones_begin() {
    let mut bus = Daemon::with("worker", &guest("obedient"), MANIFEST);
    let publish = |text: &str| publishing("seen", text, 1);
    // One of each key runs, and one waits behind it.
    for number in 0..4 {
        let key = format!("key-{number}");
        let slow = Order::Sleep { ms: 1_500, then: Some(Box::new(publish("begun"))) };
        bus.publish("orders", key.as_str(), slow);
        bus.publish("orders", key.as_str(), publish("behind"));
    }
    bus.wait_until("all that can run runs", |bus| bus.subscription("worker").waiting.running == 4);
    bus.terminate().success();
    // Nobody handles anything now, so that what was done before can be seen.
    bus.take_away("worker");
    bus.restart();
    let account = bus.subscription("worker");
    assert_eq!((account.acked, account.pending), (4, 4));
    let texts: Vec<_> = bus.messages("seen").into_iter().map(|event| event.data).collect();
    assert_eq!(texts, vec![json!("begun"); 4]);
    bus.deploy("worker", &guest("obedient"), MANIFEST);
    assert_eq!(bus.settled("worker").acked, 8);
    assert_eq!(bus.messages("seen").len(), 8);
}

#[test]
fn what_never_ends_does_not_keep_it_from_ending_and_is_not_charged() {
    let mut bus = Daemon::with("worker", &guest("obedient"), MANIFEST);
    bus.publish("orders", None, Order::Spin);
    bus.publish("orders", None, Order::Sleep { ms: 3_000_000, then: None });
    let tail = bus.open("GET", "/topics/%3E/tail", &[], b"").expect("a tail can be opened");
    bus.wait_until("both run", |bus| bus.subscription("worker").waiting.running == 2);
    bus.terminate().success();
    drop(tail);
    bus.restart();
    bus.wait_until("both run again", |bus| bus.subscription("worker").waiting.running == 2);
    let account = bus.subscription("worker");
    assert_eq!((account.pending, account.dead, account.waiting.due_later), (2, 0, 0));
}

#[test]
fn a_backlog_that_grows_old_is_warned_about() {
    let manifest = MANIFEST.replace("timeout", "lag_warn = \"200ms\"\ntimeout");
    let mut bus = Daemon::with("worker", &guest("obedient"), &manifest);
    bus.publish("orders", "stuck", Order::Retry { reason: "tomorrow".into(), after_ms: Some(86_400_000) });
    let warnings = |bus: &Client| {
        let log = bus.log();
        log.lines().filter(|line| line.contains("WARN") && line.contains("backlog") && line.contains("worker")).count()
    };
    bus.wait_until("it is warned about", |bus| warnings(bus) > 0);
    // Once for an episode, however long it lasts: other messages come and go meanwhile.
    let oldest = bus.subscription("worker").oldest_pending_seconds;
    bus.wait_until("seconds pass", |bus| bus.subscription("worker").oldest_pending_seconds > oldest + 3.0);
    assert_eq!(warnings(&bus), 1, "{}", bus.log());
}
