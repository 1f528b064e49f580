//! From the moment a message is due to be sent until the handler of a consumer begins, with a thousand messages a second.
//!
//! The handler reads the clock, which is the client's: one machine. Times count from when a message was due, not from when a
//! busy client came to send it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use example_harness::{Bus, Client};
use serde_json::json;
use tokio::time::Instant;

use super::Rig;
use crate::bus;
use crate::figures::{Figures, quantile};
use crate::sender::{Connection, ONE};

pub(crate) const P50_US: &str = "publish to handler p50, us";
pub(crate) const P99_US: &str = "publish to handler p99, us";
pub(crate) const PER_SECOND: u64 = 1_000;
/// Connections that take turns, so that a message that waits for the disk does not hold back the next.
const CONNECTIONS: u64 = 32;

/// One instance, which keeps all times until they are asked for.
pub(crate) const MANIFEST: &str =
    "[[subscription]]\ntopics = [\"steady\"]\nconcurrency = 1\n[grants]\npublish = [\"times\"]\n";

pub(crate) fn measure(rig: &Rig<'_>, figures: &mut Figures) -> Result<()> {
    let prepared = Bus::prepare(rig.places)?;
    prepared.add("stopwatch", &rig.places.guest("stopwatch.wasm")?, MANIFEST)?;
    let bus = bus::running(prepared.start()?, 1)?;
    let messages = rig.work.steady_seconds * PER_SECOND;
    // The first calls set an instance up; they are not of the steady state.
    rig.runtime.block_on(steady(bus.client().url(), "note", PER_SECOND))?;
    bus::await_acked(&bus, PER_SECOND)?;
    drop(report(&bus, PER_SECOND + 1)?);
    rig.runtime.block_on(steady(bus.client().url(), "note", messages))?;
    bus::await_acked(&bus, PER_SECOND + 1 + messages)?;
    let mut times_us = report(&bus, PER_SECOND + messages + 2)?;
    ensure!(times_us.len() as u64 == messages, "{} of {messages} times were noted", times_us.len());
    figures.add(P99_US, quantile(&mut times_us, 0.99));
    figures.add(P50_US, quantile(&mut times_us, 0.5));
    bus.stop()
}

/// Publishes at a steady rate, whatever the answers take.
pub(crate) async fn steady(url: &str, kind: &'static str, messages: u64) -> Result<()> {
    let begin = Instant::now() + Duration::from_millis(10);
    let begin_us = now_us() + 10_000;
    let mut tasks = Vec::new();
    for first in 0..CONNECTIONS {
        let mut connection = Connection::open(url).await?;
        tasks.push(tokio::spawn(async move {
            for number in (first..messages).step_by(CONNECTIONS as usize) {
                let since_us = number * 1_000_000 / PER_SECOND;
                tokio::time::sleep_until(begin + Duration::from_micros(since_us)).await;
                connection.publish("steady", ONE, event(kind, begin_us + since_us).into()).await?;
            }
            anyhow::Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

/// The times that the handler noted since it was last asked.
fn report(bus: &Bus, acked: u64) -> Result<Vec<f64>> {
    let url = bus.client().url();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let known = times(bus.client())?.len();
    runtime.block_on(async {
        Connection::open(url).await?.publish("steady", ONE, event("report", now_us()).into()).await
    })?;
    bus::await_acked(bus, acked)?;
    let reports = bus.client().messages_once("times", known as u64 + 1)?;
    Ok(reports.last().map(|message| serde_json::from_value(message.data.clone())).transpose()?.unwrap_or_default())
}

/// All times that were published.
pub(crate) fn times(client: &Client) -> Result<Vec<Vec<f64>>> {
    let messages = client.messages("times")?;
    Ok(messages.into_iter().map(|message| serde_json::from_value(message.data)).collect::<serde_json::Result<_>>()?)
}

fn event(kind: &str, sent_us: u64) -> Vec<u8> {
    json!({
        "specversion": "1.0", "id": format!("{kind}-{sent_us}"), "source": "/bench", "type": kind,
        "datacontenttype": "application/json", "data": { "sent_us": sent_us, "filler": "x".repeat(200) },
    })
    .to_string()
    .into_bytes()
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
