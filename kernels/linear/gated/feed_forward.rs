//! A gated feed-forward block as one operation.

use super::{
    cpu, cuda,
    places::{Places, values},
};
use crate::{
    device::Cuda,
    error::{Error, Result},
    kernels::{
        add::{self, Add},
        check, frame,
        linear::{Linear, output},
    },
    op::{Backward, Cost, Forward, Keeps, Later, Op, Signature},
    tensor::Spec,
};
use std::any::Any;

/// Two fully connected layers with a GEGLU between them.
///
/// `y = (v gelu(g)) w2^T + b2 (+ r)` with `[v, g] = x w1^T + b1`, erf GELU
///
/// # Shapes
/// `x: [.., K]`, `w1: [2 D, K]`, `b1: [2 D]`, `w2: [N, D]`, `b2: [N]`, `r: [.., N]` (biases and residual where there are any, in
/// this order); `y: [.., N]`; all of one float type. On the CPU frozen weights may be bf16 or f16 beside f32.
///
/// # Gradient
/// `dh = dy w2`, `dv = gelu(g) dh`, `dg = v gelu'(g) dh`, `dx = [dv, dg] w1`; `dr = dy`; of weights and biases those of
/// [`Linear`], of which `dw2` makes `h = v gelu(g)` again. Saves `[v, g]`; keeps `w1` and `w2` for `dx`, `x` for `dw1`.
///
/// # Numerics
/// As [`Linear`]; on a Hopper GPU `h` is made of sums that are not rounded, and `dh` is never rounded.
///
/// # Errors
/// `infer` refuses what [`Linear`] does, an odd width of `w1`, and a residual of another shape.
///
/// # Source
/// methods.md §3.1 (`ff`). Training plans make it of what was recorded as four operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedForward {
    /// Whether each layer has a bias.
    pub bias: [bool; 2],
    /// Whether the last input is added.
    pub residual: bool,
}

impl FeedForward {
    fn places(self) -> Places {
        Places::of(self.bias, self.residual)
    }

    /// Specs of the first layer's operands, and `h` with those of the second.
    fn layers(self, ins: &[Spec], sums: &Spec) -> (Vec<Spec>, Vec<Spec>) {
        let p = self.places();
        let second = ins[p.weight..].iter().take(1 + usize::from(self.bias[1]));
        (ins[..p.weight].to_vec(), [values(sums)].into_iter().chain(second.cloned()).collect())
    }

    fn checked(self, ins: &[Spec]) -> Result<()> {
        let p = self.places();
        if ins.len() == p.count {
            return Ok(());
        }
        let names = "x, weight (, bias), second weight (, bias) (, residual)";
        let problem = format!("{} inputs, expected {}: {names}", ins.len(), p.count);
        Err(Error::Plan { at: self.name().into(), problem })
    }

    /// Both layers' operands are of types that the device multiplies.
    fn on_gpu(self, ins: &[Spec]) -> Result<()> {
        check::gpu_weight(self.name(), ins)?;
        check::gpu_weight(self.name(), &[ins[0].clone(), ins[self.places().weight].clone()])
    }
}

impl Op for FeedForward {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        self.checked(ins)?;
        let p = self.places();
        let sums = self.places().sums(ins)?;
        let (first, second) = self.layers(ins, &sums);
        let names: &[&'static str] = &["hidden values", "second weight", "second bias"];
        check::product_inputs(self.name(), &second, &names[..second.len()])?;
        let out = output(self.name(), &second[0], &second[1], second.get(2))?;
        if let Some(r) = p.residual {
            check::float_inputs(
                self.name(),
                &[second[0].clone(), ins[r].clone()],
                &["x", "residual"],
            )?;
            check::dims(self.name(), "residual", &ins[r], &out.dims, "as the output")?;
        }
        let h = cpu::aligned(second[0].bytes());
        let [one, two] = [
            Linear { bias: self.bias[0] }.infer(&first)?,
            Linear { bias: self.bias[1] }.infer(&second)?,
        ];
        let stored = check::stored_weight(&first);
        let [forward, behind, dh, own] = cuda::block_scratch(&first[0], &sums, &out);
        let forward_scratch = cpu::layer_scratch(&first[0], &sums, stored)
            .max(two.forward_scratch)
            .max(forward)
            .saturating_add(h);
        // the first layer's gradients come last: they need no `h`
        let second = two.backward_scratch.max(behind).saturating_add(h).max(dh);
        let backward_scratch = one.backward_scratch.max(own).max(second);
        let backward_scratch = backward_scratch.saturating_add(cpu::aligned(sums.bytes()));
        Ok(Signature { forward_scratch, backward_scratch, saved: vec![sums], ..Signature::of(out) })
    }

    fn followed_by(&self, next: &dyn Op, _: usize, later: Later) -> Option<Box<dyn Op>> {
        let fits = later == Later::Backward && !self.residual && (next as &dyn Any).is::<Add>();
        fits.then(|| Box::new(Self { residual: true, ..*self }) as Box<dyn Op>)
    }

    fn passes(&self) -> &'static [usize] {
        match self.places().residual {
            None => &[],
            Some(3) => &[3],
            Some(4) => &[4],
            Some(_) => &[5],
        }
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        let p = self.places();
        let wanted = |i: usize| wants.get(i).copied().unwrap_or(false);
        let (first, dh) = (wants[1], (0..p.weight).any(wanted));
        let all = [(0, first), (1, wants[0]), (p.weight, dh)];
        Keeps {
            ins: all.into_iter().filter(|(_, kept)| *kept).map(|(i, _)| i).collect(),
            out: false,
            saved: dh || wanted(p.weight),
        }
    }

    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let Ok(sums) = self.places().sums(ins) else { return Cost::default() };
        let bytes: f64 = ins.iter().chain([out, &sums]).map(|s| s.bytes() as f64).sum();
        let deep =
            sums.len() as f64 * ins[0].last() as f64 + out.len() as f64 * (sums.last() / 2) as f64;
        Cost { flop: 2.0 * deep, bytes: bytes + sums.bytes() as f64 } // h is written and read
    }

    fn backward_cost(&self, ins: &[Spec], out: &Spec, wants: &[bool]) -> Cost {
        let Ok(sums) = self.places().sums(ins) else { return Cost::default() };
        let p = self.places();
        let wanted = |i: usize| f64::from(u8::from(wants.get(i).copied().unwrap_or(false)));
        let dh = f64::from(u8::from(self.keeps(wants).ins.contains(&p.weight)));
        let first = 2.0 * (sums.len() * ins[0].last()) as f64;
        let second = 2.0 * (out.len() * (sums.last() / 2)) as f64;
        let of = |i: usize| ins[i].bytes() as f64;
        let (wide, dy) = (sums.bytes() as f64, out.bytes() as f64);
        Cost {
            flop: first * (wanted(0) + wanted(1)) + second * (dh + wanted(p.weight)),
            bytes: dh * (dy + of(p.weight) + 2.0 * wide)
                + wanted(0) * (wide + of(1) + of(0))
                + wanted(1) * (wide + of(0) + of(1))
                + wanted(p.weight) * (dy + 2.0 * wide + of(p.weight)),
        }
    }

    fn detail(&self) -> String {
        if self.residual { "feed-forward, GEGLU, residual" } else { "feed-forward, GEGLU" }.into()
    }

    fn variant(&self, cuda: &Cuda, ins: &[Spec], out: &Spec, backward: bool) -> String {
        let Ok(sums) = self.places().sums(ins) else { return String::new() };
        let (first, second) = self.layers(ins, &sums);
        let two = Linear { bias: self.bias[1] };
        if backward {
            let one = Linear { bias: self.bias[0] }.variant(cuda, &first, &sums, true);
            return format!("dh {}, {one}", cuda::describe_input(cuda, &sums, out));
        }
        let layer = cuda::describe_layer(cuda, &first[0], &sums);
        format!("{layer}, {}", two.variant(cuda, &second, out, false))
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        let (name, p) = (self.name(), self.places());
        let on_cpu = |io| cpu::block(p, io);
        frame::forward(name, io, on_cpu, |cuda, io| {
            self.on_gpu(io.specs)?;
            cuda::block(p, cuda, io)
        })
    }

    fn backward(&self, mut io: Backward<'_>) -> Result<()> {
        if self.residual {
            add::residual_gradient(&mut io)?;
        }
        let (name, p) = (self.name(), self.places());
        let second = [io.specs[0].clone(), io.specs[p.weight].clone()];
        check::frozen_half(name, io.specs, io.d_ins[1].wanted())?;
        check::frozen_half(name, &second, io.d_ins[p.weight].wanted())?;
        let on_cpu = |io| cpu::block_backward(p, io);
        frame::backward(name, io, on_cpu, |cuda, io| {
            self.on_gpu(io.specs)?;
            cuda::block_backward(p, cuda, io)
        })
    }
}
