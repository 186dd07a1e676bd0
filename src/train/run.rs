//! The run: steps, logs, checkpoints, samples, and how it ends.

use super::{
    Checkpoints, Events, Log, Prepared, Row, RunFolder, SampleSource, State, StepResult, Trainable,
    Trainer, feed::with_feed, scale,
};
use crate::{
    data::TrainConfig,
    device::Device,
    error::{Error, Result},
    kernels::adamw::Scale,
    models::{Texts, base::Base},
    plan::WeightLayout,
};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    collections::VecDeque,
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    sync::mpsc::Receiver,
    time::Instant,
};

/// Makes sample pictures of a step, with the run's encoded texts.
pub type SampleHook<'h> = dyn FnMut(u64, &[Trainable], &mut Texts) -> Result<()> + 'h;
/// Writes the result and says where; called with the run folder.
pub type SaveHook<'h> = dyn FnMut(&Path, &[Trainable]) -> Result<Vec<PathBuf>> + 'h;

/// Steps that a GPU may have before it while the host prepares the next and reads what came of the last.
const AHEAD: usize = 1;

/// What the run asks of rooms it may not import.
pub struct Hooks<'h> {
    /// Sample pictures every `sample_every` steps.
    pub sample: Option<&'h mut SampleHook<'h>>,
    /// What the sample pictures need beside the step, bytes.
    pub sample_bytes: u64,
    /// Prompts of the sample pictures, encoded along with the training's.
    pub sample_prompts: Vec<String>,
    /// Texts that are encoded already, by the frozen text encoders of the base.
    pub texts: Texts,
    /// Writes the adapter files, or the model.
    pub save: &'h mut SaveHook<'h>,
    /// Set when the user wants to stop: the step is finished and saved.
    pub stop: &'h AtomicBool,
    /// How to resume, for the message of an interruption.
    pub resume_hint: String,
    /// Tells the user what the run could do without.
    pub warn: &'h dyn Fn(&str),
}

impl std::fmt::Debug for Hooks<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hooks(samples: {})", self.sample.is_some())
    }
}

/// How a run went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Optimizer steps in all.
    pub steps: u64,
    /// Steps done by this process.
    pub own_steps: u64,
    /// Mean loss of the last steps of this process (up to 50).
    pub last_loss: f32,
    /// Wall time of this process in the steps.
    pub seconds: f64,
    /// Wall time from the call to the end of the first step.
    pub first_step_seconds: f64,
    /// Trained parameters.
    pub trainable_parameters: usize,
    /// How often frozen text encoders were loaded: once for all prompts of the run.
    pub text_loads: usize,
    /// The loss scale that the run ended with and its skipped updates, those before a resumption included; none where
    /// the loss is not scaled.
    pub scale: Option<Scale>,
    /// The result's files and folders, the one to use first.
    pub written: Vec<PathBuf>,
}

/// Runs a training in `folder` to its last step, from its last checkpoint if there is one.
///
/// # Errors
/// [`Error::Interrupted`] after a stop (everything is saved then); [`Error::File`] when the disk refuses (the last
/// checkpoint stays); those of the data, the plan and the operations.
pub fn run(
    config: &TrainConfig,
    base: &Base,
    device: Device,
    source: &dyn SampleSource,
    folder: &RunFolder,
    mut hooks: Hooks<'_>,
) -> Result<Report> {
    let begin = Instant::now();
    let mut trainer = Trainer::new(config, base, device, hooks.sample_bytes)?;
    let entries = trainer.stepper.program.entries().to_vec();
    let checkpoints = folder.checkpoints(config, &entries)?.in_dtype(base.types.products());
    let (state, damaged) = checkpoints.latest()?;
    for e in damaged {
        (hooks.warn)(&format!("passed over a damaged checkpoint: {e}"));
    }
    if let Some(state) = state {
        restore(&mut trainer, state)?;
    }
    trainer.texts = std::mem::take(&mut hooks.texts);
    let prompts = [source.prompts(), std::mem::take(&mut hooks.sample_prompts)].concat();
    trainer.encode_prompts(&prompts.iter().map(String::as_str).collect::<Vec<_>>())?;
    let first = trainer.stepper.optimizer.step;
    let (accumulate, steps) = (config.train.accumulate as u64, config.train.steps);
    let mut outputs = Outputs::open(folder, checkpoints, first, &columns(&trainer))?;
    let report = Report {
        trainable_parameters: trainer.stepper.program.plan().summary().trainable_parameters,
        ..Report::default()
    };
    let mut progress = Progress::new(first, steps, begin, report);
    let passes = first * accumulate..steps * accumulate;
    with_feed(source, trainer.draws(), accumulate, passes, |feed| {
        let mut under_way = VecDeque::new();
        for step in first..steps {
            under_way.push_back(one_step(&mut trainer, config, feed, step)?);
            let done = step + 1;
            let stop = hooks.stop.load(Ordering::SeqCst) && done < steps;
            let saves = stop || due(config.train.save_every, done) || done == steps;
            let ends = saves || due(config.train.sample_every, done);
            for result in trainer.stepper.results(if ends { 0 } else { AHEAD })? {
                let row = progress.row(under_way.pop_front().unwrap_or_default(), result);
                outputs.log(&row)?;
                progress.step(&row);
            }
            if saves {
                outputs.save(&mut trainer)?;
            }
            if stop {
                return Err(interrupted(done, steps, folder, &hooks.resume_hint));
            }
            if due(config.train.sample_every, done)
                && let Some(sample) = &mut hooks.sample
            {
                let trained = trainables(&mut trainer, true)?;
                sample(done, &trained, &mut trainer.texts)?;
            }
            if ends {
                progress.last = Instant::now(); // what was saved or shown is no part of a step
            }
        }
        Ok(())
    })?;
    let written = (hooks.save)(folder.path(), &trainables(&mut trainer, true)?)?;
    let text_loads = trainer.texts.loads;
    let scale = trainer.stepper.optimizer.scale;
    Ok(Report { written, text_loads, scale, ..progress.finish(steps) })
}

fn due(every: u64, done: u64) -> bool {
    every > 0 && done.is_multiple_of(every)
}

fn interrupted(done: u64, steps: u64, folder: &RunFolder, hint: &str) -> Error {
    Error::Interrupted {
        done: format!("step {done} of {steps}, saved in {}", folder.path().display()),
        fix: format!("go on with `{hint}`"),
    }
}

/// Launches a step; the row of the log that its results will fill.
fn one_step(
    trainer: &mut Trainer<'_>,
    config: &TrainConfig,
    feed: &Receiver<Result<Prepared>>,
    step: u64,
) -> Result<Row> {
    let mut mixed = 0;
    for _ in 0..config.train.accumulate {
        let pass = feed.recv().map_err(|_| Error::Data {
            at: format!("step {}", step + 1),
            found: "no more pictures".into(),
            expected: "one pass more".into(),
            fix: "this is a bug of the loader".into(),
        })??;
        mixed += pass.samples.iter().filter(|s| s.mixed).count();
        trainer.pass(&pass)?;
    }
    trainer.stepper.update()?;
    let factor = config.train.learning_rate_factor(step);
    let learning_rate = (config.train.learning_rate * factor) as f32;
    Ok(Row { step: step + 1, learning_rate, mixed, ..Row::default() })
}

/// The log's columns beside those of every run.
fn columns(trainer: &Trainer<'_>) -> Vec<String> {
    let scaled = trainer.stepper.optimizer.scale.map(|_| scale::COLUMNS.map(String::from));
    let own = trainer.stepper.columns();
    own.into_iter().chain(scaled.into_iter().flatten()).collect()
}

fn restore(trainer: &mut Trainer<'_>, state: State) -> Result<()> {
    let stepper = &mut trainer.stepper;
    stepper.optimizer.restore(&mut stepper.program, state)
}

/// What was trained, in checkpoint layout; `averaged` takes the moving average where there is one.
///
/// # Errors
/// Where the trainables cannot be read.
pub fn trainables(trainer: &mut Trainer<'_>, averaged: bool) -> Result<Vec<Trainable>> {
    let stepper = &mut trainer.stepper;
    let params = stepper.program.plan().params();
    let values = match averaged {
        true => stepper.optimizer.result(&stepper.program)?,
        false => stepper.program.master()?,
    };
    let one = |(name, range): &(String, std::ops::Range<usize>)| {
        let info = params.iter().find(|p| p.name == *name);
        let (dims, layout) =
            info.map_or((vec![range.len()], WeightLayout::Dense), |p| (p.dims.clone(), p.layout));
        let data = layout.to_checkpoint(&dims, values[range.clone()].to_vec());
        Trainable { name: name.clone(), dims: layout.checkpoint_dims(&dims), data }
    };
    Ok(stepper.program.entries().iter().map(one).collect())
}

/// The files that grow during a run.
struct Outputs {
    log: Log,
    events: Events,
    checkpoints: Checkpoints,
}

impl Outputs {
    fn open(
        folder: &RunFolder,
        checkpoints: Checkpoints,
        first: u64,
        columns: &[String],
    ) -> Result<Self> {
        let events = folder.join("events");
        std::fs::create_dir_all(&events).map_err(Error::file("create", &events))?;
        let log = Log::open(&folder.join("log.csv"), first, columns)?;
        Ok(Self { log, events: Events::create(&events, first)?, checkpoints })
    }

    fn log(&mut self, row: &Row) -> Result<()> {
        self.log.row(row)?;
        let mut scalars = vec![
            ("loss", row.loss),
            ("learning_rate", row.learning_rate),
            ("grad_norm", row.grad_norm),
            ("seconds", row.seconds),
        ];
        scalars.extend(row.parts.iter().map(|(name, value)| (name.as_str(), *value)));
        self.events.scalars(row.step, &scalars)
    }

    fn save(&mut self, trainer: &mut Trainer<'_>) -> Result<()> {
        self.log.sync()?;
        let stepper = &trainer.stepper;
        let state = stepper.optimizer.state(&stepper.program)?;
        self.checkpoints.save(&state).map(drop)
    }
}

/// The progress bar (only on a terminal) and the numbers of the report.
struct Progress {
    bar: ProgressBar,
    losses: Vec<f32>,
    begin: Instant,
    steps: Instant,
    /// When the last step ended, or what came after it.
    last: Instant,
    report: Report,
}

impl Progress {
    fn new(first: u64, steps: u64, begin: Instant, report: Report) -> Self {
        let bar = match std::io::stderr().is_terminal() {
            true => ProgressBar::new(steps),
            false => ProgressBar::hidden(),
        };
        let style = "{bar:30} {pos}/{len} steps  {msg}  {eta} left";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.set_position(first);
        let now = Instant::now();
        Self { bar, losses: vec![], begin, steps: now, last: now, report }
    }

    /// The row of a step that has ended.
    fn row(&mut self, row: Row, result: StepResult) -> Row {
        let StepResult { loss, grad_norm, parts } = result;
        let last = std::mem::replace(&mut self.last, Instant::now());
        Row { loss, grad_norm, parts, seconds: last.elapsed().as_secs_f32(), ..row }
    }

    fn step(&mut self, row: &Row) {
        if self.losses.is_empty() {
            self.report.first_step_seconds = self.begin.elapsed().as_secs_f64();
        }
        self.losses.push(row.loss);
        self.bar.set_position(row.step);
        self.bar.set_message(format!("loss {:.4}", self.recent()));
    }

    fn recent(&self) -> f32 {
        let last = &self.losses[self.losses.len().saturating_sub(50)..];
        last.iter().sum::<f32>() / last.len().max(1) as f32
    }

    fn finish(self, steps: u64) -> Report {
        self.bar.finish_and_clear();
        let seconds = self.steps.elapsed().as_secs_f64();
        let (own_steps, last_loss) = (self.losses.len() as u64, self.recent());
        Report { steps, own_steps, last_loss, seconds, ..self.report }
    }
}
