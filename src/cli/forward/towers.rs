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
        clip::eos_rows,
        towers::{Reward, Tower, TowerInputs, masked_scores},
    },
    nn::Net,
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
        _ => {
            let name = if part == Part::Dreamsim { "img" } else { "pixel_values" };
            given.pixels = Some(inputs.floats(name, 4)?);
        }
    }
    let mut net = Net::new(&mut inputs.rec, adapters);
    let outputs = net.within(checkpoint.component().name(), |net| tower.record(net, &given))?;
    Ok(outputs.into_iter().map(|(name, value)| Output::new(name, value)).collect())
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
