//! `selvedge train`: a configuration becomes a run folder with adapters.

mod backgrounds;
mod captions;
mod prior;
mod samples;

use super::{
    advice::{advise, prediction},
    common::{DeviceArgs, note, out, warn},
    segment::missing,
};
use crate::{
    data::{
        Dataset, Subject, TrainConfig,
        config::{DEFAULT_PRESET, print_config},
    },
    device::Device,
    error::{Error, Result},
    models::{Texts, base::Base, checkpoint::Component},
    tensor::DType,
    train::{
        Blueprint, Hooks, Pictures, Report, RunFolder, Trainable, all_named, continued,
        run as run_training, save, text_is_trained,
    },
};
use clap::Args as ClapArgs;
use samples::Moment;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
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
    let (preset, stop) = (args.preset.as_deref(), stop_flag());
    let ask = |config: &mut TrainConfig| captions::describe(config, &stop);
    let config = TrainConfig::load_asking(preset, file, &args.overrides(), ask)?;
    let place = args.place.open()?;
    let hint = args.resume_hint(file, folder);
    let report = train(&config, place, (folder, &folder.join("masks")), args.resume, &hint, stop)?;
    note(&summary(&report));
    Ok(0)
}

/// How the run went and what it wrote.
fn summary(report: &Report) -> String {
    let skips = report.scale.filter(|s| s.skipped > 0);
    let skipped = skips.map_or(String::new(), |s| {
        format!(", {} updates skipped, loss scale {}", s.skipped, s.value)
    });
    let written: Vec<String> = report.written.iter().map(|p| p.display().to_string()).collect();
    format!(
        "{} steps ({} now, {:.1} s), loss {:.4}{}, {} trained parameters: {}",
        report.steps,
        report.own_steps,
        report.seconds,
        report.last_loss,
        skipped,
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

/// What comes sooner after the first is the same key press: `timeout` and the like signal the process and then its group.
const SAME_PRESS: Duration = Duration::from_millis(500);

/// A flag that Ctrl-C or a termination signal sets; a second one ends the process at once.
pub fn stop_flag() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let mut first: Option<Instant> = None;
    let handler = move || match first {
        None => {
            first = Some(Instant::now());
            flag.store(true, Ordering::SeqCst);
            note("stopping after this step; once more to stop at once");
        }
        Some(at) if at.elapsed() < SAME_PRESS => {}
        Some(_) => {
            note("stopped at once: what was made since the last checkpoint is not saved");
            std::process::exit(2);
        }
    };
    if ctrlc::set_handler(handler).is_err() {
        warn("Ctrl-C will end the run at once: the signal could not be taken");
    }
    stop
}

/// Trains `config` into `folder`: captions and masks that photos lack (the latter into `masks`, kept for other runs), the
/// prior set if it is asked for, the run, samples, the adapter files.
///
/// # Errors
/// As [`run`].
pub fn train(
    config: &TrainConfig,
    (device, dtype): (Device, DType),
    (folder, masks): (&Path, &Path),
    resume: bool,
    hint: &str,
    stop: Arc<AtomicBool>,
) -> Result<Report> {
    let base =
        Base::open(&config.base)?.stored_as(device.types(dtype)).predicting(prediction(config));
    let bare_base = base.clone();
    let base = base.learning(&config.learned_words());
    let blueprint = Blueprint::new(config, base.architecture())?;
    continued(config, &base, &blueprint.trained)?; // refused before anything is made
    advise(config, &base);
    let open = || match resume {
        true => RunFolder::resume(folder, config),
        false => RunFolder::create(folder, config),
    };
    let own_prior = config.method.prior_dir.as_os_str().is_empty();
    let prior_dir = if own_prior { folder.join("prior") } else { config.method.prior_dir.clone() };
    captions::complete(config, &stop)?;
    let mut run_folder = None;
    let bare = missing::missing(config)?;
    let mut subjects = config.clone();
    if !bare.is_empty() {
        run_folder = Some(open()?);
        let made = missing::make(&mut subjects, bare, &device, masks);
        made.map_err(|e| withdraw(e, folder))?;
    }
    // The subjects are read before anything else is made: the folder, and the prior set in it.
    let mut warnings = vec![];
    let data = Dataset::of_subjects(&subjects, &mut warnings)
        .map_err(|e| if run_folder.is_some() { withdraw(e, folder) } else { e })?;
    let samples = samples::requests(config);
    let mut texts = Texts::default();
    if config.method.prior_preservation {
        if run_folder.is_none() {
            run_folder = Some(open()?);
        }
        let prompts = match text_is_trained(config) {
            true => vec![],
            false => [data.prompts_to_come(config), samples::texts(&samples)].concat(),
        };
        let place = (&base, &device);
        let made = prior::make(config, place, (&mut texts, &prompts), &prior_dir, &stop);
        made.map_err(|e| withdraw(e, folder))?;
    }
    let data = data.with_prior(config, &prior_dir, &mut warnings);
    let data = data.map_err(|e| if run_folder.is_some() { withdraw(e, folder) } else { e })?;
    let captions: Vec<String> = data.subjects().iter().flat_map(Subject::all_captions).collect();
    all_named(&base, config, &captions).map_err(|e| withdraw(e, folder))?;
    warnings.iter().for_each(|w| warn(w));
    let run_folder = run_folder.map_or_else(open, Ok)?;
    let place = (&bare_base, &device);
    let features = backgrounds::features(config, &data, place, &folder.join("backgrounds"))
        .map_err(|e| withdraw(e, folder))?;
    let source = Pictures::new(&data, config, base.vae.factor()).with_features(features);
    let mut sample = |step: u64, trained: &[Trainable], texts: &mut Texts| {
        let folder = folder.join(format!("samples/step-{step:06}"));
        let run = Moment { config, base: &base, device: &device, subjects: data.subjects() };
        samples::make(&run, trained, texts, &folder)
    };
    let mut write = |folder: &Path, trained: &[Trainable]| save(folder, config, &base, trained);
    let hooks = Hooks {
        sample: Some(&mut sample),
        sample_bytes: samples::bytes(config, &base, &device)?,
        sample_prompts: samples::texts(&samples),
        texts,
        save: &mut write,
        stop: &stop,
        resume_hint: hint.into(),
        warn: &warn,
    };
    let result = run_training(config, &base, device.clone(), &source, &run_folder, hooks);
    let report = result.map_err(|e| withdraw(e, folder))?;
    if config.decouples() {
        tell_size(&report, &base)?;
    }
    Ok(report)
}

/// Says how small a decoupled adapter is beside the U-Net in half precision.
fn tell_size(report: &Report, base: &Base) -> Result<()> {
    let Some(path) = report.written.first() else { return Ok(()) };
    let bytes = std::fs::metadata(path).map_err(Error::file("open", path))?.len() as f64;
    let unet = base.weights.part(Component::Unet);
    let count = |dims: &[usize]| dims.iter().product::<usize>();
    let whole: usize = unet.map_or(0, |p| p.shapes().map(|(_, dims)| count(dims)).sum());
    let share = 100.0 * bytes / (2 * whole.max(1)) as f64;
    let name = path.display();
    note(&format!("{name}: {:.1} MB, {share:.2} % of the U-Net in half precision", bytes / 1e6));
    Ok(())
}

/// After a failure before the first step: leaves no folder that looks like a run (a prior set stays).
fn withdraw(e: Error, folder: &Path) -> Error {
    if !folder.join("log.csv").exists() {
        let _ = std::fs::remove_file(folder.join("config.toml"));
        let _ = std::fs::remove_dir(folder);
    }
    e
}
