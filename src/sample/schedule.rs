//! Samplers: which noise levels a picture passes, and the update between two of them.
//!
//! Step for step the arithmetic of diffusers' `EulerDiscreteScheduler`, `DDIMScheduler` (eta 0) and
//! `DPMSolverMultistepScheduler` (dpmsolver++, order 2, midpoint).

use crate::{
    error::{Error, Result},
    kernels::scheduler::{self, Output, Row, Rule},
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
    previous: Vec<f32>,
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
        Ok(Self { sampler, spacing, prediction, timesteps, sigmas, abar, previous: vec![] })
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

    /// The update rule and what the model predicts, as the kernels call them.
    pub fn rule(&self) -> (Rule, Output) {
        let rule = match self.sampler {
            Sampler::Euler => Rule::Euler,
            Sampler::Ddim => Rule::Ddim,
            Sampler::DpmPp => Rule::DpmPp,
        };
        let predicts = match self.prediction {
            Prediction::Epsilon => Output::Noise,
            Prediction::Velocity => Output::Velocity,
        };
        (rule, predicts)
    }

    /// The coefficients of every step and a last row for the end.
    pub fn rows(&self) -> Vec<Row> {
        let end = Row { input: 1.0, ..Row::default() };
        (0..self.timesteps.len()).map(|i| self.row(i)).chain([end]).collect()
    }

    fn row(&self, i: usize) -> Row {
        let (sigma, next) = (self.sigmas[i], self.sigmas[i + 1]);
        let row = match self.sampler {
            Sampler::Euler => Row::euler(sigma, next),
            Sampler::Ddim => Row::ddim(self.abar[i].0, self.abar[i].1),
            Sampler::DpmPp => {
                let last = i + 1 == self.timesteps.len(); // the final sigma is 0: first order there
                Row::dpm((i > 0 && !last).then(|| self.sigmas[i - 1]), sigma, next)
            }
        };
        Row { timestep: self.timesteps[i] as f32, ..row }
    }

    /// Moves `state` over step `i` with the model's output for it; steps are taken in order.
    pub fn step(&mut self, i: usize, state: &mut [f32], output: &[f32]) {
        self.previous.resize(state.len(), 0.0);
        scheduler::step(self.rule(), &self.row(i), state, &mut self.previous, output);
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
