//! Position tables at other picture sizes: torch's bicubic rule as a matrix.
//!
//! The resized table is a fixed linear map of the learned one, so it is recorded as a product with a constant
//! matrix, and its gradient comes with it.

use super::Positions;

/// Side of cubic convolution's support, in source pixels to each side.
const SUPPORT: f64 = 2.0;

/// Cubic convolution at distance `x`, with the parameter `a`.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    match x {
        x if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * a,
        _ => 0.0,
    }
}

/// Weights `[to, from]` of one axis; `scale` is the source step of one target pixel.
///
/// Without antialiasing `a = -0.75` and pixels outside repeat the border; with it `a = -0.5`, the kernel grows with
/// `scale`, and what lies outside is left out.
fn axis(from: usize, to: usize, scale: f64, antialias: bool) -> Vec<f64> {
    let mut weights = vec![0.0; to * from];
    for (i, row) in weights.chunks_exact_mut(from.max(1)).enumerate() {
        let centre = scale * (i as f64 + 0.5);
        if !antialias {
            let at = centre - 0.5;
            let floor = at.floor();
            for tap in -1..=2i32 {
                let near = (floor + f64::from(tap)).clamp(0.0, from as f64 - 1.0);
                row[near as usize] += cubic(at - floor - f64::from(tap), -0.75);
            }
            continue;
        }
        let stretch = scale.max(1.0);
        let reach = SUPPORT * stretch;
        let first = (centre - reach + 0.5).floor().max(0.0) as usize;
        let end = ((centre + reach + 0.5).floor().max(0.0) as usize).min(from);
        for (j, w) in row.iter_mut().enumerate().take(end).skip(first) {
            *w = cubic((j as f64 - centre + 0.5) / stretch, -0.5);
        }
        let total: f64 = row.iter().sum();
        row.iter_mut().for_each(|w| *w /= total);
    }
    weights
}

/// The matrix `[1 + registers + h w, 1 + H W]` that turns a table of a class row and `H x W` patch rows into one for
/// `registers` more tokens (without positions) and `h x w` patches.
///
/// # Source
/// torch 2.9, `upsample_bicubic2d` and `_upsample_bicubic2d_aa`; the rules of [`Positions`].
pub fn resized(rule: Positions, from: [usize; 2], to: [usize; 2], registers: usize) -> Vec<f32> {
    let cols = 1 + from[0] * from[1];
    let first = 1 + registers;
    let mut out = vec![0.0; (first + to[0] * to[1]) * cols];
    out[0] = 1.0;
    let scale = |k: usize| match rule {
        // torch takes the inverse of the given factor, in single precision.
        Positions::Factor { .. } if to != from => {
            f64::from((1.0 / ((to[k] as f64 + 0.1) / from[k] as f64)) as f32)
        }
        _ => f64::from(from[k] as f32 / to[k] as f32),
    };
    let weights = |k: usize| match rule.antialias() {
        // With antialiasing torch passes over an axis that keeps its extent, whatever the factor.
        true if to[k] == from[k] => axis(from[k], to[k], 1.0, true),
        antialias => axis(from[k], to[k], scale(k), antialias),
    };
    let (rows, columns) = (weights(0), weights(1));
    for y in 0..to[0] {
        for x in 0..to[1] {
            let line = &mut out[(first + y * to[1] + x) * cols..][1..cols];
            for (v, cells) in line.chunks_exact_mut(from[1].max(1)).enumerate() {
                let across = &columns[x * from[1]..(x + 1) * from[1]];
                for (cell, w) in cells.iter_mut().zip(across) {
                    *cell = (rows[y * from[0] + v] * w) as f32;
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_native_size_is_the_table_itself() {
        for rule in [Positions::Size { antialias: true }, Positions::Factor { antialias: false }] {
            let m = resized(rule, [3, 2], [3, 2], 0);
            for (i, v) in m.iter().enumerate() {
                assert_eq!(*v, if i % 8 == 0 { 1.0 } else { 0.0 }, "{rule:?} {i}");
            }
        }
    }

    #[test]
    fn registers_have_no_position_and_every_patch_row_sums_to_one() {
        for antialias in [false, true] {
            let m = resized(Positions::Size { antialias }, [4, 4], [3, 7], 2);
            for (r, row) in m.chunks(17).enumerate() {
                let want = if r == 1 || r == 2 { 0.0 } else { 1.0 };
                assert!((row.iter().sum::<f32>() - want).abs() < 1e-6, "row {r}");
                assert!(r == 0 || row[0] == 0.0);
            }
        }
    }

    #[test]
    fn a_factor_is_not_a_size() {
        let of = |rule| resized(rule, [4, 4], [6, 6], 0);
        let (size, factor) =
            (Positions::Size { antialias: false }, Positions::Factor { antialias: false });
        assert_ne!(of(size), of(factor));
    }
}
