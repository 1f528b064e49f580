//! What commands share that work on a consumer's files with no bus.

use std::fs::File;
use std::future::Future;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::failure::Failure;
use crate::deploy::manifest;
use crate::limits::MANIFEST_BYTES_MAX;
use crate::policy::Manifest;
use crate::sandbox::{Component, Sandbox, SandboxOptions};

/// A sandbox of one's own, and the runtime that its timers need.
pub(super) struct Workbench {
    sandbox: Sandbox,
    runtime: Runtime,
}

impl Workbench {
    pub(super) fn new() -> Result<Self, Failure> {
        let artifacts = artifacts()?;
        let options = SandboxOptions { instances_max: 1, pooling: false, ..SandboxOptions::new(artifacts) };
        let sandbox = Sandbox::new(options).map_err(|error| Failure::Failed(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Failed(format!("no runtime could be started: {error}")))?;
        Ok(Self { sandbox, runtime })
    }

    /// Compiles a consumer, or takes what was compiled before, and says how long that took.
    pub(super) fn load(&self, name: &str, path: &Path, bytes: &[u8]) -> Result<(Component, Duration), String> {
        let began = Instant::now();
        let component = self.sandbox.load(name, bytes);
        let component = component.map_err(|error| format!("{}: {error}", path.display()))?;
        Ok((component, began.elapsed()))
    }

    pub(super) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }
}

/// Where compiled consumers are kept between two commands: a large one takes seconds.
fn artifacts() -> Result<PathBuf, Failure> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    let cache = cache.ok_or_else(|| {
        let text = "there is no place for compiled consumers: neither XDG_CACHE_HOME nor HOME is set";
        Failure::Failed(text.to_owned())
    })?;
    Ok(cache.join("sandpost/artifacts"))
}

pub(super) fn manifest(stem: &str, path: &Path) -> Result<Manifest, String> {
    let text = String::from_utf8(read(path, MANIFEST_BYTES_MAX)?);
    let text = text.map_err(|_| format!("{} is not UTF-8 text", path.display()))?;
    manifest::parse(stem, path, &text).map_err(|error| error.to_string())
}

/// A file, or what comes out of a pipe or a device that is named like one: those do not say how much.
pub(super) fn read(path: &Path, bytes_max: usize) -> Result<Vec<u8>, String> {
    let unreadable = |error: io::Error| format!("{} cannot be read: {error}", path.display());
    let file = File::open(path).map_err(unreadable)?;
    read_from(&file, bytes_max).map_err(unreadable)?.ok_or_else(|| too_large(&path.display().to_string(), bytes_max))
}

/// Nothing where there is more.
pub(super) fn read_from(from: impl Read, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    from.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= bytes_max).then_some(bytes))
}

pub(super) fn too_large(what: &str, bytes_max: usize) -> String {
    format!("{what} has more than {bytes_max} bytes, and so much is not accepted")
}
