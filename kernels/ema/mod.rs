//! Exponential moving average of the trainables.

use crate::device::cpu::wide;
use rayon::prelude::*;

/// `average = decay average + (1 - decay) value`, element by element.
pub fn update(average: &mut [f32], value: &[f32], decay: f32) {
    const CHUNK: usize = 1 << 14;
    average.par_chunks_mut(CHUNK).zip(value.par_chunks(CHUNK)).for_each(|(a, v)| {
        wide(
            #[inline(always)]
            || a.iter_mut().zip(v).for_each(|(a, v)| *a += (v - *a) * (1.0 - decay)),
        );
    });
}

/// The decay of step `step` (from 0): `min(decay, (1 + step) / (10 + step))`, so that the start is forgotten quickly.
pub fn warm_decay(decay: f32, step: u64) -> f32 {
    decay.min((1.0 + step as f32) / (10.0 + step as f32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_is_approached_geometrically() {
        let mut a = vec![0.0; 3];
        for _ in 0..10 {
            update(&mut a, &[1.0; 3], 0.9);
        }
        assert!((a[2] - (1.0 - 0.9f32.powi(10))).abs() < 1e-6);
        assert_eq!(warm_decay(0.999, 0), 0.1);
        assert_eq!(warm_decay(0.9, 1000), 0.9);
    }
}
