//! The subjects of a picture, and where they stand when it starts.

use super::{common::warn, segment::missing};
use crate::{
    data::{
        Layout, Subject,
        config::{MethodConfig, load_for_subjects},
        layout::{arranged, columns},
        load_all,
        mix::MixRule,
    },
    device::Device,
    error::{Error, Result},
    tensor::{
        image::Picture,
        philox::{Stream, streams::COMPOSITION},
    },
};
use std::path::Path;

/// Subjects with a rule that puts them on a canvas.
#[derive(Clone, Debug)]
pub struct Scene {
    subjects: Vec<Subject>,
    method: MethodConfig,
    layout: Option<Layout>,
}

impl Scene {
    /// The scene of `--init` (`none` gives none) for `prompt` with the subjects and `[method]` keys of `file`; masks that
    /// its `[segment]` makes go into the folder `masks`. `apart` forbids that subjects overlap, whatever `[method]` says.
    ///
    /// # Errors
    /// Without a file; for `apart` without random places; for a prompt that names no subject; for a layout with an unknown
    /// subject; those of the files.
    pub fn open(
        (init, apart): (&str, bool),
        file: Option<&Path>,
        prompt: &str,
        (device, masks): (&Device, &Path),
    ) -> Result<Option<Self>> {
        if apart && init != "seg-mix" {
            return Err(Error::Config {
                key: "--apart".into(),
                found: format!("--init {init}"),
                expected: "--init seg-mix beside it".into(),
                fix: "add it, or leave --apart out: a layout says itself where subjects stand"
                    .into(),
            });
        }
        if init == "none" {
            return Ok(None);
        }
        let Some(file) = file else {
            return Err(Error::Config {
                key: "--init".into(),
                found: init.into(),
                expected: "--subjects FILE.toml beside it".into(),
                fix: "name the subjects, or use --init none".into(),
            });
        };
        let mut config = load_for_subjects(file)?;
        missing::complete(&mut config, device, masks)?;
        let mut method = config.method;
        method.overlap &= !apart;
        let mut warnings = vec![];
        let all = load_all(&config.subjects, &mut warnings)?;
        warnings.iter().for_each(|w| warn(w));
        if init == "seg-mix" {
            return Self::columns(all, method, prompt).map(Some);
        }
        named(&all, prompt)?;
        let layout = Layout::read(Path::new(init))?;
        layout.check(&all)?;
        Ok(Some(Self { subjects: all, method, layout: Some(layout) }))
    }

    /// The subjects that `prompt` names, side by side under the rules of `method`.
    ///
    /// # Errors
    /// For a prompt that names none, and for a subject without masks.
    pub fn columns(all: Vec<Subject>, method: MethodConfig, prompt: &str) -> Result<Self> {
        let subjects = named(&all, prompt)?;
        subjects.iter().try_for_each(Subject::need_a_mask)?;
        Ok(Self { subjects, method, layout: None })
    }

    /// The composition under `seed` on a canvas of width and height `size`: picture and union mask.
    ///
    /// # Errors
    /// A box outside the canvas.
    pub fn compose(&self, seed: u64, size: [usize; 2]) -> Result<(Picture, Picture)> {
        let mut random = Stream::new(seed, COMPOSITION);
        let start = match &self.layout {
            Some(layout) => arranged(&self.subjects, layout, size, &mut random)?,
            None => {
                let rule = MixRule::new(&self.method, size[0].min(size[1]));
                columns(&self.subjects.iter().collect::<Vec<_>>(), size, &rule, &mut random)?
            }
        };
        Ok((start.picture, start.mask))
    }
}

/// The subjects that `prompt` names.
fn named(all: &[Subject], prompt: &str) -> Result<Vec<Subject>> {
    let named: Vec<Subject> = all.iter().filter(|s| s.named_in(prompt)).cloned().collect();
    if !named.is_empty() {
        return Ok(named);
    }
    let words: Vec<String> = all.iter().map(|s| format!("`{}`", s.words)).collect();
    Err(Error::Config {
        key: "--prompt".into(),
        found: format!("`{prompt}`, which names no subject"),
        expected: format!("one of {}", words.join(", ")),
        fix: "write the subject's token in the prompt, or use --init none".into(),
    })
}
