//! `selvedge kernels replay`.

use super::{
    super::common::{Kernels, dtype, note, out},
    bench::{Bed, Pass, in_turns, median},
};
use crate::{
    error::{Error, Result},
    kernels::{
        compare::{Outcome, compare},
        recorded,
    },
};
use std::path::PathBuf;

/// Runs a recorded operation alone.
///
/// Example: selvedge forward .. --capture down.0.res.0.conv1=conv.safetensors
/// selvedge kernels replay conv.safetensors --device cuda
#[derive(Clone, Debug, clap::Args)]
pub struct Replay {
    /// What --capture wrote.
    file: PathBuf,
    /// Where: cuda[:N] or emulated[:early|:late|:random:SEED].
    #[arg(long, default_value = "cuda", value_name = "DEVICE")]
    device: String,
    /// Another element type than it was recorded in.
    #[arg(long, value_name = "TYPE")]
    dtype: Option<String>,
    /// Measured runs of each pass; the median counts.
    #[arg(long, default_value_t = 30, value_name = "N")]
    repeat: usize,
    /// Kernels to run instead of the built-in ones.
    #[command(flatten)]
    kernels: Kernels,
}

impl Replay {
    /// Compares and measures; exit code 1 when a result is wrong.
    ///
    /// # Errors
    /// A file that holds no operation, a device that cannot be opened or has no kernel for it.
    pub fn run(&self) -> Result<u8> {
        let recorded = recorded::read(&self.file)?;
        let asked = self.dtype.as_deref().map(dtype).transpose()?;
        let (case, dtype) = (&recorded.case, asked.unwrap_or(recorded.dtype));
        let cuda = super::open(&self.device, &self.kernels)?;
        let dims: Vec<String> = case.ins.iter().map(|s| format!("{:?}", s.dims)).collect();
        note(&format!("{} {:?} {dtype} {}", recorded.scope, case.op, dims.join(" ")));
        let (code, text) = match compare(case, dtype, &cuda)? {
            Outcome::Agrees { worst } => (0, format!("ok: {worst:.2} of the allowed error")),
            Outcome::Differs { problem } => (1, format!("WRONG: {problem}")),
            Outcome::Missing { problem } => (1, format!("MISSING: {problem}")),
            Outcome::OtherType => {
                return Err(Error::NoKernel {
                    op: case.op.name(),
                    key: format!("{dtype} on {}", cuda.name()),
                    tried: "the kernels of this build".into(),
                });
            }
        };
        out(&format!("{text}\n"));
        let emulated = cuda.name() == "emulated";
        let bed = Bed::new(case, dtype, &cuda, emulated)?;
        let mut passes = vec![Pass::Forward];
        if case.grads.contains(&true) {
            passes.push(Pass::Backward(case.grads.clone()));
        }
        for pass in &passes {
            let call = |copy| bed.run(copy, pass);
            let launches = bed.launches(emulated, &call)?;
            let (cold, warm) =
                (bed.graph(launches, true, &call)?, bed.graph(launches, false, &call)?);
            let times = in_turns(&[&cold, &warm], 1, self.repeat.max(1))?;
            let whose = if emulated { " (the emulator's own time)" } else { "" };
            out(&format!(
                "{}: {:.4} ms cold, {:.4} ms warm{whose}\n",
                pass.name(&case.grads),
                median(&times[0]),
                median(&times[1])
            ));
        }
        Ok(code)
    }
}
