//! The loss of a pass by hand: prior part and lambda, min-SNR, and no gradient outside the mask.
#![allow(clippy::unwrap_used)]

use selvedge::{
    data::config::MethodConfig,
    device::Device,
    error::Result,
    models::noise::{NoiseSchedule, Prediction},
    plan::{Program, Recorder, WeightLayout, WeightSource},
    tensor::{DType, Floats, philox::fill_normal},
    train::{Objective, Prepared, StepOptions, TrainingSample, coefficients, record},
};

const SIDE: usize = 4;
const CHANNELS: usize = 4;
const EACH: usize = SIDE * SIDE * CHANNELS;

fn noise() -> NoiseSchedule {
    NoiseSchedule::stable_diffusion(Prediction::Epsilon)
}

fn normal(stream: u64, len: usize) -> Vec<f32> {
    let mut data = vec![0.0; len];
    fill_normal(5, stream, &mut data);
    data
}

/// The prediction itself is the trained parameter.
struct Guess(Vec<f32>);

impl WeightSource for Guess {
    fn get(&self, _: &str, _: &[usize], _: WeightLayout) -> Result<Option<Floats>> {
        Ok(Some(self.0.clone().into()))
    }
}

/// A step of `batch` samples whose prediction is the parameter `guess`.
fn program(batch: usize) -> Program {
    let options = StepOptions {
        batch,
        latent: [SIDE; 2],
        channels: CHANNELS,
        scale: 1.0,
        noise: noise(),
        objective: Objective::Mse,
        decoupled: None,
        checkpoint: false,
        drawn: false,
        poison: true,
        types: DType::F32.into(),
    };
    let mut rec = Recorder::new();
    rec.train_if(|_| true);
    let dims = [batch, SIDE, SIDE, CHANNELS];
    let plan =
        record(rec, &options, None, |rec, _| Ok(rec.param("guess", &dims, WeightLayout::Dense)))
            .unwrap();
    plan.load(Device::Cpu, &Guess(normal(1, batch * EACH))).unwrap()
}

/// Loss and gradient of one pass with these loss weights and coefficients.
fn run(weight: &[f32], coefficient: &[f32]) -> (f32, Vec<f32>) {
    let n = coefficient.len();
    let mut p = program(n);
    p.set("moments", &normal(2, 2 * n * EACH)).unwrap();
    p.set("posterior_noise", &normal(3, n * EACH)).unwrap();
    p.set("noise", &normal(4, n * EACH)).unwrap();
    p.set_i32("timesteps", &vec![500; n]).unwrap();
    let e = p.set_i32("timesteps", &vec![1000; n]).unwrap_err().to_string();
    assert!(e.contains("timestep 1000") && e.contains("0 to 999"), "{e}");
    p.set("timestep", &vec![500.0; n]).unwrap();
    p.set("weight", weight).unwrap();
    p.set("coefficient", coefficient).unwrap();
    p.forward_backward(true, None).unwrap();
    (p.loss().unwrap(), p.grad("guess").unwrap())
}

fn pass(priors: &[bool], timesteps: &[i32]) -> Prepared {
    let sample = |prior: &bool| TrainingSample { prior: *prior, ..TrainingSample::default() };
    let samples = priors.iter().map(sample).collect();
    Prepared { samples, timesteps: timesteps.to_vec(), ..Prepared::default() }
}

/// `mean (guess - noise)^2` of sample `i`, by hand.
fn error_of(i: usize, n: usize) -> f64 {
    let (guess, noise) = (normal(1, n * EACH), normal(4, n * EACH));
    let at = i * EACH..(i + 1) * EACH;
    let squares = guess[at.clone()].iter().zip(&noise[at]).map(|(g, e)| f64::from(g - e).powi(2));
    squares.sum::<f64>() / EACH as f64
}

#[test]
fn the_prior_loss_is_its_own_mean_times_lambda() {
    let method = |prior_weight| MethodConfig { prior_weight, ..MethodConfig::default() };
    let priors = [false, false, false, true, true];
    let weight = vec![1.0; 5 * SIDE * SIDE];
    for lambda in [0.0, 0.25, 1.0, 2.0] {
        let c = coefficients(&method(lambda), &noise(), &pass(&priors, &[500; 5]));
        let l = lambda as f32;
        assert_eq!(c, [1.0f32 / 3.0, 1.0 / 3.0, 1.0 / 3.0, l / 2.0, l / 2.0]);
        let (loss, _) = run(&weight, &c);
        let own = (0..3).map(|i| error_of(i, 5)).sum::<f64>() / 3.0;
        let prior = (3..5).map(|i| error_of(i, 5)).sum::<f64>() / 2.0;
        let want = own + lambda * prior;
        assert!((f64::from(loss) - want).abs() < 1e-5 * want, "lambda {lambda}: {loss} {want}");
    }
    let alone = coefficients(&method(3.0), &noise(), &pass(&[false, false], &[500; 2]));
    assert_eq!(alone, [0.5, 0.5], "without a prior picture lambda changes nothing");
}

#[test]
fn min_snr_multiplies_the_coefficient_of_each_sample() {
    let method = MethodConfig { min_snr_gamma: 5.0, prior_weight: 2.0, ..MethodConfig::default() };
    let c = coefficients(&method, &noise(), &pass(&[false, true], &[10, 900]));
    let snr = |t: usize| {
        let abar = f64::from(noise().alphas_cumprod[t]);
        abar / (1.0 - abar)
    };
    let want = [snr(10).min(5.0) / snr(10), 2.0 * (snr(900).min(5.0) / snr(900))];
    for (c, want) in c.iter().zip(want) {
        assert!((f64::from(*c) - want).abs() < 1e-6, "{c} {want}");
    }
    assert!(c[0] < 0.1 && c[1] == 2.0);
}

#[test]
fn outside_the_mask_the_gradient_is_exactly_zero() {
    // the left half of the first sample is outside its mask, soft_alpha = 0; the second has no mask
    let inside = |i: usize, p: usize| i == 1 || p % SIDE >= SIDE / 2;
    let weight: Vec<f32> = (0..2)
        .flat_map(|i| (0..SIDE * SIDE).map(move |p| if inside(i, p) { 1.0 } else { 0.0 }))
        .collect();
    let (loss, grad) = run(&weight, &[0.5, 0.5]);
    let (guess, noise) = (normal(1, 2 * EACH), normal(4, 2 * EACH));
    let mut sum = 0.0;
    for (k, g) in grad.iter().enumerate() {
        let (i, p) = (k / EACH, k % EACH / CHANNELS);
        let error = f64::from(guess[k] - noise[k]);
        if !inside(i, p) {
            assert_eq!(*g, 0.0, "{k}");
            continue;
        }
        sum += 0.5 * error * error / EACH as f64;
        let want = 0.5 * 2.0 * error / EACH as f64;
        assert!((f64::from(*g) - want).abs() < 1e-6, "{k}: {g} {want}");
    }
    assert!((f64::from(loss) - sum).abs() < 1e-5, "{loss} {sum}");
}
