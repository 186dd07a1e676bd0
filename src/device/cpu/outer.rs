//! Sums of outer products: weight gradients of linear layers and convolutions.
//!
//! `out[i, (t, j)] = start + scale sum over p of a[p, first + i] left[t][p][j]`

use super::{
    lanes::LANES,
    product::{Left, Rows, ZEROS},
    tile::{PANEL, Seed, TILE_ROWS, Tile, tile},
};

/// Positions of one call of [`outer`]: a packed panel of 48 columns takes 48 KiB.
pub const OUTER_DEPTH: usize = 256;
/// Rows of the result of one call: with 256 positions they take 64 KiB packed.
pub const OUTER_ROWS: usize = 64;
/// Scratch elements of [`outer`].
pub const OUTER_SCRATCH_LEN: usize = OUTER_DEPTH * (OUTER_ROWS + PANEL);

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
    /// How many columns, at most [`OUTER_ROWS`].
    pub rows: usize,
    /// Factor on every element.
    pub scale: f32,
}

/// Adds `count <= OUTER_DEPTH` outer products to `out` (`a.rows` dense rows of `taps * len`), or
/// with
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
    let width = b.taps * b.len;
    assert!(count <= OUTER_DEPTH && a.rows <= OUTER_ROWS, "outer: too large a block");
    let out = &mut out[..a.rows * width];
    if count == 0 || out.is_empty() {
        if overwrite {
            out.fill(0.0);
        }
        return;
    }
    let (left, panel) = scratch[..OUTER_SCRATCH_LEN].split_at_mut(OUTER_DEPTH * OUTER_ROWS);
    pack_columns(left, a, count);
    for tap in 0..b.taps {
        for column in (0..b.len).step_by(PANEL) {
            let valid = (b.len - column).min(PANEL);
            pack_rows(panel, b, (tap, column, valid), count);
            for row in (0..a.rows).step_by(TILE_ROWS) {
                let rows = TILE_ROWS.min(a.rows - row);
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

/// Tiles of 8 columns, position after position.
fn pack_columns(to: &mut [f32], a: Columns<'_>, count: usize) {
    for row in (0..a.rows).step_by(TILE_ROWS) {
        let rows = TILE_ROWS.min(a.rows - row);
        let to = to[row * count..][..count * TILE_ROWS].chunks_exact_mut(TILE_ROWS);
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
        let left = &self.left[..self.count * TILE_ROWS];
        assert!(self.count * vectors * LANES <= self.panel.len(), "outer: panel");
        let mut a = [std::ptr::null(); TILE_ROWS];
        for (i, a) in a.iter_mut().enumerate() {
            *a = left[i..].as_ptr();
        }
        let mut t = Tile {
            a: &raw const a,
            segments: 1,
            len: self.count,
            step: TILE_ROWS,
            b: self.panel.as_ptr(),
            c: [std::ptr::null_mut(); TILE_ROWS],
            bias: std::ptr::null(),
            seed: if self.overwrite { Seed::Zero } else { Seed::Old },
        };
        let mut beside = [[0.0f32; PANEL]; TILE_ROWS];
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
        unsafe { tile(self.rows, vectors)(&t) };
        if !direct {
            for (i, from) in beside[..self.rows].iter().enumerate() {
                out[i * self.stride..][..self.valid].copy_from_slice(&from[..self.valid]);
            }
        }
    }
}
