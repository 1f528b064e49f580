//! The thread that deploys: looks at the folder, asks for the plan, and does its steps one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::inbox::{self, Found, Inbox};
use super::manifest;
use super::plan::{Active, Failure, Known, Plan, Step, Version, plan};
use super::store::Store;
use super::watch::Watch;
use super::{ActivateError, ActiveVersion, Board, Host, LoadFailure, Loader, Options, StartError};
use crate::limits;
use crate::log::PluginRecord;
use crate::outcome::Digest;
use crate::policy::Manifest;
use crate::view::PluginView;

/// What wakes the worker.
pub(super) enum Event {
    /// The folder may have changed.
    Changed,
    /// The compilation under way has ended.
    Loaded,
    Stop,
}

/// The worker was told to stop in the middle of something.
struct Stopped;

/// How far a deployment came.
enum Deployed {
    /// It is active, or its failure is remembered.
    Decided,
    /// The files are no longer those that the plan was made for.
    FilesChanged,
}

pub(super) struct Worker<L: Loader, H: Host<L::Program>> {
    options: Options,
    host: Arc<H>,
    loader: Arc<L>,
    sender: Sender<Event>,
    events: Receiver<Event>,
    board: Arc<Board>,
    inbox: Inbox,
    store: Store,
    watch: Watch,
    known: Known,
    /// Programs whose version the bus could not take yet.
    loaded: BTreeMap<String, (Version, Arc<L::Program>)>,
    began: Instant,
}

impl<L: Loader, H: Host<L::Program>> Worker<L, H> {
    pub(super) fn open(
        options: Options,
        host: Arc<H>,
        loader: Arc<L>,
        (sender, events): (Sender<Event>, Receiver<Event>),
        board: Arc<Board>,
    ) -> Result<Self, StartError> {
        inbox::create(&options.plugin_folder)?;
        let folder_id = inbox::check(&options.plugin_folder)?;
        let store = Store::open(&options.data_folder)?;
        let changed = sender.clone();
        let on_change = move || {
            // Where the worker is gone, nobody needs to know.
            let _ = changed.send(Event::Changed);
        };
        let mut watch = Watch::new(options.plugin_folder.clone(), options.quiet, Arc::new(on_change));
        // Before the first look, so that no change falls between the two.
        watch.follow(folder_id);
        let inbox = Inbox::new(options.plugin_folder.clone(), options.quiet);
        let (known, loaded, began) = (Known::default(), BTreeMap::new(), Instant::now());
        Ok(Self { options, host, loader, sender, events, board, inbox, store, watch, known, loaded, began })
    }

    pub(super) fn run(mut self, active: Vec<(String, PluginRecord)>, started: Sender<()>) {
        let Ok(()) = self.start_recorded(active) else { return };
        // Nobody waits any more where the start was given up.
        let _ = started.send(());
        while let Ok(wait) = self.look() {
            match self.events.recv_timeout(wait) {
                Ok(Event::Changed | Event::Loaded) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
            // One look answers everything that was told until now.
            loop {
                match self.events.try_recv() {
                    Ok(Event::Changed | Event::Loaded) => {}
                    Err(TryRecvError::Empty) => break,
                    Ok(Event::Stop) | Err(TryRecvError::Disconnected) => return,
                }
            }
        }
    }

    /// Runs what the log says was running.
    fn start_recorded(&mut self, active: Vec<(String, PluginRecord)>) -> Result<(), Stopped> {
        let named = active.iter().map(|(_, record)| record.digest).collect();
        self.sweep(&named);
        for (stem, record) in active {
            let file = self.inbox.path(&stem, "toml");
            let manifest = manifest::parse(&stem, &file, &record.manifest).map(Arc::new);
            let mut active = match &manifest {
                Ok(manifest) => active_of(record, manifest),
                Err(_) => {
                    Active { record, subscriptions: Vec::new(), publish: Vec::new(), http: Vec::new(), down: None }
                }
            };
            let down = match manifest {
                // It was taken away while the bus was down, and the first look removes it: it does not run until then.
                _ if self.inbox.is_gone(&stem) => Some("its files are gone".to_owned()),
                Err(error) => Some(error.to_string()),
                Ok(manifest) => self.start_one(&stem, &active.record, manifest)?.err(),
            };
            active.down = down.map(|reason| format!("the version that ran before could not be started: {reason}"));
            self.known.active.insert(stem, active);
        }
        self.show(&Plan::default().problems, &BTreeMap::new());
        Ok(())
    }

    fn start_one(
        &mut self,
        stem: &str,
        record: &PluginRecord,
        manifest: Arc<Manifest>,
    ) -> Result<Result<(), String>, Stopped> {
        let bytes = match self.store.get(record.digest) {
            Ok(bytes) => Arc::new(bytes),
            Err(error) => return Ok(Err(error.to_string())),
        };
        let program = match self.load(stem, bytes, manifest.clone())? {
            Ok(program) => program,
            Err(failure) => return Ok(Err(failure.to_string())),
        };
        let version = ActiveVersion { manifest: (*manifest).clone(), record: record.clone(), program };
        Ok(self.host.activate(stem, version).map_err(|error| error.to_string()))
    }

    /// Looks at the folder, does what is to be done, and answers how long to wait for the next look.
    fn look(&mut self) -> Result<Duration, Stopped> {
        self.known.failures.retain(|_, failure| !failure.passing);
        let mut rescan = self.options.rescan;
        let look = inbox::check(&self.options.plugin_folder).and_then(|id| {
            if !self.watch.follow(id) {
                rescan = rescan.min(limits::DEPLOY_RESCAN_UNWATCHED);
            }
            let active = self.known.active.keys().map(String::as_str);
            self.inbox.look(active, Instant::now(), SystemTime::now())
        });
        // A folder that cannot be seen is no folder without files: what runs goes on running.
        let folder_problem = look.as_ref().err().map(ToString::to_string);
        if folder_problem != self.board.lock().folder_problem {
            match &folder_problem {
                Some(problem) => tracing::warn!(%problem, "nothing is deployed or removed"),
                None => tracing::info!(folder = %self.options.plugin_folder.display(), "deploying again"),
            }
            self.board.update(|state| state.folder_problem = folder_problem);
        }
        let Ok(mut look) = look else {
            self.board.update(|state| state.looked = true);
            return Ok(rescan.min(limits::DEPLOY_RESCAN_UNWATCHED));
        };
        self.known.failures.retain(|stem, _| look.found.contains_key(stem));
        loop {
            let plan = plan(&self.options.plugin_folder, &self.known, &look.found);
            self.show(&plan.problems, &look.found);
            match plan.next {
                None => break,
                Some(Step::Remove { stem }) => self.remove(&stem),
                Some(Step::Deploy { stem, version, manifest }) => {
                    if let Deployed::FilesChanged = self.deploy(&stem, version, manifest)? {
                        look.found.insert(stem, Found::Unsettled);
                        look.again_in = Some(self.options.quiet);
                    }
                }
            }
        }
        let settled = look.again_in.is_none();
        // A file that is written without end must not keep the bus from being ready.
        if settled || self.began.elapsed() > self.options.quiet * 10 {
            self.board.update(|state| state.looked = true);
        }
        // A millisecond more, so that the clock has surely passed the moment in question.
        Ok(look.again_in.map_or(rescan, |again_in| rescan.min(again_in + Duration::from_millis(1))))
    }

    fn deploy(&mut self, stem: &str, version: Version, manifest: Arc<Manifest>) -> Result<Deployed, Stopped> {
        let bytes = match self.inbox.bytes(stem, version.digest) {
            Ok(Some(bytes)) => Arc::new(bytes),
            Ok(None) => return Ok(Deployed::FilesChanged),
            Err(problem) => {
                self.fail(stem, Some(version), problem, true);
                return Ok(Deployed::Decided);
            }
        };
        let program = match self.loaded.remove(stem).filter(|(loaded, _)| *loaded == version) {
            Some((_, program)) => program,
            None => match self.load(stem, bytes.clone(), manifest.clone())? {
                Ok(program) => program,
                Err(failure) => {
                    let file = self.inbox.path(stem, failure.extension());
                    let problem = format!("{}: {failure}", file.display());
                    self.fail(stem, Some(version), problem, false);
                    return Ok(Deployed::Decided);
                }
            },
        };
        let before = self.known.active.get(stem).map(|active| &active.record);
        let record = match before {
            Some(record) if record.digest == version.digest && record.manifest == *version.text => record.clone(),
            _ => PluginRecord {
                digest: version.digest,
                manifest: version.text.to_string(),
                deployed_ms: (self.options.clock)(),
                rolled_back: before.map_or_else(Vec::new, |record| record.rolled_back.clone()),
            },
        };
        let result = match self.store.put(version.digest, &bytes) {
            Err(error) => Err(ActivateError::Unavailable { reason: error.to_string() }),
            Ok(()) => {
                let (manifest, record, program) = ((*manifest).clone(), record.clone(), program.clone());
                self.host.activate(stem, ActiveVersion { manifest, record, program })
            }
        };
        match result {
            Ok(()) => {
                tracing::info!(consumer = stem, digest = %version.digest.short(), "deployed");
                self.known.failures.remove(stem);
                self.known.active.insert(stem.to_owned(), active_of(record, &manifest));
                let named = self.known.active.values().map(|active| active.record.digest).collect();
                self.sweep(&named);
            }
            Err(ActivateError::Refused { reason }) => self.fail(stem, Some(version), reason, false),
            Err(ActivateError::Unavailable { reason }) => {
                self.loaded.insert(stem.to_owned(), (version.clone(), program));
                self.fail(stem, Some(version), reason, true);
            }
        }
        Ok(Deployed::Decided)
    }

    fn remove(&mut self, stem: &str) {
        match self.host.deactivate(stem) {
            Ok(()) => {
                tracing::info!(consumer = stem, "removed: its files are gone");
                self.known.active.remove(stem);
                self.known.failures.remove(stem);
                self.loaded.remove(stem);
                let named = self.known.active.values().map(|active| active.record.digest).collect();
                self.sweep(&named);
            }
            Err(error) => {
                let problem = format!("its files are gone, and it could not be removed: {error}");
                self.fail(stem, None, problem, matches!(error, ActivateError::Unavailable { .. }));
            }
        }
    }

    fn fail(&mut self, stem: &str, version: Option<Version>, problem: String, passing: bool) {
        self.known.failures.insert(stem.to_owned(), Failure { version, problem, passing });
    }

    /// Compiles on a thread of its own, so that only the compiler runs at low priority, and so that a stop
    /// need not wait for it. A panic of the compiler is that component's problem.
    fn load(
        &mut self,
        stem: &str,
        bytes: Arc<Vec<u8>>,
        manifest: Arc<Manifest>,
    ) -> Result<Result<Arc<L::Program>, LoadFailure>, Stopped> {
        let (answer, answered) = mpsc::channel();
        let (loader, sender, name) = (self.loader.clone(), self.sender.clone(), stem.to_owned());
        let compile = move || {
            // Raising one's own niceness is always allowed; where it is not, the compiler is only less polite.
            let _ = rustix::process::nice(10);
            let result = catch_unwind(AssertUnwindSafe(|| loader.load(&name, &bytes, &manifest)));
            let result = result.unwrap_or_else(|_| {
                Err(LoadFailure::Component("the compiler failed on it; its log says where".to_owned()))
            });
            // The worker may have stopped meanwhile.
            let _ = answer.send(result);
            let _ = sender.send(Event::Loaded);
        };
        if let Err(error) = thread::Builder::new().name("sandpost-compile".to_owned()).spawn(compile) {
            return Ok(Err(LoadFailure::Component(format!("no thread could be started to compile it: {error}"))));
        }
        let mut changed = false;
        let result = loop {
            match self.events.recv() {
                Ok(Event::Changed) => changed = true,
                // The answer is sent before the event.
                Ok(Event::Loaded) => break answered.try_recv().map_err(|_| Stopped)?,
                Ok(Event::Stop) | Err(_) => return Err(Stopped),
            }
        };
        if changed {
            let _ = self.sender.send(Event::Changed);
        }
        Ok(result)
    }

    /// Removes components that no record names. What cannot be removed now is removed another time.
    fn sweep(&self, named: &BTreeSet<Digest>) {
        if let Err(error) = self.store.retain(named) {
            tracing::warn!(%error, "an old component is still in the data folder");
        }
    }

    /// Shows what runs and what is wrong, and logs problems that are new.
    fn show(&self, problems: &BTreeMap<String, String>, found: &BTreeMap<String, Found>) {
        self.board.update(|state| {
            let before = std::mem::take(&mut state.views);
            let mut problems = problems.clone();
            for (stem, view) in &before {
                // While files settle, what was wrong before still describes what runs.
                if let (Some(Found::Unsettled), Some(problem)) = (found.get(stem), &view.problem) {
                    problems.entry(stem.clone()).or_insert_with(|| problem.clone());
                }
            }
            for (stem, active) in &self.known.active {
                let problem = problems.remove(stem).or_else(|| active.down.clone());
                state.views.insert(stem.clone(), view_of(stem, active, problem));
            }
            for (stem, problem) in problems {
                let view = PluginView {
                    name: stem.clone(),
                    status: "failed",
                    digest: None,
                    deployed_ms: None,
                    subscriptions: Vec::new(),
                    publish: Vec::new(),
                    http: Vec::new(),
                    problem: Some(problem),
                };
                state.views.insert(stem, view);
            }
            for (stem, view) in &state.views {
                let known = before.get(stem).and_then(|view| view.problem.as_ref());
                if let Some(problem) = view.problem.as_ref().filter(|problem| Some(*problem) != known) {
                    tracing::warn!(consumer = stem, status = view.status, %problem, "not deployed");
                }
            }
        });
    }
}

fn active_of(record: PluginRecord, manifest: &Manifest) -> Active {
    Active {
        record,
        subscriptions: manifest.subscriptions.iter().map(|spec| spec.name.clone()).collect(),
        publish: manifest.publish.iter().map(ToString::to_string).collect(),
        http: manifest.http.iter().map(ToString::to_string).collect(),
        down: None,
    }
}

fn view_of(stem: &str, active: &Active, problem: Option<String>) -> PluginView {
    let runs = active.down.is_none();
    PluginView {
        name: stem.to_owned(),
        status: if runs { "running" } else { "failed" },
        digest: runs.then(|| active.record.digest.to_string()),
        deployed_ms: runs.then_some(active.record.deployed_ms),
        subscriptions: active.subscriptions.clone(),
        publish: active.publish.clone(),
        http: active.http.clone(),
        problem,
    }
}
