//! `selvedge segment`: masks of subjects, from words, or from a box or points given by hand.

mod cutter;
mod hand;
mod jobs;
pub mod missing;
mod page;

pub use cutter::Cutter;
pub use hand::{Hand, by_hand};

use super::{
    common::{DeviceArgs, note, out},
    progress::progress,
};
use crate::{
    error::{Error, Result},
    models::owlv2::Padding,
    segment::{
        prompt::{Point, Rectangle},
        words::Rule,
    },
    tensor::{
        atomic::atomic_write,
        image::{Picture, write_png},
    },
};
use clap::Args;
use jobs::Job;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Cut subjects out of photos: found by words, or shown by a box or points.
///
/// A photo is taken when exactly one box is like the query; the others fail, with the reason in report.html, and do
/// not stop the rest. Writes <stem>_mask.png (0 or 255, the photo's size), overlays/<stem>.png to look at, segments.json
/// (an entry a photo) and report.html. A segment.toml beside the photos shows single ones by hand: ["00.jpg"] with
/// box = [x0, y0, x1, y1], points = [[x, y, 1], ..], or mask = "file.png". A mask that is there already is kept, unless
/// --force or --box, --point, --mask ask for another. Exit 1 when a photo failed.
///
/// Examples: selvedge segment two_bears.toml --detector owlv2 --segmenter sam_vit_h.safetensors (masks beside the photos);
/// selvedge segment dog/*.jpg --query dog --detector owlv2 --segmenter mobile_sam.safetensors --out dog;
/// selvedge segment dog/00.jpg --box 40,60,400,380 --segmenter mobile_sam.safetensors --out dog
#[derive(Clone, Debug, Args)]
pub struct SegmentArgs {
    /// Photos, or one TOML file with [[subject]] tables.
    #[arg(required = true, value_name = "IMAGES|SUBJECTS.toml")]
    pub photos: Vec<PathBuf>,
    /// An OWLv2 in transformers' format, with its tokenizer.
    #[arg(long, value_name = "DIR")]
    pub detector: Option<PathBuf>,
    /// A SAM or MobileSAM: transformers folder, or a file with the original names (or a folder that holds it).
    #[arg(long, value_name = "DIR")]
    pub segmenter: Option<PathBuf>,
    /// What to look for, a bare class as "dog"; with a subjects file by default each subject's class.
    #[arg(long, value_name = "TEXT")]
    pub query: Option<String>,
    /// Boxes count above this score.
    #[arg(long, default_value_t = 0.2, value_name = "SCORE")]
    pub threshold: f64,
    /// Boxes that overlap a better one by more than this intersection over union are the same thing: non-maximum
    /// suppression; 1 keeps all, as published.
    #[arg(long, default_value_t = 1.0, value_name = "IOU")]
    pub nms: f64,
    /// By how much a found box grows on every side, in shares of the photo's width and height.
    #[arg(long, default_value_t = 0.05, value_name = "SHARE")]
    pub margin: f64,
    /// What fills a photo up to the detector's square: grey (as the paper's numbers were made) or black (as the
    /// detector was published).
    #[arg(long, default_value_t = Padding::Grey, value_name = "grey|black")]
    pub padding: Padding,
    /// A box around the subject, in pixels of the photo from its upper left corner; one photo.
    #[arg(long = "box", value_name = "x0,y0,x1,y1", allow_hyphen_values = true)]
    pub area: Option<Rectangle>,
    /// A point on the subject (1, the default) or not on it (0); repeatable; one photo.
    #[arg(long = "point", value_name = "x,y[,0|1]", allow_hyphen_values = true)]
    pub points: Vec<Point>,
    /// The mask itself, of the photo's size, white (above 128) on the subject; one photo.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["area", "points"])]
    pub mask: Option<PathBuf>,
    /// Make masks anew that are there already.
    #[arg(long)]
    pub force: bool,
    /// Folder for the results; with a subjects file a folder in it for each subject, and by default the photos' own.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Where to compute.
    #[command(flatten)]
    pub place: DeviceArgs,
}

/// What was cut out, an entry a photo.
const LIST: &str = "segments.json";

/// What became of one photo.
struct Done {
    mask: Option<Picture>,
    look: Option<Picture>,
    /// What the list says about it, beside the files.
    entry: Value,
    failed: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// Those of reading what is named, of the networks and of writing; with several photos a damaged one only fails itself.
pub fn run(args: &SegmentArgs) -> Result<u8> {
    args.check()?;
    let jobs = jobs::of(args)?;
    let mut lists = BTreeMap::new();
    for job in &jobs {
        if !lists.contains_key(&job.folder) {
            lists.insert(job.folder.clone(), entries(&job.folder.join(LIST))?);
        }
    }
    let (kept, jobs): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|j| j.kept);
    if !kept.is_empty() {
        note(&format!("{} masks are there already and are kept; --force renews them", kept.len()));
    }
    let mut models = cutter::open(args, &jobs)?;
    let bar = progress(if jobs.len() > 1 { jobs.len() } else { 0 });
    let (mut failed, alone) = (0, jobs.len() == 1);
    for job in &jobs {
        let rule = Rule { threshold: args.threshold, nms: args.nms, margin: args.margin };
        let done = match cutter::one(job, &mut models, rule) {
            Err(e) if alone => return Err(e),
            Err(e) => {
                Done { mask: None, look: None, entry: json!({}), failed: Some(e.to_string()) }
            }
            Ok(done) => done,
        };
        let list = lists.entry(job.folder.clone()).or_default();
        write(job, &done, list)?;
        if let Some(why) = &done.failed {
            failed += 1;
            bar.suspend(|| note(&format!("{}: {why}", job.photo.display())));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    for (folder, list) in lists.iter().filter(|(f, _)| jobs.iter().any(|j| j.folder == **f)) {
        page::write(folder, list)?;
    }
    Ok(u8::from(failed > 0))
}

impl SegmentArgs {
    fn check(&self) -> Result<()> {
        let shares =
            [("--threshold", self.threshold), ("--nms", self.nms), ("--margin", self.margin)];
        for (key, value) in shares {
            if !(0.0..=1.0).contains(&value) {
                return Err(refused(key, value, "a number from 0 to 1", "change it"));
            }
        }
        Ok(())
    }
}

fn refused(key: &str, found: impl ToString, expected: &str, fix: &str) -> Error {
    Error::Config {
        key: key.into(),
        found: found.to_string(),
        expected: expected.into(),
        fix: fix.into(),
    }
}

/// Writes what one photo gave: mask, overlay, its entry in the list.
fn write(job: &Job, done: &Done, list: &mut Vec<Value>) -> Result<()> {
    // a folder of its own: beside the photo, training would take the overlay for another photo
    let overlays = job.folder.join("overlays");
    fs::create_dir_all(&overlays).map_err(Error::file("create", &overlays))?;
    let mut entry = json!({ "photo": job.photo });
    if let Some(mask) = &done.mask {
        let path = job.mask();
        write_png(&path, mask, &[])?;
        entry["mask"] = json!(path);
        if done.failed.is_none() {
            let percent = 100.0 * done.entry["share"].as_f64().unwrap_or(0.0);
            let quality = done.entry["quality"].as_f64();
            let quality = quality.map(|q| format!(", quality {q:.3}")).unwrap_or_default();
            out(&format!("{}: {percent:.1} % of the photo{quality}\n", path.display()));
        }
    }
    if let Some(look) = &done.look {
        let path = overlays.join(format!("{}.png", job.stem()));
        write_png(&path, look, &[])?;
        entry["overlay"] = json!(path);
    }
    if let Some(why) = &done.failed {
        entry["failed"] = json!(why);
    }
    for (key, value) in done.entry.as_object().into_iter().flatten() {
        entry[key] = value.clone();
    }
    list.retain(|e| e["photo"] != entry["photo"]);
    list.push(entry);
    let text = format!("{:#}\n", Value::Array(list.clone()));
    atomic_write(job.folder.join(LIST), |w| w.write_all(text.as_bytes()))
}

/// What earlier calls wrote for other photos; nothing where there is no list yet.
fn entries(path: &Path) -> Result<Vec<Value>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(Error::File { path: path.into(), action: "read", source: e }),
    };
    serde_json::from_slice(&text).map_err(|e| Error::Format {
        path: path.into(),
        found: format!("{e}"),
        expected: "the list that segment writes".into(),
        fix: "move the file away, or name another --out".into(),
    })
}
