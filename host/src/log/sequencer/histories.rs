//! Random histories: calls that read and write state side by side, against the same calls one after another.
//!
//! What a call writes depends on all that it read. So if one read anything that it could not have read at its place
//! in the serial order, which is the order of transactions, then what it read, or what comes of it, differs.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;

use fastrand::Rng;

use super::overlay::scan_start;
use super::*;
use crate::log::StateRead;
use crate::log::{StateRange, StateWrite};

const SEEDS: u64 = 400;
/// Calls that are committed in each history.
const CALLS: usize = 80;
/// Calls that are under way at once.
const AT_ONCE: usize = 5;
const CONSUMERS: [&str; 2] = ["stock", "sales"];
const KEYS: [&str; 6] = ["a", "ab", "abc", "b", "ba", "c"];
const PREFIXES: [&str; 4] = ["", "a", "ab", "b"];
/// Small, so that a history is written in many groups, of which several wait to be synced.
const BOUNDS: SequencerBounds = SequencerBounds {
    state: StateBounds { consumer_bytes_max: 1 << 40, total_bytes_max: 1 << 40 },
    unsynced_bytes_max: 1 << 20,
    group_bytes_max: 600,
    topic_caps: Vec::new(),
    dedupe: DedupeBounds { window_ms: 0, names_max: 1 },
};

type Entries = BTreeMap<String, Bytes>;

/// What one call does, the same each time that it is run.
#[derive(Clone, Debug)]
struct Program {
    consumer: &'static str,
    steps: Vec<Step>,
    /// It ends as a failure: its reads are validated, and it leaves no writes.
    fails: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Get(&'static str),
    Scan { prefix: &'static str, after: Option<&'static str>, limit: usize },
    Put(&'static str),
    Delete(&'static str),
}

impl Program {
    fn random(random: &mut Rng) -> Self {
        let step = |random: &mut Rng| {
            let key = KEYS[random.usize(..KEYS.len())];
            match random.u32(..10) {
                0..4 => Step::Get(key),
                4..6 => Step::Scan {
                    prefix: PREFIXES[random.usize(..PREFIXES.len())],
                    after: random.bool().then_some(key),
                    limit: random.usize(1..=4),
                },
                6..9 => Step::Put(key),
                _ => Step::Delete(key),
            }
        };
        let steps = (0..random.usize(1..=5)).map(|_| step(random)).collect();
        Self { consumer: CONSUMERS[random.usize(..CONSUMERS.len())], steps, fails: random.u32(..5) == 0 }
    }
}

/// What a call read and wants to write, so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Trace {
    found: Vec<Vec<(String, Bytes)>>,
    writes: BTreeMap<String, Option<Bytes>>,
}

impl Trace {
    /// Does a step; `read` answers the entries of a range.
    fn step(&mut self, step: &Step, read: impl FnOnce(&StateRange, usize) -> Vec<(String, Bytes)>) {
        match step {
            Step::Get(key) => self.found.push(read(&StateRange::Key((*key).to_owned()), 1)),
            Step::Scan { prefix, after, limit } => {
                let (prefix, after) = ((*prefix).to_owned(), after.map(str::to_owned));
                self.found.push(read(&StateRange::Scan { prefix, after, through: None }, *limit));
            }
            Step::Put(key) => {
                let mut hash = DefaultHasher::new();
                (&self.found, key).hash(&mut hash);
                self.writes.insert((*key).to_owned(), Some(hash.finish().to_string().into()));
            }
            Step::Delete(key) => drop(self.writes.insert((*key).to_owned(), None)),
        }
    }
}

/// Entries of a range, as one map has them.
fn entries(of: &Entries, range: &StateRange, limit: usize) -> Vec<(String, Bytes)> {
    let owned = |(key, value): (&String, &Bytes)| (key.clone(), value.clone());
    match range {
        StateRange::Key(key) => of.get_key_value(key).map(owned).into_iter().collect(),
        StateRange::Scan { prefix, after, .. } => of
            .range::<str, _>((scan_start(prefix, after.as_deref()), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix.as_str()))
            .take(limit)
            .map(owned)
            .collect(),
    }
}

/// A call under way.
struct Call {
    program: Program,
    next: usize,
    trace: Trace,
    reads: Vec<StateRead>,
    pin: Option<TxnNumber>,
}

impl Call {
    fn new(program: Program) -> Self {
        Self { program, next: 0, trace: Trace::default(), reads: Vec::new(), pin: None }
    }
}

/// The sequencer with a disk behind it.
struct Bus {
    sequencer: Sequencer,
    disk: BTreeMap<Arc<str>, Entries>,
    /// Groups that are on their way to the disk, oldest first.
    writing: VecDeque<Group>,
}

impl Bus {
    /// As the log reads: what is sequenced, then what is synced.
    fn read(&self, consumer: &str, range: &StateRange, limit: usize) -> Vec<(String, Bytes)> {
        let mut seen = self.disk.get(consumer).cloned().unwrap_or_default();
        let sequenced = match range {
            StateRange::Key(key) => {
                self.sequencer.state(consumer, key).into_iter().map(|value| (key.as_str().into(), value)).collect()
            }
            StateRange::Scan { prefix, after, .. } => {
                self.sequencer.state_range(consumer, prefix, after.as_deref(), limit)
            }
        };
        for (key, value) in sequenced {
            match value {
                Some(value) => seen.insert(key.to_string(), value),
                None => seen.remove(&*key),
            };
        }
        entries(&seen, range, limit)
    }

    /// The next step of a call.
    fn step(&mut self, call: &mut Call) {
        if call.pin.is_none() {
            call.pin = Some(self.sequencer.pin());
        }
        let consumer: Arc<str> = call.program.consumer.into();
        let (bus, reads) = (&*self, &mut call.reads);
        call.trace.step(&call.program.steps[call.next], |range, limit| {
            let found = bus.read(&consumer, range, limit);
            let mut range = range.clone();
            if let StateRange::Scan { through, .. } = &mut range {
                // A scan that was cut short has seen nothing of what comes after its last entry.
                *through = found.last().filter(|_| found.len() >= limit).map(|(key, _)| key.clone());
            }
            reads.push(StateRead { consumer: consumer.clone(), range, seen: bus.sequencer.last_txn() });
            found
        });
        call.next += 1;
    }

    /// The end of a call: whether it was sequenced, or has to run again.
    fn commit(&mut self, call: &mut Call) -> bool {
        let consumer: Arc<str> = call.program.consumer.into();
        let writes = call.trace.writes.iter().filter(|_| !call.program.fails);
        let writes = writes
            .map(|(key, value)| StateWrite { consumer: consumer.clone(), key: key.clone(), value: value.clone() })
            .collect();
        let result = self.sequencer.commit(Txn { reads: take(&mut call.reads), writes, ..Txn::default() }, None, None);
        self.sequencer.unpin(call.pin.take().expect("a call has at least one step"));
        match result {
            Ok(_) => true,
            Err(CommitError::Conflict { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// The writer takes a group, or the oldest one becomes durable.
    fn write(&mut self, random: &mut Rng) {
        if random.bool() {
            self.writing.extend(self.sequencer.take_group());
        } else if let Some(group) = self.writing.pop_front() {
            for ((consumer, key), value) in group.state {
                let entries = self.disk.entry(consumer).or_default();
                match value {
                    Some(value) => entries.insert(key.to_string(), value),
                    None => entries.remove(&*key),
                };
            }
            self.sequencer.synced(group.last, group.bytes, &group.state_growth, Vec::new());
        }
    }
}

/// How many calls had to run again, of those that succeeded and of those that failed.
#[derive(Default)]
struct Reruns {
    succeeded: u64,
    failed: u64,
}

/// Runs calls side by side, and then, in the order in which they were committed, one after another.
fn history(seed: u64, reruns: &mut Reruns) {
    let mut random = Rng::with_seed(seed);
    let mut bus = Bus {
        sequencer: Sequencer::new(Recovered { next_subscription: 1, ..Recovered::default() }, BOUNDS),
        disk: BTreeMap::new(),
        writing: VecDeque::new(),
    };
    let mut under_way: Vec<Call> = (0..AT_ONCE).map(|_| Call::new(Program::random(&mut random))).collect();
    let mut committed: Vec<(Program, Trace)> = Vec::new();
    while committed.len() < CALLS {
        if random.u32(..4) == 0 {
            bus.write(&mut random);
        }
        let call = &mut under_way[random.usize(..AT_ONCE)];
        if call.next < call.program.steps.len() {
            bus.step(call);
        } else if bus.commit(call) {
            let call = std::mem::replace(call, Call::new(Program::random(&mut random)));
            committed.push((call.program, call.trace));
        } else {
            let again = if call.program.fails { &mut reruns.failed } else { &mut reruns.succeeded };
            *again += 1;
            *call = Call::new(call.program.clone());
        }
    }

    let mut serial: BTreeMap<&str, Entries> = BTreeMap::new();
    for (place, (program, trace)) in committed.iter().enumerate() {
        let state = serial.entry(program.consumer).or_default();
        let mut alone = Trace::default();
        for step in &program.steps {
            alone.step(step, |range, limit| entries(state, range, limit));
        }
        assert_eq!(*trace, alone, "seed {seed}: call {place} could not have read this at its place: {program:?}");
        for (key, value) in alone.writes.into_iter().filter(|_| !program.fails) {
            match value {
                Some(value) => state.insert(key, value),
                None => state.remove(&key),
            };
        }
    }
    let all = StateRange::Scan { prefix: String::new(), after: None, through: None };
    for consumer in CONSUMERS {
        let expected: Vec<_> = serial.remove(consumer).unwrap_or_default().into_iter().collect();
        assert_eq!(bus.read(consumer, &all, usize::MAX), expected, "seed {seed}: the state of {consumer}");
    }
}

#[test]
fn calls_side_by_side_are_as_if_one_after_another() {
    let mut reruns = Reruns::default();
    for seed in 0..SEEDS {
        history(seed, &mut reruns);
    }
    // Without conflicts there was nothing to find.
    let calls = SEEDS * CALLS as u64;
    assert!(reruns.succeeded > calls / 20 && reruns.failed > calls / 100, "{} {}", reruns.succeeded, reruns.failed);
}
