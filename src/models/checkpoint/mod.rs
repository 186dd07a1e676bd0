//! Weights of the base model (diffusers folders, single files with the original names, the embedded base) and of
//! the towers that judge pictures.

pub mod assets;
mod component;
mod derive;
mod embedded;
mod family;
mod folder;
mod format;
mod names;
mod open_clip;
mod runtime;
mod sam;
mod sam_names;
mod single;
mod stacked;
mod store;
mod target;
mod tower;

use crate::{
    device::Pool,
    error::{Error, Result},
    lora::Modules,
    plan::{ParamInfo, StoredBytes, WeightLayout, WeightSource},
    tensor::{DType, Floats, Tensor, WeakFloats},
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
};
use store::{Slot, Slots};

pub use component::Component;
pub use embedded::{NANO, model_json};
pub use family::Family;
pub use folder::model_files;
pub use sam_names::POSITIONS;
pub use target::Target;
pub use tower::{config_of, has_tower};

type Cache = HashMap<(String, WeightLayout), WeakFloats>;
type HalfCache = HashMap<(String, WeightLayout, DType), Weak<dyn AsRef<[u8]> + Send + Sync>>;

/// What programs hold now in half precision.
#[derive(Default)]
struct Halves(HalfCache);

impl std::fmt::Debug for Halves {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Halves({})", self.0.len())
    }
}

/// The weights and the configuration of one component; values are read when asked for.
#[derive(Debug)]
pub struct Checkpoint {
    component: Component,
    source: String,
    config: Value,
    slots: Slots,
    /// How the file calls what it lacks; empty for a part of a text-to-image model.
    published: Vec<tower::Published>,
    /// What programs hold now; a parameter is read again when nobody does.
    cache: Mutex<Cache>,
    /// The same of those in half precision.
    halves: Mutex<Halves>,
    pool: Pool,
}

impl Checkpoint {
    /// Opens `component` of `model`: a diffusers folder, the component's own folder (`config.json`
    /// and `*.safetensors`, also in shards), a single `.safetensors` file with the original names
    /// of SDXL, SD 1.5 or SD 2.1, or the word `nano`. Full-precision files are preferred to `fp16`
    /// variants. A tower is a transformers folder, a file with the original names (`.safetensors` or torch's), or
    /// a folder with one.
    ///
    /// # Errors
    /// [`Error::File`] for what cannot be opened, [`Error::Format`] for what is not such a model.
    pub fn open(model: impl AsRef<Path>, component: Component) -> Result<Self> {
        let model = model.as_ref();
        let mut published = vec![];
        let (config, slots) = match () {
            () if component.is_tower() => {
                let opened = tower::open(model, component)?;
                published = opened.published;
                (opened.config, opened.slots)
            }
            () if matches!(component, Component::SamImageEncoder | Component::SamMaskDecoder) => {
                sam::open(model, component)?
            }
            () if model == Path::new(NANO) => embedded::component(component)?,
            () if model.is_dir() => {
                let folder = folder::component_folder(model, component)?;
                (checked_config(&folder, component)?, folder::open(&folder, component)?)
            }
            () => single::open(model, component)?,
        };
        let source = match model.is_dir() {
            true => format!("{} ({})", model.display(), component.name()),
            false => model.display().to_string(),
        };
        Ok(Self {
            component,
            source,
            config,
            slots,
            published,
            cache: Mutex::default(),
            halves: Mutex::default(),
            pool: Pool::default(),
        })
    }

    /// Which part it is.
    pub fn component(&self) -> Component {
        self.component
    }

    /// The file or folder it was opened from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The component's configuration, as diffusers or transformers writes `config.json`.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Every parameter with its dims in the published layout: `conv_in.weight` is `[O, I, kh, kw]`.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.slots.iter().map(|(n, s)| (n.as_str(), s.dims.as_slice()))
    }

    /// The modules that an adapter of this component may name; other components' are the standard ones.
    pub fn modules(&self) -> Modules {
        let full =
            |(n, d): (&str, &[usize])| (format!("{}.{n}", self.component.name()), d.to_vec());
        let all: Vec<(String, Vec<usize>)> = self.shapes().map(full).collect();
        Modules::of(all.iter().map(|(n, d)| (n.as_str(), d.as_slice())))
    }

    /// The name under which the file holds the parameter `name` (no component prefix).
    pub fn stored_name(&self, name: &str) -> Option<&str> {
        self.slots.get(name).map(|s| s.stored.as_str())
    }

    /// The parameter `name` (no component prefix) in the published layout.
    ///
    /// # Errors
    /// [`Error::Weights`] when there is none; those of the file.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        match self.slots.get(name) {
            Some(slot) => slot.read(),
            None => Err(self.weights_error(vec![name.into()], vec![], vec![])),
        }
    }

    /// Compares with what a model records: names the source lacks, names the model does not know
    /// (bar harmless ones: position ids, the logit scale, a vision tower, a text projection nobody
    /// asks for, layers after the last one used, the half of a VAE that is not recorded) and other
    /// shapes.
    ///
    /// # Errors
    /// One [`Error::Weights`] that lists all of them.
    pub fn check(&self, params: &[ParamInfo]) -> Result<()> {
        let (mut missing, mut misshaped) = (vec![], vec![]);
        let wanted: BTreeMap<&str, &ParamInfo> =
            params.iter().filter_map(|p| Some((self.own(&p.name)?, p))).collect();
        for (name, param) in &wanted {
            let want = param.layout.checkpoint_dims(&param.dims);
            match self.slots.get(*name) {
                None => missing.push(self.published_name(name)),
                Some(s) if !fits(&s.dims, &want) => {
                    misshaped.push(format!("{name}: found {:?}, expected {want:?}", s.dims));
                }
                Some(_) => {}
            }
        }
        let unknown: Vec<String> = (self.slots.iter())
            .filter(|(n, _)| !wanted.contains_key(n.as_str()) && !self.harmless(n, &wanted))
            .map(|(_, slot)| slot.stored.clone())
            .collect();
        match missing.is_empty() && unknown.is_empty() && misshaped.is_empty() {
            true => Ok(()),
            false => Err(self.weights_error(missing, unknown, misshaped)),
        }
    }

    fn harmless(&self, name: &str, wanted: &BTreeMap<&str, &ParamInfo>) -> bool {
        if names::harmless(self.component, name) {
            return true;
        }
        let recorded =
            |part: &str| wanted.range(part..).next().is_some_and(|(n, _)| n.starts_with(part));
        match self.component {
            Component::SamMaskDecoder => {
                let prompts = ["prompt_encoder.mask_embed.", "prompt_encoder.no_mask_embed."];
                name == POSITIONS || prompts.iter().any(|p| name.starts_with(p) && !recorded(p))
            }
            Component::Vae => {
                let encoder = name.starts_with("encoder.") || name.starts_with("quant_conv.");
                let decoder = name.starts_with("decoder.") || name.starts_with("post_quant_conv.");
                encoder && !recorded("encoder.") || decoder && !recorded("decoder.")
            }
            Component::TextEncoder | Component::TextEncoder2 => {
                let layers = self.config["num_hidden_layers"].as_u64().unwrap_or(0);
                let layer = name.strip_prefix("text_model.encoder.layers.");
                let layer = layer.and_then(|t| t.split_once('.')?.0.parse::<u64>().ok());
                layer.is_some_and(|l| {
                    l < layers && !recorded(&format!("text_model.encoder.layers.{l}."))
                }) || name.starts_with("text_model.final_layer_norm.")
            }
            _ => false,
        }
    }

    /// The name that the file would have for the parameter `name` (no component prefix).
    pub fn published_name(&self, name: &str) -> String {
        self.published.iter().find_map(|p| p.name(name)).unwrap_or_else(|| name.to_string())
    }

    /// Dims of the parameter `name` (no component prefix) in the file, where they are of `len` elements.
    pub fn stored_dims(&self, name: &str, len: usize) -> Option<&[usize]> {
        let dims = self.slots.get(name).map(|s| s.dims.as_slice());
        dims.filter(|d| d.iter().product::<usize>() == len)
    }

    /// `name` without the component prefix; `None` for another component's parameter.
    fn own<'n>(&self, name: &'n str) -> Option<&'n str> {
        name.strip_prefix(self.component.name())?.strip_prefix('.')
    }

    /// Our own parameter `name` with its place in the file, which must have the right shape.
    fn slot<'n>(
        &self,
        name: &'n str,
        dims: &[usize],
        layout: WeightLayout,
    ) -> Result<Option<(&'n str, &Slot)>> {
        let Some((name, slot)) = self.own(name).and_then(|n| Some((n, self.slots.get(n)?))) else {
            return Ok(None);
        };
        let want = layout.checkpoint_dims(dims);
        if !fits(&slot.dims, &want) {
            let line = format!("{name}: found {:?}, expected {want:?}", slot.dims);
            return Err(self.weights_error(vec![], vec![], vec![line]));
        }
        Ok(Some((name, slot)))
    }

    fn weights_error(
        &self,
        missing: Vec<String>,
        unknown: Vec<String>,
        misshaped: Vec<String>,
    ) -> Error {
        Error::Weights { source_name: self.source.clone(), missing, unknown, misshaped }
    }
}

impl WeightSource for Checkpoint {
    fn get(&self, name: &str, dims: &[usize], layout: WeightLayout) -> Result<Option<Floats>> {
        let Some((name, slot)) = self.slot(name, dims, layout)? else { return Ok(None) };
        let key = (name.to_string(), layout);
        let cache = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = cache().get(&key).and_then(WeakFloats::upgrade) {
            return Ok(Some(shared));
        }
        let shared = runtime::floats(slot, dims, layout, &self.pool)?; // no lock: every core converts
        cache().insert(key, shared.downgrade());
        Ok(Some(shared))
    }

    fn stored(
        &self,
        name: &str,
        dims: &[usize],
        layout: WeightLayout,
        dtype: DType,
    ) -> Result<Option<StoredBytes>> {
        match self.slot(name, dims, layout)? {
            Some((_, slot)) => runtime::bytes(slot, dims, layout, dtype),
            None => Ok(None),
        }
    }

    fn halves(
        &self,
        name: &str,
        dims: &[usize],
        layout: WeightLayout,
        dtype: DType,
    ) -> Result<Option<StoredBytes>> {
        let Some((name, slot)) = self.slot(name, dims, layout)? else { return Ok(None) };
        let key = (name.to_string(), layout, dtype);
        let cache = || self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = cache().0.get(&key).and_then(Weak::upgrade) {
            return Ok(Some(shared));
        }
        let shared = runtime::halves(slot, dims, layout, dtype, &self.pool)?;
        cache().0.insert(key, Arc::downgrade(&shared));
        Ok(Some(shared))
    }
}

/// Several components as one source of weights.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The opened parts.
    pub parts: Vec<Arc<Checkpoint>>,
}

impl Model {
    /// Opens `components` of `model`.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`].
    pub fn open(model: impl AsRef<Path>, components: &[Component]) -> Result<Self> {
        let open = |c: &Component| Ok(Arc::new(Checkpoint::open(model.as_ref(), *c)?));
        Ok(Self { parts: components.iter().map(open).collect::<Result<_>>()? })
    }

    /// The opened part, if there.
    pub fn part(&self, component: Component) -> Option<&Arc<Checkpoint>> {
        self.parts.iter().find(|p| p.component == component)
    }
}

impl WeightSource for Model {
    fn get(&self, name: &str, dims: &[usize], layout: WeightLayout) -> Result<Option<Floats>> {
        self.keeper(name).map_or(Ok(None), |part| part.get(name, dims, layout))
    }

    fn keeper(&self, name: &str) -> Option<&dyn WeightSource> {
        let part = self.parts.iter().find(|p| p.own(name).is_some());
        part.map(|p| p.as_ref() as &dyn WeightSource)
    }
}

/// A 1x1 convolution and a linear weight are the same numbers, and so are a row and a table of one row: ones before
/// and behind do not count.
fn fits(found: &[usize], want: &[usize]) -> bool {
    let bare = |d: &[usize]| {
        let first = d.iter().position(|n| *n != 1).unwrap_or(d.len());
        match &d[first..] {
            [o, i, 1, 1] => vec![*o, *i],
            other => other.to_vec(),
        }
    };
    bare(found) == bare(want)
}

/// The configuration of the component in `folder`, which must call itself by the right name if at
/// all.
fn checked_config(folder: &Path, component: Component) -> Result<Value> {
    let path = folder.join("config.json");
    let mut config = folder::read_json(&path)?;
    if let Some(text) = config.get("text_config").cloned() {
        config = text;
    }
    let class = config["_class_name"].as_str().or(config["architectures"][0].as_str());
    match class {
        Some(c) if !c.contains(component.class()) => Err(Error::Format {
            path,
            found: format!("the configuration of a {c}"),
            expected: format!("a {} ({})", component.class(), component.name()),
            fix: "name the folder of the right component".into(),
        }),
        _ => Ok(config),
    }
}
