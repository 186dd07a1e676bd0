//! `selvedge export`: the embedded base as a diffusers folder, and the models that look at its pictures.

use super::common::out;
use crate::{
    error::{Error, Result},
    models::checkpoint::assets,
    tensor::atomic::atomic_write,
};
use clap::{Args, ValueEnum};
use std::{fs, path::PathBuf};

/// Write the embedded base as a diffusers folder, and in `eyes/` the models that find, cut out and judge its toys.
///
/// Example: selvedge export nano ./nano
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    /// Which embedded model.
    #[arg(value_enum)]
    pub model: Embedded,
    /// The folder to write; it must not exist or be empty.
    pub dir: PathBuf,
    /// Write into a folder that holds something, over files of the same names.
    #[arg(long)]
    pub force: bool,
}

/// The embedded models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Embedded {
    /// The small base of SDXL's architecture.
    Nano,
}

/// Runs the command.
///
/// # Errors
/// [`Error::Config`] for a folder that is not empty, [`Error::File`] when the disk refuses.
pub fn run(args: &ExportArgs) -> Result<u8> {
    let Embedded::Nano = args.model;
    let dir = &args.dir;
    let used = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(Error::File { path: dir.clone(), action: "list", source: e }),
    };
    if used && !args.force {
        return Err(Error::Config {
            key: "DIR".into(),
            found: format!("{}, which is not empty", dir.display()),
            expected: "a new or empty folder".into(),
            fix: "name another one, or add --force".into(),
        });
    }
    let eyes = assets::eyes().iter().map(|(name, bytes)| (format!("eyes/{name}"), bytes));
    let base = assets::nano().iter().map(|(name, bytes)| ((*name).to_string(), bytes));
    let mut files = 0;
    for (name, bytes) in base.chain(eyes) {
        let path = dir.join(name);
        files += 1;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        }
        atomic_write(&path, |w| w.write_all(bytes))?;
    }
    out(&format!("{}: {files} files\n", dir.display()));
    Ok(0)
}
