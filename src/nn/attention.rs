//! Multi-head attention with its four projections.

use super::{Bias, Net, linear};
use crate::{
    error::Result,
    kernels::{attention::Attention, concat::Concat, linear::Linear, multiply::Multiply},
    plan::Value,
};

/// Names and shape of one attention module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attend {
    /// Number of heads.
    pub heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Output width.
    pub out: usize,
    /// Parameter names of the query, key, value and output projections.
    pub names: [&'static str; 4],
    /// Bias of the first three projections; the output projection always has one.
    pub bias: Bias,
    /// Whether a token sees only itself and earlier ones.
    pub causal: bool,
}

/// Names of diffusers' attention modules.
pub const DIFFUSERS: [&str; 4] = ["to_q", "to_k", "to_v", "to_out.0"];

/// `out(softmax(q k^T / sqrt(D)) v)`, q from `x`, k and v from `context`.
///
/// # Shapes
/// `x: [N, Lq, C]`, `context: [N, Lk, K]` -> `[N, Lq, out]`; heads lie as `[N, L, H, D]`, a view of `[N, L, H*D]`.
///
/// # Errors
/// Those of the operations.
pub fn attention(net: &mut Net<'_>, x: Value, context: Value, a: &Attend) -> Result<Value> {
    let [n, queries, _] = net.token_dims(x)?;
    let [_, keys, _] = net.token_dims(context)?;
    let width = a.heads * a.head_dim;
    let heads = |net: &mut Net<'_>, name, from, length| {
        let y = linear(net, name, from, width, a.bias)?;
        net.rec.view(y, &[n, length, a.heads, a.head_dim])
    };
    let q = heads(net, a.names[0], x, queries)?;
    let k = heads(net, a.names[1], context, keys)?;
    let v = heads(net, a.names[2], context, keys)?;
    let scale = 1.0 / (a.head_dim as f32).sqrt();
    let products = net.rec.rounding();
    let y = net.rec.apply(Attention { causal: a.causal, scale, products }, &[q, k, v])?;
    let y = net.rec.view(y, &[n, queries, width])?;
    linear(net, a.names[3], y, a.out, Bias::Learned)
}

/// Which tokens nobody looks at.
#[derive(Clone, Copy, Debug)]
pub struct Masked {
    /// What is added to the scores of each key, divided by the scale, `[N, L, heads]`.
    pub scores: Value,
    /// 1 for each query that sees any key, 0 for the others, whose answer is 0: `[N, L, 1]`; `None` when all do.
    pub seeing: Option<Value>,
}

/// Self-attention with a bias on each key: a channel more in every head, 1 in the query and the bias in the key.
/// The values carry a 0 there, which a product with the cut identity takes off again.
///
/// # Shapes
/// `x: [N, L, C]` -> `[N, L, out]`.
///
/// # Errors
/// Those of the operations.
pub fn padded_attention(net: &mut Net<'_>, x: Value, padding: Masked, a: &Attend) -> Result<Value> {
    let [n, length, _] = net.token_dims(x)?;
    let (heads, d) = (a.heads, a.head_dim);
    let one = [n, length, heads, 1];
    let table = |net: &mut Net<'_>, value: f32| {
        let table = net.rec.table("channel", &one, vec![value; n * length * heads]);
        net.rec.compute(table)
    };
    let (ones, zeros) = (table(net, 1.0)?, table(net, 0.0)?);
    let head = |net: &mut Net<'_>, name, channel| {
        let y = linear(net, name, x, heads * d, a.bias)?;
        let y = net.rec.view(y, &[n, length, heads, d])?;
        net.rec.apply(Concat, &[y, channel])
    };
    let q = head(net, a.names[0], ones)?;
    let scores = net.rec.view(padding.scores, &one)?;
    let k = head(net, a.names[1], scores)?;
    let v = head(net, a.names[2], zeros)?;
    let scale = 1.0 / (d as f32).sqrt();
    let products = net.rec.rounding();
    let y = net.rec.apply(Attention { causal: a.causal, scale, products }, &[q, k, v])?;
    let cut = (0..d * (d + 1)).map(|i| if i % (d + 2) == 0 { 1.0 } else { 0.0 });
    let cut = net.rec.table("cut", &[d, d + 1], cut.collect());
    let cut = net.rec.compute(cut)?;
    let y = net.rec.apply(Linear { bias: false }, &[y, cut])?;
    let mut y = net.rec.view(y, &[n, length, heads * d])?;
    if let Some(seeing) = padding.seeing {
        let wide = repeated(net, seeing, heads * d)?;
        y = net.rec.apply(Multiply, &[y, wide])?;
    }
    linear(net, a.names[3], y, a.out, Bias::Learned)
}

/// `[.., 1]` as `[.., width]`, every number `width` times.
///
/// # Errors
/// Those of the product.
pub fn repeated(net: &mut Net<'_>, x: Value, width: usize) -> Result<Value> {
    let ones = net.rec.table("ones", &[width, 1], vec![1.0; width]);
    let ones = net.rec.compute(ones)?;
    net.rec.apply(Linear { bias: false }, &[x, ones])
}
