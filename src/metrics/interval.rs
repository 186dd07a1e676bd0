//! How sure a mean over pictures is.

use crate::tensor::philox::{Stream, streams};

/// Draws of as many pictures as there are.
const DRAWS: usize = 2000;

/// The mean of `values` and its 95 % interval, by drawing the pictures again with replacement (the percentiles of the
/// means drawn); the same numbers give the same interval. `None` of nothing.
pub fn mean_and_interval(values: &[f64]) -> Option<(f64, [f64; 2])> {
    let n = values.len();
    if n == 0 {
        return None;
    }
    let mut random = Stream::new(0, streams::INTERVAL);
    let mut draw = || (0..n).map(|_| values[random.below(n)]).sum::<f64>() / n as f64;
    let mut means: Vec<f64> = (0..DRAWS).map(|_| draw()).collect();
    means.sort_by(f64::total_cmp);
    let mean = values.iter().sum::<f64>() / n as f64;
    Some((mean, [means[DRAWS / 40], means[DRAWS - 1 - DRAWS / 40]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_mean_is_that_of_the_normal_distribution() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 20)).collect();
        let (mean, [low, high]) = mean_and_interval(&values).unwrap();
        // deviation sqrt((20^2 - 1) / 12) = 5.766, of the mean of 400 a twentieth
        let half = 1.96 * 5.766 / 20.0;
        assert_eq!(mean, 9.5);
        assert!((mean - low - half).abs() < 0.06 && (high - mean - half).abs() < 0.06);
        assert_eq!(mean_and_interval(&values), Some((mean, [low, high])));
    }

    #[test]
    fn one_picture_is_as_sure_as_none() {
        assert_eq!(mean_and_interval(&[0.25]), Some((0.25, [0.25, 0.25])));
        assert_eq!(mean_and_interval(&[]), None);
    }
}
