//! ImageReward: BLIP's picture tower, a BERT that attends to it, and a reward head.

use crate::{
    error::Result,
    kernels::{activation::Kind, embedding::Embedding},
    models::vit::{Vit, first_rows, vit},
    nn::{Attend, Bias, Masked, Net, attention, layer_norm, linear, padded_attention},
    plan::{Value, WeightLayout},
};

/// Mean and deviation of the published rewards.
const MEAN: f64 = 0.167_173_628_300_524_26;
const DEVIATION: f64 = 1.033_339_496_605_407_2;

/// What the published code adds to the score of a padding token.
const PADDING: f32 = -10_000.0;

/// ImageReward's sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct Reward {
    /// The picture tower.
    pub vision: Vit,
    /// Rows of the token table.
    pub vocabulary: usize,
    /// Longest text in tokens.
    pub positions: usize,
    /// Width of a token.
    pub width: usize,
    /// Width inside the feed-forward layers.
    pub inner: usize,
    /// Layers.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
    /// Epsilon of the text tower's normalizations.
    pub eps: f32,
    /// The head's layers: index and output width.
    pub head: Vec<(usize, usize)>,
}

/// What is added to the score of each key, `[N, L, heads]`, for an attention mask `[N, L]` of ones and zeros.
///
/// The attention multiplies it with its scale, the inverse root of the width of a head: this is the published -10000
/// times that root.
pub fn masked_scores(mask: &[i64], reward: &Reward) -> Vec<f32> {
    let root = ((reward.width / reward.heads.max(1)) as f32).sqrt();
    let bias = |m: &i64| (1 - m) as f32 * PADDING * root;
    mask.iter().flat_map(|m| std::iter::repeat_n(bias(m), reward.heads)).collect()
}

impl Reward {
    /// `rewards [N, 1]` and `last_hidden_state [N, L, D]`.
    ///
    /// # Errors
    /// Those of the operations.
    ///
    /// # Source
    /// ImageReward 1.5, `score_gard`, and its BLIP `med.py`; methods.md §3.9.
    pub fn record(
        &self,
        net: &mut Net<'_>,
        pixels: Value,
        ids: Value,
        mask: Value,
    ) -> Result<Vec<(&'static str, Value)>> {
        let image = net.within("visual", |net| {
            let x = vit(net, &self.vision, pixels)?;
            layer_norm(net, "norm", x, self.vision.eps)
        })?;
        let last = net.within("text", |net| self.text(net, ids, mask, image))?;
        let mut x = first_rows(net, last)?;
        for (index, width) in &self.head {
            x = linear(net, &format!("mlp.layers.{index}"), x, *width, Bias::Learned)?;
        }
        let rewards = net.affine(x, (1.0 / DEVIATION) as f32, (-MEAN / DEVIATION) as f32)?;
        Ok(vec![("rewards", rewards), ("last_hidden_state", last)])
    }

    fn text(&self, net: &mut Net<'_>, ids: Value, mask: Value, image: Value) -> Result<Value> {
        let mut x = net.within("embeddings", |net| {
            let dims = [self.vocabulary, self.width];
            let table = net.param("word_embeddings.weight", &dims, WeightLayout::Dense);
            let dims = [self.positions, self.width];
            let positions = net.param("position_embeddings.weight", &dims, WeightLayout::Dense);
            let x = net.rec.apply(Embedding { added: false }, &[ids, table, positions])?;
            layer_norm(net, "LayerNorm", x, self.eps)
        })?;
        let mask = net.rec.compute(mask)?;
        for i in 0..self.layers {
            let name = format!("encoder.layer.{i}");
            x = net.segment(&name, |net| self.layer(net, x, mask, image))?;
        }
        Ok(x)
    }

    /// `x = norm(x + self(x)); x = norm(x + cross(x, image)); x = norm(x + mlp(x))`.
    fn layer(&self, net: &mut Net<'_>, x: Value, mask: Value, image: Value) -> Result<Value> {
        let attend = Attend {
            heads: self.heads,
            head_dim: self.width / self.heads,
            out: self.width,
            names: ["self.query", "self.key", "self.value", "output.dense"],
            bias: Bias::Learned,
            causal: false,
        };
        let padding = Masked { scores: mask, seeing: None };
        let h = net.within("attention", |net| padded_attention(net, x, padding, &attend))?;
        let x = self.closed(net, "attention.output.LayerNorm", x, h)?;
        let h = net.within("crossattention", |net| attention(net, x, image, &attend))?;
        let x = self.closed(net, "crossattention.output.LayerNorm", x, h)?;
        let h = linear(net, "intermediate.dense", x, self.inner, Bias::Learned)?;
        let h = net.activate(h, Kind::Gelu)?;
        let h = linear(net, "output.dense", h, self.width, Bias::Learned)?;
        self.closed(net, "output.LayerNorm", x, h)
    }

    fn closed(&self, net: &mut Net<'_>, name: &str, x: Value, h: Value) -> Result<Value> {
        let sum = net.add(h, x)?;
        layer_norm(net, name, sum, self.eps)
    }
}
