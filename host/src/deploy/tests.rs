//! Deployments with real folders, real events of the file system and the real worker. Components are texts
//! here, so that what loads is the test's to say; what a real component needs is the sandbox's to test.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::store::digest_of;
use super::*;

mod probation;

/// Past this a test has failed; nothing waits this long otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// Components whose text begins with `bad` do not load, with `panic` make the compiler panic, and with
/// `slow` load once the gate is open.
#[derive(Default)]
struct TextLoader {
    loads: AtomicUsize,
    gate: Mutex<Gate>,
    moved: Condvar,
}

#[derive(Default)]
struct Gate {
    open: bool,
    waiting: usize,
}

impl TextLoader {
    fn open_gate(&self) {
        self.gate.lock().unwrap().open = true;
        self.moved.notify_all();
    }

    fn wait_for_someone_at_the_gate(&self) {
        let gate = self.gate.lock().unwrap();
        let waited = self.moved.wait_timeout_while(gate, PATIENCE, |gate| gate.waiting == 0).unwrap();
        assert!(!waited.1.timed_out(), "nobody came to the gate");
    }
}

impl Loader for TextLoader {
    type Program = String;

    fn load(&self, _stem: &str, bytes: &[u8], _manifest: &Manifest) -> Result<Arc<String>, LoadFailure> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        let text = String::from_utf8(bytes.to_vec()).map_err(|error| LoadFailure::Component(error.to_string()))?;
        if text.starts_with("bad") {
            return Err(LoadFailure::Component(format!("`{text}` does not load")));
        }
        assert!(!text.starts_with("panic"), "the compiler panics");
        if text.starts_with("slow") {
            let mut gate = self.gate.lock().unwrap();
            gate.waiting += 1;
            self.moved.notify_all();
            drop(self.moved.wait_timeout_while(gate, PATIENCE, |gate| !gate.open).unwrap());
        }
        Ok(Arc::new(text))
    }

    fn kind(_program: &String) -> Option<&'static str> {
        None
    }
}

/// A bus that only remembers what it was told.
#[derive(Default)]
struct Bus {
    state: Mutex<BusState>,
}

#[derive(Default)]
struct BusState {
    /// What is durable.
    records: BTreeMap<String, PluginRecord>,
    /// What runs.
    running: BTreeMap<String, String>,
    /// Every version that ever ran, as `stem=text`, and every removal, as `-stem`.
    history: Vec<String>,
    /// Who is told of the calls of what runs.
    witnesses: BTreeMap<String, Option<Arc<dyn Witness>>>,
    /// What was refunded, in order.
    refunded: Vec<(String, DueRefund)>,
    /// What the next command is answered.
    refuse_next: Option<ActivateError>,
}

impl Bus {
    fn lock(&self) -> MutexGuard<'_, BusState> {
        self.state.lock().unwrap()
    }

    fn history(&self) -> Vec<String> {
        self.lock().history.clone()
    }
}

impl Host<String> for Bus {
    fn activate(&self, stem: &str, version: ActiveVersion<String>) -> Result<(), ActivateError> {
        let mut state = self.lock();
        if let Some(error) = state.refuse_next.take() {
            return Err(error);
        }
        assert_eq!(version.record.digest, digest_of(version.program.as_bytes()), "the record names another component");
        let manifest = manifest::parse(stem, Path::new("recorded"), &version.record.manifest).unwrap();
        assert_eq!(manifest, version.manifest, "the record holds another manifest");
        state.history.push(format!("{stem}={}", version.program));
        state.running.insert(stem.to_owned(), version.program.to_string());
        state.records.insert(stem.to_owned(), version.record);
        if let Some(witness) = &version.witness {
            witness.begins(0);
        }
        state.witnesses.insert(stem.to_owned(), version.witness);
        Ok(())
    }

    fn record(&self, stem: &str, record: PluginRecord) -> Result<(), ActivateError> {
        let mut state = self.lock();
        match state.refuse_next.take() {
            Some(error) => Err(error),
            None => {
                state.records.insert(stem.to_owned(), record);
                Ok(())
            }
        }
    }

    fn refund(&self, stem: &str, due: DueRefund) -> Result<Refunded, ActivateError> {
        let mut state = self.lock();
        match state.refuse_next.take() {
            Some(error) => Err(error),
            None => {
                state.refunded.push((stem.to_owned(), due));
                Ok(Refunded { attempts: 2, messages: 1, excused: 1 })
            }
        }
    }

    fn deactivate(&self, stem: &str) -> Result<(), ActivateError> {
        let mut state = self.lock();
        if let Some(error) = state.refuse_next.take() {
            return Err(error);
        }
        state.history.push(format!("-{stem}"));
        state.running.remove(stem);
        state.records.remove(stem);
        Ok(())
    }
}

/// A plugin folder, a data folder, and a bus that can be started again on them.
struct Bench {
    folders: tempfile::TempDir,
    bus: Arc<Bus>,
    loader: Arc<TextLoader>,
    clock: Arc<AtomicU64>,
    rescan: Duration,
}

impl Bench {
    fn new() -> Self {
        let folders = tempfile::tempdir().unwrap();
        fs::create_dir(folders.path().join("data")).unwrap();
        // Only events of the file system wake the worker, unless a test says otherwise.
        let rescan = 10 * PATIENCE;
        let bench = Self { folders, bus: Arc::default(), loader: Arc::default(), clock: Arc::default(), rescan };
        inbox::create(&bench.plugins()).unwrap();
        bench
    }

    fn plugins(&self) -> PathBuf {
        self.folders.path().join("plugins")
    }

    fn try_start(&self) -> Result<Deployments, StartError> {
        let clock = self.clock.clone();
        let options = Options {
            plugin_folder: self.plugins(),
            data_folder: self.folders.path().join("data"),
            quiet: Duration::from_millis(40),
            rescan: self.rescan,
            clock: Arc::new(move || clock.fetch_add(1, Ordering::Relaxed)),
        };
        let records = self.bus.lock().records.clone();
        self.bus.lock().running.clear();
        Deployments::start(options, self.bus.clone(), self.loader.clone(), records.into_iter().collect())
    }

    fn start(&self) -> Deployments {
        self.try_start().unwrap()
    }

    /// Puts a file in place by rename.
    fn put(&self, name: &str, content: &str) {
        let temporary = self.plugins().join(format!(".{name}.tmp"));
        fs::write(&temporary, content).unwrap();
        fs::rename(temporary, self.plugins().join(name)).unwrap();
    }

    fn put_pair(&self, stem: &str, component: &str) {
        self.put(&format!("{stem}.wasm"), component);
        self.put(&format!("{stem}.toml"), MANIFEST);
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.plugins().join(name)).unwrap();
    }

    fn copies(&self) -> Vec<String> {
        let files = fs::read_dir(self.folders.path().join("data/components")).unwrap();
        let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

const MANIFEST: &str = "[[subscription]]\ntopics = [\"order.placed\"]\n";

fn copy_of(component: &str) -> String {
    format!("{}.wasm", digest_of(component.as_bytes()))
}

/// Waits until a view satisfies `condition`, and shows all of them if none ever does.
#[track_caller]
fn wait_for(deployments: &Deployments, what: &str, mut condition: impl FnMut(&[PluginView]) -> bool) {
    if !deployments.wait_until(PATIENCE, &mut condition) {
        panic!("never {what}: {:#?}", deployments.views());
    }
}

#[track_caller]
fn wait_running(deployments: &Deployments, stem: &str, component: &str) {
    let digest = digest_of(component.as_bytes()).to_string();
    wait_for(deployments, &format!("ran `{component}` as `{stem}`"), |views| {
        views.iter().any(|view| view.name == stem && view.digest.as_ref() == Some(&digest) && view.problem.is_none())
    });
}

/// Waits for a problem of a consumer that holds `text`, and answers the view.
#[track_caller]
fn wait_problem(deployments: &Deployments, stem: &str, text: &str) -> PluginView {
    let mut found = None;
    wait_for(deployments, &format!("said `{text}` of `{stem}`"), |views| {
        let holds = |view: &&PluginView| {
            view.name == stem && view.problem.as_ref().is_some_and(|problem| problem.contains(text))
        };
        found = views.iter().find(holds).cloned();
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn files_that_come_change_and_go_are_deployed_swapped_and_removed() {
    let bench = Bench::new();
    let deployments = bench.start();
    assert!(deployments.views().is_empty());

    bench.put_pair("email", "one");
    wait_running(&deployments, "email", "one");
    assert_eq!(bench.copies(), [copy_of("one")]);

    bench.put("email.wasm", "two");
    wait_running(&deployments, "email", "two");
    let mut both = [copy_of("one"), copy_of("two")];
    both.sort();
    assert_eq!(bench.copies(), both, "the one before is kept");

    // The manifest alone, written in place.
    let manifest = format!("{MANIFEST}name = \"letters\"\n[grants]\npublish = [\"email.sent\"]\n");
    fs::write(bench.plugins().join("email.toml"), &manifest).unwrap();
    wait_for(&deployments, "took the manifest", |views| views[0].subscriptions == ["letters"]);
    assert_eq!(deployments.views()[0].publish, ["email.sent"]);
    assert_eq!(deployments.views()[0].deployed_ms, Some(2));
    assert_eq!(bench.bus.lock().records["email"].manifest, manifest);

    bench.remove("email.wasm");
    bench.remove("email.toml");
    wait_for(&deployments, "removed it", <[_]>::is_empty);
    assert_eq!(bench.bus.history(), ["email=one", "email=two", "email=two", "-email"]);
    assert_eq!(bench.copies(), [""; 0]);
    deployments.stop();
}

#[test]
fn a_version_that_does_not_load_leaves_the_old_one_running_also_over_a_restart() {
    let bench = Bench::new();
    let deployments = bench.start();
    bench.put_pair("email", "one");
    bench.put_pair("broken", "bad from the first");
    wait_running(&deployments, "email", "one");
    let view = wait_problem(&deployments, "broken", "plugins/broken.wasm: `bad from the first` does not load");
    assert_eq!((view.status, view.digest), ("failed", None));

    bench.put("email.wasm", "bad two");
    let view = wait_problem(&deployments, "email", "`bad two` does not load");
    assert_eq!((view.status, view.digest), ("running", Some(digest_of(b"one").to_string())));
    deployments.stop();

    let deployments = bench.start();
    // What ran is running again when the start returns.
    assert_eq!(bench.bus.lock().running["email"], "one");
    let view = wait_problem(&deployments, "email", "`bad two` does not load");
    assert_eq!((view.status, view.deployed_ms), ("running", Some(0)));
    wait_for(&deployments, "looked at everything", |_| deployments.has_looked());

    bench.put("email.toml", "[[subscription]]\ntopic = [\"a\"]\n");
    wait_problem(&deployments, "email", "email.toml:2: `subscription.topic`: there is no such key here");
    bench.put_pair("email", "three");
    wait_running(&deployments, "email", "three");
    assert_eq!(bench.bus.history(), ["email=one", "email=one", "email=three"]);
    deployments.stop();
}

#[test]
fn a_failed_version_is_not_compiled_again_while_its_files_stay() {
    let bench = Bench::new();
    bench.put_pair("email", "bad");
    let deployments = bench.start();
    wait_problem(&deployments, "email", "does not load");
    // The same content in other files is the same version.
    bench.put_pair("email", "bad");
    bench.put_pair("stock", "good");
    wait_running(&deployments, "stock", "good");
    deployments.rescan();
    bench.put("stock.wasm", "better");
    wait_running(&deployments, "stock", "better");
    wait_problem(&deployments, "email", "does not load");
    assert_eq!(bench.loader.loads.load(Ordering::Relaxed), 3);
}

#[test]
fn a_start_runs_the_recorded_version_and_then_what_differs() {
    let bench = Bench::new();
    let deployments = bench.start();
    bench.put_pair("email", "one");
    bench.put_pair("stock", "one");
    bench.put_pair("bills", "one");
    for stem in ["email", "stock", "bills"] {
        wait_running(&deployments, stem, "one");
    }
    deployments.stop();

    bench.bus.lock().history.clear();
    bench.put("email.wasm", "two");
    // One file is gone, which is a mistake; both are gone, which is a removal.
    bench.remove("stock.toml");
    bench.remove("bills.wasm");
    bench.remove("bills.toml");
    let deployments = bench.start();
    assert_eq!(bench.bus.history(), ["email=one", "stock=one"]);
    wait_running(&deployments, "email", "two");
    let view = wait_problem(&deployments, "stock", "stock.toml is missing");
    assert_eq!(view.status, "running");
    wait_for(&deployments, "removed `bills`", |views| views.iter().all(|view| view.name != "bills"));
    deployments.stop();
    let mut history = bench.bus.history();
    history[2..].sort();
    assert_eq!(history, ["email=one", "stock=one", "-bills", "email=two"]);
}

#[test]
fn one_file_alone_is_a_problem_and_takes_nothing_away() {
    let bench = Bench::new();
    let deployments = bench.start();
    bench.put("email.wasm", "one");
    let view = wait_problem(&deployments, "email", "email.toml is missing");
    assert_eq!(view.status, "failed");
    bench.put("email.toml", MANIFEST);
    wait_running(&deployments, "email", "one");
    bench.remove("email.wasm");
    let view = wait_problem(&deployments, "email", "email.wasm is missing");
    assert_eq!(view.status, "running");
    assert_eq!(bench.bus.lock().running["email"], "one");
}

#[test]
fn a_name_claimed_twice_is_refused_until_it_is_free() {
    let bench = Bench::new();
    let deployments = bench.start();
    bench.put_pair("email", "one");
    wait_running(&deployments, "email", "one");
    bench.put("mail.wasm", "two");
    bench.put("mail.toml", &format!("{MANIFEST}name = \"email\"\n"));
    let problem = wait_problem(&deployments, "mail", "claims the subscription `email`").problem.unwrap();
    assert!(problem.contains("plugins/mail.toml") && problem.contains("plugins/email.toml"), "{problem}");
    bench.remove("email.wasm");
    bench.remove("email.toml");
    wait_running(&deployments, "mail", "two");
    assert_eq!(bench.bus.history(), ["email=one", "-email", "mail=two"]);
}

#[test]
fn a_compiler_that_panics_fails_that_component_only() {
    let bench = Bench::new();
    bench.put_pair("a-first", "panic");
    bench.put_pair("email", "one");
    let deployments = bench.start();
    wait_running(&deployments, "email", "one");
    wait_problem(&deployments, "a-first", "the compiler failed");
    bench.put_pair("a-first", "well");
    wait_running(&deployments, "a-first", "well");
}

#[test]
fn a_stop_does_not_wait_for_a_compilation() {
    let bench = Bench::new();
    bench.put_pair("email", "slow");
    let deployments = bench.start();
    bench.loader.wait_for_someone_at_the_gate();
    assert!(!deployments.has_looked());
    deployments.stop();
    assert_eq!(bench.bus.history(), [""; 0]);
    bench.loader.open_gate();
    let deployments = bench.start();
    wait_running(&deployments, "email", "slow");
}

#[test]
fn files_that_change_during_the_compilation_are_deployed_after_it() {
    let bench = Bench::new();
    bench.put_pair("email", "slow");
    let deployments = bench.start();
    bench.loader.wait_for_someone_at_the_gate();
    // A slower watch than the worker's: once it tells of the change, the worker was told before, while it
    // waited for the compiler.
    let (told, has_told) = mpsc::channel();
    let told = Mutex::new(told);
    let on_change = Arc::new(move || told.lock().unwrap().send(()).unwrap_or_default());
    let mut watch = watch::Watch::new(bench.plugins(), Duration::from_millis(200), on_change);
    assert!(watch.follow(inbox::check(&bench.plugins()).unwrap()));
    bench.put("email.wasm", "newer");
    bench.put_pair("stock", "one");
    has_told.recv_timeout(PATIENCE).expect("the folder's change is told");
    bench.loader.open_gate();
    wait_running(&deployments, "email", "newer");
    wait_running(&deployments, "stock", "one");
}

#[test]
fn what_the_bus_cannot_take_now_is_offered_again_without_another_compilation() {
    let mut bench = Bench::new();
    bench.rescan = Duration::from_millis(200);
    bench.bus.lock().refuse_next = Some(ActivateError::Unavailable { reason: "the disk is full".to_owned() });
    bench.put_pair("email", "one");
    let deployments = bench.start();
    wait_running(&deployments, "email", "one");
    assert!(bench.bus.lock().refuse_next.is_none());
    assert_eq!(bench.loader.loads.load(Ordering::Relaxed), 1);

    bench.bus.lock().refuse_next = Some(ActivateError::Unavailable { reason: "the disk is full".to_owned() });
    bench.remove("email.wasm");
    bench.remove("email.toml");
    wait_for(&deployments, "removed it", <[_]>::is_empty);
    assert_eq!(bench.bus.history(), ["email=one", "-email"]);
}

#[test]
fn what_the_bus_refuses_is_told_and_kept_until_the_files_change() {
    let bench = Bench::new();
    bench.bus.lock().refuse_next = Some(ActivateError::Refused { reason: "there is no topic `a`".to_owned() });
    bench.put_pair("email", "one");
    let deployments = bench.start();
    wait_problem(&deployments, "email", "there is no topic `a`");
    deployments.rescan();
    bench.put("email.wasm", "two");
    wait_running(&deployments, "email", "two");
    assert_eq!(bench.bus.history(), ["email=two"]);
}

#[test]
fn a_lost_copy_is_deployed_again_from_the_folder() {
    let bench = Bench::new();
    let deployments = bench.start();
    bench.put_pair("email", "one");
    wait_running(&deployments, "email", "one");
    deployments.stop();
    fs::remove_file(bench.folders.path().join("data/components").join(copy_of("one"))).unwrap();
    let deployments = bench.start();
    wait_running(&deployments, "email", "one");
    assert_eq!(bench.copies(), [copy_of("one")]);
    assert_eq!(deployments.views()[0].deployed_ms, Some(0));
    deployments.stop();

    // With the folder's component gone as well, nothing can run, and that is said.
    fs::write(bench.folders.path().join("data/components").join(copy_of("one")), "onf").unwrap();
    bench.remove("email.wasm");
    let deployments = bench.start();
    let view = wait_problem(&deployments, "email", "is damaged");
    assert_eq!((view.status, view.digest), ("failed", None));
    assert_eq!(bench.bus.lock().running.len(), 0);
}

#[test]
fn a_folder_that_vanishes_takes_nothing_down_and_is_followed_when_it_returns() {
    let bench = Bench::new();
    let deployments = bench.start();
    bench.put_pair("email", "one");
    wait_running(&deployments, "email", "one");
    let aside = bench.folders.path().join("aside");
    fs::rename(bench.plugins(), &aside).unwrap();
    deployments.rescan();
    wait_for(&deployments, "missed the folder", |_| deployments.folder_problem().is_some());
    assert_eq!(bench.bus.lock().running["email"], "one");

    // Another folder takes its place, with its files in it.
    let fresh = Bench::new();
    fresh.put_pair("email", "one");
    fresh.put_pair("stock", "one");
    fs::rename(fresh.plugins(), bench.plugins()).unwrap();
    // The folder is looked at often while it is missing, so nobody has to ask.
    wait_running(&deployments, "stock", "one");
    bench.put("email.wasm", "two");
    wait_running(&deployments, "email", "two");
    assert_eq!(deployments.folder_problem(), None);
    assert_eq!(bench.bus.history(), ["email=one", "stock=one", "email=two"]);
}

#[test]
fn a_start_refuses_folders_that_it_cannot_trust_or_use() {
    let bench = Bench::new();
    fs::set_permissions(bench.plugins(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = bench.try_start().err().unwrap();
    assert!(matches!(error, StartError::Folder(FolderError::WorldWritable { mode: 0o777, .. })), "{error}");

    // A missing one is made, and nobody else can write to it.
    fs::remove_dir(bench.plugins()).unwrap();
    bench.start().stop();
    assert_eq!(fs::metadata(bench.plugins()).unwrap().permissions().mode() & 0o022, 0);

    fs::remove_dir_all(bench.folders.path().join("data")).unwrap();
    let error = bench.try_start().err().unwrap();
    assert!(matches!(error, StartError::Store(StoreError::Io { .. })), "{error}");
}

#[test]
fn a_burst_of_versions_ends_with_the_last_one() {
    let bench = Bench::new();
    let deployments = bench.start();
    for number in 0..200 {
        bench.put_pair("email", &format!("version {number}"));
        if number % 50 == 49 {
            wait_running(&deployments, "email", &format!("version {number}"));
        }
    }
    let copies = bench.copies();
    assert!(copies.contains(&copy_of("version 199")), "{copies:?}");
    assert!(copies.len() <= limits::VERSIONS_KEPT_MAX, "{copies:?}");
    let numbers: Vec<u32> = bench.bus.history().iter().map(|entry| entry[14..].parse().unwrap()).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "versions ran out of order: {numbers:?}");
}
