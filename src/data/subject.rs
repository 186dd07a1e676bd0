//! Subjects: folders of photos with masks and captions, read once and kept in memory.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{config::SubjectConfig, segment::Segment};
use crate::{
    error::{Error, Result},
    tensor::image::{self, Filter, Picture},
};

/// One reference picture.
#[derive(Clone, Debug)]
pub struct Photo {
    /// File name, `03.jpg`.
    pub name: String,
    /// The picture, RGB.
    pub rgb: Picture,
    /// Its mask, gray, of the same size.
    pub mask: Option<Picture>,
    /// The cut-out subject, when there is a mask.
    pub segment: Option<Segment>,
    /// Captions; one is drawn each time. Empty when there is no caption file.
    pub captions: Vec<String>,
}

/// One subject with its photos.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Short name.
    pub id: String,
    /// Identifier and class as they stand in prompts.
    pub words: String,
    /// The identifier alone.
    pub token: String,
    /// The class alone.
    pub class: String,
    /// What detectors are asked for.
    pub query: String,
    /// Fixed factor on the subject's own fit; drawn when absent.
    pub scale: Option<f64>,
    /// Photos in the order of their names.
    pub photos: Vec<Photo>,
}

impl Subject {
    /// Reads the folder of `config`; what was put right on the way is added to `warnings`.
    ///
    /// # Errors
    /// No folder, no pictures in it, a damaged picture, or a mask with nothing in it
    /// ([`Error::Image`] with the file).
    pub fn load(config: &SubjectConfig, warnings: &mut Vec<String>) -> Result<Self> {
        let photos = read_folder(&config.images, &config.found_masks, warnings)?;
        if photos.is_empty() {
            return Err(Error::Data {
                at: config.images.display().to_string(),
                found: "no pictures".into(),
                expected: "files like 00.jpg, 00.png or 00.webp".into(),
                fix: format!("put photos of subject {} there, or change images", config.id),
            });
        }
        Ok(Self {
            id: config.id.clone(),
            words: config.words(),
            token: config.token.trim().into(),
            class: config.class.trim().into(),
            query: config.query_words().into(),
            scale: config.scale,
            photos,
        })
    }

    /// Fails with the file's name when a photo has no mask.
    ///
    /// # Errors
    /// [`Error::Data`].
    pub fn need_masks(&self) -> Result<()> {
        let Some(photo) = self.photos.iter().find(|p| p.segment.is_none()) else {
            return Ok(());
        };
        let stem = Path::new(&photo.name).file_stem().unwrap_or_default().to_string_lossy();
        Err(Error::Data {
            at: format!("subject {}: {}", self.id, photo.name),
            found: "no mask".into(),
            expected: format!(
                "one of two ways: {stem}_mask.png beside it (drawn, or made with `selvedge segment`; an alpha \
                 channel does too), or detector and segmenter in [segment] of the configuration"
            ),
            fix: "take one of them, or use method dreambooth".into(),
        })
    }

    /// Fails when no photo has a mask: nothing can be cut out.
    ///
    /// # Errors
    /// [`Error::Data`].
    pub fn need_a_mask(&self) -> Result<()> {
        match self.photos.iter().any(|p| p.segment.is_some()) {
            true => Ok(()),
            false => self.need_masks(),
        }
    }

    /// What its photos are called in training.
    pub fn all_captions(&self) -> Vec<String> {
        let bare = self.photos.iter().any(|p| p.captions.is_empty());
        let own = self.photos.iter().flat_map(|p| p.captions.iter().cloned());
        own.chain(bare.then(|| self.plain_caption())).collect()
    }

    /// The caption of a photo without a caption file.
    pub fn plain_caption(&self) -> String {
        format!("A photo of a {}", self.words)
    }

    /// Whether `prompt` names this subject: its token as a word of its own, or without a token its
    /// class.
    pub fn named_in(&self, prompt: &str) -> bool {
        let words = |s: &str| -> Vec<String> {
            let parts = s.split(|c: char| !c.is_alphanumeric() && c != '<' && c != '>');
            parts.filter(|w| !w.is_empty()).map(str::to_lowercase).collect()
        };
        let name = words(if self.token.is_empty() { &self.class } else { &self.token });
        !name.is_empty() && words(prompt).windows(name.len()).any(|w| w == name)
    }
}

/// Reads several subjects; a folder used twice is an error.
///
/// # Errors
/// As [`Subject::load`].
pub fn load_all(configs: &[SubjectConfig], warnings: &mut Vec<String>) -> Result<Vec<Subject>> {
    configs.iter().map(|c| Subject::load(c, warnings)).collect()
}

fn is_picture(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    matches!(ending.as_str(), "png" | "jpg" | "jpeg" | "webp")
}

/// A photo of a folder, and its mask where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhotoFile {
    /// The photo.
    pub path: PathBuf,
    /// `NN_mask.*` beside it.
    pub mask: Option<PathBuf>,
}

fn one_stem(a: &Path, b: &Path) -> Error {
    let name = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut names = [name(a), name(b)];
    names.sort();
    Error::Data {
        at: a.parent().unwrap_or(a).display().to_string(),
        found: names.join(" and "),
        expected: "one picture of a stem: mask and caption are named by it".into(),
        fix: "rename one of the two".into(),
    }
}

/// The photos of a folder by stem: what [`Subject::load`] reads.
///
/// # Errors
/// [`Error::File`] for a folder that cannot be read, [`Error::Data`] for two pictures of one stem.
pub fn photo_files(folder: &Path) -> Result<Vec<PhotoFile>> {
    let entries = std::fs::read_dir(folder).map_err(Error::file("read folder", folder))?;
    let (mut pictures, mut masks) = (BTreeMap::<String, PathBuf>::new(), BTreeMap::new());
    for entry in entries {
        let path = entry.map_err(Error::file("read folder", folder))?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_string();
        if stem.starts_with('.') || !path.is_file() || !is_picture(&path) {
            continue;
        }
        match stem.strip_suffix("_mask") {
            Some(of) => masks.insert(of.to_string(), path),
            None => {
                if let Some(other) = pictures.get(&stem) {
                    return Err(one_stem(&path, other));
                }
                pictures.insert(stem, path)
            }
        };
    }
    let file = |(stem, path)| PhotoFile { path, mask: masks.remove(&stem) };
    Ok(pictures.into_iter().map(file).collect())
}

/// The photos of a folder, by name; masks and captions are found by the stem, masks also in `more`, by file name.
pub(super) fn read_folder(
    folder: &Path,
    more: &BTreeMap<String, PathBuf>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Photo>> {
    let name = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let read = |file: PhotoFile| {
        let mask = file.mask.or_else(|| more.get(&name(&file.path)).cloned());
        read_photo(&file.path, mask.as_deref(), warnings)
    };
    photo_files(folder)?.into_iter().map(read).collect()
}

fn read_photo(path: &Path, mask: Option<&Path>, warnings: &mut Vec<String>) -> Result<Photo> {
    let picture = image::read(path)?;
    let (mask, of) = match mask {
        Some(file) => (Some(image::read(file)?.gray()), file),
        // An alpha channel that is opaque everywhere says nothing.
        None => (picture.alpha().filter(|a| a.data.iter().any(|v| *v < 255)), path),
    };
    let rgb = picture.rgb();
    let mask = mask.map(|m| fit_mask(m, &rgb, of, warnings));
    let segment = match &mask {
        None => None,
        Some(m) => Some(Segment::cut(&rgb, m).ok_or_else(|| Error::Image {
            path: of.into(),
            problem: "an empty mask (no value above 128)".into(),
            fix: "draw the subject white on black, or remove the file".into(),
        })?),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_string();
    Ok(Photo { name, captions: captions(path)?, rgb, mask, segment })
}

fn fit_mask(mask: Picture, rgb: &Picture, file: &Path, warnings: &mut Vec<String>) -> Picture {
    if (mask.width, mask.height) == (rgb.width, rgb.height) {
        return mask;
    }
    warnings.push(format!(
        "{}: mask of {} x {} resized to the picture's {} x {}",
        file.display(),
        mask.width,
        mask.height,
        rgb.width,
        rgb.height
    ));
    mask.resize(rgb.width, rgb.height, Filter::Bilinear)
}

fn captions(picture: &Path) -> Result<Vec<String>> {
    let file = picture.with_extension("txt");
    if !file.is_file() {
        return Ok(vec![]);
    }
    let text = std::fs::read_to_string(&file).map_err(Error::file("read", &file))?;
    Ok(text.lines().map(str::trim).filter(|l| !l.is_empty()).map(String::from).collect())
}
