//! Normalizations with learned scale and shift.

use super::Net;
use crate::{
    error::Result,
    kernels::{group_norm::GroupNorm, layer_norm::LayerNorm},
    plan::{Value, WeightLayout},
};

/// What follows a normalization in the same pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing.
    Nothing,
    /// SiLU.
    Silu,
}

/// Group normalization over the last axis of `[N, .., C]`.
///
/// # Errors
/// Those of the operation: `groups` must divide C.
pub fn group_norm(
    net: &mut Net<'_>,
    name: &str,
    x: Value,
    (groups, eps): (usize, f32),
    after: After,
) -> Result<Value> {
    net.within(name, |net| {
        let [gamma, beta] = scale_and_shift(net, x);
        let op = GroupNorm { groups, eps, silu: after == After::Silu };
        net.rec.apply(op, &[x, gamma, beta])
    })
}

/// Layer normalization over the last axis.
///
/// # Errors
/// Those of the operation.
pub fn layer_norm(net: &mut Net<'_>, name: &str, x: Value, eps: f32) -> Result<Value> {
    net.within(name, |net| {
        let [gamma, beta] = scale_and_shift(net, x);
        net.rec.apply(LayerNorm { eps }, &[x, gamma, beta])
    })
}

fn scale_and_shift(net: &mut Net<'_>, x: Value) -> [Value; 2] {
    let c = net.channels(x);
    [net.param("weight", &[c], WeightLayout::Dense), net.param("bias", &[c], WeightLayout::Dense)]
}
