//! `selvedge plan train`: one pass of a training step, and with a chip the whole run.

use super::{
    forecast::{Forecast, Forecaster, Total, stand_in},
    show::{Around, Further, On, Title, View, print},
};
use crate::{
    cli::{
        bench::Latent,
        common::{TOKENS, note, out, positive},
    },
    data::{
        TrainConfig,
        config::{LossScale, Method},
    },
    device::Launched,
    error::{Error, Result},
    kernels::adamw::AdamW,
    models::{
        architecture::{Architecture, component_json},
        checkpoint::Component,
        unet::UnetConfig,
    },
    plan::{Plan, Program},
    train::{
        Blueprint, Group, Optimizer, Rules, StepSize, fit, optimizer, plan_denoising, plan_training,
    },
};
use clap::Args as ClapArgs;
use std::path::{Path, PathBuf};

#[derive(Debug, ClapArgs)]
pub(super) struct Train {
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

impl Train {
    /// Prints the step.
    ///
    /// # Errors
    /// Those of the configuration and the recording.
    pub fn run(&self) -> Result<()> {
        train(self)
    }
}

fn train(args: &Train) -> Result<()> {
    let on = args.view.on()?;
    let mut config = configured(args)?;
    let types = args.view.types()?;
    let title =
        Title { what: "training step", model: config.base.clone(), view: args.view.clone() };
    if lone_unet(&config.base) {
        return train_unet(args, &config, &title, &on);
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
    let (plans, scaling) = (blueprint.plans()?, blueprint.scaling);
    let text = plans.text.as_ref().map_or(0, fit::plan_bytes);
    let mut beside = vec![("VAE encoder", "encoder_bytes", fit::plan_bytes(&plans.encoder))];
    beside.extend((text > 0).then_some(("text encoders", "text_bytes", text)));
    let average = fit::average_bytes(&plans.step, &config.train);
    beside.extend((average > 0).then_some(("moving average", "average_bytes", average)));
    let once = match &on {
        On::Chip(forecaster) => Some(Once::of(forecaster, plans.encoder, plans.text)?),
        On::Device(_) => None,
    };
    let more = |f: &Forecast| once.iter().flat_map(|o| o.run(f, &config)).collect();
    let launch = |program: &mut Program| launched(program, |p| optimizer(&config, scaling, p));
    let around = Around { beside, after: Some(("adamw", &launch)), more: Some(&more) };
    print(plans.step, &title, &on, around)?;
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
fn train_unet(args: &Train, config: &TrainConfig, title: &Title, on: &On) -> Result<()> {
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
    let constant = |_: &str| Group { learning_rate: 1e-4, adamw: AdamW::default() };
    let scaling = LossScale::Auto.scaling(size.types.products())?;
    let launch = |program: &mut Program| {
        let rules = Rules { scaling, ..Rules::constant(1.0) };
        launched(program, |p| Optimizer::new(p, constant, rules))
    };
    let around = Around { after: Some(("adamw", &launch)), ..Around::default() };
    print(plan_training(&unet, &size)?, title, on, around)?;
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

/// What an optimizer of `program` launches in a step.
fn launched(
    program: &mut Program,
    make: impl FnOnce(&mut Program) -> Result<Optimizer>,
) -> Result<Vec<Launched>> {
    let optimizer = make(program)?;
    let Some(cuda) = stand_in(program) else { return Ok(vec![]) };
    cuda.take_launched(); // what making it would have copied
    optimizer.launch()?;
    Ok(cuda.take_launched())
}

/// Forecasts of what runs beside the steps: for one picture and one prompt.
struct Once {
    encoder: Total,
    text: Option<Total>,
}

impl Once {
    fn of(forecaster: &Forecaster, encoder: Plan, text: Option<Plan>) -> Result<Self> {
        let total = |plan: Plan| Ok(forecaster.of(plan, None)?.1.total());
        Ok(Self { encoder: total(encoder)?, text: text.map(total).transpose()? })
    }

    /// Times of an optimizer step and of the run of `config`, whose pass is `pass`. Mixes are encoded anew each time,
    /// photos once where latents are kept; how many photos and prompts there are no plan knows.
    fn run(&self, pass: &Forecast, config: &TrainConfig) -> Vec<Further> {
        let (t, m) = (&config.train, &config.method);
        let sum = |lines| {
            let mut total = Total::default();
            total.add(lines, 1);
            total.time.us() / 1e3
        };
        let encoder = self.encoder.time.us() / 1e3;
        let mixes = if m.name == Method::Mudi { m.mix_probability } else { 0.0 };
        let fresh = if t.cache_latents { mixes } else { 1.0 };
        let encoded = encoder * fresh * t.batch as f64;
        let step = t.accumulate as f64 * (sum(&pass.steps) + encoded) + sum(&pass.after);
        let mut all = vec![
            ("VAE encoder, a picture".into(), "encoder_ms", encoder),
            (format!("a step of {} passes", t.accumulate), "step_ms", step),
            (format!("the run of {} steps", t.steps), "run_ms", step * t.steps as f64),
        ];
        let text = self.text.iter().map(|t| t.time.us() / 1e3);
        all.extend(text.map(|ms| ("text encoders, a prompt".into(), "text_ms", ms)));
        all
    }
}
