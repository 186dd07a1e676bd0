//! A scaled loss: no bit changes in f32, what is not finite is skipped whole, and f16 keeps the gradients it would lose.
#![allow(clippy::unwrap_used)]

use selvedge::{
    data::{
        TrainConfig,
        config::{LossScale, TrainSection},
    },
    device::Device,
    error::Result,
    kernels::adamw::{AdamW, Scale, Scaling},
    models::noise::{NoiseSchedule, Prediction},
    plan::{Recorder, WeightLayout, WeightSource},
    tensor::{DType, Floats, philox::fill_normal},
    train::{
        Batch, Checkpoints, Group, Objective, Optimizer, PassNoise, Rules, State, StepOptions,
        Stepper, config_hash, record,
    },
};
use std::{path::Path, process::Command};

const SIDE: usize = 4;
const CHANNELS: usize = 4;
const EACH: usize = SIDE * SIDE * CHANNELS;
const PASSES: usize = 2;

fn normal(stream: u64, len: usize) -> Vec<f32> {
    let mut data = vec![0.0; len];
    fill_normal(5, stream, &mut data);
    data
}

/// The prediction itself is the trained parameter; f16 holds it.
struct Guess;

impl WeightSource for Guess {
    fn get(&self, _: &str, _: &[usize], _: WeightLayout) -> Result<Option<Floats>> {
        Ok(Some(guess().into()))
    }
}

fn guess() -> Vec<f32> {
    DType::F16.decode(&DType::F16.encode(&normal(1, EACH)))
}

fn rules(scaling: Option<Scaling>) -> Rules {
    let factors = vec![1.0, 0.5, 0.25];
    Rules { passes: PASSES, clip: 0.05, ema: Some(0.9), factors, scaling }
}

fn stepper(device: &Device, dtype: DType, rules: Rules) -> Stepper {
    let options = StepOptions {
        batch: 1,
        latent: [SIDE; 2],
        channels: CHANNELS,
        scale: 1.0,
        noise: NoiseSchedule::stable_diffusion(Prediction::Epsilon),
        objective: Objective::Mse,
        decoupled: None,
        checkpoint: false,
        drawn: false,
        poison: false,
        types: device.types(dtype),
    };
    let mut rec = Recorder::in_dtype(options.types);
    rec.train_if(|_| true);
    let dims = [1, SIDE, SIDE, CHANNELS];
    let predict = |rec: &mut Recorder, _| {
        let guess = rec.param("guess", &dims, WeightLayout::Dense);
        rec.cast(guess, DType::F32)
    };
    let plan = record(rec, &options, None, predict).unwrap();
    let mut program = plan.load(device.clone(), &Guess).unwrap();
    let group = |_: &str| Group { learning_rate: 1e-2, adamw: AdamW::default() };
    let optimizer = Optimizer::new(&mut program, group, rules).unwrap();
    Stepper::new(program, optimizer, &options).unwrap()
}

/// One pass whose loss weighs `weight` everywhere.
fn batch(stream: u64, weight: f32) -> Batch {
    Batch {
        moments: normal(100 + stream, 2 * EACH),
        noise: PassNoise::Fed {
            posterior: normal(200 + stream, EACH),
            forward: normal(300 + stream, EACH),
        },
        timesteps: vec![500],
        weight: vec![weight; SIDE * SIDE],
        coefficient: vec![1.0],
        ..Batch::default()
    }
}

/// A step of two passes, the first of which weighs `weight`; the norm.
fn step(stepper: &mut Stepper, stream: u64, weight: f32) -> Result<f32> {
    stepper.accumulate(&batch(2 * stream, weight))?;
    stepper.accumulate(&batch(2 * stream + 1, 1.0))?;
    stepper.update()?;
    Ok(stepper.results(0)?[0].grad_norm)
}

fn state(stepper: &Stepper) -> State {
    stepper.optimizer.state(&stepper.program).unwrap()
}

/// Weights, moments and average as bits.
fn bits(state: &State) -> Vec<u32> {
    let all = [&state.master, &state.first, &state.second, &state.average];
    all.into_iter().flatten().map(|x| x.to_bits()).collect()
}

fn devices() -> Vec<Device> {
    let mut devices = vec![Device::Cpu];
    if cfg!(feature = "emulate") {
        devices.push(Device::parse("emulated:random:7").unwrap());
    }
    devices
}

#[test]
fn a_scale_changes_no_bit_where_nothing_overflows() {
    for device in devices() {
        let run = |scaling| {
            let mut stepper = stepper(&device, DType::F32, rules(scaling));
            let norms: Vec<u32> =
                (0..4).map(|i| step(&mut stepper, i, 1.0).unwrap().to_bits()).collect();
            (norms, bits(&state(&stepper)))
        };
        let plain = run(None);
        assert!(plain.0.iter().all(|n| f32::from_bits(*n) > 0.05), "clipping was off");
        for scaling in [Scaling::DYNAMIC, Scaling::fixed(1024.0), Scaling::fixed(0.25)] {
            assert_eq!(run(Some(scaling)), plain, "{scaling:?} on {}", device.name());
        }
    }
}

#[test]
fn what_is_saved_is_the_moving_average_where_there_is_one() {
    for device in devices() {
        for ema in [None, Some(0.9)] {
            let mut stepper = stepper(&device, DType::F32, Rules { ema, ..rules(None) });
            (0..2).for_each(|stream| _ = step(&mut stepper, stream, 1.0).unwrap());
            let saved = stepper.optimizer.result(&stepper.program).unwrap();
            let State { master, average, .. } = state(&stepper);
            assert_ne!(average, master);
            assert_eq!(saved, if ema.is_some() { average } else { master });
        }
    }
}

#[test]
fn a_gradient_that_is_not_finite_skips_its_update_whole_and_the_next_one_counts() {
    for device in devices() {
        let mut broken = stepper(&device, DType::F32, rules(Some(Scaling::DYNAMIC)));
        step(&mut broken, 0, 1.0).unwrap();
        let before = bits(&state(&broken));
        let norm = step(&mut broken, 1, f32::INFINITY).unwrap(); // in the first of its two passes only
        assert!(!norm.is_finite());
        assert_eq!(before, bits(&state(&broken)), "{}", device.name());
        let scale = Scale { value: 32768.0, good: 0, skipped: 1, in_a_row: 1 };
        assert_eq!(broken.optimizer.scale, Some(scale));
        step(&mut broken, 2, 1.0).unwrap();
        let scale = Scale { value: 32768.0, good: 1, skipped: 1, in_a_row: 0 };
        assert_eq!(state(&broken).scale, Some(scale));
        assert_eq!(state(&broken).step, 3);
        // AdamW and the average count two steps, the learning rate three.
        let factors = vec![1.0, 0.25];
        let mut whole = stepper(&device, DType::F32, Rules { factors, ..rules(None) });
        step(&mut whole, 0, 1.0).unwrap();
        step(&mut whole, 2, 1.0).unwrap();
        assert_eq!(bits(&state(&broken)), bits(&state(&whole)), "{}", device.name());
    }
}

#[test]
fn the_scale_doubles_after_two_thousand_good_updates_and_a_run_goes_on_with_it() {
    assert_eq!(Scaling::DYNAMIC, Scaling { initial: 65536.0, interval: 2000 });
    for device in devices() {
        let make = || stepper(&device, DType::F32, rules(Some(Scaling::DYNAMIC)));
        let mut first = make();
        step(&mut first, 0, 1.0).unwrap();
        let scale = Some(Scale { value: 256.0, good: 1998, skipped: 5, in_a_row: 0 });
        let saved = State { step: 2010, scale, ..state(&first) };
        let folder = tempfile::tempdir().unwrap();
        let checkpoints =
            Checkpoints::new(folder.path(), 2, "", first.program.entries()).in_dtype(DType::F16);
        checkpoints.save(&saved).unwrap();
        let read = checkpoints.latest().unwrap().0.unwrap();
        assert_eq!(read, saved);
        let mut second = make();
        second.optimizer.restore(&mut second.program, read).unwrap();
        let mut seen = vec![];
        for i in 1..4 {
            // what the gradient starts from is what the update divides by
            let norm = step(&mut second, i, 1.0).unwrap();
            assert!((0.05..5.0).contains(&norm), "{norm} on {}", device.name());
            let s = second.optimizer.scale.unwrap();
            seen.push((s.value, s.good, s.skipped));
        }
        assert_eq!(seen, [(256.0, 1999, 5), (512.0, 0, 5), (512.0, 1, 5)], "{}", device.name());
        let bare = State { scale: None, ..saved };
        let e = second.optimizer.restore(&mut second.program, bare).unwrap_err().to_string();
        assert!(e.contains("without a scale") && e.contains("another --out"), "{e}");
    }
}

/// Checkpoints of f32 and bf16 are what they were before there was a scale; a scale that is none is damage.
#[test]
fn a_checkpoint_without_a_scale_is_read_and_one_with_a_broken_scale_is_not() {
    let mut plain = stepper(&Device::Cpu, DType::F32, rules(None));
    step(&mut plain, 0, 1.0).unwrap();
    let saved = state(&plain);
    assert_eq!(saved.scale, None);
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(folder.path(), 2, "", plain.program.entries());
    let manifest = checkpoints.save(&saved).unwrap().join("manifest.json");
    assert!(!std::fs::read_to_string(manifest).unwrap().contains("loss_scale"));
    assert_eq!(checkpoints.latest().unwrap().0, Some(saved.clone()));
    plain.optimizer.restore(&mut plain.program, saved.clone()).unwrap();
    let scale = Some(Scale { value: 8.0, ..Scale::default() });
    let later = State { step: 2, scale, ..saved.clone() };
    let manifest = checkpoints.save(&later).unwrap().join("manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    assert_eq!(checkpoints.latest().unwrap().0, Some(later));
    let cells = [("value", "8.0", "0.0"), ("skipped", "0", "3"), ("in_a_row", "0", "1")];
    for (name, good, broken) in cells {
        let cell = |value: &str| format!("\"{name}\":{value}");
        let (good, broken) = (cell(good), cell(broken));
        assert!(text.contains(&good), "{text}");
        std::fs::write(&manifest, text.replace(&good, &broken)).unwrap();
        assert_eq!(checkpoints.latest().unwrap().0.as_ref(), Some(&saved), "{broken}");
    }
}

#[test]
fn a_run_that_only_skips_ends_and_says_what_to_do() {
    for device in devices() {
        for (scaling, most) in [(Scaling::DYNAMIC, 27), (Scaling::fixed(8.0), 50)] {
            let mut stepper = stepper(&device, DType::F32, rules(Some(scaling)));
            let done = (1..=60u64).find_map(|i| Some((i, step(&mut stepper, i, f32::NAN).err()?)));
            let (at, error) = done.unwrap();
            let text = error.to_string();
            assert_eq!(at, most, "{text}");
            for word in [&format!("step {most}"), "--dtype bf16", "train.learning_rate"] {
                assert!(text.contains(word), "{text}");
            }
        }
        let mut unscaled = stepper(&device, DType::F32, rules(None));
        assert!(step(&mut unscaled, 0, f32::NAN).is_err());
    }
}

/// The gradient of one step, and the scale after it: the first moments are a tenth of what AdamW took.
#[cfg(feature = "emulate")]
fn gradient(device: &Device, dtype: DType, scaling: Option<Scaling>, weight: f32) -> Vec<f32> {
    let rules = Rules { passes: 1, scaling, ..Rules::constant(0.0) };
    let mut stepper = stepper(device, dtype, rules);
    stepper.accumulate(&batch(0, weight)).unwrap();
    stepper.update().unwrap();
    state(&stepper).first.iter().map(|m| m / (1.0 - 0.9f32)).collect()
}

/// Gradients of about 1e-9: below what f16 holds, and a rounding of f16 apart from f32's with a scale.
#[cfg(feature = "emulate")]
#[test]
fn small_gradients_are_lost_in_f16_without_a_scale_and_kept_with_one() {
    let emulated = Device::parse("emulated").unwrap();
    let want = gradient(&Device::Cpu, DType::F32, None, 1e-7);
    assert!(want.iter().any(|g| g.abs() > 1e-9) && want.iter().all(|g| g.abs() < 2e-8));
    let lost = gradient(&emulated, DType::F16, Some(Scaling::fixed(1.0)), 1e-7);
    assert!(lost.iter().all(|g| *g == 0.0), "{lost:?}");
    let kept = gradient(&emulated, DType::F16, Some(Scaling::DYNAMIC), 1e-7);
    for (g, w) in kept.iter().zip(&want) {
        // half a unit in the last place, also of what is below f16's normal numbers at that scale
        let room = w.abs() * 2f32.powi(-10) + 2f32.powi(-25) / 65536.0;
        assert!((g - w).abs() <= room, "{g:e} {w:e}");
    }
}

/// Gradients of up to 1e3: 65536 times that is beyond f16, so the scale falls until they fit.
#[cfg(feature = "emulate")]
#[test]
fn in_f16_the_scale_falls_until_the_gradient_fits() {
    let weight = 1e4;
    let want = gradient(&Device::Cpu, DType::F32, None, weight);
    let largest = want.iter().fold(0.0f32, |m, g| m.max(g.abs()));
    let fits = |k: &i32| largest * 2f32.powi(16 - k) < 65520.0; // what f16 rounds down to a number
    let skips = (0..).find(fits).unwrap();
    assert!((8..13).contains(&skips), "{skips}");
    let rules = Rules { scaling: Some(Scaling::DYNAMIC), ..Rules::constant(0.0) };
    let mut stepper = stepper(&Device::parse("emulated:late").unwrap(), DType::F16, rules);
    for _ in 0..=skips {
        stepper.accumulate(&batch(0, weight)).unwrap();
        stepper.update().unwrap();
    }
    let now = state(&stepper);
    let value = 2f32.powi(16 - skips);
    let skipped = skips.unsigned_abs();
    assert_eq!(now.scale, Some(Scale { value, good: 1, skipped, in_a_row: 0 }));
    for (m, w) in now.first.iter().zip(&want) {
        assert!((m / (1.0 - 0.9) - w).abs() <= w.abs() * 2f32.powi(-10), "{m:e} {w:e}");
    }
}

#[test]
fn a_scale_is_taken_in_f16_only_and_must_be_a_power_of_two() {
    let parse = |value: &str| {
        let text = r#"
            method = { name = "dreambooth" }
            [[subject]]
            id = "a"
            class = "cat"
            images = "/nowhere"
        "#;
        let set = [format!("train.loss_scale={value}")];
        TrainConfig::parse(text, "c.toml", Path::new("/nowhere"), &set)
    };
    let read = |value: &str| parse(value).unwrap().train.loss_scale;
    assert_eq!(TrainSection::default().loss_scale, LossScale::Auto);
    assert_eq!(read("auto"), LossScale::Auto);
    assert_eq!(read("dynamic"), LossScale::Dynamic);
    assert_eq!((read("1024"), read("0.5")), (LossScale::Fixed(1024.0), LossScale::Fixed(0.5)));
    for wrong in ["1000", "0", "-2", "nan", "inf", "1e30", "static", "true"] {
        let e = parse(wrong).unwrap_err().to_string();
        assert!(e.contains("loss_scale") && e.contains("power of two"), "{wrong}: {e}");
    }
    for dtype in [DType::F32, DType::Bf16] {
        assert_eq!(LossScale::Auto.scaling(dtype).unwrap(), None);
        for scale in [LossScale::Dynamic, LossScale::Fixed(2.0)] {
            let e = scale.scaling(dtype).unwrap_err().to_string();
            assert!(e.contains("train.loss_scale") && e.contains("--dtype f16"), "{e}");
        }
    }
    let in_f16 = |scale: LossScale| scale.scaling(DType::F16).unwrap().unwrap();
    assert_eq!(in_f16(LossScale::Auto), Scaling::DYNAMIC);
    assert_eq!(in_f16(LossScale::Dynamic), Scaling::DYNAMIC);
    assert_eq!(in_f16(LossScale::Fixed(2.0)), Scaling::fixed(2.0));
}

#[test]
fn a_configuration_from_before_the_key_keeps_its_hash() {
    let hash = |loss_scale| {
        let train = TrainSection { loss_scale, ..TrainSection::default() };
        let config = TrainConfig { train, ..TrainConfig::default() };
        (config_hash(&config).unwrap(), config.to_hash().unwrap(), config.to_toml().unwrap())
    };
    let (auto, hashed, toml) = hash(LossScale::Auto);
    assert!(toml.contains("loss_scale = \"auto\"\n") && !hashed.contains("loss_scale"));
    assert_eq!(hashed, toml.replace("loss_scale = \"auto\"\n", ""));
    let (dynamic, hashed, _) = hash(LossScale::Dynamic);
    assert!(hashed.contains("loss_scale = \"dynamic\"\n"));
    assert_ne!(auto, dynamic);
    assert_ne!(dynamic, hash(LossScale::Fixed(2.0)).0);
}

/// The whole command: refused before a run folder is made.
#[test]
fn a_run_in_bf16_refuses_a_scale() {
    let folder = tempfile::tempdir().unwrap();
    let assets = concat!(env!("CARGO_MANIFEST_DIR"), "/src/assets/nano/subjects/bears");
    let text = format!(
        "[method]\nname = \"dreambooth\"\n[train]\nresolution = 64\nloss_scale = 1024\n\
         [[subject]]\nid = \"a\"\nclass = \"bear\"\nimages = \"{assets}/a\"\n"
    );
    let (file, out) = (folder.path().join("c.toml"), folder.path().join("run"));
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    let command = command.arg("train").arg(file).arg("--out").arg(&out);
    let output = command.args(["--device", "cpu", "--dtype", "bf16"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("train.loss_scale") && text.contains("1024 in bf16"), "{text}");
    assert!(!out.exists());
}
