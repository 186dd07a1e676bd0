//! The `selvedge` command.

use clap::Parser;
use selvedge::cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run(cli::Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            cli::common::note(&format!("error: {error}"));
            ExitCode::from(2)
        }
    }
}
