//! Giving free space back to the disk. What is freed in the file is used again by what comes next, so a file
//! is as large as the log ever was, until somebody compacts it.
//!
//! That needs the file for itself, so it happens where no bus runs on it, or before one does.

use redb::{CompactionError, Database};

use super::open::{open_file, storage_failure};
use super::{OpenError, OpenOptions};
use crate::log::TopicInfo;
use crate::log::disk::{BootId, DataFolder, DiskState};

/// What became of the file, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    pub before_bytes: u64,
    pub after_bytes: u64,
}

pub(super) fn compact(options: &OpenOptions) -> Result<Compacted, OpenError> {
    if !options.folder.join("log.redb").exists() {
        return Err(OpenError::Absent { folder: options.folder.clone() });
    }
    let folder = DataFolder::prepare(&options.folder, BootId::current())?;
    let before_bytes = file_bytes(&folder);
    // What opening does by itself is not to be done twice.
    let options = OpenOptions { compact_bytes_min: u64::MAX, ..options.clone() };
    let opened = open_file(&options, &folder)?;
    let (mut database, disk) = (opened.database, opened.disk);
    drop(opened.read);
    database.compact().map_err(|error| failed(&folder, &disk, error))?;
    // Closing writes as well.
    drop(database);
    Ok(Compacted { before_bytes, after_bytes: file_bytes(&folder) })
}

/// Compacts a file that is large and mostly free. Nothing else has it open.
pub(super) fn compact_if_worth_it(
    database: &mut Database,
    options: &OpenOptions,
    folder: &DataFolder,
    disk: &DiskState,
    topics: &[TopicInfo],
) -> Result<(), OpenError> {
    let bytes = file_bytes(folder);
    // What is in use is counted by looking at all of it, so a file is looked at only where that is not much.
    let messages: u64 = topics.iter().map(|topic| topic.bytes).sum();
    if bytes < options.compact_bytes_min || messages > bytes / 2 {
        return Ok(());
    }
    let used = used_bytes(database).map_err(|error| storage_failure(disk, error, &folder.log_path()))?;
    if used > bytes / 2 {
        return Ok(());
    }
    tracing::info!(file_bytes = bytes, used_bytes = used, "much of the log's file is free: compacting it");
    database.compact().map_err(|error| failed(folder, disk, error))?;
    tracing::info!(file_bytes = file_bytes(folder), "the log's file is compacted");
    Ok(())
}

fn used_bytes(database: &Database) -> Result<u64, redb::Error> {
    let write = database.begin_write()?;
    let stats = write.stats()?;
    write.abort()?;
    Ok(stats.allocated_pages() * stats.page_size() as u64)
}

fn file_bytes(folder: &DataFolder) -> u64 {
    std::fs::metadata(folder.log_path()).map_or(0, |metadata| metadata.len())
}

fn failed(folder: &DataFolder, disk: &DiskState, error: CompactionError) -> OpenError {
    let error = match error {
        CompactionError::Storage(error) => error.into(),
        error => unreachable!("nothing else has the file open: {error}"),
    };
    storage_failure(disk, error, &folder.log_path())
}
