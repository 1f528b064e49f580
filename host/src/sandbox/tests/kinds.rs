//! Consumers of each kind, written as text.

use super::*;
use crate::policy::{CommandPolicy, Stdout};

/// A core module whose `handle` is this.
pub(super) fn module(imports: &str, handle: &str) -> String {
    format!(
        r#"(module {imports} (memory (export "memory") 1)
            (global $free (mut i32) (i32.const 4096))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (global.get $free)
                (global.set $free (i32.and (i32.add (i32.add (global.get $free) (local.get 3)) (i32.const 7)) (i32.const -8))))
            (func (export "handle") (param i32) (result i32) {handle}))"#
    )
}

#[test]
fn a_core_module_is_a_consumer_as_text_and_as_binary() {
    let bench = Bench::new();
    let acks = module("", "(i32.const 64)");
    let text = bench.sandbox.load("test", acks.as_bytes()).unwrap();
    let binary = bench.sandbox.load("test", &wat::parse_str(&acks).unwrap()).unwrap();
    assert_eq!((text.kind(), binary.kind()), (Kind::Module, Kind::Module));
    // Its digest is that of the file as it lies there.
    assert_ne!(text.digest(), binary.digest());
    for consumer in [acks.clone().into_bytes(), wat::parse_str(&acks).unwrap()] {
        assert_eq!(bench.handle(&Manifest::default(), &consumer, b"").outcome, Outcome::Acked);
    }
    // A reject with the message's own data as its reason: the list's pointer stands at 88, its length at 92.
    let rejects = module(
        "",
        "(i32.store8 (i32.const 64) (i32.const 1)) (i32.store8 (i32.const 72) (i32.const 1))
         (i32.store (i32.const 80) (i32.load offset=88 (local.get 0)))
         (i32.store (i32.const 84) (i32.load offset=92 (local.get 0)))
         (i32.const 64)",
    );
    let outcome = bench.handle(&Manifest::default(), rejects.as_bytes(), "gr\u{fc}n".as_bytes()).outcome;
    assert_eq!(outcome, Outcome::Reject { reason: "gr\u{fc}n".to_owned() });
}

#[test]
fn a_wrapped_module_has_clocks_random_numbers_and_output_and_no_more() {
    let bench = Bench::new();
    let imports = r#"
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ (param i32 i32) (result i32)))
        (data (i32.const 0) "10 bytes, ") (data (i32.const 16) "\00\00\00\00\0a\00\00\00")"#;
    let handle = r#"
        (if (i32.ne (call $prestat (i32.const 3) (i32.const 100)) (i32.const 8)) (then unreachable))
        (if (call $clock (i32.const 0) (i64.const 0) (i32.const 104)) (then unreachable))
        (if (i64.lt_u (i64.load (i32.const 104)) (i64.const 1700000000000000000)) (then unreachable))
        (if (call $random (i32.const 201) (i32.const 19)) (then unreachable))
        (if (i64.eqz (i64.or (i64.load (i32.const 204)) (i64.load (i32.const 212)))) (then unreachable))
        (if (i32.load8_u (i32.const 220)) (then unreachable))
        (if (call $environ (i32.const 240) (i32.const 244)) (then unreachable))
        (if (i32.load (i32.const 240)) (then unreachable))
        (if (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 24)) (then unreachable))
        (if (i32.ne (i32.load (i32.const 24)) (i32.const 10)) (then unreachable))
        (if (i32.ne (call $write (i32.const 3) (i32.const 16) (i32.const 1) (i32.const 24)) (i32.const 8)) (then unreachable))
        (i32.div_u (i32.const 1) (i32.const 0))"#;
    let called = bench.handle(&Manifest::default(), module(imports, handle).as_bytes(), b"");
    let Outcome::Trapped { report } = called.outcome else { panic!("{:?}", called.outcome) };
    assert!(report.contains("divide by zero") && report.contains("the guest printed:\n10 bytes,"), "{report}");
}

#[test]
fn an_exit_code_and_an_abort_arrive_as_they_are() {
    let bench = Bench::new();
    let exits = module(
        r#"(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#,
        "(call $exit (i32.const 3)) unreachable",
    );
    let outcome = bench.handle(&Manifest::default(), exits.as_bytes(), b"").outcome;
    assert!(matches!(outcome, Outcome::Exited { code: 3, .. }), "{outcome:?}");
    let aborts = module(
        r#"(import "env" "abort" (func $abort (param i32 i32 i32 i32))) (data (i32.const 12) "\04\00\00\00n\00o\00")"#,
        "(call $abort (i32.const 16) (i32.const 0) (i32.const 7) (i32.const 9)) unreachable",
    );
    let outcome = bench.handle(&Manifest::default(), aborts.as_bytes(), b"").outcome;
    let Outcome::Trapped { report } = &outcome else { panic!("{outcome:?}") };
    assert!(report.contains("abort: no"), "{report}");
}

/// Prints its stdin on stdout and its environment and arguments on stderr, and exits with the code that its stdin begins
/// with, as one character: `0` is 0, and `{` is 75.
const COMMAND: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 4)
    (func $print (param $file i32) (param $at i32) (param $bytes i32)
        (i32.store (i32.const 0) (local.get $at))
        (i32.store (i32.const 4) (local.get $bytes))
        (drop (call $write (local.get $file) (i32.const 0) (i32.const 1) (i32.const 12))))
    (func (export "_start")
        ;; two pieces of three bytes, and then one of all the rest
        (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 3))
        (i32.store (i32.const 8) (i32.const 65539)) (i32.store (i32.const 12) (i32.const 3))
        (if (call $read (i32.const 0) (i32.const 0) (i32.const 2) (i32.const 16)) (then unreachable))
        (if (i32.ne (i32.load (i32.const 16)) (i32.const 6)) (then unreachable))
        (if (i32.ne (i32.load (i32.const 8)) (i32.const 65539)) (then unreachable))
        (i32.store (i32.const 0) (i32.const 65542)) (i32.store (i32.const 4) (i32.const 60000))
        (if (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 20)) (then unreachable))
        (call $print (i32.const 1) (i32.const 65536) (i32.add (i32.const 6) (i32.load (i32.const 20))))
        (drop (call $args_sizes (i32.const 40) (i32.const 44)))
        (drop (call $args (i32.const 64) (i32.const 1024)))
        (call $print (i32.const 2) (i32.load (i32.const 68)) (i32.const 4))
        (drop (call $sizes (i32.const 32) (i32.const 36)))
        (drop (call $environ (i32.const 2048) (i32.const 4096)))
        ;; all but the last variable, whose text follows the others
        (call $print (i32.const 2) (i32.load (i32.const 2048))
            (i32.sub
                (i32.load (i32.add (i32.const 2048) (i32.shl (i32.sub (i32.load (i32.const 32)) (i32.const 1)) (i32.const 2))))
                (i32.const 4096)))
        (call $exit (i32.sub (i32.load8_u (i32.const 65536)) (i32.const 48)))))"#;

fn command(stdout: Stdout) -> Manifest {
    Manifest {
        publish: vec![TopicFilter::parse("out.*").unwrap()],
        config: BTreeMap::from([("LAST".to_owned(), "of all".to_owned())]),
        command: Some(CommandPolicy { args: vec!["-v".to_owned()], stdout }),
        ..Manifest::default()
    }
}

#[test]
fn a_command_is_a_process_for_each_message() {
    let bench = Bench::new();
    let component = bench.sandbox.load("test", COMMAND.as_bytes()).unwrap();
    assert_eq!(component.kind(), Kind::Command);
    let run = |stdout: Stdout, data: &[u8]| bench.handle(&command(stdout), COMMAND.as_bytes(), data);
    assert_eq!(run(Stdout::Log, b"0 is well").outcome, Outcome::Acked);
    let Outcome::Reject { reason } = run(Stdout::Log, b"1 is not").outcome else { panic!() };
    assert!(reason.starts_with("-v"), "{reason:?}");
    for variable in
        ["SANDPOST_TOPIC=order.placed\0", "SANDPOST_KEY=key\0", "SANDPOST_ATTRIBUTE_TIME=2026", "SANDPOST_ATTEMPT=1\0"]
    {
        assert!(reason.contains(variable), "{variable} is not in {reason:?}");
    }
    assert!(matches!(run(Stdout::Log, b"{ is 75").outcome, Outcome::Retry { .. }));

    let publish = |topic: &str| Stdout::Publish { topic: TopicName::client(topic).unwrap(), content_type: None };
    let called = run(publish("out.lines"), b"0 one\ntwo\r\n\nthree");
    assert_eq!(called.outcome, Outcome::Acked);
    let lines: Vec<_> = called.effects.publishes.iter().map(|event| &event.data[..]).collect();
    assert_eq!(lines, [&b"0 one"[..], b"two", b"three"]);
    assert!(called.effects.publishes.iter().all(|event| event.key.as_deref() == Some("key")));
    assert!(run(publish("out.lines"), b"1 one\ntwo").effects.publishes.is_empty());
    let Outcome::Retry { reason, .. } = run(publish("elsewhere"), b"0 one\ntwo").outcome else { panic!() };
    assert!(reason.contains("line 1") && reason.contains("elsewhere"), "{reason}");
}
