//! Convolution of every channel with a kernel of its own, channels last.

pub mod cases;
mod cpu;
mod cuda;

use crate::{
    error::Result,
    kernels::{check, frame},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::{DType, Spec},
};

/// A depthwise convolution (cross-correlation) with zero padding.
///
/// `y[n, i, j, c] = b[c] + sum_{u, v} x[n, i s + u - pad, j s + v - pad, c] w[u, v, c]`
///
/// # Shapes
/// `x: [N, H, W, C]`, `w: [kh, kw, C]`, `b: [C]` gives `[N, H', W', C]` with `H' = (H + 2 pad - kh) / s + 1`; all of
/// one float type.
///
/// # Gradient
/// `dx` gathers the `dy` that read it, `dw[u, v, c] = sum dy[n, i, j, c] x[..]`, `db = sum dy`. Keeps `w` for `dx`, `x`
/// for `dw`.
///
/// # Numerics
/// f32 sums, one rounding; sums over positions by blocks that the shape fixes, so bitwise repeatable everywhere.
///
/// # Errors
/// `infer` refuses other ranks, channel counts that differ, stride 0, a kernel larger than the padded picture.
///
/// # Source
/// torch's `Conv2d` with as many groups as channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depthwise {
    /// Step between output positions, both axes.
    pub stride: usize,
    /// Zero rows and columns on every side.
    pub pad: usize,
}

/// Extents of one call.
#[derive(Clone, Copy, Debug)]
struct Shape {
    n: usize,
    h: usize,
    w: usize,
    c: usize,
    kh: usize,
    kw: usize,
    oh: usize,
    ow: usize,
    stride: usize,
    pad: usize,
}

impl Depthwise {
    fn shape(self, ins: &[Spec]) -> Option<Shape> {
        let ([n, h, w, c], [kh, kw, _]) = (&ins[0].dims[..], &ins[1].dims[..]) else { return None };
        let out = |size: usize, kernel: usize| {
            let room = size.checked_add(self.pad.checked_mul(2)?)?.checked_sub(kernel)?;
            Some(room.checked_div(self.stride)? + 1)
        };
        let (oh, ow) = (out(*h, *kh)?, out(*w, *kw)?);
        let (stride, pad) = (self.stride, self.pad);
        let s = Shape { n: *n, h: *h, w: *w, c: *c, kh: *kh, kw: *kw, oh, ow, stride, pad };
        (kh * kw > 0).then_some(s)
    }
}

impl Op for Depthwise {
    fn name(&self) -> &'static str {
        "depthwise"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        let at = self.name();
        let dtype = check::float_inputs(at, ins, &["x", "weight", "bias"])?;
        let [_, _, _, c] = ins[0].dims[..] else {
            return Err(check::shape(at, "x", &ins[0], "[N, H, W, C]".into()));
        };
        if ins[1].dims.len() != 3 || ins[1].dims[2] != c {
            let want = format!("[kh, kw, {c}] for x {:?}; check the weight's layout", ins[0].dims);
            return Err(check::shape(at, "weight", &ins[1], want));
        }
        check::dims(at, "bias", &ins[2], &[c], "as x has that many channels")?;
        let Some(s) = self.shape(ins) else {
            let [pad, stride] = [self.pad, self.stride];
            let want = format!(
                "a picture that holds a kernel of {:?} with pad {pad} and stride {stride} (at least 1)",
                &ins[1].dims[..2]
            );
            return Err(check::shape(at, "x", &ins[0], want));
        };
        let on_device = cuda::backward_scratch(&s);
        let on_host = if dtype == DType::F32 { cpu::backward_scratch(&s) } else { 0 };
        let backward_scratch = on_device.max(on_host);
        let out = ins[0].with(&[s.n, s.oh, s.ow, s.c]);
        Ok(Signature { backward_scratch, ..Signature::of(out) })
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        let needed = [(0, wants[1]), (1, wants[0])];
        let ins = needed.iter().filter(|(_, needed)| *needed).map(|(i, _)| *i).collect();
        Keeps { ins, ..Keeps::default() }
    }

    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let bytes = ins.iter().chain([out]).map(|s| s.bytes() as f64).sum();
        let taps = ins[1].dims[..2].iter().map(|d| *d as f64).product::<f64>();
        Cost { flop: 2.0 * out.len() as f64 * taps, bytes }
    }

    fn backward_cost(&self, ins: &[Spec], out: &Spec, wants: &[bool]) -> Cost {
        let one = self.cost(ins, out);
        let passes = f64::from(u8::from(wants[0]) + u8::from(wants[1]));
        Cost { flop: one.flop * passes, bytes: one.bytes * passes }
    }

    fn detail(&self) -> String {
        format!("stride {} pad {}", self.stride, self.pad)
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        let Some(s) = self.shape(io.specs) else { unreachable!("depthwise: infer saw the shapes") };
        frame::forward(
            self.name(),
            io,
            |io| cpu::forward(&s, io),
            |cuda, io| cuda::forward(&s, cuda, io),
        )
    }

    fn backward(&self, io: Backward<'_>) -> Result<()> {
        let Some(s) = self.shape(io.specs) else { unreachable!("depthwise: infer saw the shapes") };
        frame::backward(
            self.name(),
            io,
            |io| cpu::backward(&s, io),
            |cuda, io| cuda::backward(&s, cuda, io),
        )
    }
}
