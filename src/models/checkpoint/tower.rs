//! Checkpoints of the towers that judge pictures: transformers folders, original names, torch files.

use super::{
    Component, assets, derive, folder,
    format::{self, Format},
    open_clip::{number, open_clip_config, quick},
    store::{self, LowRank, Slot, Slots},
};
use crate::{
    error::{Error, Result},
    tensor::{open_weights, safetensors::SafeFile},
};
use serde_json::{Value as Json, json};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A tower's parameters, and how to speak about those that are not there.
pub struct Opened {
    /// transformers' configuration; for original names `{"original": format}` with what no shape tells.
    pub config: Json,
    /// The parameters by their names in the model.
    pub slots: Slots,
    /// Beginnings of names in the model, in the file, and the format behind them.
    pub published: Vec<Published>,
}

/// Where one part of a model comes from.
#[derive(Debug)]
pub struct Published {
    own: String,
    stored: &'static str,
    format: Option<&'static Format>,
}

impl Published {
    /// The published name of the model's parameter `name`; `None` when it belongs to another part.
    pub fn name(&self, name: &str) -> Option<String> {
        let tail = name.strip_prefix(&self.own)?;
        let inner = match self.format {
            Some(format) => format.published(tail)?,
            None => tail.to_string(),
        };
        Some(format!("{}{inner}", self.stored))
    }
}

/// Opens `component` of `model`.
///
/// # Errors
/// [`Error::File`] and [`Error::Format`] for files that cannot be read or are none of this component.
pub fn open(model: &Path, component: Component) -> Result<Opened> {
    match component {
        Component::DreamSim => dreamsim(model),
        Component::ImageReward => image_reward(model),
        Component::Owlv2 => owlv2(model),
        _ if has_config(model) => transformers(model, component),
        _ => original(model, component),
    }
}

fn has_config(model: &Path) -> bool {
    let path = model.join("config.json");
    path.is_file() || assets::eye(&path).is_some()
}

/// `config.json` of a folder, or of an embedded tower.
fn json_of(folder: &Path) -> Result<Json> {
    let path = folder.join("config.json");
    match assets::eye(&path) {
        Some(bytes) => folder::parse_json(&path, bytes),
        None => folder::read_json(&path),
    }
}

/// Collects the parameters of a model.
#[derive(Default)]
struct Reader {
    slots: Slots,
    published: Vec<Published>,
}

impl Reader {
    /// Adds what `files` have, by `format`: `stored` stands before their names, `own` before the model's.
    /// Names outside the format are kept as they are, so that the comparison with the model lists them.
    fn add(
        &mut self,
        tensors: &[(String, Slot)],
        format: &'static Format,
        (own, stored): (&str, &'static str),
    ) -> Result<()> {
        for (name, slot) in tensors {
            let Some(tail) = name.strip_prefix(stored) else { continue };
            if format.ignores(tail) {
                continue;
            }
            let all = format.canonical(tail, slot);
            for (name, slot) in all.unwrap_or_else(|| vec![(tail.to_string(), slot.clone())]) {
                store::insert(&mut self.slots, format!("{own}{name}"), slot)?;
            }
        }
        self.published.push(Published { own: own.into(), stored, format: Some(format) });
        Ok(())
    }

    fn done(self, config: Json) -> Opened {
        Opened { config, slots: self.slots, published: self.published }
    }
}

fn whole(file: SafeFile, only: Option<Vec<String>>) -> Result<Vec<(String, Slot)>> {
    let file = Arc::new(file);
    let names = only.unwrap_or_else(|| file.entries().keys().cloned().collect());
    names.into_iter().map(|n| Slot::whole(&file, &n).map(|slot| (n, slot))).collect()
}

/// `{"model_type": ...}` of the configurations of a component.
fn model_types(component: Component) -> &'static [&'static str] {
    match component {
        Component::ClipImage => &["clip", "clip_vision_model"],
        Component::ClipText => &["clip", "clip_text_model"],
        Component::Owlv2 => &["owlv2"],
        _ => &["dinov2", "dinov2_with_registers", "vit"],
    }
}

fn transformers(folder: &Path, component: Component) -> Result<Opened> {
    let config = config_of(folder, component)?;
    let kind = config["model_type"].as_str().unwrap_or_default();
    let (format, roots): (_, &[&str]) = match (component, kind) {
        (Component::ClipImage, _) => (&format::CLIP_IMAGE, &[]),
        (Component::ClipText, _) => (&format::CLIP_TEXT, &[]),
        (_, "vit") => (&format::VIT, &["vit."]),
        _ => (&format::DINOV2, &["dinov2_with_registers.", "dinov2."]),
    };
    let mut tensors = stored(folder)?;
    bare(&mut tensors, roots);
    let mut reader = Reader::default();
    reader.add(&tensors, format, ("", ""))?;
    Ok(reader.done(config))
}

/// Everything in the safetensors files of a folder.
fn stored(folder: &Path) -> Result<Vec<(String, Slot)>> {
    let mut tensors = vec![];
    let path = folder.join("model.safetensors");
    if let Some(bytes) = assets::eye(&path) {
        return whole(SafeFile::from_static(path, bytes)?, None);
    }
    for (file, only) in folder::weight_files(folder)? {
        tensors.extend(whole(SafeFile::open(file)?, only)?);
    }
    Ok(tensors)
}

/// The configuration in `folder`, which must be one of `component`.
///
/// # Errors
/// [`Error::Format`] that names the model it is of.
pub fn config_of(folder: &Path, component: Component) -> Result<Json> {
    let path = folder.join("config.json");
    let config = json_of(folder)?;
    let known = model_types(component);
    match config["model_type"].as_str() {
        Some(kind) if known.contains(&kind) => Ok(config),
        kind => Err(Error::Format {
            path,
            found: kind.map_or("no model_type".into(), |k| format!("model_type {k:?}")),
            expected: format!("{} for {}", known.join(" or "), component.name()),
            fix: "name the folder of the right model".into(),
        }),
    }
}

/// Whether the CLIP in `model` has the tower `component`: a transformers configuration of one tower has no other.
///
/// # Errors
/// Those of reading the configuration.
pub fn has_tower(model: &Path, component: Component) -> Result<bool> {
    if !has_config(model) {
        return Ok(true);
    }
    let config = json_of(model)?;
    Ok(config["model_type"].as_str().is_some_and(|k| model_types(component).contains(&k)))
}

/// Takes wrappers' names off the front of every name.
fn bare(tensors: &mut [(String, Slot)], roots: &[&str]) {
    for (name, _) in tensors {
        while let Some(rest) = roots.iter().find_map(|r| name.strip_prefix(r)) {
            *name = rest.to_string();
        }
    }
}

/// Before DINO's names in training checkpoints.
const DINO_ROOTS: [&str; 3] = ["module.", "backbone.", "teacher."];

fn original(model: &Path, component: Component) -> Result<Opened> {
    let file = match model.is_dir() {
        true => only_file(model)?,
        false => model.to_path_buf(),
    };
    let mut tensors = whole(open_weights(&file)?, None)?;
    let mut reader = Reader::default();
    let clip = open_clip_config(model)?;
    let config = match component {
        Component::ClipImage => {
            reader.add(&tensors, &format::OPEN_CLIP_IMAGE, ("", ""))?;
            let head =
                clip.as_ref().map_or(Ok(64), |c| number(c, "vision_cfg", "head_width", 64))?;
            json!({"original": "clip", "head_width": head, "quick_gelu": quick(clip.as_ref())})
        }
        Component::ClipText => {
            reader.add(&tensors, &format::OPEN_CLIP_TEXT, ("", ""))?;
            let act = if quick(clip.as_ref()) { "quick_gelu" } else { "gelu" };
            let mut config = derive::text(&reader.slots, act);
            if let Some(clip) = &clip {
                let given = config["num_attention_heads"].as_u64().unwrap_or(1);
                config["num_attention_heads"] = json!(number(clip, "text_cfg", "heads", given)?);
            }
            config
        }
        _ => {
            bare(&mut tensors, &DINO_ROOTS);
            reader.add(&tensors, &format::DINO, ("", ""))?;
            json!({"original": "dino"})
        }
    };
    Ok(reader.done(config))
}

/// Endings of files of weights.
const ENDINGS: [&str; 5] = [".safetensors", ".pth", ".pt", ".pth.tar", ".bin"];

/// The one file of weights in a folder, safetensors or torch's.
pub(super) fn only_file(folder: &Path) -> Result<PathBuf> {
    let ends = |p: &PathBuf| {
        let name = p.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ENDINGS.iter().any(|end| name.ends_with(end))
    };
    let all = fs::read_dir(folder).map_err(Error::file("list", folder))?;
    let mut found: Vec<PathBuf> = all.filter_map(|e| Some(e.ok()?.path())).filter(ends).collect();
    found.sort();
    match &found[..] {
        [one] => Ok(one.clone()),
        _ => Err(Error::Format {
            path: folder.to_path_buf(),
            found: format!("no config.json and {} files of weights", found.len()),
            expected: "a transformers folder, or one .safetensors or torch file".into(),
            fix: "name the file itself".into(),
        }),
    }
}

/// The file `stem` with any ending.
fn named(folder: &Path, stem: &str) -> Result<PathBuf> {
    let all = ENDINGS.iter().map(|end| folder.join(format!("{stem}{end}")));
    all.clone().find(|p| p.is_file()).ok_or_else(|| Error::Format {
        path: folder.to_path_buf(),
        found: format!("no {stem}.safetensors"),
        expected: format!("{stem} with one of {}", ENDINGS.join(", ")),
        fix: "check --model, and that every file was copied".into(),
    })
}

/// The files of DreamSim's branches, in their order.
const BRANCHES: [&str; 3] =
    ["dino_vitb16_pretrain", "clip_vitb16_pretrain", "open_clip_vitb16_pretrain"];

fn dreamsim(folder: &Path) -> Result<Opened> {
    let mut reader = Reader::default();
    for (b, stem) in BRANCHES.iter().enumerate() {
        let mut tensors = whole(open_weights(named(folder, stem)?)?, None)?;
        bare(&mut tensors, &DINO_ROOTS);
        // The class token of DINO is taken before the last normalization.
        tensors.retain(|(n, _)| b > 0 || !n.starts_with("norm."));
        reader.add(&tensors, &format::DINO, (&format!("branches.{b}."), ""))?;
    }
    merge_adapters(&folder.join("ensemble_lora"), &mut reader.slots)?;
    Ok(reader.done(json!({"original": "dreamsim"})))
}

/// Merges the adapters of `qkv` into queries, keys and values.
fn merge_adapters(folder: &Path, slots: &mut Slots) -> Result<()> {
    let path = folder.join("adapter_config.json");
    let config = folder::read_json(&path)?;
    let (rank, alpha) = (config["r"].as_f64(), config["lora_alpha"].as_f64());
    let (Some(rank), Some(alpha)) = (rank.filter(|r| *r >= 1.0), alpha) else {
        return Err(Error::Format {
            path,
            found: format!("r {} and lora_alpha {}", config["r"], config["lora_alpha"]),
            expected: "the rank and the strength of a peft adapter".into(),
            fix: "copy the file again".into(),
        });
    };
    let scale = (alpha / rank) as f32;
    let file = named(folder, "adapter_model")?;
    let source = file.display().to_string();
    let tensors = whole(open_weights(&file)?, None)?;
    let (mut unknown, mut missing) = (vec![], vec![]);
    for (name, down) in &tensors {
        let Some(module) = name.strip_suffix(".lora_A.weight") else {
            if !name.ends_with(".lora_B.weight") {
                unknown.push(name.clone());
            }
            continue;
        };
        let other = format!("{module}.lora_B.weight");
        let Some((_, up)) = tensors.iter().find(|(n, _)| *n == other) else {
            missing.push(other);
            continue;
        };
        let own = module.strip_prefix("base_model.model.extractor_list.").and_then(|rest| {
            let (branch, rest) = rest.split_once(".model.")?;
            Some(format!("branches.{branch}.{}", rest.strip_suffix(".qkv")?))
        });
        for (i, part) in ["q", "k", "v"].iter().enumerate() {
            let at = own.as_ref().map(|own| format!("{own}.{part}.weight"));
            let slot = at.as_ref().and_then(|at| slots.get_mut(at));
            let merged = slot.and_then(|slot| {
                let up = up.share(i, 3)?;
                *slot = slot.merged(LowRank { up, down: down.clone(), scale })?;
                Some(())
            });
            if merged.is_none() && i == 0 {
                unknown.push(name.clone());
            }
        }
    }
    match missing.is_empty() && unknown.is_empty() {
        true => Ok(()),
        false => Err(Error::Weights { source_name: source, missing, unknown, misshaped: vec![] }),
    }
}

fn owlv2(folder: &Path) -> Result<Opened> {
    if !folder.join("config.json").is_file() {
        return Err(Error::Format {
            path: folder.to_path_buf(),
            found: "no config.json".into(),
            expected:
                "the folder of an OWLv2 in transformers' format: config.json and *.safetensors"
                    .into(),
            fix: "name that folder, for example one of google/owlv2-base-patch16-ensemble".into(),
        });
    }
    let config = config_of(folder, Component::Owlv2)?;
    let tensors = stored(folder)?;
    let mut reader = Reader::default();
    reader.add(&tensors, &format::OWLV2_IMAGE, ("vision.", "owlv2.vision_model."))?;
    reader.add(&tensors, &format::OWLV2_TEXT, ("", ""))?;
    Ok(reader.done(config))
}

fn image_reward(folder: &Path) -> Result<Opened> {
    let mut reader = Reader::default();
    let tensors = whole(open_weights(named(folder, "ImageReward")?)?, None)?;
    reader.add(&tensors, &format::DINO, ("visual.", "blip.visual_encoder."))?;
    let unused = ["blip.vision_proj.", "blip.text_proj.", "blip.visual_encoder."];
    let ids = "blip.text_encoder.embeddings.position_ids";
    for (name, slot) in tensors {
        if unused.iter().any(|u| name.starts_with(u)) || name == ids {
            continue;
        }
        let own = name.strip_prefix("blip.text_encoder.").map(|tail| format!("text.{tail}"));
        store::insert(&mut reader.slots, own.unwrap_or(name), slot)?;
    }
    for (own, stored) in [("text.", "blip.text_encoder."), ("mlp.", "mlp.")] {
        reader.published.push(Published { own: own.into(), stored, format: None });
    }
    let config = folder::read_json(&folder.join("med_config.json"))?;
    Ok(reader.done(json!({"original": "imagereward", "text": config})))
}
