//! The same table of orders, obeyed by a guest in each language: what the contract offers, every language has.
//!
//! The guests are in `tests/languages`; `make languages` builds them. What they are told stands in the `subject` of a
//! message, as `tests/languages/README.md` says. `SANDPOST_SOAK=200000` sets how many messages the soak has.

use sandpost_tests::{Accepted, Client, Daemon, DeadLetter, Event, guest};
use serde_json::{Value, json};

const MANIFEST: &str = r#"
[[subscription]]
topics = ["orders"]
timeout = "3s"
concurrency = 2
[subscription.retry]
max_attempts = 2
backoff = { initial = "10ms", factor = 1.0, max = "10ms", jitter = 0.0 }
[subscription.breaker]
enabled = false
[limits]
memory = "64MiB"
[grants]
publish = ["told", "copy.*"]
[config]
name = "wert \u00fc \U0001F980"
"#;

const MIB: usize = 1 << 20;

/// One bus with the guest of one language.
struct Bench {
    bus: Daemon,
    language: &'static str,
}

/// What became of one message.
struct Obeyed {
    accepted: Accepted,
    told: Vec<Event>,
    dead: Option<DeadLetter>,
}

/// A message that carries an order.
#[derive(Default)]
struct Message<'a> {
    order: &'a str,
    data: Vec<u8>,
    fields: Value,
}

impl Bench {
    fn start(language: &'static str, kind: &str) -> Self {
        Self::with(language, kind, MANIFEST)
    }

    fn with(language: &'static str, kind: &str, manifest: &str) -> Self {
        let component = guest(&format!("languages/{language}"));
        let bus = Daemon::with(language, &component, manifest);
        let shown: Value = bus.get("/plugins").expect(200).json();
        assert_eq!(shown[0]["kind"], kind, "{shown}");
        Self { bus, language }
    }

    #[track_caller]
    fn give(&self, message: &Message<'_>) -> Accepted {
        let mut event = json!({
            "specversion": "1.0", "id": sandpost_tests::next_id(), "source": "/tests", "type": "test.order",
            "subject": message.order,
        });
        if !message.data.is_empty() {
            event["data_base64"] = base64(&message.data).into();
        }
        if let Some(fields) = message.fields.as_object() {
            event.as_object_mut().unwrap().extend(fields.clone());
        }
        let headers = [("content-type", "application/cloudevents+json")];
        self.bus.post("/topics/orders", &headers, event.to_string()).expect(201).json()
    }

    #[track_caller]
    fn obey_message(&mut self, message: &Message<'_>) -> Obeyed {
        let told_before = self.bus.messages("told").len();
        let accepted = self.give(message);
        self.bus.settled(self.language);
        let told = self.bus.messages("told").split_off(told_before);
        let id = format!("{}:{}", self.language, accepted.offset);
        let letters = self.bus.dead_letters(self.language);
        let dead = letters.iter().any(|letter| letter.id == id).then(|| self.bus.dead_letter(&id));
        Obeyed { accepted, told, dead }
    }

    #[track_caller]
    fn obey(&mut self, order: &str) -> Obeyed {
        self.obey_message(&Message { order, ..Message::default() })
    }

    #[track_caller]
    fn acks(&mut self, order: &str) {
        let obeyed = self.obey(order);
        assert!(obeyed.dead.is_none() && obeyed.told.is_empty(), "{order}: {:?}", obeyed.dead);
    }

    #[track_caller]
    fn acks_data(&mut self, order: &str, data: &[u8]) {
        let obeyed = self.obey_message(&Message { order, data: data.to_vec(), ..Message::default() });
        assert!(obeyed.dead.is_none(), "{order}: {:?}", obeyed.dead);
    }

    #[track_caller]
    fn tells(&mut self, order: &str, text: &str) {
        let obeyed = self.obey(order);
        assert!(obeyed.dead.is_none(), "{order}: {:?}", obeyed.dead);
        let [told] = &obeyed.told[..] else { panic!("{order}: told {:?}", obeyed.told) };
        assert_eq!(text_of(told), text, "{order}");
        assert_eq!(told.content_type.as_deref(), Some("text/plain"), "{order}");
    }

    /// The message dies for this reason, after attempts with these outcomes; the last one's text holds these.
    #[track_caller]
    fn dies(&mut self, order: &str, reason: &str, outcomes: &[&str], texts: &[&str]) -> DeadLetter {
        let obeyed = self.obey(order);
        let letter = obeyed.dead.unwrap_or_else(|| panic!("{order}: it is no dead letter"));
        assert_eq!(letter.reason, reason, "{order}: {letter:?}");
        let charged: Vec<_> = letter.attempts.iter().filter(|attempt| attempt.charged).collect();
        assert_eq!(
            charged.iter().map(|attempt| attempt.outcome.as_str()).collect::<Vec<_>>(),
            outcomes,
            "{order}: {letter:?}"
        );
        let text = &charged.last().unwrap().text;
        for part in texts {
            assert!(text.contains(part), "{order}: {part:?} is not in {text:?}");
        }
        letter
    }
}

fn text_of(event: &Event) -> &str {
    match &event.data {
        Value::Null => "",
        Value::String(text) => text,
        other => panic!("no text: {other}"),
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Everything that the contract offers. `thrown` is how an error that the guest does not catch ends a call, and what
/// that language adds to its text.
fn obeys(language: &'static str, kind: &str, thrown: (&str, &str)) {
    let mut bench = Bench::start(language, kind);

    // Outcomes.
    bench.acks("ack");
    bench.dies("retry nicht jetzt \u{fc}", "attempts-exhausted", &["retry"; 2], &["nicht jetzt \u{fc}"]);
    bench.dies("retry-after 1 gleich", "attempts-exhausted", &["retry"; 2], &["gleich"]);
    let letter = bench.dies("reject nie \u{1f980}", "rejected", &["reject"], &[]);
    assert_eq!(letter.attempts[0].text, "nie \u{1f980}");
    bench.dies("frobnicate", "rejected", &["reject"], &["unknown order frobnicate"]);
    bench.dies("throw bumm \u{fc}", "attempts-exhausted", &[thrown.0; 2], &["bumm \u{fc}", thrown.1]);
    bench.dies("loop", "attempts-exhausted", &["timed-out"; 2], &["3s"]);
    bench.dies("hog", "attempts-exhausted", &["out-of-memory"; 2], &["64 MiB"]);
    bench.acks("ack");

    // What it was given.
    let attributes: Value = (0..100)
        .map(|n| (format!("many{n}"), json!(format!("w\u{e4}rme {n} \u{1f321}"))))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let mut fields = attributes.clone();
    fields["partitionkey"] = json!("schl\u{fc}ssel");
    fields["datacontenttype"] = json!("application/octet-stream");
    let obeyed = bench.obey_message(&Message { order: "describe", data: vec![0xff; MIB], fields: fields.clone() });
    let [told] = &obeyed.told[..] else { panic!("{:?}", obeyed.dead) };
    let lines: Vec<&str> = text_of(told).lines().collect();
    assert_eq!(told.key.as_deref(), Some("schl\u{fc}ssel"));
    let Accepted { id, sequence, .. } = &obeyed.accepted;
    for line in [
        &format!("id={id}"),
        "source=/tests",
        "type=test.order",
        "subject=describe",
        "topic=orders",
        "key=schl\u{fc}ssel",
        "content-type=application/octet-stream",
        "attribute many0=w\u{e4}rme 0 \u{1f321}",
        "attribute many99=w\u{e4}rme 99 \u{1f321}",
        &format!("data-bytes={MIB}"),
        &format!("subscription={language}"),
        &format!("sequence={sequence}"),
        "attempt=1",
        "max-attempts=2",
        "redrives=0",
    ] {
        assert!(lines.contains(&line), "{line:?} is not in {lines:#?}");
    }
    let number = |name: &str| -> u64 {
        let value = lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("{name} is not in {lines:#?}")).parse().unwrap()
    };
    let (accepted_ms, first_ms, deadline_ms) =
        (number("accepted-ms"), number("first-attempt-ms"), number("deadline-ms"));
    assert!(1_700_000_000_000 < accepted_ms && accepted_ms <= first_ms && first_ms < deadline_ms, "{lines:#?}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("attribute many")).count(), 100);
    assert!(lines.iter().any(|line| line.starts_with("idempotency-key=") && line.len() > 30), "{lines:#?}");
    let obeyed = bench.obey("describe");
    let lines: Vec<&str> = text_of(&obeyed.told[0]).lines().collect();
    assert!(["key", "content-type", "data-bytes=0"].iter().all(|line| lines.contains(line)), "{lines:#?}");

    // What it publishes.
    let obeyed = bench.obey_message(&Message { order: "publish copy.large", data: vec![0xff; MIB], fields });
    assert!(obeyed.dead.is_none(), "{:?}", obeyed.dead);
    let [copy] = &bench.bus.messages("copy.large")[..] else { panic!("there is no copy") };
    // Compared by hand: a megabyte helps nobody in a message.
    assert!(copy.data_base64.as_deref() == Some(base64(&vec![0xff; MIB]).as_str()), "the copy has other data");
    assert_eq!((copy.kind.as_str(), copy.key.as_deref()), ("test.order", Some("schl\u{fc}ssel")));
    assert_eq!(copy.others["subject"], obeyed.accepted.id.as_str());
    assert!(
        attributes.as_object().unwrap().iter().all(|(name, value)| copy.others.get(name) == Some(value)),
        "{:?}",
        copy.others
    );
    let bytes: Vec<u8> = (0..=255).collect();
    bench.acks_data("publish copy.bytes", &bytes);
    assert_eq!(bench.bus.messages("copy.bytes")[0].data_base64, Some(base64(&bytes)));
    bench.acks("publish copy.empty");
    assert_eq!(bench.bus.messages("copy.empty")[0].data, Value::Null);
    let obeyed = bench.obey_message(&Message {
        order: "publish-later copy.later",
        data: b"sp\xc3\xa4ter".to_vec(),
        ..Message::default()
    });
    assert!(obeyed.dead.is_none(), "{:?}", obeyed.dead);
    let scheduled: Value = bench.bus.get("/scheduled").expect(200).json();
    let later =
        scheduled.as_array().unwrap().iter().find(|one| one["id"] == format!("later-{}", obeyed.accepted.id).as_str());
    let later = later.unwrap_or_else(|| panic!("it is not scheduled: {scheduled}"));
    let later: Value = bench.bus.get(&format!("/scheduled/{}", later["scheduled"])).expect(200).json();
    let message = &later["message"];
    assert_eq!(
        (&message["topic"], &message["type"], &message["data_base64"]),
        (&json!("copy.later"), &json!("copy.later"), &json!(base64("sp\u{e4}ter".as_bytes()))),
        "{later}"
    );
    let wait_ms = later["deliver_at_ms"].as_u64().unwrap() - later["accepted_ms"].as_u64().unwrap();
    assert!((3_500_000..=3_600_000).contains(&wait_ms), "{later}");
    let hour = |name: &str| message[name].as_str().unwrap_or_default().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(hour("expirytime").duration_since(hour("deliverat")).as_secs(), 3_600, "{later}");
    bench.tells("publish-error secret", "not-granted");
    bench.tells("publish-error copy.*", "invalid");
    bench.tells("publish-error copy.none", "none");
    bench.dies("publish secret", "attempts-exhausted", &["retry"; 2], &["secret", "[grants]"]);

    // Its state.
    bench.dies("get a", "rejected", &["reject"], &["no a"]);
    for (key, value) in [("a/1", "eins"), ("a/2", "zw\u{f6}i"), ("a/3", ""), ("a/\u{fc}", "vier"), ("b", "f\u{fc}nf")] {
        bench.acks_data(&format!("set {key}"), value.as_bytes());
    }
    bench.tells("get a/2", "zw\u{f6}i");
    bench.tells("get a/3", "");
    bench.tells("scan a/", "a/1=eins\na/2=zw\u{f6}i\na/3=\na/\u{fc}=vier\n");
    bench.tells("scan none/", "");
    bench.acks("delete a/2");
    bench.dies("get a/2", "rejected", &["reject"], &["no a/2"]);
    bench.tells("scan a/", "a/1=eins\na/3=\na/\u{fc}=vier\n");
    for _ in 0..3 {
        bench.acks("count n");
    }
    bench.tells("get n", "3");
    bench.acks_data("set large", "\u{e4}".repeat(MIB / 2).as_bytes());
    let obeyed = bench.obey("get large");
    assert!(text_of(&obeyed.told[0]) == "\u{e4}".repeat(MIB / 2), "the value is another one");
    bench.tells("state-error", "invalid-key");

    // Its configuration, and its log.
    bench.tells("config name", "wert \u{fc} \u{1f980}");
    bench.dies("config missing", "rejected", &["reject"], &["no missing"]);
    bench.acks("log warn eine zeile \u{fc}");
    let log = bench.bus.log();
    assert!(log.contains("eine zeile \u{fc}"), "{log}");
    bench.acks("garbage 1000000");

    // Something outside is down: it is not charged, and waits for ever.
    bench.give(&Message { order: "unavailable-after 1 zu \u{fc}", ..Message::default() });
    bench.bus.wait_until("it is tried more often than it has attempts", |bus: &Client| {
        let view = bus.subscription(language);
        view.outcomes("unavailable") > 3 && view.pending == 1
    });
}

/// Many messages with garbage, and little memory.
fn soaks(language: &'static str, kind: &str) {
    let messages =
        std::env::var("SANDPOST_SOAK").map_or(1_000, |count| count.parse().expect("SANDPOST_SOAK is a number"));
    let mut bench = Bench::start(language, kind);
    let headers = [("content-type", "application/cloudevents-batch+json")];
    let mut left: usize = messages;
    while left > 0 {
        let batch = left.min(1_000);
        let events: Vec<Value> = (0..batch)
            .map(|_| json!({ "specversion": "1.0", "id": sandpost_tests::next_id(), "source": "/tests", "type": "t", "subject": "garbage 100000" }))
            .collect();
        bench.bus.post("/topics/orders", &headers, Value::from(events).to_string()).expect(201);
        left -= batch;
        // So that PATIENCE is for a thousand messages.
        bench.bus.settled(language);
    }
    let view = bench.bus.subscription(language);
    assert_eq!((view.acked, view.dead), (messages as u64, 0));
    for outcome in ["trapped", "out-of-memory", "timed-out", "exited", "retry"] {
        assert_eq!(view.outcomes(outcome), 0, "{outcome}");
    }
}

macro_rules! languages {
    ($($name:ident = $kind:literal, $thrown:expr;)+) => {
        $(mod $name {
            #[test]
            fn obeys() {
                if super::there(stringify!($name)) {
                    super::obeys(stringify!($name), $kind, $thrown);
                }
            }

            #[test]
            fn soaks() {
                if super::there(stringify!($name)) {
                    super::soaks(stringify!($name), $kind);
                }
            }
        })+
    };
}

/// A WASI command in Go: a process for each message, whose exit code is the outcome.
#[test]
fn a_command_obeys() {
    if !there("command") {
        return;
    }
    let mut bench = Bench::start("command", "WASI command");
    bench.acks("ack");
    bench.dies("retry nicht jetzt \u{fc}", "attempts-exhausted", &["retry"; 2], &["nicht jetzt \u{fc}"]);
    let letter = bench.dies("reject nie \u{1f980}", "rejected", &["reject"], &[]);
    assert_eq!(letter.attempts[0].text, "nie \u{1f980}");
    bench.dies("exit 3", "rejected", &["reject"], &["exited with 3"]);
    bench.dies("exit 75", "attempts-exhausted", &["retry"; 2], &["exited with 75"]);
    bench.dies("throw bumm", "rejected", &["reject"], &["bumm", "goroutine"]);
    bench.dies("loop", "attempts-exhausted", &["timed-out"; 2], &["3s"]);
    bench.dies("hog", "attempts-exhausted", &["out-of-memory"; 2], &["64 MiB"]);
    bench.acks("garbage 1000000");
    bench.acks("lines 3");
    let log = bench.bus.log();
    assert!((0..3).all(|line| log.contains(&format!("line {line}"))), "{log}");

    let manifest = format!(
        "{MANIFEST}[command]\nargs = [\"--all\"]\nstdout = {{ publish = \"copy.lines\", content_type = \"text/plain\" }}\n"
    );
    let mut bench = Bench::with("command", "WASI command", &manifest);
    let mut prints = |message: &Message<'_>| {
        let before = bench.bus.messages("copy.lines").len();
        let obeyed = bench.obey_message(message);
        assert!(obeyed.dead.is_none(), "{:?}", obeyed.dead);
        let lines = bench.bus.messages("copy.lines").split_off(before);
        assert!(lines.iter().all(|line| line.content_type.as_deref() == Some("text/plain")));
        let keys: Vec<_> = lines.iter().map(|line| line.key.clone()).collect();
        (lines.iter().map(|line| text_of(line).to_owned()).collect::<Vec<_>>(), keys, obeyed.accepted)
    };
    let fields = json!({ "partitionkey": "schl\u{fc}ssel", "extra": "w\u{e4}rme" });
    let (lines, keys, accepted) = prints(&Message { order: "env", fields: fields.clone(), ..Message::default() });
    for line in [
        "SANDPOST_TOPIC=orders",
        "SANDPOST_TYPE=test.order",
        "SANDPOST_KEY=schl\u{fc}ssel",
        "SANDPOST_ATTRIBUTE_EXTRA=w\u{e4}rme",
        "SANDPOST_ATTEMPT=1",
        "SANDPOST_MAX_ATTEMPTS=2",
        "name=wert \u{fc} \u{1f980}",
        &format!("SANDPOST_ID={}", accepted.id),
        &format!("SANDPOST_SEQUENCE={}", accepted.sequence),
    ] {
        assert!(lines.iter().any(|found| found == line), "{line:?} is not in {lines:#?}");
    }
    assert!(!lines.iter().any(|line| line.starts_with("SANDPOST_CONTENT_TYPE=")), "{lines:#?}");
    assert!(keys.iter().all(|key| key.as_deref() == Some("schl\u{fc}ssel")));
    assert_eq!(prints(&Message { order: "args", ..Message::default() }).0, ["command --all"]);
    assert_eq!(prints(&Message { order: "lines 500", ..Message::default() }).0.len(), 500);
    let data: String = (0..MIB - 100).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
    let (lines, ..) = prints(&Message { order: "stdin", data: data.clone().into_bytes(), ..Message::default() });
    assert!(lines == [data], "a megabyte of stdin does not come out as it went in");
    assert!(prints(&Message { order: "stdin", ..Message::default() }).0.is_empty());
    // More lines than one call may publish: none is, and the message is not lost.
    let before = bench.bus.messages("copy.lines").len();
    bench.dies("lines 1001", "attempts-exhausted", &["retry"; 2], &["line 1001", "1000 events"]);
    assert_eq!(bench.bus.messages("copy.lines").len(), before);
}

/// Whether the guest of a language was built; `make languages` says why where one was not.
fn there(language: &str) -> bool {
    let built = sandpost_tests::is_built(&format!("languages/{language}"));
    if !built {
        sandpost_tests::skipped(
            &format!("the guest in {language}"),
            "its toolchain is not here; `make languages` says what is missing",
        );
    }
    built
}

languages! {
    assemblyscript = "core module", ("trapped", "guest.ts");
    c = "core module", ("trapped", "told_to_throw");
    go = "core module", ("trapped", "goroutine");
    js = "component", ("retry", "RangeError");
    python = "component", ("retry", "Traceback");
    rust = "component", ("trapped", "told_to_throw");
    starlingmonkey = "component", ("retry", "RangeError");
    ts = "component", ("retry", "RangeError");
    wat = "core module", ("trapped", "told_to_throw");
    zig = "core module", ("trapped", "toldToThrow");
}
