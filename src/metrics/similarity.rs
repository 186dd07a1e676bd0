//! Mean cosines between embeddings.

use super::detect_compare::Matrix;
use crate::{
    error::{Error, Result},
    tensor::Tensor,
};

/// Embeddings of length 1, a row each.
#[derive(Clone, Debug)]
pub struct Embeddings(Vec<Vec<f64>>);

impl Embeddings {
    /// The rows of `[count, width]`, each divided by its length; `at` stands for the tensor in messages.
    ///
    /// # Errors
    /// [`Error::Data`] for another number of axes, a row of zeros, or numbers that are not finite.
    pub fn new(rows: &Tensor, at: &str) -> Result<Self> {
        let wrong = |found: String, fix: &str| Error::Data {
            at: at.into(),
            found,
            expected: "[rows, width], every row with a length".into(),
            fix: fix.into(),
        };
        let &[_, width] = &rows.dims[..] else {
            return Err(wrong(format!("{:?}", rows.dims), "give one embedding a row"));
        };
        let row = |(i, row): (usize, &[f32])| {
            let length = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            if length == 0.0 || !length.is_finite() {
                let found = format!("row {i} of length {length}");
                return Err(wrong(found, "embed the picture again"));
            }
            Ok(row.iter().map(|v| f64::from(*v) / length).collect())
        };
        if width == 0 {
            return Err(wrong(format!("{:?}", rows.dims), "give embeddings with elements"));
        }
        let rows = rows.data.chunks_exact(width).enumerate().map(row);
        Ok(Self(rows.collect::<Result<_>>()?))
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Elements of a row; `None` without rows.
    pub fn width(&self) -> Option<usize> {
        self.0.first().map(Vec::len)
    }
}

/// `[crops][subjects]`: the mean cosine of a crop over the references of a subject (methods.md §1.8).
pub fn to_references(crops: &Embeddings, references: &[Embeddings]) -> Matrix {
    let mean = |crop: &[f64], references: &Embeddings| {
        references.0.iter().map(|r| cosine(crop, r)).sum::<f64>() / references.len() as f64
    };
    crops.0.iter().map(|c| references.iter().map(|r| mean(c, r)).collect()).collect()
}

/// `[subjects][subjects]`: the mean cosine over all pairs of references, pairs with itself included (methods.md §1.9).
pub fn ground_truth(references: &[Embeddings]) -> Matrix {
    let mean = |a: &Embeddings, b: &Embeddings| {
        let sum: f64 = a.0.iter().flat_map(|x| b.0.iter().map(move |y| cosine(x, y))).sum();
        sum / (a.len() * b.len()) as f64
    };
    references.iter().map(|a| references.iter().map(|b| mean(a, b)).collect()).collect()
}

/// How different pictures are from each other: the mean of 1 - cosine over all pairs of two (methods.md §2.3); `None` of
/// fewer than two.
pub fn diversity(pictures: &Embeddings) -> Option<f64> {
    let rows = &pictures.0;
    let pairs =
        rows.iter().enumerate().flat_map(|(i, a)| rows[i + 1..].iter().map(move |b| (a, b)));
    let all: Vec<f64> = pairs.map(|(a, b)| 1.0 - cosine(a, b)).collect();
    (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embeddings(rows: &[[f32; 2]]) -> Embeddings {
        let data = rows.iter().flatten().copied().collect();
        Embeddings::new(&Tensor { dims: vec![rows.len(), 2], data }, "x").unwrap()
    }

    #[test]
    fn lengths_do_not_count_and_self_pairs_do() {
        // two references at right angles: mean over four pairs
        let a = embeddings(&[[3.0, 0.0], [0.0, 0.5]]);
        let b = embeddings(&[[7.0, 0.0]]);
        assert_eq!(ground_truth(&[a.clone(), b.clone()]), [[0.5, 0.5], [0.5, 1.0]]);
        let crop = embeddings(&[[0.0, 9.0]]);
        assert_eq!(to_references(&crop, &[a, b]), [[0.5, 0.0]]);
    }

    #[test]
    fn diversity_is_over_pairs_of_two_different_pictures() {
        // equal, at right angles, at right angles
        let all = embeddings(&[[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]]);
        assert_eq!(diversity(&all), Some(2.0 / 3.0));
        assert_eq!(diversity(&embeddings(&[[1.0, 0.0], [-1.0, 0.0]])), Some(2.0));
        assert_eq!(diversity(&embeddings(&[[1.0, 0.0]])), None);
        assert_eq!(diversity(&embeddings(&[])), None);
    }

    #[test]
    fn rows_without_a_length_are_refused() {
        for data in [vec![0.0, 0.0], vec![f32::NAN, 1.0], vec![f32::INFINITY, 1.0]] {
            let refused = Embeddings::new(&Tensor { dims: vec![1, 2], data }, "crops.a.png");
            assert!(refused.unwrap_err().to_string().contains("crops.a.png: row 0"));
        }
        let flat = Tensor { dims: vec![2], data: vec![1.0, 2.0] };
        assert!(Embeddings::new(&flat, "x").is_err());
    }
}
