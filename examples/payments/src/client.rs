//! Those who pay: they request transfers, and send again what had no answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};
use bank::Transfer;
use example_harness::{Client, Event, may_be_sent_again, wait_for};

use crate::SOURCE;

/// Transfers that are requested at a time.
const BATCH: usize = 10;
/// People do not all pay at once: without this everything would be requested before the bus is killed the first time.
const PAUSE: Duration = Duration::from_millis(5);

/// A thread that requests transfers.
pub(crate) struct Payers {
    thread: JoinHandle<Result<usize>>,
    requested: Arc<AtomicUsize>,
}

impl Payers {
    pub(crate) fn start(client: Client, transfers: Arc<[Transfer]>) -> Self {
        let requested = Arc::new(AtomicUsize::new(0));
        let counted = requested.clone();
        let thread = std::thread::spawn(move || {
            let mut again = 0;
            for batch in transfers.chunks(BATCH) {
                again += request(&client, batch)?;
                counted.fetch_add(batch.len(), Ordering::Relaxed);
                std::thread::sleep(PAUSE);
            }
            Ok(again)
        });
        Self { thread, requested }
    }

    /// Whether they gave up before so many transfers were requested; [`Payers::finish`] says why.
    pub(crate) fn gave_up_before(&self, transfers: usize) -> bool {
        self.thread.is_finished() && self.requested.load(Ordering::Relaxed) < transfers
    }

    /// Waits for the last request to be answered. Answers how many were sent again.
    pub(crate) fn finish(self) -> Result<usize> {
        self.thread.join().map_err(|_| anyhow!("the payers panicked"))?
    }
}

/// Requests transfers until the bus has taken them. Answers how often they were sent again. The bus may have taken them
/// before, without an answer to tell; by their ids it knows them, and takes none of them twice.
fn request(client: &Client, transfers: &[Transfer]) -> Result<usize> {
    let events = transfers
        .iter()
        .map(|transfer| {
            let event = Event::json(&transfer.id, SOURCE, "com.example.transfer.requested", transfer)?;
            Ok(event.key(Some(&transfer.from)))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut again = 0;
    wait_for("the bus to take transfers", || match client.publish_batch("transfer.requested", &events) {
        Ok(_) => Ok(Some(again)),
        Err(error) if may_be_sent_again(&error) => {
            again += 1;
            Ok(None)
        }
        Err(error) => Err(error),
    })
}
