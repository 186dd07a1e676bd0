//! Sums of outer products: weight gradients of linear layers and convolutions.
//!
//! `out[i, (t, j)] = start + scale sum over p of a[p, first + i] left[t][p][j]`

use super::{
    lanes::LANES,
    product::{Left, Rows, ZEROS},
    tile::{MAX_PANEL, MAX_ROWS, Seed, Tile, tiles},
};

/// Positions of one call of [`outer`]: a packed panel of 48 columns takes 48 KiB, one of 16 columns 16 KiB.
pub const OUTER_DEPTH: usize = 256;
/// Most rows of the result of one call: with 256 positions they take 72 KiB packed.
const MAX_OUTER_ROWS: usize = 72;
/// Scratch elements of [`outer`].
pub const OUTER_SCRATCH_LEN: usize = OUTER_DEPTH * (MAX_OUTER_ROWS + MAX_PANEL);

/// Rows of a result with `rows` that one of `threads` threads takes at a time: whole tiles, at most 72.
pub fn outer_rows(rows: usize, threads: usize) -> usize {
    let tile = tiles().rows;
    rows.div_ceil(threads.max(1)).next_multiple_of(tile).clamp(tile, MAX_OUTER_ROWS / tile * tile)
}

/// Columns `first .. first + rows` of a dense matrix with `stride` columns, whose rows are
/// positions.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    /// Storage, from the first position of this call.
    pub data: &'a [f32],
    /// Elements from one position to the next.
    pub stride: usize,
    /// First column.
    pub first: usize,
    /// How many columns, at most what [`outer_rows`] gives.
    pub rows: usize,
    /// Factor on every element.
    pub scale: f32,
}

/// Adds `count <= OUTER_DEPTH` outer products to `out` (`a.rows` dense rows of `taps * len`), or with
/// `overwrite` starts from zero and never reads it. On the calling thread.
///
/// # Panics
/// When an index or a buffer does not fit: a bug of the calling operation.
pub fn outer(
    out: &mut [f32],
    a: Columns<'_>,
    b: Left<'_>,
    overwrite: bool,
    count: usize,
    scratch: &mut [f32],
) {
    let (width, tile) = (b.taps * b.len, tiles());
    assert!(count <= OUTER_DEPTH && a.rows <= MAX_OUTER_ROWS, "outer: too large a block");
    let out = &mut out[..a.rows * width];
    if count == 0 || out.is_empty() {
        if overwrite {
            out.fill(0.0);
        }
        return;
    }
    let (left, panel) = scratch[..OUTER_SCRATCH_LEN].split_at_mut(OUTER_DEPTH * MAX_OUTER_ROWS);
    pack_columns(left, a, count);
    for tap in 0..b.taps {
        for column in (0..b.len).step_by(tile.panel) {
            let valid = (b.len - column).min(tile.panel);
            pack_rows(panel, b, (tap, column, valid), count);
            for row in (0..a.rows).step_by(tile.rows) {
                let rows = tile.rows.min(a.rows - row);
                let t = OuterTile {
                    left: &left[row * count..],
                    panel,
                    count,
                    rows,
                    valid,
                    overwrite,
                    stride: width,
                };
                t.run(&mut out[row * width + tap * b.len + column..]);
            }
        }
    }
}

/// As many columns as a tile has rows, position after position.
fn pack_columns(to: &mut [f32], a: Columns<'_>, count: usize) {
    let tile = tiles().rows;
    for row in (0..a.rows).step_by(tile) {
        let rows = tile.min(a.rows - row);
        let to = to[row * count..][..count * tile].chunks_exact_mut(tile);
        for (p, to) in to.enumerate() {
            let from = &a.data[p * a.stride + a.first + row..][..rows];
            to.iter_mut().zip(from).for_each(|(t, f)| *t = f * a.scale);
        }
    }
}

fn pack_rows(
    to: &mut [f32],
    b: Left<'_>,
    (tap, column, valid): (usize, usize, usize),
    count: usize,
) {
    let width = valid.div_ceil(LANES) * LANES;
    for (p, to) in to.chunks_exact_mut(width).take(count).enumerate() {
        let row = match b.rows {
            Rows::From(first) => Some(first + p),
            Rows::At(at) => Some(at[tap * count + p]).filter(|r| *r != ZEROS).map(|r| r as usize),
        };
        match row {
            Some(r) => {
                to[..valid].copy_from_slice(&b.data[r * b.len + column..][..valid]);
                to[valid..].fill(0.0);
            }
            None => to.fill(0.0),
        }
    }
}

struct OuterTile<'a> {
    left: &'a [f32],
    panel: &'a [f32],
    count: usize,
    rows: usize,
    valid: usize,
    overwrite: bool,
    stride: usize,
}

impl OuterTile<'_> {
    fn run(&self, out: &mut [f32]) {
        let vectors = self.valid.div_ceil(LANES);
        let step = tiles().rows;
        let left = &self.left[..self.count * step];
        assert!(self.count * vectors * LANES <= self.panel.len(), "outer: panel");
        let mut a = [std::ptr::null(); MAX_ROWS];
        for (i, a) in a[..step].iter_mut().enumerate() {
            *a = left[i..].as_ptr();
        }
        let mut t = Tile {
            a: &raw const a,
            segments: 1,
            len: self.count,
            step,
            b: self.panel.as_ptr(),
            b_step: vectors * LANES,
            c: [std::ptr::null_mut(); MAX_ROWS],
            bias: std::ptr::null(),
            seed: if self.overwrite { Seed::Zero } else { Seed::Old },
        };
        let mut beside = [[0.0f32; MAX_PANEL]; MAX_ROWS];
        let direct = self.valid == vectors * LANES;
        for i in 0..self.rows {
            let row = &mut out[i * self.stride..][..self.valid];
            if direct {
                t.c[i] = row.as_mut_ptr();
            } else {
                if !self.overwrite {
                    beside[i][..self.valid].copy_from_slice(row);
                }
                t.c[i] = beside[i].as_mut_ptr();
            }
        }
        // SAFETY: the left block and the panel were bounded above; rows of c hold `valid` columns,
        // which fill the vectors, or lie beside.
        unsafe { tiles().get(self.rows, vectors)(&t) };
        if !direct {
            for (i, from) in beside[..self.rows].iter().enumerate() {
                out[i * self.stride..][..self.valid].copy_from_slice(&from[..self.valid]);
            }
        }
    }
}
