//! What consumers keep in their state, as an operator sees it, and how much it may be.

use obedient::Order;
use sandpost_tests::{Client, Daemon, guest};
use serde_json::{Value, json};

const MANIFEST: &str = "[[subscription]]\ntopics = [\"orders\"]\n[subscription.retry]\nmax_attempts = 1\n";

fn set(key: &str, value: impl Into<String>) -> Order {
    Order::SetState { key: key.into(), value: value.into(), then: None }
}

fn told(bus: &Client, order: &Order) {
    bus.publish("orders", "k", order);
}

#[test]
fn state_is_listed_read_and_exported_as_it_is_durable() {
    let mut daemon = Daemon::with("worker", &guest("obedient"), MANIFEST);
    let bus = daemon.client();
    for number in 0..1_200 {
        told(&bus, &set(&format!("item/{number:04}"), format!("value {number}")));
    }
    told(&bus, &set("other", "tab\there"));
    daemon.settled("worker");
    daemon.kill();
    daemon.restart();
    let bus = daemon.client();

    let sizes: Vec<Value> = bus.get("/state").expect(200).json();
    let bytes: u64 = (0..1_200).map(|number| 9 + format!("value {number}").len() as u64).sum::<u64>() + 5 + 8;
    assert_eq!(sizes, [json!({ "consumer": "worker", "deployed": true, "entries": 1_201, "bytes": bytes })]);
    let page: Value = bus.get("/state/worker?prefix=item/&limit=1000").expect(200).json();
    assert_eq!(page["entries"].as_array().map(Vec::len), Some(1_000));
    assert_eq!(page["next"], "item/0999");
    let page: Value = bus.get("/state/worker?prefix=item/&after=item/0999").expect(200).json();
    assert_eq!((page["entries"].as_array().map(Vec::len), &page["next"]), (Some(100), &json!("item/1099")));
    let entry: Value = bus.get("/state/worker/item%2F0007").expect(200).json();
    assert_eq!(entry, json!({ "key": "item/0007", "value": "value 7" }));
    bus.get("/state/worker/nothing").problem(404, "unknown-state-key");
    assert!(bus.get("/state/wroker").problem(404, "unknown-consumer").hint.contains("worker"));

    let got = daemon.cli(&["state", "get", "worker", "other"]);
    assert_eq!(got.success().stdout.trim_end_matches('\n'), "tab\there");
    let scanned = daemon.cli(&["state", "scan", "worker", "item/00", "--json"]);
    assert!(scanned.success().stdout.contains("item/0099") && !scanned.stdout.contains("item/0100"), "{scanned:?}");
    let exported = daemon.cli(&["state", "export", "worker"]);
    let lines: Vec<Value> = exported.success().stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 1_201);
    assert_eq!(lines[1_199], json!({ "key": "item/1199", "value": "value 1199" }));
    assert!(daemon.cli(&["state", "list"]).success().stdout.contains("1201"));

    // It is removed by command only, and only where nobody writes it any more.
    bus.delete("/state/worker").problem(409, "still-deployed");
    daemon.take_away("worker");
    daemon.wait_until("the consumer is gone", |bus| bus.plugin("worker").is_none());
    let bus = daemon.client();
    assert!(!bus.get("/state").expect(200).json::<Vec<Value>>().is_empty(), "it stays with its consumer gone");
    let refused = daemon.cli(&["state", "remove", "worker"]);
    assert!(refused.stderr.contains("--yes"), "{refused:?}");
    assert!(daemon.cli(&["state", "remove", "worker", "--yes"]).success().stdout.contains("1201 entries"));
    daemon.kill();
    daemon.restart();
    assert!(daemon.client().get("/state").expect(200).json::<Vec<Value>>().is_empty());
}

#[test]
fn a_state_holds_no_more_than_it_may_and_says_so() {
    let setup = Daemon::setup().flag("--state-consumer-max", "2MiB").plugin("worker", &guest("obedient"), MANIFEST);
    let mut daemon = setup.start();
    let bus = daemon.client();
    let large = "x".repeat(600 << 10);
    for key in ["a", "b", "c", "d"] {
        told(&bus, &set(key, large.clone()));
    }
    let account = daemon.settled("worker");
    assert_eq!((account.acked, account.dead), (3, 1));
    let letter = bus.dead_letter(&bus.dead_letters("worker")[0].id);
    let why = &letter.attempts.last().unwrap().text;
    assert!(why.contains("full") && why.contains("worker"), "{why}");

    // Rewriting what is there needs no room; removing makes some, also for the one that was refused.
    told(&bus, &set("a", "y".repeat(600 << 10)));
    told(&bus, &Order::DeleteState { key: "b".into(), then: None });
    assert_eq!(daemon.settled("worker").acked, 5);
    assert_eq!(bus.redrive(&json!({ "subscription": "worker" })), 1);
    let account = daemon.settled("worker");
    assert_eq!((account.acked, account.dead), (6, 0));
    let sizes: Vec<Value> = bus.get("/state").expect(200).json();
    assert_eq!((&sizes[0]["entries"], &sizes[0]["bytes"]), (&json!(3), &json!(3 * (1 + (600 << 10)))));
}
