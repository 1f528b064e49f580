//! What was acknowledged survives `kill -9`, at any moment, and its effects happen once.

use std::collections::{BTreeMap, BTreeSet};

use obedient::Order;
use sandpost_tests::{Client, Daemon, Event, Ledger, Publishers, guest, publishing};
use serde_json::{Value, json};

const MANIFEST: &str = r#"
[[subscription]]
topics = ["orders"]
timeout = "20s"
[subscription.retry]
max_attempts = 3
backoff = { initial = "5ms", factor = 1.0, max = "5ms", jitter = 0.0 }
[grants]
publish = ["staged", "told"]
"#;

/// How often the bus is killed.
const ROUNDS: usize = 12;
const COUNTERS: u64 = 4;

/// The n-th order of a thread: a bit of everything, so that a crash finds every kind of work half done.
fn order(thread: u64, number: u64) -> (Option<String>, Order) {
    let key = Some(format!("key-{}", (thread + number) % 7));
    let counter = format!("counter-{}", number / 8 % COUNTERS);
    let later = |then| Order::RetryUntil { attempt: 2, after_ms: Some(1), then: Some(Box::new(then)) };
    match number % 8 {
        0 | 1 => (None, Order::Ack),
        2 => (key, increment(&counter, None)),
        3 => (None, increment(&counter, None)),
        4 => (key, stage(&format!("{thread}/{number}"))),
        5 => (key, later(increment(&counter, Some(stage(&format!("{thread}/{number}")))))),
        6 => (key, Order::Reject { reason: "as told".into() }),
        _ => (None, Order::Trap { text: "as told".into() }),
    }
}

fn increment(key: &str, then: Option<Order>) -> Order {
    Order::Increment { key: key.into(), then: then.map(Box::new) }
}

fn stage(data: &str) -> Order {
    publishing("staged", data, 1)
}

/// What must come of all that is stored.
#[derive(Default)]
struct Consequences {
    acked: u64,
    dead: BTreeSet<u64>,
    staged: Vec<String>,
    counters: BTreeMap<String, u64>,
}

impl Consequences {
    fn of(messages: &[Event]) -> Self {
        let mut all = Self::default();
        for message in messages {
            let order: Order = serde_json::from_value(message.data.clone()).expect("orders were published");
            all.add(message.offset, &order);
        }
        all
    }

    fn add(&mut self, offset: u64, order: &Order) {
        match order {
            Order::Reject { .. } | Order::Trap { .. } => drop(self.dead.insert(offset)),
            Order::Ack => self.acked += 1,
            Order::Increment { key, then } => {
                *self.counters.entry(key.clone()).or_default() += 1;
                self.add(offset, then.as_deref().unwrap_or(&Order::Ack));
            }
            Order::Publish { data, .. } => {
                self.staged.push(data.clone());
                self.acked += 1;
            }
            Order::RetryUntil { then: Some(then), .. } => self.add(offset, then),
            other => unreachable!("{other} is not published here"),
        }
    }
}

#[test]
fn killing_it_again_and_again_loses_nothing_and_repeats_no_effect() {
    let mut bus = Daemon::with("worker", &guest("obedient"), MANIFEST);
    let ledger = Ledger::new();
    for round in 0..ROUNDS {
        let enough = ledger.acknowledged() + 60 + 37 * (round % 5);
        let base = round as u64 * 1_000_000;
        let make = move |thread, number| order(thread, base + number);
        let publishers = Publishers::start(&bus.client(), &ledger, "orders", 3, make);
        ledger.reaches(enough);
        bus.kill();
        publishers.ended();
        bus.restart();
        ledger.check(&bus.messages("orders"));
    }

    let messages = bus.messages("orders");
    let expected = Consequences::of(&messages);
    let account = bus.settled("worker");
    assert_eq!(account.matched, messages.len() as u64, "it begins before the first message");
    assert_eq!((account.acked, account.dead), (expected.acked, expected.dead.len() as u64));
    let dead: BTreeSet<_> = bus.dead_letters("worker").iter().map(|letter| letter.offset).collect();
    assert_eq!(dead, expected.dead);

    let mut staged = staged(&bus);
    let mut expected_staged = expected.staged;
    staged.sort();
    expected_staged.sort();
    assert_eq!(staged, expected_staged, "each was published once");

    let read = (0..COUNTERS).map(|n| Order::GetState { key: format!("counter-{n}"), topic: "told".into() });
    bus.publish_many("orders", read.map(|order| (None, order)));
    bus.settled("worker");
    let counters = bus.messages("told").into_iter().map(|told| {
        let text = |member: &Value| member.as_str().unwrap_or_else(|| panic!("{told:?}")).to_owned();
        (text(&told.data["key"]), text(&told.data["value"]).parse().expect("it is a number"))
    });
    assert_eq!(counters.collect::<BTreeMap<_, u64>>(), expected.counters, "each was counted once");
}

fn staged(bus: &Client) -> Vec<String> {
    let text = |event: Event| event.data.as_str().unwrap_or_else(|| panic!("{event:?}")).to_owned();
    bus.messages("staged").into_iter().map(text).collect()
}

#[test]
fn attempts_survive_a_crash_with_their_evidence() {
    let manifest = MANIFEST.replace("max_attempts = 3", "max_attempts = 5");
    let mut bus = Daemon::with("worker", &guest("obedient"), &manifest);
    let order = Order::Retry { reason: "still not".into(), after_ms: Some(150) };
    let accepted = bus.publish("orders", "customer", order);
    for _ in 0..3 {
        bus.wait_until("another attempt was made, or the last one", |bus| {
            let account = bus.subscription("worker");
            account.outcomes("retry") > 0 || account.dead > 0
        });
        bus.kill();
        bus.restart();
    }
    assert_eq!(bus.settled("worker").died("attempts-exhausted"), 1);
    let letter = bus.dead_letter(&format!("worker:{}", accepted.offset));
    assert_eq!(letter.attempts.len(), 5, "{letter:#?}");
    assert!(letter.attempts.iter().all(|attempt| attempt.charged && attempt.text == "still not"), "{letter:#?}");
    assert!(letter.attempts.is_sorted_by_key(|attempt| attempt.at_ms), "{letter:#?}");
}

#[test]
fn what_is_shown_is_durable() {
    let component = guest("obedient");
    let mut bus = Daemon::with("worker", &component, MANIFEST);
    for round in 1..=5 {
        let reject = Order::Reject { reason: "as told".into() };
        bus.publish_many(
            "orders",
            (0..50).map(|number| (None, if number % 5 == 0 { reject.clone() } else { Order::Ack })),
        );
        let mut shown = (0, 0);
        bus.wait_until("some of them are settled", |bus| {
            let account = bus.subscription("worker");
            shown = (account.acked, account.dead);
            account.acked + account.dead > 50 * round - 25
        });
        bus.kill();
        // Nothing runs after the restart, so that only what was durable is seen.
        bus.take_away("worker");
        bus.restart();
        let account = bus.subscription("worker");
        let durable = (account.acked, account.dead);
        assert!(durable.0 >= shown.0 && durable.1 >= shown.1, "{shown:?} was shown, and {durable:?} was durable");
        bus.deploy("worker", &component, MANIFEST);
        bus.settled("worker");
    }
}

#[test]
fn damage_is_named_and_never_served() {
    let mut bus = Daemon::setup().start();
    // Far apart in the log, so that what is damaged is one of them.
    for text in ["one", "marked for damage", "three"] {
        bus.publish("texts", None, json!(text));
        bus.publish("padding", None, json!("x".repeat(600_000)));
    }
    bus.terminate().success();
    let path = bus.data_folder().join("log.redb");
    let mut bytes = std::fs::read(&path).expect("it is the test's own");
    let mark = b"marked for damage";
    let at: Vec<_> = (0..bytes.len() - mark.len()).filter(|at| bytes[*at..].starts_with(mark)).collect();
    assert!(!at.is_empty(), "data is stored as it is");
    at.iter().for_each(|at| bytes[*at] ^= 1);
    std::fs::write(&path, bytes).expect("it is the test's own");

    bus.restart();
    let problem = bus.get("/topics/texts/messages").problem(500, "log-damaged");
    assert!(!problem.detail.contains("log.redb"), "tables and paths are the operator's business: {problem:#?}");
    let three: Vec<Event> = bus.get("/topics/texts/messages?from=3").expect(200).json();
    assert_eq!(three[0].data, json!("three"));
    assert!(bus.log().contains("damaged") && bus.log().contains("offset 2"), "the log names it: {}", bus.log());
    // A consumer that comes to it says so, and handles nothing in its place.
    let manifest = MANIFEST.replace("topics = [\"orders\"]", "topics = [\"texts\"]\nfrom = \"beginning\"");
    bus.deploy("worker", &guest("obedient"), &manifest);
    bus.wait_until("the subscription has a problem", |bus| {
        bus.subscription("worker").problem.is_some_and(|problem| problem.contains("damaged"))
    });
}

#[test]
fn a_batch_is_there_whole_or_not_at_all() {
    let mut bus = Daemon::setup().start();
    // Larger than one block of the log, so that a crash has something to tear.
    let event = |batch: usize, index: usize| {
        let data = json!({ "batch": batch, "index": index, "padding": "x".repeat(20_000) });
        json!({ "specversion": "1.0", "id": format!("{batch}/{index}"), "source": "/tests", "type": "t", "data": data })
    };
    let batches: Vec<Value> =
        (0..200).map(|batch| (0..30).map(|index| event(batch, index)).collect::<Vec<_>>().into()).collect();
    let client = bus.client();
    let publisher = std::thread::spawn(move || {
        let mut acknowledged = BTreeSet::new();
        let headers = [("content-type", "application/cloudevents-batch+json")];
        for (number, batch) in batches.iter().enumerate() {
            match client.try_request("POST", "/topics/batches", &headers, batch.to_string().as_bytes()) {
                Ok(answer) => drop((answer.expect(201), acknowledged.insert(number as u64))),
                Err(_) => break,
            }
        }
        acknowledged
    });
    bus.wait_until("some batches are in", |bus| bus.topics().iter().any(|topic| topic.messages >= 300));
    bus.kill();
    let acknowledged = publisher.join().expect("a publisher does not panic");
    bus.restart();
    let mut found: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (index, message) in bus.messages("batches").into_iter().enumerate() {
        assert_eq!(message.sequence, index as u64 + 1);
        let number = |name: &str| message.data[name].as_u64().unwrap_or_else(|| panic!("{message:?}"));
        found.entry(number("batch")).or_default().push(number("index"));
    }
    assert!(found.values().all(|indexes| indexes.iter().copied().eq(0..30)), "a batch is torn");
    for batch in acknowledged {
        assert!(found.contains_key(&batch), "batch {batch} was acknowledged and is lost");
    }
}
