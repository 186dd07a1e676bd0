//! Scores of a folder of pictures: boxes, then one model after the other, each gone before the next.

use super::{
    Mean, ScoreArgs, Seen, boxes, page,
    results::{Judged, Results, Shot},
    show,
};
use crate::{
    cli::{
        common::{note, out, warn},
        pictures::names,
        progress::progress,
    },
    data::{Subject, config::load_subjects, load_all},
    device::Device,
    error::{Error, Result},
    metrics::{
        embedder::{Embedder, Kind},
        judge::{Judge, Likeness},
        orders::{Name, orders},
        similarity::Embeddings,
        texts::{ClipTexts, RewardModel},
    },
    models::checkpoint::{Component, has_tower},
    segment::detector::Detector,
    tensor::{
        DType,
        atomic::atomic_write,
        image::{self, Picture, read_text},
    },
};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// How sure the detector must be (methods.md §1.8).
const THRESHOLD: f64 = 0.4;

/// Boxes that overlap by any share are several, as in the published metric.
const NMS: f64 = 1.0;

/// A run over a folder.
struct Run<'a> {
    folder: &'a Path,
    args: &'a ScoreArgs,
    subjects: Vec<Subject>,
    results: Results,
    place: (Device, DType),
}

/// Scores the pictures of `folder` and shows what was found.
///
/// # Errors
/// As [`judge`]; those of the files that are written.
pub(super) fn run(folder: &Path, args: &ScoreArgs) -> Result<u8> {
    judge(folder, args)?.finish()
}

/// Scores the pictures of `folder`: the object that `--json` prints.
///
/// # Errors
/// As [`judge`].
pub(super) fn judged(folder: &Path, args: &ScoreArgs) -> Result<serde_json::Value> {
    Ok(show::as_json(&judge(folder, args)?.results))
}

/// Scores the pictures of `folder`, to be shown `side` pixels wide.
///
/// # Errors
/// As [`judge`].
pub(super) fn seen(folder: &Path, args: &ScoreArgs, side: usize) -> Result<Seen> {
    let run = judge(folder, args)?;
    let columns = run.results.columns();
    Ok(Seen {
        figures: page::figures(&run.results, side, |i| run.picture(i))?,
        means: columns.iter().map(|c| Mean { label: c.label.clone(), of: c.mean() }).collect(),
        boxes: run.results.shots.iter().map(|s| s.boxes.as_ref().map_or(0, Vec::len)).collect(),
        numbers: show::as_json(&run.results),
    })
}

/// Judges the pictures of `folder`.
///
/// # Errors
/// Those of reading and of the models; [`Error::Config`] without a model; [`Error::Data`] for a folder without pictures, and
/// for pictures without a prompt where one is needed.
fn judge<'a>(folder: &'a Path, args: &'a ScoreArgs) -> Result<Run<'a>> {
    let by = &args.by;
    for (key, value, published) in
        [("--threshold", by.threshold, THRESHOLD), ("--nms", by.nms, NMS)]
    {
        if let Some(value) = value.filter(|v| !(0.0..=1.0).contains(v)) {
            return Err(Error::Config {
                key: key.into(),
                found: value.to_string(),
                expected: "0 to 1".into(),
                fix: format!("leave it out for the published {published}"),
            });
        }
    }
    let asked = [&by.detector, &by.dreamsim, &by.dinov2, &by.dino, &by.clip, &by.imagereward];
    if asked.iter().all(|path| path.is_none()) {
        return Err(Error::Config {
            key: "--images".into(),
            found: "no model".into(),
            expected:
                "at least one of --detector, --dreamsim, --dinov2, --dino, --clip and --imagereward"
                    .into(),
            fix: "name what is to judge the pictures".into(),
        });
    }
    let mut warnings = vec![];
    let file = by.subjects.as_deref().unwrap_or(Path::new("")); // clap asks for it
    let subjects = load_all(&load_subjects(file)?, &mut warnings)?;
    warnings.iter().for_each(|w| warn(w));
    let shots = survey(folder, by.prompt.as_deref())?;
    let ids = subjects.iter().map(|s| s.id.clone()).collect();
    let results = Results { subjects: ids, shots, ..Results::default() };
    let (device, dtype) = args.place.open()?;
    // as published, on every device
    let dtype = if args.place.dtype.is_some() { dtype } else { DType::F32 };
    let place = (device, dtype);
    let mut run = Run { folder, args, subjects, results, place };
    run.boxes()?;
    run.prompts()?;
    let mut whole = None;
    for (kind, path) in run.embedders() {
        match path {
            None => run.missing(kind.word(), format!("no --{}", kind.word())),
            Some(path) => {
                let images = run.embedder(kind, &path)?;
                if kind == Kind::Clip {
                    whole = Some((path, images));
                }
            }
        }
    }
    run.clip_score(whole)?;
    run.reward()?;
    Ok(run)
}

/// Size and prompt of every picture; each is read once before anything is computed.
fn survey(folder: &Path, prompt: Option<&str>) -> Result<Vec<Shot>> {
    let names = names(folder)?;
    if names.is_empty() {
        return Err(Error::Data {
            at: folder.display().to_string(),
            found: "no pictures".into(),
            expected: "files like 0001.png, 0001.jpg or 0001.webp".into(),
            fix: "name the folder that `selvedge generate` wrote".into(),
        });
    }
    let shot = |name: String| {
        let path = folder.join(&name);
        let picture = image::read(&path)?;
        let prompt = match prompt {
            Some(text) => Some(text.to_string()),
            None => own_prompt(&path)?,
        };
        let size = [picture.height, picture.width];
        Ok(Shot { name, size, prompt, texts: vec![], boxes: None })
    };
    names.into_iter().map(shot).collect()
}

/// What `generate` wrote into the picture.
fn own_prompt(path: &Path) -> Result<Option<String>> {
    let bytes = fs::read(path).map_err(Error::file("read", path))?;
    if !bytes.starts_with(b"\x89PNG") {
        return Ok(None);
    }
    let Some((_, text)) = read_text(path)?.into_iter().find(|(key, _)| key == "selvedge") else {
        return Ok(None);
    };
    let made: serde_json::Value = serde_json::from_str(&text).map_err(|e| Error::Image {
        path: path.into(),
        problem: format!("a text \"selvedge\" that is no JSON ({e})"),
        fix: "give --prompt and pictures as they were generated".into(),
    })?;
    Ok(made["prompt"].as_str().map(String::from))
}

impl Run<'_> {
    fn missing(&mut self, what: &'static str, why: String) {
        self.results.missing.push((what, why));
    }

    fn embedders(&self) -> [(Kind, Option<PathBuf>); 4] {
        let by = &self.args.by;
        Kind::ALL.map(|kind| {
            let path = match kind {
                Kind::DreamSim => &by.dreamsim,
                Kind::Dinov2 => &by.dinov2,
                Kind::Dino => &by.dino,
                Kind::Clip => &by.clip,
            };
            (kind, path.clone())
        })
    }

    fn picture(&self, i: usize) -> Result<Picture> {
        image::read(&self.folder.join(&self.results.shots[i].name))
    }

    fn boxes(&mut self) -> Result<()> {
        let (by, folder) = (&self.args.by, self.folder);
        if let Some(path) = &by.detector {
            let limits = [by.threshold.unwrap_or(THRESHOLD), by.nms.unwrap_or(NMS)];
            let queries: Vec<&str> = match by.queries.is_empty() {
                true => self.subjects.iter().map(|s| &*s.query).collect(),
                false => by.queries.iter().map(String::as_str).collect(),
            };
            let padding = by.padding.unwrap_or_default();
            let detector = Detector::open(path, self.place.0.clone(), self.place.1, padding)?;
            let read = |name: &str| image::read(&folder.join(name));
            let shots = &mut self.results.shots;
            return boxes::from_detector(detector, (&queries, limits), shots, &read);
        }
        match &by.boxes {
            Some(path) => boxes::from_file(path, &mut self.results.shots)?,
            None => self.missing("Detect-and-Compare", "no --detector and no --boxes".into()),
        }
        Ok(())
    }

    /// The texts of every picture, and what is odd about the prompts.
    fn prompts(&mut self) -> Result<()> {
        if self.args.by.clip.is_none() && self.args.by.imagereward.is_none() {
            return Ok(());
        }
        let names: Vec<Name<'_>> =
            self.subjects.iter().map(|s| Name { token: &s.token, class: &s.class }).collect();
        let mut told = BTreeSet::new();
        for shot in &mut self.results.shots {
            let Some(prompt) = &shot.prompt else { continue };
            let found = orders(prompt, &names, self.args.by.keep_tokens)?;
            if !found.unnamed.is_empty() && told.insert(prompt.clone()) {
                let who = found.unnamed.iter().map(|i| self.results.subjects[*i].clone());
                let who = who.collect::<Vec<_>>().join(", ");
                warn(&format!("prompt {prompt:?} does not name subject {who}"));
            }
            shot.texts = found.texts;
        }
        Ok(())
    }

    /// Judges every picture by one embedder; gives their embeddings.
    fn embedder(&mut self, kind: Kind, path: &Path) -> Result<Vec<Embeddings>> {
        let (device, dtype) = &self.place;
        let photos: Vec<Vec<&Picture>> =
            self.subjects.iter().map(|s| s.photos.iter().map(|p| &p.rgb).collect()).collect();
        let mut judge = Judge::new(Embedder::open(kind, path, device, *dtype)?, &photos)?;
        let bar = progress(self.results.shots.len());
        let mut images: Vec<Likeness> = vec![];
        for (i, shot) in self.results.shots.iter().enumerate() {
            let areas = shot.boxes.as_ref().map(|b| b.iter().map(|f| f.area).collect::<Vec<_>>());
            let seen = judge.look(&self.picture(i)?, areas.as_deref());
            images.push(seen.map_err(|e| shot.in_error(e))?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        let whole = images.iter().map(|l| l.whole.clone()).collect();
        self.results.embedders.push(Judged { kind, ground_truth: judge.ground_truth, images });
        Ok(whole)
    }

    /// The name of the first picture without a prompt.
    fn without_prompt(&self) -> Option<&str> {
        self.results.shots.iter().find(|s| s.prompt.is_none()).map(|s| s.name.as_str())
    }

    fn clip_score(&mut self, whole: Option<(PathBuf, Vec<Embeddings>)>) -> Result<()> {
        let what = "CLIP score";
        let Some((path, whole)) = whole else {
            self.missing(what, "no --clip".into());
            return Ok(());
        };
        if let Some(name) = self.without_prompt() {
            let why = format!("no prompt in {name}, and no --prompt");
            self.missing(what, why);
            return Ok(());
        }
        if !has_tower(&path, Component::ClipText)? {
            self.missing(what, format!("{} has no text tower", path.display()));
            return Ok(());
        }
        let mut texts = ClipTexts::open(&path, &self.place.0, self.place.1)?;
        self.tell_cut("CLIP", &|text| texts.cut(text));
        let shots = self.results.shots.iter().zip(&whole);
        let scores = shots.map(|(shot, whole)| texts.score(whole, &shot.texts));
        self.results.clip_score = Some(scores.collect::<Result<_>>()?);
        Ok(())
    }

    fn reward(&mut self) -> Result<()> {
        let Some(path) = &self.args.by.imagereward else {
            self.missing("ImageReward", "no --imagereward".into());
            return Ok(());
        };
        if let Some(name) = self.without_prompt() {
            return Err(Error::Data {
                at: name.into(),
                found: "no prompt in the picture".into(),
                expected: "the text that --imagereward compares it with".into(),
                fix: "give --prompt".into(),
            });
        }
        let mut model = RewardModel::open(path, &self.place.0, self.place.1)?;
        self.tell_cut("ImageReward", &|text| model.cut(text));
        let bar = progress(self.results.shots.len());
        let mut all = vec![];
        for (i, shot) in self.results.shots.iter().enumerate() {
            let score = model.score(&self.picture(i)?, &shot.texts);
            all.push(score.map_err(|e| shot.in_error(e))?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        self.results.reward = Some(all);
        Ok(())
    }

    /// Warns of texts that a model does not read to their end.
    fn tell_cut(&self, who: &str, cut: &dyn Fn(&str) -> usize) {
        let texts: BTreeSet<&String> = self.results.shots.iter().flat_map(|s| &s.texts).collect();
        for text in texts {
            let tokens = cut(text);
            if tokens > 0 {
                warn(&format!("{who} does not read the last {tokens} tokens of {text:?}"));
            }
        }
    }

    fn finish(&self) -> Result<u8> {
        let results = &self.results;
        if let Some(folder) = &self.args.by.out {
            fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
            let lines = (0..results.shots.len()).map(|i| format!("{}\n", show::line(results, i)));
            let page = page::page(results, &self.subjects, |i| self.picture(i))?;
            for (name, text) in [("scores.jsonl", lines.collect::<String>()), ("score.html", page)]
            {
                let path = folder.join(name);
                atomic_write(&path, |w| w.write_all(text.as_bytes()))?;
                note(&path.display().to_string());
            }
        }
        out(&match self.args.json {
            true => format!("{}\n", show::as_json(results)),
            false => show::as_table(results),
        });
        Ok(0)
    }
}
