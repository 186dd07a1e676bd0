//! OWLv2 on photos: boxes of what words name.

use super::prompt::Rectangle;
use crate::{
    device::Device,
    error::{Error, Result},
    lora::Adapters,
    models::{
        checkpoint::{Checkpoint, Component},
        clip::{TextInputs, eos_rows, padding_scores},
        owlv2::{Owlv2, Padding, owlv2, photo_pixels},
        tokenizer::Tokenizer,
    },
    nn::{Masked, Net},
    plan::{Pass, PlanOptions, Program, Recorder},
    tensor::{DType, Spec, image::Picture},
};
use serde::Serialize;
use std::path::Path;

/// What fills a text up.
const PAD: i32 = 0;

/// Something that was found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Detection {
    /// Where, in pixels of the photo.
    #[serde(rename = "box")]
    pub area: Rectangle,
    /// The same as the network gives it, also where it leaves the photo: what Detect-and-Compare cuts out.
    #[serde(skip)]
    pub uncut: Rectangle,
    /// 0 to 1.
    pub score: f64,
    /// Which query it is most like.
    pub query: usize,
}

/// A loaded network with its tokenizer.
#[derive(Debug)]
pub struct Detector {
    device: Device,
    dtype: DType,
    padding: Padding,
    weights: Checkpoint,
    config: Owlv2,
    tokenizer: Tokenizer,
    /// The network for that many queries.
    program: Option<(usize, Program)>,
}

impl Detector {
    /// Opens an OWLv2 in transformers' format, which must hold its tokenizer.
    ///
    /// # Errors
    /// Those of reading; [`Error::Format`] without a tokenizer; [`Error::Weights`] for names that are missing or
    /// unknown.
    pub fn open(path: &Path, device: Device, dtype: DType, padding: Padding) -> Result<Self> {
        let weights = Checkpoint::open(path, Component::Owlv2)?;
        let config = Owlv2::from_json(weights.config())?;
        if config.vision.channels != 3 {
            return Err(Error::Data {
                at: path.display().to_string(),
                found: format!("a detector for pictures of {} channels", config.vision.channels),
                expected: "3, a colour photo".into(),
                fix: "give a detector for photos".into(),
            });
        }
        let tokenizer = Tokenizer::of_folder(path)?;
        let rows = config.text.vocabulary;
        if tokenizer.vocabulary_len() > rows {
            return Err(Error::Data {
                at: path.display().to_string(),
                found: format!("a tokenizer of {} tokens", tokenizer.vocabulary_len()),
                expected: format!("at most {rows}, the rows of the model's table"),
                fix: "copy the detector's own tokenizer".into(),
            });
        }
        let mut detector =
            Self { device, dtype, padding, weights, config, tokenizer, program: None };
        detector.program = Some((1, detector.load(1)?)); // what does not fit is told at once
        Ok(detector)
    }

    /// Whether a query is short enough.
    ///
    /// # Errors
    /// [`Error::Config`] with its number of tokens.
    pub fn check(&self, query: &str) -> Result<()> {
        self.tokens(query).map(|_| ())
    }

    /// What of `photo` is like one of `queries`, with a score above `threshold`; the highest first.
    ///
    /// Each patch gives its most likely query; boxes may overlap, and are cut at the photo's border.
    ///
    /// # Errors
    /// [`Error::Config`] without queries, or for one that is too long; those of the device.
    pub fn detect<Q: AsRef<str>>(
        &mut self,
        photo: &Picture,
        queries: &[Q],
        threshold: f64,
    ) -> Result<Vec<Detection>> {
        let (count, length) = (queries.len(), self.config.text.positions);
        if count == 0 {
            return Err(refused("none".into(), "at least one text".into()));
        }
        let mut ids = Vec::with_capacity(count * length);
        let mut seen = Vec::with_capacity(count * length);
        for query in queries {
            let tokens = self.tokens(query.as_ref())?;
            seen.extend((0..length).map(|i| i64::from(i < tokens.len())));
            let pad = std::iter::repeat_n(PAD, length - tokens.len());
            ids.extend(tokens.into_iter().chain(pad));
        }
        let mut program = match self.program.take() {
            Some((n, program)) if n == count => program,
            _ => self.load(count)?,
        };
        let side = self.side();
        let [scores, seeing] = padding_scores(&seen, length, &self.config.text);
        program.set("pixel_values", &photo_pixels(photo, side, self.padding))?;
        program.set("queries", &vec![1.0; count])?;
        program.set("scores", &scores)?;
        program.set("seeing", &seeing)?;
        program.set_i32("rows", &eos_rows(&ids, length, self.config.text.eos))?;
        program.set_i32("input_ids", &ids)?;
        program.forward()?;
        let (logits, boxes) = (program.get("logits")?, program.get("pred_boxes")?);
        self.program = Some((count, program));
        let size = [photo.width as f64, photo.height as f64];
        Ok(found(&logits, &boxes, count, size, threshold))
    }

    /// Side of the network's input, pixels.
    fn side(&self) -> usize {
        self.config.vision.grid[0] * self.config.vision.patch
    }

    /// Start, the text, end.
    fn tokens(&self, query: &str) -> Result<Vec<i32>> {
        let (length, tokens) = (self.config.text.positions, self.tokenizer.tokens(query));
        if tokens.len() + 2 > length {
            let most = length.saturating_sub(2);
            let found = format!("{query:?}, {} tokens", tokens.len());
            return Err(refused(found, format!("at most {most} tokens")));
        }
        let ends = [self.tokenizer.bos(), self.tokenizer.eos()];
        Ok([&ends[..1], &tokens, &ends[1..]].concat())
    }

    /// The program for `count` queries.
    fn load(&self, count: usize) -> Result<Program> {
        let (side, text) = (self.side(), &self.config.text);
        let length = text.positions;
        let mut rec = Recorder::in_dtype(self.device.types(self.dtype));
        let pixels = rec.input("pixel_values", Spec::f32(&[1, side, side, 3]));
        let queries = rec.input("queries", Spec::f32(&[1, count]));
        let scores = rec.input("scores", Spec::f32(&[count, length, text.heads]));
        let seeing = rec.input("seeing", Spec::f32(&[count, length, 1]));
        let (scores, seeing) = (rec.compute(scores)?, rec.compute(seeing)?);
        let ids = rec.input("input_ids", Spec::i32(&[count, length]));
        let rows = Some(rec.input("rows", Spec::i32(&[count])));
        let padding = Some(Masked { scores, seeing: Some(seeing) });
        let texts = TextInputs { ids, rows, learned: None, padding };
        let adapters = Adapters::default();
        let mut outputs = Net::new(&mut rec, &adapters).within(Component::Owlv2.name(), |net| {
            owlv2(net, &self.config, pixels, &texts, queries)
        })?;
        self.weights.check(&rec.params())?;
        outputs.retain(|(name, _)| ["logits", "pred_boxes"].contains(name));
        let options = PlanOptions { pass: Pass::Inference, ..PlanOptions::default() };
        rec.plan(&outputs, options)?.load(self.device.clone(), &self.weights)
    }
}

fn refused(found: String, expected: String) -> Error {
    let fix = "name the class in a word or two, as \"dog\" or \"action figure\"".into();
    Error::Config { key: "query".into(), found, expected, fix }
}

/// Non-maximum suppression: without each box whose intersection over union with a better one that stays is above `nms`.
///
/// `found` has the highest score first, as [`Detector::detect`] gives it. Which query a box is like does not matter. 1 keeps
/// all, as the published metric does; OWLv2 may give one subject two boxes that hardly differ.
pub fn suppressed(found: Vec<Detection>, nms: f64) -> Vec<Detection> {
    let mut kept: Vec<Detection> = Vec::with_capacity(found.len());
    for one in found {
        if kept.iter().all(|better| better.uncut.iou(&one.uncut) <= nms) {
            kept.push(one);
        }
    }
    kept
}

/// Boxes with a score above the threshold, for a photo of `[width, height]`.
fn found(
    logits: &[f32],
    boxes: &[f32],
    queries: usize,
    [width, height]: [f64; 2],
    threshold: f64,
) -> Vec<Detection> {
    let side = width.max(height); // boxes are in units of the padded square
    let one = |(logits, at): (&[f32], &[f32])| {
        let (mut query, mut best) = (0, f32::NEG_INFINITY);
        for (i, logit) in logits.iter().enumerate().filter(|(_, l)| !l.is_nan()) {
            if *logit > best {
                (query, best) = (i, *logit);
            }
        }
        let score = 1.0 / (1.0 + (-f64::from(best)).exp());
        let [cx, cy, w, h] = [0, 1, 2, 3].map(|i| f64::from(at[i]) * side);
        let x = |v: f64| v.clamp(0.0, width);
        let y = |v: f64| v.clamp(0.0, height);
        let [x0, y0, x1, y1] = [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0];
        let area = Rectangle([x(x0), y(y0), x(x1), y(y1)]);
        let uncut = Rectangle([x0, y0, x1, y1]);
        (score > threshold).then_some(Detection { area, uncut, score, query })
    };
    let patches = logits.chunks_exact(queries.max(1)).zip(boxes.chunks_exact(4));
    let mut all: Vec<Detection> = patches.filter_map(one).collect();
    all.sort_by(|a, b| b.score.total_cmp(&a.score));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_boxes_that_hardly_differ_the_better_one_stays() {
        let at = |x: f64, score| {
            let area = Rectangle([x, 0.0, x + 10.0, 10.0]);
            Detection { area, uncut: area, score, query: 0 }
        };
        // 9 / 11, then 8 / 12 and 9 / 11: the third is close to the second only, which has gone
        let all = vec![at(0.0, 0.9), at(1.0, 0.8), at(2.0, 0.7), at(30.0, 0.6)];
        let places = |nms| -> Vec<f64> {
            suppressed(all.clone(), nms).iter().map(|d| d.area.0[0]).collect()
        };
        assert_eq!(places(0.8), [0.0, 2.0, 30.0]);
        assert_eq!(places(0.6), [0.0, 30.0]);
        assert_eq!(places(1.0), [0.0, 1.0, 2.0, 30.0]);
        let same = vec![at(0.0, 0.9), at(0.0, 0.8)];
        assert_eq!((suppressed(same.clone(), 1.0).len(), suppressed(same, 0.99).len()), (2, 1));
        let empty = Rectangle([3.0, 3.0, 3.0, 3.0]);
        assert_eq!(empty.iou(&empty), 0.0);
    }

    #[test]
    fn boxes_are_in_units_of_the_longer_side_and_end_at_the_photo() {
        let logits = [0.0, 2.0, -5.0, -4.0, 3.0, 1.0];
        let boxes = [0.5, 0.25, 0.5, 0.5, 0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.4, 0.4];
        let all = found(&logits, &boxes, 2, [200.0, 100.0], 0.5);
        assert_eq!(all.len(), 2, "the second patch is like nothing");
        assert_eq!((all[0].query, all[1].query), (0, 1), "the higher score first");
        assert_eq!(all[1].area, Rectangle([50.0, 0.0, 150.0, 100.0]));
        let Rectangle([x0, y0, x1, y1]) = all[0].area;
        assert!((x0 - 140.0).abs() < 1e-3 && x1 == 200.0 && y0 == 100.0 && y1 == 100.0);
        let Rectangle([_, _, x1, y1]) = all[0].uncut;
        assert!((x1 - 220.0).abs() < 1e-3 && (y1 - 220.0).abs() < 1e-3, "{:?}", all[0]);
        assert!((all[0].score - 0.952_574).abs() < 1e-6);
        assert!(found(&logits, &boxes, 2, [200.0, 100.0], 0.99).is_empty());
        assert!(found(&[f32::NAN], &boxes, 1, [2.0, 1.0], 0.0).is_empty());
    }
}
