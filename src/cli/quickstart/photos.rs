//! The photos of a quickstart: the embedded examples or a person's own, and the masks that they lack.

use super::{Quickstart, Story};
use crate::{
    cli::{
        common::note,
        segment::{self, SegmentArgs},
    },
    data::config::{CLASS_FILE, SegmentSection, SubjectConfig, load_for_subjects},
    error::{Error, Result},
    models::{checkpoint::assets, owlv2::Padding},
    tensor::atomic::atomic_write,
};
use serde::Serialize;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Above this intersection over union two boxes of the embedded detector are one toy's, in photos and in what is painted
/// (tools/nano/see/NOTES.md).
pub(super) const NMS: f64 = 0.8;

/// What finds, cuts out and judges the subjects: the embedded models, written where any command can be given them.
#[derive(Clone, Debug)]
pub(super) struct Eyes {
    /// An OWLv2.
    pub detector: PathBuf,
    /// A SAM.
    pub segmenter: PathBuf,
    /// A DINOv2.
    pub dino: PathBuf,
    /// A CLIP.
    pub clip: PathBuf,
}

impl Eyes {
    /// Writes them into `folder`, as far as they are not there.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write(folder: &Path) -> Result<Self> {
        for (name, bytes) in assets::eyes() {
            let path = folder.join(name);
            let same = fs::metadata(&path).is_ok_and(|m| m.len() == bytes.len() as u64);
            if !same {
                write(&path, bytes)?;
            }
        }
        let [detector, segmenter, dino, clip] =
            ["detector", "segmenter", "dino", "clip"].map(|name| folder.join(name));
        Ok(Self { detector, segmenter, dino, clip })
    }
}

/// The photos, in a folder of the quickstart's own.
#[derive(Clone, Debug)]
pub(super) struct Photos {
    /// The file that names the subjects.
    pub list: PathBuf,
    /// The subjects.
    pub subjects: Vec<SubjectConfig>,
    /// The command that made the masks.
    pub command: String,
}

/// A subjects file.
#[derive(Serialize)]
struct Listed<'a> {
    subject: &'a [SubjectConfig],
}

impl Photos {
    /// Writes or copies the photos and makes the masks that they lack.
    ///
    /// # Errors
    /// Those of the files; [`Error::Data`] where a photo has no mask afterwards.
    pub fn open(args: &Quickstart, eyes: &Eyes) -> Result<Self> {
        let (list, section) = match &args.subjects {
            Some(file) => copy(file, &args.out.join("subjects"))?,
            None => {
                let own = if args.method == Story::Mudi { "bears" } else { "one_place" };
                let pair = args.pair.as_deref().unwrap_or(own);
                (examples(pair, &args.out.join("subjects"))?, SegmentSection::default())
            }
        };
        let own = section.is_on();
        let (detector, segmenter) = match own {
            true => (&section.detector, &section.segmenter),
            false => (&eyes.detector, &eyes.segmenter),
        };
        let nms = if own { section.nms } else { NMS };
        let padding: Padding = if own { section.padding()? } else { Padding::default() };
        let segment = SegmentArgs {
            photos: vec![list.clone()],
            detector: Some(detector.clone()),
            segmenter: Some(segmenter.clone()),
            query: None,
            threshold: section.threshold,
            nms,
            margin: section.margin,
            padding,
            area: None,
            points: vec![],
            mask: None,
            force: false,
            out: None,
            place: args.compute.place.clone(),
        };
        note("segmenting the photos");
        if segment::run(&segment)? != 0 {
            return Err(Error::Data {
                at: list.display().to_string(),
                found: "photos without a mask; report.html beside them shows why".into(),
                expected: "a mask for every photo".into(),
                fix: "show the subject in segment.toml beside the photo, draw NN_mask.png, or name a detector and a \
                      segmenter in [segment] of the subjects file"
                    .into(),
            });
        }
        let command = format!(
            "selvedge segment {} --detector {} --segmenter {} --threshold {} --nms {nms} --margin {} --padding {padding}",
            list.display(),
            detector.display(),
            segmenter.display(),
            section.threshold,
            section.margin
        );
        Ok(Self { subjects: load_for_subjects(&list)?.subjects, list, command })
    }
}

/// Writes the embedded photos of a pair, without their masks; returns the file that names the subjects.
fn examples(pair: &str, folder: &Path) -> Result<PathBuf> {
    let root = folder.join(pair);
    let pairs = assets::examples();
    let Some((_, files)) = pairs.iter().find(|(name, _)| *name == pair) else {
        return Err(Error::Config {
            key: "--pair".into(),
            found: pair.into(),
            expected: "bears, robot_duck or one_place".into(),
            fix: "choose one of these".into(),
        });
    };
    for (name, bytes) in files.iter().filter(|(name, _)| !name.ends_with("_mask.png")) {
        write(&root.join(name.trim_start_matches('/')), bytes)?;
    }
    Ok(root.join("subjects.toml"))
}

/// Copies the photos that `file` names, with masks, captions and what is shown by hand; returns the copies' list and the
/// models of the file.
fn copy(file: &Path, folder: &Path) -> Result<(PathBuf, SegmentSection)> {
    let config = load_for_subjects(file)?;
    let mut subjects = config.subjects;
    for (i, subject) in subjects.iter_mut().enumerate() {
        let plain = subject.id.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        let name = if plain { subject.id.clone() } else { format!("subject-{}", i + 1) };
        let to = folder.join(&name);
        let entries = fs::read_dir(&subject.images);
        for entry in entries.map_err(Error::file("read folder", &subject.images))? {
            let from = entry.map_err(Error::file("read folder", &subject.images))?.path();
            let ending = from.extension().unwrap_or_default().to_string_lossy().to_lowercase();
            let wanted = ["png", "jpg", "jpeg", "webp", "txt", "toml"].contains(&&*ending);
            if !wanted || !from.is_file() || from.ends_with(CLASS_FILE) {
                continue;
            }
            let bytes = fs::read(&from).map_err(Error::file("read", &from))?;
            write(&to.join(from.file_name().unwrap_or_default()), &bytes)?;
        }
        subject.images = name.into();
    }
    let list = folder.join("subjects.toml");
    let text = toml::to_string(&Listed { subject: &subjects }).map_err(|e| Error::Config {
        key: file.display().to_string(),
        found: e.to_string(),
        expected: "values that TOML can hold".into(),
        fix: "use names in UTF-8".into(),
    })?;
    write(&list, text.as_bytes())?;
    Ok((list, config.segment))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    }
    atomic_write(path, |w| w.write_all(bytes))
}
