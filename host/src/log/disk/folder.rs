//! The data folder: `log.redb`, `reserve`, and `failed-sync`, the marker that a failed disk leaves.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::LogFile;

/// Bytes of the marker, preallocated so that it can be written when the disk is full.
const MARKER_BYTES: usize = 4096;

/// Why the data folder cannot be used. Each says what is wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("the data folder {path} could not be created: {error}")]
    Create { path: PathBuf, error: io::Error },
    #[error("{path} is not a folder; name a folder for the log, or one that may be created")]
    NotFolder { path: PathBuf },
    #[error(
        "the data folder {path} is writable by every user of this machine (mode {mode:04o}); run `chmod o-w {path}`"
    )]
    WorldWritable { path: PathBuf, mode: u32 },
    #[error("the data folder {path} is not writable: {error}; give it to the user that runs the bus")]
    NotWritable { path: PathBuf, error: io::Error },
    #[error("the data folder {path} is in use by another process; stop that bus, or use another folder")]
    Locked { path: PathBuf },
    #[error(
        "the disk under {path} failed while this machine has been up: {error}; what can be read now may not be on \
         the disk. Reboot, or check the disk and start once with `--accept-unsynced`"
    )]
    FailedSync { path: PathBuf, error: String },
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
}

/// Identifies the time since the machine was started. Where the system does not say, a marker counts
/// until the operator decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BootId(pub(crate) String);

impl BootId {
    pub(crate) fn current() -> Self {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self(if text.trim().is_empty() { "unknown".to_owned() } else { text.trim().to_owned() })
    }
}

/// A folder that was checked and may hold a log.
#[derive(Clone, Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
    boot: BootId,
}

impl DataFolder {
    /// Creates the folder where it is missing, for its owner only, and checks it where it is there.
    pub(crate) fn prepare(path: &Path, boot: BootId) -> Result<Self, FolderError> {
        let owned = || path.to_owned();
        match std::fs::metadata(path) {
            Ok(metadata) if !metadata.is_dir() => return Err(FolderError::NotFolder { path: owned() }),
            Ok(metadata) if metadata.mode() & 0o002 != 0 => {
                return Err(FolderError::WorldWritable { path: owned(), mode: metadata.mode() & 0o7777 });
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(path)
                    .map_err(|error| FolderError::Create { path: owned(), error })?;
                if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                    sync_folder(parent)?;
                }
            }
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                return Err(FolderError::NotFolder { path: owned() });
            }
            Err(error) => return Err(FolderError::Io { path: owned(), error }),
        }
        access(path, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|error| FolderError::NotWritable { path: owned(), error: error.into() })?;
        Ok(Self { path: owned(), boot })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.path.join("log.redb")
    }

    pub(crate) fn reserve_path(&self) -> PathBuf {
        self.path.join("reserve")
    }

    fn marker_path(&self) -> PathBuf {
        self.path.join("failed-sync")
    }

    /// Opens the log's file, for this process alone.
    pub(super) fn open_log(&self) -> Result<File, FolderError> {
        let file = open_file(&self.log_path())?;
        self.lock(&file, &self.log_path())?;
        Ok(file)
    }

    fn lock(&self, file: &File, path: &Path) -> Result<(), FolderError> {
        match file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(FolderError::Locked { path: self.path.clone() }),
            Err(TryLockError::Error(error)) => Err(FolderError::Io { path: path.to_owned(), error }),
        }
    }

    /// An empty file to begin the log in; `None` where there is a log already.
    pub(crate) fn begin_log(&self) -> Result<Option<NewLog>, FolderError> {
        if self.log_path().exists() {
            return Ok(None);
        }
        let path = self.path.join("log.redb.new");
        let file = open_file(&path)?;
        self.lock(&file, &path)?;
        // Another process may have begun the log, and be done with it, since the first look.
        if self.log_path().exists() {
            return Ok(None);
        }
        file.set_len(0).map_err(|error| FolderError::Io { path: path.clone(), error })?;
        Ok(Some(NewLog { file, path, folder: self.clone() }))
    }

    /// Refuses where the disk failed on this boot, unless the operator accepts what may be unsynced.
    pub(crate) fn check_marker(&self, accept_unsynced: bool) -> Result<(), FolderError> {
        let path = self.marker_path();
        let text = match std::fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(FolderError::Io { path, error }),
        };
        let text = text.trim_matches(['\0', '\n']);
        let (boot, error) = text.split_once('\n').unwrap_or((text, ""));
        if boot == self.boot.0 && !accept_unsynced {
            return Err(FolderError::FailedSync { path: self.path.clone(), error: error.to_owned() });
        }
        Ok(())
    }

    /// Preallocates the marker, and takes away what an earlier failure wrote there.
    pub(crate) fn clear_marker(&self) -> Result<(), FolderError> {
        let path = self.marker_path();
        let clear = || {
            let file = open_file(&path)?;
            file.write_all_at(&[0; MARKER_BYTES], 0)
                .and_then(|()| file.set_len(MARKER_BYTES as u64))
                .and_then(|()| file.sync_all())
                .map_err(|error| FolderError::Io { path: path.clone(), error })
        };
        clear()
    }

    /// Leaves the marker. Its sync may fail as the log's did; the page cache has it on this boot.
    pub(super) fn mark_failed(&self, error: &str) -> io::Result<()> {
        let mut text = format!("{}\n{error}", self.boot.0).into_bytes();
        text.truncate(MARKER_BYTES);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.marker_path())?;
        file.write_all_at(&text, 0)?;
        file.sync_all()
    }
}

/// A log that is being begun, locked until it has its name.
pub(crate) struct NewLog {
    file: File,
    path: PathBuf,
    folder: DataFolder,
}

impl NewLog {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file, to be written. Its lock is this one's.
    pub(crate) fn file(&self) -> Result<LogFile, FolderError> {
        self.file.try_clone().map(LogFile).map_err(|error| FolderError::Io { path: self.path.clone(), error })
    }

    /// Gives the synced file the log's name, durably.
    pub(crate) fn finish(self) -> Result<(), FolderError> {
        self.file
            .sync_all()
            .and_then(|()| std::fs::rename(&self.path, self.folder.log_path()))
            .map_err(|error| FolderError::Io { path: self.path.clone(), error })?;
        sync_folder(&self.folder.path)
    }
}

fn open_file(path: &Path) -> Result<File, FolderError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| FolderError::Io { path: path.to_owned(), error })
}

/// Makes the names in a folder durable.
fn sync_folder(path: &Path) -> Result<(), FolderError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| FolderError::Io { path: path.to_owned(), error })
}
