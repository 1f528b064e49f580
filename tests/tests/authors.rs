//! What the command line does for those who write consumers, with no bus running: `new`, `run`, `plugins check`.

use std::fs;
use std::path::Path;

use sandpost_tests::{Daemon, Exit, Setup, guest};
use serde_json::{Value, json};

const MANIFEST: &str = r#"
[[subscription]]
topics = ["orders"]
[subscription.retry]
max_attempts = 1
[grants]
publish = ["told"]
[config]
name = "value"
"#;

/// A folder with the obedient guest and its manifest.
fn desk() -> Setup {
    let setup = Daemon::setup();
    fs::write(setup.folder().join("worker.wasm"), guest("obedient")).unwrap();
    fs::write(setup.folder().join("worker.toml"), MANIFEST).unwrap();
    setup
}

fn path(setup: &Setup, name: &str) -> String {
    setup.folder().join(name).to_str().unwrap().to_owned()
}

/// Runs an order through the guest, and answers the exit with its report.
#[track_caller]
fn run(setup: &Setup, order: &Value, more: &[&str]) -> (Exit, Value) {
    fs::write(setup.folder().join("order.json"), order.to_string()).unwrap();
    let (consumer, event) = (path(setup, "worker.wasm"), path(setup, "order.json"));
    let exit = setup.cli(&[&["run", &consumer, &event, "--json"], more].concat());
    let report = serde_json::from_str(&exit.stdout).unwrap_or_else(|error| panic!("{error}\n{exit}"));
    (exit, report)
}

#[test]
fn one_event_runs_without_a_bus() {
    let setup = desk();
    let order = json!({ "do": "all", "orders": [
        { "do": "log", "text": "eine zeile \u{fc}" },
        { "do": "set-state", "key": "k", "value": "v" },
        { "do": "config", "name": "name", "topic": "told" },
    ]});
    let (exit, report) = run(&setup, &order, &["--key", "customer-7"]);
    assert_eq!(exit.code, Some(0), "{exit}");
    assert_eq!((&report["outcome"], &report["kind"]), (&json!("acked"), &json!("component")));
    // The manifest beside the file says what it takes.
    assert_eq!(report["topic"], "orders");
    assert_eq!(report["log"], json!([{ "level": "info", "text": "eine zeile \u{fc}" }]));
    assert_eq!(report["state"], json!([{ "key": "k", "before": null, "after": "v" }]));
    let published = &report["published"][0];
    assert_eq!((&published["topic"], &published["partitionkey"]), (&json!("told"), &json!("customer-7")));
    assert_eq!(published["data"], json!({ "name": "name", "value": "value" }));
    assert!(report["memory_bytes"].as_u64() > Some(0) && report["call_us"].as_u64() > Some(0), "{report}");

    let words = setup.cli(&["run", &path(&setup, "worker.wasm"), &path(&setup, "order.json")]);
    let (_, report) = run(&setup, &json!({ "do": "increment", "key": "n" }), &["--times", "5"]);
    // Each call begins with the same state.
    assert_eq!(report["state"], json!([{ "key": "n", "before": null, "after": "1" }]));
    assert!(report["warm_call_us"].as_f64() > Some(0.0), "{report}");
    for part in ["worker, a component", "eine zeile \u{fc}", "k  - -> v", "told", "acked", "MiB of memory"] {
        assert!(words.stdout.contains(part), "{part:?} is not in {words}");
    }
}

#[test]
fn what_does_not_succeed_says_so_by_its_exit_code() {
    let setup = desk();
    let (exit, report) = run(&setup, &json!({ "do": "retry", "reason": "not now", "after_ms": 1500 }), &[]);
    assert_eq!((exit.code, &report["outcome"]), (Some(7), &json!("retry")), "{exit}");
    assert_eq!((&report["reason"], &report["retry_after_ms"]), (&json!("not now"), &json!(1500)));
    let (exit, report) = run(&setup, &json!({ "do": "trap", "text": "as told" }), &[]);
    assert_eq!((exit.code, &report["outcome"]), (Some(7), &json!("trapped")), "{exit}");
    assert!(report["reason"].as_str().unwrap().contains("told_to_trap"), "{report}");
    // What a failed call staged is nothing.
    let order = json!({ "do": "all", "orders": [{ "do": "set-state", "key": "k", "value": "v" }, { "do": "reject", "reason": "no" }]});
    let (_, report) = run(&setup, &order, &[]);
    assert_eq!((&report["outcome"], &report["state"]), (&json!("reject"), &json!([])));
    let (_, report) = run(&setup, &json!({ "do": "try-publish", "to": "secret", "bytes": 1, "topic": "told" }), &[]);
    assert!(report["published"][0]["data"]["error"].as_str().unwrap().starts_with("NotGranted"), "{report}");

    let missing = setup.cli(&["run", &path(&setup, "nothing.wasm"), &path(&setup, "order.json")]);
    assert!(missing.code == Some(1) && missing.stderr.contains("nothing.wasm"), "{missing}");
    fs::write(setup.folder().join("bad.json"), r#"{"specversion": "1.0", "id": "1"}"#).unwrap();
    let bad = setup.cli(&["run", &path(&setup, "worker.wasm"), &path(&setup, "bad.json")]);
    assert!(bad.code == Some(2) && bad.stderr.contains("`source`"), "{bad}");
    let other = setup.cli(&["run", &path(&setup, "worker.wasm"), &path(&setup, "order.json"), "--subscription", "x"]);
    assert!(other.code == Some(2) && other.stderr.contains("it has worker"), "{other}");
}

#[test]
fn a_series_keeps_its_state_in_a_file() {
    let setup = desk();
    let state = path(&setup, "state.json");
    for count in 1..=3 {
        let (_, report) = run(&setup, &json!({ "do": "increment", "key": "n" }), &["--state", &state]);
        assert_eq!(report["state"][0]["after"], count.to_string(), "{report}");
    }
    let kept: Value = serde_json::from_str(&fs::read_to_string(&state).unwrap()).unwrap();
    assert_eq!(kept, json!({ "n": "3" }));
    run(
        &setup,
        &json!({ "do": "all", "orders": [{ "do": "increment", "key": "n" }, { "do": "reject", "reason": "no" }]}),
        &["--state", &state],
    );
    assert!(fs::read_to_string(&state).unwrap().contains("\"3\""), "a failed call is kept");
}

#[test]
fn a_dead_letter_is_run_once_more() {
    let wasm = guest("obedient");
    let mut bus = Daemon::with("worker", &wasm, MANIFEST);
    let order = json!({ "do": "while-state", "key": "fixed-not", "order": { "do": "ack" }, "then": { "do": "retry", "reason": "too early" } });
    let accepted = bus.publish("orders", "customer-7", &order);
    bus.settled("worker");
    let letter = bus.cli(&["dead-letters", "show", &format!("worker:{}", accepted.offset), "--json"]);
    let recorded: Value = serde_json::from_str(&letter.success().stdout).unwrap();
    let setup = desk();
    fs::write(setup.folder().join("letter.json"), &letter.stdout).unwrap();
    let replay = |more: &[&str]| -> Value {
        let (consumer, event) = (path(&setup, "worker.wasm"), path(&setup, "letter.json"));
        let exit = setup.cli(&[&["run", &consumer, &event, "--json"], more].concat());
        serde_json::from_str(&exit.stdout).unwrap_or_else(|error| panic!("{error}\n{exit}"))
    };
    let report = replay(&[]);
    assert_eq!((&report["outcome"], &report["reason"]), (&json!("retry"), &json!("too early")));
    assert_eq!((&report["subscription"], &report["attempt"]), (&json!("worker"), &json!(1)));

    // The same message, and the same idempotency key.
    let told = json!({ "do": "echo", "topic": "told" });
    let accepted = bus.publish(
        "orders",
        "customer-8",
        json!({ "do": "all", "orders": [told, { "do": "reject", "reason": "no" }]}),
    );
    bus.settled("worker");
    let letter = bus.cli(&["dead-letters", "show", &format!("worker:{}", accepted.offset), "--json"]);
    let key = serde_json::from_str::<Value>(&letter.stdout).unwrap()["idempotency_key"].clone();
    let echo = letter.stdout.replace(
        r#","orders":[{"do":"echo","topic":"told"},{"do":"reject","reason":"no"}]"#,
        r#","orders":[{"do":"echo","topic":"told"}]"#,
    );
    assert_ne!(echo, letter.stdout, "the order is not where it was looked for");
    fs::write(setup.folder().join("letter.json"), echo).unwrap();
    let given = replay(&[])["published"][0]["data"].clone();
    assert_eq!((&given["delivery"]["idempotency_key"], &given["message"]["id"]), (&key, &json!(accepted.id)));
    assert_eq!(
        (&given["delivery"]["sequence"], &given["message"]["key"]),
        (&json!(accepted.sequence), &json!("customer-8"))
    );
    assert_eq!(recorded["attempts"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_consumer_is_run_again_when_it_changes() {
    let bus = Daemon::setup().start();
    let folder = bus.folder().to_owned();
    fs::write(folder.join("hello.wat"), module("(i32.const 64)")).unwrap();
    fs::write(folder.join("event.json"), "{}").unwrap();
    let command = format!("run {} {} --watch", folder.join("hello.wat").display(), folder.join("event.json").display());
    let mut terminal = bus.cli_in_terminal(&command);
    terminal.shows("acked");
    terminal.shows("waiting for a change");
    fs::write(folder.join("hello.wat"), module("unreachable")).unwrap();
    terminal.shows("trapped");
    fs::write(folder.join("hello.wat"), "(module (nonsense").unwrap();
    terminal.shows("hello.wat: it is WebAssembly text with an error in it");
    terminal.ctrl_c();
    terminal.ends();
}

#[test]
fn a_project_is_built_and_deployed_on_every_change_before_the_authors_eyes() {
    let bus = Daemon::setup().start();
    let folder = bus.folder().join("hello");
    bus.cli(&["new", "hello", "--lang", "wat", "--into", folder.to_str().unwrap()]).success();
    let (manifest, consumer) = (folder.join("hello.toml"), folder.join("hello.wat"));
    // A build that copies, so that one can fail.
    let text = fs::read_to_string(&manifest).unwrap();
    let built = text.replace(
        "output = \"hello.wat\"",
        "command = \"! grep wrong hello.wat && cp hello.wat built.wat\"\noutput = \"built.wat\"\nwatch = [\"hello.wat\"]",
    );
    assert_ne!(text, built);
    fs::write(&manifest, built).unwrap();
    let mut terminal = bus.cli_in_terminal(&format!("dev {}", manifest.display()));
    terminal.shows("hello runs");
    let shown = terminal.text();
    let url = shown.split("listens on ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap().to_owned();
    let publish = |key: &str| {
        bus.cli(&["publish", "order.placed", "--key", key, "--data", "{\"id\": \"o-1\"}", "--bus", &url]).success();
    };
    publish("ada");
    terminal.shows("order.placed@1 ada");
    terminal.shows("acked order.placed@1");
    terminal.shows("invoice.due@1 ada");

    // A build that fails: the good version goes on.
    let good = fs::read_to_string(&consumer).unwrap();
    fs::write(&consumer, format!("{good};; wrong\n")).unwrap();
    terminal.shows("the last good version goes on");
    publish("bob");
    terminal.shows("acked order.placed@2");

    // One that the bus refuses, and one that rejects.
    fs::write(&consumer, "(module").unwrap();
    terminal.shows("hello was not deployed");
    let bad = good.replace("(if (i32.eqz (i32.load8_u offset=44 (local.get $call)))", "(if (i32.const 1)");
    assert_ne!(bad, good);
    fs::write(&consumer, bad).unwrap();
    let runs = || terminal.text().matches("hello runs").count();
    bus_wait(|| runs() == 2);
    publish("cyd");
    terminal.shows("an order needs a key");
    terminal.shows("is a dead letter: rejected");
    terminal.ctrl_c();
    let (_, text) = terminal.ends();
    assert!(text.contains("has stopped"), "{text}");
    // Its bus has ended with it, and its folder can be used again.
    let again = bus.cli(&["topics", "list", "--bus", &url]);
    assert_eq!(again.code, Some(4), "{again}");
}

/// Waits for something that no bus tells.
fn bus_wait(holds: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < sandpost_tests::PATIENCE, "it does not come to hold");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// A consumer in WebAssembly's text with this `handle`.
fn module(handle: &str) -> String {
    format!(
        r#"(module (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
            (func (export "handle") (param i32) (result i32) {handle}))"#
    )
}

#[test]
fn text_is_deployed_by_the_folder_and_by_the_command() {
    let mut bus = Daemon::setup().start();
    bus.put_file("hello", "toml", b"[[subscription]]\ntopics = [\"orders\"]\n");
    bus.put_file("hello", "wat", module("(i32.const 64)").as_bytes());
    bus.wait_until("the text runs", |bus| bus.plugin("hello").is_some_and(|plugin| plugin.status == "running"));
    let shown = bus.cli(&["plugins", "show", "hello"]);
    assert!(shown.success().stdout.contains("core module"), "{shown}");
    bus.publish("orders", None, "{}");
    assert_eq!(bus.settled("hello").acked, 1);

    // Another language takes over: a consumer has one file.
    let other = bus.folder().join("hello.wasm");
    fs::write(&other, guest("obedient")).unwrap();
    bus.cli(&["plugins", "deploy", other.to_str().unwrap()]).success();
    let names: Vec<_> = fs::read_dir(bus.plugin_folder()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        names.iter().any(|name| name == "hello.wasm") && !names.iter().any(|name| name == "hello.wat"),
        "{names:?}"
    );
    let shown = bus.cli(&["plugins", "show", "hello"]);
    assert!(shown.success().stdout.contains("component"), "{shown}");
}

#[test]
fn check_says_what_a_consumer_is_and_what_it_needs() {
    let setup = desk();
    let checked = setup.cli(&["plugins", "check", &path(&setup, "worker.wasm")]);
    for part in ["component", "publishing, state, configuration, log", "told"] {
        assert!(checked.success().stdout.contains(part), "{part:?} is not in {checked}");
    }
    fs::write(setup.folder().join("alone.wat"), module("(i32.const 64)")).unwrap();
    let checked = setup.cli(&["plugins", "check", &path(&setup, "alone.wat")]);
    assert!(
        checked.success().stdout.contains("core module") && checked.stdout.contains("it has no manifest"),
        "{checked}"
    );
    let refusal = |wat: &str| {
        fs::write(setup.folder().join("bad.wat"), wat).unwrap();
        let checked = setup.cli(&["plugins", "check", &path(&setup, "bad.wat")]);
        assert_eq!(checked.code, Some(1), "{checked}");
        checked.stderr
    };
    let said = refusal(
        r#"(module (memory (export "memory") 1) (func (export "handle") (param i32) (result i32) unreachable))"#,
    );
    assert!(
        said.contains("`cabi_realloc`") && said.contains("the bus puts messages where this function says"),
        "{said}"
    );
    let said = refusal(r#"(module (import "wbg" "x" (func)) (memory (export "memory") 1) (func (export "_start")))"#);
    assert!(said.contains("wasm-bindgen"), "{said}");
}

#[test]
fn a_new_project_is_there_as_a_whole_or_not_at_all() {
    let setup = Daemon::setup();
    let folder = path(&setup, "my-consumer");
    let made = setup.cli(&["new", "my-consumer", "--lang", "wat", "--into", &folder]);
    assert!(made.success().stdout.contains("README.md"), "{made}");
    let folder = Path::new(&folder);
    assert!(folder.join("my-consumer.wat").is_file() && folder.join("my-consumer.toml").is_file());
    let (consumer, event) = (folder.join("my-consumer.wat"), folder.join("events/order.json"));
    let ran = setup.cli(&["run", consumer.to_str().unwrap(), event.to_str().unwrap()]);
    assert!(ran.success().stdout.contains("invoice.due"), "{ran}");
    let again = setup.cli(&["new", "my-consumer", "--lang", "go", "--into", folder.to_str().unwrap()]);
    assert!(again.code == Some(1) && again.stderr.contains("not empty"), "{again}");
    let bad = setup.cli(&["new", "My_Consumer", "--lang", "go"]);
    assert!(bad.code == Some(2) && bad.stderr.contains("small letters"), "{bad}");
    let unknown = setup.cli(&["new", "x", "--lang", "cobol"]);
    assert!(unknown.code == Some(2) && unknown.stderr.contains("assemblyscript"), "{unknown}");
}
