//! Reference.

use super::Sinusoid;
use crate::{
    error::{Error, Result},
    op::{Backward, Forward, Grad, GradMode},
};

fn index(at: &str, what: &str, i: i32, below: usize) -> Result<usize> {
    usize::try_from(i).ok().filter(|i| *i < below).ok_or_else(|| Error::Data {
        at: at.into(),
        found: format!("{what} {i}"),
        expected: format!("0 to {}", below.saturating_sub(1)),
        fix: "check that the tokenizer belongs to this model".into(),
    })
}

pub(super) fn embed(mut io: Forward<'_>) -> Result<()> {
    let (ids, table, positions) = (io.ins[0].i32(), io.ins[1].f32(), io.ins[2].f32());
    let (l, c, vocabulary) = (io.specs[0].last(), io.out_spec.last(), io.specs[1].dims[0]);
    if c == 0 {
        return Ok(());
    }
    let added: &[f32] = io.ins.get(3).map_or(&[], |a| a.f32());
    for (i, (y, id)) in io.out.f32().chunks_exact_mut(c).zip(ids).enumerate() {
        let row = index("embedding", "token id", *id, vocabulary + added.len() / c)?;
        let from = match row.checked_sub(vocabulary) {
            Some(extra) => &added[extra * c..][..c],
            None => &table[row * c..][..c],
        };
        let place = &positions[(i % l) * c..][..c];
        for ((y, a), b) in y.iter_mut().zip(from).zip(place) {
            *y = a + b;
        }
    }
    Ok(())
}

pub(super) fn embed_backward(mut io: Backward<'_>) {
    let (ids, dy, c) = (io.ins[0].i32(), io.d_out.f32(), io.out_spec.last());
    let l = io.specs[0].last();
    let zeroed = |g: &mut Grad<'_>| {
        if g.mode == GradMode::Overwrite {
            g.buf.f32().fill(0.0);
        }
        g.wanted()
    };
    let mut add = |which: usize, row_of: &dyn Fn(usize) -> Option<usize>| {
        if zeroed(&mut io.d_ins[which]) && c > 0 {
            let d = io.d_ins[which].buf.f32();
            for (i, dy) in dy.chunks_exact(c).enumerate() {
                let Some(row) = row_of(i).and_then(|r| d.get_mut(r * c..r * c + c)) else {
                    continue;
                };
                row.iter_mut().zip(dy).for_each(|(d, v)| *d += v);
            }
        }
    };
    let id = |i: usize| usize::try_from(ids[i]).ok();
    add(1, &id);
    add(2, &|i| Some(i % l));
    if io.specs.len() > 3 {
        add(3, &|i| id(i)?.checked_sub(io.specs[1].dims[0]));
    }
}

impl Sinusoid {
    fn frequency(&self, i: usize) -> f32 {
        let half = (self.dim / 2) as f32;
        (-self.max_period.ln() * i as f32 / (half - self.shift)).exp()
    }

    /// First index of the sines and of the cosines.
    fn starts(&self) -> (usize, usize) {
        let half = self.dim / 2;
        if self.flip_sin_to_cos { (half, 0) } else { (0, half) }
    }
}

pub(super) fn sinusoid(op: &Sinusoid, mut io: Forward<'_>) {
    let (sin, cos) = op.starts();
    for (y, x) in io.out.f32().chunks_exact_mut(op.dim.max(1)).zip(io.ins[0].f32()) {
        if op.dim % 2 == 1 {
            y[op.dim - 1] = 0.0;
        }
        for i in 0..op.dim / 2 {
            let angle = x * op.frequency(i);
            y[sin + i] = angle.sin();
            y[cos + i] = angle.cos();
        }
    }
}

pub(super) fn sinusoid_backward(op: &Sinusoid, mut io: Backward<'_>) {
    let ((sin, cos), x, dy) = (op.starts(), io.ins[0].f32(), io.d_out.f32());
    let beta = io.d_ins[0].beta();
    if !io.d_ins[0].wanted() {
        return;
    }
    for (n, d) in io.d_ins[0].buf.f32().iter_mut().enumerate() {
        let row = &dy[n * op.dim..(n + 1) * op.dim];
        let term = |i: usize| {
            let f = op.frequency(i);
            let angle = x[n] * f;
            f64::from(f * (angle.cos() * row[sin + i] - angle.sin() * row[cos + i]))
        };
        let sum = (0..op.dim / 2).map(term).sum::<f64>() as f32;
        *d = if beta == 0.0 { sum } else { *d + sum };
    }
}

pub(super) fn gather(mut io: Forward<'_>) -> Result<()> {
    let (x, rows) = (io.ins[0].f32(), io.ins[1].i32());
    let (l, c) = (io.specs[0].dims[1], io.out_spec.last());
    for (n, (y, r)) in io.out.f32().chunks_exact_mut(c.max(1)).zip(rows).enumerate() {
        let at = (n * l + index("gather_rows", "row", *r, l)?) * c;
        y.copy_from_slice(&x[at..at + c]);
    }
    Ok(())
}

pub(super) fn gather_backward(mut io: Backward<'_>) {
    let (rows, dy) = (io.ins[1].i32(), io.d_out.f32());
    let (l, c) = (io.specs[0].dims[1], io.out_spec.last());
    if !io.d_ins[0].wanted() {
        return;
    }
    let overwrite = io.d_ins[0].mode == GradMode::Overwrite;
    let dx = io.d_ins[0].buf.f32();
    if overwrite {
        dx.fill(0.0);
    }
    for (n, (dy, r)) in dy.chunks_exact(c.max(1)).zip(rows).enumerate() {
        let at = (n * l + usize::try_from(*r).unwrap_or(0)) * c;
        dx[at..at + c].iter_mut().zip(dy).for_each(|(d, v)| *d += v);
    }
}
