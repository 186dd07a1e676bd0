//! What a shard does as one: a training, with the pictures of all rows that show it.

use crate::{
    data::config::{Method, Mode, SubjectConfig, TrainConfig},
    error::{Error, Result},
    tensor::atomic::atomic_write,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A row of the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Its name, in files and tables.
    pub name: String,
    /// A preset under `[training]`.
    pub preset: Option<String>,
    /// Keys of the training configuration that differ here, as `--set` takes them.
    #[serde(default)]
    pub set: Vec<String>,
    /// Whether anything is trained; `false` shows the base as it is.
    #[serde(default = "yes")]
    pub train: bool,
    /// How pictures start: seg-mix, none or a layout file; when left out as the paper has it, seg-mix for method mudi
    /// and none for the others.
    pub init: Option<String>,
    /// Strength of the initialization; 1 when left out.
    pub gamma: Option<f32>,
    /// Whether subjects keep apart in the initialization, as `generate --apart`.
    #[serde(default)]
    pub apart: bool,
    /// What pictures are guided away from; the method's own when left out.
    pub negative: Option<String>,
}

fn yes() -> bool {
    true
}

impl Row {
    /// How pictures start; `config` is what was trained.
    pub fn init(&self, config: Option<&TrainConfig>) -> &str {
        let mudi = config.is_some_and(|c| c.method.name == Method::Mudi);
        self.init.as_deref().unwrap_or(if mudi { "seg-mix" } else { "none" })
    }

    /// The training configuration of this row on `base` for some subjects, over the keys of `training`; paths are taken
    /// from the folder `root`.
    ///
    /// # Errors
    /// Those of a training configuration.
    pub fn config(
        &self,
        (base, training): (&str, &toml::Table),
        subjects: &[SubjectConfig],
        root: &Path,
    ) -> Result<TrainConfig> {
        let mut table = training.clone();
        table.insert("base".into(), base.into());
        if let Some(preset) = &self.preset {
            table.insert("preset".into(), preset.clone().into());
        }
        let name = format!("row {}", self.name);
        let text = |e: toml::ser::Error| Error::Config {
            key: name.clone(),
            found: e.to_string(),
            expected: "values that TOML can hold".into(),
            fix: "use paths in UTF-8".into(),
        };
        let subjects = toml::Value::try_from(subjects).map_err(text)?;
        table.insert("subject".into(), subjects);
        let written = toml::to_string(&table).map_err(text)?;
        TrainConfig::parse(&written, &name, root, &self.set)
    }
}

/// Subjects that are shown together, and in which prompts.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Their name, in files and tables.
    pub name: String,
    /// The subjects.
    pub subjects: Vec<SubjectConfig>,
    /// The prompts, the subjects' words in them.
    pub prompts: Vec<String>,
}

/// A training (or the base as it is) of a combination.
#[derive(Clone, Debug)]
pub struct Unit {
    /// The combination.
    pub shown: Shown,
    /// What is trained; `None` shows the base.
    pub config: Option<TrainConfig>,
    /// The rows that show it.
    pub rows: Vec<Row>,
    /// Where it is trained, or where its subjects are written.
    pub folder: PathBuf,
}

/// The pictures of one row, combination and prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The row's name.
    pub row: String,
    /// The combination's name.
    pub combination: String,
    /// Number of the prompt.
    pub number: usize,
    /// The prompt.
    pub prompt: String,
}

impl Cell {
    fn within(&self, out: &Path, what: &str) -> PathBuf {
        out.join(what).join(&self.row).join(&self.combination)
    }

    /// Where its pictures are.
    pub fn folder(&self, out: &Path) -> PathBuf {
        self.within(out, "pictures").join(format!("{:02}", self.number))
    }

    /// Where its scores by `judges` are.
    pub fn scores(&self, out: &Path, judges: &str) -> PathBuf {
        self.within(out, &format!("scores-{judges}")).join(format!("{:02}.json", self.number))
    }
}

/// File name of the picture of a seed.
pub fn picture(seed: u64) -> String {
    format!("{seed:04}.png")
}

/// What tells the scores of different judges apart, in the name of a folder: a part of the hash of their description.
pub fn judges_name(judges: &str) -> String {
    let hash = Sha256::digest(judges.as_bytes());
    hash.iter().take(4).map(|b| format!("{b:02x}")).collect()
}

/// The units of a combination; rows with the same training (by `config`) share one.
///
/// # Errors
/// Those of `config`; [`Error::Config`] for `apart` where no subjects are placed.
pub fn units(
    shown: &Shown,
    rows: &[Row],
    out: &Path,
    config: &dyn Fn(&Row) -> Result<TrainConfig>,
) -> Result<Vec<Unit>> {
    let mut all: Vec<Unit> = vec![];
    for row in rows {
        let config = row.train.then(|| config(row)).transpose()?;
        if row.apart && row.init(config.as_ref()) != "seg-mix" {
            return Err(Error::Config {
                key: format!("row {}: apart", row.name),
                found: format!("init = \"{}\"", row.init(config.as_ref())),
                expected: "init = \"seg-mix\" beside it".into(),
                fix: "add it, or leave apart out".into(),
            });
        }
        match all.iter_mut().find(|u| u.config == config) {
            Some(unit) => unit.rows.push(row.clone()),
            None => all.push(Unit {
                folder: folder(out, &shown.name, config.as_ref())?,
                shown: shown.clone(),
                config,
                rows: vec![row.clone()],
            }),
        }
    }
    Ok(all)
}

/// `OUT/runs/COMBINATION/` and what tells its trainings apart: a part of the hash of the configuration.
fn folder(out: &Path, combination: &str, config: Option<&TrainConfig>) -> Result<PathBuf> {
    let all = out.join("runs").join(combination);
    let Some(config) = config else { return Ok(all.join("base")) };
    let hash = Sha256::digest(config.to_hash()?.as_bytes());
    let start: String = hash.iter().take(6).map(|b| format!("{b:02x}")).collect();
    Ok(all.join(format!("{}-{start}", config.method.name.word())))
}

impl Unit {
    /// Every prompt of every row.
    pub fn cells(&self) -> impl Iterator<Item = (&Row, Cell)> {
        self.rows.iter().flat_map(move |row| {
            self.shown.prompts.iter().enumerate().map(move |(number, prompt)| {
                let (row_name, combination) = (row.name.clone(), self.shown.name.clone());
                (row, Cell { row: row_name, combination, number, prompt: prompt.clone() })
            })
        })
    }

    /// What pictures are made with: the base, and the adapters on it.
    pub fn model(&self, base: &str) -> (String, Vec<String>) {
        let full = self.config.as_ref().is_some_and(|c| c.train.mode == Mode::Full);
        let at = |name: &str| self.folder.join(name).display().to_string();
        match &self.config {
            None => (base.into(), vec![]),
            Some(_) if full => (at("model"), vec![]),
            Some(_) => (base.into(), vec![at("adapter.safetensors")]),
        }
    }

    /// The file that names the subjects and how they are placed: the run's configuration, or one of its own.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn subjects_file(&self) -> Result<PathBuf> {
        let (run, own) = (self.folder.join("config.toml"), self.folder.join("subjects.toml"));
        if self.config.is_some() {
            return Ok(run);
        }
        let shown = TrainConfig { subjects: self.shown.subjects.clone(), ..TrainConfig::default() };
        fs::create_dir_all(&self.folder).map_err(Error::file("create", &self.folder))?;
        let text = shown.to_toml()?;
        atomic_write(&own, |w| w.write_all(text.as_bytes()))?;
        Ok(own)
    }
}
