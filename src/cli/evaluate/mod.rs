//! `selvedge evaluate`: what people say of pictures, and whether the metrics agree with them.

mod correlate;
mod page;
mod study;

use crate::error::Result;
use clap::{Args as ClapArgs, Subcommand};
use std::{path::PathBuf, str::FromStr};

/// Judge pictures: pages that ask people, and what their answers say about methods and metrics.
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub what: What,
}

/// The parts.
#[derive(Clone, Debug, Subcommand)]
pub enum What {
    /// Write one page that asks people about the pictures of methods, blinded, and the key to their answers.
    ///
    /// Example: selvedge evaluate study mudi=run/pictures dreambooth=base/pictures --out study
    Study(study::StudyArgs),
    /// Count the answers, and say how well every metric agrees with them (Spearman, AUROC).
    ///
    /// Example: selvedge evaluate correlate answers.json --key study/key.json --scores mudi=mudi.json
    Correlate(correlate::CorrelateArgs),
}

/// Runs the command.
///
/// # Errors
/// Those of reading and writing.
pub fn run(args: &Args) -> Result<u8> {
    match &args.what {
        What::Study(args) => study::run(args),
        What::Correlate(args) => correlate::run(args),
    }
}

/// A method and a path that belongs to it, `METHOD=PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The method.
    pub method: String,
    /// The path.
    pub path: PathBuf,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once('=') {
            Some((method, path)) if !method.is_empty() && !path.is_empty() => {
                Ok(Self { method: method.into(), path: path.into() })
            }
            _ => Err("expected METHOD=PATH, for example mudi=run/pictures".into()),
        }
    }
}
