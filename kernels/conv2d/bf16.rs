//! CPU, weights in bf16 where the processor multiplies such numbers: the sums of `cpu.rs` over listed rows, packed as
//! its unit wants them. What f32 saves by Winograd's transforms is less than the unit's rate, so none is taken.

use super::shape::Shape;
use crate::device::cpu::{
    Initial, Left, Rows, Taps, Unpacked, ZEROS,
    bf16::{BLOCK_ROWS, BLOCK_SCRATCH, Shared, Side, Sum, Unit, steps, sum_scratch},
    pieces, pool_size, share,
};
use rayon::prelude::*;

/// A product of listed rows: of how many taps of how many elements, and the result's rows and columns.
#[derive(Clone, Copy)]
struct Extents {
    taps: usize,
    len: usize,
    rows: usize,
    n: usize,
}

impl Extents {
    fn forward(s: &Shape) -> Self {
        Self { taps: s.taps(), len: s.c, rows: s.outputs(), n: s.o }
    }

    fn data_gradient(s: &Shape) -> Self {
        Self { taps: s.taps() * s.copies(), len: s.o, rows: s.inputs(), n: s.c }
    }

    /// Whether the right operand is packed once for blocks of rows; else the left one is for groups of columns.
    fn by_rows(self) -> bool {
        self.n < self.rows
    }

    /// Elements of all lists.
    fn lists(self) -> usize {
        self.taps.saturating_mul(self.rows).next_multiple_of(16)
    }

    /// Elements of one thread's scratch: strips, the lists of a block, and the rows it writes.
    fn piece(self) -> usize {
        self.taps.saturating_add(1).saturating_mul(BLOCK_ROWS).saturating_add(BLOCK_SCRATCH)
    }

    fn scratch(self, by_rows: bool) -> usize {
        if by_rows {
            let packed = Shared::len(self.taps, self.len, self.n);
            return packed.saturating_add(self.piece().saturating_mul(pool_size()));
        }
        let sum = sum_scratch([self.rows, self.n], steps(self.taps, self.len), 0);
        self.lists().saturating_add(sum)
    }

    fn flop(self) -> f64 {
        2.0 * self.rows as f64 * self.n as f64 * (self.taps * self.len) as f64
    }

    /// Rows of one piece of work.
    fn block(self) -> usize {
        self.rows.div_ceil(2 * pool_size()).next_multiple_of(32).min(BLOCK_ROWS)
    }

    /// `out = start + listed rows . right`; `list` writes the rows of a tap from a first position on.
    fn run(
        self,
        unit: Unit,
        (out, data): (&mut [f32], &[f32]),
        right: Unpacked<'_>,
        start: Initial<'_>,
        scratch: &mut [f32],
        list: impl Fn(usize, usize, &mut [u32]) + Sync,
    ) {
        let Self { taps, len, rows, n } = self;
        if !self.by_rows() {
            let (lists, scratch) = scratch.split_at_mut(self.lists());
            let lists: &mut [u32] = bytemuck::cast_slice_mut(&mut lists[..taps * rows]);
            lists.par_chunks_exact_mut(rows).enumerate().for_each(|(tap, to)| list(0, tap, to));
            let left = Side::Rows(Left { data, len, rows: Rows::At(lists), taps });
            let sum = Sum { unit, left, rows, right, adapter: None };
            return sum.run(out, false, &mut [], start, scratch);
        }
        let (packed, scratch) = scratch.split_at_mut(Shared::len(taps, len, n));
        let shared = Shared::new(unit, right, packed);
        let (block, piece) = (self.block(), self.piece());
        let chunks = out.chunks_mut(block * n).enumerate();
        share(chunks, pieces(scratch, piece, self.flop()), piece, |(i, out), scratch| {
            let (strips, lists) = scratch.split_at_mut(BLOCK_SCRATCH);
            let count = out.len() / n;
            let lists: &mut [u32] = bytemuck::cast_slice_mut(&mut lists[..taps * count]);
            for (tap, to) in lists.chunks_exact_mut(count).enumerate() {
                list(i * block, tap, to);
            }
            let left = Left { data, len, rows: Rows::At(lists), taps };
            shared.rows((out, Rows::From(0)), left, start, count, strips);
        });
    }
}

/// Elements of scratch of [`forward`].
pub(super) fn forward_scratch(s: &Shape) -> usize {
    let e = Extents::forward(s);
    e.scratch(e.by_rows())
}

/// Elements of scratch of [`data_gradient`].
pub(super) fn data_scratch(s: &Shape) -> usize {
    let e = Extents::data_gradient(s);
    if s.stride > 1 {
        return e.taps.saturating_add(e.scratch(true)).saturating_add(16 * e.taps);
    }
    e.taps.next_multiple_of(16).saturating_add(e.scratch(e.by_rows()))
}

/// `out = start + convolution of x`.
pub(super) fn forward(
    unit: Unit,
    s: &Shape,
    (out, x): (&mut [f32], &[f32]),
    weight: Unpacked<'_>,
    start: Initial<'_>,
    scratch: &mut [f32],
) {
    let list = |first: usize, tap: usize, to: &mut [u32]| s.list_under(first, tap, to);
    Extents::forward(s).run(unit, (out, x), weight, start, scratch, list);
}

/// `dx = start + dy` through the weight, whose list of taps is put in here.
pub(super) fn data_gradient(
    unit: Unit,
    s: &Shape,
    (dx, dy): (&mut [f32], &[f32]),
    weight: Unpacked<'_>,
    start: Initial<'_>,
    scratch: &mut [f32],
) {
    let e = Extents::data_gradient(s);
    let (taps, scratch) = scratch.split_at_mut(e.taps.next_multiple_of(16));
    let taps: &mut [u32] = bytemuck::cast_slice_mut(&mut taps[..e.taps]);
    let residues = || (0..s.stride.pow(2)).map(|r| (r / s.stride, r % s.stride));
    let all = residues().flat_map(|(y, x)| s.meeting(y, x));
    taps.iter_mut().zip(all).for_each(|(l, t)| *l = u32::try_from(t % s.taps()).unwrap_or(0));
    let taps = &*taps;
    let weight = |list| Unpacked { taps: Taps::Some(list), ..weight };
    if s.stride == 1 {
        let list = |first: usize, meeting: usize, to: &mut [u32]| s.list_above(first, meeting, to);
        return e.run(unit, (dx, dy), weight(taps), start, scratch, list);
    }
    // a product for each residue of the pixel modulo the stride, one after the other
    let mut done = 0;
    for (y, x) in residues() {
        let own = &taps[done..done + s.meeting(y, x).count()];
        done += own.len();
        let right = weight(own);
        let (packed, scratch) = scratch.split_at_mut(Shared::len(own.len(), s.o, s.c));
        let shared = Shared::new(unit, right, packed);
        let (block, piece) = (e.block(), e.piece());
        let chunks = dx.chunks_mut(block * s.c).enumerate();
        share(chunks, pieces(scratch, piece, e.flop()), piece, |(i, out), scratch| {
            let (strips, lists) = scratch.split_at_mut(BLOCK_SCRATCH);
            let (to, lists) = lists.split_at_mut(BLOCK_ROWS);
            let (to, lists): (&mut [u32], &mut [u32]) =
                (bytemuck::cast_slice_mut(to), bytemuck::cast_slice_mut(lists));
            let mut count = 0;
            for p in 0..out.len() / s.c {
                let (row, column) = ((i * block + p) / s.w, (i * block + p) % s.w);
                if (row % s.h % s.stride, column % s.stride) == (y, x) {
                    to[count] = u32::try_from(p).unwrap_or(0);
                    count += 1;
                }
            }
            for (meeting, list) in s.meeting(y, x).zip(lists.chunks_exact_mut(count.max(1))) {
                let rows = to[..count].iter().zip(list);
                rows.for_each(|(p, row)| *row = s.above(i * block + *p as usize, meeting));
            }
            let rows = Rows::At(&lists[..own.len() * count]);
            let left = Left { data: dy, len: s.o, rows, taps: own.len() };
            shared.rows((out, Rows::At(&to[..count])), left, start, count, strips);
        });
    }
}

impl Shape {
    /// The input pixels under `tap` of output positions from `first` on, row by row of the picture.
    fn list_under(&self, first: usize, tap: usize, to: &mut [u32]) {
        let shift = usize::from(self.upsample);
        let mut rest = to;
        let mut p = first;
        while !rest.is_empty() {
            let (row, j0) = (p / self.ow, p % self.ow);
            let run = (self.ow - j0).min(rest.len());
            let (own, after) = rest.split_at_mut(run);
            let y = (row % self.oh * self.stride + tap / self.kw).checked_sub(self.top);
            let y = y.map(|y| y >> shift).filter(|y| *y < self.h);
            let x0 = j0 * self.stride + tap % self.kw;
            match y {
                None => own.fill(ZEROS),
                Some(y) => {
                    let line = (row / self.oh * self.h + y) * self.w;
                    for (j, to) in own.iter_mut().enumerate() {
                        let x = (x0 + j * self.stride).checked_sub(self.left).map(|x| x >> shift);
                        let x = x.filter(|x| *x < self.w);
                        *to = x.and_then(|x| u32::try_from(line + x).ok()).unwrap_or(ZEROS);
                    }
                }
            }
            p += run;
            rest = after;
        }
    }

    /// The output positions that read input pixels from `first` on under `meeting`, row by row; of stride 1.
    fn list_above(&self, first: usize, meeting: usize, to: &mut [u32]) {
        let (copy, tap) = (meeting / self.taps(), meeting % self.taps());
        let zoom = self.zoom();
        let mut rest = to;
        let mut p = first;
        while !rest.is_empty() {
            let (row, x0) = (p / self.w, p % self.w);
            let run = (self.w - x0).min(rest.len());
            let (own, after) = rest.split_at_mut(run);
            let y = row % self.h * zoom + copy / zoom + self.top;
            match y.checked_sub(tap / self.kw).filter(|i| *i < self.oh) {
                None => own.fill(ZEROS),
                Some(i) => {
                    let line = (row / self.h * self.oh + i) * self.ow;
                    for (j, to) in own.iter_mut().enumerate() {
                        let x = (x0 + j) * zoom + copy % zoom + self.left;
                        let x = x.checked_sub(tap % self.kw).filter(|x| *x < self.ow);
                        *to = x.and_then(|x| u32::try_from(line + x).ok()).unwrap_or(ZEROS);
                    }
                }
            }
            p += run;
            rest = after;
        }
    }
}
