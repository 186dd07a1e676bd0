//! `selvedge generate`: pictures from a prompt, with adapters and the mean-shifted initialization.

use super::common::{Compute, lora_word, note, warn};
use crate::{
    data::{
        Layout, Subject,
        config::{Method, MethodConfig},
        layout::{arranged, columns},
        load_all,
        mix::Rule,
    },
    error::{Error, Result},
    lora::{Lora, Loras},
    models::base::Base,
    sample::{
        Loads, MaskResize, PictureEncoder, Pipeline, Request, Sampler, Size, Spacing, Start,
        first_inputs,
        fit::{self, Purpose},
        start_noise,
    },
    tensor::{
        Tensor,
        image::{Picture, write_png},
        philox::{Stream, streams::COMPOSITION},
        safetensors::{Raw, SafeFile},
        write_safetensors,
    },
    train::modules,
};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    path::{Path, PathBuf},
};

/// Make pictures.
///
/// Example: selvedge generate --base nano --lora run/adapter.safetensors --subjects bears.toml --init seg-mix
/// --prompt "a photo of a olis bear and a hta bear, on the beach" --count 4 --out pictures
#[derive(Clone, Debug, Args)]
pub struct Generate {
    /// A diffusers folder, a single-file checkpoint, or nano.
    #[arg(long, value_name = "BASE")]
    pub base: String,
    /// An adapter file, with a strength after a colon (repeatable).
    #[arg(long, value_name = "FILE[:SCALE]")]
    pub lora: Vec<String>,
    /// What to show.
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,
    /// What to avoid; without it the base's own choice (zeros or the empty text).
    #[arg(long, value_name = "TEXT")]
    pub negative: Option<String>,
    /// A file with [[subject]] tables, as in a training configuration.
    #[arg(long, value_name = "FILE.toml")]
    pub subjects: Option<PathBuf>,
    /// Start from the subjects: seg-mix (random places), a layout file, or none.
    #[arg(long, default_value = "none", value_name = "seg-mix|none|LAYOUT.json")]
    pub init: String,
    /// Strength of the initialization.
    #[arg(long, default_value_t = 1.0, value_name = "G")]
    pub gamma: f32,
    /// How the mask of the initialization is resized: bilinear or nearest.
    #[arg(long, default_value = "bilinear", value_name = "RULE")]
    pub mask_resize: String,
    /// euler, ddim or dpm++.
    #[arg(long, default_value = "euler", value_name = "NAME")]
    pub sampler: String,
    /// Spacing of the timesteps: leading or trailing.
    #[arg(long, default_value = "leading", value_name = "NAME")]
    pub spacing: String,
    /// Steps of the sampler.
    #[arg(long, default_value_t = 30, value_name = "N")]
    pub steps: usize,
    /// Classifier-free guidance; 1 turns it off.
    #[arg(long, default_value_t = 5.0, value_name = "G")]
    pub guidance: f32,
    /// Pictures to make; picture i has the seed SEED + i.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub count: usize,
    /// Pictures in one pass.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub batch: usize,
    /// Picture height in pixels; the base's own size by default.
    #[arg(long, value_name = "PX")]
    pub height: Option<usize>,
    /// Picture width in pixels; the base's own size by default.
    #[arg(long, value_name = "PX")]
    pub width: Option<usize>,
    /// Start from the tensor `latents [N, 4, h, w]` (unit noise) of this file instead of drawing it.
    #[arg(long, value_name = "FILE")]
    pub latents: Option<PathBuf>,
    /// Write the final latents to this file.
    #[arg(long, value_name = "FILE")]
    pub save_latents: Option<PathBuf>,
    /// The folder to write to.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Shared flags.
    #[command(flatten)]
    pub compute: Compute,
}

/// Pictures and their final latents `[h, w, C]`.
#[derive(Clone, Debug, Default)]
pub struct Made {
    /// The pictures.
    pub pictures: Vec<Picture>,
    /// The latents they were decoded from.
    pub latents: Vec<Vec<f32>>,
    /// How often each program was loaded: once, whatever count and batch.
    pub loads: Loads,
}

impl Generate {
    /// Makes the pictures and writes them.
    ///
    /// # Errors
    /// Those of the files, the settings and the programs.
    pub fn run(&self) -> Result<u8> {
        let made = self.make()?;
        std::fs::create_dir_all(&self.out).map_err(Error::file("create", &self.out))?;
        for (i, p) in made.pictures.iter().enumerate() {
            let path = self.out.join(format!("{i:05}.png"));
            write_png(&path, p, &[("selvedge".into(), self.metadata(i).to_string())])?;
        }
        if let Some(path) = &self.save_latents {
            save_latents(path, &made)?;
        }
        note(&format!("{} pictures in {}", made.pictures.len(), self.out.display()));
        Ok(0)
    }

    /// Everything needed to make picture `i` again.
    fn metadata(&self, i: usize) -> serde_json::Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"), "base": self.base, "lora": self.lora,
            "prompt": self.prompt, "negative": self.negative, "init": self.init,
            "subjects": self.subjects, "gamma": self.gamma, "mask_resize": self.mask_resize,
            "sampler": self.sampler, "spacing": self.spacing, "steps": self.steps,
            "guidance": self.guidance, "height": self.height, "width": self.width,
            "latents": self.latents, "picture": i, "batch": self.batch,
            "seed": self.compute.seed.wrapping_add(i as u64),
        })
    }

    /// Makes the pictures.
    ///
    /// # Errors
    /// As [`Generate::run`].
    pub fn make(&self) -> Result<Made> {
        let (device, dtype) = self.compute.place.open()?;
        let (sampler, spacing): (Sampler, Spacing) = (self.sampler.parse()?, self.spacing.parse()?);
        let resize = mask_resize(&self.mask_resize)?;
        let subjects = self.load_subjects()?;
        let base = Base::open(&self.base)?.stored_as(dtype);
        let loras = open_loras(&base, &self.lora)?;
        let (given, side) = (self.given_noise(&base)?, base.side());
        let height = self.height.unwrap_or(given.as_ref().map_or(side, |g| g.height));
        let width = self.width.unwrap_or(given.as_ref().map_or(side, |g| g.width));
        let adapters = loras.adapters();
        let mut pipeline = Pipeline::new(&base, device.clone(), &adapters, &loras);
        let [h, w] = pipeline.latent(height, width)?;
        let count = given.as_ref().map_or(self.count, |g| g.noise.len());
        let request = Request {
            prompt: self.prompt.clone(),
            negative: self.negative.clone(),
            height,
            width,
            sampler,
            spacing,
            steps: self.steps,
            guidance: self.guidance,
        };
        let pictures = self.batch.clamp(1, count.max(1));
        let size = Size { pictures, guided: request.guidance > 1.0, latent: [h, w] };
        fit::check((&base, &device), &adapters, &size, Purpose::Generate)?;
        let bar = progress(count.div_ceil(pictures) * self.steps);
        let mut made = Made::default();
        // One phase after the other, so that one program's memory is gone before the next is loaded.
        pipeline.encode_prompts(&[&request])?;
        let compose = self.composition(&subjects, [width, height])?;
        let mut encoder = PictureEncoder::new(&base, &device);
        let all: Vec<usize> = (0..count).collect();
        let mut starts = vec![];
        for part in all.chunks(pictures) {
            let seed = |i: usize| self.compute.seed.wrapping_add(i as u64);
            let noise: Vec<Vec<f32>> = part
                .iter()
                .map(|i| match &given {
                    Some(g) => g.noise[*i].clone(),
                    None => start_noise(seed(*i), h * w * base.unet.in_channels),
                })
                .collect();
            starts.push(match &compose {
                None => Start::Noise(noise),
                Some(compose) => {
                    let parts: Vec<(Picture, Picture)> =
                        part.iter().map(|i| compose(seed(*i))).collect::<Result<_>>()?;
                    let inputs = first_inputs(&mut encoder, &parts, &noise, self.gamma, resize)?;
                    Start::FirstInput(inputs)
                }
            });
        }
        made.loads.encoder = encoder.loads;
        drop(encoder);
        for start in starts {
            made.latents.extend(pipeline.denoise(&request, start, &mut || bar.inc(1))?);
        }
        pipeline.drop_denoiser();
        for latent in &made.latents {
            made.pictures.push(pipeline.decode(latent, height, width)?);
        }
        made.loads = Loads { encoder: made.loads.encoder, ..pipeline.loads() };
        bar.finish_and_clear();
        Ok(made)
    }

    fn load_subjects(&self) -> Result<Vec<Subject>> {
        let Some(path) = &self.subjects else {
            if self.init == "none" {
                return Ok(vec![]);
            }
            return Err(Error::Config {
                key: "--init".into(),
                found: self.init.clone(),
                expected: "--subjects FILE.toml beside it".into(),
                fix: "name the subjects, or use --init none".into(),
            });
        };
        let mut warnings = vec![];
        let configs = crate::data::config::load_subjects(path)?;
        let subjects = load_all(&configs, &mut warnings)?;
        warnings.iter().for_each(|w| warn(w));
        Ok(subjects)
    }

    /// How the composition of a picture is made from its seed; `None` without initialization.
    #[allow(clippy::type_complexity)]
    fn composition<'s>(
        &'s self,
        subjects: &'s [Subject],
        size: [usize; 2],
    ) -> Result<Option<Box<dyn Fn(u64) -> Result<(Picture, Picture)> + 's>>> {
        match self.init.as_str() {
            "none" => Ok(None),
            "seg-mix" => {
                let named: Vec<&Subject> =
                    subjects.iter().filter(|s| s.named_in(&self.prompt)).collect();
                let chosen = if named.is_empty() { subjects.iter().collect() } else { named };
                let method = MethodConfig { name: Method::Mudi, ..MethodConfig::default() };
                let rule = Rule::new(&method, size[0].min(size[1]));
                Ok(Some(Box::new(move |seed| {
                    let start = columns(&chosen, size, &rule, &mut Stream::new(seed, COMPOSITION))?;
                    Ok((start.picture, start.mask))
                })))
            }
            file => {
                let layout = Layout::read(Path::new(file))?;
                Ok(Some(Box::new(move |seed| {
                    let start =
                        arranged(subjects, &layout, size, &mut Stream::new(seed, COMPOSITION))?;
                    Ok((start.picture, start.mask))
                })))
            }
        }
    }

    fn given_noise(&self, base: &Base) -> Result<Option<Given>> {
        let Some(path) = &self.latents else { return Ok(None) };
        let tensor = SafeFile::open(path)?.f32("latents")?;
        let [n, c, h, w] = tensor.dims[..] else {
            return Err(latents_shape(path, &tensor, base));
        };
        if c != base.unet.in_channels || n == 0 || h * w == 0 {
            return Err(latents_shape(path, &tensor, base));
        }
        let rows = tensor.permuted(&[0, 2, 3, 1]);
        let noise = rows.data.chunks_exact(h * w * c).map(<[f32]>::to_vec).collect();
        let f = base.vae.factor();
        Ok(Some(Given { noise, height: h * f, width: w * f }))
    }
}

/// Noise from a file.
struct Given {
    noise: Vec<Vec<f32>>,
    height: usize,
    width: usize,
}

fn latents_shape(path: &Path, tensor: &Tensor, base: &Base) -> Error {
    Error::Shape {
        at: path.display().to_string(),
        what: "latents",
        got: tensor.dims.clone(),
        want: format!("[N, {}, h, w]", base.unet.in_channels),
    }
}

fn mask_resize(word: &str) -> Result<MaskResize> {
    match word {
        "bilinear" => Ok(MaskResize::Bilinear),
        "nearest" => Ok(MaskResize::Nearest),
        other => Err(Error::Config {
            key: "--mask-resize".into(),
            found: other.into(),
            expected: "bilinear or nearest".into(),
            fix: "choose one of these".into(),
        }),
    }
}

/// Opens `FILE[:SCALE]` words for the modules of `base`.
///
/// # Errors
/// A scale that is no number; those of the files.
pub fn open_loras(base: &Base, words: &[String]) -> Result<Loras> {
    let modules = modules(base);
    let one = |word: &String| {
        let (file, strength) = lora_word(word)?;
        Ok((Lora::open(&file, "unet", &modules)?, strength))
    };
    Ok(Loras::new(words.iter().map(one).collect::<Result<_>>()?))
}

fn save_latents(path: &Path, made: &Made) -> Result<()> {
    let Some((first, picture)) = made.latents.first().zip(made.pictures.first()) else {
        return Ok(());
    };
    // the latent has the picture's proportions
    let cells = first.len() / 4;
    let h = ((cells * picture.height) as f64 / picture.width as f64).sqrt().round() as usize;
    let dims = [made.latents.len(), h, cells / h.max(1), 4];
    let all = Tensor { dims: dims.to_vec(), data: made.latents.concat() }.permuted(&[0, 3, 1, 2]);
    let raw = Raw::f32(&all.dims, &all.data);
    write_safetensors(path, [("latents", &raw)], &BTreeMap::new())
}

/// A bar over `steps`, silent when stderr is no terminal.
pub fn progress(steps: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{elapsed} {wide_bar} {pos}/{len} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(steps as u64).with_style(style)
}
