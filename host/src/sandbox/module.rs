//! What a core module brings, and whether it can be wrapped: told before it is tried, so that the answer can speak of
//! the language that the module was written in.

use std::collections::BTreeMap;

use wasmparser::{ExternalKind, KnownCustom, Parser, Payload, TypeRef};

use super::load::LoadError;

/// The export of a WASI command.
const START: &str = "_start";
const HANDLE: &str = "handle";
const PREVIEW1: &str = "wasi_snapshot_preview1";
/// What the contract has for modules.
const CONTRACT: [&str; 4] = [
    "sandpost:consumer/bus@0.1.0",
    "sandpost:consumer/state@0.1.0",
    "sandpost:consumer/config@0.1.0",
    "sandpost:consumer/log@0.1.0",
];
/// More names than this help nobody, and a hostile module has millions.
const NAMES_TOLD_MAX: usize = 20;

/// How a core module is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// By `handle`, or by whatever the world that it carries exports.
    Reactor {
        /// Whether it says itself, in a `component-type` section, which world it is of.
        carries_world: bool,
    },
    /// By `_start`.
    Command,
}

/// Languages whose toolchains leave something to know them by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    AssemblyScript,
    C,
    Go,
    Rust,
    Zig,
    Unknown,
}

struct Facts {
    /// Functions by module and name.
    imports: Vec<(String, String)>,
    exports: BTreeMap<String, ExternalKind>,
    carries_world: bool,
    language: Language,
}

/// Says how a module is to be run, or why it cannot be.
pub(super) fn form(module: &[u8]) -> Result<Form, LoadError> {
    let facts = Facts::read(module).map_err(|error| LoadError::Invalid { error: error.to_string() })?;
    if facts.carries_world {
        return Ok(Form::Reactor { carries_world: true });
    }
    let is_function = |name: &str| facts.exports.get(name) == Some(&ExternalKind::Func);
    let form = match (is_function(HANDLE), is_function(START)) {
        (true, _) => Form::Reactor { carries_world: false },
        (false, true) => Form::Command,
        (false, false) => {
            let (exports, hint) = (facts.exports.into_keys().take(NAMES_TOLD_MAX).collect(), facts.language.of_entry());
            return Err(LoadError::NoEntry { exports, hint });
        }
    };
    let needed: &[(&'static str, ExternalKind)] = match form {
        Form::Reactor { .. } => &[("memory", ExternalKind::Memory), ("cabi_realloc", ExternalKind::Func)],
        Form::Command => &[("memory", ExternalKind::Memory)],
    };
    for &(name, kind) in needed {
        if facts.exports.get(name) != Some(&kind) {
            return Err(LoadError::MissingExport { name, hint: facts.language.of_export(name) });
        }
    }
    let provided = |module: &str, name: &str| {
        module == PREVIEW1
            || (module == "env" && name == "abort")
            || (form != Form::Command && CONTRACT.contains(&module))
    };
    let unknown: Vec<_> = facts.imports.iter().filter(|(module, name)| !provided(module, name)).collect();
    if let Some((module, name)) = unknown.first() {
        let hint = facts.language.of_import(module, name, form);
        let imports = unknown.iter().take(NAMES_TOLD_MAX).map(|(module, name)| format!("{module} {name}")).collect();
        return Err(LoadError::ModuleImport { imports, hint });
    }
    Ok(form)
}

impl Facts {
    fn read(module: &[u8]) -> Result<Self, wasmparser::BinaryReaderError> {
        let mut facts =
            Self { imports: Vec::new(), exports: BTreeMap::new(), carries_world: false, language: Language::Unknown };
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import?;
                        if matches!(import.ty, TypeRef::Func(_)) {
                            facts.imports.push((import.module.to_owned(), import.name.to_owned()));
                        }
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export?;
                        facts.exports.insert(export.name.to_owned(), export.kind);
                    }
                }
                Payload::CustomSection(section) => {
                    facts.carries_world |= section.name().starts_with("component-type");
                    if section.name() == "go:buildid" {
                        facts.language = Language::Go;
                    }
                    if let KnownCustom::Producers(fields) = section.as_known() {
                        facts.producers(fields)?;
                    }
                }
                _ => {}
            }
        }
        if facts.imports.iter().any(|(module, name)| module == "env" && name == "abort") {
            facts.language = Language::AssemblyScript;
        }
        Ok(facts)
    }

    fn producers(
        &mut self,
        fields: wasmparser::ProducersSectionReader<'_>,
    ) -> Result<(), wasmparser::BinaryReaderError> {
        for field in fields {
            for value in field?.values {
                let language = match value?.name {
                    "Go" => Language::Go,
                    "Rust" | "rustc" => Language::Rust,
                    "Zig" | "zig" => Language::Zig,
                    // The compiler behind several languages is named beside theirs.
                    "C11" | "clang" | "Debian clang" | "C_plus_plus_14" if self.language == Language::Unknown => {
                        Language::C
                    }
                    _ => continue,
                };
                self.language = language;
            }
        }
        Ok(())
    }
}

impl Language {
    /// What to do where neither `handle` nor `_start` is exported.
    fn of_entry(self) -> &'static str {
        match self {
            Self::AssemblyScript => "write `export function handle(message: usize): usize`, or use the SDK's file",
            Self::C => {
                "export the function: `__attribute__((export_name(\"handle\")))`; a program with `main` is built \
                 without `-mexec-model=reactor` and without `-nostartfiles`"
            }
            Self::Go => {
                "export the function with `//go:wasmexport handle`, and build with `-buildmode=c-shared`; a program \
                 with `main` is built without it"
            }
            Self::Rust => {
                "build for the target wasm32-wasip2, with `crate-type = [\"cdylib\"]` and `consumer!(handle)`"
            }
            Self::Zig => "write `export fn handle`, and build with `-fno-entry -rdynamic`",
            Self::Unknown => "a consumer exports `handle`, `memory` and `cabi_realloc`; a command exports `_start`",
        }
    }

    fn of_export(self, name: &str) -> &'static str {
        match (self, name) {
            (_, "memory") => "the module's memory must be exported under this name",
            (Self::AssemblyScript, _) => {
                "the bus puts messages where it says: `export function cabi_realloc(old: usize, oldSize: usize, align: \
                 usize, size: usize): usize`, which the SDK's file has"
            }
            (Self::C, _) => {
                "the bus puts messages where it says: \
                 `__attribute__((export_name(\"cabi_realloc\"))) void *cabi_realloc(void *, size_t, size_t, size_t)`, which \
                 the SDK's header has"
            }
            (Self::Go, _) => {
                "the bus puts messages where it says; import the SDK's package, which exports it with \
                 `//go:wasmexport cabi_realloc`"
            }
            (Self::Rust, _) => "build for the target wasm32-wasip2 with the SDK, which has it",
            (Self::Zig, _) => {
                "the bus puts messages where it says: `export fn cabi_realloc`, which the SDK's file has, and build with \
                 `-rdynamic`"
            }
            (Self::Unknown, _) => {
                "the bus puts messages where this function says: (old pointer, old size, alignment, size) -> pointer"
            }
        }
    }

    fn of_import(self, module: &str, name: &str, form: Form) -> &'static str {
        if module.starts_with("__wbindgen") || module.starts_with("wbg") {
            return "it was built for JavaScript by wasm-bindgen; build for the target wasm32-wasip2, without wasm-bindgen";
        }
        if module == "go" || module == "gojs" {
            return "it was built for browsers (GOOS=js); build with GOOS=wasip1";
        }
        if module.starts_with("sandpost:consumer/") && form == Form::Command {
            return "a command reads stdin and its environment, and prints; for state, publishing and configuration export \
                    `handle` in place of `_start`";
        }
        if module.starts_with("sandpost:consumer/") {
            return "this bus has bus, state, config and log of sandpost:consumer@0.1.0: build it with the SDK of this version";
        }
        if module == "wasi_unstable" {
            return "it was built for an older WASI; build it with a toolchain for preview 1";
        }
        match (self, module) {
            (Self::AssemblyScript, "env") if name == "trace" || name.starts_with("console.") => {
                "there is no console: `bus.info` and the like write to the bus's log"
            }
            (Self::AssemblyScript, "env") if name == "seed" || name.ends_with(".now") => {
                "the language's own clock and random numbers are a browser's: declare `clock_time_get` or `random_get` with \
                 `@external(\"wasi_snapshot_preview1\", ...)`, or use the times of the message and the delivery"
            }
            (Self::AssemblyScript, _) => {
                "declare what is imported from the bus with `@external(\"sandpost:consumer/...@0.1.0\", ...)`"
            }
            (Self::Rust, _) => "build for the target wasm32-wasip2 with the SDK",
            (Self::C | Self::Zig, "env") => {
                "a function is declared and never defined, so the linker made it an import: define it, or leave out \
                 `--allow-undefined`"
            }
            _ => {
                "a module may import from wasi_snapshot_preview1, and from sandpost:consumer/bus@0.1.0, state, config and log"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(wat: &str) -> Result<Form, LoadError> {
        form(&wat::parse_str(wat).unwrap())
    }

    const ENTRY: &str = r#"(memory (export "memory") 1) (func (export "handle") (param i32) (result i32) unreachable)"#;
    const REALLOC: &str = r#"(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)"#;

    #[test]
    fn forms_are_told_apart() {
        assert_eq!(of(&format!("(module {ENTRY} {REALLOC})")), Ok(Form::Reactor { carries_world: false }));
        assert_eq!(of(r#"(module (memory (export "memory") 1) (func (export "_start")))"#), Ok(Form::Command));
        let with_world = r#"(module (@custom "component-type:x" "rubbish"))"#;
        assert_eq!(of(with_world), Ok(Form::Reactor { carries_world: true }));
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do_in_that_language() {
        let Err(LoadError::NoEntry { exports, hint }) = of(r#"(module (func (export "run")))"#) else { panic!() };
        assert_eq!(exports, ["run"]);
        assert!(hint.contains("exports `handle`"), "{hint}");
        let Err(LoadError::NoEntry { hint, .. }) = of(r#"(module (@custom "go:buildid" "x"))"#) else { panic!() };
        assert!(hint.contains("-buildmode=c-shared"), "{hint}");
        let Err(LoadError::MissingExport { name, hint }) = of(&format!("(module {ENTRY})")) else { panic!() };
        assert_eq!(name, "cabi_realloc");
        assert!(hint.contains("alignment"), "{hint}");
        let abort = format!(r#"(module (import "env" "abort" (func (param i32 i32 i32 i32))) {ENTRY})"#);
        let Err(LoadError::MissingExport { hint, .. }) = of(&abort) else { panic!() };
        assert!(hint.contains("usize"), "{hint}");
        let no_memory = r#"(module (func (export "_start")))"#;
        assert!(matches!(of(no_memory), Err(LoadError::MissingExport { name: "memory", .. })));
    }

    #[test]
    fn what_nothing_provides_is_named() {
        let with = |import: &str| of(&format!(r#"(module (import {import} (func)) {ENTRY} {REALLOC})"#));
        let Err(LoadError::ModuleImport { imports, hint }) = with(r#""wbg" "throw""#) else { panic!() };
        assert_eq!(imports, ["wbg throw"]);
        assert!(hint.contains("wasm-bindgen"), "{hint}");
        assert!(matches!(with(r#""gojs" "x""#), Err(LoadError::ModuleImport { hint, .. }) if hint.contains("wasip1")));
        assert!(matches!(with(r#""env" "f""#), Err(LoadError::ModuleImport { .. })));
        let other_version = with(r#""sandpost:consumer/state@0.2.0" "get""#);
        assert!(
            matches!(other_version, Err(LoadError::ModuleImport { hint, .. }) if hint.contains("sandpost:consumer@0.1.0"))
        );
        let assembly_script = |name: &str| {
            let abort = r#"(import "env" "abort" (func (param i32 i32 i32 i32)))"#;
            of(&format!(r#"(module {abort} (import "env" "{name}" (func)) {ENTRY} {REALLOC})"#))
        };
        for (name, part) in
            [("console.log", "bus.info"), ("trace", "bus.info"), ("Date.now", "clock"), ("f", "@external")]
        {
            let refusal = assembly_script(name);
            assert!(matches!(refusal, Err(LoadError::ModuleImport { hint, .. }) if hint.contains(part)), "{refusal:?}");
        }
        assert!(with(r#""wasi_snapshot_preview1" "fd_write""#).is_ok());
        assert!(with(r#""sandpost:consumer/state@0.1.0" "get""#).is_ok());
    }
}
