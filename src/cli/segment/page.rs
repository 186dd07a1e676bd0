//! The page of a folder: every picture of its list, and what failed and why.

use crate::{cli::report::Report, error::Result, tensor::atomic::atomic_write};
use serde_json::Value;
use std::{fs, path::Path};

/// The page's name.
const PAGE: &str = "report.html";

/// Writes the page of `list` into `folder`.
///
/// # Errors
/// [`crate::error::Error::File`].
pub fn write(folder: &Path, list: &[Value]) -> Result<()> {
    let (failed, cut): (Vec<&Value>, Vec<&Value>) =
        list.iter().partition(|e| !e["failed"].is_null());
    let lead = format!("{} photos with a mask, {} without", cut.len(), failed.len());
    let mut page = Report::new("Subjects cut out", &lead);
    if !failed.is_empty() {
        page.section("Failed");
        page.text(
            "Show the subject by a box or points in segment.toml beside the photo (or --box, --point for one photo), or draw \
             the mask.",
        );
        page.side_by_side(|page| failed.iter().for_each(|e| one(page, folder, e)));
    }
    if !cut.is_empty() {
        page.section("Masks");
        page.text("Dark: outside the mask. Yellow: the box.");
        page.side_by_side(|page| cut.iter().for_each(|e| one(page, folder, e)));
    }
    let html = page.html();
    atomic_write(folder.join(PAGE), |w| w.write_all(html.as_bytes()))
}

/// One photo, or its name where there is no picture of it.
fn one(page: &mut Report, folder: &Path, entry: &Value) {
    let name = entry["photo"].as_str().unwrap_or("a photo");
    let mut caption = name.to_string();
    if let Some(query) = entry["query"].as_str() {
        caption += &format!(", {query:?}");
    }
    if let Some(why) = entry["failed"].as_str() {
        caption += &format!(": {why}");
    } else if let Some(share) = entry["share"].as_f64() {
        caption += &format!(": {:.1} % of the photo", 100.0 * share);
    }
    if let Some(quality) = entry["quality"].as_f64() {
        caption += &format!(", quality {quality:.3}");
    }
    if let Some([one]) = entry["detections"].as_array().map(Vec::as_slice) {
        caption += &format!(", score {:.3}", one["score"].as_f64().unwrap_or(0.0));
    }
    // beside the page, whatever folder the command was given in
    let overlay = entry["overlay"].as_str().and_then(|path| Path::new(path).file_name());
    match overlay.and_then(|name| fs::read(folder.join("overlays").join(name)).ok()) {
        Some(png) => page.picture(&png, &caption),
        None => page.text(&caption),
    }
}
