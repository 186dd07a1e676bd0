//! What was found out about every picture.

use crate::{
    error::Error,
    metrics::{
        detect_compare::Matrix, embedder::Kind, interval::mean_and_interval, judge::Likeness,
    },
};

/// A box in a picture.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// `x0, y0, x1, y1`, with two decimals.
    pub area: [f64; 4],
    /// How sure the detector is.
    pub score: Option<f64>,
    /// What the detector took it for.
    pub query: Option<String>,
}

/// A picture.
#[derive(Clone, Debug)]
pub(super) struct Shot {
    /// File name.
    pub name: String,
    /// Height and width.
    pub size: [usize; 2],
    /// What it was made for, where that is known.
    pub prompt: Option<String>,
    /// The texts that it is compared with.
    pub texts: Vec<String>,
    /// Where subjects are; `None` where nobody looked.
    pub boxes: Option<Vec<Found>>,
}

impl Shot {
    /// An error about this picture, with its name.
    pub fn in_error(&self, error: Error) -> Error {
        match error {
            Error::Data { at, found, expected, fix } => {
                Error::Data { at: format!("{}: {at}", self.name), found, expected, fix }
            }
            other => other,
        }
    }
}

/// What one embedder says.
#[derive(Debug)]
pub(super) struct Judged {
    pub kind: Kind,
    pub ground_truth: Matrix,
    /// A picture each.
    pub images: Vec<Likeness>,
}

/// Everything.
#[derive(Debug, Default)]
pub(super) struct Results {
    pub subjects: Vec<String>,
    pub shots: Vec<Shot>,
    pub embedders: Vec<Judged>,
    /// Mean cosine of every picture with its texts.
    pub clip_score: Option<Vec<f64>>,
    pub reward: Option<Vec<f64>>,
    /// What was not measured, and why.
    pub missing: Vec<(&'static str, String)>,
}

/// A number of every picture.
#[derive(Clone)]
pub(super) struct Column {
    /// In JSON.
    pub key: String,
    /// In tables.
    pub label: String,
    /// `None` where the picture has none.
    pub values: Vec<Option<f64>>,
}

impl Column {
    /// Mean and 95 % interval; `None` unless every picture has a number.
    pub fn mean(&self) -> Option<(f64, [f64; 2])> {
        let all: Option<Vec<f64>> = self.values.iter().copied().collect();
        mean_and_interval(&all?)
    }
}

impl Judged {
    /// Detect-and-Compare by this embedder.
    pub fn columns(&self) -> Vec<Column> {
        let column = |key: &str, label: &str, get: &dyn Fn(&Likeness) -> Option<f64>| Column {
            key: key.into(),
            label: label.into(),
            values: self.images.iter().map(get).collect(),
        };
        let scores = |l: &Likeness| l.boxes.as_ref().map(|(_, s)| *s);
        vec![
            column("dc", "D&C", &|l| scores(l)?.dc),
            column("dc_max", "D&C max", &|l| scores(l)?.dc_max),
            column("dc_spectral", "spectral", &|l| Some(scores(l)?.dc_spectral)),
            column("dc_frobenius", "Frobenius", &|l| Some(scores(l)?.dc_frobenius)),
        ]
    }

    /// How much the whole pictures look like all photos.
    pub fn whole(&self) -> Column {
        Column {
            key: format!("similarity_{}", self.kind.word()),
            label: self.kind.word().into(),
            values: self.images.iter().map(|l| Some(l.all)).collect(),
        }
    }
}

impl Results {
    /// The numbers of a picture: Detect-and-Compare by the first embedder, whole similarities, text scores.
    pub fn columns(&self) -> Vec<Column> {
        let mut all = self.embedders.first().map(Judged::columns).unwrap_or_default();
        all.extend(self.embedders.iter().map(Judged::whole));
        for (key, label, values) in [
            ("clip_score", "CLIP score", &self.clip_score),
            ("imagereward", "ImageReward", &self.reward),
        ] {
            if let Some(values) = values {
                let values = values.iter().map(|v| Some(*v)).collect();
                all.push(Column { key: key.into(), label: label.into(), values });
            }
        }
        all
    }

    /// Pictures from the worst to the best: by the later Detect-and-Compare where there are boxes, else by the first
    /// number there is.
    pub fn worst_first(&self) -> Vec<usize> {
        let columns = self.columns();
        let full = |c: &&Column| c.values.iter().all(Option::is_some);
        let by = columns.iter().filter(full).find(|c| c.key == "dc_spectral");
        let by = by.or_else(|| columns.iter().find(full));
        let mut order: Vec<usize> = (0..self.shots.len()).collect();
        if let Some(by) = by {
            let value = |i: &usize| by.values[*i].unwrap_or(f64::NAN);
            order.sort_by(|a, b| value(a).total_cmp(&value(b)));
        }
        order
    }
}
