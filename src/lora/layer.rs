//! The canonical form of an adapter file: module path, down, up, alpha.

use crate::{
    error::{Error, Result},
    tensor::{
        Tensor,
        safetensors::{Dtype, Raw},
    },
};
use std::collections::BTreeMap;

/// The header entry in which peft keeps rank and alpha.
pub const PEFT_KEY: &str = "lora_adapter_metadata";
/// The text pair of an adapter file that names the method it was trained with (`mudi`, `dreambooth`, ...).
pub const METHOD_KEY: &str = "selvedge.method";
/// The text pair that says what sizes and switches the `decoupling.` parameters of an adapter file have, in JSON.
pub const DECOUPLING_KEY: &str = "selvedge.decoupling";
/// The text pair with the words whose embeddings the file has, a JSON list.
pub const WORDS_KEY: &str = "selvedge.decoupling.words";
/// Where the names of those parameters start.
pub const DECOUPLING_PREFIX: &str = "decoupling.";

/// One adapted module: `W' = W + strength * (alpha / rank) * up @ down`.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Full path with component: `unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q`.
    pub module: String,
    /// `[r, in]`, or `[r, in, kh, kw]` for a convolution; bits as stored.
    pub down: Raw,
    /// `[out, r]`, or `[out, r, 1, 1]`; bits as stored.
    pub up: Raw,
    /// Scale numerator; equal to the rank where the file has none.
    pub alpha: f32,
    /// The keys of down and up in the file it was read from; empty for a new layer.
    pub keys: (String, String),
}

impl Layer {
    /// A layer from values, stored as `dtype` (F32, F16 or BF16).
    ///
    /// # Errors
    /// [`Error::Weights`] when the two factors do not fit together.
    pub fn new(module: &str, down: &Tensor, up: &Tensor, alpha: f32, dtype: Dtype) -> Result<Self> {
        let layer = Self {
            module: module.into(),
            down: Raw::rounded(&down.dims, &down.data, dtype),
            up: Raw::rounded(&up.dims, &up.data, dtype),
            alpha,
            keys: Default::default(),
        };
        match layer.misfit() {
            None => Ok(layer),
            Some(line) => Err(Error::Weights {
                source_name: "adapter".into(),
                missing: vec![],
                unknown: vec![],
                misshaped: vec![line],
            }),
        }
    }

    /// Inner width r.
    pub fn rank(&self) -> usize {
        self.down.dims.first().copied().unwrap_or(0)
    }

    /// `alpha / rank`.
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank().max(1) as f32
    }

    /// Dims of the weight it is added to: `[out, in]` or `[out, in, kh, kw]`.
    pub fn weight_dims(&self) -> Vec<usize> {
        let mut dims = vec![self.up.dims.first().copied().unwrap_or(0)];
        dims.extend(self.down.dims.iter().skip(1));
        dims
    }

    /// Bit-equal factors and the same alpha on the same module, whatever the keys were.
    pub fn same_bits(&self, other: &Self) -> bool {
        let alpha = self.alpha.to_bits() == other.alpha.to_bits();
        self.module == other.module && self.down == other.down && self.up == other.up && alpha
    }

    /// What does not fit, in words; `None` when the layer is sound.
    pub(super) fn misfit(&self) -> Option<String> {
        let (down, up) = (&self.down.dims, &self.up.dims);
        let floats = |r: &Raw| matches!(r.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
        if !floats(&self.down) || !floats(&self.up) {
            let types = format!("{:?} and {:?}", self.down.dtype, self.up.dtype);
            return Some(format!("{}: types {types}, expected f32, f16 or bf16", self.module));
        }
        let pointwise = up.len() == 2 || up.len() == 4 && up[2..] == [1, 1];
        let fits = matches!(down.len(), 2 | 4) && pointwise && down[0] == up[1] && down[0] > 0;
        let text = || {
            format!("{}: down {down:?} with up {up:?}, expected [r, in] and [out, r]", self.module)
        };
        (!fits).then(text)
    }
}

/// An adapter: layers in the order of their modules, and the file's text pairs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lora {
    /// One layer for each module.
    pub layers: BTreeMap<String, Layer>,
    /// Parameters of a decoupling, which stand beside the low-rank pairs under the same names in every convention.
    pub beside: BTreeMap<String, Raw>,
    /// Text pairs of the header.
    pub metadata: BTreeMap<String, String>,
}

impl Lora {
    /// An adapter of `layers`, which must be of different modules (the last one wins).
    pub fn from_layers(layers: impl IntoIterator<Item = Layer>) -> Self {
        let layers = layers.into_iter().map(|l| (l.module.clone(), l)).collect();
        Self { layers, ..Self::default() }
    }

    /// The method it was trained with, where the file says so.
    pub fn method(&self) -> Option<&str> {
        self.metadata.get(METHOD_KEY).map(String::as_str)
    }

    /// What the file says about its decoupling; `None` for an adapter without one.
    pub fn decoupling(&self) -> Option<&str> {
        self.metadata.get(DECOUPLING_KEY).map(String::as_str)
    }

    /// The words whose embeddings the file has.
    ///
    /// # Errors
    /// [`Error::Data`] for a list that is damaged.
    pub fn words(&self) -> Result<Vec<String>> {
        let Some(text) = self.metadata.get(WORDS_KEY) else { return Ok(vec![]) };
        serde_json::from_str(text).map_err(|e| Error::Data {
            at: format!("the adapter's {WORDS_KEY}"),
            found: e.to_string(),
            expected: "a list of words".into(),
            fix: "train it anew, or take an undamaged file".into(),
        })
    }

    /// The text pairs that belong to no convention and travel along on conversion.
    pub(super) fn free_metadata(&self) -> BTreeMap<String, String> {
        let bound = ["format", PEFT_KEY, "ss_network_module", "ss_network_dim", "ss_network_alpha"];
        let free = self.metadata.iter().filter(|(k, _)| !bound.contains(&k.as_str()));
        free.map(|(k, v)| (k.clone(), v.clone())).collect()
    }
}
