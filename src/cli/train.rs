//! `selvedge train`: a configuration becomes a run folder with adapters.

use super::{
    advice::{advise, prediction},
    common::{DeviceArgs, note, out, warn},
    scene::Scene,
};
use crate::{
    data::{
        Dataset, Subject, TrainConfig,
        config::{DEFAULT_PRESET, Method, Mode, SampleInit, Sampler as SamplerName, print_config},
        prior,
    },
    device::Device,
    error::{Error, Result},
    lora::{Adapters, Loras},
    models::base::Base,
    plan::WeightSource,
    sample::{
        MaskResize, PictureEncoder, Pipeline, Request, Sampler, Size, StartLatents, StartNoise,
        Texts, first_inputs,
        fit::{self, Forecast, Purpose, Unet},
        unit_noise,
    },
    tensor::{
        DType,
        image::{Picture, write_png},
    },
    train::{
        Blueprint, Hooks, Pictures, Report, RunFolder, Trainable, TrainedWeights, adapter,
        continued, run as run_training, save,
    },
};
use clap::Args as ClapArgs;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
};

/// Train adapters for several subjects.
///
/// Example: selvedge train bears.toml --out runs/bears --set train.steps=800
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// The training configuration; what it leaves out is the preset mudi-dco.
    #[arg(required_unless_present = "print_config")]
    pub config: Option<PathBuf>,
    /// The run folder.
    #[arg(long, value_name = "DIR", required_unless_present = "print_config")]
    pub out: Option<PathBuf>,
    /// Go on with the run in DIR from its last checkpoint.
    #[arg(long)]
    pub resume: bool,
    /// Override a key of the configuration (repeatable).
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The published settings under the file: mudi-dco (the default: what the authors' code trains today, without a
    /// prior set) or mudi-v1 (the first paper's loss and prior set).
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Seed of everything random, in place of the configuration's; results repeat bit for bit on a device (the CPU:
    /// with a number of threads).
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// What the base predicts, in place of the configuration's: epsilon or v.
    #[arg(long, value_name = "NAME")]
    pub prediction: Option<String>,
    /// Print every key with its value in the preset and its meaning, and stop.
    #[arg(long)]
    pub print_config: bool,
    /// Where and in which element type.
    #[command(flatten)]
    pub place: DeviceArgs,
}

/// Runs the command.
///
/// # Errors
/// Those of the configuration, the data and the run; [`Error::Interrupted`] after Ctrl-C.
pub fn run(args: Args) -> Result<u8> {
    if args.print_config {
        out(&print_config(args.preset.as_deref().unwrap_or(DEFAULT_PRESET))?);
        return Ok(0);
    }
    let (Some(file), Some(folder)) = (&args.config, &args.out) else { return Ok(2) };
    let config = TrainConfig::load_over(args.preset.as_deref(), file, &args.overrides())?;
    let place = args.place.open()?;
    let hint = args.resume_hint(file, folder);
    let report = train(&config, place, folder, args.resume, &hint, stop_flag())?;
    note(&summary(&report));
    Ok(0)
}

/// How the run went and what it wrote.
fn summary(report: &Report) -> String {
    let written: Vec<String> = report.written.iter().map(|p| p.display().to_string()).collect();
    format!(
        "{} steps ({} now, {:.1} s), loss {:.4}, {} trained parameters: {}",
        report.steps,
        report.own_steps,
        report.seconds,
        report.last_loss,
        report.trainable_parameters,
        written.join(", ")
    )
}

impl Args {
    /// What the command line says in place of the file; a flag wins over --set.
    fn overrides(&self) -> Vec<String> {
        let flags = [
            self.seed.map(|n| format!("train.seed={n}")),
            self.prediction.as_ref().map(|p| format!("prediction={p}")),
        ];
        self.set.iter().cloned().chain(flags.into_iter().flatten()).collect()
    }

    /// The command that goes on with the run.
    fn resume_hint(&self, file: &Path, folder: &Path) -> String {
        let sets: String = self.overrides().iter().map(|s| format!(" --set {s}")).collect();
        let preset = self.preset.as_ref().map(|p| format!(" --preset {p}")).unwrap_or_default();
        let (file, folder) = (file.display(), folder.display());
        format!("selvedge train {file} --out {folder}{preset}{sets} --resume")
    }
}

/// A flag that Ctrl-C sets; a second Ctrl-C ends the process at once.
pub fn stop_flag() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let handler = move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(2);
        }
        note("stopping after this step; once more to stop at once");
    };
    if ctrlc::set_handler(handler).is_err() {
        warn("Ctrl-C will end the run at once: the signal could not be taken");
    }
    stop
}

/// Trains `config` into `folder`: the prior set if it is asked for, the run, samples, the adapter files.
///
/// # Errors
/// As [`run`].
pub fn train(
    config: &TrainConfig,
    (device, dtype): (Device, DType),
    folder: &Path,
    resume: bool,
    hint: &str,
    stop: Arc<AtomicBool>,
) -> Result<Report> {
    let base = Base::open(&config.base)?.stored_as(dtype).predicting(prediction(config));
    let blueprint = Blueprint::new(config, base.architecture())?;
    continued(config, &base, &blueprint.trained)?; // refused before anything is made
    advise(config, &base);
    let open = || match resume {
        true => RunFolder::resume(folder, config),
        false => RunFolder::create(folder, config),
    };
    let own_prior = config.method.prior_dir.as_os_str().is_empty();
    let prior_dir = if own_prior { folder.join("prior") } else { config.method.prior_dir.clone() };
    // The data are read before the folder is made, unless the prior set has to be made in it.
    let (mut run_folder, mut texts) = (None, Texts::default());
    if config.method.prior_preservation {
        run_folder = Some(open()?);
        let made = make_prior(config, (&base, &device), &mut texts, &prior_dir, &stop);
        made.map_err(|e| withdraw(e, folder))?;
    }
    let mut warnings = vec![];
    let data = Dataset::open(config, &prior_dir, &mut warnings);
    let data = data.map_err(|e| if run_folder.is_some() { withdraw(e, folder) } else { e })?;
    warnings.iter().for_each(|w| warn(w));
    let run_folder = run_folder.map_or_else(open, Ok)?;
    let source = Pictures::new(&data, config, base.vae.factor());
    let mut sample = |step: u64, trained: &[Trainable]| {
        let folder = folder.join(format!("samples/step-{step:06}"));
        let run = Moment { config, base: &base, device: &device, subjects: data.subjects() };
        sample_pictures(&run, trained, &mut texts, &folder)
    };
    let mut write = |folder: &Path, trained: &[Trainable]| save(folder, config, &base, trained);
    let hooks = Hooks {
        sample: Some(&mut sample),
        sample_bytes: sample_bytes(config, &base, &device)?,
        save: &mut write,
        stop: &stop,
        resume_hint: hint.into(),
    };
    let result = run_training(config, &base, device.clone(), &source, &run_folder, hooks);
    result.map_err(|e| withdraw(e, folder))
}

/// After a failure before the first step: leaves no folder that looks like a run (a prior set stays).
fn withdraw(e: Error, folder: &Path) -> Error {
    if !folder.join("log.csv").exists() {
        let _ = std::fs::remove_file(folder.join("config.toml"));
        let _ = std::fs::remove_dir(folder);
    }
    e
}

/// Prompts of the sample pictures: those of the configuration, or one with every subject.
fn prompts(config: &TrainConfig) -> Vec<String> {
    if !config.train.sample_prompts.is_empty() {
        return config.train.sample_prompts.clone();
    }
    let all: Vec<String> = config.subjects.iter().map(|s| format!("a {}", s.words())).collect();
    vec![format!("a photo of {}", all.join(" and "))]
}

/// A sample picture.
fn sample_request(config: &TrainConfig, prompt: String) -> Request {
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

/// The pictures of a sampling moment.
fn sample_requests(config: &TrainConfig) -> Vec<Request> {
    prompts(config).into_iter().map(|prompt| sample_request(config, prompt)).collect()
}

/// A prior picture: Euler, whatever the samples are made with (methods.md §1.3).
fn prior_request(config: &TrainConfig, class: &str) -> Request {
    Request {
        prompt: prior::prompt(class),
        negative: Some(prior::NEGATIVE.into()),
        height: config.train.resolution,
        width: config.train.resolution,
        sampler: Sampler::Euler,
        spacing: None,
        steps: config.method.prior_steps,
        guidance: config.method.prior_guidance as f32,
    }
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
fn sample_size(config: &TrainConfig, base: &Base) -> Size {
    let latent = [config.train.resolution / base.vae.factor().max(1); 2];
    Size { pictures: 1, guided: true, latent }
}

/// What the sample pictures need beside the training step; 0 for a run that makes none.
fn sample_bytes(config: &TrainConfig, base: &Base, device: &Device) -> Result<u64> {
    match config.train.sample_every {
        0 => Ok(0),
        _ => {
            let forecast = Forecast::new(base, &Adapters::new(), &sample_size(config, base))?;
            let unet = match config.train.mode {
                Mode::Full => Unet::Trained,
                Mode::Lora => Unet::Frozen,
            };
            Ok(forecast.beside_training(device, unet))
        }
    }
}

/// What the pictures of a sampling moment are made of.
struct Moment<'a> {
    config: &'a TrainConfig,
    base: &'a Base,
    device: &'a Device,
    subjects: &'a [Subject],
}

/// The pictures of one sampling moment. Encoder, U-Net and decoder are planned at each, one after the other, and
/// their memory goes back to the training; the frozen weights of the CPU's programs are the step's own. Prompts
/// are encoded once in the run, unless the text encoders are trained.
fn sample_pictures(
    moment: &Moment<'_>,
    trained: &[Trainable],
    texts: &mut Texts,
    folder: &Path,
) -> Result<()> {
    let Moment { config, base, device, .. } = *moment;
    let loras = match config.train.mode {
        Mode::Full => Loras::default(),
        Mode::Lora => {
            Loras::new(vec![(adapter(trained, config.train.effective_alpha() as f32)?, 1.0)])
        }
    };
    let (adapters, whole) = (loras.adapters(), TrainedWeights::new(trained));
    let source: &dyn WeightSource = match config.train.mode {
        Mode::Full => &whole,
        Mode::Lora => &loras,
    };
    let text_is_trained = trained.iter().any(|t| t.name.starts_with("text_encoder"));
    let known = if text_is_trained { Texts::default() } else { std::mem::take(texts) };
    let mut pipeline = Pipeline::new(base, device.clone(), &adapters, source).with_texts(known);
    std::fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    let requests = sample_requests(config);
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
fn plain_start(
    pipeline: &Pipeline<'_>,
    request: &Request,
    (base, device): (&Base, &Device),
    seed: u64,
) -> Result<StartLatents> {
    let [h, w] = pipeline.latent(request.height, request.width)?;
    unit_noise(device, &[seed], [h, w, base.unet.in_channels]).map(StartLatents::Noise)
}

fn one_picture(
    pipeline: &mut Pipeline<'_>,
    request: &Request,
    start: StartLatents,
) -> Result<Picture> {
    let latents = pipeline.denoise(request, start, &mut || {})?;
    let latent = latents.first().map(Vec::as_slice).unwrap_or_default();
    pipeline.decode(latent, request.height, request.width)
}

/// Makes the missing pictures of the prior set with the frozen base; several tries each until the subject stands
/// out. The sample pictures' prompts are encoded along with the prior set's, into `texts`.
///
/// # Errors
/// [`prior::gave_up`] when none does; those of the pipeline.
fn make_prior(
    config: &TrainConfig,
    (base, device): (&Base, &Device),
    texts: &mut Texts,
    folder: &Path,
    stop: &AtomicBool,
) -> Result<()> {
    let wanted = prior::missing(config, folder);
    if wanted.is_empty() {
        return Ok(());
    }
    note(&format!("making {} pictures of the prior set in {}", wanted.len(), folder.display()));
    let (none, nothing) = (Adapters::new(), Loras::default());
    fit::check((base, device), &none, &sample_size(config, base), Purpose::Prior)?;
    let mut pipeline =
        Pipeline::new(base, device.clone(), &none, &nothing).with_texts(std::mem::take(texts));
    let requests: Vec<Request> =
        wanted.iter().map(|one| prior_request(config, &one.class)).collect();
    let samples = if config.train.sample_every > 0 { sample_requests(config) } else { vec![] };
    pipeline.encode_prompts(&requests.iter().chain(&samples).collect::<Vec<_>>())?;
    for (one, request) in wanted.iter().zip(&requests) {
        let mut made = false;
        for attempt in 0..prior::TRIES {
            if stop.load(Ordering::SeqCst) {
                return Err(Error::Interrupted {
                    done: format!("some of the prior set in {}", folder.display()),
                    fix: "run the same command with --resume".into(),
                });
            }
            let seed = config.train.seed ^ ((one.index as u64) << 8 | attempt) << 20;
            let start = plain_start(&pipeline, request, (base, device), seed)?;
            let picture = one_picture(&mut pipeline, request, start)?;
            made = prior::store(one, &picture)?;
            if made {
                break;
            }
        }
        if !made {
            return Err(prior::gave_up(one));
        }
    }
    *texts = pipeline.into_texts();
    Ok(())
}
