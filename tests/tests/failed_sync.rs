//! A disk that fails to sync: the bus stops, acknowledges nothing more, and does not start again as if
//! nothing had happened.

use std::path::{Path, PathBuf};
use std::process::Command;

use sandpost_tests::{Daemon, Ledger, skipped};
use serde_json::json;

/// A library that makes every sync of the process fail from the moment in which a file is there.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int fails(void) {
    const char *path = getenv("FAIL_SYNCS_WHILE");
    return path && access(path, F_OK) == 0;
}

int fdatasync(int file) {
    if (fails()) { errno = EIO; return -1; }
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return next(file);
}

int fsync(int file) {
    if (fails()) { errno = EIO; return -1; }
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return next(file);
}
"#;

/// Compiles the library, or says why not.
fn shim(folder: &Path) -> Result<PathBuf, String> {
    let (source, library) = (folder.join("shim.c"), folder.join("shim.so"));
    std::fs::write(&source, SHIM).expect("the folder is the test's own");
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-ldl");
    match command.output() {
        Ok(output) if output.status.success() => Ok(library),
        Ok(output) => Err(format!("cc: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(format!("cc cannot be run: {error}")),
    }
}

#[test]
fn it_ends_and_stays_down_until_somebody_decides() {
    let setup = Daemon::setup();
    let library = match shim(setup.folder()) {
        Ok(library) => library,
        Err(why) => return skipped("it_ends_and_stays_down_until_somebody_decides", &why),
    };
    let fails = setup.folder().join("syncs-fail");
    let path = |path: &Path| path.to_str().expect("temporary names are plain").to_owned();
    let setup = setup.variable("LD_PRELOAD", &path(&library)).variable("FAIL_SYNCS_WHILE", &path(&fails));
    let mut bus = setup.start();
    let ledger = Ledger::new();
    let client = bus.client();
    let publish = || ledger.publish(&client, "orders", None, json!({ "some": "order" }).to_string());
    for _ in 0..100 {
        assert!(publish(), "the disk does its work");
    }
    std::fs::write(&fails, "").expect("the folder is the test's own");
    assert!(!publish(), "what is not synced is not acknowledged");
    let exit = bus.ends();
    assert_eq!(exit.code, Some(1), "{exit}");
    assert!(exit.stderr.contains("log.redb") && exit.stderr.contains("disk"), "{exit}");
    for refusal in ledger.refusals() {
        refusal.problem(503, "not-synced");
    }

    // The disk seems to be well again; what it holds is uncertain all the same.
    std::fs::remove_file(&fails).expect("it is there");
    let refused = bus.restart_refused();
    assert_eq!(refused.code, Some(1), "{refused}");
    for text in ["data", "unsynced", "Input/output error"] {
        assert!(refused.stderr.contains(text), "`{text}` is not in: {refused}");
    }
    bus.change(|setup| setup.flag("--accept-unsynced", None));
    bus.restart();
    ledger.check_acknowledged(&bus.messages("orders"));
    let more = Ledger::new();
    assert!(more.publish(&bus.client(), "more", None, json!({}).to_string()));
}
