//! `[[subject]]`: one subject's words and photos.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// The file beside a subject's photos that holds its class in words.
pub const CLASS_FILE: &str = "class.txt";

/// One subject: its name in mixes, its words, its photos.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SubjectConfig {
    /// Short name, unique among the subjects.
    pub id: String,
    /// The identifier: a single rare token.
    pub token: String,
    /// Descriptive class, "red monster plush"; what [`CLASS_FILE`] says when empty.
    pub class: String,
    /// Folder of pictures, masks and captions.
    pub images: PathBuf,
    /// Relative size in mixes: the factor on the subject's own fit, in `(0, 1]`; drawn when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Class of the prior set; the descriptive class when empty.
    pub prior_class: String,
    /// What detectors are asked for, in photos and in pictures to score: a bare class; the descriptive class when empty.
    pub query: String,
    /// Masks that lie elsewhere, by the photo's file name: what `[segment]` made.
    #[serde(skip)]
    pub found_masks: BTreeMap<String, PathBuf>,
}

impl SubjectConfig {
    /// Identifier and class, the name in prompts: "olis red monster plush".
    pub fn words(&self) -> String {
        [self.token.trim(), self.class.trim()].join(" ").trim().to_string()
    }

    /// What [`CLASS_FILE`] beside the photos says, without the ends' blanks.
    ///
    /// # Errors
    /// [`Error::File`] when the file is there and cannot be read.
    pub fn written_class(&self) -> Result<Option<String>> {
        let file = self.images.join(CLASS_FILE);
        if self.images.as_os_str().is_empty() || !file.is_file() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&file).map_err(Error::file("read", &file))?;
        Ok(Some(text.trim().to_string()))
    }

    /// What a detector is asked for.
    pub fn query_words(&self) -> &str {
        if self.query.trim().is_empty() { self.class.trim() } else { self.query.trim() }
    }

    /// The class of this subject's prior pictures.
    pub fn prior_words(&self) -> &str {
        if self.prior_class.trim().is_empty() { self.class.trim() } else { self.prior_class.trim() }
    }
}
