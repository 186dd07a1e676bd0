//! The learning rate over a run.

use super::TrainSection;
use serde::{Deserialize, Serialize};

/// How the learning rate moves after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LrSchedule {
    /// Stays.
    Constant,
    /// Half a cosine down to 0 at the last step.
    Cosine,
    /// A straight line down to 0 at the last step.
    Linear,
}

impl TrainSection {
    /// The learning-rate factor of optimizer step `step` (0-based): warm-up, then the schedule.
    ///
    /// As diffusers' `get_scheduler`: `step / warmup` while warming up; afterwards with
    /// `p = (step - warmup) / (steps - warmup)`: 1, `(1 + cos(pi p)) / 2`, or `1 - p`.
    pub fn learning_rate_factor(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps.max(1) as f64;
        }
        let rest = self.steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let p = ((step - self.warmup_steps) as f64 / rest).min(1.0);
        match self.schedule {
            LrSchedule::Constant => 1.0,
            LrSchedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * p).cos()),
            LrSchedule::Linear => 1.0 - p,
        }
    }
}
