//! The free-space watermark and the reserve.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::limits::NO_ROOM_PAUSE;
use crate::log::CommitError;
use crate::log::disk::{Reserve, free_bytes};

/// Room on the disk, as far as messages from outside are concerned.
pub(super) struct Space {
    folder: PathBuf,
    reserve: Reserve,
    free_bytes_min: u64,
    free_bytes: AtomicU64,
    reserved: AtomicBool,
    /// Whether publishes were accepted at the last look, to say so when that changes.
    accepted: AtomicBool,
    /// Until when nothing is taken because the log found no room, and why it did.
    paused: Option<(Instant, String)>,
}

impl Space {
    pub(super) fn new(folder: PathBuf, reserve: Reserve, free_bytes_min: u64, found_no_room: Option<String>) -> Self {
        Self {
            folder,
            reserve,
            free_bytes_min,
            free_bytes: AtomicU64::new(0),
            reserved: AtomicBool::new(false),
            accepted: AtomicBool::new(true),
            paused: found_no_room.map(|error| (Instant::now() + NO_ROOM_PAUSE, error)),
        }
    }

    pub(super) fn free_bytes_min(&self) -> u64 {
        self.free_bytes_min
    }

    /// Looks at the disk, and takes the reserve again where there is room for it besides the watermark.
    pub(super) fn look(&self) {
        let free = match free_bytes(&self.folder) {
            Ok(free) => free,
            // The writes themselves will tell; until then the last figure holds.
            Err(error) => return tracing::warn!(folder = %self.folder.display(), "free space is unknown: {error}"),
        };
        let mut reserved = self.reserved.load(Ordering::Relaxed) || self.reserve.is_there();
        if !reserved && free >= self.free_bytes_min.saturating_add(self.reserve.bytes()) {
            match self.reserve.take() {
                Ok(()) => reserved = true,
                Err(error) => tracing::debug!("the reserve cannot be taken yet: {error}"),
            }
        }
        self.free_bytes.store(free, Ordering::Relaxed);
        self.reserved.store(reserved, Ordering::Relaxed);
        let accepts = self.check().is_ok();
        if self.accepted.swap(accepts, Ordering::Relaxed) != accepts {
            let (folder, min) = (self.folder.display(), self.free_bytes_min);
            if accepts {
                tracing::info!(%folder, free_bytes = free, "there is room again: publishes are accepted");
            } else {
                tracing::warn!(%folder, free_bytes = free, min_bytes = min, "too little room: publishes are refused; free some");
            }
        }
    }

    /// Refuses messages from outside below the watermark, while the reserve is spent, or for a while after the log
    /// found no room. That last may be for a cause that no free space tells of, as a limit on the size of files or a
    /// quota; each try costs all that is in memory, so it is not one for every publish.
    pub(super) fn check(&self) -> Result<(), CommitError> {
        let free_bytes = self.free_bytes();
        let spent = if self.reserved.load(Ordering::Relaxed) { 0 } else { self.reserve.bytes() };
        let min_bytes = self.free_bytes_min.saturating_add(spent);
        if spent > 0 || free_bytes < min_bytes {
            return Err(CommitError::NoRoom { free_bytes, min_bytes });
        }
        match &self.paused {
            Some((until, error)) if Instant::now() < *until => Err(CommitError::CannotGrow { error: error.clone() }),
            _ => Ok(()),
        }
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }

    /// The disk was full: its last ballast goes, so that the log can be opened and go on.
    pub(super) fn give_up_reserve(&self) {
        self.reserved.store(false, Ordering::Relaxed);
        if let Err(error) = self.reserve.give_up() {
            tracing::warn!("the reserve could not be given up: {error}");
        }
    }
}
