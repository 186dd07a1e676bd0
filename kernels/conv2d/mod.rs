//! Two-dimensional convolution, channels last.

mod bf16;
pub mod cases;
mod cpu;
mod cuda;
mod shape;
mod shifted;
mod winograd;

use self::shape::Shape;
use crate::{
    device::Cuda,
    error::Result,
    kernels::{add::AddChannels, check, frame},
    op::{Backward, Cost, Forward, Keeps, Later, Op, Signature},
    tensor::{DType, Spec},
};
pub use shifted::ShiftedConv2d;

/// A two-dimensional convolution (cross-correlation, as in every framework) with zero padding.
///
/// `y[n, i, j, o] = b[o] + sum_{u, v, c} x[n, i s + u - top, j s + v - left, c] w[o, u, v, c]`
///
/// With `upsample`, `x` is first enlarged twice by nearest neighbour, without ever being stored so:
/// `x[n, y, x, c]` above becomes `x[n, y / 2, x / 2, c]` of an image of `2H x 2W`.
///
/// # Shapes
/// `x: [N, H, W, C]`, `w: [O, kh, kw, C]`, `b: [O]` (only with `bias`) gives `[N, H', W', O]` with
/// `H' = (H + top + bottom - kh) / s + 1` (`2H` with `upsample`); all of one float type. On the CPU a frozen `w` may be
/// bf16 or f16 beside f32.
///
/// # Gradient
/// `dx` is a convolution of `dy` with the mirrored weight (one for each residue of the position
/// modulo
/// the stride), `dw[o, u, v, c] = sum dy[n, i, j, o] x[..]`, `db = sum dy`. Keeps `w` for `dx`,
/// `x` for `dw`.
///
/// # Numerics
/// f32 accumulation, one rounding; bitwise repeatable for a number of threads or a kernel. On the CPU 3x3 kernels of stride
/// 1 with 64 channels and more go by Winograd's F(2x2, 3x3) (1509.09308), whose sums are in another order. There a
/// frozen `w` may be bf16 or f16 beside f32: in bf16 `x` and `dy` are rounded to bf16 where the processor multiplies such
/// numbers, and no kernel goes by Winograd's; elsewhere, and in f16, `w` is widened to f32.
///
/// # Errors
/// `infer` refuses other ranks, channel counts that differ, stride 0, a kernel larger than the
/// padded image, and `upsample` with a stride.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Step between output positions, both axes.
    pub stride: usize,
    /// Zero rows and columns around the image: top, bottom, left, right.
    pub pad: [usize; 4],
    /// Whether the third input, a bias, is there.
    pub bias: bool,
    /// Whether the image is read as if enlarged twice by nearest neighbour; with stride 1 only.
    pub upsample: bool,
}

impl Conv2d {
    /// Stride 1 and the padding that keeps the size for an odd `kernel`.
    pub fn same(kernel: usize, bias: bool) -> Self {
        Self { stride: 1, pad: [kernel / 2; 4], bias, upsample: false }
    }

    fn names(self) -> &'static [&'static str] {
        if self.bias { &["x", "weight", "bias"] } else { &["x", "weight"] }
    }

    fn shape(&self, x: &Spec, w: &Spec, out: &Spec) -> Shape {
        Shape {
            images: x.dims[0],
            h: x.dims[1],
            w: x.dims[2],
            c: x.dims[3],
            kh: w.dims[1],
            kw: w.dims[2],
            oh: out.dims[1],
            ow: out.dims[2],
            o: out.dims[3],
            stride: self.stride,
            top: self.pad[0],
            left: self.pad[2],
            upsample: self.upsample,
        }
    }

    fn output(&self, ins: &[Spec]) -> Result<Spec> {
        let at = "conv2d";
        let (x, w) = (&ins[0], &ins[1]);
        let [n, h, width, c] = x.dims[..] else {
            return Err(check::shape(at, "x", x, "[N, H, W, C]".into()));
        };
        let [o, kh, kw, _] = w.dims[..] else {
            return Err(check::shape(at, "weight", w, format!("[O, kh, kw, {c}]")));
        };
        if w.dims[3] != c || kh == 0 || kw == 0 {
            let want = format!("[O, kh, kw, {c}] for x {:?}; check the weight's layout", x.dims);
            return Err(check::shape(at, "weight", w, want));
        }
        if self.upsample && self.stride != 1 {
            let want = format!("stride 1 with upsample, not {}; drop one of them", self.stride);
            return Err(check::shape(at, "x", x, want));
        }
        let zoom = 1 + usize::from(self.upsample);
        let [top, bottom, left, right] = self.pad;
        let extent = |size: usize, before: usize, after: usize, kernel: usize| {
            let size = size.checked_mul(zoom)?;
            let room = size.checked_add(before)?.checked_add(after)?.checked_sub(kernel)?;
            Some(room.checked_div(self.stride)? + 1)
        };
        let (Some(oh), Some(ow)) = (extent(h, top, bottom, kh), extent(width, left, right, kw))
        else {
            let want = format!(
                "an image that holds a {kh}x{kw} kernel with pad {:?} and stride {} (at least 1)",
                self.pad, self.stride
            );
            return Err(check::shape(at, "x", x, want));
        };
        let pixels = |h: usize, w: usize| n.checked_mul(h)?.checked_mul(w);
        let countable = |p: Option<usize>| p.is_some_and(|p| p < u32::MAX as usize);
        if !countable(pixels(h, width)) || !countable(pixels(oh, ow)) {
            let want = "fewer than 2^32 - 1 pixels in all images; use a smaller batch".into();
            return Err(check::shape(at, "x", x, want));
        }
        if let Some(b) = ins.get(2) {
            check::dims(at, "bias", b, &[o], "as the weight has that many outputs")?;
        }
        Ok(x.with(&[n, oh, ow, o]))
    }
}

/// What `--variant` can choose here.
pub(super) fn slots() -> Vec<super::variant::Slot> {
    cuda::slots()
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn followed_by(&self, next: &dyn Op, at: usize, _: Later) -> Option<Box<dyn Op>> {
        let sum = (next as &dyn std::any::Any).is::<AddChannels>() && at == 0;
        sum.then(|| Box::new(ShiftedConv2d::from(*self)) as Box<dyn Op>)
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        let dtype = check::product_inputs("conv2d", ins, self.names())?;
        let out = self.output(ins)?;
        let s = self.shape(&ins[0], &ins[1], &out);
        let mut forward_scratch = cuda::forward_scratch(&s, dtype);
        let mut backward_scratch = cuda::backward_scratch(&s, dtype);
        if dtype == DType::F32 {
            let stored = check::stored_weight(ins);
            forward_scratch = forward_scratch.max(cpu::forward_scratch(&s, stored));
            backward_scratch = backward_scratch.max(cpu::backward_scratch(&s, stored));
        }
        Ok(Signature { forward_scratch, backward_scratch, ..Signature::of(out) })
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        let needed = [(0, wants[1]), (1, wants[0])];
        let ins = needed.iter().filter(|(_, needed)| *needed).map(|(i, _)| *i).collect();
        Keeps { ins, ..Keeps::default() }
    }

    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let bytes = ins.iter().chain([out]).map(|s| s.bytes() as f64).sum();
        let taps = ins[1].dims[1..].iter().map(|d| *d as f64).product::<f64>();
        Cost { flop: 2.0 * out.len() as f64 * taps, bytes }
    }

    fn backward_cost(&self, ins: &[Spec], out: &Spec, wants: &[bool]) -> Cost {
        let one = self.cost(ins, out);
        let products = f64::from(u8::from(wants[0]) + u8::from(wants[1]));
        Cost { flop: one.flop * products, bytes: one.bytes * products }
    }

    fn detail(&self) -> String {
        let [top, bottom, left, right] = self.pad;
        let upsample = if self.upsample { " upsample 2" } else { "" };
        match self.pad.iter().all(|p| *p == top) {
            true => format!("stride {} pad {top}{upsample}", self.stride),
            false => format!("stride {} pad {top},{bottom},{left},{right}{upsample}", self.stride),
        }
    }

    fn variant(&self, cuda: &Cuda, specs: &[Spec], out: &Spec, backward: bool) -> String {
        cuda::describe(cuda, &self.shape(&specs[0], &specs[1], out), &specs[0], backward)
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        let s = self.shape(&io.specs[0], &io.specs[1], io.out_spec);
        frame::forward(
            self.name(),
            io,
            |io| cpu::forward(&s, io),
            |cuda, io| {
                check::gpu_weight(self.name(), io.specs)?;
                cuda::forward(&s, cuda, io, None)
            },
        )
    }

    fn backward(&self, io: Backward<'_>) -> Result<()> {
        check::frozen_half(self.name(), io.specs, io.d_ins[1].wanted())?;
        let s = self.shape(&io.specs[0], &io.specs[1], io.out_spec);
        frame::backward(
            self.name(),
            io,
            |io| cpu::backward(&s, io),
            |cuda, io| {
                check::gpu_weight(self.name(), io.specs)?;
                cuda::backward(&s, cuda, io)
            },
        )
    }
}
