//! Where pictures start: unit noise, or noise shifted by the encoded subjects.

use super::{Schedule, encode_pictures};
use crate::{
    device::Device,
    error::{Error, Result},
    kernels::{
        latent_mix::{LatentMix, Noise},
        noise::{self, Normal, STATE_WORDS},
    },
    models::base::Base,
    plan::{Layout, Program, Recorder, WeightSource},
    tensor::{Spec, image::Picture},
};
use std::sync::Arc;

/// Philox stream of the start noise (others: training).
const NOISE_STREAM: u64 = 0x5E1;

/// Where pictures start from, one latent `[h, w, C]` each.
#[derive(Clone, Debug)]
pub enum Start {
    /// Unit noise, scaled as the sampler wants it.
    Noise(Vec<Vec<f32>>),
    /// What enters the U-Net first, as it is (mean-shifted initialization).
    FirstInput(Vec<Vec<f32>>),
}

impl Start {
    /// One latent a picture.
    pub fn pictures(&self) -> &[Vec<f32>] {
        match self {
            Start::Noise(v) | Start::FirstInput(v) => v,
        }
    }

    /// All pictures as the sampler's first state: noise times its first level, or what becomes the given
    /// first input when the sampler scales it.
    pub fn state(&self, schedule: &Schedule) -> Vec<f32> {
        let factor = match self {
            Start::Noise(_) => schedule.noise_factor(),
            Start::FirstInput(_) => schedule.state_factor(),
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

/// How a mask is brought to the latent's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaskResize {
    /// Soft edges, as in training.
    #[default]
    Bilinear,
    /// Hard edges.
    Nearest,
}

/// The noise under an initialization, one for each picture.
#[derive(Clone, Copy, Debug)]
pub enum StartNoise<'a> {
    /// That of [`unit_noise`], drawn where it is added.
    Seeds(&'a [u64]),
    /// Latents `[h, w, C]`.
    Given(&'a [Vec<f32>]),
}

impl StartNoise<'_> {
    fn len(&self) -> usize {
        match self {
            StartNoise::Seeds(s) => s.len(),
            StartNoise::Given(g) => g.len(),
        }
    }
}

/// `gamma (E(picture) . M) + eps` for each composition: what the U-Net sees first.
///
/// `E` is the scaled mean of the VAE posterior of the whole composed picture, `M` the union mask of all
/// subjects resized to the latent, in `[0, 1]`, `eps` unit noise; where the mask is 0 exactly the noise
/// remains. Resizing, masking, drawing and adding are one operation on the device, for all pictures.
///
/// # Errors
/// Those of the encoder; [`Error::Shape`] for noise, masks or pictures that do not fit together.
///
/// # Source
/// MuDI, equation 3 (methods.md §1.7).
pub fn first_inputs(
    base: &Base,
    device: &Device,
    compositions: &[(Picture, Picture)],
    noise: StartNoise<'_>,
    gamma: f32,
    resize: MaskResize,
) -> Result<Vec<Vec<f32>>> {
    let Some((first, _)) = compositions.first() else { return Ok(vec![]) };
    let (factor, c) = (base.vae.factor(), base.vae.latent_channels);
    let dims = [first.height / factor, first.width / factor, c];
    check(compositions, &noise, dims)?;
    let pictures: Vec<Picture> = compositions.iter().map(|p| p.0.clone()).collect();
    let encoded = encode_pictures(base, device, &pictures)?;
    // Bilinearly the operation itself resizes; nearest is a choice of pixels.
    let (side, mask): ([usize; 2], fn(&Picture, usize) -> Vec<f32>) = match resize {
        MaskResize::Bilinear => ([first.height, first.width], |m, _| plane(m)),
        MaskResize::Nearest => ([dims[0], dims[1]], nearest),
    };
    let masks: Vec<f32> = compositions.iter().flat_map(|(_, m)| mask(m, factor)).collect();
    let mut program = mix(device, (compositions.len(), dims), side, (gamma, &noise))?;
    program.set("z", &encoded.concat())?;
    program.set("mask", &masks)?;
    match noise {
        StartNoise::Seeds(seeds) => program.set_i32("noise", &states(seeds))?,
        StartNoise::Given(given) => program.set("noise", &given.concat())?,
    }
    program.forward()?;
    Ok(split(program.get("out")?, dims))
}

fn check(parts: &[(Picture, Picture)], noise: &StartNoise<'_>, dims: [usize; 3]) -> Result<()> {
    let wrong = |what, got: Vec<usize>, want: String| {
        Err(Error::Shape { at: "initialization".into(), what, got, want })
    };
    if noise.len() != parts.len() {
        return wrong("noise", vec![noise.len()], format!("one for each of {}", parts.len()));
    }
    let len = dims.iter().product::<usize>();
    if let StartNoise::Given(all) = noise
        && let Some(one) = all.iter().find(|n| n.len() != len)
    {
        return wrong("noise", vec![one.len()], format!("{dims:?}, the latent of a composition"));
    }
    let size = |p: &Picture| vec![p.height, p.width];
    let want = size(&parts[0].0);
    match parts.iter().flat_map(|(p, m)| [p, m]).find(|p| size(p) != want) {
        Some(odd) => wrong("composition", size(odd), format!("{want:?}, as the first")),
        None => Ok(()),
    }
}

/// `gamma (z . mask) + noise` of `n` latents.
fn mix(
    device: &Device,
    (n, [h, w, c]): (usize, [usize; 3]),
    [mask_h, mask_w]: [usize; 2],
    (gamma, noise): (f32, &StartNoise<'_>),
) -> Result<Program> {
    let mut rec = Recorder::new();
    let latent = Spec::f32(&[n, h, w, c]);
    let z = rec.input("z", latent.clone());
    let mask = rec.input("mask", Spec::f32(&[n, mask_h, mask_w]));
    let (kind, spec) = match noise {
        StartNoise::Seeds(_) => (Noise::Seeded, Spec::i32(&[n, STATE_WORDS])),
        StartNoise::Given(_) => (Noise::Given, latent),
    };
    let noise = rec.input("noise", spec);
    let out = rec.apply(LatentMix { gamma, noise: kind }, &[z, mask, noise])?;
    load(rec.plan_inference(out)?, device)
}

fn states(seeds: &[u64]) -> Vec<i32> {
    seeds.iter().flat_map(|s| noise::state(*s, NOISE_STREAM)).collect()
}

fn split(all: Vec<f32>, dims: [usize; 3]) -> Vec<Vec<f32>> {
    all.chunks_exact(dims.iter().product::<usize>().max(1)).map(<[f32]>::to_vec).collect()
}

/// 1 inside, 0 outside, at the mask's own size.
fn plane(mask: &Picture) -> Vec<f32> {
    mask.data.iter().map(|v| if *v > 127 { 1.0 } else { 0.0 }).collect()
}

/// The upper left pixel of every latent cell.
fn nearest(mask: &Picture, factor: usize) -> Vec<f32> {
    let [h, w] = [mask.height / factor, mask.width / factor];
    let plane = plane(mask);
    (0..h * w).map(|i| plane[(i / w * factor) * mask.width + i % w * factor]).collect()
}

fn load(plan: crate::plan::Plan, device: &Device) -> Result<Program> {
    plan.load(device.clone(), &NoWeights)
}

/// Programs without parameters.
struct NoWeights;

impl WeightSource for NoWeights {
    fn get(&self, _: &str, _: &[usize], _: Layout) -> Result<Option<Arc<Vec<f32>>>> {
        Ok(None)
    }
}
