//! Scores from similarities or embeddings that exist already.

use super::show::values;
use crate::{
    cli::common::out,
    error::{Error, Result},
    metrics::{
        detect_compare::{Matrix, Scores},
        similarity::{Embeddings, ground_truth, to_references},
    },
    tensor::safetensors::SafeFile,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{fs, path::Path};

/// What is to be scored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Numbers {
    ground_truth: Matrix,
    images: Vec<Image>,
}

/// One picture.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    name: String,
    similarity: Matrix,
}

/// Scores the numbers of `--similarities`.
///
/// # Errors
/// Those of reading; [`Error::Data`] for numbers that do not fit together.
pub(super) fn similarities(path: &Path, json: bool) -> Result<u8> {
    Ok(print(&from_json(path)?, json))
}

/// Scores the embeddings of `--embeddings`.
///
/// # Errors
/// As [`similarities`].
pub(super) fn embeddings(path: &Path, json: bool) -> Result<u8> {
    Ok(print(&from_embeddings(path)?, json))
}

fn print(numbers: &Numbers, json: bool) -> u8 {
    let truth = &numbers.ground_truth;
    let scores: Vec<Scores> =
        numbers.images.iter().map(|i| Scores::of(&i.similarity, truth)).collect();
    out(&if json { as_json(numbers, &scores) } else { as_table(numbers, &scores) });
    0
}

fn from_json(path: &Path) -> Result<Numbers> {
    let text = fs::read(path).map_err(Error::file("read", path))?;
    let numbers: Numbers = serde_json::from_slice(&text).map_err(|e| Error::Format {
        path: path.into(),
        found: format!("{e}"),
        expected: r#"{"ground_truth": [[..]], "images": [{"name": "..", "similarity": [[..]]}]}"#
            .into(),
        fix: "write the file again".into(),
    })?;
    check(&numbers, path)?;
    Ok(numbers)
}

/// Every matrix has a column a subject and finite numbers.
fn check(numbers: &Numbers, path: &Path) -> Result<()> {
    let wrong = |what: &str, found: String, expected: String| Error::Data {
        at: format!("{}: {what}", path.display()),
        found,
        expected,
        fix: "give every subject a row and a column of ground_truth, and a column of similarity"
            .into(),
    };
    let subjects = numbers.ground_truth.len();
    if subjects == 0 {
        return Err(wrong("ground_truth", "no subject".into(), "a row a subject".into()));
    }
    if numbers.images.is_empty() {
        return Err(wrong("images", "none".into(), "pictures to score".into()));
    }
    let all = numbers.images.iter().map(|i| (i.name.as_str(), &i.similarity));
    for (name, matrix) in [("ground_truth", &numbers.ground_truth)].into_iter().chain(all) {
        for (i, row) in matrix.iter().enumerate() {
            if row.len() != subjects {
                let found = format!("{} numbers in row {i}", row.len());
                return Err(wrong(name, found, format!("{subjects}, one a subject")));
            }
            if let Some(v) = row.iter().find(|v| !v.is_finite()) {
                return Err(wrong(name, format!("{v} in row {i}"), "finite numbers".into()));
            }
        }
    }
    Ok(())
}

fn from_embeddings(path: &Path) -> Result<Numbers> {
    let file = SafeFile::open(path)?;
    let wrong = |what: &str, found: String, expected: String, fix: &str| Error::Data {
        at: format!("{}: {what}", path.display()),
        found,
        expected,
        fix: fix.into(),
    };
    let (mut references, mut crops) = (vec![], vec![]);
    for name in file.entries().keys() {
        let at = format!("{}: {name}", path.display());
        let rows = || Embeddings::new(&file.f32(name)?, &at);
        match name.split_once('.') {
            Some(("references", subject)) => references.push((subject, rows()?)),
            Some(("crops", image)) => crops.push((image.to_string(), rows()?)),
            _ => {
                let expected = "references.SUBJECT or crops.IMAGE".into();
                return Err(wrong(name, "a name of neither kind".into(), expected, "rename it"));
            }
        }
    }
    if references.is_empty() || crops.is_empty() {
        let found = format!("{} tensors, {} tensors", references.len(), crops.len());
        let expected = "at least one of each".into();
        return Err(wrong("references., crops.", found, expected, "embed subjects and crops"));
    }
    if let Some((subject, _)) = references.iter().find(|(_, r)| r.is_empty()) {
        let name = format!("references.{subject}");
        return Err(wrong(&name, "no row".into(), "a row a photo".into(), "embed its photos"));
    }
    let widths = references.iter().map(|(s, e)| (format!("references.{s}"), e.width()));
    let widths: Vec<_> =
        widths.chain(crops.iter().map(|(i, e)| (format!("crops.{i}"), e.width()))).collect();
    let width = references[0].1.width();
    if let Some((name, other)) = widths.iter().find(|(_, w)| w.is_some() && *w != width) {
        let (found, expected) = (other.unwrap_or(0), width.unwrap_or(0));
        let fix = "embed all of them with one model";
        return Err(wrong(name, format!("width {found}"), format!("width {expected}"), fix));
    }
    let references: Vec<Embeddings> = references.into_iter().map(|(_, e)| e).collect();
    let image = |(name, crops): (String, Embeddings)| Image {
        similarity: to_references(&crops, &references),
        name,
    };
    Ok(Numbers {
        ground_truth: ground_truth(&references),
        images: crops.into_iter().map(image).collect(),
    })
}

fn as_json(numbers: &Numbers, scores: &[Scores]) -> String {
    let image = |(image, scores): (&Image, &Scores)| {
        let boxes = image.similarity.len();
        let mut all = json!({"name": image.name, "boxes": boxes, "similarity": image.similarity});
        if let (Value::Object(all), Value::Object(own)) = (&mut all, values(scores)) {
            all.extend(own);
        }
        all
    };
    let images: Vec<Value> = numbers.images.iter().zip(scores).map(image).collect();
    let mean = Scores::mean(scores).map(|m| values(&m));
    format!("{}\n", json!({"ground_truth": numbers.ground_truth, "images": images, "mean": mean}))
}

fn as_table(numbers: &Numbers, scores: &[Scores]) -> String {
    let width = numbers.images.iter().map(|i| i.name.chars().count()).max().unwrap_or(0).max(5);
    let line = |name: &str, boxes: &str, s: &Scores| {
        let maybe = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.4}"));
        let (dc, max) = (maybe(s.dc), maybe(s.dc_max));
        let (spectral, frobenius) = (s.dc_spectral, s.dc_frobenius);
        format!("{name:width$}  {boxes:>5}  {dc:>8}  {max:>8}  {spectral:>9.4}  {frobenius:>9.4}\n")
    };
    let mut text = format!(
        "{:width$}  {:>5}  {:>8}  {:>8}  {:>9}  {:>9}\n",
        "image", "boxes", "D&C", "D&C max", "spectral", "Frobenius"
    );
    for (image, scores) in numbers.images.iter().zip(scores) {
        text += &line(&image.name, &image.similarity.len().to_string(), scores);
    }
    if let Some(mean) = Scores::mean(scores) {
        text += &line("mean", "", &mean);
    }
    text
}
