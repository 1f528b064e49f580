//! The bus of a project, and what is seen of it: this same program, as processes of their own.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Sender;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::News;
use super::project::Project;
use crate::cli::failure::Failure;
use crate::cli::output::{Event, clean, duration};

/// Deliveries and consumers' lines beside what an operator would be told.
const LOG_FILTER: &str = "info,delivery=debug,consumer=trace";
/// How the line begins in which `serve` prints its address.
const LISTENING: &str = "sandpost listening on ";

pub(super) struct Bus {
    program: PathBuf,
    plugins: PathBuf,
    url: String,
    serve: Child,
    tails: Vec<Child>,
}

impl Bus {
    pub(super) fn start(project: &Project, listen: &str, fresh: bool, news: &Sender<News>) -> Result<Self, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::Failed(format!("this program does not know where it is: {error}")))?;
        let folder = project.bus_folder();
        let (data, plugins) = (folder.join("data"), folder.join("plugins"));
        if fresh {
            for old in [&data, &plugins] {
                if let Err(error) = fs::remove_dir_all(old)
                    && error.kind() != std::io::ErrorKind::NotFound
                {
                    return Err(Failure::Failed(format!("{} cannot be removed: {error}", old.display())));
                }
            }
        }
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(&plugins);
        made.map_err(|error| Failure::Failed(format!("{} cannot be made: {error}", plugins.display())))?;
        let mut serve = command(&program)
            .arg("serve")
            .args(["--listen", listen, "--log-format", "json", "--log-filter", LOG_FILTER])
            .arg("--data")
            .arg(&data)
            .arg("--plugins")
            .arg(&plugins)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::Failed(format!("the bus cannot be started: {error}")))?;
        let log = serve.stderr.take().expect("it is piped");
        let answers = serve.stdout.take().expect("it is piped");
        let mut lines = BufReader::new(answers).lines();
        let address = lines.next().and_then(Result::ok);
        let Some(url) = address.as_deref().and_then(|line| line.strip_prefix(LISTENING)).map(str::to_owned) else {
            let mut said = String::new();
            // What it said is all there is to tell.
            let _ = BufReader::new(log).read_to_string(&mut said);
            let _ = serve.wait();
            let last: Vec<&str> = said.lines().rev().take(3).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            return Err(Failure::Failed(format!("the bus does not start:\n{}", last.join("\n"))));
        };
        follow(log, news.clone(), true, log_line);
        let mut bus = Self { program, plugins, url, serve, tails: Vec::new() };
        bus.tail(">", news, event_line)?;
        bus.tail("$dead-letters.>", news, dead_letter_line)?;
        Ok(bus)
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    fn tail(
        &mut self,
        filter: &str,
        news: &Sender<News>,
        line: impl Fn(&str) -> Option<(String, String)> + Send + 'static,
    ) -> Result<(), Failure> {
        let mut tail = command(&self.program)
            .args(["tail", filter, "--json", "--bus", &self.url])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| Failure::Failed(format!("the events of the bus cannot be followed: {error}")))?;
        follow(tail.stdout.take().expect("it is piped"), news.clone(), false, line);
        self.tails.push(tail);
        Ok(())
    }

    /// Deploys what was built, on a thread of its own.
    pub(super) fn deploy(&self, project: &Project, news: &Sender<News>) {
        let (program, plugins, url) = (self.program.clone(), self.plugins.clone(), self.url.clone());
        let (project, news) = (project.clone(), news.clone());
        thread::spawn(move || {
            let result = deploy(&program, &plugins, &url, &project);
            // Whoever waited for it may have been stopped.
            drop(news.send(News::Deployed(result)));
        });
    }
}

impl Drop for Bus {
    /// Ends the bus as an operator would, and waits until it has.
    fn drop(&mut self) {
        for tail in &mut self.tails {
            // It has ended by itself where it got the same signal.
            let _ = tail.kill();
            let _ = tail.wait();
        }
        let _ = kill_process(Pid::from_child(&self.serve), Signal::TERM);
        let _ = self.serve.wait();
    }
}

/// This program, with no setting but those that it is given here.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        // Secrets are the consumer's.
        let text = name.to_string_lossy();
        if text.starts_with("SANDPOST_") && !text.starts_with("SANDPOST_SECRET_") {
            command.env_remove(&name);
        }
    }
    command.stdin(Stdio::null());
    command
}

fn deploy(program: &Path, plugins: &Path, url: &str, project: &Project) -> Result<String, String> {
    // A consumer has the name of its file; what a compiler makes may have another.
    let output = project.output();
    let extension = output.extension().and_then(|extension| extension.to_str()).unwrap_or("wasm");
    let named = project.bus_folder().join(format!("{}.{extension}", project.name));
    fs::copy(&output, &named).map_err(|error| format!("{} cannot be read: {error}", output.display()))?;
    let run = command(program)
        .args(["plugins", "deploy", "--bus", url])
        .arg(&named)
        .arg("--manifest")
        .arg(&project.manifest)
        .arg("--plugins")
        .arg(plugins)
        .output()
        .map_err(|error| format!("it cannot be deployed: {error}"))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().trim_start_matches("sandpost: ").to_owned();
    if run.status.success() { Ok(said(&run.stdout)) } else { Err(said(&run.stderr)) }
}

/// Reads lines on a thread of its own, and passes on what they come to.
fn follow(
    from: impl Read + Send + 'static,
    news: Sender<News>,
    is_bus: bool,
    line: impl Fn(&str) -> Option<(String, String)> + Send + 'static,
) {
    thread::spawn(move || {
        for text in BufReader::new(from).lines().map_while(Result::ok) {
            if let Some((who, what)) = line(&text)
                && news.send(News::Line { who, what }).is_err()
            {
                return;
            }
        }
        if is_bus {
            drop(news.send(News::Ended("see the lines above".to_owned())));
        }
    });
}

/// A line of the bus's log, if it says something to the author of a consumer.
fn log_line(line: &str) -> Option<(String, String)> {
    let Ok(entry) = serde_json::from_str::<Value>(line) else {
        return Some(("bus".to_owned(), clean(line)));
    };
    let text = |value: &Value| value.as_str().map(clean).unwrap_or_default();
    let level = text(&entry["level"]).to_ascii_lowercase();
    let message = text(&entry["message"]);
    match entry["target"].as_str() {
        Some("consumer") => Some((text(&entry["subscription"]), format!("{level}: {message}"))),
        Some("delivery") => {
            let (outcome, place) = (text(&entry["outcome"]), text(&entry["delivery"]));
            let took = duration(entry["took_us"].as_u64().unwrap_or(0));
            let reason = if message.is_empty() { String::new() } else { format!(": {message}") };
            let attempt = entry["attempt"].as_u64().filter(|attempt| *attempt > 1 || outcome != "acked");
            let attempt = attempt.map_or_else(String::new, |attempt| format!(" in attempt {attempt}"));
            Some((text(&entry["subscription"]), format!("{outcome} {place}{attempt} ({took}){reason}")))
        }
        // Of a large consumer it takes seconds, in which nothing else is told.
        Some("sandpost::deploy::worker") if message == "compiling" => {
            Some(("deploy".to_owned(), format!("compiles {}", text(&entry["consumer"]))))
        }
        _ if level == "warn" || level == "error" => {
            let problem = ["problem", "error"].iter().find_map(|name| entry[*name].as_str()).map(clean);
            Some((
                "bus".to_owned(),
                format!("{level}: {message} {}", problem.unwrap_or_default()).trim_end().to_owned(),
            ))
        }
        _ => None,
    }
}

fn event_line(line: &str) -> Option<(String, String)> {
    let event = Event::parse(line)?;
    let attribute = |name: &str| event.attributes.get(name).and_then(Value::as_str).map(clean).unwrap_or_default();
    let sequence = event.attributes.get("sequence").and_then(Value::as_u64).unwrap_or(0);
    let what = format!("{}@{sequence} {} {}", attribute("topic"), attribute("partitionkey"), event.preview());
    Some(("event".to_owned(), what))
}

fn dead_letter_line(line: &str) -> Option<(String, String)> {
    let event: Value = serde_json::from_str(line).ok()?;
    let member = |name: &str| event["data"][name].as_str().map(clean).unwrap_or_default();
    let what = format!(
        "{} is a dead letter: {}; `dead-letters show {}` has all of it",
        member("id"),
        member("reason"),
        member("id")
    );
    Some((member("subscription"), what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_log_say_what_an_author_wants_to_know() {
        let consumer = r#"{"level":"INFO","target":"consumer","message":"hello","subscription":"email"}"#;
        assert_eq!(log_line(consumer), Some(("email".to_owned(), "info: hello".to_owned())));
        let delivery = r#"{"level":"DEBUG","target":"delivery","message":"not now","subscription":"email",
            "delivery":"order.placed@3","attempt":2,"outcome":"retry","took_us":1500}"#;
        let expected = "retry order.placed@3 in attempt 2 (1.5 ms): not now";
        assert_eq!(log_line(delivery), Some(("email".to_owned(), expected.to_owned())));
        let other = r#"{"level":"INFO","target":"sandpost::serve","message":"ready"}"#;
        assert_eq!(log_line(other), None);
        let warning = r#"{"level":"WARN","target":"sandpost::deploy","message":"not deployed","problem":"bad"}"#;
        assert_eq!(log_line(warning).unwrap().1, "warn: not deployed bad");
        let compiling =
            r#"{"level":"INFO","target":"sandpost::deploy::worker","message":"compiling","consumer":"email"}"#;
        assert_eq!(log_line(compiling), Some(("deploy".to_owned(), "compiles email".to_owned())));
        assert_eq!(log_line("no JSON").unwrap().1, "no JSON");
    }
}
