//! Launches of `route.cu`.

use super::int;
use crate::{
    device::Cuda,
    error::Result,
    kernels::{
        elementwise::{self, Operands},
        moe::{Route, Table},
        variant::{self, Slot, Variant, by_dtype},
    },
    op::Forward,
    tensor::Spec,
};

const OP: &str = "moe_route";
const TOP_K: [&str; 3] = ["moe_route_f32", "moe_route_bf16", "moe_route_f16"];

/// Ways to fill a table; both give the same one.
const FORWARD: &[Variant<Table>] = &[
    // Every token to every expert: nothing to choose, no logits read.
    Variant { name: "dense", applies: |t| t.slots == t.experts },
    // One block chooses, counts and places.
    Variant { name: "top_k", applies: |_| true },
];

const SLOT: &str = "moe_route.forward";

/// What there is to choose from.
pub(in super::super) fn slots() -> Vec<Slot> {
    vec![Slot::of(SLOT, FORWARD)]
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    logits: u64,
    table: u64,
    tokens: i32,
    experts: i32,
    slots: i32,
    unused: i32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct DenseArgs {
    table: u64,
    tokens: i32,
    experts: i32,
}

fn choose(op: &Route, cuda: &Cuda, logits: &Spec) -> Result<&'static Variant<Table>> {
    variant::choose(cuda, SLOT, FORWARD, &op.table(logits))
}

pub(in super::super) fn variant(op: &Route, cuda: &Cuda, logits: &Spec) -> String {
    choose(op, cuda, logits).map_or(String::new(), |v| v.name.into())
}

pub(in super::super) fn forward(op: &Route, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (logits, mut ops) = (&io.specs[0], Operands::default());
    let t = op.table(logits);
    extents(t)?;
    let table = ops.at("table", io.out.address(), io.out_spec);
    let (tokens, experts) = (int(OP, t.tokens)?, int(OP, t.experts)?);
    if choose(op, cuda, logits)?.name == "dense" {
        let len = t.rows().max(t.experts + 1);
        let args = DenseArgs { table, tokens, experts };
        return elementwise::launch(cuda, (OP, "moe_route_dense"), (len, 1), &args, &ops.touches);
    }
    let kernel = cuda.kernel::<Args>(OP, by_dtype(logits.dtype, TOP_K))?;
    let args = Args {
        logits: ops.read("logits", io.ins[0], logits),
        table,
        tokens,
        experts,
        slots: int(OP, t.slots)?,
        unused: 0,
    };
    cuda.launch(&kernel, [1, 1, 1], &args, &ops.touches)
}

/// Rows are counted in 31 bits.
fn extents(t: Table) -> Result<()> {
    int(OP, t.rows()).map(|_| ())
}
