//! The three transforms: of the kernel, of the image, and of the products.

use super::grid::{Grid, SIDE, position};
use crate::device::cpu::{Initial, Unpacked, pack_here, wide};
use std::ops::Range;

/// Elements of the kernel that are transformed while they are in the first-level cache.
const PIECE: usize = 256;

/// `G g G^T` of every pair of channels: the panels of all positions, one position after the other. `scratch` holds the
/// packed kernel before it.
pub fn transform_kernel(to: &mut [f32], kernel: &Unpacked<'_>, scratch: &mut [f32]) {
    let scratch = &mut scratch[..kernel.packed_len()];
    pack_here(scratch, kernel);
    // a panel holds nine taps one after the other, and becomes one panel of each position
    let (position, mut at) = (kernel.packed_len() / 9, 0);
    for panel in scratch.chunks(9 * kernel.len * kernel.panel()) {
        let len = panel.len() / 9;
        wide(
            #[inline(always)]
            || transform_panel(to, panel, (position, at, len)),
        );
        at += len;
    }
}

/// Row `i` of `G`.
const G: [[f32; 3]; SIDE] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];

#[inline(always)]
fn transform_panel(to: &mut [f32], taps: &[f32], (position, at, len): (usize, usize, usize)) {
    for first in (0..len).step_by(PIECE) {
        let count = PIECE.min(len - first);
        let tap = |u: usize, v: usize| &taps[(3 * u + v) * len + first..][..count];
        for (i, vertical) in G.into_iter().enumerate() {
            let mut rows = [[0.0f32; PIECE]; 3];
            for (v, row) in rows.iter_mut().enumerate() {
                weigh(&mut row[..count], [tap(0, v), tap(1, v), tap(2, v)], vertical);
            }
            let [a, b, c] = rows.each_ref().map(|r| &r[..count]);
            for (j, horizontal) in G.into_iter().enumerate() {
                let to = &mut to[(SIDE * i + j) * position + at + first..][..count];
                weigh(to, [a, b, c], horizontal);
            }
        }
    }
}

/// `to = sum of weights times from`; outer weights alone stand for rows of `G` that copy.
#[inline(always)]
fn weigh(to: &mut [f32], [a, b, c]: [&[f32]; 3], weights: [f32; 3]) {
    match weights {
        [1.0, 0.0, 0.0] => to.copy_from_slice(a),
        [0.0, 0.0, 1.0] => to.copy_from_slice(c),
        [x, y, z] => {
            let n = to.len();
            let (a, b, c) = (&a[..n], &b[..n], &c[..n]);
            for k in 0..n {
                to[k] = x * a[k] + y * b[k] + z * c[k];
            }
        }
    }
}

/// Tiles that are transformed together: `columns` of every one of `rows`.
#[derive(Clone, Debug)]
pub struct Block<'a> {
    /// Of which convolution.
    pub of: &'a Grid,
    /// Rows of tiles, of all pictures.
    pub rows: Range<usize>,
    /// Tiles of each of them.
    pub columns: Range<usize>,
}

impl Block<'_> {
    /// How many tiles.
    pub fn tiles(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    /// Elements of a row of pixels under `columns` tiles.
    pub fn pixels(columns: usize, channels: usize) -> usize {
        (2 * columns + 2).saturating_mul(channels)
    }

    /// `B^T d B` of some channels of every tile, position by position; `pixels` is scratch.
    pub fn transform(
        &self,
        v: &mut [f32],
        pixels: &mut [f32],
        data: &[f32],
        channels: Range<usize>,
    ) {
        let pixels = &mut pixels[..Self::pixels(self.columns.len(), channels.len())];
        wide(
            #[inline(always)]
            || self.transform_tiles(v, pixels, data, channels),
        );
    }

    /// `A^T m A` of every tile: `initial` and the `channels` of its two by two outputs into the strip of its rows.
    /// `first` is the block's first tile in `m`, of `among` tiles.
    pub fn finish(
        &self,
        out: &mut [f32],
        (m, first, among): (&[f32], usize, usize),
        channels: Range<usize>,
        initial: Initial<'_>,
    ) {
        let initial = match initial {
            Initial::Bias(b) => Initial::Bias(&b[channels.clone()]),
            other => other,
        };
        wide(
            #[inline(always)]
            || self.read_off(out, (m, first, among), channels, initial),
        );
    }

    /// `B^T d B` of every tile, position by position.
    #[inline(always)]
    fn transform_tiles(
        &self,
        v: &mut [f32],
        pixels: &mut [f32],
        data: &[f32],
        channels: Range<usize>,
    ) {
        let c = channels.len();
        let (position, across) = (position(self.tiles(), c), self.columns.len());
        for (r, row) in self.rows.clone().enumerate() {
            for i in 0..SIDE {
                self.combine_rows(pixels, data, (row, i), &channels);
                for t in 0..across {
                    let pixel = |j: usize| &pixels[(2 * t + j) * c..][..c];
                    let at = (r * across + t) * c;
                    for (j, (a, b)) in [(0, 2), (1, 2), (2, 1), (1, 3)].into_iter().enumerate() {
                        let to = &mut v[(SIDE * i + j) * position + at..][..c];
                        if j == 1 {
                            add(to, pixel(a), pixel(b));
                        } else {
                            subtract(to, pixel(a), pixel(b));
                        }
                    }
                }
            }
        }
    }

    /// Row `i` of `B^T d` for the pixels under a row of tiles: `d0 - d2`, `d1 + d2`, `d2 - d1`, `d1 - d3`.
    #[inline(always)]
    fn combine_rows(
        &self,
        pixels: &mut [f32],
        data: &[f32],
        (row, i): (usize, usize),
        channels: &Range<usize>,
    ) {
        let Grid { source: [h, w, c], zoom, pad: [top, left], .. } = *self.of;
        let rows = self.of.result[0].div_ceil(2);
        let (image, y) = (row / rows, 2 * (row % rows));
        let line = |u: usize| {
            let at = (y + u).checked_sub(top)? / zoom;
            (at < h).then(|| &data[(image * h + at) * w * c..][..w * c])
        };
        let (a, b, sign) = match i {
            0 => (line(0), line(2), -1.0),
            1 => (line(1), line(2), 1.0),
            2 => (line(2), line(1), -1.0),
            _ => (line(1), line(3), -1.0),
        };
        for (x, to) in pixels.chunks_exact_mut(channels.len()).enumerate() {
            let at = (2 * self.columns.start + x).checked_sub(left).map(|x| x / zoom);
            let Some(at) = at.filter(|x| *x < w) else {
                to.fill(0.0);
                continue;
            };
            match (
                a.map(|a| &a[at * c..][channels.clone()]),
                b.map(|b| &b[at * c..][channels.clone()]),
            ) {
                (Some(a), Some(b)) if sign > 0.0 => add(to, a, b),
                (Some(a), Some(b)) => subtract(to, a, b),
                (Some(a), None) => to.copy_from_slice(a),
                (None, Some(b)) => to.iter_mut().zip(b).for_each(|(to, b)| *to = sign * b),
                (None, None) => to.fill(0.0),
            }
        }
    }

    /// `A^T m A` of every tile: the `channels` of its two by two outputs.
    #[inline(always)]
    fn read_off(
        &self,
        out: &mut [f32],
        (m, first, among): (&[f32], usize, usize),
        channels: Range<usize>,
        initial: Initial<'_>,
    ) {
        let ([high, wide, n], fold) = (self.of.result, self.of.fold);
        let (across, width) = (self.columns.len(), channels.len());
        let position = position(among, width);
        let mut top = 0;
        for (r, row) in self.rows.clone().enumerate() {
            let y = 2 * (row % high.div_ceil(2));
            for (t, column) in self.columns.clone().enumerate() {
                let at = (first + r * across + t) * width;
                let m = |p: usize| &m[p * position + at..][..width];
                let outputs = [(0, 0), (0, 1), (1, 0), (1, 1)];
                let there = |(i, j): &(usize, usize)| y + i < high && 2 * column + j < wide;
                for (i, j) in outputs.into_iter().filter(there) {
                    let (down, right) = if fold { (0, column) } else { (i, 2 * column + j) };
                    let pixel = (top + down) * self.of.width() + right;
                    let to = &mut out[pixel * n..][channels.clone()];
                    let initial = if fold && i + j > 0 { Initial::Old } else { initial };
                    let rows = [i, i + 1, i + 2].map(|i| [0, 1, 2].map(|k| m(SIDE * i + j + k)));
                    match (i, j) {
                        (0, 0) => sum::<false, false>(to, rows, initial),
                        (0, _) => sum::<false, true>(to, rows, initial),
                        (_, 0) => sum::<true, false>(to, rows, initial),
                        _ => sum::<true, true>(to, rows, initial),
                    }
                }
            }
            top += self.of.height(row..row + 1);
        }
    }
}

/// `to = a + b`.
#[inline(always)]
fn add(to: &mut [f32], a: &[f32], b: &[f32]) {
    to.iter_mut().zip(a).zip(b).for_each(|((to, a), b)| *to = a + b);
}

/// `to = a - b`.
#[inline(always)]
fn subtract(to: &mut [f32], a: &[f32], b: &[f32]) {
    to.iter_mut().zip(a).zip(b).for_each(|((to, a), b)| *to = a - b);
}

/// One output of a tile: the nine products, those of the later rows (`DOWN`) and columns (`RIGHT`) subtracted.
#[inline(always)]
fn sum<const DOWN: bool, const RIGHT: bool>(
    to: &mut [f32],
    m: [[&[f32]; 3]; 3],
    initial: Initial<'_>,
) {
    let n = to.len();
    let m = m.map(|row| row.map(|m| &m[..n]));
    let along = |minus: bool, a: f32, b: f32, c: f32| if minus { a - b - c } else { a + b + c };
    let value = |k: usize| {
        let row = |i: usize| along(RIGHT, m[i][0][k], m[i][1][k], m[i][2][k]);
        along(DOWN, row(0), row(1), row(2))
    };
    match initial {
        Initial::Zero => (0..n).for_each(|k| to[k] = value(k)),
        Initial::Old => (0..n).for_each(|k| to[k] += value(k)),
        Initial::Bias(b) => {
            let b = &b[..n];
            (0..n).for_each(|k| to[k] = b[k] + value(k));
        }
    }
}
