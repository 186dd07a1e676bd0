//! Euclidean norm of the flat gradient, and clipping to a maximum.

pub mod cases;
mod cuda;

pub use cuda::{SQUARES_BYTES, Squares, squares_on};

use crate::device::cpu::wide;
use rayon::prelude::*;

const CHUNK: usize = 1 << 14;

/// The Euclidean norm of `grad`.
///
/// # Numerics
/// f64 sums of fixed chunks, each in sixteen parts, added in order: the same bits for every thread count.
pub fn norm(grad: &[f32]) -> f32 {
    let square = |c: &[f32]| {
        wide(
            #[inline(always)]
            || squares(c),
        )
    };
    let parts: Vec<f64> = grad.par_chunks(CHUNK).map(square).collect();
    parts.iter().sum::<f64>().sqrt() as f32
}

#[inline(always)]
fn squares(chunk: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 16];
    let mut parts = chunk.chunks_exact(lanes.len());
    for part in &mut parts {
        for (lane, g) in lanes.iter_mut().zip(part) {
            *lane += f64::from(*g) * f64::from(*g);
        }
    }
    let tail = parts.remainder().iter().map(|g| f64::from(*g) * f64::from(*g));
    lanes.into_iter().chain(tail).sum()
}

/// Scales `grad` so that its norm is at most `limit` and returns the norm it had.
///
/// `grad *= min(1, limit / (norm + 1e-6))`, as `torch.nn.utils.clip_grad_norm_`; a limit of 0 or
/// less does nothing.
pub fn clip(grad: &mut [f32], limit: f32) -> f32 {
    let norm = norm(grad);
    let factor = limit / (norm + 1e-6);
    if limit > 0.0 && factor < 1.0 {
        scale(grad, factor);
    }
    norm
}

/// `grad *= factor`.
pub fn scale(grad: &mut [f32], factor: f32) {
    grad.par_chunks_mut(CHUNK).for_each(|c| c.iter_mut().for_each(|g| *g *= factor));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clipped_norm_is_the_limit_and_the_old_norm_is_returned() {
        let mut g: Vec<f32> = (0..40_000).map(|i| (i as f32).cos()).collect();
        let before = g.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        assert!((f64::from(clip(&mut g, 1.0)) - before).abs() < 1e-3);
        assert!((norm(&g) - 1.0).abs() < 1e-5, "{}", norm(&g));
        let kept = g.clone();
        clip(&mut g, 2.0);
        assert_eq!(g, kept);
    }

    #[test]
    fn the_thread_count_does_not_change_a_bit() {
        let g: Vec<f32> = (0..100_001).map(|i| (i as f32 * 0.7).sin()).collect();
        let on = |n| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
            pool.install(|| norm(&g)).to_bits()
        };
        assert_eq!(on(1), on(3));
    }
}
