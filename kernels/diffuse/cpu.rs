//! The reference: two factors a sample, then a linear combination.

use super::Noising;
use crate::op::{Backward, Forward};

/// The factors on `z` and on `eps` at timestep `t`.
fn factors(mix: Noising, table: &[f32], t: i32) -> (f32, f32) {
    let last = table.len().saturating_sub(1);
    let abar = table[usize::try_from(t).unwrap_or(0).min(last)];
    let (signal, noise) = (abar.sqrt(), (1.0 - abar).sqrt());
    match mix {
        Noising::Noisy => (signal, noise),
        Noising::Velocity => (-noise, signal),
    }
}

pub(super) fn forward(mix: Noising, mut io: Forward<'_>) {
    let (z, eps) = (io.ins[0].f32(), io.ins[1].f32());
    let (t, table) = (io.ins[2].i32(), io.ins[3].f32());
    let each = z.len() / t.len().max(1);
    if each == 0 {
        return;
    }
    let samples = z.chunks_exact(each).zip(eps.chunks_exact(each)).zip(t);
    for (out, ((z, eps), t)) in io.out.f32().chunks_exact_mut(each).zip(samples) {
        let (a, b) = factors(mix, table, *t);
        for ((o, z), e) in out.iter_mut().zip(z).zip(eps) {
            *o = a * z + b * e;
        }
    }
}

pub(super) fn backward(mix: Noising, mut io: Backward<'_>) {
    let (t, table, d_out) = (io.ins[2].i32(), io.ins[3].f32(), io.d_out.f32());
    let each = d_out.len() / t.len().max(1);
    if each == 0 {
        return;
    }
    for (which, d) in io.d_ins.iter_mut().take(2).enumerate() {
        if !d.wanted() {
            continue;
        }
        let keep = d.beta();
        let samples = d_out.chunks_exact(each).zip(t);
        for (d, (g, t)) in d.buf.f32().chunks_exact_mut(each).zip(samples) {
            let (a, b) = factors(mix, table, *t);
            let f = if which == 0 { a } else { b };
            for (d, g) in d.iter_mut().zip(g) {
                *d = if keep == 0.0 { f * g } else { *d + f * g };
            }
        }
    }
}
