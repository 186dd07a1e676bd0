//! `evaluate correlate`: answers of people against metrics.

use super::Named;
use crate::{
    cli::common::{note, out},
    error::{Error, Result},
    metrics::{
        correlation::{auroc, spearman},
        study::{Answers, Item, Key, Tally},
    },
};
use clap::Args;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// Flags of `evaluate correlate`.
#[derive(Clone, Debug, Args)]
pub struct CorrelateArgs {
    /// Files that the study page saved, one a person.
    #[arg(required = true, value_name = "ANSWERS")]
    pub answers: Vec<PathBuf>,
    /// The key that `evaluate study` wrote.
    #[arg(long, value_name = "KEY.json")]
    pub key: PathBuf,
    /// Scores of a method's pictures, from `selvedge score --json` (repeatable).
    #[arg(long, value_name = "METHOD=FILE")]
    pub scores: Vec<Named>,
    /// Print one JSON object instead of the tables.
    #[arg(long)]
    pub json: bool,
}

/// How one metric agrees with the votes.
struct Agreement {
    metric: String,
    pictures: usize,
    spearman: Option<f64>,
    auroc: Option<f64>,
    /// Pictures with as many votes for as against, which AUROC leaves out.
    undecided: usize,
}

/// Runs the command.
///
/// # Errors
/// Those of reading; [`Error::Data`] for answers of another study and scores of pictures nobody asked about.
pub fn run(args: &CorrelateArgs) -> Result<u8> {
    let key: Key = read(&args.key, "a key that `selvedge evaluate study` wrote")?;
    let people: Result<Vec<Answers>> = args.answers.iter().map(|p| answers(p, &key)).collect();
    let (people, tally) = people.map(|p| (p.len(), Tally::of(&key, &p)))?;
    let scores = scores(&args.scores, &tally)?;
    let agreements = agreements(&tally, &scores);
    out(&if args.json {
        as_json(people, &tally, &agreements)
    } else {
        as_text(&tally, &agreements)
    });
    Ok(0)
}

fn read<T: DeserializeOwned>(path: &Path, expected: &str) -> Result<T> {
    let text = fs::read(path).map_err(Error::file("read", path))?;
    serde_json::from_slice(&text).map_err(|e| Error::Format {
        path: path.into(),
        found: format!("{e}"),
        expected: expected.into(),
        fix: "check the path, or save the file again".into(),
    })
}

fn answers(path: &Path, key: &Key) -> Result<Answers> {
    let own: Answers = read(path, "answers that the study page saved")?;
    let wrong = |found: String, expected: String| Error::Data {
        at: path.display().to_string(),
        found,
        expected,
        fix: "give the key of the page that these answers were given on".into(),
    };
    if own.study != key.study {
        return Err(wrong(format!("study {:?}", own.study), format!("{:?}", key.study)));
    }
    let choices = key.choices();
    for (name, choice) in &own.answers {
        let Some(allowed) = choices.get(name) else {
            return Err(wrong(format!("question {name:?}"), "a question of the study".into()));
        };
        if !allowed.contains(&choice.as_str()) {
            return Err(wrong(format!("{name}: {choice:?}"), allowed.join(", ")));
        }
    }
    let open = choices.len() - own.answers.len();
    if open > 0 {
        note(&format!(
            "{}: {open} of {} questions were not answered",
            path.display(),
            choices.len()
        ));
    }
    Ok(own)
}

type Scores = BTreeMap<String, BTreeMap<Item, f64>>;

/// By metric and picture.
fn scores(files: &[Named], tally: &Tally) -> Result<Scores> {
    let mut all = Scores::new();
    for Named { method, path } in files {
        let wrong = |found: String, expected: String, fix: &str| Error::Data {
            at: path.display().to_string(),
            found,
            expected,
            fix: fix.into(),
        };
        if !tally.methods().contains(method.as_str()) {
            let methods: Vec<&str> = tally.methods().into_iter().collect();
            let found = format!("method {method:?}");
            return Err(wrong(found, methods.join(", "), "name a method of the study"));
        }
        let file: Value = read(path, "one object of `selvedge score --json`")?;
        let Some(images) = file["images"].as_array() else {
            let found = "no list \"images\"".to_string();
            let expected = "one object of `selvedge score --json`".to_string();
            return Err(wrong(found, expected, "score the pictures with --json"));
        };
        let mut scored = 0;
        for image in images {
            let (Some(name), Some(values)) = (image["name"].as_str(), image.as_object()) else {
                let found = "an image without a name".to_string();
                return Err(wrong(found, "\"name\"".into(), "score the pictures with --json"));
            };
            let item = Item { method: method.clone(), picture: name.into() };
            if !tally.fidelity.contains_key(&item) {
                continue;
            }
            scored += 1;
            for (metric, value) in values.iter().filter(|(m, _)| *m != "boxes") {
                if let Some(value) = value.as_f64() {
                    all.entry(metric.clone()).or_default().insert(item.clone(), value);
                }
            }
        }
        let asked = tally.fidelity.keys().filter(|i| i.method == *method).count();
        if scored < asked {
            let found =
                format!("{scored} of the {asked} pictures of {method} that were asked about");
            return Err(wrong(found, "all of them".into(), "score the pictures of the study"));
        }
    }
    Ok(all)
}

fn agreements(tally: &Tally, scores: &Scores) -> Vec<Agreement> {
    let one = |(metric, scores): (&String, &BTreeMap<Item, f64>)| {
        let voted: Vec<(f64, f64)> = scores
            .iter()
            .filter_map(|(item, score)| match tally.fidelity.get(item) {
                Some([yes, all]) if *all > 0 => Some((*score, *yes as f64 / *all as f64)),
                _ => None,
            })
            .collect();
        let (x, y): (Vec<f64>, Vec<f64>) = voted.iter().copied().unzip();
        let decided: Vec<_> = voted.iter().filter(|(_, vote)| *vote != 0.5).collect();
        let kind: Vec<bool> = decided.iter().map(|(_, vote)| *vote > 0.5).collect();
        let values: Vec<f64> = decided.iter().map(|(score, _)| *score).collect();
        Agreement {
            metric: metric.clone(),
            pictures: voted.len(),
            spearman: spearman(&x, &y),
            auroc: auroc(&values, &kind),
            undecided: voted.len() - decided.len(),
        }
    };
    scores.iter().map(one).collect()
}

/// `yes` and all answers of a method.
fn of_method(tally: &Tally, method: &str) -> [usize; 2] {
    let own = tally.fidelity.iter().filter(|(i, _)| i.method == method);
    own.fold([0, 0], |[y, n], (_, [yes, all])| [y + yes, n + all])
}

fn as_json(people: usize, tally: &Tally, agreements: &[Agreement]) -> String {
    let method = |m: &str| {
        let [yes, answers] = of_method(tally, m);
        (m.to_string(), json!({"yes": yes, "answers": answers}))
    };
    let fidelity: serde_json::Map<String, Value> =
        tally.methods().into_iter().map(method).collect();
    let preferences: Vec<Value> = tally
        .preferences
        .iter()
        .map(|((a, b, criterion), p)| {
            json!({"methods": [a, b], "criterion": criterion,
                "first": p.first, "second": p.second, "neither": p.neither})
        })
        .collect();
    let metrics: serde_json::Map<String, Value> = agreements
        .iter()
        .map(|a| {
            let value = json!({"spearman": a.spearman, "auroc": a.auroc,
                "pictures": a.pictures, "undecided": a.undecided});
            (a.metric.clone(), value)
        })
        .collect();
    let all = json!({"people": people, "fidelity": fidelity,
        "preferences": preferences, "metrics": metrics});
    format!("{all}\n")
}

fn as_text(tally: &Tally, agreements: &[Agreement]) -> String {
    let mut text = String::from("all subjects there, each itself\n");
    for method in tally.methods() {
        let [yes, all] = of_method(tally, method);
        let _ = writeln!(text, "  {method:20} {yes} of {all} answers");
    }
    if !tally.preferences.is_empty() {
        text += "preferred\n";
    }
    for ((a, b, criterion), p) in &tally.preferences {
        let (first, second, neither) = (p.first, p.second, p.neither);
        let _ = writeln!(text, "  {criterion:9} {a} {first}, {b} {second}, neither {neither}");
    }
    if !agreements.is_empty() {
        text += "metric                 pictures  Spearman     AUROC  undecided\n";
    }
    for a in agreements {
        let show = |v: Option<f64>| v.map_or("-".to_string(), |v| format!("{v:.3}"));
        let (spearman, auroc) = (show(a.spearman), show(a.auroc));
        let (metric, pictures, undecided) = (&a.metric, a.pictures, a.undecided);
        let _ =
            writeln!(text, "{metric:20} {pictures:>10} {spearman:>9} {auroc:>9} {undecided:>10}");
    }
    text
}
