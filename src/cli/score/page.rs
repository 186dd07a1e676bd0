//! `score.html`: every picture with its boxes and numbers, the worst first.

use super::{
    results::{Results, Shot},
    show::{legend, rows},
};
use crate::{
    cli::{pictures::small, plot::escape, report::Report},
    data::Subject,
    error::Result,
    metrics::{detect_compare::Matrix, judge::Likeness},
    tensor::image::Picture,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::fmt::Write as _;

/// Longest side of a picture on the page, pixels.
const PICTURE: usize = 384;
/// Longest side of a photo on the page, pixels.
const PHOTO: usize = 192;

/// The page; `read` gives picture number `i`.
///
/// # Errors
/// Those of `read`.
pub(super) fn page(
    results: &Results,
    subjects: &[Subject],
    mut read: impl FnMut(usize) -> Result<Picture>,
) -> Result<String> {
    let count = results.shots.len();
    let mut page = Report::new("Scores", &format!("{count} pictures, the worst first."));
    page.section("Means");
    let columns = results.columns();
    let last = |mut rows: Vec<Vec<String>>| {
        rows.drain(1..=count);
        rows
    };
    page.table(&last(rows(results, &columns)));
    for judge in results.embedders.iter().skip(1) {
        page.text(&format!("Detect-and-Compare by {}", judge.kind.word()));
        page.table(&last(rows(results, &judge.columns())));
    }
    for line in legend(results) {
        page.text(&line);
    }
    page.section("Photos");
    for subject in subjects {
        page.text(&format!("{}: {}", subject.id, subject.words));
        let photos: Result<Vec<Vec<u8>>> =
            subject.photos.iter().map(|p| small(&p.rgb, PHOTO)).collect();
        let photos = photos?;
        page.side_by_side(|page| {
            photos.iter().zip(&subject.photos).for_each(|(png, p)| page.picture(png, &p.name));
        });
    }
    page.section("Pictures");
    let figures = figures(results, PICTURE, &mut read)?;
    page.side_by_side(|page| figures.iter().for_each(|(svg, text)| page.plot(svg, text)));
    Ok(page.html())
}

/// `(SVG, caption)` of every picture, the worst first: boxes, numbers, prompt; `side` pixels wide.
///
/// # Errors
/// Those of `read`.
pub(super) fn figures(
    results: &Results,
    side: usize,
    mut read: impl FnMut(usize) -> Result<Picture>,
) -> Result<Vec<(String, String)>> {
    let columns = results.columns();
    let figure = |i: usize| {
        let shot = &results.shots[i];
        let likeness = results.embedders.first().map(|e| &e.images[i]);
        let png = small(&read(i)?, side)?;
        let svg = drawn(shot, &png, likeness, (&results.subjects, side));
        let number = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.4}"));
        let numbers = columns.iter().map(|c| format!("{} {}", c.label, number(c.values[i])));
        let parts = [shot.name.clone()].into_iter().chain(numbers).chain(shot.prompt.clone());
        Ok((svg, parts.collect::<Vec<_>>().join("; ")))
    };
    results.worst_first().into_iter().map(figure).collect()
}

/// The picture with its boxes, each with the detector's score and its similarity to every subject.
fn drawn(
    shot: &Shot,
    png: &[u8],
    likeness: Option<&Likeness>,
    (subjects, side): (&[String], usize),
) -> String {
    let [height, width] = shot.size;
    let line = width.max(height) as f64 / 150.0;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {width} {height}\" width=\"{side}\">\
         <image width=\"{width}\" height=\"{height}\" href=\"data:image/png;base64,{}\"/>",
        STANDARD.encode(png)
    );
    let similarity = likeness.and_then(|l| l.boxes.as_ref()).map(|(s, _)| s);
    for (i, found) in shot.boxes.iter().flatten().enumerate() {
        let [x0, y0, x1, y1] = found.area;
        let (w, h, size) = (x1 - x0, y1 - y0, line * 6.0);
        let _ = write!(
            svg,
            "<rect x=\"{x0}\" y=\"{y0}\" width=\"{w}\" height=\"{h}\" fill=\"none\" \
             stroke=\"#fc0\" stroke-width=\"{line}\"/><text x=\"{}\" y=\"{}\" fill=\"#fc0\" \
             stroke=\"#000\" stroke-width=\"{}\" paint-order=\"stroke\" font-size=\"{size}\" \
             font-family=\"sans-serif\">{}</text>",
            x0 + line,
            y0 + size,
            line / 2.0,
            escape(&label(found.score, found.query.as_deref(), similarity, i, subjects))
        );
    }
    svg + "</svg>"
}

fn label(
    score: Option<f64>,
    query: Option<&str>,
    similarity: Option<&Matrix>,
    row: usize,
    subjects: &[String],
) -> String {
    let detected = score.map(|s| format!("{} {s:.2}", query.unwrap_or_default()));
    let row = similarity.and_then(|s| s.get(row));
    let alike = row.map(|r| subjects.iter().zip(r).map(|(s, v)| format!("{s} {v:.2}")));
    let alike = alike.map(|all| all.collect::<Vec<_>>().join(" "));
    [detected, alike].into_iter().flatten().collect::<Vec<_>>().join(" | ")
}
