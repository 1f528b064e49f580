//! `wasi:messaging@0.2.0-draft`: messages are resources in the host's memory, and metadata are attributes.

use bytes::Bytes;
use wasmtime::component::{ComponentType, Lift, Linker, Lower, Resource, ResourceType, TypedFunc};
use wasmtime::{AsContextMut, Store, StoreContextMut};

use super::Outgoing;
use crate::limits::{GUEST_HANDOVER_BYTES_MAX, MESSAGE_ATTRIBUTES_MAX};
use crate::message::Message;
use crate::sandbox::Offer;
use crate::sandbox::guest::Guest;
use crate::sandbox::records::{Failure, PublishRefusal, RetryRecord};

/// `types.message`
pub(in crate::sandbox) struct HeldMessage {
    topic: Option<String>,
    content_type: Option<String>,
    metadata: Option<Vec<(String, String)>>,
    data: Bytes,
}

impl HeldMessage {
    fn bytes(&self) -> usize {
        let metadata = self.metadata.iter().flatten().map(|(name, value)| name.len() + value.len() + 64).sum::<usize>();
        self.data.len() + metadata + self.content_type.as_ref().map_or(0, String::len)
    }
}

/// `types.client`: there is one bus.
struct HeldClient;

/// `types.error`
#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(variant)]
pub(in crate::sandbox) enum MessagingError {
    #[component(name = "timeout")]
    Timeout,
    #[component(name = "connection")]
    Connection(String),
    #[component(name = "permission-denied")]
    PermissionDenied(String),
    #[component(name = "other")]
    Other(String),
}

impl MessagingError {
    fn text(self) -> String {
        match self {
            Self::Timeout => "timeout".to_owned(),
            Self::Connection(text) => format!("connection: {text}"),
            Self::PermissionDenied(text) => format!("permission denied: {text}"),
            Self::Other(text) => text,
        }
    }
}

pub(in crate::sandbox) type Handler = TypedFunc<(Resource<HeldMessage>,), (Result<(), MessagingError>,)>;
type Context<'a> = StoreContextMut<'a, Guest>;
type Answer<T> = (Result<T, MessagingError>,);

pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut types = linker.instance("wasi:messaging/types@0.2.0-draft")?;
    types.resource("client", ResourceType::host::<HeldClient>(), |mut store, client| {
        store.data_mut().table().delete(Resource::<HeldClient>::new_own(client))?;
        Ok(())
    })?;
    types.func_wrap("[static]client.connect", |mut store: Context<'_>, (_name,): (String,)| {
        Ok::<Answer<Resource<HeldClient>>, _>((Ok(store.data_mut().table().push(HeldClient)?),))
    })?;
    types.func_wrap("[method]client.disconnect", |_: Context<'_>, (_client,): (Resource<HeldClient>,)| {
        Ok::<Answer<()>, _>((Ok(()),))
    })?;

    types.resource("message", ResourceType::host::<HeldMessage>(), |mut store, message| {
        let held = store.data_mut().table().delete(Resource::<HeldMessage>::new_own(message))?;
        let call = &mut store.data_mut().call;
        call.held_bytes = call.held_bytes.saturating_sub(held.bytes());
        Ok(())
    })?;
    types.func_wrap("[constructor]message", |mut store: Context<'_>, (data,): (Vec<u8>,)| {
        let held = HeldMessage { topic: None, content_type: None, metadata: None, data: data.into() };
        charge(store.data_mut(), held.bytes())?;
        Ok((store.data_mut().table().push(held)?,))
    })?;
    types.func_wrap("[method]message.topic", |store: Context<'_>, (message,): (Resource<HeldMessage>,)| {
        read(store, &message, |held| held.topic.clone())
    })?;
    types.func_wrap("[method]message.content-type", |store: Context<'_>, (message,): (Resource<HeldMessage>,)| {
        read(store, &message, |held| held.content_type.clone())
    })?;
    types.func_wrap("[method]message.data", |store: Context<'_>, (message,): (Resource<HeldMessage>,)| {
        read(store, &message, |held| held.data.to_vec())
    })?;
    types.func_wrap("[method]message.metadata", |store: Context<'_>, (message,): (Resource<HeldMessage>,)| {
        read(store, &message, |held| held.metadata.clone())
    })?;
    types.func_wrap(
        "[method]message.set-content-type",
        |store: Context<'_>, (message, content_type): (Resource<HeldMessage>, String)| {
            change(store, &message, |held| held.content_type = Some(content_type))
        },
    )?;
    types.func_wrap(
        "[method]message.set-data",
        |store: Context<'_>, (message, data): (Resource<HeldMessage>, Vec<u8>)| {
            change(store, &message, |held| held.data = data.into())
        },
    )?;
    types.func_wrap(
        "[method]message.add-metadata",
        |store: Context<'_>, (message, key, value): (Resource<HeldMessage>, String, String)| {
            change(store, &message, |held| held.metadata.get_or_insert_default().push((key, value)))
        },
    )?;
    types.func_wrap(
        "[method]message.set-metadata",
        |store: Context<'_>, (message, metadata): (Resource<HeldMessage>, Vec<(String, String)>)| {
            change(store, &message, |held| held.metadata = Some(metadata))
        },
    )?;
    types.func_wrap(
        "[method]message.remove-metadata",
        |store: Context<'_>, (message, key): (Resource<HeldMessage>, String)| {
            change(store, &message, |held| {
                held.metadata.iter_mut().for_each(|all| all.retain(|(name, _)| *name != key))
            })
        },
    )?;

    linker.instance("wasi:messaging/producer@0.2.0-draft")?.func_wrap(
        "send",
        |mut store: Context<'_>, (_client, topic, message): (Resource<HeldClient>, String, Resource<HeldMessage>)| {
            let guest = store.data_mut();
            let held = guest.table().delete(message)?;
            guest.call.held_bytes = guest.call.held_bytes.saturating_sub(held.bytes());
            let metadata = held.metadata.unwrap_or_default();
            let outgoing = Outgoing { topic, content_type: held.content_type, metadata, data: held.data };
            let staged = super::stage(guest, &outgoing)?;
            let error = |refusal: PublishRefusal| match refusal {
                PublishRefusal::NotGranted(text) => MessagingError::PermissionDenied(text),
                other => MessagingError::Other(other.text().to_owned()),
            };
            Ok::<Answer<()>, _>((staged.map_err(error),))
        },
    )
}

fn read<T>(
    mut store: Context<'_>,
    message: &Resource<HeldMessage>,
    what: impl FnOnce(&HeldMessage) -> T,
) -> wasmtime::Result<(T,)> {
    Ok((what(store.data_mut().table().get(message)?),))
}

fn change(
    mut store: Context<'_>,
    message: &Resource<HeldMessage>,
    how: impl FnOnce(&mut HeldMessage),
) -> wasmtime::Result<()> {
    let guest = store.data_mut();
    let held = guest.table().get_mut(message)?;
    let before = held.bytes();
    how(held);
    let after = held.bytes();
    if held.metadata.as_ref().is_some_and(|metadata| metadata.len() > MESSAGE_ATTRIBUTES_MAX) {
        return Err(wasmtime::format_err!("a message has at most {MESSAGE_ATTRIBUTES_MAX} metadata"));
    }
    guest.call.held_bytes = guest.call.held_bytes.saturating_sub(before);
    charge(guest, after)
}

/// Messages lie in the host's memory: a guest has so much of it at once.
fn charge(guest: &mut Guest, bytes: usize) -> wasmtime::Result<()> {
    guest.call.held_bytes += bytes;
    if guest.call.held_bytes > GUEST_HANDOVER_BYTES_MAX {
        return Err(wasmtime::format_err!("messages of more than {GUEST_HANDOVER_BYTES_MAX} bytes are held at once"));
    }
    Ok(())
}

pub(in crate::sandbox) async fn call(
    store: &mut Store<Guest>,
    handler: Handler,
    message: &Message,
    offer: &Offer,
) -> wasmtime::Result<Result<(), Failure>> {
    let event = &message.event;
    let own = [
        ("id", Some(&event.id)),
        ("source", Some(&event.source)),
        ("type", Some(&event.kind)),
        ("subject", event.subject.as_ref()),
        ("partitionkey", event.key.as_ref()),
        ("idempotencykey", Some(&offer.idempotency_key)),
    ];
    let mut metadata = event.attributes.clone();
    metadata.extend(own.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.clone()))));
    let held = HeldMessage {
        topic: Some(event.topic.as_str().to_owned()),
        content_type: event.content_type.clone(),
        metadata: Some(metadata),
        data: event.data.clone(),
    };
    let mut context = store.as_context_mut();
    let guest = context.data_mut();
    guest.call.inherited_key.clone_from(&event.key);
    guest.call.held_bytes += held.bytes();
    let held = guest.table().push(held)?;
    let (result,) = handler.call_async(&mut *store, (held,)).await?;
    Ok(result.map_err(|error| Failure::Retry(RetryRecord { reason: error.text(), after_ms: None })))
}
