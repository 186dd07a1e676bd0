//! Reference.

use super::{EPS, tokens};
use crate::op::{Backward, Forward, Grad};

pub(super) fn mean(mut io: Forward<'_>) {
    let (x, l, c) = (io.ins[0].f32(), tokens(&io.specs[0]), io.out_spec.last());
    if x.is_empty() {
        return;
    }
    let mut sums = vec![0f64; c];
    for (y, x) in io.out.f32().chunks_exact_mut(c).zip(x.chunks_exact(l * c)) {
        sums.fill(0.0);
        for row in x.chunks_exact(c) {
            sums.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v));
        }
        y.iter_mut().zip(&sums).for_each(|(y, s)| *y = (s / l as f64) as f32);
    }
}

pub(super) fn mean_backward(mut io: Backward<'_>) {
    let (dy, l, c) = (io.d_out.f32(), tokens(&io.specs[0]), io.out_spec.last());
    let Some(mut g) = io.d_ins.pop().filter(Grad::wanted) else { return };
    if dy.is_empty() {
        return;
    }
    let add = g.beta() != 0.0;
    for (dx, dy) in g.buf.f32().chunks_exact_mut(l * c).zip(dy.chunks_exact(c)) {
        for row in dx.chunks_exact_mut(c) {
            for (d, dy) in row.iter_mut().zip(dy) {
                *d = dy / l as f32 + if add { *d } else { 0.0 };
            }
        }
    }
}

/// What one pair of rows has in common.
struct Pair {
    /// Guarded lengths.
    norms: [f32; 2],
    /// Whether each is longer than the guard.
    live: [bool; 2],
    cosine: f64,
}

impl Pair {
    fn of(a: &[f32], b: &[f32]) -> Self {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let norms = [dot(a, a).sqrt(), dot(b, b).sqrt()];
        let [long_a, long_b] = norms.map(|n| n.max(EPS));
        Self {
            norms: [long_a as f32, long_b as f32],
            live: norms.map(|n| n > EPS),
            cosine: dot(a, b) / (long_a * long_b),
        }
    }
}

pub(super) fn cosine(mut io: Forward<'_>) {
    let (n, c) = (io.specs[0].dims[0], io.specs[0].last());
    let (a, b) = (io.ins[0].f32(), io.ins[1].f32());
    let row = |i: usize| i * c..(i + 1) * c;
    let sum: f64 = (0..n).map(|i| Pair::of(&a[row(i)], &b[row(i)]).cosine).sum();
    io.out.f32()[0] = (sum / n as f64) as f32;
}

pub(super) fn cosine_backward(io: Backward<'_>) {
    let (n, c) = (io.specs[0].dims[0], io.specs[0].last());
    let ins = [io.ins[0].f32(), io.ins[1].f32()];
    let share = io.d_out.f32()[0] / n as f32;
    for (own, mut g) in io.d_ins.into_iter().enumerate().filter(|(_, g)| g.wanted()) {
        let add = g.beta() != 0.0;
        let d = g.buf.f32();
        for i in 0..n {
            let rows = ins.map(|x| &x[i * c..(i + 1) * c]);
            let pair = Pair::of(rows[0], rows[1]);
            let factor = if pair.live[own] { share / pair.norms[own] } else { 0.0 };
            let (norm, other_norm) = (pair.norms[own], pair.norms[1 - own]);
            let both = rows[own].iter().zip(rows[1 - own]);
            for (d, (x, other)) in d[i * c..(i + 1) * c].iter_mut().zip(both) {
                let slope = factor * (other / other_norm - pair.cosine as f32 * (x / norm));
                *d = slope + if add { *d } else { 0.0 };
            }
        }
    }
}
