//! The commands: one file each, with its flags, help and run.

pub mod advice;
pub mod bench;
pub mod chips;
pub mod common;
pub mod convert;
pub mod evaluate;
pub mod export;
pub mod forward;
pub mod generate;
pub mod inpaint;
pub mod kernels;
pub mod mix;
pub mod pictures;
pub mod plan;
pub mod plot;
mod progress;
pub mod quickstart;
pub mod report;
pub mod scene;
pub mod score;
pub mod segment;
pub mod steer;
pub mod train;

use crate::{
    device::cpu::Isa,
    error::{Error, Result},
};
use clap::{Parser, Subcommand};

/// Personalize a text-to-image model with several subjects, without mixing their identities.
#[derive(Debug, Parser)]
#[command(name = "selvedge", version, about)]
pub struct Cli {
    /// Threads to compute with; as many as there are cores when left out.
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands; each one's help stands at its own type.
#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum Command {
    Quickstart(quickstart::Quickstart),
    Train(Box<train::Args>),
    Mix(mix::MixArgs),
    Generate(Box<generate::Generate>),
    Segment(Box<segment::SegmentArgs>),
    Inpaint(Box<inpaint::InpaintArgs>),
    Score(Box<score::ScoreArgs>),
    Evaluate(evaluate::Args),
    Forward(Box<forward::Args>),
    Plan(plan::Args),
    Bench(bench::Args),
    Convert(convert::ConvertArgs),
    Export(export::ExportArgs),
    Kernels(kernels::Args),
}

/// Runs a command; the value is the exit code (0 ok, 1 a check failed).
///
/// # Errors
/// Those of the command; the process then exits with 2.
pub fn run(cli: Cli) -> Result<u8> {
    Isa::asked()?;
    if let Some(threads) = cli.threads {
        use_threads(threads)?;
    }
    let code = run_command(cli)?;
    for word in crate::kernels::variant::never_taken() {
        common::warn(&format!("--variant {word} applied to nothing that ran; other variants did"));
    }
    crate::kernels::recorded::finish()?;
    Ok(code)
}

/// Gives the pool so many threads, before anything uses it.
fn use_threads(threads: usize) -> Result<()> {
    const MOST: usize = 1024;
    let refuse = |fix: String| Error::Config {
        key: "--threads".into(),
        found: threads.to_string(),
        expected: format!("1 to {MOST}"),
        fix,
    };
    if threads == 0 || threads > MOST {
        return Err(refuse("leave it out for one thread a core".into()));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build_global().map_err(|e| refuse(format!("the system says: {e}")))
}

fn run_command(cli: Cli) -> Result<u8> {
    match cli.command {
        Command::Quickstart(c) => c.run(),
        Command::Train(c) => train::run(*c),
        Command::Mix(c) => c.run(),
        Command::Generate(c) => c.run(),
        Command::Inpaint(c) => inpaint::run(&c),
        Command::Segment(c) => segment::run(&c),
        Command::Score(c) => score::run(&c),
        Command::Evaluate(c) => evaluate::run(&c),
        Command::Forward(c) => forward::run(&c),
        Command::Plan(c) => plan::run(c),
        Command::Bench(c) => bench::run(c),
        Command::Convert(c) => convert::run(&c),
        Command::Export(c) => export::run(&c),
        Command::Kernels(c) => kernels::run(c),
    }
}
