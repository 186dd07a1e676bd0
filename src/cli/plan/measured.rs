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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{op::Cost, tensor::DType};

    fn step(wants: Option<&[bool]>) -> Rehearsed {
        Rehearsed {
            what: String::new(),
            scope: String::new(),
            op: "linear",
            dims: vec![vec![2, 3, 8], vec![4, 8]],
            dtype: DType::Bf16,
            wants: wants.map(<[bool]>::to_vec),
            variant: "tile".into(),
            cost: Cost { flop: 384.0, bytes: 208.0 },
            launches: vec![],
        }
    }

    /// A line of `kernels bench --json` on an H200, with rows as one axis.
    fn line(pass: &str, dtype: &str, problem: Option<&str>) -> String {
        serde_json::json!({
            "op": "linear", "dims": [[6, 8], [4, 8]], "dtype": dtype, "pass": pass, "variant": "tile",
            "chip": "NVIDIA H200", "emulated": false, "cold_ms": 5.0, "flop": 384.0, "bytes": 208.0,
            "problem": problem,
        })
        .to_string()
    }

    fn us(line: String, wants: Option<&[bool]>) -> Option<f64> {
        Measured { calls: vec![serde_json::from_str(&line).unwrap()] }.us(&step(wants))
    }

    #[test]
    fn a_time_counts_for_the_same_type_and_gradients_only() {
        let (forward, input) = (None, Some(&[true, false][..]));
        assert_eq!(us(line("forward", "bf16", None), forward), Some(5000.0));
        assert_eq!(us(line("forward", "f16", None), forward), None);
        assert_eq!(us(line("backward[0]", "bf16", None), input), Some(5000.0));
        assert_eq!(us(line("backward", "bf16", None), input), Some(5000.0));
        for pass in ["forward", "backward[1]", "backward[0,1]"] {
            assert_eq!(us(line(pass, "bf16", None), input), None, "{pass}");
        }
        assert_eq!(us(line("backward", "bf16", None), forward), None);
    }

    #[test]
    fn a_call_whose_result_was_wrong_has_no_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kernels.jsonl");
        let chip = Chip::h200().unwrap();
        let all = [line("forward", "bf16", Some("differs")), line("backward", "bf16", None)];
        std::fs::write(&file, all.join("\n")).unwrap();
        let measured = Measured::read(std::slice::from_ref(&file), &chip).unwrap();
        assert_eq!(measured.us(&step(None)), None);
        assert!(measured.us(&step(Some(&[true, true]))).is_some());
        std::fs::write(&file, &all[0]).unwrap();
        let error = Measured::read(&[file], &chip).unwrap_err().to_string();
        assert!(error.contains("no call that was measured"), "{error}");
    }
}
