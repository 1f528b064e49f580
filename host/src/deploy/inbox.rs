//! The plugin folder: which pairs of files lie there, once they lie still.
//!
//! Files may be written in place, slowly, one after the other. A consumer's files are taken as they are
//! only after a moment in which neither changed; until then the consumer is [`Found::Unsettled`].

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::manifest::{self, ManifestError};
use super::store::digest_of;
use crate::limits;
use crate::outcome::Digest;
use crate::policy::Manifest;

/// Why the plugin folder cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FolderError {
    #[error("the plugin folder {} could not be created: {error}", path.display())]
    Create { path: PathBuf, error: String },
    #[error("the plugin folder {} could not be read: {error}", path.display())]
    Unreadable { path: PathBuf, error: String },
    #[error("the plugin folder {} is not a folder", path.display())]
    NotAFolder { path: PathBuf },
    /// Whoever can write there can run code on the bus.
    #[error(
        "the plugin folder {0} is writable by everyone (mode {mode:03o}), so anyone could deploy code; \
         take that away with `chmod o-w {0}`",
        path.display()
    )]
    WorldWritable { path: PathBuf, mode: u32 },
}

/// Makes the folder where it is missing.
pub(crate) fn create(folder: &Path) -> Result<(), FolderError> {
    let created = fs::DirBuilder::new().recursive(true).mode(0o755).create(folder);
    match created {
        Err(_) if fs::metadata(folder).is_ok_and(|metadata| !metadata.is_dir()) => {
            Err(FolderError::NotAFolder { path: folder.to_owned() })
        }
        Err(error) => Err(FolderError::Create { path: folder.to_owned(), error: error.to_string() }),
        Ok(()) => Ok(()),
    }
}

/// Which folder it is: a folder that was replaced has another one.
pub(crate) type FolderId = (u64, u64);

/// Refuses a folder in which anyone may deploy.
pub(crate) fn check(folder: &Path) -> Result<FolderId, FolderError> {
    let path = folder.to_owned();
    let metadata = match fs::metadata(folder) {
        Ok(metadata) => metadata,
        Err(error) => return Err(FolderError::Unreadable { path, error: error.to_string() }),
    };
    if !metadata.is_dir() {
        return Err(FolderError::NotAFolder { path });
    }
    if metadata.mode() & 0o002 != 0 {
        return Err(FolderError::WorldWritable { path, mode: metadata.mode() & 0o777 });
    }
    Ok((metadata.dev(), metadata.ino()))
}

/// What tells one state of a file from another without reading it. The time of change is set by the
/// kernel at every write and rename, and by nobody else; with it the same size and the same old time of
/// modification, as a copy that preserves times leaves them, are still another state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let nanoseconds = |seconds: i64, part: i64| i128::from(seconds) * 1_000_000_000 + i128::from(part);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// How long ago the file changed; `None` where the clock says that it will.
    fn age(&self, wall: SystemTime) -> Option<Duration> {
        let changed = UNIX_EPOCH + Duration::from_nanos(u64::try_from(self.changed_ns).ok()?);
        wall.duration_since(changed).ok()
    }
}

/// A consumer's files, as they were seen last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pair {
    wasm: Option<Stamp>,
    /// The consumer as text, which takes the place of the binary.
    wat: Option<Stamp>,
    toml: Option<Stamp>,
}

impl Pair {
    /// The consumer itself: its extension, and its state.
    fn component(&self) -> Option<(&'static str, Stamp)> {
        self.wasm.map(|stamp| (BINARY, stamp)).or_else(|| self.wat.map(|stamp| (TEXT, stamp)))
    }
}

const BINARY: &str = "wasm";
const TEXT: &str = "wat";
const MANIFEST_EXTENSION: &str = "toml";

/// What is remembered of a consumer between two looks.
struct Seen {
    pair: Pair,
    /// Since when it has not changed, as far as was seen.
    since: Instant,
    /// What was read from the files, and in which state they were.
    wasm: Option<(Stamp, Digest)>,
    toml: Option<(Stamp, Text)>,
}

/// A manifest as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    pub(crate) text: Arc<str>,
    pub(crate) manifest: Result<Arc<Manifest>, Arc<ManifestError>>,
}

/// What lies in the folder for one consumer.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    /// Its files changed a moment ago.
    Unsettled,
    Pair {
        digest: Digest,
        manifest: Text,
    },
    /// Both files are gone.
    Gone,
    /// Files that cannot be deployed, and why.
    Unusable {
        problem: String,
    },
}

/// What one look found.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// By stem.
    pub(crate) found: BTreeMap<String, Found>,
    /// When the next unsettled consumer may have settled.
    pub(crate) again_in: Option<Duration>,
}

/// Looks at the plugin folder, and remembers what it saw.
pub(crate) struct Inbox {
    folder: PathBuf,
    quiet: Duration,
    seen: BTreeMap<String, Seen>,
    /// Components read so far.
    reads: u64,
}

/// The folder's files, by stem.
struct Listing {
    pairs: BTreeMap<String, Pair>,
    /// Those whose names cannot be a consumer's, or that the system does not let us see.
    unusable: BTreeMap<String, Found>,
}

enum ReadProblem {
    /// The file changed while it was read.
    Changed,
    Unusable(String),
}

impl Inbox {
    pub(crate) fn new(folder: PathBuf, quiet: Duration) -> Self {
        Self { folder, quiet, seen: BTreeMap::new(), reads: 0 }
    }

    pub(crate) fn path(&self, stem: &str, extension: &str) -> PathBuf {
        path(&self.folder, stem, extension)
    }

    /// Whether no file of a consumer is there, at this moment.
    pub(crate) fn is_gone(&self, stem: &str) -> bool {
        let is_missing = |path: PathBuf| fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        [BINARY, TEXT, MANIFEST_EXTENSION].into_iter().all(|extension| is_missing(self.path(stem, extension)))
    }

    /// The file that the consumer was found in.
    pub(crate) fn component_path(&self, stem: &str) -> PathBuf {
        let found = self.seen.get(stem).and_then(|seen| seen.pair.component());
        self.path(stem, found.map_or(BINARY, |(extension, _)| extension))
    }

    /// Looks at the folder. `active` are the consumers whose absence matters. Files that did not change
    /// since an earlier look are not read again.
    pub(crate) fn look<'a>(
        &mut self,
        active: impl Iterator<Item = &'a str>,
        now: Instant,
        wall: SystemTime,
    ) -> Result<Look, FolderError> {
        let Listing { mut pairs, unusable: mut found } = self.list()?;
        for stem in active {
            pairs.entry(stem.to_owned()).or_default();
        }
        pairs.retain(|stem, _| !found.contains_key(stem));
        self.seen.retain(|stem, _| pairs.contains_key(stem));
        let mut again_in: Option<Duration> = None;
        for (stem, pair) in pairs {
            let seen = self.seen.entry(stem.clone()).or_insert_with(|| Seen::new(now));
            if seen.pair != pair {
                seen.pair = pair;
                seen.since = now;
            }
            let wait = seen.wait(self.quiet, now, wall);
            let what = if wait.is_zero() {
                seen.read(&self.folder, &stem, &mut self.reads).unwrap_or_else(|problem| match problem {
                    ReadProblem::Unusable(problem) => Found::Unusable { problem },
                    ReadProblem::Changed => {
                        seen.since = now;
                        Found::Unsettled
                    }
                })
            } else {
                Found::Unsettled
            };
            if matches!(what, Found::Unsettled) {
                let wait = if wait.is_zero() { self.quiet } else { wait };
                again_in = Some(again_in.map_or(wait, |again_in| again_in.min(wait)));
            }
            found.insert(stem, what);
        }
        Ok(Look { found, again_in })
    }

    /// The component's bytes; `None` where they are no longer those that a look found. Fails with what is
    /// wrong with the file.
    pub(crate) fn bytes(&self, stem: &str, digest: Digest) -> Result<Option<Vec<u8>>, String> {
        match read(&self.component_path(stem), None, limits::COMPONENT_BYTES_MAX) {
            Ok(bytes) => Ok((digest_of(&bytes) == digest).then_some(bytes)),
            Err(ReadProblem::Changed) => Ok(None),
            Err(ReadProblem::Unusable(problem)) => Err(problem),
        }
    }

    fn list(&self) -> Result<Listing, FolderError> {
        let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
        let mut unusable = BTreeMap::new();
        let unreadable =
            |error: io::Error| FolderError::Unreadable { path: self.folder.clone(), error: error.to_string() };
        for entry in fs::read_dir(&self.folder).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name();
            let name = name.to_string_lossy();
            // Whoever copies a file under a hidden name renames it when it is whole.
            if name.starts_with('.') {
                continue;
            }
            let Some((stem, extension)) = name.rsplit_once('.') else { continue };
            if ![BINARY, TEXT, MANIFEST_EXTENSION].contains(&extension) {
                continue;
            }
            if !manifest::is_name(stem) {
                let path = self.folder.join(&*name);
                let problem =
                    format!("{}: a consumer's name is {}; rename the file", path.display(), manifest::NAME_ALLOWED);
                unusable.insert(stem.to_owned(), Found::Unusable { problem });
                continue;
            }
            let stamp = match fs::metadata(self.path(stem, extension)) {
                Ok(metadata) => Stamp::of(&metadata),
                // Removed since it was listed, or a link to nothing.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    let problem = format!("{} could not be read: {error}", self.path(stem, extension).display());
                    unusable.insert(stem.to_owned(), Found::Unusable { problem });
                    continue;
                }
            };
            let pair = pairs.entry(stem.to_owned()).or_default();
            match extension {
                BINARY => pair.wasm = Some(stamp),
                TEXT => pair.wat = Some(stamp),
                _ => pair.toml = Some(stamp),
            }
        }
        Ok(Listing { pairs, unusable })
    }
}

impl Seen {
    fn new(now: Instant) -> Self {
        Self { pair: Pair::default(), since: now, wasm: None, toml: None }
    }

    /// How much longer the files must lie still. Where both are there and the kernel's own times are old
    /// enough, they have; a file that is missing was seen to be missing, or not long enough.
    fn wait(&self, quiet: Duration, now: Instant, wall: SystemTime) -> Duration {
        let seen = quiet.saturating_sub(now.saturating_duration_since(self.since));
        let (Some((_, component)), Some(toml)) = (self.pair.component(), self.pair.toml) else { return seen };
        match (component.age(wall), toml.age(wall)) {
            (Some(component), Some(toml)) => seen.min(quiet.saturating_sub(component.min(toml))),
            _ => seen,
        }
    }

    fn read(&mut self, folder: &Path, stem: &str, reads: &mut u64) -> Result<Found, ReadProblem> {
        if self.pair.wasm.is_some() && self.pair.wat.is_some() {
            let (binary, text) = (path(folder, stem, BINARY), path(folder, stem, TEXT));
            let problem = format!("{} and {} are both there; remove one", binary.display(), text.display());
            return Ok(Found::Unusable { problem });
        }
        let component = self.pair.component();
        let extension = component.map_or(BINARY, |(extension, _)| extension);
        let (wasm_path, toml_path) = (path(folder, stem, extension), path(folder, stem, MANIFEST_EXTENSION));
        let missing = |missing: &Path, present: &Path| {
            let problem = format!("{} is missing; {} is there", missing.display(), present.display());
            Ok(Found::Unusable { problem })
        };
        let (wasm, toml) = match (component.map(|(_, stamp)| stamp), self.pair.toml) {
            (None, None) => return Ok(Found::Gone),
            (None, Some(_)) => return missing(&wasm_path, &toml_path),
            (Some(_), None) => return missing(&toml_path, &wasm_path),
            (Some(wasm), Some(toml)) => (wasm, toml),
        };
        if self.wasm.is_none_or(|(stamp, _)| stamp != wasm) {
            *reads += 1;
            let bytes = read(&wasm_path, Some(wasm), limits::COMPONENT_BYTES_MAX)?;
            self.wasm = Some((wasm, digest_of(&bytes)));
        }
        if self.toml.as_ref().is_none_or(|(stamp, _)| *stamp != toml) {
            let bytes = read(&toml_path, Some(toml), limits::MANIFEST_BYTES_MAX)?;
            let text = String::from_utf8(bytes)
                .map_err(|_| ReadProblem::Unusable(format!("{} is not UTF-8 text", toml_path.display())))?;
            let manifest = manifest::parse(stem, &toml_path, &text).map(Arc::new).map_err(Arc::new);
            self.toml = Some((toml, Text { text: text.into(), manifest }));
        }
        match (&self.wasm, &self.toml) {
            (Some((_, digest)), Some((_, manifest))) => Ok(Found::Pair { digest: *digest, manifest: manifest.clone() }),
            _ => unreachable!("both were read just now, or before"),
        }
    }
}

fn path(folder: &Path, stem: &str, extension: &str) -> PathBuf {
    folder.join(format!("{stem}.{extension}"))
}

/// Reads a file whole, if it stays in one state meanwhile, and in this one where `stamp` is given.
fn read(path: &Path, stamp: Option<Stamp>, bytes_max: usize) -> Result<Vec<u8>, ReadProblem> {
    let unusable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => ReadProblem::Changed,
        _ => ReadProblem::Unusable(format!("{} could not be read: {error}", path.display())),
    };
    // Looked at first: opening a pipe would wait for a writer.
    if !fs::metadata(path).map_err(unusable)?.is_file() {
        return Err(ReadProblem::Unusable(format!("{} is not a regular file", path.display())));
    }
    let file = File::open(path).map_err(unusable)?;
    let metadata = file.metadata().map_err(unusable)?;
    if metadata.mode() & 0o002 != 0 {
        let problem = format!(
            "{0} is writable by everyone (mode {1:03o}), so anyone could deploy code; take that away with `chmod o-w {0}`",
            path.display(),
            metadata.mode() & 0o777
        );
        return Err(ReadProblem::Unusable(problem));
    }
    let before = Stamp::of(&metadata);
    if stamp.is_some_and(|stamp| stamp != before) {
        return Err(ReadProblem::Changed);
    }
    if before.bytes > bytes_max as u64 {
        let problem = format!("{} has {} bytes; at most {bytes_max} are allowed", path.display(), before.bytes);
        return Err(ReadProblem::Unusable(problem));
    }
    let mut bytes = Vec::with_capacity(before.bytes as usize);
    (&file).take(before.bytes + 1).read_to_end(&mut bytes).map_err(unusable)?;
    let after = Stamp::of(&file.metadata().map_err(unusable)?);
    if after != before || bytes.len() as u64 != before.bytes {
        return Err(ReadProblem::Changed);
    }
    Ok(bytes)
}
