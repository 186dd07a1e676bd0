//! GPU: Hopper's kernels take all parts at once; elsewhere one layer goes after another.
//!
//! `h` and `g` lie as `[rows, parts r]` for the former, part by part for the latter.

use super::{JoinedLora, Shape};
use crate::{
    device::Cuda,
    error::Result,
    kernels::{
        linear::{
            adapted::Leading,
            adapter,
            cuda::target,
            problem::{OnChip, Operands, Parts, Pass, Problem},
            tilings::Tiling,
        },
        lora_linear::cuda::{self as one, At},
        variant::{Slot, Variant, choose},
    },
    op::{Backward, Forward},
    tensor::DType,
};

/// Rows of `--variant lora_linear.joined=...`: the tiles of the layers and of their input gradient.
const VARIANTS: &[Variant<OnChip>] = &[
    Variant { name: Parts::VARIANTS[0].0, applies: together },
    Variant { name: Parts::VARIANTS[1].0, applies: together },
    Variant { name: "apart", applies: |_| true },
];
const SLOT: &str = "lora_linear.joined";
/// The highest rank that the adapters' kernels have columns for.
const MOST_RANK: usize = 128;

/// What there is to choose from.
pub(super) fn slots() -> Vec<Slot> {
    vec![Slot::of(SLOT, VARIANTS)]
}

/// Whether all parts go at once: `on` is one part's forward product.
fn together(on: &OnChip) -> bool {
    let p = &on.problem;
    let adapter = (1..=MOST_RANK.min(p.n)).contains(&p.rank);
    adapter && p.n.is_multiple_of(8) && Parts { one: *p, count: 2 }.served(on.target)
}

/// The products of all parts.
struct Products {
    /// `h = scale x a^T`.
    down: Problem,
    /// `y_p = x w_p^T + h_p up_p^T`.
    layers: Parts,
    /// `g_p = scale dy_p up_p`.
    up: Parts,
    /// `dx = sum_p dy_p w_p + g a`.
    input: Parts,
    /// `da = g^T x`.
    d_a: Parts,
    /// `dup_p = dy_p^T h_p`.
    d_up: Parts,
}

impl Products {
    fn new(count: usize, s: Shape, dtype: DType) -> Self {
        let all = count * s.rank;
        let of = |pass, mnk, rank| Problem::dense(pass, dtype, mnk, rank);
        let parts = |one| Parts { one, count };
        Self {
            down: of(Pass::Forward, [s.rows, all, s.k], 0),
            layers: parts(of(Pass::Forward, [s.rows, s.n, s.k], s.rank)),
            up: parts(of(Pass::Input, [s.rows, s.rank, s.n], 0)),
            input: parts(of(Pass::Input, [s.rows, s.k, s.n], all)),
            d_a: Parts { one: of(Pass::Weight, [all, s.k, s.rows], 0), count: 1 },
            d_up: parts(Problem { right_pitch: all, ..of(Pass::Weight, [s.n, s.rank, s.rows], 0) }),
        }
    }

    /// The kernels of the layers and of their input gradient; `None` for one layer after another.
    fn chosen(&self, cuda: &Cuda) -> Result<Option<[&'static Tiling; 2]>> {
        let on = OnChip { problem: self.layers.one, target: cuda.target() };
        let first = choose(cuda, SLOT, VARIANTS, &on)?.name;
        let forced = cuda.forced_variant(SLOT).is_some_and(|name| name == first);
        let rows = Parts::VARIANTS.iter().find(|(name, _)| *name == first).map(|(_, rows)| *rows);
        let rows = rows.map(|rows| forced.then_some(rows));
        Ok(rows.map(|rows| [self.layers.layers_tiling(rows), self.input.input_tiling(rows)]))
    }
}

impl Products {
    /// `h` as the launch of the layers makes it: one product for all parts, or one of each where that is too wide.
    fn h(&self) -> Parts {
        let (down, count) = (self.down, self.layers.count);
        match down.n <= MOST_RANK {
            true => Parts { one: down, count: 1 },
            false => Parts { one: Problem { n: down.n / count, ..down }, count },
        }
    }

    /// Whether `h` and `g` are made in the launches by the tiles `t`.
    fn within(&self, cuda: &Cuda, [y, dx]: [&Tiling; 2]) -> Result<[bool; 2]> {
        let wanted = one::is_within(cuda, &self.layers.one)?;
        let able = [self.layers.layers_make(y, &self.h()), self.input.input_makes(dx, &self.up)];
        Ok(able.map(|able| wanted && able))
    }
}

/// Bytes of `g`, and the alignment of what follows.
fn g_bytes(count: usize, s: Shape, dtype: DType) -> usize {
    let len = s.rows.saturating_mul(count).saturating_mul(s.rank);
    len.saturating_mul(dtype.size_bytes()).next_multiple_of(256)
}

/// Bytes of scratch, forward and backward, whatever variant runs.
pub(super) fn scratch(count: usize, s: Shape, dtype: DType) -> [usize; 2] {
    let p = Products::new(count, s, dtype);
    let forward = p.down.scratch_bytes().max(p.layers.layers_scratch());
    let forward = forward.max(p.layers.layers_scratch_with(&p.h()));
    let sums = p.input.input_scratch().max(p.d_a.one.scratch_bytes());
    let sums = sums.max(p.input.input_scratch_with(&p.up));
    let backward = sums.saturating_add(g_bytes(count, s, dtype));
    let all = dtype != DType::F32 && s.rank <= MOST_RANK;
    let [forward, backward] = if all { [forward, backward] } else { [0; 2] };
    let apart = [one::forward_scratch(s, dtype), one::backward_scratch(s, dtype)];
    [forward.max(apart[0]), backward.max(apart[1])]
}

pub(super) fn describe(
    count: usize,
    s: Shape,
    dtype: DType,
    cuda: &Cuda,
    backward: bool,
) -> String {
    let p = Products::new(count, s, dtype);
    match (p.chosen(cuda), backward) {
        (Ok(Some(t)), false) => {
            let [within, _] = p.within(cuda, t).unwrap_or_default();
            let h = if within { "within".into() } else { p.down.describe(cuda) };
            format!("y {}, h {h}", p.layers.describe_layers(t[0]))
        }
        (Ok(Some(t)), true) => {
            let adapter = adapter::describe(cuda, [("da", &p.d_a), ("dup", &p.d_up)]);
            let [_, within] = p.within(cuda, t).unwrap_or_default();
            let g = if within { "within" } else { p.up.adapter() };
            format!("dx {}, g {g}, {adapter}", p.input.describe_input(t[1]))
        }
        (Ok(None), _) => format!("apart: {}", one::describe(s, dtype, cuda, backward)),
        (Err(_), _) => "none".into(),
    }
}

/// `address` of part `p` of a buffer with `len` elements a part.
fn part(address: u64, p: usize, len: usize, dtype: DType) -> u64 {
    if address == 0 { 0 } else { address + (p * len * dtype.size_bytes()) as u64 }
}

pub(super) fn forward(op: JoinedLora, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (s, dtype) = (op.shape(io.specs), io.out_spec.dtype);
    let p = Products::new(op.parts, s, dtype);
    let [a, up] = [s.a, s.a + 1].map(|i| io.ins[i].address());
    let (x, h, scratch) = (io.ins[0].address(), io.saved[0].address(), io.scratch.address());
    let layer = |i: usize| {
        let own = 1 + i * op.each();
        At {
            x,
            w: io.ins[own].address(),
            bias: if op.bias { io.ins[own + 1].address() } else { 0 },
            a: part(a, i, s.rank * s.k, dtype),
            up: part(up, i, s.n * s.rank, dtype),
            h: part(h, i, s.rows * s.rank, dtype),
            y: part(io.out.address(), i, s.rows * s.n, dtype),
            scratch,
            ..At::default()
        }
    };
    let Some(tilings) = p.chosen(cuda)? else {
        return (0..op.parts).try_for_each(|i| one::layer(s, op.scale, cuda, dtype, &layer(i)));
    };
    let down = Operands { alpha: op.scale, ..Operands::new(x, a, h) };
    let lead = p.within(cuda, tilings)?[0].then(|| Leading { parts: p.h(), o: down });
    if lead.is_none() {
        p.down.run(cuda, &down, scratch)?;
    }
    let each: Vec<Operands> = (0..op.parts)
        .map(|i| {
            let at = layer(i);
            Operands { t: h, l: at.up, bias: at.bias, ..Operands::new(x, at.w, at.y) }
        })
        .collect();
    p.layers.layers(cuda, tilings[0], &each, lead.as_ref(), scratch)
}

pub(super) fn backward(op: JoinedLora, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (s, dtype) = (op.shape(io.specs), io.out_spec.dtype);
    let p = Products::new(op.parts, s, dtype);
    let [x, a, up] = [0, s.a, s.a + 1].map(|i| io.ins[i].address());
    let h = io.saved.first().map_or(0, |h| h.address());
    let (dy, g) = (io.d_out.address(), io.scratch.address());
    let (dx, da, dup) = (target(io, 0), target(io, s.a), target(io, s.a + 1));
    let weight = |i: usize| io.ins[1 + i * op.each()].address();
    let Some(tilings) = p.chosen(cuda)? else {
        for i in (0..op.parts).rev() {
            let of =
                |grad: Option<(u64, bool)>, len| grad.map(|(d, add)| (part(d, i, len, dtype), add));
            let at = At {
                x,
                w: weight(i),
                bias: 0,
                residual: 0,
                a: part(a, i, s.rank * s.k, dtype),
                up: part(up, i, s.n * s.rank, dtype),
                h: part(h, i, s.rows * s.rank, dtype),
                y: part(dy, i, s.rows * s.n, dtype),
                scratch: g,
                dx: dx.map(|(d, add)| (d, add || i + 1 < op.parts)), // the others are added
                da: of(da, s.rank * s.k),
                dup: of(dup, s.n * s.rank),
            };
            one::gradients(s, op.scale, cuda, dtype, &at)?;
        }
        return Ok(());
    };
    let scratch = g + g_bytes(op.parts, s, dtype) as u64;
    let up = Operands { alpha: op.scale, ..Operands::new(dy, up, g) };
    let within = dx.is_some() && p.within(cuda, tilings)?[1];
    if (dx.is_some() || da.is_some()) && !within {
        p.up.project(cuda, &up)?;
    }
    if let Some((dx, accumulate)) = dx {
        let one = |i| Operands { t: g, l: a, accumulate, ..Operands::new(dy, weight(i), dx) };
        let each: Vec<Operands> = (0..op.parts).map(one).collect();
        let lead = within.then_some(Leading { parts: p.up, o: up });
        p.input.input(cuda, tilings[1], &each, lead.as_ref(), scratch)?;
    }
    let da = da.map(|(da, add)| (p.d_a, Operands { accumulate: add, ..Operands::new(g, x, da) }));
    let dup =
        dup.map(|(dup, add)| (p.d_up, Operands { accumulate: add, ..Operands::new(dy, h, dup) }));
    let wanted: Vec<(Parts, Operands)> = [da, dup].into_iter().flatten().collect();
    adapter::gradients(cuda, &wanted, scratch)
}
