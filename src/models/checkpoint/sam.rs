//! Segment Anything: transformers' folders, and files with the original names, whose configuration is read off the
//! shapes.

use super::{
    Component, folder,
    sam_names::{self as names, POSITIONS},
    store::{self, Slot, Slots},
    tower::only_file,
};
use crate::{
    error::{Error, Result},
    tensor::open_weights,
};
use serde_json::{Value, json};
use std::{path::Path, sync::Arc};

/// Epsilon of TinyViT's batch normalizations.
const BATCH_NORM_EPS: f64 = 1e-5;
/// What a batch normalization has beside the convolution's weight.
const BATCH_NORM: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];

type Found = Vec<(String, Slot)>;

/// Opens `component` of `model`: transformers' folder (`config.json` with `model_type` sam), or a file (safetensors or
/// torch's) with the names of segment_anything or MobileSAM, or a folder that holds one.
pub fn open(model: &Path, component: Component) -> Result<(Value, Slots)> {
    let config = model.join("config.json");
    let found = read(model)?;
    if model.is_dir() && config.is_file() {
        let json = folder::read_json(&config)?;
        if json["model_type"] != "sam" {
            return Err(Error::Format {
                path: config,
                found: format!("model_type {}", json["model_type"]),
                expected: "sam".into(),
                fix: "name the folder of a SAM, or a file with the original names".into(),
            });
        }
        return Ok((json, published(found, component)?));
    }
    let is = |name: &str| found.iter().any(|(n, _)| n == name);
    let tiny = ["seq.0.c.weight", "seq.0.weight"].map(|n| format!("image_encoder.patch_embed.{n}"));
    match component {
        Component::SamImageEncoder if tiny.iter().any(|n| is(n)) => mobile(model, found),
        Component::SamImageEncoder => vit(model, found),
        _ => decoder(model, found),
    }
}

/// Every tensor of a file (safetensors or torch's), or of the file or shards in a folder.
fn read(model: &Path) -> Result<Found> {
    let files = match model.is_dir() {
        true if model.join("config.json").is_file() => folder::weight_files(model)?,
        true => vec![(only_file(model)?, None)],
        false => vec![(model.to_path_buf(), None)],
    };
    let mut found = vec![];
    for (path, only) in files {
        let file = Arc::new(open_weights(&path)?);
        let names = only.unwrap_or_else(|| file.entries().keys().cloned().collect());
        for name in names {
            let slot = Slot::whole(&file, &name)?;
            found.push((name, slot));
        }
    }
    Ok(found)
}

/// transformers' names.
fn published(found: Found, component: Component) -> Result<Slots> {
    let mut slots = Slots::new();
    for (name, slot) in found {
        let own = match component {
            Component::SamImageEncoder => names::encoder(&name),
            _ => names::decoder(&name),
        };
        if let Some(own) = own {
            put(&mut slots, own, slot)?;
        }
    }
    Ok(slots)
}

/// Adds a parameter; a stacked projection is three, a second copy of the position matrix must be the first's.
fn put(slots: &mut Slots, name: String, slot: Slot) -> Result<()> {
    if name == POSITIONS
        && let Some(first) = slots.get(POSITIONS)
    {
        return match first.read()?.data == slot.read()?.data {
            true => Ok(()),
            false => Err(Error::Data {
                at: slot.source(),
                found: format!("{} and {} with other numbers", first.stored, slot.stored),
                expected: "the same matrix twice".into(),
                fix: "remove the wrong one".into(),
            }),
        };
    }
    match name.split_once("attn.qkv.") {
        Some((block, kind)) => thirds(slots, (block, kind), &slot, |i| slot.share(i, 3)),
        None => store::insert(slots, name, slot),
    }
}

/// q, k and v of a stacked projection.
fn thirds(
    slots: &mut Slots,
    (block, kind): (&str, &str),
    slot: &Slot,
    third: impl Fn(usize) -> Option<Slot>,
) -> Result<()> {
    for (i, part) in ["q", "k", "v"].iter().enumerate() {
        let own = third(i).ok_or_else(|| Error::Weights {
            source_name: slot.source(),
            missing: vec![],
            unknown: vec![],
            misshaped: vec![format!(
                "{}: found {:?}, expected rows of q, k and v for each head",
                slot.stored, slot.dims
            )],
        })?;
        store::insert(slots, format!("{block}attn.{part}.{kind}"), own)?;
    }
    Ok(())
}

fn absent(model: &Path, missing: Vec<String>) -> Error {
    let source_name = model.display().to_string();
    Error::Weights { source_name, missing, unknown: vec![], misshaped: vec![] }
}

/// The extents of tensors that a configuration is read off; those that are missing are listed at once.
struct Shapes<'a> {
    slots: &'a Slots,
    missing: Vec<String>,
}

impl Shapes<'_> {
    /// Extent `axis` of the parameter `name`; 1 where there is none.
    fn get(&mut self, name: &str, axis: usize) -> usize {
        match self.slots.get(name).and_then(|s| s.dims.get(axis)) {
            Some(n) => *n,
            None => {
                let stored = self.slots.get(name).map(|s| format!("{} {:?}", s.stored, s.dims));
                self.missing.push(stored.unwrap_or_else(|| name.into()));
                1
            }
        }
    }

    /// How many `prefix{i}.` there are, counted from 0.
    fn count(&self, prefix: &str) -> usize {
        let has = |i: &usize| {
            let head = format!("{prefix}{i}.");
            self.slots.range(head.clone()..).next().is_some_and(|(n, _)| n.starts_with(&head))
        };
        (0..).take_while(has).count()
    }

    fn done(self, model: &Path, original: impl Fn(&str) -> String) -> Result<()> {
        match self.missing.is_empty() {
            true => Ok(()),
            false => Err(absent(model, self.missing.iter().map(|n| original(n)).collect())),
        }
    }
}

/// `image_encoder.` of segment_anything.
fn vit(model: &Path, found: Found) -> Result<(Value, Slots)> {
    let mut slots = Slots::new();
    for (name, slot) in found {
        if let Some(own) = names::original_encoder(&name) {
            put(&mut slots, own, slot)?;
        }
    }
    let mut s = Shapes { slots: &slots, missing: vec![] };
    let depth = s.count("layers.");
    let mut table = |i: usize, axis: &str| s.get(&format!("layers.{i}.attn.rel_pos_{axis}"), 0);
    let tables: Vec<[usize; 2]> = (0..depth).map(|i| [table(i, "h"), table(i, "w")]).collect();
    let window = tables.iter().map(|t| t[0]).min().unwrap_or(1).div_ceil(2);
    let longer = |i: &usize| tables[*i][0] > 2 * window - 1;
    let global: Vec<usize> = (0..depth).filter(longer).collect();
    let patch = s.get("patch_embed.projection.weight", 2);
    let width = s.get("patch_embed.projection.weight", 0);
    let head_dim = s.get("layers.0.attn.rel_pos_h", 1);
    let config = json!({"model_type": "sam", "vision_config": {
        "hidden_size": width, "patch_size": patch,
        "num_channels": s.get("patch_embed.projection.weight", 1),
        "grid": [s.get("pos_embed", 1), s.get("pos_embed", 2)], "image_size": patch,
        "num_hidden_layers": depth.max(1), "num_attention_heads": (width / head_dim.max(1)).max(1),
        "mlp_dim": s.get("layers.0.mlp.lin1.weight", 0),
        "output_channels": s.get("neck.conv1.weight", 0), "layer_norm_eps": 1e-6,
        "window_size": window, "global_attn_indexes": global, "tables": tables,
        "qkv_bias": slots.contains_key("layers.0.attn.q.bias"),
    }});
    s.done(model, names::original_of_encoder)?;
    Ok((config, slots))
}

/// `image_encoder.` of MobileSAM.
fn mobile(model: &Path, found: Found) -> Result<(Value, Slots)> {
    let own = found.into_iter().filter_map(|(n, s)| Some((names::mobile(&n)?, s)));
    let found = folded(model, own.collect())?;
    let rows = |name: &str| found.iter().find(|(n, _)| n == name).and_then(|(_, s)| s.dims.first());
    let mut slots = Slots::new();
    for (name, slot) in &found {
        match name.split_once("attn.qkv.") {
            Some((block, kind)) => {
                let heads = rows(&format!("{block}attn.attention_biases")).copied().unwrap_or(1);
                thirds(&mut slots, (block, kind), slot, |i| slot.of_heads(i, heads))?;
            }
            None => store::insert(&mut slots, name.clone(), slot.clone())?,
        }
    }
    let mut s = Shapes { slots: &slots, missing: vec![] };
    let (mut widths, mut depths, mut inner) = (vec![], vec![], vec![]);
    let (mut heads, mut windows) = (vec![], vec![]);
    for i in 0..s.count("layers.").max(1) {
        let at = format!("layers.{i}.blocks.");
        depths.push(s.count(&at).max(1));
        if i == 0 {
            widths.push(s.get("patch_embed.seq.2.weight", 0));
            inner.push(s.get(&format!("{at}0.conv1.weight"), 0));
            heads.push(0);
            windows.push(0);
        } else {
            widths.push(s.get(&format!("{at}0.local_conv.weight"), 0));
            inner.push(s.get(&format!("{at}0.mlp.fc1.weight"), 0));
            let biases = format!("{at}0.attn.attention_biases");
            heads.push(s.get(&biases, 0));
            let columns = s.get(&biases, 1);
            windows.push(if columns.isqrt().pow(2) == columns { columns.isqrt() } else { 0 });
        }
    }
    let config = json!({
        "model_type": "mobile_sam", "widths": widths, "depths": depths, "inner": inner,
        "heads": heads, "windows": windows, "stem": s.get("patch_embed.seq.0.weight", 0),
        "num_channels": s.get("patch_embed.seq.0.weight", 1),
        "output_channels": s.get("neck.0.weight", 0),
    });
    s.done(model, |n| format!("image_encoder.{n}"))?;
    Ok((config, slots))
}

/// Every convolution `X.c.weight` with the normalization `X.bn` after it as one with a bias, `X.weight` and `X.bias`:
/// row `o` times `gamma / sqrt(var + eps)`, and `beta - mean gamma / sqrt(var + eps)`.
fn folded(model: &Path, found: Found) -> Result<Found> {
    let get = |name: &str| found.iter().find(|(n, _)| n == name).map(|(_, s)| s);
    let (mut all, mut missing, mut misshaped) = (vec![], vec![], vec![]);
    for (name, slot) in &found {
        let Some(at) = name.strip_suffix(".c.weight") else {
            let part = BATCH_NORM.iter().any(|p| name.ends_with(&format!(".bn.{p}")));
            let of_conv = name.rsplit_once(".bn.").map(|(at, _)| format!("{at}.c.weight"));
            if !part || of_conv.is_none_or(|c| get(&c).is_none()) {
                all.push((name.clone(), slot.clone()));
            }
            continue;
        };
        let mut norm = vec![];
        for part in BATCH_NORM {
            let name = format!("{at}.bn.{part}");
            match get(&name) {
                None => missing.push(format!("image_encoder.{name}")),
                Some(s) if s.dims[..] != slot.dims[..1.min(slot.dims.len())] => {
                    let want = format!("expected {:?}", &slot.dims[..1.min(slot.dims.len())]);
                    misshaped.push(format!("{}: found {:?}, {want}", s.stored, s.dims));
                }
                Some(s) => norm.push((s, s.read()?.data)),
            }
        }
        if let [(_, gamma), (bias, beta), (_, mean), (_, var)] = &norm[..] {
            let factor =
                |i: usize| f64::from(gamma[i]) / (f64::from(var[i]) + BATCH_NORM_EPS).sqrt();
            let shift = |i: usize| f64::from(beta[i]) - f64::from(mean[i]) * factor(i);
            let each = 0..gamma.len();
            let factors = each.clone().map(|i| factor(i) as f32).collect();
            let shifts = each.map(|i| shift(i) as f32).collect();
            all.push((format!("{at}.weight"), slot.scaled(factors)));
            all.push((format!("{at}.bias"), bias.known(shifts)));
        }
    }
    match missing.is_empty() && misshaped.is_empty() {
        true => Ok(all),
        false => {
            let source_name = model.display().to_string();
            Err(Error::Weights { source_name, missing, unknown: vec![], misshaped })
        }
    }
}

/// `prompt_encoder.` and `mask_decoder.` of segment_anything, which all its models share.
fn decoder(model: &Path, found: Found) -> Result<(Value, Slots)> {
    let mut slots = Slots::new();
    let all: Vec<String> = found.iter().map(|(n, _)| n.clone()).collect();
    for (name, slot) in found {
        if let Some(own) = names::original_decoder(&name, &all) {
            put(&mut slots, own, slot)?;
        }
    }
    let mut s = Shapes { slots: &slots, missing: vec![] };
    let transformer = "mask_decoder.transformer.layers.";
    let last = "mask_decoder.transformer.final_attn_token_to_image.q_proj.weight";
    let iou = "mask_decoder.iou_prediction_head.";
    let width = s.get("mask_decoder.iou_token.weight", 1);
    let first = format!("{transformer}0.");
    let config = json!({"model_type": "sam",
        "prompt_encoder_config": {
            "hidden_size": width, "any_size": true, "layer_norm_eps": 1e-6,
            "mask_input_channels": s.get("prompt_encoder.mask_embed.conv2.weight", 0),
        },
        "mask_decoder_config": {
            "hidden_size": width, "num_hidden_layers": s.count(transformer),
            "num_attention_heads": 8, "layer_norm_eps": 1e-5, "hidden_act": "relu",
            "mlp_dim": s.get(&format!("{first}mlp.lin1.weight"), 0),
            "cross_width": s.get(&format!("{first}cross_attn_token_to_image.q_proj.weight"), 0),
            "last_width": s.get(last, 0),
            "num_multimask_outputs": s.get("mask_decoder.mask_tokens.weight", 0).saturating_sub(1),
            "iou_head_depth": 2 + s.count(&format!("{iou}layers.")),
            "iou_head_hidden_dim": s.get(&format!("{iou}proj_in.weight"), 0),
        },
    });
    s.done(model, names::original_of_decoder)?;
    Ok((config, slots))
}
