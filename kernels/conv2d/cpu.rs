//! CPU: products over patches that are gathered by blocks of output positions.

use super::Shape;
use crate::{
    device::cpu::{Mat, MatMut, Threads, add_row_sums, fill_rows, matmul},
    op::{Backward, Forward},
};

/// Output positions whose patches are gathered at once.
const BLOCK: usize = 256;

fn patches_bytes(s: &Shape) -> usize {
    let patch = s.kh.saturating_mul(s.kw).saturating_mul(s.c);
    patch.saturating_mul(BLOCK).saturating_mul(4)
}

pub(super) fn forward_scratch(s: &Shape) -> usize {
    patches_bytes(s)
}

pub(super) fn backward_scratch(s: &Shape) -> usize {
    patches_bytes(s)
}

/// Calls `at(patch, tap, source pixel or None)` for the output positions from `first`.
fn each_tap(
    s: &Shape,
    first: usize,
    count: usize,
    mut at: impl FnMut(usize, usize, Option<usize>),
) {
    for p in 0..count {
        let (row, j) = ((first + p) / s.ow, (first + p) % s.ow);
        let (image, i) = (row / s.oh, row % s.oh);
        for u in 0..s.kh {
            let y = (i * s.stride + u).checked_sub(s.top).filter(|y| *y < s.h);
            for v in 0..s.kw {
                let x = (j * s.stride + v).checked_sub(s.left).filter(|x| *x < s.w);
                let pixel = y.zip(x).map(|(y, x)| (image * s.h + y) * s.w + x);
                at(p, u * s.kw + v, pixel);
            }
        }
    }
}

fn gather(s: &Shape, x: &[f32], first: usize, count: usize, patches: &mut [f32]) {
    let taps = s.kh * s.kw;
    each_tap(s, first, count, |p, tap, pixel| {
        let to = &mut patches[(p * taps + tap) * s.c..][..s.c];
        match pixel {
            Some(pixel) => to.copy_from_slice(&x[pixel * s.c..][..s.c]),
            None => to.fill(0.0),
        }
    });
}

fn blocks(s: &Shape) -> impl Iterator<Item = (usize, usize)> {
    let total = s.images * s.oh * s.ow;
    (0..total).step_by(BLOCK).map(move |first| (first, BLOCK.min(total - first)))
}

pub(super) fn forward(s: &Shape, mut io: Forward<'_>) {
    let (x, w, out) = (io.ins[0].f32(), io.ins[1].f32(), io.out.f32());
    let mut beta = 0.0;
    if let Some(b) = io.ins.get(2) {
        fill_rows(out, b.f32());
        beta = 1.0;
    }
    let patch = s.kh * s.kw * s.c;
    let patches = io.scratch.f32();
    for (first, count) in blocks(s) {
        gather(s, x, first, count, patches);
        let y = MatMut::new(&mut out[first * s.o..][..count * s.o], count, s.o);
        let w = Mat::new(w, s.o, patch).t();
        matmul(y, Mat::new(patches, count, patch), w, 1.0, beta, Threads::All);
    }
}

pub(super) fn backward(s: &Shape, mut io: Backward<'_>) {
    let dy = io.d_out.f32();
    let patch = s.kh * s.kw * s.c;
    let patches = io.scratch.f32();
    if io.d_ins[0].wanted() {
        let beta = io.d_ins[0].beta();
        let dx = io.d_ins[0].buf.f32();
        if beta == 0.0 {
            dx.fill(0.0);
        }
        for (first, count) in blocks(s) {
            let d = Mat::new(&dy[first * s.o..][..count * s.o], count, s.o);
            let w = Mat::new(io.ins[1].f32(), s.o, patch);
            matmul(MatMut::new(patches, count, patch), d, w, 1.0, 0.0, Threads::All);
            each_tap(s, first, count, |p, tap, pixel| {
                let Some(pixel) = pixel else { return };
                let from = &patches[(p * s.kh * s.kw + tap) * s.c..][..s.c];
                let to = &mut dx[pixel * s.c..][..s.c];
                to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
            });
        }
    }
    if io.d_ins[1].wanted() {
        let mut beta = io.d_ins[1].beta();
        let dw = io.d_ins[1].buf.f32();
        if s.images * s.oh * s.ow == 0 && beta == 0.0 {
            dw.fill(0.0);
        }
        for (first, count) in blocks(s) {
            gather(s, io.ins[0].f32(), first, count, patches);
            let d = Mat::new(&dy[first * s.o..][..count * s.o], count, s.o).t();
            let x = Mat::new(patches, count, patch);
            matmul(MatMut::new(dw, s.o, patch), d, x, 1.0, beta, Threads::All);
            beta = 1.0;
        }
    }
    if let Some(db) = io.d_ins.get_mut(2).filter(|g| g.wanted()) {
        let beta = db.beta();
        add_row_sums(db.buf.f32(), dy, beta);
    }
}
