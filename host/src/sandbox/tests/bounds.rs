//! What a guest may take of the host beyond its memory, one test for each resource.

use super::kinds::module;
use super::*;

impl Bench {
    /// Runs a module whose `handle` is this on any message.
    fn outcome_of(&self, imports: &str, handle: &str) -> Outcome {
        self.handle(&Manifest::default(), module(imports, handle).as_bytes(), b"").outcome
    }
}

/// What a trap says; a test's guest traps where a bound did not hold.
#[track_caller]
fn report(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Trapped { report } => report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_table_grows_to_its_bound_and_no_further() {
    let bench = Bench::new();
    let grow = |elements: usize| format!("(table.grow $t (ref.null func) (i32.const {elements}))");
    let table = "(table $t 1 funcref)";
    let most = limits::GUEST_TABLE_ELEMENTS_MAX - 1;
    let handle = format!(
        "(if (i32.ne {} (i32.const -1)) (then unreachable))
         (if (i32.ne {} (i32.const 1)) (then unreachable))
         (if (i32.ne {} (i32.const -1)) (then unreachable)) (i32.const 64)",
        grow(most + 1),
        grow(most),
        grow(1)
    );
    assert_eq!(bench.outcome_of(table, &handle), Outcome::Acked);
    // Several tables have one bound together.
    let two = "(table $t 1 funcref) (table $u 60000 funcref)";
    let handle = format!("(if (i32.ne {} (i32.const -1)) (then unreachable)) (i32.const 64)", grow(60_000));
    assert_eq!(bench.outcome_of(two, &handle), Outcome::Acked);
}

#[test]
fn a_guest_that_begins_with_too_large_a_table_does_not_run() {
    let bench = Bench::new();
    let table = format!("(table {} funcref)", limits::GUEST_TABLE_ELEMENTS_MAX + 1);
    let loaded = bench.sandbox.load("test", module(&table, "(i32.const 64)").as_bytes());
    let error = loaded.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("table"), "{error}");
}

#[test]
fn a_component_of_too_many_parts_is_refused() {
    // With room for more parts than one component may have.
    let folder = tempfile::tempdir().unwrap();
    let options = SandboxOptions { instances_max: 64, ..SandboxOptions::new(folder.path().join("artifacts")) };
    let bench = Bench { sandbox: Sandbox::new(options).unwrap(), folder, ..Bench::new() };
    let load = |consumer: &str| bench.sandbox.load("test", consumer.as_bytes()).map(|_| ());
    let tables = |count: u32| module(&"(table 1 funcref)".repeat(count as usize), "(i32.const 64)");
    assert_eq!(load(&tables(limits::GUEST_TABLES_MAX / 2)), Ok(()));
    let error = load(&tables(limits::GUEST_TABLES_MAX + 1)).unwrap_err().to_string();
    assert!(error.contains("table"), "{error}");
    // Those that the file has already are among them.
    let within = |parts: String| SCRIPT.replacen("(component", &format!("(component {parts}"), 1);
    let memories = |count: u32| {
        within(format!(
            "(core module $many {}) (core instance (instantiate $many))",
            "(memory 1)".repeat(count as usize)
        ))
    };
    assert_eq!(load(&memories(limits::GUEST_MEMORIES_MAX / 2)), Ok(()));
    let error = load(&memories(limits::GUEST_MEMORIES_MAX + 1)).unwrap_err().to_string();
    assert!(error.contains("memor"), "{error}");
    let instances = |count: u32| {
        within(format!("(core module $one) {}", "(core instance (instantiate $one))".repeat(count as usize)))
    };
    assert_eq!(load(&instances(limits::GUEST_CORE_INSTANCES_MAX / 2)), Ok(()));
    let error = load(&instances(limits::GUEST_CORE_INSTANCES_MAX + 1)).unwrap_err().to_string();
    assert!(error.contains("instances"), "{error}");
}

#[test]
fn endless_recursion_ends_in_a_trap_of_the_guest() {
    let bench = Bench::new();
    let called = bench.run(&[(b'X', "")]);
    assert!(report(&called.outcome).contains("call stack exhausted"), "{:?}", called.outcome);
}

#[test]
fn one_call_of_the_host_takes_so_many_bytes_and_no_more() {
    let bench = Bench::new();
    let log = r#"(import "sandpost:consumer/log@0.1.0" "write" (func $log (param i32 i32 i32)))"#;
    // Out of memory that nothing was written to: zeros are text.
    let hand = |bytes: usize| {
        let pages = limits::GUEST_HANDOVER_BYTES_MAX / (64 * limits::KIB) + 1;
        format!(
            "(drop (memory.grow (i32.const {pages})))
             (call $log (i32.const 2) (i32.const 65536) (i32.const {bytes})) (i32.const 64)"
        )
    };
    assert_eq!(bench.outcome_of(log, &hand(limits::GUEST_HANDOVER_BYTES_MAX / 2)), Outcome::Acked);
    let outcome = bench.outcome_of(log, &hand(limits::GUEST_HANDOVER_BYTES_MAX + 1));
    assert!(report(&outcome).contains("fuel"), "{outcome:?}");
}

#[test]
fn resources_of_the_host_are_counted() {
    let bench = Bench::new();
    // As `h` of the script, but so many streams and then on.
    let opening = |streams: usize| {
        let loops = format!(
            "(local.set $count (i32.const {streams}))
             (loop $more (drop (call $stderr)) (br_if $more (local.tee $count (i32.sub (local.get $count) (i32.const 1)))))"
        );
        let script = SCRIPT.replace("(loop $more (drop (call $stderr)) (br $more))", &loops);
        assert_ne!(script, SCRIPT);
        bench.run_in(&bench.program_of(&script), &mut None, &[(b'h', "")]).outcome
    };
    assert_eq!(opening(limits::GUEST_RESOURCES_MAX / 2), Outcome::Acked);
    let outcome = opening(limits::GUEST_RESOURCES_MAX + 1);
    assert!(report(&outcome).contains("resource"), "{outcome:?}");
}

/// The parsers of hostile files do not recurse into them.
#[test]
fn what_is_nested_without_end_is_refused() {
    let bench = Bench::new();
    let refused = |file: &[u8]| bench.sandbox.load("test", file).map(|_| ()).unwrap_err().to_string();
    for open in ["(", "(component ", "(module (func (block ", "(component (type (list "] {
        let error = refused(open.repeat(100_000).as_bytes());
        assert!(!error.is_empty());
    }
    // In binary: a component within a component, from the inside out.
    let mut nested = b"\0asm\x0d\0\x01\0".to_vec();
    for _ in 0..3_000 {
        let mut outer = b"\0asm\x0d\0\x01\0\x04".to_vec();
        let mut length = nested.len();
        while length >= 0x80 {
            outer.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        outer.push(length as u8);
        outer.extend_from_slice(&nested);
        nested = outer;
    }
    assert!(!refused(&nested).is_empty());
    // A function whose blocks lie in each other is code, however deep, and either runs or is refused.
    let depth = 2_000;
    let deep = format!("{}{}(i32.const 64)", "(block ".repeat(depth), ")".repeat(depth));
    if let Ok(binary) = wat::parse_str(module("", &deep)) {
        let _ = bench.sandbox.load("test", &binary);
    }
}
