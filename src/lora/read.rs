//! Reading adapter files of every convention in use into the canonical form.

use super::{
    Modules,
    alpha::Alphas,
    layer::{DECOUPLING_KEY, DECOUPLING_PREFIX, Layer, Lora},
    renamed,
};
use crate::{
    error::{Error, Result},
    tensor::safetensors::{Raw, SafeFile},
};
use std::{collections::BTreeMap, path::Path};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Down,
    Up,
    Alpha,
}

/// Endings of keys, longest first where one ends another.
const ENDINGS: [(&str, Role); 15] = [
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    (".lora_A.default.weight", Role::Down),
    (".lora_B.default.weight", Role::Up),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
    (".lora_A", Role::Down),
    (".lora_B", Role::Up),
    (".alpha", Role::Alpha),
];

/// Parts of names that betray another kind of file.
const OTHERS: [(&str, &str); 14] = [
    ("hada_w", "LoHa (Hadamard products)"),
    ("hada_t", "LoHa (Hadamard products)"),
    ("lokr_", "LoKr (Kronecker products)"),
    ("dora_scale", "DoRA (magnitude vectors)"),
    ("lora_magnitude_vector", "DoRA (magnitude vectors)"),
    ("lora_mid.", "LoCon with a Tucker core"),
    ("oft_", "OFT (orthogonal transforms)"),
    (".on_input", "IA3"),
    (".diff_b", "full differences"),
    (".diff", "full differences"),
    ("w_norm", "norm differences"),
    ("bundle_emb", "bundled embeddings"),
    (":up", "positional pairs without module names (lora_diffusion)"),
    (":down", "positional pairs without module names (lora_diffusion)"),
];

#[derive(Default)]
struct Parts {
    down: Option<(Raw, String)>,
    up: Option<(Raw, String)>,
    alpha: Option<f32>,
}

impl Lora {
    /// Reads the adapter file at `path`. `bare` is the component of names without a prefix
    /// (`unet`); `modules` the model's table, [`Modules::standard`] when the model is not known.
    ///
    /// Understood: diffusers (`.lora.down.weight`, `.lora_A.weight`, old attention processors),
    /// peft (`base_model.model.`, with its configuration beside it), kohya with diffusers or
    /// original numbering, ComfyUI's endings, text encoders in all of these. Alpha is taken from
    /// the file, from peft's description, or is the rank; 0 means the rank.
    ///
    /// # Errors
    /// Other kinds (LoHa, LoKr, DoRA, ...) are refused by name; unknown, missing and mis-shaped
    /// names are one [`Error::Weights`].
    pub fn open(path: impl AsRef<Path>, bare: &str, modules: &Modules) -> Result<Self> {
        Self::read(&SafeFile::open(path)?, bare, modules)
    }

    /// [`Lora::open`] on an open file.
    ///
    /// # Errors
    /// The same.
    pub fn read(file: &SafeFile, bare: &str, modules: &Modules) -> Result<Self> {
        refuse_others(file)?;
        let (mut parts, mut unknown) = (BTreeMap::<String, Parts>::new(), vec![]);
        let (decoupled, mut beside) =
            (file.metadata().contains_key(DECOUPLING_KEY), BTreeMap::new());
        for key in file.entries().keys() {
            if decoupled && key.starts_with(DECOUPLING_PREFIX) {
                beside.insert(key.clone(), file.raw(key)?);
                continue;
            }
            let found =
                split(key).and_then(|(stem, role)| Some((resolve(stem, bare, modules)?, role)));
            match found {
                Some((module, role)) => put(file, key, parts.entry(module).or_default(), role)?,
                None => unknown.push(key.clone()),
            }
        }
        let raw_peft = file.entries().keys().any(|k| k.starts_with("base_model.model."));
        let alphas = Alphas::of(file.path(), file.metadata(), raw_peft)?;
        if alphas.is_dora() {
            return Err(another_kind(file, "DoRA (use_dora in its configuration)", &[]));
        }
        let mut lora = Lora { metadata: file.metadata().clone(), beside, ..Self::default() };
        let (mut missing, mut misshaped) = (vec![], vec![]);
        for (module, part) in parts {
            let (Some(down), Some(up)) = (part.down, part.up) else {
                missing.push(format!("{module} (down and up)"));
                continue;
            };
            let layer = layer(module, down, up, part.alpha, &alphas);
            match misfit(&layer, modules) {
                Some(line) => misshaped.push(line),
                None => drop(lora.layers.insert(layer.module.clone(), layer)),
            }
        }
        let nothing = lora.layers.is_empty() && missing.is_empty() && misshaped.is_empty();
        if nothing && unknown.is_empty() {
            missing.push("any low-rank pair".into());
        }
        if missing.is_empty() && unknown.is_empty() && misshaped.is_empty() {
            return Ok(lora);
        }
        let source_name = file.path().display().to_string();
        Err(Error::Weights { source_name, missing, unknown, misshaped })
    }
}

fn layer(
    module: String,
    (down, down_key): (Raw, String),
    (up, up_key): (Raw, String),
    alpha: Option<f32>,
    alphas: &Alphas,
) -> Layer {
    let rank = down.dims.first().copied().unwrap_or(0);
    let alpha = alpha.or_else(|| alphas.get(&module, rank)).filter(|a| *a != 0.0 && a.is_finite());
    Layer { alpha: alpha.unwrap_or(rank as f32), module, down, up, keys: (down_key, up_key) }
}

/// A layer that is unsound in itself, or does not fit the module's weight.
fn misfit(layer: &Layer, modules: &Modules) -> Option<String> {
    layer.misfit().or_else(|| {
        let want = modules.dims(&layer.module)?;
        let bare = |d: &[usize]| match d {
            [o, i, 1, 1] => vec![*o, *i],
            other => other.to_vec(),
        };
        let got = layer.weight_dims();
        let line = || format!("{}: adapts {got:?}, the base has {want:?}", layer.module);
        (bare(&got) != bare(want)).then(line)
    })
}

fn put(file: &SafeFile, key: &str, part: &mut Parts, role: Role) -> Result<()> {
    let twice = || Error::Data {
        at: file.path().display().to_string(),
        found: format!("{key} and another key for the same factor"),
        expected: "one convention in one file".into(),
        fix: "remove one of them".into(),
    };
    let slot = match role {
        Role::Down => &mut part.down,
        Role::Up => &mut part.up,
        Role::Alpha => {
            let value = file.f32(key)?.data.first().copied().unwrap_or(0.0);
            return if part.alpha.replace(value).is_some() { Err(twice()) } else { Ok(()) };
        }
    };
    if slot.replace((file.raw(key)?, key.to_string())).is_some() {
        return Err(twice());
    }
    Ok(())
}

fn split(key: &str) -> Option<(&str, Role)> {
    ENDINGS.iter().find_map(|(end, role)| Some((key.strip_suffix(end)?, *role)))
}

/// The full module path behind the stem of a key.
fn resolve(stem: &str, bare: &str, modules: &Modules) -> Option<String> {
    let stem = stem.strip_prefix("base_model.model.").unwrap_or(stem);
    if let Some(path) = modules.by_flat_name(stem) {
        return Some(path.to_string());
    }
    let named = ["unet", "text_encoder", "text_encoder_2"]
        .into_iter()
        .find_map(|c| Some((c, stem.strip_prefix(c)?.strip_prefix('.')?)));
    let native = stem.strip_prefix("diffusion_model.").map(|rest| ("unet", rest));
    let text = || match bare {
        "text_encoder_2" => "text_encoder_2",
        _ => "text_encoder",
    };
    let (component, rest) = named
        .or(native)
        .unwrap_or_else(|| (if stem.starts_with("text_model.") { text() } else { bare }, stem));
    let rest = match component {
        "unet" => unet_path(rest, modules),
        _ => text_path(rest),
    };
    let path = format!("{component}.{rest}");
    modules.contains(&path).then_some(path)
}

/// Old attention processors and the original numbering as current diffusers paths.
fn unet_path(rest: &str, modules: &Modules) -> String {
    let rest = rest.replace(".processor.", ".");
    let rest = match rest.strip_suffix(".to_out") {
        Some(head) => format!("{head}.to_out.0"),
        None => rest,
    };
    modules.sgm().to_diffusers(&rest).unwrap_or(rest)
}

fn text_path(rest: &str) -> String {
    let rest = match rest.starts_with("encoder.layers.") {
        true => format!("text_model.{rest}"),
        false => rest.to_string(),
    };
    let old = [("to_q", "q_proj"), ("to_k", "k_proj"), ("to_v", "v_proj"), ("to_out", "out_proj")];
    match rest.split_once(".self_attn.").and_then(|(h, t)| Some((h, renamed(t, old)?))) {
        Some((head, tail)) => format!("{head}.self_attn.{tail}"),
        None => rest,
    }
}

fn refuse_others(file: &SafeFile) -> Result<()> {
    for (part, kind) in OTHERS {
        let names: Vec<&str> =
            file.entries().keys().filter(|k| k.contains(part)).map(String::as_str).collect();
        if !names.is_empty() {
            return Err(another_kind(file, kind, &names));
        }
    }
    Ok(())
}

fn another_kind(file: &SafeFile, kind: &str, names: &[&str]) -> Error {
    let shown: String = names.iter().take(3).map(|n| format!(", {n}")).collect();
    Error::Format {
        path: file.path().to_path_buf(),
        found: format!("{kind}{shown}"),
        expected: "plain low-rank pairs (down and up)".into(),
        fix: "fold it into the base with the program that made it, or train a LoRA".into(),
    }
}
