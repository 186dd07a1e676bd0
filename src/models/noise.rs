//! The noise schedule of a base model, and the weight of a timestep in the loss.

use super::config::Keys;
use crate::error::{Error, Result};
use serde_json::{Value as Json, json};

/// What the U-Net predicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prediction {
    /// The noise.
    #[default]
    Epsilon,
    /// The velocity `sqrt(abar) eps - sqrt(1 - abar) z`.
    Velocity,
}

/// The noise schedule a base model was trained with.
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseSchedule {
    /// Cumulative product of the alphas, one entry a timestep.
    pub alphas_cumprod: Vec<f32>,
    /// The target.
    pub prediction: Prediction,
}

/// The file that the keys come from, in messages.
const FILE: &str = "scheduler_config.json";

/// Where the inference timesteps lie among the training timesteps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// Multiples of `T / steps`, plus an offset (SDXL, SD 1.5, SD 2.1).
    Leading,
    /// From the last timestep down.
    Trailing,
    /// Evenly from the last timestep to the first.
    Linspace,
}

impl Spacing {
    /// Its word in `scheduler_config.json` and on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Leading => "leading",
            Self::Trailing => "trailing",
            Self::Linspace => "linspace",
        }
    }
}

impl std::str::FromStr for Spacing {
    type Err = Error;
    fn from_str(word: &str) -> Result<Self> {
        let all = [Self::Leading, Self::Trailing, Self::Linspace];
        all.into_iter().find(|s| s.word() == word).ok_or_else(|| Error::Config {
            key: "--spacing".into(),
            found: word.into(),
            expected: "leading, trailing or linspace".into(),
            fix: "choose one of these".into(),
        })
    }
}

impl Prediction {
    /// Its word on the command line and in a configuration.
    pub fn word(self) -> &'static str {
        if self == Self::Epsilon { "epsilon" } else { "v" }
    }

    /// Its word in `scheduler_config.json`.
    pub fn published(self) -> &'static str {
        if self == Self::Epsilon { "epsilon" } else { "v_prediction" }
    }
}

impl std::str::FromStr for Prediction {
    type Err = Error;
    fn from_str(word: &str) -> Result<Self> {
        match word {
            "epsilon" => Ok(Self::Epsilon),
            "v" | "v_prediction" => Ok(Self::Velocity),
            other => Err(Error::Config {
                key: "--prediction".into(),
                found: other.into(),
                expected: "epsilon or v".into(),
                fix: "choose one of these".into(),
            }),
        }
    }
}

/// The `scheduler_config.json` that stands for a checkpoint without one: that of the published Stable Diffusion models.
pub fn published_scheduler() -> Json {
    json!({
        "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "prediction_type": "epsilon",
        "timestep_spacing": "leading", "steps_offset": 1,
        "clip_sample": false, "set_alpha_to_one": false,
    })
}

impl NoiseSchedule {
    /// The schedule of SDXL, SD 1.5 and SD 2.1 base: 1000 steps, scaled linear from 0.00085 to 0.012.
    pub fn stable_diffusion(prediction: Prediction) -> Self {
        let betas = linear([0.00085f64.sqrt(), 0.012f64.sqrt()], 1000);
        let alphas_cumprod = cumulative(betas.map(|b| b * b), false);
        Self { alphas_cumprod, prediction }
    }

    /// Reads a `scheduler_config.json`; absent keys have diffusers' defaults.
    ///
    /// # Errors
    /// [`Error::Config`] when it is no object, or a key has a value that is not known.
    pub fn from_json(json: &Json) -> Result<Self> {
        Self::read(&mut Keys::new(FILE, json)?)
    }

    /// As [`NoiseSchedule::from_json`]; the keys that belong to the schedule are marked as read.
    ///
    /// # Errors
    /// The same.
    pub fn read(k: &mut Keys<'_>) -> Result<Self> {
        let given = match k.get("trained_betas") {
            None => None,
            Some(v) => {
                Some(numbers(v).ok_or_else(|| k.wrong("trained_betas", "a list of numbers"))?)
            }
        };
        let n = k.positive("num_train_timesteps", 1000)?;
        if n > 1 << 20 {
            return Err(k.wrong("num_train_timesteps", "1 to 1048576"));
        }
        let ends = [k.double("beta_start", 0.0001)?, k.double("beta_end", 0.02)?];
        if !ends.iter().all(|b| (0.0..1.0).contains(b)) {
            return Err(k.wrong("beta_end", "numbers in 0..1, as beta_start"));
        }
        let known = ["linear", "scaled_linear", "squaredcos_cap_v2"];
        let betas: Vec<f64> = match (given, k.name("beta_schedule", &known)?) {
            (Some(betas), _) if betas.len() == n => betas,
            (Some(_), _) => return Err(k.wrong("trained_betas", format!("{n} numbers below 1"))),
            (None, "linear") => linear(ends, n).collect(),
            (None, "scaled_linear") => linear(ends.map(f64::sqrt), n).map(|b| b * b).collect(),
            (None, _) => cosine(n).collect(),
        };
        let prediction = match k.name("prediction_type", &["epsilon", "v_prediction"])? {
            "epsilon" => Prediction::Epsilon,
            _ => Prediction::Velocity,
        };
        let rescale = k.flag("rescale_betas_zero_snr", false)?;
        Ok(Self { alphas_cumprod: cumulative(betas.into_iter(), rescale), prediction })
    }

    /// Timesteps in the table.
    pub fn len(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// True when the table is empty.
    pub fn is_empty(&self) -> bool {
        self.alphas_cumprod.is_empty()
    }

    /// Min-SNR weight of timestep `t`: `min(snr, gamma) / snr`, over `snr + 1` for the velocity.
    ///
    /// `snr = abar / (1 - abar)`. Source: Hang et al. 2023 (2303.09556).
    pub fn min_snr(&self, t: usize, gamma: f32) -> f32 {
        let abar = self.alphas_cumprod.get(t).copied().map_or(0.5, f64::from);
        let snr = abar / (1.0 - abar).max(1e-12);
        let least = snr.min(f64::from(gamma));
        let over = if self.prediction == Prediction::Velocity { snr + 1.0 } else { snr };
        (least / over.max(1e-12)) as f32
    }
}

/// `n` numbers from one end to the other.
fn linear([a, b]: [f64; 2], n: usize) -> impl Iterator<Item = f64> {
    (0..n).map(move |i| a + (b - a) * i as f64 / (n.max(2) - 1) as f64)
}

/// Betas of Nichol and Dhariwal's cosine schedule, capped at 0.999.
fn cosine(n: usize) -> impl Iterator<Item = f64> {
    let bar = move |i: usize| {
        let t = i as f64 / n as f64;
        ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2)
    };
    (0..n).map(move |i| (1.0 - bar(i + 1) / bar(i)).min(0.999))
}

/// Numbers in `[0, 1)`.
fn numbers(list: &Json) -> Option<Vec<f64>> {
    let one = |v: &Json| v.as_f64().filter(|b| (0.0..1.0).contains(b));
    list.as_array()?.iter().map(one).collect()
}

/// `prod (1 - beta)`; with `rescale` shifted so that the last one is 0 (Lin et al. 2023, 2305.08891, algorithm 1).
fn cumulative(betas: impl Iterator<Item = f64>, rescale: bool) -> Vec<f32> {
    let mut product = 1f64;
    let mut table: Vec<f64> = betas
        .map(|b| {
            product *= 1.0 - b;
            product
        })
        .collect();
    let n = table.len();
    if rescale && n > 1 {
        let (first, last) = (table[0].sqrt(), table[n - 1].sqrt());
        for v in &mut table {
            *v = ((v.sqrt() - last) * first / (first - last)).powi(2);
        }
    }
    table.into_iter().map(|v| v as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sdxl_table_has_the_published_values() {
        let s = NoiseSchedule::from_json(&published_scheduler()).unwrap();
        assert!((s.alphas_cumprod[981] - 0.005_775_5).abs() < 1e-6);
        assert!((s.alphas_cumprod[999] - 0.004_660_1).abs() < 1e-6);
        assert_eq!(s, NoiseSchedule::stable_diffusion(Prediction::Epsilon));
    }

    #[test]
    fn min_snr_tames_only_the_clean_end() {
        let s = NoiseSchedule::stable_diffusion(Prediction::Epsilon);
        assert!(s.min_snr(0, 5.0) < 0.01);
        assert_eq!(s.min_snr(999, 5.0), 1.0);
    }

    #[test]
    fn unknown_words_are_refused() {
        for (json, words) in [
            (json!({"prediction_type": "sample"}), ["prediction_type", "v_prediction"]),
            (json!({"beta_schedule": "sigmoid"}), ["beta_schedule", "squaredcos_cap_v2"]),
            (json!({"trained_betas": [0.1, 0.2]}), ["trained_betas", "1000"]),
            (json!({"beta_end": 1.5}), ["beta_end", "1.5"]),
        ] {
            let e = NoiseSchedule::from_json(&json).unwrap_err().to_string();
            assert!(words.iter().all(|w| e.contains(w)), "{e}");
        }
    }

    #[test]
    fn given_betas_replace_the_schedule_and_rescaling_ends_at_zero() {
        let json = json!({"num_train_timesteps": 2, "trained_betas": [0.5, 0.5]});
        assert_eq!(NoiseSchedule::from_json(&json).unwrap().alphas_cumprod, [0.5, 0.25]);
        let json = json!({"rescale_betas_zero_snr": true});
        assert_eq!(NoiseSchedule::from_json(&json).unwrap().alphas_cumprod[999], 0.0);
    }
}
