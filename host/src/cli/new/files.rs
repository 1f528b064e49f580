//! What the binary carries: templates and SDKs, from the folder `sdk`.

use super::Language;

pub(super) struct File {
    /// In the project, or in its folder `sandpost`. `{{name}}` stands for the consumer's name.
    pub(super) path: &'static str,
    pub(super) text: &'static str,
}

macro_rules! files {
    ($folder:literal: $($path:literal),+ $(,)?) => {
        &[$(File { path: $path, text: include_str!(concat!("../../../../sdk/", $folder, $path)) }),+]
    };
}

/// What every project has.
pub(super) const COMMON: &[File] = files!["template/": "events/order.json"];

pub(super) fn template(language: Language) -> &'static [File] {
    match language {
        Language::Rust => files!["rust/template/":
            "Cargo.toml", "Makefile", "README.md", "gitignore", "src/lib.rs", "tests/consumer.rs", "{{name}}.toml"],
        Language::Js => files!["js/template/":
            "README.md", "gitignore", "package.json", "src/consumer.js", "src/main.js", "test/consumer.test.js", "{{name}}.toml"],
        Language::Ts => files!["ts/template/":
            "README.md", "gitignore", "package.json", "src/consumer.ts", "src/main.ts", "test/consumer.test.ts", "tsconfig.json",
            "{{name}}.toml"],
        Language::Python => files!["python/template/":
            "Makefile", "README.md", "gitignore", "requirements.txt", "src/handler.py", "tests/test_consumer.py",
            "{{name}}.toml"],
        Language::Go => files!["go/template/":
            "Makefile", "README.md", "gitignore", "go.mod", "handle.go", "handle_test.go", "main.go", "{{name}}.toml"],
        Language::C => files!["c/template/":
            "Makefile", "README.md", "gitignore", "src/consumer.c", "src/consumer.h", "src/main.c", "src/test.c", "{{name}}.toml"],
        Language::Zig => {
            files!["zig/template/": "Makefile", "README.md", "gitignore", "src/consumer.zig", "{{name}}.toml"]
        }
        Language::AssemblyScript => files!["assemblyscript/template/":
            "README.md", "gitignore", "package.json", "src/consumer.ts", "src/main.ts", "test/consumer.test.js", "{{name}}.toml"],
        Language::Wat => files!["wat/template/": "README.md", "gitignore", "test.sh", "{{name}}.toml", "{{name}}.wat"],
        Language::Command => files!["command/template/":
            "Makefile", "README.md", "gitignore", "go.mod", "main.go", "main_test.go", "{{name}}.toml"],
    }
}

/// What goes into the project's folder `sandpost`.
pub(super) fn sdk(language: Language) -> &'static [&'static [File]] {
    const WIT: &[File] = files!["": "wit/consumer.wit"];
    const HTTP_WIT: &[File] = files!["": "wit/http.wit", "wit/deps/clocks.wit", "wit/deps/http.wit", "wit/deps/io.wit"];
    const RUST: &[File] = files!["":
        "src/bus.rs", "src/event.rs", "src/failure.rs", "src/handler.rs", "src/http.rs", "src/http/redirect.rs", "src/lib.rs",
        "src/message.rs", "src/state.rs", "src/testing.rs", "src/testing/call.rs", "src/testing/outside.rs", "src/wasm.rs",
        "src/wasm/http.rs"];
    const JS: &[File] = files!["js/":
        "component.d.ts", "component.js", "package.json", "sandpost.d.ts", "sandpost.js", "testing.d.ts", "testing.js", "utf8.js"];
    const PYTHON: &[File] =
        files!["python/": "sandpost/__init__.py", "sandpost/_component.py", "sandpost/py.typed", "sandpost/testing.py"];
    const GO: &[File] = files!["go/": "go.mod", "sandpost.go", "testing.go", "wasm.go"];
    const C: &[File] = files!["c/": "sandpost.h"];
    const ZIG: &[File] = files!["zig/": "sandpost.zig"];
    const ASSEMBLYSCRIPT: &[File] = files!["assemblyscript/": "sandpost.ts", "testing.js"];
    match language {
        Language::Rust => &[RUST, WIT, HTTP_WIT],
        Language::Js | Language::Ts => &[JS, WIT],
        Language::Python => &[PYTHON, WIT],
        Language::Go => &[GO],
        Language::C => &[C],
        Language::Zig => &[ZIG],
        Language::AssemblyScript => &[ASSEMBLYSCRIPT],
        Language::Wat | Language::Command => &[],
    }
}

/// The Rust SDK's manifest outside of our workspace: what it takes from there stands in it.
pub(super) fn standalone_manifest() -> String {
    let parsed = |text: &str| text.parse::<toml::Table>().expect("our own manifests are TOML");
    let workspace = parsed(include_str!("../../../../Cargo.toml"));
    let mut manifest = parsed(include_str!("../../../../sdk/Cargo.toml"));
    let inherited = |section: &str, name: &str| workspace["workspace"][section][name].clone();
    let is_inherited = |value: &toml::Value| value.get("workspace").is_some();
    for (name, value) in manifest["package"].as_table_mut().expect("a package is a table") {
        if is_inherited(value) {
            *value = inherited("package", name);
        }
    }
    let inherit = |dependencies: &mut toml::Value| {
        for (name, value) in dependencies.as_table_mut().expect("dependencies are a table") {
            if is_inherited(value) {
                *value = match inherited("dependencies", name) {
                    toml::Value::String(version) => {
                        toml::Value::Table(toml::Table::from_iter([("version".to_owned(), version.into())]))
                    }
                    table => table,
                };
            }
        }
    };
    inherit(&mut manifest["dependencies"]);
    for target in manifest["target"].as_table_mut().expect("targets are a table").iter_mut() {
        inherit(&mut target.1["dependencies"]);
    }
    // Our lints are for us.
    manifest.remove("lints");
    manifest.to_string()
}
