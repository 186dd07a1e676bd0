//! What judges the pictures of a plan.

use crate::{
    cli::{evaluate::unit::judges_name, score::ByArgs},
    error::{Error, Result},
    models::owlv2::Padding,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// As the flags of `selvedge score`; without any of them the pictures are made and shown, and not judged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Models {
    /// `--detector`.
    pub detector: Option<PathBuf>,
    /// `--dreamsim`.
    pub dreamsim: Option<PathBuf>,
    /// `--dinov2`.
    pub dinov2: Option<PathBuf>,
    /// `--dino`.
    pub dino: Option<PathBuf>,
    /// `--clip`.
    pub clip: Option<PathBuf>,
    /// `--imagereward`.
    pub imagereward: Option<PathBuf>,
    /// `--threshold`, of the detector.
    pub threshold: Option<f64>,
    /// `--nms`, of its boxes.
    pub nms: Option<f64>,
    /// `--padding`, of the detector's square: grey or black.
    pub padding: Option<String>,
    /// `--query` of a combination, by its name; the subjects' classes when left out.
    #[serde(default)]
    pub queries: BTreeMap<String, Vec<String>>,
    /// `--keep-tokens`.
    #[serde(default)]
    pub keep_tokens: bool,
}

impl Models {
    /// The models' keys and paths.
    pub fn paths(&mut self) -> impl Iterator<Item = (&'static str, &mut PathBuf)> {
        let all = [
            ("detector", &mut self.detector),
            ("dreamsim", &mut self.dreamsim),
            ("dinov2", &mut self.dinov2),
            ("dino", &mut self.dino),
            ("clip", &mut self.clip),
            ("imagereward", &mut self.imagereward),
        ];
        all.into_iter().filter_map(|(key, path)| Some((key, path.as_mut()?)))
    }

    /// Whether nothing judges.
    pub fn none(&self) -> bool {
        *self == Self::default()
    }

    /// What tells the scores of different judges apart, in the name of a folder.
    pub fn name(&self) -> String {
        judges_name(&format!("{self:?}"))
    }

    /// The flags of `selvedge score`.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown padding.
    pub fn flags(&self, subjects: PathBuf, combination: &str, prompt: &str) -> Result<ByArgs> {
        let Self { dreamsim, dinov2, dino, clip, imagereward, .. } = self.clone();
        Ok(ByArgs {
            subjects: Some(subjects),
            boxes: None,
            detector: self.detector.clone(),
            queries: self.queries.get(combination).cloned().unwrap_or_default(),
            threshold: self.threshold,
            nms: self.nms,
            padding: self.padding()?,
            dreamsim,
            dinov2,
            dino,
            clip,
            imagereward,
            prompt: Some(prompt.into()),
            keep_tokens: self.keep_tokens,
            out: None,
        })
    }

    /// What fills the detector's square up.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown word.
    pub fn padding(&self) -> Result<Option<Padding>> {
        let wrong = |found: &String| Error::Config {
            key: "score.padding".into(),
            found: found.clone(),
            expected: Padding::NAMES.join(" or "),
            fix: "choose one of these".into(),
        };
        self.padding.as_ref().map(|word| word.parse().map_err(|_| wrong(word))).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plans_limits_reach_the_detector() {
        let models = Models { threshold: Some(0.3), nms: Some(0.7), ..Models::default() };
        let flags = models.flags(PathBuf::from("two.toml"), "two", "a bear").unwrap();
        assert_eq!((flags.threshold, flags.nms), (Some(0.3), Some(0.7)));
    }
}
