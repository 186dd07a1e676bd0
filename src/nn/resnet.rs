//! The residual block of the U-Net and of the autoencoder.

use super::{After, Bias, Conv, Net, conv, conv1x1_of, group_norm, group_norm_of, linear};
use crate::{
    error::Result,
    kernels::{add::AddChannels, concat::Concat},
    plan::Value,
};

/// What a residual block needs beside its input.
#[derive(Clone, Copy, Debug)]
pub struct Resnet {
    /// Output channels; a 1x1 shortcut is there when the input has another number.
    pub out: usize,
    /// Groups and epsilon of both normalizations.
    pub norm: (usize, f32),
    /// `silu` of the time embedding `[N, T]`; none in the autoencoder.
    pub time: Option<Value>,
    /// The sum is divided by this.
    pub divisor: f32,
}

/// `(shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + time)))) / divisor`; one recompute segment.
///
/// # Shapes
/// `x: [N, H, W, I]` -> `[N, H, W, out]`; two values are one whose channels stand side by side.
///
/// # Errors
/// Those of the operations.
pub fn resnet(net: &mut Net<'_>, name: &str, x: &[Value], r: &Resnet) -> Result<Value> {
    net.segment(name, |net| {
        let h = group_norm_of(net, "norm1", x, r.norm, After::Silu)?;
        // first, so that the sum stands right behind the convolution, and both become one operation
        let time = |t| linear(net, "time_emb_proj", t, r.out, Bias::Learned);
        let time = r.time.map(time).transpose()?;
        let mut h = conv(net, "conv1", h, Conv::same(r.out, 3))?;
        if let Some(t) = time {
            h = net.rec.apply(AddChannels, &[h, t])?;
        }
        let h = group_norm(net, "norm2", h, r.norm, After::Silu)?;
        let h = conv(net, "conv2", h, Conv::same(r.out, 3))?;
        let width: usize = x.iter().map(|x| net.channels(*x)).sum();
        let x = match x {
            _ if width != r.out => conv1x1_of(net, "conv_shortcut", x, r.out)?,
            [x] => *x,
            _ => net.rec.apply(Concat, x)?,
        };
        let y = net.add(x, h)?;
        net.affine(y, 1.0 / r.divisor, 0.0)
    })
}
