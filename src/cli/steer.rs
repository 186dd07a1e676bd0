//! How a decoupled adapter is sampled: subject alone, in the scene of a photo, or as a photo was.

use super::common::at_least;
use crate::{
    device::Device,
    error::{Error, Result},
    lora::Loras,
    models::{checkpoint::Component, decoupling::Source, towers::PictureTower},
    sample::{Beside, Steering},
    tensor::{DType, image::read},
    train::ENCODER_KEY,
};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

/// What stands beside the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Nothing: the subject, and what the prompt says.
    Subject,
    /// The scene of --background, a photo without a subject.
    Scene,
    /// What the photo --background shows beside its subject.
    Reconstruct,
}

/// Flags of `generate` for adapters trained with [decoupling].
#[derive(Clone, Debug, PartialEq, Args)]
pub struct SteerArgs {
    /// With a decoupled adapter: subject (text alone, the default), scene (the text in the scene of --background), or
    /// reconstruct (--background shows the subject; what is beside it is kept).
    #[arg(long, value_enum, value_name = "MODE")]
    pub mode: Option<Mode>,
    /// A photo whose scene the pictures get, with a decoupled adapter.
    #[arg(long, value_name = "PHOTO")]
    pub background: Option<PathBuf>,
    /// The CLIP that looks at --background; the one of the training by default.
    #[arg(long, value_name = "DIR", requires = "background")]
    pub encoder: Option<PathBuf>,
    /// What the text is multiplied with, with a decoupled adapter.
    #[arg(long, value_name = "W")]
    pub identity_weight: Option<f32>,
    /// What the feature of --background is multiplied with.
    #[arg(long, value_name = "W", requires = "background")]
    pub background_weight: Option<f32>,
}

impl SteerArgs {
    /// Nothing asked for.
    pub const NONE: Self = Self {
        mode: None,
        background: None,
        encoder: None,
        identity_weight: None,
        background_weight: None,
    };

    /// The text pair that says it in a picture.
    pub fn words(&self) -> serde_json::Value {
        serde_json::json!({
            "mode": self.mode.map(|m| format!("{m:?}").to_lowercase()), "background": self.background,
            "encoder": self.encoder, "identity_weight": self.identity_weight,
            "background_weight": self.background_weight,
        })
    }

    /// How the pictures are conditioned; `None` without a decoupled adapter.
    ///
    /// # Errors
    /// [`Error::Config`] for flags that do not go together or need another adapter; those of the photo and the encoder.
    pub fn steering(&self, loras: &Loras, device: &Device) -> Result<Option<Steering>> {
        for (key, weight) in [
            ("--identity-weight", self.identity_weight),
            ("--background-weight", self.background_weight),
        ] {
            at_least(key, weight.unwrap_or(1.0).into(), 0.0)?;
        }
        let decoupled: Vec<_> =
            loras.iter().map(|(l, _)| l).filter(|l| l.decoupling().is_some()).collect();
        let [lora] = decoupled[..] else {
            return match decoupled.len() {
                0 if *self == Self::NONE => Ok(None),
                0 => Err(bad(
                    "--mode, --background, --identity-weight",
                    "no decoupled adapter",
                    "one trained with method decoupled or disenbooth, or with [decoupling]",
                    "train it so, or leave these flags out",
                )),
                n => Err(bad(
                    "--lora",
                    format!("{n} decoupled adapters"),
                    "one: each makes its own conditioning of a text",
                    "take one of them",
                )),
            };
        };
        let Some(mut steering) = Steering::of(lora)? else { return Ok(None) };
        steering.identity = self.identity_weight.unwrap_or(1.0);
        steering.background = self.background_weight.unwrap_or(1.0);
        let mode = self.mode.unwrap_or(match self.background {
            None => Mode::Subject,
            Some(_) => Mode::Scene,
        });
        let photo = match (mode, &self.background) {
            (Mode::Subject, None) => return Ok(Some(steering)),
            (Mode::Subject, Some(_)) => {
                let fix = "leave --background out, or take --mode scene";
                return Err(bad("--mode", "subject with --background", "one of the two", fix));
            }
            (_, None) => {
                let found = format!("{mode:?}").to_lowercase();
                return Err(bad("--mode", found, "--background PHOTO beside it", "name a photo"));
            }
            (_, Some(photo)) => read(photo)?.rgb(),
        };
        let known = lora.metadata.get(ENCODER_KEY).map(PathBuf::from);
        let encoder = self.encoder.clone().or(known).unwrap_or_default();
        let feature = look(&encoder, device, &photo)?;
        let adapted = mode == Mode::Reconstruct || steering.model.source == Source::Implicit;
        steering.beside = if adapted { Beside::Photo(feature) } else { Beside::Scene(feature) };
        Ok(Some(steering))
    }
}

/// The image encoder's feature of a picture.
fn look(
    encoder: &Path,
    device: &Device,
    photo: &crate::tensor::image::Picture,
) -> Result<Vec<f32>> {
    let wanted = (Component::ClipImage, "image_embeds");
    let tower = PictureTower::open(wanted, encoder, (device, DType::F32));
    let mut tower = tower.map_err(|e| match e {
        Error::File { .. } => bad(
            "--encoder",
            format!("{}, which cannot be opened", encoder.display()),
            "the CLIP of the training",
            "name its folder with --encoder",
        ),
        other => other,
    })?;
    Ok(tower.look(photo)?.data)
}

fn bad(key: &str, found: impl ToString, expected: &str, fix: &str) -> Error {
    Error::Config {
        key: key.into(),
        found: found.to_string(),
        expected: expected.into(),
        fix: fix.into(),
    }
}
