//! `selvedge quickstart`: the whole job on the embedded models, from bare photos to scores, with a report.

mod grids;
mod page;
mod photos;
mod scenes;

use super::{
    common::{Compute, at_least, note},
    plot::smoothed,
    train,
};
use crate::{
    data::{
        TrainConfig,
        config::{Loss, LrSchedule, Method},
    },
    error::{Error, Result},
    tensor::atomic::atomic_write,
};
use clap::{Args, ValueEnum};
use page::Made;
use photos::{Eyes, Photos};
use std::{
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Instant,
};

/// The whole job on the embedded models: cut out, train, sample, score, report; needs nothing else.
///
/// Finds and cuts out the subjects of a few photos, trains a DreamBooth and a MuDI adapter for them, samples both with the
/// same seeds, with and without the mean-shifted initialization, scores the pictures, and writes DIR/report.html. Run again
/// with the same DIR, it goes on where it stopped.
///
/// Examples: selvedge quickstart --out quickstart; selvedge quickstart --subjects toys.toml --out toys
#[derive(Clone, Debug, Args)]
pub struct Quickstart {
    /// The folder to write to.
    #[arg(long, default_value = "quickstart", value_name = "DIR")]
    pub out: PathBuf,
    /// What is shown: mudi (two subjects that are easily mixed) or decoupled (one subject whose photos share a background).
    #[arg(long, value_enum, default_value_t = Story::Mudi, value_name = "METHOD")]
    pub method: Story,
    /// Example subjects: bears (two of one class) or robot_duck, and one_place for --method decoupled.
    #[arg(long, value_name = "PAIR", conflicts_with = "subjects")]
    pub pair: Option<String>,
    /// Your own photos: a file with [[subject]] tables. They are copied; masks that they lack are made by the models of its
    /// [segment], or by the embedded ones, which know the embedded model's toys only.
    #[arg(long, value_name = "FILE.toml")]
    pub subjects: Option<PathBuf>,
    /// Training steps of each adapter.
    #[arg(long, default_value_t = STEPS, value_name = "N")]
    pub steps: u64,
    /// Pictures in each grid, 16 when left out; with --method decoupled in each scene, 4.
    #[arg(long, value_name = "N")]
    pub count: Option<usize>,
    /// Where the subjects are put, "on the grass" when left out; --method decoupled puts them in twelve places.
    #[arg(long, value_name = "TEXT")]
    pub place: Option<String>,
    /// Shared flags.
    #[command(flatten)]
    pub compute: Compute,
}

const STEPS: u64 = 900;

/// Which method is shown beside DreamBooth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Story {
    /// Subjects that do not mix.
    Mudi,
    /// A subject without its background.
    Decoupled,
}

/// A training.
struct Run {
    name: &'static str,
    config: TrainConfig,
    losses: Vec<(f64, f64)>,
    /// The command that does the same.
    command: String,
}

impl Quickstart {
    /// Does everything.
    ///
    /// # Errors
    /// Those of segmenting, training, sampling and scoring.
    pub fn run(&self) -> Result<u8> {
        let start = Instant::now();
        at_least("--count", self.count() as f64, 1.0)?;
        at_least("--steps", self.steps as f64, 1.0)?;
        if let (Story::Decoupled, Some(place)) = (self.method, &self.place) {
            return Err(Error::Config {
                key: "--place".into(),
                found: place.clone(),
                expected: "nothing with --method decoupled, which has its twelve places".into(),
                fix: "leave it out, or take `selvedge generate` with the adapter".into(),
            });
        }
        self.compute.place.open()?; // refused before anything is written
        let stop = train::stop_flag();
        let eyes = Eyes::write(&self.out.join("eyes"))?;
        if self.method == Story::Decoupled {
            return scenes::run(self, &eyes, &stop);
        }
        let clock = Instant::now();
        let photos = Photos::open(self, &eyes)?;
        let mut times = vec![("segmenting".to_string(), clock.elapsed().as_secs_f64())];
        let (mut runs, mut grids) = (vec![], vec![]);
        for (name, method) in [("dreambooth", Method::Dreambooth), ("mudi", Method::Mudi)] {
            let clock = Instant::now();
            runs.push(self.train(name, method, &photos, &stop)?);
            times.push((format!("training {name}"), clock.elapsed().as_secs_f64()));
            for init in ["none", "seg-mix"] {
                let grid = grids::make(self, (name, init), &photos, &eyes)?;
                let [sampling, scoring] = grid.seconds;
                times.push((format!("sampling {}", grid.title), sampling));
                times.push((format!("scoring {}", grid.title), scoring));
                grids.push(grid);
                if stop.load(Ordering::SeqCst) {
                    let done = format!("sampling {name} with --init {init}");
                    let fix = format!("go on with `{}`", self.hint());
                    return Err(Error::Interrupted { done, fix });
                }
            }
        }
        page::write(self, &Made { photos, runs, grids, times }, start)?;
        let seconds = start.elapsed().as_secs_f64();
        note(&format!("{} in {seconds:.1} s", self.out.join("report.html").display()));
        Ok(0)
    }

    /// Pictures in a grid or a scene.
    fn count(&self) -> usize {
        self.count.unwrap_or(if self.method == Story::Mudi { 16 } else { 4 })
    }

    /// The command that goes on.
    fn hint(&self) -> String {
        let story = (self.method == Story::Decoupled).then(|| " --method decoupled".to_string());
        let flags = [
            story,
            self.subjects.as_ref().map(|f| format!(" --subjects {}", f.display())),
            self.pair.as_ref().map(|p| format!(" --pair {p}")),
            (self.steps != STEPS).then(|| format!(" --steps {}", self.steps)),
            self.count.map(|n| format!(" --count {n}")),
            self.place.as_ref().map(|p| format!(" --place {p:?}")),
            self.compute.place.dtype.as_ref().map(|d| format!(" --dtype {d}")),
        ];
        let flags: String = flags.into_iter().flatten().collect();
        format!("selvedge quickstart{flags} --out {}", self.out.display())
    }

    fn train(
        &self,
        name: &'static str,
        method: Method,
        photos: &Photos,
        stop: &std::sync::Arc<std::sync::atomic::AtomicBool>,
    ) -> Result<Run> {
        let config = self.config(photos, method);
        let folder = self.out.join(name);
        note(&format!("training {name}: {} steps", config.train.steps));
        let (resume, hint) = (folder.join("config.toml").exists(), self.hint());
        let file = self.out.join(format!("{name}.toml"));
        let text = config.to_toml()?;
        atomic_write(&file, |w| w.write_all(text.as_bytes()))?;
        let places = (&*folder, &*self.out.join("masks"));
        train::train(&config, self.compute.place.open()?, places, resume, &hint, stop.clone())?;
        let command = format!("selvedge train {} --out {}", file.display(), folder.display());
        Ok(Run { name, losses: loss_curve(&folder)?, config, command })
    }

    /// The training configuration of one method on nano.
    fn config(&self, photos: &Photos, method: Method) -> TrainConfig {
        let mut c = TrainConfig { subjects: photos.subjects.clone(), ..TrainConfig::default() };
        c.base = "nano".into();
        c.method.name = method;
        c.preset = String::new();
        c.method.mix_probability = 0.5;
        c.method.loss = Loss::Mse; // half the time of a step, and pictures to compare with plain DreamBooth
        let t = &mut c.train;
        t.resolution = 128;
        t.steps = self.steps;
        t.batch = 2; // as good as 4 at the same number of steps, in half the time
        t.accumulate = 1;
        t.learning_rate = 1.5e-3;
        t.text_learning_rate = 1e-4; // of a decoupled run, as its preset has it
        t.schedule = LrSchedule::Cosine;
        t.warmup_steps = 10;
        t.rank = 32;
        // attention alone learns the outline; colours and patterns of new subjects need the rest
        t.targets.extend(["ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"].map(String::from));
        t.sample_every = 0;
        t.save_every = 0;
        t.seed = self.compute.seed;
        c
    }
}

/// Step and loss of a run's `log.csv`, smoothed.
fn loss_curve(run: &Path) -> Result<Vec<(f64, f64)>> {
    let path = run.join("log.csv");
    let text = std::fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    let point = |line: &str| {
        let mut cells = line.split(',').map(|c| c.trim().parse::<f64>().ok());
        Some((cells.next()??, cells.next()??))
    };
    Ok(smoothed(&text.lines().filter_map(point).collect::<Vec<_>>(), 20))
}
