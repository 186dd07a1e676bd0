//! `selvedge score`: whether identities were kept apart, from pictures or from numbers that exist already.

mod boxes;
mod images;
mod numbers;
mod page;
mod results;
mod show;

use super::common::DeviceArgs;
use crate::{
    error::{Error, Result},
    models::owlv2::Padding,
};
use clap::Args;
use std::path::{Path, PathBuf};

/// Detect-and-Compare, similarities and text scores of pictures; or Detect-and-Compare from numbers that exist already.
///
/// Pictures are judged by the models that are named, in f32 unless --dtype asks for less; every one that is not named is
/// listed as missing.
///
/// Example: selvedge score --images pictures --subjects two_subjects.toml --detector owlv2-base-patch16-ensemble
/// --dreamsim DREAMSIM --clip clip-vit-large-patch14 --out scores
///
/// Example: selvedge score --embeddings crops.safetensors --json
#[derive(Clone, Debug, Args)]
pub struct ScoreArgs {
    /// What is scored.
    #[command(flatten)]
    pub of: OfArgs,
    /// What judges pictures.
    #[command(flatten)]
    pub by: ByArgs,
    /// Print one JSON object instead of the tables.
    #[arg(long)]
    pub json: bool,
    /// Where to compute, with --images.
    #[command(flatten)]
    pub place: DeviceArgs,
}

/// One of these.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct OfArgs {
    /// A folder of pictures.
    #[arg(long, value_name = "DIR", requires = "subjects")]
    pub images: Option<PathBuf>,
    /// JSON with `ground_truth` and, for every image, `name` and `similarity`: a row per box, a column per subject.
    #[arg(long, value_name = "IN.json")]
    pub similarities: Option<PathBuf>,
    /// Safetensors with `references.SUBJECT [R, D]` and `crops.IMAGE [B, D]`.
    #[arg(long, value_name = "IN.safetensors")]
    pub embeddings: Option<PathBuf>,
}

/// Subjects, models, boxes and prompts of `--images`.
#[derive(Clone, Debug, Args)]
pub struct ByArgs {
    /// A file with [[subject]] tables, as a training configuration: their photos are the references.
    #[arg(long, value_name = "FILE.toml", requires = "images")]
    pub subjects: Option<PathBuf>,
    /// Boxes given by hand, {"0001.png": [[x0, y0, x1, y1], ...], ...} in pixels, an entry for every picture.
    #[arg(long, value_name = "FILE.json", requires = "images")]
    pub boxes: Option<PathBuf>,
    /// An OWLv2 that looks for the subjects' queries (classes where a subject has none), all at once; in place of --boxes.
    #[arg(long, value_name = "DIR", requires = "images", conflicts_with = "boxes")]
    pub detector: Option<PathBuf>,
    /// A text to look for in place of these (repeatable); which one a box is most like does not matter.
    #[arg(long = "query", value_name = "TEXT", requires = "detector")]
    pub queries: Vec<String>,
    /// What the detector is less sure of is no box; 0.4 when left out, as published.
    #[arg(long, value_name = "0..1", requires = "detector")]
    pub threshold: Option<f64>,
    /// Boxes that overlap a better one by more than this intersection over union are the same thing: non-maximum
    /// suppression; 1, which keeps all, when left out, as published.
    #[arg(long, value_name = "IOU", requires = "detector")]
    pub nms: Option<f64>,
    /// What fills the detector's square up: grey (the default, as the published numbers have it) or black.
    #[arg(long, value_name = "COLOUR", requires = "detector")]
    pub padding: Option<Padding>,
    /// DreamSim's folder.
    #[arg(long, value_name = "DIR", requires = "images")]
    pub dreamsim: Option<PathBuf>,
    /// A DINOv2; the published numbers are dinov2-base's.
    #[arg(long, value_name = "DIR", requires = "images")]
    pub dinov2: Option<PathBuf>,
    /// A DINO of the first version.
    #[arg(long, value_name = "DIR", requires = "images")]
    pub dino: Option<PathBuf>,
    /// A CLIP: its image tower compares pictures, both towers give the CLIP score.
    #[arg(long, value_name = "DIR", requires = "images")]
    pub clip: Option<PathBuf>,
    /// ImageReward's folder, with vocab.txt of bert-base-uncased in it.
    #[arg(long, value_name = "DIR", requires = "images")]
    pub imagereward: Option<PathBuf>,
    /// The text of all pictures; without it each PNG's own, which `generate` writes into it.
    #[arg(long, value_name = "TEXT", requires = "images")]
    pub prompt: Option<String>,
    /// Compare with the prompt's identifiers in it; without it the class words stand alone.
    #[arg(long, requires = "images")]
    pub keep_tokens: bool,
    /// A folder for scores.jsonl (a line a picture) and score.html (the worst first).
    #[arg(long, value_name = "DIR", requires = "images")]
    pub out: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// Those of reading; [`Error::Data`] for numbers and boxes that do not fit; those of the models.
pub fn run(args: &ScoreArgs) -> Result<u8> {
    let OfArgs { images, similarities, embeddings } = &args.of;
    match (images, similarities, embeddings) {
        (Some(folder), ..) => images::run(folder, args),
        (_, Some(path), _) => {
            nothing_computes(&args.place).and_then(|()| numbers::similarities(path, args.json))
        }
        (.., Some(path)) => {
            nothing_computes(&args.place).and_then(|()| numbers::embeddings(path, args.json))
        }
        // clap asks for one of them
        (None, None, None) => Ok(2),
    }
}

/// The object that `--json` prints for the pictures of `folder`.
///
/// # Errors
/// As [`run`].
pub fn judged(folder: &Path, by: ByArgs, place: DeviceArgs) -> Result<serde_json::Value> {
    let of = OfArgs { images: Some(folder.into()), similarities: None, embeddings: None };
    images::judged(folder, &ScoreArgs { of, by, json: true, place })
}

/// A number over all pictures of a folder.
#[derive(Clone, Debug)]
pub struct Mean {
    /// What it is.
    pub label: String,
    /// Its mean and 95 % interval; `None` unless every picture has the number.
    pub of: Option<(f64, [f64; 2])>,
}

/// The scores of a folder, for another command's page.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `(SVG, caption)` of every picture, the worst first.
    pub figures: Vec<(String, String)>,
    /// Every number over all pictures.
    pub means: Vec<Mean>,
    /// How many boxes every picture has, by name.
    pub boxes: Vec<usize>,
    /// What `--json` prints.
    pub numbers: serde_json::Value,
}

/// Scores the pictures of `folder`; they are shown `side` pixels wide.
///
/// # Errors
/// As [`run`].
pub fn seen(folder: &Path, by: ByArgs, place: DeviceArgs, side: usize) -> Result<Seen> {
    let of = OfArgs { images: Some(folder.into()), similarities: None, embeddings: None };
    images::seen(folder, &ScoreArgs { of, by, json: true, place }, side)
}

/// Refuses flags of a device where there is nothing to compute on it.
fn nothing_computes(place: &DeviceArgs) -> Result<()> {
    let kernels = &place.kernels;
    let swapped = kernels.kernel_dir.is_some()
        || !(kernels.variants.is_empty()
            && kernels.kernel_sources.is_empty()
            && kernels.left_out.is_empty());
    if place.device == "auto" && place.dtype.is_none() && place.capture.is_none() && !swapped {
        return Ok(());
    }
    Err(Error::Config {
        key: "--device, --dtype and flags of kernels".into(),
        found: "numbers that exist already".into(),
        expected: "--images: only pictures are computed on a device".into(),
        fix: "leave them out".into(),
    })
}
