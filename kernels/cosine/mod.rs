//! Cosines of feature vectors, and the means over tokens that they are taken of.

pub mod cases;
mod cpu;
mod cuda;

use crate::{
    device::Device,
    error::Result,
    kernels::{check, frame},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::Spec,
};

/// `y[n, c]` = mean of `x[n, .., c]` over the middle axes: one feature vector for a text's tokens.
///
/// # Shapes
/// `x: [N, .., C]`, `y: [N, C]`; f32, bf16 or f16.
/// # Gradient
/// `dx[n, .., c] = dy[n, c] / L`, `L` the number of tokens; keeps nothing.
/// # Numerics
/// Sums in f32 on a device, in f64 on the CPU, always in the same order; one rounding.
/// # Errors
/// [`crate::error::Error::Shape`] for fewer than two axes, or samples without a token.
/// # Source
/// methods.md §2.2 (cosines take the mean over tokens).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeanTokens;

/// `y` = mean over `n` of `a_n . b_n / (max(|a_n|, eps) max(|b_n|, eps))`, `eps = 1e-8`: how alike two batches of
/// feature vectors are, as a loss.
///
/// # Shapes
/// `a, b: [N, C]`, f32, bf16 or f16; `y: [1]` in f32, as the losses of training.
/// # Gradient
/// With `u = a / |a|`, `v = b / |b|`: `da = dy (v - (u . v) u) / (N |a|)`, `db` the same with both exchanged; keeps
/// `a` and `b`. A row no longer than `eps` has no direction: its cosine is 0, its own gradient 0 (the slope of the
/// formula, `v / eps`, is beyond f16).
/// # Numerics
/// Products of rows in f64, quotients and gradients in f32: bitwise the same on every run.
/// # Errors
/// [`crate::error::Error::Shape`] for other axes, different dims, no row.
/// # Source
/// methods.md §2.2 (`L_2`, `L_3`, `L_4`; guarded norms, the mean over a batch).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cosine;

/// Length below which a row has no direction; `kEps` in the kernels.
const EPS: f64 = 1e-8;

/// Tokens of a sample.
fn tokens(x: &Spec) -> usize {
    let middle = x.dims.len().saturating_sub(1).max(1);
    x.dims[1..middle].iter().product()
}

impl Op for MeanTokens {
    fn name(&self) -> &'static str {
        "mean_tokens"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        check::float_inputs(self.name(), ins, &["x"])?;
        let x = &ins[0];
        if x.dims.len() < 2 || tokens(x) == 0 {
            let want = "[N, .., C] with at least one token".into();
            return Err(check::shape(self.name(), "x", x, want));
        }
        Ok(Signature::of(x.with(&[x.dims[0], x.last()])))
    }

    fn keeps(&self, _: &[bool]) -> Keeps {
        Keeps::default()
    }

    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        Cost { flop: ins[0].len() as f64, bytes: (ins[0].bytes() + out.bytes()) as f64 }
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        frame::forward(self.name(), io, |io| cpu::mean(io), |cuda, io| cuda::mean(cuda, io))
    }

    fn backward(&self, io: Backward<'_>) -> Result<()> {
        frame::backward(
            self.name(),
            io,
            |io| cpu::mean_backward(io),
            |cuda, io| cuda::mean_backward(cuda, io),
        )
    }
}

impl Op for Cosine {
    fn name(&self) -> &'static str {
        "cosine"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        check::float_inputs(self.name(), ins, &["a", "b"])?;
        check::dims(self.name(), "b", &ins[1], &ins[0].dims, "(as a)")?;
        if ins[0].dims.len() != 2 || ins[0].dims[0] == 0 {
            let want = "[N, C] with at least one row".into();
            return Err(check::shape(self.name(), "a", &ins[0], want));
        }
        Ok(Signature::of(Spec::f32(&[1])))
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        let ins = if wants.contains(&true) { vec![0, 1] } else { vec![] };
        Keeps { ins, ..Keeps::default() }
    }

    fn cost(&self, ins: &[Spec], _: &Spec) -> Cost {
        Cost { flop: 6.0 * ins[0].len() as f64, bytes: 2.0 * ins[0].bytes() as f64 }
    }

    fn backward_cost(&self, ins: &[Spec], _: &Spec, wants: &[bool]) -> Cost {
        let n = wants.iter().filter(|w| **w).count() as f64;
        let flop = (6.0 + 5.0 * n) * ins[0].len() as f64;
        Cost { flop, bytes: (2.0 + n) * ins[0].bytes() as f64 }
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        on_cpu_in_f32(self.name(), io.device, &io.specs[0])?;
        frame::forward(self.name(), io, |io| cpu::cosine(io), |cuda, io| cuda::cosine(cuda, io))
    }

    fn backward(&self, io: Backward<'_>) -> Result<()> {
        on_cpu_in_f32(self.name(), io.device, &io.specs[0])?;
        frame::backward(
            self.name(),
            io,
            |io| cpu::cosine_backward(io),
            |cuda, io| cuda::cosine_backward(cuda, io),
        )
    }
}

/// The frame looks at the output's type, which is f32 always.
fn on_cpu_in_f32(name: &'static str, device: &Device, a: &Spec) -> Result<()> {
    match device {
        Device::Cpu => check::cpu_dtype(name, a.dtype),
        Device::Cuda(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Buf, BufMut, Grad, GradMode};
    use crate::tensor::DType;

    /// The mean cosine of rows and both gradients for `dy`.
    fn run(dims: [usize; 2], a: &[f32], b: &[f32], dy: f32) -> (f32, [Vec<f32>; 2]) {
        let specs = [Spec::f32(&dims), Spec::f32(&dims)];
        let out_spec = Cosine.infer(&specs).unwrap().out;
        assert_eq!(out_spec, Spec::f32(&[1]));
        let ins = [a, b].map(|x| Buf::Host(bytemuck::cast_slice(x)));
        let mut y = [f32::NAN];
        let forward = Forward {
            device: &Device::Cpu,
            specs: &specs,
            out_spec: &out_spec,
            ins: ins.to_vec(),
            out: BufMut::Host(bytemuck::cast_slice_mut(&mut y)),
            saved: vec![],
            scratch: BufMut::Host(&mut []),
        };
        Cosine.forward(forward).unwrap();
        let mut grads = [vec![f32::NAN; a.len()], vec![f32::NAN; b.len()]];
        let backward = Backward {
            device: &Device::Cpu,
            specs: &specs,
            out_spec: &out_spec,
            ins: ins.to_vec(),
            out: Buf::EMPTY,
            saved: vec![],
            d_out: Buf::Host(bytemuck::bytes_of(&dy)),
            d_ins: grads
                .iter_mut()
                .map(|d| Grad {
                    mode: GradMode::Overwrite,
                    buf: BufMut::Host(bytemuck::cast_slice_mut(d)),
                })
                .collect(),
            scratch: BufMut::Host(&mut []),
        };
        Cosine.backward(backward).unwrap();
        (y[0], grads)
    }

    fn close(got: &[f32], want: &[f32]) {
        assert_eq!(got.len(), want.len());
        let near = got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-6);
        assert!(near, "{got:?}, expected {want:?}");
    }

    #[test]
    fn value_and_gradients_are_those_of_torch() {
        let a = [0.5, -1.25, 2.0, 1.5, 0.25, -0.75];
        let b = [-0.5, 0.75, 1.0, 2.0, -1.0, 0.125];
        let (y, [da, db]) = run([2, 3], &a, &b, 0.7);
        close(&[y], &[0.474_911_9]);
        close(
            &da,
            &[-0.061_452_63, 0.099_715_59, 0.077_685_4, 0.056_604_01, -0.113_458_48, 0.075_388_52],
        );
        close(
            &db,
            &[0.078_085_22, -0.171_043_81, 0.167_325_48, 0.040_629_16, 0.071_854_77, -0.075_228_57],
        );
    }

    #[test]
    fn a_row_without_a_direction_counts_as_zero_and_gets_no_gradient() {
        let (y, [da, db]) = run([2, 2], &[0.0, 0.0, 3.0, 4.0], &[1.0, 0.0, 4.0, 3.0], 1.0);
        assert!((y - 0.48).abs() < 1e-6, "half of 0.96: {y}");
        assert_eq!((&da[..2], &db[..2]), (&[0.0; 2][..], &[0.0; 2][..]));
        assert!(
            da[2..].iter().chain(&db[2..]).all(|g| g.is_finite() && *g != 0.0),
            "{da:?} {db:?}"
        );
        let (y, [da, db]) = run([1, 2], &[0.0; 2], &[0.0; 2], 1.0);
        assert_eq!((y, da, db), (0.0, vec![0.0; 2], vec![0.0; 2]));
    }

    #[test]
    fn means_and_cosines_of_nothing_are_refused() {
        let refusal = |op: &dyn Op, dims: &[&[usize]]| {
            let specs: Vec<Spec> = dims.iter().map(|d| Spec::f32(d)).collect();
            op.infer(&specs).unwrap_err().to_string()
        };
        for dims in [&[4][..], &[2, 0, 3], &[2, 3, 0, 5]] {
            let message = refusal(&MeanTokens, &[dims]);
            assert!(message.contains("[N, .., C] with at least one token"), "{message}");
        }
        for dims in [&[0, 4][..], &[4], &[2, 3, 4]] {
            let message = refusal(&Cosine, &[dims, dims]);
            assert!(message.contains("[N, C] with at least one row"), "{message}");
        }
        let message = refusal(&Cosine, &[&[2, 4], &[2, 5]]);
        assert!(message.contains("b is [2, 5], expected [2, 4]"), "{message}");
    }

    #[test]
    fn the_cpu_refuses_other_types_than_f32_though_the_value_is_f32() {
        let bf16 = [Spec::new(&[1, 2], DType::Bf16), Spec::new(&[1, 2], DType::Bf16)];
        let out_spec = Cosine.infer(&bf16).unwrap().out;
        let (zeros, mut y) = ([0u8; 4], [0u8; 4]);
        let forward = Forward {
            device: &Device::Cpu,
            specs: &bf16,
            out_spec: &out_spec,
            ins: vec![Buf::Host(&zeros); 2],
            out: BufMut::Host(&mut y),
            saved: vec![],
            scratch: BufMut::Host(&mut []),
        };
        let message = Cosine.forward(forward).unwrap_err().to_string();
        assert!(message.contains("cpu in bf16"), "{message}");
    }
}
