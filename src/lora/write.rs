//! Writing adapter files for diffusers, kohya's scripts and ComfyUI.

use super::{
    Modules, alpha,
    layer::{Layer, Lora, PEFT_KEY},
};
use crate::{
    error::{Error, Result},
    tensor::{safetensors::Raw, write_safetensors},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// Naming of an adapter file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Convention {
    /// diffusers with peft: `unet.….to_q.lora_A.weight`; alpha in the header.
    Peft,
    /// kohya's scripts and A1111: `lora_unet_input_blocks_4_1_…` for SDXL, diffusers numbering
    /// else.
    Kohya,
    /// ComfyUI: `lora_unet_down_blocks_1_…` with alpha.
    Comfy,
}

impl Lora {
    /// The tensors and text pairs of the file in the given convention.
    ///
    /// # Errors
    /// [`Error::Data`] for a module that the convention has no name for.
    pub fn export(
        &self,
        convention: Convention,
        modules: &Modules,
    ) -> Result<(BTreeMap<String, Raw>, BTreeMap<String, String>)> {
        let (mut tensors, mut metadata) = (self.beside.clone(), self.free_metadata());
        metadata.insert("format".into(), "pt".into());
        if convention == Convention::Peft {
            metadata.insert(PEFT_KEY.into(), alpha::describe(self));
            for layer in self.layers.values() {
                tensors.insert(format!("{}.lora_A.weight", layer.module), layer.down.clone());
                tensors.insert(format!("{}.lora_B.weight", layer.module), layer.up.clone());
            }
            return Ok((tensors, metadata));
        }
        let sdxl = modules.is_sdxl().unwrap_or_else(|| self.looks_like_sdxl());
        self.describe_kohya(sdxl, &mut metadata);
        for layer in self.layers.values() {
            let name = kohya_name(layer, sdxl, convention, modules)?;
            tensors.insert(format!("{name}.lora_down.weight"), layer.down.clone());
            tensors.insert(format!("{name}.lora_up.weight"), layer.up.clone());
            tensors.insert(format!("{name}.alpha"), Raw::f32(&[], &[layer.alpha]));
        }
        Ok((tensors, metadata))
    }

    /// Writes the adapter to `path` in the given convention, whole or not at all; `modules` is the
    /// base's table, or [`Modules::standard`]. The bits of every factor are those of `self`.
    ///
    /// # Errors
    /// [`Error::Data`] as [`Lora::export`], [`Error::File`] when the disk refuses.
    pub fn save(
        &self,
        path: impl AsRef<Path>,
        convention: Convention,
        modules: &Modules,
    ) -> Result<()> {
        let (tensors, metadata) = self.export(convention, modules)?;
        write_safetensors(path, tensors.iter().map(|(n, r)| (n.as_str(), r)), &metadata)
    }

    /// Without the base: a second text encoder, transformers deeper than one, or a 2048-wide
    /// context.
    fn looks_like_sdxl(&self) -> bool {
        self.layers.values().any(|l| {
            let wide = l.module.ends_with(".attn2.to_k") && l.down.dims.get(1) == Some(&2048);
            let deep = l.module.contains(".transformer_blocks.1.");
            wide || deep || l.module.starts_with("text_encoder_2.")
        })
    }

    fn describe_kohya(&self, sdxl: bool, metadata: &mut BTreeMap<String, String>) {
        let one = |values: BTreeSet<String>| match values.len() {
            1 => values.into_iter().next().unwrap_or_default(),
            _ => "Dynamic".to_string(),
        };
        let version = if sdxl { "sdxl_base_v1-0" } else { "sd_v1" };
        let architecture = if sdxl { "stable-diffusion-xl-v1-base" } else { "stable-diffusion-v1" };
        let dim = one(self.layers.values().map(|l| l.rank().to_string()).collect());
        let alpha = one(self.layers.values().map(|l| l.alpha.to_string()).collect());
        for (key, value) in [
            ("ss_network_module", "networks.lora".to_string()),
            ("ss_network_dim", dim),
            ("ss_network_alpha", alpha),
            ("ss_base_model_version", version.into()),
            ("modelspec.sai_model_spec", "1.0.0".into()),
            ("modelspec.architecture", format!("{architecture}/lora")),
        ] {
            metadata.entry(key.into()).or_insert(value);
        }
    }
}

fn kohya_name(
    layer: &Layer,
    sdxl: bool,
    convention: Convention,
    modules: &Modules,
) -> Result<String> {
    let no_name = || Error::Data {
        at: layer.module.clone(),
        found: "a module without a name in this convention".into(),
        expected: "a module of the U-Net or a text encoder".into(),
        fix: "give --base, or write peft".into(),
    };
    let (component, rest) = layer.module.split_once('.').ok_or_else(no_name)?;
    let (prefix, rest) = match component {
        "unet" if sdxl && convention == Convention::Kohya => {
            ("lora_unet_", modules.sgm().to_original(rest).ok_or_else(no_name)?)
        }
        "unet" => ("lora_unet_", rest.to_string()),
        "text_encoder" if sdxl => ("lora_te1_", rest.to_string()),
        "text_encoder" => ("lora_te_", rest.to_string()),
        "text_encoder_2" => ("lora_te2_", rest.to_string()),
        _ => return Err(no_name()),
    };
    Ok(format!("{prefix}{}", rest.replace('.', "_")))
}
