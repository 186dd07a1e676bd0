//! open_clip's own configuration file.

use super::folder;
use crate::error::{Error, Result};
use serde_json::{Value as Json, json};
use std::path::Path;

/// `model_cfg` of open_clip's own configuration; `None` without the file.
///
/// # Errors
/// [`Error::Format`] for towers of another kind.
pub fn open_clip_config(model: &Path) -> Result<Option<Json>> {
    let path = model.join("open_clip_config.json");
    if !path.is_file() {
        return Ok(None);
    }
    let json = folder::read_json(&path)?;
    let config = json.get("model_cfg").cloned().unwrap_or_default();
    let wrong = |found: &str| Error::Format {
        path: path.clone(),
        found: found.into(),
        expected: "model_cfg with vision_cfg and text_cfg of a plain CLIP".into(),
        fix: "models with other towers are not supported".into(),
    };
    for (part, refused) in [
        ("vision_cfg", &["timm_model_name", "attentional_pool", "global_average_pool"][..]),
        ("text_cfg", &["hf_model_name", "hf_tokenizer_name", "embed_cls", "pool_type"][..]),
    ] {
        if !config[part].is_object() {
            return Err(wrong(&format!("no {part}")));
        }
        let set = |key: &&&str| !matches!(&config[part][**key], Json::Null | Json::Bool(false));
        let plain = |key: &str| key == "pool_type" && config[part][key] == json!("argmax");
        if let Some(key) = refused.iter().find(set).filter(|key| !plain(key)) {
            return Err(wrong(&format!("{part}.{key}")));
        }
    }
    Ok(Some(config))
}

/// OpenAI's weights want quick-GELU, open_clip's what their configuration says.
pub fn quick(clip: Option<&Json>) -> bool {
    clip.is_none_or(|c| c["quick_gelu"].as_bool().unwrap_or(false))
}

/// A size of a tower, `default` when it is not there.
///
/// # Errors
/// [`Error::Config`] for what is no size.
pub fn number(clip: &Json, part: &str, key: &str, default: u64) -> Result<u64> {
    match &clip[part][key] {
        Json::Null => Ok(default),
        v => v.as_u64().filter(|n| *n > 0).ok_or_else(|| Error::Config {
            key: format!("open_clip_config.json: {part}.{key}"),
            found: v.to_string(),
            expected: "a whole number above 0".into(),
            fix: "copy the configuration again".into(),
        }),
    }
}
