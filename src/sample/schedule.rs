//! Samplers: which noise levels a picture passes, and the update between two of them.
//!
//! Step for step the arithmetic of diffusers' `EulerDiscreteScheduler`, `DDIMScheduler` (eta 0) and
//! `DPMSolverMultistepScheduler` (dpmsolver++, order 2, midpoint).

use crate::{
    error::{Error, Result},
    models::noise::{NoiseSchedule, Prediction},
};

/// The update rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sampler {
    /// Euler on the probability-flow ODE in sigma coordinates.
    #[default]
    Euler,
    /// DDIM without noise.
    Ddim,
    /// DPM-Solver++ (2M).
    DpmPp,
}

impl std::str::FromStr for Sampler {
    type Err = Error;
    fn from_str(word: &str) -> Result<Self> {
        match word {
            "euler" => Ok(Self::Euler),
            "ddim" => Ok(Self::Ddim),
            "dpm++" => Ok(Self::DpmPp),
            other => Err(Error::Config {
                key: "--sampler".into(),
                found: other.into(),
                expected: "euler, ddim or dpm++".into(),
                fix: "choose one of these".into(),
            }),
        }
    }
}

/// Where the inference timesteps lie among the training timesteps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spacing {
    /// Multiples of `T / steps`, plus the offset 1 (SDXL, SD 1.5, SD 2.1).
    #[default]
    Leading,
    /// From the last timestep down.
    Trailing,
}

impl std::str::FromStr for Spacing {
    type Err = Error;
    fn from_str(word: &str) -> Result<Self> {
        match word {
            "leading" => Ok(Self::Leading),
            "trailing" => Ok(Self::Trailing),
            other => Err(Error::Config {
                key: "--spacing".into(),
                found: other.into(),
                expected: "leading or trailing".into(),
                fix: "choose one of these".into(),
            }),
        }
    }
}

const OFFSET: usize = 1; // steps_offset of every published Stable Diffusion

/// The noise levels of one sampling run.
#[derive(Clone, Debug)]
pub struct Schedule {
    sampler: Sampler,
    spacing: Spacing,
    prediction: Prediction,
    timesteps: Vec<usize>,
    /// One more than steps: the last is where the picture is clean.
    sigmas: Vec<f64>,
    /// `abar` before and after each step (DDIM).
    abar: Vec<(f64, f64)>,
    /// The previous estimate of the clean latent (DPM-Solver++).
    previous: Option<Vec<f32>>,
}

impl Schedule {
    /// The schedule of `steps` model calls.
    ///
    /// # Errors
    /// [`Error::Config`] for no steps or more than the model has timesteps.
    pub fn new(
        noise: &NoiseSchedule,
        sampler: Sampler,
        spacing: Spacing,
        steps: usize,
    ) -> Result<Self> {
        let total = noise.len();
        let most = if sampler == Sampler::DpmPp { total - 1 } else { total };
        if steps == 0 || steps > most {
            return Err(Error::Config {
                key: "--steps".into(),
                found: steps.to_string(),
                expected: format!("1 to {most}"),
                fix: "30 is a good number".into(),
            });
        }
        let timesteps = timesteps(sampler, spacing, steps, total);
        let abar = |t: usize| f64::from(noise.alphas_cumprod[t.min(total - 1)]);
        let sigma = |t: &usize| {
            let a = noise.alphas_cumprod[(*t).min(total - 1)];
            f64::from(((1.0 - a) / a).sqrt())
        };
        let sigmas = timesteps.iter().map(sigma).chain([0.0]).collect();
        let back = total / steps;
        let pairs = timesteps.iter().map(|t| (abar(*t), abar(t.saturating_sub(back))));
        let abar = pairs.collect();
        let prediction = noise.prediction;
        Ok(Self { sampler, spacing, prediction, timesteps, sigmas, abar, previous: None })
    }

    /// The training timestep of each model call.
    pub fn timesteps(&self) -> &[usize] {
        &self.timesteps
    }

    /// Factor from unit noise to the first state, as diffusers' `init_noise_sigma`.
    pub fn noise_factor(&self) -> f32 {
        let largest = self.sigmas[0];
        match (self.sampler, self.spacing) {
            (Sampler::Euler, Spacing::Leading) => (largest * largest + 1.0).sqrt() as f32,
            (Sampler::Euler, Spacing::Trailing) => largest as f32,
            _ => 1.0,
        }
    }

    /// Factor from what enters the U-Net first to the first state.
    pub fn state_factor(&self) -> f32 {
        1.0 / self.input_factor(0)
    }

    /// Factor from the state before step `i` to the U-Net's input.
    pub fn input_factor(&self, i: usize) -> f32 {
        let s = self.sigmas[i];
        match self.sampler {
            Sampler::Euler => (1.0 / (s * s + 1.0).sqrt()) as f32,
            _ => 1.0,
        }
    }

    /// Moves `state` over step `i` with the model's output for it.
    pub fn step(&mut self, i: usize, state: &mut [f32], output: &[f32]) {
        match self.sampler {
            Sampler::Euler => self.euler(i, state, output),
            Sampler::Ddim => self.ddim(i, state, output),
            Sampler::DpmPp => self.dpm(i, state, output),
        }
    }

    fn euler(&self, i: usize, state: &mut [f32], output: &[f32]) {
        let (s, next) = (self.sigmas[i], self.sigmas[i + 1]);
        let (s32, step) = (s as f32, (next - s) as f32);
        let (from_output, from_state) =
            ((-s / (s * s + 1.0).sqrt()) as f32, (1.0 / (s * s + 1.0)) as f32);
        for (x, o) in state.iter_mut().zip(output) {
            let slope = match self.prediction {
                Prediction::Epsilon => *o,
                Prediction::Velocity => (*x - (o * from_output + *x * from_state)) / s32,
            };
            *x += slope * step;
        }
    }

    fn ddim(&self, i: usize, state: &mut [f32], output: &[f32]) {
        let (a, before) = self.abar[i];
        let (ra, rb) = (a.sqrt() as f32, (1.0 - a).sqrt() as f32);
        let (pa, pb) = (before.sqrt() as f32, (1.0 - before).sqrt() as f32);
        for (x, o) in state.iter_mut().zip(output) {
            let (clean, eps) = match self.prediction {
                Prediction::Epsilon => ((*x - rb * o) / ra, *o),
                Prediction::Velocity => (ra * *x - rb * o, ra * o + rb * *x),
            };
            *x = pa * clean + pb * eps;
        }
    }

    fn dpm(&mut self, i: usize, state: &mut [f32], output: &[f32]) {
        let coordinates = |sigma: f64| {
            let alpha = 1.0 / (sigma * sigma + 1.0).sqrt();
            (alpha, sigma * alpha)
        };
        let (alpha, sigma) = coordinates(self.sigmas[i]);
        let (a, s) = (alpha as f32, sigma as f32);
        let clean: Vec<f32> = match self.prediction {
            Prediction::Epsilon => state.iter().zip(output).map(|(x, o)| (x - s * o) / a).collect(),
            Prediction::Velocity => state.iter().zip(output).map(|(x, o)| a * x - s * o).collect(),
        };
        let (alpha_t, sigma_t) = coordinates(self.sigmas[i + 1]);
        let lambda = |(a, s): (f64, f64)| a.ln() - s.ln();
        let h = lambda((alpha_t, sigma_t)) - lambda((alpha, sigma));
        let keep = (sigma_t / sigma) as f32;
        let gain = -(alpha_t * ((-h).exp() - 1.0)) as f32;
        let last = i + 1 == self.timesteps.len(); // the final sigma is 0: first order there
        let slope = self.previous.as_ref().filter(|_| !last).map(|previous| {
            let h0 = lambda((alpha, sigma)) - lambda(coordinates(self.sigmas[i - 1]));
            ((0.5 * h / h0) as f32, previous)
        });
        for (k, x) in state.iter_mut().enumerate() {
            let change = slope.as_ref().map_or(0.0, |(r, p)| r * (clean[k] - p[k]));
            *x = keep * *x + gain * (clean[k] + change);
        }
        self.previous = Some(clean);
    }
}

fn timesteps(sampler: Sampler, spacing: Spacing, steps: usize, total: usize) -> Vec<usize> {
    match (spacing, sampler) {
        (Spacing::Leading, Sampler::DpmPp) => {
            let ratio = total / (steps + 1);
            (1..=steps).rev().map(|i| i * ratio + OFFSET).collect()
        }
        (Spacing::Leading, _) => {
            let ratio = total / steps;
            (0..steps).rev().map(|i| i * ratio + OFFSET).collect()
        }
        (Spacing::Trailing, _) => {
            let ratio = total as f64 / steps as f64;
            let at = |i: usize| (total as f64 - i as f64 * ratio).round_ties_even();
            (0..steps).map(|i| (at(i) as usize).saturating_sub(1)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifty_leading_euler_steps_start_at_the_published_level() {
        let noise = NoiseSchedule::stable_diffusion(Prediction::Epsilon);
        let s = Schedule::new(&noise, Sampler::Euler, Spacing::Leading, 50).unwrap();
        assert_eq!((s.timesteps()[0], s.timesteps()[49]), (981, 1));
        assert!((s.noise_factor() - 13.158_464).abs() < 1e-3);
        assert!((s.noise_factor() * s.input_factor(0) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_true_noise_prediction_is_undone_by_every_sampler() {
        let noise = NoiseSchedule::stable_diffusion(Prediction::Epsilon);
        for sampler in [Sampler::Euler, Sampler::Ddim, Sampler::DpmPp] {
            let mut s = Schedule::new(&noise, sampler, Spacing::Trailing, 12).unwrap();
            let (clean, eps) = (0.7f32, -1.3f32);
            let sigma = s.sigmas[0] as f32;
            let scale =
                if sampler == Sampler::Euler { 1.0 } else { 1.0 / (sigma.powi(2) + 1.0).sqrt() };
            let mut x = [(clean + sigma * eps) * scale];
            for i in 0..12 {
                s.step(i, &mut x, &[eps]);
            }
            // the last level of DDIM and of the 2M rule is not quite clean: abar of timestep 0
            let tolerance = if sampler == Sampler::Euler { 1e-4 } else { 0.06 };
            assert!((x[0] - clean).abs() < tolerance, "{sampler:?} {x:?}");
        }
    }
}
