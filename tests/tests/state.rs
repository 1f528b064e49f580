//! State is serializable: calls that run side by side come to what they would have come to one after another.
//!
//! A call of these tests sleeps between what it reads and the end, so that others are committed meanwhile. Each test
//! looks that there were conflicts: without any, nothing was tested.

use std::collections::BTreeMap;

use obedient::Order;
use sandpost_tests::{Daemon, guest, publishing, state};

const MANIFEST: &str = r#"
[[subscription]]
topics = ["orders"]
order = "none"
concurrency = 8
timeout = "2s"
[subscription.retry]
max_attempts = 2
backoff = { initial = "5ms", factor = 1.0, max = "5ms", jitter = 0.0 }
[subscription.breaker]
enabled = false
[limits]
memory = "16MiB"
[grants]
publish = ["told", "left"]
"#;

/// How long a call sleeps between what it reads and what it does.
const PAUSE_MS: u64 = 5;

fn set(key: impl Into<String>, value: impl Into<String>) -> Order {
    Order::SetState { key: key.into(), value: value.into(), then: None }
}

fn delete(key: impl Into<String>) -> Order {
    Order::DeleteState { key: key.into(), then: None }
}

fn all(orders: impl IntoIterator<Item = Order>) -> Order {
    Order::All { orders: orders.into_iter().collect() }
}

fn later(order: Order) -> Box<Order> {
    Box::new(Order::Sleep { ms: PAUSE_MS, then: Some(Box::new(order)) })
}

fn unkeyed(orders: impl IntoIterator<Item = Order>) -> impl Iterator<Item = (Option<String>, Order)> {
    orders.into_iter().map(|order| (None, order))
}

/// A bus with one consumer, and this in its state.
fn bus_with(initial: impl IntoIterator<Item = (String, String)>) -> Daemon {
    let mut bus = Daemon::with("worker", &guest("obedient"), MANIFEST);
    bus.publish_many("orders", unkeyed(initial.into_iter().map(|(key, value)| set(key, value))));
    bus.settled("worker");
    bus
}

/// Waits until all is acknowledged. There were conflicts, and none was charged.
#[track_caller]
fn conflicts_and_is_acked(bus: &mut Daemon, subscription: &str, messages: u64) {
    let account = bus.settled(subscription);
    assert_eq!((account.acked, account.dead), (messages, 0), "{:#?}", bus.dead_letters(subscription));
    assert!(account.outcomes("conflict") > 0, "nothing came between: {account:#?}");
    let metric = format!("sandpost_deliveries_total{{subscription=\"{subscription}\",outcome=\"conflict\"}}");
    assert!(bus.metrics()[&metric] > 0.0);
    assert_eq!(account.outcomes("retry"), 0);
}

#[test]
fn parallel_increments_end_with_the_exact_sums() {
    const COUNTERS: u64 = 4;
    const MESSAGES: u64 = 300;
    let names = ["one", "two", "three"];
    let table = |name| {
        format!("[[subscription]]\nname = \"{name}\"\ntopics = [\"orders\"]\norder = \"none\"\nconcurrency = 8\n")
    };
    let rules: String = names.map(table).concat() + "[grants]\npublish = [\"told\"]\n";
    let mut bus = Daemon::with("worker", &guest("obedient"), &rules);
    let increment = |number: u64| Order::Increment {
        key: format!("counter-{}", number % COUNTERS),
        // It ends a moment after it has read.
        then: Some(later(Order::Ack)),
    };
    bus.publish_many("orders", unkeyed((0..MESSAGES).map(increment)));
    for name in names {
        conflicts_and_is_acked(&mut bus, name, MESSAGES);
    }
    let expected = MESSAGES / COUNTERS * names.len() as u64;
    let counters: BTreeMap<_, _> = (0..COUNTERS).map(|n| (format!("counter-{n}"), expected.to_string())).collect();
    assert_eq!(state(&mut bus, names[0], "orders", "counter-"), counters);
}

#[test]
fn writes_do_not_skew() {
    // Of each pair one has to stay. Each call takes another one of the two away, where both are there.
    let pairs = || (0..60).map(|n| [format!("pair-{n:02}/a"), format!("pair-{n:02}/b")]);
    let mut bus = bus_with(pairs().flatten().map(|key| (key, "here".to_owned())));
    let take =
        |keys: &[String; 2], own: usize| Order::WhereSet { keys: keys.to_vec(), then: later(delete(&*keys[own])) };
    bus.publish_many("orders", unkeyed(pairs().flat_map(|keys| [take(&keys, 0), take(&keys, 1)])));
    conflicts_and_is_acked(&mut bus, "worker", 240);
    let left = state(&mut bus, "worker", "orders", "pair-");
    for keys in pairs() {
        assert_eq!(keys.iter().filter(|key| left.contains_key(*key)).count(), 1, "one of {keys:?} stays");
    }
}

#[test]
fn no_phantom_comes_into_what_was_scanned() {
    // Of each shift one doctor has to stay, and each room has place for one guest.
    let shift = |n: u32, doctor: u32| format!("shift-{n:02}/doctor-{doctor}");
    let mut bus = bus_with((0..120).map(|n| (shift(n / 3, n % 3), "on call".to_owned())));
    let goes = |n: u32, doctor: u32| Order::WhereKeys {
        prefix: format!("shift-{n:02}/"),
        at_least: 2,
        at_most: u32::MAX,
        then: later(delete(shift(n, doctor))),
    };
    let comes = |n: u32, guest: u32| Order::WhereKeys {
        prefix: format!("room-{n:02}/"),
        at_least: 0,
        at_most: 0,
        then: later(set(format!("room-{n:02}/guest-{guest}"), "booked")),
    };
    let orders = (0..40).flat_map(|n| (0..3).flat_map(move |who| [goes(n, who), comes(n, who)]));
    bus.publish_many("orders", unkeyed(orders));
    conflicts_and_is_acked(&mut bus, "worker", 120 + 240);
    for (prefix, count) in [("shift-", 40), ("room-", 40)] {
        let left = state(&mut bus, "worker", "orders", prefix);
        let of: Vec<_> = left.keys().map(|key| key.split_once('/').expect("keys have a place").0).collect();
        assert!(of.len() == count && of.is_sorted_by(|one, next| one < next), "one is left of each: {left:#?}");
    }
}

#[test]
fn what_a_failed_call_read_is_validated_too() {
    // Two keys are always written together. Who reads one before and the other after such a write would reject what
    // never was.
    let write = |value: u32| all(["one", "other"].map(|key| set(key, value.to_string())));
    let look = || Order::RejectWhereDifferent { keys: vec!["one".into(), "other".into()], pause_ms: PAUSE_MS };
    let mut bus = bus_with([]);
    bus.publish_many("orders", unkeyed((0..150).flat_map(|n| [look(), write(n)])));
    conflicts_and_is_acked(&mut bus, "worker", 300);
}

#[test]
fn a_call_that_fails_leaves_nothing() {
    let mut bus = bus_with([("left/old".to_owned(), "old".to_owned())]);
    let reason = || "as told".to_owned();
    let failures = [
        Order::Retry { reason: reason(), after_ms: Some(1) },
        Order::Reject { reason: reason() },
        Order::Unavailable { reason: reason(), after_ms: Some(1) },
        Order::Trap { text: reason() },
        Order::Exit { code: 0 },
        Order::Exit { code: 1 },
        Order::Recurse,
        Order::Hog,
        Order::Spin,
        Order::Sleep { ms: 600_000, then: None },
    ];
    let uncharged = failures.iter().filter(|order| matches!(order, Order::Unavailable { .. })).count() as u64;
    let orders = failures.iter().map(|failure| {
        all([
            set("left/new", "new"),
            set("left/old", "new"),
            delete("left/old"),
            publishing("left", "new", 1),
            failure.clone(),
        ])
    });
    bus.publish_many("orders", unkeyed(orders));
    bus.wait_until("each has failed for good, or more often than it has attempts", |bus| {
        let account = bus.subscription("worker");
        account.pending == uncharged && account.outcomes("unavailable") > 2
    });
    let account = bus.subscription("worker");
    assert_eq!((account.acked, account.dead), (1, failures.len() as u64 - uncharged));
    for outcome in ["retry", "reject", "unavailable", "trapped", "exited", "out-of-memory", "timed-out"] {
        assert!(account.outcomes(outcome) > 0, "{outcome} was tried");
    }
    bus.publish(
        "orders",
        None,
        Order::ScanState { prefix: "left".into(), after: None, limit: 9, topic: "told".into() },
    );
    bus.wait_until("the state was told", |bus| !bus.messages("told").is_empty());
    assert_eq!(bus.messages("told")[0].data["entries"], serde_json::json!([["left/old", "old"]]));
    assert!(bus.messages("left").is_empty());
}

#[test]
fn a_call_reads_what_it_wrote() {
    let mut bus = bus_with(["b", "d", "f", "h"].map(|key| (format!("own/{key}"), "old".to_owned())));
    let scan = |after: Option<&str>, limit| Order::ScanState {
        prefix: "own/".into(),
        after: after.map(|key| format!("own/{key}")),
        limit,
        topic: "told".into(),
    };
    let get = |key: &str| Order::GetState { key: format!("own/{key}"), topic: "told".into() };
    let own = |key: &str| set(format!("own/{key}"), "own");
    bus.publish(
        "orders",
        None,
        all([
            own("a"),
            own("d"),
            own("e"),
            own("z"),
            delete("own/f"),
            delete("own/e"),
            own("i"),
            delete("own/never"),
            get("a"),
            get("b"),
            get("d"),
            get("e"),
            get("f"),
            scan(None, 99),
            scan(None, 2),
            scan(Some("b"), 2),
            scan(Some("e"), 1),
            scan(Some("i"), 99),
            scan(Some("z"), 9),
        ]),
    );
    assert_eq!(bus.settled("worker").dead, 0, "{:#?}", bus.dead_letters("worker"));
    let told: Vec<String> = bus
        .messages("told")
        .iter()
        .map(|told| match told.data.get("entries") {
            Some(entries) => entries.to_string().replace("own/", ""),
            None => told.data["value"].to_string(),
        })
        .collect();
    assert_eq!(
        told,
        [
            r#""own""#,
            r#""old""#,
            r#""own""#,
            "null",
            "null",
            r#"[["a","own"],["b","old"],["d","own"],["h","old"],["i","own"],["z","own"]]"#,
            r#"[["a","own"],["b","old"]]"#,
            r#"[["d","own"],["h","old"]]"#,
            r#"[["h","old"]]"#,
            r#"[["z","own"]]"#,
            "[]",
        ]
    );
    // And so it is for those that come after it.
    let left = state(&mut bus, "worker", "orders", "own/");
    let left: Vec<_> = left.keys().map(|key| key.trim_start_matches("own/")).collect();
    assert_eq!(left, ["a", "b", "d", "h", "i", "z"]);
}
