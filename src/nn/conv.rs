//! Convolutions on channels-last pictures: frozen, trained or adapted.

use super::{Net, conv1x1};
use crate::{
    error::Result,
    kernels::{conv2d::Conv2d, linear::Linear},
    plan::{Value, WeightLayout},
};

/// Shape of a square convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    /// Output channels.
    pub out: usize,
    /// Side of the kernel.
    pub kernel: usize,
    /// Step in both directions.
    pub stride: usize,
    /// Zeros added at the top, bottom, left and right.
    pub pad: [usize; 4],
    /// Whether the picture is enlarged twice (nearest neighbour) before it; with stride 1 only.
    pub upsample: bool,
}

impl Conv {
    /// Stride 1 and `(kernel - 1) / 2` zeros on every side: an odd kernel keeps the size.
    pub fn same(out: usize, kernel: usize) -> Self {
        let pad = [kernel.saturating_sub(1) / 2; 4];
        Self { out, kernel, stride: 1, pad, upsample: false }
    }

    /// The halving 3x3 convolution; `pad` 0 means one row below and one column to the right, as diffusers has it.
    pub fn halve(out: usize, pad: usize) -> Self {
        let pad = if pad == 0 { [0, 1, 0, 1] } else { [pad; 4] };
        Self { out, kernel: 3, stride: 2, pad, upsample: false }
    }

    /// The 3x3 convolution of a picture enlarged twice.
    pub fn double(out: usize) -> Self {
        Self { upsample: true, ..Self::same(out, 3) }
    }
}

/// `conv(x) + b`, plus `scale * up(down(x))` when adapted (`down` has the kernel, `up` is 1x1).
///
/// # Shapes
/// `x: [N, H, W, I]`; `name.weight` is `[O, I, k, k]` in the checkpoint, `[O, k, k, I]` here.
///
/// # Errors
/// Those of the operations.
pub fn conv(net: &mut Net<'_>, name: &str, x: Value, shape: Conv) -> Result<Value> {
    let Conv { out, kernel: k, stride, pad, upsample } = shape;
    if k == 1 && stride == 1 && pad == [0; 4] && !upsample {
        return conv1x1(net, name, x, out);
    }
    net.within(name, |net| {
        let width = net.channels(x);
        let w = net.param("weight", &[out, k, k, width], WeightLayout::Conv);
        let b = net.param("bias", &[out], WeightLayout::Dense);
        let mut y = net.rec.apply(Conv2d { stride, pad, bias: true, upsample }, &[x, w, b])?;
        for (i, a) in net.adapters.at(&net.path).iter().enumerate() {
            let dims = [a.rank, k, k, width];
            let [down, up] = net.adapter(i, &dims, &[out, a.rank], WeightLayout::Conv);
            let h = net.rec.apply(Conv2d { stride, pad, bias: false, upsample }, &[x, down])?;
            let h = net.rec.apply(Linear { bias: false }, &[h, up])?;
            let h = net.affine(h, a.scale, 0.0)?;
            y = net.add(y, h)?;
        }
        Ok(y)
    })
}
