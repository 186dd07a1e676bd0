//! A mixture of experts: the feature fusion of dual-level decoupling.

use super::{Bias, Net, linear};
use crate::{
    error::Result,
    kernels::{
        activation::Kind,
        add::AddChannels,
        affine::Affine,
        cosine::MeanTokens,
        moe::{Combine, Experts, Permute, Route},
    },
    plan::{Value, WeightLayout},
};
use serde::{Deserialize, Serialize};

/// How tokens reach their experts; the result is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// Dense up to 8 experts.
    #[default]
    Auto,
    /// Every expert computes every token; those not chosen weigh 0.
    Dense,
    /// An expert computes the tokens that chose it.
    Routed,
}

/// What chooses a token's experts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Routing {
    /// The token itself.
    #[default]
    Token,
    /// The mean of all tokens of its sequence: one choice for all of them.
    Sequence,
}

/// Experts of a mixture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mixture {
    /// How many there are.
    pub experts: usize,
    /// How many count for a token; all of them in the published fusion.
    pub top_k: usize,
    /// Width between an expert's two layers.
    pub hidden: usize,
    /// What chooses them.
    pub routing: Routing,
    /// How tokens reach them.
    pub way: Way,
}

/// A recorded mixture.
#[derive(Clone, Copy, Debug)]
pub struct Mixed {
    /// Tokens `[N, L, d]`.
    pub out: Value,
    /// The router's logits `[N, L, E]`.
    pub logits: Value,
}

/// Most experts that are computed densely by default.
const FEW: usize = 8;

impl Mixture {
    /// Experts that compute a token.
    fn slots(&self) -> usize {
        let dense = match self.way {
            Way::Auto => self.experts <= FEW,
            Way::Dense => true,
            Way::Routed => false,
        };
        if dense { self.experts } else { self.top_k }
    }
}

/// `y = x + sum_j w_j (W2_j gelu(W1_j x + b1_j) + b2_j)` on the last axis, `w` the softmax of the `top_k` greatest of
/// the router's logits (of the token, or of the mean of its sequence: [`Routing`]).
///
/// Parameters `name.router.{weight, bias}` `[E, d]`, `[E]`; `name.experts.fc1.{weight, bias}` `[E, hidden, d]`,
/// `[E, hidden]`; `name.experts.fc2.{weight, bias}` `[E, d, hidden]`, `[E, d]`. With `fc2` zero, as it starts, `y = x`.
///
/// # Errors
/// Those of the operations.
pub fn mixture(net: &mut Net<'_>, name: &str, x: Value, m: Mixture) -> Result<Mixed> {
    net.within(name, |net| {
        let (d, experts, slots) = (net.channels(x), m.experts, m.slots());
        let mut logits = linear(net, "router", x, experts, Bias::Learned)?;
        if m.routing == Routing::Sequence {
            // a router is linear: its mean is the router of the mean
            let mean = net.rec.apply(MeanTokens, &[logits])?;
            let zeros = net.rec.apply(Affine { scale: 0.0, shift: 0.0 }, &[logits])?;
            logits = net.rec.apply(AddChannels, &[zeros, mean])?;
        }
        let table = net.rec.apply(Route { slots }, &[logits])?;
        let rows = net.rec.apply(Permute { experts, slots }, &[x, table])?;
        let y = net.within("experts", |net| {
            let h = layer(net, "fc1", rows, table, [experts, m.hidden, d])?;
            let h = net.activate(h, Kind::Gelu)?;
            layer(net, "fc2", h, table, [experts, d, m.hidden])
        })?;
        let y = net.rec.apply(Combine { top_k: m.top_k }, &[y, table, logits])?;
        Ok(Mixed { out: net.add(x, y)?, logits })
    })
}

/// One layer of all experts, `dims` `[experts, out, in]`.
fn layer(
    net: &mut Net<'_>,
    name: &str,
    rows: Value,
    table: Value,
    dims: [usize; 3],
) -> Result<Value> {
    net.within(name, |net| {
        let w = net.param("weight", &dims, WeightLayout::Dense);
        let b = net.param("bias", &dims[..2], WeightLayout::Dense);
        net.rec.apply(Experts, &[rows, table, w, b])
    })
}
