//! The towers that judge pictures: what a checkpoint holds, recorded with the inputs and outputs of the published
//! implementations.

mod dreamsim;
mod imagereward;
mod network;
mod open;
mod pictures;

pub use imagereward::{Reward, masked_scores};
pub use network::{Feed, Network, PictureTower, image_width};
pub use pictures::Preparation;

use super::{
    clip::{TextConfig, TextInputs, text_encoder},
    owlv2::{Owlv2, owlv2},
    vit::{Vit, first_rows, vit},
};
use crate::{
    error::{Error, Result},
    kernels::activation::Kind,
    nn::{Bias, Masked, Net, layer_norm, linear},
    plan::Value,
};

/// One tower with its sizes.
#[derive(Clone, Debug, PartialEq)]
pub enum Tower {
    /// CLIP's image tower.
    ClipImage(Vit),
    /// CLIP's text tower.
    ClipText(TextConfig),
    /// DINOv2, whose pooled output is the normalized class token.
    Dinov2(Vit),
    /// DINO, pooled where the checkpoint has a pooler.
    Dino(Vit),
    /// DreamSim's ensemble: DINO, CLIP, open_clip.
    DreamSim(Box<[Vit; 3]>),
    /// ImageReward.
    ImageReward(Box<Reward>),
    /// OWLv2, which finds what texts name.
    Owlv2(Box<Owlv2>),
}

/// What a tower is called with; those it has no use for stay empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct TowerInputs {
    /// Pictures `[N, H, W, C]`.
    pub pixels: Option<Value>,
    /// Token ids `[N, L]`, i32.
    pub ids: Option<Value>,
    /// Row of the end of each text `[N]`, i32.
    pub rows: Option<Value>,
    /// What is added to the scores of each key, as [`masked_scores`] makes it, `[N, L, heads]`.
    pub mask: Option<Value>,
    /// Padding of texts that are encoded causally.
    pub padding: Option<Masked>,
    /// 1 for each query of each picture, 0 for what fills up, `[N, Q]`.
    pub queries: Option<Value>,
}

impl Tower {
    /// Whether it looks at pictures, and whether it reads texts.
    pub fn takes(&self) -> (bool, bool) {
        match self {
            Tower::ClipText(_) => (false, true),
            Tower::ImageReward(_) | Tower::Owlv2(_) => (true, true),
            _ => (true, false),
        }
    }

    /// Side of the pictures it was made for, pixels.
    pub fn side(&self) -> [usize; 2] {
        match self {
            Tower::ClipText(_) => [0; 2],
            Tower::ClipImage(v) | Tower::Dinov2(v) | Tower::Dino(v) => v.grid.map(|n| n * v.patch),
            Tower::DreamSim(all) => all[0].grid.map(|n| n * all[0].patch),
            Tower::ImageReward(r) => r.vision.grid.map(|n| n * r.vision.patch),
            Tower::Owlv2(o) => o.vision.grid.map(|n| n * o.vision.patch),
        }
    }

    /// Channels of the pictures it looks at.
    pub fn channels(&self) -> Option<usize> {
        match self {
            Tower::ClipText(_) => None,
            Tower::ClipImage(v) | Tower::Dinov2(v) | Tower::Dino(v) => Some(v.channels),
            Tower::DreamSim(all) => Some(all[0].channels),
            Tower::ImageReward(r) => Some(r.vision.channels),
            Tower::Owlv2(o) => Some(o.vision.channels),
        }
    }

    /// Records it; gives the outputs by the names of the published implementations.
    ///
    /// # Errors
    /// [`Error::Plan`] when an input it needs is not given; those of the recording.
    pub fn record(
        &self,
        net: &mut Net<'_>,
        inputs: &TowerInputs,
    ) -> Result<Vec<(&'static str, Value)>> {
        let given = |v: Option<Value>, what: &str| {
            let problem = format!("the tower needs {what}");
            v.ok_or(Error::Plan { at: "inputs".into(), problem })
        };
        match self {
            Tower::ClipImage(config) => clip_image(net, config, given(inputs.pixels, "pictures")?),
            Tower::ClipText(config) => {
                let ids = given(inputs.ids, "token ids")?;
                let given = TextInputs { ids, rows: inputs.rows, learned: None, padding: None };
                let out = text_encoder(net, config, &given)?;
                let embeds = out.embeds.map(|v| ("text_embeds", v));
                Ok([("last_hidden_state", out.last)].into_iter().chain(embeds).collect())
            }
            Tower::Dinov2(config) => dino(net, config, given(inputs.pixels, "pictures")?, true),
            Tower::Dino(config) => dino(net, config, given(inputs.pixels, "pictures")?, false),
            Tower::DreamSim(all) => dreamsim::record(net, all, given(inputs.pixels, "pictures")?),
            Tower::ImageReward(reward) => {
                let (pixels, ids) = (given(inputs.pixels, "pictures")?, given(inputs.ids, "ids")?);
                reward.record(net, pixels, ids, given(inputs.mask, "a mask")?)
            }
            Tower::Owlv2(config) => {
                let (ids, rows) = (given(inputs.ids, "ids")?, Some(given(inputs.rows, "rows")?));
                let texts = TextInputs { ids, rows, learned: None, padding: inputs.padding };
                let queries = given(inputs.queries, "queries")?;
                owlv2(net, config, given(inputs.pixels, "pictures")?, &texts, queries)
            }
        }
    }
}

/// `image_embeds [N, E] = proj(norm(cls))`, `last_hidden_state [N, 1 + T, D]` before the normalization.
fn clip_image(
    net: &mut Net<'_>,
    config: &Vit,
    pixels: Value,
) -> Result<Vec<(&'static str, Value)>> {
    let last = vit(net, config, pixels)?;
    let class = first_rows(net, last)?;
    let pooled = layer_norm(net, "norm", class, config.eps)?;
    Ok(vec![
        ("last_hidden_state", last),
        match config.projection {
            Some(width) => ("image_embeds", linear(net, "proj", pooled, width, Bias::None)?),
            None => ("pooler_output", pooled),
        },
    ])
}

/// `last_hidden_state [N, 1 + T, D]` after the normalization; `pooler_output`: `tanh(pooler(cls))` where there is a
/// pooler, else `cls` if `always`.
fn dino(
    net: &mut Net<'_>,
    config: &Vit,
    pixels: Value,
    always: bool,
) -> Result<Vec<(&'static str, Value)>> {
    let x = vit(net, config, pixels)?;
    let last = layer_norm(net, "norm", x, config.eps)?;
    let mut outputs = vec![("last_hidden_state", last)];
    if let Some(width) = config.pooler {
        let class = first_rows(net, last)?;
        let pooled = linear(net, "pooler.dense", class, width, Bias::Learned)?;
        outputs.push(("pooler_output", net.activate(pooled, Kind::Tanh)?));
    } else if always {
        outputs.push(("pooler_output", first_rows(net, last)?));
    }
    Ok(outputs)
}
