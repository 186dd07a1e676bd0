//! The published models that a single file can be.

use crate::tensor::safetensors::SafeFile;

/// Which published model a single file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Stable Diffusion XL.
    Sdxl,
    /// Stable Diffusion 1.x.
    Sd15,
    /// Stable Diffusion 2.x.
    Sd21,
}

impl Family {
    /// The family of a file, from the names and shapes of its tensors.
    pub fn of(file: &SafeFile) -> Self {
        let has = |part: &str| file.entries().keys().any(|n| n.contains(part));
        let open_clip = has("cond_stage_model.model.");
        let context = file
            .entries()
            .iter()
            .find(|(n, _)| n.contains("attn2.to_k.weight"))
            .and_then(|(_, e)| e.dims.get(1));
        match context {
            _ if has("conditioner.embedders.") || has("label_emb.") => Family::Sdxl,
            Some(1024) => Family::Sd21,
            _ if open_clip => Family::Sd21,
            _ => Family::Sd15,
        }
    }
}
