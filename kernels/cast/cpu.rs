//! Reference: one element after the other; the only operation whose CPU side knows all float types.

use crate::{
    op::{Backward, Forward, GradMode},
    tensor::DType,
};
use half::{bf16, f16};

/// Stored elements as f32.
fn read(bytes: &[u8], dtype: DType) -> Vec<f32> {
    let short = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
    match dtype {
        DType::F32 | DType::I32 => {
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        }
        DType::Bf16 => bytes.chunks_exact(2).map(|b| bf16::from_bits(short(b)).to_f32()).collect(),
        DType::F16 => bytes.chunks_exact(2).map(|b| f16::from_bits(short(b)).to_f32()).collect(),
    }
}

/// Stores `values`, rounded once.
fn write(bytes: &mut [u8], dtype: DType, values: &[f32]) {
    let size = dtype.size_bytes();
    for (b, v) in bytes.chunks_exact_mut(size).zip(values) {
        match dtype {
            DType::F32 | DType::I32 => b.copy_from_slice(&v.to_le_bytes()),
            DType::Bf16 => b.copy_from_slice(&bf16::from_f32(*v).to_le_bytes()),
            DType::F16 => b.copy_from_slice(&f16::from_f32(*v).to_le_bytes()),
        }
    }
}

pub(super) fn forward(mut io: Forward<'_>) {
    let (from, to) = (io.specs[0].dtype, io.out_spec.dtype);
    if from == to {
        io.out.raw().copy_from_slice(io.ins[0].raw());
        return;
    }
    write(io.out.raw(), to, &read(io.ins[0].raw(), from));
}

pub(super) fn backward(mut io: Backward<'_>) {
    let (from, to) = (io.out_spec.dtype, io.specs[0].dtype);
    let grad = &mut io.d_ins[0];
    if !grad.wanted() {
        return;
    }
    let mut values = read(io.d_out.raw(), from);
    if grad.mode == GradMode::Accumulate {
        values.iter_mut().zip(read(grad.buf.raw(), to)).for_each(|(v, old)| *v += old);
    }
    write(grad.buf.raw(), to, &values);
}
