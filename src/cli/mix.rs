//! `selvedge mix`: what training would see, as files.

use crate::{
    cli::{
        common::{DeviceArgs, at_least, note, warn},
        segment::missing,
    },
    data::{Dataset, Draw, TrainConfig, prior},
    error::{Error, Result},
    tensor::{
        atomic::atomic_write,
        image::{grid, write_png},
    },
};
use clap::Args;
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// Write the pictures that training would see.
///
/// NNNNN.png, NNNNN_mask.png (union of the masks), mixes.jsonl (one line a draw) and grid.png.
/// Pictures and draws are exactly those of the run: the same seed, the same order.
///
/// Example: selvedge mix two_bears.toml --count 64 --out mixes
#[derive(Debug, Args)]
pub struct MixArgs {
    /// The training configuration.
    pub config: PathBuf,
    /// How many pictures.
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub count: usize,
    /// The folder to write to.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Change a key of the configuration: method.mix_probability=1.0 (repeatable).
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Seed of everything random, in place of the configuration's.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// The published settings under the file: mudi-v1 or mudi-dco.
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Where photos without masks are segmented, when [segment] of the configuration names models; the masks go to
    /// masks/ in --out.
    #[command(flatten)]
    pub place: DeviceArgs,
}

const GRID: usize = 64;

impl MixArgs {
    /// Writes the pictures.
    ///
    /// # Errors
    /// Those of the configuration and the subjects; [`Error::File`].
    pub fn run(&self) -> Result<u8> {
        at_least("--count", self.count as f64, 1.0)?;
        let set: Vec<String> =
            self.set.iter().cloned().chain(self.seed.map(|n| format!("train.seed={n}"))).collect();
        let preset = self.preset.as_deref();
        let mut config = TrainConfig::load_over(preset, &self.config, &set)?;
        let dir = config.method.prior_dir.clone();
        if config.method.prior_preservation && !prior::missing(&config, &dir).is_empty() {
            let place = match dir.as_os_str().is_empty() {
                true => "the run folder (method.prior_dir is empty)".to_string(),
                false => dir.display().to_string(),
            };
            note(&format!(
                "the prior set is left out: `selvedge train` makes it in {place}, and it is not there yet"
            ));
            config.method.prior_preservation = false;
        }
        let bare = missing::missing(&config)?;
        if !bare.is_empty() {
            let (device, _) = self.place.open()?;
            missing::make(&mut config, bare, &device, &self.out.join("masks"))?;
        }
        let mut warnings = vec![];
        let data = Dataset::open(&config, &dir, &mut warnings)?;
        warnings.iter().for_each(|w| warn(w));
        std::fs::create_dir_all(&self.out).map_err(Error::file("create", &self.out))?;
        let draws = (0..self.count as u64)
            .into_par_iter()
            .map(|n| write_one(&data, n, &self.out))
            .collect::<Result<Vec<Draw>>>()?;
        let mut lines = String::new();
        for draw in &draws {
            lines += &serde_json::to_string(draw).map_err(|e| Error::Data {
                at: "mixes.jsonl".into(),
                found: e.to_string(),
                expected: "a draw that JSON can hold".into(),
                fix: "check the names of subjects and files".into(),
            })?;
            lines.push('\n');
        }
        atomic_write(self.out.join("mixes.jsonl"), |w| w.write_all(lines.as_bytes()))?;
        let shown = self.count.min(GRID) as u64;
        let pictures: Vec<_> = (0..shown).map(|n| data.sample(n).picture).collect();
        let columns = (shown as f64).sqrt().ceil() as usize;
        write_png(&self.out.join("grid.png"), &grid(&pictures, columns, 4), &[])?;
        let mixed = draws.iter().filter(|d| d.mixed).count();
        note(&format!("{} pictures, {mixed} of them mixed, in {}", self.count, self.out.display()));
        Ok(0)
    }
}

fn write_one(data: &Dataset, n: u64, folder: &Path) -> Result<Draw> {
    let sample = data.sample(n);
    let text = [("prompt".to_string(), sample.draw.prompt.clone())];
    write_png(&folder.join(format!("{n:05}.png")), &sample.picture, &text)?;
    write_png(&folder.join(format!("{n:05}_mask.png")), &sample.mask, &[])?;
    Ok(sample.draw)
}
