//! The element-wise steps between the matrix products of one block.

use crate::device::cpu::{exp, max};

/// Elements from one row of a block of `cols` scores to the next: an odd number of cache lines.
///
/// With a power of two, the rows fall into the same few sets of the cache: the product of the scores
/// was eight times slower with rows of 512.
pub(super) fn row_stride(cols: usize) -> usize {
    cols.next_multiple_of(16) | 16
}

/// How many of the block's keys (`cols` from `j0`) query `i` may see.
#[inline(always)]
pub(super) fn seen(causal: bool, i: usize, j0: usize, cols: usize) -> usize {
    if causal { (i + 1).saturating_sub(j0).min(cols) } else { cols }
}

/// One step of the running softmax of a query.
///
/// `scores` become probabilities up to the factor that `sum` collects; `top` is the running maximum,
/// and `out`, the row collected so far, is rescaled when that maximum rises.
#[inline(always)]
pub(super) fn soften(
    scores: &mut [f32],
    seen: usize,
    top: &mut f32,
    sum: &mut f32,
    out: &mut [f32],
) {
    let (scores, hidden) = scores.split_at_mut(seen);
    hidden.fill(0.0);
    let here = max(scores);
    if here > *top {
        let factor = exp(*top - here);
        if *sum != 0.0 {
            out.iter_mut().for_each(|o| *o *= factor);
        }
        *sum *= factor;
        *top = here;
    }
    *sum += exp_shifted(scores, *top);
}

/// `s = exp(s - shift)` in place; the sum.
#[inline(always)]
fn exp_shifted(s: &mut [f32], shift: f32) -> f32 {
    const LANES: usize = 32;
    let mut lanes = [0.0f32; LANES];
    let mut chunks = s.chunks_exact_mut(LANES);
    for c in &mut chunks {
        for i in 0..LANES {
            c[i] = exp(c[i] - shift);
            lanes[i] += c[i];
        }
    }
    let mut total = 0.0;
    for v in chunks.into_remainder() {
        *v = exp(*v - shift);
        total += *v;
    }
    total + lanes.iter().sum::<f32>()
}

/// Scores of a query become probabilities again; without `d_prob` nothing else.
///
/// `p = exp(s - lse)`, `ds = p (dp - delta)`.
#[inline(always)]
pub(super) fn harden(
    scores: &mut [f32],
    d_prob: Option<&mut [f32]>,
    seen: usize,
    (lse, delta): (f32, f32),
) {
    let (visible, hidden) = scores.split_at_mut(seen);
    hidden.fill(0.0);
    let Some(d_prob) = d_prob else {
        return visible.iter_mut().for_each(|s| *s = exp(*s - lse));
    };
    let (d_visible, d_hidden) = d_prob.split_at_mut(seen);
    d_hidden.fill(0.0);
    for (s, d) in visible.iter_mut().zip(d_visible) {
        let p = exp(*s - lse);
        *s = p;
        *d = p * (*d - delta);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_softmax_in_pieces_is_the_softmax() {
        let scores: Vec<f32> = (0..90).map(|i| ((i * 53) % 31) as f32 * 3.0 - 40.0).collect();
        let (mut top, mut sum, mut out) = (f32::NEG_INFINITY, 0.0, [0.0f32; 1]);
        for piece in scores.chunks(33) {
            let mut p = piece.to_vec();
            soften(&mut p, piece.len(), &mut top, &mut sum, &mut out);
            // the value of every key is 1: the collected row is the sum
            out[0] += p.iter().sum::<f32>();
        }
        let want: f64 = scores.iter().map(|s| f64::from(*s).exp()).sum();
        assert!((f64::from(top) + f64::from(sum).ln() - want.ln()).abs() < 1e-5);
        assert!((out[0] / sum - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_causal_block_hides_later_keys() {
        assert_eq!((seen(true, 0, 0, 8), seen(true, 20, 16, 8), seen(true, 3, 16, 8)), (1, 5, 0));
        assert_eq!((seen(true, 90, 16, 8), seen(false, 0, 16, 8)), (8, 8));
    }
}
