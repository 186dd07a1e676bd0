//! Pictures cut into windows, and put together again.

pub mod cases;
mod cpu;
mod cuda;

use crate::{
    error::Result,
    kernels::{check, frame},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::Spec,
};

/// Cuts a picture into windows, one after another; what a window has beyond the picture is zero.
///
/// `y[(n, i, j), (a, b), c] = x[n, i h + a, j w + b, c]` for windows of `h x w`, 0 past the picture.
///
/// # Shapes
/// `x: [N, H, W, C]` gives `[N ceil(H/h) ceil(W/w), h w, C]`; f32, bf16 or f16.
/// # Gradient
/// [`Unpartition`] of `dy`; keeps nothing.
/// # Errors
/// Other ranks, an empty window.
/// # Source
/// Kirillov et al. 2023 (Segment Anything), `window_partition`: the padding is at the bottom and the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Height and width of a window.
    pub window: [usize; 2],
}

/// Puts the windows of [`Partition`] together; what they have beyond the picture is dropped.
///
/// With a picture that the windows divide, this is also the step from a product with `h w O` outputs to the transposed
/// convolution with stride `h x w`.
///
/// # Shapes
/// `x: [N ceil(H/h) ceil(W/w), h w, C]` gives `[N, H, W, C]`; f32, bf16 or f16.
/// # Gradient
/// [`Partition`] of `dy`; keeps nothing.
/// # Errors
/// Other ranks, an empty window, windows that do not make whole pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpartition {
    /// Height and width of a window.
    pub window: [usize; 2],
    /// Height and width of the picture.
    pub size: [usize; 2],
}

/// A picture and its windows.
#[derive(Clone, Copy, Debug)]
struct Cut {
    n: usize,
    h: usize,
    w: usize,
    c: usize,
    window: [usize; 2],
    /// Windows down and across.
    count: [usize; 2],
}

impl Cut {
    fn of(picture: &Spec, [a, b]: [usize; 2]) -> Option<Self> {
        match picture.dims[..] {
            [n, h, w, c] if a > 0 && b > 0 => {
                let count = [h.div_ceil(a), w.div_ceil(b)];
                Some(Self { n, h, w, c, window: [a, b], count })
            }
            _ => None,
        }
    }

    fn windows(&self, spec: &Spec) -> Spec {
        let [a, b] = self.window;
        spec.with(&[self.n * self.count[0] * self.count[1], a * b, self.c])
    }
}

/// Which way the numbers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    ToWindows,
    ToPicture,
}

impl Way {
    fn back(self) -> Self {
        match self {
            Way::ToWindows => Way::ToPicture,
            Way::ToPicture => Way::ToWindows,
        }
    }
}

fn moved(x: &Spec, y: &Spec) -> Cost {
    Cost { flop: 0.0, bytes: (x.bytes() + y.bytes()) as f64 }
}

fn forward(name: &'static str, cut: Option<Cut>, way: Way, io: Forward<'_>) -> Result<()> {
    let Some(cut) = cut else { unreachable!("windows: infer saw the picture") };
    frame::forward(
        name,
        io,
        |io| cpu::forward(cut, way, io),
        |cuda, io| cuda::forward(cut, way, cuda, io),
    )
}

fn backward(name: &'static str, cut: Option<Cut>, way: Way, io: Backward<'_>) -> Result<()> {
    let Some(cut) = cut else { unreachable!("windows: infer saw the picture") };
    frame::backward(
        name,
        io,
        |io| cpu::backward(cut, way.back(), io),
        |cuda, io| cuda::backward(cut, way.back(), cuda, io),
    )
}

impl Op for Partition {
    fn name(&self) -> &'static str {
        "partition"
    }
    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        check::float_inputs(self.name(), ins, &["x"])?;
        match Cut::of(&ins[0], self.window) {
            Some(cut) => Ok(Signature::of(cut.windows(&ins[0]))),
            None => {
                let want = format!("[N, H, W, C] and windows above 0, not {:?}", self.window);
                Err(check::shape(self.name(), "x", &ins[0], want))
            }
        }
    }
    fn keeps(&self, _: &[bool]) -> Keeps {
        Keeps::default()
    }
    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        moved(&ins[0], out)
    }
    fn detail(&self) -> String {
        format!("{}x{}", self.window[0], self.window[1])
    }
    fn forward(&self, io: Forward<'_>) -> Result<()> {
        forward(self.name(), Cut::of(&io.specs[0], self.window), Way::ToWindows, io)
    }
    fn backward(&self, io: Backward<'_>) -> Result<()> {
        backward(self.name(), Cut::of(&io.specs[0], self.window), Way::ToWindows, io)
    }
}

impl Op for Unpartition {
    fn name(&self) -> &'static str {
        "unpartition"
    }
    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        check::float_inputs(self.name(), ins, &["x"])?;
        let ([h, w], [a, b]) = (self.size, self.window);
        let each = if a * b == 0 { 0 } else { h.div_ceil(a) * w.div_ceil(b) };
        match ins[0].dims[..] {
            [m, l, c] if each > 0 && l == a * b && m.is_multiple_of(each) => {
                Ok(Signature::of(ins[0].with(&[m / each, h, w, c])))
            }
            _ => {
                let want = format!("[a multiple of {each}, {}, C] for windows of {a}x{b}", a * b);
                let want = format!("{want} of pictures of {h}x{w}");
                Err(check::shape(self.name(), "x", &ins[0], want))
            }
        }
    }
    fn keeps(&self, _: &[bool]) -> Keeps {
        Keeps::default()
    }
    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        moved(&ins[0], out)
    }
    fn detail(&self) -> String {
        format!("{}x{}", self.window[0], self.window[1])
    }
    fn forward(&self, io: Forward<'_>) -> Result<()> {
        forward(self.name(), Cut::of(io.out_spec, self.window), Way::ToPicture, io)
    }
    fn backward(&self, io: Backward<'_>) -> Result<()> {
        backward(self.name(), Cut::of(io.out_spec, self.window), Way::ToPicture, io)
    }
}
