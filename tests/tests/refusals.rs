//! What the bus refuses to start with: each is one clear message that says what is wrong, where, and what
//! to do.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use sandpost_tests::{Daemon, Exit, Setup, skipped};

/// It ended with this code, and said all of this in a few lines.
#[track_caller]
fn says(exit: &Exit, code: i32, texts: &[&str]) {
    assert_eq!(exit.code, Some(code), "{exit}");
    for text in texts {
        assert!(exit.stderr.contains(text), "`{text}` is not in: {exit}");
    }
    assert!(exit.stderr.lines().count() <= 3, "one message: {exit}");
    assert!(!exit.stderr.contains("panicked"), "{exit}");
    assert_eq!(exit.stdout, "", "scripts read only what serves");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary names are plain")
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is the test's own");
}

#[test]
fn a_port_in_use() {
    let first = Daemon::setup().start();
    let address = first.address().trim_start_matches("http://").to_owned();
    let second = Daemon::setup().listen(&address);
    says(&second.refused(), 1, &[&address, "in use", "--listen"]);
    assert!(!second.data_folder().exists(), "nothing was begun");
}

#[test]
fn an_address_that_others_can_reach() {
    says(&Daemon::setup().listen("0.0.0.0:0").refused(), 2, &["--listen", "0.0.0.0:0", "127.0.0.1"]);
    says(&Daemon::setup().listen("nowhere").refused(), 2, &["--listen", "nowhere", "127.0.0.1:7480"]);
}

#[test]
fn a_data_folder_of_another_process() {
    let mut first = Daemon::setup().start();
    first.publish("orders", None, "{}");
    let second = Daemon::setup().data(first.data_folder());
    says(&second.refused(), 1, &[text(&first.data_folder()), "in use by another process", "another folder"]);
    // The first one has not noticed, and leaves the folder to others when it is gone.
    first.publish("orders", None, "{}");
    first.kill();
    let second = second.start();
    assert_eq!(second.messages("orders").len(), 2);
}

#[test]
fn a_data_folder_that_cannot_be_written() {
    let setup = Daemon::setup();
    let data = setup.data_folder();
    std::fs::create_dir(&data).expect("it is the test's own");
    chmod(&data, 0o500);
    // Root may write to it all the same, but not where the file system is read-only.
    let setup = if rustix::process::geteuid().is_root() {
        let script = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && shift && exec \"$@\"";
        setup.wrapped(&["unshare", "--mount", "sh", "-c", script, "sh", text(&data)])
    } else {
        setup
    };
    let exit = setup.refused();
    if exit.stderr.starts_with("unshare:") || exit.stderr.starts_with("mount:") {
        return skipped("a_data_folder_that_cannot_be_written", &exit.stderr);
    }
    says(&exit, 1, &[text(&data), "not writable", "user"]);
}

#[test]
fn folders_that_everybody_can_write_to() {
    let setup = Daemon::setup();
    let data = setup.data_folder();
    std::fs::create_dir(&data).expect("it is the test's own");
    chmod(&data, 0o777);
    says(&setup.refused(), 1, &[text(&data), "chmod o-w"]);
    chmod(&data, 0o755);
    let plugins = setup.plugin_folder();
    chmod(&plugins, 0o777);
    says(&setup.refused(), 1, &[text(&plugins), "chmod o-w"]);
    chmod(&plugins, 0o755);
    setup.start();
}

#[test]
fn files_where_folders_should_be() {
    let setup = Daemon::setup();
    std::fs::write(setup.data_folder(), "a file").expect("it is the test's own");
    says(&setup.refused(), 1, &[text(&setup.data_folder()), "not a folder"]);
    std::fs::remove_file(setup.data_folder()).expect("it is there");
    std::fs::remove_dir(setup.plugin_folder()).expect("it is empty");
    std::fs::write(setup.plugin_folder(), "a file").expect("it is the test's own");
    says(&setup.refused(), 1, &[text(&setup.plugin_folder()), "not a folder"]);
}

#[test]
fn folders_that_are_made_belong_to_their_owner() {
    let mut bus = Daemon::setup().start();
    bus.publish("orders", None, "{}");
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").mode() & 0o777;
    assert_eq!(mode(&bus.data_folder()), 0o700);
    for entry in std::fs::read_dir(bus.data_folder()).expect("it is the test's own") {
        let path = entry.expect("it can be listed").path();
        assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
    }
    bus.kill();
}

#[test]
fn a_file_that_is_no_log() {
    let setup = Daemon::setup();
    std::fs::create_dir(setup.data_folder()).expect("it is the test's own");
    let log = setup.data_folder().join("log.redb");
    let foreign = vec![b'x'; 100_000];
    std::fs::write(&log, &foreign).expect("it is the test's own");
    says(&setup.refused(), 1, &[text(&log), "not a Sandpost log"]);
    assert_eq!(std::fs::read(&log).expect("it is there"), foreign, "it is left alone");
}

#[test]
fn a_log_that_was_damaged_before_it_could_be_closed() {
    let mut bus = Daemon::setup().start();
    bus.publish("texts", None, "\"marked for damage\"");
    // Large ones, which are not packed together with it; and several, so that it is in every state of the
    // file that could be gone back to.
    for _ in 0..3 {
        bus.publish("padding", None, serde_json::json!("x".repeat(600_000)));
    }
    bus.kill();
    let log = bus.data_folder().join("log.redb");
    let mut bytes = std::fs::read(&log).expect("it is the test's own");
    let mark = b"marked for damage";
    let at: Vec<_> = (0..bytes.len() - mark.len()).filter(|at| bytes[*at..].starts_with(mark)).collect();
    assert!(!at.is_empty(), "data is stored as it is");
    at.iter().for_each(|at| bytes[*at] ^= 1);
    std::fs::write(&log, bytes).expect("it is the test's own");
    // It is checked as a whole, for it was not closed.
    let exit = bus.restart_refused();
    assert_eq!(exit.code, Some(1), "{exit}");
    assert!(exit.stderr.contains(text(&log)) && exit.stderr.contains("damaged"), "{exit}");
    assert!(!exit.stderr.contains("not a Sandpost log"), "{exit}");
}

/// Writes another format version into a log, as another version of the bus would have.
fn set_format(log: &Path, version: u32) {
    const META: redb::TableDefinition<&[u8], &[u8]> = redb::TableDefinition::new("meta");
    let database = redb::Database::open(log).expect("the bus is gone");
    let write = database.begin_write().expect("nobody else writes");
    let value = version.to_le_bytes();
    let seed = xxhash_rust::xxh3::xxh3_64_with_seed(b"format", xxhash_rust::xxh3::xxh3_64(b"meta"));
    let checksum = xxhash_rust::xxh3::xxh3_64_with_seed(&value, seed);
    let stored = [&checksum.to_le_bytes()[..], &value].concat();
    write.open_table(META).expect("it is a log").insert(&b"format"[..], &*stored).expect("it can be written");
    write.commit().expect("it can be written");
}

#[test]
fn a_log_of_another_version() {
    let mut bus = Daemon::setup().start();
    bus.publish("orders", None, "{}");
    bus.terminate().success();
    let log = bus.data_folder().join("log.redb");
    for version in [0, 1, 77] {
        set_format(&log, version);
        says(&bus.restart_refused(), 1, &[text(&log), &format!("version {version}"), "version 2"]);
    }
    set_format(&log, 2);
    bus.restart();
    assert_eq!(bus.messages("orders").len(), 1);
}

#[test]
fn settings_that_mean_nothing() {
    let with = |flag: &str, value: &str| Daemon::setup().flag(flag, value).refused();
    says(&with("--workers", "0"), 2, &["--workers", "\"0\"", "from 1"]);
    says(&with("--message-data-max", "9GiB"), 2, &["--message-data-max", "9GiB", "8MiB"]);
    says(&with("--min-free", "1MiB"), 2, &["--min-free", "reserve"]);
    says(&with("--log-format", "xml"), 2, &["--log-format", "json"]);
    says(&Daemon::setup().variable("SANDPOST_WORKERS", "many").refused(), 2, &["SANDPOST_WORKERS", "many"]);
    let file = |content: &str| -> Exit {
        let setup = Daemon::setup();
        std::fs::write(setup.folder().join("sandpost.toml"), content).expect("it is the test's own");
        setup.refused()
    };
    says(&file("worker = 1"), 2, &["sandpost.toml", "`worker`", "`workers`"]);
    says(&file("workers = \"a few\""), 2, &["sandpost.toml", "`workers`", "a few"]);
    says(&file("[limits]\nreserv = 1"), 2, &["sandpost.toml", "`limits.reserv`", "`limits.reserve`"]);
    assert_eq!(file("workers = ").code, Some(2));
    let missing = Daemon::setup().flag("--config", "missing.toml").refused();
    says(&missing, 2, &["missing.toml"]);
    let unknown = Daemon::setup().flag("--wrokers", "2").refused();
    assert_eq!(unknown.code, Some(2), "{unknown}");
    assert!(unknown.stderr.contains("--workers"), "{unknown}");
}

#[test]
fn commands_without_a_bus() {
    let setup: Setup = Daemon::setup();
    let exit = setup.cli(&["topics", "--bus", "http://127.0.0.1:1"]);
    says(&exit, 4, &["http://127.0.0.1:1", "sandpost serve"]);
    let exit = setup.cli(&["topics", "--bus", "somewhere"]);
    says(&exit, 2, &["somewhere", "http://127.0.0.1:7480"]);
    let json = setup.cli(&["--json", "topics", "--bus", "http://127.0.0.1:1"]);
    assert_eq!(json.code, Some(4));
    let document: serde_json::Value = serde_json::from_str(&json.stderr).expect("scripts read this");
    assert!(document["detail"].is_string(), "{document}");
}
