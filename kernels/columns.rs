//! How the kernels of `common/columns.cuh` cut `[samples, rows, c]`, and the last sum over their
//! blocks.

use crate::{
    device::{Cuda, Touched},
    error::{Error, Result},
    kernels::variant,
    op::{Grad, GradMode},
    tensor::DType,
};

/// Threads of a block; `kThreads` in the kernels.
const THREADS: usize = 256;
/// Rows of a thread where the tensor is large: enough to pay for the constants of its columns.
const THREAD_ROWS: usize = 16;
/// Rows of a thread at least: the loads that a thread starts together.
const LEAST_ROWS: usize = 4;
/// Blocks that fill the chip: one for each multiprocessor of an H200. Fixed, so that the order of
/// every sum, and so every bit of a result, depends on the shape and not on the chip.
const FULL: usize = 132;
/// Blocks after which more only cost partial rows.
const ENOUGH: usize = 16 * FULL;
/// Columns that one block of `total` adds; its tile says so too.
const TOTAL_COLUMNS: usize = 32;

/// The kernel's `Walk`.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Walk {
    pub c: i32,
    pub tile_vecs: i32,
    pub rows: i32,
    pub block_rows: i32,
}

/// A cut of `samples` matrices of `rows` x `c`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns {
    pub samples: usize,
    pub rows: usize,
    pub c: usize,
    tile_vecs: usize,
    tiles: usize,
    block_rows: usize,
}

impl Columns {
    /// The cut for accesses of `vec` elements, which divides `c`.
    pub fn of(samples: usize, rows: usize, c: usize, vec: usize) -> Self {
        let vectors = c.div_ceil(vec).max(1);
        let (tiles, tile_vecs) = tile(vectors);
        let thread_rows = THREADS / tile_vecs;
        let blocks = |block_rows: usize| rows.div_ceil(block_rows) * tiles * samples;
        let mut block_rows = THREAD_ROWS * thread_rows;
        while blocks(block_rows) < FULL && block_rows > LEAST_ROWS * thread_rows {
            block_rows /= 2;
        }
        if blocks(block_rows) > ENOUGH {
            block_rows = (rows * tiles * samples).div_ceil(ENOUGH);
        }
        Self { samples, rows, c, tile_vecs, tiles, block_rows }
    }

    /// Row blocks of one sample.
    pub fn blocks(&self) -> usize {
        self.rows.div_ceil(self.block_rows)
    }

    pub fn grid(&self) -> [u64; 3] {
        [self.blocks() as u64, self.tiles as u64, self.samples as u64]
    }

    /// Bytes of the partial rows `(samples, blocks, 2, c)`.
    pub fn partial_bytes(&self) -> usize {
        self.samples * self.blocks() * 2 * self.c * size_of::<f32>()
    }

    pub fn walk(&self, op: &'static str) -> Result<Walk> {
        Ok(Walk {
            c: int(op, self.c)?,
            tile_vecs: int(op, self.tile_vecs)?,
            rows: int(op, self.rows)?,
            block_rows: int(op, self.block_rows)?,
        })
    }
}

/// Scratch for the partial rows with either access width of `dtype`.
pub(super) fn scratch(samples: usize, rows: usize, c: usize, dtype: DType) -> usize {
    let bytes = |vec| Columns::of(samples, rows, c, vec).partial_bytes();
    bytes(1).max(bytes(wide(dtype)))
}

/// Elements of 16 bytes.
pub(super) fn wide(dtype: DType) -> usize {
    16 / dtype.size_bytes()
}

/// The column tiles of a row of `vectors`, and the vectors of one: where fewer threads idle, but long
/// pieces of a row before the last eighth of them.
fn tile(vectors: usize) -> (usize, usize) {
    let first = vectors.div_ceil(THREADS);
    let last = (vectors / 8).max(first); // a piece of a row: 128 bytes at least
    let busy = |tiles: usize| {
        let vecs = vectors.div_ceil(tiles);
        vectors * (THREADS / vecs) * THREADS / tiles
    };
    let mut best = first;
    for tiles in first..=last.min(first + 16) {
        if busy(tiles) * 8 > busy(best) * 9 {
            best = tiles;
        }
    }
    (best, vectors.div_ceil(best))
}

pub(super) fn int(op: &'static str, n: usize) -> Result<i32> {
    let key = || format!("an extent of {n}");
    i32::try_from(n).map_err(|_| Error::NoKernel { op, key: key(), tried: "32-bit extents".into() })
}

/// Symbols of one pass: both access widths, each in f32, bf16 and f16.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbols {
    pub vec: [&'static str; 3],
    pub scalar: [&'static str; 3],
}

impl Symbols {
    pub fn of(&self, vec: bool, dtype: DType) -> &'static str {
        variant::by_dtype(dtype, if vec { self.vec } else { self.scalar })
    }
}

/// `NAME_f32, NAME_bf16, NAME_f16`, the name in one or more pieces.
macro_rules! by_type {
    ($($name:literal),+) => {
        [concat!($($name),+, "_f32"), concat!($($name),+, "_bf16"), concat!($($name),+, "_f16")]
    };
}
/// The [`Symbols`] `NAME_vec_TYPE` and `NAME_scalar_TYPE`.
macro_rules! by_width {
    ($name:literal) => {
        $crate::kernels::columns::Symbols {
            vec: $crate::kernels::columns::by_type!($name, "_vec"),
            scalar: $crate::kernels::columns::by_type!($name, "_scalar"),
        }
    };
}
pub(super) use {by_type, by_width};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct TotalArgs {
    partial: u64,
    out: [u64; 2],
    parts: i32,
    c: i32,
    accumulate: [i32; 2],
}

/// The partial rows of `parts` blocks: two halves of `c` sums each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Partial {
    pub address: u64,
    pub parts: usize,
    pub c: usize,
}

/// Adds the partial rows into the gradients of both halves, where wanted.
pub(super) fn total(
    cuda: &Cuda,
    (op, symbol): (&'static str, &'static str),
    partial: Partial,
    dtype: DType,
    grads: [&Grad<'_>; 2],
) -> Result<()> {
    let Partial { address, parts, c } = partial;
    let kernel = cuda.kernel::<TotalArgs>(op, symbol)?;
    let bytes = parts * 2 * c * size_of::<f32>();
    let mut touches = vec![Touched { what: "partial sums", address, bytes }];
    let mut out = [0; 2];
    for (out, (grad, what)) in out.iter_mut().zip(grads.into_iter().zip(["dgamma", "dbeta"])) {
        if grad.wanted() {
            *out = grad.buf.address();
            touches.push(Touched { what, address: *out, bytes: c * dtype.size_bytes() });
        }
    }
    let args = TotalArgs {
        partial: address,
        out,
        parts: int(op, parts)?,
        c: int(op, c)?,
        accumulate: grads.map(|g| i32::from(g.mode == GradMode::Accumulate)),
    };
    cuda.launch(&kernel, [c.div_ceil(TOTAL_COLUMNS) as u64, 2, 1], &args, &touches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_column_and_keep_the_threads_busy() {
        for vectors in 1..2000 {
            let (tiles, vecs) = tile(vectors);
            assert!(vecs <= THREADS && tiles * vecs >= vectors && (tiles - 1) * vecs < vectors);
        }
        // SDXL's widths in bf16: 320, 640, 960, 1280, 1920, 2560 channels
        for (vectors, vecs) in [(40, 40), (80, 80), (120, 120), (160, 80), (240, 240), (320, 80)] {
            assert_eq!(tile(vectors).1, vecs, "{vectors}");
        }
    }

    #[test]
    fn row_blocks_fill_the_chip_and_stay_few() {
        for (samples, rows, c) in [(2, 16_384, 320), (2, 1024, 1280), (1, 1 << 20, 128), (1, 1, 8)]
        {
            let cut = Columns::of(samples, rows, c, 8);
            let [blocks, tiles, _] = cut.grid();
            assert!(blocks as usize * cut.block_rows >= rows);
            let all = blocks * tiles * samples as u64;
            assert!(all <= (ENOUGH + samples * 2) as u64, "{all}");
            assert!(all >= FULL as u64 || cut.block_rows <= LEAST_ROWS * (THREADS / cut.tile_vecs));
        }
    }
}
