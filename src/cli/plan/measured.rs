//! Times of kernels that were measured on a chip, as `kernels bench --json` writes them.

use crate::{
    cli::chips::Chip,
    error::{Error, Result},
    plan::Rehearsed,
};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// One measured call.
#[derive(Clone, Debug, Deserialize)]
struct Call {
    op: String,
    dims: Vec<Vec<usize>>,
    dtype: String,
    pass: String,
    variant: String,
    chip: String,
    emulated: bool,
    cold_ms: f64,
    flop: f64,
    bytes: f64,
    problem: Option<String>,
}

/// The calls that were measured on one chip.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    calls: Vec<Call>,
}

/// Files of `path`: itself, or those of the folder that hold lines of JSON.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.into()]);
    }
    let entries = std::fs::read_dir(path).map_err(Error::file("list", path))?;
    let mut all: Vec<PathBuf> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|x| x == "json" || x == "jsonl"))
        .collect();
    all.sort();
    Ok(all)
}

impl Measured {
    /// What the files and folders `paths` hold of `chip`.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Format`] for a file without a single measured call, [`Error::Config`] where none of
    /// them is of this chip.
    pub fn read(paths: &[PathBuf], chip: &Chip) -> Result<Self> {
        let (mut calls, mut others) = (vec![], vec![]);
        for path in paths {
            let mut found = 0;
            for file in files(path)? {
                let text = std::fs::read_to_string(&file).map_err(Error::file("read", &file))?;
                let rows = text.lines().filter_map(|l| serde_json::from_str::<Call>(l).ok());
                for call in rows.filter(|c| !c.emulated && c.problem.is_none()) {
                    found += 1;
                    match chip.is(&call.chip) {
                        true => calls.push(call),
                        false => others.push(call.chip),
                    }
                }
            }
            if found == 0 {
                return Err(Error::Format {
                    path: path.clone(),
                    found: "no call that was measured on a GPU".into(),
                    expected: "lines of `selvedge kernels bench --device cuda --json`".into(),
                    fix: "name the file or folder that tools/gpu.sh wrote".into(),
                });
            }
        }
        if calls.is_empty() && !paths.is_empty() {
            others.sort();
            others.dedup();
            return Err(Error::Config {
                key: "--measured".into(),
                found: others.join(", "),
                expected: chip.name().into(),
                fix: "name results of this chip, or another --chip".into(),
            });
        }
        Ok(Self { calls })
    }

    /// The measured time of a step: the same operation, operands, gradients, variant and work.
    pub fn us(&self, step: &Rehearsed) -> Option<f64> {
        let dtype = step.dtype.to_string();
        let same = |c: &&Call| {
            c.op == step.op
                && extents(&c.dims) == extents(&step.dims)
                && c.dtype == dtype
                && c.variant == step.variant
                && c.flop == step.cost.flop
                && c.bytes == step.cost.bytes
                && pass_is(&c.pass, step.wants.as_deref())
        };
        self.calls.iter().find(same).map(|c| c.cold_ms * 1e3)
    }
}

/// Elements and columns of every operand: rows may be one axis of a case and several of a step.
fn extents(dims: &[Vec<usize>]) -> Vec<(usize, usize)> {
    dims.iter().map(|d| (d.iter().product(), d.last().copied().unwrap_or(1))).collect()
}

/// Whether a measured pass is the one that wants these gradients. `backward` alone means all that a case has, and
/// its work tells them apart; `backward[0,2]` names them.
fn pass_is(pass: &str, wants: Option<&[bool]>) -> bool {
    let Some(wants) = wants else { return pass == "forward" };
    let wanted = (0..wants.len()).filter(|i| wants[*i]).map(|i| i.to_string());
    pass == "backward" || pass == format!("backward[{}]", wanted.collect::<Vec<_>>().join(","))
}
