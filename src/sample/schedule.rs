//! Samplers: which noise levels a picture passes, and the update between two of them.
//!
//! Step for step the arithmetic of diffusers' `EulerDiscreteScheduler`, `DDIMScheduler` (eta 0) and
//! `DPMSolverMultistepScheduler` (dpmsolver++ of order 1 and 2).

use super::settings::{Curve, LastSigma, Sampler, Settings, Solver};
use crate::{
    error::{Error, Result},
    kernels::scheduler::{self, Output, Row, Rule},
    models::noise::{Prediction, Spacing},
};

/// A model's output for its input and a training timestep.
pub type Model<'m> = dyn FnMut(&[f32], f32) -> Result<Vec<f32>> + 'm;

/// The noise levels of one sampling run.
#[derive(Clone, Debug)]
pub struct Schedule {
    sampler: Sampler,
    spacing: Spacing,
    prediction: Prediction,
    solver: Solver,
    clip: Option<f32>,
    timesteps: Vec<f32>,
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
    /// [`Error::Config`] for no steps or more than the model has timesteps, and for DDIM with a model
    /// of the noise at a level without any signal.
    pub fn new(settings: &Settings, steps: usize) -> Result<Self> {
        let (sampler, total) = (settings.sampler, settings.noise.len());
        let most = if sampler == Sampler::DpmPp { total.saturating_sub(1) } else { total };
        if steps == 0 || steps > most {
            return Err(Error::Config {
                key: "--steps".into(),
                found: steps.to_string(),
                expected: format!("1 to {most}"),
                fix: "30 is a good number".into(),
            });
        }
        if settings.lambda_min.is_some() && settings.spacing == Spacing::Trailing {
            return Err(Error::Config {
                key: "scheduler_config.json: lambda_min_clipped".into(),
                found: "a number, with trailing spacing".into(),
                expected: "leading or linspace spacing: trailing loses steps to it".into(),
                fix: "pass --spacing linspace".into(),
            });
        }
        let (timesteps, sigmas) = levels(settings, steps);
        let abar =
            if sampler == Sampler::Ddim { ddim_pairs(settings, &timesteps)? } else { vec![] };
        Ok(Self {
            sampler,
            spacing: settings.spacing,
            prediction: settings.noise.prediction,
            solver: settings.solver,
            clip: settings.clip,
            timesteps: timesteps.iter().map(|t| *t as f32).collect(),
            sigmas,
            abar,
            previous: vec![],
        })
    }

    /// The training timestep of each model call; between two where levels are not those of timesteps.
    pub fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    /// Factor from unit noise to the first state, as diffusers' `init_noise_sigma`.
    pub fn noise_factor(&self) -> f32 {
        let largest = self.sigmas.iter().copied().fold(0.0, f64::max);
        match (self.sampler, self.spacing) {
            (Sampler::Euler, Spacing::Leading) => (largest * largest + 1.0).sqrt() as f32,
            (Sampler::Euler, _) => largest as f32,
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
            Sampler::Ddim => Row::ddim(self.abar[i].0, self.abar[i].1, self.clip),
            Sampler::DpmPp => {
                let before = (i > 0 && !self.first_order(i)).then(|| self.sigmas[i - 1]);
                Row::dpm(before, sigma, next, self.solver.kind)
            }
        };
        Row { timestep: self.timesteps[i], ..row }
    }

    /// Whether step `i` of the multistep solver does without the previous estimate.
    fn first_order(&self, i: usize) -> bool {
        let (n, s) = (self.timesteps.len(), &self.solver);
        let to_zero = self.sigmas[n] == 0.0;
        let last = s.euler_at_final || (s.lower_order_final && n < 15) || to_zero;
        s.order == 1 || (i + 1 == n && last)
    }

    /// Runs the whole loop on the host from `state`: scales the input, asks `model` for its output at
    /// the timestep, steps; returns the last state.
    ///
    /// # Errors
    /// Those of the model.
    pub fn run(&mut self, mut state: Vec<f32>, model: &mut Model<'_>) -> Result<Vec<f32>> {
        for i in 0..self.timesteps.len() {
            let factor = self.input_factor(i);
            let input: Vec<f32> = state.iter().map(|x| x * factor).collect();
            let output = model(&input, self.timesteps[i])?;
            self.step(i, &mut state, &output);
        }
        Ok(state)
    }

    /// Moves `state` over step `i` with the model's output for it; steps are taken in order.
    pub fn step(&mut self, i: usize, state: &mut [f32], output: &[f32]) {
        self.previous.resize(state.len(), 0.0);
        scheduler::step(self.rule(), &self.row(i), state, &mut self.previous, output);
    }
}

/// Timesteps and levels: one level more than timesteps.
fn levels(s: &Settings, steps: usize) -> (Vec<f64>, Vec<f64>) {
    let total = s.noise.len();
    let sigma = |(i, a): (usize, &f32)| {
        // As in diffusers, no signal at all stands for 2^-24 of it: the level stays finite.
        let a = if i + 1 == total && *a == 0.0 { 2f32.powi(-24) } else { *a };
        f64::from(((1.0 - a) / a).sqrt())
    };
    let trained: Vec<f64> = s.noise.alphas_cumprod.iter().enumerate().map(sigma).collect();
    let mut timesteps = timesteps(s, steps, &trained);
    let mut sigmas: Vec<f64> = timesteps.iter().map(|t| between(&trained, *t)).collect();
    if s.curve != Curve::Timesteps {
        let ends = match s.sampler {
            Sampler::DpmPp => [trained[0], trained[total - 1]],
            _ => [sigmas[steps - 1], sigmas[0]],
        };
        sigmas = curve(s, ends, steps);
        timesteps = sigmas.iter().map(|x| timestep_of(&trained, *x)).collect();
        if s.sampler == Sampler::DpmPp {
            let whole = |t: &f64| {
                if s.curve == Curve::Karras && s.rounded { t.round_ties_even() } else { t.trunc() }
            };
            timesteps = timesteps.iter().map(whole).collect();
        }
    }
    sigmas.push(if s.last == LastSigma::Zero { 0.0 } else { trained[0] });
    (timesteps, sigmas.into_iter().map(|x| f64::from(x as f32)).collect())
}

/// `steps` levels of a curve, from the second of `ends` down to the first.
fn curve(s: &Settings, ends: [f64; 2], steps: usize) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let (low, high) = (s.range[0].unwrap_or(ends[0]), s.range[1].unwrap_or(ends[1]));
    let even = |a: f64, b: f64| even(a, b, steps);
    match s.curve {
        Curve::Karras => {
            let root = |x: f64| x.powf(1.0 / RHO);
            even(root(high), root(low)).map(|x| x.powf(RHO)).collect()
        }
        _ => even(high.ln(), low.ln()).map(f64::exp).collect(),
    }
}

/// `n` numbers from `a` to `b`.
fn even(a: f64, b: f64, n: usize) -> impl DoubleEndedIterator<Item = f64> {
    (0..n).map(move |i| a + (b - a) * i as f64 / (n.max(2) - 1) as f64)
}

/// The table at a place between two entries.
fn between(table: &[f64], at: f64) -> f64 {
    let last = table.len() - 1;
    let low = (at.max(0.0) as usize).min(last);
    let high = (low + 1).min(last);
    table[low] + (table[high] - table[low]) * (at - low as f64).clamp(0.0, 1.0)
}

/// Where the level lies among the trained ones, linearly in its logarithm.
fn timestep_of(trained: &[f64], sigma: f64) -> f64 {
    let x = sigma.max(1e-10).ln();
    let log = |i: usize| f64::from((trained[i] as f32).ln()); // in f32, as in diffusers
    let last_below = (0..trained.len()).rfind(|i| log(*i) <= x).unwrap_or(0);
    let low = last_below.min(trained.len().saturating_sub(2));
    let (a, b) = (log(low), log((low + 1).min(trained.len() - 1)));
    low as f64 + if a == b { 0.0 } else { ((a - x) / (a - b)).clamp(0.0, 1.0) }
}

fn timesteps(s: &Settings, steps: usize, trained: &[f64]) -> Vec<f64> {
    let total = trained.len();
    let multistep = s.sampler == Sampler::DpmPp;
    let usable = match s.lambda_min {
        None => total,
        Some(least) => total - trained.iter().filter(|x| -x.ln() < least).count(),
    };
    match s.spacing {
        Spacing::Leading => {
            // DPM-Solver++ leaves out the lowest of one more.
            let more = usize::from(multistep);
            let ratio = usable / (steps + more);
            (more..steps + more).rev().map(|i| (i * ratio + s.offset) as f64).collect()
        }
        Spacing::Linspace => {
            let more = usize::from(multistep);
            let all = even(0.0, (usable.max(1) - 1) as f64, steps + more);
            let whole = |t: f64| match s.sampler {
                Sampler::Euler => f64::from(t as f32),
                _ => t.round_ties_even(),
            };
            all.skip(more).map(whole).collect::<Vec<_>>().into_iter().rev().collect()
        }
        Spacing::Trailing => {
            let ratio = total as f64 / steps as f64;
            let from = if multistep { usable } else { total } as f64;
            let at = |i: usize| ((from - i as f64 * ratio).round_ties_even() - 1.0).max(0.0);
            (0..steps).map(at).collect()
        }
    }
}

/// `abar` before and after each step.
fn ddim_pairs(s: &Settings, timesteps: &[f64]) -> Result<Vec<(f64, f64)>> {
    let table = &s.noise.alphas_cumprod;
    let back = (table.len() / timesteps.len()) as f64;
    let last = if s.alpha_to_one { 1.0 } else { f64::from(table[0]) };
    let at = |t: f64| f64::from(table[(t as usize).min(table.len() - 1)]);
    let pair = |t: &f64| (at(*t), if *t >= back { at(*t - back) } else { last });
    let pairs: Vec<(f64, f64)> = timesteps.iter().map(pair).collect();
    match s.noise.prediction == Prediction::Epsilon && pairs.iter().any(|p| p.0 == 0.0) {
        false => Ok(pairs),
        true => Err(Error::Config {
            key: "scheduler_config.json: rescale_betas_zero_snr".into(),
            found: "true, with a model that predicts the noise".into(),
            expected: "a model of the velocity: from pure noise DDIM cannot divide the noise out"
                .into(),
            fix: "pass --prediction v if that is what it predicts, or --sampler euler".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::noise::NoiseSchedule;

    fn settings(sampler: Sampler) -> Settings {
        Settings::plain(sampler, NoiseSchedule::stable_diffusion(Prediction::Epsilon))
    }

    #[test]
    fn fifty_leading_euler_steps_start_at_the_published_level() {
        let s = Schedule::new(&settings(Sampler::Euler), 50).unwrap();
        assert_eq!((s.timesteps()[0], s.timesteps()[49]), (981.0, 1.0));
        assert!((s.noise_factor() - 13.158_464).abs() < 1e-3);
        assert!((s.noise_factor() * s.input_factor(0) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_true_noise_prediction_is_undone_by_every_sampler() {
        for sampler in [Sampler::Euler, Sampler::Ddim, Sampler::DpmPp] {
            let settings = settings(sampler).spaced(Some(Spacing::Trailing));
            let mut s = Schedule::new(&settings, 12).unwrap();
            let (clean, eps) = (0.7f32, -1.3f32);
            let sigma = s.sigmas[0] as f32;
            let scale =
                if sampler == Sampler::Euler { 1.0 } else { 1.0 / (sigma.powi(2) + 1.0).sqrt() };
            let start = vec![(clean + sigma * eps) * scale];
            let x = s.run(start, &mut |_, _| Ok(vec![eps])).unwrap();
            // the last level of DDIM and of the 2M rule is not quite clean: abar of timestep 0
            let tolerance = if sampler == Sampler::Euler { 1e-4 } else { 0.06 };
            assert!((x[0] - clean).abs() < tolerance, "{sampler:?} {x:?}");
        }
    }
}
