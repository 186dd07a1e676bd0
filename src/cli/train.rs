//! `selvedge train`: a configuration becomes a run folder with adapters.

use super::common::{Place, note, out, warn};
use crate::{
    data::{
        Dataset, TrainConfig,
        config::{Mode, Sampler as SamplerName, print_config},
        prior,
    },
    device::Device,
    error::{Error, Result},
    lora::{Adapters, Loras},
    models::base::Base,
    plan::WeightSource,
    sample::{
        Pipeline, Request, Sampler, Size, Spacing, Start, Texts,
        fit::{self, Forecast, Purpose},
        start_noise,
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
    /// The training configuration.
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
    /// Print every key with its default and meaning, and stop.
    #[arg(long)]
    pub print_config: bool,
    /// Where and in which element type.
    #[command(flatten)]
    pub place: Place,
}

/// Runs the command.
///
/// # Errors
/// Those of the configuration, the data and the run; [`Error::Interrupted`] after Ctrl-C.
pub fn run(args: Args) -> Result<u8> {
    if args.print_config {
        out(&print_config());
        return Ok(0);
    }
    let (Some(file), Some(folder)) = (&args.config, &args.out) else { return Ok(2) };
    let config = TrainConfig::load(file, &args.set)?;
    let place = args.place.open()?;
    let sets: String = args.set.iter().map(|s| format!(" --set {s}")).collect();
    let hint =
        format!("selvedge train {} --out {}{sets} --resume", file.display(), folder.display());
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
    let base = Base::open(&config.base)?.stored_as(dtype);
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
        sample_pictures(config, (&base, &device), trained, &mut texts, &folder)
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

/// Says what is probably not meant.
fn advise(config: &TrainConfig, base: &Base) {
    let side = base.side();
    if config.train.resolution != side {
        let resolution = config.train.resolution;
        note(&format!("train.resolution is {resolution}; this base was made for {side}"));
    }
    let Some(tokenizer) = base.text.first().map(|t| &t.tokenizer) else { return };
    for s in &config.subjects {
        if !s.token.is_empty() && !tokenizer.is_single_token(&s.token) {
            let (id, token) = (&s.id, &s.token);
            warn(&format!(
                "subject {id}: `{token}` is not a single token; a rare one works better"
            ));
        }
    }
}

/// Prompts of the sample pictures: those of the configuration, or one with every subject.
fn prompts(config: &TrainConfig) -> Vec<String> {
    if !config.train.sample_prompts.is_empty() {
        return config.train.sample_prompts.clone();
    }
    let all: Vec<String> = config.subjects.iter().map(|s| format!("a {}", s.words())).collect();
    vec![format!("a photo of {}", all.join(" and "))]
}

fn request(config: &TrainConfig, prompt: String, negative: Option<String>) -> Request {
    let t = &config.train;
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
        spacing: Spacing::Leading,
        steps: t.sample_steps,
        guidance: t.sample_guidance as f32,
    }
}

/// The pictures of a sampling moment.
fn sample_requests(config: &TrainConfig) -> Vec<Request> {
    prompts(config).into_iter().map(|prompt| request(config, prompt, None)).collect()
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
            Ok(forecast.beside_training(device))
        }
    }
}

/// The pictures of one sampling moment. U-Net and decoder are planned at each, one after the other, and their
/// memory goes back to the training; the frozen weights of the CPU's programs are the step's own. Prompts are
/// encoded once in the run, unless the text encoders are trained.
fn sample_pictures(
    config: &TrainConfig,
    (base, device): (&Base, &Device),
    trained: &[Trainable],
    texts: &mut Texts,
    folder: &Path,
) -> Result<()> {
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
    let mut latents = vec![];
    for (i, request) in requests.iter().enumerate() {
        let seed = config.train.seed.wrapping_add(i as u64);
        latents.extend(one_latent(&mut pipeline, request, base, seed)?);
    }
    pipeline.drop_denoiser();
    for (i, (request, latent)) in requests.iter().zip(&latents).enumerate() {
        let text = [("prompt".to_string(), request.prompt.clone())];
        let picture = pipeline.decode(latent, request.height, request.width)?;
        write_png(&folder.join(format!("{i:02}.png")), &picture, &text)?;
    }
    *texts = pipeline.into_texts();
    Ok(())
}

fn one_latent(
    pipeline: &mut Pipeline<'_>,
    request: &Request,
    base: &Base,
    seed: u64,
) -> Result<Option<Vec<f32>>> {
    let [h, w] = pipeline.latent(request.height, request.width)?;
    let noise = start_noise(seed, h * w * base.unet.in_channels);
    Ok(pipeline.denoise(request, Start::Noise(vec![noise]), &mut || {})?.pop())
}

fn one_picture(
    pipeline: &mut Pipeline<'_>,
    request: &Request,
    base: &Base,
    seed: u64,
) -> Result<Picture> {
    let latent = one_latent(pipeline, request, base, seed)?.unwrap_or_default();
    pipeline.decode(&latent, request.height, request.width)
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
    let prior_request =
        |class: &str| request(config, prior::prompt(class), Some(prior::NEGATIVE.to_string()));
    let requests: Vec<Request> = wanted.iter().map(|one| prior_request(&one.class)).collect();
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
            let picture = one_picture(&mut pipeline, request, base, seed)?;
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
