//! A full disk, a broken disk, and what each leaves behind.

use super::*;
use crate::log::disk::FolderError;
use crate::log::disk::faults::FakeDisk;
use crate::log::redb_log::OpenError;

/// Publishes until the log fails. Answers what was promised, and how it failed.
fn publish_until_failed(bench: &Bench, bytes: usize) -> (Vec<Offset>, LogFailure) {
    let mut promised = Vec::new();
    loop {
        let (waiter, synced) = oneshot::channel();
        match bench.log.commit(publish(vec![sized("order.placed", "id", bytes)]), Some(waiter)) {
            Ok(sequenced) if synced.blocking_recv().is_ok() => promised.push(sequenced.placed[0].message().unwrap().0),
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error, CommitError::Stopped);
                break;
            }
        }
    }
    loop {
        if let Told::Failed(failure) = bench.told.recv().unwrap() {
            return (promised, failure);
        }
    }
}

#[test]
fn a_full_disk_discards_what_is_not_synced_and_is_opened_again() {
    let disk = FakeDisk::new();
    let bench = Bench::on(disk.backend());
    bench.publish(events("order.placed", 1));
    disk.limit_room(Some(disk.len() + 3_000_000));
    let (mut promised, failure) = publish_until_failed(&bench, 200_000);
    assert!(matches!(failure, LogFailure::Full { .. }), "{failure}");
    assert!(!promised.is_empty());
    promised.insert(0, 0);
    let folder = bench.folder.clone();
    drop(bench);

    disk.limit_room(None);
    let log = crate::log::redb_log::open::open(&options(&folder), Some(disk.backend())).unwrap();
    let bench = Bench::start(log, folder);
    let stored = bench.offsets("order.placed", 0, WIDE);
    assert!(stored.len() >= promised.len());
    assert_eq!(stored[..promised.len()], promised);
    assert_eq!(bench.publish(events("order.placed", 1)), [stored.len() as u64]);
}

#[test]
fn a_failed_sync_answers_nobody_and_leaves_a_marker() {
    let disk = FakeDisk::new();
    let bench = Bench::on(disk.backend());
    bench.publish(events("order.placed", 3));
    disk.fail_syncs();
    let (promised, failure) = publish_until_failed(&bench, 10);
    assert!(promised.is_empty());
    assert!(matches!(&failure, LogFailure::Broken { error, .. } if error.contains("cannot be synced")), "{failure}");
    assert_eq!(bench.log.end(), 3, "what is not synced is not visible");
    let folder = bench.folder.clone();
    let syncs = disk.syncs();
    drop(bench);
    assert_eq!(disk.syncs(), syncs, "a failed sync is not tried again");

    let open = |change: fn(&mut OpenOptions)| {
        let mut options = options(&folder);
        change(&mut options);
        RedbLog::open(&options)
    };
    match open(|_| {}) {
        Err(OpenError::Folder(FolderError::FailedSync { error, .. })) => assert!(error.contains("cannot be synced")),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("the marker is ignored"),
    }
    drop(open(|options| options.accept_unsynced = true).unwrap());
    drop(open(|_| {}).expect("the marker is gone once it was accepted"));
}

#[test]
fn the_marker_of_an_earlier_boot_is_no_obstacle() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("failed-sync"), "another-boot\nEIO").unwrap();
    drop(RedbLog::open(&options(&folder)).unwrap());
    let marker = std::fs::read(folder.path().join("failed-sync")).unwrap();
    assert!(marker.iter().all(|byte| *byte == 0) && !marker.is_empty(), "it is preallocated and empty");
}

#[test]
fn a_read_that_fails_ends_the_service() {
    let disk = FakeDisk::new();
    let bench = Bench::on(disk.backend());
    for _ in 0..40 {
        bench.publish(vec![sized("order.placed", "id", 200_000)]);
    }
    let folder = bench.folder.clone();
    drop(bench);
    let mut options = options(&folder);
    // No page is cached, so that a read has to reach the disk.
    options.cache_bytes = 0;
    let log = crate::log::redb_log::open::open(&options, Some(disk.backend())).unwrap();
    let bench = Bench::start(log, folder);
    disk.fail_reads();
    let error = bench.log.read(&selection(">"), 0, WIDE).unwrap_err();
    assert!(matches!(error, crate::log::ReadError::Io { .. }), "{error}");
    match bench.told.recv().unwrap() {
        Told::Failed(LogFailure::Broken { error, .. }) => assert!(error.contains("cannot be read"), "{error}"),
        told => panic!("{told:?}"),
    }
    assert_eq!(bench.log.commit(publish(events("order.placed", 1)), None).unwrap_err(), CommitError::Stopped);
}

#[test]
fn below_the_watermark_only_what_comes_from_outside_is_refused() {
    let bench = Bench::with(|options| options.free_bytes_min = u64::MAX);
    let error = bench.log.commit(publish(events("order.placed", 1)), None).unwrap_err();
    assert!(matches!(error, CommitError::NoRoom { min_bytes: u64::MAX, free_bytes } if free_bytes > 0), "{error}");
    assert!(!bench.log.figures().accepting);
    bench.commit(Txn { outside: false, ..publish(events("order.placed", 1)) }).unwrap();
    assert_eq!(bench.log.end(), 1);
}

#[test]
fn the_reserve_is_there_in_full_and_comes_back() {
    let bench = Bench::with(|options| options.reserve_bytes = 300_000);
    let path = bench.folder.path().join("reserve");
    let blocks = |path: &std::path::Path| std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(path).unwrap());
    assert!(blocks(&path) * 512 >= 300_000, "it holds space, and is not sparse");
    assert!(bench.log.figures().accepting);
    bench.publish(events("order.placed", 1));
    std::fs::remove_file(&path).unwrap();
    let bench = bench.reopen_with(|options| options.reserve_bytes = 300_000);
    assert!(blocks(&path) * 512 >= 300_000);
    bench.publish(events("order.placed", 1));
}

#[test]
fn the_reserve_is_given_up_when_the_disk_is_full() {
    let disk = FakeDisk::new();
    let folder = Arc::new(TempDir::new().unwrap());
    let mut options = options(&folder);
    options.reserve_bytes = 300_000;
    let log = crate::log::redb_log::open::open(&options, Some(disk.backend())).unwrap();
    let bench = Bench::start(log, folder);
    let path = bench.folder.path().join("reserve");
    assert!(path.exists());
    disk.limit_room(Some(disk.len()));
    let (_, failure) = publish_until_failed_or_refused(&bench);
    assert!(matches!(failure, LogFailure::Full { .. }), "{failure}");
    assert!(!path.exists(), "its space went back to the disk");
    let error = bench.log.commit(publish(events("order.placed", 1)), None).unwrap_err();
    assert!(matches!(error, CommitError::NoRoom { .. }), "{error}");
}

/// As [`publish_until_failed`], for transactions from inside, which no watermark refuses.
fn publish_until_failed_or_refused(bench: &Bench) -> (usize, LogFailure) {
    let mut synced_count = 0;
    loop {
        let (waiter, synced) = oneshot::channel();
        let txn = Txn { outside: false, ..publish(vec![sized("order.placed", "id", 200_000)]) };
        match bench.log.commit(txn, Some(waiter)) {
            Ok(_) => synced_count += usize::from(synced.blocking_recv().is_ok()),
            Err(error) => {
                assert_eq!(error, CommitError::Stopped);
                break;
            }
        }
    }
    loop {
        if let Told::Failed(failure) = bench.told.recv().unwrap() {
            return (synced_count, failure);
        }
    }
}

#[test]
fn publishers_wait_where_too_much_is_unsynced() {
    let disk = FakeDisk::new();
    let folder = Arc::new(TempDir::new().unwrap());
    let mut options = options(&folder);
    options.unsynced_bytes_max = 100_000;
    let log = crate::log::redb_log::open::open(&options, Some(disk.backend())).unwrap();
    let bench = Bench::start(log, folder);
    let hold = disk.hold_syncs();
    let send = |outside: bool| {
        let txn = Txn { outside, ..publish(vec![sized("order.placed", "id", 30_000)]) };
        bench.log.commit(txn, None)
    };
    let outside = (0..10).map_while(|_| send(true).ok()).count();
    assert_eq!(outside, 3);
    assert!(matches!(send(true).unwrap_err(), CommitError::Busy { unsynced_bytes } if unsynced_bytes > 90_000));
    let inside = (0..10).map_while(|_| send(false).ok()).count();
    assert_eq!(inside, 3, "effects have as much again");
    bench.log.commit(subscribe("email"), None).expect("what only settles or changes is not held up");
    drop(hold);
    bench.commit(Txn::default()).unwrap();
    assert_eq!(bench.log.figures().unsynced_bytes, 0);
    send(true).unwrap();
}
