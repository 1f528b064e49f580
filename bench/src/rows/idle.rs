//! What a bus costs that has nothing to do: with three consumers, and with ten thousand topics and a thousand
//! subscriptions.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use example_harness::Bus;

use super::Rig;
use crate::figures::Figures;
use crate::sender::Connection;
use crate::{bus, process, sender};

pub(crate) const SMALL_MEMORY_MIB: &str = "idle memory with three consumers, MiB";
pub(crate) const LARGE_MEMORY_MIB: &str = "idle memory with 10,000 topics and 1,000 subscriptions, MiB";
pub(crate) const LARGE_CPU_PERCENT: &str = "idle cpu with 10,000 topics and 1,000 subscriptions, % of a core";

const COMPONENTS: usize = 10;
const SUBSCRIPTIONS_EACH: usize = 100;
const TOPICS_EACH: usize = 10;
const MIB: f64 = 1_048_576.0;
/// What was to be done at once is done by then, and what is not idle shows.
const SETTLE: Duration = Duration::from_secs(3);

pub(crate) fn measure(rig: &Rig<'_>, figures: &mut Figures) -> Result<()> {
    let bus = bus::with_parsers(rig.places)?;
    let one = VecDeque::from([Bytes::from([b"[".as_slice(), &super::event(0), b"]"].concat())]);
    rig.runtime.block_on(sender::publish_all(bus.client().url(), "order.placed", one, 1))?;
    bus::await_acked(&bus, bus::CONSUMERS.len() as u64)?;
    std::thread::sleep(SETTLE);
    figures.add(SMALL_MEMORY_MIB, process::resident_bytes(bus.pid())? / MIB);
    bus.stop()?;

    let prepared = Bus::prepare(rig.places)?;
    let component = rig.places.guest("parser.wasm")?;
    let folder = tempfile::tempdir()?;
    for number in 0..COMPONENTS {
        let mut manifest = String::new();
        for subscription in 0..SUBSCRIPTIONS_EACH {
            let name = format!("sub-{number}-{subscription}");
            writeln!(manifest, "[[subscription]]\nname = \"{name}\"\ntopics = [\"bench.{number}.{subscription}.*\"]")?;
        }
        let file = folder.path().join("parser.wasm");
        bus::variant(&component, number as u32, &file)?;
        prepared.add(&format!("component-{number}"), &file, &manifest)?;
    }
    let subscriptions = COMPONENTS * SUBSCRIPTIONS_EACH;
    let bus = bus::running(prepared.start()?, subscriptions)?;
    let url = bus.client().url();
    // Every topic has a message, and every subscription has handled ten.
    rig.runtime.block_on(async {
        let mut connection = Connection::open(url).await?;
        for number in 0..subscriptions * TOPICS_EACH {
            let (component, subscription) = (number % COMPONENTS, number / COMPONENTS % SUBSCRIPTIONS_EACH);
            let topic = format!("bench.{component}.{subscription}.{}", number / subscriptions);
            connection.publish(&topic, sender::ONE, super::event(number as u64).into()).await?;
        }
        anyhow::Ok(())
    })?;
    bus::await_acked(&bus, (subscriptions * TOPICS_EACH) as u64)?;
    std::thread::sleep(SETTLE);
    let before = process::cpu(bus.pid())?;
    let over = Duration::from_secs(rig.work.idle_seconds);
    std::thread::sleep(over);
    let computed = process::cpu(bus.pid())? - before;
    figures.add(LARGE_CPU_PERCENT, 100.0 * computed.as_secs_f64() / over.as_secs_f64());
    figures.add(LARGE_MEMORY_MIB, process::resident_bytes(bus.pid())? / MIB);
    bus.stop()
}
