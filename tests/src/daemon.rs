//! One bus: its folders, its process, and what is done to them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::ops::Deref;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::client::Client;
use crate::guests::binary;
use crate::process::{Exit, Process};
use crate::small_disk::SmallDisk;
use crate::terminal::Terminal;
use crate::views::Subscription;
use crate::{PATIENCE, digest};

/// What a bus is started with. The folders are made at once, so that they can be prepared.
pub struct Setup {
    folder: TempDir,
    flags: Vec<OsString>,
    variables: Vec<(String, String)>,
    disk: Option<Arc<SmallDisk>>,
    data: Option<PathBuf>,
    listen: String,
    /// A command that runs the binary, given as its arguments.
    wrapper: Vec<OsString>,
}

impl Setup {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("sandpost-").tempdir().expect("there is a temporary folder");
        let listen = "127.0.0.1:0".to_owned();
        let (flags, variables, wrapper) = (vec![], vec![], vec![]);
        let setup = Self { folder, flags, variables, disk: None, data: None, listen, wrapper };
        std::fs::DirBuilder::new().mode(0o755).create(setup.plugin_folder()).expect("the folder is new");
        setup
    }

    /// The folder in which everything of this bus lies.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The data folder, as the bus is told it.
    pub fn data_folder(&self) -> PathBuf {
        match (&self.data, &self.disk) {
            (Some(folder), _) => folder.clone(),
            (None, Some(disk)) => disk.data_folder(),
            (None, None) => self.folder().join("data"),
        }
    }

    pub fn plugin_folder(&self) -> PathBuf {
        self.folder().join("plugins")
    }

    /// A consumer that is there from the beginning.
    #[must_use]
    pub fn plugin(self, stem: &str, wasm: &[u8], manifest: &str) -> Self {
        put(&self.plugin_folder(), stem, "wasm", wasm);
        put(&self.plugin_folder(), stem, "toml", manifest.as_bytes());
        self
    }

    /// A flag of `serve`, with its value where it takes one.
    #[must_use]
    pub fn flag<'a>(mut self, name: &str, value: impl Into<Option<&'a str>>) -> Self {
        self.flags.push(name.into());
        self.flags.extend(value.into().map(OsString::from));
        self
    }

    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The data folder is this one, and not one of its own.
    #[must_use]
    pub fn data(mut self, folder: PathBuf) -> Self {
        self.data = Some(folder);
        self
    }

    /// It listens there, and not on any free port.
    #[must_use]
    pub fn listen(mut self, address: &str) -> Self {
        address.clone_into(&mut self.listen);
        self
    }

    /// The data folder is on this disk.
    #[must_use]
    pub fn on_disk(mut self, disk: Arc<SmallDisk>) -> Self {
        self.wrapper = disk.enter();
        self.disk = Some(disk);
        self
    }

    /// The binary is run by this command.
    #[must_use]
    pub fn wrapped(mut self, command: &[&str]) -> Self {
        self.wrapper = command.iter().map(OsString::from).collect();
        self
    }

    /// # Panics
    /// Where the bus does not come to serve, or one of its consumers is neither running nor refused.
    #[track_caller]
    pub fn start(self) -> Daemon {
        let mut daemon = Daemon { running: None, setup: self };
        daemon.restart();
        daemon
    }

    /// How the bus ends which must not come to serve.
    ///
    /// # Panics
    /// Where it does.
    #[track_caller]
    pub fn refused(&self) -> Exit {
        let mut process = Process::start(self.serve());
        match process.serves() {
            Ok(address) => panic!("it serves at {address} and should not\n{}", process.output.tail()),
            Err(exit) => exit,
        }
    }

    /// Runs a command of the binary, with no bus.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> Exit {
        let mut command = self.command();
        command.args(args);
        Process::start(command).ends(PATIENCE)
    }

    fn serve(&self) -> Command {
        let mut command = self.command();
        command.arg("serve").args(["--listen", &self.listen]);
        command.arg("--data").arg(self.data_folder()).arg("--plugins").arg(self.plugin_folder()).args(&self.flags);
        command
    }

    /// The binary, with no setting but those of this test.
    fn command(&self) -> Command {
        let mut words = self.wrapper.iter().cloned().chain([binary().into_os_string()]);
        let mut command = Command::new(words.next().expect("the binary is the last word"));
        command.args(words).current_dir(self.folder());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SANDPOST_")) {
            command.env_remove(name);
        }
        command
            .env("NO_COLOR", "1")
            .env("XDG_CACHE_HOME", self.folder().join("cache"))
            .env("RUST_BACKTRACE", "1")
            .envs(self.variables.iter().cloned());
        command
    }
}

/// Puts a file into the plugin folder whole, as careful people do: under a hidden name, then by rename.
fn put(folder: &Path, stem: &str, extension: &str, bytes: &[u8]) {
    let hidden = folder.join(format!(".{stem}.{extension}.new"));
    std::fs::write(&hidden, bytes).expect("the plugin folder is the test's own");
    std::fs::rename(&hidden, folder.join(format!("{stem}.{extension}"))).expect("a rename in one folder");
}

/// The consumers that have files in a folder.
fn stems(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).expect("the plugin folder is the test's own");
    let names = entries.map(|entry| entry.expect("it can be listed").file_name().to_string_lossy().into_owned());
    let stem = |name: String| {
        let (stem, extension) = name.rsplit_once('.')?;
        (!stem.is_empty() && matches!(extension, "wasm" | "toml")).then(|| stem.to_owned())
    };
    names.filter_map(stem).collect()
}

/// A bus. What is asked of it over HTTP are the methods of [`Client`].
pub struct Daemon {
    /// Before the setup, whose folders go when it is dropped.
    running: Option<Running>,
    setup: Setup,
}

struct Running {
    process: Process,
    client: Client,
}

impl Deref for Daemon {
    type Target = Client;

    #[track_caller]
    fn deref(&self) -> &Client {
        &self.running.as_ref().expect("the bus was stopped by the test").client
    }
}

impl Daemon {
    pub fn setup() -> Setup {
        Setup::new()
    }

    /// A bus with one consumer.
    #[track_caller]
    pub fn with(stem: &str, wasm: &[u8], manifest: &str) -> Self {
        Self::setup().plugin(stem, wasm, manifest).start()
    }

    pub fn folder(&self) -> &Path {
        self.setup.folder()
    }

    pub fn plugin_folder(&self) -> PathBuf {
        self.setup.plugin_folder()
    }

    pub fn data_folder(&self) -> PathBuf {
        self.setup.data_folder()
    }

    /// To be used by other threads.
    #[track_caller]
    pub fn client(&self) -> Client {
        (**self).clone()
    }

    /// `kill -9`. Nothing of the process is left.
    #[track_caller]
    pub fn kill(&mut self) {
        let mut running = self.running.take().expect("it is killed once");
        running.process.signal(Signal::KILL);
        running.process.ends(PATIENCE);
    }

    /// Changes what it is started with from now on.
    pub fn change(&mut self, change: impl FnOnce(Setup) -> Setup) {
        let placeholder = Setup::new();
        self.setup = change(std::mem::replace(&mut self.setup, placeholder));
    }

    /// How it ends when it is started on the same folders and must not come to serve.
    #[track_caller]
    pub fn restart_refused(&self) -> Exit {
        assert!(self.running.is_none(), "it runs already");
        self.setup.refused()
    }

    /// Tells it to end, which it has not done yet when this returns.
    #[track_caller]
    pub fn tell_to_end(&self) {
        self.running.as_ref().expect("it runs").process.signal(Signal::TERM);
    }

    /// Tells it to end, and waits until it has.
    #[track_caller]
    pub fn terminate(&mut self) -> Exit {
        self.tell_to_end();
        self.ends()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ends(&mut self) -> Exit {
        self.running.take().expect("it runs").process.ends(PATIENCE)
    }

    /// Starts it on the same folders, and waits until every consumer that has files runs, or has a problem.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.running.is_none(), "it runs already");
        let mut process = Process::start(self.setup.serve());
        let base = process.serves().unwrap_or_else(|exit| panic!("it does not start: {exit}"));
        let client = Client::new(base, process.output.clone());
        self.running = Some(Running { process, client });
        let stems = stems(&self.plugin_folder());
        self.wait_until("the consumers run or were refused", |bus| {
            let plugins = bus.plugins();
            let decided = |stem: &String| {
                let plugin = plugins.iter().find(|plugin| plugin.name == *stem);
                plugin.is_some_and(|plugin| plugin.status == "running" || plugin.problem.is_some())
            };
            stems.iter().all(decided)
        });
    }

    /// Asks again and again until it holds.
    ///
    /// # Panics
    /// Where it does not come to hold within [`PATIENCE`], or the daemon ends meanwhile.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, mut holds: impl FnMut(&Client) -> bool) {
        let began = Instant::now();
        loop {
            let running = self.running.as_mut().expect("the bus was stopped by the test");
            if running.process.has_ended() {
                panic!("the daemon ended while the test waited for: {what}\n{}", running.process.ends(PATIENCE));
            }
            if holds(&running.client) {
                return;
            }
            if began.elapsed() > PATIENCE {
                panic!("this does not come to hold: {what}\n{}", situation(&running.client));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until nothing of a subscription is pending, and answers its account.
    #[track_caller]
    pub fn settled(&mut self, subscription: &str) -> Subscription {
        let mut last = None;
        self.wait_until(&format!("nothing of `{subscription}` is pending"), |bus| {
            let view = bus.subscription(subscription);
            let settled = view.pending == 0;
            last = Some(view);
            settled
        });
        last.expect("it was looked at")
    }

    /// Puts a consumer's component and manifest into the plugin folder, and waits until that component
    /// runs.
    #[track_caller]
    pub fn deploy(&mut self, stem: &str, wasm: &[u8], manifest: &str) {
        self.put(stem, wasm, manifest);
        self.runs(stem, wasm);
    }

    /// Puts the files there, and does not wait.
    pub fn put(&self, stem: &str, wasm: &[u8], manifest: &str) {
        put(&self.plugin_folder(), stem, "wasm", wasm);
        put(&self.plugin_folder(), stem, "toml", manifest.as_bytes());
    }

    /// Puts one of the files there.
    pub fn put_file(&self, stem: &str, extension: &str, bytes: &[u8]) {
        put(&self.plugin_folder(), stem, extension, bytes);
    }

    /// Takes a consumer's files away, and does not wait.
    pub fn take_away(&self, stem: &str) {
        for extension in ["wasm", "toml"] {
            let path = self.plugin_folder().join(format!("{stem}.{extension}"));
            std::fs::remove_file(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }

    /// Waits until a consumer runs this component and has no problem.
    #[track_caller]
    pub fn runs(&mut self, stem: &str, wasm: &[u8]) {
        let digest = digest(wasm);
        self.wait_until(&format!("`{stem}` runs {}", &digest[..12]), |bus| {
            bus.plugin(stem).is_some_and(|plugin| {
                plugin.status == "running" && plugin.problem.is_none() && plugin.digest.as_ref() == Some(&digest)
            })
        });
    }

    /// Waits until a consumer has a problem, and answers it.
    #[track_caller]
    pub fn problem_of(&mut self, stem: &str) -> String {
        let mut problem = None;
        self.wait_until(&format!("`{stem}` has a problem"), |bus| {
            problem = bus.plugin(stem).and_then(|plugin| plugin.problem);
            problem.is_some()
        });
        problem.expect("it was waited for")
    }

    /// Runs a command of the binary against this bus.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> Exit {
        let mut command = self.against();
        command.args(args);
        Process::start(command).ends(PATIENCE)
    }

    /// Runs a command of the binary against this bus, in a terminal. The arguments are words of a shell.
    #[track_caller]
    pub fn cli_in_terminal(&self, args: &str) -> Terminal {
        let command = self.against();
        Terminal::start(&format!("{} {args}", command.get_program().display()), &command)
    }

    fn against(&self) -> Command {
        let mut command = self.setup.command();
        command.env("SANDPOST_BUS", self.address()).env("SANDPOST_PLUGINS", self.plugin_folder());
        command
    }

    /// Threads that the process has now.
    #[track_caller]
    pub fn threads(&self) -> usize {
        self.running.as_ref().expect("it runs").process.threads()
    }

    /// The memory that the process holds now, in bytes.
    #[track_caller]
    pub fn resident_bytes(&self) -> u64 {
        self.running.as_ref().expect("it runs").process.resident_bytes()
    }

    /// From now on, and until it ends, no file of the process may be larger than this.
    #[track_caller]
    pub fn limit_file_bytes(&self, bytes: Option<u64>) {
        self.running.as_ref().expect("it runs").process.limit_file_bytes(bytes);
    }

    /// The most memory that the process held at once, in bytes.
    #[track_caller]
    pub fn peak_resident_bytes(&self) -> u64 {
        self.running.as_ref().expect("it runs").process.peak_resident_bytes()
    }
}

/// All that is known of a bus, for the message of a failure.
fn situation(client: &Client) -> String {
    let mut text = String::new();
    for path in ["/subscriptions", "/dead-letters?limit=3", "/plugins", "/topics", "/readyz"] {
        let answer = match client.try_request("GET", path, &[], b"") {
            Ok(answer) => format!("{} {}", answer.status, answer.body),
            Err(error) => error.to_string(),
        };
        text += &format!("{path}: {answer}\n");
    }
    text + &client.output().tail()
}
