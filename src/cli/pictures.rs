//! Folders of pictures, and pictures on pages.

use crate::{
    error::{Error, Result},
    tensor::image::{self, Picture},
};
use std::{collections::BTreeSet, fs, path::Path};

/// Names of the pictures in a folder; overviews (`grid.png`) are none.
///
/// # Errors
/// [`Error::File`] for a folder that cannot be read.
pub fn names(folder: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).map_err(Error::file("list", folder))? {
        let name = entry.map_err(Error::file("list", folder))?.file_name();
        let Some(name) = name.to_str() else { continue };
        let ending = Path::new(name).extension().and_then(|e| e.to_str()).unwrap_or_default();
        let ending = ending.to_lowercase();
        if ["png", "jpg", "jpeg", "webp"].contains(&ending.as_str()) && name != "grid.png" {
            names.insert(name.to_string());
        }
    }
    Ok(names)
}

/// A PNG of at most `most` pixels a side.
///
/// # Errors
/// [`Error::Image`] for a picture that PNG cannot hold.
pub fn small(picture: &Picture, most: usize) -> Result<Vec<u8>> {
    let longest = picture.width.max(picture.height).max(1);
    let picture = picture.rgb();
    let name = Path::new("a picture of the page");
    if longest <= most {
        return image::encode_png(&picture, &[], name);
    }
    let side = |n: usize| (n * most / longest).max(1);
    let (width, height) = (side(picture.width), side(picture.height));
    image::encode_png(&picture.resize(width, height, image::Filter::Lanczos), &[], name)
}
