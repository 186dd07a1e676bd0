//! The networks, opened when something needs them, and what they make of one photo.

use super::{Done, Hand, SegmentArgs, jobs::Job, refused};
use crate::{
    data::config::SegmentSection,
    device::Device,
    error::{Error, Result},
    segment::{
        detector::{Detection, Detector},
        overlay::{colour, found, overlay},
        prompt::Rectangle,
        segmenter::Segmenter,
        words::{self, Outcome, Rule},
    },
    tensor::{
        DType,
        image::{Picture, read},
    },
};
use serde_json::json;

/// What is loaded.
#[derive(Debug, Default)]
pub(super) struct Models {
    detector: Option<Detector>,
    segmenter: Option<Segmenter>,
}

/// Both networks: what `[segment]` of a training configuration names.
#[derive(Debug)]
pub struct Cutter {
    detector: Detector,
    segmenter: Segmenter,
}

impl Cutter {
    /// Loads both, in f32 as they were published: masks are made once, and the same ones on every device.
    ///
    /// # Errors
    /// Those of the files.
    pub fn open(section: &SegmentSection, device: Device) -> Result<Self> {
        let path = &section.detector;
        let detector = Detector::open(path, device.clone(), DType::F32, section.padding()?)?;
        let segmenter = Segmenter::open(&section.segmenter, device, DType::F32)?;
        Ok(Self { detector, segmenter })
    }

    /// The mask of the only `query` in `photo`, or of what is shown by hand.
    ///
    /// # Errors
    /// Inside: why there is no mask; outside: those of the networks, and of a prompt that does not fit.
    pub fn mask(
        &mut self,
        photo: &Picture,
        query: &str,
        hand: Option<&Hand>,
        rule: Rule,
    ) -> Result<std::result::Result<Picture, String>> {
        let mask = match hand {
            Some(hand) => match (hand.fitting(photo)?, hand) {
                (Some(mask), _) => mask,
                (None, Hand::Prompt(prompt)) => self.segmenter.cut(photo, prompt)?.mask,
                (None, Hand::Mask(_)) => return Ok(Err("no mask".into())),
            },
            None => {
                let models = (&mut self.detector, &mut self.segmenter);
                match words::cut(models, photo, query, rule)?.1 {
                    Outcome::Cut(cut, _) => cut.mask,
                    Outcome::Failed(why) => return Ok(Err(why)),
                }
            }
        };
        Ok(if mask.data.iter().any(|v| *v > 0) { Ok(mask) } else { Err(EMPTY.into()) })
    }
}

/// Why a mask with nothing in it is none.
const EMPTY: &str = "the segmenter finds nothing in the box";

/// Opens what `jobs` need.
pub(super) fn open(args: &SegmentArgs, jobs: &[Job]) -> Result<Models> {
    let words = jobs.iter().any(|j| j.hand.is_none());
    let cuts = jobs.iter().any(|j| !matches!(j.hand, Some(Hand::Mask(_))));
    let mut models = Models::default();
    if !cuts {
        return Ok(models);
    }
    if words && args.detector.is_none() {
        let fix =
            "add --detector DIR with --query, or show the subject by --box, --point or --mask";
        let expected = "a detector that finds the subject, or the subject shown by hand";
        return Err(refused("--detector, --box, --point, --mask", "neither", expected, fix));
    }
    if jobs.iter().any(|j| j.hand.is_none() && j.query.as_ref().is_none_or(|q| q.trim().is_empty()))
    {
        let fix = "add --query dog, a bare class; a subjects file has one for each subject";
        return Err(refused("--query", "nothing", "what to look for", fix));
    }
    let Some(segmenter) = &args.segmenter else {
        let fix = "add --segmenter with a SAM or MobileSAM";
        return Err(refused("--segmenter", "nothing", "a network that cuts out", fix));
    };
    let (device, dtype) = args.place.open()?;
    // as published, on every device
    let dtype = if args.place.dtype.is_some() { dtype } else { DType::F32 };
    if let Some(path) = args.detector.as_ref().filter(|_| words) {
        let detector = Detector::open(path, device.clone(), dtype, args.padding)?;
        let queries = jobs.iter().filter(|j| j.hand.is_none()).filter_map(|j| j.query.as_deref());
        queries.into_iter().try_for_each(|q| detector.check(q))?;
        models.detector = Some(detector);
    }
    models.segmenter = Some(Segmenter::open(segmenter, device, dtype)?);
    Ok(models)
}

/// What becomes of one photo.
pub(super) fn one(job: &Job, models: &mut Models, rule: Rule) -> Result<Done> {
    let photo = read(&job.photo)?.rgb();
    let missing = |what: &str| Error::Plan { at: "segment".into(), problem: format!("no {what}") };
    match &job.hand {
        Some(hand) => {
            let mut entry = json!({});
            let (mask, prompt) = match (hand.fitting(&photo)?, hand) {
                (None, Hand::Prompt(prompt)) => {
                    let segmenter =
                        models.segmenter.as_mut().ok_or_else(|| missing("segmenter"))?;
                    let cut = segmenter.cut(&photo, prompt)?;
                    entry = json!({ "prompt": prompt, "quality": cut.quality });
                    (cut.mask, prompt.clone())
                }
                (mask, _) => (mask.ok_or_else(|| missing("mask"))?, Default::default()),
            };
            let (share, look) = (share(&mask), overlay(&photo, &mask, &prompt));
            entry["share"] = json!(share);
            let nothing = "nothing was found there; move the box or add --point";
            let failed = (share == 0.0).then(|| nothing.to_string());
            Ok(Done { mask: Some(mask), look: Some(look), entry, failed })
        }
        None => {
            let detector = models.detector.as_mut().ok_or_else(|| missing("detector"))?;
            let segmenter = models.segmenter.as_mut().ok_or_else(|| missing("segmenter"))?;
            let query = job.query.as_deref().unwrap_or_default();
            let (boxes, outcome) = words::cut((detector, segmenter), &photo, query, rule)?;
            let mut entry = json!({ "query": query, "detections": boxes });
            match outcome {
                Outcome::Cut(cut, prompt) if share(&cut.mask) > 0.0 => {
                    entry["prompt"] = json!(prompt);
                    entry["share"] = json!(share(&cut.mask));
                    entry["quality"] = json!(cut.quality);
                    let look = Some(overlay(&photo, &cut.mask, &prompt));
                    Ok(Done { mask: Some(cut.mask), look, entry, failed: None })
                }
                Outcome::Cut(..) => Ok(failure(&photo, &boxes, entry, EMPTY.into())),
                Outcome::Failed(why) => Ok(failure(&photo, &boxes, entry, why)),
            }
        }
    }
}

/// Share of the photo that is inside.
fn share(mask: &Picture) -> f64 {
    let inside = mask.data.iter().filter(|v| **v > 0).count();
    inside as f64 / mask.data.len().max(1) as f64
}

/// No mask: the photo with what was found.
fn failure(photo: &Picture, boxes: &[Detection], entry: serde_json::Value, why: String) -> Done {
    let areas: Vec<Rectangle> = boxes.iter().map(|d| d.area).collect();
    let mut failed = why;
    if !boxes.is_empty() {
        let one = |(i, d): (usize, &Detection)| format!("{} {:.3}", colour(i), d.score);
        let all: Vec<String> = boxes.iter().enumerate().take(SHOWN).map(one).collect();
        let more = boxes.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        failed += &format!(" ({}{more})", all.join(", "));
    }
    Done { mask: None, look: Some(found(photo, &areas)), entry, failed: Some(failed) }
}

/// Scores that are named.
const SHOWN: usize = 12;
