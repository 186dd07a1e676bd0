//! Attention among the positions of a grid, with a bias that depends on how two positions lie to each other.

use super::{Attention, backward, cpu, cuda};
use crate::{
    device::{Cuda, Device},
    error::Result,
    kernels::check,
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
        Attention { causal: false, scale: self.scale }
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
        match io.device {
            Device::Cpu => {
                check::cpu_dtype(self.name(), io.out_spec.dtype)?;
                cpu::forward(self.plain(), self.on_host(&io.ins), io);
            }
            Device::Cuda(cuda) => return cuda::biased_forward(self, &cuda.clone(), &io),
        }
        Ok(())
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

/// The bias of one call, on the host.
#[derive(Clone, Copy, Debug)]
pub(super) enum Added<'a> {
    /// None.
    Nothing,
    /// [`Bias::Decomposed`].
    Decomposed { gh: usize, gw: usize, h: &'a [f32], w: &'a [f32] },
    /// [`Bias::Offsets`].
    Offsets { gh: usize, gw: usize, table: &'a [f32] },
}

/// A query of one head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Its row among all queries of all samples and heads: `(sample L + i) H + head`.
    pub row: usize,
    /// Its head.
    pub head: usize,
    /// Its position.
    pub i: usize,
}

/// Keys of one row of the grid: where they start in the block, how many they are, their row and first column.
struct Run {
    at: usize,
    len: usize,
    v: usize,
    u: usize,
}

/// The runs of the keys `j0..j0 + len` in a grid of `gw` columns.
#[inline(always)]
fn runs(j0: usize, len: usize, gw: usize) -> impl Iterator<Item = Run> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (v, u) = ((j0 + at) / gw, (j0 + at) % gw);
        let run = Run { at, len: (gw - u).min(len - at), v, u };
        at += run.len;
        (run.len > 0).then_some(run)
    })
}

impl Added<'_> {
    /// Adds the bias of the query `place` and the keys from `j0` to their scores.
    #[inline(always)]
    pub fn add(&self, scores: &mut [f32], place: Place, j0: usize) {
        match *self {
            Added::Nothing => {}
            Added::Decomposed { gh, gw, h, w } => {
                let (y, x) = (place.i / gw, place.i % gw);
                let h = &h[place.row * (2 * gh - 1)..][..2 * gh - 1];
                let w = &w[place.row * (2 * gw - 1)..][..2 * gw - 1];
                for r in runs(j0, scores.len(), gw) {
                    let down = h[y + gh - 1 - r.v];
                    let across = w[x + gw - r.u - r.len..x + gw - r.u].iter().rev();
                    let part = scores[r.at..r.at + r.len].iter_mut();
                    part.zip(across).for_each(|(s, across)| *s += down + across);
                }
            }
            Added::Offsets { gh, gw, table } => {
                let (y, x) = (place.i / gw, place.i % gw);
                let table = &table[place.head * gh * gw..][..gh * gw];
                for r in runs(j0, scores.len(), gw) {
                    let table = &table[y.abs_diff(r.v) * gw..][..gw];
                    let part = scores[r.at..r.at + r.len].iter_mut();
                    part.enumerate().for_each(|(i, s)| *s += table[x.abs_diff(r.u + i)]);
                }
            }
        }
    }

    /// Adds `ds` of the query `place` and the keys from `j0` to a unit's gradients of the bias.
    #[inline(always)]
    pub fn collect(&self, ds: &[f32], place: Place, j0: usize, to: [&mut [f32]; 2]) {
        let [first, second] = to;
        match *self {
            Added::Nothing => {}
            Added::Decomposed { gh, gw, .. } => {
                let (y, x) = (place.i / gw, place.i % gw);
                let h = &mut first[place.i * (2 * gh - 1)..][..2 * gh - 1];
                let w = &mut second[place.i * (2 * gw - 1)..][..2 * gw - 1];
                for r in runs(j0, ds.len(), gw) {
                    let ds = &ds[r.at..r.at + r.len];
                    h[y + gh - 1 - r.v] += ds.iter().sum::<f32>();
                    let across = w[x + gw - r.u - r.len..x + gw - r.u].iter_mut().rev();
                    across.zip(ds).for_each(|(w, d)| *w += d);
                }
            }
            Added::Offsets { gw, .. } => {
                let (y, x) = (place.i / gw, place.i % gw);
                for r in runs(j0, ds.len(), gw) {
                    let table = &mut first[y.abs_diff(r.v) * gw..][..gw];
                    for (i, d) in ds[r.at..r.at + r.len].iter().enumerate() {
                        table[x.abs_diff(r.u + i)] += d;
                    }
                }
            }
        }
    }
}
