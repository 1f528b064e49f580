//! The project that is worked on: its manifest, and how it is built.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cli::failure::Failure;
use crate::cli::workbench;
use crate::policy::BuildSpec;

/// Lines of a failed build that are shown, from its end.
const BUILD_LINES_MAX: usize = 60;

#[derive(Clone)]
pub(super) struct Project {
    pub(super) name: String,
    pub(super) folder: PathBuf,
    pub(super) manifest: PathBuf,
    build: BuildSpec,
    /// A topic that it takes, to publish to.
    topic: Option<String>,
}

impl Project {
    pub(super) fn find(manifest: Option<&Path>) -> Result<Self, Failure> {
        let path = match manifest {
            Some(path) => path.to_owned(),
            None => only_manifest(Path::new("."))?,
        };
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        let manifest = workbench::manifest(&name, &path).map_err(Failure::Failed)?;
        let Some(build) = manifest.build else {
            let text = format!("{} has no table [build] that says how the consumer is built", path.display());
            return Err(Failure::Usage(text));
        };
        let filters = manifest.subscriptions.iter().flat_map(|spec| &spec.topics).map(|filter| filter.as_str());
        let topic = filters.into_iter().find(|filter| !filter.contains(['*', '>'])).map(str::to_owned);
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        Ok(Self { name, folder, manifest: path, build, topic })
    }

    pub(super) fn command(&self) -> Option<&str> {
        self.build.command.as_deref()
    }

    pub(super) fn output(&self) -> PathBuf {
        self.folder.join(&self.build.output)
    }

    /// Where the bus of this project lives.
    pub(super) fn bus_folder(&self) -> PathBuf {
        self.folder.join(".sandpost")
    }

    /// What a change of means to build again. Without a command that is what is deployed itself.
    pub(super) fn watched(&self) -> Vec<PathBuf> {
        let mut watched: Vec<_> = self.build.watch.iter().map(|path| self.folder.join(path)).collect();
        watched.push(self.manifest.clone());
        if self.build.command.is_none() {
            watched.push(self.output());
        }
        watched
    }

    /// The folder that the build writes to, where it is one of its own.
    pub(super) fn written(&self) -> Vec<PathBuf> {
        let output = self.output();
        let folder = output.parent().filter(|folder| *folder != self.folder && *folder != Path::new(""));
        folder.map(Path::to_owned).into_iter().collect()
    }

    /// Runs the build command. Fails with what it said.
    pub(super) fn build(&self) -> Result<(), String> {
        let Some(command) = self.command() else { return Ok(()) };
        let run = Command::new("sh")
            .args(["-c", &format!("exec 2>&1; {command}")])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("the build cannot be run: {error}"))?;
        if run.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&run.stdout);
        let lines: Vec<&str> = said.lines().collect();
        let last = lines[lines.len().saturating_sub(BUILD_LINES_MAX)..].join("\n");
        Err(format!("{last}\nfailed ({}); the last good version goes on", run.status))
    }

    /// Commands to copy: one for each event in the folder `events`, or one with data of its own.
    pub(super) fn how_to_publish(&self, url: &str) -> Vec<String> {
        let events = fs::read_dir(self.folder.join("events")).into_iter().flatten().flatten();
        let mut events: Vec<PathBuf> = events.map(|event| event.path()).collect();
        events.retain(|event| event.extension().is_some_and(|extension| extension == "json"));
        events.sort();
        let Some(topic) = &self.topic else { return Vec::new() };
        if events.is_empty() {
            return vec![format!("publish to it: sandpost publish {topic} --bus {url} --data '{{}}'")];
        }
        let line = |event: &PathBuf| {
            let event = event.strip_prefix(".").unwrap_or(event).display();
            format!(
                "publish to it: curl {url}/topics/{topic} -H 'content-type: application/cloudevents+json' -d @{event}"
            )
        };
        events.iter().map(line).collect()
    }
}

/// The one manifest in a folder that says how to build.
fn only_manifest(folder: &Path) -> Result<PathBuf, Failure> {
    let unreadable = |error: std::io::Error| Failure::Failed(format!("this folder cannot be read: {error}"));
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        // Other tools have files of that kind too: Cargo.toml, pyproject.toml.
        let table = fs::read_to_string(&path).ok().and_then(|text| text.parse::<toml::Table>().ok());
        if table.is_some_and(|table| table.contains_key("subscription") && table.contains_key("build")) {
            found.push(path.strip_prefix(".").map(Path::to_owned).unwrap_or(path));
        }
    }
    match &found[..] {
        [one] => Ok(one.clone()),
        [] => Err(Failure::Usage(
            "there is no manifest with a table [build] in this folder; name one, or make a project with `sandpost new`"
                .to_owned(),
        )),
        several => {
            let names: Vec<_> = several.iter().map(|path| path.display().to_string()).collect();
            Err(Failure::Usage(format!(
                "several manifests here have a table [build]: name one of {}",
                names.join(", ")
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_manifest_is_found_among_other_files() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("Cargo.toml", "[package]\nname = \"x\"\n[build]\n");
        assert!(matches!(only_manifest(folder.path()), Err(Failure::Usage(text)) if text.contains("sandpost new")));
        let manifest = "[[subscription]]\ntopics = [\"a\"]\n[build]\noutput = \"x.wat\"\n";
        write("one.toml", manifest);
        write("plain.toml", "[[subscription]]\ntopics = [\"a\"]\n");
        assert!(only_manifest(folder.path()).unwrap().ends_with("one.toml"));
        write("two.toml", manifest);
        assert!(matches!(only_manifest(folder.path()), Err(Failure::Usage(text)) if text.contains("two.toml")));
    }

    #[test]
    fn a_build_that_fails_says_what_it_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one.toml");
        let text = "[[subscription]]\ntopics = [\"a.*\", \"b\"]\n[build]\ncommand = \"echo here; echo wrong >&2; exit 3\"\noutput = \"x\"\n";
        fs::write(&path, text).unwrap();
        let project = Project::find(Some(&path)).unwrap_or_else(|failure| panic!("{failure:?}"));
        let problem = project.build().unwrap_err();
        assert!(problem.contains("here\nwrong") && problem.contains("exit status: 3"), "{problem}");
        assert!(project.how_to_publish("http://x")[0].contains("sandpost publish b "));
    }
}
