//! Launches of the Hopper kernels, `conv2d_{forward,data,weight}_sm90.cu`.

use super::{
    super::shape::Shape,
    problem::{NARROW, Pass, Problem, SLAB, Specs, int},
    taps::{Class, MAX_TAPS, Pixels, Tap, map_of, tile_of},
    tilings::{CLUSTER, Tiling, Work},
};
use crate::{
    device::{Cuda, Kernel, TensorMap, TensorMapSpec, Touched, touched_bytes},
    error::{Error, Result},
    op::{Backward, Forward, GradMode},
};

/// A kernel keeps a channel and a tap in one word.
const MOST_CHANNELS: usize = 1 << 24;
/// Rows of a warp's box of results.
const STORE_ROWS: usize = 16;

/// `MAX_TAPS` taps, in rows for the sake of `Pod`, which only some lengths of array have.
type TapList = [[Tap; MAX_TAPS / 4]; 4];

/// The argument struct of `taps_sm90.cuh`.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct TapArgs {
    src: TensorMap,
    weight: TensorMap,
    out: TensorMap,
    bias: u64,
    shifts: u64,
    parts: u64,
    counters: u64,
    columns: i32,
    blocks: i32,
    taps: i32,
    images: i32,
    tile_w: i32,
    log_tile_w: i32,
    tile_h: i32,
    tiles_x: i32,
    tiles_y: i32,
    rows: i32,
    accumulate: i32,
    raster: [i32; 3],
    tap: TapList,
    unused: [i32; 14],
}

/// Scratch of a call: its start and length.
#[derive(Clone, Copy)]
struct Scratch {
    address: u64,
    bytes: usize,
}

/// A pass over pixels: what is gathered, with what it is multiplied, where the sums go.
struct Gathering<'a> {
    pass: Pass,
    src: Touched,
    /// Extents of the gathered tensor and its parity planes.
    src_pixels: ([usize; 4], usize),
    weight: Touched,
    out: Touched,
    out_extents: [usize; 4],
    bias: Option<Touched>,
    shifts: Option<Touched>,
    accumulate: bool,
    specs: Specs<'a>,
    scratch: Scratch,
}

/// A box of `[columns, rows]` of the matrix (rows, columns) that starts at `t`.
fn matrix(
    t: &Touched,
    dtype: crate::tensor::DType,
    [rows, columns]: [usize; 2],
    [across, down]: [usize; 2],
) -> TensorMapSpec {
    let block = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let size = dtype.size_bytes();
    TensorMapSpec {
        what: t.what,
        address: t.address,
        dtype,
        dims: vec![columns as u64, rows as u64],
        strides: vec![(columns * size) as u64],
        block: vec![block(across), block(down)],
        swizzle: block(across * size),
    }
}

/// The tap list of a launch.
fn list(taps: impl Iterator<Item = Tap>) -> TapList {
    let mut all = TapList::default();
    all.as_flattened_mut().iter_mut().zip(taps).for_each(|(slot, tap)| *slot = tap);
    all
}

/// Where the partial sums of `work` lie in the scratch, and its counters on the device.
fn join(cuda: &Cuda, scratch: Scratch, tiling: &Tiling, work: &Work) -> Result<[Touched; 2]> {
    let (need, have) = (tiling.parts_bytes(work), scratch.bytes);
    if need > have {
        let problem = format!("{need} bytes of partial sums in {have} bytes of scratch");
        return Err(Error::Plan { at: "conv2d".into(), problem });
    }
    Ok([
        Touched { what: "partial sums", address: scratch.address, bytes: need },
        Touched { what: "counters", address: cuda.counters(), bytes: work.counters() * 4 },
    ])
}

impl Gathering<'_> {
    fn launch(&self, cuda: &Cuda, s: &Shape, tiling: &Tiling, class: &Class) -> Result<()> {
        let dtype = self.specs.x.dtype;
        let kernel = cuda.kernel::<TapArgs>("conv2d", tiling.symbol(self.pass, dtype))?;
        let tile = kernel.tile();
        let (rows, columns) = (tile.block_rows as usize, tile.block_cols as usize);
        let (src_extents, planes) = self.src_pixels;
        let [images, height, width, channels] = self.out_extents;
        let (height, width) = (height / class.every, width / class.every);
        let [tile_w, tile_h] = tile_of(rows, height, width);
        let work = Work::gathering(self.pass, s, class, tiling);
        let [parts, counters] = join(cuda, self.scratch, tiling, &work)?;
        let map = |t: &Touched, extents, pixels, block, swizzle| {
            cuda.tensor_map(&map_of((t.what, t.address, dtype), extents, pixels, block, swizzle))
        };
        let across = tile_w.min(STORE_ROWS);
        let chunk = tiling.chunk();
        let store = [chunk, across, STORE_ROWS / across];
        let pixels = Pixels::Class { every: class.every, first: class.first };
        let share = match self.pass {
            Pass::Forward => [SLAB, columns / CLUSTER],
            _ => [tiling.atom(), SLAB],
        };
        let weights = [s.o, s.taps() * s.c];
        let args = TapArgs {
            src: map(&self.src, src_extents, Pixels::Planes(planes), [SLAB, tile_w, tile_h], 128)?,
            weight: cuda.tensor_map(&matrix(&self.weight, dtype, weights, share))?,
            out: map(&self.out, self.out_extents, pixels, store, chunk * 2)?,
            bias: self.bias.map_or(0, |b| b.address),
            shifts: self.shifts.map_or(0, |s| s.address),
            parts: parts.address,
            counters: counters.address,
            columns: int(channels)?,
            blocks: int(src_extents[3] / SLAB)?,
            taps: int(class.taps.len())?,
            images: int(images)?,
            tile_w: int(tile_w)?,
            log_tile_w: int(tile_w.ilog2() as usize)?,
            tile_h: int(tile_h)?,
            tiles_x: int(width.div_ceil(tile_w))?,
            tiles_y: int(height.div_ceil(tile_h))?,
            rows: 0,
            accumulate: i32::from(self.accumulate),
            raster: work.raster()?,
            tap: list(class.taps.iter().copied()),
            unused: [0; 14],
        };
        let grid = cuda.persistent_grid(&kernel, work.units() as u64)?;
        // a class writes its share of the pixels and reads its share of the taps
        let classes = class.every * class.every;
        let written = self.out.bytes / classes * (1 + usize::from(self.accumulate));
        let bytes = self.src.bytes + self.weight.bytes / classes + written;
        let kernel = kernel.taking(tiling.effort(&work, bytes as f64));
        let mut touches = vec![self.src, self.weight, self.out, parts, counters];
        touches.extend(self.bias.into_iter().chain(self.shifts));
        cuda.launch(&kernel, grid, &args, &touches)
    }
}

pub(super) fn forward(
    t: &Tiling,
    s: &Shape,
    cuda: &Cuda,
    io: &Forward<'_>,
    shifts: Option<Touched>,
) -> Result<()> {
    let specs = Specs::new(io.specs, io.out_spec);
    let bias = io.specs.get(2).zip(io.ins.get(2));
    let gathering = Gathering {
        pass: Pass::Forward,
        src: Touched::new("x", io.ins[0].address(), specs.x),
        src_pixels: ([s.images, s.h, s.w, s.c], s.image_parity()),
        weight: Touched::new("weight", io.ins[1].address(), specs.w),
        out: Touched::new("out", io.out.address(), specs.y),
        out_extents: [s.images, s.oh, s.ow, s.o],
        bias: bias.map(|(spec, b)| Touched::new("bias", b.address(), spec)),
        shifts,
        accumulate: false,
        specs,
        scratch: Scratch { address: io.scratch.address(), bytes: io.scratch.bytes() },
    };
    s.forward_classes().iter().try_for_each(|class| gathering.launch(cuda, s, t, class))
}

pub(super) fn data(t: &Tiling, s: &Shape, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let specs = Specs::new(io.specs, io.out_spec);
    let dx = &io.d_ins[0];
    let gathering = Gathering {
        pass: Pass::Data,
        src: Touched::new("dy", io.d_out.address(), specs.y),
        src_pixels: ([s.images, s.oh, s.ow, s.o], s.output_parity()),
        weight: Touched::new("weight", io.ins[1].address(), specs.w),
        out: Touched::new("dx", dx.buf.address(), specs.x),
        out_extents: [s.images, s.h, s.w, s.c],
        bias: None,
        shifts: None,
        accumulate: dx.mode == GradMode::Accumulate,
        specs,
        scratch: Scratch { address: io.scratch.address(), bytes: io.scratch.bytes() },
    };
    s.data_classes().iter().try_for_each(|class| gathering.launch(cuda, s, t, class))
}

pub(super) fn weight(t: &Tiling, s: &Shape, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let specs = Specs::new(io.specs, io.out_spec);
    let dtype = specs.x.dtype;
    let kernel: Kernel<TapArgs> = cuda.kernel("conv2d", t.symbol(Pass::Weight, dtype))?;
    let classes = s.forward_classes();
    let work = Work::weight(s, t);
    let scratch = Scratch { address: io.scratch.address(), bytes: io.scratch.bytes() };
    let [parts, counters] = join(cuda, scratch, t, &work)?;
    let (dw, every) = (&io.d_ins[1], s.zoom());
    let dy = Touched::new("dy", io.d_out.address(), specs.y);
    let x = Touched::new("x", io.ins[0].address(), specs.x);
    let out = Touched::new("dw", dw.buf.address(), specs.w);
    let (height, width) = (s.oh / every, s.ow / every);
    let [tile_w, tile_h] = tile_of(SLAB, height, width);
    let map = |t: &Touched, extents, planes, channels: usize| {
        let (pixels, block) = (Pixels::Planes(planes), [channels, tile_w, tile_h]);
        cuda.tensor_map(&map_of((t.what, t.address, dtype), extents, pixels, block, channels * 2))
    };
    let chunk = [t.chunk(), STORE_ROWS];
    let args = TapArgs {
        src: map(&dy, [s.images, s.oh, s.ow, s.o], every, SLAB)?,
        weight: map(&x, [s.images, s.h, s.w, s.c], s.image_parity(), t.atom())?,
        out: cuda.tensor_map(&matrix(&out, dtype, [s.o, s.taps() * s.c], chunk))?,
        bias: 0,
        shifts: 0,
        parts: parts.address,
        counters: counters.address,
        columns: int(s.c)?,
        blocks: int(classes.len())?,
        taps: int(s.taps())?,
        images: int(s.images)?,
        tile_w: int(tile_w)?,
        log_tile_w: int(tile_w.ilog2() as usize)?,
        tile_h: int(tile_h)?,
        tiles_x: int(width.div_ceil(tile_w))?,
        tiles_y: int(height.div_ceil(tile_h))?,
        rows: int(s.o)?,
        accumulate: i32::from(dw.mode == GradMode::Accumulate),
        raster: work.raster()?,
        tap: list(classes.iter().flat_map(|c| c.taps.iter().copied())),
        unused: [0; 14],
    };
    let grid = cuda.persistent_grid(&kernel, work.units() as u64)?;
    let kernel = kernel.taking(t.effort(&work, touched_bytes(&[dy, x, out])));
    cuda.launch(&kernel, grid, &args, &[dy, x, out, parts, counters])
}

/// Whether the Hopper kernels can compute a pass of `p`.
pub(super) fn able(pass: Pass, p: &Problem) -> bool {
    let s = &p.shape;
    let even = |n: usize| n.is_multiple_of(2);
    let parity = match (s.stride, s.upsample) {
        (1, false) => true,
        (1, true) => even(s.oh) && even(s.ow),
        // every parity class of pixels must meet a tap
        (2, false) => even(s.h) && even(s.w) && s.kh >= 2 && s.kw >= 2,
        _ => false,
    };
    let copies = s.zoom() * s.zoom();
    let most_pad = 1 << 14; // shifts have 16 bits
    let (source, columns) = match pass {
        Pass::Forward => (s.c, s.o),
        Pass::Data => (s.o, s.c),
        Pass::Weight => (s.c, s.o),
    };
    p.hopper()
        && parity
        && s.taps().saturating_mul(copies) <= MAX_TAPS
        && s.images.saturating_mul(s.h).saturating_mul(s.w) > 0
        && s.top.max(s.left) < most_pad
        && source > 0
        && source.is_multiple_of(SLAB)
        && source < MOST_CHANNELS
        && columns > NARROW
        && columns.is_multiple_of(8)
}
