//! Launches of `embedding.cu`.

use crate::{
    device::Cuda,
    error::Result,
    kernels::{
        elementwise::{self, OVERWRITE, Operands, extent},
        variant::by_dtype,
    },
    op::{Backward, Forward, GradMode},
    tensor::Spec,
};

const EMBED: [&str; 3] = ["embedding_f32", "embedding_bf16", "embedding_f16"];
const TABLE: [&str; 3] = ["embedding_table_f32", "embedding_table_bf16", "embedding_table_f16"];
const POSITIONS: [&str; 3] =
    ["embedding_positions_f32", "embedding_positions_bf16", "embedding_positions_f16"];
const GATHER: [&str; 3] = ["gather_rows_f32", "gather_rows_bf16", "gather_rows_f16"];
const GATHER_BACKWARD: [&str; 3] =
    ["gather_rows_backward_f32", "gather_rows_backward_bf16", "gather_rows_backward_f16"];

#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    ids: u64,
    table: u64,
    positions: u64,
    added: u64,
    target: u64,
    len: u64,
    tokens: u32,
    length: u32,
    vocabulary: u32,
    cols: u32,
    mode: i32,
    more: u32,
}

/// Extents of an embedding of `ids` with a table of `table`.
fn extents(ids: &Spec, table: &Spec) -> Result<Args> {
    Ok(Args {
        tokens: extent("embedding", ids.len())?,
        length: extent("embedding", ids.last())?,
        vocabulary: extent("embedding", table.dims[0])?,
        cols: extent("embedding", table.last())?,
        mode: OVERWRITE,
        ..Args::default()
    })
}

pub(super) fn embed(cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (y, mut ops) = (io.out_spec, Operands::default());
    let mut added = (0, 0);
    if let Some(spec) = io.specs.get(3) {
        added = (ops.read("added", io.ins[3], spec), extent("embedding", spec.dims[0])?);
    }
    let args = Args {
        ids: ops.read("ids", io.ins[0], &io.specs[0]),
        table: ops.read("table", io.ins[1], &io.specs[1]),
        positions: ops.read("positions", io.ins[2], &io.specs[2]),
        added: added.0,
        more: added.1,
        target: ops.at("y", io.out.address(), y),
        len: y.len() as u64,
        ..extents(&io.specs[0], &io.specs[1])?
    };
    let name = ("embedding", by_dtype(y.dtype, EMBED));
    elementwise::launch(cuda, name, (y.len(), 1), &args, &ops.touches)
}

pub(super) fn embed_backward(cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (ids, y) = (&io.specs[0], io.out_spec);
    let first = extent("embedding", io.specs[1].dims[0])?;
    let tables = [(1, TABLE), (2, POSITIONS), (3, TABLE)];
    for (which, symbols) in tables.into_iter().take(io.specs.len() - 1) {
        let (spec, grad, mut ops) = (&io.specs[which], &io.d_ins[which], Operands::default());
        let (target, mode) = ops.gradient("gradient", grad, spec);
        if mode == 0 {
            continue;
        }
        let table = which != 2;
        if table && grad.mode == GradMode::Overwrite {
            cuda.fill(target, spec.bytes(), 0)?; // all bits 0 is 0.0 in every type
        }
        let len = if table { spec.last() } else { spec.len() };
        let args = Args {
            ids: ops.read("ids", io.ins[0], ids),
            table: ops.read("dy", io.d_out, y),
            target,
            len: len as u64,
            mode,
            more: if which == 3 { first } else { 0 },
            ..extents(ids, if table { spec } else { &io.specs[1] })?
        };
        let rows = if table { ids.len() } else { 1 };
        let name = ("embedding", by_dtype(y.dtype, symbols));
        elementwise::launch(cuda, name, (len, rows), &args, &ops.touches)?;
    }
    Ok(())
}

/// Extents of a pick from `x: [N, L, C]`.
fn pick_extents(x: &Spec) -> Result<Args> {
    Ok(Args {
        length: extent("gather_rows", x.dims[1])?,
        cols: extent("gather_rows", x.last())?,
        mode: OVERWRITE,
        ..Args::default()
    })
}

pub(super) fn gather(cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (y, mut ops) = (io.out_spec, Operands::default());
    let args = Args {
        ids: ops.read("rows", io.ins[1], &io.specs[1]),
        table: ops.read("x", io.ins[0], &io.specs[0]),
        target: ops.at("y", io.out.address(), y),
        len: y.len() as u64,
        ..pick_extents(&io.specs[0])?
    };
    let name = ("gather_rows", by_dtype(y.dtype, GATHER));
    elementwise::launch(cuda, name, (y.len(), 1), &args, &ops.touches)
}

pub(super) fn gather_backward(cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (x, mut ops) = (&io.specs[0], Operands::default());
    let (target, mode) = ops.gradient("dx", &io.d_ins[0], x);
    if mode == 0 {
        return Ok(());
    }
    let args = Args {
        ids: ops.read("rows", io.ins[1], &io.specs[1]),
        table: ops.read("dy", io.d_out, io.out_spec),
        target,
        len: x.len() as u64,
        mode,
        ..pick_extents(x)?
    };
    let name = ("gather_rows", by_dtype(x.dtype, GATHER_BACKWARD));
    elementwise::launch(cuda, name, (x.len(), 1), &args, &ops.touches)
}
