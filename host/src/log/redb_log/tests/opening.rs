//! Opening a data folder: what is refused, and how it is said.

use std::os::unix::fs::PermissionsExt;

use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend};

use super::*;
use crate::log::disk::FolderError;
use crate::log::disk::faults::FakeDisk;
use crate::log::redb_log::OpenError;
use crate::log::redb_log::tables::{ALL, CHECKSUM_BYTES, META, META_FORMAT};

fn refusal(options: &OpenOptions) -> OpenError {
    match RedbLog::open(options) {
        Ok(_) => panic!("it is opened"),
        Err(error) => error,
    }
}

#[test]
fn the_folder_is_made_for_its_owner_alone() {
    let parent = TempDir::new().unwrap();
    let folder = parent.path().join("a/b");
    drop(RedbLog::open(&OpenOptions { folder: folder.clone(), ..options(&parent) }).unwrap());
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for file in ["log.redb", "failed-sync"] {
        assert_eq!(mode(&folder.join(file)), 0o600, "{file}");
    }
}

#[test]
fn a_folder_that_anybody_may_write_to_is_refused() {
    let folder = TempDir::new().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o757)).unwrap();
    let error = refusal(&options(&folder));
    assert!(matches!(error, OpenError::Folder(FolderError::WorldWritable { mode: 0o757, .. })), "{error}");
    assert!(error.to_string().contains("chmod o-w"), "{error}");
}

#[test]
fn a_file_is_no_folder() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "text").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = refusal(&OpenOptions { folder: path, ..options(&folder) });
        assert!(matches!(error, OpenError::Folder(FolderError::NotFolder { .. })), "{error}");
    }
}

#[test]
fn a_folder_in_use_is_refused_until_it_is_free() {
    let bench = Bench::new();
    let error = refusal(&options(&bench.folder));
    assert!(matches!(error, OpenError::Folder(FolderError::Locked { .. })), "{error}");
    assert!(error.to_string().contains(&bench.folder.path().display().to_string()), "{error}");
    bench.publish(events("order.placed", 1));
    assert_eq!(bench.reopen().log.end(), 1);
}

#[test]
fn files_that_are_no_log_are_named() {
    for content in [b"x".to_vec(), vec![7; 100], vec![0; 10_000], b"PK\x03\x04".repeat(5_000)] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("log.redb");
        std::fs::write(&path, &content).unwrap();
        let error = refusal(&options(&folder));
        assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
        assert!(error.to_string().contains("log.redb"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), content, "what is not ours is not touched");
    }
}

#[test]
fn another_redb_file_is_no_log() {
    let folder = TempDir::new().unwrap();
    let database = Database::create(folder.path().join("log.redb")).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(redb::TableDefinition::<u64, u64>::new("theirs")).unwrap();
    write.commit().unwrap();
    drop(database);
    let error = refusal(&options(&folder));
    assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
}

#[test]
fn another_format_version_is_refused_by_name() {
    let bench = Bench::new();
    let Bench { log, folder, .. } = bench;
    drop(log);
    for version in [0u32, 1, 77] {
        let database = Database::create(folder.path().join("log.redb")).unwrap();
        let write = database.begin_write().unwrap();
        let mut stored = vec![0; CHECKSUM_BYTES];
        stored.extend_from_slice(&version.to_le_bytes());
        META.seal(META_FORMAT, &mut stored);
        write.open_table(META.definition).unwrap().insert(META_FORMAT, &*stored).unwrap();
        write.commit().unwrap();
        drop(database);
        let error = refusal(&options(&folder));
        assert!(matches!(error, OpenError::Format { found, supported: 2, .. } if found == version), "{error}");
        assert!(error.to_string().contains(&format!("version {version};")), "{error}");
    }
}

/// Changes every stored value of a table by one bit, with the file closed.
fn damage(folder: &TempDir, name: &'static str) -> usize {
    damage_where(folder, name, |_| true)
}

/// Changes the stored values whose keys are chosen. Answers how many there were.
pub(super) fn damage_where(folder: &TempDir, name: &'static str, chosen: impl Fn(&[u8]) -> bool) -> usize {
    let database = Database::create(folder.path().join("log.redb")).unwrap();
    let table = ALL.into_iter().find(|table| table.name == name).unwrap();
    let read = database.begin_read().unwrap();
    let rows: Vec<(Vec<u8>, Vec<u8>)> = read
        .open_table(table.definition)
        .unwrap()
        .iter()
        .unwrap()
        .map(|row| row.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())).unwrap())
        .filter(|(key, _)| chosen(key))
        .collect();
    drop(read);
    let write = database.begin_write().unwrap();
    for (key, value) in &rows {
        let mut damaged = value.clone();
        *damaged.last_mut().unwrap() ^= 1;
        write.open_table(table.definition).unwrap().insert(&**key, &*damaged).unwrap();
    }
    write.commit().unwrap();
    rows.len()
}

#[test]
fn damage_is_named_by_table_and_place() {
    // With a row in every table that a start reads.
    let filled = || {
        let bench = Bench::new();
        bench.subscribe("email");
        bench.publish(events("order.placed", 3));
        let Bench { log, folder, .. } = bench;
        log.close();
        folder
    };
    for name in ["bus_ids", "topics", "subscriptions", "accounts"] {
        let folder = filled();
        assert!(damage(&folder, name) > 0);
        let error = refusal(&options(&folder));
        assert!(matches!(error, OpenError::Damaged { .. }), "{name}: {error}");
        assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
    }
    // A damaged format version is no other version.
    let folder = filled();
    damage(&folder, "meta");
    assert!(matches!(refusal(&options(&folder)), OpenError::Foreign { .. }));
}

#[test]
fn a_damaged_block_is_named_and_the_rest_is_served() {
    let bench = Bench::new();
    bench.publish(events("order.placed", 3));
    let Bench { log, folder, .. } = bench;
    log.close();
    drop(log);
    assert_eq!(damage(&folder, "blocks"), 1);
    let bench = Bench::start(RedbLog::open(&options(&folder)).unwrap(), folder);
    let errors = [
        bench.log.read(&selection(">"), 1, WIDE).unwrap_err(),
        bench.log.read_offsets(&[2]).unwrap_err(),
        bench.log.offset_at(1).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.to_string(), "damaged: the block at offset 0: its checksum does not match in table `blocks`");
    }
    bench.publish(events("order.placed", 2));
    assert_eq!(bench.offsets("order.placed", 3, WIDE), [3, 4]);
}

#[test]
fn a_missing_block_is_an_error_and_no_gap() {
    let bench = Bench::new();
    for _ in 0..3 {
        bench.publish(events("order.placed", 2));
    }
    let Bench { log, folder, .. } = bench;
    log.close();
    drop(log);
    let remove = |first: u64| {
        let database = Database::create(folder.path().join("log.redb")).unwrap();
        let write = database.begin_write().unwrap();
        let table = ALL.into_iter().find(|table| table.name == "blocks").unwrap();
        assert!(write.open_table(table.definition).unwrap().remove(&first.to_be_bytes()[..]).unwrap().is_some());
        write.commit().unwrap();
    };
    remove(2);
    let log = RedbLog::open(&options(&folder)).unwrap();
    assert_eq!(log.read(&selection(">"), 0, WIDE).unwrap_err(), crate::log::ReadError::Missing { offset: 2 });
    assert_eq!(log.read_offsets(&[1, 2]).unwrap_err(), crate::log::ReadError::Missing { offset: 2 });
    drop(log);
    remove(4);
    let error = refusal(&options(&folder));
    assert!(error.to_string().contains("the message at offset 2 is missing"), "{error}");
}

#[test]
fn what_was_left_in_the_page_cache_is_synced_before_it_is_served() {
    let disk = FakeDisk::new();
    drop(Bench::on(disk.backend()));
    disk.fail_syncs();
    let folder = TempDir::new().unwrap();
    let opened = super::super::open::open(&options(&folder), Some(disk.backend()));
    assert!(matches!(opened, Err(OpenError::Failed(LogFailure::Broken { .. }))));
    let syncing: Box<dyn StorageBackend> = FakeDisk::new().backend();
    let error = match super::super::open::open(&options(&folder), Some(syncing)) {
        Ok(_) => panic!("the marker is ignored"),
        Err(error) => error,
    };
    assert!(matches!(error, OpenError::Folder(FolderError::FailedSync { .. })), "{error}");
}

#[test]
fn a_log_that_was_cut_off_while_it_was_begun_is_begun_again() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("log.redb.new"), vec![3; 9_000]).unwrap();
    let bench = Bench::start(RedbLog::open(&options(&folder)).unwrap(), Arc::new(folder));
    bench.publish(events("order.placed", 1));
    assert!(!bench.folder.path().join("log.redb.new").exists());
    assert_eq!(bench.reopen().log.end(), 1);
}
