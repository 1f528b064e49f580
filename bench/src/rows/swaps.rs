//! Deliveries while versions of their consumer are swapped: the slowest in a thousand, beside the same without swaps.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use example_harness::Bus;

use super::{Rig, latency};
use crate::bus;
use crate::figures::{Figures, quantile};

pub(crate) const QUIET_US: &str = "delivery p99.9 without swaps, us";
pub(crate) const SWAPPED_US: &str = "delivery p99.9 with swaps, us";
pub(crate) const SWAPS: &str = "swaps a run";
const MANIFEST: &str = "[[subscription]]\ntopics = [\"steady\"]\n[grants]\npublish = [\"times\"]\n";
const PAUSE: Duration = Duration::from_millis(500);

pub(crate) fn measure(rig: &Rig<'_>, figures: &mut Figures) -> Result<()> {
    let messages = rig.work.steady_seconds * latency::PER_SECOND;
    for swaps in [false, true] {
        let prepared = Bus::prepare(rig.places)?;
        let component = rig.places.guest("stopwatch.wasm")?;
        prepared.add("stopwatch", &component, MANIFEST)?;
        let bus = bus::running(prepared.start()?, 1)?;
        // Two versions, each loaded once before: what is measured is the swap, not the compiler.
        let folder = tempfile::tempdir()?;
        for version in ["one", "other"] {
            let file = folder.path().join(format!("{version}.wasm"));
            bus::variant(&component, u32::from(version == "one"), &file)?;
            bus.lay_out(version, "stopwatch", &file, MANIFEST)?;
            deploy(&bus, version)?;
        }
        rig.runtime.block_on(latency::steady(bus.client().url(), "tell", latency::PER_SECOND))?;
        bus::await_acked(&bus, latency::PER_SECOND)?;

        let over = AtomicBool::new(false);
        let swapped = std::thread::scope(|scope| {
            let swapper = scope.spawn(|| {
                let mut count = 0;
                while swaps && !over.load(Ordering::Relaxed) {
                    deploy(&bus, if count % 2 == 0 { "one" } else { "other" })?;
                    count += 1;
                    std::thread::sleep(PAUSE);
                }
                anyhow::Ok(count)
            });
            let sent = rig.runtime.block_on(latency::steady(bus.client().url(), "tell", messages));
            over.store(true, Ordering::Relaxed);
            sent?;
            swapper.join().expect("it does not panic")
        })?;
        bus::await_acked(&bus, latency::PER_SECOND + messages)?;
        bus.client().messages_once("times", latency::PER_SECOND + messages)?;
        let mut times_us: Vec<f64> = latency::times(bus.client())?.into_iter().flatten().collect();
        times_us.drain(..latency::PER_SECOND as usize);
        ensure!(times_us.len() as u64 == messages, "{} of {messages} deliveries told their time", times_us.len());
        figures.add(if swaps { SWAPPED_US } else { QUIET_US }, quantile(&mut times_us, 0.999));
        if swaps {
            figures.add(SWAPS, f64::from(swapped));
        }
        bus.stop()?;
    }
    Ok(())
}

fn deploy(bus: &Bus, version: &str) -> Result<()> {
    bus.command(&["plugins", "deploy", &format!("{version}/stopwatch.wasm")])?;
    Ok(())
}
