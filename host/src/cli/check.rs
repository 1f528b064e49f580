//! `sandpost plugins check`: what would become of a component and its manifest, without a bus.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::failure::Failure;
use super::output::{Output, duration};
use super::workbench::{self, Workbench};
use crate::limits::COMPONENT_BYTES_MAX;
use crate::policy::{Manifest, SecretSource, Stdout};
use crate::sandbox::Kind;

/// Check a consumer and its manifest without deploying them.
///
/// The consumer is compiled and linked as the bus would do it, and the manifest is read, where there is one. Printed is
/// which kind of consumer it is, what it imports and what the manifest grants; what it may miss is noted.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sandpost plugins check target/wasm32-wasip2/release/email.wasm --manifest email.toml")]
pub(super) struct CheckArgs {
    /// The consumer: a .wasm file of any kind, or a .wat file
    #[arg(value_name = "FILE")]
    component: PathBuf,
    /// The manifest; otherwise the file of the same stem beside the component
    #[arg(long, value_name = "FILE.toml")]
    manifest: Option<PathBuf>,
}

pub(super) fn run(args: &CheckArgs, output: &Output) -> Result<(), Failure> {
    let path = &args.component;
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let manifest_path = args.manifest.clone().unwrap_or_else(|| path.with_extension("toml"));
    // Both are looked at, so that one run tells all that is wrong.
    let workbench = Workbench::new()?;
    let component = workbench::read(path, COMPONENT_BYTES_MAX).and_then(|bytes| {
        let (component, compiled_in) = workbench.load(stem, path, &bytes)?;
        Ok((component, compiled_in, bytes.len()))
    });
    // What it would need is told without one too.
    let has_manifest = args.manifest.is_some() || manifest_path.is_file();
    let manifest = if has_manifest { workbench::manifest(stem, &manifest_path) } else { Ok(Manifest::default()) };
    let ((component, compiled_in, bytes), manifest) = match (component, manifest) {
        (Ok(component), Ok(manifest)) => (component, manifest),
        (Err(one), Err(other)) => return Err(Failure::Failed(format!("{one}\n{other}"))),
        (Err(problem), Ok(_)) | (Ok(_), Err(problem)) => return Err(Failure::Failed(problem)),
    };
    let mut notes = notes(component.kind(), component.imports(), &manifest);
    if !has_manifest {
        notes.insert(0, format!("it has no manifest: there is no {}", manifest_path.display()));
    }
    let topics = |filters: &[crate::topic::TopicFilter]| filters.iter().map(ToString::to_string).collect::<Vec<_>>();
    let subscriptions: Vec<(&str, Vec<String>)> =
        manifest.subscriptions.iter().map(|spec| (spec.name.as_str(), topics(&spec.topics))).collect();
    let http: Vec<String> = manifest.http.iter().map(|grant| format!("{}{}", grant.origin, grant.path)).collect();
    let secrets: Vec<String> = manifest.secrets.iter().map(|(name, source)| secret(name, source)).collect();
    let probation = manifest.probation.map(|policy| (policy.messages, policy.max_failures));
    if output.json {
        let subscriptions: Vec<_> =
            subscriptions.iter().map(|(name, topics)| json!({ "name": name, "topics": topics })).collect();
        return output.line(
            json!({
                "name": stem,
                "kind": component.kind().as_str(),
                "bytes": bytes,
                "compile_us": u64::try_from(compiled_in.as_micros()).unwrap_or(u64::MAX),
                "digest": component.digest().to_string(),
                "imports": component.imports(),
                "subscriptions": subscriptions,
                "publish": topics(&manifest.publish),
                "http": http,
                "secrets": secrets,
                "probation": probation.map(|(messages, failures)| json!({ "messages": messages, "max_failures": failures })),
                "notes": notes,
            })
            .to_string(),
        );
    }
    let or_nothing = |items: Vec<String>| if items.is_empty() { "nothing".to_owned() } else { items.join(", ") };
    let mut declared = String::new();
    for (name, topics) in &subscriptions {
        let separator = if declared.is_empty() { "" } else { "; " };
        // Writing into a String cannot fail.
        let _ = write!(declared, "{separator}{name} takes {}", topics.join(", "));
    }
    output.facts(&[
        ("name", stem.to_owned()),
        ("kind", component.kind().to_string()),
        ("digest", component.digest().to_string()),
        (
            "size",
            format!(
                "{bytes} bytes, compiled or loaded in {}",
                duration(u64::try_from(compiled_in.as_micros()).unwrap_or(u64::MAX))
            ),
        ),
        ("imports", imports(component.imports())),
        ("subscriptions", if declared.is_empty() { "none".to_owned() } else { declared }),
        ("may publish", or_nothing(topics(&manifest.publish))),
        ("may request", or_nothing(http)),
        ("secrets", or_nothing(secrets)),
        (
            "probation",
            probation.map_or_else(
                || "none: a new version takes over for good".to_owned(),
                |(messages, failures)| format!("{messages} messages, of which {failures} may fail"),
            ),
        ),
    ])?;
    notes.iter().try_for_each(|note| output.line(format!("note: {note}")))
}

/// Interfaces by which a consumer publishes: ours, and those of other platforms.
const PUBLISHING: [&str; 3] = ["sandpost:consumer/bus@", "wasmcloud:messaging/consumer@", "wasi:messaging/producer@"];
/// Interfaces that are the consumer's state.
const STATE: [&str; 2] = ["sandpost:consumer/state@", "wasi:keyvalue/"];

fn imports_any(imports: &[String], prefixes: &[&str]) -> bool {
    imports.iter().any(|import| prefixes.iter().any(|prefix| import.starts_with(prefix)))
}

/// What a consumer imports, in groups that mean something to people.
fn imports(imports: &[String]) -> String {
    const GROUPS: [(&[&str], &str); 9] = [
        (&PUBLISHING, "publishing"),
        (&STATE, "state"),
        (&["sandpost:consumer/config@", "wasi:config/"], "configuration"),
        (&["sandpost:consumer/log@", "wasi:logging/"], "log"),
        (&["wasi:http/outgoing-handler@"], "HTTP requests"),
        (&["wasi:clocks/"], "clocks"),
        (&["wasi:random/"], "random numbers"),
        (&["wasi:filesystem/"], "files"),
        (&["wasi:sockets/"], "sockets"),
    ];
    let groups: Vec<_> = GROUPS.iter().filter(|(of, _)| imports_any(imports, of)).map(|(_, name)| *name).collect();
    if groups.is_empty() { "nothing but WASI's streams".to_owned() } else { groups.join(", ") }
}

fn secret(name: &str, source: &SecretSource) -> String {
    match source {
        SecretSource::Variable(variable) => format!("{name} from the variable {variable}"),
        SecretSource::File(file) => format!("{name} from {}", file.display()),
    }
}

/// What the component can ask for and the manifest does not grant, and the other way round.
fn notes(kind: Kind, imports: &[String], manifest: &Manifest) -> Vec<String> {
    let has = |prefixes: &[&str]| imports_any(imports, prefixes);
    let mut notes = Vec::new();
    let mut note = |holds: bool, text: &str| notes.extend(holds.then(|| text.to_owned()));
    // A command imports nothing for it: its manifest says that what it prints is published.
    let prints_messages = matches!(&manifest.command, Some(command) if command.stdout != Stdout::Log);
    let publishes = has(&PUBLISHING) || (kind == Kind::Command && prints_messages);
    let requests = has(&["wasi:http/outgoing-handler@"]);
    note(publishes && manifest.publish.is_empty(), "it can publish, and [grants] publish grants no topic");
    note(!publishes && !manifest.publish.is_empty(), "it cannot publish, and [grants] publish grants topics");
    note(requests && manifest.http.is_empty(), "it can make HTTP requests, and [grants] http grants none");
    note(!requests && !manifest.http.is_empty(), "it makes no HTTP requests, and [grants] http grants some");
    note(
        requests && has(&STATE),
        "it makes HTTP requests and has state: a call whose reads went stale is run again, and its requests are made again; \
         give them the idempotency key",
    );
    note(
        kind != Kind::Command && manifest.command.is_some(),
        "it is no WASI command, and [command] in the manifest is for those alone",
    );
    note(has(&["wasi:filesystem/"]), "it can ask for files; there are none");
    note(has(&["wasi:sockets/"]), "it can ask for the network; there is none but HTTP");
    notes
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::deploy::manifest;

    #[test]
    fn what_is_missing_and_what_is_too_much_is_noted() {
        let granted = |text: &str| {
            let text = format!("[[subscription]]\ntopics = [\"a\"]\n{text}");
            manifest::parse("email", Path::new("email.toml"), &text).unwrap()
        };
        let imports = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let bus = imports(&["sandpost:consumer/bus@0.1.0", "wasi:http/outgoing-handler@0.2.6"]);
        let both = granted("[grants]\npublish = [\"b\"]\nhttp = [\"https://example.com\"]");
        let notes = |imports: &[String], manifest: &Manifest| notes(Kind::Component, imports, manifest);
        assert_eq!(notes(&bus, &both), [""; 0]);
        let missing = notes(&bus, &granted(""));
        assert!(missing.len() == 2 && missing[0].contains("publish") && missing[1].contains("http"), "{missing:?}");
        let too_much = notes(&imports(&["wasi:cli/stderr@0.2.0"]), &both);
        assert!(too_much.len() == 2 && too_much[0].starts_with("it cannot publish"), "{too_much:?}");
    }
    #[test]
    fn what_other_platforms_and_commands_have_in_place_of_our_interfaces_counts() {
        let manifest = |text: &str| {
            let text = format!("[[subscription]]\ntopics = [\"a\"]\n[grants]\npublish = [\"b\"]\n{text}");
            manifest::parse("email", Path::new("email.toml"), &text).unwrap()
        };
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let foreign = names(&[
            "wasmcloud:messaging/consumer@0.2.0",
            "wasi:keyvalue/store@0.2.0-draft",
            "wasi:config/store@0.2.0-draft",
            "wasi:logging/logging",
            "wasi:http/outgoing-handler@0.2.6",
        ]);
        assert_eq!(imports(&foreign), "publishing, state, configuration, log, HTTP requests");
        let said = notes(Kind::WasmCloud, &foreign, &manifest("http = [\"https://example.com\"]"));
        assert!(said.len() == 1 && said[0].contains("idempotency key"), "{said:?}");
        let prints = manifest("[command]\nstdout = { publish = \"b\" }");
        assert_eq!(notes(Kind::Command, &[], &prints), [""; 0]);
        let said = notes(Kind::Module, &names(&["sandpost:consumer/bus@0.1.0"]), &prints);
        assert!(said.len() == 1 && said[0].contains("[command]"), "{said:?}");
    }
}
