//! The reference, in chunks over the cores.

use super::{AdamW, StepState};
use crate::device::cpu::wide;
use rayon::prelude::*;

const CHUNK: usize = 1 << 14;

pub(super) fn step(
    settings: &AdamW,
    state: StepState,
    master: &mut [f32],
    grad: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    let AdamW { beta1, beta2, eps, weight_decay } = *settings;
    let t = i32::try_from(state.step + 1).unwrap_or(i32::MAX);
    let correction = |beta: f32| 1.0 - f64::from(beta).powi(t);
    let rate = f64::from(state.learning_rate);
    let size = (rate / correction(beta1)) as f32;
    let root = correction(beta2).sqrt() as f32;
    let shrink = (1.0 - rate * f64::from(weight_decay)) as f32;
    let moments = first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK));
    let weights = master.par_chunks_mut(CHUNK).zip(grad.par_chunks(CHUNK));
    weights.zip(moments).for_each(|((p, g), (m, v))| {
        wide(
            #[inline(always)]
            || {
                for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                    *p *= shrink;
                    *m += (g - *m) * (1.0 - beta1);
                    *v = beta2 * *v + (1.0 - beta2) * g * g;
                    *p -= size * (*m / (v.sqrt() / root + eps));
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three steps of `torch.optim.AdamW([1.0, -2.0], lr=0.1, weight_decay=0.01)` on gradients
    /// `(0.5, -1) * k`.
    #[test]
    fn three_steps_equal_torch() {
        let (mut p, mut m, mut v) = (vec![1.0f32, -2.0], vec![0.0; 2], vec![0.0; 2]);
        let settings = AdamW { weight_decay: 0.01, ..AdamW::default() };
        for (step, k) in [1.0f32, -2.0, 0.25].into_iter().enumerate() {
            let state = StepState { step: step as u64, learning_rate: 0.1 };
            super::step(&settings, state, &mut p, &[0.5 * k, -k], &mut m, &mut v);
        }
        // by hand in double precision
        let mut want = [1.0f64, -2.0];
        for (i, w) in want.iter_mut().enumerate() {
            let (mut m, mut v) = (0f64, 0f64);
            for (t, k) in [1.0f64, -2.0, 0.25].into_iter().enumerate() {
                let g = [0.5, -1.0][i] * k;
                *w *= 1.0 - 0.1 * 0.01;
                m = 0.9 * m + 0.1 * g;
                v = 0.999 * v + 0.001 * g * g;
                let t = t as i32 + 1;
                let (a, b) = (m / (1.0 - 0.9f64.powi(t)), v / (1.0 - 0.999f64.powi(t)));
                *w -= 0.1 * a / (b.sqrt() + 1e-8);
            }
        }
        for (p, w) in p.iter().zip(want) {
            assert!((f64::from(*p) - w).abs() < 1e-6, "{p} {w}");
        }
    }

    #[test]
    fn chunks_do_not_change_the_result() {
        let n = 2 * CHUNK + 5;
        let g: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
        let (mut p, mut m, mut v) = (vec![0.5; n], vec![0.1; n], vec![0.2; n]);
        let state = StepState { step: 6, learning_rate: 1e-2 };
        super::step(&AdamW::default(), state, &mut p, &g, &mut m, &mut v);
        for i in [0, CHUNK - 1, CHUNK, n - 1] {
            let (mut q, mut a, mut b) = ([0.5], [0.1], [0.2]);
            super::step(&AdamW::default(), state, &mut q, &g[i..=i], &mut a, &mut b);
            assert_eq!((q[0].to_bits(), a[0], b[0]), (p[i].to_bits(), m[i], v[i]));
        }
    }
}
