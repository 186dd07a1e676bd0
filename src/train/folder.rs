//! The run folder: who may use it, and where things lie in it.

use super::{Checkpoints, sha256};
use crate::{
    data::TrainConfig,
    data::config::LrSchedule,
    error::{Error, Result},
    tensor::atomic::atomic_write,
};
use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

/// A folder that belongs to one run: `config.toml`, `log.csv`, `checkpoints/`, `samples/`, and the result: `adapter.safetensors`,
/// or in mode full `model/`.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Takes `path` for a new run and writes the resolved configuration.
    ///
    /// # Errors
    /// [`Error::Config`] when a run is there already; [`Error::File`].
    pub fn create(path: &Path, config: &TrainConfig) -> Result<Self> {
        let old = ["config.toml", "checkpoints", "log.csv", "adapter.safetensors", "model"];
        if let Some(file) = old.iter().find(|f| path.join(f).exists()) {
            return Err(Error::Config {
                key: "--out".into(),
                found: format!("a run in {} ({file})", path.display()),
                expected: "a new folder".into(),
                fix: "add --resume to go on, or name another folder".into(),
            });
        }
        fs::create_dir_all(path).map_err(Error::file("create", path))?;
        let folder = Self { path: path.into() };
        let text = config.to_toml()?;
        atomic_write(folder.join("config.toml"), |w| w.write_all(text.as_bytes()))?;
        Ok(folder)
    }

    /// The folder of a run to go on with; a folder that a kill left without a configuration is taken as new.
    ///
    /// # Errors
    /// [`Error::Config`] when the configuration differs from that of the run; [`Error::File`].
    pub fn resume(path: &Path, config: &TrainConfig) -> Result<Self> {
        let file = path.join("config.toml");
        if !file.exists() {
            return Self::create(path, config);
        }
        let old = TrainConfig::load(&file, &[])?;
        if config_hash(&old)? != config_hash(config)? {
            return Err(Error::Config {
                key: "--resume".into(),
                found: "a configuration other than the run's".into(),
                expected: format!("that of {}", file.display()),
                fix: "give that file, or name another folder".into(),
            });
        }
        Ok(Self { path: path.into() })
    }

    /// A path inside.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its checkpoints, for trainables laid out as `entries`.
    ///
    /// # Errors
    /// As [`config_hash`].
    pub fn checkpoints(
        &self,
        config: &TrainConfig,
        entries: &[(String, Range<usize>)],
    ) -> Result<Checkpoints> {
        let keep = match config.train.keep_checkpoints {
            0 => usize::MAX,
            n => n,
        };
        Ok(Checkpoints::new(&self.join("checkpoints"), keep, &config_hash(config)?, entries))
    }
}

/// SHA-256 of the keys that change the result: how often to save, sample and export is left out, and so is the
/// number of steps while the learning rate does not depend on it.
///
/// # Errors
/// [`Error::Config`] when the configuration has no TOML form.
pub fn config_hash(config: &TrainConfig) -> Result<String> {
    let (mut config, plain) = (config.clone(), TrainConfig::default().train);
    config.preset = String::new(); // every key it stands for is there
    let t = &mut config.train;
    t.save_every = plain.save_every;
    t.keep_checkpoints = plain.keep_checkpoints;
    t.formats = plain.formats;
    t.sample_every = plain.sample_every;
    t.sample_prompts = plain.sample_prompts;
    t.sample_sampler = plain.sample_sampler;
    t.sample_steps = plain.sample_steps;
    t.sample_guidance = plain.sample_guidance;
    t.sample_negative = plain.sample_negative;
    t.sample_init = plain.sample_init;
    t.sample_gamma = plain.sample_gamma;
    if t.schedule == LrSchedule::Constant {
        t.steps = plain.steps;
    }
    Ok(sha256(config.to_hash()?.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::SubjectConfig;

    fn config() -> TrainConfig {
        let subject = |id: &str| SubjectConfig {
            id: id.into(),
            class: "cat".into(),
            images: "/nowhere".into(),
            ..SubjectConfig::default()
        };
        TrainConfig { subjects: vec![subject("a"), subject("b")], ..TrainConfig::default() }
    }

    #[test]
    fn a_second_run_needs_resume_and_the_same_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let mut c = config();
        RunFolder::create(folder.path(), &c).unwrap();
        let e = RunFolder::create(folder.path(), &c).unwrap_err();
        assert!(e.to_string().contains("--resume"), "{e}");
        c.train.steps += 100;
        RunFolder::resume(folder.path(), &c).unwrap();
        c.train.rank += 1;
        let e = RunFolder::resume(folder.path(), &c).unwrap_err();
        assert!(e.to_string().contains("config.toml"), "{e}");
    }

    #[test]
    fn more_steps_change_the_result_only_under_a_decaying_rate() {
        let mut a = config();
        let mut b = config();
        b.train.steps += 1;
        assert_eq!(config_hash(&a).unwrap(), config_hash(&b).unwrap());
        a.train.schedule = LrSchedule::Cosine;
        b.train.schedule = LrSchedule::Cosine;
        assert_ne!(config_hash(&a).unwrap(), config_hash(&b).unwrap());
    }
}
