//! What a picture starts from, and its noise.

use super::Schedule;
use crate::{
    device::Device,
    error::Result,
    kernels::noise::{self, Normal, STATE_WORDS},
    plan::{Plan, Program, Recorder, WeightLayout, WeightSource},
    tensor::{Floats, Spec, philox::streams::START_NOISE},
};

/// Where pictures start from, one latent `[h, w, C]` each.
#[derive(Clone, Debug)]
pub enum StartLatents {
    /// Unit noise, scaled as the sampler wants it.
    Noise(Vec<Vec<f32>>),
    /// What enters the U-Net first, as it is (mean-shifted initialization).
    FirstInput(Vec<Vec<f32>>),
}

impl StartLatents {
    /// One latent a picture.
    pub fn pictures(&self) -> &[Vec<f32>] {
        match self {
            StartLatents::Noise(v) | StartLatents::FirstInput(v) => v,
        }
    }

    /// All pictures as the sampler's first state: noise times its first level, or what becomes the given
    /// first input when the sampler scales it.
    pub fn state(&self, schedule: &Schedule) -> Vec<f32> {
        let factor = match self {
            StartLatents::Noise(_) => schedule.noise_factor(),
            StartLatents::FirstInput(_) => schedule.state_factor(),
        };
        self.pictures().iter().flatten().map(|x| x * factor).collect()
    }
}

/// The unit noise of the pictures with these seeds, `[h, w, C]` each, drawn on the device; every device gives the
/// same bits.
///
/// # Errors
/// Those of the device.
pub fn unit_noise(device: &Device, seeds: &[u64], dims: [usize; 3]) -> Result<Vec<Vec<f32>>> {
    if seeds.is_empty() {
        return Ok(vec![]);
    }
    let mut rec = Recorder::new();
    let state = rec.input("state", Spec::i32(&[seeds.len(), STATE_WORDS]));
    let out = rec.apply(Normal { dims: dims.to_vec() }, &[state])?;
    let mut program = load(rec.plan_inference(out)?, device)?;
    program.set_i32("state", &states(seeds))?;
    program.forward()?;
    Ok(split(program.get("out")?, dims))
}

pub(super) fn states(seeds: &[u64]) -> Vec<i32> {
    seeds.iter().flat_map(|s| noise::state(*s, START_NOISE)).collect()
}

pub(super) fn split(all: Vec<f32>, dims: [usize; 3]) -> Vec<Vec<f32>> {
    all.chunks_exact(dims.iter().product::<usize>().max(1)).map(<[f32]>::to_vec).collect()
}

pub(super) fn load(plan: Plan, device: &Device) -> Result<Program> {
    plan.load(device.clone(), &NoWeights)
}

/// Programs without parameters.
struct NoWeights;

impl WeightSource for NoWeights {
    fn get(&self, _: &str, _: &[usize], _: WeightLayout) -> Result<Option<Floats>> {
        Ok(None)
    }
}
