//! Steps that a GPU computes while the host goes on: what they gave arrives later, and is the same.
#![allow(clippy::unwrap_used)]

use selvedge::{
    device::Device,
    error::Result,
    kernels::{adamw::AdamW, add::Add, noise},
    models::noise::{NoiseSchedule, Prediction},
    plan::{Program, Recorder, WeightLayout, WeightSource},
    tensor::{DType, Floats, Spec, philox::fill_normal},
    train::{
        Batch, Group, Objective, Optimizer, PassNoise, Rules, StepOptions, StepResult, Stepper,
        record,
    },
};

const SIDE: usize = 4;
const EACH: usize = SIDE * SIDE * 4;
const PASSES: usize = 2;
const SEED: u64 = 5;

/// The prediction itself is the trained parameter.
struct Guess;

impl WeightSource for Guess {
    fn get(&self, _: &str, _: &[usize], _: WeightLayout) -> Result<Option<Floats>> {
        Ok(Some(normal(1, EACH).into()))
    }
}

fn normal(stream: u64, len: usize) -> Vec<f32> {
    let mut data = vec![0.0; len];
    fill_normal(SEED, stream, &mut data);
    data
}

fn devices() -> Vec<Device> {
    let emulated = ["emulated", "emulated:late", "emulated:random:7"];
    let words = if cfg!(feature = "emulate") { &emulated[..] } else { &[] };
    let devices = words.iter().map(|word| Device::parse(word).unwrap());
    [Device::Cpu].into_iter().chain(devices).collect()
}

fn stepper(device: &Device, drawn: bool) -> Stepper {
    let options = StepOptions {
        batch: 1,
        latent: [SIDE; 2],
        channels: 4,
        scale: 1.0,
        noise: NoiseSchedule::stable_diffusion(Prediction::Velocity),
        objective: Objective::Mse,
        decoupled: None,
        checkpoint: false,
        drawn,
        poison: false,
        types: device.types(DType::F32),
    };
    let mut rec = Recorder::in_dtype(options.types);
    rec.train_if(|_| true);
    let predict = |rec: &mut Recorder, _| {
        let guess = rec.param("guess", &[1, SIDE, SIDE, 4], WeightLayout::Dense);
        rec.cast(guess, DType::F32)
    };
    let plan = record(rec, &options, None, predict).unwrap();
    let mut program = plan.load(device.clone(), &Guess).unwrap();
    let group = |_: &str| Group { learning_rate: 1e-2, adamw: AdamW::default() };
    let rules = Rules { passes: PASSES, ..Rules::constant(0.05) };
    let optimizer = Optimizer::new(&mut program, group, rules).unwrap();
    Stepper::new(program, optimizer, &options).unwrap()
}

fn batch(pass: u64, drawn: bool) -> Batch {
    let (posterior, forward) = (200 + pass, 300 + pass);
    let noise = match drawn {
        true => PassNoise::Drawn {
            posterior: noise::state(SEED, posterior),
            forward: noise::state(SEED, forward),
        },
        false => {
            PassNoise::Fed { posterior: normal(posterior, EACH), forward: normal(forward, EACH) }
        }
    };
    Batch {
        moments: normal(100 + pass, 2 * EACH),
        noise,
        timesteps: vec![500],
        weight: vec![1.0; SIDE * SIDE],
        coefficient: vec![1.0],
        ..Batch::default()
    }
}

/// Launches step `step`.
fn step(stepper: &mut Stepper, step: u64, drawn: bool) {
    for pass in 0..PASSES as u64 {
        stepper.accumulate(&batch(step * PASSES as u64 + pass, drawn)).unwrap();
    }
    stepper.update().unwrap();
}

/// What six steps gave with `ahead` of them under way, how many results came after each, and the weights at the end.
fn six(device: &Device, ahead: usize, drawn: bool) -> (Vec<StepResult>, Vec<usize>, Vec<u32>) {
    let mut stepper = stepper(device, drawn);
    let (mut all, mut counts) = (vec![], vec![]);
    for i in 0..6 {
        step(&mut stepper, i, drawn);
        let came = stepper.results(ahead).unwrap();
        counts.push(came.len());
        all.extend(came);
    }
    all.extend(stepper.results(0).unwrap());
    assert!(stepper.results(0).unwrap().is_empty());
    let master = stepper.program.master().unwrap();
    (all, counts, master.iter().map(|x| x.to_bits()).collect())
}

#[test]
fn results_come_later_from_a_gpu_and_are_the_same() {
    for device in devices() {
        let (want, counts, weights) = six(&device, 0, true);
        assert_eq!(counts, [1; 6]);
        assert!(want.iter().all(|r| r.loss > 0.1 && r.grad_norm > 0.0));
        assert!(want.windows(2).all(|w| w[0] != w[1]));
        for ahead in [1, 3] {
            let (all, counts, same) = six(&device, ahead, true);
            let first = if matches!(device, Device::Cpu) { 0 } else { ahead };
            let expected: Vec<usize> = (0..6).map(|i| usize::from(i >= first)).collect();
            assert_eq!((all, counts, same), (want.clone(), expected, weights.clone()));
        }
    }
}

#[test]
fn noise_that_the_program_draws_is_the_noise_that_would_be_fed() {
    for device in devices() {
        assert_eq!(six(&device, 1, true), six(&device, 1, false));
    }
    let mut fed = stepper(&Device::Cpu, false);
    let error = fed.accumulate(&batch(0, true)).unwrap_err().to_string();
    assert!(error.contains("posterior_noise_state"), "{error}");
}

#[test]
fn after_a_gradient_that_is_not_finite_the_steps_under_way_change_nothing() {
    for device in devices().into_iter().skip(1) {
        let mut stepper = stepper(&device, true);
        step(&mut stepper, 0, true);
        stepper.results(0).unwrap();
        let before = stepper.optimizer.state(&stepper.program).unwrap();
        let bad = Batch { weight: vec![f32::NAN; SIDE * SIDE], ..batch(2, true) };
        stepper.accumulate(&bad).unwrap();
        stepper.accumulate(&batch(3, true)).unwrap();
        stepper.update().unwrap();
        step(&mut stepper, 2, true);
        let error = stepper.results(1).unwrap_err().to_string();
        assert!(error.contains("step 2") && error.contains("not finite"), "{error}");
        assert_eq!(stepper.optimizer.state(&stepper.program).unwrap(), before);
    }
}

#[test]
fn another_number_of_passes_is_refused_and_forgotten() {
    for device in devices() {
        let mut stepper = stepper(&device, true);
        stepper.accumulate(&batch(0, true)).unwrap();
        let error = stepper.update().unwrap_err().to_string();
        assert!(error.contains("an update after 1 passes, expected 2"), "{error}");
        step(&mut stepper, 0, true);
        assert_eq!(stepper.results(0).unwrap().len(), 1);
    }
}

/// `out = x + x` of `rows` rows.
fn twice(device: &Device, dims: &[usize]) -> Program {
    let mut rec = Recorder::new();
    let x = rec.input("x", Spec::f32(dims));
    let out = rec.apply(Add, &[x, x]).unwrap();
    rec.plan_inference(out).unwrap().load(device.clone(), &Guess).unwrap()
}

#[test]
fn a_program_takes_a_row_from_another_one() {
    for device in devices() {
        let (mut one, mut all) = (twice(&device, &[1, 4]), twice(&device, &[3, 4]));
        all.set("x", &[1.0; 12]).unwrap();
        for row in [2, 0] {
            one.set("x", &[row as f32; 4]).unwrap();
            one.forward().unwrap();
            all.adopt(("x", row), &one, "out").unwrap();
        }
        all.forward().unwrap();
        assert_eq!(all.get("out").unwrap(), [[0.0; 4], [2.0; 4], [8.0; 4]].concat());
        let (other, cpu) = (twice(&device, &[1, 3]), twice(&Device::Cpu, &[1, 4]));
        let mut refused = |row, from: &Program, output: &str| {
            all.adopt(("x", row), from, output).unwrap_err().to_string()
        };
        assert!(refused(3, &one, "out").contains("as row 3 of [3, 4]"));
        assert!(refused(0, &other, "out").contains("[1, 3]"));
        assert!(refused(0, &one, "nothing").contains("nothing"));
        if !matches!(device, Device::Cpu) {
            let error = refused(0, &cpu, "out");
            assert!(error.contains("out lies on cpu, not on emulated"), "{error}");
        }
    }
}
