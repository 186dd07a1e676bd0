//! Single-file checkpoints (`.safetensors`, torch's) with the original key names of SDXL, SD 1.5 and SD 2.1.

use super::{
    Component, derive,
    family::Family,
    names,
    store::{self, Slot, Slots},
};
use crate::{
    error::{Error, Result},
    lora::Sgm,
    tensor::{open_weights, safetensors::SafeFile},
};
use serde_json::Value;
use std::{path::Path, sync::Arc};

/// The prefixes under which a component may lie; an empty one is a file of that component alone.
fn prefixes(component: Component, family: Family) -> &'static [&'static str] {
    match (component, family) {
        (Component::Unet, _) => &["model.diffusion_model."],
        (Component::Vae, _) => &["first_stage_model."],
        (Component::TextEncoder, Family::Sdxl) => &["conditioner.embedders.0.transformer."],
        (Component::TextEncoder, Family::Sd15) => &["cond_stage_model.transformer."],
        (Component::TextEncoder, Family::Sd21) => &["cond_stage_model.model."],
        (Component::TextEncoder2, _) => &["conditioner.embedders.1.model."],
        (Component::SamImageEncoder, _) => &["image_encoder."],
        (Component::SamMaskDecoder, _) => &["prompt_encoder.", "mask_decoder."],
        _ => &[], // towers are opened elsewhere
    }
}

/// Opens `component` of the single file `path`; the configuration is read off the shapes.
pub fn open(path: &Path, component: Component) -> Result<(Value, Slots)> {
    let file = Arc::new(open_weights(path)?);
    let family = Family::of(&file);
    let mut found: Vec<(String, Slot)> = vec![];
    for prefix in prefixes(component, family) {
        for name in file.entries().keys() {
            if let Some(tail) = name.strip_prefix(prefix) {
                found.push((tail.to_string(), Slot::whole(&file, name)?));
            }
        }
    }
    if found.is_empty() && alone(&file, component) {
        for name in file.entries().keys() {
            found.push((name.clone(), Slot::whole(&file, name)?));
        }
    }
    if found.is_empty() {
        return Err(absent(path, component, family));
    }
    match component {
        Component::Unet => unet(found, family),
        Component::Vae => vae(found, family),
        _ if found.iter().any(|(n, _)| n.starts_with("transformer.resblocks.")) => {
            open_clip(found, family)
        }
        _ => hugging_face(found),
    }
}

/// Whether the file holds only this component, without a prefix.
fn alone(file: &SafeFile, component: Component) -> bool {
    let has = |name: &str| file.entries().contains_key(name);
    match component {
        Component::Unet => has("input_blocks.0.0.weight"),
        Component::Vae => has("encoder.down.0.block.0.conv1.weight"),
        _ => false,
    }
}

fn unet(found: Vec<(String, Slot)>, family: Family) -> Result<(Value, Slots)> {
    let sgm = Sgm::of_original(found.iter().map(|(n, _)| n.as_str()));
    let mut slots = Slots::new();
    for (name, slot) in found {
        let name = sgm.to_diffusers(&name).unwrap_or(name);
        store::insert(&mut slots, name, slot)?;
    }
    Ok((derive::unet(&slots, sgm.layers(), family), slots))
}

fn vae(found: Vec<(String, Slot)>, family: Family) -> Result<(Value, Slots)> {
    let levels = (0..)
        .take_while(|i| {
            let head = format!("encoder.down.{i}.");
            found.iter().any(|(n, _)| n.starts_with(&head))
        })
        .count();
    let mut slots = Slots::new();
    for (name, slot) in found {
        let name = names::vae(&name, levels).unwrap_or(name);
        store::insert(&mut slots, name, slot)?;
    }
    Ok((derive::vae(&slots, levels, family), slots))
}

fn hugging_face(found: Vec<(String, Slot)>) -> Result<(Value, Slots)> {
    let mut slots = Slots::new();
    for (name, slot) in found {
        store::insert(&mut slots, names::text(&name), slot)?;
    }
    Ok((derive::text(&slots, "quick_gelu"), slots))
}

/// SD 2 uses the last but one layer and a final norm: as transformers writes it, the last layer is
/// simply not there.
fn open_clip(found: Vec<(String, Slot)>, family: Family) -> Result<(Value, Slots)> {
    let layers = names::open_clip_layers(found.iter().map(|(n, _)| n.as_str()));
    let dropped = match family {
        Family::Sd21 => format!("transformer.resblocks.{}.", layers.saturating_sub(1)),
        _ => "-".into(),
    };
    let mut slots = Slots::new();
    for (name, slot) in found {
        if name.starts_with(&dropped) || (family == Family::Sd21 && name == "text_projection") {
            continue;
        }
        match names::open_clip(&name, &slot) {
            Some(list) => {
                list.into_iter().try_for_each(|(n, s)| store::insert(&mut slots, n, s))?;
            }
            None => store::insert(&mut slots, name, slot)?,
        }
    }
    Ok((derive::text(&slots, "gelu"), slots))
}

fn absent(path: &Path, component: Component, family: Family) -> Error {
    Error::Format {
        path: path.to_path_buf(),
        found: format!("no {} (taken for a {family:?} file)", component.name()),
        expected: format!("tensors named {}...", prefixes(component, family).join("... or ")),
        fix: "use a full single-file checkpoint or a diffusers folder".into(),
    }
}
