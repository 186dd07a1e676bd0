//! Configurations of the published base models, for planning without any file.

use crate::error::{Error, Result};
use serde_json::Value as Json;

const MODELS: [(&str, &str); 3] = [
    ("sdxl", include_str!("builtin/sdxl.json")),
    ("sd15", include_str!("builtin/sd15.json")),
    ("sd21", include_str!("builtin/sd21.json")),
];

/// Names of the built-in configurations.
pub fn builtin_names() -> [&'static str; 3] {
    MODELS.map(|(name, _)| name)
}

/// Configuration of one component (`unet`, `vae`, `text_encoder`, `text_encoder_2`) of `sdxl`, `sd15` or `sd21`,
/// as its publisher wrote it.
///
/// # Errors
/// [`Error::Config`] for another model, or a component the model does not have.
pub fn builtin(model: &str, component: &str) -> Result<Json> {
    let text = MODELS.iter().find(|(name, _)| *name == model).map(|(_, text)| *text);
    let all: Option<Json> = text.and_then(|t| serde_json::from_str(t).ok());
    let found = all.and_then(|mut all| all.get_mut(component).map(Json::take));
    found.ok_or_else(|| Error::Config {
        key: "base".into(),
        found: format!("{model}/{component}"),
        expected: format!("a component of {}", builtin_names().join(", ")),
        fix: "name one of these, or a folder with config.json".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{clip::TextConfig, unet::UnetConfig, vae::VaeConfig};

    #[test]
    fn every_built_in_configuration_is_understood() {
        for model in builtin_names() {
            UnetConfig::from_json(&builtin(model, "unet").unwrap()).unwrap();
            VaeConfig::from_json(&builtin(model, "vae").unwrap()).unwrap();
            TextConfig::from_json(&builtin(model, "text_encoder").unwrap()).unwrap();
        }
        let second = TextConfig::from_json(&builtin("sdxl", "text_encoder_2").unwrap()).unwrap();
        assert_eq!(second.projection, Some(1280));
        assert!(builtin("sd15", "text_encoder_2").is_err());
    }
}
