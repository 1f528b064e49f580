//! The binary `sandpost`.

use std::process::ExitCode;

fn main() -> ExitCode {
    sandpost::cli::run(|_config| anyhow::bail!("this build has no bus"))
}
