//! The thread that deploys: looks at the folder, asks for the plan, and does its steps one by one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::command::Command;
use super::inbox::{self, Found, Inbox};
use super::manifest;
use super::plan::{Active, Failure, Known, Plan, Step, Version, plan};
use super::record::{deployed, kept};
use super::store::Store;
use super::trial::Trial;
use super::watch::Watch;
use super::{ActivateError, ActiveVersion, Board, Host, LoadFailure, Loader, Options, StartError, show};
use crate::dispatch::Witness;
use crate::limits;
use crate::log::{Cause, PluginRecord};
use crate::outcome::Digest;
use crate::policy::Manifest;
use crate::view::PluginView;

/// What wakes the worker.
pub(super) enum Event {
    /// The folder may have changed.
    Changed,
    /// The compilation under way has ended.
    Loaded,
    /// The probation of this consumer's version is decided.
    Judged(String),
    Command(Command),
    Stop,
}

/// The worker was told to stop in the middle of something.
pub(super) struct Stopped;

/// How far a deployment came.
enum Deployed {
    /// It is active, or its failure is remembered.
    Decided,
    /// The files are no longer those that the plan was made for.
    FilesChanged,
}

/// A version that can run.
pub(super) struct Ready<P> {
    pub(super) manifest: Arc<Manifest>,
    pub(super) program: Arc<P>,
}

impl<P> Clone for Ready<P> {
    fn clone(&self) -> Self {
        Self { manifest: self.manifest.clone(), program: self.program.clone() }
    }
}

pub(super) struct Worker<L: Loader, H: Host<L::Program>> {
    pub(super) options: Options,
    pub(super) host: Arc<H>,
    loader: Arc<L>,
    sender: Sender<Event>,
    events: Receiver<Event>,
    board: Arc<Board>,
    pub(super) inbox: Inbox,
    pub(super) store: Store,
    watch: Watch,
    pub(super) known: Known,
    /// Programs whose version the bus could not take yet.
    loaded: BTreeMap<String, (Version, Arc<L::Program>)>,
    /// What runs.
    running: BTreeMap<String, Ready<L::Program>>,
    /// What comes back where a version fails its probation: kept ready, for then there is no time to compile.
    pub(super) fallbacks: BTreeMap<String, Ready<L::Program>>,
    /// The probations of what runs.
    pub(super) trials: BTreeMap<String, Arc<Trial>>,
    /// Consumers whose probation is decided, and nothing was done about it yet.
    pub(super) judged: BTreeSet<String>,
    /// Why a verdict could not be carried out.
    pub(super) stuck: BTreeMap<String, String>,
    /// What operators asked for and is not done. Not bounded: each of them waits for its answer.
    pub(super) commands: VecDeque<Command>,
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
        Ok(Self {
            options,
            host,
            loader,
            sender,
            events,
            board,
            inbox,
            store,
            watch,
            known: Known::default(),
            loaded: BTreeMap::new(),
            running: BTreeMap::new(),
            fallbacks: BTreeMap::new(),
            trials: BTreeMap::new(),
            judged: BTreeSet::new(),
            stuck: BTreeMap::new(),
            commands: VecDeque::new(),
            began: Instant::now(),
        })
    }

    pub(super) fn run(mut self, active: Vec<(String, PluginRecord)>, started: Sender<()>) {
        let Ok(()) = self.start_recorded(active) else { return };
        // Nobody waits any more where the start was given up.
        let _ = started.send(());
        while let Ok(wait) = self.look() {
            match self.events.recv_timeout(wait) {
                Ok(event) => {
                    let Ok(()) = self.note(event) else { return };
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // One look answers everything that was told until now.
            loop {
                match self.events.try_recv() {
                    Ok(event) => {
                        let Ok(()) = self.note(event) else { return };
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
        }
    }

    /// Remembers what an event asks for; the next look does it.
    fn note(&mut self, event: Event) -> Result<(), Stopped> {
        match event {
            Event::Changed | Event::Loaded => {}
            Event::Judged(stem) => drop(self.judged.insert(stem)),
            Event::Command(command) => self.commands.push_back(command),
            Event::Stop => return Err(Stopped),
        }
        Ok(())
    }

    /// Runs what the log says was running.
    fn start_recorded(&mut self, active: Vec<(String, PluginRecord)>) -> Result<(), Stopped> {
        let named = active.iter().flat_map(|(_, record)| kept(record)).collect();
        self.retain(&named);
        for (stem, record) in active {
            let file = self.inbox.path(&stem, "toml");
            let down = match manifest::parse(&stem, &file, &record.manifest).map(Arc::new) {
                // It was taken away while the bus was down, and the first look removes it: it does not run until then.
                _ if self.inbox.is_gone(&stem) => Some((None, "its files are gone".to_owned())),
                Err(error) => Some((None, error.to_string())),
                Ok(manifest) => {
                    let started = self.start_one(&stem, &record, manifest.clone())?;
                    started.err().map(|problem| (Some(manifest), problem))
                }
            };
            if let Some((manifest, reason)) = down {
                let mut active = active_of(record, manifest.as_deref().unwrap_or(&Manifest::default()), None);
                active.down = Some(format!("the version that ran before could not be started: {reason}"));
                self.known.active.insert(stem, active);
                continue;
            }
            self.load_fallback(&stem)?;
            self.refund_due(&stem);
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
        let activated = self.activate(stem, Ready { manifest, program }, record.clone());
        Ok(activated.map_err(|error| error.to_string()))
    }

    /// Makes a version run. On an error the one before goes on.
    pub(super) fn activate(
        &mut self,
        stem: &str,
        ready: Ready<L::Program>,
        record: PluginRecord,
    ) -> Result<(), ActivateError> {
        let policy = ready.manifest.probation.filter(|_| record.back_to.is_some());
        let trial = policy
            .map(|policy| Arc::new(Trial::new(stem, record.digest, record.deployed_ms, policy, self.sender.clone())));
        let witness = trial.clone().map(|trial| -> Arc<dyn Witness> { trial });
        let (manifest, program) = ((*ready.manifest).clone(), ready.program.clone());
        self.host.activate(stem, ActiveVersion { manifest, record: record.clone(), program, witness })?;
        self.trials.remove(stem);
        self.trials.extend(trial.map(|trial| (stem.to_owned(), trial)));
        if record.back_to.is_none() {
            self.fallbacks.remove(stem);
        }
        self.stuck.remove(stem);
        self.known.active.insert(stem.to_owned(), active_of(record, &ready.manifest, L::kind(&ready.program)));
        self.running.insert(stem.to_owned(), ready);
        Ok(())
    }

    /// Looks at the folder, does what is to be done, and answers how long to wait for the next look.
    fn look(&mut self) -> Result<Duration, Stopped> {
        self.known.failures.retain(|_, failure| !failure.passing);
        for stem in self.known.active.keys().cloned().collect::<Vec<_>>() {
            self.load_fallback(&stem)?;
        }
        self.judge();
        let owing = self.known.active.iter().filter(|(_, active)| !active.record.refunds.is_empty());
        for stem in owing.map(|(stem, _)| stem.clone()).collect::<Vec<_>>() {
            self.refund_due(&stem);
        }
        let mut replies = self.obey()?;
        let mut rescan = self.options.rescan;
        if !self.judged.is_empty() {
            rescan = rescan.min(limits::DEPLOY_RESCAN_UNWATCHED);
        }
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
            self.show(&Plan::default().problems, &BTreeMap::new());
            replies.into_iter().for_each(|reply| reply());
            self.board.update(|state| state.looked = true);
            return Ok(rescan.min(limits::DEPLOY_RESCAN_UNWATCHED));
        };
        self.known.failures.retain(|stem, _| look.found.contains_key(stem));
        loop {
            let plan = plan(&self.options.plugin_folder, &self.known, &look.found);
            self.show(&plan.problems, &look.found);
            replies.drain(..).for_each(|reply| reply());
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
            None => {
                self.show_compiling(stem, version.digest);
                tracing::info!(consumer = stem, digest = %version.digest.short(), bytes = bytes.len(), "compiling");
                match self.load(stem, bytes.clone(), manifest.clone())? {
                    Ok(program) => program,
                    Err(failure) => {
                        let file = match failure {
                            LoadFailure::Component(_) => self.inbox.component_path(stem),
                            LoadFailure::Manifest(_) => self.inbox.path(stem, "toml"),
                        };
                        let problem = format!("{}: {failure}", file.display());
                        self.fail(stem, Some(version), problem, false);
                        return Ok(Deployed::Decided);
                    }
                }
            }
        };
        let before = self.known.active.get(stem);
        let record = match before {
            Some(active) if active.is_version(&version) => active.record.clone(),
            _ => {
                // What does not run is nothing to go back to.
                let probation = manifest.probation.is_some() && before.is_some_and(|active| active.down.is_none());
                let cause = if self.board.lock().looked { Cause::Folder } else { Cause::Start };
                let standing = self.trials.get(stem).map(|trial| trial.standing());
                let before = before.map(|active| &active.record);
                deployed(before, &version, (self.options.clock)(), cause, probation, standing.as_ref())
            }
        };
        let was_on_probation = before.is_some_and(|active| active.record.back_to.is_some());
        let (ready, fallback) = (Ready { manifest, program: program.clone() }, self.running.get(stem).cloned());
        let on_probation = record.back_to.is_some();
        let result = match self.store.put(version.digest, &bytes) {
            Err(error) => Err(ActivateError::Unavailable { reason: error.to_string() }),
            Ok(()) => self.activate(stem, ready, record),
        };
        match result {
            Ok(()) => {
                tracing::info!(consumer = stem, digest = %version.digest.short(), on_probation, "deployed");
                self.known.failures.remove(stem);
                if on_probation && !was_on_probation {
                    self.fallbacks.extend(fallback.map(|fallback| (stem.to_owned(), fallback)));
                }
                self.sweep();
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
                self.running.remove(stem);
                self.fallbacks.remove(stem);
                self.trials.remove(stem);
                self.stuck.remove(stem);
                self.sweep();
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
    pub(super) fn load(
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
                // The answer is sent before the event.
                Ok(Event::Loaded) => break answered.try_recv().map_err(|_| Stopped)?,
                Ok(event) => {
                    changed |= matches!(event, Event::Changed);
                    self.note(event)?;
                    // A version that fails does not wait for a compiler.
                    self.judge();
                }
                Err(_) => return Err(Stopped),
            }
        };
        if changed || !self.commands.is_empty() || !self.judged.is_empty() {
            let _ = self.sender.send(Event::Changed);
        }
        Ok(result)
    }

    /// Removes components that no record names any more.
    pub(super) fn sweep(&self) {
        self.retain(&self.known.active.values().flat_map(|active| kept(&active.record)).collect());
    }

    /// What cannot be removed now is removed another time.
    fn retain(&self, named: &BTreeSet<Digest>) {
        if let Err(error) = self.store.retain(named) {
            tracing::warn!(%error, "an old component is still in the data folder");
        }
    }

    /// Shows that a component is being compiled; the next plan shows what came of it.
    fn show_compiling(&self, stem: &str, digest: Digest) {
        self.board.update(|state| {
            let view = state.views.entry(stem.to_owned()).or_insert_with(|| show::idle(stem, "compiling"));
            view.compiling = Some(digest.to_string());
            // For people who wait now: nothing is decided by it.
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            view.compiling_since_ms = u64::try_from(since.as_millis()).ok();
        });
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
                let problem = self.stuck.get(stem).cloned().or(problem);
                let trial = self.trials.get(stem).map(|trial| &**trial);
                state.views.insert(stem.clone(), show::active(stem, active, trial, problem));
            }
            let history = |(stem, active): (&String, &Active)| (stem.clone(), show::history(&active.record).into());
            state.histories = self.known.active.iter().map(history).collect();
            state.trials.clone_from(&self.trials);
            for (stem, problem) in problems {
                let view = PluginView { problem: Some(problem), ..show::idle(&stem, "failed") };
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

fn active_of(record: PluginRecord, manifest: &Manifest, kind: Option<&'static str>) -> Active {
    Active {
        kind,
        record,
        subscriptions: manifest.subscriptions.iter().map(|spec| spec.name.clone()).collect(),
        publish: manifest.publish.iter().map(ToString::to_string).collect(),
        http: manifest.http.iter().map(ToString::to_string).collect(),
        down: None,
    }
}
