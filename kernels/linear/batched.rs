//! A weight for each sample.

use super::{
    cpu, cuda,
    problem::{Operands, Problem},
};
use crate::{
    device::{Cuda, Device},
    error::Result,
    kernels::check,
    op::{Backward, Cost, Forward, GradMode, Keeps, Op, Signature},
    tensor::{DType, Spec},
};

/// A product of every sample with a matrix of its own: queries against the positions of a picture.
///
/// `y[n, i, o] = sum_k x[n, i, k] w[n, o, k]`
///
/// # Shapes
/// `x: [N, L, K]`, `w: [N, O, K]` gives `[N, L, O]`; all of one float type.
///
/// # Gradient
/// `dx[n] = dy[n] w[n]`, `dw[n] = dy[n]^T x[n]`. Keeps `w` for `dx` and `x` for `dw`.
///
/// # Numerics
/// As [`super::Linear`], whose products these are, one after another.
///
/// # Errors
/// `infer` refuses other ranks, and a `w` of another `N` or `K`.
///
/// # Source
/// Kirillov et al. 2023 (Segment Anything): the product of the mask tokens with the upscaled picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchedLinear;

/// Extents of one sample's product: rows, outputs, inputs; and how many samples.
fn extents(ins: &[Spec]) -> ([usize; 3], usize) {
    ([ins[0].dims[1], ins[1].dims[1], ins[0].dims[2]], ins[0].dims[0])
}

/// Specs of one sample.
fn one(ins: &[Spec], out: &Spec) -> (Spec, Spec) {
    (ins[0].with(&ins[0].dims[1..]), out.with(&out.dims[1..]))
}

impl Op for BatchedLinear {
    fn name(&self) -> &'static str {
        "batched_linear"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        let at = self.name();
        check::float_inputs(at, ins, &["x", "weight"])?;
        let [n, l, k] = ins[0].dims[..] else {
            return Err(check::shape(at, "x", &ins[0], "[N, L, K]".into()));
        };
        let o = match ins[1].dims[..] {
            [m, o, c] if (m, c) == (n, k) => o,
            _ => {
                return Err(check::shape(
                    at,
                    "weight",
                    &ins[1],
                    format!("[{n}, O, {k}], as x has"),
                ));
            }
        };
        let out = ins[0].with(&[n, l, o]);
        let (x, y) = one(ins, &out);
        Ok(Signature {
            forward_scratch: cpu::forward_scratch([l, o, k], DType::F32)
                .max(cuda::forward_scratch(&x, &y)),
            backward_scratch: cpu::backward_scratch([l, o, k], DType::F32)
                .max(cuda::backward_scratch(&x, &y, false)),
            ..Signature::of(out)
        })
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        let needed = [(0, wants[1]), (1, wants[0])];
        let ins = needed.iter().filter(|(_, needed)| *needed).map(|(i, _)| *i).collect();
        Keeps { ins, ..Keeps::default() }
    }

    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let bytes = ins.iter().chain([out]).map(|s| s.bytes() as f64).sum();
        Cost { flop: 2.0 * out.len() as f64 * ins[0].last() as f64, bytes }
    }

    fn variant(&self, cuda: &Cuda, ins: &[Spec], out: &Spec, backward: bool) -> String {
        let (x, y) = one(ins, out);
        let [forward, input, weight] = cuda::problems(&x, &y);
        if !backward {
            return forward.describe(cuda);
        }
        format!("dx {}, dw {}", input.describe(cuda), weight.describe(cuda))
    }

    fn forward(&self, mut io: Forward<'_>) -> Result<()> {
        let ([l, o, k], n) = extents(io.specs);
        if io.out_spec.is_empty() {
            return Ok(());
        }
        match io.device {
            Device::Cpu => {
                check::cpu_dtype(self.name(), io.out_spec.dtype)?;
                let (x, w, scratch) = (io.ins[0].f32(), io.ins[1].f32(), io.scratch.f32());
                for (i, y) in io.out.f32().chunks_exact_mut(l * o).enumerate() {
                    let (x, w) = (&x[i * l * k..][..l * k], &w[i * o * k..][..o * k]);
                    cpu::layer(y, x, w.into(), None, [l, o, k], scratch);
                }
                Ok(())
            }
            Device::Cuda(cuda) => {
                let (x, y) = one(io.specs, io.out_spec);
                let [product, _, _] = cuda::problems(&x, &y);
                let at = [io.ins[0].address(), io.ins[1].address(), io.out.address()];
                each(cuda, &product, (at, [l * k, o * k, l * o], n), io.scratch.address(), false)
            }
        }
    }

    fn backward(&self, mut io: Backward<'_>) -> Result<()> {
        let ([l, o, k], n) = extents(io.specs);
        match io.device {
            Device::Cpu => {
                check::cpu_dtype(self.name(), io.out_spec.dtype)?;
                let (dy, scratch) = (io.d_out.f32(), io.scratch.f32());
                for (i, grad) in io.d_ins.iter_mut().enumerate().filter(|(_, g)| g.wanted()) {
                    let (beta, mode, to) = (grad.beta(), grad.mode, grad.buf.f32());
                    for (j, to) in to.chunks_exact_mut([l * k, o * k][i].max(1)).enumerate() {
                        let dy = &dy[j * l * o..][..l * o];
                        if i == 0 {
                            let w = &io.ins[1].f32()[j * o * k..][..o * k];
                            cpu::input_gradient(to, dy, w.into(), [l, o, k], beta, scratch);
                        } else {
                            let x = &io.ins[0].f32()[j * l * k..][..l * k];
                            let how = (1.0, mode == GradMode::Overwrite);
                            cpu::weight_gradient(to, (dy, o), (x, k), how, scratch);
                        }
                    }
                }
                Ok(())
            }
            Device::Cuda(cuda) => {
                let (x, y) = one(io.specs, io.out_spec);
                let [_, input, weight] = cuda::problems(&x, &y);
                let (dy, scratch) = (io.d_out.address(), io.scratch.address());
                if let Some((dx, add)) = cuda::target(&io, 0) {
                    let at = [dy, io.ins[1].address(), dx];
                    each(cuda, &input, (at, [l * o, o * k, l * k], n), scratch, add)?;
                }
                if let Some((dw, add)) = cuda::target(&io, 1) {
                    let at = [dy, io.ins[0].address(), dw];
                    each(cuda, &weight, (at, [l * o, l * k, o * k], n), scratch, add)?;
                }
                Ok(())
            }
        }
    }
}

/// The same product for `n` samples, one after another; lengths are the operands' of one sample.
fn each(
    cuda: &Cuda,
    product: &Problem,
    (at, lengths, n): ([u64; 3], [usize; 3], usize),
    scratch: u64,
    accumulate: bool,
) -> Result<()> {
    let size = product.dtype.size_bytes();
    for i in 0..n {
        let [left, right, out] = [0, 1, 2].map(|j| at[j] + (i * lengths[j] * size) as u64);
        let o = Operands { accumulate, ..Operands::new(left, right, out) };
        product.run(cuda, &o, scratch)?;
    }
    Ok(())
}
