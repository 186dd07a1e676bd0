//! Launches of the kernels that gather with ordinary loads or cp.async: `conv2d.cu` and
//! `conv2d_sm80.cu`.

use super::{
    super::shape::Shape,
    problem::{ShapeArgs, Specs, int},
    sums::{self, Ranges},
};
use crate::{
    device::{Cuda, Effort, Engine, Touched, cubin::Tile, touched_bytes},
    error::Result,
    op::{Backward, Forward, GradMode},
};

/// Blocks that keep an H200 busy: two for each of its 132 multiprocessors.
const ENOUGH_BLOCKS: usize = 264;
/// Fewest pixels that are worth a range of their own.
const LEAST_PIXELS: usize = 256;
/// Sides of the kernels' tiles, for the size of the scratch; a launch takes its tile record's.
const SIDES: [usize; 2] = [64, 128];
/// Ranges are a multiple of this many pixels: the depth of the deepest slab.
const STEP: usize = 32;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    src: u64,
    other: u64,
    bias: u64,
    shifts: u64,
    dst: u64,
    partial: u64,
    shape: ShapeArgs,
    accumulate: i32,
    range: i32,
    unused: i32,
}

/// What a product of `tiles` tiles with sums of `depth` takes, `parts` bytes of partial sums included.
fn effort(
    (symbol, tile, size): (&str, Tile, usize),
    (tiles, ranges): (u64, u64),
    depth: usize,
    touches: &[Touched],
    parts: usize,
) -> Effort {
    let (rows, columns) = (u64::from(tile.block_rows), u64::from(tile.block_cols));
    let deep = (tiles * depth as u64) as f64;
    Effort {
        engine: if symbol.contains("_sm80_") { Engine::Mma } else { Engine::Ordinary },
        flop: 2.0 * deep * (rows * columns) as f64,
        tiles: tiles * ranges,
        reads: deep * ((rows + columns) * size as u64) as f64,
        bytes: touched_bytes(touches),
        parts: parts as f64,
        lead: None,
    }
}

/// How the weight gradient's pixels are cut, so that its tiles of `side` fill the device.
fn weight_ranges(s: &Shape, side: usize) -> Ranges {
    let tiles = s.o.div_ceil(side) * s.taps().saturating_mul(s.c).div_ceil(side);
    let want = ENOUGH_BLOCKS.div_ceil(tiles.max(1)).min(s.outputs().div_ceil(LEAST_PIXELS));
    Ranges::new(s.outputs(), want, STEP)
}

fn weight_floats(s: &Shape, ranges: &Ranges) -> usize {
    match ranges.count {
        1 => 0, // written where it belongs
        n => s.taps().saturating_mul(s.c).saturating_mul(s.o).saturating_mul(n),
    }
}

/// Partial sums of the weight gradient, bytes.
pub(super) fn weight_scratch(s: &Shape) -> usize {
    let floats = |side| weight_floats(s, &weight_ranges(s, side));
    SIDES.map(floats).into_iter().max().unwrap_or(0).saturating_mul(4)
}

pub(super) fn forward(
    symbol: &'static str,
    s: &Shape,
    cuda: &Cuda,
    io: &Forward<'_>,
    shifts: Option<Touched>,
) -> Result<()> {
    let specs = Specs::new(io.specs, io.out_spec);
    let kernel = cuda.kernel::<Args>("conv2d", symbol)?;
    let args = Args {
        src: io.ins[0].address(),
        other: io.ins[1].address(),
        bias: io.ins.get(2).map_or(0, |b| b.address()),
        shifts: shifts.map_or(0, |s| s.address),
        dst: io.out.address(),
        partial: 0,
        shape: ShapeArgs::new(s)?,
        accumulate: 0,
        range: 0,
        unused: 0,
    };
    let mut touches = vec![
        Touched::new("x", args.src, specs.x),
        Touched::new("weight", args.other, specs.w),
        Touched::new("out", args.dst, specs.y),
    ];
    touches.extend(io.specs.get(2).map(|b| Touched::new("bias", args.bias, b)));
    touches.extend(shifts);
    let tile = kernel.tile();
    let grid = [
        (s.outputs() as u64).div_ceil(u64::from(tile.block_rows)),
        (s.o as u64).div_ceil(u64::from(tile.block_cols)),
        1,
    ];
    let (of, tiles) = ((symbol, tile, specs.x.dtype.size_bytes()), grid[0] * grid[1]);
    let kernel = kernel.taking(effort(of, (tiles, 1), s.taps() * s.c, &touches, 0));
    cuda.launch(&kernel, grid, &args, &touches)
}

pub(super) fn data(symbol: &'static str, s: &Shape, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let specs = Specs::new(io.specs, io.out_spec);
    let kernel = cuda.kernel::<Args>("conv2d", symbol)?;
    let dx = &io.d_ins[0];
    let args = Args {
        src: io.d_out.address(),
        other: io.ins[1].address(),
        bias: 0,
        shifts: 0,
        dst: dx.buf.address(),
        partial: 0,
        shape: ShapeArgs::new(s)?,
        accumulate: i32::from(dx.mode == GradMode::Accumulate),
        range: 0,
        unused: 0,
    };
    let touches = [
        Touched::new("dy", args.src, specs.y),
        Touched::new("weight", args.other, specs.w),
        Touched::new("dx", args.dst, specs.x),
    ];
    let tile = kernel.tile();
    let classes = s.stride as u64;
    let pixels = (s.images * s.h.div_ceil(s.stride) * s.w.div_ceil(s.stride)) as u64;
    let grid = [
        pixels.div_ceil(u64::from(tile.block_rows)) * classes * classes,
        (s.c as u64).div_ceil(u64::from(tile.block_cols)),
        1,
    ];
    // every class of pixels meets its share of the taps
    let depth = s.taps() * s.o / (s.stride * s.stride).max(1);
    let (of, tiles) = ((symbol, tile, specs.x.dtype.size_bytes()), grid[0] * grid[1]);
    let kernel = kernel.taking(effort(of, (tiles, 1), depth, &touches, 0));
    cuda.launch(&kernel, grid, &args, &touches)
}

pub(super) fn weight(
    symbol: &'static str,
    s: &Shape,
    cuda: &Cuda,
    io: &Backward<'_>,
) -> Result<()> {
    let specs = Specs::new(io.specs, io.out_spec);
    let kernel = cuda.kernel::<Args>("conv2d", symbol)?;
    let tile = kernel.tile();
    let ranges = weight_ranges(s, tile.block_rows as usize);
    let partial = match weight_floats(s, &ranges) {
        0 => None,
        floats => Some(sums::partials(io, floats)?),
    };
    let dw = &io.d_ins[1];
    let args = Args {
        src: io.d_out.address(),
        other: io.ins[0].address(),
        bias: 0,
        shifts: 0,
        dst: dw.buf.address(),
        partial: partial.map_or(0, |p| p.address),
        shape: ShapeArgs::new(s)?,
        accumulate: i32::from(dw.mode == GradMode::Accumulate),
        range: int(ranges.pixels)?,
        unused: 0,
    };
    let mut touches = vec![
        Touched::new("dy", args.src, specs.y),
        Touched::new("x", args.other, specs.x),
        Touched::new("dw", args.dst, specs.w),
    ];
    // the sum of partial results writes dw
    let operands = touches.len() - usize::from(partial.is_some());
    touches.extend(partial);
    let columns = s.taps() * s.c;
    let grid = [
        (s.o as u64).div_ceil(u64::from(tile.block_rows)),
        (columns as u64).div_ceil(u64::from(tile.block_cols)),
        ranges.count as u64,
    ];
    let of = (symbol, tile, specs.x.dtype.size_bytes());
    let (tiles, parts) = ((grid[0] * grid[1], grid[2]), partial.map_or(0, |p| p.bytes));
    let kernel = kernel.taking(effort(of, tiles, s.outputs(), &touches[..operands], parts));
    cuda.launch(&kernel, grid, &args, &touches)?;
    match partial {
        Some(partial) => sums::reduce(cuda, partial, ranges.count, dw, specs.w),
        None => Ok(()),
    }
}
