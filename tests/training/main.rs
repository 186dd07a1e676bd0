//! Ten training steps equal diffusers + peft + torch (`tools/fixtures/make_training.py`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod decoupled;

use selvedge::{
    device::Device,
    error::Result,
    kernels::adamw::AdamW,
    lora::Adapter,
    models::unet::UnetConfig,
    plan::{Recorder, WeightLayout, WeightSource},
    tensor::{DType, Floats, Tensor, safetensors::SafeFile},
    train::{
        Batch, Decoupled, Group, InitialWeights, NoiseSchedule, Objective, Optimizer, PassNoise,
        Patterns, Prediction, Rules, StepOptions, Stepper, Trained, plan_step, text_inputs,
        unet_params,
    },
};

const STEPS: usize = 10;
const BATCH: usize = 2;
const ACCUMULATE: usize = 2;

fn open(name: &str) -> SafeFile {
    SafeFile::open(format!("{}/tests/fixtures/training/{name}", env!("CARGO_MANIFEST_DIR")))
        .unwrap()
}

/// The fixture's U-Net weights, stored in half precision under names without `unet.`.
struct Weights(SafeFile);

impl WeightSource for Weights {
    fn get(&self, name: &str, dims: &[usize], layout: WeightLayout) -> Result<Option<Floats>> {
        let tensor = self.0.f32(name.trim_start_matches("unet."))?;
        assert_eq!(tensor.dims, layout.checkpoint_dims(dims), "{name}");
        Ok(Some(layout.to_runtime(dims, tensor.data).into()))
    }
}

/// One kind of training.
struct Run {
    kind: &'static str,
    decoupled: Option<Decoupled>,
    objective: Objective,
    prediction: Prediction,
    clip: f32,
}

const RUNS: [Run; 4] = [
    Run {
        kind: "plain",
        decoupled: None,
        objective: Objective::Mse,
        prediction: Prediction::Epsilon,
        clip: 0.04,
    },
    Run {
        kind: "min_snr",
        decoupled: None,
        objective: Objective::Mse,
        prediction: Prediction::Epsilon,
        clip: 0.04,
    },
    Run {
        kind: "velocity",
        decoupled: None,
        objective: Objective::Mse,
        prediction: Prediction::Velocity,
        clip: 1.0,
    },
    Run {
        kind: "dco",
        decoupled: None,
        objective: Objective::Dco { beta: 1000.0 },
        prediction: Prediction::Epsilon,
        clip: 1.0,
    },
];

fn stepper(run: &Run, checkpoint: bool) -> Stepper {
    let json = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/training/config.json"
    ));
    let config = UnetConfig::from_json(&serde_json::from_str(&json.unwrap()).unwrap()).unwrap();
    let words = ["to_q", "to_k", "to_v", "to_out.0"].map(String::from);
    let params = unet_params(&config).unwrap();
    let adapter = Adapter { rank: 4, scale: 6.0 / 4.0 };
    let patterns = Patterns::new("targets", &words).unwrap();
    let trained = Trained::Adapters(patterns.adapt("targets", &params, adapter).unwrap());
    let options = StepOptions {
        batch: BATCH,
        latent: [8, 8],
        channels: 4,
        scale: 0.13025,
        noise: NoiseSchedule::stable_diffusion(run.prediction),
        objective: run.objective,
        decoupled: run.decoupled,
        checkpoint,
        drawn: false,
        poison: true,
        types: DType::F32.into(),
    };
    let text = |rec: &mut Recorder, _: &_| Ok(text_inputs(rec, &config, BATCH, 7));
    let plan = plan_step(&config, &trained, &options, text).unwrap();
    let mut start = InitialWeights::new(Weights(open("diffusion_pytorch_model.safetensors")), 0);
    let expected = open("expected.safetensors");
    for name in expected.entries().keys().filter_map(|n| n.strip_prefix("start.")) {
        start.give(&format!("unet.{name}"), expected.f32(&format!("start.{name}")).unwrap().data);
    }
    if run.decoupled.is_some() {
        decoupled::give(&mut start, run.kind);
    }
    let mut program = plan.load(Device::Cpu, &start).unwrap();
    let adamw = AdamW { weight_decay: 1e-2, ..AdamW::default() };
    let group = |_: &str| Group { learning_rate: 2e-3, adamw };
    let factors = (0..STEPS).map(factor).collect();
    let rules = Rules { passes: ACCUMULATE, factors, ..Rules::constant(run.clip) };
    let optimizer = Optimizer::new(&mut program, group, rules).unwrap();
    Stepper::new(program, optimizer, &options).unwrap()
}

/// Row `i` of the first axis, channels moved last when there are pictures.
fn row(all: &Tensor, i: usize) -> Vec<f32> {
    let each = all.data.len() / all.dims[0];
    let data = all.data[i * each..(i + 1) * each].to_vec();
    let t = Tensor::new(&all.dims[1..], data).unwrap();
    if t.dims.len() == 4 { t.permuted(&[0, 2, 3, 1]).data } else { t.data }
}

fn batch(file: &SafeFile, i: usize, run: &Run, noise: &NoiseSchedule) -> Batch {
    let get = |name: &str| row(&file.f32(name).unwrap(), i);
    let all = file.i32("timesteps").unwrap();
    let timesteps = all[i * BATCH..(i + 1) * BATCH].to_vec();
    let coefficient = |t: &i32| match run.kind {
        "min_snr" => noise.min_snr(*t as usize, 5.0) / BATCH as f32,
        _ => 1.0 / BATCH as f32,
    };
    let conditions = ["context", "text_embeds", "time_ids"];
    Batch {
        moments: get("moments"),
        noise: PassNoise::Fed { posterior: get("posterior_noise"), forward: get("noise") },
        coefficient: timesteps.iter().map(coefficient).collect(),
        timesteps,
        weight: row(&file.f32("weight").unwrap(), i),
        condition: conditions.map(|name| (name, get(name))).into(),
        ids: vec![],
    }
}

/// diffusers' cosine schedule with two warm-up steps.
fn factor(step: usize) -> f64 {
    match step {
        0 | 1 => step as f64 / 2.0,
        _ => 0.5 * (1.0 + (std::f64::consts::PI * (step - 2) as f64 / (STEPS - 2) as f64).cos()),
    }
}

fn relative(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |v: f64| v * v;
    let error: f64 = got.iter().zip(want).map(|(a, b)| square(f64::from(a - b))).sum();
    let size: f64 = want.iter().map(|b| square(f64::from(*b))).sum();
    (error / size.max(1e-30)).sqrt()
}

/// Losses, gradient norms, trained tensors by name.
type Outcome = (Vec<f32>, Vec<f32>, Vec<(String, Vec<f32>)>);

fn train(run: &Run, checkpoint: bool) -> Outcome {
    let mut stepper = stepper(run, checkpoint);
    let data = open("batches.safetensors");
    let noise = NoiseSchedule::stable_diffusion(run.prediction);
    let (mut losses, mut norms) = (vec![], vec![]);
    for step in 0..STEPS {
        for micro in 0..ACCUMULATE {
            let i = step * ACCUMULATE + micro;
            let mut batch = batch(&data, i, run, &noise);
            if let Some(d) = &run.decoupled {
                decoupled::feed(&mut batch, d, run.kind, i);
            }
            stepper.accumulate(&batch).unwrap();
        }
        stepper.update().unwrap();
        let result = stepper.results(0).unwrap().remove(0);
        losses.push(result.loss);
        norms.push(result.grad_norm);
    }
    let master = stepper.program.master().unwrap();
    let entries = stepper.program.entries().iter();
    let adapters = entries.map(|(n, r)| (n.clone(), master[r.clone()].to_vec()));
    (losses, norms, adapters.collect())
}

#[test]
fn ten_steps_equal_diffusers_peft_and_torch() {
    let expected = open("expected.safetensors");
    for run in &RUNS {
        let (losses, norms, adapters) = train(run, false);
        let want = expected.f32(&format!("{}.loss", run.kind)).unwrap().data;
        for (step, (got, want)) in losses.iter().zip(&want).enumerate() {
            let error = (got - want).abs() / want;
            assert!(error < 1e-4, "{} step {step}: {got}, torch {want}", run.kind);
        }
        let want = expected.f32(&format!("{}.norm", run.kind)).unwrap().data;
        assert!(relative(&norms, &want) < 1e-3, "{}: {norms:?}, torch {want:?}", run.kind);
        let mut worst = 0f64;
        for (name, got) in &adapters {
            let key = format!("{}.{}", run.kind, name.trim_start_matches("unet."));
            worst = worst.max(relative(got, &expected.f32(&key).unwrap().data));
        }
        assert_eq!(adapters.len(), 128);
        println!("{}: adapters differ by at most {worst:.2e}", run.kind);
        assert!(worst < 1e-3, "{}: adapters differ by {worst}", run.kind);
    }
}

#[test]
fn recomputing_activations_changes_no_bit() {
    let (a, b) = (train(&RUNS[0], false), train(&RUNS[0], true));
    assert_eq!(a, b);
}
