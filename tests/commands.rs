//! Flags of `plan` and `forward` do what they say, and nothing is parsed and ignored.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use selvedge::{
    device::Device,
    lora::Adapters,
    models::base::Base,
    tensor::{philox, safetensors::Raw, safetensors::SafeFile, write_safetensors},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

mod program;

use program::{refusal, text};

/// A configuration on nano of rank 2.
fn config(folder: &Path) -> String {
    let mut text =
        "base = \"nano\"\n[method]\nloss = \"mse\"\n[train]\nresolution = 64\nrank = 2\n"
            .to_string();
    for id in ["a", "b"] {
        text += &format!("[[subject]]\nid = \"{id}\"\nclass = \"bear\"\nimages = \"/x\"\n");
    }
    let path = folder.join("train.toml");
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn plan(config: &str, more: &[&str]) -> Value {
    let args = [&["plan", "train", config, "--json"], more].concat();
    serde_json::from_str(&text(&args)).unwrap()
}

#[test]
fn flags_override_the_file_that_plan_train_reads() {
    let folder = tempfile::tempdir().unwrap();
    let c = config(folder.path());
    let number = |v: &Value, key: &str| v[key].as_f64().unwrap();
    let own = plan(&c, &[]);
    assert_eq!(own["model"], "nano");
    let rank = plan(&c, &["--rank", "6"]);
    let trained = "trainable_parameters";
    assert_eq!(number(&rank, trained), 3.0 * number(&own, trained));
    assert_eq!(plan(&c, &["--set", "train.rank=6"])[trained], rank[trained]);
    assert_eq!(plan(&c, &["--set", "train.rank=6", "--rank", "2"])[trained], own[trained]);
    let two = plan(&c, &["--batch", "2"]);
    let ratio = number(&two, "forward_flop") / number(&own, "forward_flop");
    assert!((ratio - 2.0).abs() < 0.02, "{ratio}");
    let sd15 = plan(&c, &["--model", "sd15", "--latent", "8"]);
    assert!(sd15["model"] == "sd15" && sd15["parameters"] != own["parameters"]);
    let latent = plan(&c, &["--latent", "16"]);
    assert!(number(&latent, "forward_flop") > 3.5 * number(&own, "forward_flop"));
    assert!(number(&plan(&c, &["--checkpoint"]), "arena_bytes") < number(&own, "arena_bytes"));
    assert!(number(&plan(&c, &["--tokens", "7"]), "flop") < number(&own, "flop"));
}

#[test]
fn plan_train_counts_everything_that_a_run_holds() {
    let folder = tempfile::tempdir().unwrap();
    let c = config(folder.path());
    let bytes = |v: &Value, key: &str| v[key].as_u64().unwrap_or(0);
    let own = plan(&c, &[]);
    let parts = ["weight_bytes", "arena_bytes", "moment_bytes", "encoder_bytes", "text_bytes"];
    assert!(parts.iter().all(|p| bytes(&own, p) > 0), "{own}");
    assert_eq!(bytes(&own, "planned_bytes"), parts.iter().map(|p| bytes(&own, p)).sum::<u64>());
    let ema = plan(&c, &["--set", "train.ema=true"]);
    assert_eq!(bytes(&ema, "average_bytes"), 4 * bytes(&own, "trainable_parameters"));
    // on a GPU a rank is filled up to a multiple of 8
    let half = ["--device", "emulated", "--dtype", "bf16"];
    let two = plan(&c, &half);
    let eight = plan(&c, &[&half[..], &["--rank", "8"]].concat());
    let moments = 8 * bytes(&eight, "trainable_parameters");
    assert_eq!([bytes(&eight, "moment_bytes"), bytes(&two, "moment_bytes")], [moments; 2]);
    assert_eq!(bytes(&two, "trainable_parameters"), bytes(&own, "trainable_parameters"));
    assert_eq!(bytes(&eight, "trainable_parameters"), 4 * bytes(&own, "trainable_parameters"));
    let more = bytes(&ema, "planned_bytes") - bytes(&own, "planned_bytes");
    assert_eq!(more, bytes(&ema, "average_bytes"));
    let text = plan(&c, &["--set", "train.train_text_encoder=true"]);
    assert_eq!(bytes(&text, "text_bytes"), 0, "trained encoders are part of the step");
    assert!(bytes(&text, "parameters") > bytes(&own, "parameters"));
    let full = plan(&c, &["--set", "train.mode=full", "--set", "train.parts=[\"unet.mid_block\"]"]);
    let base = Base::open("nano").unwrap();
    let unet = base.weights.parts.iter().flat_map(|p| p.shapes());
    let mid = unet.filter(|(n, _)| n.starts_with("mid_block."));
    let mid: usize = mid.map(|(_, dims)| dims.iter().product::<usize>()).sum();
    assert_eq!(bytes(&full, "trainable_parameters"), mid as u64);
    let prior = plan(&c, &["--set", "method.prior_preservation=true"]);
    let ratio = prior["flop"].as_f64().unwrap() / own["flop"].as_f64().unwrap();
    assert!((ratio - 2.0).abs() < 0.02, "{ratio}");
}

#[test]
fn plan_train_asks_the_vae_how_much_smaller_a_latent_is() {
    let folder = tempfile::tempdir().unwrap();
    let c = config(folder.path());
    let model = folder.path().join("model");
    text(&["export", "nano", model.to_str().unwrap()]);
    let file = model.join("vae/config.json");
    let mut vae: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    for key in ["block_out_channels", "down_block_types", "up_block_types"] {
        vae[key].as_array_mut().unwrap().truncate(3); // a quarter of the side, not an eighth
    }
    fs::write(&file, vae.to_string()).unwrap();
    let quarter = plan(&c, &["--model", model.to_str().unwrap()]);
    let eighth = plan(&c, &["--set", "train.resolution=128"]);
    assert_eq!(quarter["flop"], eighth["flop"]);
}

#[test]
fn a_plan_refuses_what_it_cannot_use_and_prints_no_negative_zero() {
    for shown in ["--summary", "--json"] {
        for what in [&["train", "--model", "nano"][..], &["generate", "--model", "nano"]] {
            let args = [&["plan"], what, &["--device", "toaster", shown]].concat();
            assert!(refusal(&args).contains("toaster"));
        }
    }
    assert!(refusal(&["plan", "train", "--set", "train.rank=1"]).contains("CONFIG"));
    assert!(refusal(&["plan", "train", "--batch", "0"]).contains("above 0"));
    let text = text(&["plan", "forward", "unet", "--model", "nano", "--summary"]);
    assert!(text.contains("backward               0.000 TFLOP"), "{text}");
}

/// The inputs of nano's U-Net.
fn inputs(folder: &Path) -> PathBuf {
    let base = Base::open("nano").unwrap();
    let pooled = base.unet.text_time.as_ref().unwrap().pooled_dim();
    let width = base.unet.context_dim().unwrap();
    let tensor = |stream: u64, dims: &[usize]| {
        let mut data = vec![0.0; dims.iter().product()];
        philox::fill_normal(3, stream, &mut data);
        Raw::f32(dims, &data)
    };
    let all = [
        ("sample", tensor(1, &[1, 4, 8, 8])),
        ("timestep", Raw::f32(&[1], &[400.0])),
        ("encoder_hidden_states", tensor(2, &[1, 5, width])),
        ("text_embeds", tensor(3, &[1, pooled])),
        ("time_ids", Raw::f32(&[1, 6], &[64.0, 64.0, 0.0, 0.0, 64.0, 64.0])),
    ];
    let path = folder.join("in.safetensors");
    write_safetensors(&path, all.iter().map(|(n, r)| (*n, r)), &BTreeMap::new()).unwrap();
    path
}

/// An adapter of rank 1 on one layer of nano that is not zero.
fn adapter(folder: &Path) -> String {
    let base = Base::open("nano").unwrap();
    let unet = &base.weights.parts;
    let (name, dims) = (unet.iter().filter(|p| p.component().name() == "unet"))
        .flat_map(|p| p.shapes())
        .find(|(n, _)| n.ends_with("attn1.to_q.weight"))
        .unwrap();
    let module = name.strip_suffix(".weight").unwrap();
    let all = [
        (format!("unet.{module}.lora_A.weight"), Raw::f32(&[1, dims[1]], &vec![0.3; dims[1]])),
        (format!("unet.{module}.lora_B.weight"), Raw::f32(&[dims[0], 1], &vec![0.2; dims[0]])),
    ];
    let path = folder.join("adapter.safetensors");
    write_safetensors(&path, all.iter().map(|(n, r)| (n.as_str(), r)), &BTreeMap::new()).unwrap();
    path.display().to_string()
}

#[test]
fn forward_takes_an_adapter_at_a_strength_as_generate_does() {
    let folder = tempfile::tempdir().unwrap();
    let (given, file) = (inputs(folder.path()), adapter(folder.path()));
    let out = folder.path().join("out.safetensors");
    let run = |lora: Option<String>| {
        let mut args = vec!["forward", "unet", "--model", "nano", "--device", "cpu"];
        args.extend(["--inputs", given.to_str().unwrap(), "--outputs", out.to_str().unwrap()]);
        lora.iter().for_each(|l| args.extend(["--lora", l.as_str()]));
        text(&args);
        SafeFile::open(&out).unwrap().f32("sample").unwrap().data
    };
    let at = |scale: &str| run(Some(format!("{file}:{scale}")));
    let (plain, whole) = (run(None), run(Some(file.clone())));
    assert_eq!(at("0"), plain, "strength 0 is the base, bit for bit");
    assert_eq!(at("1"), whole);
    let far = |x: &[f32]| x.iter().zip(&plain).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(far(&whole) > 0.0 && far(&at("0.25")) < far(&whole) && far(&at("-1")) > 0.0);
    let args = ["forward", "unet", "--model", "nano", "--inputs", "x", "--outputs", "y", "--lora"];
    for bad in ["a.safetensors:strong", "a.safetensors:nan"] {
        let error = refusal(&[&args[..], &[bad]].concat());
        assert!(error.contains("FILE:SCALE") || error.contains("x"), "{error}");
    }
}

#[test]
fn ids_outside_the_vocabulary_are_refused_before_the_run_on_every_device() {
    let base = Base::open("nano").unwrap();
    let mut devices = vec![Device::Cpu];
    if cfg!(feature = "emulate") {
        devices.push(Device::parse("emulated").unwrap());
    }
    for device in devices {
        let mut program = base.text_program(&device, &Adapters::new(), 1, &base.weights).unwrap();
        let good = vec![1; base.tokens()];
        program.set_i32("input_ids", &good).unwrap();
        for bad in [-1, i32::try_from(base.text[0].config.vocabulary).unwrap(), i32::MAX] {
            let mut ids = good.clone();
            ids[3] = bad;
            let e = program.set_i32("input_ids", &ids).unwrap_err().to_string();
            assert!(e.contains(&format!("token id {bad}")) && e.contains("0 to "), "{e}");
        }
        let length = i32::try_from(base.tokens()).unwrap();
        program.set_i32("eos_2", &[length - 1]).unwrap();
        let e = program.set_i32("eos_2", &[length]).unwrap_err().to_string();
        assert!(e.contains(&format!("row {length}")), "{e}");
    }
}

#[test]
fn a_trace_is_of_the_step_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let traced = |part: &str| {
        let file = folder.path().join(format!("{part}.json"));
        let to = file.display().to_string();
        let size = ["--latent", "8", "--rank", "2", "--iterations", "1", "--device", "cpu"];
        let what = ["bench", "step", "--model", "nano", "--part", part, "--trace", &to];
        text(&[&what[..], &size].concat());
        fs::read_to_string(file).unwrap()
    };
    let (denoise, train) = (traced("denoise"), traced("train"));
    assert!(denoise.contains("\"conv2d\"") && !denoise.contains("backward"));
    assert!(train.contains("lora_linear backward"));
}

#[test]
fn in_a_training_step_of_sdxl_only_convolutions_have_sums_behind_them() {
    let plan = text(&["plan", "train", "--model", "sdxl", "--rank", "4"]);
    let sums = plan.lines().filter(|l| l.contains(" fwd ") && l.contains(" add "));
    let left: Vec<&str> = sums.filter(|l| !l.contains("resnets")).collect();
    assert!(left.is_empty(), "{left:?}");
    // with DCO's loss the base runs beside the adapted U-Net; there a feed-forward part keeps nothing
    let base = plan.lines().filter(|l| l.contains(" fwd ") && l.contains("ff.net.2 "));
    assert_eq!(base.filter(|l| l.contains("reference.unet") && l.contains("residual")).count(), 70);
    let of_base = |l: &&str| l.contains("reference.unet") && l.contains("ff.net.0.proj");
    assert!(
        plan.lines()
            .filter(of_base)
            .all(|l| l.contains(" fwd ") && l.trim_end().ends_with(" GEGLU"))
    );
    for (name, layers, times) in
        [("attn1.to_out.0 ", 70, 2), ("ff.net.0.proj ", 70, 1), ("proj_out ", 11, 2)]
    {
        let of = |l: &&str| l.contains(" fwd ") && l.contains(name) && l.contains("residual");
        assert_eq!(plan.lines().filter(of).count(), times * layers, "{name}");
        let back: Vec<_> =
            plan.lines().filter(|l| l.contains(" bwd ") && l.contains(name)).collect();
        assert_eq!(back.len(), layers, "{name}");
        // the residual's gradient is the sum's, under another name
        assert!(back.iter().all(|l| l.contains("-] ") && l.contains("d[o")), "{back:?}");
    }
}
