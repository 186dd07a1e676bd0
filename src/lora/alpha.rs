//! Where peft keeps alpha: `lora_adapter_metadata` in the header, or `adapter_config.json` beside
//! the file.

use super::layer::{Layer, Lora, PEFT_KEY};
use crate::error::{Error, Result};
use regex::Regex;
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Alpha as peft describes it, by module.
#[derive(Debug, Default)]
pub struct Alphas {
    /// Settings by component; the component of a plain configuration is empty.
    settings: BTreeMap<String, Map<String, Value>>,
}

impl Alphas {
    /// From the header of the file at `path` or from its neighbour `adapter_config.json`.
    ///
    /// # Errors
    /// [`Error::Format`] when there is such a description and it is not understood.
    pub fn of(path: &Path, metadata: &BTreeMap<String, String>, neighbour: bool) -> Result<Self> {
        let bad = |at: &Path, e: &dyn std::fmt::Display| Error::Format {
            path: at.to_path_buf(),
            found: format!("a {PEFT_KEY} that is no JSON object ({e})"),
            expected: "peft's configuration".into(),
            fix: "write the file again".into(),
        };
        let mut alphas = Self::default();
        if let Some(text) = metadata.get(PEFT_KEY) {
            let all: Map<String, Value> = serde_json::from_str(text).map_err(|e| bad(path, &e))?;
            for (key, value) in all {
                if let Some((component, key)) = key.split_once('.') {
                    let own = alphas.settings.entry(component.to_string()).or_default();
                    own.insert(key.to_string(), value);
                }
            }
        }
        let config = path.with_file_name("adapter_config.json");
        if neighbour && config.is_file() {
            let text = fs::read(&config).map_err(Error::file("read", &config))?;
            let own = serde_json::from_slice(&text).map_err(|e| bad(&config, &e))?;
            alphas.settings.insert(String::new(), own);
        }
        Ok(alphas)
    }

    /// Whether the description asks for more than plain pairs.
    pub fn is_dora(&self) -> bool {
        self.settings.values().any(|s| s.get("use_dora").and_then(Value::as_bool) == Some(true))
    }

    /// Alpha of the module at the full path `module` with rank `rank`; `None` when nothing is said.
    pub fn get(&self, module: &str, rank: usize) -> Option<f32> {
        let (component, path) = module.split_once('.')?;
        let own = self.settings.get(component).or_else(|| self.settings.get(""))?;
        let pattern = own.get("alpha_pattern").and_then(Value::as_object);
        let matched = pattern.into_iter().flatten().find(|(key, _)| matches(key, path));
        let alpha = matched.map(|(_, v)| v).or_else(|| own.get("lora_alpha"))?.as_f64()?;
        let slora = own.get("use_rslora").and_then(Value::as_bool) == Some(true);
        // Rank-stabilized adapters divide by sqrt(r): as alpha / r that is alpha * sqrt(r).
        let alpha = if slora { alpha * (rank as f64).sqrt() } else { alpha };
        #[allow(clippy::cast_possible_truncation)]
        Some(alpha as f32)
    }
}

/// Peft's rule: the pattern is a regular expression for the whole path or its end after a dot.
fn matches(pattern: &str, path: &str) -> bool {
    let whole = path == pattern;
    let end = path.strip_suffix(pattern).is_some_and(|head| head.ends_with('.'));
    whole
        || end
        || Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$")).is_ok_and(|r| r.is_match(path))
}

/// The header entry that tells diffusers rank, alpha and targets of every component.
pub fn describe(lora: &Lora) -> String {
    let mut all = Map::new();
    let component = |l: &Layer| l.module.split_once('.').map_or("", |(c, _)| c).to_string();
    let components: BTreeSet<String> = lora.layers.values().map(component).collect();
    for name in components {
        let own: Vec<&Layer> = lora.layers.values().filter(|l| component(l) == name).collect();
        let path = |l: &Layer| l.module[name.len() + 1..].to_string();
        let most = |mut values: Vec<(u64, f32)>| {
            values.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
            let runs = values.chunk_by(|a, b| a.0 == b.0 && a.1.to_bits() == b.1.to_bits());
            runs.max_by_key(|run| run.len()).map(|run| run[0]).unwrap_or((1, 1.0))
        };
        let kind = |l: &Layer| (l.rank() as u64, l.alpha);
        let (rank, alpha) = most(own.iter().map(|l| kind(l)).collect());
        let ranks: Map<String, Value> = own
            .iter()
            .filter(|l| l.rank() as u64 != rank)
            .map(|l| (path(l), json!(l.rank())))
            .collect();
        let alphas: Map<String, Value> = own
            .iter()
            .filter(|l| l.alpha.to_bits() != alpha.to_bits())
            .map(|l| (path(l), json!(f64::from(l.alpha))))
            .collect();
        let targets: Vec<String> = own.iter().map(|l| path(l)).collect();
        for (key, value) in [
            ("r", json!(rank)),
            ("lora_alpha", json!(f64::from(alpha))),
            ("rank_pattern", Value::Object(ranks)),
            ("alpha_pattern", Value::Object(alphas)),
            ("target_modules", json!(targets)),
            ("lora_bias", json!(false)),
            ("use_dora", json!(false)),
            ("use_rslora", json!(false)),
        ] {
            all.insert(format!("{name}.{key}"), value);
        }
    }
    Value::Object(all).to_string()
}
