//! The shapes that a handler may have, and what its first argument may be.

use crate::{Bus, Failure, Message};
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::ops::Deref;

/// What a handler's first argument can be made of.
///
/// ```
/// use sandpost_sdk::prelude::*;
///
/// struct Sku(String);
///
/// impl FromMessage for Sku {
///     fn from_message(message: &Message) -> Result<Self, Failure> {
///         message.subject.clone().map(Sku).or_reject("the event has no subject")
///     }
/// }
///
/// fn handle(sku: Sku, bus: &Bus) -> Result<(), Failure> {
///     Ok(bus.state().delete(&sku.0)?)
/// }
/// ```
pub trait FromMessage: Sized {
    /// Decodes the message.
    ///
    /// # Errors
    /// How the call fails, without the handler being called. A message that does not decode now never
    /// will: [`Failure::reject`] says so.
    fn from_message(message: &Message) -> Result<Self, Failure>;
}

/// The message's data as JSON. Data that does not fit `T` is rejected; [`Message::json`] has the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Json<T>(
    /// The decoded value.
    pub T,
);

impl<T: DeserializeOwned> FromMessage for Json<T> {
    fn from_message(message: &Message) -> Result<Self, Failure> {
        message.json().map(Json)
    }
}

impl<T> Deref for Json<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// The message's data as text. Data that is not UTF-8 is rejected.
impl FromMessage for String {
    fn from_message(message: &Message) -> Result<Self, Failure> {
        message.text().map(str::to_owned)
    }
}

/// A function that [`consumer!`](crate::consumer) can export.
///
/// `Input` tells the two shapes apart, [`Whole`] and [`Decoded`]; the compiler finds it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    note = "a handler is `fn(&Message, &Bus) -> Result<(), Failure>`, or `fn(T, &Bus) -> Result<(), Failure>` where \
            `T` is `FromMessage`, such as `Json<Order>`"
)]
pub trait Handler<Input> {
    /// Handles the message of the bus.
    ///
    /// # Errors
    /// How the call failed.
    fn call(&self, bus: &Bus<'_>) -> Result<(), Failure>;
}

/// The shape `fn(&Message, &Bus) -> Result<(), Failure>`.
pub struct Whole;

/// The shape `fn(T, &Bus) -> Result<(), Failure>`.
pub struct Decoded<T>(PhantomData<T>);

impl<F> Handler<Whole> for F
where
    F: Fn(&Message, &Bus<'_>) -> Result<(), Failure>,
{
    fn call(&self, bus: &Bus<'_>) -> Result<(), Failure> {
        self(bus.message(), bus)
    }
}

impl<F, T> Handler<Decoded<T>> for F
where
    F: Fn(T, &Bus<'_>) -> Result<(), Failure>,
    T: FromMessage,
{
    fn call(&self, bus: &Bus<'_>) -> Result<(), Failure> {
        self(T::from_message(bus.message())?, bus)
    }
}
