//! Reading the file and the `--set` overrides; unknown keys with line and nearest name.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::{
    DEFAULT_PRESET, LossScale, SubjectConfig, TrainConfig,
    keys::{KEYS, SUBJECT_KEYS, nearest},
    preset::{layered, preset},
};
use crate::{
    error::{Error, Result},
    models::checkpoint::assets::NANO_CLIP,
};

impl TrainConfig {
    /// Reads `path`, applies `overrides` (`train.steps=10`, `subject.a.scale=0.5`), checks
    /// everything.
    ///
    /// Lowest first, the layers are: the defaults, the preset (see [`TrainConfig::load_over`]), the
    /// file, the overrides. Relative paths are taken from the configuration's folder, or from the
    /// working directory when only there something exists; they come back absolute.
    ///
    /// # Errors
    /// The file cannot be read or is not TOML; an unknown key; a value that cannot be used.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        Self::load_over(None, path, overrides)
    }

    /// As [`TrainConfig::load`] over the preset of that name; without one the `preset` key decides,
    /// and without that [`super::DEFAULT_PRESET`] for method `mudi`, that of their name for `decoupled` and
    /// `disenbooth`, and none for the other baselines and for `decoupling.enabled`.
    ///
    /// # Errors
    /// As [`TrainConfig::load`]; an unknown preset.
    pub fn load_over(preset: Option<&str>, path: &Path, overrides: &[String]) -> Result<Self> {
        Self::load_asking(preset, path, overrides, |_| Ok(()))
    }

    /// As [`TrainConfig::load_over`]; where a subject's class is still missing and everything else was checked, `ask`
    /// may fill it in.
    ///
    /// # Errors
    /// As [`TrainConfig::load_over`]; those of `ask`.
    pub fn load_asking(
        preset: Option<&str>,
        path: &Path,
        overrides: &[String],
        ask: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
        let root = path.parent().map(Path::to_path_buf).unwrap_or_default();
        let name = path.display().to_string();
        let mut config = Self::parse_bare(preset, (&text, &name), &root, overrides)?;
        if config.caption.is_on() && config.subjects.iter().any(|s| s.class.trim().is_empty()) {
            let mut rest = config.clone();
            rest.subjects.iter_mut().for_each(|s| s.class = s.id.clone());
            rest.check()?;
            ask(&mut config)?;
        }
        config.check()?;
        Ok(config)
    }

    /// As [`TrainConfig::load`] for `text`, called `name` in messages, with paths relative to
    /// `root`.
    ///
    /// # Errors
    /// As [`TrainConfig::load`].
    pub fn parse(text: &str, name: &str, root: &Path, overrides: &[String]) -> Result<Self> {
        let config = Self::parse_bare(None, (text, name), root, overrides)?;
        config.check()?;
        Ok(config)
    }

    /// A configuration with absolute paths whose values were not checked.
    fn parse_bare(
        preset: Option<&str>,
        (text, name): (&str, &str),
        root: &Path,
        overrides: &[String],
    ) -> Result<Self> {
        check_names(text, name)?;
        let mut table: toml::Table = toml::from_str(text).map_err(|e| bad_toml(text, name, &e))?;
        if overrides.is_empty() {
            // The text by itself: messages about its types have lines.
            toml::from_str::<Self>(text).map_err(|e| bad_toml(text, name, &e))?;
        }
        for one in overrides {
            set(&mut table, one)?;
        }
        let mut config = typed(over_preset(table, preset)?, name)?;
        for s in &mut config.subjects {
            s.images = resolve(&s.images, root);
            if s.class.trim().is_empty() {
                s.class = s.written_class()?.unwrap_or_default();
            }
        }
        config.method.prior_dir = resolve(&config.method.prior_dir, root);
        config.train.from = resolve(&config.train.from, root);
        config.segment.detector = resolve(&config.segment.detector, root);
        config.segment.segmenter = resolve(&config.segment.segmenter, root);
        if config.decoupling.encoder != Path::new(NANO_CLIP) {
            config.decoupling.encoder = resolve(&config.decoupling.encoder, root);
        }
        if !["classical", "base", "nano"].contains(&config.decoupling.fill.as_str()) {
            let fill = resolve(Path::new(&config.decoupling.fill), root);
            config.decoupling.fill = fill.display().to_string();
        }
        if config.base != "nano" {
            config.base = resolve(Path::new(&config.base), root).display().to_string();
        }
        Ok(config)
    }

    /// The preset `name` with nothing changed.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown name.
    pub fn preset(name: &str) -> Result<Self> {
        let mut table = preset(name)?;
        table.insert("preset".into(), name.into());
        typed(table, "preset")
    }

    /// The whole configuration as TOML; reading it back gives an equal value.
    ///
    /// # Errors
    /// [`Error::Config`] when a value has no TOML form (a path that is not UTF-8).
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::Config {
            key: "configuration".into(),
            found: e.to_string(),
            expected: "values that TOML can hold".into(),
            fix: "use paths in UTF-8".into(),
        })
    }

    /// What a hash of the configuration is made of: [`TrainConfig::to_toml`] without `train.loss_scale` where that is
    /// `auto`, so that runs from before that key keep their hashes.
    ///
    /// # Errors
    /// As [`TrainConfig::to_toml`].
    pub fn to_hash(&self) -> Result<String> {
        let text = self.to_toml()?;
        let plain = self.train.loss_scale == LossScale::Auto;
        let lines = text.lines().filter(|line| !plain || !line.starts_with("loss_scale = "));
        Ok(lines.map(|line| format!("{line}\n")).collect())
    }
}

/// The configuration of a table, called `name` in messages.
fn typed(table: toml::Table, name: &str) -> Result<TrainConfig> {
    table.try_into().map_err(|e: toml::de::Error| bad_toml("", name, &e))
}

/// `table` over its preset, whose name is put in.
fn over_preset(mut table: toml::Table, asked: Option<&str>) -> Result<toml::Table> {
    let word = |v: Option<&toml::Value>| v.and_then(toml::Value::as_str).map(String::from);
    let method = table.get("method").and_then(|m| word(m.get("name")));
    let own = asked.map(String::from).or_else(|| word(table.get("preset")));
    let section = table.get("decoupling").and_then(|d| d.get("enabled"));
    let decouples = section.and_then(toml::Value::as_bool).unwrap_or(false);
    // the diffusion loss of dual-level decoupling is the plain one, and its text encoders are trained
    let baseline = decouples || method.as_ref().is_some_and(|m| m != "mudi");
    let name = own.unwrap_or_else(|| match method.as_deref() {
        Some(own @ ("decoupled" | "disenbooth")) => own.into(),
        _ if baseline => String::new(),
        _ => DEFAULT_PRESET.into(),
    });
    let mut under = preset(&name)?;
    if baseline && name.is_empty() {
        // The published baselines have the plain loss.
        let plain = toml::Table::from_iter([("loss".to_string(), "mse".into())]);
        under.insert("method".into(), plain.into());
    }
    table.insert("preset".into(), name.into());
    Ok(layered(under, table))
}

fn resolve(path: &Path, root: &Path) -> PathBuf {
    if path.as_os_str().is_empty() || path.is_absolute() {
        return path.to_path_buf();
    }
    let beside = root.join(path);
    let found = if !beside.exists() && path.exists() { path.to_path_buf() } else { beside };
    std::path::absolute(&found).unwrap_or(found)
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count() + 1
}

fn bad_toml(text: &str, name: &str, e: &toml::de::Error) -> Error {
    let key = match e.span() {
        Some(span) if !text.is_empty() => format!("{name}: line {}", line_of(text, span.start)),
        _ => name.to_string(),
    };
    Error::Config {
        key,
        found: e.message().to_string(),
        expected: "a training configuration".into(),
        fix: "`selvedge train --print-config` lists every key".into(),
    }
}

fn unknown(at: String, name: &str, known: &[String]) -> Error {
    let fix = match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`selvedge train --print-config` lists every key".into(),
    };
    Error::Config {
        key: at,
        found: format!("unknown key `{name}`"),
        expected: "a known key".into(),
        fix,
    }
}

/// Known names under `section` (empty: the top level).
fn known(section: &str) -> Vec<String> {
    if section == "subject" {
        return SUBJECT_KEYS.iter().map(|(k, ..)| (*k).to_string()).collect();
    }
    let mut names: Vec<String> = match section {
        "" => ["subject", "method", "decoupling", "train", "segment", "caption"]
            .map(String::from)
            .into(),
        _ => vec![],
    };
    names.extend(KEYS.iter().filter_map(|(k, _)| match (k.split_once('.'), section) {
        (None, "") => Some((*k).to_string()),
        (Some((head, name)), s) if head == s => Some(name.to_string()),
        _ => None,
    }));
    names
}

/// Every key of `text` against the known ones.
fn check_names(text: &str, name: &str) -> Result<()> {
    let root = DeTable::parse(text).map_err(|e| bad_toml(text, name, &e))?;
    check_table(text, name, "", root.get_ref())
}

fn check_table(text: &str, name: &str, section: &str, table: &DeTable<'_>) -> Result<()> {
    let names = known(section);
    for (key, value) in table {
        let word: &str = key.get_ref();
        if !names.iter().any(|n| n == word) {
            let line = line_of(text, key.span().start);
            return Err(unknown(format!("{name}: line {line}"), word, &names_near(word, names)));
        }
        match value.get_ref() {
            DeValue::Table(t) if section.is_empty() => check_table(text, name, word, t)?,
            DeValue::Array(items) if section.is_empty() && word == "subject" => {
                for item in items.iter() {
                    if let DeValue::Table(t) = item.get_ref() {
                        check_table(text, name, word, t)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The names of this table; when a key of another table equals the word, that dotted name first.
fn names_near(word: &str, names: Vec<String>) -> Vec<String> {
    let elsewhere = KEYS.iter().find(|(k, _)| k.rsplit('.').next() == Some(word));
    elsewhere.map(|(k, _)| vec![(*k).to_string()]).unwrap_or(names)
}

/// Applies one `key=value`; the value is TOML, or a plain word taken as text.
fn set(table: &mut toml::Table, one: &str) -> Result<()> {
    let Some((key, value)) = one.split_once('=') else {
        return Err(Error::Config {
            key: "--set".into(),
            found: format!("`{one}`"),
            expected: "key=value".into(),
            fix: "for example --set train.steps=100".into(),
        });
    };
    let (key, value) = (key.trim(), value.trim());
    let value = toml::from_str::<toml::Table>(&format!("v = {value}"))
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| toml::Value::String(value.to_string()));
    let parts: Vec<&str> = key.split('.').collect();
    if let ["subject", who, field] = parts[..] {
        return set_subject(table, who, field, value);
    }
    if !KEYS.iter().any(|(k, _)| *k == key) {
        let all: Vec<String> = KEYS.iter().map(|(k, _)| (*k).to_string()).collect();
        return Err(unknown("--set".into(), key, &names_near(key, all)));
    }
    match parts[..] {
        [section, name] => {
            let inner = table.entry(section).or_insert_with(|| toml::Table::new().into());
            if let Some(t) = inner.as_table_mut() {
                t.insert(name.to_string(), value);
            }
        }
        _ => {
            table.insert(key.to_string(), value);
        }
    }
    Ok(())
}

/// `subject.WHO.field`, WHO an id or a number counted from 0.
fn set_subject(table: &mut toml::Table, who: &str, field: &str, value: toml::Value) -> Result<()> {
    if !SUBJECT_KEYS.iter().any(|(k, ..)| *k == field) {
        return Err(unknown("--set".into(), field, &known("subject")));
    }
    let subjects = table.get_mut("subject").and_then(toml::Value::as_array_mut);
    let found = subjects.and_then(|all| {
        let by_id = all.iter().position(|s| s.get("id").and_then(|v| v.as_str()) == Some(who));
        let at = by_id.or_else(|| who.parse::<usize>().ok())?;
        all.get_mut(at)?.as_table_mut()
    });
    match found {
        Some(t) => {
            t.insert(field.to_string(), value);
            Ok(())
        }
        None => Err(Error::Config {
            key: "--set".into(),
            found: format!("subject.{who}"),
            expected: "the id of a [[subject]] of the configuration".into(),
            fix: "check the ids".into(),
        }),
    }
}

/// The subjects of a TOML file: a training configuration, or one that holds `[[subject]]` tables
/// only.
///
/// # Errors
/// As [`TrainConfig::load`]; [`Error::Data`] when there is no subject.
pub fn load_subjects(path: &Path) -> Result<Vec<SubjectConfig>> {
    load_for_subjects(path).map(|config| config.subjects)
}

/// As [`load_subjects`], with the `[method]` keys of the file (how its subjects are placed) and those of `[segment]`.
///
/// # Errors
/// As [`load_subjects`].
pub fn load_for_subjects(path: &Path) -> Result<TrainConfig> {
    // One subject is enough here, whatever the method of the file needs.
    TrainConfig::load(path, &["method.name=dreambooth".to_string()])
}
