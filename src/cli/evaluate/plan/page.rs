//! The pictures of all rows side by side, seed by seed.

use super::{
    file::Plan,
    unit::{Cell, Unit, picture},
};
use crate::{
    cli::{common::note, report::Report},
    error::Result,
    tensor::{
        atomic::atomic_write,
        image::{self, Filter, Picture, encode_png, grid},
    },
};
use std::path::Path;

/// Side of a picture on the page, pixels.
const SIDE: usize = 256;

/// Writes `side_by_side.html`: for every combination and prompt a line of pictures for each row, the same seed below the
/// other.
///
/// # Errors
/// Those of the pictures and of the file.
pub fn write(plan: &Plan, units: &[Unit], out: &Path) -> Result<()> {
    let seeds = plan.seeds.all();
    let mut report = Report::new(
        "selvedge evaluate",
        "The pictures of every row; below each other those of the same seed.",
    );
    for combination in &plan.combinations {
        let of = |u: &&Unit| u.combination == combination.name;
        let cells: Vec<Cell> =
            units.iter().filter(of).flat_map(|u| u.cells().map(|(_, c)| c)).collect();
        let prompts = cells.iter().map(|c| c.number + 1).max().unwrap_or(0);
        for number in 0..prompts {
            let mut titled = false;
            for row in &plan.rows {
                let cell = cells.iter().find(|c| c.number == number && c.row == row.name);
                let Some(cell) = cell else { continue };
                if !titled {
                    report.section(&format!("{}: {}", combination.name, cell.prompt));
                    titled = true;
                }
                let small = |seed: &u64| small(&cell.folder(out).join(picture(*seed)));
                let line =
                    grid(&seeds.iter().map(small).collect::<Result<Vec<_>>>()?, seeds.len(), 2);
                report.picture(&encode_png(&line, &[], &cell.folder(out))?, &row.name);
            }
        }
    }
    let (path, html) = (out.join("side_by_side.html"), report.html());
    atomic_write(&path, |w| w.write_all(html.as_bytes()))?;
    note(&path.display().to_string());
    Ok(())
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
