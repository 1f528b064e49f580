//! The log on redb: one file, one writer thread.
//!
//! A transaction is sequenced under one lock, in memory ([`super::sequencer`]). The writer takes what has
//! gathered as one group, writes and syncs it in one redb transaction, and only then makes it visible:
//! the newest messages in memory, the synced end, the waiters, the listener. That lock is never held
//! while the disk is touched.

mod block;
mod block_cache;
mod blocks;
mod compact;
mod counts;
mod encoding;
mod figures;
mod messages;
mod open;
mod queue;
mod reader;
mod recent;
#[cfg(any(test, fuzzing))]
pub(crate) mod recode;
mod removing;
mod rows;
mod scheduled;
mod space;
mod state_view;
mod survey;
mod tables;
mod topic_choice;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use redb::{Database, ReadTransaction};
use uuid::Uuid;

use super::disk::{DiskState, FolderError};
use super::removal::{Reach, Standing, Stretch};
pub use super::sequencer::StateBounds;
use super::{
    Batch, CommitError, DeadLetter, HeldAt, HeldRow, Listener, Loaded, LoadedSubscription, Log, LogFailure, LogFigures,
    ReadBounds, ReadError, ReadPin, RetryRow, Scheduled, ScheduledAt, Selection, Sequenced, StateEntries, StateSize,
    StateView, StateWrite, SubscriptionId, SyncWaiter, TopicCap, TopicInfo, Txn, TxnNumber,
};
use crate::limits;
use crate::message::{Millis, Offset, Sequence, SharedMessage, TopicId};
use block_cache::BlockCache;
pub use compact::Compacted;
use figures::Meter;
use queue::{Ending, Queue};
use recent::Visible;
use space::Space;
use writer::Writer;

/// How a log is opened. Sizes are in bytes.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The data folder; created where it is missing.
    pub folder: PathBuf,
    /// Space that is preallocated, and given up when the disk is full.
    pub reserve_bytes: u64,
    /// Below this much free space, transactions from outside are refused.
    pub free_bytes_min: u64,
    /// The newest messages that are kept in memory.
    pub recent_bytes_max: usize,
    /// redb's page cache.
    pub cache_bytes: usize,
    /// What may be sequenced and not yet synced before publishers are refused. Effects of handlers may
    /// take as much again.
    pub unsynced_bytes_max: usize,
    /// Opening compacts a file of at least this size of which half is free.
    pub compact_bytes_min: u64,
    /// Bytes that topics may hold before they refuse messages.
    pub topic_caps: Vec<TopicCap>,
    /// How long a second event of the same topic, source and id is a duplicate; zero for never.
    pub dedupe_window: Duration,
    /// Bytes that states may hold before writes are refused.
    pub state: StateBounds,
    /// Starts although the disk failed on this boot, with what can be read now.
    pub accept_unsynced: bool,
    /// Why the log that was open before found no room, if it did: for a while nothing from outside is taken.
    pub found_no_room: Option<String>,
}

impl OpenOptions {
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            reserve_bytes: limits::RESERVE_BYTES,
            free_bytes_min: limits::FREE_BYTES_MIN,
            recent_bytes_max: limits::RECENT_BYTES_MAX,
            cache_bytes: limits::REDB_CACHE_BYTES,
            unsynced_bytes_max: limits::UNSYNCED_BYTES_MAX,
            compact_bytes_min: limits::COMPACT_BYTES_MIN,
            topic_caps: Vec::new(),
            dedupe_window: limits::DEDUPE_WINDOW_DEFAULT,
            state: StateBounds {
                consumer_bytes_max: limits::STATE_CONSUMER_BYTES_DEFAULT,
                total_bytes_max: limits::STATE_BYTES_DEFAULT,
            },
            accept_unsynced: false,
            found_no_room: None,
        }
    }
}

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The file was written by another version of the bus.
    #[error("{path} has format version {found}; this binary reads version {supported} only")]
    Format { path: PathBuf, found: u32, supported: u32 },
    /// The file is no log of ours.
    #[error("{path} is not a Sandpost log: {error}")]
    Foreign { path: PathBuf, error: String },
    #[error("{path} is damaged: {error}")]
    Damaged { path: PathBuf, error: ReadError },
    /// There is nothing to be compacted.
    #[error("there is no log in {folder}; name the data folder of a bus")]
    Absent { folder: PathBuf },
    /// There is no room to open it, or its disk failed.
    #[error(transparent)]
    Failed(LogFailure),
}

/// The log on redb. Dropping it discards what is not synced, as a crash would; [`Log::close`] keeps it.
pub struct RedbLog {
    inner: Arc<Inner>,
    /// Taken by whoever ends the writer.
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What readers and the writer share.
struct Inner {
    /// What readers read: the state as of the last commit. The writer replaces it, because beginning a
    /// read transaction waits while redb syncs a file that grows, and no reader may wait for that.
    snapshot: ArcSwap<ReadTransaction>,
    /// After the snapshot, so that it is dropped after it.
    database: Database,
    disk: Arc<DiskState>,
    queue: Arc<Queue>,
    visible: Visible,
    blocks: BlockCache,
    space: Space,
    meter: Meter,
    /// Ascending by the offset that each holds from.
    bus_ids: Vec<(Offset, Uuid)>,
}

impl RedbLog {
    /// Opens the log of a data folder, or begins it. May take seconds per gigabyte after a crash.
    pub fn open(options: &OpenOptions) -> Result<Self, OpenError> {
        open::open(options, None)
    }

    /// Opens a log on a backend in place of the file, for fuzz targets.
    #[cfg(fuzzing)]
    pub(crate) fn open_on(options: &OpenOptions, backend: Box<dyn redb::StorageBackend>) -> Result<Self, OpenError> {
        open::open(options, Some(backend))
    }

    /// Returns free space of a data folder's file to the disk, while no bus uses it.
    pub fn compact(options: &OpenOptions) -> Result<Compacted, OpenError> {
        compact::compact(options)
    }

    fn finish(&self, ending: Ending) {
        self.inner.queue.end(ending);
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The listener may drop the log from the writer's own thread.
        if let Some(writer) = writer.filter(|writer| writer.thread().id() != std::thread::current().id()) {
            // A panic of the writer was reported by its thread; there is nobody to hand it to here.
            let _ = writer.join();
        }
    }
}

impl Drop for RedbLog {
    fn drop(&mut self) {
        self.finish(Ending::Discard);
    }
}

impl Log for RedbLog {
    fn start(&self, listener: Arc<dyn Listener>) {
        let mut handle = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(handle.is_none(), "a log is started once");
        let writer = Writer::new(self.inner.clone(), listener);
        let thread = std::thread::Builder::new().name("log-writer".to_owned()).spawn(move || writer.run());
        *handle = Some(thread.expect("a thread can be started"));
    }

    fn commit(&self, txn: Txn, on_synced: Option<SyncWaiter>) -> Result<Sequenced, CommitError> {
        if txn.outside {
            self.inner.space.check()?;
        }
        let replaced = self.inner.replaced(&txn.writes);
        self.inner.queue.commit(txn, replaced.as_deref(), on_synced)
    }

    fn read(&self, selection: &Selection, from: Offset, bounds: ReadBounds) -> Result<Batch, ReadError> {
        self.inner.read(selection, from, bounds)
    }

    fn read_offsets(&self, offsets: &[Offset]) -> Result<Vec<SharedMessage>, ReadError> {
        self.inner.read_offsets(offsets)
    }

    fn count(&self, selection: &Selection, ranges: &[(Offset, Offset)]) -> Result<u64, ReadError> {
        self.inner.count(selection, ranges)
    }

    fn retry(&self, subscription: SubscriptionId, offset: Offset) -> Result<Option<Arc<RetryRow>>, ReadError> {
        self.inner.retry(subscription, offset)
    }

    fn held(&self, at: HeldAt) -> Result<Option<Arc<HeldRow>>, ReadError> {
        self.inner.held(at)
    }

    fn dead_letters(
        &self,
        subscription: Option<SubscriptionId>,
        after: Option<(SubscriptionId, Offset)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ReadError> {
        self.inner.dead_letters(subscription, after, limit)
    }

    fn dead_letter(&self, subscription: SubscriptionId, offset: Offset) -> Result<Option<DeadLetter>, ReadError> {
        self.inner.dead_letter(subscription, offset)
    }

    fn pin(&self) -> ReadPin {
        self.inner.queue.pin()
    }

    fn state_get(&self, consumer: &str, key: &str) -> Result<(Option<Bytes>, TxnNumber), ReadError> {
        self.inner.state_get(consumer, key)
    }

    fn state_scan(
        &self,
        consumer: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<StateEntries, ReadError> {
        self.inner.state_scan(consumer, prefix, after, limit)
    }

    fn state_room(&self, consumer: &str) -> u64 {
        self.inner.queue.with(|sequencer| sequencer.state_room(consumer))
    }

    fn check_state(&self, writes: &[StateWrite]) -> Result<(), CommitError> {
        self.inner.check_state(writes)
    }

    fn state_sizes(&self) -> Vec<(String, StateSize)> {
        self.inner.queue.with(|sequencer| sequencer.state_sizes())
    }

    fn state_view(&self) -> Box<dyn StateView> {
        self.inner.state_view()
    }

    fn topics(&self) -> Vec<TopicInfo> {
        self.inner.visible.read().topics().to_vec()
    }

    fn topic(&self, name: &str) -> Option<TopicInfo> {
        self.inner.visible.read().topic(name).cloned()
    }

    fn first_retained(&self, topic: TopicId) -> Result<Option<(Sequence, Offset)>, ReadError> {
        self.inner.first_retained(topic)
    }

    fn stretches(&self, topics: &[(TopicId, Offset)], from: Offset, limit: usize) -> Result<Vec<Stretch>, ReadError> {
        self.inner.stretches(topics, from, limit)
    }

    fn survey(&self, stretch: Stretch) -> Result<Vec<Standing>, ReadError> {
        self.inner.survey(stretch)
    }

    fn pinned(&self, stretches: &[Stretch]) -> Result<Vec<Offset>, ReadError> {
        self.inner.pinned(stretches)
    }

    fn reaches(&self) -> Result<Vec<Reach>, ReadError> {
        self.inner.reaches()
    }

    fn locate(&self, topic: &str, sequence: Sequence) -> Result<Offset, ReadError> {
        self.inner.locate(topic, sequence)
    }

    fn offset_at(&self, time_ms: Millis) -> Result<Offset, ReadError> {
        self.inner.offset_at(time_ms)
    }

    fn scheduled(
        &self,
        after: Option<ScheduledAt>,
        until_ms: Option<Millis>,
        bounds: ReadBounds,
    ) -> Result<Vec<Scheduled>, ReadError> {
        self.inner.scheduled(after, until_ms, bounds)
    }

    fn scheduled_at(&self, number: u64) -> Result<Option<Scheduled>, ReadError> {
        self.inner.scheduled_at(number)
    }

    fn end(&self) -> Offset {
        self.inner.visible.read().end()
    }

    fn bus_id(&self, offset: Offset) -> Uuid {
        let after = self.inner.bus_ids.partition_point(|(from, _)| *from <= offset);
        self.inner.bus_ids[after - 1].1
    }

    fn load(&self) -> Result<Loaded, ReadError> {
        self.inner.load()
    }

    fn load_subscription(&self, id: SubscriptionId) -> Result<Option<LoadedSubscription>, ReadError> {
        self.inner.load_subscription(id)
    }

    fn unsynced_bytes(&self) -> usize {
        self.inner.queue.with(|sequencer| sequencer.unsynced_bytes())
    }

    fn figures(&self) -> LogFigures {
        self.inner.figures()
    }

    fn close(&self) {
        self.finish(Ending::Drain);
    }
}

#[cfg(test)]
mod tests;
