//! Adapter files as a source of weights for a recording that carries adapters.

use super::{Adapter, Adapters, Modules, down_name, layer::Lora, up_name};
use crate::{
    error::{Error, Result},
    plan::{WeightLayout, WeightSource},
    tensor::{Floats, safetensors::Raw},
};
use std::path::Path;

/// Several adapters, each at a strength; what they add is summed.
#[derive(Clone, Debug, Default)]
pub struct Loras {
    list: Vec<(Lora, f32)>,
}

impl Loras {
    /// `list` in the order given.
    pub fn new(list: Vec<(Lora, f32)>) -> Self {
        Self { list }
    }

    /// Each adapter with its strength.
    pub fn iter(&self) -> impl Iterator<Item = (&Lora, f32)> {
        self.list.iter().map(|(lora, strength)| (lora, *strength))
    }

    /// True without any adapter.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Which modules are adapted, with what rank and scale.
    pub fn adapters(&self) -> Adapters {
        let mut adapters = Adapters::new();
        for (lora, strength) in &self.list {
            for layer in lora.layers.values() {
                let scale = layer.scale() * strength;
                adapters.insert(&layer.module, Adapter { rank: layer.rank(), scale });
            }
        }
        adapters
    }

    /// The words whose embeddings the files have, those of the first file that has any: a base has room for one set.
    ///
    /// # Errors
    /// As [`Lora::words`].
    pub fn words(&self) -> Result<Vec<String>> {
        let all: Vec<Vec<String>> =
            self.list.iter().map(|(lora, _)| lora.words()).collect::<Result<_>>()?;
        Ok(all.into_iter().find(|words| !words.is_empty()).unwrap_or_default())
    }

    /// The factor behind a parameter name ([`down_name`], [`up_name`]) and its key in the file.
    fn find(&self, name: &str) -> Option<(&Raw, &str)> {
        let at = name.find(".lora_A.").or_else(|| name.find(".lora_B."))?;
        let module = &name[..at];
        let own = self.list.iter().filter_map(|(lora, _)| lora.layers.get(module));
        own.enumerate().find_map(|(i, layer)| match () {
            () if down_name(module, i) == name => Some((&layer.down, layer.keys.0.as_str())),
            () if up_name(module, i) == name => Some((&layer.up, layer.keys.1.as_str())),
            () => None,
        })
    }
}

impl WeightSource for Loras {
    fn get(&self, name: &str, dims: &[usize], layout: WeightLayout) -> Result<Option<Floats>> {
        let beside = || self.list.iter().find_map(|(lora, _)| lora.beside.get(name));
        let found = self.find(name).map(|(raw, _)| raw).or_else(beside);
        let Some(raw) = found else { return Ok(None) };
        let want = layout.checkpoint_dims(dims);
        let count: usize = want.iter().product();
        match raw.to_tensor().filter(|t| t.data.len() == count && t.dims.first() == want.first()) {
            Some(t) => Ok(Some(layout.to_runtime(dims, t.data).into())),
            None => Err(Error::Weights {
                source_name: "adapter".into(),
                missing: vec![],
                unknown: vec![],
                misshaped: vec![format!("{name}: found {:?}, expected {want:?}", raw.dims)],
            }),
        }
    }
}

/// One adapter file, at strength 1 as it is opened.
#[derive(Clone, Debug)]
pub struct LoraFile {
    all: Loras,
}

impl LoraFile {
    /// Reads `path`; names without a component belong to `component`.
    ///
    /// # Errors
    /// Those of [`Lora::open`].
    pub fn open(path: &Path, component: &str) -> Result<Self> {
        Self::open_for(path, component, Modules::standard())
    }

    /// Reads `path` for the model whose modules are `modules`.
    ///
    /// # Errors
    /// Those of [`Lora::open`].
    pub fn open_for(path: &Path, component: &str, modules: &Modules) -> Result<Self> {
        Ok(Self { all: Loras::new(vec![(Lora::open(path, component, modules)?, 1.0)]) })
    }

    /// The same file at `strength` times its own.
    pub fn scaled(mut self, strength: f32) -> Self {
        self.all.list.iter_mut().for_each(|(_, s)| *s *= strength);
        self
    }

    /// Which modules are adapted, with what rank and scale.
    pub fn adapters(&self) -> Adapters {
        self.all.adapters()
    }

    /// The key in the file of the parameter `name` ([`down_name`], [`up_name`]).
    pub fn stored_name(&self, name: &str) -> Option<&str> {
        self.all.find(name).map(|(_, key)| key)
    }
}

impl WeightSource for LoraFile {
    fn get(&self, name: &str, dims: &[usize], layout: WeightLayout) -> Result<Option<Floats>> {
        self.all.get(name, dims, layout)
    }
}
