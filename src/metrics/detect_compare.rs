//! Detect-and-Compare: whether every subject is in a picture once, and looks like itself and not like the others.
//!
//! A detector finds boxes; `similarity[i][j]` says how much box `i` looks like subject `j`. The numbers below come
//! from these similarities alone.

use nalgebra::DMatrix;

/// A row for every box or subject, a column for every subject.
pub type Matrix = Vec<Vec<f64>>;

/// The scores of one picture; higher is better, nothing is clamped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// First version, two subjects only: with `c_i = s_i1 - s_i2`, `|c_1 - c_2|` if `c_1 c_2 > 0`, else `|c_1| + |c_2|`.
    /// Source: MuDI Algorithm 3.
    pub dc: Option<f64>,
    /// Max variant of the first version, two subjects only: `sum_i max_j s_ij`.
    pub dc_max: Option<f64>,
    /// Later version: `1 - ||S - G||` with the largest singular value as norm.
    pub dc_spectral: f64,
    /// Later version with the root of the sum of squares as norm.
    pub dc_frobenius: f64,
}

impl Scores {
    /// Scores of a picture whose boxes have `similarity [boxes][subjects]`, against `ground_truth [subjects][subjects]`.
    ///
    /// Another number of boxes than of subjects gives 0 everywhere. Rows of `similarity` go to subjects greedily: for one
    /// column after the other, the unused row with the largest value (the first of equals).
    pub fn of(similarity: &Matrix, ground_truth: &Matrix) -> Self {
        let subjects = ground_truth.len();
        let two = |value: f64| (subjects == 2).then_some(value);
        if similarity.len() != subjects {
            return Self { dc: two(0.0), dc_max: two(0.0), dc_spectral: 0.0, dc_frobenius: 0.0 };
        }
        let (mut dc, mut dc_max) = (None, None);
        if let [[a, b], [c, d]] = [row_pair(similarity, 0), row_pair(similarity, 1)]
            && subjects == 2
        {
            let (first, second) = (a - b, c - d);
            let same_side = first * second > 0.0;
            dc = Some(if same_side { (first - second).abs() } else { first.abs() + second.abs() });
            dc_max = Some(a.max(b) + c.max(d));
        }
        let rows = assign(similarity);
        let difference = DMatrix::from_fn(subjects, subjects, |i, j| {
            similarity[rows[i]][j] - ground_truth[i][j]
        });
        let spectral = difference.singular_values().max();
        Self { dc, dc_max, dc_spectral: 1.0 - spectral, dc_frobenius: 1.0 - difference.norm() }
    }

    /// The mean of every score; `None` of no pictures.
    pub fn mean(all: &[Self]) -> Option<Self> {
        let count = all.len() as f64;
        let mean = |get: fn(&Self) -> f64| all.iter().map(get).sum::<f64>() / count;
        let maybe = |get: fn(&Self) -> Option<f64>| {
            let values: Option<Vec<f64>> = all.iter().map(get).collect();
            values.map(|v| v.iter().sum::<f64>() / count)
        };
        (!all.is_empty()).then(|| Self {
            dc: maybe(|s| s.dc),
            dc_max: maybe(|s| s.dc_max),
            dc_spectral: mean(|s| s.dc_spectral),
            dc_frobenius: mean(|s| s.dc_frobenius),
        })
    }
}

/// The first two elements of a row, zeros where there are none.
fn row_pair(m: &Matrix, row: usize) -> [f64; 2] {
    let at = |j: usize| m.get(row).and_then(|r| r.get(j)).copied().unwrap_or(0.0);
    [at(0), at(1)]
}

/// For every column the row that it takes.
fn assign(similarity: &Matrix) -> Vec<usize> {
    let mut free: Vec<usize> = (0..similarity.len()).collect();
    let mut taken = vec![];
    for column in 0..similarity.len() {
        let mut best = 0;
        for (i, row) in free.iter().enumerate() {
            if similarity[*row][column] > similarity[free[best]][column] {
                best = i;
            }
        }
        taken.push(free.remove(best));
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix<const N: usize>(rows: &[[f64; N]]) -> Matrix {
        rows.iter().map(|r| r.to_vec()).collect()
    }

    fn close(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-3, "{got} {want}");
    }

    #[test]
    fn two_subjects_give_the_published_numbers() {
        let truth = matrix(&[[0.78, 0.28], [0.28, 0.77]]);
        let good = Scores::of(&matrix(&[[0.72, 0.28], [0.27, 0.71]]), &truth);
        close(good.dc.unwrap(), 0.88);
        close(good.dc_max.unwrap(), 1.43);
        let mixed = Scores::of(&matrix(&[[0.72, 0.29], [0.52, 0.40]]), &truth);
        close(mixed.dc.unwrap(), 0.31);
        for (rows, spectral) in [
            ([[0.72, 0.26], [0.29, 0.71]], 0.9332),
            ([[0.64, 0.28], [0.32, 0.70]], 0.8528),
            ([[0.27, 0.74], [0.25, 0.71]], 0.3130),
            ([[0.72, 0.29], [0.52, 0.41]], 0.5653),
        ] {
            close(Scores::of(&matrix(&rows), &truth).dc_spectral, spectral);
        }
    }

    #[test]
    fn three_subjects_give_the_later_version_only() {
        let truth = matrix(&[[0.75, 0.30, 0.48], [0.30, 0.73, 0.31], [0.48, 0.31, 0.67]]);
        let good = matrix(&[[0.65, 0.38, 0.48], [0.30, 0.71, 0.29], [0.53, 0.31, 0.59]]);
        let scores = Scores::of(&good, &truth);
        assert_eq!((scores.dc, scores.dc_max), (None, None));
        close(scores.dc_spectral, 0.8616);
        close(scores.dc_frobenius, 0.8384);
        // boxes in another order are the same picture
        let turned: Matrix = good.iter().rev().cloned().collect();
        assert_eq!(Scores::of(&turned, &truth), scores);
    }

    #[test]
    fn another_number_of_boxes_scores_nothing() {
        let truth = matrix(&[[0.78, 0.28], [0.28, 0.77]]);
        let zero = Scores { dc: Some(0.0), dc_max: Some(0.0), dc_spectral: 0.0, dc_frobenius: 0.0 };
        assert_eq!(Scores::of(&vec![], &truth), zero);
        assert_eq!(Scores::of(&matrix(&[[0.9, 0.1]; 3]), &truth), zero);
        let one = matrix(&[[1.0]]);
        assert_eq!(Scores::of(&vec![], &one).dc, None);
        assert_eq!(Scores::of(&one, &one).dc_spectral, 1.0);
    }

    #[test]
    fn a_row_serves_one_subject() {
        // both columns want row 0: the second column takes what is left
        assert_eq!(assign(&matrix(&[[0.9, 0.9], [0.1, 0.2]])), [0, 1]);
        assert_eq!(assign(&matrix(&[[0.1, 0.9], [0.5, 0.2]])), [1, 0]);
        // of equals the first
        assert_eq!(assign(&matrix(&[[0.5, 0.5], [0.5, 0.5]])), [0, 1]);
    }

    #[test]
    fn a_mean_of_nothing_is_nothing() {
        assert_eq!(Scores::mean(&[]), None);
        let truth = matrix(&[[1.0, 0.0], [0.0, 1.0]]);
        let (good, none) = (Scores::of(&truth, &truth), Scores::of(&vec![], &truth));
        let mean = Scores::mean(&[good, none]).unwrap();
        assert_eq!((mean.dc, mean.dc_max, mean.dc_spectral), (Some(1.0), Some(1.0), 0.5));
    }
}
