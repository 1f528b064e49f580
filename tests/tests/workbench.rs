//! Dead letters as a workbench: chosen by a filter, counted, redriven at a rate, rehearsed, and watched.

use std::collections::BTreeMap;

use obedient::Order;
use sandpost_tests::{Client, Daemon, Outside, Reply, digest, guest, stamped};
use serde_json::{Value, json};
use versioned::Handled;

/// One attempt. The guest `versioned` fails where it is not granted to publish.
fn manifest(topics: &str, grants: &str) -> String {
    format!(
        "[[subscription]]\ntopics = [\"{topics}\"]\n[subscription.retry]\nmax_attempts = 1\n\
         [grants]\npublish = [{grants}]\n[config]\ntopic = \"seen\"\nversion = \"1\"\n"
    )
}

fn reject(reason: &str) -> Order {
    Order::Reject { reason: reason.to_owned() }
}

fn ids(letters: &[Value]) -> Vec<&str> {
    letters.iter().map(|letter| letter["id"].as_str().expect("every one has an id")).collect()
}

#[test]
fn every_part_of_the_filter_chooses_for_lists_and_commands_alike() {
    let component = guest("obedient");
    let setup = Daemon::setup().plugin("orders", &component, &manifest("order.>", ""));
    let mut bus = setup.plugin("payments", &component, &manifest("payment.*", "")).start();
    let no_total = format!("orders:{}", bus.publish("order.placed", "c-1", reject("no total in it")).offset);
    let trapped = format!("orders:{}", bus.publish("order.placed", "c-2", Order::Trap { text: "told".into() }).offset);
    let card = format!("payments:{}", bus.publish("payment.failed", "c-1", reject("the card is expired")).offset);
    assert_eq!((bus.settled("orders").dead, bus.settled("payments").dead), (2, 1));
    let digits = &digest(&component)[..12];
    let all = [no_total.as_str(), &trapped, &card];
    for (part, value, chosen) in [
        ("subscription", "orders", vec![&*no_total, &*trapped]),
        ("reason", "attempts-exhausted", vec![&*trapped]),
        ("topic", "payment.>", vec![&*card]),
        ("key", "c-1", vec![&*no_total, &*card]),
        ("since", "1h", all.to_vec()),
        ("until", "1h", vec![]),
        ("since", "2999-01-01T00:00:00Z", vec![]),
        ("digest", digits, all.to_vec()),
        ("digest", "000000", vec![]),
        ("error", "total", vec![&*no_total]),
        ("excused", "any", vec![]),
        ("excused", "no", all.to_vec()),
        ("ids", &card, vec![&*card]),
    ] {
        let mut chosen = chosen;
        let query = value.replace(':', "%3A").replace('>', "%3E").replace(' ', "%20");
        let listed: Vec<Value> = bus.get(&format!("/dead-letters?{part}={query}")).expect(200).json();
        let mut found = ids(&listed);
        found.sort_unstable();
        chosen.sort_unstable();
        assert_eq!(found, chosen, "{part}={value}");
        let typed = if part == "ids" { json!([value]) } else { json!(value) };
        for command in ["redrive", "drop"] {
            let body = json!({ "filter": { part: typed }, "dry_run": true }).to_string();
            let count: Value = bus.post(&format!("/dead-letters/{command}"), &[], body).expect(200).json();
            assert_eq!(count[format!("would_{command}")], chosen.len(), "{part}={value}: {count}");
        }
        if part != "ids" {
            let flag = format!("--{part}={value}");
            let listed = bus.cli(&["dead-letters", "list", "--json", &flag]);
            let listed: Vec<Value> = serde_json::from_str(&listed.success().stdout).expect("it is JSON");
            assert_eq!(listed.len(), chosen.len(), "{flag}");
        }
    }
    // A dry run does nothing, and all parts must hold.
    let left: Vec<Value> = bus.get("/dead-letters?reason=rejected&key=c-1&topic=order.*").expect(200).json();
    assert_eq!(ids(&left), [no_total]);
    assert_eq!(bus.subscription("orders").redriven, 0);
    // What means nothing is refused, on the command line in its own words.
    bus.get("/dead-letters?since=yesterday").problem(400, "bad-filter");
    let refused = bus.cli(&["dead-letters", "list", "--digest", "12345"]);
    assert!(refused.code == Some(5) && refused.stderr.contains("--digest"), "{refused}");
    let refused = bus.cli(&["dead-letters", "list", "--subscription", "order"]);
    assert!(refused.stderr.contains("`orders`") && refused.stderr.contains("sandpost subscriptions"), "{refused}");
}

#[test]
fn thousands_are_paged_counted_and_dropped_as_they_are_chosen() {
    let mut bus = Daemon::with("worker", &guest("obedient"), &manifest("orders", ""));
    let events = (0..3_000).map(|n| (None, reject(if n % 3 == 0 { "third" } else { "other" })));
    let published = bus.publish_many("orders", events);
    assert_eq!(bus.settled("worker").dead, 3_000);
    let expected: Vec<String> =
        published.iter().step_by(3).map(|accepted| format!("worker:{}", accepted.offset)).collect();
    let mut found: Vec<String> = Vec::new();
    loop {
        let after = found.last().map_or(String::new(), |last| format!("&after={last}"));
        let page: Vec<Value> = bus.get(&format!("/dead-letters?error=third&limit=300{after}")).expect(200).json();
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 300);
        found.extend(ids(&page).into_iter().map(str::to_owned));
    }
    assert_eq!(found, expected);
    let count = bus.cli(&["dead-letters", "drop", "--error", "third", "--dry-run", "--json"]);
    let count: Value = serde_json::from_str(&count.success().stdout).expect("it is JSON");
    assert_eq!((&count["would_drop"], &count["by_reason"]), (&json!(1_000), &json!({ "rejected": 1_000 })));
    let dropped = bus.cli(&["dead-letters", "drop", "--error", "third", "--json"]);
    let dropped: Value = serde_json::from_str(&dropped.success().stdout).expect("it is JSON");
    assert_eq!((&dropped["dropped"], &dropped["by_reason"]), (&count["would_drop"], &count["by_reason"]));
    let account = bus.subscription("worker");
    assert_eq!((account.dead, account.skipped), (2_000, 1_000));
}

#[test]
fn a_page_says_where_to_go_on() {
    let mut bus = Daemon::with("worker", &guest("obedient"), &manifest("orders", ""));
    let published = bus.publish_many("orders", (0..7).map(|_| (None, reject("no"))));
    assert_eq!(bus.settled("worker").dead, 7);
    let page = |after: &Value| -> Value {
        let command = json!({ "filter": {}, "after": after, "limit": 3 }).to_string();
        bus.post("/dead-letters/drop", &[], command).expect(200).json()
    };
    let first = page(&Value::Null);
    assert_eq!((&first["dropped"], &first["after"]), (&json!(3), &json!(format!("worker:{}", published[2].offset))));
    assert_eq!(bus.dead_letters("worker").len(), 4, "what was done is done, whether or not somebody goes on");
    let second = page(&first["after"]);
    assert_eq!(second["dropped"], 3);
    let third = page(&second["after"]);
    assert_eq!((&third["dropped"], &third["after"]), (&json!(1), &Value::Null));
}

#[test]
fn all_that_one_digest_failed_is_redriven_at_a_rate_and_in_order() {
    let component = guest("versioned");
    let mut bus = Daemon::with("worker", &component, &manifest("orders", ""));
    let published = bus.publish_many("orders", (0..60).map(|n| (format!("key-{}", n % 4), json!({ "number": n }))));
    assert_eq!(bus.settled("worker").dead, 60);
    bus.deploy("worker", &stamped(&component, "fixed"), &manifest("orders", "\"seen\""));
    let digits = &digest(&component)[..12];
    let count = bus.cli(&["dead-letters", "redrive", "--digest", digits, "--dry-run"]);
    for text in ["60 would be redriven", "worker", "attempts-exhausted", digits] {
        assert!(count.success().stdout.contains(text), "`{text}` is missing: {count}");
    }
    let redriven = bus.cli(&["dead-letters", "redrive", "--digest", digits, "--rate", "200/s", "--json"]);
    let redriven: Value = serde_json::from_str(&redriven.success().stdout).expect("it is JSON");
    assert_eq!((&redriven["redriven"], &redriven["left"]), (&json!(60), &json!(0)));
    let account = bus.settled("worker");
    assert_eq!((account.acked, account.dead, account.redriven), (60, 0, 60));
    let seen = bus.messages("seen");
    for key in 0..4 {
        let key = format!("key-{key}");
        let of_key = seen.iter().filter(|event| event.key.as_ref() == Some(&key));
        let handled: Vec<String> = of_key
            .map(|event| serde_json::from_value::<Handled>(event.data.clone()).expect("it published it").id)
            .collect();
        let expected = published.iter().enumerate().filter(|(n, _)| format!("key-{}", n % 4) == key);
        assert_eq!(handled, expected.map(|(_, accepted)| accepted.id.clone()).collect::<Vec<_>>());
    }
    assert_eq!(bus.cli(&["dead-letters", "redrive", "--all", "--rate", "fast"]).code, Some(2));
}

#[test]
fn a_rehearsal_says_what_would_become_of_letters_and_leaves_no_trace() {
    let candidate = guest("obedient");
    let mut bus = Daemon::with("worker", &guest("versioned"), &manifest("orders", ""));
    let increment = || Order::Increment { key: "n".to_owned(), then: None };
    let orders = [increment(), increment(), reject("still no total"), Order::Trap { text: "told".into() }, increment()];
    let published = bus.publish_many("orders", orders.into_iter().map(|order| ("key".to_owned(), order)));
    assert_eq!(bus.settled("worker").dead, 5);
    let looks = |bus: &Client| {
        let account: Value = bus.get("/subscriptions/worker").expect(200).json();
        let facts = ["matched", "pending", "dead", "acked", "skipped", "redriven", "died", "outcomes", "digest"];
        let facts = facts.map(|fact| account[fact].clone());
        (facts, bus.get("/topics").expect(200).body, bus.get("/dead-letters").expect(200).body)
    };
    let before = looks(&bus);
    let file = bus.folder().join("candidate.wasm");
    std::fs::write(&file, &candidate).expect("the test's folder takes files");
    let file = file.to_str().expect("the path is text");
    let rehearsal = bus.cli(&["dead-letters", "redrive", "--subscription", "worker", "--component", file, "--json"]);
    let rehearsal: Value = serde_json::from_str(&rehearsal.success().stdout).expect("it is JSON");
    assert_eq!(rehearsal["outcomes"], json!({ "acked": 3, "reject": 1, "trapped": 1 }), "{rehearsal}");
    assert_eq!((&rehearsal["digest"], &rehearsal["left"]), (&json!(digest(&candidate)), &json!(0)));
    let letters = rehearsal["letters"].as_array().expect("it lists them");
    let expected: Vec<_> = published.iter().map(|accepted| format!("worker:{}", accepted.offset)).collect();
    assert_eq!(ids(letters), expected);
    assert_eq!((&letters[0]["writes"], &letters[2]["text"]), (&json!(1), &json!("still no total")));
    assert_eq!(looks(&bus), before);
    let said = bus.cli(&["dead-letters", "redrive", "--reason", "attempts-exhausted", "--component", file]);
    assert!(said.success().stdout.contains("nothing committed") && said.stdout.contains("still no total"), "{said}");

    // Deployed, it counts from nothing: the rehearsals wrote no state.
    bus.deploy("worker", &candidate, &manifest("orders", "\"seen\""));
    assert_eq!(bus.redrive(&json!({ "ids": [expected[0], expected[1], expected[4]] })), 3);
    assert_eq!(bus.settled("worker").acked, 3);
    bus.publish("orders", "key", Order::GetState { key: "n".to_owned(), topic: "seen".to_owned() });
    assert_eq!(bus.settled("worker").acked, 4);
    assert_eq!(bus.messages("seen")[0].data, json!({ "key": "n", "value": "3" }));

    // What is no component is refused, and so is a choice of several consumers.
    bus.post("/dead-letters/rehearse?subscription=worker", &[], "no component").problem(400, "bad-component");
    bus.deploy("other", &candidate, &manifest("orders", ""));
    bus.publish("orders", None, reject("no"));
    assert_eq!((bus.settled("worker").dead, bus.settled("other").dead), (3, 1));
    bus.post("/dead-letters/rehearse", &[], "").problem(400, "several-consumers");
}

#[test]
fn a_rehearsal_names_the_letters_that_want_a_request_and_sends_none() {
    let server = Outside::start(|_| Reply::text(200, "hello"));
    let granted = format!("http = [{{ url = \"{}\", private = true }}]\n[config]", server.url("/granted"));
    let manifest = manifest("errand", "").replace("[config]", &granted);
    let mut bus = Daemon::with("worker", &guest("versioned"), &manifest);
    let errand = |path: &str| fetch::Errand { url: server.url(path), ..fetch::Errand::default() };
    let errands = [errand("/granted"), errand("/not-granted")].map(|errand| (None, json!(errand)));
    bus.publish_many("errand", errands.into_iter().chain([(None, json!("no errand"))]));
    assert_eq!(bus.settled("worker").dead, 3);
    let file = bus.folder().join("candidate.wasm");
    std::fs::write(&file, guest("fetch")).expect("the test's folder takes files");
    let file = file.to_str().expect("the path is text");
    let rehearsal = bus.cli(&["dead-letters", "redrive", "--all", "--component", file, "--json"]);
    let rehearsal: Value = serde_json::from_str(&rehearsal.success().stdout).expect("it is JSON");
    assert_eq!(rehearsal["outcomes"], json!({ "needs-http": 2, "reject": 1 }), "{rehearsal}");
    assert_eq!(
        (bus.subscription("worker").dead, server.connections()),
        (3, 0),
        "nothing leaves, and nothing is settled"
    );
}

#[test]
fn a_long_redrive_shows_how_far_it_is_and_ctrl_c_ends_it_between_two_letters() {
    let mut bus = Daemon::with("worker", &guest("obedient"), &manifest("orders", ""));
    bus.publish_many("orders", (0..60).map(|_| (None, reject("as told"))));
    assert_eq!(bus.settled("worker").dead, 60);
    // Nobody takes what is redriven, so that it can be counted.
    bus.take_away("worker");
    bus.wait_until("it is orphaned", |bus| bus.subscription("worker").status == "orphaned");
    let mut terminal = bus.cli_in_terminal("dead-letters redrive --all --rate 6/m");
    terminal.shows(" of 60, ");
    terminal.ctrl_c();
    let (code, shown) = terminal.ends();
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("interrupted; the others are dead letters as before"), "{shown}");
    let account = bus.subscription("worker");
    assert!(account.dead > 0 && account.dead + account.pending == 60, "{account:?}");
    assert!(shown.contains(&format!("{} redriven", account.pending)), "{shown}");
}

#[test]
fn every_dead_letter_has_one_event_and_a_failing_watcher_none() {
    let component = guest("obedient");
    let setup = Daemon::setup().plugin("worker", &component, &manifest("orders", ""));
    // It takes every event for an order, and none is: it fails on all of them.
    let mut bus = setup.plugin("watcher", &component, &manifest("$dead-letters.>", "")).start();
    let published = bus.publish_many("orders", (0..20).map(|n| (format!("key-{n}"), reject("as told"))));
    assert_eq!(bus.settled("worker").dead, 20);
    bus.wait_until("the watcher was told of all", |bus| bus.subscription("watcher").dead == 20);
    bus.kill();
    bus.restart();
    let events = bus.messages("$dead-letters.worker");
    assert_eq!(events.len(), 20);
    let by_offset: BTreeMap<u64, &Value> =
        events.iter().map(|event| (event.data["offset"].as_u64().expect("it has one"), &event.data)).collect();
    for accepted in &published {
        let told = by_offset[&accepted.offset];
        assert_eq!(told["id"], format!("worker:{}", accepted.offset));
        assert_eq!((&told["reason"], &told["error"]), (&json!("rejected"), &json!("as told")));
        assert_eq!((&told["topic"], &told["sequence"]), (&json!("orders"), &json!(accepted.sequence)));
        assert_eq!(told["digest"], digest(&component));
    }
    assert_eq!(bus.settled("watcher").matched, 20);
    let topics: Vec<String> = bus.topics().into_iter().map(|topic| topic.name).collect();
    assert!(!topics.contains(&"$dead-letters.watcher".to_owned()), "{topics:?}");

    // A dead letter that dies again is another event; a redrive and a drop are none.
    assert_eq!(bus.redrive(&json!({ "ids": [format!("worker:{}", published[0].offset)] })), 1);
    bus.wait_until("it died again", |bus| bus.messages("$dead-letters.worker").len() == 21);
    bus.cli(&["dead-letters", "drop", "--subscription", "worker"]).success();
    assert_eq!(bus.messages("$dead-letters.worker").len(), 21);
    // Nobody else publishes there.
    bus.post("/topics/$dead-letters.worker", &[], "{}").problem(400, "bad-topic");
}

#[test]
fn every_episode_of_lag_begins_and_ends_with_an_event() {
    let component = guest("obedient");
    let manifest = format!("{}\n", manifest("orders", ""))
        .replace("[subscription.retry]", "lag_warn = \"1ms\"\n[subscription.retry]");
    let mut bus = Daemon::with("worker", &component, &manifest);
    for episode in 1..=2 {
        bus.take_away("worker");
        bus.wait_until("it is orphaned", |bus| bus.subscription("worker").status == "orphaned");
        bus.publish("orders", None, Order::Ack);
        bus.wait_until("it lags", |bus| bus.messages("$lag.worker").len() == 2 * episode - 1);
        // An episode goes on while the bus is away, and is told of once all the same.
        bus.kill();
        bus.restart();
        bus.deploy("worker", &component, &manifest);
        assert_eq!(bus.settled("worker").acked, episode as u64);
        bus.wait_until("it is over", |bus| bus.messages("$lag.worker").len() == 2 * episode);
    }
    let states: Vec<Value> = bus.messages("$lag.worker").into_iter().map(|event| event.data["state"].clone()).collect();
    assert_eq!(states, ["began", "over", "began", "over"]);
    let metrics = bus.get("/metrics").expect(200).body;
    assert!(metrics.contains("sandpost_subscription_lag_episodes_total{subscription=\"worker\"}"), "{metrics}");
}
