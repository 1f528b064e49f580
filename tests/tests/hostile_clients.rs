//! Clients that do what none should: the bus stays up, serves those beside them, says what is wrong, and holds what
//! it acknowledged.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sandpost_tests::{Client, Daemon, Ledger, Publishers, Raw, next_id};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
/// Memory of a bus that does nothing, and what its allocator keeps of what it did.
const OWN_BYTES_MAX: u64 = 192 * MIB;
/// Between two bytes of a client that sends one at a time: far less than the bus waits for the next one.
const PAUSE: Duration = Duration::from_millis(200);

/// A client beside the hostile ones, who must not notice them.
struct Beside {
    ledger: std::sync::Arc<Ledger>,
    publishers: Publishers,
}

impl Beside {
    fn of(bus: &Daemon) -> Self {
        let ledger = Ledger::new();
        let make = |thread, number| (Some(format!("key-{thread}")), json!({ "number": number }));
        let publishers = Publishers::start(&bus.client(), &ledger, "beside", 2, make);
        ledger.reaches(10);
        Self { ledger, publishers }
    }

    /// It was never refused; all that it was told is true, also after a crash.
    #[track_caller]
    fn was_served(self, bus: &mut Daemon) {
        self.ledger.reaches(self.ledger.acknowledged() + 20);
        self.publishers.stop();
        assert!(self.ledger.refusals().is_empty(), "{:#?}", self.ledger.refusals());
        bus.kill();
        bus.restart();
        self.ledger.check(&bus.messages("beside"));
    }
}

#[track_caller]
fn memory_is_below(bus: &Daemon, bytes: u64) {
    let peak = bus.peak_resident_bytes();
    assert!(peak < bytes, "{} MiB and not {}", peak / MIB, bytes / MIB);
}

/// The bus answers with this problem, and ends the connection.
#[track_caller]
fn is_told(raw: &mut Raw, status: u16, kind: &str) {
    raw.answer().problem(status, kind);
    assert_eq!(String::from_utf8_lossy(&raw.ends()), "", "one answer, and the end");
}

/// As many files as the system lets this process open: a test of thousands of connections holds one end of each.
fn open_many_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the soft limit is ours to raise");
}

#[test]
fn what_comes_one_byte_at_a_time_or_stops_coming_is_given_up() {
    let mut bus = Daemon::setup().start();
    let beside = Beside::of(&bus);
    let client = bus.client();
    std::thread::scope(|scope| {
        let slow = |what: &'static str, kind: &'static str, first: String, rest: &'static [u8]| {
            let client = &client;
            scope.spawn(move || {
                let mut raw = client.raw();
                raw.send(first);
                let sent = raw.trickle(rest.iter().copied().cycle(), PAUSE);
                assert!(rest.is_empty() || sent > 5, "{what} was given up after {sent} bytes");
                is_told(&mut raw, 408, kind);
            });
        };
        let body = |lines: &str| client.head("slow", lines);
        slow("a head", "slow-head", "GET /topics".to_owned(), b"s");
        slow("a head that stops", "slow-head", "GET /topics HTTP/1.1\r\nHost: ".to_owned(), b"");
        slow("a body", "slow-body", body("Content-Length: 100000\r\n"), b"x");
        slow("a body that stops", "slow-body", body("Content-Length: 20\r\n") + "0123456789", b"");
        slow("a body in chunks", "slow-body", body("Transfer-Encoding: chunked\r\n"), b"1\r\nx\r\n");
        slow("a chunk that stops", "slow-body", body("Transfer-Encoding: chunked\r\n") + "8\r\nhalf", b"");
    });
    assert!(bus.messages("slow").is_empty(), "nothing of it was stored");
    beside.was_served(&mut bus);
}

#[test]
fn what_has_no_end_is_refused_at_its_bound() {
    let mut bus = Daemon::setup().start();
    let beside = Beside::of(&bus);
    // A body in chunks, sent for as long as the bus takes it.
    let mut raw = bus.raw();
    raw.send(bus.head("endless", "Transfer-Encoding: chunked\r\n"));
    let chunk = [format!("{:x}\r\n", MIB).as_bytes(), &vec![b'x'; MIB as usize], b"\r\n"].concat();
    let mut sent = 0;
    while sent < 1 << 30 && raw.try_send(&chunk).is_ok() {
        sent += MIB;
    }
    assert!(sent < 1 << 30, "a gibibyte was taken");
    assert!(String::from_utf8_lossy(&raw.ends()).starts_with("HTTP/1.1 413 "));
    // One that announces what nobody would send: the answer is there before it is.
    let mut raw = bus.raw();
    raw.send(bus.head("endless", "Expect: 100-continue\r\nContent-Length: 9223372036854775807\r\n"));
    raw.answer().problem(413, "too-large");
    // A head without an end: in one line, in many, and in the address.
    let endless: [(&str, &[u8]); 3] =
        [("X-Long: ", &[b'x'; 4096]), ("", &b"X-Many: x\r\n".repeat(400)), ("GET /topics?", &[b'x'; 4096])];
    for (begin, rest) in endless {
        let mut raw = bus.raw();
        if !begin.starts_with("GET") {
            raw.send("GET /topics HTTP/1.1\r\n");
        }
        raw.send(begin);
        let mut sent = 0;
        // It does not end: what stops it is the refusal.
        while sent < 64 * MIB && raw.try_send(rest).is_ok() {
            sent += rest.len() as u64;
        }
        let came = raw.ends();
        let came = String::from_utf8_lossy(&came);
        assert!(sent < 64 * MIB, "{begin}: {sent} bytes of a head were taken");
        assert!(came.is_empty() || came.contains("/problems/head-too-large"), "{begin}: {came}");
    }
    assert!(bus.topics().iter().all(|topic| topic.name != "endless"));
    memory_is_below(&bus, OWN_BYTES_MAX);
    beside.was_served(&mut bus);
}

#[test]
fn heads_are_as_large_as_a_message_may_need_and_no_larger() {
    let bus = Daemon::setup().start();
    let event = "ce-specversion: 1.0\r\nce-source: /tests\r\nce-type: t\r\nContent-Length: 0\r\n";
    let lines = |count: usize, value: &str| -> String {
        (0..count).map(|number| format!("ce-extension{number}: {value}\r\n")).collect()
    };
    let ask = |more: &str| {
        let mut raw = bus.raw();
        raw.send(bus.head("heads", &format!("ce-id: {}\r\n{event}{more}", next_id())));
        raw
    };
    // All the attributes that a message may have, and all their bytes, each of which takes three in a header.
    ask(&lines(120, "x")).answer().expect(201);
    ask(&lines(20, &"%C3%BC".repeat(1_500))).answer().expect(201);
    for too_large in [lines(500, "x"), lines(8, &"x".repeat(100_000))] {
        is_told(&mut ask(&too_large), 431, "head-too-large");
    }
    let mut raw = bus.raw();
    raw.send(format!("GET /topics?{} HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(100_000), bus.host()));
    is_told(&mut raw, 431, "head-too-large");
    assert_eq!(bus.messages("heads").len(), 2);
}

#[test]
fn what_is_no_http_is_told_so() {
    let bus = Daemon::setup().start();
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(20);
    let shapes: [&[u8]; 8] = [
        b"\0\0\0\0\r\n\r\n",
        &hello,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /topics\r\n\r\n",
        b"GET /topics HTTP/9.9\r\n\r\n",
        b"GET /top\xffics HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /topics HTTP/1.1\r\nX-Nul: a\0b\r\n\r\n",
        b"\xff\xfe\r\n\r\n",
    ];
    for shape in shapes {
        let mut raw = bus.raw();
        raw.send(shape);
        let answer = raw.answer();
        assert_eq!(answer.headers["connection"], "close", "{}: {answer:#?}", shape.escape_ascii());
        answer.problem(400, "unreadable-head");
        assert!(raw.ends().is_empty());
    }
    // On a connection that has served a request before, too.
    let mut raw = bus.raw();
    let good = format!("GET /topics HTTP/1.1\r\nHost: {}\r\n\r\n", bus.host());
    raw.send(&good);
    raw.answer().expect(200);
    raw.send("rubbish\r\n\r\n");
    is_told(&mut raw, 400, "unreadable-head");
    bus.get("/livez").expect(200);
}

#[test]
fn no_second_request_is_smuggled_in_a_first_one() {
    let bus = Daemon::setup().start();
    let hidden = format!("POST /topics/smuggled HTTP/1.1\r\nHost: {}\r\nContent-Length: 1\r\n\r\nx", bus.host());
    let chunked = format!("1\r\nx\r\n0\r\n\r\n{hidden}");
    let length = |bytes: usize| format!("Content-Length: {bytes}\r\n");
    let both = "Transfer-Encoding: chunked\r\n";

    // Two lengths: one wins, and the rest is not read as a request.
    for lines in [length(chunked.len()) + both, both.to_owned() + &length(chunked.len())] {
        let mut raw = bus.raw();
        raw.send(bus.head("first", &lines) + &chunked);
        raw.answer().expect(201);
        assert_eq!(String::from_utf8_lossy(&raw.ends()), "", "{lines}");
    }
    // What has no one meaning is refused.
    for lines in [
        length(1) + &length(hidden.len() + 1),
        "Content-Length: 1, 200\r\n".to_owned(),
        "Content-Length: +1\r\n".to_owned(),
        "Content-Length: 0x1\r\n".to_owned(),
        "Content-Length: -1\r\n".to_owned(),
        "Content-Length: 1\r\nContent-Length: x\r\n".to_owned(),
        "Transfer-Encoding: chunked, identity\r\n".to_owned(),
        "Transfer-Encoding: xchunked\r\n".to_owned(),
        "Transfer-Encoding : chunked\r\n".to_owned(),
        "Transfer-Encoding: identity\r\nContent-Length: 1\r\n".to_owned(),
        "X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 1\r\n".to_owned(),
    ] {
        let mut raw = bus.raw();
        raw.send(bus.head("refused", &lines) + "x" + &hidden);
        let answer = raw.answer();
        assert_eq!(answer.status, 400, "{lines}: {answer:#?}");
        answer.problem(400, "unreadable-head");
        assert!(raw.ends().is_empty(), "{lines}");
    }
    for (lines, body) in
        [(both, "ffffffffffffffffff\r\nx"), (both, "-1\r\nx"), (both, "z\r\nx"), (both, "1\r\nxx0\r\n\r\n")]
    {
        let mut raw = bus.raw();
        raw.send(bus.head("refused", lines) + body + "\r\n" + &hidden);
        is_told(&mut raw, 400, "unreadable-body");
    }
    // HTTP/1.0 knows no chunks.
    let mut raw = bus.raw();
    raw.send(bus.head("refused", both).replace("HTTP/1.1", "HTTP/1.0") + &chunked);
    is_told(&mut raw, 400, "unreadable-head");
    let topics: Vec<_> = bus.topics().into_iter().map(|topic| topic.name).collect();
    assert_eq!(topics, ["first"]);
    let first = bus.messages("first");
    assert!(
        first.len() == 2 && first.iter().all(|message| message.data_base64.as_deref() == Some("eA==")),
        "{first:#?}"
    );
}

#[test]
fn what_a_browser_is_made_to_send_is_refused() {
    let bus = Daemon::setup().start();
    let port = bus.host().rsplit_once(':').expect("it has a port").1.to_owned();
    let publish = |target: &str, lines: &str| {
        let mut raw = bus.raw();
        raw.send(format!("POST {target} HTTP/1.1\r\n{lines}Content-Length: 1\r\n\r\nx"));
        raw.answer()
    };
    // A name that was made to lead here, in each place that a host may stand in.
    for host in [
        "evil.example".to_owned(),
        format!("evil.example:{port}"),
        format!("127.0.0.1.evil.example:{port}"),
        format!("localhost@evil.example:{port}"),
        format!("localhost.evil.example:{port}"),
        format!("2130706433:{port}"),
        format!("localhost:{port}:{port}"),
        "localhost".to_owned(),
        String::new(),
    ] {
        publish("/topics/forged", &format!("Host: {host}\r\n")).problem(421, "forbidden-host");
    }
    let here = format!("Host: {}\r\n", bus.host());
    publish("/topics/forged", "").problem(421, "forbidden-host");
    publish("/topics/forged", &format!("{here}Host: evil.example\r\n")).problem(421, "forbidden-host");
    publish("http://evil.example/topics/forged", &here).problem(421, "forbidden-host");
    publish(&format!("http://user@evil.example:{port}/topics/forged"), &here).problem(421, "forbidden-host");
    // Pages, also of other ports of this machine and of files.
    for origin in [
        "http://evil.example".to_owned(),
        "null".to_owned(),
        "file://".to_owned(),
        "http://localhost:1".to_owned(),
        format!("http://localhost:{port}.evil.example"),
        String::new(),
    ] {
        publish("/topics/forged", &format!("{here}Origin: {origin}\r\n")).problem(403, "forbidden-origin");
    }
    let simple = "Content-Type: text/plain\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Site: cross-site\r\n";
    publish("/topics/forged", &format!("{here}{simple}")).problem(403, "forbidden-origin");
    // What asks before it sends is told nothing that would let it.
    let mut raw = bus.raw();
    let asks = "Origin: http://evil.example\r\nAccess-Control-Request-Method: DELETE\r\n";
    raw.send(format!("OPTIONS /topics/forged HTTP/1.1\r\n{here}{asks}\r\n"));
    let answer = raw.answer();
    answer.problem(403, "forbidden-origin");
    assert!(answer.headers.keys().all(|name| !name.starts_with("access-control")), "{answer:#?}");
    assert!(bus.topics().is_empty(), "nothing was stored");
}

#[test]
fn publishes_that_break_off_are_stored_whole_or_not_at_all() {
    let mut bus = Daemon::setup().start();
    let beside = Beside::of(&bus);
    let event = |id: &str| json!({ "specversion": "1.0", "id": id, "source": "/tests", "type": "t", "data": id });
    let batch = Value::from((0..20).map(|number| event(&format!("{number}"))).collect::<Vec<_>>()).to_string();
    let head = |topic: &str, more: &str| {
        bus.head(topic, &format!("Content-Type: application/cloudevents-batch+json\r\n{more}"))
    };
    let lines = format!("Content-Length: {}\r\n", batch.len());
    let chunks: String = batch
        .as_bytes()
        .chunks(100)
        .map(|part| format!("{:x}\r\n{}\r\n", part.len(), std::str::from_utf8(part).expect("it is ASCII")))
        .collect();
    let plain = head("cut", &lines) + &batch;
    let chunked = head("cut", "Transfer-Encoding: chunked\r\n") + &chunks + "0\r\n\r\n";
    for request in [&plain, &chunked] {
        for cut in (1..request.len()).step_by(37).chain([request.len() - 1]) {
            let mut raw = bus.raw();
            raw.send(&request[..cut]);
            // Half of them are closed at once; the others still listen.
            if cut % 2 == 0 {
                drop(raw);
            } else {
                raw.finish();
                let came = raw.ends();
                let came = String::from_utf8_lossy(&came);
                assert!(!came.starts_with("HTTP/1.1 2"), "{cut} of {} bytes: {came}", request.len());
            }
        }
    }
    // What was sent in full and then left may be there; but whole.
    for number in 0..50 {
        let topic = format!("left.{}", number % 5);
        let mut raw = bus.raw();
        raw.send(head(&topic, &lines) + &batch);
        drop(raw);
    }
    beside.was_served(&mut bus);
    for topic in bus.topics() {
        assert_ne!(topic.name, "cut", "a part of a batch was stored");
        if topic.name.starts_with("left.") {
            assert_eq!(bus.messages(&topic.name).len() % 20, 0, "{}", topic.name);
        }
    }
}

#[test]
fn thousands_of_open_connections_keep_nobody_out() {
    open_many_files();
    let mut bus = Daemon::setup().start();
    let beside = Beside::of(&bus);
    // A request that has begun, which is no idler.
    let mut slow = bus.raw();
    slow.send(bus.head("slow", "Content-Length: 2\r\n") + "1");
    let open = |number: usize| {
        let mut raw = bus.raw();
        match number % 3 {
            0 => {}
            1 => raw.send("GET /topics HTTP/1.1\r\nHost:"),
            _ => {
                raw.send(format!("GET /livez HTTP/1.1\r\nHost: {}\r\n\r\n", bus.host()));
                raw.answer().expect(200);
            }
        }
        raw
    };
    let mut idle: Vec<Raw> = (0..2_500).map(open).collect();
    // Whoever comes now is served, and again.
    for _ in 0..50 {
        let mut raw = bus.raw();
        raw.send(format!("GET /readyz HTTP/1.1\r\nHost: {}\r\n\r\n", bus.host()));
        raw.answer().expect(200);
    }
    slow.send("2");
    slow.answer().expect(201);
    // Room was made by those that had been idle for longest.
    let (old, new) = idle.split_at_mut(1_250);
    let ended = |some: &mut [Raw]| some.iter_mut().filter_map(|raw| raw.has_ended().then_some(())).count();
    bus.wait_until("the oldest are closed", |_| ended(old) == old.len());
    assert!(ended(new) < new.len() / 2, "{} of the newest were closed", ended(new));
    memory_is_below(&bus, OWN_BYTES_MAX + 64 * MIB);
    beside.was_served(&mut bus);
}

#[test]
fn requests_past_the_bound_are_told_to_come_back() {
    // Its limit on open files leaves room for few connections, which it says.
    let bus = Daemon::setup().wrapped(&["sh", "-c", "ulimit -n 128 && exec \"$@\"", "sh"]).start();
    assert!(bus.log().contains("room for 64 connections") && bus.log().contains("ulimit -n"), "{}", bus.log());
    let head = bus.head("busy", "Content-Length: 1\r\nExpect: 100-continue\r\n");
    // Each has begun a request, so that none can make room.
    let mut busy: Vec<Raw> = Vec::new();
    let answer = loop {
        let mut raw = bus.raw();
        raw.send(&head);
        let answer = raw.answer();
        if answer.status != 100 {
            break answer;
        }
        busy.push(raw);
        assert!(busy.len() <= 64, "nobody is refused");
    };
    assert_eq!(busy.len(), 64, "{answer:#?}");
    answer.problem(503, "too-many-connections");
    assert_eq!(answer.headers["retry-after"], "1");
    for raw in &mut busy {
        raw.send("x");
        raw.answer().expect(201);
    }
    assert_eq!(bus.messages("busy").len(), busy.len());
}

#[test]
fn readers_that_never_read_cost_bounded_memory() {
    let mut bus = Daemon::setup().start();
    let text = "x".repeat(900_000);
    for _ in 0..10 {
        bus.publish("large", None, json!(text));
    }
    let before = bus.resident_bytes();
    let beside = Beside::of(&bus);
    let get = |path: &str| {
        let mut raw = bus.raw();
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", bus.host()));
        raw
    };
    // Tails that are never read, of everything, from the beginning.
    let _tails: Vec<Raw> = (0..50).map(|_| get("/topics/%3E/tail?from=0")).collect();
    // Some 9 MB for each of these; together far more than the bus holds for those who do not read.
    let _answers: Vec<Raw> = (0..80).map(|_| get("/topics/large/messages?limit=10")).collect();
    bus.wait_until("another one is told that too much is unread", |bus| {
        let answer = bus.get("/topics/large/messages?limit=10");
        if answer.status == 200 {
            return false;
        }
        answer.problem(429, "answers-busy");
        assert_eq!(answer.headers["retry-after"], "1");
        true
    });
    // Small ones are answered all the same, and so is who publishes.
    bus.get("/subscriptions").expect(200);
    bus.get("/topics/beside/messages?limit=10").expect(200);
    for _ in 0..30 {
        bus.publish("large", None, json!(text));
    }
    let grown = bus.peak_resident_bytes().saturating_sub(before);
    assert!(grown < 256 * MIB + OWN_BYTES_MAX, "it grew by {} MiB", grown / MIB);
    drop(_answers);
    bus.wait_until("what is not asked for any more takes no memory", |bus| {
        bus.get("/topics/large/messages?limit=10").status == 200
    });
    beside.was_served(&mut bus);
}

/// Everything at once, while clients go on.
#[test]
fn a_storm_of_all_of_it_stops_nobody() {
    open_many_files();
    let mut bus = Daemon::setup().start();
    let beside = Beside::of(&bus);
    let (client, over) = (bus.client(), AtomicBool::new(false));
    let storm = |client: &Client, number: usize| -> std::io::Result<()> {
        let mut raw = client.try_raw()?;
        match number % 6 {
            0 => raw.try_send([0xff; 3_000]),
            1 => raw.try_send(client.head("storm", "Content-Length: 5000\r\n") + "half"),
            2 => raw.try_send(client.head("storm", "Transfer-Encoding: chunked\r\n") + "5\r\nhalf"),
            3 => raw.try_send(client.head("storm", &"x: y\r\n".repeat(5_000))),
            4 => raw.try_send(format!("GET /topics/%3E/tail?from=0 HTTP/1.1\r\nHost: {}\r\n\r\n", client.host())),
            _ => raw.try_send("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\nGET / HTTP/1.1\r\n"),
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (client, over) = (&client, &over);
            scope.spawn(move || {
                // What is refused or cut off is what is meant.
                (thread..).take_while(|_| !over.load(Ordering::Relaxed)).for_each(|number| {
                    let _ = storm(client, number);
                });
            });
        }
        beside.ledger.reaches(beside.ledger.acknowledged() + 1_000);
        over.store(true, Ordering::Relaxed);
    });
    memory_is_below(&bus, OWN_BYTES_MAX + 128 * MIB);
    beside.was_served(&mut bus);
    assert!(bus.messages("storm").is_empty());
}
