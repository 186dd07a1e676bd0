//! `selvedge kernels check`.

use super::super::common::{Kernels, dtype, note, out};
use crate::{
    error::{Error, Result},
    kernels::compare::{Outcome, compare},
    tensor::DType,
};

/// Flags of `check`.
#[derive(Clone, Debug, clap::Args)]
pub struct Check {
    /// Where: cuda[:N] or emulated[:early|:late|:random:SEED].
    #[arg(long, default_value = "cuda", value_name = "DEVICE")]
    device: String,
    /// Only cases whose name contains this.
    #[arg(long, default_value = "", value_name = "TEXT")]
    op: String,
    /// Element types (repeatable): f32, bf16, f16; all by default.
    #[arg(long, value_name = "TYPE", default_values = ["f32", "bf16", "f16"])]
    dtype: Vec<String>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// Kernels to check instead of the built-in ones.
    #[command(flatten)]
    kernels: Kernels,
}

impl Check {
    /// Compares; exit code 1 when a result is wrong.
    ///
    /// # Errors
    /// A device that cannot be opened, a driver error, a filter that fits nothing.
    pub fn run(&self) -> Result<u8> {
        let dtypes = self.dtype.iter().map(|d| dtype(d)).collect::<Result<Vec<_>>>()?;
        let cuda = super::open(&self.device, &self.kernels)?;
        note(&format!("{} ({}, {})", cuda.name(), cuda.chip(), cuda.target().name()));
        let (mut compared, mut failed, mut without) = (0, 0, 0);
        for case in crate::kernels::cases().iter().filter(|c| c.name.contains(&self.op)) {
            for dtype in &dtypes {
                match compare(case, *dtype, &cuda)? {
                    Outcome::NoKernel => without += 1,
                    outcome => {
                        compared += 1;
                        failed += usize::from(!self.print(&case.name, *dtype, &outcome));
                    }
                }
            }
        }
        note(&format!(
            "{compared} comparisons, {failed} wrong; {without} without a kernel or of another type"
        ));
        if compared == 0 {
            return Err(Error::Config {
                key: "--op".into(),
                found: self.op.clone(),
                expected: "part of the name of a case with a kernel on this device".into(),
                fix: "leave --op out; `selvedge kernels list` shows the kernels".into(),
            });
        }
        Ok(u8::from(failed > 0))
    }

    /// Writes one line; whether the outcome is good.
    fn print(&self, name: &str, dtype: DType, outcome: &Outcome) -> bool {
        let (ok, error, detail) = match outcome {
            Outcome::Agrees { worst } if *worst == 0.0 => (true, 0.0, "bit-equal".to_string()),
            Outcome::Agrees { worst } => (true, *worst, format!("{worst:.2} of the allowed error")),
            Outcome::Differs { problem } => (false, f64::NAN, problem.clone()),
            Outcome::NoKernel => (true, 0.0, "no kernel".into()),
        };
        let word = if ok { "ok" } else { "WRONG" };
        out(&match self.json {
            true => {
                let line = serde_json::json!({
                    "case": name, "dtype": dtype.to_string(), "ok": ok, "error": error,
                    "detail": detail,
                });
                format!("{line}\n")
            }
            false => format!("{word:<5} {:<4} {name}: {detail}\n", dtype.to_string()),
        });
        ok
    }
}
