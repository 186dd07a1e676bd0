//! The same product by NVIDIA's library, for the operations that are one product.

use super::bed::{Bed, Operand, Pass};
use crate::{
    device::{Factor, MatrixProduct},
    tensor::DType,
};

/// The products that a pass of `bed` is made of; empty where there is none to compare with.
pub fn products(bed: &Bed<'_>, pass: &Pass, copy: usize, dtype: DType) -> Vec<MatrixProduct> {
    if bed.case.op.name() != "linear" || bed.specs.len() < 2 {
        return vec![];
    }
    let (x, w) = (&bed.specs[0], &bed.specs[1]);
    let (n, k) = (w.dims[0], w.dims[1]);
    let rows = x.len() / k.max(1);
    let plain = |which| Factor { address: bed.operand(copy, which), transposed: false };
    let transposed = |which| Factor { address: bed.operand(copy, which), transposed: true };
    let product =
        |extents, a, b, c| MatrixProduct { dtype, extents, a, b, c: bed.operand(copy, c) };
    match pass {
        Pass::Forward => vec![product(
            [rows, n, k],
            plain(Operand::In(0)),
            transposed(Operand::In(1)),
            Operand::Out,
        )],
        Pass::Backward(wants) => {
            let dx = || {
                let (a, b) = (plain(Operand::DOut), plain(Operand::In(1)));
                product([rows, k, n], a, b, Operand::Grad(0))
            };
            let dw = || {
                let (a, b) = (transposed(Operand::DOut), plain(Operand::In(0)));
                product([n, k, rows], a, b, Operand::Grad(1))
            };
            let mut all = vec![];
            all.extend(wants[0].then(dx));
            all.extend(wants[1].then(dw));
            all
        }
    }
}
