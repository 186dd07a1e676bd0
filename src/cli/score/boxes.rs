//! Where the subjects are in every picture: from a file, or from a detector.

use super::results::{Found, Shot};
use crate::{
    cli::common::warn,
    error::{Error, Result},
    metrics::crops::{extent, rounded},
    segment::{
        detector::{Detector, suppressed},
        prompt::Rectangle,
    },
    tensor::image::Picture,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Puts the boxes of the file into the pictures.
///
/// # Errors
/// [`Error::Format`] for another kind of file; [`Error::Data`] for a picture without an entry, an entry without a picture,
/// and a box that shows nothing of its picture.
pub(super) fn from_file(path: &Path, shots: &mut [Shot]) -> Result<()> {
    let text = fs::read(path).map_err(Error::file("read", path))?;
    let mut all: BTreeMap<String, Vec<[f64; 4]>> =
        serde_json::from_slice(&text).map_err(|e| Error::Format {
            path: path.into(),
            found: format!("{e}"),
            expected: r#"{"0001.png": [[x0, y0, x1, y1], ...], ...}, pixels"#.into(),
            fix: "write a list of boxes, [] for none, for every picture".into(),
        })?;
    let known: BTreeSet<&String> = shots.iter().map(|s| &s.name).collect();
    if let Some(name) = all.keys().find(|name| !known.contains(name)) {
        return Err(wrong(path, name, "no such picture".into(), "names of --images"));
    }
    for shot in shots {
        let Some(boxes) = all.remove(&shot.name) else {
            return Err(wrong(path, &shot.name, "no entry".into(), "boxes, [] for none"));
        };
        for area in &boxes {
            check(path, shot, *area)?;
        }
        let found = |area: [f64; 4]| Found { area: rounded(area), score: None, query: None };
        shot.boxes = Some(boxes.into_iter().map(found).collect());
    }
    Ok(())
}

/// Puts what `detector` finds into the pictures; `read` gives picture number `i`.
///
/// A box without a whole pixel is left out, and told.
///
/// # Errors
/// Those of reading and of the detector.
pub(super) fn from_detector(
    mut detector: Detector,
    (queries, [threshold, nms]): (&[&str], [f64; 2]),
    shots: &mut [Shot],
    read: &dyn Fn(&str) -> Result<Picture>,
) -> Result<()> {
    for shot in shots {
        let mut boxes = vec![];
        for found in suppressed(detector.detect(&read(&shot.name)?, queries, threshold)?, nms) {
            let Rectangle(area) = found.uncut; // black where it leaves the picture, as published
            if extent(area).is_err() {
                let [x0, y0, x1, y1] = rounded(area);
                warn(&format!(
                    "{}: box {x0},{y0},{x1},{y1} is left out: no whole pixel",
                    shot.name
                ));
                continue;
            }
            let query = queries.get(found.query).map(|q| (*q).to_string());
            boxes.push(Found { area: rounded(area), score: Some(found.score), query });
        }
        shot.boxes = Some(boxes);
    }
    Ok(())
}

fn check(path: &Path, shot: &Shot, area: [f64; 4]) -> Result<()> {
    let [x0, y0, x1, y1] = area;
    let refuse =
        |expected: &str| Err(wrong(path, &shot.name, format!("box {x0},{y0},{x1},{y1}"), expected));
    if x0 >= x1 || y0 >= y1 {
        return refuse("x0 < x1 and y0 < y1");
    }
    extent(area).map_err(|e| shot.in_error(e))?;
    let [height, width] = shot.size.map(|n| n as f64);
    if x0 >= width || y0 >= height || x1 <= 0.0 || y1 <= 0.0 {
        return refuse(&format!("a box in the picture, {width} wide and {height} high"));
    }
    Ok(())
}

fn wrong(path: &Path, name: &str, found: String, expected: &str) -> Error {
    Error::Data {
        at: format!("{}: {name}", path.display()),
        found,
        expected: expected.into(),
        fix: "give pixels from the upper left corner, for every picture".into(),
    }
}
