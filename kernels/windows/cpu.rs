//! Reference: copies of whole window rows.

use super::{Cut, Way};
use crate::{
    device::cpu::for_chunks,
    op::{Backward, Forward, GradMode},
};

pub(super) fn forward(cut: Cut, way: Way, mut io: Forward<'_>) {
    copy(cut, way, io.ins[0].f32(), io.out.f32(), false);
}

pub(super) fn backward(cut: Cut, way: Way, mut io: Backward<'_>) {
    let (dy, mode) = (io.d_out.f32(), io.d_ins[0].mode);
    if mode != GradMode::Skip {
        copy(cut, way, dy, io.d_ins[0].buf.f32(), mode == GradMode::Accumulate);
    }
}

fn copy(cut: Cut, way: Way, from: &[f32], to: &mut [f32], add: bool) {
    if to.is_empty() {
        return;
    }
    match way {
        Way::ToWindows => to_windows(cut, from, to, add),
        Way::ToPicture => to_picture(cut, from, to, add),
    }
}

#[inline(always)]
fn put(to: &mut [f32], from: &[f32], add: bool) {
    match add {
        true => to.iter_mut().zip(from).for_each(|(t, f)| *t += f),
        false => to.copy_from_slice(from),
    }
}

fn to_windows(cut: Cut, picture: &[f32], windows: &mut [f32], add: bool) {
    let ([a, b], [down, across], c) = (cut.window, cut.count, cut.c);
    for_chunks(windows, b * c, |at, chunk| {
        for (r, row) in chunk.chunks_exact_mut(b * c).enumerate() {
            let line = at / (b * c) + r;
            let (window, dy) = (line / a, line % a);
            let (n, i, j) = (window / across / down, window / across % down, window % across);
            let (y, x) = (i * a + dy, j * b);
            let seen = if y < cut.h { b.min(cut.w - x) * c } else { 0 };
            let (inside, past) = row.split_at_mut(seen);
            if seen > 0 {
                put(inside, &picture[((n * cut.h + y) * cut.w + x) * c..][..seen], add);
            }
            if !add {
                past.fill(0.0);
            }
        }
    });
}

fn to_picture(cut: Cut, windows: &[f32], picture: &mut [f32], add: bool) {
    let ([a, b], [down, across], c) = (cut.window, cut.count, cut.c);
    for_chunks(picture, cut.w * c, |at, chunk| {
        for (r, row) in chunk.chunks_exact_mut(cut.w * c).enumerate() {
            let line = at / (cut.w * c) + r;
            let (n, y) = (line / cut.h, line % cut.h);
            for (j, to) in row.chunks_mut(b * c).enumerate() {
                let window = (n * down + y / a) * across + j;
                put(to, &windows[(window * a + y % a) * b * c..][..to.len()], add);
            }
        }
    });
}
