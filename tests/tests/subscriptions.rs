//! Subscriptions: what they take, from where, in which order, and what becomes of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use obedient::Order;
use sandpost_tests::{Client, Daemon, guest, publishing};
use serde_json::json;

const RETRY: &str = "\n[subscription.retry]\nmax_attempts = 2\nbackoff = { initial = \"10ms\", max = \"10ms\" }\n";

fn manifest(topics: &str) -> String {
    format!("[[subscription]]\ntopics = {topics}\n[grants]\npublish = [\"seen\"]\n")
}

/// Subscriptions of one consumer, each with a name, its topics, and where it begins.
fn several(subscriptions: &[(&str, &str, &str)]) -> String {
    let table = |(name, topics, from): &(&str, &str, &str)| {
        format!("[[subscription]]\nname = \"{name}\"\ntopics = {topics}\nfrom = {from}\n")
    };
    subscriptions.iter().map(table).collect()
}

#[test]
fn filters_choose_by_token() {
    let subscriptions = several(&[
        ("literal", r#"["order.placed"]"#, "\"now\""),
        ("one-token", r#"["order.*"]"#, "\"now\""),
        ("first-token", r#"["*.placed"]"#, "\"now\""),
        ("rest", r#"["order.>"]"#, "\"now\""),
        ("middle", r#"["order.*.placed"]"#, "\"now\""),
        ("all", r#"[">"]"#, "\"now\""),
        ("overlapping", r#"["order.placed", "order.*", ">"]"#, "\"now\""),
        ("none", r#"["orders.>"]"#, "\"now\""),
    ]);
    let mut bus = Daemon::with("worker", &guest("obedient"), &subscriptions);
    let topics = ["order", "order.placed", "order.eu.placed", "user.placed", "order.eu.fr.placed", "Order.placed"];
    for topic in topics {
        bus.publish(topic, None, Order::Ack);
    }
    for (name, expected) in [
        ("literal", 1),
        ("one-token", 1),
        ("first-token", 3),
        ("rest", 3),
        ("middle", 1),
        ("all", 6),
        ("overlapping", 6),
        ("none", 0),
    ] {
        let account = bus.settled(name);
        assert_eq!((account.matched, account.acked), (expected, expected), "{name}");
    }
    let placed = bus.topics().into_iter().find(|topic| topic.name == "order.placed").expect("it was published to");
    assert_eq!(placed.messages, 1);
    let takers = ["all", "first-token", "literal", "one-token", "overlapping", "rest"];
    let mut found = placed.subscriptions;
    found.sort();
    assert_eq!(found, takers);
}

#[test]
fn what_is_acknowledged_is_in_the_account_at_once() {
    let bus = Daemon::with("worker", &guest("obedient"), &manifest(r#"["orders"]"#));
    let acknowledged = AtomicU64::new(0);
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                for _ in 0..150 {
                    bus.publish("orders", None, Order::Ack);
                    let published = acknowledged.fetch_add(1, Ordering::SeqCst) + 1;
                    let matched = bus.subscription("worker").matched;
                    assert!(matched >= published, "{published} are acknowledged, and {matched} are in the account");
                }
            });
        }
    });
}

#[test]
fn subscriptions_do_not_know_of_each_other() {
    let topics = manifest(r#"["orders"]"#);
    let fails = topics.replace("[grants]", &(RETRY.to_owned() + "[grants]")).replace("\"seen\"", "");
    let fails = fails.replace("[grants]", "[subscription.breaker]\nenabled = false\n[grants]");
    let fails = fails + "[config]\ntopic = \"seen\"\nversion = \"1\"\n";
    let setup = Daemon::setup();
    // Two guests that do as told, and one that fails on everything: it publishes what is not granted.
    let setup = setup.plugin("email", &guest("obedient"), &topics);
    let setup = setup.plugin("inventory", &guest("obedient"), &topics);
    let mut bus = setup.plugin("analytics", &guest("versioned"), &fails).start();
    bus.publish_many("orders", (0..100).map(|_| (None, Order::Ack)));
    for (name, acked, dead) in [("email", 100, 0), ("inventory", 100, 0), ("analytics", 0, 100)] {
        let account = bus.settled(name);
        assert_eq!((account.acked, account.dead), (acked, dead), "{name}");
    }
    assert_eq!(bus.dead_letters("email").len(), 0);
    assert_eq!(bus.dead_letters("analytics").len(), 100);
}

#[test]
fn a_subscription_begins_where_its_manifest_says() {
    let mut bus = Daemon::setup().start();
    let publish =
        |bus: &Client, topic: &str, count: usize| bus.publish_many(topic, (0..count).map(|_| (None, Order::Ack)));
    publish(&bus, "a", 5);
    let at = publish(&bus, "b", 5)[2].clone();
    let offset = publish(&bus, "a", 5)[4].offset;
    // The clock of the bus is this machine's: what follows is accepted later than this moment, which is
    // later than all before.
    let past = jiff::Timestamp::now();
    while jiff::Timestamp::now().as_millisecond() <= past.as_millisecond() + 1 {
        std::thread::yield_now();
    }
    let time = jiff::Timestamp::now();
    publish(&bus, "b", 4);
    publish(&bus, "a", 4);

    let time_text = format!("\"{time:.3}\"");
    let (offset_text, place) = (offset.to_string(), format!("\"b@{}\"", at.sequence));
    let subscriptions = several(&[
        ("now", r#"[">"]"#, "\"now\""),
        ("default", r#"[">"]"#, "\"now\""),
        ("beginning", r#"[">"]"#, "\"beginning\""),
        ("offset", r#"[">"]"#, &offset_text),
        ("place", r#"["a", "b"]"#, &place),
        ("time", r#"[">"]"#, &time_text),
    ]);
    let subscriptions = subscriptions
        .replace("name = \"default\"\ntopics = [\">\"]\nfrom = \"now\"", "name = \"default\"\ntopics = [\">\"]");
    bus.deploy("worker", &guest("obedient"), &subscriptions);
    // A topic that is born later is delivered from its first message.
    publish(&bus, "c", 2);
    // 5 a, 5 b (it begins with the third), 5 a (with the last one), 4 b, 4 a, 2 c.
    for (name, expected) in [("now", 2), ("default", 2), ("beginning", 25), ("offset", 11), ("time", 10), ("place", 16)]
    {
        let account = bus.settled(name);
        assert_eq!((account.matched, account.acked), (expected, expected), "{name}");
    }
    // It is read when the subscription is created, and not again.
    bus.deploy("worker", &sandpost_tests::stamped(&guest("obedient"), "2"), &subscriptions);
    bus.kill();
    bus.restart();
    assert_eq!(bus.settled("beginning").acked, 25);
    assert_eq!(bus.settled("now").acked, 2);
}

#[test]
fn a_name_claimed_twice_is_refused_and_names_both_files() {
    let mut bus = Daemon::with("email", &guest("obedient"), &several(&[("mail", r#"["a"]"#, "\"now\"")]));
    bus.put("letters", &guest("obedient"), &several(&[("mail", r#"["b"]"#, "\"now\"")]));
    let problem = bus.problem_of("letters");
    for text in ["letters.toml", "email.toml", "`mail`"] {
        assert!(problem.contains(text), "{problem}");
    }
    assert_eq!(bus.plugin("letters").expect("it is shown").status, "failed");
    bus.publish("a", None, Order::Ack);
    assert_eq!(bus.settled("mail").consumer, "email");
    // The name goes with its holder's files, and the other one gets it with all that is pending.
    bus.take_away("email");
    bus.runs("letters", &guest("obedient"));
    assert_eq!(bus.subscription("mail").consumer, "letters");
}

#[test]
fn a_subscription_outlives_its_files_until_it_is_removed() {
    let mut bus = Daemon::with("worker", &guest("obedient"), &manifest(r#"["orders"]"#));
    bus.publish_many("orders", (0..10).map(|_| (None, Order::Ack)));
    assert_eq!(bus.settled("worker").acked, 10);
    let problem = bus.delete("/subscriptions/worker").problem(409, "still-declared");
    assert!(problem.detail.contains("worker.toml"), "{problem:#?}");

    bus.take_away("worker");
    bus.wait_until("it is orphaned", |bus| bus.subscription("worker").status == "orphaned");
    bus.publish_many("orders", (0..10).map(|_| (None, Order::Ack)));
    let account = bus.subscription("worker");
    assert_eq!((account.pending, account.waiting.orphaned, account.acked), (10, 10, 10));
    assert!(bus.log().contains("orphaned"), "{}", bus.log());
    bus.kill();
    bus.restart();
    let account = bus.subscription("worker");
    assert_eq!((account.status.as_str(), account.pending, account.acked), ("orphaned", 10, 10));

    // The files are back: it goes on where it was.
    bus.deploy("worker", &guest("obedient"), &manifest(r#"["orders"]"#));
    let account = bus.settled("worker");
    assert_eq!((account.status.as_str(), account.acked, account.matched), ("active", 20, 20));

    bus.take_away("worker");
    bus.wait_until("it is orphaned", |bus| bus.subscription("worker").status == "orphaned");
    bus.cli(&["subscriptions", "remove", "worker"]).success();
    bus.get("/subscriptions/worker").problem(404, "unknown-subscription");
    bus.delete("/subscriptions/worker").problem(404, "unknown-subscription");
    bus.kill();
    bus.restart();
    bus.get("/subscriptions/worker").problem(404, "unknown-subscription");
    // Its name is free for one that begins anew.
    bus.deploy("worker", &guest("obedient"), &manifest(r#"["orders"]"#));
    assert_eq!(bus.subscription("worker").matched, 0);
}

#[test]
fn topics_that_are_added_count_from_the_reload_and_removed_ones_are_skipped() {
    let mut bus = Daemon::with("worker", &guest("obedient"), &manifest(r#"["a", "b"]"#));
    let ten = |bus: &Client, topic: &str| bus.publish_many(topic, (0..10).map(|_| (None, Order::Ack)));
    for topic in ["a", "b", "c"] {
        ten(&bus, topic);
    }
    assert_eq!(bus.settled("worker").acked, 20);
    // While nothing runs, some of everything gathers.
    bus.take_away("worker");
    bus.wait_until("it is orphaned", |bus| bus.subscription("worker").status == "orphaned");
    for topic in ["a", "b", "c"] {
        ten(&bus, topic);
    }
    bus.deploy("worker", &guest("obedient"), &manifest(r#"["a", "c"]"#));
    let account = bus.settled("worker");
    assert_eq!((account.acked, account.skipped, account.matched), (30, 10, 40), "a: 20, b: 10 and 10 skipped");
    for topic in ["a", "b", "c"] {
        ten(&bus, topic);
    }
    let account = bus.settled("worker");
    assert_eq!((account.acked, account.skipped, account.matched), (50, 10, 60), "c counts from the reload");
    bus.kill();
    bus.restart();
    let account = bus.settled("worker");
    assert_eq!((account.acked, account.skipped, account.matched), (50, 10, 60));
}

/// Publishes `[KEY, NUMBER]` to the topic `seen`.
fn seen(key: &str, number: usize) -> Order {
    publishing("seen", &json!([key, number]).to_string(), 1)
}

/// The numbers that were seen, in order, by key.
fn seen_by_key(bus: &Client) -> BTreeMap<String, Vec<usize>> {
    let mut by_key: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for event in bus.messages("seen") {
        let text = event.data.as_str().unwrap_or_else(|| panic!("{event:?}"));
        let (key, number): (String, usize) = serde_json::from_str(text).expect("the guest published it");
        by_key.entry(key).or_default().push(number);
    }
    by_key
}

#[test]
fn messages_of_a_key_keep_their_order_through_retries_and_crashes() {
    let topics = r#"["orders.a", "orders.b"]"#;
    let mut bus = Daemon::with("worker", &guest("obedient"), &manifest(topics));
    const KEYS: usize = 8;
    const EACH: usize = 60;
    let order = |number: usize| {
        let key = format!("key-{}", number % KEYS);
        let order = seen(&key, number / KEYS);
        // Every seventh fails twice, with the rest of its key behind it.
        let fails = Order::RetryUntil { attempt: 3, after_ms: Some(30), then: Some(Box::new(order.clone())) };
        (key, if number.is_multiple_of(7) { fails } else { order })
    };
    // A key's order holds across the topics of a subscription.
    let half = KEYS * EACH / 2;
    for chunk in (0..half).collect::<Vec<_>>().chunks(30) {
        let topic = if (chunk[0] / 30) % 2 == 0 { "orders.a" } else { "orders.b" };
        bus.publish_many(topic, chunk.iter().map(|number| order(*number)));
    }
    bus.wait_until("it has begun", |bus| bus.subscription("worker").acked > 20);
    bus.kill();
    bus.restart();
    bus.publish_many("orders.a", (half..KEYS * EACH).map(order));
    let account = bus.settled("worker");
    assert_eq!((account.acked, account.dead), ((KEYS * EACH) as u64, 0));
    let seen = seen_by_key(&bus);
    assert_eq!(seen.len(), KEYS);
    for (key, numbers) in seen {
        assert!(numbers.iter().copied().eq(0..EACH), "{key} was handled in this order: {numbers:?}");
    }
}

#[test]
fn a_message_in_retry_holds_back_its_key_and_no_other() {
    let mut bus = Daemon::with("worker", &guest("obedient"), &manifest(r#"["orders"]"#));
    let tomorrow = Order::Retry { reason: "tomorrow".into(), after_ms: Some(24 * 3_600_000) };
    bus.publish("orders", "stuck", &tomorrow);
    // More than a dispatcher holds in memory: they are written to rows of their own.
    const BEHIND: usize = 9_000;
    bus.publish_many("orders", (0..BEHIND).map(|number| ("stuck".to_owned(), seen("stuck", number))));
    bus.publish_many("orders", (0..500).map(|number| (format!("free-{}", number % 5), Order::Ack)));
    bus.publish_many("orders", (0..500).map(|_| (None, Order::Ack)));
    for _ in 0..2 {
        bus.wait_until("all others are acked", |bus| bus.subscription("worker").acked == 1_000);
        bus.wait_until("the rest waits behind its key", |bus| {
            let account = bus.subscription("worker");
            account.waiting.due_later == 1 && account.waiting.behind_key == BEHIND as u64
        });
        assert_eq!(bus.subscription("worker").pending, BEHIND as u64 + 1);
        bus.kill();
        bus.restart();
    }
    assert!(bus.messages("seen").is_empty());
}

#[test]
fn a_dead_letter_lets_its_key_go_on() {
    let rules = manifest(r#"["orders"]"#).replace("[grants]", &(RETRY.to_owned() + "[grants]"));
    let mut bus = Daemon::with("worker", &guest("obedient"), &rules);
    let trap = Order::Trap { text: "as told".into() };
    let orders = (0..40).map(|number| if number % 10 == 3 { trap.clone() } else { seen("key", number) });
    bus.publish_many("orders", orders.map(|order| ("key".to_owned(), order)));
    let account = bus.settled("worker");
    assert_eq!((account.acked, account.dead), (36, 4));
    let expected: Vec<_> = (0..40).filter(|number| number % 10 != 3).collect();
    assert_eq!(seen_by_key(&bus)["key"], expected);
}

#[test]
fn order_may_be_that_of_the_topic_or_none() {
    let topic = |name: &str, order: &str| {
        format!("[[subscription]]\nname = \"{name}\"\ntopics = [\"orders.*\"]\norder = \"{order}\"\n")
    };
    let rules = topic("by-topic", "topic") + &topic("unordered", "none") + "[grants]\npublish = [\"seen\"]\n";
    let mut bus = Daemon::with("worker", &guest("obedient"), &rules);
    let tomorrow = Order::Retry { reason: "tomorrow".into(), after_ms: Some(24 * 3_600_000) };
    bus.publish("orders.stuck", "key", &tomorrow);
    bus.publish_many("orders.stuck", (0..20).map(|_| ("key".to_owned(), Order::Ack)));
    bus.publish_many("orders.stuck", (0..20).map(|_| (None, Order::Ack)));
    bus.publish_many("orders.free", (0..20).map(|_| ("key".to_owned(), Order::Ack)));
    bus.wait_until("nothing is held back where there is no order", |bus| bus.subscription("unordered").acked == 60);
    bus.wait_until("the other topic goes on", |bus| bus.subscription("by-topic").acked == 20);
    bus.wait_until("and the first one waits, keys or none", |bus| {
        let waiting = bus.subscription("by-topic").waiting;
        (waiting.due_later, waiting.behind_key) == (1, 40)
    });
}
