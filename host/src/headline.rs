//! The one line of an error that says most, for lists: what a language prints of an error need not begin with it.

/// Stands between why a call ended and what the guest printed.
pub(crate) const PRINTED: &str = "\nthe guest printed:\n";
/// Stands before the frames.
pub(crate) const BACKTRACE: &str = "\nbacktrace:";

/// How a trap begins of which the language itself has said why: it is how they all end a program.
const ABORTED: &str = "wasm trap: wasm `unreachable` instruction executed";
/// What Python prints first; the error comes last.
const TRACEBACK: &str = "Traceback (most recent call last):";
/// How languages begin to say why: Go, Go again, C.
const REASONS: [&str; 3] = ["panic: ", "fatal error: ", "Assertion failed"];

pub(crate) fn headline(text: &str) -> &str {
    let first = text.lines().next().unwrap_or_default();
    let telling = if first == TRACEBACK {
        text.lines().rfind(|line| !line.is_empty() && !line.starts_with(char::is_whitespace))
    } else if first == ABORTED {
        text.split_once(PRINTED).and_then(|(_, rest)| of_printed(rest.split(BACKTRACE).next().unwrap_or(rest)))
    } else {
        None
    };
    telling.unwrap_or(first)
}

fn of_printed(printed: &str) -> Option<&str> {
    let mut lines = printed.lines();
    while let Some(line) = lines.next() {
        // Rust says where, and in the next line why.
        if line.starts_with("thread '") && line.ends_with(':') {
            return lines.next().or(Some(line));
        }
        if REASONS.iter().any(|reason| line.starts_with(reason)) {
            return Some(line);
        }
    }
    printed.lines().rfind(|line| !line.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_every_language_the_line_with_the_reason_is_found() {
        let trapped = |printed: &str| format!("{ABORTED}{PRINTED}{printed}{BACKTRACE}\n  0: 0x1 - handle");
        let table = [
            ("no format for amounts in \"JPY\"\nsecond line".to_owned(), "no format for amounts in \"JPY\""),
            (
                trapped("printed\npanic: assignment to entry in nil map\n\ngoroutine 1 [running]:"),
                "panic: assignment to entry in nil map",
            ),
            (trapped("fatal error: all goroutines are asleep"), "fatal error: all goroutines are asleep"),
            (
                trapped(
                    "x\n\nthread '<unnamed>' (1) panicked at src/lib.rs:24:5:\nindex out of bounds\nnote: run with",
                ),
                "index out of bounds",
            ),
            (
                trapped("printed\nAssertion failed: total == 1 (src/consumer.c: handle: 39)"),
                "Assertion failed: total == 1 (src/consumer.c: handle: 39)",
            ),
            (trapped("boom 3\n\n"), "boom 3"),
            (trapped(""), ABORTED),
            (format!("{ABORTED}{BACKTRACE}\n  0: 0x1 - handle"), ABORTED),
            (format!("wasm trap: integer divide by zero{PRINTED}10 bytes,"), "wasm trap: integer divide by zero"),
            (
                format!("{TRACEBACK}\n  File \"/0/app.py\", line 17, in handle\nKeyError: 'field'\n"),
                "KeyError: 'field'",
            ),
            (TRACEBACK.to_owned(), TRACEBACK),
            (String::new(), ""),
        ];
        for (text, expected) in &table {
            assert_eq!(headline(text), *expected, "{text}");
        }
    }
}
