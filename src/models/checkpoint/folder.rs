//! Diffusers folders: which files hold a component.

use super::{
    Component, names,
    store::{self, Slot, Slots},
};
use crate::{
    error::{Error, Result},
    tensor::safetensors::SafeFile,
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Parses the JSON file `path`.
pub fn read_json(path: &Path) -> Result<Value> {
    let text = fs::read(path).map_err(Error::file("read", path))?;
    parse_json(path, &text)
}

/// Parses JSON bytes that stand for `path`.
pub fn parse_json(path: &Path, text: &[u8]) -> Result<Value> {
    let finite = finite(text);
    serde_json::from_slice(finite.as_deref().unwrap_or(text)).map_err(|e| Error::Format {
        path: path.to_path_buf(),
        found: format!("text that is no JSON ({e})"),
        expected: "a JSON object".into(),
        fix: "copy the file again".into(),
    })
}

/// Python writes `-Infinity` and `NaN` where JSON has no word (`lambda_min_clipped` of DPM-Solver++): such a value
/// becomes `null`, which stands for the default. `None` when there is none.
fn finite(text: &[u8]) -> Option<Vec<u8>> {
    let mut text = String::from_utf8(text.to_vec()).ok()?;
    let before = text.len();
    for word in ["-Infinity", "Infinity", "NaN"] {
        text = text.replace(&format!(": {word}"), ": null");
    }
    (text.len() != before).then(|| text.into_bytes())
}

/// The folder of `component` under `model`: `model/unet`, or `model` itself.
pub fn component_folder(model: &Path, component: Component) -> Result<PathBuf> {
    let inner = model.join(component.name());
    if inner.join("config.json").is_file() {
        return Ok(inner);
    }
    if model.join("config.json").is_file() && !model.join("model_index.json").is_file() {
        return Ok(model.to_path_buf());
    }
    Err(Error::Format {
        path: model.to_path_buf(),
        found: format!("no {}/config.json and no config.json", component.name()),
        expected: "a diffusers folder, or one component's own folder".into(),
        fix: "check --base or --model; `nano` is the embedded base".into(),
    })
}

/// Opens every tensor of the component in `folder`.
pub fn open(folder: &Path, component: Component) -> Result<Slots> {
    let mut slots = Slots::new();
    for (file, only) in weight_files(folder)? {
        let file = Arc::new(SafeFile::open(&file)?);
        let names: Vec<String> = match only {
            Some(names) => names,
            None => file.entries().keys().cloned().collect(),
        };
        for name in names {
            let slot = Slot::whole(&file, &name)?;
            store::insert(&mut slots, canonical(component, &name), slot)?;
        }
    }
    Ok(slots)
}

/// The current name of a parameter of a diffusers or transformers file.
pub fn canonical(component: Component, name: &str) -> String {
    match component {
        Component::Vae => names::old_vae_attention(name),
        Component::TextEncoder | Component::TextEncoder2 => names::text(name),
        _ => name.to_string(),
    }
}

/// Weight files, each with the names to take from it where not all.
pub type Files = Vec<(PathBuf, Option<Vec<String>>)>;

/// The files that hold the weights in `folder`.
pub fn weight_files(folder: &Path) -> Result<Files> {
    match find(folder)? {
        Found::One(file, _) => Ok(vec![(file, None)]),
        Found::Shards(index, _) => shards(folder, &index),
    }
}

/// The weights' files of a component's folder and the names they have where no precision is named: what a copy
/// needs.
///
/// # Errors
/// As [`open`].
pub fn model_files(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let own = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match find(folder)? {
        Found::One(file, stem) => {
            let name = stem.map_or_else(|| own(&file), |s| format!("{s}.safetensors"));
            Ok(vec![(file, name)])
        }
        Found::Shards(index, stem) => {
            let parts = shards(folder, &index)?.into_iter().map(|(p, _)| (p.clone(), own(&p)));
            let index = (index, format!("{stem}.safetensors.index.json"));
            Ok(parts.chain([index]).collect())
        }
    }
}

/// Which files hold a component's weights.
enum Found {
    /// One file; its stem where it has a usual name.
    One(PathBuf, Option<&'static str>),
    /// An index of shards, and its stem.
    Shards(PathBuf, &'static str),
}

/// Full precision before half, one file before shards, the usual names before any other.
fn find(folder: &Path) -> Result<Found> {
    for variant in ["", ".fp16", ".bf16", ".non_ema"] {
        for stem in ["diffusion_pytorch_model", "model"] {
            let file = folder.join(format!("{stem}{variant}.safetensors"));
            if file.is_file() {
                return Ok(Found::One(file, Some(stem)));
            }
            let index = [
                format!("{stem}{variant}.safetensors.index.json"),
                format!("{stem}.safetensors.index{variant}.json"),
            ];
            if let Some(index) = index.iter().map(|i| folder.join(i)).find(|i| i.is_file()) {
                return Ok(Found::Shards(index, stem));
            }
        }
    }
    let mut others: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(Error::file("list", folder))?
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    others.sort();
    match (others.len(), others.pop()) {
        (1, Some(file)) => Ok(Found::One(file, None)),
        (n, _) => Err(Error::Format {
            path: folder.to_path_buf(),
            found: format!("{n} .safetensors files and none with the usual name"),
            expected: "diffusion_pytorch_model.safetensors or model.safetensors".into(),
            fix: "rename the one to use; pickled .bin files must be converted first".into(),
        }),
    }
}

fn shards(folder: &Path, index: &Path) -> Result<Files> {
    let bad = |found: String| Error::Format {
        path: index.to_path_buf(),
        found,
        expected: "weight_map: parameter name to a file in the same folder".into(),
        fix: "copy the index again".into(),
    };
    let json = read_json(index)?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| bad("no weight_map".into()))?;
    let mut files: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, file) in map {
        let file = file.as_str().unwrap_or_default();
        if file.is_empty() || Path::new(file).file_name() != Some(file.as_ref()) {
            return Err(bad(format!("file {file:?} for {name}")));
        }
        files.entry(file).or_default().push(name.clone());
    }
    Ok(files.into_iter().map(|(f, names)| (folder.join(f), Some(names))).collect())
}
