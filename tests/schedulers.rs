//! Samplers agree with diffusers step by step on every scheduler configuration (fixture:
//! `tools/fixtures/make_schedulers.py`), and what is not implemented is refused by name.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use selvedge::{
    models::{
        base::Base,
        noise::{NoiseSchedule, Prediction, Spacing, published_scheduler},
    },
    sample::{Curve, Sampler, Schedule, Settings, StartLatents},
};
use serde_json::{Value, json};

const SAMPLERS: [&str; 3] = ["euler", "ddim", "dpm++"];

fn floats(v: &Value) -> Vec<f32> {
    v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn close(got: &[f32], want: &[f32], scale: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (a, b) in got.iter().zip(want) {
        assert!((a - b).abs() <= 1e-5 * scale.max(b.abs()), "{what}: {a} {b}");
    }
}

fn settings(config: &Value, sampler: &str) -> Settings {
    Settings::read(config, sampler.parse().unwrap()).unwrap()
}

#[test]
fn every_step_on_every_configuration_equals_diffusers() {
    let cases: Value = serde_json::from_str(include_str!("fixtures/schedulers.json")).unwrap();
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 160);
    for case in cases {
        let name = format!("{} {} {}", case["sampler"], case["steps"], case["config"]);
        let settings = settings(&case["config"], case["sampler"].as_str().unwrap());
        let steps = usize::try_from(case["steps"].as_u64().unwrap()).unwrap();
        let mut s = Schedule::new(&settings, steps).unwrap();
        close(s.timesteps(), &floats(&case["timesteps"]), 100.0, &format!("{name} timesteps"));
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
fn the_first_input_of_every_sampler_and_spacing_is_the_shifted_noise() {
    let given: Vec<f32> = (0..64).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
    for sampler in SAMPLERS {
        for spacing in [Spacing::Leading, Spacing::Trailing, Spacing::Linspace] {
            for more in [json!({}), json!({"use_karras_sigmas": true})] {
                let mut config = published_scheduler();
                config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
                for steps in [2, 25] {
                    let settings = settings(&config, sampler).spaced(Some(spacing));
                    let mut schedule = Schedule::new(&settings, steps).unwrap();
                    let state = StartLatents::FirstInput(vec![given.clone()]).state(&schedule);
                    let mut first = None;
                    let mut model = |input: &[f32], _: f32| {
                        first.get_or_insert(input.to_vec());
                        Ok(vec![0.0; input.len()])
                    };
                    schedule.run(state, &mut model).unwrap();
                    for (got, want) in first.unwrap().iter().zip(&given) {
                        let what = format!("{sampler} {spacing:?} {steps}: {got} {want}");
                        assert!((got - want).abs() <= 2e-7 * want.abs(), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn plain_noise_enters_at_the_first_level() {
    for sampler in SAMPLERS {
        let schedule = Schedule::new(&settings(&published_scheduler(), sampler), 50).unwrap();
        let state = StartLatents::Noise(vec![vec![1.0]]).state(&schedule);
        assert_eq!(state, [schedule.noise_factor()], "{sampler}");
    }
}

#[test]
fn impossible_step_counts_are_refused() {
    for steps in [0, 1001] {
        let e = Schedule::new(&settings(&published_scheduler(), "euler"), steps).unwrap_err();
        assert!(e.to_string().contains("--steps"), "{e}");
    }
}

#[test]
fn what_is_not_implemented_is_refused_with_its_key_and_file() {
    for (sampler, key, value) in [
        ("euler", "prediction_type", json!("sample")),
        ("euler", "timestep_spacing", json!("sideways")),
        ("euler", "interpolation_type", json!("log_linear")),
        ("euler", "timestep_type", json!("continuous")),
        ("euler", "use_beta_sigmas", json!(true)),
        ("euler", "final_sigmas_type", json!("other")),
        ("euler", "beta_schedule", json!("sigmoid")),
        ("ddim", "thresholding", json!(true)),
        ("dpm++", "thresholding", json!(true)),
        ("dpm++", "solver_order", json!(3)),
        ("dpm++", "algorithm_type", json!("sde-dpmsolver++")),
        ("dpm++", "use_lu_lambdas", json!(true)),
        ("dpm++", "use_flow_sigmas", json!(true)),
        ("dpm++", "variance_type", json!("learned_range")),
    ] {
        let mut config = published_scheduler();
        config[key] = value.clone();
        let e = Settings::read(&config, sampler.parse().unwrap()).unwrap_err().to_string();
        assert!(e.contains("scheduler_config.json") && e.contains(key), "{sampler}: {e}");
    }
    let mut config = published_scheduler();
    config["rescale_betas_zero_snr"] = json!(true);
    let ddim = settings(&config, "ddim").spaced(Some(Spacing::Trailing));
    let e = Schedule::new(&ddim, 5).unwrap_err().to_string();
    assert!(e.contains("rescale_betas_zero_snr") && e.contains("--prediction v"), "{e}");
    let mut config = published_scheduler();
    config["lambda_min_clipped"] = json!(-5.1);
    let clipped = settings(&config, "dpm++");
    assert!(Schedule::new(&clipped.clone().spaced(Some(Spacing::Linspace)), 5).is_ok());
    let e = Schedule::new(&clipped.spaced(Some(Spacing::Trailing)), 5).unwrap_err().to_string();
    assert!(e.contains("lambda_min_clipped") && e.contains("--spacing linspace"), "{e}");
}

#[test]
fn timesteps_of_a_karras_curve_are_rounded_and_with_cosine_betas_cut() {
    for (betas, cut) in [("scaled_linear", false), ("squaredcos_cap_v2", true)] {
        let mut config = published_scheduler();
        config["use_karras_sigmas"] = json!(true);
        config["beta_schedule"] = json!(betas);
        let own = settings(&config, "dpm++");
        let steps = |rounded: bool| {
            let settings = Settings { rounded, ..own.clone() };
            Schedule::new(&settings, 12).unwrap().timesteps().to_vec()
        };
        let [down, near] = [false, true].map(steps);
        assert!(near != down && near.iter().zip(&down).all(|(n, d)| n == d || *n == d + 1.0));
        let found = Schedule::new(&own, 12).unwrap().timesteps().to_vec();
        assert_eq!(found, if cut { down } else { near }, "{betas}");
    }
}

#[test]
fn a_key_that_the_sampler_does_not_have_is_listed_not_swallowed() {
    let mut config = published_scheduler();
    config["use_karras_sigmas"] = json!(true);
    assert_eq!(settings(&config, "euler").curve, Curve::Karras);
    assert!(settings(&config, "euler").unread.is_empty());
    assert_eq!(settings(&config, "ddim").unread, ["use_karras_sigmas = true"]);
    config["novelty"] = json!(3);
    assert_eq!(settings(&config, "euler").unread, ["novelty = 3"]);
}

/// Every key that the classes of diffusers 0.42.1 read.
const READ: [&str; 36] = [
    "algorithm_type",
    "beta_end",
    "beta_schedule",
    "beta_start",
    "clip_sample",
    "clip_sample_range",
    "dynamic_thresholding_ratio",
    "euler_at_final",
    "final_sigmas_type",
    "flow_shift",
    "interpolation_type",
    "lambda_min_clipped",
    "lower_order_final",
    "num_train_timesteps",
    "prediction_type",
    "rescale_betas_zero_snr",
    "sample_max_value",
    "set_alpha_to_one",
    "sigma_max",
    "sigma_min",
    "skip_prk_steps",
    "solver_order",
    "solver_type",
    "steps_offset",
    "thresholding",
    "time_shift_type",
    "timestep_spacing",
    "timestep_type",
    "trained_betas",
    "use_beta_sigmas",
    "use_dynamic_shifting",
    "use_exponential_sigmas",
    "use_flow_sigmas",
    "use_karras_sigmas",
    "use_lu_lambdas",
    "variance_type",
];

#[test]
fn the_embedded_base_carries_every_key_and_means_what_the_published_models_mean() {
    let base = Base::open("nano").unwrap();
    for key in READ {
        assert!(base.scheduler.get(key).is_some(), "{key}");
    }
    assert_eq!(base.scheduler["clip_sample"], json!(false));
    assert_eq!(base.scheduler["set_alpha_to_one"], json!(false));
    for sampler in SAMPLERS {
        let own = settings(&base.scheduler, sampler);
        let noise = NoiseSchedule::stable_diffusion(Prediction::Epsilon);
        let plain = Settings::plain(sampler.parse::<Sampler>().unwrap(), noise);
        assert_eq!(Settings { range: [None; 2], lambda_min: None, ..own }, plain, "{sampler}");
    }
}
