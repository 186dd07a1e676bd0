//! `plan --chip`: launches as on the device, times by the formula, files that are refused.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use selvedge::{device::cubin_table::Target, kernels::coverage};
use serde_json::{Value, json};
use std::{fs, path::Path};

mod program;

use program::{refusal, text};

const H200: &str = include_str!("../src/cli/chips/h200.toml");

/// Whether this build has the kernels of Hopper and of Ampere: with nvcc or fitting prebuilt objects.
fn compiled() -> bool {
    let has = |t| !coverage::compiled(t).unwrap().is_empty();
    has(Target::Sm90a) && has(Target::Sm80)
}

fn unet(more: &[&str]) -> Value {
    let args = [&["plan", "forward", "unet", "--json", "--dtype", "bf16"], more].concat();
    serde_json::from_str(&text(&args)).unwrap()
}

fn number(v: &Value, key: &str) -> f64 {
    v[key].as_f64().unwrap_or_else(|| panic!("{key}: {v}"))
}

fn chip(folder: &Path, name: &str, change: impl Fn(&str) -> String) -> String {
    let path = folder.join(name);
    fs::write(&path, change(H200)).unwrap();
    path.display().to_string()
}

/// The numbers of `key` in the file, times `factor`.
fn scaled(file: &str, key: &str, factor: f64) -> String {
    let line = file.lines().find(|l| l.starts_with(&format!("{key} = "))).unwrap();
    let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    file.replace(line, &format!("{key} = {:?}", value * factor))
}

#[test]
fn a_chip_twice_as_fast_takes_half_the_time() {
    if !compiled() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let own = chip(folder.path(), "own.toml", str::to_string);
    let rates = ["ordinary_tflops", "matrix_tflops", "memory_gbps", "clock_mhz"];
    let twice = chip(folder.path(), "twice.toml", |file| {
        let fast = rates.iter().fold(file.to_string(), |f, key| scaled(&f, key, 2.0));
        scaled(&fast, "start_us", 0.5)
    });
    let all = |word: &str| unet(&["--model", "nano", "--chip", word]);
    let (one, other, built_in) = (all(&own), all(&twice), all("h200"));
    assert_eq!(one, built_in);
    for key in ["forecast_ms", "floor_ms"] {
        let ratio = number(&other, key) / number(&one, key);
        assert!((ratio - 0.5).abs() < 1e-9, "{key}: {ratio}");
    }
    assert_eq!(one["nodes"], other["nodes"]);
    let slow = chip(folder.path(), "slow.toml", |file| scaled(file, "start_us", 2.0));
    let starts = number(&all(&slow), "forecast_ms") - number(&one, "forecast_ms");
    assert!((starts - number(&one, "nodes") * 2e-3).abs() < 1e-9, "{starts}");
}

#[test]
fn the_forecast_of_sdxl_lies_above_its_floor_and_says_what_binds() {
    if !compiled() {
        return;
    }
    let sizes = ["--model", "sdxl", "--batch", "2", "--latent", "128", "--chip"];
    let on = |chip: &str| unet(&[&sizes[..], &[chip]].concat());
    let h200 = on("h200");
    let (floor, forecast) = (number(&h200, "floor_ms"), number(&h200, "forecast_ms"));
    // 13.5 TFLOP at 790 TFLOP/s are 17.1 ms
    assert!(floor > 17.0 && floor < 25.0, "{floor}");
    assert!(forecast > floor && forecast < 3.0 * floor, "{forecast}");
    let nodes = number(&h200, "nodes");
    assert!(nodes >= number(&h200, "steps") && nodes < 4000.0, "{nodes}");
    let sum =
        |key: &str| h200[key].as_array().unwrap().iter().map(|o| number(o, "ms")).sum::<f64>();
    assert!((sum("by_operation") - forecast).abs() < 1e-6);
    let bounds: f64 =
        h200["by_bound"].as_object().unwrap().values().map(|v| v.as_f64().unwrap()).sum();
    assert!((bounds - forecast).abs() < 1e-6);
    assert!(number(&on("h100"), "forecast_ms") > forecast);
    assert!(number(&on("a100"), "forecast_ms") > 1.5 * forecast);
    assert!(number(&on("rtx4090"), "forecast_ms") > 2.0 * forecast);
}

#[test]
fn every_forecast_says_that_it_is_one_and_the_summary_leaves_the_steps_out() {
    if !compiled() {
        return;
    }
    let args = ["plan", "forward", "unet", "--model", "nano", "--chip", "a100"];
    let whole = text(&args);
    let short = text(&[&args[..], &["--summary"]].concat());
    for text in [&whole, &short] {
        assert!(text.contains("forecast for NVIDIA A100 SXM 80GB, not measured"), "{text}");
    }
    assert!(whole.contains("bound by") && whole.lines().count() > short.lines().count() + 20);
    let without = text(&["plan", "forward", "unet", "--model", "nano", "--summary"]);
    assert!(!without.contains("forecast"));
    assert!(unet(&["--model", "nano"])["forecast_ms"].is_null());
}

#[test]
fn the_decoder_of_a_picture_has_the_type_that_is_asked_for() {
    let base = ["plan", "generate", "--model", "nano", "--dtype", "bf16", "--json"];
    let decoder = |more: &[&str]| -> Value {
        let text = text(&[&base[..], more].concat());
        let mut parts = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
        parts.find(|v| v["what"] == "vae-decoder").unwrap()
    };
    let (own, asked) = (decoder(&[]), decoder(&["--vae-dtype", "bf16"]));
    assert_eq!((&own["dtype"], &asked["dtype"]), (&"f32".into(), &"bf16".into()));
    assert!(number(&asked, "arena_bytes") < 0.8 * number(&own, "arena_bytes"));
    let refused = refusal(&[&base[..], &["--vae-dtype", "f16"]].concat());
    assert!(refused.contains("force_upcast"), "{refused}");
}

#[test]
fn a_picture_is_its_parts_and_a_run_its_steps() {
    if !compiled() {
        return;
    }
    let lines = |steps: &str| -> Vec<Value> {
        let args = ["plan", "generate", "--model", "nano", "--chip", "h200", "--json", "--tokens"];
        let text = text(&[&args[..], &["40", "--steps", steps]].concat());
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    };
    let (one, three) = (lines("1"), lines("3"));
    let ms = |v: &Value| number(v, "forecast_ms");
    for (lines, steps) in [(&one, 1.0), (&three, 3.0)] {
        let (whole, parts) = lines.split_last().unwrap();
        let unet = parts.iter().find(|v| v["what"] == "unet").unwrap();
        let want = parts.iter().map(ms).sum::<f64>()
            + (steps - 1.0) * (ms(unet) - number(unet, "once_ms"));
        assert!((ms(whole) - want).abs() < 1e-9 && parts.len() == 4, "{whole} {want}");
    }
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    let subject = "[[subject]]\nid = \"a\"\nclass = \"bear\"\nimages = \"/x\"\n";
    let run = "[train]\nresolution = 64\nrank = 2\naccumulate = 3\nsteps = 10\n";
    let method = "[method]\nname = \"dreambooth\"\nloss = \"mse\"\n";
    fs::write(&config, format!("base = \"nano\"\n{method}{run}{subject}")).unwrap();
    let args = ["plan", "train", config.to_str().unwrap(), "--chip", "h200", "--json"];
    let train: Value = serde_json::from_str(&text(&args)).unwrap();
    assert!((number(&train, "run_ms") - 10.0 * number(&train, "step_ms")).abs() < 1e-6);
    let operations = train["by_operation"].as_array().unwrap();
    let adamw = operations.iter().find(|o| o["operation"] == "adamw").unwrap();
    assert_eq!(adamw["nodes"], 3);
    let pass = ms(&train) - number(adamw, "ms");
    let step = 3.0 * pass + number(adamw, "ms");
    assert!((number(&train, "step_ms") - step).abs() < 1e-6, "{train}");
    assert!(number(&train, "encoder_ms") > 0.0 && number(&train, "text_ms") > 0.0);
}

#[test]
fn a_measured_kernel_takes_the_place_of_its_forecast_on_its_own_chip() {
    if !compiled() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let args = ["plan", "forward", "unet", "--model", "nano", "--dtype", "bf16", "--chip", "h200"];
    let plan = text(&args);
    // the attention of the first block, with the work that the operation counts
    let line =
        plan.lines().find(|l| l.contains("attn1.attention") || l.contains("  attention ")).unwrap();
    assert!(line.contains('['), "{line}");
    let row = |chip: &str,
               cold_ms: f64,
               emulated: bool,
               dims: Value,
               flop: f64,
               bytes: f64,
               variant: &str| {
        json!({
            "case": "attention", "op": "attention", "dims": dims, "dtype": "bf16", "pass": "forward",
            "variant": variant, "device": "cuda:0", "chip": chip, "emulated": emulated, "cold_ms": cold_ms,
            "flop": flop, "bytes": bytes, "problem": null,
        })
        .to_string()
    };
    let dims: Vec<Vec<usize>> = {
        let from = line.find('[').unwrap();
        let to = line.rfind(']').unwrap();
        let words = line[from..=to].replace("] [", "],[");
        serde_json::from_str(&format!("[{words}]")).unwrap()
    };
    let variant = line[line.rfind(']').unwrap() + 1..].split_whitespace().next().unwrap();
    let [q, k] = [&dims[0], &dims[1]];
    let flop = 4.0 * (q[0] * q[1] * k[1] * q[2] * q[3]) as f64;
    let elements: usize = dims.iter().chain([&dims[0]]).map(|d| d.iter().product::<usize>()).sum();
    let file = folder.path().join("kernels.jsonl");
    let given = |text: String| fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    let forecast = |path: &str| unet(&["--model", "nano", "--chip", "h200", "--measured", path]);
    let unmeasured = unet(&["--model", "nano", "--chip", "h200"]);
    let plain = number(&unmeasured, "forecast_ms");
    let dims = json!(dims);
    // bytes as the operation counts them: q, k, v, the result, and one f32 a row for backward
    let bytes = |extra: usize| (2 * elements + extra) as f64;
    let statistic = 4 * q[0] * q[1] * q[2];
    let rows = [bytes(0), bytes(statistic)]
        .map(|b| row("NVIDIA H200", 5.0, false, dims.clone(), flop, b, variant));
    given(rows.join("\n"));
    let found = forecast(path);
    let steps = number(&found, "measured_steps");
    assert!(steps >= 1.0, "{found}");
    assert!((number(&found["by_bound"], "measured") - 5.0 * steps).abs() < 1e-9);
    assert!(number(&found, "forecast_ms") > plain + 4.9 * steps);
    // a measured time has its kernel's start in it
    let starts = [&unmeasured, &found].map(|f| number(&f["by_bound"], "start"));
    assert!(starts[1] < starts[0] - 1.9e-3 * steps, "{starts:?}");
    assert_eq!(forecast(folder.path().to_str().unwrap()), found);
    let other = |variant: &str, flop: f64| {
        given(
            [bytes(0), bytes(statistic)]
                .map(|b| row("NVIDIA H200", 5.0, false, dims.clone(), flop, b, variant))
                .join("\n"),
        );
        number(&forecast(path), "measured_steps")
    };
    assert_eq!((other("another", flop), other(variant, flop + 1.0)), (0.0, 0.0));
    let refused = || {
        refusal(&[
            "plan",
            "forward",
            "unet",
            "--model",
            "nano",
            "--chip",
            "h200",
            "--measured",
            path,
        ])
    };
    given(row("NVIDIA A100-SXM4-80GB", 5.0, false, dims.clone(), flop, bytes(0), variant));
    assert!(refused().contains("A100-SXM4"));
    given(row("CPU emulator", 5.0, true, dims.clone(), flop, bytes(0), variant));
    assert!(refused().contains("no call that was measured on a GPU"));
    fs::remove_file(&file).unwrap();
    assert!(refused().contains("kernels.jsonl"));
}

#[test]
fn chips_that_are_none_are_refused_in_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let on = |word: &str| refusal(&["plan", "forward", "unet", "--model", "nano", "--chip", word]);
    let unknown = on("h300");
    assert!(
        ["h200", "h100", "a100", "rtx4090", "FILE.toml"].iter().all(|n| unknown.contains(n)),
        "{unknown}"
    );
    let file = |change: &dyn Fn(&str) -> String| on(&chip(folder.path(), "c.toml", change));
    for (change, word) in [
        (("clock_mhz = 1830", ""), "clock_mhz"),
        (("l2_mb = 50.0", "l2_mb = 50.0\ncolour = 1"), "colour"),
        (("l2_mb = 50.0", "l2_mb = -50.0"), "l2_mb"),
        (("start_us = 2.0", "start_us = nan"), "start_us"),
    ] {
        let error = file(&|f: &str| f.replace(change.0, change.1));
        assert!(error.contains(word) && error.contains("c.toml"), "{error}");
        assert_eq!(error.trim().lines().count(), 1, "{error}");
    }
    let old = file(&|f: &str| f.replace("capability = \"9.0\"", "capability = \"7.5\""));
    assert!(old.contains("7.5"), "{old}");
    assert!(on("nothing.toml").contains("nothing.toml"));
    let args = ["plan", "forward", "unet", "--model", "nano"];
    assert!(
        refusal(&[&args[..], &["--chip", "h200", "--device", "cuda"]].concat())
            .contains("--device")
    );
    assert!(refusal(&[&args[..], &["--measured", "x"]].concat()).contains("--chip"));
    assert!(refusal(&[&args[..], &["--at", "790"]].concat()).contains("--at"));
    assert!(refusal(&["plan", "generate", "--model", "nano", "--steps", "3"]).contains("--chip"));
    for what in [["train", "--model"], ["generate", "--model"]] {
        let args = [&["plan"], &what[..], &["nano", "--chip", "h300"]].concat();
        assert!(refusal(&args).contains("h300"));
    }
}

/// Kernels of a training step of nano, update included: in order, as the stand-in of a chip and as the emulated
/// driver launch them.
#[cfg(feature = "emulate")]
#[test]
fn the_nodes_are_the_launches_of_the_emulated_driver() {
    use selvedge::{
        device::{Cuda, Device, Schedule, StandIn},
        kernels::adamw::AdamW,
        models::base::Base,
        plan::{NoWeights, Program},
        tensor::DType,
        train::{Group, Optimizer, Rules, StepSize, plan_training},
    };
    use std::sync::{Arc, Mutex};
    if !compiled() {
        return;
    }
    let config = Base::open("nano").unwrap().unet;
    let dtype = DType::Bf16;
    let size =
        StepSize { latent: [8, 8], tokens: 5, rank: 4, types: dtype.into(), ..StepSize::default() };
    let load = |device: &Device| -> (Program, Optimizer) {
        let plan = plan_training(&config, &size).unwrap();
        let mut program = plan.load(device.clone(), &NoWeights).unwrap();
        let group = |_: &str| Group { learning_rate: 1e-4, adamw: AdamW::default() };
        let optimizer = Optimizer::new(&mut program, group, Rules::constant(1.0)).unwrap();
        (program, optimizer)
    };
    let emulated = Cuda::emulated(Schedule::Early).unwrap();
    let chip = StandIn {
        name: "a Hopper as small as the emulated device".into(),
        capability: (9, 0),
        multiprocessors: emulated.multiprocessors(),
        shared_bytes: emulated.shared_bytes(),
    };
    let stand_in = Cuda::stand_in(&chip).unwrap();
    let (mut program, optimizer) = load(&Device::Cuda(stand_in.clone()));
    let steps = program.rehearse().unwrap();
    let mut forecast: Vec<&str> =
        steps.iter().flat_map(|s| s.launches.iter().map(|l| l.kernel)).collect();
    optimizer.launch().unwrap();
    let update = stand_in.take_launched();
    forecast.extend(update.iter().map(|l| l.kernel));
    let (mut program, optimizer) = load(&Device::Cuda(emulated.clone()));
    let seen: Arc<Mutex<Vec<&str>>> = Arc::default();
    let told = seen.clone();
    emulated.watch(move |kernel| told.lock().unwrap().push(kernel));
    program.forward_backward(true, Some(&|| optimizer.launch())).unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), forecast.len());
    assert_eq!(*seen, forecast);
}
