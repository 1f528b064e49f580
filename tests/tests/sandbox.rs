//! What a guest cannot do: reach anything that is not granted, or hurt the host or its neighbours.

use std::net::TcpListener;

use obedient::Order;
use sandpost_tests::{Client, Daemon, guest, publishing};
use serde_json::{Value, json};

/// Threads that run guests.
const WORKERS: usize = 2;
/// Memory of the host that a misbehaving guest may cost beyond its own limit: caches, and what is on its
/// way into the log.
const HOST_BYTES_MAX: u64 = 512 << 20;

fn manifest(topic: &str, more: &str) -> String {
    format!(
        "[[subscription]]\ntopics = [\"{topic}\"]\n{more}\n\
         [subscription.retry]\nmax_attempts = 2\nbackoff = {{ initial = \"10ms\", max = \"10ms\" }}\n\
         [subscription.breaker]\nenabled = false\n\
         [limits]\nmemory = \"16MiB\"\n[grants]\npublish = [\"told\", \"flood\"]\n"
    )
}

/// A bus with a neighbour, who does as told and must never notice anything, and the consumers of a test.
fn bus_with_neighbour(others: &[(&str, &str)]) -> Daemon {
    let obedient = guest("obedient");
    let setup = Daemon::setup().flag("--workers", WORKERS.to_string().as_str());
    let setup = setup.plugin("neighbour", &obedient, &manifest("neighbour", ""));
    others.iter().fold(setup, |setup, (stem, rules)| setup.plugin(stem, &obedient, rules)).start()
}

/// The neighbour handles many more messages, while the others do what they do.
#[track_caller]
fn neighbour_goes_on(bus: &mut Daemon) {
    let before = bus.subscription("neighbour").acked;
    bus.publish_many("neighbour", (0..300).map(|_| (None, Order::Ack)));
    bus.publish_many("neighbour", (0..100).map(|number| (format!("key-{}", number % 3), Order::Ack)));
    let account = bus.settled("neighbour");
    assert_eq!((account.acked, account.dead), (before + 400, 0));
}

fn then(order: Order) -> Option<Box<Order>> {
    Some(Box::new(order))
}

fn flood(topic: &str, count: u32, bytes: usize) -> Order {
    publishing(topic, &"x".repeat(bytes), count)
}

#[test]
fn nothing_is_granted_by_default() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let here = listener.local_addr().expect("it is bound").to_string();
    let secret = tempfile::NamedTempFile::new().expect("there is a temporary folder");
    std::fs::write(secret.path(), "secret").expect("it is the test's own");
    let secret = secret.path().to_str().expect("temporary names are plain").to_owned();
    let unwritten = format!("{secret}.written");

    let topic = || "told".to_owned();
    let read = |path: &str| Order::ReadFile { path: path.into(), topic: topic() };
    let list = |path: &str| Order::ListFolder { path: path.into(), topic: topic() };
    let write = |path: &str| Order::WriteFile { path: path.into(), topic: topic() };
    let env = |name: &str| Order::Env { name: name.into(), topic: topic() };
    let connect = |addr: &str| Order::Connect { addr: addr.into(), topic: topic() };
    let listen = |addr: &str| Order::Listen { addr: addr.into(), topic: topic() };
    let resolve = |host: &str| Order::Resolve { host: host.into(), topic: topic() };
    let tries = [
        read(&secret),
        read("/etc/passwd"),
        read("../data/log.redb"),
        read("/proc/self/environ"),
        list("/"),
        list("."),
        list(""),
        write(&unwritten),
        write("/tmp/written"),
        write("written"),
        env("PATH"),
        env("SANDPOST_SECRET_TEST"),
        connect(&here),
        connect("127.0.0.1:22"),
        connect("[::1]:22"),
        listen("127.0.0.1:0"),
        listen("0.0.0.0:0"),
        resolve("localhost"),
        resolve("example.com"),
    ];
    let setup = Daemon::setup().variable("SANDPOST_SECRET_TEST", "secret");
    let mut bus = setup.plugin("worker", &guest("obedient"), &manifest("orders", "")).start();
    let order = |(number, order): (usize, &Order)| (format!("try-{number:02}"), order.clone());
    bus.publish_many("orders", tries.iter().enumerate().map(order));
    let account = bus.settled("worker");
    assert_eq!((account.acked, account.dead), (tries.len() as u64, 0), "it is told no, and may go on");
    let mut told = bus.messages("told");
    told.sort_by_key(|told| told.key.clone());
    assert_eq!(told.len(), tries.len());
    for (order, told) in tries.iter().zip(told) {
        assert!(
            told.data["error"].is_string() && told.data.get("ok").is_none(),
            "{order} was answered {:#}",
            told.data
        );
    }
    assert!(!std::path::Path::new(&unwritten).exists());
    listener.set_nonblocking(true).expect("a socket can be told so");
    assert!(listener.accept().is_err(), "nobody came");

    // What it does have is empty, or harms nobody.
    let args = Order::Args { topic: "told".into() };
    let stdin = Order::Stdin { topic: "told".into() };
    let random = || Order::Random { topic: "told".into() };
    let clock = Order::Clock { topic: "told".into() };
    bus.publish_many("orders", [args, stdin, random(), random(), clock].map(|order| ("one".to_owned(), order)));
    assert_eq!(bus.settled("worker").dead, 0);
    let told: Vec<Value> = bus
        .messages("told")
        .into_iter()
        .filter(|told| told.key.as_deref() == Some("one"))
        .map(|told| told.data)
        .collect();
    let [args, stdin, random, other, clock] = told.as_slice() else { panic!("{told:#?}") };
    assert_eq!(args["ok"], json!({ "args": [], "variables": [] }));
    assert!(stdin["ok"].as_str().is_none_or(str::is_empty), "{stdin:#}");
    assert_ne!(random["ok"], other["ok"]);
    assert_eq!(clock["ok"]["monotonic_advances"], true);
}

#[test]
fn loopers_and_sleepers_hold_up_nobody() {
    // Four times as many of each as there are threads, over three subscriptions. None of them ends.
    let rules = |topic| manifest(topic, "timeout = \"1h\"\nconcurrency = 16");
    let rules = [("one", rules("one")), ("two", rules("two")), ("three", rules("three"))];
    let others: Vec<_> = rules.iter().map(|(stem, rules)| (*stem, rules.as_str())).collect();
    let mut bus = bus_with_neighbour(&others);
    let running = |bus: &Client| -> u64 {
        ["one", "two", "three"].iter().map(|name| bus.subscription(name).waiting.running).sum()
    };
    let spread = |bus: &Client, order: &Order| {
        for number in 0..4 * WORKERS {
            bus.publish(["one", "two", "three"][number % 3], None, order);
        }
    };
    let sleeper = Order::Sleep { ms: 3_000_000, then: None };
    spread(&bus, &sleeper);
    bus.wait_until("all sleepers sleep", |bus| running(bus) == 4 * WORKERS as u64);
    neighbour_goes_on(&mut bus);
    spread(&bus, &Order::Spin);
    bus.wait_until("all loopers loop", |bus| running(bus) == 8 * WORKERS as u64);
    neighbour_goes_on(&mut bus);
    // Nor do they hold up others of their own subscription.
    bus.publish_many("one", (0..50).map(|_| (None, Order::Ack)));
    bus.wait_until("others of that subscription are acked", |bus| bus.subscription("one").acked == 50);
    neighbour_goes_on(&mut bus);
    assert_eq!(running(&bus), 8 * WORKERS as u64, "all this time they looped and slept");
    assert!(bus.peak_resident_bytes() < HOST_BYTES_MAX, "{} MiB", bus.peak_resident_bytes() >> 20);
}

#[test]
fn what_does_not_end_is_ended() {
    let mut bus = bus_with_neighbour(&[("worker", &manifest("orders", "timeout = \"300ms\"\nconcurrency = 16"))]);
    for _ in 0..2 * WORKERS {
        bus.publish("orders", None, Order::Spin);
        bus.publish("orders", None, Order::Sleep { ms: 3_000_000, then: None });
    }
    neighbour_goes_on(&mut bus);
    let account = bus.settled("worker");
    assert_eq!((account.dead, account.outcomes("timed-out")), (4 * WORKERS as u64, 8 * WORKERS as u64));
    // Their places are free again.
    bus.publish_many("orders", (0..100).map(|_| (None, Order::Ack)));
    assert_eq!(bus.settled("worker").acked, 100);
}

#[test]
fn memory_is_bounded_for_guests_and_host() {
    let mut bus = bus_with_neighbour(&[("worker", &manifest("orders", "concurrency = 16"))]);
    for round in 1..=4 {
        bus.publish_many("orders", (0..8).flat_map(|_| [(None, Order::Hog), (None, Order::Recurse)]));
        neighbour_goes_on(&mut bus);
        let account = bus.settled("worker");
        assert_eq!(account.dead, 16 * round);
        assert_eq!((account.outcomes("out-of-memory"), account.outcomes("trapped")), (16 * round, 16 * round));
    }
    // What is leaked in instances that are used again is lost with the instance.
    let leak = Order::Leak { bytes: 3 << 20, then: None };
    bus.publish_many("orders", (0..200).map(|_| (None, leak.clone())));
    let account = bus.settled("worker");
    assert_eq!((account.acked, account.dead), (200, 64));
    assert!(bus.peak_resident_bytes() < HOST_BYTES_MAX, "{} MiB", bus.peak_resident_bytes() >> 20);
}

#[test]
fn floods_of_output_are_cut_and_cost_the_host_nothing() {
    let mut bus = bus_with_neighbour(&[("worker", &manifest("orders", "timeout = \"1m\""))]);
    let (lines, bytes) = (100_000, 1_000);
    let orders = [
        Order::FloodLog { lines, bytes, then: None },
        Order::FloodStdout { lines, bytes, then: None },
        Order::FloodStderr { lines, bytes, then: then(Order::Reject { reason: "after the flood".into() }) },
        Order::FloodLog { lines: 1, bytes: 15 << 20, then: None },
        Order::Log { text: "a line\nERROR forged \u{1b}[31m".into(), then: None },
    ];
    for order in &orders {
        bus.publish("orders", None, order);
    }
    neighbour_goes_on(&mut bus);
    let account = bus.settled("worker");
    assert_eq!(account.acked + account.dead, orders.len() as u64);
    let log = bus.log();
    assert!(log.len() < 2 << 20, "100 MB were logged by a guest, and the bus wrote {} bytes", log.len());
    assert!(log.contains("dropped"), "what was dropped is said: {log}");
    assert!(!log.contains('\u{1b}') && !log.lines().any(|line| line.starts_with("ERROR")), "{log}");
    assert!(bus.peak_resident_bytes() < HOST_BYTES_MAX, "{} MiB", bus.peak_resident_bytes() >> 20);
    // What was printed is part of the evidence of a failure, up to a bound.
    for letter in bus.dead_letters("worker") {
        assert!(letter.attempts.iter().all(|attempt| attempt.text.len() <= 8 * 1024));
    }
}

#[test]
fn floods_of_publishes_are_refused() {
    let mut bus = bus_with_neighbour(&[("worker", &manifest("orders", "timeout = \"1m\""))]);
    for order in [flood("flood", 1_001, 1), flood("flood", 1_000_000, 0), flood("flood", 17, 512 << 10)] {
        bus.publish("orders", None, order);
    }
    neighbour_goes_on(&mut bus);
    let account = bus.settled("worker");
    assert_eq!((account.acked, account.died("attempts-exhausted")), (0, 3));
    for letter in bus.dead_letters("worker") {
        assert!(letter.attempts.iter().all(|attempt| attempt.text.contains("one call")), "{letter:#?}");
    }
    assert!(bus.messages("flood").is_empty());
    // As much as one call may publish is no flood.
    bus.publish("orders", None, flood("flood", 1_000, 1));
    assert_eq!(bus.settled("worker").acked, 1);
    assert_eq!(bus.messages("flood").len(), 1_000);
    assert!(bus.peak_resident_bytes() < HOST_BYTES_MAX, "{} MiB", bus.peak_resident_bytes() >> 20);
}

#[test]
fn no_loop_of_topics_runs_for_ever() {
    // Each copy of the message publishes one to its own topic, as a consumer that answers itself would.
    let rules = manifest("echo", "").replace("\"told\"", "\"echo\"");
    let mut bus =
        Daemon::with("worker", &guest("versioned"), &format!("{rules}[config]\ntopic = \"echo\"\nversion = \"1\"\n"));
    bus.publish("echo", None, json!({ "first": true }));
    bus.wait_until("the loop is cut", |bus| bus.subscription("worker").dead == 1);
    let account = bus.settled("worker");
    assert_eq!((account.died("too-many-hops"), account.dead), (1, 1));
    assert_eq!(bus.messages("echo").len() as u64, account.acked + 1, "the last one published nothing");
    assert_eq!(bus.dead_letters("worker")[0].reason, "too-many-hops");
}
