//! What all commands share: flags of everything that computes, output that survives a closed pipe.

use crate::{
    device::{Cuda, Device},
    error::{Error, Result},
    tensor::DType,
};
use clap::Args;
use std::io::Write as _;

/// Flags of every command that computes.
#[derive(Clone, Debug, Args)]
pub struct Compute {
    /// Where and in which element type.
    #[command(flatten)]
    pub place: Place,
    /// Seed of everything random.
    #[arg(long, default_value_t = 42, value_name = "N")]
    pub seed: u64,
    /// Bitwise repeatable results (the CPU always is, for a given number of threads).
    #[arg(long)]
    pub deterministic: bool,
}

/// Where to compute, and how numbers are stored there.
#[derive(Clone, Debug, Args)]
pub struct Place {
    /// Where to compute: cpu, cuda[:N], emulated[:early|:late|:random:SEED], or auto: a GPU if there is one.
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub device: String,
    /// Element type of weights and activations: f32, bf16 or f16; bf16 on a GPU when left out, else f32.
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<String>,
}

impl Place {
    /// The device and the element type.
    ///
    /// # Errors
    /// For an unknown word, a device that is not there, or an element type it cannot compute in.
    pub fn open(&self) -> Result<(Device, DType)> {
        let asked = self.dtype.as_deref().map(dtype).transpose()?;
        let device = match self.device.as_str() {
            "auto" => Cuda::open(0).map_or(Device::Cpu, Device::Cuda),
            word => Device::parse(word)?,
        };
        let natural = if device.name().starts_with("cuda") { DType::Bf16 } else { DType::F32 };
        let dtype = asked.unwrap_or(natural);
        if dtype != DType::F32 && matches!(device, Device::Cpu) {
            return Err(Error::Config {
                key: "--dtype".into(),
                found: dtype.to_string(),
                expected: "f32 on the CPU".into(),
                fix: "leave --dtype out, or use a GPU".into(),
            });
        }
        Ok((device, dtype))
    }
}

/// The element type of a word.
///
/// # Errors
/// For an unknown word.
pub fn dtype(word: &str) -> Result<DType> {
    match word {
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
