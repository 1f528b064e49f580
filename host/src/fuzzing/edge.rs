//! The HTTP edge of a whole bus, but for connections and consumers: the log is in memory, and begins with something of
//! everything that can be asked for.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Request, response};
use futures_util::{FutureExt, StreamExt};
use redb::StorageBackend;
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};
use tower_service::Service;

use crate::bus::Bus;
use crate::clock::{Clock, SystemClock};
use crate::deploy::{Deployments, LoadFailure, Loader, Options};
use crate::engine::{Engine, EngineOptions};
use crate::ingress::{self, IngressSettings};
use crate::log::position::Position;
use crate::log::redb_log::{OpenOptions, RedbLog};
use crate::log::{
    Change, DeadRow, HeldAt, HeldRow, KeyHash, Listener, Log, LogFailure, Parks, RetryRow, Selection, Settlement,
    StateWrite, SubscriptionId, SubscriptionRecord, Txn, TxnNumber,
};
use crate::message::{Event, SharedMessage, TopicId};
use crate::outcome::{Attempt, DeadReason, Digest, History, OutcomeKind};
use crate::policy::Manifest;
use crate::sandbox::{Program, Sandbox, SandboxOptions};
use crate::topic::{TopicFilter, TopicName};

/// Data of one message; small, so that an input can be larger.
const MESSAGE_DATA_BYTES_MAX: usize = 1024;
/// Events of one tail that are read.
const TAIL_FRAMES_MAX: usize = 16;
/// When what the log begins with was accepted: 2026-01-31T09:30:00Z.
const BEGAN_MS: u64 = 1_769_851_800_000;
const DAY_MS: u64 = 24 * 3_600_000;

/// What a client gets.
pub struct Answer {
    pub head: response::Parts,
    pub body: Bytes,
}

/// A bus that answers one request after the other.
pub struct Edge {
    runtime: Runtime,
    bus: Bus,
    router: Router,
    /// The log's file as it begins.
    image: Vec<u8>,
    options: OpenOptions,
    _deployments: Arc<Deployments>,
    _stop: watch::Sender<bool>,
}

impl Edge {
    /// `folder` is empty, and for it alone. It is reached as `localhost`, and by pages of `http://shop.example`.
    pub fn start(folder: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime starts");
        let options = OpenOptions { reserve_bytes: 0, free_bytes_min: 0, ..OpenOptions::new(folder.join("data")) };
        let image = image(&options);

        let bus = Bus::new(MESSAGE_DATA_BYTES_MAX);
        let sandbox = SandboxOptions { pooling: false, ..SandboxOptions::new(folder.join("artifacts")) };
        bus.rehearse_in(Arc::new(Sandbox::new(sandbox).expect("a sandbox starts")));
        let clock = Arc::new(|| SystemClock.now_ms());
        let deploy = Options::new(folder.join("plugins"), folder.join("data"), clock);
        let deployments = Deployments::start(deploy, Arc::new(bus.clone()), Arc::new(NoLoader), Vec::new());
        let deployments = Arc::new(deployments.expect("deployments start"));
        bus.report_deployments(&deployments);
        bus.open();

        let settings = IngressSettings {
            listen: "127.0.0.1:80".parse().expect("it is an address"),
            allowed_hosts: Vec::new(),
            allowed_origins: vec!["http://shop.example".to_owned()],
            message_data_bytes_max: MESSAGE_DATA_BYTES_MAX,
        };
        let (stop, stopped) = watch::channel(false);
        let router = ingress::router(bus.clone(), &settings, stopped);
        let edge = Self { runtime, bus, router, image, options, _deployments: deployments, _stop: stop };
        edge.begin_anew();
        edge
    }

    /// What any request before it changed is undone.
    pub fn begin_anew(&self) {
        if let Some(engine) = self.bus.withdraw("it begins anew") {
            engine.stop();
        }
        let memory = Memory(Arc::new(Mutex::new(self.image.clone())));
        let log = RedbLog::open_on(&self.options, Box::new(memory)).expect("the log opens");
        let options = EngineOptions { workers: 1, message_data_max: MESSAGE_DATA_BYTES_MAX };
        let started = Engine::start(Arc::new(log), Arc::new(SystemClock), self.runtime.handle(), options);
        let (engine, _) = started.expect("the engine starts");
        self.bus.serve_on(engine).expect("nothing has to be activated");
    }

    /// The whole answer; of a tail, what is there already.
    pub fn answer(&self, request: Request<Body>) -> Answer {
        self.runtime.block_on(async {
            let response = self.router.clone().call(request).await.expect("the router always answers");
            let (head, body) = response.into_parts();
            let is_tail = head.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
            let mut chunks = body.into_data_stream();
            let mut bytes = Vec::new();
            if is_tail {
                for _ in 0..TAIL_FRAMES_MAX {
                    let Some(Some(Ok(chunk))) = chunks.next().now_or_never() else { break };
                    bytes.extend_from_slice(&chunk);
                }
            } else {
                while let Some(chunk) = chunks.next().await {
                    bytes.extend_from_slice(&chunk.expect("an answer does not break off"));
                }
            }
            Answer { head, body: bytes.into() }
        })
    }
}

/// A log with two topics, a message in every state, a scheduled one, and state: closed, and its file's bytes.
fn image(options: &OpenOptions) -> Vec<u8> {
    let memory = Memory::default();
    let log = RedbLog::open_on(options, Box::new(memory.clone())).expect("the log opens");
    log.start(Arc::new(Deaf));
    let commit = |txn: Txn| {
        let (waiter, synced) = oneshot::channel();
        let sequenced = log.commit(Txn { now_ms: BEGAN_MS, ..txn }, Some(waiter)).expect("it is sequenced");
        synced.blocking_recv().expect("it is synced");
        sequenced
    };
    let subscribe = |name: &str, filter: &str| {
        let filter = TopicFilter::parse(filter).expect("it is a filter");
        let selection = Selection::new(vec![(filter, 0)]);
        let consumer = name.to_owned();
        let (created_ms, epoch, passes_dead_before, paused) = (BEGAN_MS, 1, 0, false);
        let record = SubscriptionRecord { consumer, selection, created_ms, epoch, passes_dead_before, paused };
        Change::CreateSubscription { name: name.to_owned(), record, position: Position::default() }
    };
    let changes = vec![subscribe("email", "order.*"), subscribe("audit", ">")];
    let id = commit(Txn { changes, ..Txn::default() }).created[0];

    let later = Event { deliver_at_ms: Some(BEGAN_MS + 36_500 * DAY_MS), ..event("order.placed", "later") };
    let mut appends: Vec<_> = (0..5).map(|number| event("order.placed", &number.to_string())).collect();
    appends.extend([event("payment.captured", "p"), later]);
    let write = |key: &str, value: &'static [u8]| StateWrite {
        consumer: "email".into(),
        key: key.into(),
        value: Some(Bytes::from_static(value)),
    };
    let writes = vec![write("count", b"4"), write("sent/0", b"{\"to\":\"a@b.c\"}"), write("sent/1", b"\xff\x00")];
    commit(Txn { appends, writes, ..Txn::default() });
    commit(Txn { settlements: vec![settlement(id)], ..Txn::default() });
    log.close();
    drop(log);
    let image = memory.0.lock().expect("nobody panicked").clone();
    image
}

/// The first message is in retry, the second one is held behind it, the third one dead, the fourth one acked, and the
/// fifth one is unread.
fn settlement(id: SubscriptionId) -> Settlement {
    let key = KeyHash(3);
    let mut history = History { charged: 1, failing_since_ms: BEGAN_MS, ..History::default() };
    history.record(Attempt {
        at_ms: BEGAN_MS,
        duration_us: 1_250,
        outcome: OutcomeKind::Trapped,
        text: "wasm trap: unreachable".to_owned(),
        digest: Digest([7; 32]),
        charged: true,
    });
    let due_ms = BEGAN_MS + 36_500 * DAY_MS;
    let retry = RetryRow { due_ms, accepted_ms: BEGAN_MS, key: Some(key), redrive: None, history: history.clone() };
    let dead = DeadRow {
        reason: DeadReason::ALL[0],
        died_ms: BEGAN_MS,
        accepted_ms: BEGAN_MS,
        topic: TopicId(0),
        sequence: 3,
        key: Some("customer-3".to_owned()),
        message_id: "2".to_owned(),
        source: "/shop".to_owned(),
        history,
        excused: None,
    };
    let held = HeldRow { offsets: vec![1], front: 0, accepted_ms: BEGAN_MS };
    let mut settlement = Settlement::new(id, 1);
    settlement.passed = vec![(0, 4)];
    settlement.counts.passed = 4;
    settlement.counts.rows = 2;
    settlement.counts.dead = 1;
    settlement.counts.acked = 1;
    settlement.counts.died[0] = 1;
    settlement.retries.push((0, Some(Arc::new(retry))));
    settlement.held.push((HeldAt { subscription: id, key, first: 1 }, Some(Arc::new(held))));
    settlement.dead.push((2, Some(Arc::new(dead))));
    settlement.parks.push((2, Some(Parks::Key(key))));
    settlement
}

fn event(topic: &str, id: &str) -> Event {
    Event {
        topic: TopicName::any(topic).expect("it is a topic"),
        id: id.to_owned(),
        source: "/shop".to_owned(),
        kind: topic.to_owned(),
        subject: None,
        key: Some("customer-3".to_owned()),
        content_type: Some("application/json".to_owned()),
        attributes: vec![("time".to_owned(), "2026-01-31T09:30:00Z".to_owned())],
        data: Bytes::from_static(b"{\"total\":12}"),
        hops: 0,
        named: true,
        deliver_at_ms: None,
    }
}

/// A file in memory.
#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn with<T>(&self, deed: impl FnOnce(&mut Vec<u8>) -> T) -> io::Result<T> {
        self.0.lock().map(|mut bytes| deed(&mut bytes)).map_err(|_| io::Error::other("somebody panicked"))
    }
}

impl StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        self.with(|bytes| bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let from = offset as usize;
        self.with(|bytes| bytes.get(from..from + out.len()).map(|found| out.copy_from_slice(found)))?
            .ok_or(io::ErrorKind::UnexpectedEof.into())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.with(|bytes| bytes.resize(length as usize, 0))
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let from = offset as usize;
        self.with(|bytes| {
            bytes.resize(bytes.len().max(from + data.len()), 0);
            bytes[from..from + data.len()].copy_from_slice(data);
        })
    }
}

/// Nobody listens while the log is prepared.
struct Deaf;

impl Listener for Deaf {
    fn synced(&self, _: TxnNumber, _: &[SharedMessage]) {}

    fn rescheduled(&self) {}

    fn failed(&self, failure: LogFailure) {
        panic!("a log in memory does not fail: {failure}");
    }
}

/// No target runs a component.
struct NoLoader;

impl Loader for NoLoader {
    type Program = Program;

    fn load(&self, _: &str, _: &[u8], _: &Manifest) -> Result<Arc<Program>, LoadFailure> {
        Err(LoadFailure::Component("components are not loaded here".to_owned()))
    }

    fn kind(_: &Program) -> Option<&'static str> {
        None
    }
}
