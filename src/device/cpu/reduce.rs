//! Reductions of slices in a fixed order, in shapes that the compiler turns into vector code.

/// Independent partial results of a reduction: two vectors of 16.
const LANES: usize = 32;

/// `sum_i f(a[i], b[i])`, in a fixed order.
#[inline(always)]
pub fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (mut a, mut b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (a, b) in (&mut a).zip(&mut b) {
        for i in 0..LANES {
            lanes[i] += f(a[i], b[i]);
        }
    }
    let tail: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| f(*a, *b)).sum();
    tail + fold(lanes)
}

/// `sum_i f(a[i])`, in a fixed order.
#[inline(always)]
pub fn sum(a: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    sum2(a, a, |a, _| f(a))
}

#[inline(always)]
fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut n = LANES;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
    }
    lanes[0]
}

/// The largest element, `-inf` of nothing.
#[inline(always)]
pub fn max(a: &[f32]) -> f32 {
    let larger = |m: f32, v: f32| if v > m { v } else { m };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = a.chunks_exact(LANES);
    for c in &mut chunks {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], c[i]);
        }
    }
    let tail = chunks.remainder().iter().fold(f32::NEG_INFINITY, |m, v| larger(m, *v));
    lanes.iter().fold(tail, |m, v| larger(m, *v))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reductions_see_every_element() {
        for n in [0, 1, 31, 32, 33, 100] {
            let a: Vec<f32> = (0..n).map(|i| (i * 37 % 101) as f32).collect();
            assert_eq!(sum(&a, |v| v), a.iter().sum::<f32>());
            assert_eq!(max(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
