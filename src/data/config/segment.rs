//! `[segment]`: models that make the masks which photos lack.

use crate::{
    error::{Error, Result},
    models::owlv2::Padding,
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Models that cut subjects out of photos and of prior pictures; both paths empty: none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SegmentSection {
    /// Folder of an OWLv2 in transformers' format.
    pub detector: PathBuf,
    /// A SAM or MobileSAM.
    pub segmenter: PathBuf,
    /// Boxes in photos count above this score.
    pub threshold: f64,
    /// Boxes in prior pictures count above this score.
    pub prior_threshold: f64,
    /// Boxes that overlap a better one by more than this intersection over union are the same thing; 1 keeps all.
    pub nms: f64,
    /// By how much a box grows on every side, in shares of the photo's width and height; none in prior pictures.
    pub margin: f64,
    /// What fills a photo up to the detector's square: grey or black.
    pub padding: String,
}

impl Default for SegmentSection {
    fn default() -> Self {
        Self {
            detector: PathBuf::new(),
            segmenter: PathBuf::new(),
            threshold: 0.2,
            prior_threshold: 0.4,
            nms: 1.0,
            margin: 0.05,
            padding: Padding::default().to_string(),
        }
    }
}

impl SegmentSection {
    /// Whether there are models.
    pub fn is_on(&self) -> bool {
        !self.detector.as_os_str().is_empty()
    }

    /// What fills a photo up.
    ///
    /// # Errors
    /// [`Error::Config`] for a word that is none of the two.
    pub fn padding(&self) -> Result<Padding> {
        self.padding.parse().map_err(|_| Error::Config {
            key: "segment.padding".into(),
            found: self.padding.clone(),
            expected: "grey or black".into(),
            fix: "change it".into(),
        })
    }
}
