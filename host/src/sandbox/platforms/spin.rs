//! Spin: `fermyon:spin/inbound-redis`. Its handler is given the data, and nothing else.

use wasmtime::component::{ComponentType, Lift, Linker, TypedFunc};
use wasmtime::{AsContextMut, Store};

use crate::message::Message;
use crate::sandbox::ending;
use crate::sandbox::guest::Guest;
use crate::sandbox::records::{Failure, RetryRecord};

/// `redis-types.error`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "lifting reads the number, and constructs no variant by name")]
pub(in crate::sandbox) enum RedisError {
    #[component(name = "success")]
    Success,
    #[component(name = "error")]
    Error,
}

pub(in crate::sandbox) type Handler = TypedFunc<(Vec<u8>,), (Result<(), RedisError>,)>;

pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.instance("fermyon:spin/redis-types")?;
    Ok(())
}

pub(in crate::sandbox) async fn call(
    store: &mut Store<Guest>,
    handler: Handler,
    message: &Message,
) -> wasmtime::Result<Result<(), Failure>> {
    store.as_context_mut().data_mut().call.inherited_key.clone_from(&message.event.key);
    let (result,) = handler.call_async(&mut *store, (message.event.data.to_vec(),)).await?;
    // The error has no text of its own; what was printed before it has.
    let reason = |guest: &Guest| ending::printed_or(guest, "the handler answered `error`");
    Ok(result.map_err(|_| Failure::Retry(RetryRecord { reason: reason(store.data()), after_ms: None })))
}
