//! A sample of the VAE posterior: `z = scale (mean + exp(logvar / 2) eps)`.

pub mod cases;
mod cpu;
mod cuda;

use crate::{
    error::{Error, Result},
    kernels::{check, frame},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::{DType, Spec},
};

/// Draws latents from encoded moments, with the noise given.
///
/// `z = scale (mean + exp(clamp(logvar, -30, 20) / 2) eps)`; training uses the sample, not the mean.
///
/// # Shapes
/// `moments: [N, h, w, 2C]` (mean, then log variance, on the last axis), `eps: [N, h, w, C]` -> `[N, h, w, C]`.
///
/// # Gradient
/// Of both inputs; reads both. The log variance has none where it was clamped.
///
/// # Numerics
/// f32, element by element: bitwise the same on every run.
///
/// # Errors
/// [`Error::Shape`] when the last axes or the other axes disagree.
///
/// # Source
/// `DiagonalGaussianDistribution` of latent diffusion (Rombach et al. 2022).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Posterior {
    /// The latent factor of the VAE, 0.13025 for SDXL.
    pub scale: f32,
}

impl Op for Posterior {
    fn name(&self) -> &'static str {
        "posterior"
    }

    fn types(&self) -> &'static [DType] {
        &[DType::F32]
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        let at = || "posterior".to_string();
        let [moments, eps] = ins else {
            let want = "two inputs: moments, eps".into();
            return Err(Error::Shape { at: at(), what: "inputs", got: vec![ins.len()], want });
        };
        check::f32_inputs("posterior", ins, &["moments", "eps"])?;
        let mut want = eps.dims.clone();
        if let Some(c) = want.last_mut() {
            *c *= 2;
        }
        if eps.dims.is_empty() || moments.dims != want {
            let want = format!("{want:?} (mean and log variance of eps {:?})", eps.dims);
            return Err(Error::Shape {
                at: at(),
                what: "moments",
                got: moments.dims.clone(),
                want,
            });
        }
        Ok(Signature::of(eps.clone()))
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        Keeps {
            ins: if wants.iter().any(|w| *w) { vec![0, 1] } else { vec![] },
            ..Keeps::default()
        }
    }

    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let bytes = ins.iter().map(Spec::bytes).sum::<usize>() + out.bytes();
        Cost { flop: 8.0 * out.len() as f64, bytes: bytes as f64 }
    }

    fn detail(&self) -> String {
        format!("scale {}", self.scale)
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        frame::forward(
            self.name(),
            io,
            |io| cpu::forward(self.scale, io),
            |cuda, io| cuda::forward(self.scale, cuda, io),
        )
    }

    fn backward(&self, io: Backward<'_>) -> Result<()> {
        frame::backward(
            self.name(),
            io,
            |io| cpu::backward(self.scale, io),
            |cuda, io| cuda::backward(self.scale, cuda, io),
        )
    }
}
