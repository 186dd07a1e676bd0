//! `selvedge plan`: prints the program that a command would run, and runs nothing.

mod forecast;
mod generate;
mod measured;
mod report;
mod sam;
mod show;
mod towers;
mod train;

use super::{
    bench::{Latent, parse_latent},
    common::{TOKENS, positive},
};
use crate::{
    cli::forward::Part,
    error::{Error, Result},
    lora::Adapters,
    models::{
        architecture::component_json,
        checkpoint::Component,
        clip::{TextConfig, TextInputs, text_encoder},
        unet::UnetConfig,
        vae::{VaeConfig, decoder, encoder},
    },
    nn::Net,
    plan::{Plan, Recorder},
    tensor::Spec,
    train::{StepSize, plan_denoising},
};
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use generate::Generate;
use show::{Around, COMPONENTS, Title, View, print};
use train::Train;

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
    /// Text tokens; by default as many as the model's text encoders take, 77 where it has none.
    #[arg(long, value_parser = positive)]
    tokens: Option<usize>,
    #[command(flatten)]
    view: View,
}

impl Common {
    fn tokens(&self) -> usize {
        self.tokens.unwrap_or_else(|| tokens_of(self.model()))
    }

    /// The model that is planned.
    fn model(&self) -> &str {
        self.model.as_deref().unwrap_or("sdxl")
    }
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
        What::Train(t) => t.run()?,
        What::Generate(g) => g.run()?,
        What::Forward(mut f) => {
            if sam::COMPONENTS.contains(&f.component.as_str()) {
                f.common.model.get_or_insert_with(|| sam::DEFAULT.into());
            }
            let on = f.common.view.on()?;
            let title = Title::of(&f.component, f.common.model(), &f.common.view);
            let plan = match Part::from_str(&f.component, false).map(Part::component) {
                Ok(tower) if tower.is_tower() => tower_plan(tower, &f)?,
                _ => base_plan(&f)?,
            };
            print(plan, &title, &on, Around::default())?;
        }
    }
    Ok(0)
}

/// Tokens that the text encoders of `model` take; [`TOKENS`] where it has none.
fn tokens_of(model: &str) -> usize {
    let most = |which| {
        let json = component_json(model, which).ok()?;
        TextConfig::from_json(&json).ok().map(|config| config.positions)
    };
    let own = [Component::TextEncoder, Component::TextEncoder2].into_iter().filter_map(most);
    own.min().unwrap_or(TOKENS)
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
                text_encoder(net, &config, &TextInputs { ids, rows, learned: None, padding: None })
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
