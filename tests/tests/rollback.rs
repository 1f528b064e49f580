//! New versions that have to prove themselves: bad ones go back by themselves, and take nothing with them.

use std::collections::BTreeSet;

use obedient::Order;
use sandpost_tests::{Client, Daemon, Ledger, Publishers, digest, guest, stamped};
use serde_json::{Value, json};
use versioned::Handled;

/// A retry comes long after the rollback, unless the refund makes it due.
const RETRY: &str =
    "[subscription.retry]\nmax_attempts = 3\nbackoff = { initial = \"5m\", max = \"5m\", jitter = 0.0 }\n";
const PROBATION: &str = "[deploy]\nprobation = { messages = 100000, max_failures = 5 }\n";

fn good(version: &str) -> String {
    format!(
        "[[subscription]]\ntopics = [\"orders\"]\n{RETRY}[grants]\npublish = [\"seen\"]\n\
         [config]\ntopic = \"seen\"\nversion = \"{version}\"\n{PROBATION}"
    )
}

/// The guest fails every message whose handling it may not report.
fn bad() -> String {
    good("bad").replace("publish = [\"seen\"]", "publish = []")
}

fn handled(bus: &Client) -> Vec<Handled> {
    let handled = |event: sandpost_tests::Event| serde_json::from_value(event.data).expect("the guest published it");
    bus.messages("seen").into_iter().map(handled).collect()
}

/// A consumer as the bus shows it, with all of its members.
fn plugin(bus: &Client, name: &str) -> Value {
    let plugins: Vec<Value> = bus.get("/plugins").expect(200).json();
    plugins.into_iter().find(|plugin| plugin["name"] == name).unwrap_or(Value::Null)
}

fn history(bus: &Client, name: &str) -> Vec<Value> {
    bus.get(&format!("/plugins/{name}/history")).expect(200).json()
}

/// Waits until this component runs again and the files in the folder are refused for it.
#[track_caller]
fn rolled_back_to(bus: &mut Daemon, component: &[u8]) {
    let expected = digest(component);
    bus.wait_until("the version before runs again", |bus| {
        let plugin = plugin(bus, "worker");
        let told = plugin["problem"].as_str().is_some_and(|problem| problem.contains("was rolled back"));
        plugin["digest"] == *expected && told
    });
}

/// Everything that was published was handled once, by a version that is good, and nothing was charged for.
#[track_caller]
fn nothing_came_of_the_bad_version(bus: &mut Daemon, published: usize) {
    let account = bus.settled("worker");
    assert_eq!((account.acked, account.dead), (published as u64, 0));
    let handled = handled(bus);
    let ids: BTreeSet<_> = handled.iter().map(|handled| &handled.id).collect();
    assert_eq!((handled.len(), ids.len()), (published, published), "each was handled once");
    assert!(handled.iter().all(|handled| handled.attempt == 1), "every attempt that failed was refunded");
}

#[test]
fn a_bad_version_goes_back_by_itself_under_load_and_nothing_dies() {
    let component = guest("versioned");
    let (first, second) = (stamped(&component, "1"), stamped(&component, "2"));
    let mut bus = Daemon::with("worker", &first, &good("1"));
    let ledger = Ledger::new();
    let make = |thread, number| (Some(format!("key-{thread}-{}", number % 50)), json!({ "number": number }));
    let publishers = Publishers::start(&bus.client(), &ledger, "orders", 3, make);
    bus.wait_until("the first version handles some", |bus| !handled(bus).is_empty());
    bus.put("worker", &second, &bad());
    rolled_back_to(&mut bus, &first);
    let before = handled(&bus).len();
    bus.wait_until("the first version handles more", |bus| handled(bus).len() > before);
    publishers.stop();
    ledger.check(&bus.messages("orders"));
    nothing_came_of_the_bad_version(&mut bus, ledger.acknowledged());
    assert!(bus.subscription("worker").outcomes("retry") > 5, "it did fail");

    let history = history(&bus, "worker");
    let told: Vec<_> = history.iter().map(|one| (one["number"].clone(), one["deployed_by"].clone())).collect();
    assert_eq!(told, [(json!(3), json!("probation")), (json!(2), json!("folder")), (json!(1), json!("start"))]);
    let probation = &history[1]["probation"];
    assert_eq!((&probation["status"], &probation["failures"]), (&json!("failed"), &json!(6)));
    assert!(
        probation["last_failures"].as_str().is_some_and(|text| text.contains("retry: ") && text.contains("seen")),
        "{probation}"
    );
    let metrics = bus.metrics();
    assert_eq!(metrics["sandpost_plugin_rollbacks_total{plugin=\"worker\",cause=\"probation\"}"], 1.0);
    assert_eq!(metrics["sandpost_plugin_deployments_total{plugin=\"worker\",cause=\"folder\"}"], 1.0);
    assert_eq!(metrics["sandpost_plugin_on_probation{plugin=\"worker\"}"], 0.0);
    let log = bus.log();
    assert!(log.contains("rolled back: too many messages failed on probation"), "{log}");

    // Its files lie there still, and are put there again: that is no reason to try it once more.
    bus.put("worker", &second, &bad());
    bus.deploy("other", &component, &good("1").replace("orders", "nothing"));
    rolled_back_to(&mut bus, &first);
    bus.kill();
    bus.restart();
    rolled_back_to(&mut bus, &first);
    assert_eq!(bus.get("/plugins/worker/history").json::<Vec<Value>>().len(), 3, "nothing was deployed since");
}

#[test]
fn a_version_that_was_on_probation_at_a_crash_is_on_probation_after_it() {
    let component = guest("versioned");
    let (first, second) = (stamped(&component, "1"), stamped(&component, "2"));
    let mut bus = Daemon::with("worker", &first, &good("1"));
    bus.deploy("worker", &second, &bad());
    for key in ["a", "b", "c"] {
        bus.publish("orders", key, json!({}));
    }
    bus.wait_until("three failed", |bus| plugin(bus, "worker")["probation"]["failures"] == 3);
    bus.kill();
    bus.restart();
    bus.runs("worker", &second);
    let probation = plugin(&bus, "worker")["probation"].clone();
    assert_eq!(probation["back_to"], *digest(&first), "{probation}");
    for key in 0..6 {
        bus.publish("orders", format!("key-{key}").as_str(), json!({}));
    }
    rolled_back_to(&mut bus, &first);
    // Those that failed before the crash, too.
    nothing_came_of_the_bad_version(&mut bus, 9);
    bus.kill();
    bus.restart();
    rolled_back_to(&mut bus, &first);
    assert_eq!(plugin(&bus, "worker")["deployed_by"], "probation");
}

#[test]
fn a_good_version_is_proven_and_stays() {
    let component = guest("versioned");
    let (first, second) = (stamped(&component, "1"), stamped(&component, "2"));
    let few = |version: &str| good(version).replace("messages = 100000", "messages = 10");
    let mut bus = Daemon::with("worker", &first, &few("1"));
    bus.deploy("worker", &second, &few("2"));
    for number in 0..10 {
        assert!(plugin(&bus, "worker")["probation"].is_object(), "after {number}");
        bus.publish("orders", None, json!({}));
        bus.settled("worker");
    }
    bus.wait_until("it is proven", |bus| plugin(bus, "worker")["probation"].is_null());
    assert_eq!(history(&bus, "worker")[0]["probation"]["status"], "proven");
    bus.kill();
    bus.restart();
    bus.runs("worker", &second);
    assert!(plugin(&bus, "worker")["probation"].is_null());
}

#[test]
fn messages_that_die_of_a_bad_version_are_marked_and_can_be_redriven() {
    let component = guest("obedient");
    let manifest = format!("[[subscription]]\ntopics = [\"orders\"]\n{PROBATION}");
    let (first, second) = (stamped(&component, "1"), stamped(&component, "2"));
    let mut bus = Daemon::with("worker", &first, &manifest);
    bus.publish("orders", None, Order::Reject { reason: "wrong from the first".into() });
    bus.wait_until("the first version rejects one", |bus| bus.subscription("worker").dead == 1);
    bus.deploy("worker", &second, &manifest);
    for number in 0..6 {
        bus.publish("orders", format!("key-{number}").as_str(), Order::Reject { reason: "wrong now".into() });
    }
    rolled_back_to(&mut bus, &first);
    bus.wait_until("all are told of", |bus| bus.subscription("worker").dead == 7);
    bus.wait_until("those of the second version are excused", |bus| {
        let letters: Vec<Value> = bus.get("/dead-letters?subscription=worker").expect(200).json();
        let of = |excused: &Value| -> Vec<&Value> {
            let letters = letters.iter().filter(|letter| letter["excused"] == *excused);
            letters.map(|letter| &letter["attempts"][0]["digest"]).collect()
        };
        // Every attempt says on what it ran.
        of(&json!("rolled-back")) == vec![&json!(digest(&second)); 6]
            && of(&Value::Null) == vec![&json!(digest(&first)); 1]
    });
}

#[test]
fn an_operator_goes_back_sees_the_history_and_deploys_again() {
    let component = guest("versioned");
    let (first, second) = (stamped(&component, "1"), stamped(&component, "2"));
    let mut bus = Daemon::with("worker", &first, &good("1"));
    let refused = bus.cli(&["plugins", "rollback", "worker"]);
    assert_eq!(refused.code, Some(5), "{refused}");
    assert!(refused.stderr.contains("`worker` cannot go back"), "{refused}");
    let refused = bus.cli(&["plugins", "rollback", "wroker"]);
    assert_eq!(refused.code, Some(3), "{refused}");
    assert!(refused.stderr.contains("worker"), "it says which there are: {refused}");

    bus.deploy("worker", &second, &good("2"));
    let went = bus.cli(&["plugins", "rollback", "worker"]);
    assert!(
        went.success().stdout.contains(&format!("{} to {}", &digest(&second)[..12], &digest(&first)[..12])),
        "{went}"
    );
    rolled_back_to(&mut bus, &first);
    bus.publish("orders", None, json!({}));
    bus.settled("worker");
    assert_eq!(handled(&bus)[0].version, "1", "the manifest went back with the component");
    for to in ["no-digest", &digest(&first)] {
        let refused = bus.cli(&["plugins", "rollback", "worker", "--to", to]);
        assert_eq!(refused.code, Some(5), "{refused}");
    }
    let shown = bus.cli(&["plugins", "history", "worker"]);
    let lines: Vec<&str> = shown.success().stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{shown}");
    assert!(lines[1].contains("operator") && lines[2].contains("replaced"), "{shown}");
    let shown = bus.cli(&["plugins", "show", "worker"]);
    assert!(shown.success().stdout.contains("by an operator"), "{shown}");
    bus.kill();
    bus.restart();
    rolled_back_to(&mut bus, &first);

    // The same bytes by a command are the operator's will.
    let files = bus.folder().join("new");
    std::fs::create_dir_all(&files).expect("it is the test's own");
    std::fs::write(files.join("worker.wasm"), &second).expect("it is the test's own");
    std::fs::write(files.join("worker.toml"), good("2")).expect("it is the test's own");
    bus.cli(&["plugins", "deploy", files.join("worker.wasm").to_str().expect("plain names")]).success();
    bus.runs("worker", &second);
    assert_eq!(plugin(&bus, "worker")["rolled_back"], json!([]));
    bus.post("/plugins/worker/rollback", &[], "{\"too\": 1}").problem(400, "bad-body");
    bus.post("/plugins/worker/permit", &[], "{\"digest\": \"12\"}").problem(400, "bad-body");
    bus.post("/plugins/nobody/rollback", &[], "").problem(404, "unknown-plugin");
    bus.get("/plugins/nobody/history").problem(404, "unknown-plugin");
    let went: Value = bus.post("/plugins/worker/rollback", &[], "").expect(200).json();
    assert_eq!((&went["from"], &went["to"]), (&json!(digest(&second)), &json!(digest(&first))));
}
