//! What a checkpoint says about the training target of its U-Net, where it has no `scheduler_config.json`.

use super::{NANO, family::Family};
use crate::{error::Result, models::noise::Prediction, tensor::open_weights};
use std::path::Path;

/// The training target of a U-Net, and how far the checkpoint tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Noise or velocity.
    pub prediction: Prediction,
    /// Whether the noise schedule ends without any signal.
    pub zero_snr: bool,
    /// False where this is a guess that may be wrong.
    pub known: bool,
}

impl Target {
    /// The target of `model` without a scheduler configuration. A single file says it by a tensor named `v_pred`
    /// (and `ztsnr` for the schedule), as fine-tunes of SDXL do, or by the text pairs `modelspec.prediction_type` or
    /// `modelspec.architecture`. Without any of them SDXL and SD 1 predict the noise; SD 2 files are the same
    /// for both targets (the 512 base predicts the noise, the 768 model the velocity): noise, and not known.
    ///
    /// # Errors
    /// Those of the file.
    pub fn of(model: &Path, context: Option<usize>) -> Result<Self> {
        let noise = Self { prediction: Prediction::Epsilon, zero_snr: false, known: true };
        if model == Path::new(NANO) || model.is_dir() {
            return Ok(Self { known: context != Some(1024), ..noise });
        }
        let file = open_weights(model)?;
        let has = |name: &str| file.entries().contains_key(name);
        let text = |key: &str| file.metadata().get(key).map_or("", String::as_str);
        let kind = text("modelspec.prediction_type");
        let architecture = text("modelspec.architecture");
        let velocity = Self { prediction: Prediction::Velocity, zero_snr: has("ztsnr"), ..noise };
        Ok(match () {
            () if has("v_pred") || kind.starts_with('v') => velocity,
            () if architecture.starts_with("stable-diffusion-v2-768-v") => velocity,
            () if kind.starts_with("eps") => noise,
            () if architecture.starts_with("stable-diffusion-v2-512") => noise,
            () => Self { known: Family::of(&file) != Family::Sd21, ..noise },
        })
    }
}
