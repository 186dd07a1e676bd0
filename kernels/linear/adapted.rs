//! An adapter's own product in the launch of its layer, which reads it: Hopper, see `gemm/adapted_sm90.cuh`.

use super::{
    problem::{Operands, Parts, Pass, Problem, int},
    tensor::{self, CLUSTER, Maps, Matrix, Raster, SLAB, TensorArgs},
    tiles::{self, LAUNCH_US, MULTIPROCESSORS, PORT_BYTES_US, WAIT_US},
    tilings::Tiling,
};
use crate::{
    device::{COUNTERS, Cuda, Effort, Lead, TensorMap, Touched},
    error::{Error, Result},
    kernels::variant::by_dtype,
};

/// `kAdapterRows`: rows of a block's unit.
const ROWS: usize = 128;
/// Columns that there is a loop for.
const COLS: [usize; 4] = [32, 64, 96, 128];
/// Ranges that a unit's sum may be cut into.
const RANGES: [usize; 4] = [1, 2, 4, 8];

/// `AdapterArgs` of `gemm/adapted_sm90.cuh`.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct AdapterArgs {
    wide: TensorMap,
    narrow: TensorMap,
    out: u64,
    parts: u64,
    counters: u64,
    ready: u64,
    alpha: f32,
    m: i32,
    n: i32,
    k_slabs: i32,
    splits: i32,
    count: i32,
    pitch: i32,
    depth: i32,
    wide_step: i32,
    cols: i32,
    tiles_m: i32,
    readers: i32,
    unused: [i32; 12],
}

/// `AdaptedArgs` of the same.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct AdaptedArgs {
    layer: TensorArgs,
    adapter: AdapterArgs,
}

/// `h = s x a^T`, or `g_p = s dy_p up_p`: the narrow product that a layer's launch makes before its tiles.
///
/// `out` is `[M, count N]`; `right` lies one part behind the other, and so does `left` in [`Pass::Input`]; else all parts have one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leading {
    pub parts: Parts,
    pub o: Operands,
}

/// How it is cut beside a layer of so many clusters of rows.
struct Cut {
    tiles_m: usize,
    /// Clusters of blocks, of all parts.
    tiles: usize,
    ranges: usize,
    cols: usize,
    /// Predicted time before the tiles.
    us: f64,
}

impl Cut {
    /// Words that its ranges are counted in.
    fn words(&self) -> usize {
        tensor::counter_words(self.tiles * CLUSTER, self.ranges)
    }

    fn scratch_bytes(&self) -> usize {
        let tile = ROWS * self.cols * size_of::<f32>();
        (self.ranges - 1).saturating_mul(self.tiles).saturating_mul(CLUSTER * tile)
    }
}

/// Words that the layer's own ranges are counted in.
fn layer_words(raster: &Raster) -> usize {
    tensor::counter_words(raster.tiles(), raster.ranges)
}

/// Bytes in front of the narrow product's partial sums: the layer's.
fn layer_scratch(raster: &Raster, t: &Tiling) -> usize {
    raster.parts_bytes(t).next_multiple_of(256)
}

impl Parts {
    /// The columns of a narrow product's kernel, where there is one.
    fn columns(&self) -> Option<usize> {
        let p = &self.one;
        let whole = p.n > 0 && [p.n, p.k].iter().all(|n| n.is_multiple_of(8));
        COLS.into_iter().find(|cols| p.n <= *cols).filter(|_| whole && p.k > 0)
    }

    /// How it is cut as part of a launch with `raster`: the least predicted time.
    fn leading(&self, raster: &Raster, t: &Tiling) -> Option<Cut> {
        let (cols, tiles_m) = (self.columns()?, raster.tiles_m);
        let tiles = tiles_m.saturating_mul(t.rows / ROWS).saturating_mul(self.count);
        let slabs = self.one.k.div_ceil(SLAB);
        let us = |ranges: usize| {
            let waves = (tiles * ranges).div_ceil(MULTIPROCESSORS / CLUSTER);
            let bytes = waves * slabs.div_ceil(ranges) * (ROWS + cols) * SLAB * 2;
            bytes as f64 / PORT_BYTES_US + if ranges == 1 { 0.0 } else { WAIT_US }
        };
        let able = RANGES.into_iter().filter(|r| *r <= slabs);
        let ranges = able.min_by(|a, b| us(*a).total_cmp(&us(*b)))?;
        let cut = Cut { tiles_m, tiles, ranges, cols, us: us(ranges) };
        (layer_words(raster) + cut.words() + tiles_m <= COUNTERS).then_some(cut)
    }

    /// Scratch of a launch by `t` of a layer, cut as `whole` is, that makes this product too; 0 where none can.
    pub(super) fn adapted_scratch(&self, whole: &Problem, t: &Tiling) -> usize {
        let raster = Raster::new(whole, t);
        let cut = self.leading(&raster, t).filter(|_| t.serves(whole));
        cut.map_or(0, |cut| layer_scratch(&raster, t).saturating_add(cut.scratch_bytes()))
    }
}

impl Problem {
    /// Scratch of [`Problem::run_adapted`] with any kernel that has a way to make `lead`.
    pub fn adapted_scratch(&self, lead: &Parts) -> usize {
        let able = tiles::adapted_tilings(self);
        able.map(|t| lead.adapted_scratch(self, t)).max().unwrap_or(0)
    }

    /// The kernel that makes `lead` too: the one this product has alone, or, where none is forced, another that is
    /// predicted to take less time than both launches; `None` for a launch of its own.
    ///
    /// # Errors
    /// Those of the choice.
    pub fn maker(&self, cuda: &Cuda, lead: &Parts) -> Result<Option<&'static Tiling>> {
        let alone = tiles::tiling(cuda, self)?;
        if alone.makes(self, self, lead) {
            return Ok(Some(alone));
        }
        if !tiles::is_free(cuda, self)? {
            return Ok(None);
        }
        let us = |t: &Tiling, p: &Problem| t.predicted_us(p, t.ranges(p));
        let both = |t: &Tiling| {
            let cut = lead.leading(&Raster::new(self, t), t);
            cut.map_or(f64::INFINITY, |cut| us(t, self) + cut.us)
        };
        let able = tiles::adapted_tilings(self).filter(|t| t.on(cuda) && t.makes(self, self, lead));
        let best = able.min_by(|a, b| both(a).total_cmp(&both(b)));
        let narrow = tiles::tiling(cuda, &lead.one)?;
        let apart = us(alone, self) + us(narrow, &lead.one) + LAUNCH_US;
        Ok(best.filter(|t| both(t) < apart))
    }

    /// Launches the product with its adapter's own, whose result is the `t` of `o`, by the kernel that [`Problem::maker`] gave.
    ///
    /// # Errors
    /// Those of the maps and the launch.
    pub fn run_adapted(
        &self,
        cuda: &Cuda,
        t: &Tiling,
        o: &Operands,
        lead: &Leading,
        at: u64,
    ) -> Result<()> {
        let layer = tensor::args(cuda, self, t, o, at, self.n)?;
        let raster = Raster::new(self, t);
        let mut touches = self.touches(o, 0);
        touches.retain(|t| t.address != 0);
        let effort = raster.cut(t).effort(self, o, self.n);
        let made = lead.beside(cuda, &raster, t, at)?;
        let args = AdaptedArgs { layer, adapter: made.args };
        made.launch(cuda, t.adapted_symbol(self), &args, (tensor::units(&layer), effort, touches))
    }
}

impl Tiling {
    /// The kernel that makes an adapter's product before `p`; empty where there is none.
    pub(super) fn adapted_symbol(&self, p: &Problem) -> &'static str {
        by_dtype(p.dtype, self.adapted[p.pass.row()])
    }

    /// Whether it has a kernel that makes `lead` beside `one`, cut as `whole` is.
    pub(super) fn makes(&self, one: &Problem, whole: &Problem, lead: &Parts) -> bool {
        !self.adapted_symbol(one).is_empty()
            && one.rank > 0
            && lead.leading(&Raster::new(whole, self), self).is_some()
    }
}

/// A narrow product as part of a launch.
pub(super) struct Made {
    pub args: AdapterArgs,
    /// Units of work, each of a cluster.
    pub units: u64,
    pub effort: Lead,
    /// What it touches besides its result; all counters and partial sums of the launch.
    pub touches: Vec<Touched>,
}

impl Made {
    /// Launches `args`, of a layer with so many units and such an effort, which touches so much.
    ///
    /// # Errors
    /// Those of the launch.
    pub(super) fn launch<A: bytemuck::Pod>(
        &self,
        cuda: &Cuda,
        symbol: &'static str,
        args: &A,
        (units, effort, touches): (u64, Effort, Vec<Touched>),
    ) -> Result<()> {
        let kernel = cuda.kernel::<A>("linear", symbol)?.taking(effort.leading(self.effort));
        let grid = cuda.persistent_grid(&kernel, units + self.units)?;
        cuda.launch(&kernel, grid, args, &[&touches[..], &self.touches].concat())
    }
}

impl Leading {
    /// As part of a launch by `t` with `raster`, whose scratch is at `at`.
    ///
    /// # Errors
    /// Those of the maps.
    pub(super) fn beside(&self, cuda: &Cuda, r: &Raster, t: &Tiling, at: u64) -> Result<Made> {
        let (Parts { one: p, count }, o) = (&self.parts, &self.o);
        let Some(cut) = self.parts.leading(r, t) else {
            let key = format!("an adapter of rank {} on {} columns", p.n, p.k);
            let tried = "ranks up to 128, both multiples of 8".into();
            return Err(Error::NoKernel { op: "linear", key, tried });
        };
        let maps = Maps { cuda, p };
        let (narrow, wide_step) = match p.pass {
            Pass::Forward => {
                let a = Matrix::dense("adapter", o.right, [count * p.n, p.k]);
                (maps.matrix(a, [cut.cols as u32, 64])?, 0)
            }
            _ => {
                let up = Matrix::dense("adapter", o.right, [count * p.k, p.n]);
                (maps.matrix(up, [64, 32])?, p.m)
            }
        };
        let lefts = if wide_step == 0 { 1 } else { *count };
        let wide = Matrix::dense("left", o.left, [lefts * p.m, p.k]);
        let (own, words) = (layer_words(r), cuda.counters());
        let args = AdapterArgs {
            wide: maps.matrix(wide, [ROWS as u32, 64])?,
            narrow,
            out: o.out,
            parts: at + layer_scratch(r, t) as u64,
            counters: words + 4 * own as u64,
            ready: words + 4 * (own + cut.words()) as u64,
            alpha: o.alpha,
            m: int(p.m)?,
            n: int(p.n)?,
            k_slabs: int(p.k.div_ceil(SLAB))?,
            splits: int(cut.ranges)?,
            count: int(*count)?,
            pitch: int(count * p.n)?,
            depth: int(p.k)?,
            wide_step: int(wide_step)?,
            cols: int(cut.cols)?,
            tiles_m: int(cut.tiles_m)?,
            readers: int(r.tiles_n)?,
            unused: [0; 12],
        };
        let size = p.dtype.size_bytes();
        let all = own + cut.words() + cut.tiles_m;
        let touches = [
            ("adapter", o.right, count * p.k * p.n * size),
            ("counters", words, 4 * all),
            ("partial sums", at, layer_scratch(r, t) + cut.scratch_bytes()),
        ];
        let touches = touches.into_iter().filter(|(_, _, bytes)| *bytes > 0);
        let touches = touches.map(|(what, address, bytes)| Touched { what, address, bytes });
        let units = cut.tiles * cut.ranges;
        let deep = (CLUSTER * cut.tiles * p.k) as f64;
        let effort = Lead {
            flop: 2.0 * deep * (ROWS * cut.cols) as f64,
            tiles: (CLUSTER * units) as u64,
            reads: deep * ((ROWS + cut.cols) * size) as f64 + 2.0 * cut.scratch_bytes() as f64,
            bytes: (count * p.k * p.n * size) as f64,
        };
        Ok(Made { args, units: units as u64, effort, touches: touches.collect() })
    }
}
