//! Products of rows that lie anywhere with a packed right operand: linear layers and convolutions.
//!
//! `c[i] = seed + sum over taps t of left[t][i] . right[t]`, where `left[t][i]` is a row of a
//! matrix found by index, or zeros. A linear layer has one tap; a convolution has one for each kernel
//! position and reads the image where it lies.

use super::{
    lanes::LANES,
    tile::{MAX_DEPTH, MAX_PANEL, MAX_ROWS, Seed, Tile, tiles},
};

/// The row of zeros.
pub const ZEROS: u32 = u32::MAX;

static ZERO_ROW: [f32; MAX_DEPTH] = [0.0; MAX_DEPTH];

/// Most segments of a tile when the taps are short.
const SEGMENTS: usize = 64;

/// Which rows of a matrix, in which order.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// Consecutive rows from a first one.
    From(usize),
    /// Row numbers; [`ZEROS`] is a row of zeros. Tap-major: `[taps][count]`.
    At(&'a [u32]),
}

/// The left operand: `taps` lists of `count` rows of `data`.
#[derive(Clone, Copy, Debug)]
pub struct Left<'a> {
    /// Dense rows of `len` elements.
    pub data: &'a [f32],
    /// Elements of a row.
    pub len: usize,
    /// The rows of every tap.
    pub rows: Rows<'a>,
    /// Lists of rows.
    pub taps: usize,
}

/// The right operand as [`super::pack`] writes it: panels as wide as the tiles of this machine, the last
/// one as many times 16 columns as are left.
#[derive(Clone, Copy, Debug)]
pub struct Right<'a> {
    /// `packed_len(k, n)` elements.
    pub data: &'a [f32],
    /// Columns.
    pub n: usize,
}

/// Elements of a packed right operand with `k` rows (all taps) and `n` columns.
pub fn packed_len(k: usize, n: usize) -> usize {
    k.saturating_mul(n.div_ceil(LANES) * LANES)
}

/// The destination: rows of `n` elements.
#[derive(Debug)]
pub struct Out<'a> {
    /// Dense rows of `n` elements.
    pub data: &'a mut [f32],
    /// The rows to write, all different.
    pub rows: Rows<'a>,
}

/// What the sums start from.
#[derive(Clone, Copy, Debug)]
pub enum Initial<'a> {
    /// Zero; the old content is never read.
    Zero,
    /// The old content.
    Old,
    /// A bias of `n` elements.
    Bias(&'a [f32]),
}

/// `out[i] = initial + sum over taps of left . right` for `count` rows, on the calling thread.
///
/// # Panics
/// When an index or a buffer does not fit: a bug of the calling operation.
pub fn product(
    mut out: Out<'_>,
    left: Left<'_>,
    right: Right<'_>,
    initial: Initial<'_>,
    count: usize,
) {
    let (n, len) = (right.n, left.len);
    if count == 0 || n == 0 {
        return;
    }
    check(&out, &left, &right, initial, count);
    if len == 0 || left.taps == 0 {
        return fill(&mut out, initial, n, count);
    }
    let mut first = true;
    let mut depth = |taps: std::ops::Range<usize>, k: std::ops::Range<usize>| {
        let seed = match (first, initial) {
            (true, Initial::Zero) => Seed::Zero,
            (true, Initial::Bias(_)) => Seed::Bias,
            _ => Seed::Old,
        };
        first = false;
        let bias = if let Initial::Bias(b) = initial { b } else { &[] };
        slab(&mut out, &left, &right, &Slab { taps, k, seed, bias, count });
    };
    let most = tiles().depth;
    if len <= most {
        let group = (most / len).min(SEGMENTS);
        let mut tap = 0;
        while tap < left.taps {
            depth(tap..(tap + group).min(left.taps), 0..len);
            tap += group;
        }
        return;
    }
    let step = len.div_ceil(len.div_ceil(most));
    for tap in 0..left.taps {
        for k in (0..len).step_by(step) {
            depth(tap..tap + 1, k..(k + step).min(len));
        }
    }
}

/// A part of the sum for all rows and columns.
struct Slab<'a> {
    taps: std::ops::Range<usize>,
    k: std::ops::Range<usize>,
    seed: Seed,
    bias: &'a [f32],
    count: usize,
}

fn slab(out: &mut Out<'_>, left: &Left<'_>, right: &Right<'_>, s: &Slab<'_>) {
    let (n, total) = (right.n, left.taps * left.len);
    let (depth, tiles) = (s.k.len(), tiles());
    let mut a = [[std::ptr::null(); MAX_ROWS]; SEGMENTS];
    for column in (0..n).step_by(tiles.panel) {
        let vectors = (n - column).min(tiles.panel).div_ceil(LANES);
        // the panel starts after `column` full columns of all k
        let skip = (s.taps.start * left.len + s.k.start) * vectors * LANES;
        let b = right.data[column * total + skip..].as_ptr();
        for row in (0..s.count).step_by(tiles.rows) {
            let rows = tiles.rows.min(s.count - row);
            for (segment, tap) in s.taps.clone().enumerate() {
                for (i, a) in a[segment][..rows].iter_mut().enumerate() {
                    *a = match index(left.rows, tap * s.count + row + i) {
                        Some(r) => left.data[r * left.len + s.k.start..].as_ptr(),
                        None => ZERO_ROW.as_ptr(),
                    };
                }
            }
            let t = Tile {
                a: a.as_ptr(),
                segments: s.taps.len(),
                len: depth,
                step: 1,
                b,
                b_step: vectors * LANES,
                c: [std::ptr::null_mut(); MAX_ROWS],
                bias: s.bias.get(column..).unwrap_or_default().as_ptr(),
                seed: s.seed,
            };
            place(out, t, s, (row, rows), (column, n), vectors);
        }
    }
}

/// Runs a tile on the destination, or beside it where the last columns do not fill a vector.
fn place(
    out: &mut Out<'_>,
    mut t: Tile,
    s: &Slab<'_>,
    (row, rows): (usize, usize),
    (column, n): (usize, usize),
    vectors: usize,
) {
    let width = (n - column).min(vectors * LANES);
    let at = |i: usize| index(out.rows, row + i).unwrap_or(0) * n + column;
    if width == vectors * LANES {
        for i in 0..rows {
            t.c[i] = out.data[at(i)..].as_mut_ptr();
        }
        // SAFETY: `check` bounded every row of the left operand, of the right one and of the
        // output.
        unsafe { tiles().get(rows, vectors)(&t) };
        return;
    }
    let mut beside = [[0.0f32; MAX_PANEL]; MAX_ROWS];
    for (i, to) in beside[..rows].iter_mut().enumerate() {
        match s.seed {
            Seed::Zero => {}
            Seed::Old => to[..width].copy_from_slice(&out.data[at(i)..][..width]),
            Seed::Bias => to[..width].copy_from_slice(&s.bias[column..][..width]),
        }
        t.c[i] = to.as_mut_ptr();
    }
    t.seed = Seed::Old;
    // SAFETY: as above; the rows beside hold a full panel.
    unsafe { tiles().get(rows, vectors)(&t) };
    for (i, from) in beside[..rows].iter().enumerate() {
        let to = at(i);
        out.data[to..][..width].copy_from_slice(&from[..width]);
    }
}

fn index(rows: Rows<'_>, i: usize) -> Option<usize> {
    match rows {
        Rows::From(first) => Some(first + i),
        Rows::At(at) => (at[i] != ZEROS).then_some(at[i] as usize),
    }
}

fn fill(out: &mut Out<'_>, initial: Initial<'_>, n: usize, count: usize) {
    for i in 0..count {
        let at = index(out.rows, i).unwrap_or(0) * n;
        let to = &mut out.data[at..at + n];
        match initial {
            Initial::Zero => to.fill(0.0),
            Initial::Old => {}
            Initial::Bias(b) => to.copy_from_slice(b),
        }
    }
}

/// Every element the tiles touch is inside its buffer.
fn check(out: &Out<'_>, left: &Left<'_>, right: &Right<'_>, initial: Initial<'_>, count: usize) {
    let fits = |rows: Rows<'_>, count: usize, len: usize, have: usize| match rows {
        Rows::From(first) => (first + count) * len <= have,
        Rows::At(at) => {
            let last = at[..count].iter().filter(|r| **r != ZEROS).max();
            last.is_none_or(|r| (*r as usize + 1) * len <= have)
        }
    };
    let listed = match left.rows {
        Rows::From(_) => left.taps <= 1,
        Rows::At(_) => true,
    };
    assert!(listed, "product: several taps need a list of rows");
    let rows = count * left.taps;
    assert!(fits(left.rows, rows, left.len, left.data.len()), "product: left operand");
    assert!(fits(out.rows, count, right.n, out.data.len()), "product: output");
    let packed = packed_len(left.taps * left.len, right.n);
    assert!(packed <= right.data.len(), "product: right operand");
    if let Initial::Bias(b) = initial {
        assert!(b.len() >= right.n, "product: bias");
    }
}
