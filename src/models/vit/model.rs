//! The vision transformer as a straight line.

use super::{Positions, Vit, resized};
use crate::{
    error::Result,
    kernels::{
        activation::Kind,
        add::AddChannels,
        concat::Concat,
        conv2d::Conv2d,
        embedding::GatherRows,
        linear::Linear,
        multiply::{Multiply, MultiplyChannels},
    },
    nn::{Attend, Bias, Net, attention, layer_norm, linear},
    plan::{Value, WeightLayout},
};

/// Turns pictures into tokens: the class token, registers, patches in reading order; no final normalization.
///
/// `x = [cls; registers; patches] + positions`; then for each layer `x += ls1 attn(norm1 x)`,
/// `x += ls2 mlp(norm2 x)`.
///
/// Parameters are named as DINO's, with the stacked projection in three: `cls_token`, `pos_embed`,
/// `patch_embed.proj`, `blocks.{i}.{norm1, attn.{q, k, v, proj}, ls1.gamma, norm2, mlp.{fc1, fc2}, ls2.gamma}`.
///
/// # Shapes
/// `pixels: [N, H, W, C]` gives `[N, 1 + registers + (H / patch)(W / patch), width]`; what exceeds whole patches
/// is not looked at.
///
/// # Errors
/// [`crate::error::Error::Shape`] for a picture smaller than a patch, of other channels, or of another size where
/// the position table is fixed.
///
/// # Source
/// transformers 5.23 (`CLIPVisionModel`, `Dinov2Model`, `ViTModel`), facebookresearch/dino and dinov2.
pub fn vit(net: &mut Net<'_>, config: &Vit, pixels: Value) -> Result<Value> {
    let [n, _, _, c] = net.image_dims(pixels)?;
    if c != config.channels {
        let want = format!("[N, H, W, {}]", config.channels);
        return Err(net.shape(pixels, "picture", want));
    }
    let pixels = net.rec.compute(pixels)?;
    let patches = patches(net, config, pixels)?;
    let [_, rows, columns, d] = net.image_dims(patches)?;
    if config.positions == Positions::Fixed && [rows, columns] != config.grid {
        let [h, w] = config.grid.map(|side| side * config.patch);
        return Err(net.shape(
            pixels,
            "picture",
            format!("{h} x {w} pixels, the model's own size"),
        ));
    }
    let count = 1 + config.registers + rows * columns;
    // Rows that all pictures share are added to a table of one row a picture: there is no broadcast otherwise.
    let first = first_tokens(net, config, n)?;
    let patches = net.rec.view(patches, &[n, rows * columns * d])?;
    let x = net.rec.apply(Concat, &[first, patches])?;
    let x = net.rec.view(x, &[1, n, count * d])?;
    let positions = positions(net, config, [rows, columns])?;
    let x = net.rec.apply(AddChannels, &[x, positions])?;
    let mut x = net.rec.view(x, &[n, count, d])?;
    if config.pre_norm {
        x = layer_norm(net, "norm_pre", x, config.eps)?;
    }
    for i in 0..config.layers {
        x = net.segment(&format!("blocks.{i}"), |net| block(net, config, x))?;
    }
    Ok(x)
}

/// Row 0 of every picture's tokens: the class token.
///
/// # Errors
/// Those of the operation.
pub fn first_rows(net: &mut Net<'_>, x: Value) -> Result<Value> {
    let [n, ..] = net.token_dims(x)?;
    picked(net, x, &vec![0; n])
}

/// One row of every picture's or text's tokens.
///
/// # Errors
/// Those of the operation.
pub fn picked(net: &mut Net<'_>, x: Value, rows: &[i32]) -> Result<Value> {
    let rows = net.rec.indices("rows", rows);
    net.rec.apply(GatherRows, &[x, rows])
}

fn zeros(net: &mut Net<'_>, dims: &[usize]) -> Result<Value> {
    let table = net.rec.table("zeros", dims, vec![]);
    net.rec.compute(table)
}

/// A convolution whose step is its kernel: one token a patch.
fn patches(net: &mut Net<'_>, config: &Vit, pixels: Value) -> Result<Value> {
    net.within("patch_embed.proj", |net| {
        let (p, d) = (config.patch, config.width);
        let dims = [d, p, p, config.channels];
        let mut ins = vec![pixels, net.param("weight", &dims, WeightLayout::Conv)];
        if config.patch_bias {
            ins.push(net.param("bias", &[d], WeightLayout::Dense));
        }
        let op = Conv2d { stride: p, pad: [0; 4], bias: config.patch_bias, upsample: false };
        net.rec.apply(op, &ins)
    })
}

/// The class token and the registers of every picture, `[N, (1 + R) D]`.
fn first_tokens(net: &mut Net<'_>, config: &Vit, n: usize) -> Result<Value> {
    let (d, r) = (config.width, config.registers);
    let class = net.param("cls_token", &[d], WeightLayout::Dense);
    let mut tokens = net.rec.view(class, &[1, d])?;
    if r > 0 {
        let registers = net.param("register_tokens", &[r, d], WeightLayout::Dense);
        let registers = net.rec.view(registers, &[1, r * d])?;
        tokens = net.rec.apply(Concat, &[tokens, registers])?;
    }
    let rows = zeros(net, &[1, n, (1 + r) * d])?;
    let rows = net.rec.apply(AddChannels, &[rows, tokens])?;
    net.rec.view(rows, &[n, (1 + r) * d])
}

/// The position table for a grid, `[1, (1 + R + h w) D]`.
fn positions(net: &mut Net<'_>, config: &Vit, grid: [usize; 2]) -> Result<Value> {
    let (d, r) = (config.width, config.registers);
    let (stored, count) = (1 + config.grid[0] * config.grid[1], 1 + r + grid[0] * grid[1]);
    if grid == config.grid && r == 0 {
        let table = net.param("pos_embed", &[stored, d], WeightLayout::Dense);
        return net.rec.view(table, &[1, count * d]);
    }
    let table = net.param("pos_embed", &[d, stored], WeightLayout::Transposed);
    let matrix = resized(config.positions, config.grid, grid, r);
    let matrix = net.rec.table("resize", &[count, stored], matrix);
    let matrix = net.rec.compute(matrix)?;
    let rows = net.rec.apply(Linear { bias: false }, &[matrix, table])?;
    net.rec.view(rows, &[1, count * d])
}

fn block(net: &mut Net<'_>, config: &Vit, x: Value) -> Result<Value> {
    let bias = if config.qkv_bias { Bias::Learned } else { Bias::None };
    let attend = Attend {
        heads: config.heads,
        head_dim: config.width / config.heads,
        out: config.width,
        names: ["q", "k", "v", "proj"],
        bias,
        causal: false,
    };
    let h = layer_norm(net, "norm1", x, config.eps)?;
    let h = net.within("attn", |net| attention(net, h, h, &attend))?;
    let h = scaled(net, config, "ls1", h)?;
    let x = net.add(x, h)?;
    let h = layer_norm(net, "norm2", x, config.eps)?;
    let h = net.within("mlp", |net| feed_forward(net, config, h))?;
    let h = scaled(net, config, "ls2", h)?;
    net.add(x, h)
}

fn feed_forward(net: &mut Net<'_>, config: &Vit, x: Value) -> Result<Value> {
    let (d, inner) = (config.width, config.inner);
    if config.swiglu {
        let gate = linear(net, "w1", x, inner, Bias::Learned)?;
        let gate = net.activate(gate, Kind::Silu)?;
        let h = linear(net, "w2", x, inner, Bias::Learned)?;
        let h = net.rec.apply(Multiply, &[gate, h])?;
        return linear(net, "w3", h, d, Bias::Learned);
    }
    let h = linear(net, "fc1", x, inner, Bias::Learned)?;
    let h = net.activate(h, config.activation)?;
    linear(net, "fc2", h, d, Bias::Learned)
}

/// `gamma x`, a learned factor a channel, where the model has them; else `x` itself.
fn scaled(net: &mut Net<'_>, config: &Vit, name: &str, x: Value) -> Result<Value> {
    if !config.layer_scale {
        return Ok(x);
    }
    net.within(name, |net| {
        let gamma = net.param("gamma", &[net.channels(x)], WeightLayout::Dense);
        net.rec.apply(MultiplyChannels, &[x, gamma])
    })
}
