//! Deployments: what lies in the plugin folder becomes what runs, and what runs is durable.
//!
//! The plugin folder is an inbox. What was deployed from it is recorded in the log, and its bytes are kept
//! in the data folder, so that a start runs the same versions whatever became of the inbox; then it
//! deploys what differs. A version that does not load leaves the old one running.
//!
//! `plan` decides, and does no IO. `inbox` sees the folder, `store` keeps the bytes, the worker (one
//! thread) does what the plan says. Components are compiled one at a time, on threads of low priority.
//!
//! A new version may have to prove itself: `probation` counts what its calls come to, which the subscriptions
//! tell its `trial`, and where it fails the worker goes back to the version before. `record` is what is kept
//! of all that, and `command` what an operator may ask for.
//!
//! **Architecture invariant:** a version is recorded only after it was compiled, linked and stored; a
//! component is removed from the store only after another record is durable.

mod command;
mod inbox;
pub mod manifest;
mod plan;
mod probation;
mod record;
mod rollback;
#[cfg(test)]
mod sandbox_tests;
mod show;
mod store;
#[cfg(test)]
mod tests;
mod trial;
mod watch;
mod worker;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use command::{Answer, Command};
pub use command::{CommandError, WentBack};
pub use inbox::FolderError;
pub use record::TargetError;
pub use store::StoreError;
use trial::Trial;
use worker::{Event, Worker};

use crate::dispatch::{Refunded, Witness};
use crate::limits;
use crate::log::{DueRefund, PluginRecord};
use crate::message::Millis;
use crate::outcome::Digest;
use crate::policy::Manifest;
use crate::sandbox::{Kind, Program, Sandbox};
use crate::view::{DeploymentView, PluginView};

/// What deployments need of the bus. Called from the deployment thread alone.
pub trait Host<P>: Send + Sync + 'static {
    /// Durably records a version and starts it: creates subscriptions that are new, updates those that
    /// changed, and swaps the program between two messages. Calls in flight finish on the old version.
    /// Also called at a start, with the record that is there already.
    fn activate(&self, stem: &str, version: ActiveVersion<P>) -> Result<(), ActivateError>;

    /// Durably replaces the record of a version, which goes on running.
    fn record(&self, stem: &str, record: PluginRecord) -> Result<(), ActivateError>;

    /// Takes back what a version charged that was rolled back. Another one runs.
    fn refund(&self, stem: &str, due: DueRefund) -> Result<Refunded, ActivateError>;

    /// The consumer's files are gone: durably forgets the record. Its subscriptions become orphaned.
    fn deactivate(&self, stem: &str) -> Result<(), ActivateError>;
}

/// Makes programs of components.
pub trait Loader: Send + Sync + 'static {
    type Program: Send + Sync + 'static;

    /// Compiles, validates and links. Called on a thread of low priority, one call at a time. What it
    /// answers on failure is shown to people.
    fn load(&self, stem: &str, bytes: &[u8], manifest: &Manifest) -> Result<Arc<Self::Program>, LoadFailure>;

    /// What a program was built as, for people.
    fn kind(program: &Self::Program) -> Option<&'static str>;
}

/// Why a version does not load, by the file that is to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadFailure {
    #[error("{0}")]
    Component(String),
    /// The manifest is well formed, and what it names is not there.
    #[error("{0}")]
    Manifest(String),
}

impl Loader for Sandbox {
    type Program = Program;

    fn load(&self, stem: &str, bytes: &[u8], manifest: &Manifest) -> Result<Arc<Program>, LoadFailure> {
        let component = Self::load(self, stem, bytes).map_err(|error| LoadFailure::Component(error.to_string()))?;
        if manifest.command.is_some() && component.kind() != Kind::Command {
            let kind = component.kind();
            return Err(LoadFailure::Manifest(format!(
                "[command] is for WASI commands, and {stem} is a {kind}; take it out"
            )));
        }
        Ok(Arc::new(
            Program::new(stem.into(), component, manifest).map_err(|error| LoadFailure::Manifest(error.to_string()))?,
        ))
    }

    fn kind(program: &Program) -> Option<&'static str> {
        Some(program.kind().as_str())
    }
}

/// A version that is to run.
pub struct ActiveVersion<P> {
    pub manifest: Manifest,
    pub record: PluginRecord,
    pub program: Arc<P>,
    /// Who is told how its calls end, while it is on probation.
    pub witness: Option<Arc<dyn Witness>>,
}

/// Why the bus did not take a version, or did not let one go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActivateError {
    /// It cannot run on this bus. It is not tried again until its files change.
    #[error("{reason}")]
    Refused { reason: String },
    /// The bus cannot do it now. It is tried again at the next look.
    #[error("{reason}")]
    Unavailable { reason: String },
}

/// Where deployments happen, and how patiently.
#[derive(Clone)]
pub struct Options {
    pub plugin_folder: PathBuf,
    pub data_folder: PathBuf,
    /// How long files must lie still before they are taken.
    pub quiet: Duration,
    /// How often the folder is looked at where nothing tells of a change.
    pub rescan: Duration,
    /// The bus's clock, for the times of deployments.
    pub clock: Arc<dyn Fn() -> Millis + Send + Sync>,
}

impl Options {
    pub fn new(plugin_folder: PathBuf, data_folder: PathBuf, clock: Arc<dyn Fn() -> Millis + Send + Sync>) -> Self {
        let (quiet, rescan) = (limits::DEPLOY_QUIET, limits::DEPLOY_RESCAN);
        Self { plugin_folder, data_folder, quiet, rescan, clock }
    }
}

/// Why deployments cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the deployment thread could not be started: {0}")]
    Thread(std::io::Error),
}

/// The deployments of a bus. Dropping it stops them; what runs goes on running.
pub struct Deployments {
    events: Sender<Event>,
    board: Arc<Board>,
    worker: Option<JoinHandle<()>>,
}

impl Deployments {
    /// Runs the recorded versions (`active`, by stem), and returns when each runs or has failed to; then
    /// follows the plugin folder, which is made where it is missing.
    ///
    /// Fails where the plugin folder is not to be trusted, or one of the folders cannot be used at all. A
    /// consumer that fails is no error here; [`Deployments::views`] says why.
    pub fn start<L: Loader, H: Host<L::Program>>(
        options: Options,
        host: Arc<H>,
        loader: Arc<L>,
        active: Vec<(String, PluginRecord)>,
    ) -> Result<Self, StartError> {
        // Not bounded: events carry nothing, and whoever sends them must not wait for a compiler.
        let (events, received) = mpsc::channel();
        let board = Arc::new(Board::default());
        let worker = Worker::open(options, host, loader, (events.clone(), received), board.clone())?;
        let (started, has_started) = mpsc::channel();
        let run = move || worker.run(active, started);
        let thread =
            thread::Builder::new().name("sandpost-deploy".to_owned()).spawn(run).map_err(StartError::Thread)?;
        // Closed without an answer only where the thread panicked, which `stop` reports.
        let _ = has_started.recv();
        Ok(Self { events, board, worker: Some(thread) })
    }

    /// Looks at the plugin folder now. Files that changed a moment ago are still given time to settle.
    pub fn rescan(&self) {
        // The thread ends before this handle only where it panicked, which `stop` reports.
        let _ = self.events.send(Event::Changed);
    }

    /// Every consumer that is recorded, or that has files in the folder that are compiled or have a problem.
    pub fn views(&self) -> Vec<PluginView> {
        let state = self.board.lock();
        let mut views: Vec<PluginView> = state.views.values().cloned().collect();
        for view in &mut views {
            if let (Some(trial), Some(probation)) = (state.trials.get(&view.name), &mut view.probation) {
                let standing = trial.standing();
                (probation.messages, probation.failures) = (standing.messages, standing.failures);
            }
        }
        views
    }

    /// The newest deployments of a consumer, the newest first; `None` where none is recorded.
    pub fn history(&self, name: &str) -> Option<Vec<DeploymentView>> {
        let mut history = self.board.lock().histories.get(name).map(|history| history.to_vec())?;
        // What is still on probation is counted as it goes.
        if let Some(first) = history.first_mut()
            && let Some(view) = self.views().into_iter().find(|view| view.name == name)
            && let (Some(now), Some(probation)) = (view.probation, &mut first.probation)
        {
            (probation.messages, probation.failures) = (now.messages, now.failures);
        }
        Some(history)
    }

    /// Makes an earlier version run again: the one before, or the one whose digest begins with `to`. Waits
    /// for it; a compilation under way comes first.
    pub fn roll_back(&self, name: &str, to: Option<String>) -> Result<WentBack, CommandError> {
        let (answer, answered) = mpsc::channel();
        self.ask(Command::RollBack { name: name.to_owned(), to, answer }, &answered)
    }

    /// Lets a component be deployed again that was rolled back. Waits until that is recorded.
    pub fn permit(&self, name: &str, digest: Digest) -> Result<(), CommandError> {
        let (answer, answered) = mpsc::channel();
        self.ask(Command::Permit { name: name.to_owned(), digest, answer }, &answered)
    }

    fn ask<T>(&self, command: Command, answered: &mpsc::Receiver<Answer<T>>) -> Answer<T> {
        self.events.send(Event::Command(command)).map_err(|_| CommandError::Stopping)?;
        answered.recv().map_err(|_| CommandError::Stopping)?
    }

    /// What is wrong with the plugin folder as a whole, if anything: then nothing is deployed or removed.
    pub fn folder_problem(&self) -> Option<String> {
        self.board.lock().folder_problem.clone()
    }

    /// Whether everything that lay in the folder at the start was deployed or refused by now.
    pub fn has_looked(&self) -> bool {
        self.board.lock().looked
    }

    /// Waits until `condition` holds of what [`Deployments::views`] answers, for at most `timeout`.
    /// Answers whether it holds.
    pub fn wait_until(&self, timeout: Duration, mut condition: impl FnMut(&[PluginView]) -> bool) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let seen = self.board.lock().updates;
            if condition(&self.views()) {
                return true;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            let unchanged = |state: &mut BoardState| state.updates == seen;
            drop(self.board.changed.wait_timeout_while(self.board.lock(), left, unchanged));
        }
    }

    /// Stops, and waits for the deployment under way to be made or left undone. A compilation is not waited
    /// for: nothing depends on it yet.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(worker) = self.worker.take() else { return };
        let _ = self.events.send(Event::Stop);
        if worker.join().is_err() {
            tracing::error!("the deployment thread panicked; nothing was deployed since");
        }
    }
}

impl Drop for Deployments {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the worker shows. One lock, held only to copy: the worker is the only writer, and never waits
/// for a reader's work.
#[derive(Default)]
struct Board {
    state: Mutex<BoardState>,
    changed: Condvar,
}

#[derive(Default)]
struct BoardState {
    views: BTreeMap<String, PluginView>,
    /// The newest deployment first.
    histories: BTreeMap<String, Arc<[DeploymentView]>>,
    /// What is on probation.
    trials: BTreeMap<String, Arc<Trial>>,
    folder_problem: Option<String>,
    looked: bool,
    /// Counts the updates, for those who wait for one.
    updates: u64,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, BoardState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut BoardState)) {
        let mut state = self.lock();
        change(&mut state);
        state.updates += 1;
        self.changed.notify_all();
    }
}
