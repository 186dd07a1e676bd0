//! Each component with its inputs and outputs as files name them.

use super::{
    Part,
    inputs::{Feed, Inputs, Output},
    sam,
    towers::record_tower,
    warn_unread,
};
use crate::{
    error::Result,
    lora::Adapters,
    models::{
        checkpoint::Checkpoint,
        clip::{TextConfig, TextInputs, eos_rows, text_encoder},
        unet::{UnetConfig, UnetInputs, unet},
        vae::{VaeConfig, decoder, encoder},
    },
    nn::Net,
    plan::Recorder,
    tensor::safetensors::SafeFile,
};

/// A recorded component, what to feed it, and what comes out.
pub(super) struct Recorded {
    pub rec: Recorder,
    pub feeds: Vec<Feed>,
    pub outputs: Vec<Output>,
}

/// Records `part` of `checkpoint` for the inputs of `file`.
pub(super) fn record(
    part: Part,
    rec: Recorder,
    adapters: &Adapters,
    checkpoint: &Checkpoint,
    file: &SafeFile,
) -> Result<Recorded> {
    let mut inputs = Inputs { file, rec, feeds: vec![], read: vec![] };
    let outputs = match part {
        Part::Unet => record_unet(&mut inputs, adapters, checkpoint)?,
        Part::VaeEncoder | Part::VaeDecoder => {
            let config = VaeConfig::from_json(checkpoint.config())?;
            config.check_storage(inputs.rec.dtype())?;
            let sample = inputs.floats("sample", 4)?;
            let mut net = Net::new(&mut inputs.rec, adapters);
            let encodes = part == Part::VaeEncoder;
            let value = net.within("vae", |net| match encodes {
                true => encoder(net, &config, sample),
                false => decoder(net, &config, sample),
            })?;
            vec![Output::new(if encodes { "moments" } else { "sample" }, value)]
        }
        Part::TextEncoder | Part::TextEncoder2 => record_text(&mut inputs, adapters, checkpoint)?,
        Part::SamImageEncoder => sam::record_encoder(&mut inputs, adapters, checkpoint)?,
        Part::SamMaskDecoder => sam::record_decoder(&mut inputs, adapters, checkpoint)?,
        tower => record_tower(&mut inputs, tower, adapters, checkpoint)?,
    };
    let Inputs { rec, feeds, read, .. } = inputs;
    warn_unread(file, &feeds.iter().map(|f| f.name).chain(read).collect::<Vec<_>>());
    Ok(Recorded { rec, feeds, outputs })
}

fn record_unet(
    inputs: &mut Inputs<'_>,
    adapters: &Adapters,
    checkpoint: &Checkpoint,
) -> Result<Vec<Output>> {
    let config = UnetConfig::from_json(checkpoint.config())?;
    let sample = inputs.floats("sample", 4)?;
    let n = inputs.rec.spec(sample).dims[0];
    let timestep = inputs.each("timestep", n)?;
    let context = inputs.floats("encoder_hidden_states", 3)?;
    let (mut text_embeds, mut time_ids) = (None, None);
    if config.text_time.is_some() {
        text_embeds = Some(inputs.floats("text_embeds", 2)?);
        time_ids = Some(inputs.floats("time_ids", 2)?);
    }
    let given = UnetInputs { sample, timestep, context, text_embeds, time_ids };
    let mut net = Net::new(&mut inputs.rec, adapters);
    let value = net.within("unet", |net| unet(net, &config, &given))?;
    Ok(vec![Output::new("sample", value)])
}

fn record_text(
    inputs: &mut Inputs<'_>,
    adapters: &Adapters,
    checkpoint: &Checkpoint,
) -> Result<Vec<Output>> {
    let mut config = TextConfig::from_json(checkpoint.config())?;
    // Files without `architectures`: the weights tell.
    let mut shapes = checkpoint.shapes();
    if checkpoint.config().get("architectures").is_none() {
        let found = shapes.find(|(name, _)| *name == "text_projection.weight");
        config.projection = found.and_then(|(_, dims)| dims.first().copied());
    }
    let name = "input_ids";
    let dims = inputs.file.entry(name)?.dims.clone();
    let [n, length] = dims[..] else {
        return Err(inputs.odd(name, &dims, "2 axes [N, L]"));
    };
    let ids = inputs.token_ids(name, config.vocabulary)?;
    let rows = eos_rows(&ids, length, config.eos);
    let ids = inputs.ids(name, &[n, length], ids);
    let rows = Some(inputs.ids("rows", &[n], rows));
    let mut net = Net::new(&mut inputs.rec, adapters);
    let prefix = checkpoint.component().name();
    let given = TextInputs { ids, rows, learned: None, padding: None };
    let out = net.within(prefix, |net| text_encoder(net, &config, &given))?;
    let mut outputs = vec![
        Output::new("last_hidden_state", out.last),
        Output::new("hidden_states.penultimate", out.penultimate),
    ];
    match (out.embeds, out.pooled) {
        (Some(value), _) => outputs.push(Output::new("text_embeds", value)),
        (None, Some(value)) => outputs.push(Output::new("pooler_output", value)),
        (None, None) => {}
    }
    Ok(outputs)
}
