//! Direct consistency optimization.

use super::{
    cuda::{dco as cuda, scratch_bytes},
    map_dims, same, write,
};
use crate::{
    error::{Error, Result},
    kernels::{check, frame},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::{DType, Spec},
};

/// Prefers the adapted model over the frozen one on the training pictures.
///
/// `L = -log sigmoid(-beta d)`, `d = mean(w (pred - target)^2) - mean(w (reference - target)^2)`, both means over
/// every element of the batch. `L = ln 2` at the start, where both models agree.
///
/// # Shapes
/// `pred, reference, target: [N, .., C]`, `weight: [N, ..]` -> `[1]`.
///
/// # Gradient
/// Of all four, from the inputs; the slope `beta sigmoid(beta d)` is saved.
///
/// # Numerics
/// Sums in f64, in order; the softplus never overflows.
///
/// # Errors
/// [`Error::Shape`].
///
/// # Source
/// Lee et al. 2024 (2402.12004), as used by the released MuDI trainer with `beta = 1000`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dco {
    /// How strongly the difference counts.
    pub beta: f32,
}

impl Op for Dco {
    fn name(&self) -> &'static str {
        "loss"
    }

    fn types(&self) -> &'static [DType] {
        &[DType::F32]
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        let [pred, reference, target, weight] = ins else {
            let want = "four inputs: prediction, reference, target, weight".into();
            let got = vec![ins.len()];
            return Err(Error::Shape { at: "loss".into(), what: "inputs", got, want });
        };
        let map = map_dims(pred)?;
        same("reference", reference, &pred.dims)?;
        same("target", target, &pred.dims)?;
        same("weight", weight, map)?;
        check::f32_inputs("loss", ins, &["prediction", "reference", "target", "weight"])?;
        Ok(Signature {
            saved: vec![pred.with(&[1])],
            forward_scratch: scratch_bytes(pred.len(), 1),
            ..Signature::of(pred.with(&[1]))
        })
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        let any = wants.iter().any(|w| *w);
        Keeps { ins: if any { vec![0, 1, 2, 3] } else { vec![] }, out: false, saved: any }
    }

    fn cost(&self, ins: &[Spec], _out: &Spec) -> Cost {
        let elements = ins.first().map_or(0, Spec::len) as f64;
        Cost { flop: 8.0 * elements, bytes: 12.0 * elements }
    }

    fn detail(&self) -> String {
        format!("dco beta {}", self.beta)
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        frame::forward(
            self.name(),
            io,
            |io| forward(self.beta, io),
            |cuda, io| cuda::forward(self.beta, cuda, io),
        )
    }

    fn backward(&self, io: Backward<'_>) -> Result<()> {
        frame::backward(
            self.name(),
            io,
            |io| backward(io),
            |cuda, io| cuda::backward(self.beta, cuda, io),
        )
    }
}

/// `log(1 + exp(x))`.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn forward(beta: f32, mut io: Forward<'_>) {
    let c = io.specs[0].last();
    let [pred, reference, target, weight] = [0, 1, 2, 3].map(|i| io.ins[i].f32());
    let mut sum = 0f64;
    for i in 0..pred.len() {
        let new = f64::from(pred[i] - target[i]).powi(2);
        let old = f64::from(reference[i] - target[i]).powi(2);
        sum += f64::from(weight[i / c]) * (new - old);
    }
    let x = f64::from(beta) * sum / pred.len().max(1) as f64;
    io.out.f32()[0] = softplus(x) as f32;
    io.saved[0].f32()[0] = (f64::from(beta) / (1.0 + (-x).exp())) as f32;
}

fn backward(mut io: Backward<'_>) {
    let c = io.specs[0].last();
    let [pred, reference, target, weight] = [0, 1, 2, 3].map(|i| io.ins[i].f32());
    let factor = io.d_out.f32()[0] * io.saved[0].f32()[0] / pred.len().max(1) as f32;
    let [d_pred, d_reference, d_target, d_weight] = io.d_ins.as_mut_slice() else {
        unreachable!("loss: infer admits four inputs")
    };
    let twice = |i: usize| 2.0 * factor * weight[i / c];
    write(d_pred, |i| twice(i) * (pred[i] - target[i]));
    write(d_reference, |i| -twice(i) * (reference[i] - target[i]));
    write(d_target, |i| twice(i) * (reference[i] - pred[i]));
    write(d_weight, |p| {
        let difference =
            |i: usize| (pred[i] - target[i]).powi(2) - (reference[i] - target[i]).powi(2);
        factor * (p * c..(p + 1) * c).map(difference).sum::<f32>()
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::op::{Buf, BufMut};

    fn value(d: f32, beta: f32) -> (f32, f32) {
        let specs = [vec![1, 1, 1, 1], vec![1, 1, 1, 1], vec![1, 1, 1, 1], vec![1, 1, 1]]
            .map(|d| Spec::f32(&d));
        // reference error 1, prediction error 1 + d
        let data = [[(1.0 + d).sqrt()], [1.0f32], [0.0], [1.0]];
        let (mut out, mut slope) = ([f32::NAN], [f32::NAN]);
        let io = Forward {
            device: &Device::Cpu,
            specs: &specs,
            out_spec: &Spec::f32(&[1]),
            ins: data.iter().map(|d| Buf::Host(bytemuck::cast_slice(d))).collect(),
            out: BufMut::Host(bytemuck::cast_slice_mut(&mut out)),
            saved: vec![BufMut::Host(bytemuck::cast_slice_mut(&mut slope))],
            scratch: BufMut::Host(&mut []),
        };
        Dco { beta }.forward(io).unwrap();
        (out[0], slope[0])
    }

    #[test]
    fn equals_the_published_values() {
        let (loss, slope) = value(0.0, 1000.0);
        assert!(
            (loss - std::f32::consts::LN_2).abs() < 1e-6 && (slope - 500.0).abs() < 1e-3,
            "{loss} {slope}"
        );
        let (loss, _) = value(-0.001, 1000.0);
        assert!((loss - 0.313_262).abs() < 2e-4, "{loss}");
    }

    #[test]
    fn huge_differences_stay_finite() {
        assert!((value(3.0, 1e6).0 - 3e6).abs() < 10.0);
        assert_eq!(value(-0.9, 1e6).0, 0.0);
    }
}
