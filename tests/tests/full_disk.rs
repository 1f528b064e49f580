//! A full disk: publishes stop before it is full, work goes on, nothing that was accepted is lost.

use std::sync::Arc;

use obedient::Order;
use sandpost_tests::small_disk::SmallDisk;
use sandpost_tests::{Client, Daemon, Ledger, Setup, Subscription, guest, publishing, skipped};

const MIB: u64 = 1 << 20;
const MANIFEST: &str = r#"
[[subscription]]
topics = ["orders", "held"]
[subscription.retry]
max_attempts = 100
backoff = { initial = "10ms", max = "10ms" }
[subscription.breaker]
enabled = false
[grants]
publish = ["held"]
"#;

/// A disk, or `None` where none can be mounted.
fn disk(test: &str) -> Option<Arc<SmallDisk>> {
    SmallDisk::new(64 * MIB).map_err(|why| skipped(test, &why)).ok()
}

fn on(disk: &Arc<SmallDisk>) -> Setup {
    let setup = Daemon::setup().on_disk(disk.clone()).flag("--min-free", "16MiB").flag("--reserve", "4MiB");
    setup.plugin("worker", &guest("obedient"), MANIFEST)
}

/// An order that is soon obeyed and takes so much space: JSON may end in white space.
fn large(bytes: usize) -> String {
    Order::Ack.to_json() + &" ".repeat(bytes)
}

/// What was acked, or `None` while the bus starts anew on its reserve, and answers nothing.
fn acked(bus: &Client) -> Option<u64> {
    let answer = bus.try_request("GET", "/subscriptions/worker", &[], b"").ok()?;
    (answer.status == 200).then(|| answer.json::<Subscription>().acked)
}

#[test]
fn publishes_are_refused_in_time_and_go_on_when_there_is_room() {
    let Some(disk) = disk("publishes_are_refused_in_time_and_go_on_when_there_is_room") else { return };
    let mut bus = on(&disk).start();
    let ledger = Ledger::new();
    let fill = |bus: &Daemon| while ledger.publish(&bus.client(), "orders", None, large(100_000)) {};
    fill(&bus);
    let refused = ledger.refusals();
    let problem = refused.last().expect("it is refused in the end").problem(507, "no-room");
    assert!(problem.hint.contains("free space"), "{problem:#?}");
    assert!(ledger.acknowledged() > 50, "{} fit on the disk", ledger.acknowledged());
    bus.get("/readyz").expect(503);
    bus.get("/livez").expect(200);

    // What was accepted is settled all the same, and is there.
    let account = bus.settled("worker");
    assert_eq!(account.acked, ledger.acknowledged() as u64);
    ledger.check(&bus.messages("orders"));
    bus.kill();
    bus.restart();
    ledger.check(&bus.messages("orders"));
    assert!(!ledger.publish(&bus.client(), "orders", None, Order::Ack.to_json()), "it is as full as before");
}

#[test]
fn work_goes_on_while_something_else_fills_the_disk() {
    let Some(disk) = disk("work_goes_on_while_something_else_fills_the_disk") else { return };
    let mut bus = on(&disk).start();
    let ledger = Ledger::new();
    // Work for a while: each fails a few times before it succeeds, and publishes something then.
    const EACH: u64 = 60;
    let held = publishing("held", &Order::Ack.to_json(), 1);
    for number in 0..EACH {
        let order = Order::RetryUntil { attempt: 20, after_ms: Some(50), then: Some(Box::new(held.clone())) };
        assert!(ledger.publish(&bus.client(), "orders", Some(&format!("key-{}", number % 20)), order.to_json()));
    }
    disk.fill();
    bus.wait_until("publishes are refused", |bus| !ledger.publish(bus, "orders", None, Order::Ack.to_json()));
    // Some may still have been accepted while the bus had not noticed.
    let expected = ledger.acknowledged() as u64 + EACH;
    bus.wait_until("all is settled on the full disk", |bus| acked(bus) == Some(expected));
    assert!(!ledger.publish(&bus.client(), "orders", None, Order::Ack.to_json()), "the disk is as full as before");
    for refusal in ledger.refusals() {
        refusal.problem(507, "no-room");
    }
    bus.get("/readyz").expect(503);
    bus.kill();
    bus.restart();
    assert_eq!(bus.settled("worker").acked, expected, "it starts on a full disk, and has lost nothing");
    ledger.check(&bus.messages("orders"));
    assert!(!ledger.publish(&bus.client(), "orders", None, Order::Ack.to_json()), "nor does it take anything");
    disk.free();
    bus.wait_until("publishes are accepted again", |bus| {
        bus.try_request("GET", "/readyz", &[], b"").is_ok_and(|answer| answer.status == 200)
    });
    bus.wait_until("one is accepted", |bus| ledger.publish(bus, "orders", None, Order::Ack.to_json()));
    let account = bus.settled("worker");
    assert_eq!(account.acked, ledger.acknowledged() as u64 + EACH);
    assert_eq!(bus.messages("held").len() as u64, EACH, "each effect happened once");
    ledger.check(&bus.messages("orders"));
    bus.kill();
    bus.restart();
    ledger.check(&bus.messages("orders"));
    assert_eq!(bus.settled("worker").acked, ledger.acknowledged() as u64 + EACH);
}

/// A limit on the size of files (`RLIMIT_FSIZE`) would kill the process by a signal in the middle of a write.
#[test]
fn a_limit_on_the_size_of_files_is_want_of_room() {
    let mut bus = Daemon::with("worker", &guest("obedient"), MANIFEST);
    let ledger = Ledger::new();
    assert!(ledger.publish(&bus.client(), "orders", None, Order::Ack.to_json()));
    bus.limit_file_bytes(Some(8 * MIB));
    while ledger.publish(&bus.client(), "orders", None, large(200_000)) {}
    let first = ledger.refusals().pop().expect("it is refused in the end");
    let problem = first.problem(507, "no-room");
    assert!(problem.detail.contains("File too large") && problem.hint.contains("ulimit -f"), "{problem:#?}");
    // It comes back by itself, holds what it accepted, and does not try its luck with every publish.
    bus.wait_until("it answers again", |bus| acked(bus).is_some());
    ledger.check(&bus.messages("orders"));
    for _ in 0..20 {
        assert!(!ledger.publish(&bus.client(), "orders", None, large(200_000)));
    }
    for refusal in ledger.refusals() {
        refusal.problem(507, "no-room");
    }
    bus.get("/readyz").expect(503);
    assert_eq!(bus.log().matches("starting anew").count(), 1, "{}", bus.log());

    // With a higher limit it goes on.
    bus.limit_file_bytes(None);
    bus.wait_until("publishes are accepted again", |bus| ledger.publish(bus, "orders", None, Order::Ack.to_json()));
    assert_eq!(bus.settled("worker").acked, ledger.acknowledged() as u64);
    bus.get("/readyz").expect(200);
    // Under the limit again, and without it after a crash.
    bus.limit_file_bytes(Some(8 * MIB));
    while ledger.publish(&bus.client(), "orders", None, large(200_000)) {}
    bus.kill();
    bus.restart();
    assert!(ledger.publish(&bus.client(), "orders", None, large(200_000)));
    assert_eq!(bus.settled("worker").acked, ledger.acknowledged() as u64);
    ledger.check(&bus.messages("orders"));
}
