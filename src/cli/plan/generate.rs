//! `selvedge plan generate`: the programs of a picture, and with a chip the time of all of them.

use super::{
    Common,
    forecast::{Total, stand_in},
    forward, report,
    show::{Around, Title, View, print},
    unet_config,
};
use crate::{
    cli::common::{dtype, out, positive},
    device::Launched,
    error::Result,
    kernels::scheduler::{Buffers, DeviceSampler, Output, Rule},
    models::{
        architecture::component_json, base::SAMPLING_STEPS, checkpoint::Component, vae::VaeConfig,
    },
    plan::Program,
    tensor::DType,
};
use clap::Args as ClapArgs;
use serde_json::json;

#[derive(Debug, ClapArgs)]
pub(super) struct Generate {
    #[command(flatten)]
    common: Common,
    /// With --chip: steps of the sampler; 50 by default.
    #[arg(long, value_name = "N", value_parser = positive, requires = "chip")]
    steps: Option<usize>,
    /// Element type of the autoencoder: f32, bf16 or f16; by default that of `generate`.
    #[arg(long, value_name = "TYPE")]
    vae_dtype: Option<String>,
}

impl Generate {
    /// Prints the programs of a picture.
    ///
    /// # Errors
    /// Those of the configuration and the recording.
    pub fn run(&self) -> Result<()> {
        let (common, on) = (&self.common, self.common.view.on()?);
        let guided = Common { batch: 2 * common.batch, ..common.clone() };
        let steps = self.steps.unwrap_or(SAMPLING_STEPS);
        let (mut total, mut chip) = (Total::default(), String::new());
        for part in ["text-encoder", "text-encoder-2", "unet", "vae-decoder"] {
            let unet = unet_config(common)?;
            if part == "text-encoder-2" && unet.text_time.is_none() {
                continue;
            }
            // The autoencoder decodes without guidance, in the element type that `generate` takes for it.
            let common = match part {
                "vae-decoder" => in_type(common, self.vae(common)?),
                _ => guided.clone(),
            };
            let title = Title::of(part, common.model(), &common.view);
            let sampler = |program: &mut Program| sampler_step(program, steps);
            let denoises = part == "unet";
            let after = denoises.then_some(("sampler", &sampler as _));
            let plan = forward(part, &common)?;
            let around = Around { after, ..Around::default() };
            if let Some(forecast) = print(plan, &title, &on, around)? {
                forecast.add_to(&mut total, if denoises { steps } else { 1 });
                chip = forecast.chip;
            }
        }
        if !chip.is_empty() {
            self.sum(&chip, &total, steps);
        }
        Ok(())
    }

    /// The element type that `generate` takes for the autoencoder.
    fn vae(&self, common: &Common) -> Result<String> {
        let config = VaeConfig::from_json(&component_json(common.model(), Component::Vae)?)?;
        let own = self.vae_dtype.as_deref().map(dtype).transpose()?;
        Ok(own.unwrap_or(config.storage(dtype(&common.view.dtype)?)).to_string())
    }

    /// All programs together.
    fn sum(&self, chip: &str, total: &Total, steps: usize) {
        let (model, pictures) = (self.common.model(), self.common.batch);
        if self.common.view.json {
            let mut all = json!({
                "what": "pictures", "model": model, "dtype": self.common.view.dtype,
                "pictures": pictures, "sampling_steps": steps,
            });
            report::json(&mut all, chip, total);
            out(&format!("{all}\n"));
            return;
        }
        let words = if pictures == 1 { "picture".into() } else { format!("{pictures} pictures") };
        let text = report::text(chip, total);
        out(&format!("{words} of {model}, {steps} steps, text encoders and decoder\n{text}"));
    }
}

/// What the sampler launches in a step, between one call of the U-Net and the next.
fn sampler_step(program: &mut Program, steps: usize) -> Result<Vec<Launched>> {
    let Some(cuda) = stand_in(program) else { return Ok(vec![]) };
    let at = |name: &str| Ok(program.address(name)?.unwrap_or(0));
    let elements = program.plan().input_len("sample");
    let sampler = DeviceSampler::new(&cuda, (Rule::Euler, Output::Noise), steps, elements / 2)?;
    let latent = cuda.alloc(elements / 2 * size_of::<f32>())?;
    let buffers = Buffers {
        latent: latent.address(),
        len: elements / 2, // half of the rows are guided away from
        output: at("sample")?,
        sample: at("sample")?,
        dtype: DType::F32,
        copies: 2,
        timestep: at("timestep")?,
        timesteps: program.plan().input_len("timestep"),
    };
    cuda.take_launched();
    sampler.step(&buffers)?;
    Ok(cuda.take_launched())
}

fn in_type(common: &Common, dtype: String) -> Common {
    Common { view: View { dtype, ..common.view.clone() }, ..common.clone() }
}
