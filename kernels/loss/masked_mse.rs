//! Weighted mean squared error, one coefficient a sample.

use super::{
    cuda::{masked_mse as cuda, scratch_bytes},
    extents, map_dims, same, write,
};
use crate::{
    error::{Error, Result},
    kernels::{check, frame},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::{DType, Spec},
};

/// Mean squared error under a weight map, one coefficient a sample; value and gradient in one pass.
///
/// `L = sum_n coef_n mean_{p,c}(weight_{n,p} (pred - target)_{n,p,c}^2)`. The mean is over all elements of a
/// sample, not over the weights. The coefficient holds 1/N, the prior weight, and the min-SNR factor.
///
/// # Shapes
/// `pred, target: [N, .., C]`, `weight: [N, ..]`, `coefficient: [N]` -> `[1]`.
///
/// # Gradient
/// Of all four. That of `pred` is saved by forward (`target` takes its negative); `weight` and `coefficient`
/// are computed again from the inputs.
///
/// # Numerics
/// The sum runs in f64, in order: bitwise the same on every run.
///
/// # Errors
/// [`Error::Shape`].
///
/// # Source
/// Loss mask and its normalization: methods of MuDI (2404.04243), the released trainer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaskedMse;

impl Op for MaskedMse {
    fn name(&self) -> &'static str {
        "loss"
    }

    fn types(&self) -> &'static [DType] {
        &[DType::F32]
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        let [pred, target, weight, coefficient] = ins else {
            let want = "four inputs: prediction, target, weight, coefficient".into();
            let got = vec![ins.len()];
            return Err(Error::Shape { at: "loss".into(), what: "inputs", got, want });
        };
        let map = map_dims(pred)?;
        same("target", target, &pred.dims)?;
        same("weight", weight, map)?;
        same("coefficient", coefficient, &map[..1])?;
        check::f32_inputs("loss", ins, &["prediction", "target", "weight", "coefficient"])?;
        let scratch = scratch_bytes(extents(pred).0, map[0]);
        Ok(Signature {
            out: pred.with(&[1]),
            saved: vec![pred.clone()],
            forward_scratch: scratch,
            backward_scratch: scratch,
        })
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        let want = |i: usize| wants.get(i).copied().unwrap_or(false);
        let again = want(2) || want(3);
        Keeps {
            ins: if again { vec![0, 1, 2, 3] } else { vec![] },
            out: false,
            saved: want(0) || want(1),
        }
    }

    fn cost(&self, ins: &[Spec], _out: &Spec) -> Cost {
        let elements = ins.first().map_or(0, Spec::len) as f64;
        Cost { flop: 6.0 * elements, bytes: 12.0 * elements }
    }

    fn detail(&self) -> String {
        "masked squared error".into()
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        frame::forward(self.name(), io, |io| forward(io), |cuda, io| cuda::forward(cuda, io))
    }

    fn backward(&self, io: Backward<'_>) -> Result<()> {
        frame::backward(self.name(), io, |io| backward(io), |cuda, io| cuda::backward(cuda, io))
    }
}

fn forward(mut io: Forward<'_>) {
    let (each, c) = extents(&io.specs[0]);
    let (pred, target) = (io.ins[0].f32(), io.ins[1].f32());
    let (weight, coefficient) = (io.ins[2].f32(), io.ins[3].f32());
    let gradient = io.saved[0].f32();
    let mut loss = 0f64;
    for (n, coefficient) in coefficient.iter().enumerate() {
        let factor = f64::from(*coefficient) / each.max(1) as f64;
        let mut sum = 0f64;
        for i in n * each..(n + 1) * each {
            let error = pred[i] - target[i];
            let weighted = weight[i / c] * error;
            sum += f64::from(weighted * error);
            gradient[i] = (2.0 * factor) as f32 * weighted;
        }
        loss += factor * sum;
    }
    io.out.f32()[0] = loss as f32;
}

fn backward(mut io: Backward<'_>) {
    let (each, c) = extents(&io.specs[0]);
    let g = io.d_out.f32()[0];
    let [d_pred, d_target, d_weight, d_coefficient] = io.d_ins.as_mut_slice() else {
        unreachable!("loss: infer admits four inputs")
    };
    if d_pred.wanted() || d_target.wanted() {
        let saved = io.saved[0].f32();
        write(d_pred, |i| g * saved[i]);
        write(d_target, |i| -g * saved[i]);
    }
    if d_weight.wanted() || d_coefficient.wanted() {
        let (pred, target) = (io.ins[0].f32(), io.ins[1].f32());
        let (weight, coefficient) = (io.ins[2].f32(), io.ins[3].f32());
        let square = |i: usize| f64::from(pred[i] - target[i]).powi(2);
        let mean = 1.0 / each.max(1) as f64;
        write(d_weight, |p| {
            let sum: f64 = (p * c..(p + 1) * c).map(square).sum();
            (f64::from(g * coefficient[p * c / each.max(1)]) * mean * sum) as f32
        });
        write(d_coefficient, |n| {
            let all = n * each..(n + 1) * each;
            let sum: f64 = all.map(|i| f64::from(weight[i / c]) * square(i)).sum();
            (f64::from(g) * mean * sum) as f32
        });
    }
}
