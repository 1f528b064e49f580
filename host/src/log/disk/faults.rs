//! A disk in memory that tests can fill, break, hold and cut off.

use std::io::{self, ErrorKind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use redb::StorageBackend;

/// How long a sync may take to come; far more than any needs.
const SYNC_PATIENCE: Duration = Duration::from_secs(60);

/// The handles of one disk share it, so that it can be opened again.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeDisk(Arc<(Mutex<Image>, Condvar)>);

#[derive(Debug, Default)]
struct Image {
    bytes: Vec<u8>,
    /// Everything that was done, where it is recorded.
    steps: Option<Vec<Step>>,
    /// The length past which there is no room.
    room: Option<u64>,
    fails_syncs: bool,
    fails_reads: bool,
    holds_syncs: bool,
    held: usize,
    syncs: usize,
}

/// One change of the disk.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Write(u64, Vec<u8>),
    SetLen(u64),
    /// All before it is durable.
    Sync,
}

impl FakeDisk {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A disk that holds these bytes.
    pub(crate) fn with_bytes(bytes: Vec<u8>) -> Self {
        let disk = Self::new();
        disk.image().bytes = bytes;
        disk
    }

    /// A disk that remembers every step.
    pub(crate) fn recording() -> Self {
        let disk = Self::new();
        disk.image().steps = Some(Vec::new());
        disk
    }

    fn image(&self) -> MutexGuard<'_, Image> {
        self.0.0.lock().unwrap()
    }

    pub(crate) fn backend(&self) -> Box<dyn StorageBackend> {
        Box::new(self.clone())
    }

    pub(crate) fn limit_room(&self, room: Option<u64>) {
        self.image().room = room;
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.image().bytes.clone()
    }

    pub(crate) fn len(&self) -> u64 {
        self.image().bytes.len() as u64
    }

    pub(crate) fn fail_syncs(&self) {
        self.image().fails_syncs = true;
    }

    pub(crate) fn fail_reads(&self) {
        self.image().fails_reads = true;
    }

    /// How many syncs there were.
    pub(crate) fn syncs(&self) -> usize {
        self.image().syncs
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        self.image().steps.clone().expect("the disk records")
    }

    /// How many steps there were so far.
    pub(crate) fn step_count(&self) -> usize {
        self.image().steps.as_ref().expect("the disk records").len()
    }

    /// Makes every sync wait until the hold is dropped, also by a test that fails.
    pub(crate) fn hold_syncs(&self) -> Hold {
        self.image().holds_syncs = true;
        Hold(self.clone())
    }

    /// Waits until a sync is held.
    ///
    /// # Panics
    /// Where none comes, as where the log does not sync at all.
    pub(crate) fn await_held_sync(&self) {
        let (image, waited) =
            self.0.1.wait_timeout_while(self.image(), SYNC_PATIENCE, |image| image.held == 0).unwrap();
        // So that no other handle of the disk is poisoned by the panic.
        drop(image);
        assert!(!waited.timed_out(), "the log was given something to store, and does not sync it");
    }
}

/// Syncs wait while it is there.
pub(crate) struct Hold(FakeDisk);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.image().holds_syncs = false;
        self.0.0.1.notify_all();
    }
}

impl Step {
    /// Does the step to an image.
    pub(crate) fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                let (from, to) = (*offset as usize, *offset as usize + data.len());
                bytes.resize(bytes.len().max(to), 0);
                bytes[from..to].copy_from_slice(data);
            }
            Self::SetLen(length) => bytes.resize(*length as usize, 0),
            Self::Sync => {}
        }
    }
}

impl Image {
    fn step(&mut self, step: Step) -> io::Result<()> {
        let end = match &step {
            Step::Write(offset, data) => offset + data.len() as u64,
            Step::SetLen(length) => *length,
            Step::Sync => 0,
        };
        if self.room.is_some_and(|room| end > room) {
            return Err(ErrorKind::StorageFull.into());
        }
        step.apply(&mut self.bytes);
        if let Some(steps) = &mut self.steps {
            steps.push(step);
        }
        Ok(())
    }
}

impl StorageBackend for FakeDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let image = self.image();
        if image.fails_reads {
            return Err(io::Error::other("the fake disk cannot be read"));
        }
        let from = offset as usize;
        let bytes = image.bytes.get(from..from + out.len()).ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.image().step(Step::SetLen(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut image = self.image();
        image.held += 1;
        self.0.1.notify_all();
        image = self.0.1.wait_while(image, |image| image.holds_syncs).unwrap();
        image.held -= 1;
        if image.fails_syncs {
            return Err(io::Error::other("the fake disk cannot be synced"));
        }
        image.syncs += 1;
        image.step(Step::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.image().step(Step::Write(offset, data.to_vec()))
    }
}
