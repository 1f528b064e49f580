//! The obedient guest in Rust: it does what the subject of its message says.

use sandpost_sdk::prelude::*;
use sandpost_sdk::{PublishError, StateError};
use std::hint::black_box;
use std::time::Duration;

const HOUR_MS: u64 = 3_600_000;

/// Obeys the order in the message's subject.
pub fn handle(message: &Message, bus: &Bus) -> Result<(), Failure> {
    let order = message.subject.as_deref().unwrap_or_default();
    let (verb, rest) = order.split_once(' ').unwrap_or((order, ""));
    let tell = |data: &[u8]| -> Result<(), Failure> {
        let mut event = Event::bytes("told", data.to_vec());
        event.key.clone_from(&message.key);
        event.content_type = Some("text/plain".to_owned());
        Ok(bus.publish(event)?)
    };
    match verb {
        "ack" => Ok(()),
        "retry" => Err(Failure::retry(rest)),
        "reject" => Err(Failure::reject(rest)),
        "unavailable" => Err(Failure::unavailable(rest)),
        "retry-after" | "unavailable-after" => {
            let (ms, reason) = rest.split_once(' ').unwrap_or((rest, ""));
            let failure = if verb == "retry-after" { Failure::retry(reason) } else { Failure::unavailable(reason) };
            Err(failure.after(Duration::from_millis(ms.parse().or_reject("the milliseconds")?)))
        }
        "throw" => told_to_throw(rest),
        "loop" => {
            let mut turns = 0_u64;
            loop {
                turns = black_box(turns.wrapping_add(1));
            }
        }
        "hog" => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(vec![black_box(1_u8); 1 << 20]);
                black_box(&hoard);
            }
        }
        "publish" => {
            let mut event = Event::bytes(rest, message.data.clone());
            event.event_type.clone_from(&message.event_type);
            event.key.clone_from(&message.key);
            event.subject = Some(message.id.clone());
            event.content_type.clone_from(&message.content_type);
            event.attributes.clone_from(&message.attributes);
            Ok(bus.publish(event)?)
        }
        "publish-later" => {
            let mut event = Event::bytes(rest, message.data.clone());
            event.id = Some(format!("later-{}", message.id));
            event.deliver_at_ms = Some(message.accepted_ms + HOUR_MS);
            event.expires_ms = Some(message.accepted_ms + 2 * HOUR_MS);
            event.content_type = None;
            Ok(bus.publish(event)?)
        }
        "publish-error" => {
            let kind = match bus.publish(Event::bytes(rest, Vec::new())) {
                Ok(()) => "none",
                Err(PublishError::NotGranted(_)) => "not-granted",
                Err(PublishError::Invalid(_)) => "invalid",
                Err(PublishError::TooLarge(_)) => "too-large",
                Err(PublishError::TooMany(_)) => "too-many",
            };
            tell(kind.as_bytes())
        }
        "describe" => tell(describe(message, bus.delivery()).as_bytes()),
        "set" => Ok(bus.state().set(rest, &message.data)?),
        "get" => {
            let value = bus.state().get(rest)?;
            tell(&value.or_reject(format!("no {rest}"))?)
        }
        "delete" => Ok(bus.state().delete(rest)?),
        "scan" => {
            let mut lines = Vec::new();
            let mut after: Option<String> = None;
            loop {
                let page = bus.state().scan(rest, after.as_deref(), 2)?;
                for entry in &page {
                    lines.extend([entry.key.as_bytes(), b"=", &entry.value[..], b"\n"].concat());
                    after = Some(entry.key.clone());
                }
                if page.len() < 2 {
                    return tell(&lines);
                }
            }
        }
        "count" => {
            let value = bus.state().get(rest)?.unwrap_or_default();
            let count: u64 = String::from_utf8_lossy(&value).parse().unwrap_or(0);
            Ok(bus.state().set(rest, (count + 1).to_string())?)
        }
        "state-error" => {
            let kind = match bus.state().set("", &message.data) {
                Ok(()) => "none",
                Err(StateError::InvalidKey(_)) => "invalid-key",
                Err(StateError::TooLarge(_)) => "too-large",
                Err(StateError::Full(_)) => "full",
                Err(StateError::NotJson { .. }) => "not-json",
            };
            tell(kind.as_bytes())
        }
        "config" => tell(bus.config(rest).or_reject(format!("no {rest}"))?.as_bytes()),
        "log" => {
            let (level, text) = rest.split_once(' ').unwrap_or((rest, ""));
            let levels = [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error];
            let named = ["trace", "debug", "info", "warn", "error"].iter().position(|name| *name == level);
            bus.log(levels[named.or_reject("the level")?], text);
            Ok(())
        }
        "garbage" => {
            let bytes: usize = rest.parse().or_reject("the bytes")?;
            for _ in 0..bytes / 1024 {
                black_box(vec![black_box(1_u8); 1024]);
            }
            Ok(())
        }
        _ => Err(Failure::reject(format!("unknown order {order}"))),
    }
}

sandpost_sdk::consumer!(handle);

#[inline(never)]
fn told_to_throw(text: &str) -> ! {
    panic!("{text}");
}

fn describe(message: &Message, delivery: &Delivery) -> String {
    let mut lines = vec![
        format!("id={}", message.id),
        format!("source={}", message.source),
        format!("type={}", message.event_type),
    ];
    let optional = |name: &str, value: &Option<String>| match value {
        Some(value) => format!("{name}={value}"),
        None => name.to_owned(),
    };
    lines.push(optional("subject", &message.subject));
    lines.push(format!("topic={}", message.topic));
    lines.push(optional("key", &message.key));
    lines.push(optional("content-type", &message.content_type));
    lines.push(format!("accepted-ms={}", message.accepted_ms));
    lines.extend(message.attributes.iter().map(|(name, value)| format!("attribute {name}={value}")));
    lines.extend([
        format!("data-bytes={}", message.data.len()),
        format!("subscription={}", delivery.subscription),
        format!("sequence={}", delivery.sequence),
        format!("attempt={}", delivery.attempt),
        format!("max-attempts={}", delivery.max_attempts),
        format!("redrives={}", delivery.redrives),
        format!("first-attempt-ms={}", delivery.first_attempt_ms),
        format!("deadline-ms={}", delivery.deadline_ms),
        format!("idempotency-key={}", delivery.idempotency_key),
    ]);
    lines.join("\n") + "\n"
}
