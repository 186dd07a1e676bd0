//! Samplers agree with diffusers step by step (fixture: `tools/fixtures/make_schedulers.py`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use selvedge::{
    models::noise::{NoiseSchedule, Prediction},
    sample::{Sampler, Schedule, Spacing},
};
use serde_json::Value;

fn floats(v: &Value) -> Vec<f32> {
    v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn close(got: &[f32], want: &[f32], scale: f32, what: &str) {
    for (a, b) in got.iter().zip(want) {
        assert!((a - b).abs() <= 1e-5 * scale.max(b.abs()), "{what}: {a} {b}");
    }
}

#[test]
fn every_step_of_every_sampler_equals_diffusers() {
    let cases: Value = serde_json::from_str(include_str!("fixtures/schedulers.json")).unwrap();
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 48);
    for case in cases {
        let word = |k: &str| case[k].as_str().unwrap();
        let name = format!(
            "{} {} {} {}",
            word("sampler"),
            word("spacing"),
            word("prediction"),
            case["steps"]
        );
        let prediction = match word("prediction") {
            "epsilon" => Prediction::Epsilon,
            _ => Prediction::Velocity,
        };
        let noise = NoiseSchedule::stable_diffusion(prediction);
        let sampler: Sampler = word("sampler").parse().unwrap();
        let spacing: Spacing = word("spacing").parse().unwrap();
        let steps = usize::try_from(case["steps"].as_u64().unwrap()).unwrap();
        let mut s = Schedule::new(&noise, sampler, spacing, steps).unwrap();
        let timesteps: Vec<f32> = s.timesteps().iter().map(|t| *t as f32).collect();
        assert_eq!(timesteps, floats(&case["timesteps"]), "{name}");
        let sigma = case["init_noise_sigma"].as_f64().unwrap() as f32;
        close(&[s.noise_factor()], &[sigma], sigma, &name);
        let mut state = floats(&case["start"]);
        let largest = state.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        for i in 0..steps {
            let input: Vec<f32> = state.iter().map(|x| x * s.input_factor(i)).collect();
            close(&input, &floats(&case["inputs"][i]), largest, &format!("{name} input {i}"));
            s.step(i, &mut state, &floats(&case["outputs"][i]));
            close(&state, &floats(&case["states"][i]), largest, &format!("{name} state {i}"));
        }
    }
}

#[test]
fn impossible_step_counts_are_refused() {
    let noise = NoiseSchedule::stable_diffusion(Prediction::Epsilon);
    for steps in [0, 1001] {
        let e = Schedule::new(&noise, Sampler::Euler, Spacing::Leading, steps).unwrap_err();
        assert!(e.to_string().contains("--steps"), "{e}");
    }
}
