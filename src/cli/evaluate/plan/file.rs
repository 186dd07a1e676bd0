//! The plan: which subjects, prompts, seeds and rows (methods) are compared.

use super::judges::Models;
use crate::{
    cli::evaluate::{
        make::Sampling,
        unit::{Row, Shown},
    },
    data::config::load_subjects,
    error::{Error, Result},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Pictures of a combination, prompt and row in the paper: ten fixed seeds (methods.md §1.10).
const SEEDS: u64 = 10;

/// A plan as it is written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// A diffusers folder, a single-file checkpoint, or nano.
    pub base: String,
    /// Texts with `{subjects}` (all, joined by "and") or `{ID}` (one) where the subjects' words go.
    #[serde(default)]
    pub prompts: Vec<String>,
    /// The seeds of the pictures, or how many from 0; 10 when left out.
    #[serde(default)]
    pub seeds: Seeds,
    /// `[training.method]`, `[training.train]` and the other keys of a training configuration, for every row.
    #[serde(default)]
    pub training: toml::Table,
    /// How pictures are sampled.
    #[serde(default)]
    pub generate: Sampling,
    /// What judges them.
    #[serde(default)]
    pub score: Models,
    /// Subjects that are shown together.
    #[serde(rename = "combination")]
    pub combinations: Vec<Combination>,
    /// The rows of the table: methods, and their ablations.
    #[serde(rename = "row")]
    pub rows: Vec<Row>,
}

/// Seeds, or a count of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Seeds {
    /// From 0.
    Count(u64),
    /// These.
    List(Vec<u64>),
}

impl Default for Seeds {
    fn default() -> Self {
        Self::Count(SEEDS)
    }
}

impl Seeds {
    /// All of them.
    pub fn all(&self) -> Vec<u64> {
        match self {
            Self::Count(n) => (0..*n).collect(),
            Self::List(list) => list.clone(),
        }
    }
}

/// Subjects that are shown together.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Combination {
    /// Its name, in files and tables.
    pub name: String,
    /// A file with `[[subject]]` tables.
    pub subjects: PathBuf,
    /// Prompts of its own in place of the plan's.
    #[serde(default)]
    pub prompts: Vec<String>,
}

/// A refusal of something in the plan.
fn refuse(path: &Path, key: String, found: String, expected: &str, fix: &str) -> Error {
    Error::Config {
        key: format!("{}: {key}", path.display()),
        found,
        expected: expected.into(),
        fix: fix.into(),
    }
}

impl Plan {
    /// Reads a plan; paths are taken from its folder.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Config`] for an unknown key, for a name that is used twice or cannot be a file's, and where
    /// nothing would be made.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::file("read", path))?;
        let mut plan: Self = toml::from_str(&text).map_err(|e| {
            let line = e.span().map(|s| text[..s.start].matches('\n').count() + 1);
            let at = line.map_or(String::new(), |n| format!("line {n}"));
            refuse(path, at, e.message().into(), "a plan", "`selvedge evaluate --help` shows one")
        })?;
        plan.check(path)?;
        let root = path.parent().map(Path::to_path_buf).unwrap_or_default();
        plan.resolve(&root);
        plan.look(path)?;
        Ok(plan)
    }

    /// The plan as TOML; `path` is where it came from.
    ///
    /// # Errors
    /// [`Error::Config`] for a path that is not UTF-8.
    pub fn text(&self, path: &Path) -> Result<String> {
        toml::to_string(self).map_err(|e| {
            let (found, expected) = (e.to_string(), "values that TOML can hold");
            refuse(path, "plan".into(), found, expected, "use paths in UTF-8")
        })
    }

    fn check(&self, path: &Path) -> Result<()> {
        let seeds = self.seeds.all();
        let distinct: BTreeSet<&u64> = seeds.iter().collect();
        if seeds.is_empty() || distinct.len() < seeds.len() {
            let found = format!("{} seeds, {} different", seeds.len(), distinct.len());
            return Err(refuse(path, "seeds".into(), found, "each once", "change the list"));
        }
        let combinations = self.combinations.iter().map(|c| &c.name);
        names(path, "combination", combinations)?;
        names(path, "row", self.rows.iter().map(|r| &r.name))?;
        for c in &self.combinations {
            if self.prompts_of(c).is_empty() {
                let key = format!("combination {}: prompts", c.name);
                let fix = "add prompts = [\"a photo of {subjects}, on the beach\"]";
                return Err(refuse(path, key, "none".into(), "at least one", fix));
            }
        }
        for row in self.rows.iter().filter(|r| !r.train) {
            if row.preset.is_some() || !row.set.is_empty() {
                let (key, found) =
                    (format!("row {}", row.name), "train = false with set or preset");
                let fix = "leave out set and preset, or train = false";
                return Err(refuse(path, key, found.into(), "one of the two", fix));
            }
        }
        if self.training.contains_key("base") || self.training.contains_key("subject") {
            let fix = "base and combinations are keys of the plan itself";
            let found = "base or subject".to_string();
            return Err(refuse(path, "training".into(), found, "other keys", fix));
        }
        Ok(())
    }

    fn resolve(&mut self, root: &Path) {
        let beside = |p: &Path| match p.is_relative() && root.join(p).exists() {
            true => root.join(p),
            false => p.to_path_buf(),
        };
        if self.base != "nano" {
            self.base = beside(Path::new(&self.base)).display().to_string();
        }
        self.combinations.iter_mut().for_each(|c| c.subjects = beside(&c.subjects));
        for (_, path) in self.score.paths() {
            *path = beside(path);
        }
        for layout in self.rows.iter_mut().filter_map(|r| r.init.as_mut()) {
            if !["seg-mix", "none"].contains(&layout.as_str()) {
                *layout = beside(Path::new(layout)).display().to_string();
            }
        }
    }

    /// What is read long after the start is there.
    fn look(&mut self, plan: &Path) -> Result<()> {
        self.score.padding()?;
        let s = &self.score;
        if let Some(name) =
            s.queries.keys().find(|n| self.combinations.iter().all(|c| c.name != **n))
        {
            let key = "score.queries".to_string();
            return Err(refuse(plan, key, name.clone(), "names of combinations", "rename it"));
        }
        for (key, value) in [("score.threshold", s.threshold), ("score.nms", s.nms)] {
            if let Some(value) = value.filter(|v| !(0.0..=1.0).contains(v)) {
                let found = value.to_string();
                return Err(refuse(plan, key.into(), found, "a number from 0 to 1", "change it"));
            }
        }
        let set = s.threshold.or(s.nms).is_some() || s.padding.is_some() || !s.queries.is_empty();
        if s.detector.is_none() && set {
            let found = "threshold, nms, padding or queries without a detector".to_string();
            return Err(refuse(plan, "score".into(), found, "a detector", "name one"));
        }
        if [&s.dreamsim, &s.dinov2, &s.dino, &s.clip, &s.imagereward].iter().all(|m| m.is_none())
            && !s.none()
        {
            let (found, fix) = ("nothing that judges".to_string(), "name an embedder too");
            let expected = "dreamsim, dinov2, dino, clip or imagereward";
            return Err(refuse(plan, "score".into(), found, expected, fix));
        }
        for (key, path) in self.score.paths() {
            if !path.exists() {
                let found = format!("{}, which is not there", path.display());
                let fix = "check the path; it is taken from the plan's folder";
                return Err(refuse(plan, format!("score.{key}"), found, "a model", fix));
            }
        }
        Ok(())
    }

    /// The prompts of a combination, with `{subjects}` and `{ID}`.
    pub fn prompts_of<'a>(&'a self, combination: &'a Combination) -> &'a [String] {
        if combination.prompts.is_empty() { &self.prompts } else { &combination.prompts }
    }
}

/// Names that can be folders, each once.
fn names<'a>(path: &Path, what: &str, all: impl Iterator<Item = &'a String>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for name in all {
        let plain = |c: char| c.is_alphanumeric() || " -_+.".contains(c);
        if name.trim().is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            let expected = "a name of letters, digits, blanks and - _ + .";
            return Err(refuse(path, what.into(), format!("{name:?}"), expected, "rename it"));
        }
        if !seen.insert(name) {
            return Err(refuse(
                path,
                what.into(),
                format!("{name:?} twice"),
                "each once",
                "rename one",
            ));
        }
    }
    if seen.is_empty() {
        let fix = format!("add a [[{what}]]");
        return Err(refuse(path, what.into(), "none".into(), "at least one", &fix));
    }
    Ok(())
}

/// The subjects of a combination, and its prompts with their words.
///
/// # Errors
/// Those of the file; [`Error::Config`] for a name in braces that is no subject.
pub fn shown(plan: &Plan, combination: &Combination) -> Result<Shown> {
    let subjects = load_subjects(&combination.subjects)?;
    let words: Vec<String> = subjects.iter().map(|s| format!("a {}", s.words())).collect();
    let one = |prompt: &String| {
        let mut text = prompt.replace("{subjects}", &words.join(" and "));
        for (s, words) in subjects.iter().zip(&words) {
            text = text.replace(&format!("{{{}}}", s.id), words);
        }
        match text.split_once('{') {
            None => Ok(text),
            Some((_, rest)) => Err(Error::Config {
                key: format!("prompts of combination {}", combination.name),
                found: format!("{{{}", rest.split_inclusive('}').next().unwrap_or_default()),
                expected: format!(
                    "{{subjects}}, {}",
                    subjects.iter().map(|s| format!("{{{}}}", s.id)).collect::<Vec<_>>().join(", ")
                ),
                fix: "name a subject by its id".into(),
            }),
        }
    };
    let prompts = plan.prompts_of(combination).iter().map(one).collect::<Result<_>>()?;
    Ok(Shown { name: combination.name.clone(), subjects, prompts })
}
