//! Consumers that were built for other platforms, in two languages: one table for all, and what each platform has alone.
//!
//! The guests are in `tests/languages/platforms`; `make languages` builds them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sandpost_tests::{Daemon, DeadLetter, Event, guest};
use serde_json::{Value, json};

const MANIFEST: &str = r#"
[[subscription]]
topics = ["orders"]
timeout = "5s"
[subscription.retry]
max_attempts = 2
backoff = { initial = "10ms", factor = 1.0, max = "10ms", jitter = 0.0 }
[subscription.breaker]
enabled = false
[grants]
publish = ["told", "granted"]
[config]
name = "wert \u00fc"
"#;

struct Bench {
    bus: Daemon,
    /// Whether the handler can publish; what cannot keeps what it would tell in its state.
    publishes: bool,
}

impl Bench {
    fn start(language: &str, platform: &str, kind: &str) -> Self {
        let bus = Daemon::with("worker", &guest(&format!("languages/platforms/{language}-{platform}")), MANIFEST);
        let shown: Value = bus.get("/plugins").expect(200).json();
        assert_eq!(shown[0]["kind"], kind, "{shown}");
        Self { bus, publishes: platform != "spin" }
    }

    #[track_caller]
    fn obey(&mut self, order: &str) -> Option<DeadLetter> {
        let event = json!({
            "specversion": "1.0", "id": sandpost_tests::next_id(), "source": "/tests", "type": "test.order",
            "partitionkey": "customer-7", "datacontenttype": "text/plain", "replyto": "inbox.7", "data": order,
        });
        let headers = [("content-type", "application/cloudevents+json")];
        let accepted: Value = self.bus.post("/topics/orders", &headers, event.to_string()).expect(201).json();
        self.bus.settled("worker");
        let id = format!("worker:{}", accepted["offset"]);
        let letters = self.bus.dead_letters("worker");
        letters.into_iter().find(|letter| letter.id == id)
    }

    #[track_caller]
    fn acks(&mut self, order: &str) {
        let dead = self.obey(order);
        assert!(dead.is_none(), "{order}: {dead:?}");
    }

    #[track_caller]
    fn tells(&mut self, order: &str, text: &str) {
        self.acks(order);
        let told = if self.publishes { self.last("told") } else { self.kept("told") };
        assert_eq!(told.as_deref(), Some(text), "{order}");
    }

    /// The text of the last message of a topic.
    fn last(&self, topic: &str) -> Option<String> {
        self.bus.messages(topic).last().map(text)
    }

    fn kept(&self, key: &str) -> Option<String> {
        let shown = self.bus.cli(&["state", "get", "worker", key, "--json"]);
        let shown: Value = serde_json::from_str(&shown.stdout).ok()?;
        shown["value"].as_str().map(str::to_owned)
    }

    #[track_caller]
    fn dies(&mut self, order: &str, outcome: &str, text: &str) {
        let letter = self.obey(order).unwrap_or_else(|| panic!("{order}: it is no dead letter"));
        assert_eq!(letter.reason, "attempts-exhausted", "{order}: {letter:?}");
        let charged: Vec<_> = letter.attempts.iter().filter(|attempt| attempt.charged).collect();
        assert!(charged.len() == 2 && charged.iter().all(|attempt| attempt.outcome == outcome), "{order}: {letter:?}");
        assert!(charged[1].text.contains(text), "{order}: {text:?} is not in {:?}", charged[1].text);
    }
}

fn text(event: &Event) -> String {
    match (&event.data, &event.data_base64) {
        (Value::String(text), _) => text.clone(),
        (_, Some(base64)) => String::from_utf8(STANDARD.decode(base64).unwrap()).unwrap(),
        (Value::Null, None) => String::new(),
        (other, None) => panic!("no text: {other}"),
    }
}

/// What all three platforms have. `fail` is what their error looks like in a dead letter.
fn obeys(bench: &mut Bench, fail: &str) {
    bench.acks("ack");
    bench.dies("fail warum \u{fc}", "retry", fail);
    let thrown = bench.obey("throw bumm").expect("it is a dead letter");
    assert!(thrown.attempts.last().unwrap().text.contains("bumm"), "{thrown:?}");
    bench.acks("publish granted hallo \u{fc}");
    let published = if bench.publishes { bench.last("granted") } else { bench.kept("granted") };
    assert_eq!(published.as_deref(), Some("hallo \u{fc}"));

    bench.acks("set k wert \u{fc}");
    assert_eq!(bench.kept("k").as_deref(), Some("wert \u{fc}"));
    bench.tells("get k", "wert \u{fc}");
    bench.tells("get nothing", "none");
    bench.tells("increment n", "2");
    bench.tells("increment n", "4");
    bench.tells("keys own", "a c true false");
    assert_eq!(bench.kept("own/c").as_deref(), Some("c"));
    bench.tells("config name", "wert \u{fc}");
    bench.tells("config missing", "none");
    bench.acks("log eine zeile \u{fc}");
    let log = bench.bus.log();
    assert!(log.contains("context: eine zeile \u{fc}"), "{log}");
    // What a failed call did is undone.
    bench.acks("set k before");
    bench.obey("increment k").expect("the value is no number");
    assert_eq!(bench.kept("k").as_deref(), Some("before"));
}

fn wasmcloud(language: &str) {
    let mut bench = Bench::start(language, "wasmcloud", "wasmcloud:messaging@0.2.0 handler");
    obeys(&mut bench, "warum \u{fc}");
    // It cannot name a key: what it publishes has that of the message.
    let granted = bench.bus.messages("granted").pop().unwrap();
    assert_eq!((granted.key.as_deref(), &granted.others["replyto"]), (Some("customer-7"), &json!("inbox.1")));
    bench.dies("publish secret x", "retry", "[grants]");
    bench.acks("request rpc.add");
    let told = bench.last("told").unwrap();
    assert!(told.contains("rpc.add") && told.contains("when its message is acknowledged"), "{told}");
}

fn wasi_messaging(language: &str) {
    let mut bench = Bench::start(language, "wasi-messaging", "wasi:messaging@0.2.0-draft handler");
    obeys(&mut bench, "warum \u{fc}");
    let granted = bench.bus.messages("granted").pop().unwrap();
    assert_eq!((granted.key.as_deref(), granted.content_type.as_deref()), (Some("customer-7"), Some("text/plain")));
    bench.tells("metadata replyto", "orders inbox.7");
    bench.tells("metadata partitionkey", "orders customer-7");
    let told = bench.bus.messages("told").pop().unwrap();
    // Metadata of the names of CloudEvents' attributes are those.
    assert_eq!((told.key.as_deref(), &told.others["extra"]), (Some("another"), &json!("more")));
}

fn spin(language: &str) {
    let mut bench = Bench::start(language, "spin", "fermyon:spin/inbound-redis handler");
    // Its error has no text; what was printed before stands for it.
    obeys(&mut bench, if language == "js" { "the handler answered `error`" } else { "warum \u{fc}" });
}

macro_rules! guests {
    ($($test:ident = $language:literal, $platform:literal, $run:ident;)+) => {
        $(#[test]
        fn $test() {
            if sandpost_tests::is_built(concat!("languages/platforms/", $language, "-", $platform)) {
                $run($language);
            } else {
                let guest = concat!("the guest in ", $language, ": for ", $platform);
                sandpost_tests::skipped(guest, "its toolchain is not here; `make languages` says what is missing");
            }
        })+
    };
}

guests! {
    wasmcloud_in_javascript = "js", "wasmcloud", wasmcloud;
    wasmcloud_in_python = "python", "wasmcloud", wasmcloud;
    wasi_messaging_in_javascript = "js", "wasi-messaging", wasi_messaging;
    wasi_messaging_in_python = "python", "wasi-messaging", wasi_messaging;
    spin_in_javascript = "js", "spin", spin;
    spin_in_python = "python", "spin", spin;
}
