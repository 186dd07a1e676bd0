//! Filling a hole of a latent: the base model itself with resampling (RePaint), or a U-Net trained to fill.

use super::{Pipeline, Request, Sampler, Schedule, Settings, Size};
use crate::{
    error::{Error, Result},
    models::noise::Prediction,
    tensor::philox::{fill_normal, streams},
};

/// How often a stretch of the way down is walked again (Lugmayr et al. 2022, RePaint).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resampling {
    /// Steps of a jump back.
    pub jump: usize,
    /// How often every stretch is walked, the first time included; 1: never again.
    pub times: usize,
}

impl Default for Resampling {
    /// RePaint's jumps of 10 of 250 steps, walked 10 times, scaled to 50 steps and half the walks.
    fn default() -> Self {
        Self { jump: 2, times: 5 }
    }
}

/// A latent and its hole.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The scaled latent of a photo without its subject, `[h, w, C]`.
    pub latent: &'a [f32],
    /// Which of its cells `[h, w]` are to be filled.
    pub hole: &'a [bool],
}

/// The levels a walk visits: from `steps`, pure noise, to 0, clean; every `jump` levels back up, `times - 1` times.
pub fn walk(steps: usize, Resampling { jump, times }: Resampling) -> Vec<usize> {
    let jump = jump.max(1);
    let mut left: Vec<usize> = (0..=steps)
        .map(|l| usize::from(l % jump == 0 && l + jump < steps) * (times.max(1) - 1))
        .collect();
    let (mut level, mut all) = (steps, vec![steps]);
    while level > 0 {
        level -= 1;
        all.push(level);
        if left[level] > 0 && level > 0 {
            left[level] -= 1;
            for _ in 0..jump {
                level += 1;
                all.push(level);
            }
        }
    }
    all
}

/// Signal (`abar`) and timestep of every level.
struct Levels {
    abar: Vec<f64>,
    timesteps: Vec<f32>,
    prediction: Prediction,
}

impl Levels {
    fn new(pipeline: &Pipeline<'_>, request: &Request) -> Result<Self> {
        let settings = Settings::read(&pipeline.base().scheduler, Sampler::Ddim)?;
        let settings = settings.spaced(request.spacing);
        let schedule = Schedule::new(&settings, request.steps)?;
        let table = &settings.noise.alphas_cumprod;
        let at = |t: &f32| f64::from(table[(*t as usize).min(table.len() - 1)]);
        let timesteps: Vec<f32> =
            [0.0].into_iter().chain(schedule.timesteps().iter().rev().copied()).collect();
        let abar = [1.0].into_iter().chain(timesteps[1..].iter().map(at)).collect();
        Ok(Self { abar, timesteps, prediction: settings.noise.prediction })
    }

    /// One ancestral step down from `level`: `sqrt(a') z0 + sqrt(1 - a' - s^2) eps + s n` with
    /// `s^2 = (1 - a') / (1 - a) (1 - a / a')` (DDPM's posterior).
    fn down(&self, level: usize, x: &mut [f32], output: &[f32], noise: &[f32]) {
        let (a, b) = (self.abar[level], self.abar[level - 1]);
        let variance = ((1.0 - b) / (1.0 - a).max(1e-12) * (1.0 - a / b)).max(0.0);
        let [signal, clean, rest] = [a.sqrt(), b.sqrt(), (1.0 - b - variance).max(0.0).sqrt()];
        let (level, spread) = ((1.0 - a).sqrt(), variance.sqrt());
        for ((x, out), n) in x.iter_mut().zip(output).zip(noise) {
            let (now, out) = (f64::from(*x), f64::from(*out));
            let (z, eps) = match self.prediction {
                Prediction::Epsilon => ((now - level * out) / signal.max(1e-6), out),
                Prediction::Velocity => (signal * now - level * out, signal * out + level * now),
            };
            *x = (clean * z + rest * eps + spread * f64::from(*n)) as f32;
        }
    }

    /// The same from `level` up: `sqrt(a' / a) x + sqrt(1 - a' / a) n`.
    fn up(&self, level: usize, x: &mut [f32], noise: &[f32]) {
        let keep = self.abar[level + 1] / self.abar[level];
        let (keep, add) = (keep.sqrt() as f32, (1.0 - keep).max(0.0).sqrt() as f32);
        x.iter_mut().zip(noise).for_each(|(x, n)| *x = keep * *x + add * n);
    }

    /// What is known, with the noise of `level`.
    fn noised(&self, level: usize, known: f32, noise: f32) -> f32 {
        let a = self.abar[level];
        (a.sqrt() * f64::from(known) + (1.0 - a).sqrt() * f64::from(noise)) as f32
    }
}

impl Pipeline<'_> {
    /// Model calls of [`Pipeline::fill`].
    pub fn fill_calls(&self, steps: usize, resampling: Resampling) -> usize {
        let times = if self.fills() { 1 } else { resampling.times };
        let walk = walk(steps, Resampling { times, ..resampling });
        walk.windows(2).filter(|pair| pair[1] < pair[0]).count()
    }

    /// Whether the U-Net was trained to fill: it takes the mask and the photo beside the noisy latent.
    pub fn fills(&self) -> bool {
        let base = self.base();
        base.unet.in_channels == 2 * base.vae.latent_channels + 1
    }

    /// The latent with its hole filled, `[h, w, C]`.
    ///
    /// A base for pictures walks the ancestral steps with the known cells put back at every level and the stretches of
    /// `resampling` walked again, so that hole and rest agree; a U-Net trained to fill (SD-inpainting: latent, mask,
    /// masked photo) walks once. Every element of noise is drawn from `seed`.
    ///
    /// # Errors
    /// Those of the programs and of the request; [`Error::Shape`] for a latent or a hole of another size;
    /// [`Error::Config`] for a U-Net with other inputs.
    pub fn fill(
        &mut self,
        request: &Request,
        known: Known<'_>,
        resampling: Resampling,
        seed: u64,
        progress: &mut dyn FnMut(),
    ) -> Result<Vec<f32>> {
        let latent = self.latent(request.height, request.width)?;
        let (channels, trained) = (self.base().vae.latent_channels, self.fills());
        let takes = self.base().unet.in_channels;
        if takes != channels && !trained {
            return Err(Error::Config {
                key: "--base".into(),
                found: format!("a U-Net that takes {takes} channels"),
                expected: format!("{channels}, or {} of one trained to fill", 2 * channels + 1),
                fix: "name a base for pictures or for inpainting".into(),
            });
        }
        let cells = latent[0] * latent[1];
        if known.latent.len() != cells * channels || known.hole.len() != cells {
            return Err(Error::Shape {
                at: "fill".into(),
                what: "latent and hole",
                got: vec![known.latent.len(), known.hole.len()],
                want: format!("{} and {cells} elements", cells * channels),
            });
        }
        let levels = Levels::new(self, request)?;
        let guided = request.guidance > 1.0;
        self.prepare(request, Size { pictures: 1, guided, latent })?;
        let mut draws = 0;
        let mut noise = || {
            let mut all = vec![0.0; cells * channels];
            fill_normal(seed, streams::numbered(streams::FILL_NOISE, draws), &mut all);
            draws += 1;
            all
        };
        let times = if trained { 1 } else { resampling.times };
        let walk = walk(request.steps, Resampling { times, ..resampling });
        let mut x = noise();
        if !trained {
            let added = noise();
            put_back(&mut x, known, |at| levels.noised(request.steps, known.latent[at], added[at]));
        }
        for pair in walk.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            if to > from {
                levels.up(from, &mut x, &noise());
                continue;
            }
            let input = if trained { beside(&x, known, channels) } else { x.clone() };
            let output = self.predict(&input, levels.timesteps[from], request.guidance)?;
            levels.down(from, &mut x, &output, &noise());
            if !trained {
                let added = noise();
                put_back(&mut x, known, |at| levels.noised(to, known.latent[at], added[at]));
            }
            progress();
        }
        Ok(x)
    }
}

/// Puts `value(element)` into all cells that are no part of the hole.
fn put_back(x: &mut [f32], known: Known<'_>, value: impl Fn(usize) -> f32) {
    let channels = x.len() / known.hole.len().max(1);
    for (cell, _) in known.hole.iter().enumerate().filter(|(_, open)| !**open) {
        (cell * channels..(cell + 1) * channels).for_each(|at| x[at] = value(at));
    }
}

/// What a U-Net trained to fill takes: the noisy latent, the mask (1: to fill), the photo's latent; channels last.
fn beside(x: &[f32], known: Known<'_>, channels: usize) -> Vec<f32> {
    let cells = x.chunks_exact(channels).zip(known.latent.chunks_exact(channels)).zip(known.hole);
    cells
        .flat_map(|((x, photo), hole)| {
            let mask = if *hole { 1.0 } else { 0.0 };
            x.iter().copied().chain([mask]).chain(photo.iter().copied())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_repeats_every_stretch_so_often_and_ends_clean() {
        assert_eq!(walk(3, Resampling { jump: 1, times: 1 }), [3, 2, 1, 0]);
        let all = walk(8, Resampling { jump: 2, times: 3 });
        assert_eq!(all[..8], [8, 7, 6, 5, 4, 5, 6, 5]);
        assert_eq!(all.last(), Some(&0));
        assert!(all.windows(2).all(|p| p[0].abs_diff(p[1]) == 1));
        let down = |to: usize| all.windows(2).filter(|p| p[1] == to && p[0] > to).count();
        assert_eq!([down(5), down(4), down(3), down(2), down(1)], [3, 3, 3, 3, 1]);
    }

    #[test]
    fn a_step_down_is_the_posterior_of_ddpm_for_both_predictions_and_a_step_up_its_forward_process()
    {
        let (a, b) = (0.4f64, 0.7f64);
        let (z, eps, n) = (0.8f64, -1.1f64, 0.3f64);
        let x = a.sqrt() * z + (1.0 - a).sqrt() * eps;
        // Ho et al. 2020, equations 6 and 7, with alpha = a / b
        let (alpha, beta) = (a / b, 1.0 - a / b);
        let mean = b.sqrt() * beta / (1.0 - a) * z + alpha.sqrt() * (1.0 - b) / (1.0 - a) * x;
        let want = mean + ((1.0 - b) / (1.0 - a) * beta).sqrt() * n;
        for prediction in [Prediction::Epsilon, Prediction::Velocity] {
            let levels = Levels { abar: vec![b, a], timesteps: vec![0.0; 2], prediction };
            let output = match prediction {
                Prediction::Epsilon => eps,
                Prediction::Velocity => a.sqrt() * eps - (1.0 - a).sqrt() * z,
            };
            let mut got = [x as f32];
            levels.down(1, &mut got, &[output as f32], &[n as f32]);
            assert!((f64::from(got[0]) - want).abs() < 1e-5, "{prediction:?} {got:?} {want}");
            levels.up(0, &mut got, &[n as f32]);
            let up = alpha.sqrt() * want + beta.sqrt() * n;
            assert!((f64::from(got[0]) - up).abs() < 1e-5);
            assert!((f64::from(levels.noised(1, z as f32, eps as f32)) - x).abs() < 1e-6);
        }
    }
}
