//! The reference: one pixel after the other.

use crate::op::{Backward, Forward};

const LOG_VARIANCE: std::ops::RangeInclusive<f32> = -30.0..=20.0;

fn deviation(log_variance: f32) -> f32 {
    (0.5 * log_variance.clamp(*LOG_VARIANCE.start(), *LOG_VARIANCE.end())).exp()
}

pub(super) fn forward(scale: f32, mut io: Forward<'_>) {
    let c = io.out_spec.last();
    if c == 0 {
        return;
    }
    let (moments, eps) = (io.ins[0].f32(), io.ins[1].f32());
    let pixels = moments.chunks_exact(2 * c).zip(eps.chunks_exact(c));
    for (out, (m, e)) in io.out.f32().chunks_exact_mut(c).zip(pixels) {
        let (mean, log_variance) = m.split_at(c);
        for i in 0..c {
            out[i] = scale * (mean[i] + deviation(log_variance[i]) * e[i]);
        }
    }
}

pub(super) fn backward(scale: f32, mut io: Backward<'_>) {
    let c = io.out_spec.last();
    if c == 0 {
        return;
    }
    let (moments, eps, d_out) = (io.ins[0].f32(), io.ins[1].f32(), io.d_out.f32());
    let [d_moments, d_eps] = io.d_ins.as_mut_slice() else {
        unreachable!("posterior: infer admits two inputs")
    };
    let put =
        |old: &mut f32, keep: f32, new: f32| *old = if keep == 0.0 { new } else { *old + new };
    if d_moments.wanted() {
        let keep = d_moments.beta();
        let pixels =
            moments.chunks_exact(2 * c).zip(eps.chunks_exact(c)).zip(d_out.chunks_exact(c));
        for (d, ((m, e), g)) in d_moments.buf.f32().chunks_exact_mut(2 * c).zip(pixels) {
            let (d_mean, d_log) = d.split_at_mut(c);
            for i in 0..c {
                let log_variance = m[c + i];
                let inside = LOG_VARIANCE.contains(&log_variance);
                let slope = if inside { 0.5 * deviation(log_variance) * e[i] } else { 0.0 };
                put(&mut d_mean[i], keep, scale * g[i]);
                put(&mut d_log[i], keep, scale * g[i] * slope);
            }
        }
    }
    if d_eps.wanted() {
        let keep = d_eps.beta();
        let pixels = moments.chunks_exact(2 * c).zip(d_out.chunks_exact(c));
        for (d, (m, g)) in d_eps.buf.f32().chunks_exact_mut(c).zip(pixels) {
            for i in 0..c {
                put(&mut d[i], keep, scale * g[i] * deviation(m[c + i]));
            }
        }
    }
}
