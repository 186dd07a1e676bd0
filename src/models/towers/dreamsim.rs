//! DreamSim's ensemble of three vision transformers.

use super::pictures::{CLIP, IMAGENET};
use crate::{
    error::Result,
    kernels::{concat::Concat, layer_norm::LayerNorm, linear::Linear},
    models::vit::{Vit, first_rows, vit},
    nn::{Bias, Net, layer_norm, linear},
    plan::Value,
};

/// Below every variance of an embedding.
const TINY: f32 = 1e-12;

/// `embed [N, E1 + E2 + E3]`: the class tokens of DINO (before its last normalization), CLIP and open_clip (normalized
/// and projected), joined, centred on their mean and of length 1.
///
/// # Source
/// dreamsim 0.2, `PerceptualModel.embed`; methods.md §3.8.
pub fn record(
    net: &mut Net<'_>,
    all: &[Vit; 3],
    pixels: Value,
) -> Result<Vec<(&'static str, Value)>> {
    let pixels = net.rec.compute(pixels)?;
    let mut joined = None;
    for (i, config) in all.iter().enumerate() {
        let statistics = if i == 0 { &IMAGENET } else { &CLIP };
        let features = net.within(&format!("branches.{i}"), |net| {
            let x = normalized(net, pixels, statistics)?;
            let x = vit(net, config, x)?;
            let class = first_rows(net, x)?;
            match config.projection {
                Some(width) => {
                    let class = layer_norm(net, "norm", class, config.eps)?;
                    linear(net, "proj", class, width, Bias::None)
                }
                None => Ok(class),
            }
        })?;
        joined = Some(match joined {
            Some(before) => net.rec.apply(Concat, &[before, features])?,
            None => features,
        });
    }
    let joined = joined.unwrap_or(pixels); // there are three
    let width = net.channels(joined);
    // A layer normalization whose scale undoes the mean of the squares: (x - mean) / |x - mean|.
    let scale = net.rec.table("scale", &[width], vec![1.0 / (width as f32).sqrt(); width]);
    let shift = net.rec.table("shift", &[width], vec![]);
    let (scale, shift) = (net.rec.compute(scale)?, net.rec.compute(shift)?);
    let embed = net.rec.apply(LayerNorm { eps: TINY }, &[joined, scale, shift])?;
    Ok(vec![("embed", embed)])
}

/// `(x - mean) / deviation` of every channel.
fn normalized(net: &mut Net<'_>, x: Value, [mean, deviation]: &[[f32; 3]; 2]) -> Result<Value> {
    let diagonal = |i: usize| if i.is_multiple_of(4) { 1.0 / deviation[i / 4] } else { 0.0 };
    let w = net.rec.table("deviation", &[3, 3], (0..9).map(diagonal).collect());
    let b = net.rec.table("mean", &[3], (0..3).map(|c| -mean[c] / deviation[c]).collect());
    let (w, b) = (net.rec.compute(w)?, net.rec.compute(b)?);
    net.rec.apply(Linear { bias: true }, &[x, w, b])
}
