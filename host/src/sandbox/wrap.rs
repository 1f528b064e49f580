//! From a core module to a component, so that a consumer needs no component tooling of its language's.
//!
//! What the module imports of `wasi_snapshot_preview1` comes from a shim of our own, not from the adapter that is usual
//! elsewhere: that one keeps its state in memory which it takes through the guest's `cabi_realloc`. A guest that gives its
//! memory back after each message frees it, and Go, whose runtime calls WASI before it can allocate, recurses without end.

use std::sync::OnceLock;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::load::LoadError;
use super::module::Form;

const CONSUMER_WIT: &str = include_str!("../../../sdk/wit/consumer.wit");
const SHIM_WIT: &str = include_str!("shim/shim.wit");
const PREVIEW1: &str = include_str!("shim/preview1.wat");
const ABORT: &str = include_str!("shim/abort.wat");
/// What stands before the lines of the shim that only a command has.
const COMMAND_ONLY: &str = ";;@command ";

/// All that a wrapped module is made of but the module: artifacts of another wrapping are not used.
pub(super) const SOURCES: [&str; 4] = [CONSUMER_WIT, SHIM_WIT, PREVIEW1, ABORT];

/// Makes a component of a module of this form.
pub(super) fn wrap(module: &[u8], form: Form) -> Result<Vec<u8>, LoadError> {
    wrapped(module, form).map_err(|error| LoadError::Wrap { error: format!("{error:#}") })
}

fn wrapped(module: &[u8], form: Form) -> anyhow::Result<Vec<u8>> {
    let mut module = module.to_vec();
    let (shims, world) = match form {
        Form::Reactor { carries_world: false } => (reactor_shims(), Some("consumer")),
        Form::Reactor { carries_world: true } => (reactor_shims(), None),
        Form::Command => (command_shims(), None),
    };
    if let Some(world) = world {
        embed(&mut module, CONSUMER_WIT, world)?;
    }
    let mut encoder = ComponentEncoder::default().module(&module)?;
    for (name, shim) in shims {
        encoder = encoder.adapter(name, shim)?;
    }
    encoder.encode()
}

type Shims = [(&'static str, Vec<u8>); 2];

fn reactor_shims() -> &'static Shims {
    static SHIMS: OnceLock<Shims> = OnceLock::new();
    SHIMS.get_or_init(|| shims(PREVIEW1, "reactor"))
}

fn command_shims() -> &'static Shims {
    static SHIMS: OnceLock<Shims> = OnceLock::new();
    SHIMS.get_or_init(|| shims(&PREVIEW1.replace(COMMAND_ONLY, ""), "command"))
}

fn shims(preview1: &str, world: &str) -> Shims {
    let shim = |wat: &str, world: &str| {
        let mut module = wat::parse_str(wat).expect("our own text is WebAssembly");
        embed(&mut module, SHIM_WIT, world).expect("our own world is one");
        module
    };
    [("wasi_snapshot_preview1", shim(preview1, world)), ("env", shim(ABORT, "reactor"))]
}

/// Says in a module of which world it is.
fn embed(module: &mut Vec<u8>, wit: &str, world: &str) -> anyhow::Result<()> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("world.wit", wit)?;
    let world = resolve.select_world(&[package], Some(world))?;
    embed_component_metadata(module, &resolve, world, StringEncoding::UTF8)
}
