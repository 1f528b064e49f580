//! A clean start with a hundred plugins whose machine code is cached: from the start of the process until it is ready.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use example_harness::Bus;

use super::Rig;
use crate::bus;
use crate::figures::Figures;

pub(crate) const READY_MS: &str = "clean start with 100 cached plugins, ms";
const PLUGINS: u32 = 100;
const STARTS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(2);

pub(crate) fn measure(rig: &Rig<'_>, figures: &mut Figures) -> Result<()> {
    let prepared = Bus::prepare(rig.places)?;
    let component = rig.places.guest("parser.wasm")?;
    let folder = tempfile::tempdir()?;
    for number in 0..PLUGINS {
        let file = folder.path().join("parser.wasm");
        bus::variant(&component, number, &file)?;
        prepared.add(&format!("plugin-{number}"), &file, "[[subscription]]\ntopics = [\"order.placed\"]\n")?;
    }
    let mut bus = bus::running(prepared.start()?, PLUGINS as usize)?;
    for _ in 0..STARTS {
        bus.end()?;
        let began = Instant::now();
        bus.start_again()?;
        while !bus.client().is_ready() {
            ensure!(began.elapsed() < PATIENCE, "it does not become ready: {}", bus.log_end());
            std::thread::sleep(LOOK);
        }
        figures.add(READY_MS, began.elapsed().as_secs_f64() * 1e3);
        let running = bus.client().subscriptions()?.iter().filter(|one| one.status == "active").count();
        ensure!(running == PLUGINS as usize, "ready means that all {PLUGINS} run, not {running}");
    }
    bus.stop()
}
