//! The result of a run as files.

use super::{Blueprint, Trainable, is_adapter, is_decoupling};
use crate::{
    data::TrainConfig,
    error::{Error, Result},
    lora::{Convention, DECOUPLING_KEY, Layer, Lora, METHOD_KEY, Modules, WORDS_KEY},
    models::{
        base::Base,
        decoupling::Decoupling,
        export::{Changed, export},
    },
    plan::{WeightLayout, WeightSource},
    tensor::{
        Floats, Tensor,
        safetensors::{Dtype, Raw},
    },
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// The adapter among trained tensors, stored as `dtype`; `alpha` as the configuration has it.
///
/// # Errors
/// [`Error::Weights`] when a factor lacks the other one.
pub fn adapter(trained: &[Trainable], alpha: f32, dtype: Dtype) -> Result<Lora> {
    let tensor = |t: &Trainable| Tensor { dims: t.dims.clone(), data: t.data.clone() };
    let mut layers = vec![];
    for down in trained {
        let Some(module) = down.name.strip_suffix(".lora_A.weight") else { continue };
        let name = format!("{module}.lora_B.weight");
        let Some(up) = trained.iter().find(|t| t.name == name) else {
            return Err(Error::Weights {
                source_name: "trained adapter".into(),
                missing: vec![name],
                unknown: vec![],
                misshaped: vec![],
            });
        };
        layers.push(Layer::new(module, &tensor(down), &tensor(up), alpha, dtype)?);
    }
    let own = trained.iter().filter(|t| is_decoupling(&t.name));
    let beside = own.map(|t| (t.name.clone(), Raw::rounded(&t.dims, &t.data, dtype)));
    Ok(Lora { beside: beside.collect(), ..Lora::from_layers(layers) })
}

/// Every module of a base that can carry an adapter.
pub fn modules(base: &Base) -> Modules {
    let all: Vec<(String, Vec<usize>)> = (base.weights.parts.iter())
        .flat_map(|p| {
            let prefix = p.component().name();
            p.shapes().map(move |(n, d)| (format!("{prefix}.{n}"), d.to_vec()))
        })
        .collect();
    Modules::of(all.iter().map(|(n, d)| (n.as_str(), d.as_slice())))
}

/// Text pairs of the written files: which method made them.
fn metadata(config: &TrainConfig, decoupling: Option<&Decoupling>) -> BTreeMap<String, String> {
    let mut pairs = BTreeMap::from([(METHOD_KEY.into(), config.method.name.word().into())]);
    if !config.preset.is_empty() {
        pairs.insert("selvedge.preset".into(), config.preset.clone());
    }
    if let Some(text) = decoupling.and_then(|d| serde_json::to_string(d).ok()) {
        pairs.insert(DECOUPLING_KEY.into(), text);
        let encoder = config.decoupling.encoder().display().to_string();
        pairs.insert(ENCODER_KEY.into(), encoder);
        let words = config.learned_words();
        if !words.is_empty() {
            pairs.insert(WORDS_KEY.into(), serde_json::json!(words).to_string());
        }
    }
    pairs
}

/// The text pair of a decoupled adapter that names the image encoder it was trained with.
pub const ENCODER_KEY: &str = "selvedge.decoupling.encoder";

/// Trained weights in the place of the base's own: for sampling before they are written.
#[derive(Debug)]
pub struct TrainedWeights<'a>(&'a [Trainable]);

impl<'a> TrainedWeights<'a> {
    /// The weights of `trained`.
    pub fn new(trained: &'a [Trainable]) -> Self {
        Self(trained)
    }
}

impl WeightSource for TrainedWeights<'_> {
    fn get(&self, name: &str, dims: &[usize], layout: WeightLayout) -> Result<Option<Floats>> {
        let own = self.0.iter().find(|t| t.name == name);
        Ok(own.map(|t| layout.to_runtime(dims, t.data.clone()).into()))
    }
}

/// Writes the result; the paths of what was written, the one to use first.
///
/// Adapters: `adapter.safetensors` in the first convention of the configuration, `adapter_<name>.safetensors` in the
/// others. Weights trained in mode `full`: the folder `model`, a complete diffusers model (see [`export`]).
///
/// # Errors
/// [`Error::File`] (nothing half-written is left), [`Error::Data`] for a module without a name in a convention.
pub fn save(
    folder: &Path,
    config: &TrainConfig,
    base: &Base,
    trained: &[Trainable],
) -> Result<Vec<PathBuf>> {
    let mut written = vec![];
    if trained.iter().any(|t| is_adapter(&t.name)) {
        // what is decoupled is to be small: half of the bytes
        let dtype = if config.decouples() { Dtype::F16 } else { Dtype::F32 };
        let alpha = config.train.effective_alpha() as f32;
        let (mut lora, modules) = (adapter(trained, alpha, dtype)?, modules(base));
        let decoupled = Blueprint::new(config, base.architecture())?.options.decoupled;
        lora.metadata = metadata(config, decoupled.map(|d| d.model).as_ref());
        for (i, format) in config.train.formats.iter().enumerate() {
            let convention = match format.as_str() {
                "kohya" => Convention::Kohya,
                "comfy" => Convention::Comfy,
                _ => Convention::Peft,
            };
            let name = match i {
                0 => "adapter.safetensors".into(),
                _ => format!("adapter_{format}.safetensors"),
            };
            lora.save(folder.join(&name), convention, &modules)?;
            written.push(folder.join(name));
        }
        return Ok(written);
    }
    let changed: Changed<'_> =
        trained.iter().map(|t| (t.name.as_str(), t.data.as_slice())).collect();
    let path = folder.join("model");
    export(base, &changed, &path)?;
    Ok(vec![path])
}
