//! CPU: the image is read where it lies, one list of pixels for each kernel position.
//!
//! Forward and the data gradient are products of listed rows with the packed weight; the weight gradient
//! sums outer products over blocks of output positions. No patches are ever stored.

use super::{bf16, shape::Shape, winograd::Winograd};
use crate::{
    device::cpu::{
        Columns, Elements, Initial, Left, OUTER_DEPTH, OUTER_SCRATCH_LEN, Out, Right, Rows, Taps,
        Term, Unpacked, ZEROS, add_row_sums, bf16::Unit, by_columns, outer, outer_rows, pack,
        packed_len, pieces, pool_size, product, share, sum_columns, sum_columns_scratch,
    },
    op::{Backward, Forward, Grad},
    tensor::DType,
};

/// Most positions of one piece of work.
const BLOCK: usize = 240; // whole tiles of 8 rows and of 6

impl Shape {
    fn flop(&self) -> f64 {
        2.0 * self.outputs() as f64 * self.o as f64 * (self.taps() * self.c) as f64
    }

    /// Rows can be read in order: no list.
    fn pointwise(&self) -> bool {
        let same = (self.h, self.w, self.stride) == (self.oh, self.ow, 1);
        self.taps() == 1 && same && self.top == 0 && !self.upsample
    }

    pub(super) fn inputs(&self) -> usize {
        self.images * self.h * self.w
    }

    /// Whether the threads of the data gradient own channels: every pixel meets the same taps, and pixels
    /// are fewer than channels.
    fn shares_input_channels(&self) -> bool {
        self.stride == 1 && by_columns(self.inputs(), self.c)
    }

    /// Copies of an input pixel in the image that the kernel slides over.
    pub(super) fn copies(&self) -> usize {
        self.zoom() * self.zoom()
    }

    /// The input pixel under `tap` of output position `p`.
    fn under(&self, p: usize, tap: usize) -> u32 {
        let (row, j) = (p / self.ow, p % self.ow);
        let (image, i) = (row / self.oh, row % self.oh);
        let along = |at: usize, u: usize, pad: usize, size: usize| {
            let at = (at * self.stride + u).checked_sub(pad)? / self.zoom();
            Some(at).filter(|at| *at < size)
        };
        let y = along(i, tap / self.kw, self.top, self.h);
        let x = along(j, tap % self.kw, self.left, self.w);
        pixel(image, self.h, self.w, y, x)
    }

    /// The output position that reads input pixel `p` under `meeting`, which fits its residue.
    pub(super) fn above(&self, p: usize, meeting: usize) -> u32 {
        let (copy, tap) = (meeting / self.taps(), meeting % self.taps());
        let (row, x) = (p / self.w, p % self.w);
        let (image, y) = (row / self.h, row % self.h);
        let (y, x) = (y * self.zoom() + copy / self.zoom(), x * self.zoom() + copy % self.zoom());
        let along = |at: usize, pad: usize, u: usize, size: usize| {
            (at + pad).checked_sub(u).map(|d| d / self.stride).filter(|i| *i < size)
        };
        let i = along(y, self.top, tap / self.kw, self.oh);
        let j = along(x, self.left, tap % self.kw, self.ow);
        pixel(image, self.oh, self.ow, i, j)
    }

    /// Kernel positions that meet input pixels of residue `(y, x)` modulo the stride, for every
    /// copy of the pixel: `copy * taps + tap`.
    pub(super) fn meeting(&self, y: usize, x: usize) -> impl Iterator<Item = usize> {
        let from = |at: usize, pad: usize| (at + pad) % self.stride;
        let (u, v) = (from(y, self.top), from(x, self.left));
        (0..self.copies()).flat_map(move |copy| {
            (u..self.kh).step_by(self.stride).flat_map(move |u| {
                let row = copy * self.taps() + u * self.kw;
                (v..self.kw).step_by(self.stride).map(move |v| row + v)
            })
        })
    }
}

/// Row number of a pixel; infer bounded the count of pixels.
fn pixel(image: usize, h: usize, w: usize, y: Option<usize>, x: Option<usize>) -> u32 {
    match y.zip(x) {
        Some((y, x)) => u32::try_from((image * h + y) * w + x).unwrap_or(ZEROS),
        None => ZEROS,
    }
}

/// Positions of one piece: at least two pieces a thread, but not less than a few tiles.
fn block(total: usize) -> usize {
    let share = total.div_ceil(2 * pool_size()).next_multiple_of(24);
    share.clamp(48, BLOCK)
}

/// With a weight stored as `stored`.
pub(super) fn forward_scratch(s: &Shape, stored: DType) -> usize {
    if Unit::of(stored).is_some() {
        return bf16::forward_scratch(s).saturating_mul(4);
    }
    if let Some(w) = Winograd::forward(s) {
        return w.scratch().saturating_mul(4);
    }
    if by_columns(s.outputs(), s.o) {
        let lists = s.taps().saturating_mul(s.outputs());
        return lists.saturating_add(sum_columns_scratch(s.o)).saturating_mul(4);
    }
    let packed = packed_len(s.taps().saturating_mul(s.c), s.o);
    let lists = s.taps().saturating_mul(BLOCK).saturating_mul(pool_size());
    packed.saturating_add(lists).saturating_mul(4)
}

pub(super) fn backward_scratch(s: &Shape, stored: DType) -> usize {
    if Unit::of(stored).is_some() {
        return bf16::data_scratch(s).saturating_mul(4);
    }
    let taps = s.taps().saturating_mul(s.copies());
    let data = if let Some(w) = Winograd::data_gradient(s) {
        w.scratch()
    } else if s.shares_input_channels() {
        let lists = taps.saturating_mul(s.inputs().saturating_add(1));
        lists.saturating_add(sum_columns_scratch(s.c))
    } else {
        packed_len(taps.saturating_mul(s.o), s.c)
            .saturating_add(taps)
            .saturating_add(taps.saturating_add(1).saturating_mul(BLOCK * pool_size()))
    };
    let weight = weight_piece(s).saturating_mul(pool_size());
    data.max(weight).saturating_mul(4)
}

fn weight_piece(s: &Shape) -> usize {
    s.taps().saturating_mul(OUTER_DEPTH).saturating_add(OUTER_SCRATCH_LEN)
}

pub(super) fn forward(s: &Shape, mut io: Forward<'_>) {
    let (x, w) = (io.ins[0].f32(), Elements::of(io.ins[1], io.specs[1].dtype));
    let out = io.out.f32();
    if out.is_empty() {
        return;
    }
    let taps = s.taps();
    let source = Unpacked {
        data: w,
        taps: Taps::All(taps),
        tap_stride: s.c,
        len: s.c,
        row_stride: 1,
        n: s.o,
        column_stride: taps * s.c,
        scale: 1.0,
    };
    let start = io.ins.get(2).map_or(Initial::Zero, |b| Initial::Bias(b.f32()));
    if let Some(unit) = w.unit() {
        return bf16::forward(unit, s, (out, x), source, start, io.scratch.f32());
    }
    if let Some(w) = Winograd::forward(s) {
        return w.run(out, x, &source, start, io.scratch.f32());
    }
    if by_columns(s.outputs(), s.o) {
        let (lists, scratch) = io.scratch.f32().split_at_mut(taps * s.outputs());
        let lists: &mut [u32] = bytemuck::cast_slice_mut(lists);
        for (tap, list) in lists.chunks_exact_mut(s.outputs()).enumerate() {
            list.iter_mut().enumerate().for_each(|(p, row)| *row = s.under(p, tap));
        }
        let rows = if s.pointwise() { Rows::From(0) } else { Rows::At(lists) };
        let term = Term { left: Left { data: x, len: s.c, rows, taps }, right: source };
        return sum_columns(out, (s.outputs(), s.o), &[term], start, scratch);
    }
    let (packed, lists) = io.scratch.f32().split_at_mut(source.packed_len());
    pack(packed, &source);
    let right = Right { data: packed, n: s.o };
    let block = block(s.outputs());
    let piece = taps * BLOCK;
    let chunks = out.chunks_mut(block * s.o).enumerate();
    share(chunks, pieces(lists, piece, s.flop()), piece, |(i, out), lists| {
        let (first, count) = (i * block, out.len() / s.o);
        let rows = if s.pointwise() {
            Rows::From(first)
        } else {
            let lists: &mut [u32] = bytemuck::cast_slice_mut(&mut lists[..taps * count]);
            for (tap, list) in lists.chunks_exact_mut(count).enumerate() {
                (first..).zip(list).for_each(|(p, row)| *row = s.under(p, tap));
            }
            Rows::At(lists)
        };
        let left = Left { data: x, len: s.c, rows, taps };
        product(Out { data: out, rows: Rows::From(0) }, left, right, start, count);
    });
}

pub(super) fn backward(s: &Shape, mut io: Backward<'_>) {
    let dy = io.d_out.f32();
    let scratch = io.scratch.f32();
    if io.d_ins[0].wanted() {
        let w = Elements::of(io.ins[1], io.specs[1].dtype);
        data_gradient(s, dy, w, &mut io.d_ins[0], scratch);
    }
    if io.d_ins[1].wanted() {
        weight_gradient(s, dy, io.ins[0].f32(), &mut io.d_ins[1], scratch);
    }
    if let Some(db) = io.d_ins.get_mut(2).filter(|g| g.wanted()) {
        let beta = db.beta();
        add_row_sums(db.buf.f32(), dy, beta);
    }
}

/// The weight with its outputs as rows and its inputs as columns.
fn transposed<'a>(s: &Shape, w: Elements<'a>, taps: &'a [u32]) -> Unpacked<'a> {
    Unpacked {
        data: w,
        taps: Taps::Some(taps),
        tap_stride: s.c,
        len: s.o,
        row_stride: s.taps() * s.c,
        n: s.c,
        column_stride: 1,
        scale: 1.0,
    }
}

/// One product for each residue of the pixel modulo the stride, with the taps that meet it.
fn data_gradient(s: &Shape, dy: &[f32], w: Elements<'_>, dx: &mut Grad<'_>, scratch: &mut [f32]) {
    let start = if dx.beta() == 0.0 { Initial::Zero } else { Initial::Old };
    let dx = dx.buf.f32();
    if dx.is_empty() {
        return;
    }
    if let Some(unit) = w.unit() {
        return bf16::data_gradient(unit, s, (dx, dy), transposed(s, w, &[]), start, scratch);
    }
    if let Some(winograd) = Winograd::data_gradient(s) {
        let mirrored: [u32; 9] = std::array::from_fn(|i| 8 - i as u32);
        return winograd.run(dx, dy, &transposed(s, w, &mirrored), start, scratch);
    }
    let meetings = s.taps() * s.copies();
    let residues = || (0..s.stride.pow(2)).map(|r| (r / s.stride, r % s.stride));
    let (list, rest) = scratch.split_at_mut(meetings);
    let list: &mut [u32] = bytemuck::cast_slice_mut(list);
    let all = residues().flat_map(|(y, x)| s.meeting(y, x));
    list.iter_mut().zip(all).for_each(|(l, t)| *l = u32::try_from(t % s.taps()).unwrap_or(0));
    let source = |list| transposed(s, w, list);
    if s.shares_input_channels() {
        let (rows, scratch) = rest.split_at_mut(meetings * s.inputs());
        let rows: &mut [u32] = bytemuck::cast_slice_mut(rows);
        for (tap, rows) in s.meeting(0, 0).zip(rows.chunks_exact_mut(s.inputs())) {
            rows.iter_mut().enumerate().for_each(|(p, row)| *row = s.above(p, tap));
        }
        let left = Left { data: dy, len: s.o, rows: Rows::At(rows), taps: meetings };
        let term = Term { left, right: source(list) };
        return sum_columns(dx, (s.inputs(), s.c), &[term], start, scratch);
    }
    let (packed, lists) = rest.split_at_mut(packed_len(meetings * s.o, s.c));
    let (mut at, mut tap) = (0, 0);
    for (y, x) in residues() {
        let source = source(&list[tap..tap + s.meeting(y, x).count()]);
        pack(&mut packed[at..], &source);
        (at, tap) = (at + source.packed_len(), tap + source.taps.count());
    }
    let packed = &*packed;
    let block = block(s.inputs());
    let piece = (meetings + 1) * BLOCK;
    let chunks = dx.chunks_mut(block * s.c).enumerate();
    share(chunks, pieces(lists, piece, s.flop()), piece, |(i, out), lists| {
        let (first, pixels) = (i * block, out.len() / s.c);
        let (own, lists) = lists.split_at_mut(BLOCK);
        let own: &mut [u32] = bytemuck::cast_slice_mut(own);
        let lists: &mut [u32] = bytemuck::cast_slice_mut(lists);
        let mut at = 0;
        for (y, x) in residues() {
            let mut count = 0;
            for p in 0..pixels {
                let (row, column) = ((first + p) / s.w, (first + p) % s.w);
                if (row % s.h % s.stride, column % s.stride) == (y, x) {
                    own[count] = u32::try_from(p).unwrap_or(0);
                    count += 1;
                }
            }
            let mut taps = 0;
            for (tap, list) in s.meeting(y, x).zip(lists.chunks_exact_mut(count.max(1))) {
                let rows = own[..count].iter().zip(list);
                rows.for_each(|(p, row)| *row = s.above(first + *p as usize, tap));
                taps += 1;
            }
            let left = Left { data: dy, len: s.o, rows: Rows::At(lists), taps };
            let right = Right { data: &packed[at..], n: s.c };
            let out = Out { data: &mut *out, rows: Rows::At(&own[..count]) };
            product(out, left, right, start, count);
            at += packed_len(taps * s.o, s.c);
        }
    });
}

/// Threads own rows of the weight; each sums over all positions in order.
fn weight_gradient(s: &Shape, dy: &[f32], x: &[f32], dw: &mut Grad<'_>, scratch: &mut [f32]) {
    let overwrite = dw.beta() == 0.0;
    let dw = dw.buf.f32();
    let taps = s.taps();
    let width = taps * s.c;
    if dw.is_empty() {
        return;
    }
    if s.outputs() == 0 {
        if overwrite {
            dw.fill(0.0);
        }
        return;
    }
    let own = outer_rows(s.o, pool_size());
    let piece = weight_piece(s);
    let chunks = dw.chunks_mut(own * width).enumerate();
    share(chunks, pieces(scratch, piece, s.flop()), piece, |(i, dw), scratch| {
        let (work, lists) = scratch.split_at_mut(OUTER_SCRATCH_LEN);
        let lists: &mut [u32] = bytemuck::cast_slice_mut(lists);
        for first in (0..s.outputs()).step_by(OUTER_DEPTH) {
            let count = OUTER_DEPTH.min(s.outputs() - first);
            let lists = &mut lists[..taps * count];
            for (tap, list) in lists.chunks_exact_mut(count).enumerate() {
                (first..).zip(list).for_each(|(p, row)| *row = s.under(p, tap));
            }
            let a = Columns {
                data: &dy[first * s.o..],
                stride: s.o,
                first: i * own,
                rows: dw.len() / width,
                scale: 1.0,
            };
            let b = Left { data: x, len: s.c, rows: Rows::At(lists), taps };
            outer(dw, a, b, overwrite && first == 0, count, work);
        }
    });
}
