//! What a shard does as one: a training, with the pictures of all rows that show it.

use super::{
    file::{Combination, Plan, Row, subjects_and_prompts},
    judges::Models,
};
use crate::{
    data::config::{Mode, SubjectConfig, TrainConfig},
    error::{Error, Result},
    tensor::atomic::atomic_write,
};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A training (or the base as it is) of a combination.
#[derive(Clone, Debug)]
pub struct Unit {
    /// The combination's name.
    pub combination: String,
    /// Its subjects.
    pub subjects: Vec<SubjectConfig>,
    /// Its prompts, the subjects' words in them.
    pub prompts: Vec<String>,
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
    pub fn scores(&self, out: &Path, judges: &Models) -> PathBuf {
        self.within(out, &format!("scores-{}", judges.name()))
            .join(format!("{:02}.json", self.number))
    }
}

/// File name of the picture of a seed.
pub fn picture(seed: u64) -> String {
    format!("{seed:04}.png")
}

/// Everything a plan asks for, combination by combination; rows that train the same share a unit.
///
/// # Errors
/// Those of the subjects' files and of the training configurations.
pub fn units(plan: &Plan, out: &Path, root: &Path) -> Result<Vec<Unit>> {
    let mut all: Vec<Unit> = vec![];
    for combination in &plan.combinations {
        let (subjects, prompts) = subjects_and_prompts(plan, combination)?;
        let first = all.len();
        for row in &plan.rows {
            let config = match row.train {
                true => Some(plan.config(row, &subjects, root)?),
                false => None,
            };
            match all[first..].iter_mut().find(|u| u.config == config) {
                Some(unit) => unit.rows.push(row.clone()),
                None => all.push(Unit {
                    folder: folder(out, combination, config.as_ref())?,
                    combination: combination.name.clone(),
                    subjects: subjects.clone(),
                    prompts: prompts.clone(),
                    config,
                    rows: vec![row.clone()],
                }),
            }
        }
    }
    Ok(all)
}

/// `OUT/runs/COMBINATION/` and what tells its trainings apart: a part of the hash of the configuration.
fn folder(out: &Path, of: &Combination, config: Option<&TrainConfig>) -> Result<PathBuf> {
    let all = out.join("runs").join(&of.name);
    let Some(config) = config else { return Ok(all.join("base")) };
    let hash = Sha256::digest(config.to_toml()?.as_bytes());
    let start: String = hash.iter().take(6).map(|b| format!("{b:02x}")).collect();
    Ok(all.join(format!("{}-{start}", config.method.name.word())))
}

impl Unit {
    /// Every prompt of every row.
    pub fn cells(&self) -> impl Iterator<Item = (&Row, Cell)> {
        self.rows.iter().flat_map(move |row| {
            self.prompts.iter().enumerate().map(move |(number, prompt)| {
                let (row_name, combination) = (row.name.clone(), self.combination.clone());
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
        let shown = TrainConfig { subjects: self.subjects.clone(), ..TrainConfig::default() };
        fs::create_dir_all(&self.folder).map_err(Error::file("create", &self.folder))?;
        let text = shown.to_toml()?;
        atomic_write(&own, |w| w.write_all(text.as_bytes()))?;
        Ok(own)
    }
}
