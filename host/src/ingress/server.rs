//! Connections: accepted up to a bound, given up when they are too slow or make room for others, drained when the
//! bus stops.
//!
//! Where all connections are taken, the one that has been useless for longest ends: it is between two requests, its
//! head trickles in, or its client takes nothing of its answer. So whoever holds connections open keeps out nobody
//! who has a request. Only where every one of them works, another one is told to come back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::header::{CONNECTION, CONTENT_LENGTH};
use axum::http::{HeaderValue, StatusCode};
use axum::response::IntoResponse;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::connection::{Activity, Answers, Late, Noted, Patience, Watched};
use super::problem::{HEAD_TOO_LARGE, Problem, SLOW_HEAD, TOO_MANY_CONNECTIONS, UNREADABLE_HEAD};
use crate::limits::{HTTP_SERVED_CONNECTIONS_MAX, HTTP_SERVED_HEAD_BYTES_MAX, HTTP_SERVED_HEADERS_MAX, MIB};

/// Clients commonly keep a connection for the next request for less long.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// A head is a few packets.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// A client that takes no byte of its answer for this long is gone or stopped. One that follows a tail goes on
/// from where it was when it comes back.
const UNREAD_MAX: Duration = Duration::from_secs(60);
/// How often a connection is looked at whether it is late.
const LOOK: Duration = Duration::from_secs(1);
/// How long requests may go on once the bus stops. A publish takes milliseconds; what is cut off is a body
/// that arrives slowly. Service managers kill after 10 s, and the bus itself has to finish after this.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);
/// After a failed accept, usually for want of file descriptors, others must end first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often failed accepts are told of.
const ACCEPT_WARNING_PAUSE: Duration = Duration::from_secs(10);
/// A client that is still sending when it was refused is heard for so long, for it would not come to read the answer
/// if the connection broke under what it sends.
const LINGER_MAX: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 8 * MIB;
/// Connections that are told at once that there are too many; past this they are closed without a word.
const TURNED_AWAY_MAX: usize = 64;

/// The bounds of connections.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    connections_max: usize,
    patience: Patience,
    look: Duration,
}

impl Bounds {
    fn of_this_process() -> Self {
        let patience = Patience { idle: IDLE_MAX, head: HEAD_TIME_MAX, unread: UNREAD_MAX };
        let connections_max = connections_max(rustix::process::getrlimit(rustix::process::Resource::Nofile).current);
        Self { connections_max, patience, look: LOOK }
    }
}

/// Connections under a limit on open files: half of them, so that the log, the consumers and their requests have the
/// other half.
fn connections_max(files_max: Option<u64>) -> usize {
    let half = files_max.map_or(usize::MAX, |files| usize::try_from(files / 2).unwrap_or(usize::MAX));
    half.clamp(1, HTTP_SERVED_CONNECTIONS_MAX)
}

pub(super) async fn run(listener: TcpListener, router: Router, stop: watch::Receiver<bool>) {
    run_within(listener, router, stop, Bounds::of_this_process()).await;
}

async fn run_within(listener: TcpListener, router: Router, mut stop: watch::Receiver<bool>, bounds: Bounds) {
    if bounds.connections_max < HTTP_SERVED_CONNECTIONS_MAX {
        let (now, usual) = (bounds.connections_max, HTTP_SERVED_CONNECTIONS_MAX);
        tracing::warn!(
            "the limit on open files leaves room for {now} connections and not {usual}; `ulimit -n` raises it"
        );
    }
    let answers = Answers::new();
    let turned_away = Arc::new(Semaphore::new(TURNED_AWAY_MAX));
    // Owned by this task alone, so without a lock.
    let mut connections = JoinSet::new();
    let mut activities = HashMap::new();
    let mut warned: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            Some(ended) = connections.join_next_with_id() => {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                activities.remove(&id);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                if activities.len() >= bounds.connections_max && !Activity::ask_for_room(activities.values()) {
                    if let Ok(slot) = Arc::clone(&turned_away).try_acquire_owned() {
                        tokio::spawn(async move {
                            let detail = format!(
                                "{} connections have requests that are not answered yet",
                                bounds.connections_max
                            );
                            let facts = json!({ "connections_max": bounds.connections_max });
                            let problem = Problem::new(&TOO_MANY_CONNECTIONS, detail).facts(facts).retry_after(1);
                            close(stream, Some(problem)).await;
                            drop(slot);
                        });
                    }
                    continue;
                }
                let activity = Activity::new();
                let noted = Noted::new(router.clone(), activity.clone(), answers.clone());
                let task = connections.spawn(serve(stream, noted, activity.clone(), stop.clone(), bounds));
                activities.insert(task.id(), activity);
            }
            Err(error) => {
                if warned.is_none_or(|last| last.elapsed() >= ACCEPT_WARNING_PAUSE) {
                    warned = Some(Instant::now());
                    tracing::warn!(
                        connections = activities.len(),
                        "a connection could not be accepted: {error}; if files are lacking, `ulimit -n` or `LimitNOFILE` allows more"
                    );
                }
                Activity::ask_for_room(activities.values());
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_TIME_MAX, drained).await.is_err() {
        tracing::warn!("requests that took too long to finish were cut off");
    }
}

async fn serve(
    stream: TcpStream,
    noted: Noted,
    activity: Arc<Activity>,
    mut stop: watch::Receiver<bool>,
    bounds: Bounds,
) {
    // Answers are small and somebody waits for each.
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(Watched::new(stream, activity.clone()));
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // This is bounded by `Patience`, which tells a head that trickles in from a connection that is idle.
        .header_read_timeout(None)
        .max_headers(HTTP_SERVED_HEADERS_MAX)
        .max_buf_size(HTTP_SERVED_HEAD_BYTES_MAX)
        .serve_connection(io, noted);
    let mut stopping = false;
    let mut unreadable = false;
    let late = loop {
        tokio::select! {
            biased;
            result = &mut connection => {
                if let Err(error) = result {
                    tracing::debug!("a connection ended: {error}");
                    // To some of what is no HTTP/1.1 hyper says nothing at all.
                    unreadable = error.is_parse() && activity.awaits_request();
                }
                break None;
            }
            () = stopped(&mut stop), if !stopping => {
                stopping = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            () = activity.make_room.notified() => {
                if activity.makes_room() {
                    return;
                }
            }
            () = tokio::time::sleep(bounds.look) => {
                if let Some(late) = activity.late(bounds.patience) {
                    break Some(late);
                }
            }
        }
    };
    let problem = match late {
        Some(Late::Idle | Late::Unread) => return,
        Some(Late::Head) => {
            let seconds = bounds.patience.head.as_secs();
            let detail = format!("the head of the request was not there after {seconds} s");
            Some(Problem::new(&SLOW_HEAD, detail).facts(json!({ "seconds": seconds })))
        }
        None => activity.refused().or(unreadable.then_some(400)).map(refusal),
    };
    // A client that closed its side, or that is told to come back to another process, has nothing to send.
    if problem.is_some() || !(stopping || activity.closed_by_client()) {
        close(connection.into_parts().io.into_inner().stream, problem).await;
    }
}

/// What is said in place of hyper's own refusal, which is a bare status.
fn refusal(status: u16) -> Problem {
    let large = [StatusCode::URI_TOO_LONG, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE];
    if large.iter().any(|large| large.as_u16() == status) {
        let (bytes_max, headers_max) = (HTTP_SERVED_HEAD_BYTES_MAX, HTTP_SERVED_HEADERS_MAX);
        let detail = format!(
            "the head of the request has more than {headers_max} headers or {bytes_max} bytes, or a long address"
        );
        return Problem::new(&HEAD_TOO_LARGE, detail)
            .facts(json!({ "headers_max": headers_max, "bytes_max": bytes_max }));
    }
    Problem::new(&UNREADABLE_HEAD, "what was sent is no request of HTTP/1.1")
}

/// Says the last word on a connection, if any, and closes it so that the client comes to read it.
async fn close(mut stream: TcpStream, problem: Option<Problem>) {
    let closed = async {
        if let Some(problem) = problem {
            stream.write_all(&bytes_of(problem).await).await?;
        }
        stream.shutdown().await?;
        let (mut ignored, mut count) = ([0; 4096], 0);
        while count < LINGER_BYTES_MAX {
            match stream.read(&mut ignored).await? {
                0 => break,
                bytes => count += bytes,
            }
        }
        std::io::Result::Ok(())
    };
    // Whoever does not take it, or does not stop sending, is cut off.
    let _ = tokio::time::timeout(LINGER_MAX, closed).await;
}

/// A whole answer, as the last one of its connection.
async fn bytes_of(problem: Problem) -> Vec<u8> {
    let (mut head, body) = problem.into_response().into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("the body of a problem is in memory");
    head.headers.insert(CONTENT_LENGTH, body.len().into());
    head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let mut bytes = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&body);
    bytes
}

/// Resolves when the bus stops.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Where the sender is gone nobody could stop the bus any more.
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::Mutex;

    use axum::routing::get;
    use futures_util::stream;
    use tokio::sync::Notify;

    use super::*;

    /// Sends a request on a connection of its own; the answer is read to its end on another thread.
    fn ask(address: std::net::SocketAddr) -> std::thread::JoinHandle<String> {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        std::thread::spawn(move || {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        })
    }

    /// A server that has less patience than the real one, and what stops it.
    async fn impatient(patience: Patience, router: Router) -> (std::net::SocketAddr, watch::Sender<bool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let bounds = Bounds { connections_max: 8, patience, look: Duration::from_millis(1) };
        tokio::spawn(run_within(listener, router, stopped, bounds));
        (address, stop)
    }

    const LONG: Duration = Duration::from_secs(3_600);
    const PATIENT: Patience = Patience { idle: LONG, head: LONG, unread: LONG };

    /// What comes until the server ends the connection.
    fn rest(mut stream: TcpStream) -> tokio::task::JoinHandle<Vec<u8>> {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        tokio::task::spawn_blocking(move || {
            let mut came = Vec::new();
            stream.read_to_end(&mut came).expect("the server ends it");
            came
        })
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_answer_that_is_not_read_is_given_up() {
        // An answer without an end, which says when the server lets go of it.
        let (held, let_go) = tokio::sync::oneshot::channel::<()>();
        let held = Arc::new(Mutex::new(Some(held)));
        let endless = move || {
            let held = held.lock().unwrap().take();
            let parts = stream::repeat_with(move || {
                assert!(held.is_some(), "it is asked for once");
                Ok::<_, Infallible>(vec![7_u8; 4096])
            });
            async { axum::body::Body::from_stream(parts) }
        };
        let unread = Duration::from_millis(50);
        let router = Router::new().route("/", get(endless));
        let (address, _stop) = impatient(Patience { unread, ..PATIENT }, router).await;
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(60), let_go).await;
        assert!(ended.expect("it is given up").is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_connection_that_idles_is_closed_without_a_word_and_a_head_that_stops_is_told() {
        let short = Duration::from_millis(50);
        for (patience, sent, says) in [
            (Patience { idle: short, ..PATIENT }, "", ""),
            (Patience { head: short, ..PATIENT }, "GET / HT", "HTTP/1.1 408 "),
        ] {
            let (address, _stop) = impatient(patience, Router::new()).await;
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(sent.as_bytes()).unwrap();
            let came = String::from_utf8(rest(stream).await.unwrap()).unwrap();
            assert!(came.starts_with(says) && came.is_empty() == says.is_empty(), "{came}");
        }
    }

    #[test]
    fn half_of_the_files_are_for_connections() {
        assert_eq!(connections_max(None), HTTP_SERVED_CONNECTIONS_MAX);
        assert_eq!(connections_max(Some(1 << 40)), HTTP_SERVED_CONNECTIONS_MAX);
        assert_eq!(connections_max(Some(1_000)), 500);
        assert_eq!(connections_max(Some(0)), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stop_finishes_what_has_begun_and_takes_nothing_more() {
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let handler = {
            let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
            move || async move {
                begun.notify_one();
                go_on.notified().await;
                "answered"
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(run(listener, Router::new().route("/", get(handler)), stopped));
        let answer = ask(address);
        begun.notified().await;
        stop.send_replace(true);
        // The address is given up at once: it can be bound again while the request goes on.
        while TcpStream::connect(address).is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!server.is_finished());
        go_on.notify_one();
        server.await.unwrap();
        let answer = answer.join().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("answered"), "{answer}");
    }
}
