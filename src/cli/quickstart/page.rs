//! The page of a quickstart: photos and masks, mixes, pictures with their scores, curves, times, commands.

use super::{
    Quickstart, Run,
    grids::{Grid, prompt},
    photos::Photos,
};
use crate::{
    cli::{
        plot::{Curve, lines},
        report::Report,
        score::Mean,
    },
    data::{Dataset, TrainConfig, load_all},
    error::{Error, Result},
    tensor::{
        atomic::atomic_write,
        image::{Picture, encode_png, grid, write_png},
    },
};
use serde_json::Value;
use std::{fs, path::Path, time::Instant};

/// Everything that was made.
pub(super) struct Made {
    pub photos: Photos,
    pub runs: Vec<Run>,
    pub grids: Vec<Grid>,
    /// What took how long.
    pub times: Vec<(String, f64)>,
}

/// Writes `report.html`.
///
/// # Errors
/// Those of reading the photos and of writing.
pub(super) fn write(args: &Quickstart, made: &Made, start: Instant) -> Result<()> {
    let mut report = Report::new(
        "selvedge quickstart",
        "Subjects that are easily confused, found and cut out of a few photos, then learned by the embedded nano model with \
         DreamBooth and with MuDI; the same seeds in every grid, judged by the embedded detector and embedders.",
    );
    subjects(&mut report, args, &made.photos)?;
    for run in &made.runs {
        if run.config.method.name == crate::data::config::Method::Mudi {
            mixes(&mut report, args, &run.config)?;
        }
    }
    report.section("The pictures");
    report.text(&format!("Prompt: {}", prompt(args, &made.photos)));
    report.side_by_side(|r| made.grids.iter().for_each(|g| r.picture(&g.png, &g.title)));
    scores(&mut report, made);
    report.section("Training");
    let curves: Vec<Curve> =
        made.runs.iter().map(|r| Curve { name: r.name.into(), points: r.losses.clone() }).collect();
    report.plot(&lines("step", "loss", &curves), "Loss, mean of 20 steps");
    let mut rows = vec![vec!["what".into(), "seconds".into()]];
    let row = |(what, seconds): &(String, f64)| vec![what.clone(), format!("{seconds:.1}")];
    rows.extend(made.times.iter().map(row));
    rows.push(row(&("all".into(), start.elapsed().as_secs_f64())));
    report.table(&rows);
    report.section("Each part again");
    let trained = made.runs.iter().map(|r| r.command.clone());
    let grids = made.grids.iter().flat_map(|g| g.commands.clone());
    let all = [made.photos.command.clone()].into_iter().chain(trained).chain(grids);
    report.code(&all.collect::<Vec<_>>().join("\n\n"));
    report.section("Configurations");
    for run in &made.runs {
        let text = run.config.to_toml()?;
        report.folded(run.name, |r| r.code(&text));
    }
    let html = report.html();
    atomic_write(args.out.join("report.html"), |w| w.write_all(html.as_bytes()))
}

/// The photos with what was found in them, and the masks.
pub(super) fn subjects(report: &mut Report, args: &Quickstart, photos: &Photos) -> Result<()> {
    report.section("The subjects");
    report.text(
        "Photos, what was found in them (yellow: the box; dark: outside the mask), and the masks.",
    );
    let mut warnings = vec![];
    for (s, config) in load_all(&photos.subjects, &mut warnings)?.iter().zip(&photos.subjects) {
        let pictures: Vec<Picture> = s.photos.iter().map(|p| p.rgb.clone()).collect();
        let masks: Vec<Picture> =
            s.photos.iter().filter_map(|p| p.mask.as_ref().map(Picture::rgb)).collect();
        let found = overlays(&config.images)?;
        let columns = pictures.len();
        let all: Vec<Picture> = [pictures, found, masks].into_iter().flatten().collect();
        let sheet = grid(&all, columns, 2);
        let path = args.out.join(format!("references_{}.png", s.id));
        write_png(&path, &sheet, &[])?;
        report.picture(&encode_png(&sheet, &[], &path)?, &format!("{}: {}", s.id, s.words));
    }
    Ok(())
}

/// The overlays that `segment` left beside photos, in the photos' order; none where masks were there before.
fn overlays(photos: &Path) -> Result<Vec<Picture>> {
    let file = photos.join("segments.json");
    let text = match fs::read(&file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        other => other.map_err(Error::file("read", &file))?,
    };
    let listed: Vec<Value> = serde_json::from_slice(&text).unwrap_or_default();
    let mut names: Vec<&str> = listed.iter().filter_map(|e| e["overlay"].as_str()).collect();
    names.sort_unstable();
    let name = |path: &str| Path::new(path).file_name().map(|n| photos.join("overlays").join(n));
    names.iter().filter_map(|path| name(path)).map(|p| crate::tensor::image::read(&p)).collect()
}

fn mixes(report: &mut Report, args: &Quickstart, config: &TrainConfig) -> Result<()> {
    let mut warnings = vec![];
    let data = Dataset::open(config, &config.method.prior_dir, &mut warnings)?;
    let mixed = (0..200).map(|n| data.sample(n)).filter(|s| s.draw.mixed).take(16);
    let pictures: Vec<Picture> = mixed.map(|s| s.picture).collect();
    let sheet = grid(&pictures, 8, 2);
    let path = args.out.join("mixes.png");
    write_png(&path, &sheet, &[])?;
    report.section("What MuDI trains on");
    let caption = "Seg-Mix: the segmented subjects, mixed on white";
    report.picture(&encode_png(&sheet, &[], &path)?, caption);
    Ok(())
}

/// The table of the grids, and every picture with its numbers.
fn scores(report: &mut Report, made: &Made) {
    report.section("Scores");
    let wanted = made.photos.subjects.len();
    let mut rows = vec![];
    for grid in &made.grids {
        if rows.is_empty() {
            let labels = grid.seen.means.iter().map(|m| m.label.clone());
            let head = ["pictures".to_string(), format!("with {wanted} boxes")];
            rows.push(head.into_iter().chain(labels).collect());
        }
        let right = grid.seen.boxes.iter().filter(|n| **n == wanted).count();
        let mean = |m: &Mean| match m.of {
            Some((mean, [low, high])) => format!("{mean:.3} ({low:.3} to {high:.3})"),
            None => "-".into(),
        };
        let start = [grid.title.clone(), format!("{right} of {}", grid.seen.boxes.len())];
        rows.push(start.into_iter().chain(grid.seen.means.iter().map(mean)).collect());
    }
    report.table(&rows);
    report.text(
        "Means with 95 % intervals. D&C: how much better a detected subject fits its own photos than the other's, by the \
         embedded DINOv2; a number is missing (-) where a picture has none, because nothing was found in it. CLIP score: the \
         picture against the prompt.",
    );
    for grid in &made.grids {
        report.folded(&format!("{}, the worst first", grid.title), |report| {
            report.tiles(|r| grid.seen.figures.iter().for_each(|(svg, text)| r.plot(svg, text)));
        });
    }
}
