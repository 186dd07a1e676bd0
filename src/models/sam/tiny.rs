//! MobileSAM's image encoder as a straight line: inverted bottlenecks, then stages of attention in windows.

use super::{TinyConfig, config::Stage};
use crate::{
    error::Result,
    kernels::{
        activation::Kind,
        attention::{Bias as Added, BiasedAttention},
        windows::{Partition, Unpartition},
    },
    nn::{Bias, Conv, Net, conv, conv_without_bias, conv1x1, depthwise, layer_norm, linear},
    plan::{Value, WeightLayout},
    tensor::DType,
};

/// Epsilon of the normalizations inside the stages; the neck's is smaller.
const EPS: f32 = 1e-5;
const NECK_EPS: f32 = 1e-6;
/// Mergings that halve the picture; later ones keep its size.
const HALVING: usize = 2;

/// `neck(stages(patches))`; a convolution's batch normalization is part of its weight and bias.
pub(super) fn encoder(net: &mut Net<'_>, config: &TinyConfig, pixels: Value) -> Result<Value> {
    let [_, h, w, c] = net.image_dims(pixels)?;
    if c != config.channels || h == 0 || w == 0 || h % super::STRIDE != 0 || w % super::STRIDE != 0
    {
        let want = format!("[N, H, W, {}] with sides that are multiples of 16", config.channels);
        return Err(net.shape(pixels, "pixel_values", want));
    }
    let x = net.rec.compute(pixels)?;
    let half = |out| Conv { out, kernel: 3, stride: 2, pad: [1; 4], upsample: false };
    let x = conv(net, "patch_embed.seq.0", x, half(config.stem))?;
    let x = net.activate(x, Kind::Gelu)?;
    let mut x = conv(net, "patch_embed.seq.2", x, half(config.stages[0].width))?;
    for (i, stage) in config.stages.iter().enumerate() {
        x = net.within(&format!("layers.{i}"), |net| {
            for j in 0..stage.depth {
                x = net.segment(&format!("blocks.{j}"), |net| match i {
                    0 => bottleneck(net, x, *stage),
                    _ => block(net, x, *stage),
                })?;
            }
            match config.stages.get(i + 1) {
                Some(next) => {
                    let stride = if i < HALVING { 2 } else { 1 };
                    net.within("downsample", |net| merge(net, x, (next.width, stride)))
                }
                None => Ok(x),
            }
        })?;
    }
    let x = net.within("neck", |net| {
        let x = conv_without_bias(net, "0", x, (config.out, 1))?;
        let x = layer_norm(net, "1", x, NECK_EPS)?;
        let x = conv_without_bias(net, "2", x, (config.out, 3))?;
        layer_norm(net, "3", x, NECK_EPS)
    })?;
    net.rec.cast(x, DType::F32)
}

/// `gelu(x + conv3(gelu(conv2(gelu(conv1 x)))))`, the middle one of every channel alone.
fn bottleneck(net: &mut Net<'_>, x: Value, stage: Stage) -> Result<Value> {
    let h = conv1x1(net, "conv1", x, stage.inner)?;
    let h = net.activate(h, Kind::Gelu)?;
    let h = depthwise(net, "conv2", h, (3, 1))?;
    let h = net.activate(h, Kind::Gelu)?;
    let h = conv1x1(net, "conv3", h, stage.width)?;
    let x = net.add(x, h)?;
    net.activate(x, Kind::Gelu)
}

/// `conv3(gelu(conv2(gelu(conv1 x))))` with the stride in the middle one.
fn merge(net: &mut Net<'_>, x: Value, (out, stride): (usize, usize)) -> Result<Value> {
    let h = conv1x1(net, "conv1", x, out)?;
    let h = net.activate(h, Kind::Gelu)?;
    let h = depthwise(net, "conv2", h, (3, stride))?;
    let h = net.activate(h, Kind::Gelu)?;
    conv1x1(net, "conv3", h, out)
}

/// `x += attn x` in windows; `x = local_conv x`; `x += mlp x`.
fn block(net: &mut Net<'_>, x: Value, stage: Stage) -> Result<Value> {
    let [_, h, w, _] = net.image_dims(x)?;
    let window = [stage.window; 2];
    let y = net.rec.apply(Partition { window }, &[x])?;
    let y = net.within("attn", |net| attention(net, y, stage))?;
    let y = net.rec.apply(Unpartition { window, size: [h, w] }, &[y])?;
    let x = net.add(x, y)?;
    let x = depthwise(net, "local_conv", x, (3, 1))?;
    net.within("mlp", |net| {
        let y = layer_norm(net, "norm", x, EPS)?;
        let y = linear(net, "fc1", y, stage.inner, Bias::Learned)?;
        let y = net.activate(y, Kind::Gelu)?;
        let y = linear(net, "fc2", y, stage.width, Bias::Learned)?;
        net.add(x, y)
    })
}

/// Attention inside a window; a head adds a number for each pair of distances.
fn attention(net: &mut Net<'_>, x: Value, stage: Stage) -> Result<Value> {
    let [n, l, width] = net.token_dims(x)?;
    let (heads, grid) = (stage.heads, [stage.window; 2]);
    let x = layer_norm(net, "norm", x, EPS)?;
    let project = |net: &mut Net<'_>, name| {
        let y = linear(net, name, x, width, Bias::Learned)?;
        net.rec.view(y, &[n, l, heads, width / heads])
    };
    let (q, k, v) = (project(net, "q")?, project(net, "k")?, project(net, "v")?);
    let table = net.param("attention_biases", &[heads, l], WeightLayout::Dense);
    let scale = 1.0 / ((width / heads) as f32).sqrt();
    let op = BiasedAttention { scale, grid, bias: Added::Offsets };
    let y = net.rec.apply(op, &[q, k, v, table])?;
    let y = net.rec.view(y, &[n, l, width])?;
    linear(net, "proj", y, width, Bias::Learned)
}
