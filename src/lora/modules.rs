//! The modules an adapter may name, as a table: underscored names are looked up, never split.

use super::Sgm;
use std::{
    collections::{BTreeMap, HashMap},
    sync::OnceLock,
};

/// Every module of a model that can carry an adapter, under all of its names.
#[derive(Clone, Debug)]
pub struct Modules {
    /// Full path to weight dims; empty dims when they are not known.
    known: BTreeMap<String, Vec<usize>>,
    /// `lora_unet_...`, `lora_te1_...` to full path.
    flat: HashMap<String, String>,
    sgm: Sgm,
    /// Whether the U-Net is of one model, not of all published ones.
    exact: bool,
}

impl Modules {
    /// The modules of one model: `params` are full parameter names (`unet.conv_in.weight`) with
    /// dims. A component without any parameter there gets the modules of the published models.
    pub fn of<'a>(params: impl IntoIterator<Item = (&'a str, &'a [usize])>) -> Self {
        let mut known: BTreeMap<String, Vec<usize>> = params
            .into_iter()
            .filter(|(_, dims)| dims.len() >= 2)
            .filter_map(|(name, dims)| {
                Some((name.strip_suffix(".weight")?.to_string(), dims.to_vec()))
            })
            .collect();
        let exact = known.keys().any(|n| n.starts_with("unet."));
        for component in ["unet.", "text_encoder.", "text_encoder_2."] {
            if !known.keys().any(|n| n.starts_with(component)) {
                let standard = Self::standard().known.iter();
                let own = standard.filter(|(n, _)| n.starts_with(component));
                known.extend(own.map(|(n, d)| (n.clone(), d.clone())));
            }
        }
        let sgm = Sgm::of_diffusers(known.keys().filter_map(|n| n.strip_prefix("unet.")));
        let flat = flat_names(known.keys(), std::slice::from_ref(&sgm));
        Self { known, flat, sgm, exact }
    }

    /// The modules of every model built like SD 1.5, SD 2.1 and SDXL, to 6 blocks of depth 16.
    pub fn standard() -> &'static Self {
        static TABLE: OnceLock<Modules> = OnceLock::new();
        TABLE.get_or_init(|| {
            let known: BTreeMap<String, Vec<usize>> =
                standard_paths().into_iter().map(|n| (n, vec![])).collect();
            let variants = [Sgm::standard([]), Sgm::standard(0..6)];
            let flat = flat_names(known.keys(), &variants);
            Self { known, flat, sgm: Sgm::standard([0, 1]), exact: false }
        })
    }

    /// Whether the module at the full path `path` exists.
    pub fn contains(&self, path: &str) -> bool {
        self.known.contains_key(path)
    }

    /// Dims of the weight of `path`, where known.
    pub fn dims(&self, path: &str) -> Option<&[usize]> {
        self.known.get(path).map(Vec::as_slice).filter(|d| !d.is_empty())
    }

    /// The full path behind an underscored name.
    pub fn by_flat_name(&self, name: &str) -> Option<&str> {
        self.flat.get(name).map(String::as_str)
    }

    /// The numbering of the U-Net.
    pub fn sgm(&self) -> &Sgm {
        &self.sgm
    }

    /// Whether it is an SDXL model; `None` when the table is of all models.
    pub fn is_sdxl(&self) -> Option<bool> {
        self.exact.then(|| self.contains("unet.add_embedding.linear_1"))
    }
}

fn flat_names<'a>(
    paths: impl Iterator<Item = &'a String>,
    numberings: &[Sgm],
) -> HashMap<String, String> {
    let mut flat = HashMap::new();
    for path in paths {
        let mut put = |prefix: &str, rest: &str| {
            let name = format!("{prefix}{}", rest.replace('.', "_"));
            flat.entry(name).or_insert_with(|| path.clone());
        };
        match path.split_once('.') {
            Some(("unet", rest)) => {
                put("lora_unet_", rest);
                for original in numberings.iter().filter_map(|s| s.to_original(rest)) {
                    put("lora_unet_", &original);
                }
            }
            Some(("text_encoder", rest)) => {
                put("lora_te_", rest);
                put("lora_te1_", rest);
            }
            Some(("text_encoder_2", rest)) => put("lora_te2_", rest),
            _ => {}
        }
    }
    flat
}

const DEPTH: usize = 16;

fn standard_paths() -> Vec<String> {
    let mut all: Vec<String> = ["conv_in", "conv_out"].map(|n| format!("unet.{n}")).to_vec();
    for head in ["time_embedding", "add_embedding"] {
        all.extend([1, 2].map(|i| format!("unet.{head}.linear_{i}")));
    }
    let resnet = |at: String| {
        ["conv1", "conv2", "time_emb_proj", "conv_shortcut"].map(|n| format!("{at}.{n}"))
    };
    let mut attentions = vec!["unet.mid_block.attentions.0".to_string()];
    for i in 0..2 {
        all.extend(resnet(format!("unet.mid_block.resnets.{i}")));
    }
    for block in 0..6 {
        for (side, layers) in [("down", 2), ("up", 3)] {
            let at = format!("unet.{side}_blocks.{block}");
            all.push(format!("{at}.{side}samplers.0.conv"));
            for layer in 0..layers {
                all.extend(resnet(format!("{at}.resnets.{layer}")));
                attentions.push(format!("{at}.attentions.{layer}"));
            }
        }
    }
    for at in attentions {
        all.extend(["proj_in", "proj_out"].map(|n| format!("{at}.{n}")));
        for depth in 0..DEPTH {
            let block = format!("{at}.transformer_blocks.{depth}");
            for attn in ["attn1", "attn2"] {
                let parts = ["to_q", "to_k", "to_v", "to_out.0"];
                all.extend(parts.map(|n| format!("{block}.{attn}.{n}")));
            }
            all.extend(["ff.net.0.proj", "ff.net.2"].map(|n| format!("{block}.{n}")));
        }
    }
    for encoder in ["text_encoder", "text_encoder_2"] {
        all.push(format!("{encoder}.text_projection"));
        for layer in 0..48 {
            let at = format!("{encoder}.text_model.encoder.layers.{layer}");
            let parts = ["q", "k", "v", "out"].map(|n| format!("{at}.self_attn.{n}_proj"));
            all.extend(parts.into_iter().chain(["fc1", "fc2"].map(|n| format!("{at}.mlp.{n}"))));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_modules_share_an_underscored_name() {
        let modules = Modules::standard();
        for path in modules.known.keys() {
            let (component, rest) = path.split_once('.').unwrap();
            let prefix = match component {
                "unet" => "lora_unet_",
                "text_encoder" => "lora_te1_",
                _ => "lora_te2_",
            };
            let flat = |rest: &str| format!("{prefix}{}", rest.replace('.', "_"));
            assert_eq!(modules.by_flat_name(&flat(rest)), Some(path.as_str()));
            if let Some(original) = modules.sgm.to_original(rest) {
                assert_eq!(modules.by_flat_name(&flat(&original)), Some(path.as_str()));
            }
        }
    }
}
