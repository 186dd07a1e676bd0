//! `selvedge kernels`: what is compiled in, whether it is right on a device, and how fast it is.

mod bench;
mod check;
mod isolate;
mod list;
mod replay;
mod variants;

use super::common::Kernels;
use crate::{
    device::{Cuda, Device},
    error::{Error, Result},
};
use clap::Subcommand;
use std::sync::Arc;

/// Lists, checks and measures the compiled kernels.
///
/// Example: selvedge kernels check --device emulated --op latent_mix
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Action,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// Every embedded kernel: target, tile, threads, registers, shared memory, spills, occupancy.
    List(list::List),
    /// Which variant serves which shape, and the names of all.
    Variants(variants::Variants),
    /// Compares every kernel with the CPU on its list of cases; exit code 1 if one differs.
    Check(check::Check),
    /// Measures kernels against the chip's limits, a library, or one another.
    Bench(Box<bench::Bench>),
    /// Runs one operation that --capture recorded alone, compares it with the CPU and measures it.
    Replay(replay::Replay),
}

/// Runs the command; the value is the exit code.
///
/// # Errors
/// A device that cannot be opened, a driver error, a damaged object.
pub fn run(args: Args) -> Result<u8> {
    match args.command {
        Action::List(list) => list.run(),
        Action::Variants(variants) => variants.run(),
        Action::Check(check) => check.run(),
        Action::Bench(bench) => bench::run(&bench),
        Action::Replay(replay) => replay.run(),
    }
}

/// A device that has kernels, with those of the flags put in.
fn open(word: &str, kernels: &Kernels) -> Result<Arc<Cuda>> {
    let device = Device::parse(word)?;
    kernels.put_into(&device)?;
    match device {
        Device::Cuda(cuda) => Ok(cuda),
        Device::Cpu => Err(Error::Config {
            key: "--device".into(),
            found: word.into(),
            expected: "cuda[:N] or emulated".into(),
            fix: "the CPU is what the kernels are compared with".into(),
        }),
    }
}
