//! SAM's image encoder as a straight line.

use super::{VitConfig, config::Block};
use crate::{
    error::Result,
    kernels::{
        attention::{Attention, Bias as Added, BiasedAttention},
        linear::Linear,
        resize::Bilinear,
        windows::{Partition, Unpartition},
    },
    nn::{Bias, Net, conv_without_bias, layer_norm, linear, patches, repeat},
    plan::{Value, WeightLayout},
    tensor::DType,
};

/// Epsilon of the neck's normalizations.
const NECK_EPS: f32 = 1e-6;

/// `neck(blocks(patches + positions))`; parameters have transformers' names below the current module, but for the
/// stacked projection, whose thirds are `q`, `k` and `v`.
pub(super) fn encoder(net: &mut Net<'_>, config: &VitConfig, pixels: Value) -> Result<Value> {
    let [n, h, w, c] = net.image_dims(pixels)?;
    let ([gh, gw], width) = (config.grid, config.width);
    if [h, w, c] != [gh * config.patch, gw * config.patch, config.channels] {
        let (ph, pw) = (gh * config.patch, gw * config.patch);
        let want = format!("[N, {ph}, {pw}, {}] (pad the picture)", config.channels);
        return Err(net.shape(pixels, "pixel_values", want));
    }
    let pixels = net.rec.compute(pixels)?;
    let mut x = patches(net, "patch_embed.projection", pixels, (width, config.patch))?;
    if config.positions {
        let positions = net.param("pos_embed", &[1, gh, gw, width], WeightLayout::Dense);
        let positions = repeat(net, positions, n)?;
        x = net.add(x, positions)?;
    }
    for (i, b) in config.blocks.iter().enumerate() {
        x = net.segment(&format!("layers.{i}"), |net| block(net, config, *b, x))?;
    }
    let x = net.within("neck", |net| {
        let x = conv_without_bias(net, "conv1", x, (config.out, 1))?;
        let x = layer_norm(net, "layer_norm1", x, NECK_EPS)?;
        let x = conv_without_bias(net, "conv2", x, (config.out, 3))?;
        layer_norm(net, "layer_norm2", x, NECK_EPS)
    })?;
    net.rec.cast(x, DType::F32)
}

/// `x += attn(norm1 x)` in windows or over the grid; `x += mlp(norm2 x)`.
fn block(net: &mut Net<'_>, config: &VitConfig, block: Block, x: Value) -> Result<Value> {
    let [n, gh, gw, width] = net.image_dims(x)?;
    let h = layer_norm(net, "layer_norm1", x, config.eps)?;
    let h = match block.window {
        Some(side) => {
            let window = [side; 2];
            let h = net.rec.apply(Partition { window }, &[h])?;
            let h = net.within("attn", |net| attention(net, config, block, h, window))?;
            net.rec.apply(Unpartition { window, size: [gh, gw] }, &[h])?
        }
        None => {
            let h = net.rec.view(h, &[n, gh * gw, width])?;
            let h = net.within("attn", |net| attention(net, config, block, h, [gh, gw]))?;
            net.rec.view(h, &[n, gh, gw, width])?
        }
    };
    let x = net.add(x, h)?;
    let h = layer_norm(net, "layer_norm2", x, config.eps)?;
    let h = linear(net, "mlp.lin1", h, config.inner, Bias::Learned)?;
    let h = net.activate(h, config.activation)?;
    let h = linear(net, "mlp.lin2", h, width, Bias::Learned)?;
    net.add(x, h)
}

/// Attention among the positions of a grid: the scaled products plus what the unscaled query says about the distances.
fn attention(
    net: &mut Net<'_>,
    config: &VitConfig,
    block: Block,
    x: Value,
    grid: [usize; 2],
) -> Result<Value> {
    let [n, l, width] = net.token_dims(x)?;
    let (heads, head_dim) = (config.heads, config.width / config.heads);
    let bias = if config.qkv_bias { Bias::Learned } else { Bias::None };
    let project = |net: &mut Net<'_>, name| {
        let y = linear(net, name, x, width, bias)?;
        net.rec.view(y, &[n, l, heads, head_dim])
    };
    let (q, k, v) = (project(net, "q")?, project(net, "k")?, project(net, "v")?);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let y = match block.tables {
        None => net
            .rec
            .apply(Attention { causal: false, scale, products: net.rec.rounding() }, &[q, k, v])?,
        Some([rows_h, rows_w]) => {
            let h = distances(net, "rel_pos_h", q, (rows_h, grid[0]))?;
            let w = distances(net, "rel_pos_w", q, (rows_w, grid[1]))?;
            let op = BiasedAttention { scale, grid, bias: Added::Decomposed };
            net.rec.apply(op, &[q, k, v, h, w])?
        }
    };
    let y = net.rec.view(y, &[n, l, width])?;
    linear(net, "proj", y, width, Bias::Learned)
}

/// The products of the queries with a table of `rows` distances, resized where `side` positions have others.
fn distances(
    net: &mut Net<'_>,
    name: &str,
    q: Value,
    (rows, side): (usize, usize),
) -> Result<Value> {
    let (width, want) = (net.channels(q), 2 * side - 1);
    let mut table = net.param(name, &[rows, width], WeightLayout::Dense);
    net.rec.scope(name, |rec| {
        if rows != want {
            table = rec.view(table, &[1, rows, 1, width])?;
            table = rec.apply(Bilinear { h: want, w: 1 }, &[table])?;
            table = rec.view(table, &[want, width])?;
        }
        rec.apply(Linear { bias: false }, &[q, table])
    })
}
