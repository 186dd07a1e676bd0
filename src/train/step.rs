//! One training step as a program: posterior, noise, prediction, loss, backward, update.

use super::{
    Decoupled, NoiseSchedule, Prediction,
    decoupled::{Branches, Term},
};
use crate::{
    error::{Error, Result},
    kernels::{
        add::Add,
        affine::Affine,
        diffuse::{Diffuse, Noising},
        loss::{Dco, MaskedMse},
        noise::{Normal, STATE_WORDS},
        posterior::Posterior,
    },
    plan::{Pass, Plan, PlanOptions, Recorder, Value},
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
    /// Draw the noise in the program, from the states it is fed; else the noise itself is fed.
    pub drawn: bool,
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
/// Inputs: `moments [N, h, w, 2C]`, `posterior_noise`, `noise [N, h, w, C]` (or what they are drawn from:
/// `posterior_noise_state`, `noise_state [1, 4]`, see [`crate::kernels::noise::state`]), `timesteps [N]` (i32) and `timestep
/// [N]` (f32, the same numbers), `weight [N, h, w]`, `coefficient [N]` (not for DCO), and what `predict` adds. `branches` are
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
    let posterior_noise = options.normals(r, POSTERIOR_NOISE, &latent)?;
    let noise = options.normals(r, NOISE, &latent)?;
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

/// Inputs with the noise of a step: what is fed where it is not drawn, and else the state it is drawn from.
pub(super) const POSTERIOR_NOISE: [&str; 2] = ["posterior_noise", "posterior_noise_state"];
/// The noise of the forward process, likewise.
pub(super) const NOISE: [&str; 2] = ["noise", "noise_state"];

/// Name of the output with a router's logits.
pub(super) const ROUTER: &str = "router";

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

    /// Standard normals of `spec`: fed, or one stream of them.
    fn normals(&self, r: &mut Recorder, [fed, state]: [&str; 2], spec: &Spec) -> Result<Value> {
        if !self.drawn {
            return Ok(r.input(fed, spec.clone()));
        }
        let state = r.input(state, Spec::i32(&[1, STATE_WORDS]));
        let drawn = r.scope(fed, |r| r.apply(Normal { dims: spec.dims.clone() }, &[state]))?;
        r.view(drawn, &spec.dims)
    }
}
