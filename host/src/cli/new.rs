//! `sandpost new`: a project in a language of one's choice. All of it is in the binary, the SDK too.

mod files;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::failure::Failure;
use super::output::Output;

/// Make a project for a new consumer.
///
/// It has a consumer, its manifest, a test and an event, and it builds, passes its test and deploys as it stands; its
/// README.md says how. The SDK is copied into it, so nothing has to be fetched for it.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sandpost new invoice --lang rust
  sandpost new invoice --lang python --into consumers/invoice")]
pub(super) struct NewArgs {
    /// The consumer's name: small letters, digits and `-`
    #[arg(value_parser = name)]
    name: String,
    /// The language
    #[arg(long = "lang", value_enum)]
    language: Language,
    /// The folder to make; otherwise the name
    #[arg(long, value_name = "FOLDER")]
    into: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Language {
    Rust,
    /// JavaScript
    Js,
    /// TypeScript
    Ts,
    Python,
    Go,
    C,
    Zig,
    #[value(name = "assemblyscript")]
    AssemblyScript,
    /// WebAssembly's text, with nothing to build
    Wat,
    /// A WASI command, in Go: one process for each message
    Command,
}

/// Rust's words, and the packages that a project of ours has beside its own.
const TAKEN: &str = "\
    abstract alloc as async await become box break const continue core crate do dyn else enum extern false final \
    fn for gen if impl in let loop macro main match mod move mut override priv proc-macro pub ref return sandpost \
    sandpost-sdk self serde serde-json static std struct super test trait true try type typeof unsafe unsized use \
    virtual where while wit-bindgen yield";

fn name(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    // What every language's package may be called.
    let good = text.len() <= 50
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(allowed)
        && !text.ends_with('-');
    if !good {
        return Err("a name is up to 50 small letters, digits and `-`, and begins with a letter".to_owned());
    }
    if TAKEN.split_whitespace().any(|taken| taken == text) {
        return Err(format!("`{text}` means something else to a language or to the SDK; add a word to it"));
    }
    Ok(text.to_owned())
}

pub(super) fn run(args: &NewArgs, output: &Output) -> Result<(), Failure> {
    let folder = args.into.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    if fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Failure::Failed(format!("{} is there already, and not empty", folder.display())));
    }
    let files = project(&args.name, args.language);
    for (path, text, executable) in &files {
        write(&folder.join(path), text, *executable)
            .map_err(|error| Failure::Failed(format!("{} cannot be written: {error}", folder.join(path).display())))?;
    }
    let paths: Vec<_> = files.iter().map(|(path, ..)| path).collect();
    let words = format!("{} files are in {}; its README.md says what to do next", files.len(), folder.display());
    output.done(&json!({ "name": args.name, "folder": folder, "files": paths }), &words)
}

fn write(path: &Path, text: &str, executable: bool) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text)?;
    if executable {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Paths with their contents, and whether they are programs.
fn project(name: &str, language: Language) -> Vec<(String, String, bool)> {
    let module = name.replace('-', "_");
    let filled =
        |text: &str| text.replace("{{name}}", name).replace("{{module}}", &module).replace("{{crate}}", &module);
    let template = files::COMMON.iter().chain(files::template(language));
    let mut project: Vec<_> = template
        .map(|file| {
            let path = if file.path == "gitignore" { ".gitignore".to_owned() } else { filled(file.path) };
            (path, filled(file.text), file.text.starts_with("#!"))
        })
        .collect();
    let sdk = files::sdk(language)
        .iter()
        .flat_map(|files| files.iter())
        .map(|file| (format!("sandpost/{}", file.path), file.text.to_owned(), false));
    project.extend(sdk);
    if language == Language::Rust {
        project.push(("sandpost/Cargo.toml".to_owned(), files::standalone_manifest(), false));
    }
    project
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::deploy::manifest;

    #[test]
    fn every_project_has_what_its_readme_speaks_of() {
        for language in Language::value_variants() {
            let project = project("my-consumer", *language);
            let paths: BTreeSet<&str> = project.iter().map(|(path, ..)| path.as_str()).collect();
            assert_eq!(paths.len(), project.len(), "{language:?}");
            for path in ["README.md", ".gitignore", "my-consumer.toml", "events/order.json"] {
                assert!(paths.contains(path), "{language:?}: {path} is not in {paths:?}");
            }
            for (path, text, _) in &project {
                let left = ["{{name}}", "{{module}}", "{{crate}}"]
                    .iter()
                    .any(|hole| text.contains(hole) || path.contains(hole));
                assert!(!left, "{language:?}: {path}");
            }
            let text = &project.iter().find(|(path, ..)| path == "my-consumer.toml").unwrap().1;
            let manifest = manifest::parse("my-consumer", Path::new("my-consumer.toml"), text).unwrap();
            let build = manifest.build.unwrap_or_else(|| panic!("{language:?} has no [build]"));
            // `sandpost dev` builds again when the handler changes.
            let readme = &project.iter().find(|(path, ..)| path == "README.md").unwrap().1;
            if let Some(handler) = readme.split("The handler is in `").nth(1).and_then(|rest| rest.split('`').next()) {
                assert!(paths.contains(handler), "{language:?}: {handler} is not in {paths:?}");
                let is_watched =
                    |watched: &PathBuf| watched == Path::new(".") || Path::new(handler).starts_with(watched);
                assert!(build.watch.iter().any(is_watched), "{language:?}: {handler} is not in {:?}", build.watch);
            }
        }
    }

    #[test]
    fn the_rust_sdk_stands_alone() {
        let manifest = files::standalone_manifest();
        assert!(!manifest.contains("workspace = true"), "{manifest}");
        let manifest: toml::Table = manifest.parse().unwrap();
        assert_eq!(manifest["package"]["name"].as_str(), Some("sandpost-sdk"));
        assert_eq!(manifest["dependencies"]["serde"]["version"].as_str(), Some("1"));
    }

    #[test]
    fn names_that_no_language_takes_are_refused() {
        for good in ["a", "my-consumer", "order2", "email"] {
            assert!(name(good).is_ok(), "{good}");
        }
        for bad in ["", "My", "2nd", "a_b", "-a", "a-", "a.b", "../a", "test", "main", "fn", "serde"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
