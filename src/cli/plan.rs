//! `selvedge plan`: prints the program that a command would run, and runs nothing.

use super::{
    bench::{Latent, parse_latent},
    common::{dtype, out},
};
use crate::{
    data::{
        TrainConfig,
        config::{Loss, Mode},
    },
    device::Device,
    error::{Error, Result},
    lora::Adapters,
    models::{
        builtin, builtin_names,
        checkpoint::{Checkpoint, Component},
        clip::{TextConfig, TextInputs, text_encoder},
        unet::UnetConfig,
        vae::{VaeConfig, decoder, encoder},
    },
    nn::Net,
    plan::{Plan, Recorder, Summary},
    tensor::Spec,
    train::{Objective, StepSize, is_adapter, plan_denoising, plan_training},
};
use clap::{Args as ClapArgs, Subcommand};
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};

/// Prints the planned program: steps, shapes, work, memory. Needs configurations, no weights.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Whose program.
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A training step.
    ///
    /// Example: selvedge plan train --model sdxl --summary
    Train(Train),
    /// A picture: text encoders, one guided denoising step, VAE decoder.
    Generate(Generate),
    /// One pass of one component.
    Forward(ForwardArgs),
}

#[derive(Clone, Debug, ClapArgs)]
struct Common {
    /// A base model, a folder with config.json, nano, or one of sdxl, sd15, sd21.
    #[arg(long, default_value = "sdxl")]
    model: String,
    /// Latent side, or HEIGHTxWIDTH; by default what the model was made for.
    #[arg(long, value_parser = parse_latent)]
    latent: Option<Latent>,
    /// Pictures.
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Text tokens.
    #[arg(long, default_value_t = 77)]
    tokens: usize,
    /// Element type of weights and activations: f32, bf16 or f16 (adapters and their optimizer stay f32).
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// Name the kernel variants of this device: cuda[:N] or emulated.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: String,
    /// Only the summary, not every step.
    #[arg(long)]
    summary: bool,
    /// Print JSON (the summary).
    #[arg(long)]
    json: bool,
    /// Forecast the time at this many TFLOP/s.
    #[arg(long, value_name = "TFLOPS")]
    at: Option<f64>,
}

#[derive(Debug, ClapArgs)]
struct Train {
    /// A training configuration; its base, resolution, batch, rank and targets are used.
    config: Option<PathBuf>,
    /// Overrides a key of the configuration.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Adapter rank.
    #[arg(long, default_value_t = 32)]
    rank: usize,
    /// Recompute activations in the backward pass.
    #[arg(long)]
    checkpoint: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, ClapArgs)]
struct Generate {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, ClapArgs)]
struct ForwardArgs {
    /// unet, vae-encoder, vae-decoder, text-encoder or text-encoder-2.
    component: String,
    #[command(flatten)]
    common: Common,
}

/// Runs the command.
///
/// # Errors
/// Those of the configuration and the recording.
pub fn run(args: Args) -> Result<u8> {
    match args.what {
        What::Train(t) => train(t)?,
        What::Generate(g) => {
            let parts = ["text-encoder", "text-encoder-2", "unet", "vae-decoder"];
            let guided = Common { batch: 2 * g.common.batch, ..g.common.clone() };
            for part in parts {
                let unet = unet_config(&g.common)?;
                if part == "text-encoder-2" && unet.text_time.is_none() {
                    continue;
                }
                // The autoencoder decodes without guidance, in the element type that `generate` takes for it.
                let common = match part {
                    "vae-decoder" => Common { dtype: vae_dtype(&g.common)?, ..g.common.clone() },
                    _ => guided.clone(),
                };
                print(&forward(part, &common)?, part, &common)?;
            }
        }
        What::Forward(f) => print(&forward(&f.component, &f.common)?, &f.component, &f.common)?,
    }
    Ok(0)
}

fn train(mut args: Train) -> Result<()> {
    let mut size = StepSize {
        batch: args.common.batch,
        tokens: args.common.tokens,
        rank: args.rank,
        checkpoint: args.checkpoint,
        dtype: dtype(&args.common.dtype)?,
        ..StepSize::default()
    };
    let mut resolution = None;
    if let Some(file) = &args.config {
        let config = TrainConfig::load(file, &args.set)?;
        if config.train.mode == Mode::Full {
            return Err(Error::Config {
                key: "train.mode".into(),
                found: "full".into(),
                expected: "lora".into(),
                fix: "plan train shows adapter training; leave the mode out".into(),
            });
        }
        args.common.model = config.base.clone();
        size.batch = config.train.batch * (1 + usize::from(config.method.prior_preservation));
        size.rank = config.train.rank;
        size.targets = config.train.targets.clone();
        size.checkpoint |= config.train.checkpoint_gradients;
        if config.method.loss == Loss::Dco {
            size.objective = Objective::Dco { beta: config.method.dco_beta as f32 };
        }
        resolution = Some(config.train.resolution);
    }
    let unet = unet_config(&args.common)?;
    size.latent = match (args.common.latent, resolution) {
        (Some(Latent(sides)), _) => sides,
        (None, Some(pixels)) => [pixels / 8; 2],
        (None, None) => [unet.sample_size.unwrap_or(64); 2],
    };
    print(&plan_training(&unet, &size)?, "training step", &args.common)?;
    if !args.common.json {
        let alone = plan_denoising(&unet, &size)?.summary().forward_flop;
        out(&format!("  U-Net alone, forward   {:.3} TFLOP\n", alone / 1e12));
    }
    Ok(())
}

/// The configuration of a component of `model`: built in, from a folder, or from a checkpoint.
fn component_json(model: &str, component: Component) -> Result<Json> {
    let path = Path::new(model);
    if builtin_names().contains(&model) && !path.exists() {
        return builtin(model, component.name());
    }
    let own = [path.join(component.name()), path.to_path_buf()];
    match own.map(|f| f.join("config.json")).into_iter().find(|f| f.is_file()) {
        None => Ok(Checkpoint::open(model, component)?.config().clone()),
        Some(file) => {
            let text = std::fs::read_to_string(&file).map_err(Error::file("read", &file))?;
            serde_json::from_str(&text).map_err(|e| Error::Format {
                path: file.clone(),
                found: e.to_string(),
                expected: "a model configuration".into(),
                fix: "check the file".into(),
            })
        }
    }
}

fn unet_config(common: &Common) -> Result<UnetConfig> {
    UnetConfig::from_json(&component_json(&common.model, Component::Unet)?)
}

fn vae_dtype(common: &Common) -> Result<String> {
    let config = VaeConfig::from_json(&component_json(&common.model, Component::Vae)?)?;
    Ok(config.storage(dtype(&common.dtype)?).to_string())
}

fn forward(component: &str, common: &Common) -> Result<Plan> {
    let (model, n) = (common.model.as_str(), common.batch);
    let json = |c: Component| component_json(model, c);
    let side = |default: usize| common.latent.map_or([default; 2], |Latent(s)| s);
    let (mut rec, none) = (Recorder::in_dtype(dtype(&common.dtype)?), Adapters::new());
    let out = match component {
        "unet" => {
            let config = unet_config(common)?;
            let latent = side(config.sample_size.unwrap_or(64));
            let (batch, tokens) = (n, common.tokens);
            let dtype = dtype(&common.dtype)?;
            let size = StepSize { batch, latent, tokens, dtype, ..StepSize::default() };
            return plan_denoising(&config, &size);
        }
        "vae-encoder" | "vae-decoder" => {
            let config = VaeConfig::from_json(&json(Component::Vae)?)?;
            config.check_storage(dtype(&common.dtype)?)?;
            let [h, w] = side(64);
            let f = config.factor();
            let decode = component == "vae-decoder";
            let dims = match decode {
                true => [n, h, w, config.latent_channels],
                false => [n, h * f, w * f, config.in_channels],
            };
            let sample = rec.input("sample", Spec::f32(&dims));
            Net::new(&mut rec, &none).within("vae", |net| match decode {
                true => decoder(net, &config, sample),
                false => encoder(net, &config, sample),
            })?
        }
        "text-encoder" | "text-encoder-2" => {
            let which = match component {
                "text-encoder" => Component::TextEncoder,
                _ => Component::TextEncoder2,
            };
            let config = TextConfig::from_json(&json(which)?)?;
            let ids = rec.input("input_ids", Spec::i32(&[n, common.tokens]));
            let rows = Some(rec.input("eos", Spec::i32(&[n])));
            let out = Net::new(&mut rec, &none).within(which.name(), |net| {
                text_encoder(net, &config, &TextInputs { ids, rows })
            })?;
            out.embeds.or(out.pooled).unwrap_or(out.last)
        }
        other => {
            return Err(Error::Config {
                key: "COMPONENT".into(),
                found: other.into(),
                expected: "unet, vae-encoder, vae-decoder, text-encoder, text-encoder-2".into(),
                fix: "name one of these".into(),
            });
        }
    };
    rec.plan_inference(out)
}

/// Memory of a plan, bytes.
#[derive(Debug, PartialEq)]
struct Memory {
    weights: usize,
    arena: usize,
    /// Both moments of the optimizer; master weights, gradient and shadow lie in the arena.
    moments: usize,
    peak: usize,
}

fn memory(s: &Summary) -> Memory {
    let moments = 8 * s.trainable_parameters;
    let (weights, arena) = (s.weight_bytes, s.arena_bytes);
    Memory { weights, arena, moments, peak: weights + arena + moments }
}

fn print(plan: &Plan, title: &str, common: &Common) -> Result<()> {
    let (s, m) = (plan.summary(), memory(&plan.summary()));
    let adapters: usize = (plan.params().iter().filter(|p| is_adapter(&p.name)))
        .map(|p| p.dims.iter().product::<usize>())
        .sum();
    let flop = s.forward_flop + s.backward_flop;
    let forecast_ms = common.at.map(|rate| flop / rate.max(1e-9) / 1e9);
    if common.json {
        let all = json!({
            "what": title, "model": common.model, "dtype": common.dtype, "steps": s.steps,
            "parameters": s.parameters - adapters, "trainable_parameters": s.trainable_parameters,
            "forward_flop": s.forward_flop, "backward_flop": s.backward_flop, "flop": flop,
            "weight_bytes": m.weights, "arena_bytes": m.arena, "moment_bytes": m.moments,
            "planned_bytes": m.peak, "forecast_ms": forecast_ms,
        });
        out(&format!("{all}\n"));
        return Ok(());
    }
    if !common.summary {
        let device = Device::parse(&common.device)?;
        out(&plan.explain(&device));
    }
    let mb = |bytes: usize| bytes as f64 / 1e6;
    let mut text = format!("{title} of {}, {}\n", common.model, common.dtype);
    text += &format!("  steps                  {}\n", s.steps);
    text += &format!("  parameters             {}\n", grouped(s.parameters - adapters));
    text += &format!("  trainable parameters   {}\n", grouped(s.trainable_parameters));
    text += &format!("  forward                {:.3} TFLOP\n", s.forward_flop / 1e12);
    text += &format!("  backward               {:.3} TFLOP\n", s.backward_flop / 1e12);
    text += &format!("  together               {:.3} TFLOP\n", flop / 1e12);
    text += &format!("  weights                {:.1} MB\n", mb(m.weights));
    text += &format!("  arena                  {:.1} MB\n", mb(m.arena));
    text += &format!("  optimizer moments      {:.1} MB\n", mb(m.moments));
    text += &format!("  planned peak memory    {:.1} MB\n", mb(m.peak));
    if let Some(ms) = forecast_ms {
        text += &format!("  forecast               {ms:.2} ms\n");
    }
    out(&text);
    Ok(())
}

/// `2,567,463,684`.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(d);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    #[test]
    fn the_published_sdxl_numbers_come_from_the_configuration_alone() {
        let config = UnetConfig::from_json(&builtin("sdxl", "unet").unwrap()).unwrap();
        let plan = plan_training(&config, &StepSize::default()).unwrap();
        let s = plan.summary();
        assert_eq!(s.trainable_parameters, 46_448_640);
        assert_eq!(s.parameters - s.trainable_parameters, 2_567_463_684);
        let forward = plan_denoising(&config, &StepSize::default()).unwrap().summary();
        assert!((forward.forward_flop / 1e12 - 6.76).abs() < 0.01, "{}", forward.forward_flop);
        let step = (s.forward_flop + s.backward_flop) / 1e12;
        assert!((step - 14.7).abs() < 0.05, "{step}");
    }

    #[test]
    fn half_precision_halves_the_weights_and_shrinks_the_arena() {
        let config = UnetConfig::from_json(&builtin("sdxl", "unet").unwrap()).unwrap();
        let size = |dtype| StepSize { dtype, latent: [32; 2], ..StepSize::default() };
        let plan = |dtype| memory(&plan_training(&config, &size(dtype)).unwrap().summary());
        let (full, half) = (plan(DType::F32), plan(DType::Bf16));
        assert_eq!(full.weights, 2 * half.weights);
        assert_eq!(full.moments, half.moments);
        assert!(half.arena < full.arena, "{} {}", half.arena, full.arena);
    }

    #[test]
    fn digits_are_grouped() {
        assert_eq!(grouped(2_567_463_684), "2,567,463,684");
        assert_eq!(grouped(12), "12");
    }
}
