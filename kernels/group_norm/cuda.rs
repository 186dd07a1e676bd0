//! Launches of `forward.cu` and `backward.cu`.

use super::GroupNorm;
use crate::{
    device::{Cuda, Touched},
    error::Result,
    kernels::{
        columns::{self, Columns, Partial, Symbols, Walk, by_type, by_width, int},
        variant::{self, Variant},
    },
    op::{Backward, Forward, GradMode},
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

/// What a variant is chosen by.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    /// Channels.
    pub c: usize,
    /// Storage type.
    pub dtype: DType,
}

/// Variants of both passes, best first.
pub const VARIANTS: &[Variant<Problem>] = &[
    // 16 bytes of adjacent channels a thread.
    Variant { name: "vec", applies: |p| p.c.is_multiple_of(columns::wide(p.dtype)) },
    Variant { name: "scalar", applies: |_| true },
];

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    x: u64,
    dy: u64,
    gamma: u64,
    beta: u64,
    mean: u64,
    rstd: u64,
    partial: u64,
    means: u64,
    out: u64,
    walk: Walk,
    groups: i32,
    blocks: i32,
    silu: i32,
    accumulate: i32,
    eps: f32,
    unused: i32,
}

/// Device scratch of either direction: partial rows, then two means a group.
pub(super) fn scratch(x: &Spec, groups: usize) -> usize {
    let (n, c) = (x.dims[0], x.last());
    let rows = x.len() / (n * c).max(1);
    columns::scratch(n, rows, c, x.dtype) + n * groups * 2 * size_of::<f32>()
}

/// The name of the variant for `x`.
pub(super) fn choose(cuda: &Cuda, x: &Spec, backward: bool) -> Result<&'static str> {
    let slot = if backward { "group_norm.backward" } else { "group_norm.forward" };
    let problem = Problem { c: x.last(), dtype: x.dtype };
    Ok(variant::choose(cuda, slot, VARIANTS, &problem)?.name)
}

/// One call: its cut, its arguments and the memory they touch.
struct Call<'a> {
    cuda: &'a Cuda,
    cut: Columns,
    vec: bool,
    dtype: DType,
    args: Args,
    touches: Vec<Touched>,
}

impl<'a> Call<'a> {
    fn new(op: GroupNorm, cuda: &'a Cuda, x: &Spec, scratch: u64, backward: bool) -> Result<Self> {
        let (n, c) = (x.dims[0], x.last());
        let vec = choose(cuda, x, backward)? == "vec";
        let width = if vec { columns::wide(x.dtype) } else { 1 };
        let cut = Columns::of(n, x.len() / (n * c), c, width);
        let mut args: Args = bytemuck::Zeroable::zeroed();
        args.partial = scratch;
        args.means = scratch + cut.partial_bytes() as u64;
        args.walk = cut.walk(OP)?;
        args.groups = int(OP, op.groups)?;
        args.blocks = int(OP, cut.blocks())?;
        args.silu = i32::from(op.silu);
        args.eps = op.eps;
        let bytes = cut.partial_bytes() + n * op.groups * 2 * size_of::<f32>();
        let touches = vec![Touched { what: "scratch", address: scratch, bytes }];
        Ok(Self { cuda, cut, vec, dtype: x.dtype, args, touches })
    }

    fn touch(&mut self, what: &'static str, address: u64, spec: &Spec) -> u64 {
        self.touches.push(Touched::new(what, address, spec));
        address
    }

    fn launch(&self, symbol: &'static str, grid: [u64; 3]) -> Result<()> {
        let kernel = self.cuda.kernel::<Args>(OP, symbol)?;
        self.cuda.launch(&kernel, grid, &self.args, &self.touches)
    }

    /// A pass over the whole tensor.
    fn sweep(&self, symbols: Symbols) -> Result<()> {
        self.launch(symbols.of(self.vec, self.dtype), self.cut.grid())
    }

    /// A pass with one block a group.
    fn groups(&self, symbol: &'static str) -> Result<()> {
        self.launch(symbol, [self.args.groups as u64, self.cut.samples as u64, 1])
    }
}

pub(super) fn forward(op: GroupNorm, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let x = &io.specs[0];
    let mut call = Call::new(op, cuda, x, io.scratch.address(), false)?;
    let stats = Spec::f32(&[x.dims[0], op.groups]);
    call.args.x = call.touch("x", io.ins[0].address(), x);
    call.args.gamma = call.touch("gamma", io.ins[1].address(), &io.specs[1]);
    call.args.beta = call.touch("beta", io.ins[2].address(), &io.specs[2]);
    call.args.mean = call.touch("mean", io.saved[0].address(), &stats);
    call.args.rstd = call.touch("rstd", io.saved[1].address(), &stats);
    call.args.out = call.touch("y", io.out.address(), io.out_spec);
    call.sweep(STATISTICS)?;
    call.groups(FINISH)?;
    call.sweep(APPLY)
}

pub(super) fn backward(op: GroupNorm, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let [dx, dgamma, dbeta] = &io.d_ins[..] else { unreachable!("group_norm: three inputs") };
    let x = &io.specs[0];
    let mut call = Call::new(op, cuda, x, io.scratch.address(), true)?;
    call.args.dy = call.touch("dy", io.d_out.address(), io.out_spec);
    if !op.silu && !dx.wanted() && !dgamma.wanted() {
        // x is not kept: sums of dy alone
        call.vec = false;
        call.cut = Columns::of(call.cut.samples, call.cut.rows, call.cut.c, 1);
        call.args.walk = call.cut.walk(OP)?;
        call.launch(variant::by_dtype(x.dtype, SHIFT_SUMS), call.cut.grid())?;
    } else {
        let stats = Spec::f32(&[x.dims[0], op.groups]);
        call.args.x = call.touch("x", io.ins[0].address(), x);
        call.args.gamma = call.touch("gamma", io.ins[1].address(), &io.specs[1]);
        if op.silu {
            call.args.beta = call.touch("beta", io.ins[2].address(), &io.specs[2]);
        }
        call.args.mean = call.touch("mean", io.saved[0].address(), &stats);
        call.args.rstd = call.touch("rstd", io.saved[1].address(), &stats);
        call.sweep(SUMS)?;
    }
    if dx.wanted() {
        call.args.out = call.touch("dx", dx.buf.address(), x);
        call.args.accumulate = i32::from(dx.mode == GradMode::Accumulate);
        call.groups(variant::by_dtype(x.dtype, MEANS))?;
        call.sweep(INPUT)?;
    }
    if !dgamma.wanted() && !dbeta.wanted() {
        return Ok(());
    }
    let parts = call.cut.samples * call.cut.blocks();
    let partial = Partial { address: call.args.partial, parts, c: call.cut.c };
    let symbol = variant::by_dtype(x.dtype, TOTAL);
    columns::total(cuda, (OP, symbol), partial, x.dtype, [dgamma, dbeta])
}
