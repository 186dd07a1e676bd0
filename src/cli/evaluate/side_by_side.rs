//! The pictures of all rows side by side, seed by seed.

use super::{
    make::Maker,
    unit::{Cell, Row, Unit, picture},
};
use crate::{
    cli::report::Report,
    error::{Error, Result},
    tensor::{
        atomic::atomic_write,
        image::{self, Filter, Picture, encode_png, grid},
    },
};
use std::{fs, path::Path};

/// Side of a picture on the page, pixels.
const SIDE: usize = 256;

/// Writes the page `path`: for every combination and prompt of `units` a line of pictures for each of `rows`, the same
/// seed below the other.
///
/// # Errors
/// Those of the pictures and of the file.
pub fn write(maker: &Maker, rows: &[Row], units: &[Unit], path: &Path) -> Result<()> {
    let (out, seeds) = (&maker.out, &maker.seeds);
    let mut report = Report::new(
        "selvedge evaluate",
        "The pictures of every row; below each other those of the same seed.",
    );
    for together in units.chunk_by(|a, b| a.shown.name == b.shown.name) {
        let cells: Vec<Cell> =
            together.iter().flat_map(|u| u.cells().map(|(_, cell)| cell)).collect();
        for (number, prompt) in together[0].shown.prompts.iter().enumerate() {
            report.section(&format!("{}: {prompt}", together[0].shown.name));
            for row in rows {
                let cell = cells.iter().find(|c| c.number == number && c.row == row.name);
                let Some(cell) = cell else { continue };
                let small = |seed: &u64| small(&cell.folder(out).join(picture(*seed)));
                let line =
                    grid(&seeds.iter().map(small).collect::<Result<Vec<_>>>()?, seeds.len(), 2);
                report.picture(&encode_png(&line, &[], &cell.folder(out))?, &row.name);
            }
        }
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    }
    let html = report.html();
    atomic_write(path, |w| w.write_all(html.as_bytes()))
}

/// A picture of at most [`SIDE`] pixels a side.
fn small(path: &Path) -> Result<Picture> {
    let whole = image::read(path)?.rgb();
    let longest = whole.width.max(whole.height).max(1);
    if longest <= SIDE {
        return Ok(whole);
    }
    let side = |n: usize| (n * SIDE / longest).max(1);
    Ok(whole.resize(side(whole.width), side(whole.height), Filter::Lanczos))
}
