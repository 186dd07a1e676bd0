//! Where pictures start: unit noise, or noise shifted by the encoded subjects.

use super::PictureEncoder;
use crate::{
    device::Device,
    error::{Error, Result},
    kernels::latent_mix::{LatentMix, Noise, Segment},
    plan::{Layout, Program, Recorder, WeightSource},
    tensor::{
        Floats, Spec,
        image::{Picture, resize_plane},
        philox,
    },
};

/// Where pictures start from, one latent `[h, w, C]` each.
#[derive(Clone, Debug)]
pub enum Start {
    /// Unit noise, scaled as the sampler wants it.
    Noise(Vec<Vec<f32>>),
    /// What enters the U-Net first, as it is (mean-shifted initialization).
    FirstInput(Vec<Vec<f32>>),
}

/// The unit noise of the picture with `seed`, `[h, w, C]`.
pub fn start_noise(seed: u64, len: usize) -> Vec<f32> {
    let mut noise = vec![0.0; len];
    philox::fill_normal(seed, philox::streams::START_NOISE, &mut noise);
    noise
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

/// `gamma (E(picture) . M) + eps` for each composition: what the U-Net sees first.
///
/// `E` is the scaled mean of the VAE posterior, `M` the union mask at latent size in `[0, 1]`, `eps` the
/// given unit noise; where the mask is 0 exactly the noise remains.
///
/// # Errors
/// Those of the encoder; [`Error::Shape`] for noise or masks of another size.
///
/// # Source
/// MuDI, equation 3 (methods.md §1.7).
pub fn first_inputs(
    encoder: &mut PictureEncoder<'_>,
    compositions: &[(Picture, Picture)],
    noise: &[Vec<f32>],
    gamma: f32,
    resize: MaskResize,
) -> Result<Vec<Vec<f32>>> {
    let (base, device) = (encoder.base, encoder.device);
    let encoded: Vec<Vec<f32>> =
        compositions.iter().map(|(picture, _)| encoder.encode(picture)).collect::<Result<_>>()?;
    let (factor, c) = (base.vae.factor(), base.vae.latent_channels);
    let mut starts = vec![];
    for ((z, eps), (_, mask)) in encoded.iter().zip(noise).zip(compositions) {
        let [h, w] = [mask.height / factor, mask.width / factor];
        if z.len() != h * w * c || eps.len() != z.len() {
            return Err(Error::Shape {
                at: "initialization".into(),
                what: "noise",
                got: vec![eps.len()],
                want: format!("[{h}, {w}, {c}], the latent of a composition"),
            });
        }
        let mut program = mix(device, [h, w, c], gamma)?;
        program.set("z", z)?;
        program.set("mask", &small_mask(mask, factor, resize))?;
        program.set("noise", eps)?;
        program.forward()?;
        starts.push(program.get("out")?);
    }
    Ok(starts)
}

/// `gamma (z . mask) + noise` of one latent.
fn mix(device: &Device, [h, w, c]: [usize; 3], gamma: f32) -> Result<Program> {
    let mut rec = Recorder::new();
    let latent = Spec::f32(&[1, h, w, c]);
    let z = rec.input("z", latent.clone());
    let mask = rec.input("mask", Spec::f32(&[1, h, w]));
    let noise = rec.input("noise", latent);
    let segments = vec![Segment::at_origin(gamma)];
    let op = LatentMix { segments, canvas: [h, w], noise: Noise::Given };
    let out = rec.apply(op, &[z, mask, noise])?;
    rec.plan_inference(out)?.load(device.clone(), &NoWeights)
}

/// The mask at latent size, in `[0, 1]`.
fn small_mask(mask: &Picture, factor: usize, resize: MaskResize) -> Vec<f32> {
    let [h, w] = [mask.height / factor, mask.width / factor];
    let plane: Vec<f32> = mask.data.iter().map(|v| if *v > 127 { 1.0 } else { 0.0 }).collect();
    match resize {
        MaskResize::Bilinear => resize_plane(&plane, [mask.height, mask.width], [h, w]),
        MaskResize::Nearest => {
            let at = |i: usize| plane[(i / w * factor) * mask.width + i % w * factor];
            (0..h * w).map(at).collect()
        }
    }
}

/// Programs without parameters.
struct NoWeights;

impl WeightSource for NoWeights {
    fn get(&self, _: &str, _: &[usize], _: Layout) -> Result<Option<Floats>> {
        Ok(None)
    }
}
