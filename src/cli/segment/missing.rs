//! Masks that other commands make for photos without one, with the models of `[segment]`; each once.

use super::{Cutter, Hand, by_hand};
use crate::{
    cli::{common::note, progress::progress},
    data::{TrainConfig, config::SegmentSection, photo_files},
    device::Device,
    error::{Error, Result},
    segment::words::Rule,
    tensor::image::{decode, write_png},
};
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A photo without a mask.
pub struct Missing {
    /// Number of the subject.
    subject: usize,
    path: PathBuf,
    bytes: Vec<u8>,
    hand: Option<Hand>,
}

/// The photos of `config` that have no mask, neither beside them nor in their alpha channel; none without models.
///
/// # Errors
/// Those of the folders, the photos and their `segment.toml`.
pub fn missing(config: &TrainConfig) -> Result<Vec<Missing>> {
    let mut all = vec![];
    if !config.segment.is_on() {
        return Ok(all);
    }
    for (subject, s) in config.subjects.iter().enumerate() {
        let mut hands = by_hand(&s.images)?;
        for file in photo_files(&s.images)?.into_iter().filter(|f| f.mask.is_none()) {
            let bytes = fs::read(&file.path).map_err(Error::file("read", &file.path))?;
            let alpha = decode(&bytes, &file.path)?.alpha();
            if alpha.is_none_or(|a| a.data.iter().all(|v| *v == 255)) {
                let name = file.path.file_name().unwrap_or_default().to_string_lossy();
                let hand = hands.remove(&*name);
                all.push(Missing { subject, path: file.path, bytes, hand });
            }
        }
    }
    Ok(all)
}

/// As [`missing`], then [`make`].
///
/// # Errors
/// As theirs.
pub fn complete(config: &mut TrainConfig, device: &Device, folder: &Path) -> Result<()> {
    match missing(config)? {
        none if none.is_empty() => Ok(()),
        some => make(config, some, device, folder),
    }
}

/// Makes the masks in `folder`, as far as they are not there for the same photo, settings and models, and tells the
/// subjects of `config` where they lie.
///
/// # Errors
/// [`Error::Data`] that names every photo without one and why; those of the networks and of writing.
pub fn make(
    config: &mut TrainConfig,
    missing: Vec<Missing>,
    device: &Device,
    folder: &Path,
) -> Result<()> {
    let section = config.segment.clone();
    let models = [identity(&section.detector)?, identity(&section.segmenter)?].concat();
    let SegmentSection { threshold, nms, margin, .. } = section;
    let rule = Rule { threshold, nms, margin };
    fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    let (mut cutter, mut failed, mut made) = (None, vec![], 0);
    let bar = progress(missing.len());
    for photo in missing {
        let subject = &mut config.subjects[photo.subject];
        let query = subject.query_words().to_string();
        let settings = format!("{query:?} {rule:?} {} {:?}", section.padding, photo.hand);
        let drawn = match &photo.hand {
            Some(Hand::Mask(path)) => fs::read(path).map_err(Error::file("read", path))?,
            _ => vec![],
        };
        let name = key(&[&photo.bytes, settings.as_bytes(), &drawn, &models]);
        let path = folder.join(format!("{name}.png"));
        if !path.is_file() {
            let cutter = match &mut cutter {
                Some(cutter) => cutter,
                none => none.insert(Cutter::open(&section, device.clone())?),
            };
            let picture = decode(&photo.bytes, &photo.path)?.rgb();
            match cutter.mask(&picture, &query, photo.hand.as_ref(), rule)? {
                Ok(mask) => write_png(&path, &mask, &[])?,
                Err(why) => failed.push(format!("{}: {why}", photo.path.display())),
            }
            made += 1;
        }
        bar.inc(1);
        let name = photo.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        subject.found_masks.insert(name, path);
    }
    bar.finish_and_clear();
    if !failed.is_empty() {
        return Err(Error::Data {
            at: "segment".into(),
            found: failed.join("; "),
            expected: "a mask for every photo".into(),
            fix: "show the subject in segment.toml beside the photo, draw NN_mask.png, or change segment.threshold; \
                  `selvedge segment` shows what was found"
                .into(),
        });
    }
    if made > 0 {
        note(&format!("{made} photos segmented into {}", folder.display()));
    }
    Ok(())
}

/// Names, sizes and times of a model's files: another model gives other masks.
fn identity(model: &Path) -> Result<Vec<u8>> {
    let mut files = vec![model.to_path_buf()];
    if model.is_dir() {
        let all = fs::read_dir(model).map_err(Error::file("read folder", model))?;
        files = all.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_file()).collect();
        files.sort();
    }
    let mut text = String::new();
    for file in files {
        let about = fs::metadata(&file).map_err(Error::file("open", &file))?;
        text += &format!("{} {} {:?}\n", file.display(), about.len(), about.modified().ok());
    }
    Ok(text.into_bytes())
}

fn key(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect()
}
