//! Deliveries while millions of messages wait, beside deliveries of messages that are still in memory: warm, and once with
//! nothing of the log in the kernel's page cache. And how long the bus takes to be ready again after `kill -9`.

use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use example_harness::Bus;
use rustix::fs::{Advice, fadvise};

use super::{CONNECTIONS, Rig, batches};
use crate::bus::{self, CONSUMERS};
use crate::figures::Figures;
use crate::{process, sender};

pub(crate) const NONE: &str = "deliveries without a backlog, /s";
pub(crate) const WARM: &str = "deliveries with a backlog, /s";
pub(crate) const COLD: &str = "deliveries with a backlog and a cold page cache, /s";
pub(crate) const MESSAGES: &str = "messages of backlog";
pub(crate) const GROWTH_MIB: &str = "memory growth with a backlog, MiB";
pub(crate) const REOPEN_MS: &str = "ready again after kill -9 with a backlog, ms";

/// Messages whose deliveries are timed. They fit into the memory that the bus keeps recent messages in.
const TIMED: u64 = 100_000;
const MIB: f64 = 1_048_576.0;
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(2);

pub(crate) fn measure(rig: &Rig<'_>, figures: &mut Figures) -> Result<()> {
    let backlog = rig.work.backlog_messages;
    ensure!(backlog >= 2 * TIMED, "a backlog of {backlog} messages is too small to be timed");
    figures.add(MESSAGES, backlog as f64);
    let mut bus = bus::with_parsers(rig.places)?;
    let consumers = CONSUMERS.len() as u64;
    let publish = |bus: &Bus, from: u64, count: u64| -> Result<()> {
        // A million at a time: the bodies are made here before they are sent.
        let mut next = from;
        while next < from + count {
            let end = (next + 500_000).min(from + count);
            let bodies = batches(next..end).collect();
            rig.runtime.block_on(sender::publish_all(bus.client().url(), "order.placed", bodies, CONNECTIONS))?;
            next = end;
        }
        Ok(())
    };

    // The first ones warm up what is the same in both.
    publish(&bus, 0, TIMED)?;
    bus::await_acked(&bus, TIMED * consumers)?;
    pause(&bus)?;
    publish(&bus, TIMED, TIMED)?;
    let rate = drain(&bus, TIMED * consumers)?;
    figures.add(NONE, rate);
    bus::await_acked(&bus, 2 * TIMED * consumers)?;

    pause(&bus)?;
    let before = process::memory_bytes(bus.pid())?;
    publish(&bus, 2 * TIMED, backlog)?;
    let mut most = process::memory_bytes(bus.pid())?;
    let pid = bus.pid();
    let rate = drain_looking(&bus, TIMED * consumers, || {
        most = most.max(process::memory_bytes(pid)?);
        Ok(())
    })?;
    figures.add(WARM, rate);
    figures.add(GROWTH_MIB, (most - before) / MIB);

    pause(&bus)?;
    bus.kill()?;
    let log = File::open(bus.data_folder().join("log.redb"))?;
    // What was written is on the disk, so the kernel can let go of all of it.
    log.sync_all()?;
    fadvise(&log, 0, None, Advice::DontNeed)?;
    let began = Instant::now();
    bus.start_again()?;
    while !bus.client().is_ready() {
        ensure!(began.elapsed() < PATIENCE, "it does not become ready: {}", bus.log_end());
        std::thread::sleep(LOOK);
    }
    figures.add(REOPEN_MS, began.elapsed().as_secs_f64() * 1e3);
    fadvise(&log, 0, None, Advice::DontNeed)?;
    figures.add(COLD, drain(&bus, TIMED * consumers)?);
    bus.stop()
}

fn pause(bus: &Bus) -> Result<()> {
    for consumer in CONSUMERS {
        bus.command(&["subscriptions", "pause", consumer])?;
    }
    Ok(())
}

/// Lets the consumers go on, and answers how many deliveries a second they acknowledge.
fn drain(bus: &Bus, deliveries: u64) -> Result<f64> {
    drain_looking(bus, deliveries, || Ok(()))
}

fn drain_looking(bus: &Bus, deliveries: u64, look: impl FnMut() -> Result<()>) -> Result<f64> {
    let before = bus::acked(&bus.client().subscriptions()?);
    let began = Instant::now();
    for consumer in CONSUMERS {
        bus.command(&["subscriptions", "resume", consumer])?;
    }
    bus::await_acked_looking(bus, before + deliveries, look)?;
    let acked = bus::acked(&bus.client().subscriptions()?) - before;
    Ok(acked as f64 / began.elapsed().as_secs_f64())
}
