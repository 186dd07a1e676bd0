//! The sample pictures of a training run: what they show, how they start, what they are written with.

use crate::{
    cli::scene::Scene,
    data::{
        Subject, TrainConfig,
        config::{Method, Mode, SampleInit, Sampler as SamplerName},
    },
    device::Device,
    error::{Error, Result},
    lora::{Adapters, Loras},
    models::{Texts, base::Base},
    plan::WeightSource,
    sample::{
        MaskResize, PictureEncoder, Pipeline, Request, Sampler, Size, StartLatents, StartNoise,
        Steering, first_inputs,
        fit::{Forecast, Unet},
        unit_noise,
    },
    tensor::{image::write_png, safetensors::Dtype},
    train::{Blueprint, Trainable, TrainedWeights, adapter, text_is_trained},
};
use std::path::Path;

/// Prompts of the sample pictures: those of the configuration, or one with every subject.
fn prompts(config: &TrainConfig) -> Vec<String> {
    if !config.train.sample_prompts.is_empty() {
        return config.train.sample_prompts.clone();
    }
    let all: Vec<String> = config.subjects.iter().map(|s| format!("a {}", s.words())).collect();
    vec![format!("a photo of {}", all.join(" and "))]
}

/// A sample picture.
fn request(config: &TrainConfig, prompt: String) -> Request {
    let t = &config.train;
    let negative = match t.sample_negative.as_str() {
        "auto" => config.method.name.negative_prompt().map(String::from),
        text => Some(text.into()),
    };
    Request {
        prompt,
        negative,
        height: t.resolution,
        width: t.resolution,
        sampler: match t.sample_sampler {
            SamplerName::Euler => Sampler::Euler,
            SamplerName::Ddim => Sampler::Ddim,
            SamplerName::Dpm => Sampler::DpmPp,
        },
        spacing: None,
        steps: t.sample_steps,
        guidance: t.sample_guidance as f32,
    }
}

/// The pictures of a sampling moment; none in a run without them.
pub fn requests(config: &TrainConfig) -> Vec<Request> {
    match config.train.sample_every {
        0 => vec![],
        _ => prompts(config).into_iter().map(|prompt| request(config, prompt)).collect(),
    }
}

/// What the text encoders have to encode for `requests`.
pub fn texts(requests: &[Request]) -> Vec<String> {
    requests.iter().flat_map(Request::texts).map(String::from).collect()
}

/// Where the sample picture of `prompt` starts: `None` for plain noise.
fn scene(config: &TrainConfig, subjects: &[Subject], prompt: &str) -> Result<Option<Scene>> {
    let masks = subjects.iter().all(|s| s.need_a_mask().is_ok());
    let named = subjects.iter().any(|s| s.named_in(prompt));
    let wanted = match config.train.sample_init {
        SampleInit::None => false,
        SampleInit::SegMix => true,
        SampleInit::Auto => config.method.name == Method::Mudi && masks && named,
    };
    match wanted {
        false => Ok(None),
        true => Scene::columns(subjects.to_vec(), config.method.clone(), prompt).map(Some),
    }
}

/// What one picture of a sampling moment is planned for.
pub fn size(config: &TrainConfig, base: &Base) -> Size {
    let latent = [config.train.resolution / base.vae.factor().max(1); 2];
    Size { pictures: 1, guided: true, latent }
}

/// What the sample pictures need beside the training step; 0 for a run that makes none.
pub fn bytes(config: &TrainConfig, base: &Base, device: &Device) -> Result<u64> {
    match config.train.sample_every {
        0 => Ok(0),
        _ => {
            let forecast = Forecast::new(base, &Adapters::new(), &size(config, base))?;
            let unet = match config.train.mode {
                Mode::Full => Unet::Trained,
                Mode::Lora => Unet::Frozen,
            };
            Ok(forecast.beside_training(device, unet))
        }
    }
}

/// What the pictures of a sampling moment are made of.
pub struct Moment<'a> {
    /// The run's configuration.
    pub config: &'a TrainConfig,
    /// The base before the training.
    pub base: &'a Base,
    /// Where the run is.
    pub device: &'a Device,
    /// Whose pictures may start a sample.
    pub subjects: &'a [Subject],
}

/// The pictures of one sampling moment. Encoder, U-Net and decoder are planned at each, one after the other, and
/// their memory goes back to the training; the frozen weights of the CPU's programs are the step's own. Prompts
/// are encoded once in the run, unless the text encoders are trained.
///
/// # Errors
/// Those of the pipeline and of the folder.
pub fn make(
    moment: &Moment<'_>,
    trained: &[Trainable],
    texts: &mut Texts,
    folder: &Path,
) -> Result<()> {
    let Moment { config, base, device, .. } = *moment;
    let loras = match config.train.mode {
        Mode::Full => Loras::default(),
        Mode::Lora => Loras::new(vec![(
            adapter(trained, config.train.effective_alpha() as f32, Dtype::F32)?,
            1.0,
        )]),
    };
    let (adapters, whole) = (loras.adapters(), TrainedWeights::new(trained));
    let source: &dyn WeightSource = match config.train.mode {
        Mode::Full => &whole,
        Mode::Lora => &loras,
    };
    let known = if text_is_trained(config) { Texts::default() } else { std::mem::take(texts) };
    let pipeline = Pipeline::new(base, device.clone(), &adapters, source).with_texts(known);
    let decoupled = Blueprint::new(config, base.architecture())?.options.decoupled;
    let mut pipeline = pipeline.steered(decoupled.map(|d| Steering::subject(d.model)))?;
    std::fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    let requests = requests(config);
    pipeline.encode_prompts(&requests.iter().collect::<Vec<_>>())?;
    let (mut starts, mut latents) = (vec![], vec![]);
    let mut encoder = PictureEncoder::new(base, device);
    for (i, request) in requests.iter().enumerate() {
        let seed = config.train.seed.wrapping_add(i as u64);
        starts.push(match &scene(config, moment.subjects, &request.prompt)? {
            None => (plain_start(&pipeline, request, (base, device), seed)?, false),
            Some(scene) => {
                let parts = [scene.compose(seed, [request.width, request.height])?];
                let (noise, gamma) = (StartNoise::Seeds(&[seed]), config.train.sample_gamma as f32);
                let resize = MaskResize::default();
                let inputs = first_inputs(&mut encoder, &parts, noise, gamma, resize)?;
                (StartLatents::FirstInput(inputs), true)
            }
        });
    }
    drop(encoder);
    for (request, (start, shifted)) in requests.iter().zip(starts) {
        let latent = pipeline.denoise(request, start, &mut || {})?.pop().unwrap_or_default();
        latents.push((latent, described(config, request, shifted)));
    }
    pipeline.drop_denoiser();
    for (i, (request, (latent, text))) in requests.iter().zip(&latents).enumerate() {
        let picture = pipeline.decode(latent, request.height, request.width)?;
        write_png(&folder.join(format!("{i:02}.png")), &picture, text)?;
    }
    *texts = pipeline.into_texts();
    Ok(())
}

/// Text pairs of a sample picture.
fn described(config: &TrainConfig, r: &Request, shifted: bool) -> Vec<(String, String)> {
    let mut pairs = vec![("prompt".to_string(), r.prompt.clone())];
    pairs.extend(r.negative.iter().map(|n| ("negative".to_string(), n.clone())));
    if shifted {
        pairs.push(("init".into(), format!("seg-mix, gamma {}", config.train.sample_gamma)));
    }
    pairs
}

/// Unit noise for one picture.
///
/// # Errors
/// A size that the base does not have; those of the device.
pub fn plain_start(
    pipeline: &Pipeline<'_>,
    request: &Request,
    (base, device): (&Base, &Device),
    seed: u64,
) -> Result<StartLatents> {
    let [h, w] = pipeline.latent(request.height, request.width)?;
    unit_noise(device, &[seed], [h, w, base.unet.in_channels]).map(StartLatents::Noise)
}
