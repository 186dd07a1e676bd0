//! Dual-level decoupling: what a photo shows beside its subject, and how it is fused with the text.
//!
//! Two features of a photo say what is not its subject: the explicit one is the image encoder's feature of the photo without
//! the subject, the implicit one is what a learned adapter leaves of the feature of the whole photo. One of them is added to
//! the text, and a mixture of experts makes the U-Net's conditioning of the sum.

use crate::{
    error::{Error, Result},
    kernels::{
        activation::Kind,
        add::AddChannels,
        multiply::{Multiply, MultiplyChannels},
    },
    nn::{Bias, Mixture, Net, Routing, Way, linear, mixture},
    plan::{Value, WeightLayout},
};
use serde::{Deserialize, Serialize};

/// Where the names of all its parameters start.
pub const PREFIX: &str = "decoupling";

/// Which feature is added to the text (methods.md §2.2 leaves it open).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The photo without its subject.
    #[default]
    Explicit,
    /// What the adapter leaves of the whole photo.
    Implicit,
    /// The mean of both.
    Mean,
}

/// The mixture of experts that fuses text and background.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fusion {
    /// Experts.
    pub experts: usize,
    /// Experts that count for a token.
    pub top_k: usize,
    /// Width between an expert's two layers.
    pub hidden: usize,
    /// What chooses the experts.
    pub routing: Routing,
}

/// Sizes and switches: everything a file must say to be used alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decoupling {
    /// Width of the image encoder's features.
    pub features: usize,
    /// Width of the text, the U-Net's `cross_attention_dim`.
    pub width: usize,
    /// Which feature is added to the text.
    pub source: Source,
    /// Whether the adapter of the implicit branch is there.
    pub adapter: bool,
    /// The fusion; without it the sum itself conditions the U-Net.
    pub fusion: Option<Fusion>,
}

/// A recorded conditioning.
#[derive(Clone, Copy, Debug)]
pub struct Fused {
    /// What conditions the U-Net `[N, L, d]`.
    pub context: Value,
    /// The router's logits `[N, L, E]`, with a fusion.
    pub logits: Option<Value>,
}

impl Decoupling {
    /// The explicit branch: an image feature `[N, F]` in the text's width, as it is or by `decoupling.projection`.
    ///
    /// # Errors
    /// Those of the operations.
    pub fn explicit(&self, net: &mut Net<'_>, feature: Value) -> Result<Value> {
        let feature = net.rec.compute(feature)?;
        if self.features == self.width {
            return Ok(feature);
        }
        net.within(PREFIX, |net| linear(net, "projection", feature, self.width, Bias::None))
    }

    /// The implicit branch: `z = sigmoid(mask) f`, `f_i = z + W2 relu(W1 z + b1) + b2` (DisenBooth's adapter), `f` the
    /// feature in the text's width.
    ///
    /// Parameters `decoupling.adapter.mask` `[d]`, `.fc1` and `.fc2` `{weight, bias}`.
    ///
    /// # Errors
    /// Those of the operations.
    pub fn implicit(&self, net: &mut Net<'_>, feature: Value) -> Result<Value> {
        let feature = self.explicit(net, feature)?;
        let d = self.width;
        net.within(PREFIX, |net| {
            net.within("adapter", |net| {
                let mask = net.param("mask", &[d], WeightLayout::Dense);
                let mask = net.activate(mask, Kind::Sigmoid)?;
                let z = net.rec.apply(MultiplyChannels, &[feature, mask])?;
                let h = linear(net, "fc1", z, d, Bias::Learned)?;
                let h = net.activate(h, Kind::Relu)?;
                let h = linear(net, "fc2", h, d, Bias::Learned)?;
                net.add(z, h)
            })
        })
    }

    /// The feature that is added to the text, of those the [`Source`] asks for.
    ///
    /// # Errors
    /// [`Error::Plan`] where one of them was not recorded; those of the operations.
    pub fn beside(
        &self,
        net: &mut Net<'_>,
        implicit: Option<Value>,
        explicit: Option<Value>,
    ) -> Result<Value> {
        let of = |v: Option<Value>, what: &str| {
            let problem = format!("the {what} branch is not there");
            v.ok_or_else(|| Error::Plan { at: PREFIX.into(), problem })
        };
        match self.source {
            Source::Explicit => of(explicit, "explicit"),
            Source::Implicit => of(implicit, "implicit"),
            Source::Mean => {
                let sum = net.add(of(implicit, "implicit")?, of(explicit, "explicit")?)?;
                net.affine(sum, 0.5, 0.0)
            }
        }
    }

    /// `f_com = text + keep beside` and `f_r = f_com + sum_j R(f_com)_j Expert_j(f_com)`: text `[N, L, d]`, `beside` and
    /// `keep` `[N, d]`, without `beside` the text alone.
    ///
    /// Parameters `decoupling.fusion.*` as [`mixture`] has them; `fc2` starts at 0, so `f_r = f_com`. A backward pass computes
    /// the experts again: what they keep would be `E (d + 2 hidden + d)` numbers a token for as long as the U-Net runs.
    ///
    /// # Errors
    /// Those of the operations.
    pub fn fuse(
        &self,
        net: &mut Net<'_>,
        text: Value,
        beside: Option<(Value, Option<Value>)>,
    ) -> Result<Fused> {
        net.recomputed(PREFIX, |net| {
            let mut common = net.rec.compute(text)?;
            if let Some((feature, keep)) = beside {
                let feature = match keep {
                    Some(keep) => {
                        let keep = net.rec.compute(keep)?;
                        net.rec.apply(Multiply, &[feature, keep])?
                    }
                    None => feature,
                };
                common = net.rec.apply(AddChannels, &[common, feature])?;
            }
            let Some(f) = self.fusion else { return Ok(Fused { context: common, logits: None }) };
            let m = Mixture {
                experts: f.experts,
                top_k: f.top_k,
                hidden: f.hidden,
                routing: f.routing,
                way: Way::Auto,
            };
            let mixed = mixture(net, "fusion", common, m)?;
            Ok(Fused { context: mixed.out, logits: Some(mixed.logits) })
        })
    }
}
