//! The data folder's copies of deployed components, by digest. The plugin folder is an inbox that people
//! write to; what runs must be there after a restart whatever became of it.
//!
//! `components/<digest>.wasm`: the bytes as they were deployed. Present while a plugin record names the
//! digest. `components/.<digest>.tmp`: a copy that was not finished; removed at the next start.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::outcome::Digest;

/// The digest of a component's bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// Why a copy could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{} could not be {action}: {error}", path.display())]
    Io { path: PathBuf, action: &'static str, error: io::Error },
    /// The bytes are not those that were deployed.
    #[error("{} is damaged: its digest is {found}", path.display())]
    Damaged { path: PathBuf, found: Digest },
}

impl StoreError {
    fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { path, action, error }
    }
}

/// The copies. One thread writes them; the data folder's lock keeps other processes out.
pub(crate) struct Store {
    folder: PathBuf,
}

impl Store {
    /// Opens `components` in the data folder, makes it where it is missing, and removes unfinished copies.
    pub(crate) fn open(data_folder: &Path) -> Result<Self, StoreError> {
        let folder = data_folder.join("components");
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => sync_folder(data_folder)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(StoreError::io(&folder, "created")(error)),
        }
        let store = Self { folder };
        for (name, path) in store.files()? {
            if name.starts_with('.') && name.ends_with(".tmp") {
                fs::remove_file(&path).map_err(StoreError::io(&path, "removed"))?;
            }
        }
        Ok(store)
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(format!("{digest}.wasm"))
    }

    fn files(&self) -> Result<Vec<(String, PathBuf)>, StoreError> {
        let list = || -> io::Result<Vec<_>> {
            fs::read_dir(&self.folder)?
                .map(|entry| entry.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())))
                .collect()
        };
        list().map_err(StoreError::io(&self.folder, "listed"))
    }

    /// Keeps a copy. When it returns, the copy is durable under its final name, and whole.
    pub(crate) fn put(&self, digest: Digest, bytes: &[u8]) -> Result<(), StoreError> {
        // A copy with this name was synced before it was given the name; a damaged one is replaced.
        if self.get(digest).is_err() {
            let temporary = self.folder.join(format!(".{digest}.tmp"));
            let write = || -> io::Result<()> {
                let mut file = File::create(&temporary)?;
                file.write_all(bytes)?;
                file.sync_all()
            };
            write().map_err(StoreError::io(&temporary, "written"))?;
            let path = self.path(digest);
            fs::rename(&temporary, &path).map_err(StoreError::io(&path, "put in place"))?;
        }
        sync_folder(&self.folder)
    }

    /// A copy's bytes, verified.
    pub(crate) fn get(&self, digest: Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.path(digest);
        let bytes = fs::read(&path).map_err(StoreError::io(&path, "read"))?;
        match digest_of(&bytes) {
            found if found == digest => Ok(bytes),
            found => Err(StoreError::Damaged { path, found }),
        }
    }

    /// Removes the copies that no record names any more. Other files are left alone.
    pub(crate) fn retain(&self, named: &BTreeSet<Digest>) -> Result<(), StoreError> {
        for (name, path) in self.files()? {
            let digest = name.strip_suffix(".wasm").and_then(|digits| digits.parse().ok());
            if digest.is_some_and(|digest| !named.contains(&digest)) {
                fs::remove_file(&path).map_err(StoreError::io(&path, "removed"))?;
            }
        }
        Ok(())
    }
}

fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(StoreError::io(folder, "synced"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_outlives_the_store_and_is_verified() {
        let data = tempfile::tempdir().unwrap();
        let (one, two) = (digest_of(b"one"), digest_of(b"two"));
        let store = Store::open(data.path()).unwrap();
        store.put(one, b"one").unwrap();
        store.put(two, b"two").unwrap();
        store.put(two, b"two").unwrap();
        assert!(matches!(store.get(digest_of(b"three")), Err(StoreError::Io { .. })));

        // A copy that was not finished, and a file of somebody else's.
        fs::write(data.path().join("components").join(format!(".{two}.tmp")), "tw").unwrap();
        fs::write(data.path().join("components/notes.wasm"), "mine").unwrap();
        let store = Store::open(data.path()).unwrap();
        assert_eq!(store.get(one).unwrap(), b"one");
        assert_eq!(store.get(two).unwrap(), b"two");

        store.retain(&BTreeSet::from([two])).unwrap();
        let mut left: Vec<_> = store.files().unwrap().into_iter().map(|(name, _)| name).collect();
        left.sort();
        let mut expected = [format!("{two}.wasm"), "notes.wasm".to_owned()];
        expected.sort();
        assert_eq!(left, expected);
    }

    #[test]
    fn damage_is_named_and_mended_by_the_next_put() {
        let data = tempfile::tempdir().unwrap();
        let store = Store::open(data.path()).unwrap();
        let digest = digest_of(b"one");
        store.put(digest, b"one").unwrap();
        fs::write(store.path(digest), "onf").unwrap();
        let error = store.get(digest).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { found, .. } if found == digest_of(b"onf")), "{error}");
        store.put(digest, b"one").unwrap();
        assert_eq!(store.get(digest).unwrap(), b"one");
    }
}
