//! Launches of `forward.cu` and `backward.cu`, and of their single-launch variants for Hopper.

use super::{
    GroupNorm,
    cluster::{self, CLUSTER, Cut},
    problem::Problem,
};
use crate::{
    device::{Cuda, Effort, Touched},
    error::Result,
    kernels::{
        columns::{self, Columns, Partial, Symbols, Walk, by_type, by_width, int},
        variant::{self, Slot, Variant},
    },
    op::{Backward, Buf, Forward, Grad, GradMode},
    tensor::{DType, Spec},
};

const OP: &str = "group_norm";
const STATISTICS: Symbols = by_width!("group_norm_statistics");
const APPLY: Symbols = by_width!("group_norm_apply");
const SUMS: Symbols = by_width!("group_norm_sums");
const INPUT: Symbols = by_width!("group_norm_input");
const SHIFT_SUMS: [&str; 3] = by_type!("group_norm_shift_sums");
const MEANS: [&str; 3] = by_type!("group_norm_means");
const TOTAL: [&str; 3] = by_type!("group_norm_total");
const FINISH: &str = "group_norm_finish";
const CLUSTER_FORWARD: [[&str; 3]; 2] =
    [by_type!("group_norm_forward_small"), by_type!("group_norm_forward_large")];
const CLUSTER_BACKWARD: [[&str; 3]; 2] =
    [by_type!("group_norm_backward_small"), by_type!("group_norm_backward_large")];

// One launch: clusters hold x (and dy) in shared memory.
const ONCE: &str = "cluster";
// Three launches, 16 bytes of adjacent channels a thread.
const VECTORS: &str = "vec";
const SCALARS: Variant<Problem> = Variant { name: "scalar", applies: |_| true };

fn whole_vectors(p: &Problem) -> bool {
    p.in_vectors(columns::wide(p.dtype))
}

/// Variants of forward, best first.
pub const FORWARD: &[Variant<Problem>] = &[
    Variant { name: ONCE, applies: |p| Cut::of(p, cluster::FORWARD).is_some() },
    Variant { name: VECTORS, applies: whole_vectors },
    SCALARS,
];

/// Variants of backward, best first.
pub const BACKWARD: &[Variant<Problem>] = &[
    Variant { name: ONCE, applies: |p| Cut::of(p, cluster::BACKWARD).is_some() },
    Variant { name: VECTORS, applies: whole_vectors },
    SCALARS,
];

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    x: [u64; 2],
    dy: u64,
    gamma: u64,
    beta: u64,
    mean: u64,
    rstd: u64,
    partial: u64,
    means: u64,
    out: [u64; 2],
    walk: Walk,
    split: i32,
    groups: i32,
    blocks: i32,
    silu: i32,
    accumulate: [i32; 2],
    eps: f32,
    unused: i32,
}

/// Device scratch of either direction: partial rows, then two means a group.
pub(super) fn scratch(x: &Spec, groups: usize) -> usize {
    let (n, c) = (x.dims[0], x.last());
    let rows = x.len() / (n * c).max(1);
    let clusters = n * CLUSTER * 2 * c * size_of::<f32>();
    columns::scratch(n, rows, c, x.dtype).max(clusters) + n * groups * 2 * size_of::<f32>()
}

const SLOT_FORWARD: &str = "group_norm.forward";
const SLOT_BACKWARD: &str = "group_norm.backward";

/// What there is to choose from.
pub(super) fn slots() -> Vec<Slot> {
    vec![Slot::of(SLOT_FORWARD, FORWARD), Slot::of(SLOT_BACKWARD, BACKWARD)]
}

/// The variant for `x`.
fn choose(cuda: &Cuda, problem: &Problem, backward: bool) -> Result<&'static str> {
    let (slot, rows) = match backward {
        true => (SLOT_BACKWARD, BACKWARD),
        false => (SLOT_FORWARD, FORWARD),
    };
    Ok(variant::choose(cuda, slot, rows, problem)?.name)
}

/// The name of the variant for `x`, of which one part is given too; for a reader of the plan.
pub(super) fn name(
    op: GroupNorm,
    cuda: &Cuda,
    x: (&Spec, &Spec),
    backward: bool,
) -> Result<&'static str> {
    choose(cuda, &Problem::new(cuda, x, op.groups), backward)
}

/// One call: its cut, its arguments and the memory they touch.
struct Call<'a> {
    cuda: &'a Cuda,
    cut: Columns,
    vec: bool,
    dtype: DType,
    args: Args,
    touches: Vec<Touched>,
    /// The results, which the last launch alone writes.
    results: Vec<Touched>,
}

impl<'a> Call<'a> {
    fn new(
        op: GroupNorm,
        cuda: &'a Cuda,
        problem: &Problem,
        scratch: u64,
        name: &str,
    ) -> Result<Self> {
        let Problem { samples: n, rows, c, dtype, .. } = *problem;
        let vec = name != SCALARS.name;
        let cut = Columns::of(n, rows, c, if vec { columns::wide(dtype) } else { 1 });
        let mut args: Args = bytemuck::Zeroable::zeroed();
        args.partial = scratch;
        args.means = scratch + cut.partial_bytes() as u64;
        args.walk = cut.walk(OP)?;
        args.split = int(OP, problem.split)?;
        args.groups = int(OP, op.groups)?;
        args.blocks = int(OP, cut.blocks())?;
        args.silu = i32::from(op.silu);
        args.eps = op.eps;
        let bytes = cut.partial_bytes() + n * op.groups * 2 * size_of::<f32>();
        let touches = vec![Touched { what: "scratch", address: scratch, bytes }];
        Ok(Self { cuda, cut, vec, dtype, args, touches, results: vec![] })
    }

    fn touch(&mut self, what: &'static str, address: u64, spec: &Spec) -> u64 {
        self.touches.push(Touched::new(what, address, spec));
        address
    }

    /// The `i`-th result.
    fn result(&mut self, i: usize, what: &'static str, address: u64, spec: &Spec) {
        self.args.out[i] = address;
        self.results.push(Touched::new(what, address, spec));
    }

    /// The parts of `x`.
    fn parts(&mut self, op: GroupNorm, specs: &[Spec], ins: &[Buf<'_>]) {
        for (i, (spec, x)) in specs.iter().zip(ins).take(op.parts()).enumerate() {
            self.args.x[i] = self.touch("x", x.address(), spec);
        }
    }

    /// A launch that writes the results.
    fn launch(&self, symbol: &'static str, grid: [u64; 3]) -> Result<()> {
        let kernel = self.cuda.kernel::<Args>(OP, symbol)?;
        let mut touches = self.touches.clone();
        touches.extend(&self.results);
        self.cuda.launch(&kernel, grid, &self.args, &touches)
    }

    /// A pass over the whole tensor that writes the results.
    fn sweep(&self, symbols: Symbols) -> Result<()> {
        self.launch(symbols.of(self.vec, self.dtype), self.cut.grid())
    }

    /// A pass over the whole tensor that writes partial rows only.
    fn sums(&self, symbol: &'static str) -> Result<()> {
        let kernel = self.cuda.kernel::<Args>(OP, symbol)?;
        self.cuda.launch(&kernel, self.cut.grid(), &self.args, &self.touches)
    }

    /// The whole work in clusters.
    fn clusters(&mut self, cut: Cut, symbols: [[&'static str; 3]; 2]) -> Result<()> {
        self.args.walk.tile_vecs = int(OP, cut.tile_vecs)?;
        self.args.walk.block_rows = int(OP, cut.block_rows)?;
        let symbol = variant::by_dtype(self.dtype, symbols[usize::from(cut.large)]);
        self.launch(symbol, [(CLUSTER * cut.tiles) as u64, self.cut.samples as u64, 1])
    }

    /// A pass with one block a group.
    fn groups(&self, symbol: &'static str) -> Result<()> {
        let grid = [self.args.groups as u64, self.cut.samples as u64, 1];
        let scratch = self.touches.first().map_or(0, |t| t.bytes);
        let effort = Effort::pass(grid[0] * grid[1], 0.0, scratch as f64);
        let kernel = self.cuda.kernel::<Args>(OP, symbol)?.taking(effort);
        self.cuda.launch(&kernel, grid, &self.args, &self.touches)
    }
}

pub(super) fn forward(op: GroupNorm, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let x = io.out_spec;
    let problem = Problem::new(cuda, (&io.specs[0], x), op.groups);
    let name = choose(cuda, &problem, false)?;
    let mut call = Call::new(op, cuda, &problem, io.scratch.address(), name)?;
    let stats = Spec::f32(&[x.dims[0], op.groups]);
    call.parts(op, io.specs, &io.ins);
    let (gamma, beta) = (op.gamma(), op.beta());
    call.args.gamma = call.touch("gamma", io.ins[gamma].address(), &io.specs[gamma]);
    call.args.beta = call.touch("beta", io.ins[beta].address(), &io.specs[beta]);
    call.args.mean = call.touch("mean", io.saved[0].address(), &stats);
    call.args.rstd = call.touch("rstd", io.saved[1].address(), &stats);
    call.result(0, "y", io.out.address(), io.out_spec);
    if let (ONCE, Some(cut)) = (name, Cut::of(&problem, cluster::FORWARD)) {
        return call.clusters(cut, CLUSTER_FORWARD);
    }
    call.sums(STATISTICS.of(call.vec, call.dtype))?;
    call.groups(FINISH)?;
    call.sweep(APPLY)
}

pub(super) fn backward(op: GroupNorm, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (dx, [dgamma, dbeta]) = io.d_ins.split_at(op.parts()) else {
        unreachable!("group_norm: gamma and beta")
    };
    let (x, wanted) = (io.out_spec, dx.iter().any(Grad::wanted));
    let problem = Problem::new(cuda, (&io.specs[0], x), op.groups);
    let name = choose(cuda, &problem, true)?;
    let mut call = Call::new(op, cuda, &problem, io.scratch.address(), name)?;
    call.args.dy = call.touch("dy", io.d_out.address(), io.out_spec);
    let trained = dgamma.wanted() || dbeta.wanted();
    let parts = if !op.silu && !wanted && !dgamma.wanted() {
        shift_sums(&mut call)?
    } else {
        operands(op, &mut call, io);
        for (i, dx) in dx.iter().enumerate().filter(|(_, dx)| dx.wanted()) {
            call.result(i, "dx", dx.buf.address(), &io.specs[i]);
            call.args.accumulate[i] = i32::from(dx.mode == GradMode::Accumulate);
        }
        // without dx there is one pass over the data anyway
        let cut = Cut::of(&problem, cluster::BACKWARD).filter(|_| name == ONCE && wanted);
        match cut {
            Some(cut) => {
                let bytes = problem.samples * CLUSTER * 2 * problem.c * size_of::<f32>();
                let address = if trained { call.args.partial } else { 0 };
                call.args.partial = address;
                call.touches[0] = Touched { what: "scratch", address, bytes };
                if !trained {
                    call.touches.swap_remove(0);
                }
                call.clusters(cut, CLUSTER_BACKWARD)?;
                problem.samples * CLUSTER
            }
            None => sweeps(&call, wanted)?,
        }
    };
    if !trained {
        return Ok(());
    }
    let partial = Partial { address: io.scratch.address(), parts, c: problem.c };
    let symbol = variant::by_dtype(x.dtype, TOTAL);
    columns::total(cuda, (OP, symbol), partial, x.dtype, [dgamma, dbeta])
}

/// What every backward pass but [`shift_sums`] reads.
fn operands(op: GroupNorm, call: &mut Call<'_>, io: &Backward<'_>) {
    let stats = Spec::f32(&[io.specs[0].dims[0], op.groups]);
    let (gamma, beta) = (op.gamma(), op.beta());
    call.parts(op, io.specs, &io.ins);
    call.args.gamma = call.touch("gamma", io.ins[gamma].address(), &io.specs[gamma]);
    if op.silu {
        call.args.beta = call.touch("beta", io.ins[beta].address(), &io.specs[beta]);
    }
    call.args.mean = call.touch("mean", io.saved[0].address(), &stats);
    call.args.rstd = call.touch("rstd", io.saved[1].address(), &stats);
}

/// Partial rows of dy alone, where `x` is not kept; how many.
fn shift_sums(call: &mut Call<'_>) -> Result<usize> {
    call.cut = Columns::of(call.cut.samples, call.cut.rows, call.cut.c, 1);
    call.args.walk = call.cut.walk(OP)?;
    call.sums(variant::by_dtype(call.dtype, SHIFT_SUMS))?;
    Ok(call.cut.samples * call.cut.blocks())
}

/// Partial rows, and dx from them where wanted; how many rows.
fn sweeps(call: &Call<'_>, input: bool) -> Result<usize> {
    call.sums(SUMS.of(call.vec, call.dtype))?;
    if input {
        call.groups(variant::by_dtype(call.dtype, MEANS))?;
        call.sweep(INPUT)?;
    }
    Ok(call.cut.samples * call.cut.blocks())
}
