//! The mean-shifted initialization: noise shifted by the encoded subjects.

use super::{
    PictureEncoder,
    start::{load, split, states},
};
use crate::{
    device::Device,
    error::{Error, Result},
    kernels::{
        latent_mix::{LatentMix, Noise},
        noise::STATE_WORDS,
    },
    plan::{Program, Recorder},
    tensor::{Spec, image::Picture},
};

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
    encoder: &mut PictureEncoder<'_>,
    compositions: &[(Picture, Picture)],
    noise: StartNoise<'_>,
    gamma: f32,
    resize: MaskResize,
) -> Result<Vec<Vec<f32>>> {
    let Some((first, _)) = compositions.first() else { return Ok(vec![]) };
    let (base, device) = (encoder.base, encoder.device);
    let (factor, c) = (base.vae.factor(), base.vae.latent_channels);
    let dims = [first.height / factor, first.width / factor, c];
    check(compositions, &noise, dims)?;
    let encoded: Vec<Vec<f32>> =
        compositions.iter().map(|(picture, _)| encoder.encode(picture)).collect::<Result<_>>()?;
    // Bilinearly the operation itself resizes; nearest is a choice of pixels.
    let side = match resize {
        MaskResize::Bilinear => [first.height, first.width],
        MaskResize::Nearest => [dims[0], dims[1]],
    };
    let mask = |(_, mask): &(Picture, Picture)| match resize {
        MaskResize::Bilinear => plane(mask),
        MaskResize::Nearest => nearest(mask, factor),
    };
    let masks: Vec<f32> = compositions.iter().flat_map(mask).collect();
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
