//! What leaves the log, and what never does while somebody needs it.

use std::collections::BTreeSet;
use std::path::Path;

use obedient::Order;
use sandpost_tests::{Client, Daemon, Event, Ledger, Publishers, Setup, guest, publishing};
use serde_json::json;

const MANIFEST: &str = r#"
[[subscription]]
topics = ["orders"]
[subscription.retry]
max_attempts = 3
backoff = { initial = "5ms", factor = 1.0, max = "5ms", jitter = 0.0 }
[grants]
publish = ["staged"]
"#;

/// A bus whose settings file has this in it.
fn with_settings(settings: &str) -> Setup {
    let setup = Daemon::setup();
    let path = setup.folder().join("sandpost.toml");
    std::fs::write(&path, settings).expect("the folder is the test's own");
    setup.flag("--config", path.to_str().expect("temporary folders have plain names"))
}

fn file_bytes(folder: &Path) -> u64 {
    std::fs::metadata(folder.join("log.redb")).expect("there is a log").len()
}

/// An order that is soon obeyed and has about five thousand bytes.
fn large() -> Order {
    Order::All { orders: vec![Order::Ack; 400] }
}

/// The sequences of a topic that can be read.
fn sequences(bus: &Client, topic: &str) -> Vec<u64> {
    bus.messages(topic).iter().map(|message| message.sequence).collect()
}

/// Of every ten: one dies, one waits long for its retry and holds back two of its key, the others are done.
fn padded(number: u64) -> (Option<String>, String) {
    let key = Some(format!("key-{}", number / 10));
    let (key, order) = match number % 10 {
        0 => (None, Order::Reject { reason: "as told".into() }),
        1 => (key, Order::Retry { reason: "much later".into(), after_ms: Some(3_600_000) }),
        2 | 3 => (key, Order::Ack),
        _ => (None, Order::Ack),
    };
    (key, order.to_json() + &" ".repeat(2_000))
}

#[test]
fn what_is_settled_goes_and_what_is_needed_stays_through_crashes() {
    let component = guest("obedient");
    let mut bus = with_settings("[[topic]]\nfilter = \"orders\"\nmax_bytes = \"64KiB\"")
        .plugin("worker", &component, MANIFEST)
        .start();
    let ledger = Ledger::new();
    for round in 0..4u64 {
        let make = move |thread: u64, number: u64| padded(1_000_000 * round + 100_000 * thread + number);
        let enough = ledger.acknowledged() + 300;
        let publishers = Publishers::start(&bus.client(), &ledger, "orders", 2, make);
        ledger.reaches(enough);
        bus.kill();
        publishers.ended();
        bus.restart();
    }
    bus.wait_until("all that can run did", |bus| {
        let account = bus.subscription("worker");
        account.pending == account.waiting.due_later + account.waiting.behind_key
    });
    let account = bus.subscription("worker");
    assert!(account.dead > 50 && account.waiting.due_later > 50 && account.waiting.behind_key > 50, "{account:#?}");
    let needed = account.dead + account.pending;
    bus.wait_until("nothing is left but what is needed", |bus| {
        let topics = bus.topics();
        let orders = topics.iter().find(|topic| topic.name == "orders").expect("it was published to");
        orders.messages == needed
    });

    // Every message that is left is one that is needed, and none of those is missing.
    let left: BTreeSet<u64> = bus.messages("orders").iter().map(|message| message.offset).collect();
    let dead: BTreeSet<u64> = bus.dead_letters("worker").iter().map(|letter| letter.offset).collect();
    assert_eq!(left.len() as u64, needed);
    assert!(dead.is_subset(&left), "a dead letter keeps its message");
    let metrics = bus.metrics();
    assert!(metrics["sandpost_log_removed_messages_total"] > 0.0, "{metrics:#?}");

    // The file was rewritten under them: after another crash they are shown, run and redriven as before.
    bus.kill();
    bus.restart();
    assert_eq!(bus.messages("orders").iter().map(|message| message.offset).collect::<BTreeSet<_>>(), left);
    let again = bus.subscription("worker");
    assert_eq!(
        (again.matched, again.acked, again.dead, again.pending),
        (account.matched, account.acked, account.dead, account.pending)
    );
    for letter in bus.dead_letters("worker").iter().take(5) {
        let shown = bus.dead_letter(&letter.id);
        let message = shown.message.expect("its message is there");
        assert_eq!((message.offset, &message.data["do"]), (letter.offset, &json!("reject")));
    }
    assert_eq!(bus.redrive(&json!({ "subscription": "worker" })), account.dead);
    bus.wait_until("all of them died again", |bus| bus.subscription("worker").dead == account.dead);
    assert!(bus.dead_letters("worker").iter().all(|letter| letter.redrives == 1));
    assert_eq!(bus.subscription("worker").matched, account.matched);
}

#[test]
fn a_bus_under_steady_traffic_keeps_its_file_bounded() {
    let mut bus =
        Daemon::setup().flag("--retain-bytes", "256KiB").plugin("worker", &guest("obedient"), MANIFEST).start();
    let batch = || (0..200).map(|_| (None, large()));
    let mut sizes = Vec::new();
    for round in 0..10u64 {
        bus.publish_many("orders", batch());
        bus.settled("worker");
        bus.wait_until("the log holds no more than it is to retain", |bus| {
            bus.topics().iter().map(|topic| topic.bytes).sum::<u64>() <= 256 << 10
        });
        sizes.push(file_bytes(&bus.data_folder()));
        let topics = bus.topics();
        let orders = &topics[0];
        assert_eq!(orders.last_sequence, 200 * (round + 1));
        let left: Vec<u64> = (orders.first_sequence.expect("some are left")..=orders.last_sequence).collect();
        assert!(left.len() >= 40, "the newest stay: {orders:?}");
        assert_eq!((sequences(&bus, "orders"), left.len() as u64), (left, orders.messages));
    }
    // Ten megabytes went through; what is freed is used again.
    assert!(sizes[9] <= 2 * sizes[1], "{sizes:?}");
}

#[test]
fn a_topic_that_nobody_takes_grows_old_as_well() {
    let settings = "[limits]\nretain_age = \"forever\"\n[[topic]]\nfilter = \"telemetry.*\"\nmax_age = \"1s\"";
    let mut bus = with_settings(settings).start();
    for number in 0..20 {
        bus.publish("telemetry.cpu", None, json!(number));
        bus.publish("orders", None, json!(number));
    }
    bus.wait_until("it is gone", |bus| {
        bus.topics().iter().any(|topic| topic.name == "telemetry.cpu" && topic.messages == 0)
    });
    assert!(sequences(&bus, "telemetry.cpu").is_empty());
    assert_eq!(sequences(&bus, "orders"), (1..=20).collect::<Vec<_>>());
    // Its sequence goes on, and a reader that begins before what is there finds what is.
    assert_eq!(bus.publish("telemetry.cpu", None, json!("next")).sequence, 21);
    let first: Vec<Event> = bus.get("/topics/telemetry.cpu/messages?from=3").expect(200).json();
    assert!(first.iter().all(|message| message.sequence == 21), "{first:#?}");
    bus.terminate().success();
    bus.restart();
    assert_eq!(sequences(&bus, "orders"), (1..=20).collect::<Vec<_>>());
}

#[test]
fn a_subscription_that_cannot_run_loses_nothing() {
    let component = guest("obedient");
    let mut bus = Daemon::setup()
        .flag("--retain-bytes", "64KiB")
        .flag("--retain-age", "1s")
        .plugin("worker", &component, MANIFEST)
        .plugin("other", &component, &MANIFEST.replace("orders", "others"))
        .start();
    bus.take_away("worker");
    bus.wait_until("it is orphaned", |bus| bus.subscription("worker").status == "orphaned");
    for _ in 0..5 {
        bus.publish_many("orders", (0..20).map(|_| (None, large())));
        bus.publish_many("others", (0..20).map(|_| (None, large())));
    }
    bus.settled("other");
    bus.wait_until("what another one has settled is gone", |bus| {
        bus.topics().iter().any(|topic| topic.name == "others" && topic.messages == 0)
    });
    assert_eq!(bus.subscription("worker").pending, 100);
    assert_eq!(sequences(&bus, "orders").len(), 100);
    bus.kill();
    bus.restart();
    bus.deploy("worker", &component, MANIFEST);
    assert_eq!(bus.settled("worker").acked, 100);
    bus.wait_until("now it is gone too", |bus| {
        bus.topics().iter().any(|topic| topic.name == "orders" && topic.messages == 0)
    });
}

#[test]
fn a_full_topic_refuses_what_comes_from_outside_and_nothing_else() {
    let mut bus = with_settings("[[topic]]\nfilter = \"orders\"\ncap = \"128KiB\"")
        .plugin("worker", &guest("obedient"), MANIFEST)
        .start();
    bus.take_away("worker");
    bus.wait_until("it is orphaned", |bus| bus.subscription("worker").status == "orphaned");
    let large = Order::Ack.to_json() + &" ".repeat(10_000);
    let ledger = Ledger::new();
    while ledger.publish(&bus.client(), "orders", None, large.clone()) {}
    assert!((10..14).contains(&ledger.acknowledged()), "{}", ledger.acknowledged());
    let refused = ledger.refusals();
    let problem = refused.last().expect("it is refused in the end").problem(507, "topic-full");
    assert_eq!((&problem.facts["topic"], &problem.facts["bytes_max"]), (&json!("orders"), &json!(128 << 10)));
    assert!(problem.detail.contains("`orders` is full") && problem.hint.contains("cap"), "{problem:#?}");
    bus.publish("others", None, &large);
    let refused = bus.cli(&["publish", "orders", "--data", &large]);
    assert_eq!(refused.code, Some(6), "not now: {refused}");
    // A crash does not make it forget what it holds.
    bus.kill();
    bus.restart();
    assert!(!ledger.publish(&bus.client(), "orders", None, large.clone()));
    ledger.refusals().last().expect("it is refused").problem(507, "topic-full");
    // Once they are settled, the oldest make room.
    bus.deploy("worker", &guest("obedient"), MANIFEST);
    bus.settled("worker");
    bus.wait_until("there is room", |bus| ledger.publish(bus, "orders", None, large.clone()));
    bus.settled("worker");
}

#[test]
fn effects_for_a_full_topic_wait_and_are_not_charged() {
    let component = guest("obedient");
    let manifest = MANIFEST.replace("max_attempts = 3", "max_attempts = 1");
    let mut bus = with_settings("[[topic]]\nfilter = \"staged\"\ncap = \"64KiB\"")
        .plugin("worker", &component, &manifest)
        .plugin("taker", &component, "[[subscription]]\ntopics = [\"staged\"]")
        .start();
    bus.take_away("taker");
    bus.wait_until("it is orphaned", |bus| bus.subscription("taker").status == "orphaned");
    // An order of its own, so that the taker can obey it later.
    let filling = Order::Ack.to_json() + &" ".repeat(9_000);
    let accepted = bus.publish_many("orders", (0..10).map(|_| (None, publishing("staged", &filling, 1))));
    bus.wait_until("some wait for room", |bus| {
        let account = bus.subscription("worker");
        account.acked > 3 && account.pending > 2 && account.waiting.full.get("staged") == Some(&account.pending)
    });
    let account = bus.subscription("worker");
    assert_eq!((account.dead, account.acked + account.pending), (0, accepted.len() as u64));
    assert!(account.outcomes("topic-full") >= account.pending);
    let shown = bus.cli(&["subscriptions", "show", "worker"]);
    assert!(shown.success().stdout.contains("full: staged"), "{shown}");
    bus.kill();
    bus.restart();
    assert_eq!(bus.subscription("worker").pending, account.pending);
    // Others settle what fills it; then all of them follow, each once.
    bus.deploy("taker", &component, "[[subscription]]\ntopics = [\"staged\"]");
    assert_eq!(bus.settled("worker").acked, accepted.len() as u64);
    let taken = bus.settled("taker");
    assert_eq!((taken.matched, taken.acked), (accepted.len() as u64, accepted.len() as u64));
}

#[test]
fn compacting_returns_what_a_drained_topic_held_and_keeps_the_rest() {
    let component = guest("obedient");
    let mut bus = Daemon::setup().flag("--retain-bytes", "64KiB").plugin("worker", &component, MANIFEST).start();
    bus.publish_many("orders", [(None, Order::Reject { reason: "as told".into() })]);
    bus.settled("worker");
    // While nobody takes it, nothing of it goes: so the file has to hold all of it at once.
    bus.take_away("worker");
    bus.wait_until("it is orphaned", |bus| bus.subscription("worker").status == "orphaned");
    for _ in 0..8 {
        bus.publish_many("orders", (0..400).map(|_| (None, large())));
    }
    bus.deploy("worker", &component, MANIFEST);
    bus.settled("worker");
    bus.wait_until("little is left", |bus| bus.topics().iter().map(|topic| topic.bytes).sum::<u64>() <= 64 << 10);
    let left: Vec<u64> = bus.messages("orders").iter().map(|message| message.offset).collect();
    let data = bus.data_folder();
    let data = data.to_str().expect("temporary folders have plain names");
    let refused = bus.cli(&["compact", "--data", data]);
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.contains("in use by another process; stop that bus"), "{refused}");
    bus.terminate().success();
    let before = file_bytes(&bus.data_folder());
    let compacted = Daemon::setup().cli(&["compact", "--data", data, "--json"]);
    let told: serde_json::Value = serde_json::from_str(&compacted.success().stdout).expect("it is JSON");
    let after = file_bytes(&bus.data_folder());
    assert_eq!((&told["before_bytes"], &told["after_bytes"]), (&json!(before), &json!(after)));
    assert!(after < before / 4, "{told}");
    bus.restart();
    assert_eq!(bus.messages("orders").iter().map(|message| message.offset).collect::<Vec<_>>(), left);
    assert_eq!(bus.dead_letter("worker:0").message.expect("it keeps its message").data["do"], "reject");
}
