//! One process of the binary: its output as it comes, its end, its memory.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::PATIENCE;

/// What the daemon prints once it serves.
const READY: &str = "sandpost listening on ";
/// Lines of output that a failing test shows.
const TAIL_LINES: usize = 40;

/// How a process ended, and what it printed.
#[derive(Clone, Debug)]
pub struct Exit {
    /// `None` where a signal ended it.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Exit {
    fn new(status: ExitStatus, printed: &Printed) -> Self {
        let (stdout, stderr) = (printed.stdout.clone(), printed.stderr.clone());
        Self { code: status.code(), signal: status.signal(), stdout, stderr }
    }

    /// # Panics
    /// Unless it ended well.
    #[track_caller]
    pub fn success(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{self}");
        self
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(formatter, "exit code {:?}, signal {:?}", self.code, self.signal)?;
        writeln!(formatter, "--- stdout\n{}--- stderr\n{}", tail(&self.stdout), tail(&self.stderr))
    }
}

/// What a process printed so far.
#[derive(Default)]
pub(crate) struct Output {
    printed: Mutex<Printed>,
    more: Condvar,
}

#[derive(Default)]
struct Printed {
    stdout: String,
    stderr: String,
    closed: usize,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Printed> {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(
        self: &Arc<Self>,
        pipe: impl Read + Send + 'static,
        of: fn(&mut Printed) -> &mut String,
    ) -> JoinHandle<()> {
        let output = self.clone();
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
                of(&mut output.lock()).push_str(&String::from_utf8_lossy(&line));
                output.more.notify_all();
                line.clear();
            }
            output.lock().closed += 1;
            output.more.notify_all();
        })
    }

    /// All that was logged and printed.
    pub(crate) fn text(&self) -> String {
        let printed = self.lock();
        format!("{}{}", printed.stdout, printed.stderr)
    }

    /// The end of it, for the message of a failure.
    pub(crate) fn tail(&self) -> String {
        let printed = self.lock();
        format!("--- the bus printed\n{}{}---\n", tail(&printed.stdout), tail(&printed.stderr))
    }

    /// The address that the daemon prints when it serves, or `None` if it ended before.
    fn ready(&self) -> Option<String> {
        let address = |printed: &Printed| {
            let line = printed.stdout.lines().find_map(|line| line.strip_prefix(READY))?;
            // Only a whole line: the rest of the address may still be on its way.
            printed.stdout.ends_with('\n').then(|| line.trim().to_owned())
        };
        let undecided = |printed: &mut Printed| address(printed).is_none() && printed.closed < 2;
        let (printed, timeout) =
            self.more.wait_timeout_while(self.lock(), PATIENCE, undecided).unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "the daemon neither serves nor ends: {}", printed.stderr);
        address(&printed)
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    shown.iter().fold(String::new(), |mut all, line| {
        let _ = writeln!(all, "{line}");
        all
    })
}

/// A process that runs. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) output: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = Arc::new(Output::default());
        let stdout = child.stdout.take().expect("it is piped");
        let stderr = child.stderr.take().expect("it is piped");
        let readers = vec![
            output.follow(stdout, |printed| &mut printed.stdout),
            output.follow(stderr, |printed| &mut printed.stderr),
        ];
        Self { child, output, readers }
    }

    /// Waits until it serves, and answers its address; or how it ended instead.
    pub(crate) fn serves(&mut self) -> Result<String, Exit> {
        match self.output.ready() {
            Some(address) => Ok(address),
            None => Err(self.ends(PATIENCE)),
        }
    }

    /// # Panics
    /// Where it does not end.
    #[track_caller]
    pub(crate) fn ends(&mut self, patience: Duration) -> Exit {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            assert!(began.elapsed() < patience, "the process does not end\n{}", self.output.tail());
            std::thread::sleep(Duration::from_millis(5));
        };
        for reader in self.readers.drain(..) {
            // It ends with the pipe, and a panic there has been printed.
            let _ = reader.join();
        }
        Exit::new(status, &self.output.lock())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("a child that was not waited for can be sent a signal");
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// The most memory that it held at once, in bytes.
    pub(crate) fn peak_resident_bytes(&self) -> u64 {
        let kib = self.status("VmHWM:").trim_end_matches("kB").trim().parse::<u64>();
        kib.expect("it is a number of kB") * 1024
    }

    /// The memory that it holds now, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let kib = self.status("VmRSS:").trim_end_matches("kB").trim().parse::<u64>();
        kib.expect("it is a number of kB") * 1024
    }

    /// From now on no file of it may be larger than this.
    pub(crate) fn limit_file_bytes(&self, bytes: Option<u64>) {
        use rustix::process::{Resource, Rlimit, prlimit};
        let pid = Pid::from_child(&self.child);
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Some(pid), Resource::Fsize, limit).expect("a child's limits are its parent's to set");
    }

    /// Threads that it has now.
    pub(crate) fn threads(&self) -> usize {
        self.status("Threads:").parse().expect("it is a number")
    }

    /// A line of what Linux tells of the process.
    fn status(&self, name: &str) -> String {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{path} has no line {name}")).trim().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
