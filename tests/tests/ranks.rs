//! Who may know whom: the ranks of the host's modules, read from its source.
//!
//! The way of a message is `ingress -> publish -> log -> dispatch -> sandbox -> outcome -> settle -> log`.
//! The sandbox never sees the log, the log never sees a consumer's code, settling does no IO; of the
//! modules on the way only `dispatch` sees both log and sandbox.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The modules on a message's way, in its order.
const WAY: [&str; 7] = ["ingress", "publish", "log", "dispatch", "sandbox", "outcome", "settle"];

/// What each module must not name. Tests within a module are held to the same.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("ingress", &["dispatch", "sandbox", "settle", "deploy", "engine", "serve", "cli"]),
    ("publish", &["sandbox", "settle", "deploy", "ingress", "serve", "cli", "bus"]),
    (
        "log",
        &["sandbox", "deploy", "dispatch", "settle", "publish", "ingress", "bus", "engine", "policy", "serve", "cli"],
    ),
    ("dispatch", &["ingress", "deploy", "bus", "engine", "publish", "serve", "cli"]),
    ("sandbox", &["log", "deploy", "dispatch", "settle", "publish", "ingress", "bus", "engine", "serve", "cli"]),
    ("outcome", &["log", "sandbox", "dispatch", "settle", "deploy", "bus", "engine"]),
    ("settle", &["log", "sandbox", "dispatch", "deploy", "bus", "engine", "publish", "ingress"]),
    // The vocabulary stands below all of it.
    ("topic", &["log", "sandbox", "dispatch", "settle", "deploy", "bus", "engine", "message", "policy"]),
    ("message", &["log", "sandbox", "dispatch", "settle", "deploy", "bus", "engine", "policy"]),
    ("policy", &["log", "sandbox", "dispatch", "settle", "deploy", "bus", "engine"]),
    ("limits", &["log", "sandbox", "dispatch", "settle", "deploy", "bus", "engine", "message"]),
];

/// What a state machine without IO has no use for.
const IO: &[&str] = &[
    "std::fs",
    "std::net",
    "std::io",
    "std::process",
    "std::thread",
    "std::sync",
    "std::env",
    "tokio",
    "async ",
    ".await",
    "Instant::now",
    "SystemTime",
    "rustix",
    "redb",
    "fastrand",
    "tracing",
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests stand in the workspace").join("host/src")
}

/// The files of a module: `name.rs`, and all below `name/`.
fn files(module: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        Some(source().join(format!("{module}.rs"))).into_iter().filter(|file| file.exists()).collect();
    let mut folders = vec![source().join(module)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("a folder can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    assert!(!files.is_empty(), "there is no module `{module}` in {}", source().display());
    files
}

/// The code of a file, without comments.
fn code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let line = |line: &str| line.find("//").map_or(line.to_owned(), |at| line[..at].to_owned());
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// The modules of the host that a file names: `crate::NAME`, `crate::{NAME, ...}`, and paths of `super` that
/// reach the top.
fn named(file: &Path) -> BTreeSet<String> {
    let code = code(file);
    let mut named = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        // `$crate` and names that end in `crate` do not occur.
        named.extend(heads(&code[at + "crate::".len()..]));
    }
    let depth = file.strip_prefix(source()).expect("it is below").with_extension("").components().count();
    let to_the_top = "super::".repeat(depth);
    for (at, _) in code.match_indices(&to_the_top) {
        let is_longer = code[..at].ends_with("super::");
        let rest = &code[at + to_the_top.len()..];
        if !is_longer && !rest.starts_with("super::") {
            named.extend(heads(rest));
        }
    }
    named
}

/// The first names of a path, or of each path of a group.
fn heads(path: &str) -> Vec<String> {
    let identifier = |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let Some(group) = path.strip_prefix('{') else { return vec![identifier(path)] };
    let mut heads = Vec::new();
    let (mut depth, mut begins) = (0, true);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            c if begins && !c.is_whitespace() => {
                heads.push(identifier(&group[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    heads
}

#[test]
fn no_module_names_what_it_must_not_know() {
    for (module, forbidden) in FORBIDDEN {
        for file in files(module) {
            let named = named(&file);
            for other in *forbidden {
                assert!(!named.contains(*other), "{} names `{other}`, which `{module}` must not know", file.display());
            }
        }
    }
}

#[test]
fn of_the_way_only_dispatch_sees_both_log_and_sandbox() {
    for module in WAY {
        let named: BTreeSet<_> = files(module).iter().flat_map(|file| named(file)).chain([module.to_owned()]).collect();
        let both = named.contains("log") && named.contains("sandbox");
        assert_eq!(both, module == "dispatch", "{module} names {named:?}");
    }
}

#[test]
fn what_is_a_state_machine_does_no_io() {
    let machines = files("settle").into_iter().chain(files("outcome")).chain(files("topic")).chain(files("policy"));
    let within = [
        "dispatch.rs",
        "dispatch/explain.rs",
        "dispatch/intake.rs",
        "dispatch/item.rs",
        "dispatch/lane.rs",
        "dispatch/reload.rs",
        "dispatch/retries.rs",
        "dispatch/settling.rs",
        "dispatch/window.rs",
        "deploy/plan.rs",
        "deploy/probation.rs",
        "deploy/record.rs",
        "log/position.rs",
        "log/sequencer.rs",
        "log/sequencer/group.rs",
        "log/sequencer/overlay.rs",
        "log/sequencer/recent_writes.rs",
    ];
    // The dispatcher is given its randomness: a generator with a seed.
    let seeded = |file: &Path| file.ends_with("dispatch.rs");
    for file in machines.chain(within.map(|name| source().join(name))) {
        let code = code(&file);
        let code = code.split("#[cfg(test)]").next().expect("there is a first part");
        for io in IO.iter().filter(|io| !(**io == "fastrand" && seeded(&file)) && **io != "std::sync") {
            assert!(!code.contains(io), "{} names `{io}`", file.display());
        }
        assert!(!code.contains("Mutex") && !code.contains("RwLock"), "{} locks something", file.display());
    }
}

#[test]
fn the_crate_lists_the_way_in_its_order() {
    let library = code(&source().join("lib.rs"));
    let modules: Vec<_> = library
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .filter(|name| WAY.contains(name))
        .collect();
    assert_eq!(modules, WAY);
    let documented = std::fs::read_to_string(source().join("lib.rs")).expect("it was read above");
    let places: Vec<_> = WAY.iter().map(|name| documented.find(&format!("[`{name}`]"))).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "the map at the top follows the way: {places:?}");
}

/// The test above would also pass if it found nothing.
#[test]
fn names_are_found_however_they_are_spelled() {
    let folder = tempfile::tempdir().expect("there is a temporary folder");
    let file = folder.path().join("file.rs");
    std::fs::write(
        &file,
        "use crate::{log::{Log, Txn}, message, sandbox::Program};\nuse crate::topic::X; // crate::deploy\n",
    )
    .expect("it is the test's own");
    let code = code(&file);
    let found: BTreeMap<usize, Vec<String>> =
        code.match_indices("crate::").map(|(at, found)| (at, heads(&code[at + found.len()..]))).collect();
    let found: Vec<_> = found.into_values().flatten().collect();
    assert_eq!(found, ["log", "message", "sandbox", "topic"]);
    let dispatch: BTreeSet<_> = files("dispatch").iter().flat_map(|file| named(file)).collect();
    assert!(dispatch.contains("log") && dispatch.contains("sandbox") && dispatch.contains("outcome"), "{dispatch:?}");
}
