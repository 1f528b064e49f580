//! How fast the bus is inside: published messages to acknowledged deliveries, synced, with real Wasm
//! consumers and without HTTP, beside append + fdatasync of the same disk in the same run. And how fast one
//! counter in the state is, which every message of one key reads and writes: by how much it outruns the disk.
//!
//! Each round measures the disk, then the bus, so that a machine that is slow for a while is slow for both.
//! What is compared is the ratio; the medians of all rounds are printed.
//!
//! Run it by `make bench-engine`. It needs the guests `glance` and `obedient`, and says so where one is missing.
//! `-- --json FILE` also writes the figures of every round, for `make bench`.

#![allow(clippy::print_stdout, reason = "the table is what a benchmark is for")]

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clap::Parser as _;
use sandpost::bus::Bus;
use sandpost::clock::SystemClock;
use sandpost::deploy::{ActiveVersion, Host as _};
use sandpost::engine::{Engine, EngineOptions};
use sandpost::limits::MESSAGE_DATA_BYTES_MAX;
use sandpost::log::redb_log::{OpenOptions, RedbLog};
use sandpost::log::{Log as _, PluginRecord};
use sandpost::message::Event;
use sandpost::policy::{Isolation, Manifest, Policy, StartAt, SubscriptionSpec};
use sandpost::sandbox::{Program, Sandbox, SandboxOptions};
use sandpost::topic::{TopicFilter, TopicName};

/// As the binary has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Where guests are built, and where the benchmark keeps its data unless SANDPOST_BENCH_FOLDER says otherwise.
const TARGET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target");
const MESSAGE_BYTES: usize = 256;
const MESSAGES: u64 = 300_000;
const OUTSTANDING: usize = 4_096;
const FAN_OUT: u64 = 3;
const SINGLE_PUBLISHES: usize = 500;
/// Messages that are published at a time.
const BATCH: usize = 100;
const KEYS: u64 = 10_000;
/// Consumers that take each message, for deliveries.
const CONSUMERS: [&str; FAN_OUT as usize] = ["email", "inventory", "analytics"];
const COUNTER: &str = "counter";
/// What each message tells the consumer `obedient` to do with the counter.
const INCREMENT: &str = r#"{"do":"increment","key":"hot"}"#;

/// Measures the engine beside the disk.
#[derive(clap::Parser)]
struct Options {
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Where to write the figures of every round
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Cargo says that this is a benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

struct Round {
    fdatasync_us: f64,
    single_us: f64,
    deliveries_per_second: f64,
    hot_key_per_second: f64,
    fresh_per_second: f64,
    increments_per_second: f64,
}

impl Round {
    /// Increments of the counter in the time of one sync of the disk.
    fn increments_a_sync(&self) -> f64 {
        self.increments_per_second * self.fdatasync_us / 1e6
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let (glance, obedient) = (guest("glance")?, guest("obedient")?);
    let folder = std::env::var_os("SANDPOST_BENCH_FOLDER").map_or_else(|| PathBuf::from(TARGET), PathBuf::from);
    let mut rounds = Vec::new();
    println!("round  fdatasync us  publish us  ratio  deliveries/s  one hot key/s  fresh/s  increments/s  a sync");
    for number in 1..=options.rounds {
        let scratch = tempfile::tempdir_in(&folder).context("a folder for the benchmark's data")?;
        let round = Round {
            fdatasync_us: append_and_sync(scratch.path())?,
            single_us: single_publish(&glance, scratch.path())?,
            deliveries_per_second: throughput(&glance, &scratch.path().join("many"), MESSAGES, KEYS, Isolation::Reuse)?,
            hot_key_per_second: throughput(&glance, &scratch.path().join("one"), MESSAGES / 4, 1, Isolation::Reuse)?,
            fresh_per_second: throughput(
                &glance,
                &scratch.path().join("fresh"),
                MESSAGES / 10,
                KEYS,
                Isolation::Fresh,
            )?,
            increments_per_second: increments(&obedient, &scratch.path().join("counter"), MESSAGES / 4)?,
        };
        println!(
            "{number:>5}  {:>12.0}  {:>10.0}  {:>4.1}x  {:>12.0}  {:>13.0}  {:>7.0}  {:>12.0}  {:>5.1}x",
            round.fdatasync_us,
            round.single_us,
            round.single_us / round.fdatasync_us,
            round.deliveries_per_second,
            round.hot_key_per_second,
            round.fresh_per_second,
            round.increments_per_second,
            round.increments_a_sync(),
        );
        rounds.push(round);
    }
    let median = |figure: fn(&Round) -> f64| {
        let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    println!(
        "\nmedian of {} rounds, {MESSAGE_BYTES}-byte messages, fan-out {FAN_OUT}, {OUTSTANDING} outstanding, batches of {BATCH}:",
        rounds.len()
    );
    println!("  append + fdatasync            {:>9.0} us", median(|round| round.fdatasync_us));
    println!("  one synchronous publish       {:>9.0} us", median(|round| round.single_us));
    println!("  ... of the disk's own         {:>9.1} x", median(|round| round.single_us / round.fdatasync_us));
    println!("  deliveries, {KEYS} keys      {:>9.0} /s", median(|round| round.deliveries_per_second));
    println!("  deliveries, one hot key       {:>9.0} /s", median(|round| round.hot_key_per_second));
    println!("  deliveries, fresh instances   {:>9.0} /s", median(|round| round.fresh_per_second));
    println!("  increments of one counter     {:>9.0} /s", median(|round| round.increments_per_second));
    println!("  ... in the time of a sync     {:>9.1}", median(Round::increments_a_sync));
    match &options.json {
        Some(file) => write(&rounds, file),
        None => Ok(()),
    }
}

/// The figures by name, as `make bench` reads them.
fn write(rounds: &[Round], file: &Path) -> Result<()> {
    let figures = |figure: fn(&Round) -> f64| rounds.iter().map(figure).collect::<Vec<f64>>();
    let named = serde_json::json!({
        "engine, deliveries/s": figures(|round| round.deliveries_per_second),
        "engine, deliveries of one hot key/s": figures(|round| round.hot_key_per_second),
        "engine, deliveries in fresh instances/s": figures(|round| round.fresh_per_second),
        "engine, increments of one counter/s": figures(|round| round.increments_per_second),
        "engine, increments of one counter in the time of a sync": figures(Round::increments_a_sync),
        "engine, one synchronous publish, us": figures(|round| round.single_us),
    });
    std::fs::write(file, serde_json::to_vec_pretty(&named)?).with_context(|| file.display().to_string())
}

/// The disk's own floor: 256 bytes appended and synced, the median of many.
fn append_and_sync(folder: &Path) -> Result<f64> {
    let mut file = File::create(folder.join("disk"))?;
    let bytes = [7; MESSAGE_BYTES];
    let mut times = Vec::new();
    for _ in 0..SINGLE_PUBLISHES {
        let began = Instant::now();
        file.write_all(&bytes)?;
        file.sync_data()?;
        times.push(began.elapsed());
    }
    Ok(median_us(times))
}

/// One publisher that waits for each message to be synced, with the consumers running.
fn single_publish(guest: &[u8], folder: &Path) -> Result<f64> {
    let rig = Rig::start(guest, &CONSUMERS, Isolation::Reuse, &folder.join("single"))?;
    let times = rig.runtime.block_on(async {
        let mut times = Vec::new();
        for number in 0..SINGLE_PUBLISHES as u64 {
            let event = event(number, KEYS);
            let began = Instant::now();
            rig.bus.publish(vec![event]).await?;
            times.push(began.elapsed());
        }
        anyhow::Ok(times)
    })?;
    rig.stop();
    Ok(median_us(times))
}

/// Deliveries per second from the first publish until the last acknowledgement is sequenced.
fn throughput(guest: &[u8], folder: &Path, messages: u64, keys: u64, isolation: Isolation) -> Result<f64> {
    let rig = Rig::start(guest, &CONSUMERS, isolation, folder)?;
    let took = rig.settles((0..messages).map(|number| event(number, keys)).collect(), FAN_OUT)?;
    rig.stop();
    Ok((messages * FAN_OUT) as f64 / took.as_secs_f64())
}

/// Increments per second of one counter. Each reads what the one before it wrote, and waits for no sync: the order of
/// the log sees to it that none is durable without those before it.
fn increments(guest: &[u8], folder: &Path, messages: u64) -> Result<f64> {
    let rig = Rig::start(guest, &[COUNTER], Isolation::Reuse, folder)?;
    let increment = |number| Event { data: Bytes::from_static(INCREMENT.as_bytes()), ..event(number, 1) };
    let took = rig.settles((0..messages).map(increment).collect(), 1)?;
    let (counted, _) = rig.log.state_get(COUNTER, "hot")?;
    ensure!(counted.as_deref() == Some(messages.to_string().as_bytes()), "{messages} increments make {counted:?}");
    rig.stop();
    Ok(messages as f64 / took.as_secs_f64())
}

/// A bus in this process.
struct Rig {
    runtime: tokio::runtime::Runtime,
    log: Arc<RedbLog>,
    bus: Bus,
    engine: Arc<Engine>,
}

impl Rig {
    /// With consumers of these names, all the same guest.
    fn start(guest: &[u8], consumers: &[&str], isolation: Isolation, folder: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let log = Arc::new(RedbLog::open(&OpenOptions::new(folder))?);
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let options = EngineOptions { workers, message_data_max: MESSAGE_DATA_BYTES_MAX };
        let (engine, _) = Engine::start(log.clone(), Arc::new(SystemClock), runtime.handle(), options)?;
        let bus = Bus::new(MESSAGE_DATA_BYTES_MAX);
        bus.serve_on(engine.clone())?;
        let sandbox = Sandbox::new(SandboxOptions::new(folder.join("artifacts")))?;
        for &stem in consumers {
            let spec = SubscriptionSpec {
                name: stem.to_owned(),
                topics: vec![TopicFilter::parse("order.*")?],
                from: StartAt::Now,
                policy: Policy { isolation, ..Policy::default() },
            };
            let manifest = Manifest { subscriptions: vec![spec], ..Manifest::default() };
            let component = sandbox.load(stem, guest)?;
            let digest = component.digest();
            let program = Arc::new(Program::new(stem.into(), component, &manifest)?);
            let record = PluginRecord::new(digest, String::new(), 0);
            bus.activate(stem, ActiveVersion { manifest, record, program, witness: None })?;
        }
        bus.open();
        Ok(Self { runtime, log, bus, engine })
    }

    /// How long it takes to publish events, and to have each acknowledged by so many subscriptions.
    fn settles(&self, events: Vec<Event>, subscriptions: u64) -> Result<Duration> {
        let deliveries = events.len() as u64 * subscriptions;
        let began = Instant::now();
        self.runtime.block_on(async {
            let mut outstanding = VecDeque::new();
            let mut events = events.into_iter().peekable();
            while events.peek().is_some() {
                if outstanding.len() == OUTSTANDING / BATCH {
                    let oldest: tokio::task::JoinHandle<_> = outstanding.pop_front().expect("it is full");
                    oldest.await??;
                }
                let bus = self.bus.clone();
                let batch: Vec<Event> = events.by_ref().take(BATCH).collect();
                outstanding.push_back(tokio::spawn(async move { bus.publish(batch).await }));
            }
            for publish in outstanding {
                publish.await??;
            }
            anyhow::Ok(())
        })?;
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let acked: u64 = self.bus.subscriptions()?.iter().map(|view| view.acked).sum();
            if acked == deliveries {
                break;
            }
            ensure!(Instant::now() < deadline, "only {acked} of {deliveries} deliveries were acknowledged");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(began.elapsed())
    }

    fn stop(self) {
        self.bus.withdraw("done");
        self.engine.stop();
    }
}

fn event(number: u64, keys: u64) -> Event {
    Event {
        topic: TopicName::client("order.placed").expect("a valid topic"),
        id: number.to_string(),
        source: "/bench".to_owned(),
        kind: "order.placed".to_owned(),
        subject: None,
        key: Some(format!("key-{}", number % keys)),
        content_type: Some("application/octet-stream".to_owned()),
        attributes: Vec::new(),
        data: Bytes::from(vec![u8::try_from(number % 251).expect("below 256"); MESSAGE_BYTES]),
        hops: 0,
        named: false,
        deliver_at_ms: None,
    }
}

fn guest(name: &str) -> Result<Vec<u8>> {
    let path = Path::new(TARGET).join(format!("wasm32-wasip2/guest/{name}.wasm"));
    std::fs::read(&path).with_context(|| format!("{} is missing: run `make bench-engine`", path.display()))
}

fn median_us(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}
