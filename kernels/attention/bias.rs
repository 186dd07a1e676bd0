//! Attention among the positions of a grid, with a bias that depends on how two positions lie to each other.

use super::{Attention, added::Added, backward, cpu, cuda};
use crate::{
    device::{Cuda, Device},
    error::Result,
    kernels::{check, frame},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::{DType, Spec},
};

/// What is added to the scores, for query `(y, x)` and key `(v, u)` of a grid of `gh x gw`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// `rel_h[q, y - v + gh - 1] + rel_w[q, x - u + gw - 1]`: two values of the query's own for each distance.
    Decomposed,
    /// `table[head, |y - v| gw + |x - u|]`: one value of the head for each pair of distances.
    Offsets,
}

/// Softmax attention of every head among the positions of a grid, the bias never held for all pairs.
///
/// `o[i] = sum_j p[i, j] v[j]`, `p[i, j] = exp(scale q[i] . k[j] + bias(i, j) - lse[i])`.
///
/// # Shapes
/// `q, k, v: [N, L, H, D]` with `L = gh gw` positions in rows; then, with [`Bias::Decomposed`],
/// `rel_h: [N, L, H, 2 gh - 1]` and `rel_w: [N, L, H, 2 gw - 1]`, with [`Bias::Offsets`] `table: [H, gh gw]`. Gives
/// `[N, L, H, D]`; all of one float type. Saves `lse: [N, L, H]` f32.
///
/// # Gradient
/// As [`Attention`], with `ds = p (do v^T - delta)`; each value of the bias gets the sum of the `ds` it was added to.
/// Keeps every input, the output, `lse`.
///
/// # Numerics
/// As [`Attention`].
///
/// # Errors
/// `infer` refuses operands of other ranks, an empty grid or `D`, and a bias of another shape.
///
/// # Source
/// Li et al. 2022 (MViTv2), section 4.1, as Segment Anything has it: `rel_h` is the product of the unscaled query with
/// the table of vertical distances. Graham et al. 2021 (LeViT) for the offsets, as TinyViT has them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BiasedAttention {
    /// Factor on the products, usually `1 / sqrt(D)`.
    pub scale: f32,
    /// Rows and columns of positions.
    pub grid: [usize; 2],
    /// What is added.
    pub bias: Bias,
}

impl BiasedAttention {
    fn names(&self) -> &'static [&'static str] {
        match self.bias {
            Bias::Decomposed => &["q", "k", "v", "rel_h", "rel_w"],
            Bias::Offsets => &["q", "k", "v", "table"],
        }
    }

    pub(super) fn plain(&self) -> Attention {
        Attention { causal: false, scale: self.scale, products: DType::F32 }
    }

    /// Values of a query (or of a head, with offsets) that its scores take from.
    pub(super) fn bins(&self) -> [usize; 2] {
        let [gh, gw] = self.grid;
        match self.bias {
            Bias::Decomposed => [2 * gh - 1, 2 * gw - 1],
            Bias::Offsets => [gh * gw, 0],
        }
    }

    fn on_host<'a>(&self, ins: &[crate::op::Buf<'a>]) -> Added<'a> {
        let [gh, gw] = self.grid;
        match self.bias {
            Bias::Decomposed => Added::Decomposed { gh, gw, h: ins[3].f32(), w: ins[4].f32() },
            Bias::Offsets => Added::Offsets { gh, gw, table: ins[3].f32() },
        }
    }
}

impl Op for BiasedAttention {
    fn name(&self) -> &'static str {
        "biased_attention"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        let at = self.name();
        let dtype = check::float_inputs(at, ins, self.names())?;
        let q = &ins[0];
        let ([n, l, h, d], [gh, gw]) = (&q.dims[..], self.grid) else {
            return Err(check::shape(at, "q", q, "[N, L, H, D]".into()));
        };
        let (n, l, h, d) = (*n, *l, *h, *d);
        if gh == 0 || gw == 0 || d == 0 || gh.checked_mul(gw) != Some(l) {
            let want = format!("[N, {gh} x {gw} positions, H, D], none of the three empty");
            return Err(check::shape(at, "q", q, want));
        }
        check::dims(at, "k", &ins[1], &q.dims, "as q")?;
        check::dims(at, "v", &ins[2], &q.dims, "as q")?;
        let [a, b] = self.bins();
        match self.bias {
            Bias::Decomposed => {
                check::dims(at, "rel_h", &ins[3], &[n, l, h, a], "twice the rows of the grid - 1")?;
                check::dims(at, "rel_w", &ins[4], &[n, l, h, b], "twice its columns - 1")?;
            }
            Bias::Offsets => check::dims(at, "table", &ins[3], &[h, a], "a value for each offset")?,
        }
        let shape = cpu::Shape::of(ins, self.plain());
        let mut signature = Signature {
            out: q.clone(),
            saved: vec![Spec::f32(&[n, l, h])],
            forward_scratch: 0,
            backward_scratch: cuda::biased_backward_scratch(self, &q.dims),
        };
        if dtype == DType::F32 {
            signature.forward_scratch = shape.forward_scratch();
            let of_cpu = backward::Parts::of(shape, self.unit_bins(l)).scratch();
            signature.backward_scratch = signature.backward_scratch.max(of_cpu);
        }
        Ok(signature)
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        let all: Vec<usize> = (0..self.names().len()).collect();
        match wants {
            w if !w.contains(&true) => Keeps::default(),
            // dv needs the probabilities only
            [false, false, true, rest @ ..] if !rest.contains(&true) => {
                let ins = all.into_iter().filter(|i| *i != 2).collect();
                Keeps { ins, out: false, saved: true }
            }
            _ => Keeps { ins: all, out: true, saved: true },
        }
    }

    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let keys = (self.grid[0] * self.grid[1]) as f64;
        let bytes = ins.iter().chain([out]).map(|s| s.bytes() as f64).sum();
        Cost { flop: 4.0 * out.len() as f64 * keys, bytes }
    }

    fn backward_cost(&self, ins: &[Spec], out: &Spec, wants: &[bool]) -> Cost {
        let one = self.cost(ins, out);
        // forward is two products; backward recomputes the scores, and all but dv need do v^T
        let scores = if wants.iter().enumerate().any(|(i, w)| *w && i != 2) { 2.0 } else { 1.0 };
        let products = scores + wants[..3].iter().filter(|w| **w).count() as f64;
        Cost { flop: one.flop / 2.0 * products, bytes: 2.0 * one.bytes }
    }

    fn detail(&self) -> String {
        format!("{:?} {}x{}", self.bias, self.grid[0], self.grid[1])
    }

    fn variant(&self, cuda: &Cuda, ins: &[Spec], _out: &Spec, backward: bool) -> String {
        cuda::biased_name(self, cuda, ins, backward)
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        frame::forward(
            self.name(),
            io,
            |io| cpu::forward(self.plain(), self.on_host(&io.ins), io),
            |cuda, io| cuda::biased_forward(self, cuda, io),
        )
    }

    fn backward(&self, io: Backward<'_>) -> Result<()> {
        match io.device {
            Device::Cpu => {
                check::cpu_dtype(self.name(), io.out_spec.dtype)?;
                let bias = (self.on_host(&io.ins), self.unit_bins(io.specs[0].dims[1]));
                backward::backward(self.plain(), bias, io);
            }
            Device::Cuda(cuda) => return cuda::biased_backward(self, &cuda.clone(), &io),
        }
        Ok(())
    }
}

impl BiasedAttention {
    /// Gradients of the bias that a unit of the CPU's backward pass holds: those of all its queries, or its head's.
    fn unit_bins(&self, queries: usize) -> [usize; 2] {
        match self.bias {
            Bias::Decomposed => self.bins().map(|n| n * queries),
            Bias::Offsets => self.bins(),
        }
    }
}
