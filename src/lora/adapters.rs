//! Which modules carry a low-rank adapter, of which rank, at which strength.

use crate::plan::ParamInfo;
use std::collections::BTreeMap;

/// One low-rank adapter of one module: `y += scale * up(down(x))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adapter {
    /// Inner width r.
    pub rank: usize,
    /// `alpha / rank`, times the strength the user asked for.
    pub scale: f32,
}

/// Adapters by full module path (`unet.down_blocks.1.attentions.0...attn1.to_q`), several per module allowed.
///
/// The weights are parameters of the recording: [`down_name`] `[r, in]` (a convolution's is `[r, in, k, k]`
/// in the checkpoint layout) and [`up_name`] `[out, r]` (`[out, r, 1, 1]`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adapters {
    modules: BTreeMap<String, Vec<Adapter>>,
}

impl Adapters {
    /// No adapters.
    pub fn new() -> Self {
        Self::default()
    }

    /// One adapter on every module of `params` with a matrix or a kernel whose path satisfies `pick`.
    pub fn on(params: &[ParamInfo], adapter: Adapter, pick: impl Fn(&str) -> bool) -> Self {
        let mut adapters = Self::new();
        for p in params.iter().filter(|p| p.dims.len() >= 2) {
            match p.name.strip_suffix(".weight") {
                Some(path) if pick(path) && !path.ends_with("_embedding") => {
                    adapters.insert(path, adapter);
                }
                _ => {}
            }
        }
        adapters
    }

    /// Adds one more adapter to the module at `path`.
    pub fn insert(&mut self, path: &str, adapter: Adapter) {
        self.modules.entry(path.to_string()).or_default().push(adapter);
    }

    /// The adapters of the module at `path`.
    pub fn at(&self, path: &str) -> &[Adapter] {
        self.modules.get(path).map_or(&[], Vec::as_slice)
    }

    /// Every module and its adapters, by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[Adapter])> {
        self.modules.iter().map(|(path, list)| (path.as_str(), list.as_slice()))
    }

    /// How many modules are adapted.
    pub fn len(&self) -> usize {
        self.modules.len()
    }

    /// True when no module is adapted.
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    /// Adapted paths below `component` that `params` (the recording of that component) does not adapt.
    pub fn unused(&self, component: &str, params: &[ParamInfo]) -> Vec<String> {
        let names: std::collections::HashSet<&str> =
            params.iter().map(|p| p.name.as_str()).collect();
        let below = |path: &str| path.strip_prefix(component).is_some_and(|t| t.starts_with('.'));
        let unused = |path: &&String| below(path) && !names.contains(down_name(path, 0).as_str());
        self.modules.keys().filter(unused).cloned().collect()
    }
}

/// Name of the down matrix A of adapter `index` (0 is the first) of the module at `path`.
pub fn down_name(path: &str, index: usize) -> String {
    numbered(path, "lora_A", index)
}

/// Name of the up matrix B of adapter `index` of the module at `path`.
pub fn up_name(path: &str, index: usize) -> String {
    numbered(path, "lora_B", index)
}

fn numbered(path: &str, part: &str, index: usize) -> String {
    match index {
        0 => format!("{path}.{part}.weight"),
        n => format!("{path}.{part}.{n}.weight"),
    }
}
