//! Dead letters: what they keep, and what is done with them.

use obedient::Order;
use sandpost_tests::{Daemon, digest, guest, stamped};
use serde_json::{Value, json};
use versioned::Handled;

/// Two attempts, quickly. The guest `versioned` fails where it is not granted to publish.
fn manifest(grants: &str) -> String {
    format!(
        "[[subscription]]\ntopics = [\"orders\"]\n\
         [subscription.retry]\nmax_attempts = 2\nbackoff = {{ initial = \"10ms\", max = \"10ms\" }}\n\
         [subscription.breaker]\nenabled = false\n\
         [grants]\npublish = [{grants}]\n[config]\ntopic = \"seen\"\nversion = \"1\"\n"
    )
}

const BROKEN: &str = "";
const FIXED: &str = "\"seen\"";

fn trap() -> Order {
    Order::Trap { text: "as told".into() }
}

#[test]
fn a_dead_letter_keeps_all_the_evidence_also_over_a_crash() {
    let component = guest("obedient");
    let mut bus = Daemon::with("worker", &component, &manifest(BROKEN));
    let before = jiff::Timestamp::now().as_millisecond() as u64;
    let accepted = bus.publish("orders", "customer-7", trap());
    assert_eq!(bus.settled("worker").died("attempts-exhausted"), 1);
    bus.kill();
    bus.restart();
    let letter = bus.dead_letter(&format!("worker:{}", accepted.offset));
    let after = jiff::Timestamp::now().as_millisecond() as u64;
    assert_eq!(letter.id, format!("worker:{}", accepted.offset));
    assert_eq!((letter.subscription.as_str(), letter.reason.as_str()), ("worker", "attempts-exhausted"));
    assert_eq!((letter.topic.as_str(), letter.sequence, letter.offset), ("orders", 1, accepted.offset));
    assert_eq!((letter.message_id.as_str(), letter.source.as_str()), (accepted.id.as_str(), "/tests"));
    assert_eq!((letter.key.as_deref(), letter.redrives, letter.attempts_total), (Some("customer-7"), 0, 2));
    assert!(before <= letter.accepted_ms && letter.accepted_ms <= letter.died_ms && letter.died_ms <= after);
    let [first, last] = letter.attempts.as_slice() else { panic!("{letter:#?}") };
    assert!(first.at_ms <= last.at_ms && last.at_ms <= letter.died_ms, "{letter:#?}");
    for attempt in [first, last] {
        assert_eq!((attempt.outcome.as_str(), attempt.charged), ("trapped", true));
        assert_eq!(attempt.digest, digest(&component));
        assert!(attempt.duration_us > 0);
        // The guest's own words, and where it was: function names, not numbers.
        for text in ["as told", "told_to_trap", "obey"] {
            assert!(attempt.text.contains(text), "`{text}` is not in: {}", attempt.text);
        }
    }
    let message = letter.message.expect("it is shown with its message");
    assert_eq!(message.data, serde_json::to_value(trap()).expect("an order is JSON"));
    assert_eq!((message.sequence, message.offset, message.key.as_deref()), (1, accepted.offset, Some("customer-7")));

    // Lists are without the message.
    let listed = bus.dead_letters("worker");
    assert_eq!(listed.len(), 1);
    assert!(listed[0].message.is_none());
    assert_eq!(listed[0].attempts.len(), 2);
}

#[test]
fn a_fixed_consumer_handles_what_is_redriven_in_the_order_of_its_keys() {
    let component = guest("versioned");
    let mut bus = Daemon::with("worker", &component, &manifest(BROKEN));
    let published = bus.publish_many("orders", (0..60).map(|n| (format!("key-{}", n % 4), json!({ "number": n }))));
    assert_eq!(bus.settled("worker").dead, 60);
    let letters = bus.dead_letters("worker");
    assert!(letters[0].attempts.iter().all(|attempt| attempt.text.contains("[grants]")), "{:#?}", letters[0]);

    // Not fixed yet: it fails again, and its evidence grows.
    let one = format!("worker:{}", published[3].offset);
    assert_eq!(bus.redrive(&json!({ "ids": [one] })), 1);
    bus.wait_until("it failed again", |bus| {
        bus.dead_letters("worker").iter().any(|letter| letter.id == one && letter.redrives == 1)
    });
    let letter = bus.dead_letter(&one);
    assert_eq!((letter.attempts_total, letter.attempts.len(), letter.redrives), (4, 4, 1));

    let fixed = stamped(&component, "fixed");
    bus.deploy("worker", &fixed, &manifest(FIXED));
    assert_eq!(bus.redrive(&json!({ "subscription": "worker" })), 60);
    let account = bus.settled("worker");
    assert_eq!((account.acked, account.dead, account.redriven, account.died("attempts-exhausted")), (60, 0, 61, 61));
    assert!(bus.dead_letters("worker").is_empty());
    let seen = bus.messages("seen");
    assert_eq!(seen.len(), 60, "each was handled once");
    for key in 0..4 {
        let key = format!("key-{key}");
        let of_key = seen.iter().filter(|event| event.key.as_ref() == Some(&key));
        let handled =
            of_key.map(|event| serde_json::from_value::<Handled>(event.data.clone()).expect("it published it"));
        let ids: Vec<_> = handled
            .map(|handled| {
                assert_eq!((handled.attempt, handled.version.as_str()), (1, "1"), "its attempts begin anew");
                handled.id
            })
            .collect();
        let expected = published.iter().enumerate().filter(|(n, _)| format!("key-{}", n % 4) == key);
        assert_eq!(ids, expected.map(|(_, accepted)| accepted.id.clone()).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_redriven_goes_before_what_waits_of_its_key() {
    let component = guest("versioned");
    let mut bus = Daemon::with("worker", &component, &manifest(BROKEN));
    let dead = bus.publish_many("orders", (0..5).map(|_| ("key".to_owned(), json!({}))));
    assert_eq!(bus.settled("worker").dead, 5);
    // While nothing runs, more gathers, and the dead letters are redriven.
    bus.take_away("worker");
    bus.wait_until("it is orphaned", |bus| bus.subscription("worker").status == "orphaned");
    let waiting = bus.publish_many("orders", (0..5).map(|_| ("key".to_owned(), json!({}))));
    assert_eq!(bus.redrive(&json!({})), 5);
    assert_eq!(bus.subscription("worker").pending, 10);
    bus.kill();
    bus.restart();
    assert_eq!(bus.subscription("worker").pending, 10);
    bus.deploy("worker", &component, &manifest(FIXED));
    assert_eq!(bus.settled("worker").acked, 10);
    let handled = bus.messages("seen").into_iter().map(|event| event.data["id"].clone());
    let expected = dead.iter().chain(&waiting).map(|accepted| Value::from(accepted.id.clone()));
    assert_eq!(handled.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
}

#[test]
fn what_is_dropped_counts_as_skipped() {
    let mut bus = Daemon::with("worker", &guest("obedient"), &manifest(BROKEN));
    let accepted = bus.publish_many("orders", (0..3).map(|_| (None, trap())));
    assert_eq!(bus.settled("worker").dead, 3);
    let id = |index: usize| format!("worker:{}", accepted[index].offset);
    let drop = |index: usize| bus.delete(&format!("/dead-letters/{}", id(index)));
    drop(1).expect(204);
    drop(1).problem(404, "unknown-dead-letter");
    bus.get(&format!("/dead-letters/{}", id(1))).problem(404, "unknown-dead-letter");
    let left: Vec<_> = bus.dead_letters("worker").into_iter().map(|letter| letter.id).collect();
    assert_eq!(left, [id(0), id(2)]);
    let account = bus.subscription("worker");
    assert_eq!((account.dead, account.skipped, account.acked, account.matched), (2, 1, 0, 3));
    // Its message is still in its topic.
    assert_eq!(bus.messages("orders").len(), 3);
    bus.kill();
    bus.restart();
    assert_eq!(bus.subscription("worker").skipped, 1);
}

#[test]
fn lists_are_of_one_subscription_or_all_and_come_in_pages() {
    let setup = Daemon::setup().plugin("one", &guest("obedient"), &manifest(BROKEN));
    let mut bus = setup.plugin("other", &guest("obedient"), &manifest(BROKEN)).start();
    let accepted = bus.publish_many("orders", (0..25).map(|_| (None, Order::Reject { reason: "as told".into() })));
    for name in ["one", "other"] {
        assert_eq!(bus.settled(name).died("rejected"), 25);
    }
    let ids = |path: &str| -> Vec<String> {
        let page: Vec<Value> = bus.get(path).expect(200).json();
        page.iter().map(|letter| letter["id"].as_str().expect("every one has an id").to_owned()).collect()
    };
    let of = |name: &str| accepted.iter().map(|accepted| format!("{name}:{}", accepted.offset)).collect::<Vec<_>>();
    assert_eq!(ids("/dead-letters?subscription=other"), of("other"));
    let mut all = ids("/dead-letters");
    assert_eq!(all.len(), 50);
    all.sort();
    let mut expected = [of("one"), of("other")].concat();
    expected.sort();
    assert_eq!(all, expected);
    let first = ids("/dead-letters?subscription=one&limit=10");
    let second = ids(&format!("/dead-letters?subscription=one&limit=10&after={}", first[9]));
    let third = ids(&format!("/dead-letters?subscription=one&limit=10&after={}", second[9]));
    assert_eq!([first, second, third].concat(), of("one"));

    bus.get("/dead-letters?subscription=nobody").problem(404, "unknown-subscription");
    bus.get("/dead-letters?limit=0").problem(400, "bad-parameter");
    bus.get("/dead-letters?limt=10").problem(400, "bad-parameter");
    for id in ["one:999", "nobody:1", "one", "one:", ":", "one:x"] {
        bus.get(&format!("/dead-letters/{id}")).problem(404, "unknown-dead-letter");
        bus.delete(&format!("/dead-letters/{id}")).problem(404, "unknown-dead-letter");
    }
    let redrive = |command: Value| bus.post("/dead-letters/redrive", &[], command.to_string());
    let filtered = |filter: Value| redrive(json!({ "filter": filter }));
    filtered(json!({ "subscription": "nobody" })).problem(404, "unknown-subscription");
    filtered(json!({ "ids": ["one:999"] })).problem(404, "unknown-dead-letter");
    filtered(json!({ "id": "one:1" })).problem(400, "bad-body");
    filtered(json!({ "digest": "123" })).problem(400, "bad-filter");
    redrive(json!({ "subscription": "one" })).problem(400, "bad-body");
    redrive(json!({})).problem(400, "bad-body");
    redrive(json!([])).problem(400, "bad-body");
    assert_eq!(filtered(json!({ "ids": [] })).expect(200).json::<Value>()["redriven"], 0);
    assert_eq!(bus.dead_letters("one").len(), 25);
}

#[test]
fn the_command_line_lists_shows_redrives_and_drops() {
    let mut bus = Daemon::with("worker", &guest("obedient"), &manifest(BROKEN));
    let traps = bus.publish_many("orders", (0..3).map(|_| ("customer-7".to_owned(), trap())));
    assert_eq!(bus.settled("worker").dead, 3);
    let id = |index: usize| format!("worker:{}", traps[index].offset);

    let listed = bus.cli(&["dead-letters", "list"]);
    for text in [&id(0), &id(1), &id(2), "attempts-exhausted", "customer-7", "orders"] {
        assert!(listed.success().stdout.contains(text), "`{text}` is missing: {listed}");
    }
    let listed = bus.cli(&["dead-letters", "list", "--subscription", "worker", "--json"]);
    let listed: Value = serde_json::from_str(&listed.success().stdout).expect("it is JSON");
    assert_eq!(listed.as_array().map(Vec::len), Some(3));
    let shown = bus.cli(&["dead-letters", "show", &id(0)]);
    for text in ["told_to_trap", "as told", "trapped", "customer-7", &digest(&guest("obedient"))[..12]] {
        assert!(shown.success().stdout.contains(text), "`{text}` is missing: {shown}");
    }

    bus.cli(&["dead-letters", "drop", &id(2)]).success();
    assert_eq!(bus.subscription("worker").skipped, 1);
    // Told to do otherwise, the message is what it was: it fails again.
    bus.cli(&["dead-letters", "redrive", "--subscription", "worker"]).success();
    bus.wait_until("they failed again", |bus| {
        let letters = bus.dead_letters("worker");
        letters.len() == 2 && letters.iter().all(|letter| letter.redrives == 1)
    });
    bus.cli(&["dead-letters", "drop", "--subscription", "worker"]).success();
    let account = bus.subscription("worker");
    assert_eq!((account.dead, account.skipped), (0, 3));

    for (args, code) in [
        (&["dead-letters", "show", "worker:999"][..], 3),
        (&["dead-letters", "list", "--subscription", "nobody"], 3),
        (&["dead-letters", "drop", "worker:999"], 3),
        (&["dead-letters", "redrive"], 2),
        (&["dead-letters", "drop"], 2),
    ] {
        let exit = bus.cli(args);
        assert_eq!(exit.code, Some(code), "{args:?}: {exit}");
        assert!(!exit.stderr.is_empty(), "{args:?}");
    }
}
