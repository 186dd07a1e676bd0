//! The dataset's folder: which subjects are there, with which photos, and what is asked of each.

use super::{
    list,
    manifest::{Manifest, Prompt, is_live},
};
use crate::{
    cli::common::warn,
    data::{Subject as Photos, SubjectConfig},
    error::{Error, Result},
};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A subject that is evaluated.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its name in the dataset, its words and its folder.
    pub config: SubjectConfig,
    /// Its photos.
    pub photos: usize,
    /// What is asked of it.
    pub prompts: Vec<Prompt>,
}

impl Subject {
    /// Whether it is a cat or a dog.
    pub fn is_live(&self) -> bool {
        is_live(&self.config.class)
    }

    /// Its photos, read.
    ///
    /// # Errors
    /// [`Error::Data`] for a folder without photos, [`Error::Image`] for a broken one.
    pub fn read(&self, warnings: &mut Vec<String>) -> Result<Photos> {
        Photos::load(&self.config, warnings)
    }
}

/// What is evaluated.
#[derive(Clone, Debug)]
pub struct Data {
    /// Where classes and prompts are from, in words.
    pub source: String,
    /// The subjects, in the order of the list.
    pub subjects: Vec<Subject>,
    /// Subjects of the list without a folder.
    pub missing: Vec<String>,
    /// Subjects with a folder that were not asked for.
    pub left_out: Vec<String>,
}

impl Data {
    /// Looks at the folder `data`; of its subjects only those `asked` for, when any are named. Every photo is read once.
    ///
    /// # Errors
    /// Those of the list and of the photos; [`Error::Data`] for a folder that holds no subject, or something unknown;
    /// [`Error::Config`] for a subject that is not there.
    pub fn open(data: &Path, asked: &[String], token: &str) -> Result<Self> {
        let inner = data.join("dataset");
        let root = if inner.is_dir() { inner } else { data.to_path_buf() };
        let folders = folders(&root)?;
        let files = [root.join(list::FILE), data.join(list::FILE)];
        let manifest = match files.iter().find(|f| f.exists()) {
            Some(file) => list::read(file)?,
            None => Manifest::built_in(),
        };
        let known = |name: &String| manifest.subjects.iter().any(|(n, _)| n == name);
        let wrong = |found: String, expected: &str, fix: &str| Error::Data {
            at: root.display().to_string(),
            found,
            expected: expected.into(),
            fix: fix.into(),
        };
        if folders.is_empty() {
            let expected = "a folder of photos for every subject: backpack, cat, ...";
            return Err(wrong("no folder in it".into(), expected, "name the dataset's folder"));
        }
        if let Some(name) = folders.iter().find(|n| !known(n)) {
            let expected = format!("folders of subjects that {} knows", manifest.source);
            let fix = format!("take it away, or add it to the classes of {}", list::FILE);
            return Err(wrong(format!("the folder {name}"), &expected, &fix));
        }
        if let Some(name) = asked.iter().find(|n| !folders.contains(*n)) {
            return Err(Error::Config {
                key: "--subject".into(),
                found: name.clone(),
                expected: folders.iter().cloned().collect::<Vec<_>>().join(", "),
                fix: format!("these have a folder in {}", root.display()),
            });
        }
        let (mut subjects, mut missing, mut left_out) = (vec![], vec![], vec![]);
        for (name, class) in &manifest.subjects {
            if !folders.contains(name) {
                missing.push(name.clone());
            } else if !asked.is_empty() && !asked.contains(name) {
                left_out.push(name.clone());
            } else {
                let images = absolute(&root.join(name))?;
                let (id, token, class) = (name.clone(), token.to_string(), class.clone());
                let prompts = manifest.prompts(&class, &token);
                let config = SubjectConfig { id, token, class, images, ..SubjectConfig::default() };
                let mut subject = Subject { config, photos: 0, prompts };
                let mut warnings = vec![];
                subject.photos = subject.read(&mut warnings)?.photos.len();
                warnings.iter().for_each(|w| warn(w));
                subjects.push(subject);
            }
        }
        Ok(Self { source: manifest.source, subjects, missing, left_out })
    }
}

/// Names of the folders in `root`; hidden ones are none.
fn folders(root: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(root).map_err(Error::file("list", root))? {
        let path = entry.map_err(Error::file("list", root))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') {
            names.insert(name);
        }
    }
    Ok(names)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(Error::file("find", path))
}
