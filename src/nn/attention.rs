//! Multi-head attention with its four projections.

use super::{Bias, Net, linear};
use crate::{error::Result, kernels::attention::Attention, plan::Value};

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
    let y = net.rec.apply(Attention { causal: a.causal, scale }, &[q, k, v])?;
    let y = net.rec.view(y, &[n, queries, width])?;
    linear(net, a.names[3], y, a.out, Bias::Learned)
}
