//! A bus of one's own: the real binary, in a temporary folder.

use std::fs::{self, DirBuilder, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{Client, PATIENCE, POLL, screen};

/// Any free port of this machine's.
const LISTEN: &str = "127.0.0.1:0";
/// The command that starts it. The data and plugin folders are those it takes where it is started.
const SERVE: [&str; 3] = ["serve", "--listen", LISTEN];

/// How long the bus may take to settle what runs, once it is asked to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// Lines of the bus's own log that are shown where something failed.
const LOG_LINES: usize = 20;

/// Where the bus's binary and the consumers are. The defaults are where `make` puts them.
#[derive(Clone, Debug, clap::Args)]
pub struct Places {
    /// The bus's binary [default: beside this program]
    #[arg(long, value_name = "FILE")]
    sandpost: Option<PathBuf>,
    /// The folder with the consumers' .wasm and .toml files [default: ../guests beside this program]
    #[arg(long, value_name = "FOLDER")]
    guests: Option<PathBuf>,
}

impl Places {
    fn beside(path: &str) -> Result<PathBuf> {
        Ok(std::env::current_exe()?.parent().context("a program stands in a folder")?.join(path))
    }

    fn sandpost(&self) -> Result<PathBuf> {
        let path = self.sandpost.clone().map_or_else(|| Self::beside("sandpost"), Ok)?;
        path.canonicalize().with_context(|| format!("{}: `make build` makes it", path.display()))
    }

    /// A file of a consumer.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn guest(&self, file: &str) -> Result<PathBuf> {
        let folder = self.guests.clone().map_or_else(|| Self::beside("../guests"), Ok)?;
        let path = folder.join(file);
        path.canonicalize().with_context(|| format!("{}: `make guests` makes it", path.display()))
    }
}

/// A running bus with a temporary folder. Dropping it stops the bus and removes the folder.
pub struct Bus {
    child: Child,
    client: Client,
    place: Prepared,
}

/// A folder for a bus that is yet to start.
pub struct Prepared {
    sandpost: PathBuf,
    folder: TempDir,
    variables: Vec<(String, String)>,
}

impl Bus {
    /// Makes the folders of a bus; consumers are put into the plugin folder before it starts.
    ///
    /// # Errors
    /// Where the binary is not there, or no temporary folder can be made.
    pub fn prepare(places: &Places) -> Result<Prepared> {
        let folder = tempfile::Builder::new().prefix("sandpost-example-").tempdir()?;
        DirBuilder::new().mode(0o700).create(folder.path().join("plugins"))?;
        Ok(Prepared { sandpost: places.sandpost()?, folder, variables: Vec::new() })
    }

    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Lays out the files of a consumer in a folder of the temporary one, as a developer has them before they are
    /// deployed.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn lay_out(&self, folder: &str, stem: &str, component: &Path, manifest: &str) -> Result<()> {
        let folder = self.place.folder.path().join(folder);
        fs::create_dir_all(&folder)?;
        put(&folder, stem, component, manifest)
    }

    /// Runs a command of the bus's command line against this bus, in its temporary folder, and answers what it
    /// printed.
    ///
    /// # Errors
    /// Where the command fails, with what it said.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let output = sandpost(&self.place.sandpost)
            .args(arguments)
            .current_dir(self.place.folder.path())
            .env("SANDPOST_BUS", self.client.url())
            .output()?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`sandpost {}`: {}\n{printed}{said}", arguments.join(" "), output.status);
        }
        Ok(printed)
    }

    /// The last lines of the bus's own log.
    #[must_use]
    pub fn log_end(&self) -> String {
        last_lines(&self.place.log())
    }

    /// Has something done with the bus, and stops it. Where that fails, the end of the bus's log is shown.
    ///
    /// # Errors
    /// What was done fails, or the bus does not stop as it should.
    pub fn live(mut self, story: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let outcome = story(&mut self);
        if outcome.is_err() {
            screen::complain(&format!("the last lines of the bus's log:\n{}", self.log_end()));
        }
        outcome?;
        self.stop()
    }

    /// Asks the bus to stop, and waits until it has.
    ///
    /// # Errors
    /// Where it does not stop in time, or says that something was wrong.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    /// Ends the bus as a crash does: `kill -9`. Its folder stays.
    ///
    /// # Errors
    /// Where it has ended before.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks the bus to stop, and waits until it has. Its folder stays.
    ///
    /// # Errors
    /// As [`Self::stop`].
    pub fn end(&mut self) -> Result<()> {
        self.terminate()?;
        match self.exited(STOP_PATIENCE)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("the bus ended with {status}:\n{}", self.log_end()),
            None => bail!("the bus did not stop within {} s:\n{}", STOP_PATIENCE.as_secs(), self.log_end()),
        }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The folder in which the bus keeps its data.
    #[must_use]
    pub fn data_folder(&self) -> PathBuf {
        self.place.folder.path().join("sandpost-data")
    }

    /// Starts the bus that was ended or killed on its folder and at its address again, and waits until it takes requests.
    ///
    /// # Errors
    /// As [`Prepared::start`].
    pub fn start_again(&mut self) -> Result<()> {
        let address = self.client.url().trim_start_matches("http://").to_owned();
        let (child, answer) = self.place.spawn(&address)?;
        self.child = child;
        self.await_address(&answer)?;
        Ok(())
    }

    fn await_address(&mut self, answer: &Receiver<String>) -> Result<String> {
        answer.recv_timeout(PATIENCE).map_err(|_| {
            let ended = self.child.try_wait().ok().flatten();
            let how = ended.map_or("did not say its address".to_owned(), |status| format!("ended with {status}"));
            anyhow!("the bus {how}:\n{}", self.log_end())
        })
    }

    fn terminate(&self) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().try_into()?).context("a process has an id")?;
        Ok(kill_process(pid, Signal::TERM)?)
    }

    fn exited(&mut self, patience: Duration) -> Result<Option<std::process::ExitStatus>> {
        let begun = Instant::now();
        loop {
            match self.child.try_wait()? {
                None if begun.elapsed() < patience => std::thread::sleep(POLL),
                status => return Ok(status),
            }
        }
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        // After `stop` there is nothing left to do here; on the way out of an error there is.
        if matches!(self.child.try_wait(), Ok(None)) {
            let ended = self.terminate().and_then(|()| self.exited(STOP_PATIENCE));
            if !matches!(ended, Ok(Some(_))) {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }
}

impl Prepared {
    /// Puts a consumer there: its component, and its manifest under the same stem.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn add(&self, stem: &str, component: &Path, manifest: &str) -> Result<()> {
        put(&self.folder.path().join("plugins"), stem, component, manifest)
    }

    /// Sets a variable of the bus's environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the bus, and waits until it takes requests.
    ///
    /// # Errors
    /// Where it ends before, or takes too long; with the last lines of its log.
    pub fn start(self) -> Result<Bus> {
        let (child, answer) = self.spawn(LISTEN)?;
        // From here on the child is ended by `Drop`, whatever happens.
        let mut bus = Bus { child, client: Client::new(""), place: self };
        bus.client = Client::new(&bus.await_address(&answer)?);
        Ok(bus)
    }

    /// Starts the bus, and shows the command and what it says, as somebody would see it who types it.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_before_eyes(self) -> Result<Bus> {
        screen::command(&format!("sandpost {}", SERVE.join(" ")));
        let bus = self.start()?;
        screen::print(&format!("sandpost listening on {}", bus.client().url()));
        Ok(bus)
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Starts the process. It tells its address when it takes requests, or hangs up.
    fn spawn(&self, listen: &str) -> Result<(Child, Receiver<String>)> {
        let mut child = sandpost(&self.sandpost)
            .args(["serve", "--listen", listen])
            .envs(self.variables.iter().cloned())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(self.log())?)
            .spawn()
            .with_context(|| format!("{} does not start", self.sandpost.display()))?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let (sender, address) = mpsc::channel();
        // It reads on after the address, so that the bus never waits for somebody to read.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(url) = line.strip_prefix("sandpost listening on ") {
                    let _ = sender.send(url.trim().to_owned());
                }
            }
        });
        Ok((child, address))
    }
}

/// The binary, without the settings that the caller's environment may have for another bus.
fn sandpost(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SANDPOST_")) {
        command.env_remove(name);
    }
    command
}

fn put(folder: &Path, stem: &str, component: &Path, manifest: &str) -> Result<()> {
    fs::copy(component, folder.join(format!("{stem}.wasm")))?;
    fs::write(folder.join(format!("{stem}.toml")), manifest)?;
    Ok(())
}

fn last_lines(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
