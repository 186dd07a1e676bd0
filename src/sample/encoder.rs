//! Pictures to latents: the VAE encoder, loaded once in a run.

use crate::{
    device::Device,
    error::Result,
    models::{base::Base, checkpoint::Component},
    plan::Program,
    tensor::image::Picture,
};

/// The VAE encoder of a base, planned and loaded with the first picture and kept until it is dropped.
pub struct PictureEncoder<'a> {
    /// The base.
    pub base: &'a Base,
    /// Where it runs.
    pub device: &'a Device,
    program: Option<(Program, [usize; 2])>,
    /// How often it was loaded.
    pub loads: usize,
}

impl<'a> PictureEncoder<'a> {
    /// The encoder of `base`; nothing is loaded yet.
    pub fn new(base: &'a Base, device: &'a Device) -> Self {
        Self { base, device, program: None, loads: 0 }
    }

    /// The mean of a picture's posterior, scaled: `z0 [h, w, C]`. Another size is planned anew over the same
    /// weights.
    ///
    /// # Errors
    /// Those of the program.
    pub fn encode(&mut self, picture: &Picture) -> Result<Vec<f32>> {
        let size = [picture.height, picture.width];
        let (program, _) = match self.program.take() {
            Some((program, known)) if known == size => self.program.insert((program, size)),
            other => {
                let plan = self.base.vae_encoder(1, size)?;
                let program = match other {
                    Some((program, _)) => program.replan(plan)?,
                    None => {
                        self.base.check(Component::Vae, &plan.params())?;
                        self.loads += 1;
                        plan.load(self.device.clone(), &self.base.weights)?
                    }
                };
                self.program.insert((program, size))
            }
        };
        let (scale, c) = (self.base.vae.scaling_factor, self.base.vae.latent_channels);
        program.set("sample", &picture.rgb().signed())?;
        program.forward()?;
        let moments = program.get("moments")?;
        let mean = moments.chunks_exact(2 * c).flat_map(|m| &m[..c]);
        Ok(mean.map(|v| v * scale).collect())
    }
}
