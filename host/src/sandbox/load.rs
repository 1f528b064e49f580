//! From a file's bytes to a component that is compiled, checked and linked.

use std::sync::Arc;

use sha2::Digest as _;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component as WasmComponent, ComponentExportIndex, InstancePre};

use super::engine::{Sandbox, Shared};
use super::guest::Guest;
use super::imports::{ALLOWED, is_allowed};
use super::signature;
use crate::limits::COMPONENT_BYTES_MAX;
use crate::outcome::Digest;

/// The export that every consumer has. Its name is its version.
const HANDLE: &str = "handle";

/// `handle` as `sdk/wit/consumer.wit` declares it, in the words of [`signature::describe`].
pub(super) const HANDLE_SIGNATURE: &str = "func(\
    record { id: string, source: string, type: string, subject: option<string>, topic: string, \
    key: option<string>, content-type: option<string>, accepted-ms: u64, \
    attributes: list<tuple<string, string>>, data: list<u8> }, \
    record { subscription: string, sequence: u64, attempt: u32, max-attempts: u32, redrives: u32, \
    first-attempt-ms: u64, deadline-ms: u64, idempotency-key: string }) \
    -> result<_, variant { retry(record { reason: string, after-ms: option<u64> }), reject(string), \
    unavailable(record { reason: string, after-ms: option<u64> }) }>";

/// Why bytes are no consumer. Nothing of it runs; the text is for the person who deployed it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("it has {bytes} bytes; at most {bytes_max} are accepted")]
    TooLarge { bytes: usize, bytes_max: usize },
    #[error("it is empty")]
    Empty,
    #[error("it is WebAssembly text; compile it to a binary component first")]
    Text,
    #[error("it is no WebAssembly: it begins with the bytes {begins}")]
    NotWasm { begins: String },
    #[error(
        "it is a core WebAssembly module, and a consumer is a component: build it for the target \
         wasm32-wasip2, or make a component of it with `wasm-tools component new`"
    )]
    CoreModule,
    #[error("it is no valid component: {error}")]
    Invalid { error: String },
    #[error("it imports {}, which no consumer is given; it may import {}", listed(.imports), ALLOWED.join(", "))]
    Import { imports: Vec<String> },
    #[error("what it imports does not match what the bus has: {error}")]
    ImportMismatch { error: String },
    #[error("it exports no function `{HANDLE}`, but {}; expected `{HANDLE}: {HANDLE_SIGNATURE}`", listed(.exports))]
    NoHandle { exports: Vec<String> },
    #[error("its export `{HANDLE}` does not fit: found `{found}`; expected `{HANDLE_SIGNATURE}`")]
    WrongHandle { found: String },
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "nothing".to_owned(),
        names => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    }
}

/// A component that can be instantiated. Clones are the same component.
#[derive(Clone)]
pub struct Component {
    inner: Arc<Loaded>,
}

pub(super) struct Loaded {
    pub(super) digest: Digest,
    pub(super) pre: InstancePre<Guest>,
    pub(super) handle: ComponentExportIndex,
    pub(super) shared: Arc<Shared>,
    imports: Vec<String>,
}

impl Component {
    /// SHA-256 of the bytes it was loaded from.
    pub fn digest(&self) -> Digest {
        self.inner.digest
    }

    /// Names of the interfaces it imports.
    pub fn imports(&self) -> &[String] {
        &self.inner.imports
    }

    pub(super) fn loaded(&self) -> &Loaded {
        &self.inner
    }
}

impl Sandbox {
    /// Compiles, checks and links a component, or takes it from the artifacts. Blocks, for seconds where
    /// a large one must be compiled. `name` is what the log calls it.
    pub fn load(&self, name: &str, bytes: &[u8]) -> Result<Component, LoadError> {
        check_kind(bytes)?;
        let shared = &self.shared;
        let digest = Digest(sha2::Sha256::digest(bytes).into());
        let (component, cached) = match shared.artifacts.get(&shared.engine, &digest) {
            Some(component) => (component, true),
            None => {
                let compiled = WasmComponent::from_binary(&shared.engine, bytes);
                (compiled.map_err(|error| LoadError::Invalid { error: format!("{error:#}") })?, false)
            }
        };
        let loaded = self.link(digest, &component)?;
        if !cached {
            shared.artifacts.put(&digest, &component);
        }
        tracing::debug!(name, digest = digest.short(), cached, "a component was loaded");
        Ok(Component { inner: Arc::new(loaded) })
    }

    fn link(&self, digest: Digest, component: &WasmComponent) -> Result<Loaded, LoadError> {
        let engine = &self.shared.engine;
        let ty = component.component_type();
        let imports: Vec<String> = ty.imports(engine).map(|(name, _)| name.to_owned()).collect();
        let refused: Vec<String> = imports.iter().filter(|name| !is_allowed(name)).cloned().collect();
        if !refused.is_empty() {
            return Err(LoadError::Import { imports: refused });
        }
        let pre = self.shared.linker.instantiate_pre(component);
        let pre = pre.map_err(|error| LoadError::ImportMismatch { error: format!("{error:#}") })?;

        let exports = || ty.exports(engine).map(|(name, _)| name.to_owned()).collect();
        let Some(ComponentItem::ComponentFunc(function)) = ty.get_export(engine, HANDLE).map(|export| export.ty) else {
            return Err(LoadError::NoHandle { exports: exports() });
        };
        let found = signature::describe(&function);
        if found != HANDLE_SIGNATURE {
            return Err(LoadError::WrongHandle { found });
        }
        let Some(handle) = component.get_export_index(None, HANDLE) else {
            return Err(LoadError::NoHandle { exports: exports() });
        };
        Ok(Loaded { digest, pre, handle, shared: Arc::clone(&self.shared), imports })
    }
}

/// Tells what is no component by its first bytes, for a clearer word than a parser has.
fn check_kind(bytes: &[u8]) -> Result<(), LoadError> {
    if bytes.len() > COMPONENT_BYTES_MAX {
        return Err(LoadError::TooLarge { bytes: bytes.len(), bytes_max: COMPONENT_BYTES_MAX });
    }
    match bytes {
        [] => Err(LoadError::Empty),
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', _, _, 0, 0, ..] => Err(LoadError::CoreModule),
        [0, b'a', b's', b'm', ..] => Err(LoadError::Invalid { error: "its version is unknown".to_owned() }),
        _ if bytes.trim_ascii_start().starts_with(b"(") => Err(LoadError::Text),
        _ => {
            let begins = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
            Err(LoadError::NotWasm { begins })
        }
    }
}
