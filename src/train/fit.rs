//! Whether a training run fits into memory, and which settings near it would.

use super::StepOptions;
use crate::{
    data::config::TrainSection,
    device::Device,
    error::{Error, Result},
    plan::Plan,
    tensor::DType,
};

/// What a plan needs on its device: weights and arena, bytes.
pub fn plan_bytes(plan: &Plan) -> u64 {
    let s = plan.summary();
    (s.weight_bytes + s.arena_bytes) as u64
}

/// Both moments of the optimizer, bytes.
pub fn moment_bytes(plan: &Plan) -> u64 {
    8 * plan.summary().trainable_elements as u64
}

/// The moving average of what is trained, bytes; 0 when `train` keeps none.
pub fn average_bytes(plan: &Plan, train: &TrainSection) -> u64 {
    if train.ema { 4 * plan.summary().trainable_elements as u64 } else { 0 }
}

/// What a training step needs: its plan, both moments of the optimizer, the moving average.
pub fn step_bytes(plan: &Plan, train: &TrainSection) -> u64 {
    plan_bytes(plan) + moment_bytes(plan) + average_bytes(plan, train)
}

/// A run's need of memory.
#[derive(Clone, Copy, Debug)]
pub struct Need<'a> {
    /// The step.
    pub plan: &'a Plan,
    /// What stands beside it, bytes.
    pub others: u64,
    /// What sample pictures need beside both, bytes.
    pub samples: u64,
    /// Settings of the run.
    pub train: &'a TrainSection,
}

/// Refuses a run that does not fit, before anything is allocated.
///
/// # Errors
/// [`Error::OutOfMemory`] that names the nearest settings that fit; those of `plan_with`.
pub fn check(
    device: &Device,
    need: &Need<'_>,
    options: &StepOptions,
    plan_with: impl Fn(&StepOptions) -> Result<Plan>,
) -> Result<()> {
    let Need { plan, others, samples, train } = *need;
    let bytes = |plan: &Plan| step_bytes(plan, train) + others + samples;
    let need = bytes(plan);
    let Some(have) = device.free_bytes()?.filter(|have| need > *have) else { return Ok(()) };
    let fits = |options: &StepOptions| Ok(bytes(&plan_with(options)?) <= have);
    let mut words = nearest(options, train.batch, fits)?;
    if samples > 0 && need - samples <= have {
        words.insert(0, "train.sample_every = 0".into());
    }
    let fix = match words {
        words if words.is_empty() => "no setting of this base fits; use a smaller base".into(),
        words => format!("this would fit: {}", words.join(", or ")),
    };
    Err(Error::OutOfMemory { need_bytes: need, have_bytes: have, largest: plan.largest(5), fix })
}

/// Every single change that fits; where none does, the shortest list of changes together.
fn nearest(
    options: &StepOptions,
    pictures: usize,
    fits: impl Fn(&StepOptions) -> Result<bool>,
) -> Result<Vec<String>> {
    let (mut alone, mut together, mut words) = (vec![], options.clone(), vec![]);
    for (word, change) in changes(options, pictures) {
        let mut changed = options.clone();
        change(&mut changed);
        if fits(&changed)? {
            alone.push(word.clone());
        }
    }
    if !alone.is_empty() {
        return Ok(alone);
    }
    for (word, change) in changes(options, pictures) {
        change(&mut together);
        words.push(word);
        if fits(&together)? {
            return Ok(vec![words.join(" with ")]);
        }
    }
    Ok(vec![])
}

type Change = Box<dyn Fn(&mut StepOptions)>;

/// Changes of the settings, the least painful first.
fn changes(options: &StepOptions, pictures: usize) -> Vec<(String, Change)> {
    let mut all: Vec<(String, Change)> = vec![];
    if options.types.products() == DType::F32 {
        let narrow: Change = Box::new(|o| o.types = o.types.with(DType::Bf16));
        all.push(("--dtype bf16".into(), narrow));
    }
    if !options.checkpoint {
        all.push(("train.checkpoint_gradients = true".into(), Box::new(|o| o.checkpoint = true)));
    }
    if pictures > 1 {
        let one = options.batch / pictures;
        all.push(("train.batch = 1".into(), Box::new(move |o| o.batch = one)));
    }
    let [h, w] = options.latent;
    for (numerator, denominator) in [(3, 4), (1, 2)] {
        let side = |n: usize| (n * numerator / denominator / 8 * 8).max(8);
        if side(h) < h {
            let latent = [side(h), side(w)];
            let word = format!("train.resolution at {numerator}/{denominator} of it");
            all.push((word, Box::new(move |o| o.latent = latent)));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kernels::affine::Affine,
        plan::Recorder,
        tensor::Spec,
        train::{NoiseSchedule, Objective, Prediction},
    };

    fn options() -> StepOptions {
        StepOptions {
            batch: 8,
            latent: [128; 2],
            channels: 4,
            scale: 1.0,
            noise: NoiseSchedule::stable_diffusion(Prediction::Epsilon),
            objective: Objective::Mse,
            decoupled: None,
            checkpoint: false,
            drawn: true,
            poison: false,
            types: DType::F32.into(),
        }
    }

    #[test]
    fn single_changes_come_first_and_then_the_shortest_list() {
        let by_batch = nearest(&options(), 4, |o| Ok(o.batch == 2)).unwrap();
        assert_eq!(by_batch, ["train.batch = 1"]);
        let both = |o: &StepOptions| Ok(o.checkpoint && o.types.products() == DType::Bf16);
        let words = nearest(&options(), 4, both).unwrap();
        assert_eq!(words, ["--dtype bf16 with train.checkpoint_gradients = true"]);
        assert!(nearest(&options(), 4, |_| Ok(false)).unwrap().is_empty());
    }

    #[test]
    fn sample_pictures_are_in_the_forecast_and_the_first_to_go() {
        let mut rec = Recorder::new();
        let x = rec.input("x", Spec::f32(&[64]));
        let y = rec.apply(Affine { scale: 2.0, shift: 0.0 }, &[x]).unwrap();
        let plan = rec.plan_inference(y).unwrap();
        let train = TrainSection::default();
        let need = |samples| Need { plan: &plan, others: 0, samples, train: &train };
        let no_other = |_: &StepOptions| Err(Error::Plan { at: "".into(), problem: "".into() });
        check(&Device::Cpu, &need(1 << 10), &options(), no_other).unwrap();
        let again = |_: &StepOptions| {
            let mut rec = Recorder::new();
            let x = rec.input("x", Spec::f32(&[64]));
            let y = rec.apply(Affine { scale: 2.0, shift: 0.0 }, &[x])?;
            rec.plan_inference(y)
        };
        match check(&Device::Cpu, &need(1 << 60), &options(), again).unwrap_err() {
            Error::OutOfMemory { need_bytes, fix, .. } => {
                assert!(need_bytes > 1 << 60);
                assert_eq!(fix, "this would fit: train.sample_every = 0");
            }
            other => panic!("{other}"),
        }
    }
}
