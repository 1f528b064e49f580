//! What one connection is doing, seen from below and from above hyper: from below, which bytes come and go; from
//! above, when a request begins and when its answer is sent.
//!
//! hyper bounds neither how long a head may trickle in nor how long an answer may lie unread, and says nothing
//! about a connection that could be given up. It also answers what is no HTTP by itself, with a bare status: since
//! nothing of ours is on its way then, what it writes is taken out here, and [`server`](super::server) sends a
//! problem document in its place.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::response::IntoResponse;
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::problem::{ANSWERS_BUSY, Problem};
use crate::limits::{KIB, MIB};

/// Bytes of large answers that clients have asked for and not read, over all connections: what one that never
/// reads costs is memory.
const ANSWERS_BYTES_MAX: usize = 256 * MIB;
/// Smaller answers are not counted: all connections together cannot hold much of them.
const ANSWER_COUNTED_BYTES_MIN: usize = 64 * KIB;
/// An answer must be stuck for this long before its connection is among those that make room for others.
const STUCK_MIN: Duration = Duration::from_secs(1);

/// How long a connection may take over what it does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Between two requests, and before the first.
    pub(super) idle: Duration,
    /// From the first byte of a head to its last.
    pub(super) head: Duration,
    /// While the client takes no byte of an answer.
    pub(super) unread: Duration,
}

/// Which bound a connection is past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    Idle,
    Head,
    Unread,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// Nothing of a request has come.
    Idle,
    /// A part of a head has come.
    Head,
    /// From a request's call to the last byte of its answer.
    Request,
}

/// What a connection is doing, shared by its parts.
pub(super) struct Activity {
    /// Held for a few assignments. The parts run in one task; others look at it to choose who makes room.
    state: Mutex<State>,
    /// Asks the connection to end, if it still may.
    pub(super) make_room: Notify,
}

struct State {
    doing: Doing,
    since: Instant,
    /// The answer's body was handed over; it is sent with the next flush.
    handed_over: bool,
    /// Since when the client takes nothing.
    stuck: Option<Instant>,
    /// Memory of the answers that are being sent.
    paid: Vec<OwnedSemaphorePermit>,
    /// The status of what hyper refused by itself.
    refused: Option<u16>,
    /// The client has closed its side.
    closed: bool,
    asked_to_make_room: bool,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        let state = State {
            doing: Doing::Idle,
            since: Instant::now(),
            handed_over: false,
            stuck: None,
            paid: Vec::new(),
            refused: None,
            closed: false,
            asked_to_make_room: false,
        };
        Arc::new(Self { state: Mutex::new(state), make_room: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn late(&self, patience: Patience) -> Option<Late> {
        let state = self.state();
        let past = |since: Instant, bound| since.elapsed() >= bound;
        if state.stuck.is_some_and(|since| past(since, patience.unread)) {
            return Some(Late::Unread);
        }
        match state.doing {
            Doing::Idle if past(state.since, patience.idle) => Some(Late::Idle),
            Doing::Head if past(state.since, patience.head) => Some(Late::Head),
            _ => None,
        }
    }

    /// Since when the connection has been of no use, where that is so: nobody waits for an answer on it.
    fn useless_since(&self) -> Option<Instant> {
        let state = self.state();
        match state.doing {
            Doing::Idle | Doing::Head => Some(state.since),
            Doing::Request => state.stuck.filter(|since| since.elapsed() >= STUCK_MIN),
        }
    }

    /// Whether it may still be ended to make room, when it comes to know that it was asked to.
    pub(super) fn makes_room(&self) -> bool {
        let useless = self.useless_since().is_some();
        self.state().asked_to_make_room = useless;
        useless
    }

    /// Asks the connection that has been useless for longest to make room. Answers whether there is one.
    pub(super) fn ask_for_room<'a>(all: impl Iterator<Item = &'a Arc<Self>>) -> bool {
        let useless = all.filter(|one| !one.state().asked_to_make_room);
        let useless = useless.filter_map(|one| one.useless_since().map(|since| (since, one)));
        let Some((_, one)) = useless.min_by_key(|(since, _)| *since) else { return false };
        one.state().asked_to_make_room = true;
        one.make_room.notify_one();
        true
    }

    /// The status of what hyper refused by itself, where it said one.
    pub(super) fn refused(&self) -> Option<u16> {
        self.state().refused
    }

    /// Whether no request is being answered.
    pub(super) fn awaits_request(&self) -> bool {
        self.state().doing != Doing::Request
    }

    pub(super) fn closed_by_client(&self) -> bool {
        self.state().closed
    }

    fn received(&self, bytes: usize) {
        let mut state = self.state();
        if bytes == 0 {
            state.closed = true;
        } else if state.doing == Doing::Idle {
            (state.doing, state.since) = (Doing::Head, Instant::now());
        }
    }

    fn begins(&self) {
        let mut state = self.state();
        (state.doing, state.since, state.handed_over) = (Doing::Request, Instant::now(), false);
    }

    /// Everything that was handed over is sent.
    fn flushed(&self) {
        let mut state = self.state();
        if state.doing == Doing::Request && state.handed_over {
            (state.doing, state.since) = (Doing::Idle, Instant::now());
            state.paid.clear();
        }
    }

    fn sent(&self, result: &Poll<io::Result<usize>>) {
        let mut state = self.state();
        state.stuck = match result {
            Poll::Pending => Some(state.stuck.unwrap_or_else(Instant::now)),
            Poll::Ready(_) => None,
        };
    }

    /// Whether what is written now is hyper's own refusal, which is kept back.
    fn keeps_back(&self, written: &[u8]) -> bool {
        let mut state = self.state();
        if state.doing == Doing::Request {
            return false;
        }
        if state.refused.is_none() {
            let status = written.get("HTTP/1.1 ".len()..).and_then(|rest| rest.get(..3));
            state.refused = status.and_then(|status| std::str::from_utf8(status).ok()?.parse().ok());
        }
        true
    }
}

/// The bytes of a connection on their way between the socket and hyper.
pub(super) struct Watched<S> {
    pub(super) stream: S,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        self.activity.received(into.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.activity.keeps_back(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.activity.sent(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = parts.iter().find(|part| !part.is_empty()).map_or(&[][..], |part| part);
        if self.activity.keeps_back(first) {
            return Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()));
        }
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.activity.sent(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes once it has written all that it holds.
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.activity.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The server shuts it down, for it may have something to say first.
        Poll::Ready(Ok(()))
    }
}

/// The routes, with each request and each answer noted.
#[derive(Clone)]
pub(super) struct Noted {
    routes: TowerToHyperService<Router>,
    activity: Arc<Activity>,
    answers: Answers,
}

/// The memory that large answers share.
#[derive(Clone)]
pub(super) struct Answers {
    /// A semaphore, for a permit gives its bytes back wherever its connection ends. In KiB.
    budget: Arc<Semaphore>,
}

impl Answers {
    pub(super) fn new() -> Self {
        Self { budget: Arc::new(Semaphore::new(ANSWERS_BYTES_MAX / KIB)) }
    }
}

impl Noted {
    pub(super) fn new(router: Router, activity: Arc<Activity>, answers: Answers) -> Self {
        Self { routes: TowerToHyperService::new(router), activity, answers }
    }

    /// Pays for the memory of a large answer, or puts a refusal in its place.
    fn pay(&self, answer: Response<Body>) -> Response<Body> {
        let bytes = answer.body().size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
        let Some(bytes) = bytes.filter(|bytes| *bytes >= ANSWER_COUNTED_BYTES_MIN) else { return answer };
        // One answer may be larger than all may be together, and must be possible where it is the only one.
        let kib = bytes.div_ceil(KIB).min(ANSWERS_BYTES_MAX / KIB);
        match Arc::clone(&self.answers.budget).try_acquire_many_owned(kib as u32) {
            Ok(permit) => {
                self.activity.state().paid.push(permit);
                answer
            }
            Err(_) => {
                let detail = format!("clients have not read {} MiB of answers yet", ANSWERS_BYTES_MAX / MIB);
                let facts = json!({ "bytes": bytes, "bytes_max": ANSWERS_BYTES_MAX });
                Problem::new(&ANSWERS_BUSY, detail).facts(facts).retry_after(1).into_response()
            }
        }
    }
}

impl Service<Request<Incoming>> for Noted {
    type Response = Response<Answer>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.activity.begins();
        let answer = self.routes.call(request);
        let noted = self.clone();
        Box::pin(async move {
            let answer = noted.pay(answer.await?);
            Ok(answer.map(|body| Answer { body, activity: noted.activity }))
        })
    }
}

/// An answer's body. hyper drops it when it holds all of it.
pub(super) struct Answer {
    body: Body,
    activity: Arc<Activity>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.activity.state().handed_over = true;
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
