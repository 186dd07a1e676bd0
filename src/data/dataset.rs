//! Which picture stands where in the run: a function of the seed and the position, without any
//! state.

use std::path::Path;

use serde::Serialize;

use super::{
    config::{Method, MethodConfig, TrainConfig},
    mix::{Mix, MixRule, Pick, cut_mix, seg_mix},
    prior,
    segment::Pasted,
    subject::{Photo, Subject, load_all},
};
use crate::{
    error::Result,
    tensor::{
        image::{Filter, Picture, resize_plane},
        philox::{
            Stream,
            streams::{self, numbered},
        },
    },
};

/// One line of `mixes.jsonl`: what was drawn.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Draw {
    /// Whether two subjects were put into one picture.
    pub mixed: bool,
    /// What the picture is called.
    pub prompt: String,
    /// Whose pictures; the item's own first.
    pub subjects: Vec<Pasted>,
}

/// Where an un-mixed picture comes from: the same source is the same pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Subject number.
    pub subject: usize,
    /// Photo number.
    pub photo: usize,
    /// Upper left corner of the crop in the resized photo.
    pub crop: [usize; 2],
    /// From the prior set.
    pub prior: bool,
}

/// One training picture.
#[derive(Clone, Debug)]
pub struct Sample {
    /// RGB, `resolution` squared.
    pub picture: Picture,
    /// Union mask of a mix, the cropped mask of a photo, or white without one.
    pub mask: Picture,
    /// What was drawn.
    pub draw: Draw,
    /// Where it comes from, unless mixed: the key for caching.
    pub source: Option<Origin>,
}

impl Sample {
    /// Loss weights `[h, w]`: `m (1 - soft_alpha) + soft_alpha` with `m` the mix's mask resized
    /// bilinearly; 1 un-mixed.
    pub fn weight(&self, h: usize, w: usize, soft_alpha: f32) -> Vec<f32> {
        if !self.draw.mixed || soft_alpha >= 1.0 {
            return vec![1.0; h * w];
        }
        let mut m = self.subject(h, w);
        m.iter_mut().for_each(|v| *v = *v * (1.0 - soft_alpha) + soft_alpha);
        m
    }

    /// The mask resized bilinearly to `[h, w]`, from 0 to 1.
    pub fn subject(&self, h: usize, w: usize) -> Vec<f32> {
        let plane: Vec<f32> = self.mask.data.iter().map(|v| f32::from(*v) / 255.0).collect();
        resize_plane(&plane, [self.mask.height, self.mask.width], [h, w])
    }
}

/// The pictures of one pass.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Optimizer step, from 0.
    pub step: u64,
    /// Pass within the step, from 0.
    pub pass: usize,
    /// Subject pictures.
    pub samples: Vec<Sample>,
    /// Prior pictures, one for each sample; empty without prior preservation.
    pub prior: Vec<Sample>,
}

/// Subjects, prior set and rule of a run.
#[derive(Clone, Debug)]
pub struct Dataset {
    subjects: Vec<Subject>,
    classes: Vec<Subject>,
    items: Vec<(usize, usize)>,
    method: MethodConfig,
    rule: MixRule,
    seed: u64,
    batch: usize,
    accumulate: usize,
}

impl Dataset {
    /// Reads the subjects of `config`, and the prior set in `prior_dir` when it is asked for.
    ///
    /// # Errors
    /// As [`Subject::load`]; a missing mask where mixes need it; an incomplete prior set.
    pub fn open(
        config: &TrainConfig,
        prior_dir: &Path,
        warnings: &mut Vec<String>,
    ) -> Result<Self> {
        Self::of_subjects(config, warnings)?.with_prior(config, prior_dir, warnings)
    }

    /// Reads the subjects of `config`: all there is before a prior set is made.
    ///
    /// # Errors
    /// As [`Subject::load`]; a missing mask where mixes need it.
    pub fn of_subjects(config: &TrainConfig, warnings: &mut Vec<String>) -> Result<Self> {
        let subjects = load_all(&config.subjects, warnings)?;
        warnings.extend(uncaptioned(&subjects));
        Self::new(config, subjects, vec![])
    }

    /// Adds the prior set in `dir` when it is asked for.
    ///
    /// # Errors
    /// An incomplete prior set.
    pub fn with_prior(
        self,
        config: &TrainConfig,
        dir: &Path,
        warnings: &mut Vec<String>,
    ) -> Result<Self> {
        match config.method.prior_preservation {
            true => Ok(Self { classes: prior::load(config, dir, warnings)?, ..self }),
            false => Ok(self),
        }
    }

    /// A data set of subjects and prior classes in memory (`classes[i]` belongs to `subjects[i]`,
    /// or is empty).
    ///
    /// # Errors
    /// A missing mask where mixes need it; too few subjects.
    pub fn new(
        config: &TrainConfig,
        subjects: Vec<Subject>,
        classes: Vec<Subject>,
    ) -> Result<Self> {
        config.check()?;
        let mixes = config.method.name == Method::Mudi && config.method.mix_probability > 0.0;
        if mixes || config.decouples() && config.decoupling.needs_backgrounds() {
            subjects.iter().try_for_each(Subject::need_masks)?;
        }
        let items = subjects
            .iter()
            .enumerate()
            .flat_map(|(s, subject)| (0..subject.photos.len()).map(move |p| (s, p)))
            .collect();
        Ok(Self {
            subjects,
            classes,
            items,
            rule: MixRule::new(&config.method, config.train.resolution),
            method: config.method.clone(),
            seed: config.train.seed,
            batch: config.train.batch,
            accumulate: config.train.accumulate,
        })
    }

    /// The subjects.
    pub fn subjects(&self) -> &[Subject] {
        &self.subjects
    }

    /// Photos in all.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True without photos (a data set made by [`Dataset::open`] has some).
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Every prompt and caption that can come up, for caching text embeddings.
    pub fn prompts(&self) -> Vec<String> {
        self.prompts_with(&self.classes)
    }

    /// [`Dataset::prompts`] of a run whose prior set is not there yet: all but captions that somebody adds to it.
    pub fn prompts_to_come(&self, config: &TrainConfig) -> Vec<String> {
        self.prompts_with(&prior::classes(config))
    }

    fn prompts_with(&self, classes: &[Subject]) -> Vec<String> {
        let mut all = vec![];
        for s in self.subjects.iter().chain(classes) {
            all.extend(s.photos.iter().flat_map(|p| p.captions.iter().cloned()));
            all.push(s.plain_caption());
        }
        for group in [&self.subjects[..], classes] {
            for a in group {
                all.extend(group.iter().map(|b| self.mixed_prompt(a, b)));
            }
        }
        all.sort();
        all.dedup();
        all
    }

    /// The pictures of pass `pass` of optimizer step `step`.
    pub fn batch(&self, step: u64, pass: usize) -> Batch {
        let first = (step * self.accumulate as u64 + pass as u64) * self.batch as u64;
        let numbers = first..first + self.batch as u64;
        let samples: Vec<Sample> = numbers.clone().map(|n| self.sample(n)).collect();
        let prior = match self.classes.is_empty() {
            true => vec![],
            false => numbers.zip(&samples).map(|(n, s)| self.prior_sample(n, s)).collect(),
        };
        Batch { step, pass, samples, prior }
    }

    /// The photo at position `n`: every epoch visits each once, in its own order.
    fn item(&self, n: u64) -> (usize, usize) {
        let count = self.items.len().max(1) as u64;
        let mut order: Vec<usize> = (0..self.items.len()).collect();
        let mut random = Stream::new(self.seed, numbered(streams::EPOCH, n / count));
        for i in (1..order.len()).rev() {
            order.swap(i, random.below(i + 1));
        }
        self.items[order[(n % count) as usize]]
    }

    /// Training picture number `n` of the run (step `n / (batch * accumulate)`).
    pub fn sample(&self, n: u64) -> Sample {
        let (s, p) = self.item(n);
        let mut random = Stream::new(self.seed, numbered(streams::SAMPLE, n));
        let step = n / (self.batch * self.accumulate).max(1) as u64;
        let wanted = f64::from(random.uniform()) < self.method.mix_probability;
        let mixes = self.method.name.mixes() && self.subjects.len() > 1;
        if wanted && mixes && step >= self.method.start_step {
            let other = (s + 1 + random.below(self.subjects.len() - 1)) % self.subjects.len();
            let q = random.below(self.subjects[other].photos.len());
            if let Some(mix) =
                self.mix(&self.subjects, [(s, p), (other, q)], &self.rule, &mut random)
            {
                return mix;
            }
        }
        self.plain(
            &self.subjects,
            Origin { subject: s, photo: p, crop: [0; 2], prior: false },
            &mut random,
        )
    }

    /// The prior picture beside sample `n`: mixed when the sample is.
    fn prior_sample(&self, n: u64, sample: &Sample) -> Sample {
        let mut random = Stream::new(self.seed, numbered(streams::PRIOR, n));
        let id = sample.draw.subjects.first().map(|s| s.id.as_str());
        let c = self.classes.iter().position(|c| Some(c.id.as_str()) == id).unwrap_or(0);
        let p = random.below(self.classes[c].photos.len());
        if sample.draw.mixed {
            let others: Vec<usize> = (0..self.classes.len())
                .filter(|o| self.classes[*o].class != self.classes[c].class)
                .collect();
            let other = if others.is_empty() { c } else { others[random.below(others.len())] };
            let q = random.below(self.classes[other].photos.len());
            let rule = MixRule { shared_y: true, ..self.rule };
            if let Some(mix) = self.mix(&self.classes, [(c, p), (other, q)], &rule, &mut random) {
                return mix;
            }
        }
        self.plain(
            &self.classes,
            Origin { subject: c, photo: p, crop: [0; 2], prior: true },
            &mut random,
        )
    }

    fn mixed_prompt(&self, a: &Subject, b: &Subject) -> String {
        let end = if self.method.name == Method::CutMix { "." } else { ", simple background." };
        format!("a photo of a {} and a {}{end}", a.words, b.words)
    }

    /// Two photos in one picture; `None` when a mask is missing (prior pictures only).
    fn mix(
        &self,
        group: &[Subject],
        picks: [(usize, usize); 2],
        rule: &MixRule,
        random: &mut Stream,
    ) -> Option<Sample> {
        let photos = picks.map(|(s, p)| (&group[s], &group[s].photos[p]));
        let Mix { picture, mask, pasted } = match self.method.name {
            Method::CutMix => cut_mix(photos, rule.resolution, random),
            _ => seg_mix(pick(photos[0])?, pick(photos[1])?, rule, random),
        };
        let prompt = self.mixed_prompt(photos[0].0, photos[1].0);
        let draw = Draw { mixed: true, prompt, subjects: pasted };
        Some(Sample { picture, mask, draw, source: None })
    }

    /// One photo: shorter side to the resolution (bilinear), a random crop, one of its captions.
    fn plain(&self, group: &[Subject], source: Origin, random: &mut Stream) -> Sample {
        let subject = &group[source.subject];
        let photo = &subject.photos[source.photo];
        let r = self.rule.resolution;
        let resized = photo.rgb.shorter_side(r, Filter::Bilinear);
        let x = random.between(0, resized.width.saturating_sub(r));
        let y = random.between(0, resized.height.saturating_sub(r));
        let prompt = match photo.captions.len() {
            0 => subject.plain_caption(),
            n => photo.captions[random.below(n)].clone(),
        };
        let mask = photo.mask.as_ref().map_or_else(
            || Picture::filled(r, r, 1, 255),
            |m| m.shorter_side(r, Filter::Bilinear).crop(x as i64, y as i64, r, r),
        );
        let pasted = Pasted {
            id: subject.id.clone(),
            photo: photo.name.clone(),
            rectangle: [0, 0, r, r],
            scale: None,
            side: None,
            z: None,
        };
        Sample {
            picture: resized.crop(x as i64, y as i64, r, r),
            mask,
            draw: Draw { mixed: false, prompt, subjects: vec![pasted] },
            source: Some(Origin { crop: [x, y], ..source }),
        }
    }
}

/// One line about all photos without a caption.
fn uncaptioned(subjects: &[Subject]) -> Option<String> {
    let without = |s: &&Subject| s.photos.iter().any(|p| p.captions.is_empty());
    let first = subjects.iter().find(without)?;
    let all: Vec<&Photo> = subjects.iter().flat_map(|s| &s.photos).collect();
    let count = all.iter().filter(|p| p.captions.is_empty()).count();
    Some(format!(
        "{count} of {} photos have no caption (NN.txt beside NN.png); `{}` and the like stand for it",
        all.len(),
        first.plain_caption()
    ))
}

fn pick<'a>((subject, photo): (&'a Subject, &'a Photo)) -> Option<Pick<'a>> {
    let segment = photo.segment.as_ref()?;
    Some(Pick { subject, photo, segment, scale: subject.scale })
}
