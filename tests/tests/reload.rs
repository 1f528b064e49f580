//! Versions come and go while messages flow: none is lost, repeated or charged for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write;

use obedient::Order;
use sandpost_tests::{Client, Daemon, Ledger, Publishers, digest, guest, stamped};
use serde_json::json;
use versioned::Handled;

/// How often a version is swapped under load.
const SWAPS: usize = 24;
/// A component that is valid, and no consumer: an empty one.
const NO_CONSUMER: &[u8] = b"\0asm\x0d\0\x01\0";

fn manifest(version: &str) -> String {
    format!(
        "[[subscription]]\ntopics = [\"orders\"]\n\
         [subscription.retry]\nmax_attempts = 2\nbackoff = {{ initial = \"10ms\", max = \"10ms\" }}\n\
         [grants]\npublish = [\"seen\", \"told\"]\n[config]\ntopic = \"seen\"\nversion = \"{version}\"\n"
    )
}

/// What was handled, in the order of its effects, with the key.
fn handled(bus: &Client) -> Vec<(Option<String>, Handled)> {
    let handled =
        |event: sandpost_tests::Event| (event.key, serde_json::from_value(event.data).expect("the guest published it"));
    bus.messages("seen").into_iter().map(handled).collect()
}

/// The version that handles a message that is published now.
fn version_now(bus: &mut Daemon) -> String {
    let id = bus.publish("orders", None, json!({})).id;
    let mut version = None;
    bus.wait_until("a message is handled", |bus| {
        version = handled(bus).into_iter().find(|(_, handled)| handled.id == id).map(|(_, handled)| handled.version);
        version.is_some()
    });
    version.expect("it was waited for")
}

/// Waits until messages are handled by a version. Its component may be the same as that of the one before,
/// and then nothing else tells when it has taken over.
#[track_caller]
fn version_becomes(bus: &mut Daemon, version: &str) {
    bus.wait_until("the version takes over", |bus| {
        bus.publish("orders", None, json!({}));
        handled(bus).iter().any(|(_, handled)| handled.version == version)
    });
    assert_eq!(version_now(bus), version);
}

#[test]
fn dozens_of_swaps_under_load_lose_repeat_and_charge_nothing() {
    let component = guest("versioned");
    let mut bus = Daemon::with("worker", &stamped(&component, "0"), &manifest("0"));
    let ledger = Ledger::new();
    let make = |thread, number| (Some(format!("key-{thread}-{}", number % 3)), json!({ "number": number }));
    let publishers = Publishers::start(&bus.client(), &ledger, "orders", 3, make);
    let mut last_seen = 0;
    for swap in 1..=SWAPS {
        let version = swap.to_string();
        let (wasm, toml) = (stamped(&component, &version), manifest(&version));
        // Every way there is to bring in a version.
        match swap % 4 {
            0 => bus.put("worker", &wasm, &toml),
            1 => {
                let files = bus.folder().join("new");
                std::fs::create_dir_all(&files).expect("it is the test's own");
                std::fs::write(files.join("worker.wasm"), &wasm).expect("it is the test's own");
                std::fs::write(files.join("worker.toml"), &toml).expect("it is the test's own");
                bus.cli(&["plugins", "deploy", files.join("worker.wasm").to_str().expect("plain names")]).success();
            }
            2 => {
                std::fs::write(bus.plugin_folder().join("worker.toml"), &toml).expect("it is the test's own");
                std::fs::write(bus.plugin_folder().join("worker.wasm"), &wasm).expect("it is the test's own");
            }
            _ => {
                bus.put_file("worker", "wasm", &wasm);
                bus.put_file("worker", "toml", toml.as_bytes());
            }
        }
        bus.runs("worker", &wasm);
        // The swap is under load: this version handles some before the next one comes.
        bus.wait_until("the new version handles messages", |bus| {
            let from = last_seen + 1;
            let page: Vec<sandpost_tests::Event> =
                bus.get(&format!("/topics/seen/messages?from={from}&limit=1000")).json();
            last_seen = page.last().map_or(last_seen, |event| event.sequence);
            page.iter().any(|event| event.data["version"] == *version)
        });
    }
    publishers.stop();
    let account = bus.settled("worker");
    ledger.check(&bus.messages("orders"));
    assert!(ledger.refusals().is_empty(), "no publish failed: {:#?}", ledger.refusals());
    let published = ledger.acknowledged();
    assert_eq!((account.acked, account.dead), (published as u64, 0));
    for failure in ["retry", "trapped", "timed-out", "out-of-memory", "exited", "unavailable"] {
        assert_eq!(account.outcomes(failure), 0, "{failure}");
    }

    let handled = handled(&bus);
    assert_eq!(handled.len(), published, "each was handled once");
    let ids: BTreeSet<_> = handled.iter().map(|(_, handled)| &handled.id).collect();
    assert_eq!(ids.len(), published, "and none twice");
    assert!(handled.iter().all(|(_, handled)| handled.attempt == 1), "nothing was charged");
    let mut versions: BTreeMap<&Option<String>, usize> = BTreeMap::new();
    for (key, handled) in &handled {
        let version: usize = handled.version.parse().expect("versions are numbers");
        let before = versions.insert(key, version).unwrap_or(0);
        assert!(before <= version, "{key:?}: version {version} after {before}");
    }
    let orders: BTreeMap<String, u64> =
        bus.messages("orders").into_iter().map(|order| (order.id, order.sequence)).collect();
    let mut last: BTreeMap<&Option<String>, u64> = BTreeMap::new();
    for (key, handled) in &handled {
        let sequence = orders[&handled.id];
        let before = last.insert(key, sequence).unwrap_or(0);
        assert!(before < sequence, "{key:?}: {sequence} was handled after {before}");
    }
}

#[test]
fn calls_in_flight_finish_on_the_old_version() {
    let component = guest("obedient");
    let rules = manifest("1").replace("topics", "timeout = \"1m\"\ntopics");
    let mut bus = Daemon::with("worker", &component, &rules);
    // Longer than a deployment takes; the calls tell in which instance they ended.
    let sleeper = Order::Sleep {
        ms: 4_000,
        then: Some(Box::new(Order::Config { name: "version".into(), topic: "told".into() })),
    };
    for number in 0..4 {
        bus.publish("orders", format!("sleeper-{number}").as_str(), &sleeper);
    }
    bus.wait_until("all of them sleep", |bus| bus.subscription("worker").waiting.running == 4);
    bus.deploy("worker", &stamped(&component, "2"), &rules.replace("version = \"1\"", "version = \"2\""));
    bus.publish("orders", "awake", Order::Config { name: "version".into(), topic: "told".into() });
    let account = bus.settled("worker");
    assert_eq!((account.acked, account.dead, account.outcomes("acked")), (5, 0, 5), "no call was made twice");
    for told in bus.messages("told") {
        let expected = if told.key.as_deref() == Some("awake") { "2" } else { "1" };
        assert_eq!(told.data["value"], expected, "{told:?}");
    }
}

#[test]
fn a_broken_component_leaves_the_old_version_running_also_over_a_restart() {
    let good = guest("versioned");
    let mut bus = Daemon::with("worker", &good, &manifest("1"));
    for (broken, says) in [(&b"no component at all"[..], ""), (NO_CONSUMER, "handle"), (&good[..good.len() / 2], "")] {
        bus.put_file("worker", "wasm", broken);
        // Each is told from the one before by its digest.
        bus.wait_until("the broken one is refused", |bus| {
            let plugin = bus.plugin("worker").expect("it is deployed");
            plugin.digest.as_deref() == Some(digest(&good).as_str()) && plugin.problem.is_some()
        });
        let problem = bus.problem_of("worker");
        assert!(problem.contains(says), "{problem}");
        assert_eq!(version_now(&mut bus), "1");
        assert!(bus.log().contains("worker"), "the log says it too: {}", bus.log());
        let listed = bus.cli(&["plugins", "list", "--json"]);
        let listed: serde_json::Value = serde_json::from_str(&listed.success().stdout).expect("it is JSON");
        assert!(listed[0]["problem"].is_string() && listed[0]["status"] == "running", "{listed:#}");

        bus.kill();
        bus.restart();
        bus.problem_of("worker");
        assert_eq!(bus.plugin("worker").expect("it is deployed").status, "running");
        assert_eq!(version_now(&mut bus), "1");
        bus.put_file("worker", "wasm", &good);
        bus.runs("worker", &good);
    }
    let account = bus.settled("worker");
    assert_eq!((account.acked, account.dead), (6, 0));
}

#[test]
fn a_broken_manifest_leaves_the_old_version_running_and_is_named_with_line_and_key() {
    let component = guest("versioned");
    let mut bus = Daemon::with("worker", &component, &manifest("1"));
    let broken = [
        (manifest("2").replace("topics =", "topic ="), ["worker.toml:2", "`subscription.topic`", "topics"]),
        (manifest("2").replace("max_attempts = 2", "max_attempts = 0"), ["worker.toml:4", "max_attempts", "0"]),
        (manifest("2").replace("topics", "timeout = \"soon\"\ntopics"), ["worker.toml:2", "timeout", "soon"]),
        ("what is this".to_owned(), ["worker.toml:1", "TOML", ""]),
        ("[config]\nversion = \"2\"".to_owned(), ["worker.toml", "subscription", "topics"]),
        (manifest("2") + "[secrets]\nkey = { env = \"X\" }", ["worker.toml:12", "secrets.key.env", "SANDPOST_SECRET_"]),
    ];
    for (toml, says) in broken {
        bus.put_file("worker", "toml", toml.as_bytes());
        let mut problem = String::new();
        bus.wait_until("the broken one is refused", |bus| {
            problem = bus.plugin("worker").expect("it is deployed").problem.unwrap_or_default();
            says.iter().all(|text| problem.contains(text))
        });
        assert_eq!(version_now(&mut bus), "1", "{problem}");
    }
    bus.kill();
    bus.restart();
    assert!(bus.problem_of("worker").contains("secrets"));
    assert_eq!(version_now(&mut bus), "1");
    // The log said each of them once.
    let log = bus.log();
    assert_eq!(log.matches("secrets.key.env").count(), 1, "{log}");
    bus.put_file("worker", "toml", manifest("3").as_bytes());
    version_becomes(&mut bus, "3");
    assert_eq!(bus.plugin("worker").expect("it is deployed").problem, None);
}

#[test]
fn consumers_are_added_replaced_and_deleted_while_it_runs() {
    let component = guest("versioned");
    let mut bus = Daemon::setup().start();
    bus.publish("orders", None, json!({ "before": "anybody" }));
    // Half of a pair is none.
    bus.put_file("late", "toml", manifest("1").as_bytes());
    assert!(bus.problem_of("late").contains("late.wasm"));
    bus.put_file("late", "wasm", &component);
    bus.runs("late", &component);
    assert_eq!(version_now(&mut bus), "1");
    // Written in place, in parts.
    let second = stamped(&component, "2");
    let path = bus.plugin_folder().join("late.wasm");
    let mut file = OpenOptions::new().write(true).truncate(true).open(path).expect("it is there");
    for part in second.chunks(second.len() / 5) {
        file.write_all(part).and_then(|()| file.sync_all()).expect("it is the test's own");
    }
    drop(file);
    bus.runs("late", &second);
    bus.put_file("late", "toml", manifest("2").as_bytes());
    version_becomes(&mut bus, "2");
    bus.take_away("late");
    bus.wait_until("nothing of it runs", |bus| bus.plugin("late").is_none_or(|plugin| plugin.status != "running"));
    assert_eq!(bus.subscription("late").status, "orphaned");
    let before = bus.publish("orders", None, json!({})).sequence;
    bus.deploy("late", &component, &manifest("3"));
    let account = bus.settled("late");
    assert_eq!(account.acked, before - 1, "all but the one before it was there");
    assert_eq!(handled(&bus).last().expect("some were handled").1.version, "3");
}

#[test]
fn hidden_and_strange_files_harm_nobody() {
    let component = guest("versioned");
    let bus = Daemon::with("worker", &component, &manifest("1"));
    let folder = bus.plugin_folder();
    std::fs::create_dir(folder.join("folder.wasm")).expect("it is the test's own");
    std::fs::write(folder.join("folder.toml"), manifest("1")).expect("it is the test's own");
    std::fs::write(folder.join("README.md"), "read me").expect("it is the test's own");
    std::fs::write(folder.join(".hidden.wasm"), "hidden").expect("it is the test's own");
    std::fs::write(folder.join("two words.wasm"), &component).expect("it is the test's own");
    std::os::unix::fs::symlink("/nowhere", folder.join("link.wasm")).expect("it is the test's own");
    let mut bus = bus;
    assert!(bus.problem_of("folder").contains("not a regular file"));
    assert!(bus.problem_of("two words").contains("letters, digits"));
    let names: Vec<_> = bus.plugins().into_iter().map(|plugin| plugin.name).collect();
    assert_eq!(names, ["folder", "two words", "worker"]);
    assert_eq!(version_now(&mut bus), "1");
}

#[test]
fn a_deployment_that_cannot_run_fails_and_says_why() {
    let component = guest("versioned");
    let mut bus = Daemon::with("worker", &component, &manifest("1"));
    let files = bus.folder().join("new");
    std::fs::create_dir_all(&files).expect("it is the test's own");
    let path = files.join("worker.wasm");
    std::fs::write(&path, NO_CONSUMER).expect("it is the test's own");
    std::fs::write(files.join("worker.toml"), manifest("2")).expect("it is the test's own");
    let refused = bus.cli(&["plugins", "deploy", path.to_str().expect("plain names")]);
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.contains("handle"), "{refused}");
    assert_eq!(version_now(&mut bus), "1");
    // One that is no component is not even put there.
    std::fs::write(&path, "no component").expect("it is the test's own");
    let refused = bus.cli(&["plugins", "deploy", path.to_str().expect("plain names")]);
    assert_eq!(refused.code, Some(1), "{refused}");
    assert_eq!(std::fs::read(bus.plugin_folder().join("worker.wasm")).expect("it is there"), NO_CONSUMER);
}

#[test]
fn a_pair_is_checked_before_it_is_deployed() {
    let bus = Daemon::setup().start();
    let files = bus.folder().join("new");
    std::fs::create_dir_all(&files).expect("it is the test's own");
    let component = guest("versioned");
    let (wasm, toml) = (files.join("worker.wasm"), files.join("worker.toml"));
    let check = || bus.cli(&["plugins", "check", wasm.to_str().expect("plain names")]);
    std::fs::write(&wasm, &component).expect("it is the test's own");
    std::fs::write(&toml, manifest("1")).expect("it is the test's own");
    let good = check();
    for says in [&digest(&component), "worker takes orders", "publishing, state", "seen, told"] {
        assert!(good.success().stdout.contains(says), "{says}: {good}");
    }
    assert!(!good.stdout.contains("note:"), "{good}");
    std::fs::write(&toml, manifest("1").replace("[\"seen\", \"told\"]", "[]")).expect("it is the test's own");
    let noted = check();
    assert!(noted.success().stdout.contains("note: it can publish, and [grants] publish grants no topic"), "{noted}");
    // All that is wrong is told at once.
    std::fs::write(&wasm, NO_CONSUMER).expect("it is the test's own");
    std::fs::write(&toml, "topics = []").expect("it is the test's own");
    let refused = check();
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.contains("handle") && refused.stderr.contains("worker.toml:1"), "{refused}");
    assert_eq!(bus.plugins().len(), 0, "nothing was deployed");
}
