//! One training step as a program: posterior, noise, prediction, loss, backward, update.

use super::{
    Decoupled, NoiseSchedule, Optimizer, Prediction,
    decoupled::{Branches, Term, router_statistics},
};
use crate::{
    error::{Error, Result},
    kernels::{
        add::Add,
        affine::Affine,
        diffuse::{Diffuse, Noising},
        loss::{Dco, MaskedMse},
        posterior::Posterior,
    },
    plan::{Pass, Plan, PlanOptions, Program, Recorder, Value},
    tensor::{DType, Spec, Types},
};

/// What the loss compares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// Weighted squared error; see [`MaskedMse`].
    Mse,
    /// Preference over the model without adapters; see [`Dco`].
    Dco {
        /// How strongly the difference counts.
        beta: f32,
    },
}

/// Everything the recording of a step depends on besides the model.
#[derive(Clone, Debug)]
pub struct StepOptions {
    /// Samples of a pass, prior samples included.
    pub batch: usize,
    /// Latent height and width.
    pub latent: [usize; 2],
    /// Latent channels.
    pub channels: usize,
    /// Latent factor of the VAE.
    pub scale: f32,
    /// The base model's noise schedule.
    pub noise: NoiseSchedule,
    /// The loss.
    pub objective: Objective,
    /// How photos are decoupled from their subjects; not at all without.
    pub decoupled: Option<Decoupled>,
    /// Recompute activations.
    pub checkpoint: bool,
    /// Fill dead buffers with NaN (tests).
    pub poison: bool,
    /// How numbers are stored.
    pub types: Types,
}

/// What the recorded prediction is made from.
#[derive(Clone, Copy, Debug)]
pub struct Noisy {
    /// Noisy latents `[N, h, w, C]`.
    pub latents: Value,
    /// Timesteps `[N]`, f32.
    pub timestep: Value,
    /// Which of the step's predictions it is.
    pub pass: Predicted,
}

/// The predictions of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predicted {
    /// With everything that is trained.
    Trained,
    /// DCO's reference: the base alone.
    Base,
    /// DisenBooth's weak loss: from the text alone.
    Weak,
}

/// Records a step around `predict` and plans it.
///
/// Inputs: `moments [N, h, w, 2C]`, `posterior_noise`, `noise [N, h, w, C]`, `timesteps [N]` (i32) and `timestep [N]`
/// (f32, the same numbers), `weight [N, h, w]`, `coefficient [N]` (not for DCO), and what `predict` adds. `branches` are
/// those of a decoupled step, whose parts are added to the loss, each an output of its name.
///
/// # Errors
/// Those of `predict`; [`Error::Plan`] when nothing is trained.
pub fn record(
    mut rec: Recorder,
    options: &StepOptions,
    branches: Option<&Branches>,
    mut predict: impl FnMut(&mut Recorder, Noisy) -> Result<Value>,
) -> Result<Plan> {
    let (n, [h, w], c) = (options.batch, options.latent, options.channels);
    let r = &mut rec;
    let latent = Spec::f32(&[n, h, w, c]);
    let moments = r.input("moments", Spec::f32(&[n, h, w, 2 * c]));
    let posterior_noise = r.input("posterior_noise", latent.clone());
    let noise = r.input("noise", latent);
    let timesteps = r.input("timesteps", Spec::i32(&[n]));
    let timestep = r.input("timestep", Spec::f32(&[n]));
    let weight = r.input("weight", Spec::f32(&[n, h, w]));
    let table = options.noise.alphas_cumprod.clone();
    let table = r.table("alphas_cumprod", &[table.len()], table);
    let posterior = Posterior { scale: options.scale };
    let z = r.scope("latents", |r| r.apply(posterior, &[moments, posterior_noise]))?;
    let mixed = [z, noise, timesteps, table];
    let x = r.scope("noisy", |r| r.apply(Diffuse { mix: Noising::Noisy }, &mixed))?;
    let target = match options.noise.prediction {
        Prediction::Epsilon => noise,
        Prediction::Velocity => {
            r.scope("target", |r| r.apply(Diffuse { mix: Noising::Velocity }, &mixed))?
        }
    };
    let noisy = Noisy { latents: x, timestep, pass: Predicted::Trained };
    let weighs = options.weighs();
    let coefficient = weighs.then(|| r.input("coefficient", Spec::f32(&[n])));
    let loss = match options.objective {
        Objective::Mse => {
            let coefficient = known(coefficient)?;
            let prediction = predict(r, noisy)?;
            let ins = [prediction, target, weight, coefficient];
            r.scope("loss", |r| r.apply(MaskedMse, &ins))?
        }
        Objective::Dco { beta } => {
            let frozen = Noisy { pass: Predicted::Base, ..noisy };
            let reference = r.scope("reference", |r| predict(r, frozen))?;
            let prediction = predict(r, noisy)?;
            let ins = [prediction, reference, target, weight];
            r.scope("loss", |r| r.apply(Dco { beta }, &ins))?
        }
    };
    let (checkpoint, poison) = (options.checkpoint, options.poison);
    let (mut sum, mut outputs) = (loss, vec![]);
    if let (Some(d), Some(b)) = (&options.decoupled, branches) {
        let mut terms = b.terms.clone();
        if b.weak.is_some() {
            let prediction = predict(r, Noisy { pass: Predicted::Weak, ..noisy })?;
            let ins = [prediction, target, weight, known(coefficient)?];
            let value = r.scope("weak", |r| r.apply(MaskedMse, &ins))?;
            terms.push(Term { name: "weak", weight: d.weights.weak, value });
        }
        outputs.push(("diffusion", loss));
        sum = r.scope("sum", |r| {
            let mut sum = scaled(r, loss, d.weights.diffusion)?;
            for term in &terms {
                let part = scaled(r, term.value, term.weight)?;
                sum = r.apply(Add, &[sum, part])?;
            }
            Ok(sum)
        })?;
        outputs.extend(terms.iter().map(|t| (t.name, t.value)));
        if let Some(logits) = b.logits {
            outputs.push((ROUTER, r.cast(logits, DType::F32)?));
        }
    }
    outputs.insert(0, ("loss", sum));
    rec.plan(&outputs, PlanOptions { pass: Pass::Loss(sum), checkpoint, poison })
}

/// Name of the output with a router's logits.
const ROUTER: &str = "router";

fn scaled(r: &mut Recorder, x: Value, scale: f32) -> Result<Value> {
    if scale == 1.0 { Ok(x) } else { r.apply(Affine { scale, shift: 0.0 }, &[x]) }
}

fn known(coefficient: Option<Value>) -> Result<Value> {
    let problem = "no coefficients are fed".into();
    coefficient.ok_or_else(|| Error::Plan { at: "loss".into(), problem })
}

impl StepOptions {
    /// Whether the step reads `coefficient`: a mean squared error is part of its loss.
    pub fn weighs(&self) -> bool {
        self.objective == Objective::Mse || self.decoupled.is_some_and(|d| d.weights.weak != 0.0)
    }
}

/// The numbers of one pass; every vector as long as the input of its name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// VAE moments `[N, h, w, 2C]`.
    pub moments: Vec<f32>,
    /// Noise of the posterior `[N, h, w, C]`.
    pub posterior_noise: Vec<f32>,
    /// Noise of the forward process `[N, h, w, C]`.
    pub noise: Vec<f32>,
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

/// A program of [`record`] with its optimizer.
#[derive(Debug)]
pub struct Stepper {
    /// The program.
    pub program: Program,
    /// The optimizer.
    pub optimizer: Optimizer,
    passes: usize,
    weighs: bool,
    decoupled: Option<Decoupled>,
}

impl Stepper {
    /// Joins a program made with `options` and the optimizer made for its trainables.
    pub fn new(program: Program, optimizer: Optimizer, options: &StepOptions) -> Self {
        let (weighs, decoupled) = (options.weighs(), options.decoupled);
        Self { program, optimizer, passes: 0, weighs, decoupled }
    }

    /// Columns of what [`Stepper::parts`] gives.
    pub fn columns(&self) -> Vec<String> {
        self.decoupled.map(|d| d.columns()).unwrap_or_default()
    }

    /// The parts of the last pass's loss by their names, the entropy of the router and the mean weight of each expert;
    /// nothing where the loss is one.
    ///
    /// # Errors
    /// Those of the device.
    pub fn parts(&self) -> Result<Vec<(String, f32)>> {
        let Some(d) = &self.decoupled else { return Ok(vec![]) };
        let mut parts = vec![];
        for name in d.parts() {
            let value = self.program.get(name)?.first().copied().unwrap_or(f32::NAN);
            parts.push((name.to_string(), value));
        }
        if let Some(f) = d.model.fusion {
            let (entropy, load) = router_statistics(&self.program.get(ROUTER)?, f.experts);
            parts.push(("router_entropy".into(), entropy));
            let of = |(i, load)| (format!("expert_{i}"), load);
            parts.extend(load.into_iter().enumerate().map(of));
        }
        Ok(parts)
    }

    /// Feeds a batch, runs forward and backward, adds to the gradient; returns the loss of this pass. After the last pass
    /// of a step a GPU updates the trainables in the same graph.
    ///
    /// # Errors
    /// [`Error::Shape`] when a vector does not fit; those of the operations.
    pub fn accumulate(&mut self, batch: &Batch) -> Result<f32> {
        let p = &mut self.program;
        p.set("moments", &batch.moments)?;
        p.set("posterior_noise", &batch.posterior_noise)?;
        p.set("noise", &batch.noise)?;
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
        let (first, optimizer) = (self.passes == 0, &self.optimizer);
        self.passes += 1;
        let launch = || optimizer.launch();
        let last = self.passes == optimizer.passes();
        p.forward_backward(first, if last { Some(&launch) } else { None })?;
        p.loss()
    }

    /// Ends a step: updates the trainables with the mean gradient of its passes (a GPU did so after the last of them);
    /// returns its norm before clipping.
    ///
    /// # Errors
    /// As [`Optimizer::update`]; [`Error::Plan`] after another number of passes than the optimizer was made for.
    pub fn update(&mut self) -> Result<f32> {
        let (passes, want) = (std::mem::take(&mut self.passes), self.optimizer.passes());
        if passes != want {
            let problem = format!("an update after {passes} passes, expected {want}");
            return Err(Error::Plan { at: "training step".into(), problem });
        }
        self.optimizer.update(&mut self.program)
    }

    /// Drops accumulated gradients.
    pub fn reset(&mut self) {
        self.passes = 0;
    }
}
