//! Published and fully consumed: from the first publish until the last of three consumers has acknowledged the last
//! message. Every consumer parses the JSON.

use std::time::Instant;

use anyhow::Result;
use bytes::Bytes;

use super::{CONNECTIONS, Rig, batches, payload};
use crate::bus::{self, CONSUMERS};
use crate::figures::Figures;
use crate::nats::{Server, Sync};
use crate::{process, sender};

pub(crate) const SANDPOST: &str = "consumed, sandpost, messages/s";
pub(crate) const NATS: &str = "consumed, nats default, messages/s";
pub(crate) const NATS_ALWAYS: &str = "consumed, nats always, messages/s";
/// The share of the two cores that the client took.
pub(crate) const CLIENT_CPU: &str = "consumed, cpu of the client, s per 100,000 messages";
pub(crate) const BUS_CPU: &str = "consumed, cpu of the bus, s per 100,000 messages";

pub(crate) fn measure(rig: &Rig<'_>, figures: &mut Figures) -> Result<()> {
    let messages = rig.work.messages;
    let bus = bus::with_parsers(rig.places)?;
    let bodies = batches(0..messages).collect();
    let cpu = || anyhow::Ok((process::cpu(std::process::id())?, process::cpu(bus.pid())?));
    let (client_before, bus_before) = cpu()?;
    let began = Instant::now();
    rig.runtime.block_on(sender::publish_all(bus.client().url(), "order.placed", bodies, CONNECTIONS))?;
    bus::await_acked(&bus, messages * CONSUMERS.len() as u64)?;
    let took = began.elapsed();
    let (client_after, bus_after) = cpu()?;
    figures.add(SANDPOST, messages as f64 / took.as_secs_f64());
    figures.add(CLIENT_CPU, (client_after - client_before).as_secs_f64() * 1e5 / messages as f64);
    figures.add(BUS_CPU, (bus_after - bus_before).as_secs_f64() * 1e5 / messages as f64);
    bus.stop()?;

    for (sync, count, name) in [(Sync::Default, messages, NATS), (Sync::Always, rig.work.messages_slow, NATS_ALWAYS)] {
        let server = Server::start(rig.nats_server, sync)?;
        let payloads: Vec<Bytes> = (0..count).map(payload).collect();
        let took = rig.runtime.block_on(server.consumes(payloads, CONSUMERS.len()))?;
        figures.add(name, count as f64 / took.as_secs_f64());
    }
    Ok(())
}
