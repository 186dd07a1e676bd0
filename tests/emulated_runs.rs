//! Whole steps of the embedded model on the emulated driver against the same steps on the CPU.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(feature = "emulate")]

use selvedge::{
    device::{Cuda, Device, Schedule},
    models::{base::Base, unet::UnetConfig},
    plan::{Plan, Program},
    tensor::{DType, philox},
    train::{RandomWeights, StepSize, plan_denoising, plan_training},
};
use std::collections::BTreeMap;

const LATENT: [usize; 2] = [8, 8];
const TOKENS: usize = 5;

fn nano() -> UnetConfig {
    Base::open("nano").unwrap().unet
}

fn size(dtype: DType) -> StepSize {
    StepSize { latent: LATENT, tokens: TOKENS, rank: 4, dtype, ..StepSize::default() }
}

fn noise(stream: u64, len: usize) -> Vec<f32> {
    let mut data = vec![0.0; len];
    philox::fill_normal(5, stream, &mut data);
    data
}

/// Loads `plan` with random weights, adapters included, and feeds the text inputs.
fn load(plan: Plan, config: &UnetConfig, device: &Device) -> Program {
    let mut program = plan.load(device.clone(), &RandomWeights::new(3)).unwrap();
    let width = config.context_dim().unwrap();
    program.set("context", &noise(10, TOKENS * width)).unwrap();
    if let Some(extra) = config.text_time {
        program.set("text_embeds", &noise(11, extra.pooled_dim())).unwrap();
        program.set("time_ids", &[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]).unwrap();
    }
    program
}

/// Everything a training step computes: the loss and the gradient of every adapter matrix.
fn training_step(device: &Device, dtype: DType) -> BTreeMap<String, Vec<f32>> {
    let config = nano();
    let plan = plan_training(&config, &size(dtype)).unwrap();
    let trained: Vec<String> =
        plan.params().iter().filter(|p| p.trainable).map(|p| p.name.clone()).collect();
    let mut program = load(plan, &config, device);
    let positions = LATENT[0] * LATENT[1];
    let len = positions * config.in_channels;
    program.set("moments", &noise(1, 2 * len)).unwrap();
    program.set("posterior_noise", &noise(2, len)).unwrap();
    program.set("noise", &noise(3, len)).unwrap();
    program.set_i32("timesteps", &[500]).unwrap();
    program.set("timestep", &[500.0]).unwrap();
    program.set("weight", &vec![1.0; positions]).unwrap();
    program.set("coefficient", &[1.0]).unwrap();
    let mut results = || {
        program.forward_backward(true, None).unwrap();
        let mut all: BTreeMap<String, Vec<f32>> =
            trained.iter().map(|n| (n.clone(), program.grad(n).unwrap())).collect();
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
    agree(&early, &want, 0.1);
    assert_eq!(early, training_step(&emulated(Schedule::Late), DType::Bf16));
    assert_eq!(early, training_step(&emulated(Schedule::Random(9)), DType::Bf16));
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
