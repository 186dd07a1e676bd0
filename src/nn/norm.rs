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
    group_norm_of(net, name, &[x], (groups, eps), after)
}

/// [`group_norm`] of one value, or of two whose channels stand side by side.
///
/// # Errors
/// Those of the operation.
pub fn group_norm_of(
    net: &mut Net<'_>,
    name: &str,
    x: &[Value],
    (groups, eps): (usize, f32),
    after: After,
) -> Result<Value> {
    net.within(name, |net| {
        let c = x.iter().map(|x| net.channels(*x)).sum();
        let [gamma, beta] = scale_and_shift(net, c);
        let op = GroupNorm { groups, eps, silu: after == After::Silu, concat: x.len() == 2 };
        net.rec.apply(op, &[x, &[gamma, beta]].concat())
    })
}

/// Layer normalization over the last axis.
///
/// # Errors
/// Those of the operation.
pub fn layer_norm(net: &mut Net<'_>, name: &str, x: Value, eps: f32) -> Result<Value> {
    net.within(name, |net| {
        let [gamma, beta] = scale_and_shift(net, net.channels(x));
        net.rec.apply(LayerNorm { eps }, &[x, gamma, beta])
    })
}

fn scale_and_shift(net: &mut Net<'_>, c: usize) -> [Value; 2] {
    [net.param("weight", &[c], WeightLayout::Dense), net.param("bias", &[c], WeightLayout::Dense)]
}
