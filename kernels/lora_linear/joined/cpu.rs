//! CPU: one layer after another; `h` lies part by part.

use super::JoinedLora;
use crate::{
    device::cpu::Elements,
    kernels::lora_linear::cpu::{Layer, Wanted, empty, gradients, outputs, target},
    op::{Backward, Forward},
};

/// Part `p` of rows of `len` numbers a part.
fn part(all: &[f32], p: usize, len: usize) -> &[f32] {
    all.get(p * len..(p + 1) * len).unwrap_or_default()
}

fn part_mut(all: &mut [f32], p: usize, len: usize) -> &mut [f32] {
    all.get_mut(p * len..(p + 1) * len).unwrap_or_default()
}

pub(super) fn forward(op: JoinedLora, mut io: Forward<'_>) {
    let s = op.shape(io.specs);
    let (a, up) = (io.ins[s.a].f32(), io.ins[s.a + 1].f32());
    for p in 0..op.parts {
        let own = 1 + p * op.each();
        let layer = Layer {
            x: io.ins[0].f32(),
            w: Elements::of(io.ins[own], io.specs[own].dtype),
            a: part(a, p, s.rank * s.k),
            up: part(up, p, s.n * s.rank),
            h: &[],
        };
        let bias = op.bias.then(|| io.ins[own + 1].f32());
        let h = part_mut(io.saved[0].f32(), p, s.rows * s.rank);
        let made = (h, part_mut(io.out.f32(), p, s.rows * s.n));
        outputs((s, op.scale), &layer, bias, made, io.scratch.f32());
    }
}

/// The last part first, as a backward pass over separate layers goes.
pub(super) fn backward(op: JoinedLora, mut io: Backward<'_>) {
    let (s, dy) = (op.shape(io.specs), io.d_out.f32());
    let h = io.saved.first().map_or(&[][..], |h| h.f32());
    let [a, up, x] = [s.a, s.a + 1, 0].map(|i| io.ins[i].f32());
    let (dx, rest) = io.d_ins.split_at_mut(1);
    let (da, dup) = rest[s.a - 1..].split_at_mut(1);
    for p in (0..op.parts).rev() {
        let own = 1 + p * op.each();
        let stored = io.specs[own].dtype;
        let mut wanted =
            Wanted { dx: target(&mut dx[0]), da: target(&mut da[0]), dup: target(&mut dup[0]) };
        if let Some((overwrite, _)) = &mut wanted.dx {
            *overwrite &= p + 1 == op.parts; // the others are added
        }
        wanted.da = wanted.da.map(|(o, d)| (o, part_mut(d, p, s.rank * s.k)));
        wanted.dup = wanted.dup.map(|(o, d)| (o, part_mut(d, p, s.n * s.rank)));
        let layer = Layer {
            x,
            w: if wanted.dx.is_some() { Elements::of(io.ins[own], stored) } else { empty(stored) },
            a: if wanted.dx.is_some() { part(a, p, s.rank * s.k) } else { &[] },
            up: part(up, p, s.n * s.rank),
            h: part(h, p, s.rows * s.rank),
        };
        let dy = part(dy, p, s.rows * s.n);
        gradients((s, op.scale, stored), &layer, dy, wanted, io.scratch.f32());
    }
}
