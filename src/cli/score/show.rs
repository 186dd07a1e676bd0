//! Scores as JSON and as tables.

use super::results::{Column, Found, Judged, Results};
use crate::metrics::{detect_compare::Scores, judge::Likeness};
use serde_json::{Map, Value, json};

/// The four scores of a picture.
pub(super) fn values(s: &Scores) -> Value {
    json!({
        "dc": s.dc, "dc_max": s.dc_max,
        "dc_spectral": s.dc_spectral, "dc_frobenius": s.dc_frobenius,
    })
}

/// Boxes, similarities and scores of one picture by one embedder; `null`s where nobody looked for boxes.
fn judged(likeness: Option<&Likeness>, boxes: Option<usize>) -> Map<String, Value> {
    let scores = likeness.and_then(|l| l.boxes.as_ref());
    let mut all = Map::new();
    all.insert("boxes".into(), json!(boxes));
    all.insert("similarity".into(), json!(scores.map(|(similarity, _)| similarity)));
    let none = json!({"dc": null, "dc_max": null, "dc_spectral": null, "dc_frobenius": null});
    if let Value::Object(own) = scores.map_or(none, |(_, s)| values(s)) {
        all.extend(own);
    }
    all
}

/// The mean of every column, and its interval.
fn means(columns: &[Column]) -> (Value, Value) {
    let all = |part: &dyn Fn((f64, [f64; 2])) -> Value| {
        let one = |c: &Column| (c.key.clone(), c.mean().map_or(Value::Null, part));
        Value::Object(columns.iter().map(one).collect())
    };
    (all(&|(mean, _)| json!(mean)), all(&|(_, interval)| json!(interval)))
}

fn found(f: &Found) -> Value {
    json!({"box": f.area, "score": f.score, "query": f.query})
}

/// Everything about picture `i`.
pub(super) fn image(results: &Results, i: usize) -> Map<String, Value> {
    let shot = &results.shots[i];
    let first = results.embedders.first().map(|e| &e.images[i]);
    let mut all = Map::from_iter([("name".to_string(), json!(shot.name))]);
    all.extend(judged(first, shot.boxes.as_ref().map(Vec::len)));
    for column in results.columns() {
        all.entry(column.key).or_insert_with(|| json!(column.values[i]));
    }
    let boxes = shot.boxes.as_ref().map(|b| b.iter().map(found).collect::<Vec<_>>());
    all.insert("detections".into(), json!(boxes));
    all.insert("prompt".into(), json!(shot.prompt));
    all
}

/// Picture `i` by one embedder.
fn by_embedder(results: &Results, judge: &Judged, i: usize) -> Map<String, Value> {
    let (shot, likeness) = (&results.shots[i], &judge.images[i]);
    let mut all = judged(Some(likeness), shot.boxes.as_ref().map(Vec::len));
    let subjects = results.subjects.iter().cloned().zip(likeness.subjects.iter().map(|s| json!(s)));
    all.insert("whole".into(), json!(likeness.all));
    all.insert("whole_subjects".into(), Value::Object(subjects.collect()));
    all
}

/// A line of `scores.jsonl`.
pub(super) fn line(results: &Results, i: usize) -> Value {
    let mut all = image(results, i);
    let own = |j: &Judged| (j.kind.word().into(), Value::Object(by_embedder(results, j, i)));
    all.insert("embedders".into(), Value::Object(results.embedders.iter().map(own).collect()));
    all.insert("texts".into(), json!(results.shots[i].texts));
    Value::Object(all)
}

/// The one object of `--json`.
pub(super) fn as_json(results: &Results) -> Value {
    let count = 0..results.shots.len();
    let embedder = |judge: &Judged| {
        let image = |i: usize| {
            let mut all = Map::from_iter([("name".to_string(), json!(results.shots[i].name))]);
            all.extend(by_embedder(results, judge, i));
            Value::Object(all)
        };
        let images: Vec<Value> = count.clone().map(image).collect();
        let mut columns = judge.columns();
        columns.push(Column { key: "whole".into(), ..judge.whole() });
        let (mean, interval) = means(&columns);
        let truth = &judge.ground_truth;
        let all =
            json!({"ground_truth": truth, "images": images, "mean": mean, "interval": interval});
        (judge.kind.word().to_string(), all)
    };
    let text = |i: usize| {
        let of = |values: &Option<Vec<f64>>| values.as_ref().map(|v| v[i]);
        let shot = &results.shots[i];
        json!({
            "name": shot.name, "prompt": shot.prompt, "texts": shot.texts,
            "clip_score": of(&results.clip_score), "imagereward": of(&results.reward),
        })
    };
    let columns = results.columns();
    let is_text = |c: &&Column| c.key == "clip_score" || c.key == "imagereward";
    let texts: Vec<Column> = columns.iter().filter(is_text).cloned().collect();
    let (text_mean, text_interval) = means(&texts);
    let (mean, interval) = means(&columns);
    let missing = results.missing.iter().map(|(what, why)| ((*what).to_string(), json!(why)));
    let images: Vec<Value> = count.clone().map(|i| Value::Object(image(results, i))).collect();
    let texts: Vec<Value> = count.clone().map(text).collect();
    json!({
        "ground_truth": results.embedders.first().map(|e| &e.ground_truth),
        "images": images,
        "mean": mean,
        "interval": interval,
        "subjects": results.subjects,
        "embedder": results.embedders.first().map(|e| e.kind.word()),
        "embedders": Value::Object(results.embedders.iter().map(embedder).collect()),
        "text": {"images": texts, "mean": text_mean, "interval": text_interval},
        "missing": Value::Object(missing.collect()),
    })
}

/// Rows of a table: a head, a row a picture, mean and interval.
pub(super) fn rows(results: &Results, columns: &[Column]) -> Vec<Vec<String>> {
    let number = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.4}"));
    let head = ["image", "boxes"].map(String::from).into_iter();
    let mut all = vec![head.chain(columns.iter().map(|c| c.label.clone())).collect()];
    for (i, shot) in results.shots.iter().enumerate() {
        let boxes = shot.boxes.as_ref().map_or("-".into(), |b| b.len().to_string());
        let values = columns.iter().map(|c| number(c.values[i]));
        all.push([shot.name.clone(), boxes].into_iter().chain(values).collect());
    }
    let means: Vec<_> = columns.iter().map(Column::mean).collect();
    let row = |name: &str, part: &dyn Fn((f64, [f64; 2])) -> f64| {
        let values = means.iter().map(|m| number(m.map(part)));
        [name.to_string(), String::new()].into_iter().chain(values).collect()
    };
    all.push(row("mean", &|(mean, _)| mean));
    all.push(row("95 % from", &|(_, [low, _])| low));
    all.push(row("95 % to", &|(_, [_, high])| high));
    all
}

/// What the numbers are, a line each.
pub(super) fn legend(results: &Results) -> Vec<String> {
    let mut all = vec![];
    if let Some(first) = results.embedders.first() {
        let word = first.kind.word();
        all.push(format!("D&C, spectral, Frobenius: Detect-and-Compare by {word}"));
        let words: Vec<&str> = results.embedders.iter().map(|e| e.kind.word()).collect();
        let words = words.join(", ");
        all.push(format!("{words}: mean similarity of the whole picture to all photos"));
    }
    if results.clip_score.is_some() {
        all.push("CLIP score: a cosine, not times 100, mean over the subjects' orders".into());
    }
    if results.reward.is_some() {
        all.push("ImageReward: mean over the subjects' orders".into());
    }
    all.extend(results.missing.iter().map(|(what, why)| format!("not measured: {what} ({why})")));
    all
}

/// The tables of a terminal.
pub(super) fn as_table(results: &Results) -> String {
    let mut text = aligned(&rows(results, &results.columns()));
    for judge in results.embedders.iter().skip(1) {
        text += &format!("\nDetect-and-Compare by {}\n", judge.kind.word());
        text += &aligned(&rows(results, &judge.columns()));
    }
    text + "\n" + &legend(results).iter().map(|l| format!("{l}\n")).collect::<String>()
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let cell = |(c, text): (usize, &String)| match c {
        0 => format!("{text:<w$}", w = widths[c]),
        _ => format!("  {text:>w$}", w = widths[c]),
    };
    let line = |row: &Vec<String>| row.iter().enumerate().map(cell).collect::<String>() + "\n";
    rows.iter().map(line).collect()
}
