//! Many tiles: the whole kernel is transformed first, then every thread takes strips of the result.

use super::{
    grid::{Grid, POSITIONS, kernel_len, position, positions},
    transform::{Block, transform_kernel},
};
use crate::device::cpu::{
    Initial, Left, Out, Right, Rows, Unpacked, packed_len, pieces, pool_size, product, share,
};

/// Most tiles whose transforms wait in the second-level cache.
const TILES: usize = 48;
/// Output channels whose products wait there: whole panels on every instruction set.
const GROUP: usize = 96;

/// Rows of tiles of one piece of work: at least two pieces a thread.
fn strip(grid: &Grid) -> usize {
    let pieces = grid.tiles().div_ceil(TILES).next_multiple_of(pool_size());
    grid.rows().div_ceil(pieces.max(2 * pool_size())).max(1)
}

/// Rows and columns of the tiles that are transformed together.
fn block(grid: &Grid) -> [usize; 2] {
    let across = grid.across();
    let rows = (TILES / across.max(1)).clamp(1, strip(grid));
    [rows, across.div_ceil(across.div_ceil(TILES).max(1))]
}

/// Of the transformed tiles (or a part of the kernel before its transform), their products, and a row of pixels.
fn parts(grid: &Grid) -> [usize; 3] {
    let ([rows, columns], c) = (block(grid), grid.inputs());
    let kernel = packed_len(c, GROUP).saturating_mul(9);
    let tiles = positions(rows * columns, c).max(kernel);
    [tiles, positions(rows * columns, GROUP), Block::pixels(columns, c)]
}

fn piece(grid: &Grid) -> usize {
    parts(grid).into_iter().fold(0, usize::saturating_add)
}

/// Elements of scratch.
pub fn scratch(grid: &Grid) -> usize {
    let kernel = kernel_len(grid.inputs(), grid.outputs());
    kernel.saturating_add(piece(grid).saturating_mul(pool_size()))
}

/// `out = initial + convolution of data with the kernel`.
pub fn run(
    grid: &Grid,
    out: &mut [f32],
    data: &[f32],
    kernel: &Unpacked<'_>,
    initial: Initial<'_>,
    scratch: &mut [f32],
) {
    let (c, n, piece) = (grid.inputs(), grid.outputs(), piece(grid));
    let (transformed, scratch) = scratch.split_at_mut(kernel_len(c, n));
    let scratch = pieces(scratch, piece, grid.flop());
    let groups = transformed.chunks_mut(kernel_len(c, GROUP)).enumerate();
    share(groups, scratch, piece, |(i, to), scratch| {
        let first = i * GROUP;
        let part = kernel.columns(first, GROUP.min(n - first));
        transform_kernel(to, &part, scratch);
    });
    let transformed = &*transformed;
    let [height, width] = block(grid);
    share(grid.strips(out, strip(grid)), scratch, piece, |(rows, mut strip), scratch| {
        for first in rows.clone().step_by(height) {
            let rows = first..rows.end.min(first + height);
            let len = grid.height(rows.clone()) * grid.width() * n;
            let (own, after) = std::mem::take(&mut strip).split_at_mut(len);
            strip = after;
            for left in (0..grid.across()).step_by(width) {
                let columns = left..grid.across().min(left + width);
                let block = Block { of: grid, rows: rows.clone(), columns };
                convolve(&block, own, data, transformed, initial, scratch);
            }
        }
    });
}

/// One block of tiles: its transform, and for every group of channels the products and what they give.
fn convolve(
    block: &Block<'_>,
    out: &mut [f32],
    data: &[f32],
    kernel: &[f32],
    initial: Initial<'_>,
    scratch: &mut [f32],
) {
    let (c, n, tiles) = (block.of.inputs(), block.of.outputs(), block.tiles());
    let [transformed, products, _] = parts(block.of);
    let (v, rest) = scratch.split_at_mut(transformed);
    let (m, pixels) = rest.split_at_mut(products);
    block.transform(v, pixels, data, 0..c);
    for (i, kernel) in kernel.chunks(kernel_len(c, GROUP)).enumerate() {
        let channels = i * GROUP..n.min((i + 1) * GROUP);
        let width = channels.len();
        let (from, to) = (position(tiles, c), position(tiles, width));
        for (p, data) in kernel.chunks_exact(kernel.len() / POSITIONS).enumerate() {
            let v = &v[p * from..][..tiles * c];
            let left = Left { data: v, len: c, rows: Rows::From(0), taps: 1 };
            let out = Out::dense(&mut m[p * to..][..tiles * width]);
            product(out, left, Right { data, n: width }, Initial::Zero, tiles);
        }
        block.finish(out, (m, 0, tiles), channels, initial);
    }
}
