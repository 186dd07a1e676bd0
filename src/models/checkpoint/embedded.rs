//! Components of the embedded base, and the JSON files of any model.

use super::{
    assets,
    component::Component,
    folder,
    store::{self, Slot, Slots},
};
use crate::{
    error::{Error, Result},
    tensor::safetensors::SafeFile,
};
use serde_json::Value;
use std::{path::Path, sync::Arc};

/// The word that stands for the embedded base.
pub const NANO: &str = "nano";

/// A JSON file of a model by its path in the folder (`model_index.json`,
/// `scheduler/scheduler_config.json`); `None` when the model has none (a single file never has).
///
/// # Errors
/// When it is there and cannot be read or parsed.
pub fn model_json(model: impl AsRef<Path>, inner: &str) -> Result<Option<Value>> {
    let model = model.as_ref();
    if model == Path::new(NANO) {
        let file = assets::nano_file(inner);
        return file.map(|b| folder::parse_json(&model.join(inner), b)).transpose();
    }
    let path = model.join(inner);
    if let Some(bytes) = assets::eye(&path) {
        return folder::parse_json(&path, bytes).map(Some);
    }
    path.is_file().then(|| folder::read_json(&path)).transpose()
}

/// Configuration and weights of a component of the embedded base.
///
/// # Errors
/// [`Error::Format`] for a component that it does not have.
pub(super) fn component(component: Component) -> Result<(Value, Slots)> {
    let at = |file: &str| format!("{}/{file}", component.name());
    let missing = || Error::Format {
        path: NANO.into(),
        found: format!("no {} in the embedded base", component.name()),
        expected: "the files of src/assets/nano".into(),
        fix: "build the program with them, or name another base".into(),
    };
    let config = assets::nano_file(&at("config.json")).ok_or_else(missing)?;
    let config = folder::parse_json(&Path::new(NANO).join(at("config.json")), config)?;
    let weights = ["diffusion_pytorch_model", "model"].into_iter().find_map(|stem| {
        let variants = ["", ".fp16"];
        variants.iter().find_map(|v| assets::nano_file(&at(&format!("{stem}{v}.safetensors"))))
    });
    let name = Path::new(NANO).join(component.name());
    let file = Arc::new(SafeFile::from_static(name, weights.ok_or_else(missing)?)?);
    let mut slots = Slots::new();
    for stored in file.entries().keys() {
        let name = folder::canonical(component, stored);
        store::insert(&mut slots, name, Slot::whole(&file, stored)?)?;
    }
    Ok((config, slots))
}
