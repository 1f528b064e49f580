//! What a handler can do: the contract's imports behind a trait, and what is made of them.

use crate::{Delivery, Entry, Event, Failure, Message, PublishError, State, StateError};
#[cfg(not(target_arch = "wasm32"))]
use crate::{HttpError, HttpRequest, HttpResponse};
use std::fmt;
use std::str::FromStr;

/// The functions that the bus gives to a consumer, one to one.
///
/// In a component they are the imports of its world, natively those of a
/// [`TestBus`](https://docs.rs/sandpost-sdk/latest/sandpost_sdk/testing/struct.TestBus.html). A handler uses
/// [`Bus`]; implement this only to put something else under it.
pub trait Imports {
    /// As [`Bus::publish`].
    fn publish(&self, event: Event) -> Result<(), PublishError>;
    /// As [`State::get`].
    fn state_get(&self, key: &str) -> Result<Option<Vec<u8>>, StateError>;
    /// As [`State::set`].
    fn state_set(&self, key: &str, value: &[u8]) -> Result<(), StateError>;
    /// As [`State::delete`].
    fn state_delete(&self, key: &str) -> Result<(), StateError>;
    /// As [`State::scan`].
    fn state_scan(&self, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<Entry>, StateError>;
    /// As [`Bus::config`].
    fn config(&self, name: &str) -> Option<String>;
    /// As [`Bus::log`].
    fn log(&self, level: Level, text: &str);
    /// As [`Bus::now_ms`].
    fn now_ms(&self) -> u64;
    /// As [`RequestBuilder::send`](crate::RequestBuilder::send), without redirects. In a component requests do not go
    /// through this trait, so it is there elsewhere only.
    #[cfg(not(target_arch = "wasm32"))]
    fn http_send(&self, request: &HttpRequest) -> Result<HttpResponse, HttpError> {
        Err(HttpError::NotGranted(format!("{}: there is no HTTP here", request.url)))
    }
}

/// How much a line of the log matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every step.
    Trace,
    /// What helps to find a mistake.
    Debug,
    /// What an operator may want to know.
    Info,
    /// What an operator should look at.
    Warn,
    /// What an operator must look at.
    Error,
}

/// What a handler can do, and what it was given.
///
/// One value belongs to one call. Its methods take `&self`, for nothing is changed until the call is
/// acknowledged.
pub struct Bus<'a> {
    imports: &'a dyn Imports,
    message: &'a Message,
    delivery: &'a Delivery,
}

impl<'a> Bus<'a> {
    /// A bus on other imports than those of the component; [`Imports`] says when.
    pub fn new(imports: &'a dyn Imports, message: &'a Message, delivery: &'a Delivery) -> Self {
        Bus { imports, message, delivery }
    }

    pub(crate) fn imports(&self) -> &'a dyn Imports {
        self.imports
    }

    /// The message that is being handled.
    #[must_use]
    pub fn message(&self) -> &'a Message {
        self.message
    }

    /// This delivery of it: attempt, deadline, idempotency key.
    #[must_use]
    pub fn delivery(&self) -> &'a Delivery {
        self.delivery
    }

    /// Stages an event. It is published if, and only if, this call is acknowledged, in the same
    /// transaction. One call stages at most 1,000 events and 8 MiB.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was staged, and what was staged before still is.
    pub fn publish(&self, event: Event) -> Result<(), PublishError> {
        self.imports.publish(event)
    }

    /// The consumer's durable keys and values.
    #[must_use]
    pub fn state(&self) -> State<'a> {
        State::new(self.imports)
    }

    /// The value of a name in the manifest's `[config]`, if it is there.
    #[must_use]
    pub fn config(&self, name: &str) -> Option<String> {
        self.imports.config(name)
    }

    /// The value of a name that the manifest's `[config]` must have.
    ///
    /// # Errors
    /// [`Failure::unavailable`] where it is missing. The message is not to blame, so it waits, uncharged,
    /// until somebody corrects the manifest.
    pub fn required_config(&self, name: &str) -> Result<String, Failure> {
        self.config(name).ok_or_else(|| Failure::unavailable(format!("the manifest's [config] has no `{name}`")))
    }

    /// The value of a name in the manifest's `[config]`, parsed; `default` where it is not there.
    ///
    /// # Errors
    /// [`Failure::unavailable`] where it does not parse. The message is not to blame, so it waits,
    /// uncharged, until somebody corrects the manifest.
    pub fn config_or<T>(&self, name: &str, default: T) -> Result<T, Failure>
    where
        T: FromStr<Err: fmt::Display>,
    {
        let Some(text) = self.config(name) else { return Ok(default) };
        text.parse().map_err(|error| {
            Failure::unavailable(format!("`{name} = {text:?}` in the manifest's [config] is not valid: {error}"))
        })
    }

    /// What stands for a name of the manifest's `[secrets]`. It is a placeholder, which the bus replaces in the headers
    /// of requests to where the secret may go; it changes when the bus starts, so it is asked for in each call.
    ///
    /// # Errors
    /// [`Failure::unavailable`] where it is missing. The message is not to blame, so it waits, uncharged,
    /// until somebody corrects the manifest.
    pub fn secret(&self, name: &str) -> Result<String, Failure> {
        self.config(name).ok_or_else(|| Failure::unavailable(format!("the manifest's [secrets] has no `{name}`")))
    }

    /// The time, in milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.imports.now_ms()
    }

    /// The time so long from now, for [`Event::deliver_at_ms`] and [`Event::expires_ms`].
    ///
    /// ```
    /// # use sandpost_sdk::{Bus, Event, Failure};
    /// # fn remind(bus: &Bus) -> Result<(), Failure> {
    /// let in_a_day = bus.after(std::time::Duration::from_secs(24 * 3600));
    /// bus.publish(Event::text("invoice.reminder", "o-1").deliver_at_ms(in_a_day))?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn after(&self, delay: std::time::Duration) -> u64 {
        self.now_ms().saturating_add(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
    }

    /// Writes a line to the bus's log, with the subscription and the message. Lines stay, however the call
    /// ends. Past 64 KiB of one call they are counted and dropped.
    pub fn log(&self, level: Level, text: impl AsRef<str>) {
        self.imports.log(level, text.as_ref());
    }

    /// [Logs](Self::log) at [`Level::Trace`].
    pub fn trace(&self, text: impl AsRef<str>) {
        self.log(Level::Trace, text);
    }

    /// [Logs](Self::log) at [`Level::Debug`].
    pub fn debug(&self, text: impl AsRef<str>) {
        self.log(Level::Debug, text);
    }

    /// [Logs](Self::log) at [`Level::Info`].
    pub fn info(&self, text: impl AsRef<str>) {
        self.log(Level::Info, text);
    }

    /// [Logs](Self::log) at [`Level::Warn`].
    pub fn warn(&self, text: impl AsRef<str>) {
        self.log(Level::Warn, text);
    }

    /// [Logs](Self::log) at [`Level::Error`].
    pub fn error(&self, text: impl AsRef<str>) {
        self.log(Level::Error, text);
    }
}
