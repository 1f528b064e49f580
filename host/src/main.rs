//! The binary `sandpost`.

use std::process::ExitCode;

fn main() -> ExitCode {
    sandpost::cli::run()
}
