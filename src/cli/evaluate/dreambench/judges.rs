//! The four numbers of DreamBench, prompt by prompt: how much pictures look like the photos (DINO's class token, CLIP),
//! how well they fit the text, how different they are from each other.

use super::data::Subject;
use crate::{
    cli::{
        common::{DeviceArgs, warn},
        evaluate::{
            make::Maker,
            unit::{Cell, Unit, judges_name, picture},
        },
    },
    device::Device,
    error::{Error, Result},
    metrics::{
        embedder::{Embedder, Kind},
        similarity::{diversity, to_references},
        texts::ClipTexts,
    },
    models::checkpoint::{Component, has_tower},
    tensor::{
        DType,
        atomic::atomic_write,
        image::{self, Picture},
    },
};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What judges the pictures, and where.
#[derive(Clone, Debug)]
pub struct Judges {
    /// A DINO of the first version.
    pub dino: Option<PathBuf>,
    /// A CLIP.
    pub clip: Option<PathBuf>,
    /// Where to compute.
    pub place: DeviceArgs,
}

/// The scores of a prompt of a subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scores {
    /// What the pictures were made with.
    pub prompt: String,
    /// What they were compared with.
    pub text: String,
    /// Every picture.
    pub pictures: Vec<Shot>,
    /// Mean of 1 - cosine over all pairs of them, by DINO's class token.
    pub diversity: Option<f64>,
}

/// The scores of a picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shot {
    /// Its file.
    pub name: String,
    /// Mean cosine with the subject's photos by DINO's class token.
    pub dino: Option<f64>,
    /// The same by CLIP's image tower.
    pub clip_i: Option<f64>,
    /// Cosine with the text by CLIP.
    pub clip_t: Option<f64>,
}

/// What is measured: key in JSON and title.
pub const METRICS: [(&str, &str); 4] =
    [("dino", "DINO"), ("clip_i", "CLIP-I"), ("clip_t", "CLIP-T"), ("diversity", "diversity")];

impl Scores {
    /// The numbers of [`METRICS`]: means over the pictures.
    pub fn means(&self) -> [Option<f64>; 4] {
        let mean = |get: fn(&Shot) -> Option<f64>| {
            let all: Option<Vec<f64>> = self.pictures.iter().map(get).collect();
            all.filter(|v| !v.is_empty()).map(|v| v.iter().sum::<f64>() / v.len() as f64)
        };
        [mean(|s| s.dino), mean(|s| s.clip_i), mean(|s| s.clip_t), self.diversity]
    }

    /// Reads a file of [`Judges::unit`].
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Format`] for something else.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).map_err(Error::file("read", path))?;
        serde_json::from_slice(&text).map_err(|e| Error::Format {
            path: path.into(),
            found: e.to_string(),
            expected: "scores of the pictures of a prompt".into(),
            fix: "remove the file: the next run writes it again".into(),
        })
    }
}

impl Judges {
    /// What tells scores of other judges apart, in the name of a folder.
    pub fn name(&self) -> String {
        judges_name(&format!("{:?} {:?}", self.dino, self.clip))
    }

    /// What is not measured, and why.
    ///
    /// # Errors
    /// Those of reading CLIP's configuration.
    pub fn missing(&self, pictures: usize) -> Result<Vec<(&'static str, String)>> {
        let mut all = vec![];
        match &self.dino {
            None => all.extend(["DINO", "diversity"].map(|m| (m, "no --dino".to_string()))),
            Some(_) if pictures < 2 => {
                all.push(("diversity", "one picture a prompt makes no pair".to_string()));
            }
            Some(_) => {}
        }
        match &self.clip {
            None => all.extend(["CLIP-I", "CLIP-T"].map(|m| (m, "no --clip".to_string()))),
            Some(path) if !has_tower(path, Component::ClipText)? => {
                all.push(("CLIP-T", format!("{} has no text tower", path.display())));
            }
            Some(_) => {}
        }
        Ok(all)
    }

    /// Opens every model once: what cannot judge is refused before anything is made.
    ///
    /// # Errors
    /// Those of reading.
    pub fn check(&self) -> Result<()> {
        let place = self.open()?;
        self.dino(&place)?;
        self.clip(&place).map(drop)
    }

    /// Device and element type: f32 unless another is asked for, as published.
    fn open(&self) -> Result<(Device, DType)> {
        let (device, dtype) = self.place.open()?;
        Ok((device, if self.place.dtype.is_some() { dtype } else { DType::F32 }))
    }

    fn dino(&self, (device, dtype): &(Device, DType)) -> Result<Option<Embedder>> {
        let open = |path| Embedder::open(Kind::Dino, path, device, *dtype);
        self.dino.as_deref().map(|path| Ok(open(path)?.by_class_token())).transpose()
    }

    fn clip(&self, place: &(Device, DType)) -> Result<Option<(Embedder, Option<ClipTexts>)>> {
        let Some(path) = &self.clip else { return Ok(None) };
        let (device, dtype) = place;
        let pictures = Embedder::open(Kind::Clip, path, device, *dtype)?;
        let texts = has_tower(path, Component::ClipText)?
            .then(|| ClipTexts::open(path, device, *dtype))
            .transpose()?;
        Ok(Some((pictures, texts)))
    }

    /// Scores the prompts of a unit that have no scores yet; one model after the other.
    ///
    /// # Errors
    /// Those of the pictures, the models and of writing; [`Error::Interrupted`] after Ctrl-C.
    pub fn unit(&self, maker: &Maker, subject: &Subject, unit: &Unit) -> Result<()> {
        let mut todo: Vec<(Cell, Scores)> = vec![];
        for (_, cell) in unit.cells() {
            if !self.has(maker, &cell)? {
                let scores = blank(&subject.prompts[cell.number].plain, &cell, &maker.seeds);
                todo.push((cell, scores));
            }
        }
        if todo.is_empty() {
            return Ok(());
        }
        let subject = subject.read(&mut vec![])?; // warned of when the folder was looked at
        let photos: Vec<&Picture> = subject.photos.iter().map(|p| &p.rgb).collect();
        let place = self.open()?;
        let pictures = |cell: &Cell, scores: &Scores| -> Result<Vec<Picture>> {
            let folder = cell.folder(&maker.out);
            scores.pictures.iter().map(|s| Ok(image::read(&folder.join(&s.name))?.rgb())).collect()
        };
        if let Some(mut dino) = self.dino(&place)? {
            let photos = [dino.embed(&photos)?];
            for (cell, scores) in &mut todo {
                let shown = pictures(cell, scores)?;
                let seen = dino.embed(&shown.iter().collect::<Vec<_>>())?;
                let like = to_references(&seen, &photos).concat();
                scores.pictures.iter_mut().zip(like).for_each(|(s, v)| s.dino = Some(v));
                scores.diversity = diversity(&seen);
                maker.go_on(cell)?;
            }
        }
        if let Some((mut clip, mut texts)) = self.clip(&place)? {
            let photos = [clip.embed(&photos)?];
            for (cell, scores) in &mut todo {
                let cut = texts.as_ref().map_or(0, |t| t.cut(&scores.text));
                if cut > 0 {
                    warn(&format!("CLIP does not read the last {cut} tokens of {:?}", scores.text));
                }
                let shown = pictures(cell, scores)?;
                for (shot, shown) in scores.pictures.iter_mut().zip(&shown) {
                    let seen = clip.embed(&[shown])?;
                    shot.clip_i = to_references(&seen, &photos).concat().first().copied();
                    let text = std::slice::from_ref(&scores.text);
                    shot.clip_t = texts.as_mut().map(|t| t.score(&seen, text)).transpose()?;
                }
                maker.go_on(cell)?;
            }
        }
        todo.iter().try_for_each(|(cell, scores)| self.write(maker, cell, scores))
    }

    /// Where the scores of a cell are.
    pub fn path(&self, maker: &Maker, cell: &Cell) -> PathBuf {
        cell.scores(&maker.out, &self.name())
    }

    /// Whether a cell has the scores of its pictures.
    ///
    /// # Errors
    /// Those of [`Scores::read`].
    pub fn has(&self, maker: &Maker, cell: &Cell) -> Result<bool> {
        let path = self.path(maker, cell);
        if !path.exists() {
            return Ok(false);
        }
        let scores = Scores::read(&path)?;
        let names: Vec<String> = maker.seeds.iter().map(|s| picture(*s)).collect();
        Ok(scores.pictures.iter().map(|s| &s.name).eq(&names))
    }

    fn write(&self, maker: &Maker, cell: &Cell, scores: &Scores) -> Result<()> {
        let path = self.path(maker, cell);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        }
        let text = serde_json::to_string_pretty(scores).map_err(|e| Error::File {
            path: path.clone(),
            action: "write",
            source: e.into(),
        })?;
        atomic_write(&path, |w| w.write_all(format!("{text}\n").as_bytes()))
    }
}

/// Pictures without scores.
fn blank(text: &str, cell: &Cell, seeds: &[u64]) -> Scores {
    let shot = |seed: &u64| Shot { name: picture(*seed), dino: None, clip_i: None, clip_t: None };
    Scores {
        prompt: cell.prompt.clone(),
        text: text.into(),
        pictures: seeds.iter().map(shot).collect(),
        diversity: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_counts_once_whatever_its_pictures_and_never_in_part() {
        let shot = |dino: f64, clip_t: Option<f64>| Shot {
            name: String::new(),
            dino: Some(dino),
            clip_i: None,
            clip_t,
        };
        let mut scores = Scores {
            prompt: String::new(),
            text: String::new(),
            pictures: vec![shot(0.25, Some(1.0)), shot(0.75, Some(0.0))],
            diversity: Some(0.125),
        };
        assert_eq!(scores.means(), [Some(0.5), None, Some(0.5), Some(0.125)]);
        scores.pictures[1].clip_t = None;
        assert_eq!(scores.means()[2], None);
        scores.pictures.clear();
        assert_eq!(scores.means()[0], None);
    }
}
