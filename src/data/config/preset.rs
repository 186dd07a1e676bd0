//! The published settings of a method, layered under the user's file.

use crate::error::{Error, Result};

/// Every preset: its name, what it is, its TOML text.
const PRESETS: [(&str, &str, &str); 4] = [
    (
        "mudi-dco",
        "the default: MuDI with DCO's loss (beta 1000), no prior set; what the authors' code runs today",
        include_str!("../../assets/presets/mudi-dco.toml"),
    ),
    (
        "mudi-v1",
        "MuDI as its first paper has it: DreamBooth with prior preservation (lambda 1)",
        include_str!("../../assets/presets/mudi-v1.toml"),
    ),
    (
        "decoupled",
        "dual-level decoupling: implicit and explicit branch, four losses, fusion; that method's default",
        include_str!("../../assets/presets/decoupled.toml"),
    ),
    (
        "disenbooth",
        "DisenBooth as its code has it: the implicit branch alone; that method's default",
        include_str!("../../assets/presets/disenbooth.toml"),
    ),
];

/// The preset that a configuration without any key is equal to.
///
/// The authors' current code trains like this; it needs no prior set, so a run starts at once, and it takes less
/// memory (18 GB against 25 GB for SDXL, methods.md §1.6).
pub const DEFAULT_PRESET: &str = PRESETS[0].0;

/// The names of all presets.
pub fn preset_names() -> Vec<&'static str> {
    PRESETS.iter().map(|p| p.0).collect()
}

/// One line about each preset.
pub(super) fn described() -> String {
    PRESETS.iter().map(|(name, what, _)| format!("#   {name}: {what}\n")).collect()
}

/// The keys of the preset `name`; none for the empty name.
///
/// # Errors
/// [`Error::Config`] for an unknown name, listing all.
pub(super) fn preset(name: &str) -> Result<toml::Table> {
    if name.is_empty() {
        return Ok(toml::Table::new());
    }
    let wrong = |found: String| Error::Config {
        key: "preset".into(),
        found,
        expected: preset_names().join(" or "),
        fix: "choose one of these, or leave it out".into(),
    };
    let known = PRESETS.iter().find(|p| p.0 == name);
    let (_, _, text) = known.ok_or_else(|| wrong(name.into()))?;
    toml::from_str(text).map_err(|e| wrong(e.to_string()))
}

/// Puts `over` on top of `under`, table by table.
pub(super) fn layered(mut under: toml::Table, over: toml::Table) -> toml::Table {
    for (key, value) in over {
        match (under.remove(&key), value) {
            (Some(toml::Value::Table(a)), toml::Value::Table(b)) => {
                under.insert(key, toml::Value::Table(layered(a, b)));
            }
            (_, value) => drop(under.insert(key, value)),
        }
    }
    under
}
