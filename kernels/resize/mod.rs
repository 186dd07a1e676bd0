//! Resampling of images, by torch's rules.

pub mod cases;
mod cpu;
mod cuda;

use crate::{
    error::Result,
    kernels::{check, frame},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::Spec,
};

/// Nearest neighbour: `y[i, j] = x[floor(i H / h), floor(j W / w)]`.
///
/// # Shapes
/// `x: [N, H, W, C]`, `y: [N, h, w, C]`; f32, bf16 or f16.
/// # Gradient
/// Sums over the copies; keeps nothing.
#[derive(Clone, Copy, Debug)]
pub struct Nearest {
    /// Output height.
    pub h: usize,
    /// Output width.
    pub w: usize,
}

/// Bilinear without antialias, pixel centres at `i + 1/2` (torch's `align_corners=False`).
///
/// # Shapes
/// `x: [N, H, W, C]`, `y: [N, h, w, C]`; f32, bf16 or f16.
/// # Gradient
/// The transposed interpolation; keeps nothing.
/// # Source
/// methods.md §1.4 item 10 and §3.10.
#[derive(Clone, Copy, Debug)]
pub struct Bilinear {
    /// Output height.
    pub h: usize,
    /// Output width.
    pub w: usize,
}

fn signature(at: &'static str, ins: &[Spec], h: usize, w: usize) -> Result<Signature> {
    check::float_inputs(at, ins, &["x"])?;
    match ins[0].dims[..] {
        [n, a, b, c] if a > 0 && b > 0 => Ok(Signature::of(ins[0].with(&[n, h, w, c]))),
        _ => Err(check::shape(at, "x", &ins[0], "[N, H, W, C] with H, W > 0".into())),
    }
}

macro_rules! resize_op {
    ($type:ident, $symbols:path, $forward:path, $backward:path) => {
        impl Op for $type {
            fn name(&self) -> &'static str {
                $symbols.name
            }
            fn infer(&self, ins: &[Spec]) -> Result<Signature> {
                signature($symbols.name, ins, self.h, self.w)
            }
            fn keeps(&self, _: &[bool]) -> Keeps {
                Keeps::default()
            }
            fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
                Cost { flop: 0.0, bytes: (ins[0].bytes() + out.bytes()) as f64 }
            }
            fn forward(&self, io: Forward<'_>) -> Result<()> {
                frame::forward(
                    self.name(),
                    io,
                    |io| $forward(io),
                    |cuda, io| cuda::forward(&$symbols, cuda, io),
                )
            }
            fn backward(&self, io: Backward<'_>) -> Result<()> {
                frame::backward(
                    self.name(),
                    io,
                    |io| $backward(io),
                    |cuda, io| cuda::backward(&$symbols, cuda, io),
                )
            }
        }
    };
}

resize_op!(Nearest, cuda::NEAREST, cpu::nearest, cpu::nearest_backward);
resize_op!(Bilinear, cuda::BILINEAR, cpu::bilinear, cpu::bilinear_backward);
