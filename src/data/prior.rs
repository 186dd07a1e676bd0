//! The prior set: class pictures of the frozen base model, so that the class is not forgotten
//! (methods.md §1.3).
//!
//! Layout: `DIR/<class with _ for spaces>/NNN.png` with `NNN_mask.png`. Making the pictures is the
//! caller's work (it needs the sampler): [`missing`] says which ones are wanted, [`store`] files
//! each.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    config::{Method, SubjectConfig, TrainConfig},
    subject::{Subject, read_folder},
};
use crate::{
    error::{Error, Result},
    tensor::image::{Picture, write_png},
};

/// Negative prompt of the prior pictures.
pub const NEGATIVE: &str =
    "anime, cartoon, graphic, text, painting, crayon, graphite, abstract glitch, blurry";

/// Prompt of the prior pictures of `class`.
pub fn prompt(class: &str) -> String {
    format!(
        "a photo of a {class}, simple background, full body view, award winning photography, \
         highly detailed"
    )
}

/// A picture of the prior set that is not there yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The class.
    pub class: String,
    /// Number within the class: part of the seed.
    pub index: usize,
    /// Where it belongs.
    pub path: PathBuf,
}

fn folder(dir: &Path, class: &str) -> PathBuf {
    let word = |c: char| if c.is_alphanumeric() { c } else { '_' };
    dir.join(class.trim().to_lowercase().chars().map(word).collect::<String>())
}

/// What `dir` lacks of the prior set of `config`; classes shared by subjects once.
pub fn missing(config: &TrainConfig, dir: &Path) -> Vec<Wanted> {
    let mut classes: Vec<&str> = config.subjects.iter().map(SubjectConfig::prior_words).collect();
    classes.sort_unstable();
    classes.dedup();
    let wanted = |class: &str, index: usize| Wanted {
        class: class.to_string(),
        index,
        path: folder(dir, class).join(format!("{index:03}.png")),
    };
    classes
        .iter()
        .flat_map(|c| (0..config.method.prior_images).map(|i| wanted(c, i)))
        .filter(|w| !w.path.exists())
        .collect()
}

/// For each subject its class as a subject of the same id, without token, fixed scale and pictures.
pub fn classes(config: &TrainConfig) -> Vec<Subject> {
    let one = |s: &SubjectConfig| Subject {
        id: s.id.clone(),
        words: s.prior_words().into(),
        token: String::new(),
        class: s.prior_words().into(),
        query: s.prior_words().into(),
        scale: None,
        photos: vec![],
    };
    config.subjects.iter().map(one).collect()
}

/// Pictures tried for one place of the prior set before it is an error.
pub const TRIES: u64 = 10;

/// Files one picture with its mask; `false` (and nothing written) without one.
///
/// The mask is what the models of `[segment]` cut out, else the matte of [`super::matte`]; its quality is not critical here.
/// After [`TRIES`] refusals the run ends with [`gave_up`]: a prior picture without a mask could never be mixed.
///
/// # Errors
/// [`Error::File`].
pub fn store(wanted: &Wanted, picture: &Picture, mask: Option<Picture>) -> Result<bool> {
    let Some(mask) = mask else { return Ok(false) };
    if let Some(parent) = wanted.path.parent() {
        std::fs::create_dir_all(parent).map_err(Error::file("create", parent))?;
    }
    write_png(&mask_path(&wanted.path), &mask, &[])?;
    let text = [("prompt".to_string(), prompt(&wanted.class))];
    write_png(&wanted.path, picture, &text)?;
    Ok(true)
}

fn mask_path(picture: &Path) -> PathBuf {
    PathBuf::from(format!("{}_mask.png", picture.with_extension("").display()))
}

/// No picture of [`TRIES`] had a subject that stands out, or that the models found exactly once.
pub fn gave_up(wanted: &Wanted, why: Option<&str>) -> Error {
    let last = why.map(|why| format!(" (the last: {why})")).unwrap_or_default();
    Error::Data {
        at: format!("prior set, class `{}`, {}", wanted.class, wanted.path.display()),
        found: format!("no subject that stands out from its background in {TRIES} pictures{last}"),
        expected: "one picture with one subject on a simple background".into(),
        fix: format!(
            "set prior_class to a class the base can draw, put a picture and {} there yourself, or set \
             method.prior_preservation = false",
            mask_path(&wanted.path).file_name().unwrap_or_default().to_string_lossy()
        ),
    }
}

/// Reads the prior set: the pictures of [`classes`].
///
/// # Errors
/// As [`Subject::load`]; [`Error::Data`] when pictures are missing, or masks where mixes need them.
pub fn load(config: &TrainConfig, dir: &Path, warnings: &mut Vec<String>) -> Result<Vec<Subject>> {
    let absent = missing(config, dir);
    if let Some(first) = absent.first() {
        return Err(Error::Data {
            at: dir.display().to_string(),
            found: format!(
                "{} prior pictures missing, {} first",
                absent.len(),
                first.path.display()
            ),
            expected: format!("{} for each class", config.method.prior_images),
            fix: "let `selvedge train` make them, or lower method.prior_images".into(),
        });
    }
    let mut one = |(s, class): (&SubjectConfig, Subject)| -> Result<Subject> {
        let mut photos = read_folder(&folder(dir, s.prior_words()), &BTreeMap::new(), warnings)?;
        photos.truncate(config.method.prior_images);
        let mixes = config.method.name == Method::Mudi && config.method.mix_probability > 0.0;
        if let Some(bare) = photos.iter().find(|p| mixes && p.segment.is_none()) {
            let folder = folder(dir, s.prior_words());
            return Err(Error::Data {
                at: format!("prior set, class `{}`, {}", s.prior_words(), bare.name),
                found: "no mask".into(),
                expected: format!("{} beside it", mask_path(Path::new(&bare.name)).display()),
                fix: format!("remove it from {}: it is made again", folder.display()),
            });
        }
        Ok(Subject { photos, ..class })
    };
    config.subjects.iter().zip(classes(config)).map(&mut one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::matte;

    fn config(folder: &Path) -> TrainConfig {
        let mut text =
            String::from("[method]\nloss = \"mse\"\nprior_images = 1\nprior_preservation = true\n");
        for id in ["a", "b"] {
            text +=
                &format!("[[subject]]\nid = \"{id}\"\nclass = \"Grey bear\"\nimages = \"/x\"\n");
        }
        TrainConfig::parse(&text, "c.toml", folder, &[]).unwrap()
    }

    #[test]
    fn a_picture_without_a_subject_is_not_kept_and_the_error_names_class_place_and_fix() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = missing(&config(folder.path()), folder.path());
        assert_eq!(wanted.len(), 1, "a class that two subjects share is made once");
        let plain = Picture::filled(64, 64, 3, 120);
        assert!(!store(&wanted[0], &plain, matte(&plain)).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing half-written");
        let e = gave_up(&wanted[0], None).to_string();
        for word in
            ["`Grey bear`", "grey_bear/000.png", "10 pictures", "prior_class", "000_mask.png"]
        {
            assert!(e.contains(word), "{word} is not in {e}");
        }
    }

    #[test]
    fn a_picture_with_its_mask_is_read_back_and_one_without_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let c = config(folder.path());
        let wanted = missing(&c, folder.path());
        let mut picture = Picture::filled(64, 64, 3, 250);
        for y in 20..44 {
            for x in 20..44 {
                picture.at_mut(x, y).copy_from_slice(&[200, 30, 30]);
            }
        }
        assert!(store(&wanted[0], &picture, matte(&picture)).unwrap());
        let read = load(&c, folder.path(), &mut vec![]).unwrap();
        assert!(read.len() == 2 && read[0].photos[0].segment.is_some());
        std::fs::remove_file(folder.path().join("grey_bear/000_mask.png")).unwrap();
        let e = load(&c, folder.path(), &mut vec![]).unwrap_err().to_string();
        assert!(e.contains("`Grey bear`") && e.contains("000_mask.png"), "{e}");
    }
}
