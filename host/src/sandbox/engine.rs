//! The engine that all components share: how they are compiled, where their instances live, and what
//! makes them yield.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use wasmtime::component::Linker;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails};

use super::artifact::{Artifacts, ArtifactsError};
use super::guest::Guest;
use super::http::{CaError, Network};
use super::imports;
use crate::limits;

/// Memory that stays with a slot between two instances and is reset in place, in place of being given
/// back to the kernel and faulted in again.
const KEEP_RESIDENT_BYTES: usize = limits::MIB;
/// Stack of a call: the guest's part, and as much for the host functions that it calls.
const CALL_STACK_BYTES: usize = 2 * limits::GUEST_STACK_BYTES;
/// Address space of one memory slot. Only what a guest uses of it is ever backed.
const MEMORY_SLOT_BYTES: usize = 4096 * limits::MIB;

const _: () = assert!(limits::GUEST_MEMORY_BYTES_MAX <= MEMORY_SLOT_BYTES, "a slot must hold any allowed memory");

/// How a sandbox is set up.
#[derive(Clone, Debug)]
pub struct SandboxOptions {
    /// Folder for compiled components; made if it is not there.
    pub artifacts: PathBuf,
    /// Instances alive at once, over all consumers.
    pub instances_max: u32,
    /// Reserve the memory of all instances at the start, which makes fresh ones several times as fast.
    /// Without it, or where the address space does not suffice, each instance maps its own.
    pub pooling: bool,
    /// Certificate authorities in PEM that requests of consumers trust beside the public ones.
    pub http_ca: Option<PathBuf>,
}

impl SandboxOptions {
    pub fn new(artifacts: impl Into<PathBuf>) -> Self {
        Self { artifacts: artifacts.into(), instances_max: limits::INSTANCES_MAX, pooling: true, http_ca: None }
    }
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error(transparent)]
    Artifacts(#[from] ArtifactsError),
    #[error(transparent)]
    HttpCa(#[from] CaError),
    #[error("the WebAssembly engine cannot be set up: {0}")]
    Engine(String),
    #[error("the thread that makes guests yield cannot be started: {0}")]
    Ticker(std::io::Error),
}

/// Where consumers run. One per process; clones are the same sandbox.
#[derive(Clone)]
pub struct Sandbox {
    pub(super) shared: Arc<Shared>,
}

impl Sandbox {
    pub fn new(options: SandboxOptions) -> Result<Self, SandboxError> {
        let network = Arc::new(Network::new(options.http_ca.as_deref())?);
        let engine_error = |error: wasmtime::Error| SandboxError::Engine(format!("{error:#}"));
        let engine = match options.pooling.then(|| Engine::new(&config(Some(options.instances_max)))) {
            Some(Ok(engine)) => engine,
            Some(Err(error)) => {
                tracing::warn!(
                    "memory for {} instances cannot be reserved, so each maps its own, and fresh instances \
                     take longer: {error:#}",
                    options.instances_max
                );
                Engine::new(&config(None)).map_err(engine_error)?
            }
            None => Engine::new(&config(None)).map_err(engine_error)?,
        };
        let mut linker = Linker::new(&engine);
        imports::link(&mut linker).map_err(engine_error)?;
        let artifacts = Artifacts::open(options.artifacts, &engine)?;
        let ticker = Ticker::start(engine.clone()).map_err(SandboxError::Ticker)?;
        let instances = AtomicU32::new(0);
        let instances_max = options.instances_max;
        let shared = Shared { engine, linker, artifacts, network, instances, instances_max, _ticker: ticker };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Instances alive now, over all consumers.
    pub fn instances(&self) -> u32 {
        self.shared.instances.load(Ordering::Relaxed)
    }
}

/// What every component and instance keeps alive.
pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) linker: Linker<Guest>,
    pub(super) artifacts: Artifacts,
    pub(super) network: Arc<Network>,
    /// Relaxed everywhere: it only counts, and orders nothing.
    instances: AtomicU32,
    pub(super) instances_max: u32,
    _ticker: Ticker,
}

impl Shared {
    /// The right to one more instance, until it is dropped.
    pub(super) fn permit(self: &Arc<Self>) -> Option<InstancePermit> {
        let add = |count| (count < self.instances_max).then_some(count + 1);
        self.instances.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        Some(InstancePermit(Arc::clone(self)))
    }
}

/// One of `instances_max`.
pub(super) struct InstancePermit(Arc<Shared>);

impl Drop for InstancePermit {
    fn drop(&mut self) {
        self.0.instances.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The engine's settings: with room for so many pooled instances, or mapping each on demand.
fn config(pooled_instances: Option<u32>) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        // Every call runs on a fiber of its own, and WASI 0.3's concurrent calls are not used: without
        // their bookkeeping a call costs half as much.
        .concurrency_support(false)
        .max_wasm_stack(limits::GUEST_STACK_BYTES)
        .async_stack_size(CALL_STACK_BYTES)
        .memory_reservation(MEMORY_SLOT_BYTES as u64)
        // Compiling is done on one thread of low priority; spread over all cores it would starve the calls.
        .parallel_compilation(false)
        // Function names come from the name section. Debug information is a guest's bytes to be parsed
        // inside the host, for each trap.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable);
    if let Some(instances) = pooled_instances {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(instances)
            .total_core_instances(instances.saturating_mul(8))
            .total_memories(instances)
            .total_tables(instances.saturating_mul(4))
            .total_stacks(instances)
            .max_core_instances_per_component(limits::GUEST_CORE_INSTANCES_MAX)
            .max_memories_per_component(limits::GUEST_MEMORIES_MAX)
            .max_tables_per_component(limits::GUEST_TABLES_MAX)
            .max_tables_per_module(limits::GUEST_TABLES_MAX)
            .max_memories_per_module(limits::GUEST_MEMORIES_MAX)
            .table_elements(limits::GUEST_TABLE_ELEMENTS_MAX)
            .max_memory_size(MEMORY_SLOT_BYTES)
            .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
            .table_keep_resident(64 * limits::KIB)
            // Without it a second thread makes fresh instances slower, not faster; older kernels do without.
            .pagemap_scan(Enabled::Auto);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}

/// Raises the engine's epoch every [`limits::EPOCH_TICK`], until it is dropped.
struct Ticker {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    fn start(engine: Engine) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new().name("guest-ticker".to_owned()).spawn(move || {
            while stopped.recv_timeout(limits::EPOCH_TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                engine.increment_epoch();
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panics nowhere; and if it did, there is nothing more to stop.
            let _ = thread.join();
        }
    }
}
