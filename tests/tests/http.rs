//! The HTTP surface: ways to publish, what is refused and how, and what is answered.

use obedient::Order;
use sandpost_tests::{Accepted, Answer, Daemon, Event, guest};
use serde_json::{Value, json};

const BATCH: (&str, &str) = ("content-type", "application/cloudevents-batch+json");
const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json; charset=utf-8");
const BINARY: [(&str, &str); 4] =
    [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/shop"), ("ce-type", "order")];

fn event(id: &str) -> Value {
    json!({ "specversion": "1.0", "id": id, "source": "/shop", "type": "order" })
}

/// An event with more members.
fn with(id: &str, more: Value) -> Value {
    let mut event = event(id);
    for (name, value) in more.as_object().expect("it is written as one") {
        event[name] = value.clone();
    }
    event
}

#[test]
fn events_are_taken_in_every_mode_of_cloud_events_and_as_plain_bodies() {
    let mut bus = Daemon::setup().start();
    let publish = |headers: &[(&str, &str)], body: &[u8]| bus.post("/topics/orders", headers, body).expect(201);

    let headers = [
        &BINARY[..],
        &[
            ("ce-subject", "a%20b%22%25"),
            ("ce-time", "2026-01-31T09:30:00Z"),
            ("ce-partitionkey", "K%C3%B6ln"),
            ("ce-traceparent", "00-1-2-3"),
            ("content-type", "text/plain"),
        ],
    ]
    .concat();
    let binary: Accepted = publish(&headers, b"hello").json();
    assert_eq!((binary.topic.as_str(), binary.sequence), ("orders", 1));
    assert_eq!((binary.id.as_str(), binary.source.as_str()), ("1", "/shop"));

    let structured = with("2", json!({ "partitionkey": "k", "data": { "number": 1e2 }, "retries": 3 }));
    publish(&[STRUCTURED], structured.to_string().as_bytes());
    publish(&[STRUCTURED], with("3", json!({ "data_base64": "AP8=" })).to_string().as_bytes());

    let batch =
        json!([with("4", json!({ "data": [1] })), with("5", json!({ "datacontenttype": "text/plain", "data": "x" }))]);
    let batched: Vec<Accepted> = publish(&[BATCH], batch.to_string().as_bytes()).json();
    assert_eq!(batched.iter().map(|one| (one.sequence, one.id.as_str())).collect::<Vec<_>>(), [(4, "4"), (5, "5")]);
    let nothing = bus.post("/topics/orders", &[BATCH], "[]").expect(200);
    assert_eq!(nothing.json::<Value>(), json!([]));

    let plain: Accepted = publish(&[("content-type", "application/json"), ("sandpost-key", "k")], b"{\"a\": 1}").json();
    assert!(!plain.id.is_empty());
    publish(&[], b"\x00\xff");
    publish(&[], b"");

    let check = |messages: &[Event]| {
        let [binary, json, bytes, list, text, plain, untyped, empty] = messages else { panic!("{messages:#?}") };
        assert_eq!((binary.subject(), binary.key.as_deref()), (Some("a b\"%"), Some("Köln")));
        assert_eq!((&binary.data, binary.content_type.as_deref()), (&json!("hello"), Some("text/plain")));
        assert_eq!(
            (&binary.others["time"], &binary.others["traceparent"]),
            (&json!("2026-01-31T09:30:00Z"), &json!("00-1-2-3"))
        );
        assert_eq!((json.key.as_deref(), &json.data), (Some("k"), &json!({ "number": 100.0 })));
        assert_eq!(json.others["retries"], json!("3"), "attributes are texts");
        assert_eq!(bytes.data_base64.as_deref(), Some("AP8="));
        assert_eq!((&list.data, &text.data), (&json!([1]), &json!("x")));
        assert_eq!((plain.kind.as_str(), plain.key.as_deref(), &plain.data), ("orders", Some("k"), &json!({ "a": 1 })));
        assert!(plain.others["time"].is_string());
        assert_eq!(untyped.data_base64.as_deref(), Some("AP8="), "bytes of no known type");
        assert_eq!((&empty.data, &empty.data_base64), (&Value::Null, &None));
        for (index, message) in messages.iter().enumerate() {
            assert_eq!((message.sequence, message.topic.as_str()), (index as u64 + 1, "orders"));
        }
    };
    check(&bus.messages("orders"));
    bus.kill();
    bus.restart();
    check(&bus.messages("orders"));
}

trait Subject {
    fn subject(&self) -> Option<&str>;
}

impl Subject for Event {
    fn subject(&self) -> Option<&str> {
        self.others.get("subject")?.as_str()
    }
}

#[test]
fn a_consumer_is_given_what_was_published() {
    let manifest = "[[subscription]]\ntopics = [\"orders\"]\n[grants]\npublish = [\"told\"]\n";
    let mut bus = Daemon::with("worker", &guest("obedient"), manifest);
    let order = Order::Echo { topic: "told".into() };
    let data: Value = serde_json::to_value(&order).expect("an order is JSON");
    let more = json!({ "partitionkey": "k", "subject": "s", "traceparent": "00-1-2-3", "data": data });
    let accepted: Accepted = bus.post("/topics/orders", &[STRUCTURED], with("1", more).to_string()).expect(201).json();
    bus.settled("worker");
    let told = bus.messages("told");
    let message = &told[0].data["message"];
    for (name, expected) in
        [("id", "1"), ("source", "/shop"), ("type", "order"), ("subject", "s"), ("topic", "orders"), ("key", "k")]
    {
        assert_eq!(message[name], expected, "{name}");
    }
    assert_eq!(message["attributes"], json!({ "traceparent": "00-1-2-3" }));
    assert_eq!(message["content_type"], "application/json");
    let given: Order = serde_json::from_str(message["data"].as_str().expect("it is a text")).expect("it is unchanged");
    assert_eq!(given, order);
    let delivery = &told[0].data["delivery"];
    assert_eq!((&delivery["sequence"], &delivery["attempt"]), (&json!(accepted.sequence), &json!(1)));
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{:#}", told[0].data));
    let (accepted_ms, now_ms) = (number(&message["accepted_ms"]), number(&told[0].data["now_ms"]));
    assert!(accepted_ms <= now_ms && now_ms < number(&delivery["deadline_ms"]));
    assert!(number(&delivery["first_attempt_ms"]) <= now_ms);
    assert_eq!(delivery["idempotency_key"].as_str().map(str::len), Some(32));
    // What a guest publishes has an origin too, and an id that is the same whenever it is made.
    assert_eq!(told[0].source, "/subscriptions/worker");
    assert!(told[0].id.starts_with(delivery["idempotency_key"].as_str().unwrap_or("?")), "{:#?}", told[0]);
}

#[test]
fn what_is_no_event_or_no_topic_is_refused_and_nothing_of_it_stored() {
    let bus = Daemon::setup().start();
    let binary = |without: &str, more: &[(&'static str, &'static str)]| {
        BINARY.iter().filter(|(name, _)| *name != without).chain(more).copied().collect::<Vec<_>>()
    };
    let structured = |body: Value| (vec![STRUCTURED], body.to_string());
    let cases = [
        ((binary("ce-id", &[]), String::new()), "bad-event", "`id`"),
        ((binary("ce-source", &[]), String::new()), "bad-event", "`source`"),
        ((binary("ce-type", &[]), String::new()), "bad-event", "`type`"),
        ((binary("ce-specversion", &[("ce-specversion", "0.3")]), String::new()), "bad-event", "0.3"),
        ((binary("ce-specversion", &[]), String::new()), "bad-event", "ce-specversion"),
        ((binary("ce-id", &[("ce-id", "")]), String::new()), "bad-event", "`id`"),
        ((binary("", &[("ce-bad-name", "x")]), String::new()), "bad-event", "bad-name"),
        ((binary("", &[("ce-time", "yesterday")]), String::new()), "bad-event", "yesterday"),
        ((binary("", &[("ce-datacontenttype", "text/plain")]), String::new()), "bad-event", "Content-Type"),
        ((binary("", &[("sandpost-key", "k")]), String::new()), "bad-event", "partitionkey"),
        (structured(json!([])), "bad-event", "array"),
        (structured(json!({})), "bad-event", "specversion"),
        (structured(with("", json!({}))), "bad-event", "`id`"),
        (structured(with("1", json!({ "id": 7 }))), "bad-event", "`id`"),
        (structured(with("1", json!({ "data": 1, "data_base64": "AA==" }))), "bad-event", "both"),
        (structured(with("1", json!({ "data_base64": "?" }))), "bad-event", "Base64"),
        (structured(with("1", json!({ "partitionkey": "k".repeat(1025) }))), "bad-event", "1024"),
        ((vec![STRUCTURED], "{\"specversion\": ".into()), "bad-event", "JSON"),
        ((vec![BATCH], event("1").to_string()), "bad-event", "array"),
        ((vec![BATCH], json!([event("1"), event("2"), {}]).to_string()), "bad-event", "event 2"),
    ];
    for ((headers, body), kind, says) in cases {
        let problem = bus.post("/topics/orders", &headers, &body).problem(400, kind);
        assert!(problem.detail.contains(says), "{headers:?} {body}: {problem:#?}");
    }
    let avro = ("content-type", "application/cloudevents+avro");
    bus.post("/topics/orders", &[avro], "x").problem(415, "unsupported-media-type");
    bus.post("/topics/orders", &[("content-encoding", "gzip")], "x").problem(415, "unsupported-media-type");
    for (topic, says) in [
        ("order..placed", "empty token"),
        (".order", "empty token"),
        ("order.*", "wildcard"),
        ("order.%3E", "wildcard"),
        ("or%20der", "' '"),
        ("%C3%B6rder", "letters"),
        ("$dead-letters.x", "bus's own"),
        (&"x".repeat(256), "255"),
        (&["x"; 33].join("."), "32"),
    ] {
        let problem = bus.post(&format!("/topics/{topic}"), &[], "x").problem(400, "bad-topic");
        assert!(problem.detail.contains(says), "{topic}: {problem:#?}");
    }
    assert_eq!(bus.topics().len(), 0, "nothing was stored, and no topic came into being");
}

#[test]
fn what_is_too_large_is_refused_with_a_way_out() {
    let bus = Daemon::setup().start();
    let limit = 1 << 20;
    let data = vec![b'x'; limit + 1];
    bus.post("/topics/orders", &[], &data[..limit]).expect(201);
    let problem = bus.post("/topics/orders", &[], &data).problem(413, "too-large");
    assert!(problem.hint.contains("dataref"), "{problem:#?}");
    assert_eq!(problem.facts["bytes_max"], json!(limit));
    // Much larger: the answer is read all the same.
    bus.post("/topics/orders", &[], vec![b'x'; 20 << 20]).problem(413, "too-large");
    let text = |bytes: usize| with("1", json!({ "datacontenttype": "text/plain", "data": "x".repeat(bytes) }));
    bus.post("/topics/orders", &[STRUCTURED], text(limit).to_string()).expect(201);
    bus.post("/topics/orders", &[STRUCTURED], text(limit + 1).to_string()).problem(413, "too-large");
    let subject = with("1", json!({ "subject": "x".repeat(70_000) })).to_string();
    bus.post("/topics/orders", &[STRUCTURED], subject).problem(413, "attributes-too-large");

    let many = |count: usize, bytes: usize| {
        let one =
            |n: usize| with(&format!("{n}"), json!({ "datacontenttype": "text/plain", "data": "x".repeat(bytes) }));
        Value::from((0..count).map(one).collect::<Vec<_>>()).to_string()
    };
    bus.post("/topics/batches", &[BATCH], many(1_000, 1)).expect(201);
    let problem = bus.post("/topics/batches", &[BATCH], many(1_001, 1)).problem(413, "batch-too-large");
    assert_eq!(problem.facts["messages_max"], json!(1_000));
    bus.post("/topics/batches", &[BATCH], many(9, limit)).problem(413, "batch-too-large");
    bus.post("/topics/batches", &[BATCH], many(30, limit)).problem(413, "batch-too-large");
    assert_eq!(bus.messages("batches").len(), 1_000);

    let small = Daemon::setup().flag("--message-data-max", "1KiB").start();
    small.post("/topics/orders", &[], &data[..1024]).expect(201);
    small.post("/topics/orders", &[], &data[..1025]).problem(413, "too-large");
}

#[test]
fn what_is_not_there_is_said_with_the_nearest_that_is() {
    let manifest = "[[subscription]]\ntopics = [\"order.placed\"]";
    let bus = Daemon::with("inventory", &guest("obedient"), manifest);
    bus.publish("order.placed", None, Order::Ack);
    let problem = bus.get("/topics/order.plced/messages").problem(404, "unknown-topic");
    assert_eq!(problem.facts["did_you_mean"], "order.placed");
    let problem = bus.get("/subscriptions/inventry").problem(404, "unknown-subscription");
    assert!(problem.hint.contains("`inventory`"), "{problem:#?}");
    bus.get("/dead-letters/inventory:7").problem(404, "unknown-dead-letter");
    bus.get("/").problem(404, "unknown-path");
    bus.get("/topics/").problem(404, "unknown-path");
    bus.get("/subscriptions/inventory/mail").problem(404, "unknown-path");
    for (method, path) in
        [("DELETE", "/topics"), ("POST", "/subscriptions"), ("POST", "/metrics"), ("PUT", "/topics/x")]
    {
        let answer = bus.request(method, path, &[], b"");
        answer.problem(405, "wrong-method");
        assert!(answer.headers.contains_key("allow"), "{answer:#?}");
    }
    bus.get("/topics/order.placed/messages?from=first").problem(400, "bad-parameter");
    bus.get("/topics/order.placed/messages?limit=1001").problem(400, "bad-parameter");
    bus.get("/topics?limit=1").problem(400, "bad-parameter");
    // Every kind of problem explains itself.
    let explained = bus.get("/problems/unknown-topic").expect(200);
    assert!(explained.body.contains("404"), "{explained:#?}");
}

#[test]
fn messages_are_read_in_pages() {
    let bus = Daemon::setup().start();
    bus.publish_many("orders", (0..250).map(|_| (None, Order::Ack)));
    let page = |from: u64, limit: u64| -> (Answer, Vec<u64>) {
        let answer = bus.get(&format!("/topics/orders/messages?from={from}&limit={limit}")).expect(200);
        assert_eq!(answer.headers["content-type"], "application/cloudevents-batch+json");
        let messages: Vec<Event> = answer.json();
        (answer, messages.iter().map(|message| message.sequence).collect())
    };
    let (answer, sequences) = page(1, 100);
    assert!(sequences.iter().copied().eq(1..=100));
    assert_eq!(answer.headers["link"], "</topics/orders/messages?from=101&limit=100>; rel=\"next\"");
    let (answer, sequences) = page(201, 100);
    assert!(sequences.iter().copied().eq(201..=250));
    assert!(!answer.headers.contains_key("link"));
    assert!(page(251, 100).1.is_empty());
    assert!(page(9_999, 100).1.is_empty());
    assert_eq!(bus.messages("orders").len(), 250);
}

#[test]
fn a_tail_shows_messages_as_they_are_synced() {
    let bus = Daemon::setup().start();
    let publish = |topic: &str, number: u64| bus.publish(topic, "k", json!({ "number": number }));
    let first = publish("order.placed", 0);
    let mut all = bus.tail("/topics/order.%3E/tail?from=0", &[]);
    let mut new = bus.tail("/topics/order.placed/tail", &[]);
    publish("user.placed", 1);
    let third = publish("order.placed", 2);
    let fourth = publish("order.sent", 3);
    let fifth = publish("order.placed", 4);

    for (accepted, number) in [(&first, 0), (&third, 2), (&fourth, 3), (&fifth, 4)] {
        let (id, event) = all.next_event();
        assert_eq!((id, event.sequence), (accepted.offset, accepted.sequence));
        assert_eq!(event.data, json!({ "number": number }));
    }
    assert_eq!(new.next_event().0, third.offset, "from the end on");
    assert_eq!(new.next_event().0, fifth.offset);
    // Whoever comes back goes on behind what was seen last.
    let last = third.offset.to_string();
    let mut again = bus.tail("/topics/%3E/tail?from=0", &[("last-event-id", &last)]);
    assert_eq!(again.next_event().0, fourth.offset);
    bus.get("/topics/order..x/tail").problem(400, "bad-topic");
    bus.get("/topics/order/tail?from=x").problem(400, "bad-parameter");
}

#[test]
fn pages_of_other_sites_are_refused() {
    let setup =
        Daemon::setup().flag("--allowed-hosts", "bus.local").flag("--allowed-origins", "http://shop.local:3000");
    let bus = setup.start();
    let port = bus.address().rsplit_once(':').expect("it has a port").1.to_owned();
    let ask = |headers: &[(&str, &str)]| bus.request("GET", "/topics", headers, b"");
    for host in ["evil.example".to_owned(), format!("evil.example:{port}"), "localhost:1".to_owned()] {
        ask(&[("host", &host)]).problem(421, "forbidden-host");
    }
    for host in [format!("localhost:{port}"), format!("127.0.0.1:{port}"), "bus.local".to_owned()] {
        ask(&[("host", &host)]).expect(200);
    }
    for origin in ["http://evil.example", "null", "http://localhost:3000", &format!("http://127.0.0.1:{port}")] {
        ask(&[("origin", origin)]).problem(403, "forbidden-origin");
    }
    ask(&[("sec-fetch-site", "cross-site")]).problem(403, "forbidden-origin");
    let answer = ask(&[("origin", "http://shop.local:3000"), ("sec-fetch-site", "cross-site")]).expect(200);
    assert_eq!(answer.headers["access-control-allow-origin"], "http://shop.local:3000");
    let cross = [("sec-fetch-site", "cross-site"), ("origin", "http://evil.example")];
    bus.post("/topics/orders", &cross, "x").problem(403, "forbidden-origin");
    assert_eq!(bus.topics().len(), 0);
}

#[test]
fn metrics_have_the_lag_in_messages_and_in_seconds() {
    let manifest = "[[subscription]]\ntopics = [\"orders\"]\n[subscription.retry]\nmax_attempts = 1\n\
                    [[subscription]]\nname = \"idle\"\ntopics = [\"nothing\"]\n";
    let mut bus = Daemon::with("worker", &guest("obedient"), manifest);
    bus.publish_many("orders", (0..5).map(|_| (None, Order::Ack)));
    bus.publish("orders", None, Order::Reject { reason: "as told".into() });
    bus.publish("orders", None, Order::Trap { text: "as told".into() });
    bus.publish("orders", None, Order::Unavailable { reason: "closed".into(), after_ms: Some(86_400_000) });
    bus.wait_until("all but one is settled", |bus| {
        let account = bus.subscription("worker");
        account.pending == 1 && account.waiting.due_later == 1
    });
    let metrics = bus.metrics();
    let sample = |name: &str| *metrics.get(name).unwrap_or_else(|| panic!("there is no {name} in {metrics:#?}"));
    for (name, expected) in [
        ("sandpost_subscription_pending_messages{subscription=\"worker\"}", 1.0),
        ("sandpost_subscription_pending_messages{subscription=\"idle\"}", 0.0),
        ("sandpost_subscription_oldest_pending_seconds{subscription=\"idle\"}", 0.0),
        ("sandpost_deliveries_total{subscription=\"worker\",outcome=\"acked\"}", 5.0),
        ("sandpost_deliveries_total{subscription=\"worker\",outcome=\"reject\"}", 1.0),
        ("sandpost_deliveries_total{subscription=\"worker\",outcome=\"trapped\"}", 1.0),
        ("sandpost_deliveries_total{subscription=\"worker\",outcome=\"unavailable\"}", 1.0),
        ("sandpost_dead_letters_total{subscription=\"worker\",reason=\"rejected\"}", 1.0),
        ("sandpost_dead_letters_total{subscription=\"worker\",reason=\"attempts-exhausted\"}", 1.0),
        ("sandpost_topic_messages_total{topic=\"orders\"}", 8.0),
        // The bus tells of the two dead letters itself.
        ("sandpost_topic_messages_total{topic=\"$dead-letters.worker\"}", 2.0),
        ("sandpost_log_appended_messages_total", 10.0),
    ] {
        assert_eq!(sample(name), expected, "{name}");
    }
    assert!(sample("sandpost_log_sync_seconds_count") > 0.0);
    assert!(sample("sandpost_log_sync_seconds_sum") > 0.0);
    let oldest = "sandpost_subscription_oldest_pending_seconds{subscription=\"worker\"}";
    let before = sample(oldest);
    bus.wait_until("the lag grows", |bus| bus.metrics()[oldest] > before);
    let text = bus.get("/metrics").expect(200);
    assert!(text.headers["content-type"].starts_with("text/plain; version=0.0.4"), "{:?}", text.headers);
    for line in text.body.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("sandpost_"), "{line}");
    }
}

#[test]
fn health_is_told() {
    let bus = Daemon::setup().start();
    bus.get("/livez").expect(200);
    let ready: Value = bus.get("/readyz").expect(200).json();
    assert_eq!(ready, json!({ "ready": true, "reason": null }));
}

#[test]
fn the_command_line_publishes_and_shows() {
    let mut bus = Daemon::with("worker", &guest("obedient"), "[[subscription]]\ntopics = [\"order.*\"]");
    let data = Order::Ack.to_json();
    let published = bus.cli(&["publish", "order.placed", "--key", "customer-7", "--data", &data, "--json"]);
    let accepted: Accepted = serde_json::from_str(&published.success().stdout).expect("it is JSON");
    assert_eq!((accepted.topic.as_str(), accepted.sequence), ("order.placed", 1));
    assert_eq!(bus.settled("worker").acked, 1);
    assert_eq!(bus.messages("order.placed")[0].key.as_deref(), Some("customer-7"));
    for (args, says) in [
        (&["topics", "list"][..], &["order.placed", "worker"][..]),
        (&["topics", "messages", "order.placed"], &["customer-7"]),
        (&["tail", "order.>", "--from", "0", "--limit", "1"], &["order.placed", "customer-7"]),
        (&["subscriptions", "list"], &["worker", "active"]),
        (&["subscriptions", "show", "worker"], &["worker", "matched", "acked"]),
        (&["plugins", "list"], &["worker", "running"]),
        (&["plugins", "show", "worker"], &["worker", "running"]),
        (&["--help"], &["serve", "publish", "dead-letters", "Exit codes"]),
    ] {
        let exit = bus.cli(args);
        for text in says {
            assert!(exit.success().stdout.contains(text), "{args:?}: `{text}` is missing: {exit}");
        }
    }
    for (args, code) in [
        (&["publish", "order..placed", "--data", "x"][..], 5),
        (&["topics", "messages", "order.plced"], 3),
        (&["subscriptions", "show", "nobody"], 3),
        (&["subscriptions", "remove", "worker"], 5),
        (&["plugins", "show", "nobody"], 3),
        (&["no-such-command"], 2),
        (&["topics", "--bus", "http://127.0.0.1:1"], 4),
    ] {
        let exit = bus.cli(args);
        assert_eq!(exit.code, Some(code), "{args:?}: {exit}");
        assert!(!exit.stderr.is_empty() && exit.stdout.is_empty(), "{args:?}: {exit}");
    }
}
