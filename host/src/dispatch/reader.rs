//! Reads the log for dispatchers, on a thread of its own, so that no worker waits for the disk.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::limits::KIB;
use crate::log::{Batch, HeldAt, Log, ReadBounds, ReadError, RetryRow, Selection};
use crate::message::{Offset, SharedMessage};

use super::fault::EndOnPanic;
use super::subscription::Subscription;
use super::{Event, Refund, RefundError};

/// Messages of a held row that are read at a time.
const ROW_MESSAGES_MAX: usize = 64;
/// No more are read once they have this many bytes: many rows may be read at once.
const ROW_BYTES_MAX: usize = 256 * KIB;
const ROW_CHUNK: usize = 8;
/// How long to wait before what could not be read is read again.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What a dispatcher wants to know.
pub enum Request {
    Fetch {
        asker: Asker,
        selection: Selection,
        /// Messages before it that have a dead letter are left out.
        passes_dead_before: Offset,
        from: Offset,
        messages_max: usize,
        bytes_max: usize,
    },
    Retries {
        asker: Asker,
        offsets: Vec<Offset>,
    },
    Row {
        asker: Asker,
        at: HeldAt,
    },
    Refund {
        asker: Asker,
        refund: Refund,
    },
}

/// Who wants to know: one dispatcher of a subscription, by its generation.
pub struct Asker {
    pub subscription: Arc<Subscription>,
    pub generation: u64,
}

/// Where to ask. The channel has no bound of its own: a dispatcher has one fetch, one load of retries
/// and one row per lane under way at most, and a refund for each time its breaker opened.
#[derive(Clone)]
pub struct Reader {
    requests: mpsc::Sender<Request>,
}

impl Reader {
    /// Starts the thread; it ends when the last `Reader` is gone.
    pub fn start(log: Arc<dyn Log>) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (requests, asked) = mpsc::channel::<Request>();
        let thread = std::thread::Builder::new().name("reader".into()).spawn(move || {
            let _ends = EndOnPanic;
            let mut later: Vec<(Instant, Request)> = Vec::new();
            loop {
                let now = Instant::now();
                let next = later.iter().map(|(at, _)| at.saturating_duration_since(now)).min();
                let request = match next {
                    None => match asked.recv() {
                        Ok(request) => Some(request),
                        Err(mpsc::RecvError) => return,
                    },
                    Some(wait) => match asked.recv_timeout(wait) {
                        Ok(request) => Some(request),
                        Err(mpsc::RecvTimeoutError::Timeout) => {
                            let due = later.iter().position(|(at, _)| *at <= Instant::now());
                            due.map(|index| later.swap_remove(index).1)
                        }
                        Err(mpsc::RecvTimeoutError::Disconnected) => return,
                    },
                };
                if let Some(request) = request
                    && let Some(failed) = answer(&*log, request)
                {
                    later.push((Instant::now() + AGAIN_AFTER, failed));
                }
            }
        })?;
        Ok((Self { requests }, thread))
    }

    pub fn ask(&self, request: Request) {
        // The thread is gone only where the bus stops; then nothing waits for an answer.
        let _ = self.requests.send(request);
    }
}

/// Answers a request, or gives it back where the log could not be read.
fn answer(log: &dyn Log, request: Request) -> Option<Request> {
    let (asker, failure) = match &request {
        Request::Fetch { asker, selection, passes_dead_before, from, messages_max, bytes_max } => {
            let bounds = ReadBounds { messages_max: *messages_max, bytes_max: *bytes_max };
            match fetch(log, asker, selection, *passes_dead_before, *from, bounds) {
                Ok(batch) => return tell(asker, Event::Fetched(batch)),
                Err(error) => (asker, error),
            }
        }
        Request::Retries { asker, offsets } => match retries(log, &asker.subscription, offsets) {
            Ok(loaded) => return tell(asker, Event::RetriesLoaded(loaded)),
            Err(error) => (asker, error),
        },
        Request::Refund { asker, refund } => match asker.subscription.refund_streak(refund, asker.generation) {
            Ok(_) => return None,
            // Nothing that is settled will be recorded any more.
            Err(RefundError::Commit(_)) => return None,
            Err(RefundError::Read(error)) => (asker, error),
        },
        Request::Row { asker, at } => match row(log, *at) {
            Ok(Some(event)) => return tell(asker, event),
            Ok(None) => (asker, damaged_row(*at)),
            Err(error) => (asker, error),
        },
    };
    let subscription = &asker.subscription;
    if !asker.is_there() {
        return None;
    }
    if subscription.is_halted() {
        return None;
    }
    tracing::error!(subscription = %subscription.name, error = %failure, "messages could not be read");
    subscription.set_problem(Some(failure.to_string()));
    Some(request)
}

fn tell(asker: &Asker, event: Event<'_>) -> Option<Request> {
    asker.subscription.set_problem(None);
    asker.subscription.tell_generation(asker.generation, event);
    None
}

impl Asker {
    /// Whether the dispatcher still waits for the answer.
    fn is_there(&self) -> bool {
        self.subscription.generation() == self.generation
    }
}

fn fetch(
    log: &dyn Log,
    asker: &Asker,
    selection: &Selection,
    passes_dead_before: Offset,
    from: Offset,
    bounds: ReadBounds,
) -> Result<Batch, ReadError> {
    let mut batch = log.read(selection, from, bounds)?;
    let mut alive = Vec::with_capacity(batch.messages.len());
    for message in batch.messages.drain(..) {
        let offset = message.offset;
        if offset >= passes_dead_before || log.dead_letter(asker.subscription.id, offset)?.is_none() {
            alive.push(message);
        }
    }
    batch.messages = alive;
    Ok(batch)
}

fn retries(
    log: &dyn Log,
    subscription: &Subscription,
    offsets: &[Offset],
) -> Result<Vec<(SharedMessage, Arc<RetryRow>)>, ReadError> {
    let messages = log.read_offsets(offsets)?;
    messages
        .into_iter()
        .map(|message| match log.retry(subscription.id, message.offset)? {
            Some(row) => Ok((message, row)),
            None => Err(ReadError::Damaged {
                table: "retries",
                what: format!("the row of subscription {} at offset {} is missing", subscription.name, message.offset),
            }),
        })
        .collect()
}

fn row(log: &dyn Log, at: HeldAt) -> Result<Option<Event<'static>>, ReadError> {
    let Some(row) = log.held(at)? else { return Ok(None) };
    let front = (row.front as usize).min(row.offsets.len());
    let waiting = row.offsets[front..].chunks(ROW_CHUNK).take(ROW_MESSAGES_MAX / ROW_CHUNK);
    let (mut messages, mut bytes) = (Vec::new(), 0);
    for offsets in waiting {
        if bytes > ROW_BYTES_MAX {
            break;
        }
        let read = log.read_offsets(offsets)?;
        bytes += read.iter().map(|message| message.bytes()).sum::<usize>();
        messages.extend(read);
    }
    Ok(Some(Event::RowLoaded { at, row, messages }))
}

fn damaged_row(at: HeldAt) -> ReadError {
    ReadError::Damaged { table: "held", what: format!("the row at offset {} is missing", at.first) }
}
