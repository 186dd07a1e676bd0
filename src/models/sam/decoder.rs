//! Prompt encoder and mask decoder as one straight line.

use super::DecoderConfig;
use crate::{
    error::Result,
    kernels::{
        activation::Kind, add::AddChannels, attention::Attention, concat::Concat,
        embedding::Embedding, linear::BatchedLinear, slice::Slice,
    },
    nn::{Bias, Net, conv1x1, double, layer_norm, linear, patches, repeat},
    plan::{Value, WeightLayout},
    tensor::DType,
};

/// Epsilon of the normalization after the last attention.
const FINAL_EPS: f32 = 1e-5;
/// Epsilon of the normalization between the two enlargements.
const UPSCALE_EPS: f32 = 1e-6;

/// What the decoder is called with.
#[derive(Clone, Copy, Debug)]
pub struct Prompted {
    /// Image embeddings `[N, h, w, C]`.
    pub image: Value,
    /// Positions of their cells `[h w, C]`.
    pub cells: Value,
    /// Rows of the tokens in the table, `[1, N P T]` i32 (see [`super::Tokens`]).
    pub ids: Value,
    /// What is added to them `[N P T, C]`.
    pub positions: Value,
    /// Prompts of a picture.
    pub prompts: usize,
    /// Mask prompts `[N, 4h, 4w, 1]`.
    pub masks: Option<Value>,
    /// The masks of the ambiguous case instead of the single one.
    pub multimask: bool,
}

/// What it gives.
#[derive(Clone, Copy, Debug)]
pub struct Masks {
    /// Logits `[N P, 4h, 4w, M]`.
    pub masks: Value,
    /// Predicted quality `[N P, M]`.
    pub scores: Value,
}

/// Predicts masks; parameters have transformers' names below the current module.
///
/// # Errors
/// [`crate::error::Error::Shape`] for inputs that do not fit the configuration or each other.
///
/// # Source
/// transformers 5.23, `SamPromptEncoder` and `SamMaskDecoder`.
pub fn mask_decoder(net: &mut Net<'_>, config: &DecoderConfig, given: &Prompted) -> Result<Masks> {
    let [n, h, w, c] = net.image_dims(given.image)?;
    if c != config.width {
        let want = format!("[N, h, w, {}]", config.width);
        return Err(net.shape(given.image, "image_embeddings", want));
    }
    let image = net.rec.compute(given.image)?;
    let image = net.within("prompt_encoder", |net| dense(net, config, image, given.masks))?;
    let (samples, cells) = (n * given.prompts, h * w);
    let image = net.rec.view(image, &[n, cells, c])?;
    let image = repeat(net, image, given.prompts)?;
    let positions = net.rec.compute(given.cells)?;
    let positions = net.rec.view(positions, &[1, cells, c])?;
    let positions = repeat(net, positions, samples)?;
    let tokens = embed(net, config, given)?;
    let count = net.channels(given.ids).checked_div(samples).unwrap_or(0);
    let tokens = net.rec.view(tokens, &[samples, count, c])?;
    net.within("mask_decoder", |net| {
        let scene = Scene { image, positions, tokens };
        let (tokens, image) = net.within("transformer", |net| two_way(net, config, scene))?;
        let tokens = net.rec.view(tokens, &[samples, count * c])?;
        let token = |net: &mut Net<'_>, i| net.rec.apply(Slice { from: i * c, len: c }, &[tokens]);
        let image = net.rec.view(image, &[samples, h, w, c])?;
        let image = double(net, "upscale_conv1", image, c / 4)?;
        let image = layer_norm(net, "upscale_layer_norm", image, UPSCALE_EPS)?;
        let image = net.activate(image, Kind::Gelu)?;
        let image = double(net, "upscale_conv2", image, c / 8)?;
        let image = net.activate(image, Kind::Gelu)?;
        let mut weights = vec![];
        for i in 0..config.masks {
            let x = token(net, 1 + i)?;
            let name = format!("output_hypernetworks_mlps.{i}");
            weights.push(head(net, &name, x, [c, c / 8, 3])?);
        }
        let (from, len) = if given.multimask { (1, config.masks - 1) } else { (0, 1) };
        let weights = join(net, &weights[from..from + len])?;
        let weights = net.rec.view(weights, &[samples, len, c / 8])?;
        let pixels = net.rec.view(image, &[samples, 16 * cells, c / 8])?;
        let masks = net.rec.apply(BatchedLinear, &[pixels, weights])?;
        let masks = net.rec.view(masks, &[samples, 4 * h, 4 * w, len])?;
        let x = token(net, 0)?;
        let extents = [config.iou_inner, config.masks, config.iou_depth];
        let scores = head(net, "iou_prediction_head", x, extents)?;
        let scores = net.rec.apply(Slice { from, len }, &[scores])?;
        let masks = net.rec.cast(masks, DType::F32)?;
        Ok(Masks { masks, scores: net.rec.cast(scores, DType::F32)? })
    })
}

/// The picture with the mask prompt, or with what stands for none.
fn dense(
    net: &mut Net<'_>,
    config: &DecoderConfig,
    image: Value,
    masks: Option<Value>,
) -> Result<Value> {
    let [n, h, w, c] = net.image_dims(image)?;
    let Some(masks) = masks else {
        let none = net.param("no_mask_embed.weight", &[1, c], WeightLayout::Dense);
        let flat = net.rec.view(image, &[1, n * h * w, c])?;
        let y = net.rec.apply(AddChannels, &[flat, none])?;
        return net.rec.view(y, &[n, h, w, c]);
    };
    if net.dims(masks) != [n, 4 * h, 4 * w, 1] {
        return Err(net.shape(masks, "input_masks", format!("[{n}, {}, {}, 1]", 4 * h, 4 * w)));
    }
    let x = net.rec.compute(masks)?;
    let y = net.within("mask_embed", |net| {
        let (eps, kind) = (config.mask_eps, config.mask_activation);
        let x = patches(net, "conv1", x, (config.mask_channels / 4, 2))?;
        let x = layer_norm(net, "layer_norm1", x, eps)?;
        let x = net.activate(x, kind)?;
        let x = patches(net, "conv2", x, (config.mask_channels, 2))?;
        let x = layer_norm(net, "layer_norm2", x, eps)?;
        let x = net.activate(x, kind)?;
        conv1x1(net, "conv3", x, c)
    })?;
    net.add(image, y)
}

/// `a | b | ..` along the last axis; one value stays what it is.
fn join(net: &mut Net<'_>, all: &[Value]) -> Result<Value> {
    let (mut y, rest) = (all[0], &all[1..]);
    for x in rest {
        y = net.rec.apply(Concat, &[y, *x])?;
    }
    Ok(y)
}

/// Every token `[1, N P T, C]`: its row of the table of learned embeddings plus its position.
fn embed(net: &mut Net<'_>, config: &DecoderConfig, given: &Prompted) -> Result<Value> {
    let c = config.width;
    let mut rows = vec![
        ("mask_decoder.iou_token.weight".to_string(), 1),
        ("mask_decoder.mask_tokens.weight".to_string(), config.masks),
        ("prompt_encoder.not_a_point_embed.weight".to_string(), 1),
    ];
    rows.extend((0..4).map(|i| (format!("prompt_encoder.point_embed.{i}.weight"), 1)));
    let mut parts = vec![];
    for (name, count) in &rows {
        let part = net.param(name, &[*count, c], WeightLayout::Dense);
        parts.push(net.rec.view(part, &[1, count * c])?);
    }
    let table = join(net, &parts)?;
    let table = net.rec.view(table, &[config.masks + 6, c])?;
    let positions = net.rec.compute(given.positions)?;
    net.rec.apply(Embedding { added: false }, &[given.ids, table, positions])
}

/// What the two-way layers begin with.
#[derive(Clone, Copy)]
struct Scene {
    image: Value,
    positions: Value,
    tokens: Value,
}

/// The tokens look at each other and at the picture, the picture looks back.
fn two_way(net: &mut Net<'_>, config: &DecoderConfig, scene: Scene) -> Result<(Value, Value)> {
    let (own, places) = (scene.tokens, scene.positions);
    let (mut tokens, mut image) = (scene.tokens, scene.image);
    let (inner, cross) = (config.width, config.cross);
    for i in 0..config.layers {
        (tokens, image) = net.within(&format!("layers.{i}"), |net| {
            if i == 0 {
                tokens = attend(net, "self_attn", [tokens; 3], (config.heads, inner))?;
            } else {
                let q = net.add(tokens, own)?;
                let y = attend(net, "self_attn", [q, q, tokens], (config.heads, inner))?;
                tokens = net.add(tokens, y)?;
            }
            tokens = layer_norm(net, "layer_norm1", tokens, config.eps)?;
            let (q, k) = (net.add(tokens, own)?, net.add(image, places)?);
            let name = "cross_attn_token_to_image";
            let y = attend(net, name, [q, k, image], (config.heads, cross))?;
            tokens = net.add(tokens, y)?;
            tokens = layer_norm(net, "layer_norm2", tokens, config.eps)?;
            let y = linear(net, "mlp.lin1", tokens, config.inner, Bias::Learned)?;
            let y = net.activate(y, config.activation)?;
            let y = linear(net, "mlp.lin2", y, config.width, Bias::Learned)?;
            tokens = net.add(tokens, y)?;
            tokens = layer_norm(net, "layer_norm3", tokens, config.eps)?;
            let q = net.add(tokens, own)?;
            let name = "cross_attn_image_to_token";
            let y = attend(net, name, [k, q, tokens], (config.heads, cross))?;
            image = net.add(image, y)?;
            Ok((tokens, layer_norm(net, "layer_norm4", image, config.eps)?))
        })?;
    }
    let (q, k) = (net.add(tokens, own)?, net.add(image, places)?);
    let name = "final_attn_token_to_image";
    let y = attend(net, name, [q, k, image], (config.heads, config.last))?;
    let tokens = net.add(tokens, y)?;
    Ok((layer_norm(net, "layer_norm_final_attn", tokens, FINAL_EPS)?, image))
}

/// `out(softmax(q k^T / sqrt(D)) v)` with projections of its own for query, key and value, `inner` wide.
fn attend(
    net: &mut Net<'_>,
    name: &str,
    [q, k, v]: [Value; 3],
    (heads, inner): (usize, usize),
) -> Result<Value> {
    net.within(name, |net| {
        let ([n, queries, width], [_, keys, _]) = (net.token_dims(q)?, net.token_dims(k)?);
        let head_dim = inner / heads;
        let project = |net: &mut Net<'_>, name, x, length| {
            let y = linear(net, name, x, inner, Bias::Learned)?;
            net.rec.view(y, &[n, length, heads, head_dim])
        };
        let q = project(net, "q_proj", q, queries)?;
        let k = project(net, "k_proj", k, keys)?;
        let v = project(net, "v_proj", v, keys)?;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let y = net
            .rec
            .apply(Attention { causal: false, scale, products: net.rec.rounding() }, &[q, k, v])?;
        let y = net.rec.view(y, &[n, queries, inner])?;
        linear(net, "out_proj", y, width, Bias::Learned)
    })
}

/// `depth` linear layers with ReLU between them.
fn head(net: &mut Net<'_>, name: &str, x: Value, [inner, out, depth]: [usize; 3]) -> Result<Value> {
    net.within(name, |net| {
        let mut x = linear(net, "proj_in", x, inner, Bias::Learned)?;
        x = net.activate(x, Kind::Relu)?;
        for i in 0..depth - 2 {
            x = linear(net, &format!("layers.{i}"), x, inner, Bias::Learned)?;
            x = net.activate(x, Kind::Relu)?;
        }
        linear(net, "proj_out", x, out, Bias::Learned)
    })
}
