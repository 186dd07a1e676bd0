//! Reference.

use crate::{
    device::cpu::for_chunks,
    op::{Backward, Forward, Grad, GradMode},
};

pub(super) fn add(mut io: Forward<'_>) {
    let (a, b) = (io.ins[0].f32(), io.ins[1].f32());
    for_chunks(
        io.out.f32(),
        1,
        #[inline(always)]
        |at, chunk| {
            for ((y, a), b) in chunk.iter_mut().zip(&a[at..]).zip(&b[at..]) {
                *y = a + b;
            }
        },
    );
}

pub(super) fn add_backward(io: Backward<'_>) {
    let dy = io.d_out.f32();
    io.d_ins.into_iter().for_each(|g| pass_on(g, dy));
}

/// Gives `dy` to one gradient.
pub(super) fn pass_on(mut g: Grad<'_>, dy: &[f32]) {
    let mode = g.mode;
    if mode == GradMode::Skip {
        return;
    }
    for_chunks(
        g.buf.f32(),
        1,
        #[inline(always)]
        |at, chunk| match mode {
            GradMode::Accumulate => {
                for (d, dy) in chunk.iter_mut().zip(&dy[at..]) {
                    *d += dy;
                }
            }
            _ => chunk.copy_from_slice(&dy[at..at + chunk.len()]),
        },
    );
}

pub(super) fn add_channels(mut io: Forward<'_>) {
    let (x, e, c) = (io.ins[0].f32(), io.ins[1].f32(), io.out_spec.last());
    if x.is_empty() {
        return;
    }
    let picture = x.len() / (e.len() / c);
    for_chunks(
        io.out.f32(),
        c,
        #[inline(always)]
        |at, chunk| {
            for (i, (y, x)) in chunk.chunks_exact_mut(c).zip(x[at..].chunks_exact(c)).enumerate() {
                let n = (at + i * c) / picture;
                for ((y, x), e) in y.iter_mut().zip(x).zip(&e[n * c..]) {
                    *y = x + e;
                }
            }
        },
    );
}

pub(super) fn add_channels_backward(mut io: Backward<'_>) {
    let (dy, c) = (io.d_out.f32(), io.out_spec.last());
    if let Some(g) = io.d_ins.pop().filter(Grad::wanted) {
        channel_sums(g, dy, c);
    }
    io.d_ins.into_iter().for_each(|g| pass_on(g, dy));
}

/// Gives the sums of `dy`'s rows of `c` numbers, over the rows of each picture, to a gradient.
pub(super) fn channel_sums(mut g: Grad<'_>, dy: &[f32], c: usize) {
    let add = g.mode == GradMode::Accumulate;
    let de = g.buf.f32();
    let pictures = de.len().checked_div(c).unwrap_or(0);
    let picture = dy.len().checked_div(pictures).unwrap_or(0);
    let mut sums = vec![0f64; c]; // thousands of rows: f32 would lose digits
    for (n, de) in de.chunks_exact_mut(c.max(1)).enumerate() {
        sums.fill(0.0);
        for row in dy[n * picture..(n + 1) * picture].chunks_exact(c) {
            sums.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v));
        }
        for (d, s) in de.iter_mut().zip(&sums) {
            *d = *s as f32 + if add { *d } else { 0.0 };
        }
    }
}

/// Adds to each row of `c` numbers that of its picture.
pub(super) fn shift(y: &mut [f32], t: &[f32], c: usize) {
    let picture = y.len().checked_div(t.len().checked_div(c).unwrap_or(0)).unwrap_or(0);
    if picture == 0 {
        return;
    }
    for_chunks(
        y,
        c,
        #[inline(always)]
        |at, chunk| {
            for (i, y) in chunk.chunks_exact_mut(c).enumerate() {
                let n = (at + i * c) / picture;
                for (y, t) in y.iter_mut().zip(&t[n * c..]) {
                    *y += t;
                }
            }
        },
    );
}
