//! How well a metric agrees with people: rank correlation and the area under the ROC curve (methods.md §1.10).

/// Spearman's rank correlation: Pearson's correlation of the ranks, equals sharing their mean rank. `None` for fewer than two
/// values or when all of one side are equal.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    let (x, y) = (ranks(x), ranks(y));
    let (n, count) = (x.len().min(y.len()), x.len().min(y.len()) as f64);
    let mean = |v: &[f64]| v[..n].iter().sum::<f64>() / count;
    let (mx, my) = (mean(&x), mean(&y));
    let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        x.iter().zip(&y).map(|(a, b)| f(a - mx, b - my)).sum()
    };
    let (xy, xx, yy) = (sum(&|a, b| a * b), sum(&|a, _| a * a), sum(&|_, b| b * b));
    (n > 1 && xx > 0.0 && yy > 0.0).then(|| xy / (xx * yy).sqrt())
}

/// The probability that a positive scores above a negative, equals counting half. `None` without both kinds.
pub fn auroc(scores: &[f64], positive: &[bool]) -> Option<f64> {
    let ranks = ranks(scores);
    let count = positive.iter().filter(|p| **p).count();
    let others = positive.len() - count;
    let sum: f64 = ranks.iter().zip(positive).filter(|(_, p)| **p).map(|(r, _)| r).sum();
    let least = (count * (count + 1)) as f64 / 2.0;
    (count > 0 && others > 0).then(|| (sum - least) / (count * others) as f64)
}

/// Ranks from 1; equals share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    while first < order.len() {
        let equal = order[first..].iter().take_while(|i| values[**i] == values[order[first]]);
        let end = first + equal.count().max(1);
        let rank = (first + 1 + end) as f64 / 2.0;
        order[first..end].iter().for_each(|i| ranks[*i] = rank);
        first = end;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_share_their_rank() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert_eq!(ranks(&[5.0; 3]), [2.0; 3]);
    }

    #[test]
    fn spearman_is_that_of_scipy() {
        // scipy.stats.spearmanr([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]) = 0.8207826816681233
        let r = spearman(&[1.0, 2.0, 3.0, 4.0, 5.0], &[5.0, 6.0, 7.0, 8.0, 7.0]).unwrap();
        assert!((r - 0.820_782_681_668_123_3).abs() < 1e-12, "{r}");
        assert_eq!(spearman(&[1.0, 2.0], &[3.0, 3.0]), None);
        assert_eq!(spearman(&[1.0], &[1.0]), None);
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[9.0, 4.0, 1.0]), Some(-1.0));
    }

    #[test]
    fn auroc_counts_pairs_and_halves_of_equals() {
        let scores = [0.1, 0.4, 0.35, 0.8];
        // sklearn's example: 0.75
        assert_eq!(auroc(&scores, &[false, false, true, true]), Some(0.75));
        assert_eq!(auroc(&[1.0; 4], &[true, false, true, false]), Some(0.5));
        assert_eq!(auroc(&scores, &[true; 4]), None);
        assert_eq!(auroc(&[], &[]), None);
    }
}
