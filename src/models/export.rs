//! A base with changed weights as a complete diffusers folder.

use super::{
    base::Base,
    checkpoint::{Checkpoint, Component, NANO, assets, model_files},
};
use crate::{
    error::{Error, Result},
    tensor::{
        atomic::atomic_write,
        safetensors::{Dtype, Raw},
        write_safetensors_from,
    },
};
use serde_json::{Value as Json, json};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

/// Changed parameters by full name (`unet.conv_in.weight`), in the layout of published checkpoints.
pub type Changed<'a> = HashMap<&'a str, &'a [f32]>;

/// Writes `base` with the parameters of `changed` in the place of its own as the diffusers folder `folder`, whole or
/// not at all: what stood there stays until the new one is complete.
///
/// A component with a changed parameter is written anew, complete, in f32; the others are copied as they are. A
/// single-file base is written under diffusers' names, with configurations, tokenizer and scheduler.
///
/// # Errors
/// [`Error::File`] when the disk refuses; [`Error::Weights`] for a changed name that the base does not have.
pub fn export(base: &Base, changed: &Changed<'_>, folder: &Path) -> Result<()> {
    let beside = |ending: &str| {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        folder.with_file_name(format!(".{name}.{ending}"))
    };
    let (unfinished, old) = (beside("unfinished"), beside("old"));
    remove(&unfinished)?;
    let made = write(base, changed, &unfinished).and_then(|()| {
        remove(&old)?;
        if folder.exists() {
            fs::rename(folder, &old).map_err(Error::file("rename", folder))?;
        }
        fs::rename(&unfinished, folder).map_err(Error::file("rename", &unfinished))
    });
    if made.is_err() {
        let _ = fs::remove_dir_all(&unfinished);
        return made;
    }
    remove(&old)
}

fn remove(folder: &Path) -> Result<()> {
    match folder.exists() {
        true => fs::remove_dir_all(folder).map_err(Error::file("remove", folder)),
        false => Ok(()),
    }
}

fn write(base: &Base, changed: &Changed<'_>, folder: &Path) -> Result<()> {
    let own = |component: Component| {
        let prefix = format!("{}.", component.name());
        changed.iter().filter_map(move |(n, d)| Some((n.strip_prefix(&prefix)?.to_string(), *d)))
    };
    let mut parts = vec![];
    for part in &base.weights.parts {
        parts.push((part.as_ref(), own(part.component()).collect::<HashMap<String, &[f32]>>()));
    }
    let known: usize = parts.iter().map(|(_, c)| c.len()).sum();
    if known != changed.len() {
        let odd = |n: &&&str| !parts.iter().any(|(p, _)| n.starts_with(p.component().name()));
        let unknown = changed.keys().filter(odd).map(ToString::to_string).collect();
        return Err(weights_error(base, unknown));
    }
    fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    for (part, changed) in &parts {
        let inner = folder.join(part.component().name());
        if !changed.is_empty() || single(base) {
            write_component(part, changed, &inner)?;
        }
    }
    let untouched = |name: &str| {
        let of = parts.iter().find(|(p, _)| p.component().name() == name);
        of.is_none_or(|(_, changed)| changed.is_empty())
    };
    match () {
        () if base.name == NANO => copy_embedded(folder, &untouched),
        () if single(base) => write_rest(base, folder),
        () => {
            copy_folder(base, folder, &untouched)?;
            match folder.join("model_index.json").exists() {
                true => Ok(()),
                false => write_json(&folder.join("model_index.json"), &model_index(base)),
            }
        }
    }
}

fn single(base: &Base) -> bool {
    base.name != NANO && Path::new(&base.name).is_file()
}

fn weights_error(base: &Base, unknown: Vec<String>) -> Error {
    let source_name = base.name.clone();
    Error::Weights { source_name, missing: vec![], unknown, misshaped: vec![] }
}

/// The usual name of a component's weights.
fn weights_name(component: Component) -> &'static str {
    match component {
        Component::Unet | Component::Vae => "diffusion_pytorch_model.safetensors",
        _ => "model.safetensors",
    }
}

/// `config.json` and the complete weights, f32, one tensor in memory at a time.
fn write_component(
    part: &Checkpoint,
    changed: &HashMap<String, &[f32]>,
    folder: &Path,
) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    write_json(&folder.join("config.json"), part.config())?;
    let list: Vec<(&str, Dtype, &[usize])> = part
        .shapes()
        .filter(|(name, _)| !name.ends_with("position_ids")) // a counter, not a weight
        .map(|(name, dims)| (name, Dtype::F32, dims))
        .collect();
    let known = |name: &&String| !list.iter().any(|(n, ..)| n == name);
    let unknown: Vec<String> = changed.keys().filter(known).cloned().collect();
    if !unknown.is_empty() {
        let source_name = format!("trained {}", part.component().name());
        return Err(Error::Weights { source_name, missing: vec![], unknown, misshaped: vec![] });
    }
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    let path = folder.join(weights_name(part.component()));
    write_safetensors_from(&path, &list, &metadata, &mut |name, dims| match changed.get(name) {
        Some(data) => Ok(Raw::f32(dims, data).bytes),
        None => Ok(Raw::f32(dims, &part.tensor(name)?.data).bytes),
    })
}

fn write_json(path: &Path, value: &Json) -> Result<()> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    atomic_write(path, |w| w.write_all(text.as_bytes()))
}

/// The embedded files but the weights and configurations of changed components.
fn copy_embedded(folder: &Path, untouched: &dyn Fn(&str) -> bool) -> Result<()> {
    for (name, bytes) in assets::nano() {
        let path = folder.join(name);
        if !untouched(name.split('/').next().unwrap_or_default()) {
            continue;
        }
        if let Some(inner) = path.parent() {
            fs::create_dir_all(inner).map_err(Error::file("create", inner))?;
        }
        atomic_write(&path, |w| w.write_all(bytes))?;
    }
    Ok(())
}

/// The other folders and files of a diffusers folder; of a component's weights those that were read, under the
/// usual name.
fn copy_folder(base: &Base, to: &Path, untouched: &dyn Fn(&str) -> bool) -> Result<()> {
    let from = Path::new(&base.name);
    let components: Vec<&str> = base.weights.parts.iter().map(|p| p.component().name()).collect();
    for entry in fs::read_dir(from).map_err(Error::file("list", from))?.flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        match path.is_dir() {
            _ if name.starts_with('.') => {}
            true if components.contains(&name.as_str()) => {
                let files = if untouched(&name) { model_files(&path)? } else { vec![] };
                copy_component(&path, &to.join(&name), &files)?;
            }
            true => copy_tree(&path, &to.join(&name))?,
            false if name.ends_with(".json") => copy_file(&path, &to.join(&name))?,
            false => {} // a single-file copy of the model, a readme
        }
    }
    Ok(())
}

/// Small files, and of the weights those in `files` (path, name to take).
fn copy_component(from: &Path, to: &Path, files: &[(PathBuf, String)]) -> Result<()> {
    const WEIGHTS: [&str; 6] = ["safetensors", "bin", "msgpack", "onnx", "onnx_data", "h5"];
    fs::create_dir_all(to).map_err(Error::file("create", to))?;
    for entry in fs::read_dir(from).map_err(Error::file("list", from))?.flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let ending = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        let weights = WEIGHTS.contains(&ending.as_str()) || name.contains(".index");
        if path.is_file() && !weights && !to.join(&name).exists() {
            copy_file(&path, &to.join(&name))?;
        }
    }
    files.iter().try_for_each(|(path, name)| copy_file(path, &to.join(name)))
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).map_err(Error::file("create", to))?;
    for entry in fs::read_dir(from).map_err(Error::file("list", from))?.flatten() {
        let (path, inner) = (entry.path(), to.join(entry.file_name()));
        match path.is_dir() {
            true => copy_tree(&path, &inner)?,
            false => copy_file(&path, &inner)?,
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).map_err(Error::file("copy", from))
}

/// What a single file does not carry as files: tokenizers, scheduler, the index.
fn write_rest(base: &Base, folder: &Path) -> Result<()> {
    for (i, side) in base.text.iter().enumerate() {
        let inner = folder.join(if i == 0 { "tokenizer" } else { "tokenizer_2" });
        fs::create_dir_all(&inner).map_err(Error::file("create", &inner))?;
        for (name, text) in side.tokenizer.to_files() {
            atomic_write(inner.join(name), |w| w.write_all(text.as_bytes()))?;
        }
    }
    let inner = folder.join("scheduler");
    fs::create_dir_all(&inner).map_err(Error::file("create", &inner))?;
    write_json(&inner.join("scheduler_config.json"), &base.scheduler)?;
    write_json(&folder.join("model_index.json"), &model_index(base))
}

/// `model_index.json` of the base's family.
fn model_index(base: &Base) -> Json {
    let transformers = |class: &str| json!(["transformers", class]);
    let mut index = json!({
        "_diffusers_version": "0.30.0",
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": transformers("CLIPTextModel"),
        "tokenizer": transformers("CLIPTokenizer"),
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    });
    if base.text.len() > 1 {
        index["_class_name"] = json!("StableDiffusionXLPipeline");
        index["text_encoder_2"] = transformers("CLIPTextModelWithProjection");
        index["tokenizer_2"] = transformers("CLIPTokenizer");
        index["force_zeros_for_empty_prompt"] = json!(base.zero_negative);
    } else {
        index["_class_name"] = json!("StableDiffusionPipeline");
        index["safety_checker"] = json!([null, null]);
        index["feature_extractor"] = json!([null, null]);
        index["requires_safety_checker"] = json!(false);
    }
    index
}
