//! Reference.

use crate::{
    device::cpu::for_chunks,
    op::{Backward, Forward, GradMode},
    tensor::{Spec, image::taps},
};

/// `(H, W, h, w, C)`.
fn sizes(x: &Spec, y: &Spec) -> (usize, usize, usize, usize, usize) {
    (x.dims[1], x.dims[2], y.dims[1], y.dims[2], x.dims[3])
}

pub(super) fn nearest(mut io: Forward<'_>) {
    let (hh, ww, h, w, c) = sizes(&io.specs[0], io.out_spec);
    let x = io.ins[0].f32();
    if w * c == 0 {
        return;
    }
    for_chunks(io.out.f32(), w * c, |at, chunk| {
        for (r, row) in chunk.chunks_exact_mut(w * c).enumerate() {
            let line = at / (w * c) + r;
            let from = (line / h * hh + line % h * hh / h) * ww * c;
            for (j, y) in row.chunks_exact_mut(c).enumerate() {
                let p = from + j * ww / w * c;
                y.copy_from_slice(&x[p..p + c]);
            }
        }
    });
}

/// Output indices that read input index `i`: `i = floor(o H / h)`.
fn readers(i: usize, source: usize, target: usize) -> std::ops::Range<usize> {
    (i * target).div_ceil(source)..((i + 1) * target).div_ceil(source)
}

pub(super) fn nearest_backward(mut io: Backward<'_>) {
    let (hh, ww, h, w, c) = sizes(&io.specs[0], io.out_spec);
    let (dy, mode) = (io.d_out.f32(), io.d_ins[0].mode);
    if mode == GradMode::Skip || ww * c == 0 {
        return;
    }
    for_chunks(io.d_ins[0].buf.f32(), ww * c, |at, chunk| {
        if mode == GradMode::Overwrite {
            chunk.fill(0.0);
        }
        for (r, row) in chunk.chunks_exact_mut(ww * c).enumerate() {
            let line = at / (ww * c) + r;
            let picture = line / hh * h;
            for oi in readers(line % hh, hh, h) {
                for (j, dx) in row.chunks_exact_mut(c).enumerate() {
                    for oj in readers(j, ww, w) {
                        let p = ((picture + oi) * w + oj) * c;
                        dx.iter_mut().zip(&dy[p..p + c]).for_each(|(d, v)| *d += v);
                    }
                }
            }
        }
    });
}

pub(super) fn bilinear(mut io: Forward<'_>) {
    let (hh, ww, h, w, c) = sizes(&io.specs[0], io.out_spec);
    let x = io.ins[0].f32();
    if w * c == 0 {
        return;
    }
    for_chunks(io.out.f32(), w * c, |at, chunk| {
        for (r, row) in chunk.chunks_exact_mut(w * c).enumerate() {
            let line = at / (w * c) + r;
            let (i0, i1, fi) = taps(line % h, h, hh);
            let base = line / h * hh;
            for (j, y) in row.chunks_exact_mut(c).enumerate() {
                let (j0, j1, fj) = taps(j, w, ww);
                let read = |i: usize, j: usize, k: usize| x[((base + i) * ww + j) * c + k];
                for (k, y) in y.iter_mut().enumerate() {
                    let top = read(i0, j0, k) * (1.0 - fj) + read(i0, j1, k) * fj;
                    let low = read(i1, j0, k) * (1.0 - fj) + read(i1, j1, k) * fj;
                    *y = top * (1.0 - fi) + low * fi;
                }
            }
        }
    });
}

pub(super) fn bilinear_backward(mut io: Backward<'_>) {
    let (hh, ww, h, w, c) = sizes(&io.specs[0], io.out_spec);
    let (dy, mode) = (io.d_out.f32(), io.d_ins[0].mode);
    if mode == GradMode::Skip {
        return;
    }
    let dx = io.d_ins[0].buf.f32();
    if mode == GradMode::Overwrite {
        dx.fill(0.0);
    }
    for (line, row) in dy.chunks_exact((w * c).max(1)).enumerate() {
        let (i0, i1, fi) = taps(line % h, h, hh);
        let base = line / h * hh;
        for (j, dy) in row.chunks_exact(c).enumerate() {
            let (j0, j1, fj) = taps(j, w, ww);
            for (i, wi) in [(i0, 1.0 - fi), (i1, fi)] {
                for (j, wj) in [(j0, 1.0 - fj), (j1, fj)] {
                    let p = ((base + i) * ww + j) * c;
                    dx[p..p + c].iter_mut().zip(dy).for_each(|(d, v)| *d += wi * wj * v);
                }
            }
        }
    }
}
