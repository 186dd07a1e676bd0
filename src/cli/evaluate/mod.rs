//! `selvedge evaluate`: methods compared by plans and by benchmarks, and what people say of their pictures.

mod correlate;
mod dreambench;
mod make;
mod page;
mod plan;
mod side_by_side;
mod study;
mod unit;

use super::common::DeviceArgs;
use crate::error::{Error, Result};
use clap::{Args as ClapArgs, Subcommand};
use std::{path::PathBuf, str::FromStr};

/// Compare methods: train, sample and score what a plan names; pages that ask people; what their answers say.
///
/// A plan has a base, prompts, seeds, combinations of subjects, and rows (methods or their ablations). Everything that is
/// made is a file in --out: a run that was stopped goes on where it was, and so do shards of a job array. With all of it
/// there, table.md and side_by_side.html compare the rows.
///
/// Example: selvedge evaluate plan.toml --out evaluation --shard 3/8, where plan.toml is
///
///   base = "nano"
///   prompts = ["a photo of {subjects}, on the beach"]
///   [training.train]
///   steps = 900
///   [score]
///   detector = "owlv2"
///   dreamsim = "dreamsim"
///   [[combination]]
///   name = "bears"
///   subjects = "bears.toml"
///   [[row]]
///   name = "MuDI"
///   [[row]]
///   name = "MuDI without init"
///   init = "none"
///   [[row]]
///   name = "DreamBooth"
///   set = ["method.name=dreambooth"]
#[derive(Clone, Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true, verbatim_doc_comment)]
pub struct Args {
    /// What to do beside that.
    #[command(subcommand)]
    pub what: Option<What>,
    /// The plan.
    #[arg(value_name = "PLAN.toml")]
    pub plan: Option<PathBuf>,
    /// The folder for everything that is made.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Do only part I of N of the work.
    #[arg(long, default_value = "1/1", value_name = "I/N")]
    pub shard: make::Shard,
    /// Where and in which element type.
    #[command(flatten)]
    pub place: DeviceArgs,
}

/// The parts.
#[derive(Clone, Debug, Subcommand)]
pub enum What {
    /// Evaluate methods on DreamBench: every subject is learned by itself, then shown in its 25 prompts, 4 pictures each.
    ///
    /// DINO and CLIP-I are mean cosines of pictures and photos (class token, image features), CLIP-T that of a picture
    /// and its prompt without the identifier, diversity the mean of 1 - DINO over pairs of a prompt's pictures. Trainings,
    /// pictures and scores are files in --out: a stopped run goes on, shards share the work. With all of it there, table.md
    /// has every mean with its 95 % interval over (subject, prompt), and side_by_side/ a page for every subject.
    ///
    /// Example: selvedge evaluate dreambench --data dreambooth/dataset --base SDXL --method dreambooth --method base
    /// --dino dino-vits16 --clip clip-vit-base-patch32 --out dreambench --shard 3/8
    Dreambench(Box<dreambench::DreamBenchArgs>),
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
        Some(What::Dreambench(args)) => dreambench::run(args),
        Some(What::Study(args)) => study::run(args),
        Some(What::Correlate(args)) => correlate::run(args),
        None => {
            let (Some(plan), Some(out)) = (args.plan.clone(), args.out.clone()) else {
                return Err(Error::Config {
                    key: "evaluate".into(),
                    found: "no PLAN.toml or no --out".into(),
                    expected: "PLAN.toml --out DIR, dreambench, study, or correlate".into(),
                    fix: "`selvedge evaluate --help` shows a plan".into(),
                });
            };
            plan::Evaluation { plan, out, shard: args.shard, place: args.place.clone() }.run()
        }
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
