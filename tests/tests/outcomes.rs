//! What becomes of a message after each thing that a guest can do: one line of the table for each order.

use obedient::Order;
use sandpost_tests::{Attempt, Daemon, DeadLetter, Event, digest, guest, publishing};
use serde_json::{Value, json};

const MANIFEST: &str = r#"
[[subscription]]
topics = ["orders"]
timeout = "2s"
[subscription.retry]
max_attempts = 3
backoff = { initial = "20ms", factor = 1.0, max = "20ms", jitter = 0.0 }
[subscription.breaker]
enabled = false
[limits]
memory = "32MiB"
[grants]
publish = ["told", "granted.*"]
[config]
name = "value"
"#;

/// What a message must come to.
enum Settlement {
    /// Acknowledged.
    Acked,
    /// Acknowledged, and this was told (see [`is_told`]) to the topic `told`.
    Told(Value),
    /// A dead letter with this reason, after attempts with these outcomes, all charged; and the last one's
    /// text holds these.
    Dead(&'static str, &'static [&'static str], &'static [&'static str]),
    /// Still pending after it was run this often, which is more than its attempts.
    Uncharged(u64),
}

use Settlement::{Acked, Dead, Told, Uncharged};

const EXHAUSTED: &str = "attempts-exhausted";

/// Writes the table, and a match over the same patterns: a variant of [`Order`] without a line does not
/// compile.
macro_rules! table {
    ($($pattern:pat = $order:expr => $settlement:expr;)+) => {
        #[expect(unreachable_patterns, reason = "some orders have more than one line")]
        fn has_a_line(order: &Order) -> bool {
            use Order::*;
            match order { $($pattern => true,)+ }
        }

        fn table() -> Vec<(Order, Settlement)> {
            use Order::*;
            vec![$({
                let order = $order;
                assert!(gives(&order, |given| matches!(given, $pattern)), "a line of another order: {order}");
                (order, $settlement)
            }),+]
        }
    };
}

/// Whether an order is one, or has one among its parts.
fn gives(order: &Order, is_it: fn(&Order) -> bool) -> bool {
    is_it(order) || matches!(order, Order::All { orders } if orders.iter().any(is_it))
}

table! {
    Ack = Ack => Acked;
    All { .. } = All { orders: vec![log("one"), log("two")] } => Acked;
    All { .. } = All { orders: vec![publish("granted.half"), Reject { reason: "the other half".into() }] } =>
        Dead("rejected", &["reject"], &["the other half"]);

    Retry { .. } = Retry { reason: "not now".into(), after_ms: None } =>
        Dead(EXHAUSTED, &["retry"; 3], &["not now"]);
    Retry { .. } = Retry { reason: "in a moment".into(), after_ms: Some(1) } =>
        Dead(EXHAUSTED, &["retry"; 3], &["in a moment"]);
    RetryUntil { .. } = RetryUntil { attempt: 3, after_ms: None, then: then(Echo { topic: "told".into() }) } =>
        Told(json!({ "delivery": { "attempt": 3, "max_attempts": 3, "redrives": 0 } }));
    RetryUntil { .. } = RetryUntil { attempt: 4, after_ms: None, then: None } =>
        Dead(EXHAUSTED, &["retry"; 3], &["attempt 3 is not attempt 4"]);
    Reject { .. } = Reject { reason: "never".into() } => Dead("rejected", &["reject"], &["never"]);
    Unavailable { .. } = Unavailable { reason: "closed".into(), after_ms: Some(1) } => Uncharged(10);

    Trap { .. } = Trap { text: "as told".into() } =>
        Dead(EXHAUSTED, &["trapped"; 3], &["as told", "told_to_trap"]);
    TrapWhenReused { .. } = TrapWhenReused { text: "not alone".into(), then: None } => Acked;
    // WASI 0.2 knows of success and failure, and of no other code.
    Exit { .. } = Exit { code: 3 } => Dead(EXHAUSTED, &["exited"; 3], &["exit(1)"]);
    Exit { .. } = Exit { code: 0 } => Dead(EXHAUSTED, &["exited"; 3], &["exit(0)"]);
    Spin = Spin => Dead(EXHAUSTED, &["timed-out"; 3], &["timeout of 2s"]);
    Sleep { .. } = Sleep { ms: 20, then: None } => Acked;
    Sleep { .. } = Sleep { ms: 600_000, then: None } => Dead(EXHAUSTED, &["timed-out"; 3], &["timeout of 2s"]);
    Hog = Hog => Dead(EXHAUSTED, &["out-of-memory"; 3], &["32 MiB", "told_to_hog"]);
    Recurse = Recurse => Dead(EXHAUSTED, &["trapped"; 3], &["recurse"]);
    Leak { .. } = Leak { bytes: 1 << 20, then: None } => Acked;
    FloodLog { .. } = FloodLog { lines: 10_000, bytes: 100, then: None } => Acked;
    FloodStdout { .. } = FloodStdout { lines: 10_000, bytes: 100, then: None } => Acked;
    FloodStderr { .. } = FloodStderr { lines: 10_000, bytes: 100, then: None } => Acked;
    Log { .. } = log("a line") => Acked;

    Publish { .. } = publish("granted.one") => Acked;
    Publish { .. } = publish("secret") => Dead(EXHAUSTED, &["retry"; 3], &["secret", "[grants]"]);
    Publish { .. } = publish("granted.*") => Dead(EXHAUSTED, &["retry"; 3], &["granted.*"]);
    TryPublish { .. } = TryPublish { to: "secret".into(), bytes: 1, topic: "told".into() } =>
        Told(json!({ "error": "NotGranted" }));
    TryPublish { .. } = TryPublish { to: "$dead-letters.x".into(), bytes: 1, topic: "told".into() } =>
        Told(json!({ "error": "Invalid" }));
    TryPublish { .. } = TryPublish { to: "granted.one".into(), bytes: (1 << 20) + 1, topic: "told".into() } =>
        Told(json!({ "error": "TooLarge" }));
    TryPublish { .. } = TryPublish { to: "granted.two".into(), bytes: 1, topic: "told".into() } =>
        Told(json!({ "error": null }));
    Echo { .. } = Echo { topic: "told".into() } => Told(json!({
        "message": {
            "source": "/tests", "type": "test.order", "subject": null, "topic": "orders",
            "content_type": "application/json",
        },
        "delivery": { "subscription": "worker", "attempt": 1, "max_attempts": 3, "redrives": 0 },
    }));
    InstanceCalls { .. } = InstanceCalls { topic: "told".into() } => Told(json!({}));

    SetState { .. } = All { orders: vec![
        SetState { key: "own".into(), value: "written".into(), then: None },
        GetState { key: "own".into(), topic: "told".into() },
    ] } => Told(json!({ "key": "own", "value": "written" }));
    FillState { .. } = All { orders: vec![
        FillState { prefix: "many/".into(), count: 3, bytes: 1, then: None },
        ScanState { prefix: "many/".into(), after: Some("many/000000".into()), limit: 9, topic: "told".into() },
    ] } => Told(json!({ "entries": [["many/000001", "x"], ["many/000002", "x"]] }));
    FillState { .. } = FillState { prefix: "too-many/".into(), count: 1_001, bytes: 1, then: None } =>
        Dead(EXHAUSTED, &["retry"; 3], &["1000 keys"]);
    DeleteState { .. } = All { orders: vec![
        SetState { key: "gone".into(), value: "written".into(), then: None },
        DeleteState { key: "gone".into(), then: None },
        GetState { key: "gone".into(), topic: "told".into() },
    ] } => Told(json!({ "key": "gone", "value": null }));
    Increment { .. } = All { orders: vec![
        Increment { key: "count".into(), then: None },
        Increment { key: "count".into(), then: None },
        GetState { key: "count".into(), topic: "told".into() },
    ] } => Told(json!({ "key": "count", "value": "2" }));
    WhereSet { .. } = All { orders: vec![
        SetState { key: "here".into(), value: "written".into(), then: None },
        WhereSet { keys: vec!["here".into(), "not-here".into()], then: reject("one is missing") },
        WhereSet { keys: vec!["here".into()], then: reject("all are set") },
    ] } => Dead("rejected", &["reject"], &["all are set"]);
    WhereKeys { .. } = All { orders: vec![
        FillState { prefix: "two/".into(), count: 2, bytes: 1, then: None },
        WhereKeys { prefix: "two/".into(), at_least: 3, at_most: 9, then: reject("too many") },
        WhereKeys { prefix: "two/".into(), at_least: 0, at_most: 1, then: reject("too few") },
        WhereKeys { prefix: "two/".into(), at_least: 2, at_most: 2, then: reject("two") },
    ] } => Dead("rejected", &["reject"], &["two"]);
    RejectWhereDifferent { .. } = RejectWhereDifferent { keys: vec!["never".into(); 2], pause_ms: 1 } => Acked;
    RejectWhereDifferent { .. } = All { orders: vec![
        SetState { key: "one".into(), value: "1".into(), then: None },
        RejectWhereDifferent { keys: vec!["one".into(), "never".into()], pause_ms: 1 },
    ] } => Dead("rejected", &["reject"], &["one is", "never is"]);
    WhileState { .. } = WhileState { key: "never".into(), order: Box::new(Spin), then: then(Ack) } => Acked;
    GetState { .. } = GetState { key: "never".into(), topic: "told".into() } => Told(json!({ "value": null }));
    GetState { .. } = GetState { key: String::new(), topic: "told".into() } =>
        Dead(EXHAUSTED, &["retry"; 3], &["the key is empty"]);
    ScanState { .. } = ScanState { prefix: "never".into(), after: None, limit: 9, topic: "told".into() } =>
        Told(json!({ "entries": [] }));

    Config { .. } = Config { name: "name".into(), topic: "told".into() } =>
        Told(json!({ "name": "name", "value": "value" }));
    Config { .. } = Config { name: "other".into(), topic: "told".into() } =>
        Told(json!({ "name": "other", "value": null }));
    // What is not granted is tried thoroughly in the tests of the sandbox.
    ReadFile { .. } = ReadFile { path: "/etc/hostname".into(), topic: "told".into() } => Told(refused());
    WriteFile { .. } = WriteFile { path: "file".into(), topic: "told".into() } => Told(refused());
    ListFolder { .. } = ListFolder { path: "/".into(), topic: "told".into() } => Told(refused());
    Env { .. } = Env { name: "PATH".into(), topic: "told".into() } => Told(refused());
    Args { .. } = Args { topic: "told".into() } => Told(json!({ "ok": { "args": [], "variables": [] } }));
    Connect { .. } = Connect { addr: "127.0.0.1:1".into(), topic: "told".into() } => Told(refused());
    Listen { .. } = Listen { addr: "127.0.0.1:0".into(), topic: "told".into() } => Told(refused());
    Resolve { .. } = Resolve { host: "localhost".into(), topic: "told".into() } => Told(refused());
    Stdin { .. } = Stdin { topic: "told".into() } => Told(json!({ "tried": "standard input" }));
    Random { .. } = Random { topic: "told".into() } => Told(json!({ "tried": "random" }));
    Clock { .. } = Clock { topic: "told".into() } => Told(json!({ "ok": { "monotonic_advances": true } }));
}

fn log(text: &str) -> Order {
    Order::Log { text: text.into(), then: None }
}

fn reject(reason: &str) -> Box<Order> {
    Box::new(Order::Reject { reason: reason.into() })
}

fn publish(topic: &str) -> Order {
    publishing(topic, "hello", 1)
}

fn then(order: Order) -> Option<Box<Order>> {
    Some(Box::new(order))
}

/// An error, whatever its text.
fn refused() -> Value {
    json!({ "error": "" })
}

/// Whether an answer has what is expected of it: at least these members; texts begin so.
fn is_told(expected: &Value, told: &Value) -> bool {
    match (expected, told) {
        (Value::Object(expected), Value::Object(told)) => {
            expected.iter().all(|(name, value)| told.get(name).is_some_and(|told| is_told(value, told)))
        }
        (Value::String(expected), Value::String(told)) => told.starts_with(expected),
        _ => expected == told,
    }
}

#[test]
fn every_order_is_settled_as_the_table_says() {
    let table = table();
    assert!(table.iter().all(|(order, _)| has_a_line(order)));
    let mut bus = Daemon::with("worker", &guest("obedient"), MANIFEST);
    // A key of its own for each, so that none waits for another, and its answer can be told from theirs.
    let orders = table.iter().enumerate().map(|(line, (order, _))| (format!("line-{line}"), order));
    let accepted = bus.publish_many("orders", orders);

    let uncharged = table.iter().filter(|(_, settlement)| matches!(settlement, Uncharged(_))).count() as u64;
    bus.wait_until("all that can be settled is settled", |bus| bus.subscription("worker").pending == uncharged);
    let told = bus.messages("told");
    let letters = bus.dead_letters("worker");
    let mut dead = 0;
    for (line, ((order, settlement), accepted)) in table.iter().zip(&accepted).enumerate() {
        let letter = letters.iter().find(|letter| letter.offset == accepted.offset);
        match settlement {
            Acked => assert!(letter.is_none(), "{order} is dead: {letter:#?}"),
            Told(expected) => {
                assert!(letter.is_none(), "{order} is dead: {letter:#?}");
                let told = of_key(&told, &format!("line-{line}"));
                let [told] = told.as_slice() else { panic!("{order} told {told:#?}") };
                assert!(is_told(expected, &told.data), "{order} told {:#}, and not {expected:#}", told.data);
            }
            Dead(reason, outcomes, texts) => {
                dead += 1;
                let letter = letter.unwrap_or_else(|| panic!("{order} is not dead"));
                died_so(order, letter, reason, outcomes, texts);
            }
            Uncharged(calls) => {
                assert!(letter.is_none(), "{order} is dead: {letter:#?}");
                bus.wait_until("it was run more often than it has attempts", |bus| {
                    bus.subscription("worker").outcomes("unavailable") >= *calls
                });
            }
        }
    }
    let account = bus.subscription("worker");
    assert_eq!(account.dead, dead);
    assert_eq!(account.acked, table.len() as u64 - dead - uncharged);
    assert!(bus.messages("granted.half").is_empty(), "what was staged by a call that failed is not published");
    assert!(bus.messages("secret").is_empty());
    assert_eq!(bus.messages("granted.one").len(), 1);
}

fn of_key<'a>(events: &'a [Event], key: &str) -> Vec<&'a Event> {
    events.iter().filter(|event| event.key.as_deref() == Some(key)).collect()
}

fn died_so(order: &Order, letter: &DeadLetter, reason: &str, outcomes: &[&str], texts: &[&str]) {
    let found: Vec<_> = letter.attempts.iter().map(|attempt| attempt.outcome.as_str()).collect();
    assert_eq!((letter.reason.as_str(), found.as_slice()), (reason, outcomes), "{order}: {letter:#?}");
    assert_eq!(letter.attempts_total, outcomes.len() as u64);
    for Attempt { charged, text, .. } in &letter.attempts {
        assert!(*charged, "{order}: {letter:#?}");
        for expected in texts.iter().filter(|_| outcomes.iter().all(|outcome| *outcome != "retry")) {
            assert!(text.contains(expected), "{order}: `{expected}` is not in: {text}");
        }
    }
    let last = &letter.attempts.last().expect("there was an attempt").text;
    for expected in texts {
        assert!(last.contains(expected), "{order}: `{expected}` is not in: {last}");
    }
}

#[test]
fn data_that_is_no_order_is_rejected_with_the_guests_own_words() {
    let mut bus = Daemon::with("worker", &guest("obedient"), MANIFEST);
    let accepted = bus.publish("orders", None, json!({ "do": "what nobody knows" }));
    assert_eq!(bus.settled("worker").died("rejected"), 1);
    let letter = bus.dead_letter(&format!("worker:{}", accepted.offset));
    assert_eq!(letter.attempts.len(), 1);
    assert!(letter.attempts[0].text.contains("what nobody knows"), "{letter:#?}");
    assert_eq!(letter.message.expect("it is shown with its message").data, json!({ "do": "what nobody knows" }));
}

#[test]
fn what_is_unavailable_is_not_charged_and_keeps_its_attempts() {
    let mut bus = Daemon::with("worker", &guest("obedient"), MANIFEST);
    let order = Order::Unavailable { reason: "closed for today".into(), after_ms: Some(20) };
    let accepted = bus.publish("orders", "customer", order);
    bus.wait_until("it was run more often than it has attempts", |bus| {
        bus.subscription("worker").outcomes("unavailable") > 6
    });
    // A version that rejects what is no order of its own takes over: now the attempt counts.
    let other = guest("email");
    bus.deploy("worker", &other, MANIFEST);
    assert_eq!(bus.settled("worker").died("rejected"), 1);
    let letter = bus.dead_letter(&format!("worker:{}", accepted.offset));
    let (last, earlier) = letter.attempts.split_last().expect("there were attempts");
    assert_eq!((last.outcome.as_str(), last.charged, &last.digest), ("reject", true, &digest(&other)));
    for attempt in earlier {
        assert_eq!((attempt.outcome.as_str(), attempt.charged), ("unavailable", false), "{letter:#?}");
        assert_eq!(attempt.text, "closed for today");
    }
    assert!(letter.attempts_total > 6, "{letter:#?}");
}

#[test]
fn only_a_fresh_instances_trap_counts() {
    // One call at a time, so that there is one instance.
    let manifest = MANIFEST.replace("timeout", "concurrency = 1\ntimeout");
    let mut bus = Daemon::with("worker", &guest("obedient"), &manifest);
    let calls = || Order::InstanceCalls { topic: "told".into() };
    let trap = Order::TrapWhenReused { text: "I am not alone".into(), then: then(calls()) };
    bus.publish_many("orders", [Order::Ack, calls(), trap, calls()].map(|order| ("same".to_owned(), order)));
    let account = bus.settled("worker");
    assert_eq!((account.acked, account.dead), (4, 0));
    let earlier: Vec<_> = bus.messages("told").iter().map(|told| told.data["earlier_calls"].as_u64()).collect();
    assert_eq!(earlier, [Some(1), Some(0), Some(1)], "the second call ran again, in a fresh instance");
}

#[test]
fn isolation_gives_each_message_an_instance() {
    let manifest = MANIFEST.replace("timeout", "isolation = \"fresh\"\ntimeout");
    let mut bus = Daemon::with("worker", &guest("obedient"), &manifest);
    let orders = (0..50).map(|_| (None, Order::InstanceCalls { topic: "told".into() }));
    bus.publish_many("orders", orders);
    assert_eq!(bus.settled("worker").acked, 50);
    let told = bus.messages("told");
    assert_eq!(told.len(), 50);
    assert!(told.iter().all(|told| told.data == json!({ "earlier_calls": 0 })));
}
