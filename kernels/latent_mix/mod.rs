//! Masked latent mixing: segments placed on a latent canvas, masks resized, noise added, in one pass.

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

/// One subject's place and weight in the mix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segment {
    /// Factor on its latents.
    pub gamma: f32,
    /// Canvas row of its first row; may be negative, what lies outside is cut off.
    pub top: i32,
    /// Canvas column of its first column.
    pub left: i32,
}

impl Segment {
    /// A segment that starts at the canvas origin.
    pub fn at_origin(gamma: f32) -> Self {
        Self { gamma, top: 0, left: 0 }
    }
}

/// Where the noise comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noise {
    /// The last input is the noise itself, `[N, H, W, C]`.
    Given,
    /// The last input is the generator state `[N, 4]` i32 of [`noise::state`]; drawn inside the kernel.
    Seeded,
}

/// Start latents for several subjects: the mean-shifted initialization.
///
/// `mix_0 = 0`, `mix_i = mix_{i-1} (1 - M_i) + gamma_i z_i M_i` for subjects bottom to top,
/// `out = mix_n + eps`. With one subject: `gamma (z ⊙ M) + eps`; the background of the mean is exactly 0.
/// `M_i` is the mask of subject i resized bilinearly (half-pixel centres, no anti-aliasing) to its latents' extent;
/// soft edges let the lower subjects and the background through.
///
/// # Shapes
/// Inputs `z_1, m_1, .., z_n, m_n, last`: `z_i: [N, h_i, w_i, C]`, `m_i: [N, H_i, W_i]` (any resolution),
/// `last: [N, H, W, C]` f32 or `[N, 4]` i32 (see [`Noise`]) `-> [N, H, W, C]`.
///
/// # Gradient
/// Of every `z_i`, `m_i` and the given noise. Latents need the masks kept; masks also the latents up to
/// their own subject. The generator state has none.
///
/// # Numerics
/// f32, every rounding spelled out: CPU and kernel give the same bits. Gathers only, no atomics.
///
/// # Errors
/// [`Error::Shape`], [`Error::DType`], [`Error::Plan`] for another number of inputs.
///
/// # Source
/// MuDI (arXiv 2404.04243) equation 3; the union of several subjects and soft edges are ours.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentMix {
    /// Subjects, bottom first.
    pub segments: Vec<Segment>,
    /// Canvas rows and columns.
    pub canvas: [usize; 2],
    /// Where the noise comes from.
    pub noise: Noise,
}

/// The extents of one subject.
#[derive(Clone, Copy, Debug)]
struct Extent {
    h: usize,
    w: usize,
    mask_h: usize,
    mask_w: usize,
}

impl Extent {
    fn of(z: &Spec, mask: &Spec) -> Self {
        Self { h: z.dims[1], w: z.dims[2], mask_h: mask.dims[1], mask_w: mask.dims[2] }
    }
}

impl LatentMix {
    fn check_segment(&self, z: &Spec, mask: &Spec, first: &Spec) -> Result<()> {
        let at = self.name();
        for (what, spec) in [("z", z), ("mask", mask)] {
            if spec.dtype != DType::F32 {
                let (got, want) = (spec.dtype.to_string(), "f32".into());
                return Err(Error::DType { at: format!("{at}: {what}"), got, want });
            }
            if spec.dims.iter().any(|d| i32::try_from(*d).is_err()) {
                return Err(check::shape(at, what, spec, "extents below 2^31".into()));
            }
        }
        let (n, c) = (first.dims[0], first.dims[3]);
        let z_fits = matches!(z.dims[..], [zn, h, w, zc] if zn == n && zc == c && h * w > 0);
        if !z_fits {
            return Err(check::shape(at, "z", z, format!("[{n}, h, w, {c}] with h, w > 0")));
        }
        let mask_fits = matches!(mask.dims[..], [mn, h, w] if mn == n && h * w > 0);
        if !mask_fits {
            return Err(check::shape(at, "mask", mask, format!("[{n}, H, W] with H, W > 0")));
        }
        Ok(())
    }

    /// Which inputs the gradients of `wants` read: masks always, latents up to the last wanted mask.
    fn reads(&self, wants: &[bool]) -> Vec<usize> {
        let subjects = 2 * self.segments.len();
        let any = wants.iter().take(subjects).any(|w| *w);
        let last_mask = (0..subjects).rev().find(|i| i % 2 == 1 && wants.get(*i) == Some(&true));
        let reads = |i: &usize| if i % 2 == 1 { any } else { last_mask.is_some_and(|m| *i < m) };
        (0..subjects).filter(reads).collect()
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
        let want = 2 * self.segments.len() + 1;
        if ins.len() != want || self.segments.is_empty() {
            let problem = format!(
                "{} inputs for {} subjects, expected latents and mask of each (at least one), then {}",
                ins.len(),
                self.segments.len(),
                if self.noise == Noise::Given { "the noise" } else { "the generator state" }
            );
            return Err(Error::Plan { at: at.into(), problem });
        }
        if ins[0].dims.len() != 4 {
            return Err(check::shape(at, "z", &ins[0], "[N, h, w, C]".into()));
        }
        let (n, c) = (ins[0].dims[0], ins[0].dims[3]);
        for pair in ins[..want - 1].chunks_exact(2) {
            self.check_segment(&pair[0], &pair[1], &ins[0])?;
        }
        let [h, w] = self.canvas;
        let out = Spec::f32(&[n, h, w, c]);
        match self.noise {
            Noise::Seeded => noise::check_state(at, &ins[want - 1], Some(n))?,
            Noise::Given if ins[want - 1].dtype != DType::F32 => {
                let got = ins[want - 1].dtype.to_string();
                return Err(Error::DType { at: format!("{at}: eps"), got, want: "f32".into() });
            }
            Noise::Given => check::dims(at, "eps", &ins[want - 1], &out.dims, "as the canvas")?,
        }
        Ok(Signature::of(out))
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        Keeps { ins: self.reads(wants), ..Keeps::default() }
    }

    /// 5 flop an element and subject, 12 a pixel and subject for the mask; every operand once, of a mask
    /// finer than the latents only the four samples.
    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let (mut flop, mut bytes) = (out.len() as f64, 2.0 * out.bytes() as f64);
        if self.noise == Noise::Seeded {
            flop += 55.0 * out.len() as f64;
            bytes -= out.bytes() as f64;
        }
        for pair in ins.chunks_exact(2).take(self.segments.len()) {
            let pixels = (pair[0].len() / pair[0].last().max(1)) as f64;
            flop += 5.0 * pair[0].len() as f64 + 12.0 * pixels;
            bytes += pair[0].bytes() as f64 + (4.0 * 4.0 * pixels).min(pair[1].bytes() as f64);
        }
        Cost { flop, bytes }
    }

    fn detail(&self) -> String {
        let noise = if self.noise == Noise::Given { "given" } else { "seeded" };
        format!("{} subjects, {noise} noise", self.segments.len())
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
