//! Whether the subjects of a picture look like their photos: from pixels and boxes to the scores of one embedder.

use super::{
    crops::square_crop,
    detect_compare::{Matrix, Scores},
    embedder::Embedder,
    similarity::{Embeddings, ground_truth, to_references},
};
use crate::{error::Result, tensor::image::Picture};

/// An embedder that knows the subjects' photos.
#[derive(Debug)]
pub struct Judge {
    embedder: Embedder,
    references: Vec<Embeddings>,
    /// Mean similarity of the photos of every two subjects (methods.md §1.9).
    pub ground_truth: Matrix,
}

/// What one embedder says about one picture.
#[derive(Clone, Debug)]
pub struct Likeness {
    /// A row for every box, a column for every subject, and the scores; `None` where nobody looked for boxes.
    pub boxes: Option<(Matrix, Scores)>,
    /// Mean similarity of the whole picture to the photos of every subject.
    pub subjects: Vec<f64>,
    /// Mean similarity of the whole picture to all photos of all subjects (methods.md §1.10).
    pub all: f64,
    /// The embedding of the whole picture.
    pub whole: Embeddings,
}

impl Judge {
    /// Embeds the photos of every subject, whole and unmasked.
    ///
    /// # Errors
    /// Those of the embedder.
    pub fn new(mut embedder: Embedder, subjects: &[Vec<&Picture>]) -> Result<Self> {
        let references: Vec<Embeddings> =
            subjects.iter().map(|photos| embedder.embed(photos)).collect::<Result<_>>()?;
        Ok(Self { ground_truth: ground_truth(&references), embedder, references })
    }

    /// Looks at a picture and at the boxes `x0, y0, x1, y1` that were found in it.
    ///
    /// # Errors
    /// Those of the embedder; for a box without a pixel.
    pub fn look(&mut self, picture: &Picture, boxes: Option<&[[f64; 4]]>) -> Result<Likeness> {
        let whole = self.embedder.embed(&[picture])?;
        let subjects = to_references(&whole, &self.references).concat();
        let counts = self.references.iter().map(|r| r.len() as f64);
        let photos: f64 = counts.clone().sum();
        let all = subjects.iter().zip(counts).map(|(s, n)| s * n).sum::<f64>() / photos;
        let boxes = boxes.map(|boxes| {
            let crops = boxes.iter().map(|area| square_crop(picture, *area));
            let crops = crops.collect::<Result<Vec<_>>>()?;
            let crops = self.embedder.embed(&crops.iter().collect::<Vec<_>>())?;
            let similarity = to_references(&crops, &self.references);
            let scores = Scores::of(&similarity, &self.ground_truth);
            Ok((similarity, scores))
        });
        Ok(Likeness { boxes: boxes.transpose()?, subjects, all, whole })
    }
}
