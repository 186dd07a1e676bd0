//! Prompts by hand: `segment.toml` beside the photos.

use crate::{
    error::{Error, Result},
    segment::prompt::{Point, Prompt, Rectangle},
    tensor::image::{Picture, read},
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The file's name.
const FILE: &str = "segment.toml";

/// What takes the place of looking for words.
#[derive(Clone, Debug, PartialEq)]
pub enum Hand {
    /// A box, points, or both.
    Prompt(Prompt),
    /// The mask itself.
    Mask(PathBuf),
}

impl Hand {
    /// Whether it fits the photo; the mask, where it is one: 0 or 255.
    ///
    /// # Errors
    /// [`Error::Config`] for a prompt outside the photo, [`Error::Image`] for a mask of another size.
    pub fn fitting(&self, photo: &Picture) -> Result<Option<Picture>> {
        let path = match self {
            Hand::Prompt(prompt) => {
                return prompt.check([photo.height, photo.width]).map(|()| None);
            }
            Hand::Mask(path) => path,
        };
        let mut mask = read(path)?.gray();
        if (mask.width, mask.height) != (photo.width, photo.height) {
            return Err(Error::Image {
                path: path.clone(),
                problem: format!(
                    "a mask of {} x {} for a photo of {} x {}",
                    mask.width, mask.height, photo.width, photo.height
                ),
                fix: "give a mask of the photo's size".into(),
            });
        }
        mask.data.iter_mut().for_each(|v| *v = if *v > 128 { 255 } else { 0 });
        Ok(Some(mask))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(rename = "box")]
    area: Option<[f64; 4]>,
    #[serde(default)]
    points: Vec<Vec<f64>>,
    mask: Option<PathBuf>,
}

/// What the `segment.toml` of a folder says, by the names of photos; nothing without the file.
///
/// # Errors
/// [`Error::Format`] for what is no such file, names a photo or a mask that is not there, or says nothing about one.
pub fn by_hand(folder: &Path) -> Result<BTreeMap<String, Hand>> {
    let path = folder.join(FILE);
    if !path.is_file() {
        return Ok(BTreeMap::new());
    }
    let wrong = |found: String, expected: &str| Error::Format {
        path: path.clone(),
        found,
        expected: expected.into(),
        fix: "write for example [\"00.jpg\"] and below it box = [40, 60, 400, 380]".into(),
    };
    let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    let all: BTreeMap<String, Entry> = toml::from_str(&text).map_err(|e| {
        let line = e.span().map_or(0, |s| text[..s.start.min(text.len())].matches('\n').count());
        let found = format!("line {}: {}", line + 1, e.message().replace('\n', " "));
        wrong(found, "tables of photos with box, points or mask")
    })?;
    let mut hands = BTreeMap::new();
    for (name, entry) in all {
        let there = |name: &Path| folder.join(name).is_file();
        if !there(Path::new(&name)) {
            return Err(wrong(format!("[{name:?}]"), "the name of a photo in this folder"));
        }
        let about = |what: &str| format!("[{name:?}] {what}");
        let hand = match (entry.mask, entry.area, &entry.points[..]) {
            (Some(mask), None, []) if there(&mask) => Hand::Mask(folder.join(mask)),
            (Some(mask), None, []) => {
                return Err(wrong(
                    about(&format!("mask = {:?}", mask.display().to_string())),
                    "a file in this folder",
                ));
            }
            (Some(_), ..) => {
                return Err(wrong(about("a mask and a box or points"), "one of them"));
            }
            (None, None, []) => return Err(wrong(about("nothing"), "a box, points or a mask")),
            (None, area, points) => {
                let number = |v: &f64| v.to_string();
                let words = |v: &[f64]| v.iter().map(number).collect::<Vec<_>>().join(",");
                // read as the flags are: the same checks
                let area = area.map(|a| words(&a).parse::<Rectangle>()).transpose();
                let area = area.map_err(|e| wrong(about("box"), &e))?;
                let points: std::result::Result<Vec<Point>, String> =
                    points.iter().map(|p| words(p).parse()).collect();
                Hand::Prompt(Prompt {
                    area,
                    points: points.map_err(|e| wrong(about("points"), &e))?,
                })
            }
        };
        hands.insert(name, hand);
    }
    Ok(hands)
}
