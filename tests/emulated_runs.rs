//! Whole steps of the embedded model on the emulated driver against the same steps on the CPU.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(feature = "emulate")]

use selvedge::{
    data::config::TrainSection,
    device::{Cuda, Device, Schedule},
    error::Result,
    kernels::{adamw::AdamW, noise::state},
    lora::Adapters,
    models::{base::Base, unet::UnetConfig},
    plan::{ParamInfo, Plan, Program, WeightLayout, WeightSource},
    sample::{Pipeline, Request, Sampler, StartLatents, unit_noise},
    tensor::{DType, Floats, philox},
    train::{
        Batch, Group, Optimizer, PassNoise, RandomWeights, Rules, StepSize, Stepper,
        fit::step_bytes, plan_denoising, plan_training, step_options,
    },
};
use std::collections::BTreeMap;

const LATENT: [usize; 2] = [8, 8];
const TOKENS: usize = 5;

fn nano() -> UnetConfig {
    Base::open("nano").unwrap().unet
}

fn size(dtype: DType) -> StepSize {
    let types = dtype.into();
    StepSize { latent: LATENT, tokens: TOKENS, rank: 4, types, ..StepSize::default() }
}

fn noise(stream: u64, len: usize) -> Vec<f32> {
    let mut data = vec![0.0; len];
    philox::fill_normal(5, stream, &mut data);
    data
}

/// Loads `plan` with random weights, adapters included, and feeds the text inputs.
fn load(plan: Plan, config: &UnetConfig, device: &Device) -> Program {
    load_rounded(plan, config, device, DType::F32)
}

/// As [`load`], with weights rounded to `dtype`.
fn load_rounded(plan: Plan, config: &UnetConfig, device: &Device, dtype: DType) -> Program {
    let weights = Rounded(RandomWeights::new(3), dtype);
    let mut program = plan.load(device.clone(), &weights).unwrap();
    let width = config.context_dim().unwrap();
    program.set("context", &noise(10, TOKENS * width)).unwrap();
    if let Some(extra) = config.text_time {
        program.set("text_embeds", &noise(11, extra.pooled_dim())).unwrap();
        program.set("time_ids", &[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]).unwrap();
    }
    program
}

/// Random weights as a narrower type holds them.
struct Rounded(RandomWeights, DType);

impl WeightSource for Rounded {
    fn get(&self, name: &str, dims: &[usize], layout: WeightLayout) -> Result<Option<Floats>> {
        let round = |w: Floats| Floats::from(self.1.decode(&self.1.encode(&w)));
        Ok(self.0.get(name, dims, layout)?.map(round))
    }
}

/// Everything a training step computes: the loss and the gradient of every adapter matrix.
fn training_step(device: &Device, dtype: DType) -> BTreeMap<String, Vec<f32>> {
    rounded_training_step(device, dtype, DType::F32)
}

/// As [`training_step`], with weights rounded to `weights`.
fn rounded_training_step(
    device: &Device,
    dtype: DType,
    weights: DType,
) -> BTreeMap<String, Vec<f32>> {
    scaled_training_step(device, dtype, weights, (1.0, 1.0))
}

/// As [`rounded_training_step`], of a loss with this coefficient whose gradient starts from this scale.
fn scaled_training_step(
    device: &Device,
    dtype: DType,
    weights: DType,
    (coefficient, scale): (f32, f32),
) -> BTreeMap<String, Vec<f32>> {
    let config = nano();
    let plan = plan_training(&config, &size(dtype)).unwrap();
    let trained: Vec<ParamInfo> = plan.params().into_iter().filter(|p| p.trainable).collect();
    let mut program = load_rounded(plan, &config, device, weights);
    let positions = LATENT[0] * LATENT[1];
    let len = positions * config.in_channels;
    program.set("moments", &noise(1, 2 * len)).unwrap();
    program.set_i32("posterior_noise_state", &state(1, 2)).unwrap();
    program.set_i32("noise_state", &state(1, 3)).unwrap();
    program.set_i32("timesteps", &[500]).unwrap();
    program.set("timestep", &[500.0]).unwrap();
    program.set("weight", &vec![1.0; positions]).unwrap();
    program.set("coefficient", &[coefficient]).unwrap();
    program.scale_loss(scale).unwrap();
    let mut results = || {
        program.forward_backward(true, None).unwrap();
        let grad = |p: &ParamInfo| {
            let grad = p.layout.to_checkpoint(&p.dims, program.grad(&p.name).unwrap());
            (p.name.clone(), grad) // without the zeros that fill a rank up in 16 bits
        };
        let mut all: BTreeMap<String, Vec<f32>> = trained.iter().map(grad).collect();
        all.insert("loss".into(), vec![program.loss().unwrap()]);
        all
    };
    let stepped = results();
    if matches!(device, Device::Cuda(_)) {
        assert_eq!(stepped, results(), "captured");
        assert_eq!(stepped, results(), "replayed");
    }
    stepped
}

/// All gradients of a step, joined.
fn gradients(all: &BTreeMap<String, Vec<f32>>) -> Vec<f32> {
    all.iter().filter(|(name, _)| *name != "loss").flat_map(|(_, v)| v.clone()).collect()
}

fn denoising_step(device: &Device, dtype: DType) -> Vec<f32> {
    let config = nano();
    let mut program = load(plan_denoising(&config, &size(dtype)).unwrap(), &config, device);
    program.set("sample", &noise(1, LATENT[0] * LATENT[1] * config.in_channels)).unwrap();
    program.set("timestep", &[300.0]).unwrap();
    program.forward().unwrap();
    program.get("sample").unwrap()
}

/// Distance of two tensors, relative to the length of the second.
fn distance(got: &[f32], want: &[f32]) -> f64 {
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let pairs = got.iter().zip(want).map(|(a, b)| f64::from(*a) - f64::from(*b));
    norm(&mut pairs.into_iter()) / norm(&mut want.iter().map(|b| f64::from(*b))).max(1e-30)
}

/// The largest distance of any result; names it when it is larger than `limit`.
fn agree(got: &BTreeMap<String, Vec<f32>>, want: &BTreeMap<String, Vec<f32>>, limit: f64) {
    assert_eq!(got.len(), want.len());
    for (name, want) in want {
        let d = distance(&got[name], want);
        assert!(d <= limit, "{name}: {d:.2e} apart, allowed {limit:.0e}");
    }
}

fn emulated(schedule: Schedule) -> Device {
    Device::Cuda(Cuda::emulated(schedule).unwrap())
}

#[test]
fn a_training_step_equals_the_cpus_in_f32() {
    let want = training_step(&Device::Cpu, DType::F32);
    agree(&training_step(&emulated(Schedule::Early), DType::F32), &want, 1e-4);
}

#[test]
fn a_training_step_in_bf16_is_as_near_as_the_type_allows_and_repeats_bit_for_bit() {
    let want = training_step(&Device::Cpu, DType::F32);
    let early = training_step(&emulated(Schedule::Early), DType::Bf16);
    // What rounding the weights alone does on the CPU; activations and gradients are rounded as well.
    let rounded = rounded_training_step(&Device::Cpu, DType::F32, DType::Bf16);
    let joined = |all: &BTreeMap<String, Vec<f32>>| -> Vec<f32> {
        all.values().flatten().copied().collect()
    };
    let rounding = distance(&joined(&rounded), &joined(&want));
    let error = distance(&joined(&early), &joined(&want));
    println!("rounding the weights {rounding:.2e}, computing in bf16 {error:.2e}");
    assert!(error <= 3.0 * rounding, "{error:.2e}, rounding alone {rounding:.2e}");
    assert_eq!(early, training_step(&emulated(Schedule::Late), DType::Bf16));
    assert_eq!(early, training_step(&emulated(Schedule::Random(9)), DType::Bf16));
}

/// A loss so small that f16 rounds its gradient away; with a scale it is as near as rounded weights are.
#[test]
fn a_training_step_in_f16_with_a_scale_is_as_near_as_the_type_allows() {
    let (small, scale) = (2f32.powi(-14), 65536.0);
    let device = emulated(Schedule::Late);
    let step = |device: &Device, dtype, weights, scale| {
        gradients(&scaled_training_step(device, dtype, weights, (small, scale)))
    };
    let want = step(&Device::Cpu, DType::F32, DType::F32, 1.0);
    let rounded = step(&Device::Cpu, DType::F32, DType::F16, 1.0);
    let plain = step(&device, DType::F16, DType::F32, 1.0);
    let scaled: Vec<f32> =
        step(&device, DType::F16, DType::F32, scale).iter().map(|g| g / scale).collect();
    let [rounding, plain, scaled] = [rounded, plain, scaled].map(|got| distance(&got, &want));
    println!("rounding the weights {rounding:.2e}, in f16 {plain:.2e}, with a scale {scaled:.2e}");
    assert!(scaled <= 3.0 * rounding, "{scaled:.2e}, rounding alone {rounding:.2e}");
    assert!(plain > 10.0 * scaled, "{plain:.2e} without a scale, {scaled:.2e} with one");
}

#[test]
fn a_denoising_step_equals_the_cpus_in_every_type() {
    let want = denoising_step(&Device::Cpu, DType::F32);
    for (dtype, limit) in [(DType::F32, 1e-4), (DType::Bf16, 0.05), (DType::F16, 0.01)] {
        let got = denoising_step(&emulated(Schedule::Late), dtype);
        let d = distance(&got, &want);
        assert!(d < limit, "{dtype}: {d:.2e}");
    }
}

/// Three optimizer steps of two passes each, on the device where the gradients lie.
fn three_steps(device: &Device, dtype: DType, rate: f64) -> (Vec<f32>, Vec<f32>) {
    let config = nano();
    let size = size(dtype);
    let plan = plan_training(&config, &size).unwrap();
    let planned = step_bytes(&plan, &TrainSection { ema: true, ..TrainSection::default() });
    let mut program = load(plan, &config, device);
    let group = |name: &str| Group {
        learning_rate: if name.contains("lora_A") { 1e-2 } else { 5e-3 },
        adamw: AdamW::default(),
    };
    let factors = vec![0.5 * rate, rate, 0.25 * rate];
    let rules = Rules { passes: 2, clip: 0.5, ema: Some(0.9), factors, scaling: None };
    let optimizer = Optimizer::new(&mut program, group, rules).unwrap();
    let mut stepper = Stepper::new(program, optimizer, &step_options(&config, &size)).unwrap();
    let positions = LATENT[0] * LATENT[1];
    let len = positions * config.in_channels;
    let mut norms = vec![];
    for step in 0..3u64 {
        for pass in 0..2u64 {
            let draw = |k: u64, n: usize| noise(100 + 10 * (2 * step + pass) + k, n);
            let batch = Batch {
                moments: draw(1, 2 * len),
                noise: PassNoise::Drawn {
                    posterior: state(2, 2 * step + pass),
                    forward: state(3, 2 * step + pass),
                },
                timesteps: vec![200 + 100 * step as i32],
                weight: vec![1.0; positions],
                coefficient: vec![1.0],
                ..Batch::default()
            };
            stepper.accumulate(&batch).unwrap();
        }
        stepper.update().unwrap();
        norms.push(stepper.results(0).unwrap()[0].grad_norm);
    }
    if let Device::Cuda(cuda) = device {
        let share = cuda.most_bytes() as f64 / planned as f64;
        assert!((0.95..1.05).contains(&share), "{} bytes, planned {planned}", cuda.most_bytes());
    }
    let state = stepper.optimizer.state(&stepper.program).unwrap();
    assert_eq!(state.step, 3);
    (norms, [state.master, state.first, state.second, state.average].concat())
}

#[test]
fn three_optimizer_steps_equal_the_cpus() {
    let (norms, state) = three_steps(&Device::Cpu, DType::F32, 1.0);
    let (got_norms, got) = three_steps(&emulated(Schedule::Early), DType::F32, 1.0);
    assert!(distance(&got_norms, &norms) < 1e-3, "{got_norms:?} {norms:?}");
    // Adam turns a gradient that is all rounding into a step of full length, so not per element.
    let d = distance(&got, &state);
    assert!(d < 1e-2, "{d:.2e}");
}

/// At a learning rate of 0, so that no step depends on the rounding of another: stepped, captured and replayed
/// passes are all added up in f32, and one of them lost or counted twice would show.
#[test]
fn both_passes_of_a_step_count_in_bf16() {
    let (norms, _) = three_steps(&Device::Cpu, DType::F32, 0.0);
    let (got, _) = three_steps(&emulated(Schedule::Late), DType::Bf16, 0.0);
    for (got, want) in got.iter().zip(&norms) {
        assert!((got - want).abs() < 0.1 * want, "{got} {want}");
    }
}

/// A picture of 64 x 64 pixels in three steps: text, guidance, sampler, decoder.
fn sampled(device: &Device, sampler: Sampler) -> Vec<u8> {
    let base = Base::open("nano").unwrap();
    let adapters = Adapters::new();
    let mut pipeline = Pipeline::new(&base, device.clone(), &adapters, &base.weights);
    let request = Request {
        prompt: "a photo of a bear".into(),
        negative: None,
        height: 64,
        width: 64,
        sampler,
        spacing: None,
        steps: 3,
        guidance: 3.0,
    };
    let mut pictures = vec![];
    for seed in [1, 2] {
        let dims = [LATENT[0], LATENT[1], base.unet.in_channels];
        let start = StartLatents::Noise(unit_noise(device, &[seed], dims).unwrap());
        let mut steps = 0;
        let latents = pipeline.denoise(&request, start, &mut || steps += 1).unwrap();
        assert_eq!(steps, 3);
        pictures.extend(pipeline.decode(&latents[0], 64, 64).unwrap().data);
    }
    pictures
}

#[test]
fn sampled_pictures_equal_the_cpus() {
    for sampler in [Sampler::Euler, Sampler::DpmPp] {
        let want = sampled(&Device::Cpu, sampler);
        let got = sampled(&emulated(Schedule::Early), sampler);
        let worst = got.iter().zip(&want).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(1), "{sampler:?}: {worst:?} levels apart");
    }
}

/// The base's weights, as they are stored or not at all.
struct OnlyStored<'b>(&'b Base);

impl WeightSource for OnlyStored<'_> {
    fn get(&self, name: &str, _: &[usize], _: WeightLayout) -> Result<Option<Floats>> {
        panic!("{name} was asked for as f32");
    }

    fn keeper(&self, _: &str) -> Option<&dyn WeightSource> {
        Some(&self.0.weights)
    }
}

#[test]
fn half_weights_reach_the_device_without_an_f32_copy() {
    let base = Base::open("nano").unwrap().stored_as(DType::F16); // as nano's files are
    let (device, none) = (emulated(Schedule::Early), Adapters::new());
    let prompts = ["a photo of a bear"];
    let encoded = |weights: &dyn WeightSource| {
        let mut program = base.text_program(&device, &none, 1, weights).unwrap();
        base.encode(&mut program, &prompts).unwrap()
    };
    let widened =
        |name: &str, dims: &[usize], layout: WeightLayout| base.weights.get(name, dims, layout);
    assert_eq!(encoded(&OnlyStored(&base)), encoded(&OnlyFloats(widened)), "the same bits");
}

/// Weights that are never given as stored.
struct OnlyFloats<F>(F);

impl<F: Fn(&str, &[usize], WeightLayout) -> Result<Option<Floats>> + Sync> WeightSource
    for OnlyFloats<F>
{
    fn get(&self, name: &str, dims: &[usize], layout: WeightLayout) -> Result<Option<Floats>> {
        (self.0)(name, dims, layout)
    }
}
