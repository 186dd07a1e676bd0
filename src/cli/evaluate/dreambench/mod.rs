//! `evaluate dreambench`: the benchmark of DreamBooth (methods.md §2.3): one subject at a time, its prompts, its numbers.

mod data;
mod judges;
mod list;
mod manifest;
mod table;

use self::{data::Data, judges::Judges, table::Table};
use super::{
    make::{Maker, Sampling, Shard},
    side_by_side,
    unit::{Row, Shown, Unit, units},
};
use crate::{
    cli::common::{DeviceArgs, at_least, note, positive},
    data::config::Method,
    error::{Error, Result},
    lora::{Adapters, Loras},
    models::base::Base,
    sample::{Pipeline, Sampler},
    train::Blueprint,
};
use clap::Args as ClapArgs;
use serde::{
    Deserialize,
    de::{
        IntoDeserializer as _,
        value::{Error as WordError, StrDeserializer},
    },
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The name that shows the base as it is, nothing trained.
const BASE: &str = "base";

/// Flags of `evaluate dreambench`.
#[derive(Clone, Debug, ClapArgs)]
pub struct DreamBenchArgs {
    /// The dataset: a folder of photos for every subject, in DIR/dataset or in DIR; its prompts_and_classes.txt gives
    /// classes and prompts where it is there, else the list built in does.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// A diffusers folder, a single-file checkpoint, or nano.
    #[arg(long, value_name = "BASE")]
    pub base: String,
    /// The folder for everything that is made.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Do only part I of N of the work: a training of a subject by a method is one piece.
    #[arg(long, default_value = "1/1", value_name = "I/N")]
    pub shard: Shard,
    /// A method.name of a training configuration that learns from one subject, or base: nothing trained (repeatable).
    #[arg(long = "method", default_value = "dreambooth", value_name = "NAME")]
    pub methods: Vec<String>,
    /// Override a key of every method's training configuration (repeatable).
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Only this subject (repeatable).
    #[arg(long = "subject", value_name = "NAME")]
    pub subjects: Vec<String>,
    /// Pictures of every prompt.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = positive)]
    pub pictures: usize,
    /// The identifier of every subject; sks, one rare token of CLIP's, is what public implementations of DreamBooth take.
    #[arg(long, default_value = "sks", value_name = "WORD")]
    pub token: String,
    /// A DINO of the first version, ViT-S/16 as published: DINO and diversity.
    #[arg(long, value_name = "DIR")]
    pub dino: Option<PathBuf>,
    /// A CLIP, ViT-B/32 as published: CLIP-I and CLIP-T.
    #[arg(long, value_name = "DIR")]
    pub clip: Option<PathBuf>,
    /// Seed of the first picture of every prompt (the next one has the next) and of the trainings; 0 and the
    /// configuration's when left out.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// euler, ddim or dpm++.
    #[arg(long, value_name = "NAME")]
    pub sampler: Option<String>,
    /// What the base predicts, in training and sampling: epsilon or v; what the checkpoint says by default.
    #[arg(long, value_name = "NAME")]
    pub prediction: Option<String>,
    /// Steps of the sampler; 50 by default.
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Classifier-free guidance; the base's own by default.
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
    pub guidance: Option<f32>,
    /// Picture height in pixels; the base's own size by default.
    #[arg(long, value_name = "PX")]
    pub height: Option<usize>,
    /// Picture width in pixels; the base's own size by default.
    #[arg(long, value_name = "PX")]
    pub width: Option<usize>,
    /// Where and in which element type.
    #[command(flatten)]
    pub place: DeviceArgs,
}

/// Makes what is missing; with all of it there, the table and the pages.
///
/// # Errors
/// Those of the folder, the flags, of training, sampling and scoring; [`Error::Interrupted`] after Ctrl-C.
pub fn run(args: &DreamBenchArgs) -> Result<u8> {
    let rows = args.rows()?;
    let seeds = args.seeds()?;
    let data = Data::open(&args.data, &args.subjects, &args.token)?;
    let judges =
        Judges { dino: args.dino.clone(), clip: args.clip.clone(), place: args.place.clone() };
    judges.check()?;
    let all = args.units(&data, &rows)?;
    args.check(&all)?;
    tell(&data);
    for (metric, why) in judges.missing(args.pictures)? {
        note(&format!("{metric} is not measured: {why}"));
    }
    let how = (args.base.clone(), args.sampling(), seeds);
    let maker = Maker::new(how, args.out.clone(), args.shard, args.place.clone());
    maker.write("dreambench.json", &format!("{:#}\n", args.described(&data)))?;
    let of = |unit: &Unit| data.subjects.iter().find(|s| s.config.id == unit.shown.name);
    maker.work(&all, &mut |unit| of(unit).map_or(Ok(()), |s| judges.unit(&maker, s, unit)))?;
    if !maker.all_there(&all, &|cell| judges.has(&maker, cell))? {
        return Ok(0);
    }
    let names = (&data, &args.methods[..], args.token.as_str());
    Table::read(names, (&maker, &judges), &all)?.write(&maker)?;
    let pages = args.out.join("side_by_side");
    for subject in &data.subjects {
        let name = &subject.config.id;
        let own: Vec<Unit> = all.iter().filter(|u| u.shown.name == *name).cloned().collect();
        side_by_side::write(&maker, &rows, &own, &pages.join(format!("{name}.html")))?;
    }
    note(&pages.display().to_string());
    Ok(0)
}

/// Which list is used, and who of it is not there.
fn tell(data: &Data) {
    note(&format!("subjects: {}; classes and prompts from {}", data.subjects.len(), data.source));
    if !data.missing.is_empty() {
        note(&format!("no folder for {}", data.missing.join(", ")));
    }
}

fn refuse(key: &str, found: String, expected: String, fix: &str) -> Error {
    Error::Config { key: key.into(), found, expected, fix: fix.into() }
}

impl DreamBenchArgs {
    /// A row for every method.
    fn rows(&self) -> Result<Vec<Row>> {
        for word in &self.set {
            let key = word.split(['=', '.']).next().unwrap_or_default().trim();
            if ["base", "subject", "prediction"].contains(&key)
                || word.trim().starts_with("method.name")
            {
                let expected = "other keys of a training configuration".to_string();
                let fix = "--base, --prediction, --method and the dataset say this";
                return Err(refuse("--set", word.clone(), expected, fix));
            }
        }
        if self.token.trim() != self.token
            || self.token.is_empty()
            || self.token.contains(['{', '}'])
        {
            let found = format!("{:?}", self.token);
            let fix = "leave it out for sks";
            return Err(refuse("--token", found, "a word without blanks around it".into(), fix));
        }
        let row = |(i, name): (usize, &String)| {
            if self.methods[..i].contains(name) {
                let found = format!("{name} twice");
                return Err(refuse("--method", found, "each once".into(), "leave one out"));
            }
            let train = name != BASE;
            if train {
                let word: StrDeserializer<'_, WordError> = name.as_str().into_deserializer();
                Method::deserialize(word).map_err(|e| {
                    let expected = format!("a method.name of a training configuration, or {BASE}");
                    refuse("--method", e.to_string(), expected, "for example dreambooth")
                })?;
            }
            let flags = [
                self.seed.map(|n| format!("train.seed={n}")),
                self.prediction.as_ref().map(|word| format!("prediction={word}")),
                Some(format!("method.name={name}")),
            ];
            let set = self.set.iter().cloned().chain(flags.into_iter().flatten());
            let set = set.filter(|_| train).collect();
            let (preset, init, gamma, negative) = (None, None, None, None);
            Ok(Row { name: name.clone(), preset, set, train, init, gamma, apart: false, negative })
        };
        self.methods.iter().enumerate().map(row).collect()
    }

    /// The seeds of the pictures of every prompt.
    fn seeds(&self) -> Result<Vec<u64>> {
        let first = self.seed.unwrap_or(0);
        let end = first.checked_add(self.pictures as u64).ok_or_else(|| {
            let found = format!("{first} and {} pictures", self.pictures);
            refuse("--seed", found, "seeds of 64 bits".into(), "take a smaller one")
        })?;
        Ok((first..end).collect())
    }

    fn sampling(&self) -> Sampling {
        Sampling {
            sampler: self.sampler.clone(),
            prediction: self.prediction.clone(),
            steps: self.steps,
            guidance: self.guidance,
            height: self.height,
            width: self.width,
        }
    }

    /// A unit for every subject and method.
    fn units(&self, data: &Data, rows: &[Row]) -> Result<Vec<Unit>> {
        let training = toml::Table::new();
        let mut all = vec![];
        for subject in &data.subjects {
            let shown = Shown {
                name: subject.config.id.clone(),
                subjects: vec![subject.config.clone()],
                prompts: subject.prompts.iter().map(|p| p.text.clone()).collect(),
            };
            all.extend(units(&shown, rows, &self.out, &|row| {
                let config = row.config((&self.base, &training), &shown.subjects, Path::new(""));
                config.map_err(|e| one_subject(e, &row.name))
            })?);
        }
        Ok(all)
    }

    /// What training and sampling would refuse later is refused now.
    fn check(&self, units: &[Unit]) -> Result<()> {
        at_least("--steps", self.steps.unwrap_or(1) as f64, 1.0)?;
        at_least("--guidance", self.guidance.unwrap_or(1.0).into(), 0.0)?;
        self.sampler.as_deref().map(str::parse::<Sampler>).transpose()?;
        let (device, dtype) = self.place.open()?;
        let prediction = self.prediction.as_deref().map(str::parse).transpose()?;
        let base = Base::open(&self.base)?.stored_as(device.types(dtype)).predicting(prediction);
        let side = |asked: Option<usize>| asked.unwrap_or(base.side());
        let (adapters, loras) = (Adapters::new(), Loras::new(vec![]));
        let pipeline = Pipeline::new(&base, device, &adapters, &loras);
        pipeline.latent(side(self.height), side(self.width))?;
        // the units of one subject differ as those of any other
        let first = units.first().map(|u| &u.shown.name);
        for unit in units.iter().filter(|u| Some(&u.shown.name) == first) {
            if let Some(config) = &unit.config {
                Blueprint::new(config, base.architecture())?;
            }
        }
        Ok(())
    }

    /// What is evaluated, to be looked at.
    fn described(&self, data: &Data) -> Value {
        let subject = |s: &data::Subject| {
            let prompts: Vec<Value> =
                s.prompts.iter().map(|p| json!({"prompt": p.text, "text": p.plain})).collect();
            json!({
                "name": s.config.id, "class": s.config.class, "live": s.is_live(),
                "photos": s.photos, "prompts": prompts,
            })
        };
        json!({
            "prompts_from": data.source, "token": self.token, "methods": self.methods,
            "pictures_per_prompt": self.pictures, "set": self.set, "seed": self.seed,
            "missing_subjects": data.missing, "subjects_left_out": data.left_out,
            "subjects": data.subjects.iter().map(subject).collect::<Vec<_>>(),
        })
    }
}

/// A configuration's refusal of a single subject, in terms of the flags.
fn one_subject(error: Error, method: &str) -> Error {
    match error {
        Error::Data { found, expected, .. } => Error::Data {
            at: format!("--method {method}"),
            found,
            expected,
            fix: "DreamBench has one subject at a time: take a method that learns from one, for example dreambooth"
                .into(),
        },
        other => other,
    }
}
