//! From a file's bytes to a component that is compiled, checked and linked.

use std::borrow::Cow;
use std::sync::Arc;

use sha2::Digest as _;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component as WasmComponent, ComponentExportIndex, InstancePre};

use super::engine::{Sandbox, Shared};
use super::guest::Guest;
use super::imports::{ALLOWED, is_allowed};
use super::kind::Kind;
use super::module::{self, Form};
use super::{platforms, shim, signature, wrap};
use crate::limits::COMPONENT_BYTES_MAX;
use crate::outcome::Digest;

/// The export that every consumer has. Its name is its version.
const HANDLE: &str = "handle";
/// The export of a command that is a component, in any version of WASI 0.2.
const CLI_RUN: &str = "wasi:cli/run@0.2.";

/// Of a line of text with an error.
const TEXT_LINE_CHARS_MAX: usize = 160;

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
    #[error("it is WebAssembly text with an error in it: {error}")]
    Text { error: String },
    #[error("it is no WebAssembly: it begins with the bytes {begins}")]
    NotWasm { begins: String },
    #[error("it is no valid WebAssembly: {error}{}", invalid_hint(.error))]
    Invalid { error: String },
    /// A core module, as the rest that speak of modules.
    #[error("it is a core module that exports neither `{HANDLE}` nor `_start`, but {}: {hint}", listed(.exports))]
    NoEntry { exports: Vec<String>, hint: &'static str },
    #[error("it is a core module that exports no `{name}`: {hint}")]
    MissingExport { name: &'static str, hint: &'static str },
    #[error("it is a core module that imports {}, which nothing provides: {hint}", listed(.imports))]
    ModuleImport { imports: Vec<String>, hint: &'static str },
    #[error("it is a core module, and no component can be made of it: {error}")]
    Wrap { error: String },
    #[error(
        "it imports {}, which no consumer is given{}; it may import {}",
        listed(.imports), import_hint(.imports), importable()
    )]
    Import { imports: Vec<String> },
    #[error("what it imports does not match what the bus has: {error}")]
    ImportMismatch { error: String },
    #[error(
        "it exports no function `{HANDLE}`, but {}; expected `{HANDLE}: {HANDLE_SIGNATURE}`{}",
        listed(.exports), export_hint(.exports)
    )]
    NoHandle { exports: Vec<String> },
    #[error("its export `{interface}` does not fit: found `{found}`; expected `{expected}`")]
    WrongHandler { interface: String, found: String, expected: &'static str },
    #[error("its export `{HANDLE}` does not fit: found `{found}`; expected `{HANDLE_SIGNATURE}`{}", handle_hint(.found))]
    WrongHandle { found: String },
}

/// What authors may import; the shim's interface is for modules that are wrapped, and nothing to write down.
fn importable() -> String {
    let names: Vec<&str> = ALLOWED.into_iter().filter(|name| *name != shim::HOST).collect();
    format!(
        "{}, and what consumers of wasmCloud, wasi:messaging and Spin have for messages, state and configuration",
        names.join(", ")
    )
}

/// What to do about imports of another version of the contract, or of another platform.
fn import_hint(imports: &[String]) -> &'static str {
    if imports.iter().any(|import| import.starts_with("sandpost:consumer/")) {
        " (this bus has sandpost:consumer@0.1.0: build against its sdk/wit)"
    } else if imports.iter().any(|import| import.starts_with("wasi:") && import.contains("@0.3")) {
        " (that is WASI 0.3, and consumers are of WASI 0.2: choose the synchronous target of the toolchain)"
    } else {
        ""
    }
}

/// What is valid with features that the bus has switched off.
fn invalid_hint(error: &str) -> &'static str {
    if error.contains("component model async feature") {
        " (it has asynchronous exports: build it with synchronous ones, with componentize-qjs by `--sync`)"
    } else {
        ""
    }
}

fn export_hint(exports: &[String]) -> &'static str {
    if exports.iter().any(|export| export.starts_with("wasi:http/incoming-handler")) {
        " (it serves HTTP, and a consumer handles messages)"
    } else if exports.iter().any(|export| export.starts_with("sandpost:consumer/")) {
        " (the function is exported by the world itself, and not by an interface: build it for the world `consumer` of sdk/wit)"
    } else {
        ""
    }
}

fn handle_hint(found: &str) -> &'static str {
    if found.starts_with("async ") {
        " (it is an asynchronous export: build it as a synchronous one, with componentize-qjs by `--sync`)"
    } else {
        ""
    }
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
    pub(super) kind: Kind,
    pub(super) pre: InstancePre<Guest>,
    pub(super) entry: EntryPoint,
    pub(super) shared: Arc<Shared>,
    imports: Vec<String>,
}

/// The export that a call enters by.
pub(super) enum EntryPoint {
    Handle(ComponentExportIndex),
    /// `_start` of a wrapped module.
    Start(ComponentExportIndex),
    /// `wasi:cli/run`
    Run(ComponentExportIndex),
    WasmCloud(ComponentExportIndex),
    WasiMessaging(ComponentExportIndex),
    Spin(ComponentExportIndex),
}

impl Component {
    pub fn kind(&self) -> Kind {
        self.inner.kind
    }

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
        let binary = binary(bytes)?;
        let form = match encoding(&binary)? {
            Encoding::Component => None,
            Encoding::Module => Some(module::form(&binary)?),
        };
        let shared = &self.shared;
        let digest = Digest(sha2::Sha256::digest(bytes).into());
        let (component, cached) = match shared.artifacts.get(&shared.engine, &digest) {
            Some(component) => (component, true),
            None => {
                let encoded = match form {
                    None => binary,
                    Some(form) => wrap::wrap(&binary, form)?.into(),
                };
                let compiled = WasmComponent::from_binary(&shared.engine, &encoded);
                (compiled.map_err(|error| LoadError::Invalid { error: format!("{error:#}") })?, false)
            }
        };
        let loaded = self.link(digest, form, &component)?;
        if !cached {
            shared.artifacts.put(&digest, &component);
        }
        tracing::debug!(name, digest = digest.short(), kind = loaded.kind.as_str(), cached, "a consumer was loaded");
        Ok(Component { inner: Arc::new(loaded) })
    }

    fn link(&self, digest: Digest, form: Option<Form>, component: &WasmComponent) -> Result<Loaded, LoadError> {
        let engine = &self.shared.engine;
        let ty = component.component_type();
        let imports: Vec<String> = ty.imports(engine).map(|(name, _)| name.to_owned()).collect();
        let refused: Vec<String> = imports.iter().filter(|name| !is_allowed(name)).cloned().collect();
        if !refused.is_empty() {
            return Err(LoadError::Import { imports: refused });
        }
        let pre = self.shared.linker.instantiate_pre(component);
        let pre = pre.map_err(|error| LoadError::ImportMismatch { error: format!("{error:#}") })?;

        let (kind, entry) = self.entry(form, component)?;
        Ok(Loaded { digest, kind, pre, entry, shared: Arc::clone(&self.shared), imports })
    }

    /// Finds what a call enters by, and says so what kind the consumer is.
    fn entry(&self, form: Option<Form>, component: &WasmComponent) -> Result<(Kind, EntryPoint), LoadError> {
        let engine = &self.shared.engine;
        let ty = component.component_type();
        if form == Some(Form::Command)
            && let Some(start) = component.get_export_index(None, "run")
        {
            return Ok((Kind::Command, EntryPoint::Start(start)));
        }
        let exports = || ty.exports(engine).map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
        if let Some(ComponentItem::ComponentFunc(function)) = ty.get_export(engine, HANDLE).map(|export| export.ty)
            && let Some(handle) = component.get_export_index(None, HANDLE)
        {
            let found = signature::describe(&function);
            if found != HANDLE_SIGNATURE {
                return Err(LoadError::WrongHandle { found });
            }
            let kind = if form.is_some() { Kind::Module } else { Kind::Component };
            return Ok((kind, EntryPoint::Handle(handle)));
        }
        if let Some(entry) = platforms::entry(engine, component)? {
            return Ok(entry);
        }
        let run = exports().into_iter().find(|name| name.starts_with(CLI_RUN)).and_then(|name| {
            let interface = component.get_export_index(None, &name)?;
            component.get_export_index(Some(&interface), "run")
        });
        match run {
            Some(run) => Ok((Kind::Command, EntryPoint::Run(run))),
            None => Err(LoadError::NoHandle { exports: exports() }),
        }
    }
}

/// Makes a binary of text; what is no text stays as it is.
fn binary(bytes: &[u8]) -> Result<Cow<'_, [u8]>, LoadError> {
    if bytes.len() > COMPONENT_BYTES_MAX {
        return Err(LoadError::TooLarge { bytes: bytes.len(), bytes_max: COMPONENT_BYTES_MAX });
    }
    let begins = bytes.trim_ascii_start();
    if !(begins.starts_with(b"(") || begins.starts_with(b";;")) {
        return Ok(Cow::Borrowed(bytes));
    }
    wat::parse_bytes(bytes).map_err(|error| LoadError::Text { error: text_error(&error.to_string()) })
}

/// What the parser says, with the place as people write it, and of the line that it shows no more than fits: a line may be as
/// long as the file.
fn text_error(error: &str) -> String {
    let lines = error.lines().map(|line| {
        let line = line.replacen("--> <anon>:", "--> line ", 1);
        match line.char_indices().nth(TEXT_LINE_CHARS_MAX) {
            Some((end, _)) => format!("{} ...", &line[..end]),
            None => line,
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

enum Encoding {
    Component,
    Module,
}

/// Tells components from modules, and from what is neither, by the first bytes, for a clearer word than a parser has.
fn encoding(bytes: &[u8]) -> Result<Encoding, LoadError> {
    match bytes {
        [] => Err(LoadError::Empty),
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => Ok(Encoding::Component),
        [0, b'a', b's', b'm', _, _, 0, 0, ..] => Ok(Encoding::Module),
        [0, b'a', b's', b'm', ..] => Err(LoadError::Invalid { error: "its version is unknown".to_owned() }),
        _ => {
            let begins = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
            Err(LoadError::NotWasm { begins })
        }
    }
}
