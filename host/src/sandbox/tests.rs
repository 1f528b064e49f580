//! The sandbox as a whole, on a guest written in WebAssembly's text that obeys its message.

mod bounds;
mod kinds;
mod refusals;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::limits;
use crate::message::{Message, TopicId};
use crate::outcome::OutcomeKind;
use crate::policy::{GuestLimits, Manifest};
use crate::topic::{TopicFilter, TopicName};

/// More time than any call here takes.
const PATIENCE: Duration = Duration::from_secs(3_600);

const SCRIPT: &str = include_str!("tests/script.wat");

/// A sandbox in a folder of its own, and the runtime that its timers need.
pub(super) struct Bench {
    sandbox: Sandbox,
    pub(super) runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
}

impl Bench {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = SandboxOptions { instances_max: 4, ..SandboxOptions::new(folder.path().join("artifacts")) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { sandbox: Sandbox::new(options).unwrap(), runtime, folder }
    }

    fn program(&self) -> Program {
        self.program_of(SCRIPT)
    }

    pub(super) fn program_with(&self, manifest: &Manifest) -> Program {
        let component = self.sandbox.load("test", &wat::parse_str(SCRIPT).unwrap()).unwrap();
        Program::new("email".into(), component, manifest).unwrap()
    }

    fn program_of(&self, wat: &str) -> Program {
        let component = self.sandbox.load("test", &wat::parse_str(wat).unwrap()).unwrap();
        let manifest = Manifest {
            limits: GuestLimits { memory_bytes: 4 * limits::MIB, ..GuestLimits::default() },
            publish: vec![TopicFilter::parse("out.*").unwrap()],
            config: BTreeMap::from([("from".to_owned(), "shop@example.com".to_owned())]),
            ..Manifest::default()
        };
        Program::new("email".into(), component, &manifest).unwrap()
    }

    /// Runs a script in a fresh instance.
    fn run(&self, script: &[(u8, &str)]) -> Called {
        self.run_in(&self.program(), &mut None, script)
    }

    fn run_in(&self, program: &Program, slot: &mut Option<Instance>, script: &[(u8, &str)]) -> Called {
        self.call(program, slot, script, PATIENCE, state(&[]), limits::MIB).unwrap()
    }

    /// Has a fresh instance of a consumer handle data.
    fn handle(&self, manifest: &Manifest, consumer: &[u8], data: &[u8]) -> Called {
        let component = self.sandbox.load("test", consumer).unwrap();
        let program = Program::new("email".into(), component, manifest).unwrap();
        let mut message = message(&[]);
        message.event.data = Bytes::copy_from_slice(data);
        let (offer, state) = (offer(PATIENCE), state(&[]));
        self.runtime.block_on(program.call(&mut None, &message, &offer, state, limits::MIB)).unwrap()
    }

    fn call(
        &self,
        program: &Program,
        slot: &mut Option<Instance>,
        script: &[(u8, &str)],
        limit: Duration,
        state: Box<dyn StateSource>,
        message_data_bytes_max: usize,
    ) -> Result<Called, CallError> {
        let (message, offer) = (message(script), offer(limit));
        self.runtime.block_on(program.call(slot, &message, &offer, state, message_data_bytes_max))
    }

    /// What a script tells.
    fn told(&self, script: &[(u8, &str)]) -> String {
        match self.run(&[script, &[(b'J', "")]].concat()).outcome {
            Outcome::Reject { reason } => reason,
            other => panic!("{other:?}"),
        }
    }
}

fn message(script: &[(u8, &str)]) -> Message {
    let mut data = Vec::new();
    for (op, argument) in script {
        data.extend([*op, u8::try_from(argument.len()).unwrap()]);
        data.extend(argument.as_bytes());
    }
    let event = Event {
        topic: TopicName::client("order.placed").unwrap(),
        id: "id-1".to_owned(),
        source: "/test".to_owned(),
        kind: "com.example.order".to_owned(),
        subject: Some("subject".to_owned()),
        key: Some("key".to_owned()),
        content_type: Some("application/octet-stream".to_owned()),
        attributes: vec![("time".to_owned(), "2026-01-01T00:00:00Z".to_owned())],
        data: data.into(),
        hops: 3,
        named: true,
        deliver_at_ms: None,
    };
    Message { offset: 16, sequence: 17, topic_id: TopicId(1), accepted_ms: 1_000, event }
}

fn offer(timeout: Duration) -> Offer {
    Offer {
        subscription: "email".into(),
        attempt: 1,
        max_attempts: 6,
        redrives: 0,
        first_attempt_ms: 2_000,
        idempotency_key: "abc123".to_owned(),
        timeout,
        now_ms: 2_000,
    }
}

/// A call as the guest's imports see it.
pub(super) fn call() -> guest::Call {
    guest::Call::new(&message(&[]), &offer(PATIENCE), state(&[]), limits::MIB, String::new())
}

/// The same, with room for so many bytes of state.
pub(super) fn call_with_room(room: u64) -> guest::Call {
    let state = Box::new(FixedState { room: Some(room), ..FixedState::default() });
    guest::Call::new(&message(&[]), &offer(PATIENCE), state, limits::MIB, String::new())
}

/// State that is fixed, and counts how often it was read.
#[derive(Debug, Default)]
struct FixedState {
    entries: BTreeMap<String, Bytes>,
    reads: usize,
    broken: bool,
    /// Bytes that it takes; all where it is not said.
    room: Option<u64>,
}

impl StateSource for FixedState {
    fn get(&mut self, key: &str) -> Result<Option<Bytes>, StateUnreadable> {
        self.reads += 1;
        if self.broken { Err(StateUnreadable("damaged".to_owned())) } else { Ok(self.entries.get(key).cloned()) }
    }

    fn scan(
        &mut self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Bytes)>, StateUnreadable> {
        let wanted = |key: &str| key.starts_with(prefix) && after.is_none_or(|after| key > after);
        let entries = self.entries.iter().filter(|(key, _)| wanted(key)).take(limit);
        Ok(entries.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn synced(&mut self) -> Option<StateSynced> {
        Some(Box::pin(std::future::ready(true)))
    }

    fn room(&mut self) -> u64 {
        self.room.unwrap_or(u64::MAX)
    }

    fn check_room(&mut self, writes: &BTreeMap<String, Option<Bytes>>) -> Result<(), StateFull> {
        let bytes: usize = writes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len)).sum();
        if bytes as u64 > self.room() { Err(StateFull("full".to_owned())) } else { Ok(()) }
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

fn state(entries: &[(&str, &str)]) -> Box<dyn StateSource> {
    let entry = |(key, value): &(&str, &str)| ((*key).to_owned(), Bytes::copy_from_slice(value.as_bytes()));
    Box::new(FixedState { entries: entries.iter().map(entry).collect(), ..FixedState::default() })
}

#[test]
fn a_guest_answers_for_itself() {
    let bench = Bench::new();
    assert_eq!(bench.run(&[]).outcome, Outcome::Acked);
    let after = Some(Duration::from_millis(1_500));
    assert_eq!(bench.run(&[(b'R', "later")]).outcome, Outcome::Retry { reason: "later".to_owned(), after });
    assert_eq!(bench.run(&[(b'U', "down")]).outcome, Outcome::Unavailable { reason: "down".to_owned(), after: None });
    assert_eq!(
        bench.run(&[(b'k', "from"), (b'k', "to"), (b'J', "")]).outcome,
        Outcome::Reject { reason: "shop@example.com;-;".to_owned() }
    );
}

#[test]
fn an_instance_is_used_again_until_it_fails() {
    let bench = Bench::new();
    let program = bench.program();
    let mut slot = None;
    assert!(bench.run_in(&program, &mut slot, &[]).fresh);
    assert!(!bench.run_in(&program, &mut slot, &[(b'R', "later")]).fresh);
    assert!(!bench.run_in(&program, &mut slot, &[]).fresh);
    for failure in [b'T', b'E', b'M', b'X'] {
        bench.run_in(&program, &mut slot, &[(failure, "")]);
        assert!(slot.is_none(), "{}", failure as char);
        assert_eq!(bench.sandbox.instances(), 0);
        assert!(bench.run_in(&program, &mut slot, &[]).fresh);
    }
    assert!(bench.run_in(&bench.program(), &mut slot, &[]).fresh, "another version takes no instance of this one");
    assert_eq!(bench.sandbox.instances(), 1);
}

#[test]
fn a_trap_tells_what_was_printed_and_where_it_was() {
    let bench = Bench::new();
    let called = bench.run(&[(b'p', "out.a"), (b's', "k=v"), (b'o', "panicked at the disco"), (b'T', "")]);
    let Outcome::Trapped { report } = &called.outcome else { panic!("{:?}", called.outcome) };
    assert!(report.starts_with("wasm trap: wasm `unreachable` instruction executed"), "{report}");
    assert!(report.contains("the guest printed:\npanicked at the disco\n"), "{report}");
    assert!(report.contains("handle"), "{report}");
    assert!(called.effects.publishes.is_empty() && called.effects.writes.is_empty());
}

#[test]
fn every_failure_has_its_own_name_and_no_effects() {
    let bench = Bench::new();
    let table = [
        (b'R', OutcomeKind::Retry),
        (b'J', OutcomeKind::Reject),
        (b'U', OutcomeKind::Unavailable),
        (b'T', OutcomeKind::Trapped),
        (b'X', OutcomeKind::Trapped),
        (b'h', OutcomeKind::Trapped),
        (b'E', OutcomeKind::Exited),
        (b'M', OutcomeKind::OutOfMemory),
    ];
    for (op, kind) in table {
        let called = bench.run(&[(b'p', "out.a"), (b's', "k=v"), (op, "")]);
        assert_eq!(called.outcome.kind(), kind, "{}: {:?}", op as char, called.outcome);
        assert!(called.effects.publishes.is_empty() && called.effects.writes.is_empty(), "{}", op as char);
    }
    let exited = bench.run(&[(b'o', "bye"), (b'E', "")]).outcome;
    assert_eq!(exited, Outcome::Exited { code: 1, report: "bye".to_owned() });
}

#[test]
fn a_guest_that_was_denied_memory_and_went_on_answers_for_itself() {
    let bench = Bench::new();
    let program = bench.program();
    let mut slot = None;
    assert_eq!(bench.run_in(&program, &mut slot, &[(b'N', "")]).outcome, Outcome::Acked);
    // That it was denied in an earlier call says nothing about this one.
    assert_eq!(bench.run_in(&program, &mut slot, &[(b'T', "")]).outcome.kind(), OutcomeKind::Trapped);
}

#[test]
fn loopers_and_sleepers_time_out() {
    let bench = Bench::new();
    for script in [(b'L', ""), (b'Z', "")] {
        let limit = Duration::from_millis(30);
        let mut slot = None;
        let script = [(b'p', "out.a"), script];
        let called = bench.call(&bench.program(), &mut slot, &script, limit, state(&[]), 100).unwrap();
        assert_eq!(called.outcome, Outcome::TimedOut { limit });
        assert!(called.effects.publishes.is_empty());
        assert!(slot.is_none());
        assert_eq!(bench.sandbox.instances(), 0);
    }
    assert_eq!(bench.run(&[(b'z', "")]).outcome, Outcome::Acked, "a short sleep is only a short sleep");
}

#[test]
fn a_start_function_that_never_ends_times_out() {
    let bench = Bench::new();
    let looping =
        SCRIPT.replace("(global $told", "(func $start (loop $for-ever (br $for-ever))) (start $start) (global $told");
    let limit = Duration::from_millis(30);
    let called = bench.call(&bench.program_of(&looping), &mut None, &[], limit, state(&[]), 100).unwrap();
    assert_eq!(called.outcome, Outcome::TimedOut { limit });
}

#[test]
fn a_guest_that_begins_with_too_much_memory_has_none() {
    let bench = Bench::new();
    let large = SCRIPT.replace(r#"(memory (export "memory") 2)"#, r#"(memory (export "memory") 65)"#);
    let outcome = bench.run_in(&bench.program_of(&large), &mut None, &[]).outcome;
    assert!(
        matches!(outcome, Outcome::OutOfMemory { limit_bytes, .. } if limit_bytes == 4 * limits::MIB),
        "{outcome:?}"
    );
}

#[test]
fn effects_are_refused_while_the_guest_is_set_up() {
    let bench = Bench::new();
    let eager = SCRIPT.replace(
        "(global $told",
        "(func $start (call $get (i32.const 0) (i32.const 1) (i32.const 2048))) (start $start) (global $told",
    );
    let called = bench.run_in(&bench.program_of(&eager), &mut None, &[]);
    let Outcome::Trapped { report } = called.outcome else { panic!("{:?}", called.outcome) };
    assert!(report.contains("not while the guest is set up"), "{report}");
}

/// Threads of the bus's own poll calls, and hand them to each other.
fn sendable<F: Future + Send>(call: F) -> F {
    call
}

/// An endless loop on the only thread does not keep another consumer's calls from being made.
#[test]
fn a_looper_leaves_the_thread_to_others() {
    let bench = Bench::new();
    let (looper, other) = (bench.program(), bench.program());
    let (forever, acked) = (message(&[(b'L', "")]), message(&[]));
    let patience = offer(PATIENCE);
    let mut looper_slot = None;
    let mut looping = pin!(sendable(looper.call(&mut looper_slot, &forever, &patience, state(&[]), 100)));
    bench.runtime.block_on(async {
        let mut slot = None;
        for _ in 0..20 {
            // Comes back each time only because the guest is made to yield.
            let polled = std::future::poll_fn(|context| Poll::Ready(looping.as_mut().poll(context))).await;
            assert!(polled.is_pending());
            let called = other.call(&mut slot, &acked, &patience, state(&[]), 100).await.unwrap();
            assert_eq!(called.outcome, Outcome::Acked);
        }
    });
}

#[test]
fn a_call_that_is_dropped_takes_its_instance_along() {
    let bench = Bench::new();
    let program = bench.program();
    let mut slot = None;
    bench.run_in(&program, &mut slot, &[]);
    let (message, offer) = (message(&[(b'Z', "")]), offer(PATIENCE));
    {
        let _entered = bench.runtime.enter();
        let mut call = pin!(program.call(&mut slot, &message, &offer, state(&[]), 100));
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(bench.sandbox.instances(), 1);
    }
    assert!(slot.is_none());
    assert_eq!(bench.sandbox.instances(), 0);
}

#[test]
fn no_more_instances_than_there_may_be() {
    let bench = Bench::new();
    let program = bench.program();
    let mut slots: Vec<Option<Instance>> = (0..4).map(|_| None).collect();
    for slot in &mut slots {
        bench.run_in(&program, slot, &[]);
    }
    let refused = bench.call(&program, &mut None, &[], PATIENCE, state(&[]), 100);
    assert!(matches!(refused, Err(CallError::NoInstance { instances_max: 4 })));
    slots.pop();
    assert_eq!(bench.run(&[]).outcome, Outcome::Acked);
}

#[test]
fn a_call_sees_its_own_writes() {
    let bench = Bench::new();
    let script =
        [(b'g', "a"), (b's', "a=1"), (b'g', "a"), (b's', "a=2"), (b'g', "a"), (b'd', "a"), (b'g', "a"), (b'd', "gone")];
    assert_eq!(bench.told(&script), "-;1;2;-;");
    let writes = bench.run(&script).effects.writes;
    assert_eq!(writes, [("a".to_owned(), None), ("gone".to_owned(), None)]);
    assert_eq!(bench.told(&[(b'g', ""), (b's', "=v"), (b'd', "")]), {
        let refusal = "0:the key is empty";
        format!("{refusal};{refusal}{refusal}")
    });
}

#[test]
fn a_scan_merges_what_is_staged_with_what_is_stored() {
    let bench = Bench::new();
    let script = [(b's', "p2=new"), (b's', "p4=new"), (b'd', "p3"), (b's', "q=no"), (b'c', "p"), (b'J', "")];
    let stored = state(&[("o", "no"), ("p1", "old"), ("p2", "old"), ("p3", "old"), ("p5", "old")]);
    let called = bench.call(&bench.program(), &mut None, &script, PATIENCE, stored, 100).unwrap();
    assert_eq!(called.outcome, Outcome::Reject { reason: "p1=old,p2=new,p4=new,p5=old,".to_owned() });
}

#[test]
fn the_state_source_comes_back_with_what_it_remembers() {
    let bench = Bench::new();
    let called = bench.run(&[(b'g', "a"), (b'g', "b"), (b's', "a=1"), (b'g', "a"), (b'T', "")]);
    let source = called.state.into_any().downcast::<FixedState>().unwrap();
    assert_eq!(source.reads, 2, "what was written is not read from the source");
}

#[test]
fn reads_are_bounded() {
    let bench = Bench::new();
    let called = bench.run(&[(b'G', "key"), (b'J', "")]);
    assert_eq!(
        called.outcome,
        Outcome::Reject { reason: "2:the call has read as many keys as one call may".to_owned() }
    );
    let source = called.state.into_any().downcast::<FixedState>().unwrap();
    assert_eq!(source.reads, limits::STATE_READS_BYTES_MAX / (3 + limits::STATE_READ_BYTES));
}

#[test]
fn state_that_cannot_be_read_ends_the_call_and_is_not_the_guests_fault() {
    let bench = Bench::new();
    let mut slot = None;
    let broken = Box::new(FixedState { broken: true, ..FixedState::default() });
    let called = bench.call(&bench.program(), &mut slot, &[(b'g', "a")], PATIENCE, broken, 100);
    assert!(matches!(called, Err(CallError::State(StateUnreadable(why))) if why == "damaged"));
    assert!(slot.is_none());
}

#[test]
fn a_publish_is_staged_with_what_the_bus_adds() {
    let bench = Bench::new();
    let called = bench.run(&[(b'p', "out.a"), (b'x', ""), (b'p', "out.b")]);
    assert_eq!(called.outcome, Outcome::Acked);
    let [first, second] = &called.effects.publishes[..] else { panic!("{:?}", called.effects) };
    assert_eq!(
        *first,
        Event {
            topic: TopicName::client("out.a").unwrap(),
            id: "abc123-1".to_owned(),
            source: "/subscriptions/email".to_owned(),
            kind: "out.a".to_owned(),
            subject: None,
            key: None,
            content_type: None,
            attributes: vec![("time".to_owned(), "1970-01-01T00:00:02Z".to_owned())],
            data: Bytes::from_static(b"out.a"),
            hops: 4,
            named: false,
            deliver_at_ms: None,
        }
    );
    assert_eq!(second.id, "abc123-2");
    assert_eq!(second.attributes[1], ("expirytime".to_owned(), "2023-11-14T22:13:20Z".to_owned()));
}

#[test]
fn a_publish_is_refused_with_its_reason() {
    let bench = Bench::new();
    assert!(bench.told(&[(b'p', "other.a")]).starts_with("0:the manifest does not grant publishing to `other.a`"));
    assert!(bench.told(&[(b'p', "$lag.a")]).starts_with("1:topic `$lag.a`: "));
    assert!(bench.told(&[(b'p', "out..a")]).starts_with("1:topic `out..a`: "));
    assert!(bench.told(&[(b'D', ""), (b'p', "out.a")]).contains("which is more than 366 days ahead"));
    assert_eq!(bench.told(&[(b'P', "out.a")]), "3:one call publishes at most 1000 events");
    let script = [(b'p', "out.a"), (b'J', "")];
    let called = bench.call(&bench.program(), &mut None, &script, PATIENCE, state(&[]), 4).unwrap();
    let reason = "2:the data has 5 bytes; at most 4 are accepted. Put it where consumers can fetch it, and publish its address as the attribute `dataref`".to_owned();
    assert_eq!(called.outcome, Outcome::Reject { reason });
}

#[test]
fn floods_of_lines_and_output_are_bounded_and_harmless() {
    let bench = Bench::new();
    let line = "x".repeat(200);
    let (lines, called) = {
        let lines = Lines::default();
        let _collecting = tracing::subscriber::set_default(lines.clone());
        (lines.clone(), bench.run(&[(b'w', "first"), (b'W', &line), (b'O', &line), (b'o', "the end"), (b'T', "")]))
    };
    let lines = lines.0.lock().unwrap();
    assert_eq!(lines[0], "consumer=email subscription=email delivery=order.placed@17 first");
    let last = "9673 lines were dropped: one call logs at most 65536 bytes";
    assert_eq!(*lines.last().unwrap(), format!("consumer=email subscription=email delivery=order.placed@17 {last}"));
    assert_eq!(lines.len(), 1 + 327 + 1);
    let Outcome::Trapped { report } = called.outcome else { panic!("{:?}", called.outcome) };
    assert!(report.contains("xxthe end"), "{report}");
    assert!(report.len() <= limits::EVIDENCE_TEXT_BYTES_MAX);
}

/// Collects the lines of consumers, with their fields.
#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<String>>>);

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "consumer"
    }

    fn event(&self, event: &tracing::Event<'_>) {
        struct Line(String, String);
        impl tracing::field::Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                let _ = match field.name() {
                    "message" => write!(self.1, "{value:?}"),
                    name => write!(self.0, "{name}={value:?} "),
                };
            }
            fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
                let _ = write!(self.0, "{}={value} ", field.name());
            }
        }
        let mut line = Line(String::new(), String::new());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0 + &line.1);
    }

    fn new_span(&self, _span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _span: &tracing::span::Id, _values: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _span: &tracing::span::Id, _follows: &tracing::span::Id) {}
    fn enter(&self, _span: &tracing::span::Id) {}
    fn exit(&self, _span: &tracing::span::Id) {}
}

#[test]
fn a_component_is_compiled_once() {
    let bench = Bench::new();
    let bytes = wat::parse_str(SCRIPT).unwrap();
    let folder = bench.folder.path().join("artifacts");
    let component = bench.sandbox.load("test", &bytes).unwrap();
    assert!(component.imports().iter().any(|import| import == "sandpost:consumer/bus@0.1.0"));
    let files = || std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let [file] = &files()[..] else { panic!("{:?}", files()) };

    // A restart takes the artifact; one that is damaged is made anew, as it was.
    let whole = std::fs::read(file).unwrap();
    let again = Sandbox::new(SandboxOptions { pooling: false, ..SandboxOptions::new(&folder) }).unwrap();
    assert_eq!(again.load("test", &bytes).unwrap().digest(), component.digest());
    assert_eq!(files().len(), 1, "on-demand and pooled instances run the same artifact");
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(file, damaged).unwrap();
    again.load("test", &bytes).unwrap();
    assert_eq!(std::fs::read(file).unwrap().len(), whole.len());
    assert_ne!(std::fs::read(file).unwrap().last(), Some(&(whole.last().unwrap() ^ 1)));
}

#[test]
fn instances_run_without_a_pool_too() {
    let folder = tempfile::tempdir().unwrap();
    let options = SandboxOptions { pooling: false, ..SandboxOptions::new(folder.path().join("artifacts")) };
    let bench = Bench { sandbox: Sandbox::new(options).unwrap(), folder, ..Bench::new() };
    assert_eq!(bench.run(&[]).outcome, Outcome::Acked);
    assert_eq!(bench.run(&[(b'M', "")]).outcome.kind(), OutcomeKind::OutOfMemory);
}
