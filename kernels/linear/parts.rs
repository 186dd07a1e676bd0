//! Launches of layers of one shape that share an input: all parts as one Hopper product.

use super::{
    adapted::{AdapterArgs, Leading},
    problem::{Operands, Parts, Problem, int},
    tensor::{self, Maps, Matrix, Raster, SLAB, TensorArgs, counters, units},
    tilings::{JOINED_128X160, JOINED_256X160, JOINED_INPUT_128X160, JOINED_INPUT_256X160, Tiling},
};
use crate::{
    device::{Cuda, Effort, TensorMap, Touched, cubin_table::Target},
    error::Result,
};

/// `kMostParts`: as many as the maps of a Hopper kernel's arguments hold.
pub(crate) const MOST_PARTS: usize = 8;
const OTHERS: usize = MOST_PARTS - 1;

/// The kernels of `y_p = x w_p^T`.
pub(super) const FORWARD: [&Tiling; 2] = [&JOINED_256X160, &JOINED_128X160];
/// The kernels of `dx = sum_p dy_p w_p`.
const INPUT: [&Tiling; 2] = [&JOINED_INPUT_256X160, &JOINED_INPUT_128X160];

/// `JoinedArgs` of `gemm/joined_sm90.cuh`.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct JoinedArgs {
    product: TensorArgs,
    right: [TensorMap; OTHERS],
    out: [TensorMap; OTHERS],
    l: [TensorMap; OTHERS],
    bias: [u64; OTHERS],
    tiles: i32,
    unused: i32,
}

/// `JoinedInputArgs` of the same.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct InputArgs {
    product: TensorArgs,
    right: [TensorMap; OTHERS],
    slabs: i32,
    rows: i32,
    unused: [i32; 14],
}

/// `AdaptedJoinedArgs` of `gemm/adapted_sm90.cuh`.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct AdaptedJoinedArgs {
    layer: JoinedArgs,
    adapter: AdapterArgs,
}

/// `AdaptedJoinedInputArgs` of the same.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct AdaptedInputArgs {
    layer: InputArgs,
    adapter: AdapterArgs,
}

/// A kernel of `all`: the one whose tiles have `rows`, where that is asked for, else the one with the least predicted time
/// for what `whole` makes of it.
fn of(
    all: [&'static Tiling; 2],
    rows: Option<usize>,
    whole: impl Fn(&Tiling) -> Problem,
) -> &'static Tiling {
    let us = |t: &Tiling| t.predicted_us(&whole(t), t.ranges(&whole(t)));
    let [a, b] = all;
    match rows {
        Some(rows) if rows == b.rows => b,
        None if us(b) < us(a) => b,
        _ => a,
    }
}

/// One launch of all parts.
struct Launch<'a> {
    cuda: &'a Cuda,
    /// One of them.
    p: &'a Problem,
    t: &'a Tiling,
    raster: Raster,
    /// What its arguments begin with.
    product: &'a TensorArgs,
    effort: Effort,
    /// Operands and results.
    touches: Vec<Touched>,
}

impl Launch<'_> {
    /// With `args`, or, where there is a `lead` to make first, with what `both` makes of its arguments.
    fn run<A: bytemuck::Pod, B: bytemuck::Pod>(
        mut self,
        args: &A,
        lead: Option<&Leading>,
        both: impl FnOnce(AdapterArgs) -> B,
    ) -> Result<()> {
        let (cuda, p, t, units) = (self.cuda, self.p, self.t, units(self.product));
        let scratch = self.product.scratch();
        if let Some(lead) = lead {
            let made = lead.beside(cuda, &self.raster, t, scratch)?;
            let all = both(made.args);
            return made.launch(
                cuda,
                t.adapted_symbol(p),
                &all,
                (units, self.effort, self.touches),
            );
        }
        let bytes = self.raster.parts_bytes(t);
        let sums = Touched { what: "partial sums", address: scratch, bytes };
        let own = [sums, counters(cuda, self.product)];
        self.touches.extend(own.into_iter().filter(|t| t.bytes > 0));
        let kernel = cuda.kernel::<A>("linear", t.symbol(p))?.taking(self.effort);
        cuda.launch(&kernel, cuda.persistent_grid(&kernel, units)?, args, &self.touches)
    }
}

impl Parts {
    /// Names of the kernels' variants, and the rows of their tiles.
    pub const VARIANTS: [(&'static str, usize); 2] =
        [(JOINED_256X160.name, JOINED_256X160.rows), (JOINED_128X160.name, JOINED_128X160.rows)];

    /// Whether there are kernels for all of them together on `target`.
    pub fn served(&self, target: Target) -> bool {
        matches!(target, Target::Sm90a | Target::Host) && JOINED_128X160.serves(&self.one)
    }

    /// All layers as one product with the same tiles of `t`: every part is cut on its own.
    pub fn beside(&self, t: &Tiling) -> Problem {
        Problem { n: self.count.saturating_mul(self.one.n.next_multiple_of(t.cols)), ..self.one }
    }

    /// All input gradients as one sum.
    fn behind(&self) -> Problem {
        Problem { k: self.count.saturating_mul(self.one.k), ..self.one }
    }

    /// The kernel of the layers; with tiles of `rows` where that is asked for.
    pub fn layers_tiling(&self, rows: Option<usize>) -> &'static Tiling {
        of(FORWARD, rows, |t| self.beside(t))
    }

    /// The kernel of their input gradient.
    pub fn input_tiling(&self, rows: Option<usize>) -> &'static Tiling {
        of(INPUT, rows, |_| self.behind())
    }

    /// The variant of the layers by `t`, and its ranges.
    pub fn describe_layers(&self, t: &Tiling) -> String {
        self.beside(t).describe_by(t)
    }

    /// The variant of their input gradient by `t`.
    pub fn describe_input(&self, t: &Tiling) -> String {
        self.behind().describe_by(t)
    }

    /// Scratch of [`Parts::layers`] with any of its kernels.
    pub fn layers_scratch(&self) -> usize {
        let able = FORWARD.iter().filter(|t| t.serves(&self.one));
        able.map(|t| tensor::scratch_bytes(&self.beside(t), t)).max().unwrap_or(0)
    }

    /// Scratch of [`Parts::input`] with any of its kernels.
    pub fn input_scratch(&self) -> usize {
        let able = INPUT.iter().filter(|t| t.serves(&self.one));
        able.map(|t| tensor::scratch_bytes(&self.behind(), t)).max().unwrap_or(0)
    }

    /// Whether [`Parts::layers`] by `t` can make `lead` too.
    pub fn layers_make(&self, t: &Tiling, lead: &Parts) -> bool {
        t.makes(&self.one, &self.beside(t), lead)
    }

    /// Whether [`Parts::input`] by `t` can make `lead` too.
    pub fn input_makes(&self, t: &Tiling, lead: &Parts) -> bool {
        t.makes(&self.one, &self.behind(), lead)
    }

    /// Scratch of [`Parts::layers`] and `lead` with any of its kernels.
    pub fn layers_scratch_with(&self, lead: &Parts) -> usize {
        let able = FORWARD.iter().filter(|t| t.serves(&self.one));
        able.map(|t| lead.adapted_scratch(&self.beside(t), t)).max().unwrap_or(0)
    }

    /// Scratch of [`Parts::input`] and `lead` with any of its kernels.
    pub fn input_scratch_with(&self, lead: &Parts) -> usize {
        let able = INPUT.iter().filter(|t| t.serves(&self.one));
        able.map(|t| lead.adapted_scratch(&self.behind(), t)).max().unwrap_or(0)
    }

    /// Launches `y_p = x w_p^T + b_p (+ t_p l_p^T)` for the parts, whose operands are `each`; `t [M, count rank]` is the
    /// first one's, and made by the same launch where `lead` says how.
    ///
    /// # Errors
    /// Those of the maps and the launch.
    pub fn layers(
        &self,
        cuda: &Cuda,
        t: &Tiling,
        each: &[Operands],
        lead: Option<&Leading>,
        scratch: u64,
    ) -> Result<()> {
        let (p, raster) = (&self.one, Raster::new(&self.beside(t), t));
        let Some((first, others)) = each.split_first() else { return Ok(()) };
        let maps = Maps { cuda, p };
        let mut product = tensor::args(cuda, p, t, first, scratch, p.n)?;
        product.tiles_n = int(raster.tiles_n)?;
        product.splits = int(raster.ranges)?;
        let (rank, none) = (self.count * p.rank, [TensorMap::default(); OTHERS]);
        let adapter = Matrix::dense("adapter left", first.t, [p.m, rank]);
        if rank > 0 {
            product.t = maps.matrix(adapter, [t.rows as u32, 64])?;
        }
        let mut args = JoinedArgs {
            product,
            right: none,
            out: none,
            l: none,
            bias: [0; OTHERS],
            tiles: int(p.n.div_ceil(t.cols))?,
            unused: 0,
        };
        for (i, o) in others.iter().enumerate().take(OTHERS) {
            args.right[i] = maps.right("right", o.right, p.k, t)?;
            args.out[i] = maps.result("out", o.out, p.n, t)?;
            args.bias[i] = o.bias;
            if rank > 0 {
                args.l[i] = maps.right("adapter right", o.l, p.rank, t)?;
            }
        }
        let whole = Problem { n: self.count * p.n, ..*p };
        let effort = raster.cut(t).effort(&whole, first, whole.n);
        let touches = self.touches(each, [1, self.count]);
        let launch = Launch { cuda, p, t, raster, product: &args.product, effort, touches };
        launch.run(&args, lead, |adapter| AdaptedJoinedArgs { layer: args, adapter })
    }

    /// Launches `dx = sum_p dy_p w_p + t l`: `dy [count, M, K]`, `t [M, rank]`, `l [rank, N]` and `dx` are the first
    /// part's operands, `t` made by the same launch where `lead` says how.
    ///
    /// # Errors
    /// As [`Parts::layers`].
    pub fn input(
        &self,
        cuda: &Cuda,
        t: &Tiling,
        each: &[Operands],
        lead: Option<&Leading>,
        scratch: u64,
    ) -> Result<()> {
        let (p, whole) = (&self.one, self.behind());
        let raster = Raster::new(&whole, t);
        let Some((first, others)) = each.split_first() else { return Ok(()) };
        let (maps, slabs) = (Maps { cuda, p }, p.k.div_ceil(SLAB));
        let left = Matrix::dense("left", first.left, [self.count * p.m, p.k]);
        let mut product = tensor::args(cuda, p, t, first, scratch, p.n)?;
        product.left = maps.matrix(left, [t.rows as u32, 64])?;
        product.k_slabs = int(self.count * slabs)?;
        product.splits = int(raster.ranges)?;
        let mut args = InputArgs {
            product,
            right: [TensorMap::default(); OTHERS],
            slabs: int(slabs)?,
            rows: int(p.m)?,
            unused: [0; 14],
        };
        for (i, o) in others.iter().enumerate().take(OTHERS) {
            args.right[i] = maps.right("right", o.right, p.k, t)?;
        }
        let effort = raster.cut(t).effort(&whole, first, p.n);
        let touches = self.touches(each, [self.count, 1]);
        let launch = Launch { cuda, p, t, raster, product: &args.product, effort, touches };
        launch.run(&args, lead, |adapter| AdaptedInputArgs { layer: args, adapter })
    }

    /// What the parts read and write, each stretch once; the first part's left operand and its adapter's are so many times
    /// as long.
    fn touches(&self, each: &[Operands], [left, adapter]: [usize; 2]) -> Vec<Touched> {
        let mut all: Vec<Touched> = vec![];
        for t in each.iter().flat_map(|o| self.one.touches(o, 0)) {
            let times = match t.what {
                "left" => left,
                "adapter left" => adapter,
                _ => 1,
            };
            if t.address != 0 && all.iter().all(|old| old.address != t.address) {
                all.push(Touched { bytes: t.bytes * times, ..t });
            }
        }
        all.retain(|t| t.bytes > 0);
        all
    }
}
