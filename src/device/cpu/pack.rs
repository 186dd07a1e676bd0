//! Packing of the right operand into the panels that the tiles read.

use super::{
    elements::Elements,
    isa::Isa,
    lanes::{self, LANES},
    mat::Mat,
    tile::{LINE, fetch, tiles},
};
use rayon::prelude::*;
use std::ops::Range;

/// Elements of a packed right operand with `k` rows (all taps) and `n` columns.
pub fn packed_len(k: usize, n: usize) -> usize {
    k.saturating_mul(n.div_ceil(LANES) * LANES)
}

/// A right operand before packing: element `(tap t, k, column j)` is
/// `data[taps[t] * tap_stride + k * row_stride + j * column_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Unpacked<'a> {
    /// Storage.
    pub data: Elements<'a>,
    /// Which taps, in the order of the left operand's lists.
    pub taps: Taps<'a>,
    /// Elements from one tap to the next.
    pub tap_stride: usize,
    /// Rows of a tap.
    pub len: usize,
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Columns.
    pub n: usize,
    /// Elements from one column to the next.
    pub column_stride: usize,
    /// Factor on every element.
    pub scale: f32,
}

/// A list of taps.
#[derive(Clone, Copy, Debug)]
pub enum Taps<'a> {
    /// `0..count`.
    All(usize),
    /// These.
    Some(&'a [u32]),
}

impl Taps<'_> {
    /// How many.
    pub fn count(self) -> usize {
        match self {
            Taps::All(n) => n,
            Taps::Some(list) => list.len(),
        }
    }

    pub(super) fn get(self, i: usize) -> usize {
        match self {
            Taps::All(_) => i,
            Taps::Some(list) => list[i] as usize,
        }
    }
}

impl<'a> Unpacked<'a> {
    /// `scale m`, one tap.
    pub fn of(m: Mat<'a>, scale: f32) -> Self {
        Self {
            data: m.data.into(),
            taps: Taps::All(1),
            tap_stride: 0,
            len: m.rows,
            row_stride: m.row_stride,
            n: m.cols,
            column_stride: m.col_stride,
            scale,
        }
    }
}

impl Unpacked<'_> {
    /// Elements that [`pack`] writes.
    pub fn packed_len(&self) -> usize {
        packed_len(self.rows(), self.n)
    }

    /// Columns of a panel; fewer in the last one.
    pub fn panel(&self) -> usize {
        tiles().panel
    }

    /// `count` columns from `first` on.
    pub fn columns(&self, first: usize, count: usize) -> Self {
        Self { data: self.data.from(first * self.column_stride), n: count, ..*self }
    }

    /// Rows `k` of some taps.
    pub(super) fn part(&self, taps: Range<usize>, k: Range<usize>) -> Self {
        let (list, tap) = match self.taps {
            Taps::All(_) => (Taps::All(taps.len()), taps.start * self.tap_stride),
            Taps::Some(list) => (Taps::Some(&list[taps]), 0),
        };
        let data = self.data.from(tap + k.start * self.row_stride);
        Self { data, taps: list, len: k.len(), ..*self }
    }

    /// Asks for one of `parts` parts of what packing reads: while there is other work, memory need not be waited for.
    #[inline]
    pub fn fetch(&self, part: usize, parts: usize) {
        let along = self.row_stride == 1;
        let (count, len) = if along { (self.n, self.len) } else { (self.len, self.n) };
        let stride = if along { self.column_stride } else { self.row_stride };
        let lines = len.div_ceil(LINE);
        let each = count * lines;
        let all = each * self.taps.count();
        for line in part * all / parts..(part + 1) * all / parts {
            let (tap, line) = (self.taps.get(line / each), line % each);
            let at = tap * self.tap_stride + line / lines * stride + line % lines * LINE;
            fetch(self.data.address(at));
        }
    }

    /// Rows of a panel.
    pub(super) fn rows(&self) -> usize {
        self.taps.count() * self.len
    }
}

/// Elements below which packing stays on the calling thread.
const SPLIT_LEN: usize = 128 * 1024;

/// Writes the panels of `source`; columns beyond `n` are zero. On all threads when there is much.
pub fn pack(to: &mut [f32], source: &Unpacked<'_>) {
    let len = source.packed_len();
    if len < SPLIT_LEN {
        return pack_here(to, source);
    }
    let width = tiles().panel;
    let panels = to[..len].par_chunks_mut(source.rows() * width).enumerate();
    panels.for_each(|(i, panel)| pack_panel(panel, source, i * width));
}

/// As [`pack`], on the calling thread.
pub fn pack_here(to: &mut [f32], source: &Unpacked<'_>) {
    let (len, width) = (source.packed_len(), tiles().panel);
    if len > 0 {
        let panels = to[..len].chunks_mut(source.rows() * width).enumerate();
        panels.for_each(|(i, panel)| pack_panel(panel, source, i * width));
    }
}

fn pack_panel(to: &mut [f32], s: &Unpacked<'_>, column: usize) {
    let valid = (s.n - column).min(tiles().panel);
    let width = valid.div_ceil(LANES) * LANES;
    for tap in 0..s.taps.count() {
        let from = s.taps.get(tap) * s.tap_stride + column * s.column_stride;
        let to = &mut to[tap * s.len * width..][..s.len * width];
        if s.column_stride == 1 {
            for (k, row) in to.chunks_exact_mut(width).enumerate() {
                row[valid..].fill(0.0);
                s.data.widen(from + k * s.row_stride, &mut row[..valid]);
                if s.scale != 1.0 {
                    row[..valid].iter_mut().for_each(|v| *v *= s.scale);
                }
            }
        } else {
            transpose(to, s, from, valid, width);
        }
    }
}

/// As above where consecutive `k` are neighbours: blocks of 16 by 16.
fn transpose(to: &mut [f32], s: &Unpacked<'_>, from: usize, valid: usize, width: usize) {
    for lane in (0..width).step_by(LANES) {
        let columns = valid.saturating_sub(lane).min(LANES);
        for first in (0..s.len).step_by(LANES) {
            let count = LANES.min(s.len - first);
            let whole = columns == LANES && count == LANES && s.row_stride == 1;
            let at = from + lane * s.column_stride + first;
            if whole {
                let to = &mut to[first * width + lane..][..(LANES - 1) * width + LANES];
                let mut widened = [[0.0f32; LANES]; LANES];
                let from = if let Some(data) = s.data.f32() {
                    // one bound for the block: its last element
                    let from = &data[at..at + (LANES - 1) * s.column_stride + LANES];
                    (from.as_ptr(), s.column_stride)
                } else {
                    for (j, line) in widened.iter_mut().enumerate() {
                        s.data.widen(at + j * s.column_stride, line);
                    }
                    (widened.as_flattened().as_ptr(), LANES)
                };
                let to = (to.as_mut_ptr(), width);
                // SAFETY: both blocks were bounded, or lie here; the set in use was detected.
                unsafe { lanes::transpose(Isa::current(), from, to, s.scale) };
                continue;
            }
            let mut block = [[0.0f32; LANES]; LANES];
            for (j, block) in block[..columns].iter_mut().enumerate() {
                let at = from + (lane + j) * s.column_stride + first * s.row_stride;
                if s.row_stride == 1 {
                    s.data.widen(at, &mut block[..count]);
                } else {
                    for (k, v) in block[..count].iter_mut().enumerate() {
                        *v = s.data.get(at + k * s.row_stride);
                    }
                }
            }
            for k in 0..count {
                let to = &mut to[(first + k) * width + lane..][..LANES];
                for (j, v) in to.iter_mut().enumerate() {
                    *v = block[j][k] * s.scale;
                }
            }
        }
    }
}
