//! `GET /topics/{filter}/tail`: messages as they are synced, as server-sent events.
//!
//! An event's `id` is the message's offset, so that a client that reconnects goes on behind it
//! (`Last-Event-ID`); its `data` is the message as a structured CloudEvent. The log is read at the
//! client's pace, so that a slow one costs no memory.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::cloud_events;
use super::problem::{Problem, TOO_MANY_TAILS};
use super::server::stopped;
use crate::bus::{Bus, Tail};
use crate::message::{Offset, SharedMessage};
use crate::topic::TopicFilter;

/// Tails that may be open at once: half of the connections, so that they never keep publishers out.
pub(super) const TAILS_MAX: usize = 256;
/// A comment is sent after this long without a message, so that nothing between takes the stream for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// One open tail.
struct Open {
    tail: Tail,
    /// Read and not sent yet.
    ready: VecDeque<SharedMessage>,
    stop: watch::Receiver<bool>,
    ended: bool,
    _slot: OwnedSemaphorePermit,
}

pub(super) fn open(
    bus: &Bus,
    filter: TopicFilter,
    from: Option<Offset>,
    slots: &Arc<Semaphore>,
    stop: watch::Receiver<bool>,
) -> Result<Response, Problem> {
    let slot = Arc::clone(slots).try_acquire_owned().map_err(|_| {
        let detail = format!("{TAILS_MAX} tails are open already");
        Problem::new(&TOO_MANY_TAILS, detail).facts(json!({ "tails_max": TAILS_MAX }))
    })?;
    let open = Open { tail: bus.tail(filter, from)?, ready: VecDeque::new(), stop, ended: false, _slot: slot };
    let events = stream::unfold(open, |mut open| async move {
        let event = open.next().await?;
        Some((Ok::<_, Infallible>(event), open))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

impl Open {
    async fn next(&mut self) -> Option<Event> {
        if self.ready.is_empty() {
            if self.ended {
                return None;
            }
            // A tail has no end of its own: it ends here, or it would hold up the stop of the bus.
            let read = tokio::select! {
                biased;
                () = stopped(&mut self.stop) => None,
                read = self.tail.next() => read,
            };
            match read? {
                Ok(messages) => self.ready.extend(messages),
                Err(error) => {
                    self.ended = true;
                    let problem = Problem::from(error).document().to_string();
                    return Some(Event::default().event("problem").data(problem));
                }
            }
        }
        let message = self.ready.pop_front()?;
        Some(Event::default().id(message.offset.to_string()).data(cloud_events::encode(&message)))
    }
}
