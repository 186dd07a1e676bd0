//! Dual-level decoupling through the command, on nano: training, its file, sampling, bad input.
#![allow(clippy::unwrap_used)]

use selvedge::{
    models::decoupling::{Decoupling, Source},
    sample::{Beside, Steering},
    tensor::{
        image::{Picture, read, write_png},
        safetensors::SafeFile,
    },
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const DUCK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/assets/nano/subjects/robot_duck/b");

fn selvedge(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.args(args).env("RAYON_NUM_THREADS", "2").output().unwrap()
}

fn fine(args: &[&str]) -> String {
    let output = selvedge(args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {error}");
    error
}

/// The one line of a refusal.
fn refused(args: &[&str]) -> String {
    let output = selvedge(args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
    assert!(!error.contains("panicked"), "{error}");
    error
}

fn config(folder: &Path, images: &str) -> PathBuf {
    let text = format!(
        "base = \"nano\"\n[method]\nname = \"decoupled\"\n[train]\nresolution = 64\nsteps = 4\nbatch = 2\n\
         learning_rate = 1e-3\nsample_every = 0\nsave_every = 1\n[[subject]]\nid = \"duck\"\ntoken = \"amg\"\n\
         class = \"duck\"\nimages = \"{images}\"\n"
    );
    let path = folder.join("train.toml");
    fs::write(&path, text).unwrap();
    path
}

/// A run of the configuration in `folder` with these settings; its adapter's bytes.
fn trained(folder: &Path, name: &str, set: &[&str]) -> Vec<u8> {
    let (config, out) = (config(folder, DUCK), folder.join(name));
    let (config, to) = (config.display().to_string(), out.display().to_string());
    let mut args = vec!["train", &config, "--out", &to, "--device", "cpu"];
    set.iter().for_each(|s| args.extend(["--set", s]));
    fine(&args);
    fs::read(out.join("adapter.safetensors")).unwrap()
}

fn columns(run: &Path) -> Vec<String> {
    let text = fs::read_to_string(run.join("log.csv")).unwrap();
    text.lines().next().unwrap().split(',').map(String::from).collect()
}

fn value(run: &Path, row: usize, column: &str) -> f64 {
    let at = columns(run).iter().position(|c| c == column).unwrap();
    let text = fs::read_to_string(run.join("log.csv")).unwrap();
    text.lines().nth(row + 1).unwrap().split(',').nth(at).unwrap().parse().unwrap()
}

#[test]
fn a_run_logs_every_part_writes_one_small_file_and_repeats_bit_for_bit() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    let whole = trained(f, "whole", &[]);
    let run = f.join("whole");
    let all = columns(&run);
    let parts = [
        "diffusion",
        "text_implicit",
        "implicit_explicit",
        "text_background",
        "router_entropy",
        "expert_0",
        "expert_3",
    ];
    parts.iter().for_each(|p| assert!(all.iter().any(|c| c == p), "{p} of {all:?}"));
    for row in 0..4 {
        let get = |column: &str| value(&run, row, column);
        let sum = get("diffusion")
            + 0.001 * (get("text_implicit") - get("implicit_explicit") + get("text_background"));
        assert!((get("loss") - sum).abs() < 1e-6, "row {row}");
        let load: f64 = (0..4).map(|i| get(&format!("expert_{i}"))).sum();
        assert!((load - 1.0).abs() < 1e-5 && get("router_entropy") <= 4f64.ln() + 1e-6);
    }
    for number in 1..=5 {
        let fill = read(&run.join(format!("backgrounds/duck/{number:02}.png"))).unwrap();
        let photo = read(&Path::new(DUCK).join(format!("{number:02}.png"))).unwrap();
        assert_eq!((fill.width, fill.height), (photo.width, photo.height));
        assert_ne!(fill.data, photo.rgb().data);
    }
    assert!(f.join("whole/backgrounds.png").is_file());
    let file = SafeFile::open(run.join("adapter.safetensors")).unwrap();
    assert_eq!(file.metadata()["selvedge.method"], "decoupled");
    assert!(file.metadata()["selvedge.decoupling"].contains("\"experts\":4"));
    let has = |end: &str| file.entries().keys().any(|k| k.ends_with(end));
    assert!(has("decoupling.adapter.mask") && has("decoupling.fusion.experts.fc2.weight"));
    assert!(has("lora_A.weight") && file.entries().keys().any(|k| k.starts_with("text_encoder")));

    // stopped after two steps and resumed: the same bits, with the photos filled once
    let config = f.join("train.toml").display().to_string();
    let half = f.join("half").display().to_string();
    fine(&["train", &config, "--out", &half, "--device", "cpu"]);
    for step in ["step-00000003", "step-00000004"] {
        fs::remove_dir_all(f.join("half/checkpoints").join(step)).ok();
    }
    fs::remove_file(f.join("half/adapter.safetensors")).unwrap();
    let error = fine(&["train", &config, "--out", &half, "--device", "cpu", "--resume"]);
    assert!(!error.contains("without their subjects"), "{error}");
    assert_eq!(fs::read(f.join("half/adapter.safetensors")).unwrap(), whole);

    // another run goes on from the file: at a rate of 0 it writes the same values
    let from = format!("train.from={}", run.join("adapter.safetensors").display());
    let rates = ["train.learning_rate=0.0", "train.text_learning_rate=0.0"];
    trained(f, "more", &[&from, rates[0], rates[1], "train.steps=1"]);
    let more = SafeFile::open(f.join("more/adapter.safetensors")).unwrap();
    for name in ["decoupling.adapter.fc1.weight", "decoupling.fusion.experts.fc2.weight"] {
        assert_eq!(more.raw(name).unwrap(), file.raw(name).unwrap(), "{name}");
    }
    let to = f.join("plain").display().to_string();
    let dreambooth = ["--set", "method.name=dreambooth", "--set", "train.rank=4", "--set", &from];
    let text = ["--set", "train.train_text_encoder=true"];
    let args = [&["train", &config, "--out", &to][..], &dreambooth, &text];
    let e = refused(&args.concat());
    assert!(e.contains("a decoupled adapter"), "{e}");

    // without what is kept of the photos: the same
    fs::remove_dir_all(f.join("half/backgrounds")).unwrap();
    fs::remove_file(f.join("half/adapter.safetensors")).unwrap();
    fine(&["train", &config, "--out", &half, "--device", "cpu", "--resume"]);
    assert_eq!(fs::read(f.join("half/adapter.safetensors")).unwrap(), whole);
}

#[test]
fn every_switch_changes_the_run() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    let mut seen = vec![trained(f, "plain", &[])];
    let switches: [&[&str]; 16] = [
        &["decoupling.text_implicit=0.5"],
        &["decoupling.implicit_explicit=0.5"],
        &["decoupling.text_background=0.5"],
        &["decoupling.diffusion=0.5"],
        &["decoupling.weak=0.5"],
        &["decoupling.fusion=false"],
        &["decoupling.experts=2"],
        &["decoupling.top_k=1"],
        &["decoupling.routing=sequence"],
        &["decoupling.irrelevant_source=mean"],
        &["decoupling.drop=1.0"],
        &["decoupling.train_text=none"],
        &["decoupling.text_feature=end", "decoupling.text_implicit=0.5"],
        &["decoupling.text_feature=concept", "decoupling.text_implicit=0.5"],
        &["decoupling.train_text=embedding"],
        &["decoupling.drop=1.0", "decoupling.drop_loss=whole"],
    ];
    for (i, set) in switches.iter().enumerate() {
        let bytes = trained(f, &format!("run{i}"), set);
        assert!(!seen.contains(&bytes), "{set:?} changes nothing");
        seen.push(bytes);
    }
    let (config, to) = (config(f, DUCK), f.join("told").display().to_string());
    let frozen = ["--set", "decoupling.train_text=none", "--set", "train.steps=1"];
    let train = ["train", &config.display().to_string(), "--out", &to, "--device", "cpu"];
    assert!(fine(&[&train[..], &frozen].concat()).contains("nothing of the text is trained"));
    // without a part of the loss its column goes, and the rest is the sum
    trained(f, "less", &["decoupling.text_background=0.0", "train.accumulate=2"]);
    assert!(!columns(&f.join("less")).contains(&"text_background".to_string()));
    let get = |column: &str| value(&f.join("less"), 0, column);
    let sum = get("diffusion") + 0.001 * (get("text_implicit") - get("implicit_explicit"));
    assert!((get("loss") - sum).abs() < 1e-6);
    // fills and margins are other pictures
    for set in ["decoupling.grow=9", "decoupling.fill=nano"] {
        trained(f, "other", &[set, "train.steps=1"]);
        let fill = |run: &str| fs::read(f.join(run).join("backgrounds/duck/01.png")).unwrap();
        assert_ne!(fill("other"), fill("plain"), "{set}");
        fs::remove_dir_all(f.join("other")).unwrap();
    }
}

#[test]
fn disenbooth_and_mudi_with_decoupling_train_by_the_same_code() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    trained(f, "disen", &["method.name=disenbooth"]);
    let all = columns(&f.join("disen"));
    assert!(all.contains(&"weak".into()) && !all.contains(&"router_entropy".into()), "{all:?}");
    assert!(!f.join("disen/backgrounds").exists(), "nothing reads backgrounds");
    // scenes come through the branch that was trained
    let (photo, lora) = (format!("{DUCK}/01.png"), f.join("disen").display().to_string());
    let made = |name: &str, flags: &[&str]| {
        let out = f.join(name).display().to_string();
        let size = ["--height", "64", "--width", "64", "--steps", "1", "--device", "cpu"];
        let start = ["generate", "--base", "nano", "--lora", &lora, "--out", &out, "--prompt"];
        fine(&[&start, &["an amg duck"][..], &size, flags].concat());
        read(&f.join(name).join("00000.png")).unwrap()
    };
    let scene = made("scene", &["--mode", "scene", "--background", &photo]);
    assert_eq!(made("photo", &["--mode", "reconstruct", "--background", &photo]), scene);
    assert_ne!(made("alone", &[]), scene);
    let pair = format!(
        "base = \"nano\"\n[method]\nname = \"mudi\"\nmix_probability = 0.8\n[decoupling]\nenabled = true\n[train]\n\
         resolution = 64\nsteps = 4\nsample_every = 2\nsample_steps = 2\n[[subject]]\nid = \"a\"\ntoken = \"amg\"\n\
         class = \"robot\"\nimages = \"{0}/a\"\n[[subject]]\nid = \"b\"\ntoken = \"hta\"\nclass = \"duck\"\nimages = \
         \"{0}/b\"\n",
        Path::new(DUCK).parent().unwrap().display()
    );
    let (file, out) = (f.join("pair.toml"), f.join("pair").display().to_string());
    fs::write(&file, pair).unwrap();
    let set = "method.mix_probability=0.8";
    fine(&["train", &file.display().to_string(), "--out", &out, "--device", "cpu", "--set", set]);
    assert!(f.join("pair/samples/step-000004/00.png").is_file());
    assert!(columns(&f.join("pair")).contains(&"text_background".into()));
    let mixed = fs::read_to_string(f.join("pair/log.csv")).unwrap();
    assert!(mixed.lines().skip(1).any(|l| l.split(',').nth(5) != Some("0")), "{mixed}");
}

#[test]
fn pictures_follow_mode_background_and_weights() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    trained(f, "run", &["train.learning_rate=0.01", "train.text_learning_rate=0.01"]);
    let scene = f.join("scene.png");
    let mut picture = Picture::filled(80, 60, 3, 30);
    picture.data.iter_mut().step_by(3).for_each(|v| *v = 220);
    write_png(&scene, &picture, &[]).unwrap();
    let (run, scene) = (f.join("run").display().to_string(), scene.display().to_string());
    let made = |name: &str, flags: &[&str]| {
        let out = f.join(name).display().to_string();
        let size = ["--height", "64", "--width", "64", "--steps", "3", "--device", "cpu"];
        let start = ["generate", "--base", "nano", "--lora", &run, "--out", &out, "--prompt"];
        fine(&[&start, &["an amg duck"][..], &size, flags].concat());
        read(&f.join(name).join("00000.png")).unwrap()
    };
    let plain = made("plain", &[]);
    assert_eq!(made("subject", &["--mode", "subject"]), plain);
    let scenery = made("scenery", &["--background", &scene]);
    assert_eq!(made("named", &["--mode", "scene", "--background", &scene]), scenery);
    assert_ne!(scenery, plain);
    let kept = ["--mode", "reconstruct", "--background", &scene];
    assert_ne!(made("kept", &kept), scenery);
    let none = ["--background", &scene, "--background-weight", "0"];
    assert_eq!(made("none", &none), plain);
    assert_ne!(made("half", &["--background", &scene, "--background-weight", "0.5"]), scenery);
    assert_ne!(made("weak", &["--identity-weight", "0.3"]), plain);
    let other = f.join("other.png");
    write_png(&other, &Picture::filled(80, 60, 3, 200), &[]).unwrap();
    assert_ne!(made("other", &["--background", &other.display().to_string()]), scenery);

    let lora = ["generate", "--base", "nano", "--prompt", "x", "--out", "x", "--lora", &run];
    let refused = |flags: &[&str]| refused(&[&lora, flags].concat());
    assert!(refused(&["--mode", "scene"]).contains("--background"));
    assert!(refused(&["--mode", "subject", "--background", &scene]).contains("one of the two"));
    assert!(refused(&["--background", "nowhere.png"]).contains("nowhere.png"));
    for weight in ["--identity-weight=-1", "--background-weight=-1"] {
        let e = refused(&["--background", &scene, weight]);
        assert!(e.contains(weight.split('=').next().unwrap()), "{e}");
    }
    let e = refused(&["--background", &scene, "--encoder", "nowhere"]);
    assert!(e.contains("--encoder"), "{e}");
    let dino = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/judging/clip");
    let e = refused(&["--background", &scene, "--encoder", dino]);
    assert!(e.contains("numbers") && e.contains("--encoder"), "{e}");
    let twice = refused(&["--lora", &run]);
    assert!(twice.contains("2 decoupled adapters"), "{twice}");
}

#[test]
fn what_stands_beside_the_text_has_to_fit_the_adapter() {
    let model = Decoupling {
        features: 3,
        width: 4,
        source: Source::Explicit,
        adapter: false,
        fusion: None,
    };
    let says = |beside: Beside, width: usize| {
        let steering = Steering { beside, ..Steering::subject(model) };
        steering.check(width).err().map_or(String::new(), |e| e.to_string())
    };
    let feature = || vec![0.0; 3];
    assert_eq!(says(Beside::Scene(feature()), 4), "");
    assert!(says(Beside::Photo(feature()), 4).contains("without the implicit branch"));
    assert!(says(Beside::Scene(vec![0.0; 2]), 4).contains("a feature of 2 numbers"));
    assert!(says(Beside::Nothing, 5).contains("texts of width 4"));
}

#[test]
fn what_cannot_be_decoupled_is_one_clear_line_and_leaves_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    let photos = f.join("photos");
    fs::create_dir(&photos).unwrap();
    fs::copy(Path::new(DUCK).join("01.png"), photos.join("01.png")).unwrap();
    let config = config(f, &photos.display().to_string()).display().to_string();
    let out = f.join("run");
    let to = out.display().to_string();
    let train = |set: &[&str]| {
        let mut args = vec!["train", &config, "--out", &to, "--device", "cpu"];
        set.iter().for_each(|s| args.extend(["--set", s]));
        let e = refused(&args);
        assert!(!out.exists(), "{e}: something was left");
        e
    };
    assert!(train(&[]).contains("no mask"));
    for (value, word) in [(255u8, "leaves nothing"), (0, "mask")] {
        let photo = read(&photos.join("01.png")).unwrap();
        let mask = Picture::filled(photo.width, photo.height, 1, value);
        write_png(&photos.join("01_mask.png"), &mask, &[]).unwrap();
        let e = train(&[]);
        assert!(e.contains(word) && e.contains("01"), "{e}");
    }
    fs::copy(Path::new(DUCK).join("01_mask.png"), photos.join("01_mask.png")).unwrap();
    let missing = train(&["decoupling.encoder=nowhere"]);
    assert!(missing.contains("nowhere"), "{missing}");
    // an adapter without a decoupling has no modes
    let plain =
        ["train", &config, "--out", &to, "--device", "cpu", "--set", "method.name=dreambooth"];
    fine(&[&plain[..], &["--set", "train.steps=1"]].concat());
    let e = refused(&[
        "generate", "--base", "nano", "--lora", &to, "--prompt", "x", "--out", "x", "--mode",
        "subject",
    ]);
    assert!(e.contains("no decoupled adapter"), "{e}");
}

#[test]
fn what_is_trained_is_a_fiftieth_of_the_published_models_and_the_plan_shows_it() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    for (base, total) in [("sd21", 865_910_724f64), ("sdxl", 2_567_463_684f64)] {
        let plan = |method: &str| {
            let text = format!(
                "base = \"nano\"\n[method]\nname = \"{method}\"\n[decoupling]\nencoder = \"nano/eyes/clip\"\n\
                 [train]\nrank = 4\ntrain_text_encoder = true\nresolution = 512\n[[subject]]\nid = \"a\"\ntoken = \
                 \"amg\"\nclass = \"duck\"\nimages = \"{DUCK}\"\n"
            );
            let path = f.join("plan.toml");
            fs::write(&path, text).unwrap();
            let path = path.display().to_string();
            let words = ["plan", "train", &path, "--model", base];
            let plan = |more: &[&str]| {
                let output = selvedge(&[&words, more].concat());
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success(), "{error}");
                output.stdout
            };
            // what the experts would keep is computed again
            let steps = String::from_utf8(plan(&[])).unwrap();
            let again = steps.lines().filter(|l| l.contains(" again moe_experts"));
            assert_eq!(again.count(), if method == "decoupled" { 2 } else { 0 });
            serde_json::from_slice::<serde_json::Value>(&plan(&["--summary", "--json"])).unwrap()
        };
        let (with, without) = (plan("decoupled"), plan("dreambooth"));
        let of = |plan: &serde_json::Value, key: &str| plan[key].as_f64().unwrap();
        let trained = of(&with, "trainable_parameters");
        assert!(trained < 0.02 * total, "{base}: {trained} of {total}");
        assert!(trained > of(&without, "trainable_parameters"));
        assert!(of(&with, "planned_bytes") < 1.10 * of(&without, "planned_bytes"), "{base}");
    }
}

#[cfg(feature = "emulate")]
#[test]
fn the_emulated_device_trains_and_paints_as_the_cpu_does() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    let config = config(f, DUCK).display().to_string();
    let photo = Path::new(DUCK).join("01.png").display().to_string();
    let mut pictures = vec![];
    for device in ["cpu", "emulated"] {
        let run = f.join(device).display().to_string();
        let more = ["--device", device, "--dtype", "f32"];
        let steps = ["--set", "train.steps=2", "--set", "decoupling.weak=0.1"];
        fine(&[&["train", &config, "--out", &run][..], &more, &steps].concat());
        let out = f.join(format!("{device}_pictures")).display().to_string();
        let what =
            ["generate", "--base", "nano", "--prompt", "an amg duck", "--background", &photo];
        let size =
            ["--height", "64", "--width", "64", "--steps", "2", "--out", &out, "--lora", &run];
        fine(&[&what[..], &size, &more].concat());
        pictures.push(read(&Path::new(&out).join("00000.png")).unwrap());
    }
    for column in ["loss", "diffusion", "weak", "text_implicit", "router_entropy", "expert_2"] {
        for row in 0..2 {
            let [cpu, own] = ["cpu", "emulated"].map(|d| value(&f.join(d), row, column));
            assert!(
                (cpu - own).abs() <= 1e-4 * cpu.abs().max(1e-2),
                "{column} {row}: {cpu}, {own}"
            );
        }
    }
    let far = pictures[0].data.iter().zip(&pictures[1].data).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(far <= Some(2), "{far:?}");
}
