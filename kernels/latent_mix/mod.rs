//! Masked latent mixing: latents masked, weighted and put on noise, the mask resized on the way, in one pass.

pub mod cases;
mod cpu;
mod cuda;

use crate::{
    device::Device,
    error::{Error, Result},
    kernels::{check, noise},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::{DType, Spec},
};

/// Where the noise comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noise {
    /// The last input is the noise itself, `[N, H, W, C]`.
    Given,
    /// The last input is the generator state `[N, 4]` i32 of [`noise::state`]; drawn inside the kernel.
    Seeded,
}

/// Start latents: the mean-shifted initialization.
///
/// `out = gamma (z ⊙ M) + eps`. `z` is the encoded composition of all subjects and `m` the union of their masks at
/// any resolution; `M` is `m` resized bilinearly (half-pixel centres, no anti-aliasing) to the latent. Where `M` is
/// 0 the noise remains exactly.
///
/// # Shapes
/// `z: [N, H, W, C]`, `m: [N, h, w]`, `last: [N, H, W, C]` f32 or `[N, 4]` i32 (see [`Noise`]) `-> [N, H, W, C]`.
///
/// # Gradient
/// Of `z` (keeps `m`), `m` (keeps `z`) and the given noise. The generator state has none.
///
/// # Numerics
/// f32, every rounding spelled out: CPU and kernel give the same bits. Gathers only, no atomics.
///
/// # Errors
/// [`Error::Shape`], [`Error::DType`], [`Error::Plan`] for another number of inputs.
///
/// # Source
/// MuDI (arXiv 2404.04243) equation 3: one encoding of the composed picture and one mask, so subjects that overlap are
/// put together in the picture and not here.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentMix {
    /// Factor on the masked latents.
    pub gamma: f32,
    /// Where the noise comes from.
    pub noise: Noise,
}

/// The extents of latent and mask.
#[derive(Clone, Copy, Debug)]
struct Extent {
    h: usize,
    w: usize,
    channels: usize,
    mask_h: usize,
    mask_w: usize,
}

impl Extent {
    fn of(z: &Spec, mask: &Spec) -> Self {
        let [h, w, channels] = [z.dims[1], z.dims[2], z.dims[3]];
        Self { h, w, channels, mask_h: mask.dims[1], mask_w: mask.dims[2] }
    }
}

fn check_inputs(at: &str, z: &Spec, mask: &Spec) -> Result<()> {
    for (what, spec) in [("z", z), ("mask", mask)] {
        if spec.dtype != DType::F32 {
            let (got, want) = (spec.dtype.to_string(), "f32".into());
            return Err(Error::DType { at: format!("{at}: {what}"), got, want });
        }
        if spec.dims.iter().any(|d| i32::try_from(*d).is_err()) {
            return Err(check::shape(at, what, spec, "extents below 2^31".into()));
        }
    }
    let [n, h, w, _] = z.dims[..] else {
        return Err(check::shape(at, "z", z, "[N, H, W, C]".into()));
    };
    if h * w == 0 {
        return Err(check::shape(at, "z", z, "[N, H, W, C] with H, W > 0".into()));
    }
    match mask.dims[..] {
        [mn, mh, mw] if mn == n && mh * mw > 0 => Ok(()),
        _ => Err(check::shape(at, "mask", mask, format!("[{n}, h, w] with h, w > 0"))),
    }
}

impl Op for LatentMix {
    fn name(&self) -> &'static str {
        "latent_mix"
    }

    fn types(&self) -> &'static [DType] {
        &[DType::F32]
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        let at = self.name();
        let [z, mask, last] = ins else {
            let last = if self.noise == Noise::Given { "noise" } else { "generator state" };
            let problem = format!("{} inputs, expected 3: latents, mask, {last}", ins.len());
            return Err(Error::Plan { at: at.into(), problem });
        };
        check_inputs(at, z, mask)?;
        match self.noise {
            Noise::Seeded => noise::check_state(at, last, Some(z.dims[0]))?,
            Noise::Given if last.dtype != DType::F32 => {
                let got = last.dtype.to_string();
                return Err(Error::DType { at: format!("{at}: eps"), got, want: "f32".into() });
            }
            Noise::Given => check::dims(at, "eps", last, &z.dims, "as the latents")?,
        }
        Ok(Signature::of(Spec::f32(&z.dims)))
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        let want = |i: usize| wants.get(i) == Some(&true);
        // the gradient of each of the two reads the other one
        let ins = [(0, want(1)), (1, want(0))].into_iter().filter(|(_, r)| *r).map(|(i, _)| i);
        Keeps { ins: ins.collect(), ..Keeps::default() }
    }

    /// 3 flop an element, 12 a pixel for the mask; every operand once, of a mask finer than the latents only the
    /// four samples.
    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let pixels = (out.len() / out.last().max(1)) as f64;
        let mut flop = 3.0 * out.len() as f64 + 12.0 * pixels;
        let mut bytes = 2.0 * out.bytes() as f64 + (4.0 * 4.0 * pixels).min(ins[1].bytes() as f64);
        match self.noise {
            Noise::Seeded => flop += 55.0 * out.len() as f64,
            Noise::Given => bytes += out.bytes() as f64,
        }
        Cost { flop, bytes }
    }

    fn detail(&self) -> String {
        let noise = if self.noise == Noise::Given { "given" } else { "seeded" };
        format!("gamma {}, {noise} noise", self.gamma)
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        match io.device {
            Device::Cpu => cpu::forward(self, io),
            Device::Cuda(cuda) => return cuda::forward(self, &cuda.clone(), &io),
        }
        Ok(())
    }

    fn backward(&self, io: Backward<'_>) -> Result<()> {
        match io.device {
            Device::Cpu => cpu::backward(self, io),
            Device::Cuda(cuda) => return cuda::backward(self, &cuda.clone(), &io),
        }
        Ok(())
    }
}
