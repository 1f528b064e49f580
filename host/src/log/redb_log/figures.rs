//! Figures for metrics.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Inner;
use crate::log::LogFigures;
use crate::log::disk::free_bytes;
use crate::log::removal::Removal;
use crate::log::sequencer::Group;

/// Upper bounds of the sync histogram, in seconds.
const SYNC_SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// Counts what the writer did.
#[derive(Default)]
pub(super) struct Meter {
    /// Held for a few additions per group.
    counted: Mutex<Counted>,
}

#[derive(Clone, Copy, Default)]
struct Counted {
    syncs: u64,
    sync_seconds: [u64; SYNC_SECONDS.len()],
    sync_seconds_sum: f64,
    messages: u64,
    bytes: u64,
    removed_messages: u64,
    removed_bytes: u64,
}

impl Meter {
    pub(super) fn group(&self, group: &Group, took: Duration) {
        let bytes: usize = group.messages.iter().map(|message| message.event.bytes()).sum();
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.syncs += 1;
        counted.sync_seconds_sum += took.as_secs_f64();
        for (count, bound) in counted.sync_seconds.iter_mut().zip(SYNC_SECONDS) {
            *count += u64::from(took.as_secs_f64() <= bound);
        }
        counted.messages += group.messages.len() as u64;
        counted.bytes += bytes as u64;
        counted.removed_messages += group.removals.iter().map(Removal::messages).sum::<u64>();
        counted.removed_bytes += group.removals.iter().map(Removal::bytes).sum::<u64>();
    }
}

impl Inner {
    pub(super) fn figures(&self) -> LogFigures {
        let counted = *self.meter.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let free = free_bytes(self.disk.folder().path()).unwrap_or(self.space.free_bytes());
        let (dedupe_window_ms, duplicates) = self.queue.with(|sequencer| sequencer.dedupe_figures());
        LogFigures {
            syncs: counted.syncs,
            sync_seconds: SYNC_SECONDS.into_iter().zip(counted.sync_seconds).collect(),
            sync_seconds_sum: counted.sync_seconds_sum,
            unsynced_bytes: self.queue.with(|sequencer| sequencer.unsynced_bytes()) as u64,
            recent_bytes: self.visible.read().recent_bytes() as u64,
            file_bytes: std::fs::metadata(self.disk.folder().log_path()).map_or(0, |metadata| metadata.len()),
            free_bytes: free,
            free_bytes_min: self.space.free_bytes_min(),
            appended_messages: counted.messages,
            appended_bytes: counted.bytes,
            removed_messages: counted.removed_messages,
            removed_bytes: counted.removed_bytes,
            message_bytes: self.visible.read().message_bytes(),
            accepting: self.space.check().is_ok(),
            // A figure that cannot be read is no reason not to show the others.
            scheduled_messages: self.scheduled_messages().unwrap_or(0),
            dedupe_window_ms,
            duplicates,
        }
    }
}
