//! `selvedge plan`: prints the program that a command would run, and runs nothing.

mod sam;
mod show;
mod towers;

use super::{
    bench::{Latent, parse_latent},
    common::{dtype, note, out, positive},
};
use crate::{
    cli::forward::Part,
    data::TrainConfig,
    device::Device,
    error::{Error, Result},
    lora::Adapters,
    models::{
        architecture::{Architecture, component_json},
        checkpoint::Component,
        clip::{TextConfig, TextInputs, text_encoder},
        unet::UnetConfig,
        vae::{VaeConfig, decoder, encoder},
    },
    nn::Net,
    plan::{Plan, Recorder},
    tensor::Spec,
    train::{Blueprint, StepSize, fit, plan_denoising, plan_training},
};
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use show::{COMPONENTS, Title, View, print};
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
    /// A base model, a folder with config.json, nano, or one of sdxl, sd15, sd21; sdxl when left out, sam-vit-h for the
    /// parts of a SAM.
    #[arg(long)]
    model: Option<String>,
    /// Pictures.
    #[arg(long, default_value = "1", value_parser = positive)]
    batch: usize,
    /// Text tokens; by default 77, or as many as OWLv2's text tower takes.
    #[arg(long, value_parser = positive)]
    tokens: Option<usize>,
    #[command(flatten)]
    view: View,
}

/// Length of CLIP's texts.
const TOKENS: usize = 77;

impl Common {
    fn tokens(&self) -> usize {
        self.tokens.unwrap_or(TOKENS)
    }

    /// The model that is planned.
    fn model(&self) -> &str {
        self.model.as_deref().unwrap_or("sdxl")
    }
}

#[derive(Debug, ClapArgs)]
struct Train {
    /// A training configuration; flags given here override it.
    config: Option<PathBuf>,
    /// Overrides a key of the configuration.
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    set: Vec<String>,
    /// A base model, a folder with config.json, nano, or one of sdxl, sd15, sd21; by default the configuration's, or
    /// sdxl.
    #[arg(long)]
    model: Option<String>,
    /// Pictures of a pass, without those of a prior set; by default the configuration's, or 1.
    #[arg(long, value_parser = positive)]
    batch: Option<usize>,
    /// Text tokens; by default as many as the model's tokenizer gives.
    #[arg(long, value_parser = positive)]
    tokens: Option<usize>,
    /// Adapter rank; by default the configuration's, or 32.
    #[arg(long, value_parser = positive)]
    rank: Option<usize>,
    /// Recompute activations in the backward pass.
    #[arg(long)]
    checkpoint: bool,
    #[command(flatten)]
    view: View,
}

#[derive(Debug, ClapArgs)]
struct Generate {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, ClapArgs)]
struct ForwardArgs {
    /// unet, vae-encoder, vae-decoder, text-encoder, text-encoder-2; sam-image-encoder, sam-mask-decoder (--model
    /// sam-vit-b, -l, -h or mobile-sam, or a checkpoint); clip-image, clip-text, dinov2, dino (a configuration is
    /// enough, original names need their file), owlv2, dreamsim, imagereward (their folder).
    component: String,
    /// Side of a tower's pictures in pixels, or HEIGHTxWIDTH; by default the size it was made for.
    #[arg(long, value_parser = parse_latent)]
    size: Option<Latent>,
    #[command(flatten)]
    common: Common,
}

/// Runs the command.
///
/// # Errors
/// Those of the configuration and the recording.
pub fn run(args: Args) -> Result<u8> {
    match args.what {
        What::Train(t) => train(&t)?,
        What::Generate(g) => {
            let device = g.common.view.device()?;
            let parts = ["text-encoder", "text-encoder-2", "unet", "vae-decoder"];
            let guided = Common { batch: 2 * g.common.batch, ..g.common.clone() };
            for part in parts {
                let unet = unet_config(&g.common)?;
                if part == "text-encoder-2" && unet.text_time.is_none() {
                    continue;
                }
                // The autoencoder decodes without guidance, in the element type that `generate` takes for it.
                let common = match part {
                    "vae-decoder" => in_type(&g.common, vae_dtype(&g.common)?),
                    _ => guided.clone(),
                };
                print(
                    &forward(part, &common)?,
                    &Title::of(part, common.model(), &common.view),
                    &device,
                    &[],
                )?;
            }
        }
        What::Forward(mut f) => {
            if sam::COMPONENTS.contains(&f.component.as_str()) {
                f.common.model.get_or_insert_with(|| sam::DEFAULT.into());
            }
            let device = f.common.view.device()?;
            let title = Title::of(&f.component, f.common.model(), &f.common.view);
            let plan = match Part::from_str(&f.component, false).map(Part::component) {
                Ok(tower) if tower.is_tower() => tower_plan(tower, &f)?,
                _ => base_plan(&f)?,
            };
            print(&plan, &title, &device, &[])?;
        }
    }
    Ok(0)
}

/// The configuration that is planned: the file's, or the defaults, under the flags that were given.
fn configured(args: &Train) -> Result<TrainConfig> {
    let mut config = match &args.config {
        Some(file) => TrainConfig::load(file, &args.set)?,
        None => TrainConfig { base: "sdxl".into(), ..TrainConfig::default() },
    };
    if let Some(model) = &args.model {
        config.base = model.clone();
    }
    let t = &mut config.train;
    t.batch = args.batch.unwrap_or(t.batch);
    t.rank = args.rank.unwrap_or(t.rank);
    t.checkpoint_gradients |= args.checkpoint;
    Ok(config)
}

fn train(args: &Train) -> Result<()> {
    let device = args.view.device()?;
    let mut config = configured(args)?;
    let types = args.view.types()?;
    let title =
        Title { what: "training step", model: config.base.clone(), view: args.view.clone() };
    if lone_unet(&config.base) {
        return train_unet(args, &config, &title, &device);
    }
    let mut architecture = Architecture::open(&config.base, types)?;
    architecture.tokens = args.tokens.unwrap_or(architecture.tokens);
    if args.config.is_none() {
        config.train.resolution = architecture.side();
    }
    let mut blueprint = Blueprint::new(&config, architecture)?;
    if let Some(Latent(sides)) = args.view.latent {
        blueprint.options.latent = sides;
    }
    let plans = blueprint.plans()?;
    let text = plans.text.as_ref().map_or(0, fit::plan_bytes);
    let mut beside = vec![("VAE encoder", "encoder_bytes", fit::plan_bytes(&plans.encoder))];
    beside.extend((text > 0).then_some(("text encoders", "text_bytes", text)));
    let average = fit::average_bytes(&plans.step, &config.train);
    beside.extend((average > 0).then_some(("moving average", "average_bytes", average)));
    print(&plans.step, &title, &device, &beside)?;
    let (base, options) = (&blueprint.architecture, &blueprint.options);
    let size = StepSize {
        batch: options.batch,
        latent: options.latent,
        tokens: base.tokens,
        types,
        ..StepSize::default()
    };
    alone(&base.unet, &size, &args.view)
}

/// A folder that holds a U-Net and nothing else.
fn lone_unet(model: &str) -> bool {
    let path = Path::new(model);
    path.join("config.json").is_file() && !path.join("unet").is_dir()
}

/// The step of a U-Net alone: no VAE and no text encoders stand beside it.
fn train_unet(args: &Train, config: &TrainConfig, title: &Title, device: &Device) -> Result<()> {
    if args.config.is_some() {
        return Err(Error::Config {
            key: "--model".into(),
            found: format!("{}, a U-Net alone", config.base),
            expected: "a whole base model, beside a configuration".into(),
            fix: "leave CONFIG out: sizes are then --latent, --batch, --tokens and --rank".into(),
        });
    }
    let unet = UnetConfig::from_json(&component_json(&config.base, Component::Unet)?)?;
    let size = StepSize {
        batch: config.train.batch,
        tokens: args.tokens.unwrap_or(TOKENS),
        rank: config.train.rank,
        checkpoint: config.train.checkpoint_gradients,
        types: args.view.types()?,
        latent: args.view.latent.map_or([unet.sample_size.unwrap_or(64); 2], |Latent(s)| s),
        ..StepSize::default()
    };
    note("a U-Net alone: VAE and text encoders are not counted");
    print(&plan_training(&unet, &size)?, title, device, &[])?;
    alone(&unet, &size, &args.view)
}

/// The U-Net's own work, for comparing with published numbers.
fn alone(unet: &UnetConfig, size: &StepSize, view: &View) -> Result<()> {
    if !view.json {
        let flop = plan_denoising(unet, size)?.summary().forward_flop;
        out(&format!("  U-Net alone, forward   {:.3} TFLOP\n", flop / 1e12));
    }
    Ok(())
}

fn in_type(common: &Common, dtype: String) -> Common {
    Common { view: View { dtype, ..common.view.clone() }, ..common.clone() }
}

fn vae_dtype(common: &Common) -> Result<String> {
    let config = VaeConfig::from_json(&component_json(common.model(), Component::Vae)?)?;
    Ok(config.storage(dtype(&common.view.dtype)?).to_string())
}

fn unet_config(common: &Common) -> Result<UnetConfig> {
    UnetConfig::from_json(&component_json(common.model(), Component::Unet)?)
}

fn tower_plan(component: Component, args: &ForwardArgs) -> Result<Plan> {
    let common = &args.common;
    if common.view.latent.is_some() {
        return Err(misplaced("--latent", "a tower has no latent; use --size"));
    }
    let size = towers::Size {
        batch: common.batch,
        tokens: common.tokens,
        picture: args.size,
        types: common.view.types()?,
    };
    towers::plan(component, common.model(), &size)
}

fn base_plan(args: &ForwardArgs) -> Result<Plan> {
    match args.size {
        Some(_) => Err(misplaced("--size", "use --latent for a part of a base model")),
        None => forward(&args.component, &args.common),
    }
}

fn misplaced(flag: &str, fix: &str) -> Error {
    Error::Config {
        key: flag.into(),
        found: "a size".into(),
        expected: "no such size for this component".into(),
        fix: fix.into(),
    }
}

fn forward(component: &str, common: &Common) -> Result<Plan> {
    let (model, n) = (common.model(), common.batch);
    let json = |c: Component| component_json(model, c);
    let side = |default: usize| common.view.latent.map_or([default; 2], |Latent(s)| s);
    let (mut rec, none) = (Recorder::in_dtype(common.view.types()?), Adapters::new());
    let out = match component {
        "unet" => {
            let config = unet_config(common)?;
            let latent = side(config.sample_size.unwrap_or(64));
            let (batch, tokens) = (n, common.tokens());
            let types = common.view.types()?;
            let size = StepSize { batch, latent, tokens, types, ..StepSize::default() };
            return plan_denoising(&config, &size);
        }
        "vae-encoder" | "vae-decoder" => {
            let config = VaeConfig::from_json(&json(Component::Vae)?)?;
            config.check_storage(common.view.types()?.values())?;
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
            let ids = rec.input("input_ids", Spec::i32(&[n, common.tokens()]));
            let rows = Some(rec.input("eos", Spec::i32(&[n])));
            let out = Net::new(&mut rec, &none).within(which.name(), |net| {
                text_encoder(net, &config, &TextInputs { ids, rows, padding: None })
            })?;
            out.embeds.or(out.pooled).unwrap_or(out.last)
        }
        name if sam::COMPONENTS.contains(&name) => {
            let cells = common.view.latent.map(|Latent(s)| s);
            return sam::plan((name, model), n, cells, common.view.types()?);
        }
        other => {
            return Err(Error::Config {
                key: "COMPONENT".into(),
                found: other.into(),
                expected: COMPONENTS.join(", "),
                fix: "name one of these".into(),
            });
        }
    };
    rec.plan_inference(out)
}
