//! Compiled components, kept in a folder so that a restart does not compile them again.
//!
//! File name: `<digest of the component>-<engine>.artifact`, both in hexadecimal.
//! Content: [`MAGIC`]; the digest (32 bytes); the engine's hash (8, little-endian); SHA-256 of the
//! machine code (32); the machine code. A file that is not exactly this is compiled anew.

use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::process::geteuid;
use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component as WasmComponent;
use xxhash_rust::xxh3::Xxh3Default;

use super::wrap;
use crate::limits::ARTIFACTS_MAX;
use crate::outcome::Digest;

const MAGIC: &[u8; 16] = b"sandpost native1";
const HEADER_BYTES: usize = MAGIC.len() + 32 + 8 + 32;
const EXTENSION: &str = "artifact";

/// Why the folder for compiled components cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactsError {
    #[error("the folder {path} for compiled components cannot be made or read: {error}")]
    Io { path: PathBuf, error: std::io::Error },
    /// What lies there is run as machine code, so nobody else may write there.
    #[error(
        "the folder {path} for compiled components has mode {mode:03o} and belongs to user {owner}; \
         it must belong to the user that runs the bus and be writable by no one else (chmod 700 {path})"
    )]
    NotPrivate { path: PathBuf, mode: u32, owner: u32 },
}

pub(super) struct Artifacts {
    folder: PathBuf,
    engine_hash: u64,
}

impl Artifacts {
    pub(super) fn open(folder: PathBuf, engine: &Engine) -> Result<Self, ArtifactsError> {
        use std::os::unix::fs::{DirBuilderExt, MetadataExt};

        let io_error = |error| ArtifactsError::Io { path: folder.clone(), error };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(io_error)?;
        let metadata = fs::metadata(&folder).map_err(io_error)?;
        let (mode, owner) = (metadata.mode() & 0o777, metadata.uid());
        if mode & 0o022 != 0 || owner != geteuid().as_raw() {
            return Err(ArtifactsError::NotPrivate { path: folder, mode, owner });
        }
        let mut hasher = Xxh3Default::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        // What is compiled of a module is the module as it was wrapped.
        wrap::SOURCES.hash(&mut hasher);
        Ok(Self { folder, engine_hash: hasher.finish() })
    }

    /// The compiled component, if it is there and whole.
    pub(super) fn get(&self, engine: &Engine, digest: &Digest) -> Option<WasmComponent> {
        let path = self.path(digest);
        let content = match fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!("{} cannot be read, so the component is compiled again: {error}", path.display());
                return None;
            }
        };
        let Some(code) = self.checked(digest, &content) else {
            tracing::warn!("{} is damaged, so the component is compiled again", path.display());
            return None;
        };
        // SAFETY: the bytes must be what `serialize` made, for they become machine code. Their checksum
        // says that they are what `put` wrote for this component and this engine, and the folder, which
        // `open` found to be writable by no other user, that nobody else put them there. Whoever can
        // write as this user can replace the bus itself.
        let component = unsafe { WasmComponent::deserialize(engine, code) };
        match component {
            Ok(component) => {
                // So that the folder keeps what was used last. If it fails, the order is off and no more.
                let _ = File::options().append(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
                Some(component)
            }
            Err(error) => {
                tracing::warn!("{} does not fit, so the component is compiled again: {error:#}", path.display());
                None
            }
        }
    }

    /// Keeps a compiled component. That it could not be kept costs time at the next start, so it is
    /// logged and no error.
    pub(super) fn put(&self, digest: &Digest, component: &WasmComponent) {
        let kept = component.serialize().map_err(std::io::Error::other).and_then(|code| self.write(digest, &code));
        if let Err(error) = kept.and_then(|()| self.prune()) {
            tracing::warn!("a compiled component cannot be kept in {}: {error}", self.folder.display());
        }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}-{:016x}.{EXTENSION}", self.engine_hash))
    }

    /// The machine code in a file, if the file is whole and for this component and engine.
    fn checked<'a>(&self, digest: &Digest, content: &'a [u8]) -> Option<&'a [u8]> {
        let (header, code) = content.split_at_checked(HEADER_BYTES)?;
        (header == self.header(digest, code)).then_some(code)
    }

    fn header(&self, digest: &Digest, code: &[u8]) -> Vec<u8> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&digest.0);
        header.extend_from_slice(&self.engine_hash.to_le_bytes());
        header.extend_from_slice(&Sha256::digest(code));
        header
    }

    /// Written beside and renamed, so that no reader ever sees half of it. Not synced: what a crash
    /// leaves of it fails its checksum.
    fn write(&self, digest: &Digest, code: &[u8]) -> std::io::Result<()> {
        let path = self.path(digest);
        let unique = format!("{}-{:?}", std::process::id(), std::thread::current().id());
        let beside = path.with_extension(unique.replace(|character: char| !character.is_alphanumeric(), "-"));
        let written = File::create(&beside).and_then(|mut file| {
            file.write_all(&self.header(digest, code))?;
            file.write_all(code)
        });
        let renamed = written.and_then(|()| fs::rename(&beside, &path));
        if renamed.is_err() {
            let _ = fs::remove_file(&beside);
        }
        renamed
    }

    /// Removes the files that were used longest ago, past [`ARTIFACTS_MAX`]: those of other engines and of
    /// an interrupted write grow old too.
    fn prune(&self) -> std::io::Result<()> {
        let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if let Ok(used) = entry.metadata().and_then(|metadata| metadata.modified()) {
                files.push((used, entry.path()));
            }
        }
        files.sort();
        let excess = files.len().saturating_sub(ARTIFACTS_MAX);
        files[..excess].iter().try_for_each(|(_, path)| remove_if_there(path))
    }
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const DIGEST: Digest = Digest([7; 32]);

    fn engine() -> Engine {
        Engine::default()
    }

    fn component(engine: &Engine) -> WasmComponent {
        WasmComponent::new(engine, wat::parse_str("(component (core module))").unwrap()).unwrap()
    }

    #[test]
    fn what_was_put_is_got_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let engine = engine();
        let artifacts = Artifacts::open(folder.path().join("artifacts"), &engine).unwrap();
        assert!(artifacts.get(&engine, &DIGEST).is_none());
        artifacts.put(&DIGEST, &component(&engine));
        assert!(artifacts.get(&engine, &DIGEST).is_some());
        assert!(artifacts.get(&engine, &Digest([8; 32])).is_none());
    }

    #[test]
    fn every_damaged_byte_is_noticed_before_the_code_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let engine = engine();
        let artifacts = Artifacts::open(folder.path().join("artifacts"), &engine).unwrap();
        artifacts.put(&DIGEST, &component(&engine));
        let whole = fs::read(artifacts.path(&DIGEST)).unwrap();
        assert!(artifacts.checked(&DIGEST, &whole).is_some());
        for length in [0, 1, HEADER_BYTES - 1, HEADER_BYTES, whole.len() - 1] {
            assert!(artifacts.checked(&DIGEST, &whole[..length]).is_none(), "cut to {length}");
        }
        for index in (0..HEADER_BYTES).chain((HEADER_BYTES..whole.len()).step_by(997)) {
            let mut damaged = whole.clone();
            damaged[index] ^= 1;
            assert!(artifacts.checked(&DIGEST, &damaged).is_none(), "byte {index}");
        }
        fs::write(artifacts.path(&DIGEST), b"other").unwrap();
        assert!(artifacts.get(&engine, &DIGEST).is_none());
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for mode in [0o777, 0o770, 0o702] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            let refused = Artifacts::open(folder.path().to_owned(), &engine());
            assert!(matches!(refused, Err(ArtifactsError::NotPrivate { .. })), "{mode:o}");
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(Artifacts::open(folder.path().to_owned(), &engine()).is_ok());
    }

    #[test]
    fn the_folder_does_not_grow_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let engine = engine();
        let artifacts = Artifacts::open(folder.path().to_owned(), &engine).unwrap();
        let component = component(&engine);
        for number in 0..u8::try_from(ARTIFACTS_MAX + 10).unwrap() {
            artifacts.put(&Digest([number; 32]), &component);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), ARTIFACTS_MAX);
        assert!(artifacts.get(&engine, &Digest([u8::try_from(ARTIFACTS_MAX + 9).unwrap(); 32])).is_some());
    }
}
