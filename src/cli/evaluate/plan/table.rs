//! The means of every row, from the scores of its cells.

use super::file::Plan;
use crate::{
    cli::{
        common::out as print,
        evaluate::unit::{Unit, picture},
    },
    error::{Error, Result},
    metrics::interval::mean_and_interval,
    tensor::atomic::atomic_write,
};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

/// What a table shows of every embedder.
const BY_EMBEDDER: [&str; 5] = ["dc", "dc_max", "dc_spectral", "dc_frobenius", "whole"];
/// And of the texts.
const BY_TEXT: [&str; 2] = ["clip_score", "imagereward"];

/// By metric the numbers of all pictures.
type Numbers = BTreeMap<String, Vec<f64>>;

/// Writes `table.json` and `table.md`, and prints the latter: mean and 95 % interval of every metric for every row.
///
/// # Errors
/// Those of the files; [`Error::Format`] for scores that are no object of `score --json`.
pub fn write(plan: &Plan, units: &[Unit], out: &Path) -> Result<()> {
    let mut rows = vec![];
    for row in &plan.rows {
        let mut numbers = Numbers::new();
        let cells = units.iter().flat_map(|u| u.cells().map(|(_, cell)| cell));
        for cell in cells.filter(|c| c.row == row.name) {
            collect(&cell.scores(out, &plan.score.name()), &plan.seeds.all(), &mut numbers)?;
        }
        rows.push((row.name.clone(), numbers));
    }
    let save =
        |name: &str, text: &str| atomic_write(out.join(name), |w| w.write_all(text.as_bytes()));
    save("table.json", &format!("{:#}\n", as_json(&rows)))?;
    let text = as_text(&rows);
    save("table.md", &text)?;
    print(&text);
    Ok(())
}

/// Whether `path` holds the scores of the pictures of all `seeds`.
///
/// # Errors
/// [`Error::File`]; [`Error::Format`] for what is no object of `score --json`.
pub fn has_all(path: &Path, seeds: &[u64]) -> Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    let all = read(path)?;
    let images = all["images"].as_array().map_or(&[][..], Vec::as_slice);
    let named = |seed: &u64| images.iter().any(|i| i["name"] == picture(*seed));
    Ok(seeds.iter().all(named))
}

fn wrong(path: &Path, found: String) -> Error {
    Error::Format {
        path: path.into(),
        found,
        expected: "an object that `score --json` prints".into(),
        fix: "remove the file: the next run writes it again".into(),
    }
}

fn read(path: &Path) -> Result<Value> {
    let text = fs::read(path).map_err(Error::file("read", path))?;
    serde_json::from_slice(&text).map_err(|e| wrong(path, e.to_string()))
}

/// The numbers of the pictures of `seeds`.
fn collect(path: &Path, seeds: &[u64], to: &mut Numbers) -> Result<()> {
    let all = read(path)?;
    let names: Vec<String> = seeds.iter().map(|s| picture(*s)).collect();
    let mut take = |images: &Value, keys: &[&str], prefix: &str| {
        let Some(images) = images.as_array() else {
            return Err(wrong(path, format!("no {prefix}images")));
        };
        let wanted = |i: &&Value| names.iter().any(|n| i["name"] == **n);
        for (image, key) in
            images.iter().filter(wanted).flat_map(|i| keys.iter().map(move |k| (i, k)))
        {
            if let Some(v) = image[*key].as_f64() {
                to.entry(format!("{prefix}{key}")).or_default().push(v);
            }
        }
        Ok(())
    };
    for (name, embedder) in all["embedders"].as_object().into_iter().flatten() {
        take(&embedder["images"], &BY_EMBEDDER, &format!("{name} "))?;
    }
    take(&all["text"]["images"], &BY_TEXT, "")
}

fn as_json(rows: &[(String, Numbers)]) -> Value {
    let row = |(name, numbers): &(String, Numbers)| {
        let metrics: Map<String, Value> = numbers
            .iter()
            .filter_map(|(metric, values)| {
                let (mean, interval) = mean_and_interval(values)?;
                let all = json!({"mean": mean, "interval": interval, "pictures": values.len()});
                Some((metric.clone(), all))
            })
            .collect();
        json!({"row": name, "metrics": metrics})
    };
    Value::Array(rows.iter().map(row).collect())
}

fn as_text(rows: &[(String, Numbers)]) -> String {
    let mut metrics: Vec<&String> = rows.iter().flat_map(|(_, n)| n.keys()).collect();
    metrics.sort();
    metrics.dedup();
    let mut text =
        String::from("Mean over all pictures, with the 95 % interval of the mean (bootstrap).\n\n");
    let heads = metrics.iter().map(|m| format!(" {m} |")).collect::<String>();
    let _ = writeln!(text, "| row |{heads}\n|---|{}", "---|".repeat(metrics.len()));
    for (name, numbers) in rows {
        let cell = |metric: &&String| {
            let found = numbers.get(*metric).and_then(|v| mean_and_interval(v));
            let shown = |(mean, [low, high]): (f64, [f64; 2])| {
                format!(" {mean:.4} ({low:.4} to {high:.4}) |")
            };
            found.map_or(" - |".into(), shown)
        };
        let _ = writeln!(text, "| {name} |{}", metrics.iter().map(cell).collect::<String>());
    }
    text
}
