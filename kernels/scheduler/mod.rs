//! The sampler's step: guidance, update of the latent, next input of the model.
//!
//! On a GPU the index of the step and the table of coefficients lie in device memory, so that a
//! captured graph holds a step, or a whole denoising loop. The operation changes its latent in
//! place, so a plan cannot hold it: [`step`] and [`guide`] are the host's, [`DeviceSampler`] the
//! device's; `cases.rs` wraps them as an [`crate::op::Op`] for check and bench alone.

pub mod cases;
mod cpu;
mod device;

pub use cpu::{guide, step};
pub use device::{Buffers, DeviceSampler};

/// The update rule.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Euler on the probability-flow ODE in sigma coordinates.
    Euler = 0,
    /// DDIM without noise.
    Ddim = 1,
    /// DPM-Solver++ (2M).
    DpmPp = 2,
}

/// What the model's output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The noise.
    Noise,
    /// `sqrt(abar) eps - sqrt(1 - abar) z`.
    Velocity,
}

/// The second-order term of DPM-Solver++.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecondOrder {
    /// `1/2 (1 - e^-h) D1`.
    Midpoint,
    /// `((e^-h - 1) / h + 1) D1`.
    Heun,
}

/// Coefficients of one step, made in f64 and rounded once.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Row {
    /// Euler: sigma. DDIM: `sqrt(abar)`. 2M: alpha.
    pub a: f32,
    /// Euler: next sigma - sigma. DDIM: `sqrt(1 - abar)`. 2M: sigma alpha.
    pub b: f32,
    /// Euler: factor of a velocity in the clean latent. DDIM: `sqrt(abar)` after the step. 2M:
    /// ratio of the sigmas.
    pub c: f32,
    /// Euler: factor of the latent in it. DDIM: `sqrt(1 - abar)` after the step. 2M: `-alpha_next
    /// (e^-h - 1)`.
    pub d: f32,
    /// 2M: `h / (2 h_previous)`, or Heun's factor. DDIM: the clean latent is kept within this.
    pub ratio: f32,
    /// 2M: 1 where the previous estimate counts, else 0. DDIM: 1 where the clean latent is clipped.
    pub second: f32,
    /// Factor from the latent to the model's input.
    pub input: f32,
    /// Training timestep of the model call.
    pub timestep: f32,
}

impl Row {
    /// Euler's step from `sigma` to `next`.
    pub fn euler(sigma: f64, next: f64) -> Self {
        let square = sigma * sigma + 1.0;
        Self {
            a: sigma as f32,
            b: (next - sigma) as f32,
            c: (-sigma / square.sqrt()) as f32,
            d: (1.0 / square) as f32,
            input: (1.0 / square.sqrt()) as f32,
            ..Self::default()
        }
    }

    /// DDIM's step from `abar` to `after`; with `clip` the estimate of the clean latent is kept within it.
    pub fn ddim(abar: f64, after: f64, clip: Option<f32>) -> Self {
        Self {
            ratio: clip.unwrap_or(0.0),
            second: if clip.is_some() { 1.0 } else { 0.0 },
            a: abar.sqrt() as f32,
            b: (1.0 - abar).sqrt() as f32,
            c: after.sqrt() as f32,
            d: (1.0 - after).sqrt() as f32,
            input: 1.0,
            ..Self::default()
        }
    }

    /// DPM-Solver++'s step from `sigma` to `next`; with the sigma before, of second order: the
    /// midpoint's, or `heun`'s.
    pub fn dpm(before: Option<f64>, sigma: f64, next: f64, kind: SecondOrder) -> Self {
        let coordinates = |sigma: f64| {
            let alpha = 1.0 / (sigma * sigma + 1.0).sqrt();
            (alpha, sigma * alpha)
        };
        let lambda = |(a, s): (f64, f64)| a.ln() - s.ln();
        let (here, there) = (coordinates(sigma), coordinates(next));
        let h = lambda(there) - lambda(here);
        let shrink = (-h).exp() - 1.0;
        let half = match kind {
            SecondOrder::Midpoint => 0.5,
            SecondOrder::Heun => (shrink / h + 1.0) / -shrink,
        };
        let ratio = before.map(|b| half * h / (lambda(here) - lambda(coordinates(b))));
        Self {
            a: here.0 as f32,
            b: here.1 as f32,
            c: (there.1 / here.1) as f32,
            d: -(there.0 * shrink) as f32,
            ratio: ratio.unwrap_or(0.0) as f32,
            second: if before.is_some() { 1.0 } else { 0.0 },
            input: 1.0,
            ..Self::default()
        }
    }
}
