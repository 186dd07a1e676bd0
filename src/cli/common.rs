//! What all commands share: flags of everything that computes, output that survives a closed pipe.

use crate::{
    device::{Cuda, Device, Swap},
    error::{Error, Result},
    kernels::{recorded, slots, variant},
    tensor::DType,
};
use clap::Args;
use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

/// Length of CLIP's texts.
pub const TOKENS: usize = 77;

/// Flags of every command that computes.
#[derive(Clone, Debug, Args)]
pub struct Compute {
    /// Where and in which element type.
    #[command(flatten)]
    pub place: DeviceArgs,
    /// Seed of everything random; results repeat bit for bit on a device (the CPU: with a number of threads).
    #[arg(long, default_value_t = 42, value_name = "N")]
    pub seed: u64,
}

/// Where to compute, and how numbers are stored there.
#[derive(Clone, Debug, Args)]
pub struct DeviceArgs {
    /// Where to compute: cpu, cuda[:N], emulated[:early|:late|:random:SEED], or auto: a GPU if there is one.
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub device: String,
    /// Element type of weights and activations: f32, bf16 or f16; bf16 on a GPU when left out, else f32. On the CPU of
    /// frozen weights of linear layers and convolutions only; with bf16 these layers and attention multiply numbers
    /// rounded to bf16 where the processor can (AMX, AVX-512-BF16). All else stays f32 there.
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<String>,
    /// Kernels to use instead of the built-in ones.
    #[command(flatten)]
    pub kernels: Kernels,
    /// Write the inputs of the operation in SCOPE (of its run number N) to FILE, for `kernels replay`.
    #[arg(long, value_name = "SCOPE[@N]=FILE")]
    pub capture: Option<String>,
}

/// Flags that put other kernels in the place of the built-in ones, for one run.
#[derive(Clone, Debug, Default, Args)]
pub struct Kernels {
    /// Take this variant of an operation wherever it applies, attention.forward=NAME (repeatable).
    #[arg(long = "variant", value_name = "OP=NAME")]
    pub variants: Vec<String>,
    /// Take the kernels of the objects in DIR (NAME.sm_90a.cubin, made by tools/kernel.sh).
    #[arg(long, value_name = "DIR")]
    pub kernel_dir: Option<PathBuf>,
    /// Compile FILE.cu now and take its kernels (repeatable).
    #[arg(long = "kernel-source", value_name = "FILE")]
    pub kernel_sources: Vec<PathBuf>,
    /// Act as if this kernel had not been compiled: what needs it fails by name (repeatable).
    #[arg(long = "without-kernel", value_name = "NAME")]
    pub left_out: Vec<String>,
    /// Let every kernel start while the one before it runs, whose end it waits for: programmatic dependent launch, on
    /// Hopper (and emulated). Off unless asked for: no GPU has measured it.
    #[arg(long)]
    pub programmatic: bool,
}

impl Kernels {
    /// Replaces the kernels of a device as asked, and names those that came from files.
    ///
    /// # Errors
    /// For a device without kernels; for kernels that cannot be read, compiled or used.
    pub fn put_into(&self, device: &Device) -> Result<()> {
        self.check_variants()?;
        let Device::Cuda(cuda) = device else {
            if self.swap().is_empty() {
                return Ok(());
            }
            return Err(Error::Config {
                key: "--variant, --kernel-dir, --kernel-source, --programmatic".into(),
                found: "the CPU".into(),
                expected: "a device with kernels: cuda[:N] or emulated".into(),
                fix: "leave them out, or choose another --device".into(),
            });
        };
        let names = self.apply(cuda)?;
        if !names.is_empty() {
            note(&format!("kernels from files: {}", names.join(", ")));
        }
        Ok(())
    }

    /// Refuses an operation, a pass or a name that no folder publishes, and remembers the others: what is never
    /// taken is told at the end.
    ///
    /// # Errors
    /// For such a word.
    pub fn check_variants(&self) -> Result<()> {
        let known = slots();
        self.variants.iter().try_for_each(|word| variant::check(word, &known))?;
        self.variants.iter().for_each(|word| variant::ask(word));
        Ok(())
    }

    /// Replaces kernels of an open device; the names of those that came from files.
    ///
    /// # Errors
    /// For kernels that cannot be read, compiled or used.
    pub fn apply(&self, cuda: &Cuda) -> Result<Vec<String>> {
        cuda.swap(&self.swap())
    }

    fn swap(&self) -> Swap {
        Swap {
            variants: self.variants.clone(),
            kernel_dir: self.kernel_dir.clone(),
            kernel_sources: self.kernel_sources.clone(),
            left_out: self.left_out.clone(),
            programmatic: self.programmatic,
        }
    }
}

impl DeviceArgs {
    /// Passes on what is to be captured.
    fn ask(&self) -> Result<()> {
        let Some(word) = &self.capture else { return Ok(()) };
        let parts =
            word.rsplit_once('=').filter(|(scope, file)| !scope.is_empty() && !file.is_empty());
        let numbered = parts.and_then(|(scope, file)| match scope.rsplit_once('@') {
            Some((scope, n)) => Some((scope, n.parse().ok()?, file)),
            None => Some((scope, 0, file)),
        });
        let (scope, nth, file) = numbered.ok_or_else(|| Error::Config {
            key: "--capture".into(),
            found: word.clone(),
            expected: "SCOPE=FILE, or SCOPE@N=FILE for its run number N, from 0".into(),
            fix: "`selvedge plan` prints all scopes".into(),
        })?;
        recorded::ask(scope, nth, std::path::Path::new(file));
        Ok(())
    }

    /// The device and the element type.
    ///
    /// # Errors
    /// For an unknown word, or a device that is not there.
    pub fn open(&self) -> Result<(Device, DType)> {
        let asked = self.dtype.as_deref().map(dtype).transpose()?;
        let device = match self.device.as_str() {
            "auto" => automatic(),
            word => Device::parse(word)?,
        };
        self.kernels.put_into(&device)?;
        self.ask()?;
        let natural = if device.name().starts_with("cuda") { DType::Bf16 } else { DType::F32 };
        Ok((device, asked.unwrap_or(natural)))
    }
}

/// A GPU where there is one, else the CPU; a driver that is there and refuses is mentioned.
fn automatic() -> Device {
    match Cuda::open(0) {
        Ok(cuda) => Device::Cuda(cuda),
        Err(Error::NoDriver { .. }) => Device::Cpu,
        Err(e) => {
            warn(&format!("the GPU is not used: {e}"));
            Device::Cpu
        }
    }
}

/// Refuses a number that is not finite, or below `least`.
///
/// # Errors
/// [`Error::Config`] with the flag.
pub fn at_least(key: &str, value: f64, least: f64) -> Result<()> {
    match value.is_finite() && value >= least {
        true => Ok(()),
        false => Err(Error::Config {
            key: key.into(),
            found: value.to_string(),
            expected: format!("a number, {least} or more"),
            fix: "change it, or leave it out".into(),
        }),
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

/// A count given on the command line: a whole number above 0.
///
/// # Errors
/// For anything else.
pub fn positive(word: &str) -> std::result::Result<usize, String> {
    word.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a number above 0".into())
}

/// A word `FILE[:SCALE]` of `--lora` as file and strength (1 when left out); a file whose own name ends that way
/// is taken as it is.
///
/// # Errors
/// [`Error::Config`] for a strength that is no finite number.
pub fn lora_word(word: &str) -> Result<(PathBuf, f32)> {
    let (file, scale) = match word.rsplit_once(':') {
        Some((file, scale)) if !Path::new(word).exists() => (file, scale),
        _ => (word, "1"),
    };
    let file = match Path::new(file).join("adapter.safetensors") {
        inner if inner.is_file() => inner, // a run folder
        _ => file.into(),
    };
    match scale.parse::<f32>() {
        Ok(strength) if strength.is_finite() => Ok((file, strength)),
        _ => Err(Error::Config {
            key: "--lora".into(),
            found: word.into(),
            expected: "FILE or FILE:SCALE".into(),
            fix: "write the strength as a number, for example adapter.safetensors:0.8".into(),
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
