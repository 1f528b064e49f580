//! What is measured: a row for each claim.

pub(crate) mod backlog;
pub(crate) mod consumed;
pub(crate) mod idle;
pub(crate) mod latency;
pub(crate) mod publish;
pub(crate) mod restart;
pub(crate) mod swaps;

use std::path::Path;

use anyhow::Result;
use bytes::Bytes;
use example_harness::Places;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::figures::Figures;

/// The data of one message.
pub(crate) const MESSAGE_BYTES: usize = 256;
/// Messages that are published and not yet answered, on either side.
pub(crate) const OUTSTANDING: usize = 4_096;
/// Messages that are published, or fetched by a consumer, at a time at most, on either side.
pub(crate) const BATCH_MESSAGES: usize = 100;
/// Connections that publish batches, so that no more than [`OUTSTANDING`] messages are on their way.
pub(crate) const CONNECTIONS: usize = OUTSTANDING / BATCH_MESSAGES;
/// Customers, each of which is a key.
const CUSTOMERS: u64 = 10_000;

/// One thing that is measured. It adds to the figures.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Whether it takes so long that one round has to do.
    pub(crate) once: bool,
    pub(crate) measure: fn(&Rig<'_>, &mut Figures) -> Result<()>,
}

/// What every row measures with.
pub(crate) struct Rig<'a> {
    pub(crate) places: &'a Places,
    pub(crate) nats_server: &'a Path,
    pub(crate) runtime: &'a Runtime,
    pub(crate) work: Work,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// Messages that are published and consumed.
    pub(crate) messages: u64,
    /// The same on the neighbour that syncs each.
    pub(crate) messages_slow: u64,
    pub(crate) single_publishes: u64,
    /// How long messages come at a steady rate.
    pub(crate) steady_seconds: u64,
    pub(crate) backlog_messages: u64,
    pub(crate) idle_seconds: u64,
}

impl Work {
    pub(crate) const fn full() -> Self {
        Self {
            messages: 100_000,
            messages_slow: 30_000,
            single_publishes: 500,
            steady_seconds: 10,
            backlog_messages: 5_000_000,
            idle_seconds: 20,
        }
    }

    pub(crate) const fn quick() -> Self {
        Self {
            messages: 50_000,
            messages_slow: 5_000,
            single_publishes: 200,
            steady_seconds: 4,
            backlog_messages: 500_000,
            idle_seconds: 5,
        }
    }
}

pub(crate) fn all() -> Vec<Row> {
    vec![
        Row { name: "consumed", once: false, measure: consumed::measure },
        Row { name: "publish", once: false, measure: publish::measure },
        Row { name: "latency", once: false, measure: latency::measure },
        Row { name: "swaps", once: false, measure: swaps::measure },
        Row { name: "restart", once: true, measure: restart::measure },
        Row { name: "idle", once: true, measure: idle::measure },
        Row { name: "backlog", once: true, measure: backlog::measure },
    ]
}

/// The data of a message: JSON of [`MESSAGE_BYTES`].
pub(crate) fn payload(number: u64) -> Bytes {
    let customer = format!("customer-{}", number % CUSTOMERS);
    let bare = json!({ "number": number, "customer": customer, "filler": "" }).to_string();
    let filler = "x".repeat(MESSAGE_BYTES.saturating_sub(bare.len()));
    json!({ "number": number, "customer": customer, "filler": filler }).to_string().into()
}

/// These messages as bodies of batches. Each has a key, its customer.
pub(crate) fn batches(numbers: std::ops::Range<u64>) -> impl Iterator<Item = Bytes> {
    let mut next = numbers.start;
    std::iter::from_fn(move || {
        let end = (next + BATCH_MESSAGES as u64).min(numbers.end);
        let mut body = Vec::with_capacity(BATCH_MESSAGES * (MESSAGE_BYTES + 160));
        for number in next..end {
            body.push(if number == next { b'[' } else { b',' });
            body.extend(event(number));
        }
        body.push(b']');
        let is_over = next == end;
        next = end;
        (!is_over).then(|| body.into())
    })
}

/// One message as a CloudEvent in JSON.
pub(crate) fn event(number: u64) -> Vec<u8> {
    let key = number % CUSTOMERS;
    let data = payload(number);
    let mut event = format!(
        r#"{{"specversion":"1.0","id":"{number}","source":"/bench","type":"order.placed","partitionkey":"customer-{key}","datacontenttype":"application/json","data":"#
    )
    .into_bytes();
    event.extend(&data);
    event.push(b'}');
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_their_size_and_batches_all_of_them() {
        for number in [0, 7, 123_456] {
            assert_eq!(payload(number).len(), MESSAGE_BYTES);
        }
        let bodies: Vec<Bytes> = batches(0..250).collect();
        let counts: Vec<usize> = bodies
            .iter()
            .map(|body| serde_json::from_slice::<serde_json::Value>(body).unwrap().as_array().unwrap().len())
            .collect();
        assert_eq!(counts, [100, 100, 50]);
    }
}
