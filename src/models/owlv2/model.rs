//! OWLv2 as a straight line.

use super::Owlv2;
use crate::{
    error::Result,
    kernels::{
        activation::Kind, add::AddChannels, concat::Concat, layer_norm::LayerNorm,
        linear::BatchedLinear, multiply::Multiply, slice::Slice,
    },
    models::{
        clip::{TextInputs, text_encoder},
        vit::vit,
    },
    nn::{Bias, Net, layer_norm, linear, repeated},
    plan::Value,
};

/// Below every mean square of an embedding.
const TINY: f32 = 1e-12;

/// What the published code adds to the length of an embedding before it divides.
const LENGTH: f32 = 1e-6;

/// The logit of what only fills up: nothing is left of it behind the sigmoid, in any element type.
const FILLED: f32 = -60_000.0;

/// Finds what texts name in pictures: `logits [N, T, Q]`, `pred_boxes [N, T, 4]` (centre and size, in units of the
/// picture's side), `objectness_logits [N, T]`, `text_embeds [N, Q, E]` of length 1, `image_embeds [N g g, D]`,
/// `class_embeds [N, T, E]`; `T = g g` patches.
///
/// With `x` the patches times the class token, normalized: `logits = (class(x) . text + shift(x)) (elu(scale(x)) + 1)`,
/// `pred_boxes = sigmoid(box(x) + where the patch is)`. `objectness_logits` takes `x` as given: no gradient goes on.
///
/// # Shapes
/// `pixels: [N, S, S, C]`, the ids of `texts` `[N Q, L]`, their rows `[N Q]` (of the largest id), `queries: [N, Q]`: 1
/// for a query, 0 for what fills up.
///
/// # Errors
/// [`crate::error::Error::Shape`] for pictures of another size, and texts that are not `Q` a picture.
///
/// # Source
/// transformers 5.23 (`Owlv2ForObjectDetection`); methods.md §3.5.
pub fn owlv2(
    net: &mut Net<'_>,
    config: &Owlv2,
    pixels: Value,
    texts: &TextInputs,
    queries: Value,
) -> Result<Vec<(&'static str, Value)>> {
    let [n, count] = net.dims(queries)[..] else {
        return Err(net.shape(queries, "queries", "[N, Q]"));
    };
    let image = net.within("vision", |net| {
        let x = vit(net, &config.vision, pixels)?;
        layer_norm(net, "norm", x, config.vision.eps)
    })?;
    let x = patches(net, config, image)?;
    let [pictures, cells, width] = net.token_dims(x)?;
    if pictures != n {
        return Err(net.shape(queries, "queries", format!("[{pictures}, Q]")));
    }
    let embeds = text_encoder(net, &config.text, texts)?.embeds;
    let embeds = embeds.ok_or_else(|| net.shape(texts.ids, "texts", "with the rows to pool"))?;
    let text = unit(net, embeds)?;
    let text = net.rec.view(text, &[n, count, config.text.width])?;
    let (logits, class) = net.within("class_head", |net| class_head(net, config, x, text))?;
    let logits = filled(net, logits, queries)?;
    let boxes = net.within("box_head", |net| head(net, x, width, 4))?;
    let boxes = placed(net, config, boxes)?;
    let fixed = net.rec.detached(x)?;
    let objectness = net.within("objectness_head", |net| head(net, fixed, width, 1))?;
    Ok(vec![
        ("logits", logits),
        ("pred_boxes", boxes),
        ("objectness_logits", net.rec.view(objectness, &[n, cells])?),
        ("text_embeds", text),
        ("image_embeds", net.rec.view(x, &[n * cells, width])?),
        ("class_embeds", class),
    ])
}

/// `layer_norm(patches * class token)`, `[N, T, D]`.
fn patches(net: &mut Net<'_>, config: &Owlv2, image: Value) -> Result<Value> {
    let [n, tokens, d] = net.token_dims(image)?;
    let cells = tokens - 1;
    let rows = net.rec.view(image, &[n, tokens * d])?;
    let class = net.rec.apply(Slice { from: 0, len: d }, &[rows])?;
    let cut = net.rec.apply(Slice { from: d, len: cells * d }, &[rows])?;
    let cut = net.rec.view(cut, &[n, cells, d])?;
    let class = spread(net, class, cells)?;
    let x = net.rec.apply(Multiply, &[cut, class])?;
    layer_norm(net, "layer_norm", x, config.vision.eps)
}

/// `[N, C]` as `[N, rows, C]`.
fn spread(net: &mut Net<'_>, x: Value, rows: usize) -> Result<Value> {
    let (dims, c) = (net.dims(x), net.channels(x));
    let zeros = net.rec.table("zeros", &[dims[0], rows, c], vec![]);
    let zeros = net.rec.compute(zeros)?;
    net.rec.apply(AddChannels, &[zeros, x])
}

/// Every row divided by its length: the row and its negative together have the mean 0.
fn unit(net: &mut Net<'_>, x: Value) -> Result<Value> {
    let width = net.channels(x);
    let scale = vec![1.0 / (width as f32).sqrt(); 2 * width];
    let scale = net.rec.table("scale", &[2 * width], scale);
    let shift = net.rec.table("shift", &[2 * width], vec![]);
    let (scale, shift) = (net.rec.compute(scale)?, net.rec.compute(shift)?);
    let negative = net.affine(x, -1.0, 0.0)?;
    let both = net.rec.apply(Concat, &[x, negative])?;
    let both = net.rec.apply(LayerNorm { eps: TINY }, &[both, scale, shift])?;
    net.rec.apply(Slice { from: 0, len: width }, &[both])
}

/// `logits [N, T, Q]` and `class_embeds [N, T, E]`.
fn class_head(net: &mut Net<'_>, config: &Owlv2, x: Value, text: Value) -> Result<(Value, Value)> {
    let class = linear(net, "dense0", x, config.text.width, Bias::Learned)?;
    let class = unit(net, class)?;
    let queries = net.dims(text)[1];
    let text = net.affine(text, 1.0 / (1.0 + LENGTH), 0.0)?; // they are of length 1
    let likeness = net.rec.apply(BatchedLinear, &[class, text])?;
    let shift = linear(net, "logit_shift", x, 1, Bias::Learned)?;
    let shift = repeated(net, shift, queries)?;
    let scale = linear(net, "logit_scale", x, 1, Bias::Learned)?;
    let scale = net.activate(scale, Kind::Elu)?;
    let scale = net.affine(scale, 1.0, 1.0)?;
    let scale = repeated(net, scale, queries)?;
    let sum = net.add(likeness, shift)?;
    Ok((net.rec.apply(Multiply, &[sum, scale])?, class))
}

/// The logits of queries, and [`FILLED`] for what is none.
fn filled(net: &mut Net<'_>, logits: Value, queries: Value) -> Result<Value> {
    let [_, cells, _] = net.token_dims(logits)?;
    let queries = net.rec.compute(queries)?;
    let keep = spread(net, queries, cells)?;
    let logits = net.rec.apply(Multiply, &[logits, keep])?;
    let floor = net.affine(queries, -FILLED, FILLED)?;
    net.rec.apply(AddChannels, &[logits, floor])
}

/// `dense2(gelu(dense1(gelu(dense0(x)))))`.
fn head(net: &mut Net<'_>, x: Value, width: usize, out: usize) -> Result<Value> {
    let h = linear(net, "dense0", x, width, Bias::Learned)?;
    let h = net.activate(h, Kind::Gelu)?;
    let h = linear(net, "dense1", h, width, Bias::Learned)?;
    let h = net.activate(h, Kind::Gelu)?;
    linear(net, "dense2", h, out, Bias::Learned)
}

/// `sigmoid(x + bias)`, where the bias puts a box of one patch at the lower right corner of its patch.
fn placed(net: &mut Net<'_>, config: &Owlv2, x: Value) -> Result<Value> {
    let [n, cells, _] = net.token_dims(x)?;
    let bias = net.rec.table("places", &[1, cells * 4], places(config.vision.grid[0]));
    let bias = net.rec.compute(bias)?;
    let x = net.rec.view(x, &[1, n, cells * 4])?;
    let x = net.rec.apply(AddChannels, &[x, bias])?;
    // sigmoid(x) = (1 + tanh(x / 2)) / 2
    let x = net.affine(x, 0.5, 0.0)?;
    let x = net.activate(x, Kind::Tanh)?;
    let x = net.affine(x, 0.5, 0.5)?;
    net.rec.view(x, &[n, cells, 4])
}

/// The published bias of `side x side` patches, `(cx, cy, w, h)` each, in f32 as it was computed.
fn places(side: usize) -> Vec<f32> {
    let logit = |c: f32| (c + 1e-4).ln() - (1e-4 - c).ln_1p();
    let corner = |i: usize| logit((i + 1) as f32 / side as f32);
    let size = logit(1.0 / side as f32);
    (0..side * side).flat_map(|i| [corner(i % side), corner(i / side), size, size]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_patch_is_at_the_corner() {
        let table = places(4);
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        assert_eq!(table.len(), 64);
        assert!((sigmoid(table[0]) - 0.25).abs() < 1e-3 && (sigmoid(table[2]) - 0.25).abs() < 1e-3);
        assert!((sigmoid(table[4 * 4 + 1]) - 0.5).abs() < 1e-3, "the second row");
        assert!(table[60] > 9.0 && table[61] > 9.0);
    }
}
