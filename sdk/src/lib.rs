//! Write consumers for Sandpost, the event bus whose consumers are sandboxed WebAssembly components.
//!
//! A consumer is a function that handles one message, and one macro that exports it:
//!
//! ```
//! use sandpost_sdk::prelude::*;
//!
//! #[derive(serde::Deserialize)]
//! struct Order { id: String, total_cents: u64 }
//!
//! fn handle(Json(order): Json<Order>, bus: &Bus) -> Result<(), Failure> {
//!     bus.info(format!("order {} over {} cents", order.id, order.total_cents));
//!     bus.publish(Event::json("invoice.due", &order.id)?)?;
//!     Ok(())
//! }
//!
//! sandpost_sdk::consumer!(handle);
//! # fn main() {}
//! ```
//!
//! The crate is a `cdylib` (with `rlib` beside it where it has tests), built by
//! `cargo build --release --target wasm32-wasip2`. The `.wasm` file and a manifest of the same stem, put
//! into the plugin folder of a running bus, deploy it:
//!
//! ```toml
//! [[subscription]]
//! topics = ["order.placed"]
//! [grants]
//! publish = ["invoice.due"]
//! ```
//!
//! # What the handler may rely on
//!
//! - `Ok(())` acknowledges the message. In the same transaction what was [published](Bus::publish) and
//!   [written to the state](State) becomes durable. After any failure none of it happened.
//! - Delivery is at least once: a handler may be called again for a message it has handled, also at the
//!   same [attempt](Delivery::attempt). Effects inside the bus are exactly once; effects outside are not,
//!   so hand them [`Delivery::idempotency_key`].
//! - Messages of one key arrive in order and one at a time. Different keys run side by side, and still
//!   calls behave as if they ran one after the other: a call whose reads went stale is run again.
//! - Nothing is granted that the manifest does not name: no files, no network, no environment. Of the network there is
//!   [HTTP](Http), by URL.
//!
//! # What the handler takes
//!
//! The first argument is anything that is [`FromMessage`]: [`Json<T>`] for JSON data through serde (data
//! that does not fit `T` is [rejected](Failure::reject)), `String` for text, or a type of one's own; or
//! `&`[`Message`], the message as it is. The second is the [`Bus`], which also has the
//! [message](Bus::message) and the [delivery](Bus::delivery).
//!
//! # How it fails
//!
//! | return | becomes | attempt charged |
//! |---|---|---|
//! | [`Failure::retry`] | held, tried again later; a dead letter after the last attempt | yes |
//! | [`Failure::reject`] | a dead letter at once | yes |
//! | [`Failure::unavailable`] | held, tried again later | no |
//! | a panic, a timeout, out of memory | like a retry, with the panic's text as the reason | yes |
//!
//! `?` turns every [error](std::error::Error) into a retry; [`OrFail`] says otherwise:
//!
//! ```
//! # use sandpost_sdk::prelude::*;
//! # fn handle(text: String, bus: &Bus) -> Result<(), Failure> {
//! let quantity: u32 = text.trim().parse().or_reject("the quantity")?;
//! let seen: u32 = bus.state().get_json("seen")?.unwrap_or(0);
//! bus.state().set_json("seen", &(seen + quantity))?;
//! # Ok(())
//! # }
//! ```
//!
//! # Testing
//!
//! [`testing`](https://docs.rs/sandpost-sdk/latest/sandpost_sdk/testing/) runs a handler natively under
//! `cargo test`, with no bus and no WebAssembly. It keeps the contract: bounds, grants, and effects that
//! vanish with a failure.
//!
//! # Bounds
//!
//! | of | at most |
//! |---|---|
//! | the data of one message | 1 MiB (the bus's default) |
//! | events staged by one call | 1,000, and 8 MiB together |
//! | a key of the state | 1,024 bytes |
//! | a value of the state | 1 MiB |
//! | entries of one [`State::scan`] | 1,000 |
//! | bytes logged by one call | 64 KiB; further lines are counted and dropped |
//! | the body of a request, and of its answer | the manifest's `limits.http_request`, `limits.http_response` (16 MiB) |
//! | a call's time and memory | the manifest's `timeout` (5 s) and `limits.memory` (64 MiB) |
#![warn(missing_docs)]

mod bus;
mod event;
mod failure;
mod handler;
mod http;
mod message;
mod state;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
#[cfg(target_arch = "wasm32")]
mod wasm;

pub use bus::{Bus, Imports, Level};
pub use event::{Event, PublishError};
pub use failure::{Failure, OrFail, Retry};
pub use handler::{Decoded, FromMessage, Handler, Json, Whole};
pub use http::{Http, HttpError, HttpRequest, HttpResponse, RequestBuilder};
pub use message::{Delivery, Message};
pub use state::{Entries, Entry, State, StateError};

/// What a consumer's file imports: `use sandpost_sdk::prelude::*;`.
pub mod prelude {
    pub use crate::{Bus, Delivery, Event, Failure, FromMessage, Json, Level, Message, OrFail};
}

/// Exports a function as the consumer of this component. Use it once per crate.
///
/// The function is a [`Handler`]: `fn(T, &Bus) -> Result<(), Failure>` where `T` is [`FromMessage`], or
/// `fn(&Message, &Bus) -> Result<(), Failure>`.
///
/// On targets other than WebAssembly it only checks the function's type, so that the crate can be tested
/// there.
#[macro_export]
macro_rules! consumer {
    ($handler:path) => {
        const _: () = {
            #[cfg(target_arch = "wasm32")]
            use $crate::__private::{bindings, call};

            #[cfg(target_arch = "wasm32")]
            struct Consumer;

            #[cfg(target_arch = "wasm32")]
            impl bindings::Guest for Consumer {
                fn handle(
                    message: bindings::Message,
                    delivery: bindings::Delivery,
                ) -> ::core::result::Result<(), bindings::Failure> {
                    call($handler, message, delivery)
                }
            }

            #[cfg(target_arch = "wasm32")]
    bindings::export!(Consumer with_types_in bindings);

            #[cfg(not(target_arch = "wasm32"))]
            const _: fn() = || $crate::__private::is_handler($handler);
        };
    };
}

/// What `consumer!` expands to. Not part of the API.
#[doc(hidden)]
pub mod __private {
    #[cfg(target_arch = "wasm32")]
    pub use crate::wasm::{bindings, call};

    #[cfg(not(target_arch = "wasm32"))]
    pub fn is_handler<Input>(_: impl crate::Handler<Input>) {}
}
