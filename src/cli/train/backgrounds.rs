//! What a decoupled run makes of its photos before the first step: the same without their subjects, and the image encoder's
//! features of both.

use crate::{
    cli::{
        common::note,
        inpaint::{Brush, FILL_STEPS},
    },
    data::{Dataset, Photo, TrainConfig, config::CLASSICAL},
    device::Device,
    error::{Error, Result},
    inpaint::{Hole, default_grow, fill},
    models::{base::Base, checkpoint::Component, towers::PictureTower},
    sample::Resampling,
    tensor::{
        DType,
        image::{Picture, grid, read, read_text, write_png},
    },
    train::{Features, PhotoFeatures, sha256},
};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The text pair of a filled photo that says what it was made from.
const KEY: &str = "selvedge.background";
/// Side of a photo on the sheet, pixels.
const SIDE: usize = 160;

/// Fills the photos of `data` into `folder`, as far as they are not there for the same photo, mask and settings, and looks at
/// photos and fills with the image encoder; nothing for a run that does not decouple.
///
/// # Errors
/// [`Error::Data`] for a mask that covers everything or nothing; those of the fill, the encoder and of writing.
pub fn features(
    config: &TrainConfig,
    data: &Dataset,
    (base, device): (&Base, &Device),
    folder: &Path,
) -> Result<Option<Features>> {
    if !config.decouples() {
        return Ok(None);
    }
    let section = &config.decoupling;
    let mut painter = None;
    let (mut filled, mut made) = (vec![], 0);
    for subject in data.subjects() {
        let mut own = vec![];
        for photo in subject.photos.iter().filter(|_| section.needs_backgrounds()) {
            let path = folder.join(file_name(&subject.id)).join(png(&photo.name));
            let key = key(config, photo);
            if !is_there(&path, &key) {
                let picture = without_subject(config, photo, (base, device), &mut painter)?;
                let parent = path.parent().unwrap_or(folder);
                fs::create_dir_all(parent).map_err(Error::file("create", parent))?;
                write_png(&path, &picture, &[(KEY.into(), key)])?;
                made += 1;
            }
            own.push(read(&path)?.rgb());
        }
        filled.push(own);
    }
    drop(painter);
    if section.needs_backgrounds() {
        let sheet = sheet(data, &filled);
        write_png(&folder.with_extension("png"), &sheet, &[])?;
    }
    if made > 0 {
        note(&format!("{made} photos without their subjects in {}", folder.display()));
    }
    let path = section.encoder();
    let wanted = (Component::ClipImage, "image_embeds");
    let mut tower = Eye::new(PictureTower::open(wanted, &path, (device, DType::F32))?);
    let blank = tower.look(&Picture::filled(SIDE, SIDE, 3, 255))?;
    let mut photos = vec![];
    for (subject, filled) in data.subjects().iter().zip(&filled) {
        let mut own = vec![];
        for (i, photo) in subject.photos.iter().enumerate() {
            let background = filled.get(i).map(|p| tower.look(p)).transpose()?;
            own.push(Arc::new(PhotoFeatures {
                photo: tower.look(&photo.rgb)?,
                background: background.unwrap_or_default(),
            }));
        }
        photos.push(own);
    }
    let blank = Arc::new(PhotoFeatures { photo: blank.clone(), background: blank });
    Ok(Some(Features { photos, blank }))
}

/// The encoder, which looks at every content once.
struct Eye {
    tower: PictureTower,
    known: HashMap<String, Vec<f32>>,
}

impl Eye {
    fn new(tower: PictureTower) -> Self {
        Self { tower, known: HashMap::new() }
    }

    fn look(&mut self, picture: &Picture) -> Result<Vec<f32>> {
        let key = format!("{} {} {}", picture.width, picture.height, sha256(&picture.data));
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let feature = self.tower.look(picture)?.data;
        self.known.insert(key, feature.clone());
        Ok(feature)
    }
}

/// A photo without its subject.
fn without_subject(
    config: &TrainConfig,
    photo: &Photo,
    (base, device): (&Base, &Device),
    painter: &mut Option<Base>,
) -> Result<Picture> {
    let section = &config.decoupling;
    let name = PathBuf::from(&photo.name);
    let mask = photo.mask.as_ref().ok_or_else(|| Error::Data {
        at: photo.name.clone(),
        found: "no mask".into(),
        expected: "a mask, to take the subject out".into(),
        fix: "make it with `selvedge segment`, or draw NN_mask.png".into(),
    })?;
    let grow = usize::try_from(section.grow);
    let grow = grow.unwrap_or_else(|_| default_grow(photo.rgb.width, photo.rgb.height));
    let hole = Hole::new(&photo.rgb, mask, grow, &name)?;
    let smooth = fill(&photo.rgb, &hole);
    let filled = match section.fill.as_str() {
        CLASSICAL => smooth,
        name => {
            let base = match (name, &*painter) {
                ("base", _) => base,
                (_, Some(known)) => known,
                _ => painter.insert(Base::open(name)?.stored_as(base.types)),
            };
            let brush = Brush {
                base,
                device,
                prompt: "",
                guidance: None,
                steps: FILL_STEPS,
                resampling: Resampling::default(),
                seed: config.train.seed,
            };
            brush.paint(&smooth, &hole)?
        }
    };
    Ok(hole.seen_through(&photo.rgb, &filled))
}

/// What a filled photo depends on.
fn key(config: &TrainConfig, photo: &Photo) -> String {
    let d = &config.decoupling;
    let mask = photo.mask.as_ref().map(|m| sha256(&m.data)).unwrap_or_default();
    let size = format!("{} {}", photo.rgb.width, photo.rgb.height);
    let by = if d.fill == "base" { &config.base } else { &d.fill };
    let text =
        format!("{} {mask} {size} {by} {} {}", sha256(&photo.rgb.data), d.grow, seed(config));
    sha256(text.as_bytes())
}

/// The classical fill draws nothing.
fn seed(config: &TrainConfig) -> u64 {
    if config.decoupling.fill == CLASSICAL { 0 } else { config.train.seed }
}

fn is_there(path: &Path, key: &str) -> bool {
    let pairs = if path.is_file() { read_text(path).unwrap_or_default() } else { vec![] };
    pairs.iter().any(|(name, value)| name == KEY && value == key)
}

/// A subject's id as a folder.
fn file_name(id: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "-_".contains(c) { c } else { '_' };
    id.chars().map(plain).collect()
}

fn png(photo: &str) -> PathBuf {
    Path::new(photo).with_extension("png")
}

/// Photos above their fills, a pair of rows for each subject.
fn sheet(data: &Dataset, filled: &[Vec<Picture>]) -> Picture {
    let columns = data.subjects().iter().map(|s| s.photos.len()).max().unwrap_or(1);
    let small = |p: &Picture| {
        let (w, h) = (p.width.max(1), p.height.max(1));
        let scale = SIDE as f64 / w.max(h) as f64;
        let of = |n: usize| ((n as f64 * scale).round() as usize).max(1);
        let fitted = p.resize(of(w), of(h), crate::tensor::image::Filter::Lanczos);
        let (x, y) = ((SIDE - fitted.width) / 2, (SIDE - fitted.height) / 2);
        fitted.crop(-(x as i64), -(y as i64), SIDE, SIDE)
    };
    let mut cells = vec![];
    for (subject, filled) in data.subjects().iter().zip(filled) {
        let rows =
            [subject.photos.iter().map(|p| &p.rgb).collect::<Vec<_>>(), filled.iter().collect()];
        for row in rows {
            cells.extend(row.iter().map(|p| small(p)));
            let missing = columns - row.len();
            cells.extend((0..missing).map(|_| Picture::filled(SIDE, SIDE, 3, 255)));
        }
    }
    grid(&cells, columns, 2)
}
