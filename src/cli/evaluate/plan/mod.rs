//! `evaluate PLAN.toml`: combinations x prompts x seeds x rows, each piece of work a file.

mod file;
mod judges;
mod page;
mod table;
mod unit;

use self::{
    file::{Plan, Row},
    unit::{Cell, Unit, picture, units},
};
use crate::{
    cli::{
        common::{Compute, DeviceArgs, note},
        generate::Generate,
        score::judged,
        train::{stop_flag, train},
    },
    error::{Error, Result},
    tensor::{atomic::atomic_write, image::write_png},
};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Which part of the work is done here: `I/N`, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    of: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || "expected I/N with I from 1 to N, for example 3/8".to_string();
        let (index, of) = text.split_once('/').ok_or_else(wrong)?;
        let number = |t: &str| t.trim().parse::<usize>().map_err(|_| wrong());
        let (index, of) = (number(index)?, number(of)?);
        if (1..=of).contains(&index) { Ok(Self { index, of }) } else { Err(wrong()) }
    }
}

impl Shard {
    fn has(self, unit: usize) -> bool {
        unit % self.of == self.index - 1
    }
}

/// What is done, and where.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// The plan's file.
    pub plan: PathBuf,
    /// The folder for everything that is made.
    pub out: PathBuf,
    /// This process's part.
    pub shard: Shard,
    /// Where to compute.
    pub place: DeviceArgs,
}

impl Evaluation {
    /// Makes what is missing; with all of it there, the table and the page.
    ///
    /// # Errors
    /// Those of the plan, of training, sampling and scoring; [`Error::Interrupted`] after Ctrl-C.
    pub fn run(&self) -> Result<u8> {
        let plan = Plan::read(&self.plan)?;
        let root = self.plan.parent().map(Path::to_path_buf).unwrap_or_default();
        let units = units(&plan, &self.out, &root)?;
        self.keep(&plan)?;
        let stop = stop_flag();
        let own = units.iter().enumerate().filter(|(i, _)| self.shard.has(*i));
        for (i, unit) in own {
            let rows: Vec<&str> = unit.rows.iter().map(|r| r.name.as_str()).collect();
            note(&format!(
                "{} of {}: {}: {}",
                i + 1,
                units.len(),
                unit.combination,
                rows.join(", ")
            ));
            self.train(unit, &stop)?;
            for (row, cell) in unit.cells() {
                self.sample(&plan, unit, row, &cell)?;
                self.go_on(&stop, &cell)?;
                self.score(&plan, unit, &cell)?;
            }
        }
        let seeds = plan.seeds.all();
        let mut open = 0;
        for cell in units.iter().flat_map(|u| u.cells().map(|(_, cell)| cell)) {
            let there = seeds.iter().all(|s| cell.folder(&self.out).join(picture(*s)).exists());
            let scores = cell.scores(&self.out, &plan.score);
            let judged = plan.score.none() || table::has_all(&scores, &seeds)?;
            open += usize::from(!(there && judged));
        }
        if open > 0 {
            note(&format!("{open} prompts of rows are still to be made by other shards"));
            return Ok(0);
        }
        if plan.score.none() {
            note("the plan has no [score]: the pictures were not judged");
        } else {
            table::write(&plan, &units, &self.out)?;
        }
        page::write(&plan, &units, &self.out)?;
        Ok(0)
    }

    /// The plan as it was last used, to be looked at.
    fn keep(&self, plan: &Plan) -> Result<()> {
        fs::create_dir_all(&self.out).map_err(Error::file("create", &self.out))?;
        let text = plan.text(&self.plan)?;
        atomic_write(self.out.join("plan.toml"), |w| w.write_all(text.as_bytes()))
    }

    /// The folder of a cell holds pictures of this request only: a plan may grow, what is there already may not change.
    fn claim(&self, folder: &Path, request: &Generate) -> Result<()> {
        let g = request;
        let asked = self.relative(json!({
            "base": g.base, "lora": g.lora, "subjects": g.subjects, "prompt": g.prompt,
            "negative": g.negative, "init": g.init, "gamma": g.gamma, "sampler": g.sampler,
            "steps": g.steps, "guidance": g.guidance, "height": g.height, "width": g.width,
        }));
        let (path, text) = (folder.join("request.json"), format!("{asked:#}\n"));
        match fs::read_to_string(&path) {
            Ok(old) if old == text => Ok(()),
            Ok(_) => Err(Error::Config {
                key: "--out".into(),
                found: format!("pictures of another request in {}", folder.display()),
                expected: "rows, prompts and sampling as they were: more of them may be added"
                    .into(),
                fix: "remove that folder, or name another --out".into(),
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
                atomic_write(&path, |w| w.write_all(text.as_bytes()))
            }
            Err(e) => Err(Error::File { path, action: "read", source: e }),
        }
    }

    fn hint(&self) -> String {
        let Shard { index, of } = self.shard;
        let shard = if of > 1 { format!(" --shard {index}/{of}") } else { String::new() };
        format!("selvedge evaluate {} --out {}{shard}", self.plan.display(), self.out.display())
    }

    fn go_on(&self, stop: &AtomicBool, cell: &Cell) -> Result<()> {
        if !stop.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(Error::Interrupted {
            done: cell.folder(&self.out).display().to_string(),
            fix: format!("go on with `{}`", self.hint()),
        })
    }

    fn train(&self, unit: &Unit, stop: &Arc<AtomicBool>) -> Result<()> {
        let Some(config) = &unit.config else { return Ok(()) };
        if ["adapter.safetensors", "model"].iter().any(|f| unit.folder.join(f).exists()) {
            return Ok(()); // written when a run has ended
        }
        let resume = unit.folder.join("config.toml").exists();
        let place = self.place.open()?;
        // generate puts them there too: each photo is segmented once
        let masks = self.out.join("masks");
        train(config, place, (&unit.folder, &masks), resume, &self.hint(), stop.clone())?;
        Ok(())
    }

    /// The pictures of a cell that are not there yet, one by one as `generate --count 1` makes them.
    fn sample(&self, plan: &Plan, unit: &Unit, row: &Row, cell: &Cell) -> Result<()> {
        let folder = cell.folder(&self.out);
        let missing = |seed: &u64| !folder.join(picture(*seed)).exists();
        let seeds: Vec<u64> = plan.seeds.all().into_iter().filter(missing).collect();
        self.claim(&folder, &self.request(plan, unit, row, &cell.prompt, &[])?)?;
        // seeds that follow each other are one request: the base is opened once for all of them
        for run in seeds.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            let generate = self.request(plan, unit, row, &cell.prompt, run)?;
            let made = generate.make()?;
            for (i, shown) in made.pictures.iter().enumerate() {
                let text = self.relative(generate.metadata_alone(&made, i)).to_string();
                let path = folder.join(picture(run[0] + i as u64));
                write_png(&path, shown, &[("selvedge".into(), text)])?;
            }
        }
        Ok(())
    }

    /// The scores of a cell, once.
    fn score(&self, plan: &Plan, unit: &Unit, cell: &Cell) -> Result<()> {
        let path = cell.scores(&self.out, &plan.score);
        if plan.score.none() || table::has_all(&path, &plan.seeds.all())? {
            return Ok(());
        }
        let by = plan.score.flags(unit.subjects_file()?, &cell.combination, &cell.prompt)?;
        let scores = judged(&cell.folder(&self.out), by, self.place.clone())?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        }
        atomic_write(&path, |w| w.write_all(format!("{scores:#}\n").as_bytes()))
    }

    /// Paths inside the folder without it: the same bytes wherever it lies.
    fn relative(&self, mut metadata: Value) -> Value {
        let short = |v: &mut Value| {
            let path = v.as_str().and_then(|p| Path::new(p).strip_prefix(&self.out).ok());
            if let Some(path) = path.map(|p| p.display().to_string()) {
                *v = path.into();
            }
        };
        ["base", "subjects"].iter().for_each(|key| short(&mut metadata[*key]));
        metadata["lora"].as_array_mut().into_iter().flatten().for_each(short);
        metadata
    }

    fn request(
        &self,
        plan: &Plan,
        unit: &Unit,
        row: &Row,
        prompt: &str,
        seeds: &[u64],
    ) -> Result<Generate> {
        let (base, lora) = unit.model(&plan.base);
        let s = &plan.generate;
        Ok(Generate {
            base,
            lora,
            prompt: prompt.into(),
            negative: row.negative.clone(),
            no_negative: false,
            subjects: Some(unit.subjects_file()?),
            init: row.init(unit.config.as_ref()).into(),
            gamma: row.gamma.unwrap_or(1.0),
            mask_resize: "bilinear".into(),
            sampler: s.sampler.clone().unwrap_or("euler".into()),
            spacing: None,
            prediction: None,
            steps: s.steps,
            guidance: s.guidance,
            count: seeds.len(),
            batch: 1,
            height: s.height,
            width: s.width,
            latents: None,
            vae_dtype: None,
            save_latents: None,
            out: self.out.clone(),
            compute: Compute {
                place: self.place.clone(),
                seed: seeds.first().copied().unwrap_or_default(),
            },
        })
    }
}
