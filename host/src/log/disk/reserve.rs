//! The reserve: a file without content that holds space, to be given up when the disk is full.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// The ballast file of a data folder.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    bytes: u64,
}

impl Reserve {
    pub(crate) fn new(path: PathBuf, bytes: u64) -> Self {
        Self { path, bytes }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether all of it is there. A reserve of no bytes always is.
    pub(crate) fn is_there(&self) -> bool {
        self.bytes == 0 || std::fs::metadata(&self.path).is_ok_and(|metadata| metadata.len() >= self.bytes)
    }

    /// Whether there is anything to give up.
    pub(crate) fn is_held(&self) -> bool {
        self.path.exists()
    }

    /// Takes the space. Where there is too little, nothing of it is kept.
    pub(crate) fn take(&self) -> io::Result<()> {
        if self.is_there() {
            return Ok(());
        }
        let taken = self.allocate();
        if taken.is_err() {
            self.give_up()?;
        }
        taken
    }

    fn allocate(&self) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, self.bytes) {
            Err(Errno::OPNOTSUPP) => {}
            result => return Ok(result?),
        }
        // A file system that cannot preallocate has to be written to.
        let zeros = [0; 64 * 1024];
        let mut at = 0;
        while at < self.bytes {
            let length = (self.bytes - at).min(zeros.len() as u64);
            file.write_all_at(&zeros[..length as usize], at)?;
            at += length;
        }
        file.sync_all()
    }

    /// Gives the space back to the disk.
    pub(crate) fn give_up(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
