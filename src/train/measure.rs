//! Planning and timing a U-Net's training and denoising step: what `plan` prints and `bench step` runs.

use super::{
    Batch, Decoupled, Group, InitialWeights, NoiseSchedule, Objective, Optimizer, PassNoise,
    Patterns, Prediction, Rules, StepOptions, Stepper, Trained,
    decoupled::{BACKGROUND, KEEP, PHOTO},
    plan_step, predict, text_inputs, unet_params,
};
use crate::{
    data::config::LossScale,
    device::Device,
    error::Result,
    kernels::{adamw::AdamW, noise::state},
    lora::{Adapter, Adapters},
    models::{base::Base, unet::UnetConfig},
    plan::{Plan, Program, Recorder, Traced, WeightSource},
    tensor::{DType, Spec, Types, philox},
};
use std::time::Instant;

/// The size of a step to plan or to time.
#[derive(Clone, Debug, PartialEq)]
pub struct StepSize {
    /// Pictures.
    pub batch: usize,
    /// Latent height and width.
    pub latent: [usize; 2],
    /// Text tokens.
    pub tokens: usize,
    /// Adapter rank.
    pub rank: usize,
    /// Adapted layers.
    pub targets: Vec<String>,
    /// Recompute activations.
    pub checkpoint: bool,
    /// The loss.
    pub objective: Objective,
    /// How the step decouples.
    pub decoupled: Option<Decoupled>,
    /// How weights and activations are stored.
    pub types: Types,
}

impl Default for StepSize {
    fn default() -> Self {
        Self {
            batch: 1,
            latent: [128, 128],
            tokens: 77,
            rank: 32,
            targets: ["to_q", "to_k", "to_v", "to_out.0"].map(String::from).into(),
            checkpoint: false,
            objective: Objective::Mse,
            decoupled: None,
            types: DType::F32.into(),
        }
    }
}

/// Plans one LoRA training step of a U-Net.
///
/// # Errors
/// Those of the recording; [`crate::error::Error::Config`] when no layer matches.
pub fn plan_training(config: &UnetConfig, size: &StepSize) -> Result<Plan> {
    let patterns = Patterns::new("train.targets", &size.targets)?;
    let adapter = Adapter { rank: size.rank, scale: 1.0 };
    let adapters = patterns.adapt("train.targets", &unet_params(config)?, adapter)?;
    let options = step_options(config, size);
    plan_step(config, &Trained::Adapters(adapters), &options, |rec, _| {
        Ok(text_inputs(rec, config, size.batch, size.tokens))
    })
}

/// What [`plan_training`] plans: the plain forward process at a scale of 1.
pub fn step_options(config: &UnetConfig, size: &StepSize) -> StepOptions {
    StepOptions {
        batch: size.batch,
        latent: size.latent,
        channels: config.in_channels,
        scale: 1.0,
        noise: NoiseSchedule::stable_diffusion(Prediction::Epsilon),
        objective: size.objective,
        decoupled: size.decoupled,
        checkpoint: size.checkpoint,
        drawn: true,
        poison: false,
        types: size.types,
    }
}

/// Plans one call of a U-Net in a denoising loop: inputs `sample`, `timestep` and the text inputs, which stay (see
/// [`Recorder::steady`]), output `sample`.
///
/// # Errors
/// Those of the recording.
pub fn plan_denoising(config: &UnetConfig, size: &StepSize) -> Result<Plan> {
    let (mut rec, [h, w]) = (Recorder::in_dtype(size.types), size.latent);
    let sample = rec.input("sample", Spec::f32(&[size.batch, h, w, config.in_channels]));
    let timestep = rec.input("timestep", Spec::f32(&[size.batch]));
    let text = text_inputs(&mut rec, config, size.batch, size.tokens);
    let stays = [Some(text.context), text.text_embeds, text.time_ids];
    stays.into_iter().flatten().for_each(|v| rec.steady(v));
    let out = predict(&mut rec, config, &Adapters::new(), text, (sample, timestep))?;
    rec.plan(&[("sample", out)], Default::default())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    let n = times.len();
    match n {
        0 => f64::NAN,
        _ => 0.5 * (times[(n - 1) / 2] + times[n / 2]),
    }
}

/// Runs `work` to warm up, then `iterations` times; on a GPU the first run loads kernels and the second
/// captures a graph.
fn time(device: &Device, iterations: usize, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let warm_up = if matches!(device, Device::Cpu) { 1 } else { 3 };
    (0..warm_up).try_for_each(|_| work())?;
    let mut times = vec![];
    for _ in 0..iterations.max(1) {
        let begin = Instant::now();
        work()?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(times))
}

fn noise(stream: u64, len: usize) -> Vec<f32> {
    let mut data = vec![0.0; len];
    philox::fill_normal(1, stream, &mut data);
    data
}

/// Text inputs of random numbers and usual time ids.
fn condition(config: &UnetConfig, size: &StepSize) -> Vec<(&'static str, Vec<f32>)> {
    let (n, width) = (size.batch, config.context_dim().unwrap_or(1));
    let mut all = vec![("context", noise(10, n * size.tokens * width))];
    if let Some(extra) = config.text_time {
        all.push(("text_embeds", noise(11, n * extra.pooled_dim())));
        let [h, w] = size.latent.map(|side| side * 8);
        all.push(("time_ids", Base::time_ids(h, w).repeat(n)));
    }
    all
}

/// Features of random numbers, for a decoupled step.
fn beside(size: &StepSize) -> Vec<(&'static str, Vec<f32>)> {
    let (mut all, n) = (vec![], size.batch);
    if let Some(d) = &size.decoupled {
        let [photo, background] = d.reads();
        let features =
            |there: bool, name, stream| there.then(|| (name, noise(stream, n * d.model.features)));
        all.extend(features(photo, PHOTO, 12));
        all.extend(features(background, BACKGROUND, 13));
        all.extend(d.drops.then(|| (KEEP, vec![1.0; n * d.model.width])));
    }
    all
}

/// Median time of one denoising step: the U-Net alone, its inputs already where it computes.
///
/// # Errors
/// Those of the plan, the weights and the operations.
pub fn time_denoising(
    config: &UnetConfig,
    size: &StepSize,
    device: &Device,
    weights: &dyn WeightSource,
    iterations: usize,
) -> Result<f64> {
    let mut program = denoising(config, size, device, weights)?;
    time(device, iterations, || {
        program.forward()?;
        match device {
            Device::Cpu => Ok(()),
            Device::Cuda(cuda) => cuda.synchronize(),
        }
    })
}

/// How long every operation of a denoising step takes, after one step to warm up.
///
/// # Errors
/// As [`time_denoising`].
pub fn trace_denoising(
    config: &UnetConfig,
    size: &StepSize,
    device: &Device,
    weights: &dyn WeightSource,
) -> Result<Vec<Traced>> {
    let mut program = denoising(config, size, device, weights)?;
    program.forward()?;
    program.trace()
}

/// A denoising step on random data.
fn denoising(
    config: &UnetConfig,
    size: &StepSize,
    device: &Device,
    weights: &dyn WeightSource,
) -> Result<Program> {
    let mut program = plan_denoising(config, size)?.load(device.clone(), weights)?;
    let len = size.batch * size.latent[0] * size.latent[1] * config.in_channels;
    program.set("sample", &noise(1, len))?;
    program.set("timestep", &vec![500.0; size.batch])?;
    condition(config, size).iter().try_for_each(|(name, data)| program.set(name, data))?;
    Ok(program)
}

/// Median time of one LoRA training step: forward, backward, clipping, AdamW.
///
/// # Errors
/// Those of the plan, the weights and the operations.
pub fn time_training(
    config: &UnetConfig,
    size: &StepSize,
    device: &Device,
    weights: impl WeightSource,
    iterations: usize,
) -> Result<f64> {
    let (mut stepper, batch) = training(config, size, device, weights)?;
    time(device, iterations, || {
        stepper.accumulate(&batch)?;
        stepper.update()?;
        stepper.results(0).map(drop)
    })
}

/// How long every operation of a LoRA training step takes, after one step to warm up.
///
/// # Errors
/// As [`time_training`].
pub fn trace_training(
    config: &UnetConfig,
    size: &StepSize,
    device: &Device,
    weights: impl WeightSource,
) -> Result<Vec<Traced>> {
    let (mut stepper, batch) = training(config, size, device, weights)?;
    stepper.accumulate(&batch)?;
    stepper.program.trace()
}

/// A training step on random data.
fn training(
    config: &UnetConfig,
    size: &StepSize,
    device: &Device,
    weights: impl WeightSource,
) -> Result<(Stepper, Batch)> {
    let plan = plan_training(config, size)?;
    let mut program = plan.load(device.clone(), &InitialWeights::new(weights, 1))?;
    let group = |_: &str| Group { learning_rate: 1e-4, adamw: AdamW::default() };
    let scaling = LossScale::Auto.scaling(size.types.products())?;
    let rules = Rules { scaling, ..Rules::constant(1.0) };
    let optimizer = Optimizer::new(&mut program, group, rules)?;
    let stepper = Stepper::new(program, optimizer, &step_options(config, size))?;
    let (n, positions) = (size.batch, size.batch * size.latent[0] * size.latent[1]);
    let len = positions * config.in_channels;
    let batch = Batch {
        moments: noise(1, 2 * len),
        noise: PassNoise::Drawn { posterior: state(1, 2), forward: state(1, 3) },
        timesteps: vec![500; n],
        weight: vec![1.0; positions],
        coefficient: vec![1.0 / n as f32; n],
        condition: [condition(config, size), beside(size)].concat(),
        ids: vec![],
    };
    Ok((stepper, batch))
}

/// Peak resident memory of this process in bytes; `None` where the system does not say.
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}
