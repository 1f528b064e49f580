use rustix::io::Errno;
use tempfile::TempDir;

use super::*;

/// Answers everything with one error.
#[derive(Debug)]
struct Failing(Errno);

impl StorageBackend for Failing {
    fn len(&self) -> io::Result<u64> {
        Err(self.0.into())
    }
    fn read(&self, _offset: u64, _out: &mut [u8]) -> io::Result<()> {
        Err(self.0.into())
    }
    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(self.0.into())
    }
    fn sync_data(&self) -> io::Result<()> {
        Err(self.0.into())
    }
    fn write(&self, _offset: u64, _data: &[u8]) -> io::Result<()> {
        Err(self.0.into())
    }
}

/// What the disk reports after one failing access, and whether it left a marker.
fn after(errno: Errno, access: impl Fn(&Disk) -> io::Result<()>) -> (Option<LogFailure>, bool) {
    let folder = TempDir::new().unwrap();
    let folder = DataFolder::prepare(folder.path(), BootId::current()).unwrap();
    let state = DiskState::new(folder.clone());
    state.serving();
    let disk = Disk::new(Box::new(Failing(errno)), state.clone());
    assert!(access(&disk).is_err());
    (state.reported(), folder.check_marker(false).is_err())
}

#[test]
fn want_of_room_is_known_from_writes_and_growth_alone() {
    for errno in [Errno::NOSPC, Errno::DQUOT, Errno::FBIG] {
        for access in [|disk: &Disk| disk.write(0, b"x"), |disk: &Disk| disk.set_len(9)] {
            let (failure, marked) = after(errno, access);
            assert!(matches!(failure, Some(LogFailure::Full { .. })), "{errno}: {failure:?}");
            assert!(!marked, "{errno}: a full disk is no broken one");
        }
        let (failure, marked) = after(errno, Disk::sync_data);
        assert!(matches!(failure, Some(LogFailure::Broken { .. })), "{errno} from a sync: {failure:?}");
        assert!(marked);
    }
}

#[test]
fn every_other_error_breaks_the_disk() {
    let accesses: [fn(&Disk) -> io::Result<()>; 4] =
        [|disk| disk.write(0, b"x"), |disk| disk.set_len(9), |disk| disk.sync_data(), |disk| disk.read(0, &mut [0; 4])];
    for access in accesses {
        let (failure, marked) = after(Errno::IO, access);
        assert!(matches!(failure, Some(LogFailure::Broken { .. })), "{failure:?}");
        assert!(marked);
    }
}

#[test]
fn nothing_reaches_a_broken_disk() {
    let folder = TempDir::new().unwrap();
    let state = DiskState::new(DataFolder::prepare(folder.path(), BootId::current()).unwrap());
    let fake = faults::FakeDisk::recording();
    let disk = Disk::new(fake.backend(), state.clone());
    disk.write(0, b"before").unwrap();
    fake.fail_syncs();
    assert!(disk.sync_data().is_err());
    assert!(disk.write(0, b"after!").is_err() && disk.set_len(0).is_err() && disk.sync_data().is_err());
    assert_eq!(fake.step_count(), 1);
    assert!(state.is_broken());
}
