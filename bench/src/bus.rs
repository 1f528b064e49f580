//! A bus of the benchmark's own, and waiting for what it does.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use example_harness::{Bus, Places, Subscription};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often the bus is asked how far it is: rarely enough to cost it nothing.
const LOOK: Duration = Duration::from_millis(10);

/// Consumers that take each message.
pub(crate) const CONSUMERS: [&str; 3] = ["email", "inventory", "analytics"];
const MANIFEST: &str = "[[subscription]]\ntopics = [\"order.placed\"]\n";

/// Starts a bus with three consumers that parse each message.
pub(crate) fn with_parsers(places: &Places) -> Result<Bus> {
    let prepared = Bus::prepare(places)?;
    let parser = places.guest("parser.wasm")?;
    for consumer in CONSUMERS {
        prepared.add(consumer, &parser, MANIFEST)?;
    }
    running(prepared.start()?, CONSUMERS.len())
}

/// Waits until so many subscriptions run.
pub(crate) fn running(bus: Bus, subscriptions: usize) -> Result<Bus> {
    let began = Instant::now();
    loop {
        let there = bus.client().subscriptions()?;
        if there.len() == subscriptions && there.iter().all(|one| one.status == "active") {
            return Ok(bus);
        }
        let plugins = bus.client().plugins()?;
        let failed = plugins.iter().find(|plugin| plugin.status == "failed");
        ensure!(failed.is_none(), "a consumer does not run: {}", bus.log_end());
        ensure!(began.elapsed() < PATIENCE, "{} of {subscriptions} subscriptions run: {}", there.len(), bus.log_end());
        std::thread::sleep(LOOK);
    }
}

/// Waits until so many deliveries are acknowledged, over all subscriptions.
pub(crate) fn await_acked(bus: &Bus, deliveries: u64) -> Result<()> {
    await_acked_looking(bus, deliveries, || Ok(()))
}

/// The same, and does something at each look.
pub(crate) fn await_acked_looking(bus: &Bus, deliveries: u64, mut look: impl FnMut() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    loop {
        let acked = acked(&bus.client().subscriptions()?);
        if acked >= deliveries {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "only {acked} of {deliveries} were acknowledged: {}", bus.log_end());
        look()?;
        std::thread::sleep(LOOK);
    }
}

pub(crate) fn acked(subscriptions: &[Subscription]) -> u64 {
    subscriptions.iter().map(|subscription| subscription.acked).sum()
}

/// A component that is another one by its digest, and does the same: with a section that no one reads.
pub(crate) fn variant(component: &Path, number: u32, into: &Path) -> Result<()> {
    let mut bytes = std::fs::read(component)?;
    // A custom section: its id, its size, the size of its name, the name, and what it holds.
    bytes.extend([0, 10, 5]);
    bytes.extend(b"bench");
    bytes.extend(number.to_le_bytes());
    std::fs::write(into, bytes)?;
    Ok(())
}
