//! wasmCloud: `wasmcloud:messaging@0.2.0`. A subject is a topic.

use wasmtime::component::{ComponentType, Lift, Linker, Lower, TypedFunc};
use wasmtime::{AsContextMut, StoreContextMut};

use super::Outgoing;
use crate::message::Message;
use crate::sandbox::guest::Guest;
use crate::sandbox::records::{Failure, RetryRecord};

/// `types.broker-message`
#[derive(ComponentType, Lift, Lower)]
#[component(record)]
pub(in crate::sandbox) struct BrokerMessage {
    subject: String,
    body: Vec<u8>,
    #[component(name = "reply-to")]
    reply_to: Option<String>,
}

pub(in crate::sandbox) type Handler = TypedFunc<(BrokerMessage,), (Result<(), String>,)>;
type Store<'a> = StoreContextMut<'a, Guest>;

pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.instance("wasmcloud:messaging/types@0.2.0")?;
    let mut consumer = linker.instance("wasmcloud:messaging/consumer@0.2.0")?;
    consumer.func_wrap("publish", |mut store: Store<'_>, (message,): (BrokerMessage,)| {
        let outgoing = Outgoing {
            topic: message.subject,
            content_type: None,
            metadata: message.reply_to.map(|reply_to| ("replyto".to_owned(), reply_to)).into_iter().collect(),
            data: message.body.into(),
        };
        let staged = super::stage(store.data_mut(), &outgoing)?;
        Ok::<(Result<(), String>,), _>((staged.map_err(|refusal| refusal.text().to_owned()),))
    })?;
    consumer.func_wrap("request", |_: Store<'_>, (subject, _body, _timeout_ms): (String, Vec<u8>, u32)| {
        // A reply within the call could only come of a message that the call has not committed yet.
        let text = format!(
            "a request to `{subject}` cannot be answered here: what a consumer publishes leaves the bus when its message is \
             acknowledged. Publish, and handle the reply as a message of its own"
        );
        Ok::<(Result<BrokerMessage, String>,), _>((Err(text),))
    })
}

pub(in crate::sandbox) async fn call(
    mut store: impl AsContextMut<Data = Guest>,
    handler: Handler,
    message: &Message,
) -> wasmtime::Result<Result<(), Failure>> {
    let event = &message.event;
    store.as_context_mut().data_mut().call.inherited_key.clone_from(&event.key);
    let reply_to = event.attributes.iter().find(|(name, _)| name == "replyto").map(|(_, value)| value.clone());
    let message = BrokerMessage { subject: event.topic.as_str().to_owned(), body: event.data.to_vec(), reply_to };
    let (result,) = handler.call_async(store, (message,)).await?;
    Ok(result.map_err(|reason| Failure::Retry(RetryRecord { reason, after_ms: None })))
}
