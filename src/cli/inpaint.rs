//! `selvedge inpaint`: a photo without its subject.

use super::{
    common::{Compute, at_least, note},
    progress::progress,
};
use crate::{
    device::Device,
    error::{Error, Result},
    inpaint::{Hole, default_grow, fill},
    lora::{Adapters, Loras},
    models::base::Base,
    sample::{
        Known, PictureEncoder, Pipeline, Request, Resampling, Sampler, Size,
        fit::{self, Purpose},
    },
    tensor::image::{Filter, Picture, read, write_png},
};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Take a subject out of a photo.
///
/// What is behind the mask is filled with smooth colours from around it (classical, the default), or painted by a base
/// model: one for pictures, by RePaint's resampling, or one trained to fill (SD-inpainting). Nothing of the subject is read,
/// and outside the mask only an edge of --grow pixels fades from the photo to the fill.
///
/// Examples: selvedge inpaint dog.jpg --mask dog_mask.png --out empty.png;
/// selvedge inpaint dog.jpg --mask dog_mask.png --base stable-diffusion-xl-base-1.0 --prompt "a meadow" --out empty.png
#[derive(Clone, Debug, Args)]
pub struct InpaintArgs {
    /// The photo.
    pub photo: PathBuf,
    /// White (above 128) where the subject is, of the photo's size.
    #[arg(long, value_name = "MASK")]
    pub mask: PathBuf,
    /// The PNG to write.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// How to fill without a base.
    #[arg(long, value_enum, value_name = "HOW", conflicts_with = "base")]
    pub fill: Option<Fill>,
    /// A base model that fills: a diffusers folder, a single file, or nano.
    #[arg(long, value_name = "MODEL")]
    pub base: Option<String>,
    /// Pixels that the mask grows by, since a subject's outline is mixed with what is behind it; 1 % of the longer side, at
    /// least 2, when left out.
    #[arg(long, value_name = "PIXELS")]
    pub grow: Option<usize>,
    /// What is behind the subject, for a base.
    #[arg(long, default_value = "", value_name = "TEXT", requires = "base")]
    pub prompt: String,
    /// How closely to follow the prompt; the base's own scale with a prompt, else 1.
    #[arg(long, value_name = "SCALE", requires = "base")]
    pub guidance: Option<f32>,
    /// Noise levels of the walk.
    #[arg(long, default_value_t = FILL_STEPS, value_name = "N", requires = "base")]
    pub steps: usize,
    /// How often each stretch of the walk is walked: RePaint's resampling, which makes hole and rest agree (10 in the paper;
    /// half of it costs half the time). Not for a base trained to fill.
    #[arg(long, default_value_t = Resampling::default().times, value_name = "N", requires = "base")]
    pub resample: usize,
    /// Levels of a stretch: 10 of 250 in the paper, 2 of 50.
    #[arg(long, default_value_t = Resampling::default().jump, value_name = "N", requires = "base")]
    pub jump: usize,
    /// Shared flags.
    #[command(flatten)]
    pub compute: Compute,
}

/// Fills without weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fill {
    /// Smooth colours from around the hole.
    Classical,
}

/// Runs the command.
///
/// # Errors
/// Those of the photo, the mask, the base and of writing.
pub fn run(args: &InpaintArgs) -> Result<u8> {
    at_least("--steps", args.steps as f64, 1.0)?;
    at_least("--resample", args.resample as f64, 1.0)?;
    at_least("--jump", args.jump as f64, 1.0)?;
    let photo = read(&args.photo)?.rgb();
    let mask = read(&args.mask)?;
    let grow = args.grow.unwrap_or_else(|| default_grow(photo.width, photo.height));
    let hole = Hole::new(&photo, &mask, grow, &args.mask)?;
    let smooth = fill(&photo, &hole);
    let filled = match (&args.base, args.fill) {
        (Some(name), _) => painted(args, name, &smooth, &hole)?,
        (None, None | Some(Fill::Classical)) => smooth,
    };
    write_png(&args.out, &hole.seen_through(&photo, &filled), &[])?;
    note(&args.out.display().to_string());
    Ok(0)
}

/// The hole of `smooth` painted by a base, at the photo's size.
fn painted(args: &InpaintArgs, name: &str, smooth: &Picture, hole: &Hole) -> Result<Picture> {
    let (device, dtype) = args.compute.place.open()?;
    let base = Base::open(name)?.stored_as(device.types(dtype));
    let brush = Brush {
        base: &base,
        device: &device,
        prompt: &args.prompt,
        guidance: args.guidance,
        steps: args.steps,
        resampling: Resampling { jump: args.jump, times: args.resample },
        seed: args.compute.seed,
    };
    brush.paint(smooth, hole)
}

/// Noise levels of a fill by a base, unless told otherwise.
pub const FILL_STEPS: usize = 50;

/// A base that paints holes.
pub struct Brush<'a> {
    /// The base.
    pub base: &'a Base,
    /// Where it runs.
    pub device: &'a Device,
    /// What is behind the subject.
    pub prompt: &'a str,
    /// How closely to follow that.
    pub guidance: Option<f32>,
    /// Noise levels of the walk.
    pub steps: usize,
    /// How it is walked.
    pub resampling: Resampling,
    /// Seed of the noise.
    pub seed: u64,
}

impl Brush<'_> {
    /// The hole of `smooth` painted, at the photo's size.
    ///
    /// # Errors
    /// Those of the base and of the device; [`Error::OutOfMemory`] before anything is loaded.
    pub fn paint(&self, smooth: &Picture, hole: &Hole) -> Result<Picture> {
        let Self { base, device, prompt, resampling, .. } = *self;
        let guidance = match self.guidance {
            Some(g) if g.is_finite() && g >= 0.0 => g,
            Some(g) => {
                return Err(Error::Config {
                    key: "--guidance".into(),
                    found: g.to_string(),
                    expected: "a number of 0 or more".into(),
                    fix: "7.5 is a good number, 5 for SDXL".into(),
                });
            }
            None if prompt.trim().is_empty() => 1.0,
            None => base.guidance(),
        };
        let [width, height] = suited(smooth, base.side(), base.vae.factor());
        let request = Request {
            prompt: prompt.into(),
            negative: None,
            height,
            width,
            sampler: Sampler::Ddim,
            spacing: None,
            steps: self.steps,
            guidance,
        };
        let (adapters, loras) = (Adapters::new(), Loras::default());
        let mut pipeline = Pipeline::new(base, device.clone(), &adapters, &loras);
        let latent = pipeline.latent(height, width)?;
        let size = Size { pictures: 1, guided: guidance > 1.0, latent };
        fit::check((base, device), &adapters, &size, Purpose::Generate)?; // encoder, U-Net and decoder, one after the other
        let cells = hole.cells(latent);
        let known = {
            // neither has anything of the subject: what lies beside the hole is encoded with it
            let shown = if pipeline.fills() { emptied(smooth, hole) } else { smooth.clone() };
            let shown = shown.resize(width, height, Filter::Lanczos);
            PictureEncoder::new(base, device).encode(&shown)?
        };
        let bar = progress(pipeline.fill_calls(self.steps, resampling));
        let known = Known { latent: &known, hole: &cells };
        let mut tick = || bar.inc(1);
        let latent = pipeline.fill(&request, known, resampling, self.seed, &mut tick)?;
        bar.finish_and_clear();
        pipeline.drop_denoiser();
        let picture = pipeline.decode(&latent, height, width)?;
        Ok(picture.resize(smooth.width, smooth.height, Filter::Lanczos))
    }
}

/// The size of the base's own area with the photo's proportions, in whole cells.
fn suited(photo: &Picture, side: usize, factor: usize) -> [usize; 2] {
    let scale = side as f64 / ((photo.width * photo.height) as f64).sqrt();
    let cells = |n: usize| ((n as f64 * scale / factor as f64).round() as usize).max(1) * factor;
    [cells(photo.width), cells(photo.height)]
}

/// The photo with grey in the hole, as SD-inpainting was trained.
fn emptied(photo: &Picture, hole: &Hole) -> Picture {
    let mut out = photo.clone();
    for (pixel, _) in out.data.chunks_exact_mut(3).zip(hole.open()).filter(|(_, open)| *open) {
        pixel.fill(128);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_size_has_the_bases_area_and_the_photos_proportions() {
        assert_eq!(suited(&Picture::filled(640, 480, 3, 0), 1024, 8), [1184, 888]);
        assert_eq!(suited(&Picture::filled(100, 100, 3, 0), 128, 8), [128, 128]);
        assert_eq!(suited(&Picture::filled(4000, 10, 3, 0), 128, 8), [2560, 8]);
    }

    #[test]
    fn nothing_of_the_subject_is_encoded_for_a_base_trained_to_fill() {
        let photo = Picture::filled(8, 8, 3, 200);
        let mut mask = Picture::filled(8, 8, 1, 0);
        mask.at_mut(4, 4)[0] = 255;
        let hole = Hole::new(&photo, &mask, 1, Path::new("m")).unwrap();
        let out = emptied(&photo, &hole);
        assert_eq!((out.at(4, 4), out.at(0, 0)), (&[128u8; 3][..], &[200u8; 3][..]));
    }
}
