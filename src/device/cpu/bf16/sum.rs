//! Sums of products of operands that are rounded to bf16 while they are packed; the sums are f32.
//!
//! `out[i] = initial + sum over taps of left . right + thin up`, `thin = left . down`: the last part is a layer's
//! adapter. Of a result with more rows than columns threads own rows, and the right operand is packed once; else they
//! own columns, and the left one is. Every sum runs over `k` in order, whoever owns it.

use super::{
    super::{
        pack::Unpacked,
        product::{Initial, Left, Rows, index},
        share::{pieces, pool_size, share},
    },
    block::{Packed, Target, multiply},
    pack::{pack_columns, pack_rows},
    shape::{BLOCK, DEPTH, Form, STEP, steps},
    tile::{Session, Unit},
};
use std::ops::Range;

/// Steps between two visits of a block of sums: so many of a panel are 32 KiB, most of the first-level cache.
const SLAB: usize = 16;
/// Strips, or panels, of one piece of work.
const PIECE: usize = 4;

/// A left operand.
#[derive(Clone, Copy, Debug)]
pub enum Side<'a> {
    /// Rows by number.
    Rows(Left<'a>),
    /// The columns of a matrix: its transpose is the operand.
    Columns(Unpacked<'a>),
}

/// One sum of products.
#[derive(Clone, Copy, Debug)]
pub struct Sum<'a> {
    /// What multiplies.
    pub unit: Unit,
    /// The left operand.
    pub left: Side<'a>,
    /// Rows of the result.
    pub rows: usize,
    /// The right operand: its columns are those of the result.
    pub right: Unpacked<'a>,
    /// `down` and `up` of an adapter.
    pub adapter: Option<[Unpacked<'a>; 2]>,
}

/// Elements of scratch (f32) of [`Sum::run`] for `[rows, columns]` and an adapter of `rank`.
pub fn sum_scratch([rows, n]: [usize; 2], steps: usize, rank: usize) -> usize {
    let total = steps.saturating_add(rank.div_ceil(DEPTH));
    let shared = rows.min(n).div_ceil(BLOCK).saturating_mul(total);
    let downs = rank.div_ceil(BLOCK).saturating_mul(steps);
    let own = (PIECE * SLAB).saturating_mul(pool_size());
    shared.saturating_add(downs).saturating_add(own).saturating_mul(STEP / 2)
}

/// The ranges of steps between visits of a block of sums; one of none where there are none.
fn slabs(total: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let step = total.div_ceil(total.div_ceil(SLAB).max(1)).max(1);
    (0..total.max(1)).step_by(step).map(move |first| first..(first + step).min(total))
}

impl Sum<'_> {
    fn steps(&self) -> usize {
        match self.left {
            Side::Rows(left) => steps(left.taps, left.len),
            Side::Columns(left) => steps(left.taps.count(), left.len),
        }
    }

    fn rank(&self) -> usize {
        self.adapter.map_or(0, |[down, _]| down.n)
    }

    fn flop(&self) -> f64 {
        let k = (self.steps() * DEPTH + self.rank()) as f64;
        2.0 * self.rows as f64 * self.right.n as f64 * k
    }

    /// All of it on all threads; `thin` gets the adapter's product between, `[rows, rank]`.
    ///
    /// # Panics
    /// When operands do not fit: a bug of the calling operation.
    pub fn run(
        &self,
        out: &mut [f32],
        turned: bool,
        thin: &mut [f32],
        initial: Initial<'_>,
        scratch: &mut [f32],
    ) {
        let (m, n) = (self.rows, self.right.n);
        assert!(m * n <= out.len() && m * self.rank() <= thin.len(), "bf16: output");
        if let Side::Rows(left) = self.left {
            assert!(left.taps <= 1 || matches!(left.rows, Rows::At(_)), "bf16: rows of taps");
        }
        if m == 0 {
            return;
        }
        let stride = if turned { m } else { n };
        let target = Target { data: out.as_mut_ptr(), stride, rows: Rows::From(0), turned };
        let downs = self.rank().div_ceil(BLOCK) * self.steps() * STEP / 2;
        let (downs, scratch) = scratch.split_at_mut(downs);
        let downs: &mut [u16] = bytemuck::cast_slice_mut(downs);
        if let (Some([down, _]), true) = (&self.adapter, self.steps() > 0) {
            let each = self.steps() * STEP;
            for (i, panel) in downs.chunks_exact_mut(each).enumerate() {
                pack_columns(panel, down, i * BLOCK, 0..self.steps(), Form::Panel);
            }
        }
        if n == 0 {
            return self.thin_only(thin, downs, scratch);
        }
        // SAFETY: the assertion above bounded the output, which is borrowed as long as this takes.
        unsafe {
            if n < m && matches!(self.left, Side::Rows(_)) {
                self.by_rows(target, thin, downs, initial, scratch);
            } else {
                self.by_columns(target, thin, downs, initial, scratch);
            }
        }
    }

    /// The right operand with the adapter's behind it.
    fn pack_panel(&self, to: &mut [u16], panel: usize, range: Range<usize>) {
        let steps = self.steps();
        let own = range.start.min(steps)..range.end.min(steps);
        let (to, behind) = to.split_at_mut(own.len() * STEP);
        pack_columns(to, &self.right, panel * BLOCK, own, Form::Panel);
        if let Some([_, up]) = &self.adapter {
            let own = range.start.max(steps) - steps..range.end.max(steps) - steps;
            pack_columns(behind, up, panel * BLOCK, own, Form::Panel);
        }
    }

    fn pack_strip(&self, to: &mut [u16], rows: Range<usize>, range: Range<usize>) {
        match &self.left {
            Side::Rows(left) => pack_rows(to, left, (rows, self.rows), range),
            Side::Columns(left) => pack_columns(to, left, rows.start, range, Form::Strip),
        }
    }

    /// Packs the steps `range` of 32 rows, the adapter's behind the operand's: `thin` are these rows of its product.
    fn pack_adapted(
        &self,
        session: &Session,
        strip: &mut [u16],
        (rows, range): (Range<usize>, Range<usize>),
        thin: &mut [f32],
        downs: &[u16],
    ) {
        let (steps, rank, count) = (self.steps(), self.rank(), rows.len());
        let own = range.start.min(steps)..range.end.min(steps);
        let (strip, behind) = strip.split_at_mut(own.len() * STEP);
        self.pack_strip(strip, rows, own.clone());
        if rank == 0 {
            return;
        }
        if !own.is_empty() || steps == 0 {
            let initial = if own.start == 0 { Initial::Zero } else { Initial::Old };
            let target = Target {
                data: thin.as_mut_ptr(),
                stride: rank,
                rows: Rows::From(0),
                turned: false,
            };
            let panels = Packed { data: downs, each: steps * STEP, first: own.start };
            let strips = Packed { data: strip, each: strip.len(), first: 0 };
            assert!(count * rank <= thin.len(), "bf16: thin product");
            // SAFETY: the rows of the thin product were bounded.
            unsafe {
                multiply(session, (strips, panels, own.len()), [count, rank], target, initial)
            };
        }
        let extra = range.start.max(steps) - steps..range.end.max(steps) - steps;
        if !extra.is_empty() {
            let left = Left { data: thin, len: rank, rows: Rows::From(0), taps: 1 };
            pack_rows(behind, &left, (0..count, count), extra);
        }
    }

    /// The adapter's product alone: the layer's own is not wanted.
    fn thin_only(&self, thin: &mut [f32], downs: &[u16], scratch: &mut [f32]) {
        let rank = self.rank();
        if rank == 0 {
            return;
        }
        let each = SLAB * STEP / 2;
        let strips = thin[..self.rows * rank].chunks_mut(BLOCK * rank).enumerate();
        share(strips, pieces(scratch, each, self.flop()), each, |(i, thin), scratch| {
            let (rows, session) =
                (i * BLOCK..i * BLOCK + thin.len() / rank, Session::new(self.unit));
            for range in slabs(self.steps()) {
                let strip = bytemuck::cast_slice_mut(&mut scratch[..each]);
                let strip = &mut strip[..range.len() * STEP];
                self.pack_adapted(&session, strip, (rows.clone(), range), thin, downs);
            }
        });
    }

    unsafe fn by_columns(
        &self,
        target: Target<'_>,
        thin: &mut [f32],
        downs: &[u16],
        initial: Initial<'_>,
        scratch: &mut [f32],
    ) {
        let (m, n, rank) = (self.rows, self.right.n, self.rank());
        let total = self.steps() + rank.div_ceil(DEPTH);
        let (packed, scratch) = scratch.split_at_mut(m.div_ceil(BLOCK) * total * STEP / 2);
        let packed: &mut [u16] = bytemuck::cast_slice_mut(packed);
        let each = PIECE * SLAB * STEP / 2;
        let mut thins = thin[..m * rank].chunks_mut((BLOCK * rank).max(1));
        let strips = packed.chunks_mut((total * STEP).max(1)).enumerate();
        let strips = strips.map(|(i, strip)| (i, strip, thins.next().unwrap_or_default()));
        share(strips, pieces(scratch, each, self.flop()), each, |(i, strip, thin), _| {
            let (rows, session) = (i * BLOCK..m.min((i + 1) * BLOCK), Session::new(self.unit));
            self.pack_adapted(&session, strip, (rows, 0..total), thin, downs);
        });
        let packed = &*packed;
        let group = n.div_ceil(2 * pool_size()).next_multiple_of(BLOCK).min(PIECE * BLOCK);
        let groups = (0..n).step_by(group);
        share(groups, pieces(scratch, each, self.flop()), each, |column, scratch| {
            let (columns, session) = (group.min(n - column), Session::new(self.unit));
            let panels: &mut [u16] = bytemuck::cast_slice_mut(scratch);
            let target = target.column(column);
            for range in slabs(total) {
                let each = range.len() * STEP;
                for i in 0..columns.div_ceil(BLOCK) {
                    self.pack_panel(
                        &mut panels[i * each..][..each],
                        column / BLOCK + i,
                        range.clone(),
                    );
                }
                let strips = Packed { data: packed, each: total * STEP, first: range.start };
                let panels = Packed { data: panels, each, first: 0 };
                let start = starting(initial, column, range.start);
                // SAFETY: the caller's promise; groups are disjoint columns.
                unsafe {
                    multiply(&session, (strips, panels, range.len()), [m, columns], target, start)
                };
            }
        });
    }

    unsafe fn by_rows(
        &self,
        target: Target<'_>,
        thin: &mut [f32],
        downs: &[u16],
        initial: Initial<'_>,
        scratch: &mut [f32],
    ) {
        let (m, n, rank) = (self.rows, self.right.n, self.rank());
        let total = self.steps() + rank.div_ceil(DEPTH);
        let (packed, scratch) = scratch.split_at_mut(n.div_ceil(BLOCK) * total * STEP / 2);
        let packed: &mut [u16] = bytemuck::cast_slice_mut(packed);
        self.pack_right(packed, scratch);
        let packed = Packed { data: packed, each: total * STEP, first: 0 };
        let each = PIECE * SLAB * STEP / 2;
        let block = m.div_ceil(2 * pool_size()).next_multiple_of(BLOCK).min(PIECE * BLOCK);
        let mut thins = thin[..m * rank].chunks_mut((block * rank).max(1));
        let blocks = (0..m).step_by(block).map(|row| (row, thins.next().unwrap_or_default()));
        share(blocks, pieces(scratch, each, self.flop()), each, |(row, thin), scratch| {
            let rows = row..m.min(row + block);
            let target = target.row(row);
            // SAFETY: the caller's promise; blocks are disjoint rows.
            unsafe { self.block(target, (rows, thin), (packed, downs), initial, scratch) };
        });
    }

    /// Packs the whole right operand, the adapter's behind it, on all threads.
    fn pack_right(&self, packed: &mut [u16], scratch: &mut [f32]) {
        let total = self.steps() + self.rank().div_ceil(DEPTH);
        let (panels, each) =
            (packed.chunks_mut((total * STEP).max(1)).enumerate(), PIECE * SLAB * STEP / 2);
        share(panels, pieces(scratch, each, self.flop()), each, |(i, panel), _| {
            self.pack_panel(panel, i, 0..total);
        });
    }

    /// Some rows of the result on the calling thread; `scratch` has [`PIECE`] strips of a slab.
    ///
    /// # Safety
    /// The destination holds these rows, which nobody else touches.
    unsafe fn block(
        &self,
        target: Target<'_>,
        (rows, thin): (Range<usize>, &mut [f32]),
        (panels, downs): (Packed<'_>, &[u16]),
        initial: Initial<'_>,
        scratch: &mut [f32],
    ) {
        let (n, rank, session) = (self.right.n, self.rank(), Session::new(self.unit));
        let total = self.steps() + rank.div_ceil(DEPTH);
        let strips: &mut [u16] = bytemuck::cast_slice_mut(scratch);
        for range in slabs(total) {
            let each = range.len() * STEP;
            for (i, row) in rows.clone().step_by(BLOCK).enumerate() {
                let own = row..rows.end.min(row + BLOCK);
                let thin = &mut thin[(row - rows.start) * rank..][..own.len() * rank];
                let strip = &mut strips[i * each..][..each];
                self.pack_adapted(&session, strip, (own, range.clone()), thin, downs);
            }
            let strips = Packed { data: strips, each, first: 0 };
            let panels = Packed { first: range.start, ..panels };
            let start = starting(initial, 0, range.start);
            // SAFETY: the caller's promise.
            unsafe {
                multiply(&session, (strips, panels, range.len()), [rows.len(), n], target, start)
            };
        }
    }
}

/// What a slab starts from: the first from `initial`, the others from what is there.
fn starting(initial: Initial<'_>, column: usize, first: usize) -> Initial<'_> {
    match initial {
        _ if first > 0 => Initial::Old,
        Initial::Bias(b) => Initial::Bias(&b[column..]),
        other => other,
    }
}

/// The elements of scratch (f32) of one thread in [`Shared::rows`].
pub const BLOCK_SCRATCH: usize = PIECE * SLAB * STEP / 2;
/// Most rows of one call of [`Shared::rows`].
pub const BLOCK_ROWS: usize = PIECE * BLOCK;

/// A right operand that is packed once for many blocks of rows.
#[derive(Clone, Copy)]
pub struct Shared<'a> {
    unit: Unit,
    right: Unpacked<'a>,
    packed: &'a [u16],
}

impl<'a> Shared<'a> {
    /// Elements (f32) that `taps` times `len` times `n` elements take packed.
    pub fn len(taps: usize, len: usize, n: usize) -> usize {
        steps(taps, len).saturating_mul(n.div_ceil(BLOCK)).saturating_mul(STEP / 2)
    }

    /// Packs `right` into `to` on all threads; `tokens` is scratch, one piece a thread.
    pub fn new(unit: Unit, right: Unpacked<'a>, to: &'a mut [f32]) -> Self {
        use rayon::prelude::*;
        let each = steps(right.taps.count(), right.len) * STEP;
        let len = Self::len(right.taps.count(), right.len, right.n);
        let packed: &mut [u16] = bytemuck::cast_slice_mut(&mut to[..len]);
        if each > 0 {
            let panels = packed.par_chunks_exact_mut(each).enumerate();
            panels.for_each(|(i, panel)| {
                pack_columns(panel, &right, i * BLOCK, 0..each / STEP, Form::Panel);
            });
        }
        Self { unit, right, packed }
    }

    /// `out[i] = initial + sum over taps of left . right` for `count` rows on the calling thread.
    ///
    /// # Panics
    /// When an index or a buffer does not fit: a bug of the calling operation.
    pub fn rows(
        &self,
        (out, rows): (&mut [f32], Rows<'_>),
        left: Left<'_>,
        initial: Initial<'_>,
        count: usize,
        scratch: &mut [f32],
    ) {
        let n = self.right.n;
        let last = (0..count).filter_map(|i| index(rows, i)).max().map_or(0, |r| r + 1);
        assert!(last * n <= out.len(), "bf16: output");
        let target = Target { data: out.as_mut_ptr(), stride: n, rows, turned: false };
        let sum = Sum {
            unit: self.unit,
            left: Side::Rows(left),
            rows: count,
            right: self.right,
            adapter: None,
        };
        let each = steps(self.right.taps.count(), self.right.len) * STEP;
        let packed = Packed { data: self.packed, each, first: 0 };
        // SAFETY: every row was bounded, and the output is uniquely borrowed.
        unsafe { sum.block(target, (0..count, &mut []), (packed, &[]), initial, scratch) };
    }
}
