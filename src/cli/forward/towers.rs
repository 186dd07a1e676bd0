//! The towers that judge pictures, with their inputs as files name them.

use super::{
    Part,
    inputs::{Inputs, Output},
};
use crate::{
    error::Result,
    lora::Adapters,
    models::{
        checkpoint::Checkpoint,
        clip::{TextConfig, eos_rows, padding_scores},
        towers::{Reward, Tower, TowerInputs, masked_scores},
    },
    nn::{Masked, Net},
    plan::Value,
};

/// Records the tower of `checkpoint`.
pub(super) fn record_tower(
    inputs: &mut Inputs<'_>,
    part: Part,
    adapters: &Adapters,
    checkpoint: &Checkpoint,
) -> Result<Vec<Output>> {
    let tower = Tower::of(checkpoint)?;
    let mut given = TowerInputs::default();
    match &tower {
        Tower::ClipText(config) => {
            let name = "input_ids";
            let dims = text_dims(inputs, name)?;
            let ids = inputs.token_ids(name, config.vocabulary)?;
            let rows = eos_rows(&ids, dims[1], config.eos);
            given.ids = Some(inputs.ids(name, &dims, ids));
            given.rows = Some(inputs.ids("rows", &dims[..1], rows));
        }
        Tower::ImageReward(reward) => {
            given.pixels = Some(inputs.floats("image", 4)?);
            let name = "prompt_ids";
            let dims = text_dims(inputs, name)?;
            let ids = inputs.token_ids(name, reward.vocabulary)?;
            given.ids = Some(inputs.ids(name, &dims, ids));
            given.mask = Some(mask(inputs, reward, dims)?);
        }
        Tower::Owlv2(config) => {
            given.pixels = Some(inputs.floats("pixel_values", 4)?);
            queries(inputs, &config.text, &mut given)?;
        }
        _ => {
            let name = if part == Part::Dreamsim { "img" } else { "pixel_values" };
            given.pixels = Some(inputs.floats(name, 4)?);
        }
    }
    let mut net = Net::new(&mut inputs.rec, adapters);
    let outputs = net.within(checkpoint.component().name(), |net| tower.record(net, &given))?;
    let lead = given.pixels.map(|v| inputs.rec.spec(v).dims[0]);
    let output = |(name, value)| match (&tower, name, lead) {
        (Tower::Owlv2(config), "image_embeds", Some(n)) => {
            let [h, w] = config.vision.grid;
            Output { lead: Some(vec![n, h, w]), ..Output::new(name, value) }
        }
        _ => Output::new(name, value),
    };
    Ok(outputs.into_iter().map(output).collect())
}

/// The texts of every picture: ids, rows, padding, and which of them are queries (their first id is not 0).
fn queries(inputs: &mut Inputs<'_>, config: &TextConfig, given: &mut TowerInputs) -> Result<()> {
    let name = "input_ids";
    let dims = text_dims(inputs, name)?;
    let pictures = inputs.file.entry("pixel_values")?.dims.first().copied().unwrap_or(1).max(1);
    if !dims[0].is_multiple_of(pictures) {
        let want = format!("[{pictures} Q, L]: as many texts for each of {pictures} pictures");
        return Err(inputs.odd(name, &dims, &want));
    }
    let ids = inputs.token_ids(name, config.vocabulary)?;
    let rows = eos_rows(&ids, dims[1], config.eos);
    let is = |text: &[i32]| if text[0] > 0 { 1.0 } else { 0.0 };
    let all = ids.chunks_exact(dims[1]).map(is).collect();
    given.queries = Some(inputs.made("queries", &[pictures, dims[0] / pictures], all));
    given.ids = Some(inputs.ids(name, &dims, ids));
    given.rows = Some(inputs.ids("rows", &dims[..1], rows));
    let name = "attention_mask";
    if inputs.file.entries().contains_key(name) {
        let found = &inputs.file.entry(name)?.dims;
        if *found != dims {
            return Err(inputs.odd(name, found, &format!("{dims:?}, as input_ids")));
        }
        let [scores, seeing] = padding_scores(&inputs.file.i64(name)?, dims[1], config);
        let scores = inputs.made(name, &[dims[0], dims[1], config.heads], scores);
        let seeing = inputs.made("seeing", &[dims[0], dims[1], 1], seeing);
        let (scores, seeing) = (inputs.rec.compute(scores)?, inputs.rec.compute(seeing)?);
        given.padding = Some(Masked { scores, seeing: Some(seeing) });
    }
    Ok(())
}

/// Texts and tokens of `[N, L]` token ids.
fn text_dims(inputs: &Inputs<'_>, name: &str) -> Result<[usize; 2]> {
    let dims = &inputs.file.entry(name)?.dims;
    match dims[..] {
        [n, length] if n > 0 && length > 0 => Ok([n, length]),
        _ => Err(inputs.odd(name, dims, "2 axes [N, L], none empty")),
    }
}

fn mask(inputs: &mut Inputs<'_>, reward: &Reward, dims: [usize; 2]) -> Result<Value> {
    let name = "prompt_attention_mask";
    let found = &inputs.file.entry(name)?.dims;
    if *found != dims {
        return Err(inputs.odd(name, found, &format!("{dims:?}, as prompt_ids")));
    }
    let scores = masked_scores(&inputs.file.i64(name)?, reward);
    Ok(inputs.made(name, &[dims[0], dims[1], reward.heads], scores))
}
