//! `selvedge quickstart`: the whole job on the embedded base, with a report.

use super::{
    common::{Compute, at_least, note},
    generate::Generate,
    plot::{Curve, lines, smoothed},
    report::Report,
    train,
};
use crate::{
    data::{
        Dataset, TrainConfig,
        config::{Loss, LrSchedule, Method, load_for_subjects, load_subjects},
        load_all,
    },
    error::{Error, Result},
    models::checkpoint::assets,
    tensor::{
        atomic::atomic_write,
        image::{Picture, encode_png, grid, write_png},
    },
};
use clap::Args;
use std::{
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Instant,
};

/// Train, sample and report on the embedded base and its two example subjects; needs nothing else.
///
/// Trains a DreamBooth and a MuDI adapter for two look-alike subjects, samples both with the same seeds,
/// with and without the mean-shifted initialization, and writes DIR/report.html. Run again with the same
/// DIR, it goes on where it stopped.
///
/// Example: selvedge quickstart --out quickstart
#[derive(Clone, Debug, Args)]
pub struct Quickstart {
    /// The folder to write to.
    #[arg(long, default_value = "quickstart", value_name = "DIR")]
    pub out: PathBuf,
    /// Example subjects: bears (two of one class) or robot_duck.
    #[arg(long, default_value = "bears", value_name = "PAIR")]
    pub pair: String,
    /// Training steps of each adapter.
    #[arg(long, default_value_t = STEPS, value_name = "N")]
    pub steps: u64,
    /// Pictures in each grid.
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub count: usize,
    /// Where the two subjects are put.
    #[arg(long, default_value = "on the grass", value_name = "TEXT")]
    pub place: String,
    /// Shared flags.
    #[command(flatten)]
    pub compute: Compute,
}

const STEPS: u64 = 450;
const SAMPLING_STEPS: usize = 20;
const GUIDANCE: f32 = 4.0;
const GAMMA: f32 = 0.3; // 1 leaves traces of the collage on a model this small

/// One of the four grids.
struct Shown {
    title: String,
    png: Vec<u8>,
    seconds: f64,
}

impl Quickstart {
    /// Does everything.
    ///
    /// # Errors
    /// Those of training and sampling.
    pub fn run(&self) -> Result<u8> {
        let start = Instant::now();
        at_least("--count", self.count as f64, 1.0)?;
        at_least("--steps", self.steps as f64, 1.0)?;
        let (place, stop) = (self.compute.place.open()?, train::stop_flag());
        let subjects = self.write_subjects()?;
        let mut report = Report::new(
            "selvedge quickstart",
            "Two subjects that look alike, learned from five pictures each by the embedded nano model, \
             with DreamBooth and with MuDI; the same seeds in every grid.",
        );
        self.show_subjects(&mut report, &subjects)?;
        let mut curves = vec![];
        let mut rows = vec![vec!["what".into(), "seconds".into()]];
        let mut shown = vec![];
        let mut texts = vec![];
        for (name, method) in [("dreambooth", Method::Dreambooth), ("mudi", Method::Mudi)] {
            let config = self.config(&subjects, method)?;
            let folder = self.out.join(name);
            note(&format!("training {name}: {} steps", config.train.steps));
            let clock = Instant::now();
            let resume = folder.join("config.toml").exists();
            let hint = format!("selvedge quickstart --out {}", self.out.display());
            let masks = self.out.join("masks");
            train::train(&config, place.clone(), (&folder, &masks), resume, &hint, stop.clone())?;
            rows.push(vec![format!("training {name}"), seconds(clock)]);
            if method == Method::Mudi {
                self.show_mixes(&mut report, &config)?;
            }
            curves.push(Curve { name: name.into(), points: loss_curve(&folder)? });
            texts.push((name, config.to_toml()?));
            for init in ["none", "seg-mix"] {
                shown.push(self.sample(name, init, &subjects)?);
                if stop.load(Ordering::SeqCst) {
                    let done = format!("sampling {name} with --init {init}");
                    return Err(Error::Interrupted { done, fix: format!("go on with `{hint}`") });
                }
            }
        }
        self.finish(report, &shown, &curves, rows, &texts, start)?;
        note(&format!("{} in {} s", self.out.join("report.html").display(), seconds(start)));
        Ok(0)
    }

    /// Writes the embedded example subjects; returns the path of their list.
    fn write_subjects(&self) -> Result<PathBuf> {
        let root = self.out.join("subjects").join(&self.pair);
        let pairs = assets::examples();
        let files = pairs.iter().find(|(name, _)| *name == self.pair).map_or(&[][..], |p| p.1);
        if files.is_empty() {
            return Err(Error::Config {
                key: "--pair".into(),
                found: self.pair.clone(),
                expected: "bears or robot_duck".into(),
                fix: "choose one of these".into(),
            });
        }
        for (path, bytes) in files {
            let path = root.join(path.trim_start_matches('/'));
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
            }
            atomic_write(&path, |w| w.write_all(bytes))?;
        }
        Ok(root.join("subjects.toml"))
    }

    /// The training configuration of one method on nano.
    fn config(&self, subjects: &Path, method: Method) -> Result<TrainConfig> {
        let TrainConfig { subjects, segment, .. } = load_for_subjects(subjects)?;
        let mut c = TrainConfig { subjects, segment, ..TrainConfig::default() };
        c.method.name = method;
        c.preset = String::new();
        c.method.mix_probability = 0.5;
        c.method.loss = Loss::Mse; // half the time of a step, and pictures to compare with plain DreamBooth
        let t = &mut c.train;
        t.resolution = 128;
        t.steps = self.steps;
        t.batch = 4;
        t.accumulate = 1;
        t.learning_rate = 2e-3;
        t.schedule = LrSchedule::Cosine;
        t.warmup_steps = 10;
        t.rank = 32;
        // attention alone learns the outline; colours and patterns of new subjects need the rest
        t.targets.extend(["ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"].map(String::from));
        t.sample_every = 0;
        t.save_every = 0;
        t.seed = self.compute.seed;
        Ok(c)
    }

    fn prompt(&self, subjects: &Path) -> Result<String> {
        let words: Vec<String> = load_subjects(subjects)?.iter().map(|s| s.words()).collect();
        Ok(format!("a photo of a {}, {}", words.join(" and a "), self.place))
    }

    fn sample(&self, name: &str, init: &str, subjects: &Path) -> Result<Shown> {
        let clock = Instant::now();
        let suffix = if init == "none" { "" } else { "_init" };
        note(&format!("sampling {name}{suffix}: {} pictures", self.count));
        let generate = Generate {
            base: "nano".into(),
            lora: vec![self.out.join(name).join("adapter.safetensors").display().to_string()],
            prompt: self.prompt(subjects)?,
            negative: None,
            no_negative: true, // words that nano has not learned
            subjects: Some(subjects.to_path_buf()),
            init: init.into(),
            gamma: GAMMA,
            mask_resize: "bilinear".into(),
            sampler: "euler".into(),
            spacing: None,
            prediction: None,
            steps: Some(SAMPLING_STEPS),
            guidance: Some(GUIDANCE),
            count: self.count,
            batch: self.count.min(8),
            height: None,
            width: None,
            latents: None,
            vae_dtype: None,
            save_latents: None,
            out: self.out.clone(),
            compute: self.compute.clone(),
        };
        let sheet = grid(&generate.make()?.pictures, 4, 2);
        let path = self.out.join(format!("{name}{suffix}.png"));
        write_png(&path, &sheet, &[])?;
        let title = match init {
            "none" => format!("{name}, plain noise"),
            _ => format!("{name}, initialized from segmented subjects (gamma {GAMMA})"),
        };
        let png = encode_png(&sheet, &[], &path)?;
        Ok(Shown { title, png, seconds: clock.elapsed().as_secs_f64() })
    }

    fn show_subjects(&self, report: &mut Report, list: &Path) -> Result<()> {
        report.section("The subjects");
        let mut warnings = vec![];
        for s in load_all(&load_subjects(list)?, &mut warnings)? {
            let photos: Vec<Picture> = s.photos.iter().map(|p| p.rgb.clone()).collect();
            let masks = s.photos.iter().filter_map(|p| p.mask.as_ref().map(Picture::rgb));
            let all: Vec<Picture> = photos.iter().cloned().chain(masks).collect();
            let sheet = grid(&all, photos.len(), 2);
            let path = self.out.join(format!("references_{}.png", s.id));
            write_png(&path, &sheet, &[])?;
            report.picture(&encode_png(&sheet, &[], &path)?, &format!("{}: {}", s.id, s.words));
        }
        Ok(())
    }

    fn show_mixes(&self, report: &mut Report, config: &TrainConfig) -> Result<()> {
        let mut warnings = vec![];
        let data = Dataset::open(config, &config.method.prior_dir, &mut warnings)?;
        let mixed = (0..200).map(|n| data.sample(n)).filter(|s| s.draw.mixed).take(16);
        let pictures: Vec<Picture> = mixed.map(|s| s.picture).collect();
        let sheet = grid(&pictures, 8, 2);
        let path = self.out.join("mixes.png");
        write_png(&path, &sheet, &[])?;
        report.section("What MuDI trains on");
        report.picture(
            &encode_png(&sheet, &[], &path)?,
            "Seg-Mix: the segmented subjects, mixed on white",
        );
        Ok(())
    }

    fn finish(
        &self,
        mut report: Report,
        shown: &[Shown],
        curves: &[Curve],
        mut rows: Vec<Vec<String>>,
        configs: &[(&str, String)],
        start: Instant,
    ) -> Result<()> {
        report.section("The pictures");
        report.text(&format!(
            "Prompt: {}",
            self.prompt(&self.out.join("subjects").join(&self.pair).join("subjects.toml"))?
        ));
        report.side_by_side(|r| {
            for s in shown {
                r.picture(&s.png, &s.title);
            }
        });
        report.section("Training");
        report.plot(&lines("step", "loss", curves), "Loss, mean of 20 steps");
        rows.extend(shown.iter().map(|s| vec![s.title.clone(), format!("{:.1}", s.seconds)]));
        rows.push(vec!["all".into(), seconds(start)]);
        report.table(&rows);
        report.section("Configurations");
        for (name, text) in configs {
            report.text(name);
            report.code(text);
        }
        let html = report.html();
        atomic_write(self.out.join("report.html"), |w| w.write_all(html.as_bytes()))
    }
}

fn seconds(from: Instant) -> String {
    format!("{:.1}", from.elapsed().as_secs_f64())
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
