//! A program of a training step with its optimizer: what it is fed, and what it gives.

use super::{
    Decoupled, Optimizer, StepOptions,
    decoupled::router_statistics,
    results::Results,
    scale,
    step::{NOISE, POSTERIOR_NOISE, ROUTER},
};
use crate::{
    error::{Error, Result},
    kernels::noise::STATE_WORDS,
    plan::Program,
};

/// The numbers of one pass; every vector as long as the input of its name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// VAE moments `[N, h, w, 2C]`.
    pub moments: Vec<f32>,
    /// The noise.
    pub noise: PassNoise,
    /// Timesteps `[N]`.
    pub timesteps: Vec<i32>,
    /// Loss weights `[N, h, w]`.
    pub weight: Vec<f32>,
    /// Loss coefficients `[N]`; their sum over a batch without a prior is 1.
    pub coefficient: Vec<f32>,
    /// What the prediction is conditioned on, by input name.
    pub condition: Vec<(&'static str, Vec<f32>)>,
    /// Token ids, by input name, when the text encoders are in the program.
    pub ids: Vec<(&'static str, Vec<i32>)>,
}

/// The noise of a pass, as the program takes it ([`StepOptions::drawn`]).
#[derive(Clone, Debug, PartialEq)]
pub enum PassNoise {
    /// The numbers themselves, `[N, h, w, C]`.
    Fed {
        /// Of the posterior.
        posterior: Vec<f32>,
        /// Of the forward process.
        forward: Vec<f32>,
    },
    /// What they are drawn from ([`crate::kernels::noise::state`]).
    Drawn {
        /// Of the posterior.
        posterior: [i32; STATE_WORDS],
        /// Of the forward process.
        forward: [i32; STATE_WORDS],
    },
}

impl Default for PassNoise {
    fn default() -> Self {
        PassNoise::Drawn { posterior: [0; STATE_WORDS], forward: [0; STATE_WORDS] }
    }
}

/// What a step gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepResult {
    /// The loss, averaged over the passes.
    pub loss: f32,
    /// The parts of the loss by their names, the entropy of the router and the mean weight of each expert, averaged
    /// likewise; then the scale of the loss, where it has one, and whether the update was skipped.
    pub parts: Vec<(String, f32)>,
    /// Norm of the mean gradient before clipping.
    pub grad_norm: f32,
}

/// A program of [`super::record`] with its optimizer.
#[derive(Debug)]
pub struct Stepper {
    /// The program.
    pub program: Program,
    /// The optimizer.
    pub optimizer: Optimizer,
    results: Results,
    weighs: bool,
    decoupled: Option<Decoupled>,
}

impl Stepper {
    /// Joins a program made with `options` and the optimizer made for its trainables.
    ///
    /// # Errors
    /// [`Error::Plan`] for a program that was not made with `options`.
    pub fn new(program: Program, optimizer: Optimizer, options: &StepOptions) -> Result<Self> {
        let (weighs, decoupled) = (options.weighs(), options.decoupled);
        let parts = decoupled.map(|d| d.parts()).unwrap_or_default();
        let router = decoupled.and_then(|d| d.model.fusion).map(|_| ROUTER);
        let names = ["loss"].into_iter().chain(parts).chain(router);
        let outputs = names.map(|name| Ok((name, program.spec(name)?.len())));
        let results = Results::new(outputs.collect::<Result<_>>()?, optimizer.passes());
        Ok(Self { program, optimizer, results, weighs, decoupled })
    }

    /// Columns of the parts of the loss in [`StepResult::parts`].
    pub fn columns(&self) -> Vec<String> {
        self.decoupled.map(|d| d.columns()).unwrap_or_default()
    }

    /// Feeds a batch and runs forward and backward, which adds to the gradient. After the last pass of a step a GPU
    /// updates the trainables in the same graph; nothing waits for it.
    ///
    /// # Errors
    /// [`Error::Shape`] when a vector does not fit; those of the operations.
    pub fn accumulate(&mut self, batch: &Batch) -> Result<()> {
        self.feed(batch)?;
        self.run()
    }

    /// Feeds a batch.
    ///
    /// # Errors
    /// [`Error::Shape`] when a vector does not fit; those of the device.
    pub fn feed(&mut self, batch: &Batch) -> Result<()> {
        let p = &mut self.program;
        p.set("moments", &batch.moments)?;
        match &batch.noise {
            PassNoise::Fed { posterior, forward } => {
                p.set(POSTERIOR_NOISE[0], posterior)?;
                p.set(NOISE[0], forward)?;
            }
            PassNoise::Drawn { posterior, forward } => {
                p.set_i32(POSTERIOR_NOISE[1], posterior)?;
                p.set_i32(NOISE[1], forward)?;
            }
        }
        p.set_i32("timesteps", &batch.timesteps)?;
        p.set("timestep", &batch.timesteps.iter().map(|t| *t as f32).collect::<Vec<_>>())?;
        p.set("weight", &batch.weight)?;
        if self.weighs {
            p.set("coefficient", &batch.coefficient)?;
        }
        for (name, data) in &batch.condition {
            p.set(name, data)?;
        }
        for (name, ids) in &batch.ids {
            p.set_i32(name, ids)?;
        }
        Ok(())
    }

    /// Runs forward and backward on what was fed.
    ///
    /// # Errors
    /// Those of the operations.
    pub fn run(&mut self) -> Result<()> {
        let (before, optimizer) = (self.results.open_passes(), &self.optimizer);
        let launch = || optimizer.launch();
        let last = before + 1 == optimizer.passes();
        self.program.forward_backward(before == 0, if last { Some(&launch) } else { None })?;
        self.results.take(&self.program)
    }

    /// Ends a step: updates the trainables with the mean gradient of its passes (on a GPU that was launched after the last
    /// of them). [`Stepper::results`] tells what came of it.
    ///
    /// # Errors
    /// As [`Optimizer::update`]; [`Error::Plan`] after another number of passes than the optimizer was made for.
    pub fn update(&mut self) -> Result<()> {
        let (passes, want) = (self.results.open_passes(), self.optimizer.passes());
        if passes != want {
            self.reset();
            let problem = format!("an update after {passes} passes, expected {want}");
            return Err(Error::Plan { at: "training step".into(), problem });
        }
        self.results.end(&mut self.program, &mut self.optimizer)
    }

    /// What the steps gave that were not asked for yet, oldest first; up to `ahead` of them may stay under way on a GPU, the
    /// others are waited for.
    ///
    /// # Errors
    /// [`Error::Data`] when a gradient was not finite and the loss is not scaled (the steps after it changed nothing), or
    /// too many updates were skipped; what the launches failed with.
    pub fn results(&mut self, ahead: usize) -> Result<Vec<StepResult>> {
        let mut all = vec![];
        while let Some((passes, updated)) = self.results.read(&mut self.optimizer, ahead)? {
            let mut result = self.mean(&passes);
            result.parts.extend(scale::logged(updated.scale));
            all.push(StepResult { grad_norm: updated.norm, ..result });
        }
        Ok(all)
    }

    /// Loss and parts, averaged over `passes`.
    fn mean(&self, passes: &[Vec<f32>]) -> StepResult {
        let mut result = StepResult::default();
        let mean = 1.0 / passes.len().max(1) as f32;
        for numbers in passes {
            let (loss, rest) = numbers.split_first().unwrap_or((&f32::NAN, &[]));
            result.loss += loss * mean;
            for (i, (name, value)) in self.parts(rest).into_iter().enumerate() {
                match result.parts.get_mut(i) {
                    Some((_, sum)) => *sum += value * mean,
                    None => result.parts.push((name, value * mean)),
                }
            }
        }
        result
    }

    /// The numbers of a pass behind its loss, by their names.
    fn parts(&self, numbers: &[f32]) -> Vec<(String, f32)> {
        let Some(d) = &self.decoupled else { return vec![] };
        let names = d.parts();
        let (values, logits) = numbers.split_at(names.len().min(numbers.len()));
        let one = |(name, value): (&str, &f32)| (name.to_string(), *value);
        let mut parts: Vec<_> = names.into_iter().zip(values).map(one).collect();
        if let Some(f) = d.model.fusion {
            let (entropy, load) = router_statistics(logits, f.experts);
            parts.push(("router_entropy".into(), entropy));
            let of = |(i, load)| (format!("expert_{i}"), load);
            parts.extend(load.into_iter().enumerate().map(of));
        }
        parts
    }

    /// Drops accumulated gradients.
    pub fn reset(&mut self) {
        self.results.drop_open();
    }
}
