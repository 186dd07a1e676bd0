//! `selvedge bench step`: time and memory of a training step and a denoising step.

use super::{
    chips::Chip,
    common::{Compute, TOKENS, note, out, positive},
};
use crate::{
    data::config::DecouplingSection,
    device::{Device, cpu::Isa},
    error::{Error, Result},
    models::{
        architecture::Architecture,
        builtin, builtin_names,
        checkpoint::{Component, Model},
        unet::UnetConfig,
    },
    plan::{Roofline, StoredBytes, WeightLayout, WeightSource, trace_json},
    tensor::{DType, Floats, Types},
    train::{
        Decoupled, RandomWeights, StepSize, peak_memory_bytes, plan_denoising, plan_training,
        time_denoising, time_training, trace_denoising, trace_training,
    },
};
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use serde_json::json;
use std::path::Path;

/// Measures.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// What to measure.
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A LoRA training step (forward, backward, AdamW) and a denoising step of a U-Net: one of a loop, without what is
    /// computed once a prompt (the text's keys and values).
    ///
    /// Example: selvedge bench step --model sdxl/unet --latent 64 --batch 1 --rank 32 --json
    Step(Step),
}

#[derive(Debug, ClapArgs)]
struct Step {
    /// A base model, a U-Net's own folder (random weights when it holds only config.json), nano, or sdxl, sd15, sd21.
    #[arg(long)]
    model: String,
    /// Latent side, or HEIGHTxWIDTH.
    #[arg(long, default_value = "64", value_parser = parse_latent)]
    latent: Latent,
    /// Pictures in a step.
    #[arg(long, default_value = "1", value_parser = positive)]
    batch: usize,
    /// Adapter rank.
    #[arg(long, default_value = "32", value_parser = positive)]
    rank: usize,
    /// Text tokens; by default as many as the model's tokenizer gives, 77 where there is a U-Net alone.
    #[arg(long, value_parser = positive)]
    tokens: Option<usize>,
    /// Timed repetitions; the median counts.
    #[arg(long, default_value = "5", value_parser = positive)]
    iterations: usize,
    /// Train with dual-level decoupling, as its defaults are, with image features as wide as the text.
    #[arg(long)]
    decoupled: bool,
    /// Recompute activations in the training step.
    #[arg(long)]
    checkpoint: bool,
    /// Write how long every operation of one training step took (of a denoising step with --part denoise): a
    /// trace for Perfetto or chrome://tracing.
    #[arg(long, value_name = "FILE")]
    trace: Option<std::path::PathBuf>,
    /// Which of the two steps.
    #[arg(long, value_enum, default_value_t = Part::All)]
    part: Part,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: Compute,
}

/// Which steps to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    All,
    Train,
    Denoise,
}

/// Latent height and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latent(pub [usize; 2]);

/// Reads `64` or `64x96`.
pub fn parse_latent(word: &str) -> std::result::Result<Latent, String> {
    let sides: Option<Vec<usize>> = word.split('x').map(|s| s.parse().ok()).collect();
    match sides.as_deref() {
        Some([side]) if *side > 0 => Ok(Latent([*side; 2])),
        Some([h, w]) if *h > 0 && *w > 0 => Ok(Latent([*h, *w])),
        _ => Err("expected a side such as 64, or HEIGHTxWIDTH such as 64x96".into()),
    }
}

/// Where the U-Net of a `--model` comes from.
#[derive(Debug)]
pub struct UnetModel {
    /// Its configuration.
    pub config: UnetConfig,
    /// Its weights; `None` when there is only a configuration.
    pub weights: Option<Model>,
}

/// Finds the U-Net of `model`: a checkpoint, a folder with only `config.json`, or a built-in configuration.
///
/// # Errors
/// Those of the files and the configuration.
pub fn unet_model(model: &str) -> Result<UnetModel> {
    let path = Path::new(model);
    if builtin_names().contains(&model) && !path.exists() {
        let config = UnetConfig::from_json(&builtin(model, "unet")?)?;
        return Ok(UnetModel { config, weights: None });
    }
    for folder in [path.join("unet"), path.to_path_buf()] {
        let config = folder.join("config.json");
        if config.is_file() && !has_weights(&folder)? {
            let text = std::fs::read_to_string(&config).map_err(Error::file("read", &config))?;
            let json = serde_json::from_str(&text).map_err(|e| Error::Format {
                path: config.clone(),
                found: e.to_string(),
                expected: "a U-Net configuration".into(),
                fix: "check the file".into(),
            })?;
            return Ok(UnetModel { config: UnetConfig::from_json(&json)?, weights: None });
        }
    }
    let weights = Model::open(model, &[Component::Unet])?;
    let json = weights.part(Component::Unet).map(|p| p.config().clone()).unwrap_or_default();
    Ok(UnetModel { config: UnetConfig::from_json(&json)?, weights: Some(weights) })
}

/// Tokens that a prompt of `model` has; [`TOKENS`] where nothing but its U-Net is there.
fn tokens(model: &str, types: Types) -> usize {
    Architecture::open(model, types).map_or(TOKENS, |a| a.tokens)
}

fn has_weights(folder: &Path) -> Result<bool> {
    let entries = std::fs::read_dir(folder).map_err(Error::file("list", folder))?;
    Ok(entries.flatten().any(|e| e.path().extension().is_some_and(|x| x == "safetensors")))
}

/// Weights of either kind, kept in memory once for both programs.
struct Shared {
    random: RandomWeights,
    real: Option<Model>,
    kept: std::sync::Mutex<Vec<Floats>>,
    kept_halves: std::sync::Mutex<Vec<StoredBytes>>,
}

impl WeightSource for &Shared {
    fn get(&self, name: &str, dims: &[usize], layout: WeightLayout) -> Result<Option<Floats>> {
        let Some(real) = &self.real else { return self.random.get(name, dims, layout) };
        let weights = real.get(name, dims, layout)?;
        if let Some(w) = &weights {
            self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(w.clone());
        }
        Ok(weights)
    }

    fn halves(
        &self,
        name: &str,
        dims: &[usize],
        layout: WeightLayout,
        dtype: DType,
    ) -> Result<Option<StoredBytes>> {
        let Some(real) = &self.real else {
            return self.random.halves(name, dims, layout, dtype);
        };
        let weights = real.halves(name, dims, layout, dtype)?;
        if let Some(w) = &weights {
            let kept = self.kept_halves.lock();
            kept.unwrap_or_else(std::sync::PoisonError::into_inner).push(w.clone());
        }
        Ok(weights)
    }

    fn keeper(&self, _: &str) -> Option<&dyn WeightSource> {
        self.real.as_ref().map(|real| real as &dyn WeightSource)
    }
}

/// The peak rates of the GPU that computes, where its data sheet is known.
fn roofline(device: &Device, dtype: DType) -> Option<Roofline> {
    let Device::Cuda(cuda) = device else { return None };
    let chip = Chip::of(cuda.chip());
    if chip.is_none() {
        note(&format!("the trace has no floors: no data sheet of {} is known", cuda.chip()));
    }
    chip.map(|c| Roofline { tflops: c.flop(dtype) * 1e-12, gbps: c.bytes() * 1e-9 })
}

/// Runs the command.
///
/// # Errors
/// Those of the model, the plan and the operations.
pub fn run(args: Args) -> Result<u8> {
    let What::Step(step) = args.what;
    let (device, dtype) = step.compute.place.open()?;
    let UnetModel { config, weights } = unet_model(&step.model)?;
    if weights.is_none() {
        note("only a configuration was found: random weights are used");
    }
    let (section, width) = (DecouplingSection::default(), config.context_dim().unwrap_or(1));
    let size = StepSize {
        batch: step.batch,
        latent: step.latent.0,
        tokens: step.tokens.unwrap_or_else(|| tokens(&step.model, device.types(dtype))),
        rank: step.rank,
        checkpoint: step.checkpoint,
        types: device.types(dtype),
        decoupled: step.decoupled.then(|| Decoupled::new(&section, width, width)),
        ..StepSize::default()
    };
    let random = RandomWeights::new(step.compute.seed);
    let shared =
        Shared { random, real: weights, kept: Default::default(), kept_halves: Default::default() };
    let (mut planned, mut result) = (0usize, serde_json::Map::new());
    if step.part != Part::Train {
        let plan = plan_denoising(&config, &size)?.summary();
        planned = planned.max(plan.weight_bytes + plan.arena_bytes);
        let ms = time_denoising(&config, &size, &device, &&shared, step.iterations)?;
        result.insert("denoise_step_ms".into(), json!(ms));
        result.insert(
            "denoise_tflops".into(),
            json!((plan.forward_flop - plan.once_flop) / ms / 1e9),
        );
    }
    if step.part != Part::Denoise {
        let plan = plan_training(&config, &size)?.summary();
        let moments = 8 * plan.trainable_elements;
        planned = planned.max(plan.weight_bytes + plan.arena_bytes + moments);
        let ms = time_training(&config, &size, &device, &shared, step.iterations)?;
        let flop = plan.forward_flop + plan.backward_flop;
        result.insert("train_step_ms".into(), json!(ms));
        result.insert("train_tflops".into(), json!(flop / ms / 1e9));
        result.insert("trainable_parameters".into(), json!(plan.trainable_parameters));
    }
    if let Some(path) = &step.trace {
        let steps = match step.part {
            Part::Denoise => trace_denoising(&config, &size, &device, &&shared)?,
            _ => trace_training(&config, &size, &device, &shared)?,
        };
        let text = trace_json(&steps, roofline(&device, size.types.products()));
        std::fs::write(path, text).map_err(Error::file("write", path))?;
        note(&format!("{} operations in {}", steps.len(), path.display()));
    }
    result.insert("tokens".into(), json!(size.tokens));
    result.insert("planned_bytes".into(), json!(planned));
    let peak = match &device {
        Device::Cpu => peak_memory_bytes(),
        Device::Cuda(cuda) => Some(cuda.most_bytes() as u64),
    };
    result.insert("peak_bytes".into(), json!(peak));
    result.insert("threads".into(), json!(rayon::current_num_threads()));
    result.insert("device".into(), json!(device.name()));
    if matches!(device, Device::Cpu) {
        result.insert("isa".into(), json!(Isa::current().name()));
    }
    result.insert("random_weights".into(), json!(shared.real.is_none()));
    print(&result, step.json);
    Ok(0)
}

fn print(result: &serde_json::Map<String, serde_json::Value>, as_json: bool) {
    if as_json {
        return out(&format!("{}\n", serde_json::Value::Object(result.clone())));
    }
    for (key, value) in result {
        let text = match value.as_f64() {
            Some(v) if key.ends_with("bytes") => format!("{:.1} MB", v / 1e6),
            Some(v) if key.ends_with("ms") || key.ends_with("tflops") => format!("{v:.3}"),
            _ => value.to_string(),
        };
        out(&format!("{key:<22} {text}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latent_is_a_side_or_two() {
        assert_eq!(parse_latent("64").unwrap(), Latent([64, 64]));
        assert_eq!(parse_latent("64x96").unwrap(), Latent([64, 96]));
        assert!(parse_latent("64x").is_err() && parse_latent("0").is_err());
    }
}
