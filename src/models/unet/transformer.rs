//! The transformers between the residual blocks.

use super::Cross;
use crate::{
    error::Result,
    kernels::geglu::Geglu,
    nn::{After, Attend, Bias, DIFFUSERS, Net, attention, conv1x1, group_norm, layer_norm, linear},
    plan::Value,
};

/// Epsilon of the normalization at the entry of a transformer.
const ENTRY_EPS: f32 = 1e-6;
/// Epsilon of the normalizations inside.
const TOKEN_EPS: f32 = 1e-5;

/// What the transformers of one U-Net share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shared {
    /// The text tokens `[N, L, C]`.
    pub context: Value,
    /// Groups of the entry normalization.
    pub groups: usize,
    /// Linear projections instead of 1x1 convolutions.
    pub linear: bool,
}

/// `x + proj_out(blocks(proj_in(norm(x))))`, a picture seen as tokens.
///
/// # Shapes
/// `x: [N, H, W, C]` -> the same; inside `[N, H*W, heads * (C / heads)]`.
pub(super) fn transformer(
    net: &mut Net<'_>,
    name: &str,
    x: Value,
    (cross, depth): (&Cross, usize),
    shared: Shared,
) -> Result<Value> {
    net.within(name, |net| {
        let [n, h, w, c] = net.image_dims(x)?;
        let head_dim = c / cross.heads;
        let inner = cross.heads * head_dim;
        let project = |net: &mut Net<'_>, name, x, out| match shared.linear {
            true => linear(net, name, x, out, Bias::Learned),
            false => conv1x1(net, name, x, out),
        };
        let y = group_norm(net, "norm", x, (shared.groups, ENTRY_EPS), After::Nothing)?;
        let y = project(net, "proj_in", y, inner)?;
        let mut y = net.rec.view(y, &[n, h * w, inner])?;
        for i in 0..depth {
            y = net.segment(&format!("transformer_blocks.{i}"), |net| {
                block(net, y, shared.context, (cross.heads, head_dim), cross.only_cross)
            })?;
        }
        let y = net.rec.view(y, &[n, h, w, inner])?;
        let y = project(net, "proj_out", y, c)?;
        net.add(y, x)
    })
}

/// `x += attn1(norm1 x); x += attn2(norm2 x, text); x += ff(norm3 x)`.
fn block(
    net: &mut Net<'_>,
    x: Value,
    context: Value,
    (heads, head_dim): (usize, usize),
    only_cross: bool,
) -> Result<Value> {
    let out = heads * head_dim;
    let attend = Attend { heads, head_dim, out, names: DIFFUSERS, bias: Bias::None, causal: false };
    let h = layer_norm(net, "norm1", x, TOKEN_EPS)?;
    let seen = if only_cross { context } else { h };
    let h = net.within("attn1", |net| attention(net, h, seen, &attend))?;
    let x = net.add(x, h)?;
    let h = layer_norm(net, "norm2", x, TOKEN_EPS)?;
    let h = net.within("attn2", |net| attention(net, h, context, &attend))?;
    let x = net.add(x, h)?;
    let h = layer_norm(net, "norm3", x, TOKEN_EPS)?;
    let h = linear(net, "ff.net.0.proj", h, 8 * out, Bias::Learned)?;
    let h = net.rec.apply(Geglu, &[h])?;
    let h = linear(net, "ff.net.2", h, out, Bias::Learned)?;
    net.add(x, h)
}
