//! The disk: the data folder, the log's file, and what becomes of errors there.
//!
//! A write or growth that finds no room is [`LogFailure::Full`]: what was not synced is discarded, and
//! the log can be opened again. Every other error is [`LogFailure::Broken`]: what the disk holds is
//! uncertain, because the page cache may hold what the disk does not. It is never tried again, nothing
//! reaches the file afterwards, and a marker makes the next start on the same boot refuse.
//!
//! A file that would grow past the process's limit (`RLIMIT_FSIZE`) is seen here only where the process
//! ignores `SIGXFSZ`, which otherwise kills it.

mod folder;
mod reserve;

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use redb::StorageBackend;

use super::LogFailure;
pub use folder::FolderError;
pub(crate) use folder::{BootId, DataFolder};
pub(crate) use reserve::Reserve;

/// What went wrong on the disk so far, shared by the file's users.
#[derive(Debug)]
pub(crate) struct DiskState {
    path: PathBuf,
    folder: DataFolder,
    /// Held for a moment only: it orders a failure before all that comes after it.
    failure: Mutex<Failure>,
}

#[derive(Debug, Default)]
struct Failure {
    /// The last error for want of room. It need not be fatal: redb writes some pages ahead of need.
    full: Option<String>,
    /// The first of all other errors. Nothing touches the file after it.
    broken: Option<String>,
    /// Whether the log was opened. Before that, a file that cannot be read is no cause for a marker.
    serving: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    Sync,
}

impl DiskState {
    pub(crate) fn new(folder: DataFolder) -> Arc<Self> {
        Arc::new(Self { path: folder.log_path(), folder, failure: Mutex::default() })
    }

    pub(crate) fn folder(&self) -> &DataFolder {
        &self.folder
    }

    fn failure(&self) -> std::sync::MutexGuard<'_, Failure> {
        // Nothing in a critical section can leave it half done.
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, every error but want of room leaves a marker.
    pub(crate) fn serving(&self) {
        self.failure().serving = true;
    }

    /// Whether the disk failed for good.
    pub(crate) fn is_broken(&self) -> bool {
        self.failure().broken.is_some()
    }

    /// What the disk reported, if anything.
    pub(crate) fn reported(&self) -> Option<LogFailure> {
        let path = self.path.display().to_string();
        let failure = self.failure();
        match (&failure.broken, &failure.full) {
            (Some(error), _) => Some(LogFailure::Broken { path, error: error.clone() }),
            (None, Some(error)) => Some(LogFailure::Full { path, error: error.clone() }),
            (None, None) => None,
        }
    }

    /// What a failed commit is to be called. `error` counts where the disk reported nothing: nothing
    /// is written any more, but the disk is not to blame, so there is no marker.
    pub(crate) fn judge(&self, error: &str) -> LogFailure {
        self.reported().unwrap_or_else(|| {
            self.failure().broken = Some(error.to_owned());
            LogFailure::Broken { path: self.path.display().to_string(), error: error.to_owned() }
        })
    }

    /// A commit succeeded: what had no room before has found some.
    pub(crate) fn committed(&self) {
        self.failure().full = None;
    }

    fn check(&self) -> io::Result<()> {
        match &self.failure().broken {
            Some(error) => Err(io::Error::other(format!("the disk failed before: {error}"))),
            None => Ok(()),
        }
    }

    fn note<T>(&self, access: Access, result: io::Result<T>) -> io::Result<T> {
        let Err(error) = result else { return result };
        let mut failure = self.failure();
        if access == Access::Write && is_full(&error) {
            failure.full = Some(error.to_string());
        } else if failure.broken.is_none() {
            if access == Access::Read && !failure.serving {
                return Err(error);
            }
            self.break_down(&mut failure, &error.to_string());
        }
        Err(error)
    }

    fn break_down(&self, failure: &mut Failure, error: &str) {
        failure.broken = Some(error.to_owned());
        if let Err(marker) = self.folder.mark_failed(error) {
            tracing::error!(path = %self.path.display(), "the marker of a failed disk could not be written: {marker}");
        }
    }
}

/// Whether an error of a write says that there is no room: ENOSPC, EDQUOT or EFBIG.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

/// The log's file, on which redb stands: any backend, with its errors noted.
#[derive(Debug)]
pub(crate) struct Disk {
    backend: Box<dyn StorageBackend>,
    state: Arc<DiskState>,
}

impl Disk {
    pub(crate) fn new(backend: Box<dyn StorageBackend>, state: Arc<DiskState>) -> Self {
        Self { backend, state }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.state.check()?;
        self.state.note(Access::Read, self.backend.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.state.check()?;
        self.state.note(Access::Read, self.backend.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.state.check()?;
        self.state.note(Access::Write, self.backend.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.state.check()?;
        self.state.note(Access::Sync, self.backend.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.state.check()?;
        self.state.note(Access::Write, self.backend.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }
}

/// A plain file as a backend. Its lock is the file's, and ends with it.
#[derive(Debug)]
pub(crate) struct LogFile(File);

impl LogFile {
    /// Opens or creates the file for this process alone.
    pub(crate) fn open(folder: &DataFolder) -> Result<Self, FolderError> {
        folder.open_log().map(Self)
    }
}

impl StorageBackend for LogFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

/// Bytes free on a folder's disk for a process without privileges.
pub(crate) fn free_bytes(folder: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
pub(crate) mod faults;
#[cfg(test)]
mod tests;
