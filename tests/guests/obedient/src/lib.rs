//! A guest that does what the message tells it to, for tests of the bus.
//!
//! The data of a message is an [`Order`] as JSON. Data that is none is rejected. Whatever an order finds out
//! (what it was given, what the state holds, what the sandbox answers) it publishes as JSON to the topic that
//! the order names. The type is a library too, for the tests that write the orders.

mod misdeed;
mod order;
mod sandbox;

pub use order::Order;

use sandpost_sdk::prelude::*;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Calls of this instance before the current one.
static CALLS: AtomicU64 = AtomicU64::new(0);

/// Obeys the order in the message.
pub fn handle(Json(order): Json<Order>, bus: &Bus) -> Result<(), Failure> {
    let earlier_calls = CALLS.fetch_add(1, Ordering::Relaxed);
    obey(order, bus, earlier_calls)
}

sandpost_sdk::consumer!(handle);

fn obey(order: Order, bus: &Bus, earlier_calls: u64) -> Result<(), Failure> {
    let then = |next: Option<Box<Order>>| next.map_or(Ok(()), |next| obey(*next, bus, earlier_calls));
    match order {
        Order::Ack => Ok(()),
        Order::All { orders } => orders.into_iter().try_for_each(|order| obey(order, bus, earlier_calls)),

        Order::Retry { reason, after_ms } => Err(delayed(Failure::retry(reason), after_ms)),
        Order::RetryUntil { attempt, after_ms, then: next } => {
            let now = bus.delivery().attempt;
            if now < attempt {
                return Err(delayed(Failure::retry(format!("attempt {now} is not attempt {attempt}")), after_ms));
            }
            then(next)
        }
        Order::Reject { reason } => Err(Failure::reject(reason)),
        Order::Unavailable { reason, after_ms } => Err(delayed(Failure::unavailable(reason), after_ms)),

        Order::Trap { text } => misdeed::told_to_trap(&text),
        Order::TrapWhenReused { text, then: next } => {
            if earlier_calls > 0 {
                misdeed::told_to_trap(&text);
            }
            then(next)
        }
        Order::Exit { code } => misdeed::told_to_exit(code),
        Order::Spin => misdeed::told_to_spin(),
        Order::Hog => misdeed::told_to_hog(),
        Order::Recurse => misdeed::told_to_recurse(),
        Order::Sleep { ms, then: next } => {
            std::thread::sleep(Duration::from_millis(ms));
            then(next)
        }
        Order::Leak { bytes, then: next } => {
            misdeed::leak(bytes);
            then(next)
        }
        Order::FloodLog { lines, bytes, then: next } => {
            misdeed::flood_log(bus, lines, bytes);
            then(next)
        }
        Order::FloodStdout { lines, bytes, then: next } => {
            misdeed::flood_stdout(lines, bytes);
            then(next)
        }
        Order::FloodStderr { lines, bytes, then: next } => {
            misdeed::flood_stderr(lines, bytes);
            then(next)
        }
        Order::Log { text, then: next } => {
            bus.info(text);
            then(next)
        }

        Order::Publish { topic, count, data, key, id, deliver_after_ms, expires_after_ms, attributes, then: next } => {
            let event = Event {
                key,
                id,
                attributes: attributes.into_iter().collect(),
                deliver_at_ms: deliver_after_ms.map(|ms| bus.now_ms() + ms),
                expires_ms: expires_after_ms.map(|ms| bus.now_ms() + ms),
                ..Event::text(topic, data)
            };
            for _ in 0..count {
                bus.publish(event.clone())?;
            }
            then(next)
        }
        Order::TryPublish { to, bytes, topic } => {
            let refused = bus.publish(Event::bytes(&to, vec![b'x'; bytes])).err();
            tell(bus, &topic, &json!({ "to": to, "error": refused.map(|error| format!("{error:?}")) }))
        }
        Order::Echo { topic } => echo(bus, &topic),
        Order::InstanceCalls { topic } => tell(bus, &topic, &json!({ "earlier_calls": earlier_calls })),

        Order::SetState { key, value, then: next } => {
            bus.state().set(&key, value)?;
            then(next)
        }
        Order::FillState { prefix, count, bytes, then: next } => {
            for n in 0..count {
                bus.state().set(&format!("{prefix}{n:06}"), vec![b'x'; bytes])?;
            }
            then(next)
        }
        Order::DeleteState { key, then: next } => {
            bus.state().delete(&key)?;
            then(next)
        }
        Order::Increment { key, then: next } => {
            bus.state().update_json(&key, |count: &mut u64| *count += 1)?;
            then(next)
        }
        Order::WhereSet { keys, then: next } => {
            for key in &keys {
                if bus.state().get(key)?.is_none() {
                    return Ok(());
                }
            }
            obey(*next, bus, earlier_calls)
        }
        Order::WhereKeys { prefix, at_least, at_most, then: next } => {
            let found = bus.state().scan(&prefix, None, u32::MAX)?.len();
            if found < at_least as usize || found > at_most as usize {
                return Ok(());
            }
            obey(*next, bus, earlier_calls)
        }
        Order::RejectWhereDifferent { keys, pause_ms } => reject_where_different(bus, &keys, pause_ms),
        Order::WhileState { key, order, then: next } => match bus.state().get(&key)? {
            Some(_) => obey(*order, bus, earlier_calls),
            None => then(next),
        },
        Order::GetState { key, topic } => {
            let value = bus.state().get(&key)?.map(|value| lossy(&value));
            tell(bus, &topic, &json!({ "key": key, "value": value }))
        }
        Order::ScanState { prefix, after, limit, topic } => {
            let entries = bus.state().scan(&prefix, after.as_deref(), limit)?;
            let entries: Vec<_> = entries.iter().map(|entry| json!([entry.key, lossy(&entry.value)])).collect();
            tell(bus, &topic, &json!({ "entries": entries }))
        }

        Order::Config { name, topic } => {
            let value = bus.config(&name);
            tell(bus, &topic, &json!({ "name": name, "value": value }))
        }
        Order::ReadFile { path, topic } => tell(bus, &topic, &sandbox::read_file(&path)),
        Order::WriteFile { path, topic } => tell(bus, &topic, &sandbox::write_file(&path)),
        Order::ListFolder { path, topic } => tell(bus, &topic, &sandbox::list_folder(&path)),
        Order::Env { name, topic } => tell(bus, &topic, &sandbox::env(&name)),
        Order::Args { topic } => tell(bus, &topic, &sandbox::args()),
        Order::Connect { addr, topic } => tell(bus, &topic, &sandbox::connect(&addr)),
        Order::Listen { addr, topic } => tell(bus, &topic, &sandbox::listen(&addr)),
        Order::Resolve { host, topic } => tell(bus, &topic, &sandbox::resolve(&host)),
        Order::Stdin { topic } => tell(bus, &topic, &sandbox::stdin()),
        Order::Random { topic } => tell(bus, &topic, &sandbox::random()),
        Order::Clock { topic } => tell(bus, &topic, &sandbox::clock(bus.now_ms())),
    }
}

fn delayed(failure: Failure, after_ms: Option<u64>) -> Failure {
    match after_ms {
        Some(ms) => failure.after(Duration::from_millis(ms)),
        None => failure,
    }
}

fn reject_where_different(bus: &Bus, keys: &[String], pause_ms: u64) -> Result<(), Failure> {
    let mut first = None;
    for key in keys {
        if first.is_some() {
            std::thread::sleep(Duration::from_millis(pause_ms));
        }
        let value = bus.state().get(key)?;
        let first = first.get_or_insert_with(|| value.clone());
        if *first != value {
            return Err(Failure::reject(format!("{} is {first:?}, and {key} is {value:?}", keys[0])));
        }
    }
    Ok(())
}

/// Publishes what was found out, with the message's key.
fn tell(bus: &Bus, topic: &str, found: &impl Serialize) -> Result<(), Failure> {
    let mut event = Event::json(topic, found)?;
    event.key.clone_from(&bus.message().key);
    bus.publish(event)?;
    Ok(())
}

/// Publishes everything that the call was given.
fn echo(bus: &Bus, topic: &str) -> Result<(), Failure> {
    let (message, delivery) = (bus.message(), bus.delivery());
    let attributes: BTreeMap<_, _> = message.attributes.iter().cloned().collect();
    let given = json!({
        "message": {
            "id": message.id,
            "source": message.source,
            "type": message.event_type,
            "subject": message.subject,
            "topic": message.topic,
            "key": message.key,
            "content_type": message.content_type,
            "accepted_ms": message.accepted_ms,
            "attributes": attributes,
            "data": lossy(&message.data),
        },
        "delivery": {
            "subscription": delivery.subscription,
            "sequence": delivery.sequence,
            "attempt": delivery.attempt,
            "max_attempts": delivery.max_attempts,
            "redrives": delivery.redrives,
            "first_attempt_ms": delivery.first_attempt_ms,
            "deadline_ms": delivery.deadline_ms,
            "idempotency_key": delivery.idempotency_key,
        },
        "now_ms": bus.now_ms(),
    });
    tell(bus, topic, &given)
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
