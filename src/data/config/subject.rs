//! `[[subject]]`: one subject's words and photos.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// One subject: its name in mixes, its words, its photos.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SubjectConfig {
    /// Short name, unique among the subjects.
    pub id: String,
    /// The identifier: a single rare token.
    pub token: String,
    /// Descriptive class, "red monster plush".
    pub class: String,
    /// Folder of pictures, masks and captions.
    pub images: PathBuf,
    /// Relative size in mixes: the factor on the subject's own fit, in `(0, 1]`; drawn when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Class of the prior set; the descriptive class when empty.
    pub prior_class: String,
    /// Masks that lie elsewhere, by the photo's file name: what `[segment]` made.
    #[serde(skip)]
    pub found_masks: BTreeMap<String, PathBuf>,
}

impl SubjectConfig {
    /// Identifier and class, the name in prompts: "olis red monster plush".
    pub fn words(&self) -> String {
        [self.token.trim(), self.class.trim()].join(" ").trim().to_string()
    }

    /// The class of this subject's prior pictures.
    pub fn prior_words(&self) -> &str {
        if self.prior_class.trim().is_empty() { self.class.trim() } else { self.prior_class.trim() }
    }
}
