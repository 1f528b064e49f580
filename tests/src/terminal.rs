//! A command as somebody runs it who sits before it: in a pseudo-terminal, with Ctrl-C.

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::PATIENCE;

/// A command in a terminal of its own. It is killed when this is dropped.
pub struct Terminal {
    child: Child,
    keyboard: ChildStdin,
    screen: Arc<(Mutex<Screen>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Screen {
    text: String,
    closed: bool,
}

impl Terminal {
    /// Runs words of a shell, with the surroundings of a command. `script`, which makes the terminal, is a part of
    /// every Debian.
    pub(crate) fn start(words: &str, surroundings: &Command) -> Self {
        let mut command = Command::new("script");
        // Whoever began the tests may have had Ctrl-C ignored, as shells do for what they run in the background.
        let sized = format!("stty cols 100 rows 30; exec env --default-signal=INT {words}");
        command.args(["--quiet", "--flush", "--return", "--command", &sized, "/dev/null"]);
        command.env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        if let Some(folder) = surroundings.get_current_dir() {
            command.current_dir(folder);
        }
        for (name, value) in surroundings.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (keyboard, mut output) =
            (child.stdin.take().expect("it is piped"), child.stdout.take().expect("it is piped"));
        let screen = Arc::new((Mutex::new(Screen::default()), Condvar::new()));
        let shown = screen.clone();
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            loop {
                let count = output.read(&mut bytes).unwrap_or(0);
                let mut screen = shown.0.lock().unwrap_or_else(PoisonError::into_inner);
                screen.text.push_str(&String::from_utf8_lossy(&bytes[..count]));
                screen.closed = count == 0;
                shown.1.notify_all();
                if screen.closed {
                    return;
                }
            }
        });
        Self { child, keyboard, screen, reader: Some(reader) }
    }

    /// Waits until something was shown. What is shown for a moment only counts as well.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        let (screen, more) = &*self.screen;
        let screen = screen.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = |screen: &mut Screen| !screen.text.contains(text) && !screen.closed;
        let (screen, _) = more.wait_timeout_while(screen, PATIENCE, missing).unwrap_or_else(PoisonError::into_inner);
        assert!(screen.text.contains(text), "`{text}` is not shown, but:\n{}", screen.text);
    }

    /// All that was shown so far.
    #[must_use]
    pub fn text(&self) -> String {
        self.screen.0.lock().unwrap_or_else(PoisonError::into_inner).text.clone()
    }

    pub fn ctrl_c(&mut self) {
        self.keyboard.write_all(b"\x03").expect("the terminal takes keys");
        self.keyboard.flush().expect("the terminal takes keys");
    }

    /// Waits for its end. Answers its exit code and all that was shown.
    #[track_caller]
    pub fn ends(mut self) -> (Option<i32>, String) {
        let (screen, more) = &*self.screen;
        let guard = screen.lock().unwrap_or_else(PoisonError::into_inner);
        let (screen, timeout) =
            more.wait_timeout_while(guard, PATIENCE, |screen| !screen.closed).unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "the command does not end:\n{}", screen.text);
        let text = screen.text.clone();
        drop(screen);
        let status = self.child.wait().expect("a child can be waited for");
        (status.code(), text)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both fail where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
