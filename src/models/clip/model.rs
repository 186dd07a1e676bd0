//! The text encoder as a straight line.

use super::TextConfig;
use crate::{
    error::Result,
    kernels::embedding::{Embedding, GatherRows},
    nn::{Attend, Bias, Masked, Net, attention, layer_norm, linear, padded_attention},
    plan::{Value, WeightLayout},
};

/// What a text encoder is called with.
#[derive(Clone, Copy, Debug)]
pub struct TextInputs {
    /// Token ids `[N, L]`, i32.
    pub ids: Value,
    /// Row of the end of each text `[N]`, i32 (see [`super::eos_rows`]); `None` when nothing is pooled.
    pub rows: Option<Value>,
    /// Rows of learned words `[A, C]`: ids from the vocabulary's size on (see [`Embedding`]).
    pub learned: Option<Value>,
    /// Tokens that no other looks at; `None`: padding tokens are tokens, as in CLIP.
    pub padding: Option<Masked>,
}

/// What a text encoder gives.
#[derive(Clone, Copy, Debug)]
pub struct TextOutputs {
    /// Output of the last layer after the final normalization `[N, L, C]`.
    pub last: Value,
    /// Input of the last layer, without the final normalization `[N, L, C]`.
    pub penultimate: Value,
    /// `last` at the end of each text `[N, C]`.
    pub pooled: Option<Value>,
    /// `pooled`, projected `[N, P]`, for a model with projection.
    pub embeds: Option<Value>,
}

/// Encodes texts; parameters are named `text_model...` and `text_projection` below the current module.
///
/// Causal attention; the scores of [`Masked`] are those of [`super::padding_scores`].
///
/// # Errors
/// [`crate::error::Error::Shape`] for texts longer than the position table.
///
/// # Source
/// transformers 5.23, `CLIPTextModel`.
pub fn text_encoder(
    net: &mut Net<'_>,
    config: &TextConfig,
    inputs: &TextInputs,
) -> Result<TextOutputs> {
    let (penultimate, last) = net.within("text_model", |net| {
        let mut x = net.within("embeddings", |net| {
            let dims = [config.vocabulary, config.width];
            let table = net.param("token_embedding.weight", &dims, WeightLayout::Dense);
            let dims = [config.positions, config.width];
            let positions = net.param("position_embedding.weight", &dims, WeightLayout::Dense);
            let ins: Vec<Value> =
                [inputs.ids, table, positions].into_iter().chain(inputs.learned).collect();
            net.rec.apply(Embedding { added: inputs.learned.is_some() }, &ins)
        })?;
        let mut before = x;
        for i in 0..config.layers {
            before = x;
            x = net.segment(&format!("encoder.layers.{i}"), |net| {
                layer(net, config, x, inputs.padding)
            })?;
        }
        Ok((before, layer_norm(net, "final_layer_norm", x, config.eps)?))
    })?;
    let pooled = match inputs.rows {
        Some(rows) => Some(net.rec.apply(GatherRows, &[last, rows])?),
        None => None,
    };
    let embeds = match (pooled, config.projection) {
        (Some(x), Some(width)) => Some(linear(net, "text_projection", x, width, Bias::None)?),
        _ => None,
    };
    Ok(TextOutputs { last, penultimate, pooled, embeds })
}

/// `x += attn(norm1 x); x += fc2(act(fc1(norm2 x)))`.
fn layer(
    net: &mut Net<'_>,
    config: &TextConfig,
    x: Value,
    padding: Option<Masked>,
) -> Result<Value> {
    let attend = Attend {
        heads: config.heads,
        head_dim: config.width / config.heads,
        out: config.width,
        names: ["q_proj", "k_proj", "v_proj", "out_proj"],
        bias: Bias::Learned,
        causal: true,
    };
    let h = layer_norm(net, "layer_norm1", x, config.eps)?;
    let h = net.within("self_attn", |net| match padding {
        Some(padding) => padded_attention(net, h, padding, &attend),
        None => attention(net, h, h, &attend),
    })?;
    let x = net.add(x, h)?;
    let h = layer_norm(net, "layer_norm2", x, config.eps)?;
    let h = linear(net, "mlp.fc1", h, config.inner, Bias::Learned)?;
    let h = net.activate(h, config.activation)?;
    let h = linear(net, "mlp.fc2", h, config.width, Bias::Learned)?;
    net.add(x, h)
}
