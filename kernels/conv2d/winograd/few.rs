//! Few tiles and many channels: all tiles are transformed first, then every thread takes output channels and transforms
//! what it needs of the kernel, a slab at a time in the second-level cache.

use super::{
    grid::{Grid, POSITIONS, kernel_len, position, positions},
    transform::{Block, transform_kernel},
};
use crate::device::cpu::{
    Initial, Left, Out, Right, Rows, Unpacked, packed_len, pieces, pool_size, product, share,
};
use std::ops::Range;

/// Input channels of a slab.
const SLAB: usize = 128;
/// Output channels of a piece of work: whole panels on every instruction set.
const GROUP: usize = 48;

/// Equal slabs.
fn slabs(grid: &Grid) -> impl Iterator<Item = Range<usize>> + Clone + Send + use<> {
    let c = grid.inputs();
    let step = c.div_ceil(c.div_ceil(SLAB).max(1)).max(1);
    (0..c).step_by(step).map(move |k| k..c.min(k + step))
}

fn slab(grid: &Grid) -> usize {
    slabs(grid).next().map_or(0, |k| k.len())
}

/// Of the kernel's slab after and before its transform; a row of pixels fits too.
fn parts(grid: &Grid) -> [usize; 2] {
    let len = slab(grid);
    let before = packed_len(len, GROUP).saturating_mul(9);
    [kernel_len(len, GROUP), before.max(Block::pixels(grid.across(), len))]
}

/// Of the transformed tiles and of their products.
fn shared(grid: &Grid) -> [usize; 2] {
    let (c, n, tiles) = (grid.inputs(), grid.outputs(), grid.tiles());
    let all = |width: usize, each: usize| {
        let rest = width % each.max(1);
        let whole = positions(tiles, each).saturating_mul(width / each.max(1));
        whole.saturating_add(if rest > 0 { positions(tiles, rest) } else { 0 })
    };
    [all(c, slab(grid)), all(n, GROUP)]
}

fn piece(grid: &Grid) -> usize {
    parts(grid).into_iter().fold(0, usize::saturating_add)
}

/// Elements of scratch.
pub fn scratch(grid: &Grid) -> usize {
    let all = shared(grid).into_iter().fold(0, usize::saturating_add);
    all.saturating_add(piece(grid).saturating_mul(pool_size()))
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
    let ([transformed, products], piece) = (shared(grid), piece(grid));
    let (v, rest) = scratch.split_at_mut(transformed);
    let (m, scratch) = rest.split_at_mut(products);
    let scratch = pieces(scratch, piece, grid.flop());
    let (n, tiles) = (grid.outputs(), grid.tiles());
    let step = positions(tiles, slab(grid)).max(1);
    let all = Block { of: grid, rows: 0..grid.rows(), columns: 0..grid.across() };
    share(slabs(grid).zip(v.chunks_mut(step)), scratch, piece, |(k, v), pixels| {
        all.transform(v, pixels, data, k);
    });
    let v = &*v;
    let each = positions(tiles, GROUP);
    share(m.chunks_mut(each).enumerate(), scratch, piece, |(i, m), scratch| {
        let columns = i * GROUP..n.min((i + 1) * GROUP);
        let (after, before) = scratch.split_at_mut(parts(grid)[0]);
        let part = |k: Range<usize>| {
            let first = k.start * kernel.row_stride + columns.start * kernel.column_stride;
            let data = kernel.data.from(first);
            Unpacked { data, len: k.len(), n: columns.len(), ..*kernel }
        };
        let mut slabs = slabs(grid).zip(v.chunks(step)).peekable();
        while let Some((k, v)) = slabs.next() {
            let initial = if k.start > 0 { Initial::Old } else { Initial::Zero };
            let sizes = (tiles, k.len(), columns.len());
            transform_kernel(after, &part(k), before);
            let next = slabs.peek().map(|(k, _)| part(k.clone()));
            multiply(m, v, after, sizes, initial, next.as_ref());
        }
    });
    let m = &*m;
    let rows = grid.rows().div_ceil(2 * pool_size()).max(1);
    share(grid.strips(out, rows), scratch, piece, |(rows, strip), _| {
        let first = rows.start * grid.across();
        let block = Block { rows, ..all.clone() };
        for (i, m) in m.chunks(each).enumerate() {
            let channels = i * GROUP..n.min((i + 1) * GROUP);
            block.finish(strip, (m, first, tiles), channels, initial);
        }
    });
}

/// `m[p] = initial + v[p] kernel[p]` for every position; meanwhile memory is asked for the `next` slab.
fn multiply(
    m: &mut [f32],
    v: &[f32],
    kernel: &[f32],
    (tiles, len, width): (usize, usize, usize),
    initial: Initial<'_>,
    next: Option<&Unpacked<'_>>,
) {
    let (from, to) = (position(tiles, len), position(tiles, width));
    let each = kernel_len(len, width) / POSITIONS;
    for p in 0..POSITIONS {
        if let Some(next) = next {
            next.fetch(p, POSITIONS);
        }
        let v = &v[p * from..][..tiles * len];
        let left = Left { data: v, len, rows: Rows::From(0), taps: 1 };
        let out = Out::dense(&mut m[p * to..][..tiles * width]);
        product(out, left, Right { data: &kernel[p * each..][..each], n: width }, initial, tiles);
    }
}
