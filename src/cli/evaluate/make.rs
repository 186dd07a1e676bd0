//! Training and sampling of units, piece by piece: what is there already stays as it is.

use super::unit::{Cell, Row, Unit, picture};
use crate::{
    cli::{
        common::{Compute, DeviceArgs, note},
        generate::Generate,
        steer::SteerArgs,
        train::{stop_flag, train},
    },
    error::{Error, Result},
    tensor::{atomic::atomic_write, image::write_png},
};
use serde::{Deserialize, Serialize};
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

/// As the flags of `selvedge generate`, whose defaults hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// `--sampler`.
    pub sampler: Option<String>,
    /// `--prediction`.
    pub prediction: Option<String>,
    /// `--steps`.
    pub steps: Option<usize>,
    /// `--guidance`.
    pub guidance: Option<f32>,
    /// `--height`.
    pub height: Option<usize>,
    /// `--width`.
    pub width: Option<usize>,
}

/// With what units are made, and where.
#[derive(Clone, Debug)]
pub struct Maker {
    /// A diffusers folder, a single-file checkpoint, or nano.
    pub base: String,
    /// How pictures are sampled.
    pub sampling: Sampling,
    /// The seeds of the pictures of every cell.
    pub seeds: Vec<u64>,
    /// The folder for everything that is made.
    pub out: PathBuf,
    /// This process's part.
    pub shard: Shard,
    /// Where to compute.
    pub place: DeviceArgs,
    /// Set by Ctrl-C.
    stop: Arc<AtomicBool>,
}

impl Maker {
    /// One that Ctrl-C stops between two pieces.
    pub fn new(
        (base, sampling, seeds): (String, Sampling, Vec<u64>),
        out: PathBuf,
        shard: Shard,
        place: DeviceArgs,
    ) -> Self {
        Self { base, sampling, seeds, out, shard, place, stop: stop_flag() }
    }

    /// Trains and samples the units of this shard; `judge` looks at the pictures of each.
    ///
    /// # Errors
    /// Those of training, sampling and `judge`; [`Error::Interrupted`] after Ctrl-C.
    pub fn work(&self, units: &[Unit], judge: &mut dyn FnMut(&Unit) -> Result<()>) -> Result<()> {
        let own = units.iter().enumerate().filter(|(i, _)| self.shard.has(*i));
        for (i, unit) in own {
            let rows: Vec<&str> = unit.rows.iter().map(|r| r.name.as_str()).collect();
            let (what, rows) = (&unit.shown.name, rows.join(", "));
            note(&format!("{} of {}: {what}: {rows}", i + 1, units.len()));
            self.train(unit)?;
            for (row, cell) in unit.cells() {
                self.sample(unit, row, &cell)?;
                self.go_on(&cell)?;
            }
            judge(unit)?;
        }
        Ok(())
    }

    /// Whether every cell has its pictures and is `judged`; tells how many have not.
    ///
    /// # Errors
    /// Those of `judged`.
    pub fn all_there(
        &self,
        units: &[Unit],
        judged: &dyn Fn(&Cell) -> Result<bool>,
    ) -> Result<bool> {
        let mut open = 0;
        for cell in units.iter().flat_map(|u| u.cells().map(|(_, cell)| cell)) {
            let folder = cell.folder(&self.out);
            let there = self.seeds.iter().all(|s| folder.join(picture(*s)).exists());
            open += usize::from(!(there && judged(&cell)?));
        }
        if open > 0 {
            note(&format!("{open} prompts of rows are still to be made by other shards"));
        }
        Ok(open == 0)
    }

    /// Writes a text into the folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::create_dir_all(&self.out).map_err(Error::file("create", &self.out))?;
        atomic_write(self.out.join(name), |w| w.write_all(text.as_bytes()))
    }

    /// Stops after `cell` when Ctrl-C was pressed.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn go_on(&self, cell: &Cell) -> Result<()> {
        if !self.stop.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(Error::Interrupted {
            done: cell.folder(&self.out).display().to_string(),
            fix: format!("go on with `{}`", again()),
        })
    }

    /// The folder of a cell holds pictures of this request only: more may be added, what is there already may not change.
    fn claim(&self, folder: &Path, request: &Generate) -> Result<()> {
        let g = request;
        let mut asked = self.relative(json!({
            "base": g.base, "lora": g.lora, "subjects": g.subjects, "prompt": g.prompt,
            "negative": g.negative, "init": g.init, "gamma": g.gamma, "sampler": g.sampler,
            "steps": g.steps, "guidance": g.guidance, "height": g.height, "width": g.width,
        }));
        if g.apart {
            asked["apart"] = true.into();
        }
        if let Some(word) = &g.prediction {
            asked["prediction"] = word.as_str().into();
        }
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

    fn train(&self, unit: &Unit) -> Result<()> {
        let Some(config) = &unit.config else { return Ok(()) };
        if ["adapter.safetensors", "model"].iter().any(|f| unit.folder.join(f).exists()) {
            return Ok(()); // written when a run has ended
        }
        let resume = unit.folder.join("config.toml").exists();
        let place = self.place.open()?;
        // generate puts them there too: each photo is segmented once
        let masks = self.out.join("masks");
        train(config, place, (&unit.folder, &masks), resume, &again(), self.stop.clone())?;
        Ok(())
    }

    /// The pictures of a cell that are not there yet, one by one as `generate --count 1` makes them.
    fn sample(&self, unit: &Unit, row: &Row, cell: &Cell) -> Result<()> {
        let folder = cell.folder(&self.out);
        let missing = |seed: &&u64| !folder.join(picture(**seed)).exists();
        let seeds: Vec<u64> = self.seeds.iter().filter(missing).copied().collect();
        self.claim(&folder, &self.request(unit, row, &cell.prompt, &[])?)?;
        // seeds that follow each other are one request: the base is opened once for all of them
        for run in seeds.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            let generate = self.request(unit, row, &cell.prompt, run)?;
            let made = generate.make()?;
            for (i, shown) in made.pictures.iter().enumerate() {
                let text = self.relative(generate.metadata_alone(&made, i)).to_string();
                let path = folder.join(picture(run[0] + i as u64));
                write_png(&path, shown, &[("selvedge".into(), text)])?;
            }
        }
        Ok(())
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

    fn request(&self, unit: &Unit, row: &Row, prompt: &str, seeds: &[u64]) -> Result<Generate> {
        let (base, lora) = unit.model(&self.base);
        let s = &self.sampling;
        Ok(Generate {
            base,
            lora,
            prompt: prompt.into(),
            negative: row.negative.clone(),
            no_negative: false,
            subjects: Some(unit.subjects_file()?),
            init: row.init(unit.config.as_ref()).into(),
            gamma: row.gamma.unwrap_or(1.0),
            apart: row.apart,
            mask_resize: "bilinear".into(),
            sampler: s.sampler.clone().unwrap_or("euler".into()),
            spacing: None,
            prediction: s.prediction.clone(),
            steps: s.steps,
            guidance: s.guidance,
            count: seeds.len(),
            batch: 1,
            height: s.height,
            width: s.width,
            latents: None,
            vae_dtype: None,
            save_latents: None,
            steer: SteerArgs::NONE,
            out: self.out.clone(),
            compute: Compute {
                place: self.place.clone(),
                seed: seeds.first().copied().unwrap_or_default(),
            },
        })
    }
}

/// The command that goes on: this one once more.
fn again() -> String {
    let quoted = |word: String| match word.contains(char::is_whitespace) {
        true => format!("{word:?}"),
        false => word,
    };
    let words = std::env::args().skip(1).map(quoted);
    ["selvedge".to_string()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}
