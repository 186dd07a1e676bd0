//! Products of rows that lie anywhere with a packed right operand: linear layers and convolutions.
//!
//! `c[i] = seed + sum over taps t of left[t][i] . right[t]`, where `left[t][i]` is a row of a
//! matrix found by index, or zeros. A linear layer has one tap; a convolution has one for each kernel
//! position and reads the image where it lies.

use super::{
    lanes::LANES,
    pack::{Unpacked, pack_here, packed_len},
    tile::{LINE, MAX_DEPTH, MAX_PANEL, MAX_ROWS, Seed, Tile, fetch, tiles},
};
use std::ops::Range;

/// The row of zeros.
pub const ZEROS: u32 = u32::MAX;

/// Columns whose sums are finished before the next ones begin: whole panels of 48 and of 16, 180 KiB of a
/// destination with 240 rows.
const GROUP: usize = 192;

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

/// The destination: rows of `n` elements.
#[derive(Debug)]
pub struct Out<'a> {
    /// Dense rows of `n` elements.
    pub data: &'a mut [f32],
    /// The rows to write, all different.
    pub rows: Rows<'a>,
}

impl<'a> Out<'a> {
    /// Row after row.
    pub fn dense(data: &'a mut [f32]) -> Self {
        Self { data, rows: Rows::From(0) }
    }
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
pub fn product(out: Out<'_>, left: Left<'_>, right: Right<'_>, initial: Initial<'_>, count: usize) {
    let (n, have) = (right.n, out.data.len());
    assert!(fits(out.rows, count, n, have), "product: output");
    let target = Target { data: out.data.as_mut_ptr(), stride: n, rows: out.rows };
    // SAFETY: the output, uniquely borrowed, holds all rows.
    unsafe { product_into(target, left, right, initial, count) };
}

/// Where sums go: the first column of row 0, and the elements from one row to the next.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub data: *mut f32,
    pub stride: usize,
    pub rows: Rows<'a>,
}

impl Target<'_> {
    /// Column `column` of the row for result `i`.
    ///
    /// # Safety
    /// As [`product_into`].
    unsafe fn at(&self, i: usize, column: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.data.add(index(self.rows, i).unwrap_or(0) * self.stride + column) }
    }
}

/// [`product`] with a destination whose rows may lie apart.
///
/// # Safety
/// `right.n` columns of every row of `out` are valid, and nobody else reads or writes them meanwhile.
///
/// # Panics
/// When the operands do not fit: a bug of the calling operation.
pub(super) unsafe fn product_into(
    mut out: Target<'_>,
    left: Left<'_>,
    right: Right<'_>,
    initial: Initial<'_>,
    count: usize,
) {
    let packed = packed_len(left.taps * left.len, right.n);
    assert!(packed <= right.data.len(), "product: right operand");
    let groups = (0..right.n).step_by(GROUP).map(|first| first..right.n.min(first + GROUP));
    for columns in groups {
        let within = Group { columns, n: right.n, count };
        within.sum(&mut out, &left, Panels::All(right.data), initial);
    }
}

/// Scratch elements of [`product_packing`] with `n` columns: so much of the right operand is packed at a time.
pub(super) fn slab_len(n: usize) -> usize {
    packed_len(MAX_DEPTH, n)
}

/// [`product_into`] with a right operand that is packed slab by slab, each used by all rows at once.
///
/// # Safety
/// As [`product_into`].
///
/// # Panics
/// When the operands do not fit: a bug of the calling operation.
pub(super) unsafe fn product_packing(
    mut out: Target<'_>,
    left: Left<'_>,
    right: &Unpacked<'_>,
    initial: Initial<'_>,
    (count, scratch): (usize, &mut [f32]),
) {
    assert!(left.taps * left.len == right.rows(), "product: right operand");
    assert!(slab_len(right.n) <= scratch.len(), "product: scratch");
    let within = Group { columns: 0..right.n, n: right.n, count };
    within.sum(&mut out, &left, Panels::Here(right, scratch), initial);
}

/// Taps and `k` of a slab.
type NextSlab = (Range<usize>, Range<usize>);

/// Where the panels come from.
enum Panels<'a> {
    /// All of them are packed.
    All(&'a [f32]),
    /// Those of a slab are packed before it, into scratch.
    Here(&'a Unpacked<'a>, &'a mut [f32]),
}

/// Columns whose sums are finished before others begin, of all `n`, and the rows.
struct Group {
    columns: Range<usize>,
    n: usize,
    count: usize,
}

impl Group {
    /// All of the sum: the group's part of the destination stays in the second-level cache.
    fn sum(
        &self,
        out: &mut Target<'_>,
        left: &Left<'_>,
        mut panels: Panels<'_>,
        initial: Initial<'_>,
    ) {
        let (n, len) = (self.n, left.len);
        if self.count == 0 || n == 0 {
            return;
        }
        check(left, initial, (n, self.count));
        if len == 0 || left.taps == 0 {
            return fill(out, initial, &self.columns, self.count);
        }
        let mut first = true;
        let mut depth = |taps: Range<usize>, k: Range<usize>, next: Option<NextSlab>| {
            let seed = match (first, initial) {
                (true, Initial::Zero) => Seed::Zero,
                (true, Initial::Bias(_)) => Seed::Bias,
                _ => Seed::Old,
            };
            first = false;
            let bias = if let Initial::Bias(b) = initial { b } else { &[] };
            let rows = taps.len() * k.len();
            let mut ahead = None;
            let right = match &mut panels {
                Panels::All(data) => {
                    // a panel starts after the columns before it, of all k
                    let skip = taps.start * len + k.start;
                    Packed { data, rows: left.taps * len, skip, first: 0 }
                }
                Panels::Here(source, scratch) => {
                    ahead = next.map(|(taps, k)| source.part(taps, k));
                    let source = source.part(taps.clone(), k.clone());
                    let scratch = &mut scratch[..source.packed_len()];
                    pack_here(scratch, &source);
                    Packed { data: scratch, rows, skip: 0, first: self.columns.start }
                }
            };
            let ahead = ahead.as_ref();
            slab(out, left, &right, &Slab { taps, k, within: self, seed, bias, ahead });
        };
        let most = tiles().depth;
        if len <= most {
            let group = (most / len).min(SEGMENTS);
            let taps = |tap: usize| tap..(tap + group).min(left.taps);
            for tap in (0..left.taps).step_by(group) {
                let next = tap + group;
                depth(taps(tap), 0..len, (next < left.taps).then(|| (taps(next), 0..len)));
            }
            return;
        }
        let step = len.div_ceil(len.div_ceil(most));
        let mut slabs = (0..left.taps)
            .flat_map(|tap| {
                (0..len).step_by(step).map(move |k| (tap..tap + 1, k..(k + step).min(len)))
            })
            .peekable();
        while let Some((taps, k)) = slabs.next() {
            depth(taps, k, slabs.peek().cloned());
        }
    }
}

/// The panels of a slab, from column `first`: `rows` rows each, of which the slab's begin after `skip`.
struct Packed<'a> {
    data: &'a [f32],
    rows: usize,
    skip: usize,
    first: usize,
}

/// A part of the sum for all rows of a group of columns.
struct Slab<'a> {
    taps: Range<usize>,
    k: Range<usize>,
    within: &'a Group,
    seed: Seed,
    bias: &'a [f32],
    /// What is packed next.
    ahead: Option<&'a Unpacked<'a>>,
}

fn slab(out: &mut Target<'_>, left: &Left<'_>, right: &Packed<'_>, s: &Slab<'_>) {
    let &Group { ref columns, n, count } = s.within;
    let (depth, tiles) = (s.k.len(), tiles());
    // rows of a convolution were read by the taps before
    let more = left.taps == 1 && s.k.end < left.len;
    let lines = if more { depth.div_ceil(LINE) } else { 0 };
    let panels = columns.len().div_ceil(tiles.panel);
    let mut a = [[std::ptr::null(); MAX_ROWS]; SEGMENTS];
    for (panel, column) in columns.clone().step_by(tiles.panel).enumerate() {
        let vectors = (n - column).min(tiles.panel).div_ceil(LANES);
        let skip = (column - right.first) * right.rows + right.skip * vectors * LANES;
        let b = right.data[skip..].as_ptr();
        // a share of what the rows hold for the next slab
        let ahead = panel * lines / panels..(panel + 1) * lines / panels;
        for row in (0..count).step_by(tiles.rows) {
            let rows = tiles.rows.min(count - row);
            if let Some(source) = s.ahead {
                let heights = count.div_ceil(tiles.rows);
                source.fetch(panel * heights + row / tiles.rows, panels * heights);
            }
            for (segment, tap) in s.taps.clone().enumerate() {
                for (i, a) in a[segment][..rows].iter_mut().enumerate() {
                    *a = match index(left.rows, tap * count + row + i) {
                        Some(r) => left.data[r * left.len + s.k.start..].as_ptr(),
                        None => ZERO_ROW.as_ptr(),
                    };
                }
            }
            for line in ahead.clone() {
                a[0][..rows].iter().for_each(|a| fetch(a.wrapping_add(depth + line * LINE)));
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
    out: &Target<'_>,
    mut t: Tile,
    s: &Slab<'_>,
    (row, rows): (usize, usize),
    (column, n): (usize, usize),
    vectors: usize,
) {
    let width = (n - column).min(vectors * LANES);
    for i in 0..rows {
        // SAFETY: `product_into`'s caller promised every row and column.
        t.c[i] = unsafe { out.at(row + i, column) };
    }
    if width == vectors * LANES {
        // SAFETY: `check` bounded every row of the left operand and the right one; the output as above.
        unsafe { tiles().get(rows, vectors)(&t) };
        return;
    }
    let own = t.c;
    let mut beside = [[0.0f32; MAX_PANEL]; MAX_ROWS];
    for (i, to) in beside[..rows].iter_mut().enumerate() {
        match s.seed {
            Seed::Zero => {}
            // SAFETY: `width` columns of the row, as above.
            Seed::Old => unsafe { to.as_mut_ptr().copy_from_nonoverlapping(own[i], width) },
            Seed::Bias => to[..width].copy_from_slice(&s.bias[column..][..width]),
        }
        t.c[i] = to.as_mut_ptr();
    }
    t.seed = Seed::Old;
    // SAFETY: as above; the rows beside hold a full panel.
    unsafe { tiles().get(rows, vectors)(&t) };
    for (i, from) in beside[..rows].iter().enumerate() {
        // SAFETY: as above.
        unsafe { own[i].copy_from_nonoverlapping(from.as_ptr(), width) };
    }
}

/// The row for number `i`; `None` for one of zeros.
pub(super) fn index(rows: Rows<'_>, i: usize) -> Option<usize> {
    match rows {
        Rows::From(first) => Some(first + i),
        Rows::At(at) => (at[i] != ZEROS).then_some(at[i] as usize),
    }
}

fn fill(out: &mut Target<'_>, initial: Initial<'_>, columns: &Range<usize>, count: usize) {
    for i in 0..count {
        // SAFETY: `product_into`'s caller promised every row and column.
        let to = unsafe { std::slice::from_raw_parts_mut(out.at(i, columns.start), columns.len()) };
        match initial {
            Initial::Zero => to.fill(0.0),
            Initial::Old => {}
            Initial::Bias(b) => to.copy_from_slice(&b[columns.clone()]),
        }
    }
}

/// Whether `count` rows of `len` elements are among `have` elements.
fn fits(rows: Rows<'_>, count: usize, len: usize, have: usize) -> bool {
    match rows {
        Rows::From(first) => (first + count) * len <= have,
        Rows::At(at) => {
            let last = at[..count].iter().filter(|r| **r != ZEROS).max();
            last.is_none_or(|r| (*r as usize + 1) * len <= have)
        }
    }
}

/// Every element of the left operand and the bias that the tiles touch is inside its buffer.
fn check(left: &Left<'_>, initial: Initial<'_>, (n, count): (usize, usize)) {
    let listed = match left.rows {
        Rows::From(_) => left.taps <= 1,
        Rows::At(_) => true,
    };
    assert!(listed, "product: several taps need a list of rows");
    let rows = count * left.taps;
    assert!(fits(left.rows, rows, left.len, left.data.len()), "product: left operand");
    if let Initial::Bias(b) = initial {
        assert!(b.len() >= n, "product: bias");
    }
}
