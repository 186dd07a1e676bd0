//! What all commands share: flags of everything that computes, output that survives a closed pipe.

use crate::{
    device::Device,
    error::{Error, Result},
    tensor::DType,
};
use clap::Args;
use std::io::Write as _;

/// Flags of every command that computes.
#[derive(Clone, Debug, Args)]
pub struct Compute {
    /// Where to compute: cpu, emulated, or cuda[:N].
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: String,
    /// Element type of weights and activations: f32, bf16 or f16 (the CPU computes in f32).
    #[arg(long, default_value = "f32", value_name = "TYPE")]
    pub dtype: String,
    /// Seed of everything random.
    #[arg(long, default_value_t = 42, value_name = "N")]
    pub seed: u64,
    /// Bitwise repeatable results (the CPU always is, for a given number of threads).
    #[arg(long)]
    pub deterministic: bool,
}

impl Compute {
    /// The device.
    ///
    /// # Errors
    /// For an unknown word, a device that is not there, or an element type it cannot compute in.
    pub fn device(&self) -> Result<Device> {
        let device = Device::parse(&self.device)?;
        if self.dtype()? != DType::F32 && matches!(device, Device::Cpu) {
            return Err(Error::Config {
                key: "--dtype".into(),
                found: self.dtype.clone(),
                expected: "f32 on the CPU".into(),
                fix: "leave --dtype out, or use a GPU".into(),
            });
        }
        Ok(device)
    }

    /// The element type.
    ///
    /// # Errors
    /// For an unknown word.
    pub fn dtype(&self) -> Result<DType> {
        match self.dtype.as_str() {
            "f32" => Ok(DType::F32),
            "bf16" => Ok(DType::Bf16),
            "f16" => Ok(DType::F16),
            other => Err(Error::Config {
                key: "--dtype".into(),
                found: other.into(),
                expected: "f32, bf16 or f16".into(),
                fix: "choose one of these".into(),
            }),
        }
    }
}

/// Writes a result to stdout; a reader that went away ends the process quietly.
pub fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    if stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Tells the user something on stderr.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Warns the user on stderr.
pub fn warn(text: &str) {
    note(&format!("warning: {text}"));
}
