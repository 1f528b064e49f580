//! What is no consumer, and what is said of it.

use super::kinds::module;
use super::*;

#[test]
fn what_is_no_consumer_is_refused_by_name() {
    let bench = Bench::new();
    let refusal = |bytes: &[u8]| bench.sandbox.load("test", bytes).map(|_| ()).unwrap_err();
    let of_wat = |wat: &str| refusal(&wat::parse_str(wat).unwrap());
    assert_eq!(refusal(b""), LoadError::Empty);
    assert_eq!(refusal(b"#!/bin/sh\n"), LoadError::NotWasm { begins: "23 21 2f 62 69 6e 2f 73".to_owned() });
    assert!(matches!(refusal(b" (component (frob))"), LoadError::Text { error } if error.contains("frob")));
    assert!(matches!(of_wat("(module)"), LoadError::NoEntry { .. }));
    assert!(matches!(refusal(b"\0asm\x0d\0\x01\0rubbish"), LoadError::Invalid { .. }));
    let cut = wat::parse_str(SCRIPT).unwrap();
    assert!(matches!(refusal(&cut[..cut.len() / 2]), LoadError::Invalid { .. }));

    let unknown = r#"(component (import "wasi:keyvalue/store@0.2.0" (instance)) (import "surprise" (func)))"#;
    let error = of_wat(unknown);
    assert_eq!(
        error,
        LoadError::Import { imports: vec!["wasi:keyvalue/store@0.2.0".to_owned(), "surprise".to_owned()] }
    );
    assert!(error.to_string().contains("`wasi:keyvalue/store@0.2.0`, `surprise`"), "{error}");
    assert!(error.to_string().contains("sandpost:consumer/bus@0.1.0"), "{error}");
    let other_shape = r#"(component (import "sandpost:consumer/config@0.1.0" (instance
        (export "get" (func (param "name" u32) (result (option string)))))))"#;
    assert!(matches!(of_wat(other_shape), LoadError::ImportMismatch { .. }));

    assert_eq!(of_wat("(component)"), LoadError::NoHandle { exports: Vec::new() });
    let other_export =
        SCRIPT.replace(r#"(func (export "handle") (param "message""#, r#"(func (export "run") (param "message""#);
    assert_eq!(of_wat(&other_export), LoadError::NoHandle { exports: vec!["run".to_owned()] });
    let other_handle = r#"(component
        (core module $m (func (export "handle") (param i32) (result i32) unreachable))
        (core instance $m (instantiate $m))
        (func (export "handle") (param "number" u32) (result u32) (canon lift (core func $m "handle"))))"#;
    assert_eq!(of_wat(other_handle), LoadError::WrongHandle { found: "func(u32) -> u32".to_owned() });
    let other_field = SCRIPT.replace(r#"(field "redrives" u32)"#, r#"(field "redrives" s32)"#);
    let LoadError::WrongHandle { found } = of_wat(&other_field) else { panic!() };
    assert!(found.contains("redrives: s32"), "{found}");

    let mut bomb = r#"(component (type $t0 (tuple string string))"#.to_owned();
    for level in 1..16 {
        let _ = write!(bomb, "(type $t{level} (tuple $t{} $t{}))", level - 1, level - 1);
    }
    bomb += r#"(core module $m (memory (export "m") 1)
            (func (export "r") (param i32 i32 i32 i32) (result i32) unreachable)
            (func (export "handle") (param i32) unreachable))
        (core instance $m (instantiate $m))
        (func (export "handle") (param "bomb" $t15)
            (canon lift (core func $m "handle") (memory (core memory $m "m")) (realloc (core func $m "r")))))"#;
    let LoadError::WrongHandle { found } = of_wat(&bomb) else { panic!() };
    assert!(found.len() < 3_000 && found.ends_with(" ..."), "{}", found.len());
}

#[test]
fn asynchronous_exports_are_refused_with_what_to_build_instead() {
    let bench = Bench::new();
    let component = r#"(component
        (core func $return (canon task.return (result u32)))
        (core module $m (import "" "return" (func (param i32))) (func (export "handle") (call 0 (i32.const 1)))
            (memory (export "memory") 1))
        (core instance $m (instantiate $m (with "" (instance (export "return" (func $return))))))
        (func (export "handle") async (result u32) (canon lift (core func $m "handle") async)))"#;
    let error = bench.sandbox.load("test", component.as_bytes()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("`--sync`"), "{error}");
}

#[test]
fn an_error_in_text_has_its_line_and_not_the_whole_file() {
    let bench = Bench::new();
    let refusal = |wat: &str| bench.sandbox.load("test", wat.as_bytes()).map(|_| ()).unwrap_err().to_string();
    let error = refusal("(module\n  (nonsense))");
    assert!(error.contains("--> line 2:4") && error.contains("(nonsense))"), "{error}");
    let error = refusal(&"(".repeat(1_000_000));
    assert!(error.len() < 1_000 && error.contains("(((( ..."), "{} bytes: {error:.300}", error.len());
}

#[test]
fn another_platforms_handler_in_another_form_is_refused_with_what_was_found() {
    let bench = Bench::new();
    let refusal = |name: &str, function: &str| {
        let wat = format!(
            r#"(component
                (core module $m (func (export "f") (param i32) (result i32) unreachable))
                (core instance $m (instantiate $m))
                (func $f (param "n" u32) (result u32) (canon lift (core func $m "f")))
                (instance $i (export "{function}" (func $f)))
                (export "{name}" (instance $i)))"#
        );
        bench.sandbox.load("test", wat.as_bytes()).map(|_| ()).unwrap_err().to_string()
    };
    let text = refusal("wasmcloud:messaging/handler@0.2.0", "handle-message");
    assert!(text.contains("found `func(u32) -> u32`") && text.contains("reply-to: option<string>"), "{text}");
    let text = refusal("wasmcloud:messaging/handler@0.3.0", "handle-message");
    assert!(text.contains("this bus has wasmcloud:messaging/handler@0.2.0"), "{text}");
    let text = refusal("wasi:messaging/incoming-handler@0.2.0-draft", "handle");
    assert!(text.contains("permission-denied(string)"), "{text}");
    let text = refusal("fermyon:spin/inbound-redis", "other");
    assert!(text.contains("no such function"), "{text}");
}

#[test]
fn what_a_toolchain_left_out_is_named() {
    let bench = Bench::new();
    let refusal = |wat: &str| bench.sandbox.load("test", wat.as_bytes()).map(|_| ()).unwrap_err();
    let LoadError::Wrap { error } =
        refusal(&module("", "(i32.const 64)").replace("(param i32) (result i32) (i32", "(result i32) (i32"))
    else {
        panic!()
    };
    assert!(error.contains("handle"), "{error}");
    let wrong_import = module(r#"(import "sandpost:consumer/state@0.1.0" "put" (func (param i32)))"#, "(i32.const 64)");
    let LoadError::Wrap { error } = refusal(&wrong_import) else { panic!() };
    assert!(error.contains("put"), "{error}");
    let other_version =
        module(r#"(import "sandpost:consumer/state@0.2.0" "get" (func (param i32)))"#, "(i32.const 64)");
    let error = refusal(&other_version).to_string();
    assert!(error.contains("state@0.2.0") && error.contains("this bus has"), "{error}");
}
