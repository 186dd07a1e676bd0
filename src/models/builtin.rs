//! Configurations of the published base models, for planning without any file.

use crate::error::{Error, Result};
use serde_json::Value as Json;

const MODELS: [(&str, &str); 3] = [
    ("sdxl", include_str!("builtin/sdxl.json")),
    ("sd15", include_str!("builtin/sd15.json")),
    ("sd21", include_str!("builtin/sd21.json")),
];

/// Segment Anything's published sizes.
const SEGMENTERS: [(&str, &str); 4] = [
    ("sam-vit-b", include_str!("builtin/sam-vit-b.json")),
    ("sam-vit-l", include_str!("builtin/sam-vit-l.json")),
    ("sam-vit-h", include_str!("builtin/sam-vit-h.json")),
    ("mobile-sam", include_str!("builtin/mobile-sam.json")),
];

/// Names of the built-in configurations of Segment Anything.
pub fn segmenter_names() -> [&'static str; 4] {
    SEGMENTERS.map(|(name, _)| name)
}

/// Names of the built-in configurations of base models.
pub fn builtin_names() -> [&'static str; 3] {
    MODELS.map(|(name, _)| name)
}

/// Configuration of one component (`unet`, `vae`, `text_encoder`, `text_encoder_2`) of `sdxl`, `sd15` or `sd21`, or
/// (`sam_image_encoder`, `sam_mask_decoder`) of a Segment Anything, as its publisher wrote it.
///
/// # Errors
/// [`Error::Config`] for another model, or a component the model does not have.
pub fn builtin(model: &str, component: &str) -> Result<Json> {
    let mut all = MODELS.iter().chain(&SEGMENTERS);
    let text = all.find(|(name, _)| *name == model).map(|(_, text)| *text);
    let all: Option<Json> = text.and_then(|t| serde_json::from_str(t).ok());
    let found = all.and_then(|mut all| all.get_mut(component).map(Json::take));
    found.ok_or_else(|| Error::Config {
        key: "base".into(),
        found: format!("{model}/{component}"),
        expected: format!(
            "a component of {}, {}",
            builtin_names().join(", "),
            segmenter_names().join(", ")
        ),
        fix: "name one of these, or a folder with config.json".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{
        clip::TextConfig,
        sam::{DecoderConfig, EncoderConfig},
        unet::UnetConfig,
        vae::VaeConfig,
    };

    #[test]
    fn every_built_in_configuration_is_understood() {
        for model in builtin_names() {
            UnetConfig::from_json(&builtin(model, "unet").unwrap()).unwrap();
            VaeConfig::from_json(&builtin(model, "vae").unwrap()).unwrap();
            TextConfig::from_json(&builtin(model, "text_encoder").unwrap()).unwrap();
        }
        for model in segmenter_names() {
            EncoderConfig::from_json(&builtin(model, "sam_image_encoder").unwrap()).unwrap();
            DecoderConfig::from_json(&builtin(model, "sam_mask_decoder").unwrap()).unwrap();
        }
        let second = TextConfig::from_json(&builtin("sdxl", "text_encoder_2").unwrap()).unwrap();
        assert_eq!(second.projection, Some(1280));
        assert!(builtin("sd15", "text_encoder_2").is_err());
    }
}
