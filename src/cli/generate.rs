//! `selvedge generate`: pictures from a prompt, with adapters and the mean-shifted initialization.

use super::{
    advice::doubt,
    common::{Compute, at_least, dtype, lora_word, note, warn},
    progress::progress,
    scene::Scene,
    steer::SteerArgs,
};
use crate::{
    data::config::Method,
    error::{Error, Result},
    lora::{Lora, Loras},
    models::{
        base::{Base, SAMPLING_STEPS},
        noise::{Prediction, Spacing},
    },
    sample::{
        Loads, MaskResize, PictureEncoder, Pipeline, Request, Sampler, Settings, Size,
        StartLatents, StartNoise, first_inputs,
        fit::{self, Purpose},
        unit_noise,
    },
    tensor::{
        DType, Tensor,
        image::{Picture, write_png},
        safetensors::{Raw, SafeFile},
        write_safetensors,
    },
    train::modules,
};
use clap::Args;
use serde_json::json;
use std::{
    collections::BTreeMap,
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
    /// What to avoid; without it "sticker, collage." with a MuDI adapter, else the base's own choice (zeros or the
    /// empty text).
    #[arg(long, value_name = "TEXT")]
    pub negative: Option<String>,
    /// The base's own choice with a MuDI adapter too.
    #[arg(long, conflicts_with = "negative")]
    pub no_negative: bool,
    /// A file with [[subject]] tables and the [method] keys that place them, as in a training configuration.
    #[arg(long, value_name = "FILE.toml")]
    pub subjects: Option<PathBuf>,
    /// Start from the subjects: seg-mix (random places), a layout file, or none.
    #[arg(long, default_value = "none", value_name = "seg-mix|none|LAYOUT.json")]
    pub init: String,
    /// Strength of the initialization.
    #[arg(long, default_value_t = 1.0, value_name = "G", allow_negative_numbers = true)]
    pub gamma: f32,
    /// With --init seg-mix: each subject in a column of its own, so that none hides a part of another; without it they may
    /// overlap, as in training.
    #[arg(long)]
    pub apart: bool,
    /// How the mask of the initialization is resized: bilinear or nearest.
    #[arg(long, default_value = "bilinear", value_name = "RULE")]
    pub mask_resize: String,
    /// euler, ddim or dpm++.
    #[arg(long, default_value = "euler", value_name = "NAME")]
    pub sampler: String,
    /// Spacing of the timesteps: leading, trailing or linspace; scheduler_config.json's by default.
    #[arg(long, value_name = "NAME")]
    pub spacing: Option<String>,
    /// What the U-Net predicts: epsilon or v; what the checkpoint says by default.
    #[arg(long, value_name = "NAME")]
    pub prediction: Option<String>,
    /// Steps of the sampler; 50 by default.
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Classifier-free guidance; 1 turns it off. By default 5 for SDXL and nano (which is SDXL's architecture), 7.5
    /// for SD 1.5 and SD 2.1.
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
    pub guidance: Option<f32>,
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
    /// Element type of the autoencoder: f32, bf16 or f16; by default f32, or bf16 with --dtype bf16 where its
    /// configuration has no force_upcast.
    #[arg(long, value_name = "TYPE")]
    pub vae_dtype: Option<String>,
    /// With a decoupled adapter.
    #[command(flatten)]
    pub steer: SteerArgs,
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
#[derive(Clone, Debug)]
pub struct Made {
    /// The pictures.
    pub pictures: Vec<Picture>,
    /// The latents they were decoded from.
    pub latents: Vec<Vec<f32>>,
    /// How often each program was loaded: once, whatever count and batch.
    pub loads: Loads,
    /// What was asked for, with every default filled in.
    pub request: Request,
    /// What the U-Net predicts.
    pub prediction: Prediction,
}

/// The words of the command line, read.
struct Words {
    sampler: Sampler,
    spacing: Option<Spacing>,
    prediction: Option<Prediction>,
    resize: MaskResize,
    vae: Option<DType>,
}

impl Generate {
    /// Makes the pictures and writes them.
    ///
    /// # Errors
    /// Those of the files, the settings and the programs.
    pub fn run(&self) -> Result<u8> {
        let made = self.write()?;
        note(&format!("{} pictures in {}", made.pictures.len(), self.out.display()));
        Ok(0)
    }

    /// As [`Generate::run`]; returns the pictures.
    ///
    /// # Errors
    /// As [`Generate::run`].
    pub fn write(&self) -> Result<Made> {
        let made = self.make()?;
        std::fs::create_dir_all(&self.out).map_err(Error::file("create", &self.out))?;
        for (i, p) in made.pictures.iter().enumerate() {
            let path = self.out.join(format!("{i:05}.png"));
            write_png(&path, p, &[("selvedge".into(), self.metadata(&made, i).to_string())])?;
        }
        if let Some(path) = &self.save_latents {
            save_latents(path, &made)?;
        }
        Ok(made)
    }

    /// Everything needed to make picture `i` again.
    fn metadata(&self, made: &Made, i: usize) -> serde_json::Value {
        let r = &made.request;
        json!({
            "version": env!("CARGO_PKG_VERSION"), "base": self.base, "lora": self.lora,
            "prompt": r.prompt, "negative": r.negative, "init": self.init,
            "subjects": self.subjects, "gamma": self.gamma, "apart": self.apart, "mask_resize": self.mask_resize,
            "sampler": self.sampler, "spacing": r.spacing.map(Spacing::word),
            "prediction": made.prediction.word(), "steps": r.steps, "guidance": r.guidance,
            "height": r.height, "width": r.width,
            "decoupled": self.steer.words(), "latents": self.latents, "picture": i, "batch": self.batch,
            "seed": self.compute.seed.wrapping_add(i as u64),
        })
    }

    /// As [`Generate::metadata`] for picture `i` made alone: by its own seed.
    pub fn metadata_alone(&self, made: &Made, i: usize) -> serde_json::Value {
        let seed = self.compute.seed.wrapping_add(i as u64);
        let compute = Compute { seed, ..self.compute.clone() };
        Self { compute, count: 1, batch: 1, ..self.clone() }.metadata(made, 0)
    }

    /// Reads the words and refuses numbers that cannot be used.
    fn words(&self) -> Result<Words> {
        at_least("--gamma", self.gamma.into(), 0.0)?;
        at_least("--guidance", self.guidance.unwrap_or(1.0).into(), 0.0)?;
        at_least("--count", self.count as f64, 1.0)?;
        at_least("--batch", self.batch as f64, 1.0)?;
        at_least("--steps", self.steps.unwrap_or(1) as f64, 1.0)?;
        Ok(Words {
            sampler: self.sampler.parse()?,
            spacing: self.spacing.as_deref().map(str::parse).transpose()?,
            prediction: self.prediction.as_deref().map(str::parse).transpose()?,
            resize: mask_resize(&self.mask_resize)?,
            vae: self.vae_dtype.as_deref().map(dtype).transpose()?,
        })
    }

    /// The request with every default filled in, for pictures of `height` by `width`.
    fn request(&self, base: &Base, loras: &Loras, words: &Words) -> Result<Request> {
        let settings = Settings::read(&base.scheduler, words.sampler)?;
        for key in &settings.unread {
            warn(&format!("scheduler_config.json: {key} is nothing that {} knows", self.sampler));
        }
        let guidance = self.guidance.unwrap_or_else(|| base.guidance());
        Ok(Request {
            prompt: self.prompt.clone(),
            negative: self.negative_prompt(loras, guidance),
            height: self.height.unwrap_or(base.side()),
            width: self.width.unwrap_or(base.side()),
            sampler: words.sampler,
            spacing: Some(words.spacing.unwrap_or(settings.spacing)),
            steps: self.steps.unwrap_or(SAMPLING_STEPS),
            guidance,
        })
    }

    /// The negative prompt: the one given, or that of the method an adapter was trained with.
    fn negative_prompt(&self, loras: &Loras, guidance: f32) -> Option<String> {
        if self.negative.is_some() || self.no_negative {
            return self.negative.clone();
        }
        let mudi = loras.iter().any(|(l, s)| s != 0.0 && l.method() == Some(Method::Mudi.word()));
        let text = Method::Mudi.negative_prompt().filter(|_| mudi)?;
        if guidance > 1.0 {
            note(&format!(
                "negative prompt `{text}`, as for every MuDI adapter; --negative changes it"
            ));
        }
        Some(text.into())
    }

    /// Makes the pictures.
    ///
    /// # Errors
    /// As [`Generate::run`].
    pub fn make(&self) -> Result<Made> {
        let words = self.words()?;
        let (device, dtype) = self.compute.place.open()?;
        let masks = (&device, &*self.out.join("masks"));
        let file = self.subjects.as_deref();
        let scene = Scene::open((&self.init, self.apart), file, &self.prompt, masks)?;
        let base =
            Base::open(&self.base)?.stored_as(device.types(dtype)).predicting(words.prediction);
        let base = base.vae_stored_as(words.vae)?;
        doubt(&base);
        let loras = open_loras(&base, &self.lora)?;
        let base = base.learning(&loras.words()?);
        let mut request = self.request(&base, &loras, &words)?;
        let given = self.given_noise(&base)?;
        if let Some(g) = &given {
            request.height = self.height.unwrap_or(g.height);
            request.width = self.width.unwrap_or(g.width);
        }
        let adapters = loras.adapters();
        let steering = self.steer.steering(&loras, &device)?;
        let pipeline = Pipeline::new(&base, device.clone(), &adapters, &loras);
        let mut pipeline = pipeline.steered(steering)?;
        let [h, w] = pipeline.latent(request.height, request.width)?;
        let count = given.as_ref().map_or(self.count, |g| g.noise.len());
        let pictures = self.batch.clamp(1, count.max(1));
        let size = Size { pictures, guided: request.guidance > 1.0, latent: [h, w] };
        fit::check((&base, &device), &adapters, &size, Purpose::Generate)?;
        let bar = progress(count.div_ceil(pictures) * request.steps);
        // One phase after the other, so that one program's memory is gone before the next is loaded.
        pipeline.encode_prompts(&[&request])?;
        let mut encoder = PictureEncoder::new(&base, &device);
        let all: Vec<usize> = (0..count).collect();
        let mut starts = vec![];
        for part in all.chunks(pictures) {
            let seeds: Vec<u64> =
                part.iter().map(|i| self.compute.seed.wrapping_add(*i as u64)).collect();
            let given: Option<Vec<Vec<f32>>> =
                given.as_ref().map(|g| part.iter().map(|i| g.noise[*i].clone()).collect());
            starts.push(match (&scene, given) {
                (None, Some(noise)) => StartLatents::Noise(noise),
                (None, None) => {
                    StartLatents::Noise(unit_noise(&device, &seeds, [h, w, base.unet.in_channels])?)
                }
                (Some(scene), given) => {
                    let size = [request.width, request.height];
                    let parts: Vec<(Picture, Picture)> =
                        seeds.iter().map(|s| scene.compose(*s, size)).collect::<Result<_>>()?;
                    let seeded = StartNoise::Seeds(&seeds);
                    let noise = given.as_deref().map_or(seeded, StartNoise::Given);
                    let (gamma, resize) = (self.gamma, words.resize);
                    let inputs = first_inputs(&mut encoder, &parts, noise, gamma, resize)?;
                    StartLatents::FirstInput(inputs)
                }
            });
        }
        let encoder_loads = encoder.loads;
        drop(encoder);
        let (mut made, mut latents) = (vec![], vec![]);
        for start in starts {
            latents.extend(pipeline.denoise(&request, start, &mut || bar.inc(1))?);
        }
        pipeline.drop_denoiser();
        for latent in &latents {
            made.push(pipeline.decode(latent, request.height, request.width)?);
        }
        bar.finish_and_clear();
        let loads = Loads { encoder: encoder_loads, ..pipeline.loads() };
        let prediction = base.noise()?.prediction;
        Ok(Made { pictures: made, latents, loads, request, prediction })
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
