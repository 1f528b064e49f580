//! Who may run when: the breaker, an operator's pause, the rate, and calls that run alone.

use obedient::Order;
use sandpost_tests::{Client, Daemon, guest, stamped};
use serde_json::json;

/// Orders for `worker`; what is published to `switch` is done by another subscription of the same consumer,
/// which shares its state.
fn manifest(worker: &str) -> String {
    format!(
        "[[subscription]]\ntopics = [\"orders\"]\n{worker}\n\
         [subscription.retry]\nmax_attempts = 2\nbackoff = {{ initial = \"20ms\", max = \"20ms\" }}\n\
         [[subscription]]\nname = \"switch\"\ntopics = [\"switch\"]\n\
         [grants]\npublish = [\"told\"]\n"
    )
}

/// The breaker's part of the manifest, which stands before the part about retries.
fn breaker(failures: u32, pause: &str) -> String {
    format!("[subscription.breaker]\nfailures = {failures}\npause = \"{pause}\"\npause_max = \"{pause}\"")
}

/// Something outside is down, or there again.
fn set_down(bus: &mut Daemon, down: bool) {
    let key = "down".to_owned();
    let set = Order::SetState { key: key.clone(), value: "yes".into(), then: None };
    bus.publish("switch", None, if down { set } else { Order::DeleteState { key, then: None } });
    bus.settled("switch");
}

/// Does this while it is down, and tells its delivery otherwise.
fn while_down(order: Order) -> Order {
    let told = Some(Box::new(Order::Echo { topic: "told".into() }));
    Order::WhileState { key: "down".into(), order: Box::new(order), then: told }
}

/// Publishes orders with a key each, and waits until the breaker opened.
fn break_down(bus: &mut Daemon, order: &Order, count: u64) {
    set_down(bus, true);
    bus.publish_many("orders", (0..count).map(|number| (format!("customer-{number}"), while_down(order.clone()))));
    bus.wait_until("the breaker is open", |bus| state(bus) == "open");
}

fn state(bus: &Client) -> String {
    bus.subscription("worker").breaker.expect("it is switched on").state
}

/// Every message was handled in what counts as its first attempt.
fn nothing_was_charged(bus: &Daemon, count: usize) {
    let told = bus.messages("told");
    let attempts: Vec<_> = told.iter().map(|told| told.data["delivery"]["attempt"].as_u64()).collect();
    assert_eq!(attempts, vec![Some(1); count]);
}

#[test]
fn an_outage_opens_the_breaker_and_its_end_closes_it_and_nothing_is_charged() {
    let unavailable = Order::Unavailable { reason: "cannot connect".into(), after_ms: Some(20) };
    for (order, outcome, text) in
        [(Order::Trap { text: "as told".into() }, "trapped", "as told"), (unavailable, "unavailable", "cannot connect")]
    {
        let mut bus = Daemon::with("worker", &guest("obedient"), &manifest(&breaker(4, "1s")));
        break_down(&mut bus, &order, 12);
        let mut held = None;
        bus.wait_until("all messages wait for the breaker", |bus| {
            let view = bus.subscription("worker");
            let open = view.waiting.breaker_until_ms.is_some() && view.waiting.breaker == view.pending;
            held = open.then_some(view);
            open
        });
        let held = held.expect("it was seen");
        assert_eq!((held.pending, held.dead, held.waiting.behind_key), (12, 0, 0));
        let breaker = held.breaker.expect("it is switched on");
        assert!(breaker.opened >= 1 && !breaker.last_failures.is_empty(), "{breaker:#?}");
        let last = breaker.last_failures.last().expect("there are some");
        assert!(last.text.contains(text) && last.outcome == outcome && last.offset > 0, "{breaker:#?}");
        let shown = bus.cli(&["subscriptions", "show", "worker"]).stdout;
        for words in ["the breaker holds them back", text] {
            assert!(shown.contains(words), "{words} is not in {shown}");
        }
        assert!(bus.metrics()["sandpost_subscription_breaker_open{subscription=\"worker\"}"] > 0.0);

        set_down(&mut bus, false);
        let account = bus.settled("worker");
        assert_eq!((account.acked, account.dead), (12, 0));
        nothing_was_charged(&bus, 12);
        bus.wait_until("the breaker is closed", |bus| state(bus) == "closed");
        let refunds = matches!(order, Order::Trap { .. });
        assert_eq!(account.refunded > 0, refunds, "what was never charged is not refunded: {account:#?}");
    }
}

#[test]
fn a_deploy_closes_the_breaker() {
    let rules = manifest(&breaker(3, "1h"));
    let mut bus = Daemon::with("worker", &guest("obedient"), &rules);
    break_down(&mut bus, &Order::Trap { text: "as told".into() }, 8);
    set_down(&mut bus, false);
    let held = bus.subscription("worker");
    assert_eq!((held.pending, held.acked), (8, 0), "it is open for an hour");
    bus.deploy("worker", &stamped(&guest("obedient"), "2"), &rules);
    assert_eq!(bus.settled("worker").acked, 8);
    nothing_was_charged(&bus, 8);
}

#[test]
fn one_poison_key_opens_no_breaker_and_its_letters_are_not_excused() {
    let mut bus = Daemon::with("worker", &guest("obedient"), &manifest(&breaker(2, "1h")));
    let trap = Order::Trap { text: "as told".into() };
    bus.publish_many("orders", (0..5).map(|_| ("poison".to_owned(), trap.clone())));
    let account = bus.settled("worker");
    assert_eq!(account.dead, 5);
    assert_eq!(account.breaker.expect("it is switched on").opened, 0);
    assert!(bus.dead_letters("worker").iter().all(|letter| letter.excused.is_none()));
}

#[test]
fn what_died_in_the_streak_stays_dead_and_is_excused() {
    let one_attempt = manifest(&breaker(3, "1h")).replace("max_attempts = 2", "max_attempts = 1");
    let mut bus = Daemon::with("worker", &guest("obedient"), &one_attempt);
    break_down(&mut bus, &Order::Trap { text: "cannot connect".into() }, 6);
    bus.wait_until("those that died are excused", |bus| {
        let letters = bus.dead_letters("worker");
        letters.len() == 3 && letters.iter().all(|letter| letter.excused.as_deref() == Some("breaker"))
    });
    let letters = bus.dead_letters("worker");
    let shown = bus.cli(&["dead-letters", "show", &letters[0].id]).stdout;
    assert!(shown.contains("breaker: it failed in a row of failures"), "{shown}");
}

#[test]
fn a_paused_subscription_gathers_messages_until_it_is_resumed_also_over_a_crash() {
    let mut bus = Daemon::with("worker", &guest("obedient"), &manifest(""));
    let paused = bus.cli(&["subscriptions", "pause", "worker"]);
    assert!(paused.success().stdout.contains("resume"), "{paused}");
    bus.publish_many("orders", (0..5).map(|_| (None, Order::Ack)));
    let is_held = |bus: &Client, pending: u64| {
        let view = bus.subscription("worker");
        assert_eq!((view.status.as_str(), view.paused), ("paused", true));
        assert_eq!((view.pending, view.waiting.paused, view.acked), (pending, pending, 0));
    };
    is_held(&bus, 5);
    bus.kill();
    bus.restart();
    bus.publish("orders", None, Order::Ack);
    is_held(&bus, 6);
    assert!(bus.metrics()["sandpost_subscription_paused{subscription=\"worker\"}"] > 0.0);
    // A version that is deployed meanwhile does not resume it.
    bus.deploy("worker", &stamped(&guest("obedient"), "2"), &manifest("concurrency = 2"));
    is_held(&bus, 6);
    assert_eq!(
        bus.post("/subscriptions/worker/resume", &[], "").expect(200).json::<serde_json::Value>(),
        json!({ "paused": false })
    );
    let account = bus.settled("worker");
    assert_eq!((account.acked, account.status.as_str()), (6, "active"));
    bus.post("/subscriptions/nobody/pause", &[], "").problem(404, "unknown-subscription");
}

#[test]
fn a_rate_lets_through_so_many_and_no_more() {
    let mut bus = Daemon::with("worker", &guest("obedient"), &manifest("rate = \"1/h\""));
    bus.publish_many("orders", (0..4).map(|_| (None, Order::Ack)));
    bus.wait_until("one is through", |bus| bus.subscription("worker").acked == 1);
    let view = bus.subscription("worker");
    assert_eq!((view.pending, view.waiting.over_rate), (3, 3));
    // A rate that lets all of them through, and they go.
    bus.put_file("worker", "toml", manifest("rate = \"1000/s\"").as_bytes());
    assert_eq!(bus.settled("worker").acked, 4);
}

#[test]
fn a_message_that_conflicts_again_and_again_is_run_alone() {
    const MESSAGES: u64 = 12;
    let subscription = |name: &str| format!("[[subscription]]\nname = \"{name}\"\ntopics = [\"orders\"]\n");
    let rules = subscription("one")
        + &subscription("other")
        + "[[subscription]]\nname = \"sum\"\ntopics = [\"sum\"]\n"
        + "[grants]\npublish = [\"told\"]\n";
    let mut bus = Daemon::with("worker", &guest("obedient"), &rules);
    // Each reads the counter, waits, and writes it: whoever is not alone meets another one.
    let sleep = || Some(Box::new(Order::Sleep { ms: 20, then: None }));
    let order = || Order::Increment { key: "count".into(), then: sleep() };
    bus.publish_many("orders", (0..MESSAGES).map(|_| (None, order())));
    let (one, other) = (bus.settled("one"), bus.settled("other"));
    for account in [&one, &other] {
        assert_eq!(account.acked, MESSAGES);
        let conflicts = account.outcomes("conflict");
        assert_eq!(account.reruns, conflicts);
        assert!(conflicts <= 3 * MESSAGES, "after three in a row each is alone: {account:#?}");
    }
    assert!(one.reruns + other.reruns > 0, "they meet");
    bus.publish("sum", None, Order::GetState { key: "count".into(), topic: "told".into() });
    bus.settled("sum");
    assert_eq!(bus.messages("told")[0].data["value"], json!((2 * MESSAGES).to_string()));
}

#[test]
fn keys_that_a_retry_holds_back_are_counted() {
    let mut bus = Daemon::with("worker", &guest("obedient"), &manifest(""));
    let tomorrow = Order::Retry { reason: "tomorrow".into(), after_ms: Some(24 * 3_600_000) };
    for key in ["a", "b"] {
        bus.publish("orders", key, tomorrow.clone());
        bus.publish("orders", key, Order::Ack);
    }
    bus.wait_until("two keys are held back", |bus| bus.subscription("worker").blocked_keys == 2);
    let view = bus.subscription("worker");
    assert_eq!((view.waiting.due_later, view.waiting.behind_key), (2, 2));
    assert!(bus.metrics()["sandpost_subscription_blocked_keys{subscription=\"worker\"}"] > 1.0);
}
