//! Sizes of a tower: from its checkpoint, or from transformers' configuration alone.

use super::{Reward, Tower};
use crate::{
    error::{Error, Result},
    kernels::activation::Kind,
    models::{
        checkpoint::{Checkpoint, Component},
        clip::TextConfig,
        config::Keys,
        owlv2::Owlv2,
        vit::{Original, Positions, Vit},
    },
};
use serde_json::Value as Json;

/// DINO's and DINOv2's own code.
const DINO: Original = Original {
    patch_bias: true,
    clip: false,
    head_width: 64,
    activation: Kind::Gelu,
    eps: 1e-6,
    positions: Positions::Factor { antialias: false },
};

/// Layers of ImageReward's head; between them are dropouts.
const HEAD: [usize; 5] = [0, 2, 4, 6, 7];

/// DreamSim's CLIP branches, in DINO's layout.
const CLIP_AS_DINO: Original = Original { clip: true, eps: 1e-5, ..DINO };

impl Tower {
    /// The tower that `checkpoint` holds.
    ///
    /// # Errors
    /// [`Error::Config`] for a configuration that is not supported; [`Error::Weights`] naming a parameter without
    /// which the sizes are not known.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let (component, config) = (checkpoint.component(), checkpoint.config());
        let shapes = |name: &str| dims(checkpoint, name);
        if config.get("original").is_none() {
            let mut tower = Self::of_config(component, config)?;
            match &mut tower {
                Tower::ClipImage(v) => v.projection = first(shapes("proj.weight")).or(v.projection),
                Tower::ClipText(t) => {
                    t.projection = first(shapes("text_projection.weight")).or(t.projection);
                }
                Tower::Dinov2(v) | Tower::Dino(v) => {
                    v.pooler = first(shapes("pooler.dense.weight")); // published with and without
                }
                _ => {}
            }
            return Ok(tower);
        }
        let vit = |prefix: &str, original: &Original| {
            let of = |name: &str| dims(checkpoint, &format!("{prefix}{name}"));
            Vit::of_shapes(&of, original)
                .map_err(|name| bad(checkpoint, &format!("{prefix}{name}")))
        };
        match component {
            Component::ClipImage => {
                let quick = config["quick_gelu"].as_bool().unwrap_or(true);
                let head = config["head_width"].as_u64().and_then(|n| usize::try_from(n).ok());
                let original = Original {
                    patch_bias: false,
                    head_width: head.unwrap_or(64),
                    activation: if quick { Kind::QuickGelu } else { Kind::Gelu },
                    positions: Positions::Fixed,
                    ..CLIP_AS_DINO
                };
                Ok(Tower::ClipImage(vit("", &original)?))
            }
            Component::Dinov2 => Ok(Tower::Dinov2(vit("", &DINO)?)),
            Component::DreamSim => Ok(Tower::DreamSim(Box::new([
                vit("branches.0.", &DINO)?,
                vit("branches.1.", &Original { activation: Kind::QuickGelu, ..CLIP_AS_DINO })?,
                vit("branches.2.", &CLIP_AS_DINO)?,
            ]))),
            Component::ImageReward => {
                let vision = vit("visual.", &Original { positions: Positions::Fixed, ..DINO })?;
                Ok(Tower::ImageReward(Box::new(reward(checkpoint, &config["text"], vision)?)))
            }
            _ => Ok(Tower::Dino(vit("", &DINO)?)),
        }
    }

    /// The tower of transformers' configuration, without weights.
    ///
    /// # Errors
    /// [`Error::Config`] for a configuration that is not supported.
    pub fn of_config(component: Component, config: &Json) -> Result<Self> {
        Ok(match component {
            Component::ClipImage => Tower::ClipImage(Vit::from_json(config)?),
            Component::ClipText => {
                let mut text = TextConfig::from_json(config)?;
                let common = config["projection_dim"].as_u64();
                if let (Some(_), Some(width)) = (text.projection, common) {
                    text.projection = usize::try_from(width).ok();
                }
                Tower::ClipText(text)
            }
            Component::Dinov2 => Tower::Dinov2(Vit::from_json(config)?),
            Component::Dino => Tower::Dino(Vit::from_json(config)?),
            Component::Owlv2 => Tower::Owlv2(Box::new(Owlv2::from_json(config)?)),
            other => {
                return Err(Error::Config {
                    key: "--model".into(),
                    found: format!("{} without its weights", other.name()),
                    expected: "the folder with its files: its sizes are told by the shapes".into(),
                    fix: "name the folder".into(),
                });
            }
        })
    }
}

fn dims(checkpoint: &Checkpoint, name: &str) -> Option<Vec<usize>> {
    checkpoint.shapes().find(|(n, _)| *n == name).map(|(_, dims)| dims.to_vec())
}

fn first(dims: Option<Vec<usize>>) -> Option<usize> {
    dims.and_then(|d| d.first().copied())
}

/// A parameter that tells sizes is not there, or has extents of no such model.
fn bad(checkpoint: &Checkpoint, name: &str) -> Error {
    let published = checkpoint.published_name(name);
    let (mut missing, mut misshaped) = (vec![], vec![]);
    match dims(checkpoint, name) {
        None => missing.push(published),
        Some(found) => misshaped.push(format!("{published}: found {found:?}, of no such model")),
    }
    Error::Weights { source_name: checkpoint.source().into(), missing, unknown: vec![], misshaped }
}

fn reward(checkpoint: &Checkpoint, config: &Json, vision: Vit) -> Result<Reward> {
    let mut k = Keys::new("med_config.json", config)?;
    let axis = |name: &str, axis: usize| {
        let found = dims(checkpoint, name).and_then(|d| d.get(axis).copied());
        found.ok_or_else(|| bad(checkpoint, name))
    };
    let layer = |i: usize| Ok((i, axis(&format!("mlp.layers.{i}.weight"), 0)?));
    let head = HEAD.map(layer).into_iter().collect::<Result<_>>()?;
    k.name("hidden_act", &["gelu"])?;
    let reward = Reward {
        vision,
        vocabulary: axis("text.embeddings.word_embeddings.weight", 0)?,
        positions: axis("text.embeddings.position_embeddings.weight", 0)?,
        width: k.positive("hidden_size", 768)?,
        inner: axis("text.encoder.layer.0.intermediate.dense.weight", 0)?,
        layers: k.number("num_hidden_layers", 12)?,
        heads: k.positive("num_attention_heads", 12)?,
        eps: k.real("layer_norm_eps", 1e-12)?,
        head,
    };
    if !reward.width.is_multiple_of(reward.heads) || reward.layers > 1024 {
        return Err(k.wrong("num_attention_heads", format!("a divisor of {}", reward.width)));
    }
    Ok(reward)
}
