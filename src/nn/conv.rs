//! Convolutions on channels-last pictures: frozen, trained or adapted.

use super::{Net, conv1x1};
use crate::{
    error::Result,
    kernels::{conv2d::Conv2d, depthwise::Depthwise, linear::Linear, resize::Nearest, windows},
    plan::{Unpadded, Value, WeightLayout},
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
        let w = net.weight("weight", &[out, k, k, width], WeightLayout::Conv);
        let b = net.param("bias", &[out], WeightLayout::Dense);
        let mut y = net.rec.apply(Conv2d { stride, pad, bias: true, upsample }, &[x, w, b])?;
        for (i, a) in net.adapters.at(&net.path).iter().enumerate() {
            let [down, up] = net.adapter(i, a.rank, &[k, k, width], out, Unpadded::Conv);
            let h = net.rec.apply(Conv2d { stride, pad, bias: false, upsample }, &[x, down])?;
            let h = net.rec.apply(Linear { bias: false }, &[h, up])?;
            let h = net.affine(h, a.scale, 0.0)?;
            y = net.add(y, h)?;
        }
        Ok(y)
    })
}

/// A convolution without bias that keeps the size: `name.weight` `[O, I, k, k]` in the checkpoint, an odd `k`.
///
/// # Shapes
/// `x: [N, H, W, I]` gives `[N, H, W, O]`.
///
/// # Errors
/// Those of the operations.
pub fn conv_without_bias(
    net: &mut Net<'_>,
    name: &str,
    x: Value,
    (out, kernel): (usize, usize),
) -> Result<Value> {
    net.within(name, |net| {
        let width = net.channels(x);
        if kernel == 1 {
            let w = net.weight("weight", &[out, width], WeightLayout::Conv1x1);
            return net.rec.apply(Linear { bias: false }, &[x, w]);
        }
        let w = net.weight("weight", &[out, kernel, kernel, width], WeightLayout::Conv);
        net.rec.apply(Conv2d::same(kernel, false), &[x, w])
    })
}

/// A convolution whose kernel does not overlap itself, stride and kernel `k`, with a bias: patches, then a product.
///
/// # Shapes
/// `x: [N, H, W, I]` with sides that `k` divides gives `[N, H/k, W/k, O]`; `name.weight` is `[O, I, k, k]` in the
/// checkpoint.
///
/// # Errors
/// [`crate::error::Error::Shape`] for sides that `k` does not divide.
pub fn patches(net: &mut Net<'_>, name: &str, x: Value, (out, k): (usize, usize)) -> Result<Value> {
    let [n, h, w, c] = net.image_dims(x)?;
    if k == 0 || !h.is_multiple_of(k) || !w.is_multiple_of(k) {
        return Err(net.shape(x, "picture", format!("[N, H, W, C] with sides that {k} divides")));
    }
    net.within(name, |net| {
        let weight = net.weight("weight", &[out, k, k, c], WeightLayout::Conv);
        let weight = net.rec.view(weight, &[out, k * k * c])?;
        let bias = net.param("bias", &[out], WeightLayout::Dense);
        let x = net.rec.apply(windows::Partition { window: [k, k] }, &[x])?;
        let x = net.rec.view(x, &[n * (h / k) * (w / k), k * k * c])?;
        let y = net.rec.apply(Linear { bias: true }, &[x, weight, bias])?;
        net.rec.view(y, &[n, h / k, w / k, out])
    })
}

/// A transposed convolution with kernel and stride 2 and a bias: a product, then windows put together.
///
/// # Shapes
/// `x: [N, H, W, I]` gives `[N, 2H, 2W, O]`; `name.weight` is `[I, O, 2, 2]` in the checkpoint.
///
/// # Errors
/// Those of the operations.
pub fn double(net: &mut Net<'_>, name: &str, x: Value, out: usize) -> Result<Value> {
    let [n, h, w, c] = net.image_dims(x)?;
    net.within(name, |net| {
        let weight = net.weight("weight", &[2, 2, out, c], WeightLayout::ConvTransposed);
        let weight = net.rec.view(weight, &[4 * out, c])?;
        let bias = net.param("bias", &[out], WeightLayout::Dense);
        let bias = net.rec.view(bias, &[1, out])?;
        let bias = repeat(net, bias, 4)?;
        let bias = net.rec.view(bias, &[4 * out])?;
        let y = net.rec.apply(Linear { bias: true }, &[x, weight, bias])?;
        let y = net.rec.view(y, &[n * h * w, 4, out])?;
        net.rec.apply(windows::Unpartition { window: [2, 2], size: [2 * h, 2 * w] }, &[y])
    })
}

/// A convolution of every channel with a `k x k` kernel of its own, `k / 2` zeros on every side, and a bias.
///
/// # Shapes
/// `x: [N, H, W, C]` gives `[N, H', W', C]`; `name.weight` is `[C, 1, k, k]` in the checkpoint.
///
/// # Errors
/// Those of the operation.
pub fn depthwise(
    net: &mut Net<'_>,
    name: &str,
    x: Value,
    (k, stride): (usize, usize),
) -> Result<Value> {
    net.within(name, |net| {
        let c = net.channels(x);
        let w = net.param("weight", &[k, k, c], WeightLayout::Depthwise);
        let b = net.param("bias", &[c], WeightLayout::Dense);
        net.rec.apply(Depthwise { stride, pad: k / 2 }, &[x, w, b])
    })
}

/// Every sample of `x` `times` times, one after another: a nearest-neighbour enlargement along the first axis.
///
/// # Shapes
/// `x: [N, ..]` gives `[N times, ..]`.
///
/// # Errors
/// [`crate::error::Error::Shape`] for a scalar.
pub fn repeat(net: &mut Net<'_>, x: Value, times: usize) -> Result<Value> {
    let mut dims = net.dims(x);
    let Some(n) = dims.first().copied() else {
        return Err(net.shape(x, "samples", "[N, ..]"));
    };
    if times == 1 {
        return Ok(x);
    }
    let each = dims[1..].iter().product();
    let x = net.rec.view(x, &[1, n, 1, each])?;
    let y = net.rec.apply(Nearest { h: n * times, w: 1 }, &[x])?;
    dims[0] = n * times;
    net.rec.view(y, &dims)
}
