//! Medians, and how sure a difference between two series of times is.

use crate::tensor::philox::Stream;

/// The middle value; NaN of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// The 95 % interval of the median, by drawing again; NaN of nothing.
pub fn interval(values: &[f64]) -> (f64, f64) {
    const DRAWS: usize = 1000;
    let n = values.len();
    if n == 0 {
        return (f64::NAN, f64::NAN);
    }
    let mut random = Stream::new(2, n as u64);
    let mut medians: Vec<f64> = (0..DRAWS)
        .map(|_| median(&(0..n).map(|_| values[random.below(n)]).collect::<Vec<_>>()))
        .collect();
    medians.sort_by(f64::total_cmp);
    (medians[DRAWS / 40], medians[DRAWS - 1 - DRAWS / 40])
}

/// How much longer the first series takes than the second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Median of the first over median of the second.
    pub ratio: f64,
    /// Its 95 % interval.
    pub low: f64,
    /// Its 95 % interval.
    pub high: f64,
}

impl Comparison {
    /// Compares two series that were taken in turns: pairs are drawn together, so that what disturbed both
    /// (clocks, neighbours) does not count as noise.
    pub fn of(a: &[f64], b: &[f64]) -> Self {
        const DRAWS: usize = 2000;
        let n = a.len().min(b.len());
        let ratio = median(a) / median(b);
        if n == 0 {
            return Self { ratio, low: ratio, high: ratio };
        }
        let mut random = Stream::new(1, n as u64);
        let mut ratios: Vec<f64> = (0..DRAWS)
            .map(|_| {
                let drawn: Vec<usize> = (0..n).map(|_| random.below(n)).collect();
                let of = |s: &[f64]| median(&drawn.iter().map(|i| s[*i]).collect::<Vec<_>>());
                of(a) / of(b)
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        Self { ratio, low: ratios[DRAWS / 40], high: ratios[DRAWS - 1 - DRAWS / 40] }
    }

    /// In words, with the names of the two.
    pub fn verdict(&self, a: &str, b: &str) -> String {
        let percent = |x: f64| format!("{:.1} %", x * 100.0);
        let range = |x: f64, y: f64| format!("95 %: {} to {}", percent(x), percent(y));
        if self.low > 1.0 {
            let gain = |r: f64| 1.0 - 1.0 / r;
            let range = range(gain(self.low), gain(self.high));
            format!("{b} takes {} less time than {a} ({range})", percent(gain(self.ratio)))
        } else if self.high < 1.0 {
            let range = range(1.0 - self.high, 1.0 - self.low);
            format!("{a} takes {} less time than {b} ({range})", percent(1.0 - self.ratio))
        } else {
            let range = range(self.low - 1.0, self.high - 1.0);
            format!("no difference shown between {a} and {b} ({range})")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_interval_of_a_median_holds_it_and_shrinks_with_the_spread() {
        let wide: Vec<f64> = (0..31u8).map(f64::from).collect();
        let (low, high) = interval(&wide);
        assert!(low < median(&wide) && median(&wide) < high && high - low < 20.0, "{low} {high}");
        assert_eq!(interval(&[2.0; 9]), (2.0, 2.0));
        assert!(interval(&[]).0.is_nan());
    }

    #[test]
    fn a_clear_difference_is_found_and_noise_is_not() {
        let mut random = Stream::new(5, 0);
        let mut noisy = |mean: f64| -> Vec<f64> {
            (0..40).map(|_| mean * (1.0 + 0.02 * (f64::from(random.uniform()) - 0.5))).collect()
        };
        let (a, b, c) = (noisy(1.0), noisy(1.1), noisy(1.0));
        let different = Comparison::of(&a, &b);
        assert!(different.high < 0.95, "{different:?}");
        assert!(different.verdict("old", "new").starts_with("old takes 9"), "{different:?}");
        assert!(Comparison::of(&b, &a).verdict("old", "new").starts_with("new takes 9"));
        let same = Comparison::of(&a, &c);
        assert!(same.low < 1.0 && same.high > 1.0, "{same:?}");
        assert!(same.verdict("old", "new").starts_with("no difference"));
    }
}
