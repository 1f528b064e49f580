//! `sandpost plugins deploy`: puts a consumer into the plugin folder, and waits until it runs.
//!
//! Both files are written beside their places under hidden names, synced, and renamed: whoever watches
//! the folder sees a whole file or none. The manifest goes first, so that a component that is new to the
//! folder never stands there without one.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::client::{Client, segment};
use super::failure::Failure;
use super::output::{Output, text};
use super::plugins;
use crate::config::{Config, Given};
use crate::limits::{COMPONENT_BYTES_MAX, MANIFEST_BYTES_MAX};
use crate::outcome::Digest;

/// How often the bus is asked whether the consumer runs.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Deploy a consumer: put its files into the plugin folder, and wait until it runs.
///
/// The component's file stem is the consumer's name. Its manifest is the file of the same stem beside
/// it, or the one that --manifest names, or the one that is in the plugin folder already. Files are put
/// in place by rename, which is safe while messages flow; calls in flight finish on the old version, and
/// a version that does not load leaves the old one running. A version that was rolled back is deployed
/// again, which files that only lie in the folder are not; not with --no-wait, for that asks no bus.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sandpost plugins deploy target/wasm32-wasip2/release/email.wasm --manifest email.toml
  sandpost plugins deploy email.wasm --plugins /var/lib/sandpost/plugins --no-wait")]
pub(super) struct DeployArgs {
    /// The consumer: NAME.wasm, or NAME.wat as text
    #[arg(value_name = "FILE")]
    component: PathBuf,
    /// The manifest
    #[arg(long, value_name = "FILE.toml")]
    manifest: Option<PathBuf>,
    /// The plugin folder; otherwise as `serve` would find it
    #[arg(long, value_name = "FOLDER")]
    plugins: Option<PathBuf>,
    /// Return when the files are in place, without asking the bus
    #[arg(long)]
    no_wait: bool,
    /// How long to wait until the consumer runs
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration, conflicts_with = "no_wait")]
    timeout: Duration,
}

pub(super) fn run(args: &DeployArgs, bus: &str, output: &Output) -> Result<(), Failure> {
    let files = Files::read(args)?;
    if args.no_wait {
        files.place()?;
        return report(&files, "placed", None, output);
    }
    // Asked before anything is changed: what the bus says later is held against this.
    let client = Client::new(bus)?;
    let before = state(&client, &files.stem)?;
    let replaced_manifest = files.manifest.as_ref().is_some_and(|manifest| !holds(&files.manifest_path(), manifest));
    files.place()?;
    permit(&client, before.as_ref(), &files)?;
    let waited = Waited { before, digest: files.digest.clone(), replaced_manifest };
    let deadline = Instant::now() + args.timeout;
    // On a terminal; elsewhere it draws nothing.
    let spinner = ProgressBar::new_spinner();
    loop {
        let now = state(&client, &files.stem)?;
        let verdict = waited.judge(now.as_ref());
        if verdict != Verdict::Wait {
            spinner.finish_and_clear();
        }
        match verdict {
            Verdict::Runs => return report(&files, "running", now.as_ref(), output),
            Verdict::Failed(problem) => {
                return Err(Failure::Failed(format!("{} was not deployed: {problem}", files.stem)));
            }
            Verdict::Wait if Instant::now() >= deadline => {
                let problem = now.as_ref().map(|now| &now["problem"]).filter(|problem| !problem.is_null());
                let problem = problem.map_or_else(String::new, |problem| format!(": {}", text(problem)));
                let waited = humantime::format_duration(args.timeout);
                return Err(Failure::NotNow(format!(
                    "{} is in {}, but does not run after {waited}{problem}\nIs that the plugin folder of this bus? `sandpost plugins list` shows what runs.",
                    files.stem,
                    files.folder.display()
                )));
            }
            Verdict::Wait => {
                let seconds = now.as_ref().and_then(plugins::compiling_seconds);
                let what = seconds.map_or_else(
                    || format!("{} is in the plugin folder", files.stem),
                    |seconds| format!("{} is being compiled, for {seconds} s", files.stem),
                );
                spinner.set_message(what);
                spinner.tick();
                std::thread::sleep(POLL_INTERVAL);
            }
        }
    }
}

/// Whoever deploys by command what was rolled back wants it to run all the same.
fn permit(client: &Client, before: Option<&Value>, files: &Files) -> Result<(), Failure> {
    let rolled_back = before.and_then(|before| before["rolled_back"].as_array()).map(Vec::as_slice);
    if rolled_back.unwrap_or_default().iter().any(|one| one["digest"] == *files.digest) {
        let command = json!({ "digest": files.digest }).to_string();
        client.post(&format!("/plugins/{}/permit", segment(&files.stem)), &[], command.as_bytes())?;
    }
    Ok(())
}

fn report(files: &Files, what: &str, now: Option<&Value>, output: &Output) -> Result<(), Failure> {
    let probation = now.map(|now| &now["probation"]).filter(|probation| !probation.is_null());
    let probation = probation.map_or_else(String::new, |probation| {
        format!(", on probation for {} messages", text(&probation["messages_max"]))
    });
    let words = match what {
        "running" => format!("{} runs {}{probation}", files.stem, &files.digest[..12]),
        _ => format!("{} {} is in {}", files.stem, &files.digest[..12], files.folder.display()),
    };
    output.done(&json!({ "name": files.stem, "digest": files.digest, "status": what }), &words)
}

/// The consumer as the bus shows it, if it does.
fn state(client: &Client, stem: &str) -> Result<Option<Value>, Failure> {
    Ok(plugins::all(client)?.into_iter().find(|plugin| plugin["name"] == *stem))
}

/// What was there before, to tell what came of the deployment from what came before it.
struct Waited {
    before: Option<Value>,
    digest: String,
    replaced_manifest: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Runs,
    Failed(String),
    Wait,
}

impl Waited {
    fn judge(&self, now: Option<&Value>) -> Verdict {
        let Some(now) = now else { return Verdict::Wait };
        let before = self.before.as_ref().unwrap_or(&Value::Null);
        if !now["problem"].is_null() && now["problem"] != before["problem"] {
            return Verdict::Failed(text(&now["problem"]));
        }
        let runs = |plugin: &Value| plugin["digest"] == *self.digest && plugin["status"] == "running";
        // The same component under a new manifest is deployed once more.
        let is_new = now["deployed_ms"] != before["deployed_ms"] || !self.replaced_manifest;
        let same_as_before = runs(before);
        if runs(now) && now["problem"].is_null() && (!same_as_before || is_new) { Verdict::Runs } else { Verdict::Wait }
    }
}

/// What is to be placed.
struct Files {
    stem: String,
    /// Of the consumer: binary or text.
    extension: &'static str,
    folder: PathBuf,
    component: Vec<u8>,
    /// `None` where the folder's own is kept.
    manifest: Option<Vec<u8>>,
    digest: String,
}

impl Files {
    fn read(args: &DeployArgs) -> Result<Self, Failure> {
        let path = &args.component;
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let Some(extension) = ["wasm", "wat"].into_iter().find(|known| extension == Some(known)) else {
            let text = format!("{} is no consumer: its name must be NAME.wasm or NAME.wat", path.display());
            return Err(Failure::Usage(text));
        };
        if stem.is_empty() || stem.starts_with('.') {
            let text = format!("{} names no consumer: its name must be NAME.{extension}", path.display());
            return Err(Failure::Usage(text));
        }
        let component = read(path, COMPONENT_BYTES_MAX)?;
        if extension == "wasm" && !component.starts_with(b"\0asm") {
            return Err(Failure::Failed(format!("{} is no WebAssembly: it does not begin as one", path.display())));
        }
        let folder = folder(args)?;
        let beside = path.with_extension("toml");
        let manifest = match &args.manifest {
            Some(manifest) => Some(read(manifest, MANIFEST_BYTES_MAX)?),
            None if beside.exists() => Some(read(&beside, MANIFEST_BYTES_MAX)?),
            None => None,
        };
        let digest = Digest(Sha256::digest(&component).into()).to_string();
        let files = Self { stem, extension, folder, component, manifest, digest };
        if files.manifest.is_none() && !files.manifest_path().exists() {
            let text = format!(
                "{} has no manifest: there is neither {} nor {}; name one with --manifest",
                path.display(),
                beside.display(),
                files.manifest_path().display()
            );
            return Err(Failure::Usage(text));
        }
        Ok(files)
    }

    fn manifest_path(&self) -> PathBuf {
        self.folder.join(format!("{}.toml", self.stem))
    }

    fn place(&self) -> Result<(), Failure> {
        if let Some(manifest) = &self.manifest {
            put(&self.manifest_path(), manifest)?;
        }
        // One language may take over from another: a consumer has one file.
        let other = if self.extension == "wat" { "wasm" } else { "wat" };
        let replaced = self.folder.join(format!("{}.{other}", self.stem));
        put(&self.folder.join(format!("{}.{}", self.stem, self.extension)), &self.component)?;
        match fs::remove_file(&replaced) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&replaced, "removed", &error)),
            _ => {}
        }
        // The renames themselves are durable once the folder is.
        let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| failed(&self.folder, "synced", &error))
    }
}

fn folder(args: &DeployArgs) -> Result<PathBuf, Failure> {
    let folder = match &args.plugins {
        Some(folder) => folder.clone(),
        None => {
            let given =
                Given { flags: &[], variable: &|name| std::env::var_os(name), file: None, accept_unsynced: false };
            Config::load(&given).map_err(|error| Failure::Usage(error.to_string()))?.plugins
        }
    };
    if folder.is_dir() {
        return Ok(folder);
    }
    let text = format!("{} is no folder; name the plugin folder of the bus with --plugins", folder.display());
    Err(Failure::Usage(text))
}

fn read(path: &Path, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let bytes = fs::read(path).map_err(|error| failed(path, "read", &error))?;
    if bytes.len() > bytes_max {
        let text = format!("{} has {} bytes; at most {bytes_max} are accepted", path.display(), bytes.len());
        return Err(Failure::Failed(text));
    }
    Ok(bytes)
}

fn holds(path: &Path, bytes: &[u8]) -> bool {
    fs::read(path).is_ok_and(|own| own == bytes)
}

/// Replaces a file as a whole. The name it is written under first is hidden and ends in `.part`.
fn put(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut hidden = OsString::from(".");
    hidden.push(path.file_name().unwrap_or_default());
    hidden.push(format!(".{}.part", std::process::id()));
    let hidden = path.with_file_name(hidden);
    let written = write_synced(&hidden, bytes).and_then(|()| fs::rename(&hidden, path));
    written.map_err(|error| {
        // What is left of it is of no use, and may be why the disk is full.
        let _ = fs::remove_file(&hidden);
        failed(path, "written", &error)
    })
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn failed(path: &Path, what: &str, error: &io::Error) -> Failure {
    Failure::Failed(format!("{} cannot be {what}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(component: &Path, plugins: &Path) -> DeployArgs {
        DeployArgs {
            component: component.to_owned(),
            manifest: None,
            plugins: Some(plugins.to_owned()),
            no_wait: true,
            timeout: Duration::ZERO,
        }
    }

    #[test]
    fn files_are_put_in_place_whole_and_nothing_else_is_left() {
        let from = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        let component = from.path().join("email.wasm");
        fs::write(&component, b"\0asm new").unwrap();
        fs::write(from.path().join("email.toml"), b"new").unwrap();
        fs::write(to.path().join("email.wasm"), b"\0asm old").unwrap();
        Files::read(&args(&component, to.path())).unwrap_or_else(|_| panic!("it can be read")).place().unwrap();
        let mut names: Vec<_> = fs::read_dir(to.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["email.toml", "email.wasm"]);
        assert_eq!(fs::read(to.path().join("email.wasm")).unwrap(), b"\0asm new");
        assert_eq!(fs::read(to.path().join("email.toml")).unwrap(), b"new");
    }

    #[test]
    fn what_cannot_be_deployed_is_said_before_anything_is_placed() {
        let from = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        let complaint = |name: &str, bytes: &[u8]| {
            let component = from.path().join(name);
            fs::write(&component, bytes).unwrap();
            match Files::read(&args(&component, to.path())) {
                Ok(_) => String::new(),
                Err(Failure::Usage(text) | Failure::Failed(text)) => text,
                Err(other) => panic!("{other:?}"),
            }
        };
        assert!(complaint("email.txt", b"\0asm").contains("NAME.wasm"));
        assert!(complaint("email.wasm", b"(module)").contains("no WebAssembly"));
        assert!(complaint("email.wasm", b"\0asm").contains("has no manifest"));
        fs::write(to.path().join("email.toml"), b"old").unwrap();
        assert_eq!(complaint("email.wasm", b"\0asm"), "", "the folder's own manifest is kept");
        let absent = args(Path::new("/nowhere/email.wasm"), to.path());
        assert!(matches!(Files::read(&absent), Err(Failure::Failed(text)) if text.contains("/nowhere/email.wasm")));
    }

    #[test]
    fn a_deployment_is_told_from_what_was_there_before() {
        let plugin = |digest: &str, deployed_ms: u64, problem: Value| json!({"status": "running", "digest": digest, "deployed_ms": deployed_ms, "problem": problem});
        let judge = |before: Option<Value>, replaced_manifest, now: Option<Value>| {
            Waited { before, digest: "new".to_owned(), replaced_manifest }.judge(now.as_ref())
        };
        let ok = Value::Null;
        assert_eq!(judge(None, true, None), Verdict::Wait);
        assert_eq!(judge(None, true, Some(plugin("new", 1, ok.clone()))), Verdict::Runs);
        let old = Some(plugin("old", 1, ok.clone()));
        assert_eq!(judge(old.clone(), true, old.clone()), Verdict::Wait);
        assert_eq!(judge(old.clone(), true, Some(plugin("new", 2, ok.clone()))), Verdict::Runs);
        assert_eq!(judge(old.clone(), true, Some(plugin("old", 1, json!("bad")))), Verdict::Failed("bad".to_owned()));
        // An earlier failure is still shown until this one is tried.
        let failing = Some(plugin("old", 1, json!("bad")));
        assert_eq!(judge(failing.clone(), true, failing.clone()), Verdict::Wait);
        assert_eq!(judge(failing, true, Some(plugin("old", 1, json!("worse")))), Verdict::Failed("worse".to_owned()));
        // The same component: done at once, unless its manifest was replaced.
        let same = Some(plugin("new", 1, ok.clone()));
        assert_eq!(judge(same.clone(), false, same.clone()), Verdict::Runs);
        assert_eq!(judge(same.clone(), true, same.clone()), Verdict::Wait);
        assert_eq!(judge(same, true, Some(plugin("new", 2, ok))), Verdict::Runs);
    }
}
