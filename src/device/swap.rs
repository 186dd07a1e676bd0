//! Kernels of a researcher in place of the embedded ones: chosen variants, compiled files, sources; how they start.

use super::{Cuda, compile, cubin_table::Target, objects::Swapped};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

/// What is replaced for one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swap {
    /// `slot=variant`: which compiled variant an operation takes, wherever it applies.
    pub variants: Vec<String>,
    /// A folder of objects, `<stem>.sm_90a.cubin`; their kernels replace those of the same name.
    pub kernel_dir: Option<PathBuf>,
    /// Kernel sources to compile now.
    pub kernel_sources: Vec<PathBuf>,
    /// Names of kernels to act without.
    pub left_out: Vec<String>,
    /// Whether kernels start while the one before them runs.
    pub programmatic: bool,
}

impl Swap {
    /// Whether nothing is replaced.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Cuda {
    /// Replaces kernels from now on; the names of those that came from files.
    ///
    /// # Errors
    /// [`Error::Config`] for a word without `=`, a folder without objects for this chip, a missing compiler
    /// or a source that does not compile; [`Error::Format`] for an object that spills or does not read.
    pub fn swap(&self, swap: &Swap) -> Result<Vec<String>> {
        for word in &swap.variants {
            let Some((slot, name)) = word.split_once('=') else {
                return Err(Error::Config {
                    key: "--variant".into(),
                    found: word.clone(),
                    expected: "OPERATION=VARIANT, such as attention.forward=sm80".into(),
                    fix: "`selvedge kernels variants` shows them".into(),
                });
            };
            self.force_variant(slot, name);
        }
        if swap.programmatic {
            self.start_early()?;
        }
        self.leave_out(&swap.left_out);
        let mut names = vec![];
        if let Some(folder) = &swap.kernel_dir {
            for (path, image) in self.objects_in(folder)? {
                self.replace(path.display().to_string(), image, &mut names)?;
            }
        }
        for source in &swap.kernel_sources {
            let image = match self.target {
                Target::Host => compile::host(source)?,
                _ => compile::device(source, &self.architecture())?,
            };
            self.replace(source.display().to_string(), image, &mut names)?;
        }
        Ok(names)
    }

    /// Acts from now on as if the kernels of these names had not been compiled: what needs one fails by name.
    pub fn leave_out(&self, symbols: &[String]) {
        if !symbols.is_empty() {
            self.kernels.lock().unwrap_or_else(PoisonError::into_inner).leave_out(symbols);
        }
    }

    /// Takes only the built-in kernels from now on; chosen variants stay.
    pub fn swap_back(&self) {
        self.kernels.lock().unwrap_or_else(PoisonError::into_inner).swap_back();
    }

    fn replace(&self, source: String, image: Vec<u8>, names: &mut Vec<String>) -> Result<()> {
        let object = Swapped::new(source, image)?;
        names.extend(object.names().map(String::from));
        self.kernels.lock().unwrap_or_else(PoisonError::into_inner).swap(object);
        Ok(())
    }

    /// What a compiler calls this chip: `sm_90a`, `sm_86`.
    fn architecture(&self) -> String {
        let (major, minor) = self.capability;
        let own = if major >= 9 { "a" } else { "" };
        format!("sm_{major}{minor}{own}")
    }

    /// Endings of the objects this chip runs, best first.
    fn endings(&self) -> Vec<String> {
        if self.target == Target::Host {
            return vec!["host.so".into()];
        }
        let mut chips = vec![self.architecture()];
        if self.capability.0 == 8 && self.capability.1 != 0 {
            chips.push("sm_80".into());
        }
        chips.iter().map(|c| format!("{c}.cubin")).collect()
    }

    /// The objects of `folder` for this chip, one a source, sorted by name.
    fn objects_in(&self, folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let endings = self.endings();
        let entries = std::fs::read_dir(folder).map_err(Error::file("list", folder))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        paths.sort();
        let stem = |path: &Path, ending: &str| {
            let name = path.file_name()?.to_str()?;
            Some(name.strip_suffix(ending)?.strip_suffix('.')?.to_string())
        };
        let mut taken: Vec<String> = vec![];
        let mut objects = vec![];
        for ending in &endings {
            for path in &paths {
                let Some(stem) = stem(path, ending) else { continue };
                if taken.contains(&stem) {
                    continue;
                }
                let image = std::fs::read(path).map_err(Error::file("read", path))?;
                taken.push(stem);
                objects.push((path.clone(), image));
            }
        }
        if objects.is_empty() {
            return Err(Error::Config {
                key: "--kernel-dir".into(),
                found: format!("{} without a file for {}", folder.display(), self.name()),
                expected: format!("NAME.{}", endings.join(" or NAME.")),
                fix: "compile one with tools/kernel.sh FILE.cu DIR".into(),
            });
        }
        Ok(objects)
    }
}
