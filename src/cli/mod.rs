//! The commands: one file each, with its flags, help and run.

pub mod bench;
pub mod common;
pub mod convert;
pub mod export;
pub mod forward;
pub mod generate;
pub mod kernels;
pub mod mix;
pub mod plan;
pub mod plot;
pub mod report;
pub mod train;

use crate::error::Result;
use clap::{Parser, Subcommand};

/// Personalize a text-to-image model with several subjects, without mixing their identities.
#[derive(Debug, Parser)]
#[command(name = "selvedge", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands; each one's help stands at its own type.
#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum Command {
    Mix(mix::Mix),
    Generate(Box<generate::Generate>),
    Forward(Box<forward::Args>),
    Convert(convert::ConvertArgs),
    Export(export::ExportArgs),
    Kernels(kernels::Args),
    #[allow(missing_docs)]
    Bench(bench::Args),
    #[allow(missing_docs)]
    Plan(plan::Args),
    #[allow(missing_docs)]
    Train(Box<train::Args>),
}

/// Runs a command; the value is the exit code (0 ok, 1 a check failed).
///
/// # Errors
/// Those of the command; the process then exits with 2.
pub fn run(cli: Cli) -> Result<u8> {
    match cli.command {
        Command::Mix(c) => c.run(),
        Command::Generate(c) => c.run(),
        Command::Forward(c) => forward::run(&c),
        Command::Convert(c) => convert::run(&c),
        Command::Export(c) => export::run(&c),
        Command::Kernels(c) => kernels::run(c),
        Command::Bench(c) => bench::run(c),
        Command::Plan(c) => plan::run(c),
        Command::Train(c) => train::run(*c),
    }
}
