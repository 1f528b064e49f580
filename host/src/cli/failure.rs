//! How a command fails: what is said, and the exit code that scripts read.

use std::process::ExitCode;

use serde_json::{Value, json};

/// The exit codes, as `sandpost --help` documents them.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0  it is done
  1  it failed: a file, the bus itself, or a consumer that does not load; or it was interrupted
  2  wrong usage: an argument, a setting or a combination of them
  3  what was named is not there
  4  the bus cannot be reached
  5  the bus refuses it: a bad topic or event, too large, still in use
  6  not now: the bus is busy, full or stopping, or the wait was over; try again later
  7  the consumer did not acknowledge the message that it was run with";

/// What the bus says to whoever asks over HTTP, and the same for whoever types.
const IN_COMMANDS: [(&str, &str); 8] = [
    ("`GET /topics`", "`sandpost topics list`"),
    ("`GET /subscriptions`", "`sandpost subscriptions list`"),
    ("`GET /dead-letters`", "`sandpost dead-letters list`"),
    ("`GET /scheduled`", "`sandpost scheduled list`"),
    ("`GET /plugins`", "`sandpost plugins list`"),
    ("`GET /state/{consumer}`", "`sandpost state scan CONSUMER`"),
    ("`GET /state`", "`sandpost state list`"),
    (" A plain body needs no CloudEvents header at all.", ""),
];

fn in_commands(hint: &str) -> String {
    IN_COMMANDS.iter().fold(hint.to_owned(), |hint, (over_http, typed)| hint.replace(over_http, typed))
}

/// Why a command did not do what it was told.
#[derive(Debug)]
pub(crate) enum Failure {
    Failed(String),
    Usage(String),
    NotFound(String),
    Unreachable(String),
    NotNow(String),
    /// The bus answered with a problem document.
    Problem {
        status: u16,
        document: Value,
    },
    /// A consumer was run, and what became of it was printed.
    NotAcked,
    /// Whoever read our output has read enough.
    OutputClosed,
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::NotFound(_) | Self::Problem { status: 404, .. } => 3,
            Self::Unreachable(_) => 4,
            Self::NotNow(_) | Self::Problem { status: 408 | 429 | 503 | 507, .. } => 6,
            Self::NotAcked => 7,
            Self::Problem { status: 400..=499, .. } => 5,
            Self::Problem { .. } => 1,
        }
    }

    /// Says it on stderr, for people or as a line of JSON, and gives the exit code.
    pub(crate) fn report(&self, as_json: bool) -> ExitCode {
        let (text, document) = match self {
            Self::OutputClosed => return ExitCode::SUCCESS,
            Self::NotAcked => return ExitCode::from(self.code()),
            Self::Problem { document, .. } => {
                let member = |name: &str| document[name].as_str().unwrap_or_default();
                let mut text = member("detail").to_owned();
                if text.is_empty() {
                    text = member("title").to_owned();
                }
                if !member("hint").is_empty() {
                    text = format!("{text}\n{}", in_commands(member("hint")));
                }
                (super::output::clean(&text), document.clone())
            }
            Self::Failed(text)
            | Self::Usage(text)
            | Self::NotFound(text)
            | Self::Unreachable(text)
            | Self::NotNow(text) => (text.clone(), json!({ "detail": text })),
        };
        if as_json {
            eprintln!("{document}");
        } else {
            eprintln!("sandpost: {text}");
        }
        ExitCode::from(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::problem::KINDS;

    #[test]
    fn no_hint_sends_whoever_types_to_http() {
        assert!(KINDS.iter().any(|kind| kind.hint.contains("GET /")));
        for kind in KINDS {
            let typed = in_commands(kind.hint);
            assert!(!typed.contains("GET /"), "{typed}");
        }
    }

    #[test]
    fn exit_codes_follow_the_status_of_a_problem() {
        let table =
            [(400, 5), (404, 3), (408, 6), (409, 5), (413, 5), (421, 5), (429, 6), (500, 1), (503, 6), (507, 6)];
        for (status, code) in table {
            assert_eq!(Failure::Problem { status, document: json!({}) }.code(), code, "{status}");
        }
    }
}
