//! Asking a person before something that cannot be taken back.

use std::io::{IsTerminal, Write, stderr, stdin};

use super::failure::Failure;

/// Asks, unless `--yes` was said. A script, which nobody can answer for, has to say it.
pub(super) fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !stdin().is_terminal() {
        let text = "nobody is there to be asked: say --yes to do it, or --dry-run to see what it would come to";
        return Err(Failure::Usage(text.to_owned()));
    }
    let mut error = stderr();
    // Where the question cannot be written, nobody answers it with yes.
    let _ = write!(error, "{question} [y/N] ").and_then(|()| error.flush());
    let mut answer = String::new();
    let _ = stdin().read_line(&mut answer);
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::Failed("nothing was changed".to_owned()))
}
