//! The shop: places the orders, one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use example_harness::{Client, Event, PATIENCE};

use crate::orders::Orders;

/// Customers are not all at the till at once: without this everything would be over before it could be seen.
const PAUSE: Duration = Duration::from_millis(5);

/// A thread that places the orders.
pub(crate) struct Producer {
    thread: JoinHandle<Result<()>>,
    placed: Arc<AtomicUsize>,
    go_on: Sender<()>,
}

impl Producer {
    /// Begins. Where so many orders are left as one of `pauses` says, it waits for [`Producer::go_on`].
    pub(crate) fn start(client: Client, orders: Arc<Orders>, pauses: Vec<usize>) -> Self {
        let placed = Arc::new(AtomicUsize::new(0));
        let (go_on, may_go_on) = mpsc::channel();
        let counted = placed.clone();
        let thread = std::thread::spawn(move || {
            for (index, order) in orders.all.iter().enumerate() {
                if pauses.contains(&(orders.all.len() - index)) {
                    may_go_on.recv_timeout(PATIENCE).context("nobody asked for more orders")?;
                }
                let event = Event::json(&order.id, "/shop/orders", "com.example.order.placed", order)?;
                // The customer is the key: what one customer orders is handled in order.
                client.publish("order.placed", &event.key(Some(order.customer)))?;
                counted.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(PAUSE);
            }
            Ok(())
        });
        Self { thread, placed, go_on }
    }

    /// Orders that the bus has accepted.
    pub(crate) fn placed(&self) -> usize {
        self.placed.load(Ordering::Relaxed)
    }

    /// Places the next ones.
    pub(crate) fn go_on(&self) {
        // It fails where the thread ended with an error, which `finish` tells.
        let _ = self.go_on.send(());
    }

    /// Whether there is nothing more to come: all is placed, or an order was refused.
    pub(crate) fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the last order.
    pub(crate) fn finish(self) -> Result<()> {
        self.thread.join().map_err(|_| anyhow!("the shop panicked"))?
    }
}
