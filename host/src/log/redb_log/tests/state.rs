//! State: reads see what is sequenced, and stale reads conflict.

use super::*;
use crate::log::disk::faults::FakeDisk;
use crate::log::{StateRange, StateRead, StateWrite};

fn write(entries: &[(&str, Option<&str>)]) -> Txn {
    let writes = entries.iter().map(|(key, value)| StateWrite {
        consumer: "stock".into(),
        key: (*key).to_owned(),
        value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
    });
    Txn { writes: writes.collect(), ..Txn::default() }
}

fn scan(bench: &Bench, prefix: &str, after: Option<&str>, limit: usize) -> Vec<(String, String)> {
    let entries = bench.log.state_scan("stock", prefix, after, limit).unwrap().entries;
    entries.into_iter().map(|(key, value)| (key, String::from_utf8(value.to_vec()).unwrap())).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn state_is_seen_before_and_after_its_sync_and_over_a_restart() {
    let disk = FakeDisk::new();
    let bench = Bench::on(disk.backend());
    bench
        .commit(write(&[("a/1", Some("old")), ("a/2", Some("two")), ("a/4", Some("four")), ("b", Some("b"))]))
        .unwrap();
    let hold = disk.hold_syncs();
    bench
        .log
        .commit(write(&[("a/1", Some("new")), ("a/2", None), ("a/3", Some("three")), ("a/9", Some("nine"))]), None)
        .unwrap();
    disk.await_held_sync();
    let check = |bench: &Bench| {
        let get = |key: &str| bench.log.state_get("stock", key).unwrap().0;
        assert_eq!(get("a/1").as_deref(), Some(&b"new"[..]));
        assert_eq!(get("a/2"), None);
        assert_eq!(get("a/3").as_deref(), Some(&b"three"[..]));
        assert_eq!(get("b").as_deref(), Some(&b"b"[..]));
        let all = pairs(&[("a/1", "new"), ("a/3", "three"), ("a/4", "four"), ("a/9", "nine")]);
        assert_eq!(scan(bench, "a/", None, 10), all);
        for limit in 0..=4 {
            assert_eq!(scan(bench, "a/", None, limit), all[..limit]);
        }
        assert_eq!(scan(bench, "a/", Some("a/1"), 10), all[1..]);
        assert_eq!(scan(bench, "a/", Some("a/2"), 1), all[1..2]);
        assert_eq!(scan(bench, "a/", Some("A"), 10), all, "a place before the prefix is its beginning");
        assert_eq!(scan(bench, "a/", Some("b"), 10), []);
        assert_eq!(scan(bench, "", Some("a/9"), 10), pairs(&[("b", "b")]));
        assert_eq!(bench.log.state_scan("stoc", "k", None, 10).unwrap().entries, [], "consumers are apart");
    };
    check(&bench);
    drop(hold);
    bench.commit(Txn::default()).unwrap();
    check(&bench);
    drop(bench);
    check(&Bench::on(disk.backend()));
}

/// A transaction that stands on one read, after `between` was committed.
fn read_then(range: StateRange, between: &[(&str, Option<&str>)]) -> Result<Sequenced, CommitError> {
    let bench = Bench::new();
    bench.commit(write(&[("k/2", Some("2")), ("k/5", Some("5"))])).unwrap();
    let pin = bench.log.pin();
    let seen = bench.log.state_get("stock", "k/2").unwrap().1;
    bench.commit(write(between)).unwrap();
    let read = StateRead { consumer: "stock".into(), range, seen };
    let before = bench.log.end();
    let result = bench.commit(Txn { reads: vec![read], ..publish(events("order.placed", 1)) });
    assert_eq!(bench.log.end() - before, u64::from(result.is_ok()), "a conflict changes nothing");
    drop(pin);
    result
}

fn key(key: &str) -> StateRange {
    StateRange::Key(key.to_owned())
}

fn range(prefix: &str, after: Option<&str>, through: Option<&str>) -> StateRange {
    let own = |text: Option<&str>| text.map(str::to_owned);
    StateRange::Scan { prefix: prefix.to_owned(), after: own(after), through: own(through) }
}

#[test]
fn a_write_inside_what_was_read_is_a_conflict() {
    let conflicts = |range: StateRange, written: &str| read_then(range, &[(written, Some("x"))]).is_err();
    assert!(conflicts(key("k/2"), "k/2"));
    assert!(!conflicts(key("k/2"), "k/20"));
    assert!(conflicts(key("absent"), "absent"), "that a key is absent is also read");
    assert!(conflicts(range("k/", None, None), "k/3"), "a phantom");
    assert!(!conflicts(range("k/", None, None), "k"));
    assert!(!conflicts(range("k/", None, None), "l"));
    assert!(conflicts(range("k/", None, Some("k/5")), "k/5"));
    assert!(!conflicts(range("k/", None, Some("k/5")), "k/50"), "past where the scan was cut");
    assert!(!conflicts(range("k/", Some("k/2"), None), "k/2"), "before where the scan began");
    assert!(conflicts(range("k/", Some("k/2"), None), "k/20"));
    let removal = read_then(range("k/", None, None), &[("k/5", None)]);
    assert_eq!(removal.unwrap_err(), CommitError::Conflict { consumer: "stock".to_owned() });
}

#[test]
fn a_pin_that_outlives_the_log_does_no_harm() {
    let bench = Bench::new();
    let pin = bench.log.pin();
    drop(bench);
    drop(pin);
}
