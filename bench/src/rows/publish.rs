//! One message at a time, each after the answer to the one before: what waiting for durability costs. Nobody consumes, on
//! neither side: acknowledgements are synced too, and a publish that comes meanwhile waits for that sync.

use std::time::Instant;

use anyhow::Result;
use example_harness::Bus;

use super::{Rig, event, payload};
use crate::figures::{Figures, quantile};
use crate::nats::{Server, Sync};
use crate::sender::{Connection, ONE};
use crate::{bus, disk};

/// The disk's own, measured directly before.
pub(crate) const DISK_US: &str = "publish, append + fdatasync, us";
pub(crate) const SANDPOST: &str = "publish, sandpost, us";
pub(crate) const NATS: &str = "publish, nats default, us";
pub(crate) const NATS_ALWAYS: &str = "publish, nats always, us";

pub(crate) fn measure(rig: &Rig<'_>, figures: &mut Figures) -> Result<()> {
    let count = rig.work.single_publishes;
    figures.add(DISK_US, disk::median_us()?);
    let bus = bus::running(Bus::prepare(rig.places)?.start()?, 0)?;
    let mut times_us = rig.runtime.block_on(async {
        let mut connection = Connection::open(bus.client().url()).await?;
        let mut times_us = Vec::new();
        for number in 0..count {
            let body = event(number).into();
            let began = Instant::now();
            connection.publish("order.placed", ONE, body).await?;
            times_us.push(began.elapsed().as_secs_f64() * 1e6);
        }
        anyhow::Ok(times_us)
    })?;
    figures.add(SANDPOST, quantile(&mut times_us, 0.5));
    bus.stop()?;

    for (sync, name) in [(Sync::Default, NATS), (Sync::Always, NATS_ALWAYS)] {
        let server = Server::start(rig.nats_server, sync)?;
        let mut times_us = rig.runtime.block_on(server.publishes((0..count).map(payload).collect()))?;
        figures.add(name, quantile(&mut times_us, 0.5));
    }
    Ok(())
}
