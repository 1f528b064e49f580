//! The component side: the bindings of the contract, and conversions to the types of this crate. All of
//! them move; nothing is copied but a staged value of the state.

use crate::{Bus, Delivery, Entry, Event, Failure, Handler, Imports, Level, Message, PublishError, Retry, StateError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) mod http;

#[allow(missing_docs, reason = "the contract's documentation is in the WIT, and only the macro names these")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "consumer",
        pub_export_macro: true,
        export_macro_name: "export",
    });
}

use bindings::sandpost::consumer::{bus, config, log, state, types};

/// Runs the handler as the component's `handle`.
///
/// # Errors
/// How the call failed.
pub fn call<Input>(
    handler: impl Handler<Input>,
    message: types::Message,
    delivery: types::Delivery,
) -> Result<(), types::Failure> {
    let (message, delivery) = (message.into(), delivery.into());
    handler.call(&Bus::new(&Component, &message, &delivery)).map_err(Into::into)
}

/// The imports of the component's world.
struct Component;

impl Imports for Component {
    fn publish(&self, event: Event) -> Result<(), PublishError> {
        Ok(bus::publish(&event.into())?)
    }

    fn state_get(&self, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        Ok(state::get(key)?)
    }

    fn state_set(&self, key: &str, value: &[u8]) -> Result<(), StateError> {
        Ok(state::set(key, value)?)
    }

    fn state_delete(&self, key: &str) -> Result<(), StateError> {
        Ok(state::delete(key)?)
    }

    fn state_scan(&self, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<Entry>, StateError> {
        let entries = state::scan(prefix, after, limit)?;
        Ok(entries.into_iter().map(|entry| Entry { key: entry.key, value: entry.value }).collect())
    }

    fn config(&self, name: &str) -> Option<String> {
        config::get(name)
    }

    fn log(&self, level: Level, text: &str) {
        let level = match level {
            Level::Trace => log::Level::Trace,
            Level::Debug => log::Level::Debug,
            Level::Info => log::Level::Info,
            Level::Warn => log::Level::Warn,
            Level::Error => log::Level::Error,
        };
        log::write(level, text);
    }

    fn now_ms(&self) -> u64 {
        // A clock before 1970 is a broken host; zero is what it says of itself.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
    }
}

impl From<types::Message> for Message {
    fn from(wire: types::Message) -> Self {
        Message {
            id: wire.id,
            source: wire.source,
            event_type: wire.type_,
            subject: wire.subject,
            topic: wire.topic,
            key: wire.key,
            content_type: wire.content_type,
            accepted_ms: wire.accepted_ms,
            attributes: wire.attributes,
            data: wire.data,
        }
    }
}

impl From<types::Delivery> for Delivery {
    fn from(wire: types::Delivery) -> Self {
        Delivery {
            subscription: wire.subscription,
            sequence: wire.sequence,
            attempt: wire.attempt,
            max_attempts: wire.max_attempts,
            redrives: wire.redrives,
            first_attempt_ms: wire.first_attempt_ms,
            deadline_ms: wire.deadline_ms,
            idempotency_key: wire.idempotency_key,
        }
    }
}

impl From<Failure> for types::Failure {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Retry(retry) => types::Failure::Retry(retry.into()),
            Failure::Reject(reason) => types::Failure::Reject(reason),
            Failure::Unavailable(retry) => types::Failure::Unavailable(retry.into()),
        }
    }
}

impl From<Retry> for types::Retry {
    fn from(retry: Retry) -> Self {
        types::Retry { reason: retry.reason, after_ms: retry.after.map(millis) }
    }
}

impl From<Event> for bus::Outgoing {
    fn from(event: Event) -> Self {
        bus::Outgoing {
            topic: event.topic,
            type_: event.event_type,
            key: event.key,
            id: event.id,
            subject: event.subject,
            content_type: event.content_type,
            attributes: event.attributes,
            data: event.data,
            deliver_at_ms: event.deliver_at_ms,
            expires_ms: event.expires_ms,
        }
    }
}

impl From<bus::PublishError> for PublishError {
    fn from(wire: bus::PublishError) -> Self {
        match wire {
            bus::PublishError::NotGranted(text) => PublishError::NotGranted(text),
            bus::PublishError::Invalid(text) => PublishError::Invalid(text),
            bus::PublishError::TooLarge(text) => PublishError::TooLarge(text),
            bus::PublishError::TooMany(text) => PublishError::TooMany(text),
        }
    }
}

impl From<state::StateError> for StateError {
    fn from(wire: state::StateError) -> Self {
        match wire {
            state::StateError::InvalidKey(text) => StateError::InvalidKey(text),
            state::StateError::TooLarge(text) => StateError::TooLarge(text),
            state::StateError::Full(text) => StateError::Full(text),
        }
    }
}

/// Whole milliseconds, below 2^53 as the contract has it: 285,000 years, as good as any longer time.
fn millis(duration: Duration) -> u64 {
    const INTEGER_MAX: u64 = (1 << 53) - 1;
    u64::try_from(duration.as_millis()).map_or(INTEGER_MAX, |millis| millis.min(INTEGER_MAX))
}
