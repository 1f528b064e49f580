//! Consumers of other platforms, run as they are: each platform's handler in a file of its own, and in others the imports
//! that they usually have. All of it maps to what our own consumers have, with the same grants, limits and transaction.

mod config;
mod keyvalue;
mod logging;
pub(super) mod spin;
pub(super) mod wasi_messaging;
pub(super) mod wasmcloud;

use wasmtime::Engine;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, ComponentExportIndex, Linker};

use super::guest::Guest;
use super::kind::Kind;
use super::load::{EntryPoint, LoadError};
use super::publish::{self, Parts};
use super::records::PublishRefusal;
use super::signature;

/// What consumers of these platforms may import beside what all may.
pub(super) const IMPORTS: [&str; 14] = [
    "wasmcloud:messaging/types@0.2.0",
    "wasmcloud:messaging/consumer@0.2.0",
    "wasi:messaging/types@0.2.0-draft",
    "wasi:messaging/producer@0.2.0-draft",
    "fermyon:spin/redis-types",
    logging::UNVERSIONED,
    logging::DRAFT,
    config::STORES[0],
    config::STORES[1],
    config::STORES[2],
    keyvalue::STORE,
    keyvalue::STORE_DRAFT2,
    keyvalue::ATOMICS,
    keyvalue::BATCH,
];

/// A handler that some platform defines.
struct Platform {
    interface: &'static str,
    function: &'static str,
    signature: &'static str,
    kind: Kind,
    entry: fn(ComponentExportIndex) -> EntryPoint,
}

const PLATFORMS: [Platform; 3] = [
    Platform {
        interface: "wasmcloud:messaging/handler@0.2.0",
        function: "handle-message",
        signature: "func(record { subject: string, body: list<u8>, reply-to: option<string> }) -> result<_, string>",
        kind: Kind::WasmCloud,
        entry: EntryPoint::WasmCloud,
    },
    Platform {
        interface: "wasi:messaging/incoming-handler@0.2.0-draft",
        function: "handle",
        signature: "func(resource) -> result<_, variant { timeout, connection(string), permission-denied(string), other(string) }>",
        kind: Kind::WasiMessaging,
        entry: EntryPoint::WasiMessaging,
    },
    Platform {
        interface: "fermyon:spin/inbound-redis",
        function: "handle-message",
        signature: "func(list<u8>) -> result<_, enum { success, error }>",
        kind: Kind::Spin,
        entry: EntryPoint::Spin,
    },
];

pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    logging::link(linker)?;
    config::link(linker)?;
    keyvalue::link(linker)?;
    wasmcloud::link(linker)?;
    wasi_messaging::link(linker)?;
    spin::link(linker)
}

/// The handler of another platform that a component exports, if there is one.
pub(super) fn entry(engine: &Engine, component: &Component) -> Result<Option<(Kind, EntryPoint)>, LoadError> {
    let ty = component.component_type();
    for platform in &PLATFORMS {
        let stem = platform.interface.split('@').next().unwrap_or(platform.interface);
        let mut exports = ty.exports(engine);
        let exported = exports.find(|(name, _)| name.split('@').next() == Some(stem));
        let Some((name, item)) = exported else { continue };
        let wrong = |found: String| LoadError::WrongHandler {
            interface: format!("{name}#{}", platform.function),
            found,
            expected: platform.signature,
        };
        if name != platform.interface {
            return Err(wrong(format!("version {name}; this bus has {}", platform.interface)));
        }
        let ComponentItem::ComponentInstance(interface) = item.ty else {
            return Err(wrong("no interface".to_owned()));
        };
        let function = interface.get_export(engine, platform.function).map(|export| export.ty);
        let Some(ComponentItem::ComponentFunc(function)) = function else {
            return Err(wrong("no such function".to_owned()));
        };
        let found = signature::describe(&function);
        if found != platform.signature {
            return Err(wrong(found));
        }
        let interface = component.get_export_index(None, name);
        let function = interface.and_then(|interface| component.get_export_index(Some(&interface), platform.function));
        return match function {
            Some(function) => Ok(Some((platform.kind, (platform.entry)(function)))),
            None => Err(wrong("no such function".to_owned())),
        };
    }
    Ok(None)
}

/// What another platform's consumer publishes: all that it can say, with the key of the message that it handles.
#[derive(Default)]
struct Outgoing {
    topic: String,
    content_type: Option<String>,
    metadata: Vec<(String, String)>,
    data: bytes::Bytes,
}

/// Stages it. Metadata of the names of CloudEvents' own attributes become those.
fn stage(guest: &mut Guest, outgoing: &Outgoing) -> wasmtime::Result<Result<(), PublishRefusal>> {
    // Nothing may be staged before there is a message whose acknowledgement would commit it.
    guest.call.source()?;
    let own =
        |name: &str| outgoing.metadata.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str().into());
    let inherited = guest.call.inherited_key.clone();
    let attribute = |(name, value): &'_ (String, String)| (name.clone().into(), value.clone().into());
    let is_attribute =
        |(name, _): &&(String, String)| !["partitionkey", "id", "type", "subject", "source"].contains(&name.as_str());
    let parts = Parts {
        topic: outgoing.topic.as_str().into(),
        kind: own("type").unwrap_or_default(),
        key: own("partitionkey").or(inherited.map(Into::into)),
        id: own("id"),
        subject: own("subject"),
        content_type: outgoing.content_type.as_deref().map(Into::into),
        attributes: outgoing.metadata.iter().filter(is_attribute).map(attribute).collect(),
        data: &outgoing.data,
        deliver_at_ms: None,
        expires_ms: None,
    };
    Ok(publish::stage(guest, parts))
}
