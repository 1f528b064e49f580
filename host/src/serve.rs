//! The life of the process: what starts, in which order, what happens when the log fails, and how it ends.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::bus::Bus;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::deploy::{self, ActivateError, Deployments};
use crate::engine::{Engine, EngineError, EngineOptions, retain};
use crate::ingress::{BindError, Ingress, IngressSettings};
use crate::log::redb_log::{OpenError, OpenOptions, RedbLog};
use crate::log::{Log, LogFailure, PluginRecords};
use crate::retention::Rules;
use crate::sandbox::{Sandbox, SandboxError, SandboxOptions};

/// How long calls that run may take to end when the bus is told to stop.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);
/// How long the first look at the plugin folder is waited for. Large components take seconds to compile.
const FIRST_LOOK_PATIENCE: Duration = Duration::from_secs(60);
/// How often a start looks whether it is told to stop.
const SIGNAL_LOOK: Duration = Duration::from_millis(100);
/// How often a log is tried again whose disk is full to the last byte.
const ROOM_RETRY: Duration = Duration::from_secs(1);
/// How long a failed engine may take to let go of its log.
const RELEASE_PATIENCE: Duration = Duration::from_secs(30);

/// What a bus needs to be told.
#[derive(Clone, Debug)]
pub struct ServeSettings {
    pub plugin_folder: PathBuf,
    pub log: OpenOptions,
    pub ingress: IngressSettings,
    /// Threads that call consumers.
    pub workers: usize,
    /// Limit of one message's data, in bytes.
    pub message_data_max: usize,
    /// Certificate authorities that requests of consumers trust beside the public ones.
    pub http_ca: Option<PathBuf>,
    pub retention: Arc<Rules>,
}

impl From<Config> for ServeSettings {
    fn from(config: Config) -> Self {
        Self {
            log: OpenOptions {
                reserve_bytes: config.reserve_bytes,
                free_bytes_min: config.free_bytes_min,
                dedupe_window: config.dedupe_window,
                accept_unsynced: config.accept_unsynced,
                topic_caps: config.retention.caps(),
                state: config.state,
                ..OpenOptions::new(config.data)
            },
            ingress: IngressSettings {
                listen: config.listen,
                allowed_hosts: config.allowed_hosts,
                allowed_origins: config.allowed_origins,
                message_data_bytes_max: config.message_data_bytes_max,
            },
            plugin_folder: config.plugins,
            workers: config.workers,
            message_data_max: config.message_data_bytes_max,
            http_ca: config.http_ca,
            retention: Arc::new(config.retention),
        }
    }
}

/// Why the process ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Deployments(#[from] deploy::StartError),
    #[error("a consumer that ran before cannot run again: {0}")]
    Activate(#[from] ActivateError),
    #[error(
        "{0}. What was acknowledged before is on the disk; nothing after it was acknowledged. \
         Check the disk, restart the machine, then start the bus again"
    )]
    Log(LogFailure),
    #[error("the failed log is still in use after {0:?}; start the bus again")]
    NotReleased(Duration),
    #[error("the process could not be set up: {0}")]
    Process(#[from] std::io::Error),
}

/// Serves until SIGTERM or SIGINT; a second one ends the process at once. `on_ready` is told the address
/// once everything runs.
pub fn serve<E>(
    settings: ServeSettings,
    on_ready: impl FnOnce(std::net::SocketAddr) -> Result<(), E>,
) -> Result<(), ServeError> {
    allow_descriptors();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("io").enable_all().build()?;
    let outcome = Life::begin(&runtime, settings).and_then(|mut life| {
        if !*life.told_to_stop.borrow() {
            // Nobody listens for the address any more: that is no reason not to serve.
            let _ = on_ready(life.address);
        }
        life.go_on()
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// One engine on its log.
struct Serving {
    engine: Arc<Engine>,
    log: Arc<RedbLog>,
}

/// The parts of a bus that serves.
struct Life<'a> {
    runtime: &'a Runtime,
    settings: ServeSettings,
    bus: Bus,
    /// None only while one log is let go and the next is opened.
    serving: Option<Serving>,
    deployments: Option<Arc<Deployments>>,
    address: std::net::SocketAddr,
    stop_ingress: watch::Sender<bool>,
    ingress: Option<tokio::task::JoinHandle<()>>,
    told_to_stop: watch::Receiver<bool>,
}

impl<'a> Life<'a> {
    fn begin(runtime: &'a Runtime, settings: ServeSettings) -> Result<Self, ServeError> {
        let told_to_stop = runtime.block_on(async { watch_signals() })?;
        // The port first: it is the refusal that people meet most, and it costs nothing to find out.
        let ingress = runtime.block_on(Ingress::bind(settings.ingress.clone()))?;
        let address = ingress.address();
        let bus = Bus::new(settings.message_data_max);
        let (stop_ingress, stopped) = watch::channel(false);
        // Serving begins before the log is open, so that /livez and /readyz answer while it recovers.
        let ingress = runtime.spawn(ingress.run(bus.clone(), stopped));

        let log = Arc::new(RedbLog::open(&settings.log)?);
        let (engine, recorded) = start_engine(runtime, &settings, log.clone())?;
        bus.serve_on(engine.clone())?;
        let deployments = Arc::new(start_deployments(&settings, &bus, recorded)?);
        // On a first start, subscriptions come into being with the first look at the plugin folder; a
        // publisher that is told that the bus is ready counts on them.
        let began = Instant::now();
        while !deployments.wait_until(SIGNAL_LOOK, |_| deployments.has_looked()) && !*told_to_stop.borrow() {
            if began.elapsed() > FIRST_LOOK_PATIENCE {
                warn!("consumers are still being compiled; the bus serves without them meanwhile");
                break;
            }
        }
        bus.open();
        bus.report_deployments(&deployments);
        let looked_after = bus.clone();
        runtime.spawn(async move {
            let mut second = tokio::time::interval(Duration::from_secs(1));
            loop {
                second.tick().await;
                looked_after.look_after();
            }
        });
        Ok(Self {
            runtime,
            settings,
            bus,
            serving: Some(Serving { engine, log }),
            deployments: Some(deployments),
            address,
            stop_ingress,
            ingress: Some(ingress),
            told_to_stop,
        })
    }

    /// Serves until it is told to stop, over as many engines as it takes.
    fn go_on(&mut self) -> Result<(), ServeError> {
        loop {
            let mut failure = self.engine().failure();
            let mut told_to_stop = self.told_to_stop.clone();
            let failed = self.runtime.block_on(async {
                tokio::select! {
                    _ = told_to_stop.wait_for(|told| *told) => None,
                    failed = failure.wait_for(Option::is_some) => failed.ok().and_then(|failed| failed.clone()),
                }
            });
            match failed {
                None => return self.end(),
                Some(failure @ LogFailure::Full { .. }) => {
                    warn!(%failure, "the disk is full: starting anew from what is durable");
                    self.start_anew(&failure)?;
                    if self.serving.is_none() {
                        // Told to stop while there was nothing to serve on; all that is durable is on the disk.
                        return self.end();
                    }
                }
                Some(failure @ LogFailure::Broken { .. }) => {
                    error!(%failure, "the log failed: nothing more is acknowledged");
                    self.bus.withdraw("the log failed");
                    // No goodbye to the log: what is not synced must not look as if it were.
                    return Err(ServeError::Log(failure));
                }
            }
        }
    }

    /// After a full disk: everything in memory is discarded and loaded again, as after a crash. Opening
    /// gives up the reserve where there is no room otherwise. Where not even that suffices, or the next
    /// engine meets the full disk at once, it is tried again until somebody makes room.
    fn start_anew(&mut self, failure: &LogFailure) -> Result<(), ServeError> {
        let LogFailure::Full { error, .. } = failure else { unreachable!("nothing else is mended by this: {failure}") };
        let options = OpenOptions { found_no_room: Some(error.clone()), ..self.settings.log.clone() };
        self.bus.withdraw("the disk is full");
        self.release()?;
        loop {
            // Not at once: what filled the disk would fill it again, as fast as the machine can.
            if self.told_to_stop_within(ROOM_RETRY) {
                return Ok(());
            }
            let log = match RedbLog::open(&options) {
                Ok(log) => Arc::new(log),
                Err(OpenError::Failed(failure @ LogFailure::Full { .. })) => {
                    error!(%failure, "the log cannot be opened again yet");
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let (engine, _recorded) = start_engine(self.runtime, &self.settings, log.clone())?;
            let served = self.bus.serve_on(engine.clone());
            self.serving = Some(Serving { engine, log });
            match served {
                Ok(()) => {
                    info!("the bus serves again; publishes are accepted when there is room");
                    return Ok(());
                }
                Err(error) if matches!(*self.engine().failure().borrow(), Some(LogFailure::Full { .. })) => {
                    error!(%error, "the disk is full again");
                    self.release()?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn told_to_stop_within(&self, time: Duration) -> bool {
        let mut told_to_stop = self.told_to_stop.clone();
        self.runtime.block_on(async { tokio::time::timeout(time, told_to_stop.wait_for(|told| *told)).await.is_ok() })
    }

    /// Stops the engine and lets its log go, which closes the file in order. Requests that still hold the
    /// engine end on their own.
    fn release(&mut self) -> Result<(), ServeError> {
        let Serving { engine, log } = self.serving.take().expect("something serves until it fails");
        engine.stop();
        drop(engine);
        let began = Instant::now();
        while Arc::strong_count(&log) > 1 {
            if began.elapsed() > RELEASE_PATIENCE {
                return Err(ServeError::NotReleased(RELEASE_PATIENCE));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // Here and on no other thread, so that the file is closed when this returns: the process may end then.
        drop(log);
        Ok(())
    }

    fn engine(&self) -> &Arc<Engine> {
        &self.serving.as_ref().expect("something serves until it fails").engine
    }

    /// Told to stop: no new requests, no new calls; what runs ends, what is decided is synced.
    fn end(&mut self) -> Result<(), ServeError> {
        info!("stopping: letting calls end");
        self.stop_ingress.send_replace(true);
        if let Some(ingress) = self.ingress.take() {
            // Ingress bounds its own patience.
            let _ = self.runtime.block_on(ingress);
        }
        if let Some(serving) = &self.serving {
            self.runtime.block_on(serving.engine.drain(DRAIN_PATIENCE));
        }
        self.deployments = None;
        self.bus.withdraw("stopping");
        if self.serving.is_some() {
            self.release()?;
        }
        info!("stopped; everything acknowledged is on the disk");
        Ok(())
    }
}

fn start_engine(
    runtime: &Runtime,
    settings: &ServeSettings,
    log: Arc<dyn Log>,
) -> Result<(Arc<Engine>, PluginRecords), EngineError> {
    let options = EngineOptions { workers: settings.workers, message_data_max: settings.message_data_max };
    let (engine, recorded) = Engine::start(log, Arc::new(SystemClock), runtime.handle(), options)?;
    runtime.spawn(retain::run(Arc::downgrade(&engine), settings.retention.clone()));
    Ok((engine, recorded))
}

fn start_deployments(settings: &ServeSettings, bus: &Bus, recorded: PluginRecords) -> Result<Deployments, ServeError> {
    let data_folder = settings.log.folder.clone();
    let http_ca = settings.http_ca.clone();
    let sandbox = Sandbox::new(SandboxOptions { http_ca, ..SandboxOptions::new(data_folder.join("artifacts")) })?;
    let options = deploy::Options::new(settings.plugin_folder.clone(), data_folder, Arc::new(|| SystemClock.now_ms()));
    let sandbox = Arc::new(sandbox);
    bus.rehearse_in(sandbox.clone());
    Ok(Deployments::start(options, Arc::new(bus.clone()), sandbox, recorded)?)
}

/// Raises the soft limit on open files to the hard one: it is low for the sake of programs that use `select`, and a
/// thousand calls that wait for answers have a thousand connections.
fn allow_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        warn!(%error, "the limit on open files stays as it is");
    }
}

/// Follows the signals that end the process, and disarms the one that must not.
fn watch_signals() -> std::io::Result<watch::Receiver<bool>> {
    let (tell, told) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // A limit on the size of files would otherwise kill the process in the middle of a write; with a
    // handler the write fails with EFBIG, which is a full disk.
    let mut file_size = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = file_size.recv() => continue,
            }
            if tell.send_replace(true) {
                warn!("a second signal: ending at once");
                std::process::exit(1);
            }
        }
    });
    Ok(told)
}
