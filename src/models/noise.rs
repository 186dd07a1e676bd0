//! The noise schedule of a base model, and the weight of a timestep in the loss.

use crate::error::{Error, Result};

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

/// The keys of `scheduler_config.json` that matter here; the defaults are those of Stable Diffusion.
#[derive(serde::Deserialize)]
#[serde(default)]
struct SchedulerFile {
    beta_start: f64,
    beta_end: f64,
    beta_schedule: String,
    num_train_timesteps: usize,
    prediction_type: String,
    rescale_betas_zero_snr: bool,
}

impl Default for SchedulerFile {
    fn default() -> Self {
        Self {
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: "scaled_linear".into(),
            num_train_timesteps: 1000,
            prediction_type: "epsilon".into(),
            rescale_betas_zero_snr: false,
        }
    }
}

impl NoiseSchedule {
    /// The schedule of SDXL, SD 1.5 and SD 2.1 base: 1000 steps, scaled linear from 0.00085 to 0.012.
    pub fn stable_diffusion(prediction: Prediction) -> Self {
        let file = SchedulerFile::default();
        Self { alphas_cumprod: cumulative(&file), prediction }
    }

    /// Reads the text of a `scheduler_config.json`.
    ///
    /// # Errors
    /// [`Error::Config`] when it is no JSON, or names a schedule or a prediction that is not known.
    pub fn from_json(text: &str) -> Result<Self> {
        let bad = |key: &str, found: String, expected: &str| Error::Config {
            key: format!("scheduler_config.json: {key}"),
            found,
            expected: expected.into(),
            fix: "check that the folder is a Stable Diffusion model".into(),
        };
        let file: SchedulerFile = serde_json::from_str(text)
            .map_err(|e| bad("content", e.to_string(), "a scheduler configuration"))?;
        if !["scaled_linear", "linear"].contains(&file.beta_schedule.as_str()) {
            return Err(bad("beta_schedule", file.beta_schedule, "scaled_linear or linear"));
        }
        let prediction = match file.prediction_type.as_str() {
            "epsilon" => Prediction::Epsilon,
            "v_prediction" => Prediction::Velocity,
            other => {
                return Err(bad("prediction_type", other.into(), "epsilon or v_prediction"));
            }
        };
        if file.num_train_timesteps == 0 || file.num_train_timesteps > 1 << 20 {
            let found = file.num_train_timesteps.to_string();
            return Err(bad("num_train_timesteps", found, "1 to 1048576"));
        }
        Ok(Self { alphas_cumprod: cumulative(&file), prediction })
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

fn cumulative(file: &SchedulerFile) -> Vec<f32> {
    let n = file.num_train_timesteps;
    let scaled = file.beta_schedule == "scaled_linear";
    let ends = (file.beta_start, file.beta_end);
    let (a, b) = if scaled { (ends.0.sqrt(), ends.1.sqrt()) } else { ends };
    let mut product = 1f64;
    let mut table: Vec<f64> = (0..n)
        .map(|i| {
            let x = a + (b - a) * i as f64 / (n.max(2) - 1) as f64;
            product *= 1.0 - if scaled { x * x } else { x };
            product
        })
        .collect();
    if file.rescale_betas_zero_snr && n > 1 {
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
        let s = NoiseSchedule::from_json("{}").unwrap();
        assert!((s.alphas_cumprod[981] - 0.005_775_5).abs() < 1e-6);
        assert!((s.alphas_cumprod[999] - 0.004_660_1).abs() < 1e-6);
    }

    #[test]
    fn min_snr_tames_only_the_clean_end() {
        let s = NoiseSchedule::stable_diffusion(Prediction::Epsilon);
        assert!(s.min_snr(0, 5.0) < 0.01);
        assert_eq!(s.min_snr(999, 5.0), 1.0);
    }

    #[test]
    fn unknown_words_are_refused() {
        let e = NoiseSchedule::from_json(r#"{"prediction_type":"sample"}"#).unwrap_err();
        assert!(e.to_string().contains("v_prediction"), "{e}");
    }
}
