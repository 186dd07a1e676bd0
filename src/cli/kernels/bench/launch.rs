//! What launching costs: this program's own launcher beside cust's, in turns.

use super::{Bed, Pass, stats::Comparison, stats::median};
use crate::{
    device::Cuda,
    error::{Error, Result},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Instant};

/// Calls between two looks at the clock: few enough for the driver's queue, many for the clock.
const CALLS: usize = 50;

/// Who loads and launches the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Launcher {
    /// This program.
    Own,
    /// This program and the crate cust in turns, with the launch cost of both.
    Cust,
}

/// Host time of one call, in microseconds, by both launchers.
#[derive(Clone, Debug)]
pub struct LaunchCost {
    own_us: f64,
    cust_us: f64,
    comparison: Comparison,
}

impl LaunchCost {
    /// As the table says it.
    pub fn text(&self) -> String {
        format!(
            "launch: own {:.2} us, cust {:.2} us; {}",
            self.own_us,
            self.cust_us,
            self.comparison.verdict("own", "cust")
        )
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        json!({
            "own_us": self.own_us, "cust_us": self.cust_us, "ratio": self.comparison.ratio,
            "low": self.comparison.low, "high": self.comparison.high,
        })
    }
}

/// Whether this build can launch as asked.
///
/// # Errors
/// [`Error::Config`] for cust without its feature, and with `--programmatic`.
pub fn allow(launcher: Launcher, programmatic: bool) -> Result<()> {
    let (found, expected, fix) = if launcher == Launcher::Own {
        return Ok(());
    } else if programmatic {
        ("cust with --programmatic", "own: cust 0.3 has no such launch", "leave one of them out")
    } else if !cfg!(feature = "cust") {
        ("cust", "own in this build", "build with --features cust")
    } else {
        return Ok(());
    };
    let key = "--launcher".into();
    Err(Error::Config { key, found: found.into(), expected: expected.into(), fix: fix.into() })
}

/// Opens cust beside the program's own launcher.
///
/// # Errors
/// Those of the driver.
#[cfg(feature = "cust")]
pub fn open(cuda: &Cuda) -> Result<()> {
    cuda.open_cust()
}

/// Nothing to open; [`allow`] has refused.
#[cfg(not(feature = "cust"))]
pub fn open(_: &Cuda) -> Result<()> {
    Ok(())
}

#[cfg(feature = "cust")]
fn by_cust<T>(cuda: &Cuda, work: impl FnOnce() -> Result<T>) -> Result<T> {
    cuda.through_cust(work)
}

#[cfg(not(feature = "cust"))]
fn by_cust<T>(_: &Cuda, work: impl FnOnce() -> Result<T>) -> Result<T> {
    work()
}

/// Measures `pass` through both launchers, after cust has written every result once.
///
/// # Errors
/// Those of the operation; [`Error::Plan`] where cust cannot launch its kernels.
pub fn cost(cuda: &Arc<Cuda>, bed: &Bed<'_>, pass: &Pass, rounds: usize) -> Result<LaunchCost> {
    bed.poison_results(pass)?;
    by_cust(cuda, || bed.run(0, pass))?;
    if let Some(problem) = bed.unwritten(pass)? {
        return Err(Error::Plan { at: "cust".into(), problem });
    }
    let calls = |n: usize| (0..n).try_for_each(|_| bed.run(0, pass));
    let timed = || {
        let begin = Instant::now();
        calls(CALLS)?;
        Ok::<_, Error>(begin.elapsed().as_secs_f64() * 1e6 / CALLS as f64)
    };
    let mut times = [vec![], vec![]];
    for round in 0..=rounds.max(1) {
        let mut pair = [0.0; 2];
        for i in [round % 2, 1 - round % 2] {
            pair[i] = if i == 0 { timed()? } else { by_cust(cuda, timed)? };
            cuda.synchronize()?;
        }
        if round > 0 {
            times.iter_mut().zip(pair).for_each(|(all, us)| all.push(us));
        }
    }
    let [own, cust] = &times;
    let comparison = Comparison::of(own, cust);
    Ok(LaunchCost { own_us: median(own), cust_us: median(cust), comparison })
}
