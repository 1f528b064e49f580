//! Opening: the folder, the file, its format, and what sequencing goes on from.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend};
use uuid::Uuid;

use super::block_cache::BlockCache;
use super::blocks::removed_end;
use super::compact::compact_if_worth_it;
use super::figures::Meter;
use super::queue::Queue;
use super::recent::Visible;
use super::space::Space;
use super::tables::{
    self, ACCOUNTS, BLOCKS, BUS_IDS, CHECKSUM_BYTES, FORMAT_VERSION, META, META_FORMAT, META_NEXT_SCHEDULED,
    META_NEXT_SUBSCRIPTION, REMOVED, STATE_SIZES, SUBSCRIPTIONS, TOPICS, Table, offset_key, parse_offset_key,
};
use super::{Inner, OpenError, OpenOptions, RedbLog, block, encoding, reader, rows, scheduled};
use crate::limits::{DEDUPE_NAMES_MAX, MIB};
use crate::log::disk::{BootId, DataFolder, Disk, DiskState, FolderError, LogFile, Reserve};
use crate::log::position::Position;
use crate::log::sequencer::{DedupeBounds, Recovered, Sequencer, SequencerBounds};
use crate::log::{Counts, LogFailure, ReadError, SubscriptionId, SubscriptionRecord};
use crate::message::TopicId;

/// Decoded blocks that are kept for consumers that catch up.
const BLOCK_CACHE_BYTES: usize = 16 * MIB;
/// One commit writes about this much at most: a few milliseconds on a slow disk.
const GROUP_BYTES_MAX: usize = 4 * MIB;

/// Opens a log on its file, or on another backend in place of it.
pub(super) fn open(options: &OpenOptions, backend: Option<Box<dyn StorageBackend>>) -> Result<RedbLog, OpenError> {
    let folder = DataFolder::prepare(&options.folder, BootId::current())?;
    let reserve = Reserve::new(folder.reserve_path(), options.reserve_bytes);
    let opened = match backend {
        Some(backend) => open_database(options, &folder, backend, &folder.log_path())?,
        None => match open_file(options, &folder) {
            // Even opening writes. Where there is no room for that, the reserve is what it is for.
            Err(OpenError::Failed(LogFailure::Full { .. })) if reserve.is_held() => {
                reserve.give_up().map_err(|error| FolderError::Io { path: folder.reserve_path(), error })?;
                open_file(options, &folder)?
            }
            opened => opened?,
        },
    };
    folder.clear_marker()?;
    let Opened { disk, database, read, recovered, bus_ids } = opened;
    disk.serving();

    let space = Space::new(folder.path().to_owned(), reserve, options.free_bytes_min, options.found_no_room.clone());
    space.look();
    let bounds = SequencerBounds {
        unsynced_bytes_max: options.unsynced_bytes_max,
        group_bytes_max: GROUP_BYTES_MAX,
        topic_caps: options.topic_caps.clone(),
        dedupe: dedupe_bounds(options),
        state: options.state,
    };
    let inner = Inner {
        snapshot: ArcSwap::from_pointee(read),
        database,
        disk,
        visible: Visible::new(recovered.next_offset, recovered.topics.clone(), options.recent_bytes_max),
        queue: Queue::new(Sequencer::new(recovered, bounds)),
        blocks: BlockCache::new(BLOCK_CACHE_BYTES),
        space,
        meter: Meter::default(),
        bus_ids,
    };
    Ok(RedbLog { inner: Arc::new(inner), writer: std::sync::Mutex::new(None) })
}

fn dedupe_bounds(options: &OpenOptions) -> DedupeBounds {
    let window_ms = u64::try_from(options.dedupe_window.as_millis()).unwrap_or(u64::MAX);
    DedupeBounds { window_ms, names_max: DEDUPE_NAMES_MAX }
}

/// Opens the file, or begins it under another name first: a file that a crash left half begun is never
/// taken for a log.
pub(super) fn open_file(options: &OpenOptions, folder: &DataFolder) -> Result<Opened, OpenError> {
    let path = folder.log_path();
    if let Some(new) = folder.begin_log()? {
        let begun = open_database(options, folder, Box::new(new.file()?), new.path())?;
        drop(begun);
        new.finish()?;
    }
    open_database(options, folder, Box::new(LogFile::open(folder)?), &path)
}

/// What is damaged where it is none of the tables.
const FILE: &str = "(the file itself)";

pub(super) struct Opened {
    pub(super) disk: Arc<DiskState>,
    /// Before the database, so that it is dropped before it.
    pub(super) read: ReadTransaction,
    pub(super) database: Database,
    recovered: Recovered,
    bus_ids: Vec<(u64, Uuid)>,
}

fn open_database(
    options: &OpenOptions,
    folder: &DataFolder,
    backend: Box<dyn StorageBackend>,
    path: &Path,
) -> Result<Opened, OpenError> {
    // redb holds what it wrote itself to be sound, and panics at some of what is not.
    let opened = catch_unwind(AssertUnwindSafe(|| open_sound_database(options, folder, backend, path)));
    opened.unwrap_or_else(|panic| {
        let what = said(&*panic);
        Err(OpenError::Damaged { path: path.to_owned(), error: ReadError::Damaged { table: FILE, what } })
    })
}

/// What a panic said.
pub(super) fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
    text.unwrap_or("a panic that says nothing").to_owned()
}

fn open_sound_database(
    options: &OpenOptions,
    folder: &DataFolder,
    backend: Box<dyn StorageBackend>,
    path: &Path,
) -> Result<Opened, OpenError> {
    // Only behind the file's lock: the marker of another process is not ours to judge.
    folder.check_marker(options.accept_unsynced)?;
    let disk = DiskState::new(folder.clone());
    let failed = |error: redb::Error| storage_failure(&disk, error, path);
    let backend = Disk::new(backend, disk.clone());
    // After a crash of the process, what is read may be only in the page cache: it must not be served
    // before it is on the disk.
    backend.sync_data().map_err(|error| failed(redb::Error::Io(error)))?;
    let mut database = redb::Builder::new()
        .set_cache_size(options.cache_bytes)
        .set_repair_callback(|session| {
            tracing::info!(percent = (session.progress() * 100.0) as u64, "the log was not closed; checking it");
        })
        .create_with_backend(backend)
        .map_err(|error| failed(error.into()))?;
    begin_if_new(&database).map_err(failed)?;
    let damaged = |error| OpenError::Damaged { path: path.to_owned(), error };
    let recovered = {
        let read = database.begin_read().map_err(|error| failed(error.into()))?;
        check_format(&read, path)?;
        let mut recovered = recover(&read).map_err(damaged)?;
        recovered.known = scheduled::known(&read, &recovered.topics, dedupe_bounds(options)).map_err(damaged)?;
        recovered
    };
    compact_if_worth_it(&mut database, options, folder, &disk, &recovered.topics)?;
    let read = database.begin_read().map_err(|error| failed(error.into()))?;
    let bus_ids = bus_ids(&read).map_err(damaged)?;
    Ok(Opened { disk, read, database, recovered, bus_ids })
}

/// What an error of redb means for who opens a file.
pub(super) fn storage_failure(disk: &DiskState, error: redb::Error, path: &Path) -> OpenError {
    match (disk.reported(), error) {
        (Some(failure), _) => OpenError::Failed(failure),
        (None, redb::Error::Io(error)) if error.raw_os_error().is_some() => {
            OpenError::Folder(FolderError::Io { path: path.to_owned(), error })
        }
        // redb says so of a file of its own that it cannot repair.
        (None, redb::Error::Corrupted(what)) => {
            OpenError::Damaged { path: path.to_owned(), error: ReadError::Damaged { table: FILE, what } }
        }
        (None, error) => OpenError::Foreign { path: path.to_owned(), error: error.to_string() },
    }
}

/// Creates every table of a new file, with the format and the bus's id, in one transaction.
fn begin_if_new(database: &Database) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    if write.list_tables()?.next().is_some() {
        return Ok(write.abort()?);
    }
    for table in tables::ALL {
        write.open_table(table.definition)?;
    }
    put(&write, &META, META_FORMAT, &FORMAT_VERSION.to_le_bytes())?;
    let mut first = Vec::new();
    encoding::put_number(&mut first, 1);
    put(&write, &META, META_NEXT_SUBSCRIPTION, &first)?;
    put(&write, &META, META_NEXT_SCHEDULED, &first)?;
    put(&write, &BUS_IDS, &offset_key(0), Uuid::now_v7().as_bytes())?;
    Ok(write.commit()?)
}

fn put(write: &redb::WriteTransaction, table: &Table, key: &[u8], value: &[u8]) -> Result<(), redb::Error> {
    let mut stored = vec![0; CHECKSUM_BYTES];
    stored.extend_from_slice(value);
    table.seal(key, &mut stored);
    write.open_table(table.definition)?.insert(key, &*stored)?;
    Ok(())
}

fn check_format(read: &ReadTransaction, path: &Path) -> Result<(), OpenError> {
    let found = stored_format(read).map_err(|error| OpenError::Foreign { path: path.to_owned(), error })?;
    if found == FORMAT_VERSION {
        return Ok(());
    }
    Err(OpenError::Format { path: path.to_owned(), found, supported: FORMAT_VERSION })
}

fn stored_format(read: &ReadTransaction) -> Result<u32, String> {
    let text = |error: redb::Error| error.to_string();
    let meta = read.open_table(META.definition).map_err(|error| text(error.into()))?;
    let stored = meta.get(META_FORMAT).map_err(|error| text(error.into()))?;
    let stored = stored.ok_or("it names no format version")?;
    let value = META.verify(META_FORMAT, stored.value()).map_err(|error| error.to_string())?;
    Ok(u32::from_le_bytes(value.try_into().map_err(|_| "its format version is no number")?))
}

fn recover(read: &ReadTransaction) -> Result<Recovered, ReadError> {
    let next_subscription = meta_number(read, META_NEXT_SUBSCRIPTION)?;
    let next_subscription = u32::try_from(next_subscription)
        .map_err(|_| META.damaged(META_NEXT_SUBSCRIPTION, "it is no subscription's id"))?;
    let next_scheduled = meta_number(read, META_NEXT_SCHEDULED)?;

    let mut topics = Vec::new();
    reader::for_each(read, &TOPICS, .., |key, value| {
        let expected = TopicId(topics.len() as u32);
        if key != tables::topic_key(expected) {
            return Err(TOPICS.damaged(&tables::topic_key(expected), "it is missing"));
        }
        topics.push(rows::topic(expected, value).map_err(|error| TOPICS.damaged(key, error.0))?);
        Ok(())
    })?;
    let next_offset =
        topics.iter().filter(|topic| topic.last_sequence > 0).map(|topic| topic.last_offset + 1).max().unwrap_or(0);
    check_end(read, next_offset)?;

    let mut state_sizes = Vec::new();
    reader::for_each(read, &STATE_SIZES, .., |key, value| {
        let consumer = std::str::from_utf8(key).map_err(|_| STATE_SIZES.damaged(key, "its key is not UTF-8"))?;
        let size = rows::state_size(value).map_err(|error| STATE_SIZES.damaged(key, error.0))?;
        state_sizes.push((consumer.to_owned(), size));
        Ok(())
    })?;
    let subscriptions = subscriptions(read)?;
    Ok(Recovered {
        next_offset,
        next_subscription,
        next_scheduled,
        topics,
        state_sizes,
        subscriptions,
        known: Vec::new(),
    })
}

fn meta_number(read: &ReadTransaction, key: &[u8]) -> Result<u64, ReadError> {
    let io = reader::storage_error(&META);
    let meta = read.open_table(META.definition).map_err(|error| io(error.into()))?;
    let stored = meta.get(key).map_err(|error| io(error.into()))?;
    let stored = stored.ok_or_else(|| META.damaged(key, "it is missing"))?;
    let value = META.verify(key, stored.value())?;
    encoding::Decoder::new(value).number().map_err(|error| META.damaged(key, error.0))
}

pub(super) type StoredSubscription = (SubscriptionId, String, SubscriptionRecord, Position, Counts);

/// All subscriptions by id, with their accounts.
pub(super) fn subscriptions(read: &ReadTransaction) -> Result<Vec<StoredSubscription>, ReadError> {
    let io = reader::storage_error(&ACCOUNTS);
    let mut subscriptions = Vec::new();
    let accounts = read.open_table(ACCOUNTS.definition).map_err(|error| io(error.into()))?;
    reader::for_each(read, &SUBSCRIPTIONS, .., |key, value| {
        let damaged = |error: encoding::Malformed| SUBSCRIPTIONS.damaged(key, error.0);
        let id = key.try_into().map(u32::from_be_bytes).map_err(|_| SUBSCRIPTIONS.damaged(key, "its key is none"))?;
        let (name, record) = rows::subscription(value).map_err(damaged)?;
        let stored = accounts.get(key).map_err(|error| io(error.into()))?;
        let stored = stored.ok_or_else(|| ACCOUNTS.damaged(key, "it is missing"))?;
        let value = ACCOUNTS.verify(key, stored.value())?;
        let (position, counts) = rows::account(value).map_err(|error| ACCOUNTS.damaged(key, error.0))?;
        subscriptions.push((SubscriptionId(id), name, record, position, counts));
        Ok(())
    })?;
    Ok(subscriptions)
}

/// The last block, or a removed range behind it, must end where the topics say that the log does.
fn check_end(read: &ReadTransaction, next_offset: u64) -> Result<(), ReadError> {
    let io = reader::storage_error(&BLOCKS);
    let removed = read.open_table(REMOVED.definition).map_err(|error| io(error.into()))?;
    let removed = removed.last().map_err(|error| io(error.into()))?;
    let removed = removed.map_or(Ok(0), |(key, stored)| removed_end(key.value(), stored.value()))?;
    let blocks = read.open_table(BLOCKS.definition).map_err(|error| io(error.into()))?;
    let end = match blocks.last().map_err(|error| io(error.into()))? {
        None => 0,
        Some((key, stored)) => {
            let first = parse_offset_key(key.value()).ok_or_else(|| BLOCKS.damaged(key.value(), "its key is none"))?;
            // A block that is damaged within is named when it is read, and does not keep the rest from service.
            let Ok(value) = BLOCKS.verify(key.value(), stored.value()) else { return Ok(()) };
            let (header, _) = block::open(first, value).map_err(|error| BLOCKS.damaged(key.value(), error.0))?;
            header.end
        }
    };
    let end = end.max(removed);
    if end == next_offset { Ok(()) } else { Err(ReadError::Missing { offset: end.min(next_offset.saturating_sub(1)) }) }
}

fn bus_ids(read: &ReadTransaction) -> Result<Vec<(u64, Uuid)>, ReadError> {
    let mut ids = Vec::new();
    reader::for_each(read, &BUS_IDS, .., |key, value| {
        let from = parse_offset_key(key).ok_or_else(|| BUS_IDS.damaged(key, "its key is none"))?;
        let id = Uuid::from_slice(value).map_err(|_| BUS_IDS.damaged(key, "it is no UUID"))?;
        ids.push((from, id));
        Ok(())
    })?;
    match ids.first() {
        Some((0, _)) => Ok(ids),
        _ => Err(BUS_IDS.damaged(&offset_key(0), "it is missing")),
    }
}
