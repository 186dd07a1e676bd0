//! The training configuration: defaults, overrides, and messages that name line and nearest key.
#![allow(clippy::unwrap_used)] // helpers of tests

use std::path::Path;

use selvedge::{
    data::config::{
        DEFAULT_PRESET, DropLoss, Loss, LrSchedule, Method, Target, TrainConfig, TrainSection,
        load_for_subjects, preset_names, print_config,
    },
    models::decoupling::Source,
};

const TWO: &str = r#"
base = "nano"
[[subject]]
id = "a"
token = "olis"
class = "red monster plush"
images = "/photos/a"
scale = 0.5
[[subject]]
id = "b"
token = "hta"
class = "robot toy"
images = "/photos/b"
[method]
name = "cut-mix"
[train]
steps = 7
"#;

fn parse(text: &str, set: &[&str]) -> Result<TrainConfig, String> {
    let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
    TrainConfig::parse(text, "c.toml", Path::new("/nowhere"), &set).map_err(|e| e.to_string())
}

#[test]
fn the_published_settings_are_the_defaults() {
    let c = parse(TWO, &[]).unwrap();
    assert_eq!(c.method.name, Method::CutMix);
    assert_eq!((c.train.steps, c.train.rank, c.train.accumulate), (7, 32, 2));
    assert_eq!((c.train.learning_rate, c.train.weight_decay), (1e-4, 1e-4));
    assert_eq!(c.method.mix_probability, 0.3);
    assert_eq!(c.train.effective_alpha(), 32.0);
    assert_eq!(c.subjects[0].words(), "olis red monster plush");
    assert_eq!((c.subjects[0].scale, c.subjects[1].scale), (Some(0.5), None));
}

#[test]
fn settings_that_exclude_each_other_are_refused() {
    let e = parse(TWO, &["method.loss=dco", "method.min_snr_gamma=5.0"]).unwrap_err();
    assert!(e.contains("method.min_snr_gamma") && e.contains("method.loss = \"mse\""), "{e}");
    assert!(parse(TWO, &["method.loss=dco", "method.min_snr_gamma=0.0"]).is_ok());
    let full = ["train.mode=full", "train.parts=[\"unet\"]", "train.from=\"a.safetensors\""];
    let e = parse(TWO, &full).unwrap_err();
    assert!(e.contains("train.from") && e.contains("RUN/model"), "{e}");
}

#[test]
fn an_unknown_key_names_its_line_and_the_nearest_key() {
    let e = parse(&format!("{TWO}learning_rat = 1.0\n"), &[]).unwrap_err();
    assert!(e.contains("c.toml: line 18"), "{e}");
    assert!(e.contains("`learning_rat`") && e.contains("did you mean `learning_rate`?"), "{e}");
    let e = parse(&TWO.replace("token = \"hta\"", "tokn = \"hta\""), &[]).unwrap_err();
    assert!(e.contains("line 11") && e.contains("did you mean `token`?"), "{e}");
    let e = parse(&format!("{TWO}mix_probability = 0.5\n"), &[]).unwrap_err();
    assert!(e.contains("did you mean `method.mix_probability`?"), "{e}");
    let e = parse(&TWO.replace("[method]", "[metod]"), &[]).unwrap_err();
    assert!(e.contains("did you mean `method`?"), "{e}");
}

#[test]
fn overrides_change_values_and_are_checked() {
    let set =
        ["train.steps=3", "method.name=mudi", "subject.b.scale=0.25", "train.targets=[\"x\"]"];
    let c = parse(TWO, &set).unwrap();
    assert_eq!((c.train.steps, c.method.name), (3, Method::Mudi));
    assert_eq!(c.subjects[1].scale, Some(0.25));
    assert_eq!(c.train.targets, ["x"]);
    assert!(parse(TWO, &["train.step=3"]).unwrap_err().contains("did you mean `train.steps`?"));
    assert!(parse(TWO, &["steps=3"]).unwrap_err().contains("did you mean `train.steps`?"));
    assert!(parse(TWO, &["train.steps"]).unwrap_err().contains("key=value"));
    assert!(parse(TWO, &["subject.c.scale=1.0"]).unwrap_err().contains("subject.c"));
}

#[test]
fn unusable_values_name_their_key() {
    for (set, word) in [
        ("method.mix_probability=1.5", "method.mix_probability"),
        ("train.resolution=100", "train.resolution"),
        ("train.rank=0", "train.rank"),
        ("train.formats=[\"pfet\"]", "train.formats"),
        ("train.mode=full", "train.parts"),
        ("method.name=mudy", "unknown variant `mudy`"),
        ("train.steps=many", "invalid type"),
        ("subject.a.scale=0.0", "subject 1: scale"),
    ] {
        let e = parse(TWO, &[set]).unwrap_err();
        assert!(e.contains(word), "{set}: {e}");
    }
    let full = ["method.loss=dco", "train.mode=full", "train.parts=[\"unet.mid_block\"]"];
    assert!(parse(TWO, &full).unwrap_err().contains("mse in mode full"));
    let dco = ["method.loss=dco", "method.prior_preservation=true"];
    assert!(parse(TWO, &dco).unwrap_err().contains("one of the two"));
    let wrong_type = parse(&TWO.replace("steps = 7", "steps = \"7\""), &[]).unwrap_err();
    assert!(wrong_type.contains("line 17"), "{wrong_type}");
    assert!(parse("base = ", &[]).unwrap_err().contains("line 1"));
}

#[test]
fn mixing_needs_two_subjects() {
    let one = TWO.split("[[subject]]\nid = \"b\"").next().unwrap();
    let e = parse(one, &[]).unwrap_err();
    assert!(e.contains("1 [[subject]]") && e.contains("at least 2 for method mudi"), "{e}");
    assert!(parse(one, &["method.name=dreambooth"]).is_ok());
}

#[test]
fn the_resolved_configuration_reads_back_equal() {
    let c = parse(TWO, &["train.steps=11"]).unwrap();
    assert_eq!(parse(&c.to_toml().unwrap(), &[]).unwrap(), c);
}

#[test]
fn the_printed_configuration_is_the_default_one() {
    let text = print_config(DEFAULT_PRESET).unwrap();
    let with_subjects =
        format!("{text}{}", &TWO[TWO.find("[[").unwrap()..TWO.find("[method]").unwrap()]);
    let c = parse(&with_subjects, &[]).unwrap();
    assert_eq!(c.train, TrainSection::default());
    assert!(
        text.contains("# presets") && text.contains("mudi-v1: MuDI as its first paper"),
        "{text}"
    );
    assert!(print_config("mudi-v1").unwrap().contains("prior_preservation = true"));
    assert!(print_config("mudi-v2").unwrap_err().to_string().contains("mudi-dco or mudi-v1"));
    assert!(text.contains("learning_rate = 0.0001"), "{text}");
    assert!(text.contains("# mudi | dreambooth | cut-mix"));
}

#[test]
fn learning_rate_schedules_have_the_published_shape() {
    let base = TrainSection { steps: 110, warmup_steps: 10, ..TrainSection::default() };
    let cosine = TrainSection { schedule: LrSchedule::Cosine, ..base.clone() };
    let linear = TrainSection { schedule: LrSchedule::Linear, ..base.clone() };
    assert_eq!(base.learning_rate_factor(0), 0.0);
    assert_eq!(base.learning_rate_factor(5), 0.5);
    assert_eq!(base.learning_rate_factor(60), 1.0);
    assert!((cosine.learning_rate_factor(60) - 0.5).abs() < 1e-12);
    assert!((linear.learning_rate_factor(85) - 0.25).abs() < 1e-12);
    assert_eq!(linear.learning_rate_factor(110), 0.0);
}

/// `TWO` without its [method] and [train] tables: a configuration that leaves the method to the presets.
fn bare() -> &'static str {
    TWO.split("[method]").next().unwrap()
}

#[test]
fn a_configuration_without_keys_is_the_default_preset_and_no_other() {
    let plain = parse(bare(), &[]).unwrap();
    assert_eq!((plain.preset.as_str(), DEFAULT_PRESET), ("mudi-dco", "mudi-dco"));
    let same = |name: &str| {
        let preset = TrainConfig::preset(name).unwrap();
        preset.method == plain.method && preset.train == plain.train
    };
    let equal: Vec<&str> = preset_names().into_iter().filter(|n| same(n)).collect();
    assert_eq!(equal, [DEFAULT_PRESET]);
    assert_eq!(TrainConfig::preset(DEFAULT_PRESET).unwrap(), TrainConfig::default());
}

#[test]
fn the_presets_are_the_papers() {
    let [dco, v1, decoupled, disenbooth] = preset_names()[..] else { panic!() };
    let [dco, v1, decoupled, disenbooth] =
        [dco, v1, decoupled, disenbooth].map(|name| TrainConfig::preset(name).unwrap());
    for c in [&dco, &v1] {
        assert_eq!((c.method.name, c.method.mix_probability), (Method::Mudi, 0.3));
        assert_eq!((c.train.steps, c.train.rank, c.train.learning_rate), (1400, 32, 1e-4));
    }
    assert_eq!((dco.method.loss, dco.method.dco_beta), (Loss::Dco, 1000.0));
    assert!(!dco.method.prior_preservation);
    assert_eq!((v1.method.loss, v1.method.prior_weight), (Loss::Mse, 1.0));
    assert!(v1.method.prior_preservation);
    assert_eq!((v1.method.prior_steps, v1.method.prior_guidance), (50, 5.0));
    for c in [&decoupled, &disenbooth] {
        assert_eq!((c.train.steps, c.train.rank, c.train.learning_rate), (2000, 4, 1e-4));
        assert_eq!((c.train.weight_decay, c.method.loss), (1e-2, Loss::Mse));
        assert_eq!((c.decoupling.diffusion, c.decoupling.text_implicit), (1.0, 0.001));
    }
    let d = &decoupled.decoupling;
    assert_eq!((d.implicit_explicit, d.text_background, d.weak), (0.001, 0.001, 0.0));
    assert_eq!((d.experts, d.fusion, d.irrelevant_source), (4, true, Source::Explicit));
    assert_eq!((d.drop, d.drop_loss), (0.5, DropLoss::Subject));
    assert!(decoupled.adapts_text() && !disenbooth.adapts_text());
    let d = &disenbooth.decoupling;
    assert_eq!((d.implicit_explicit, d.text_background, d.weak), (0.0, 0.0, 0.01));
    assert_eq!((d.fusion, d.drop, d.irrelevant_source), (false, 0.0, Source::Implicit));
}

#[test]
fn decoupling_brings_its_presets_and_refuses_what_it_cannot_use() {
    let one = |name: &str| parse(bare(), &[&format!("method.name={name}")]).unwrap();
    assert_eq!(
        (one("decoupled").preset, one("disenbooth").preset),
        ("decoupled".into(), "disenbooth".into())
    );
    let both = parse(bare(), &["decoupling.enabled=true"]).unwrap();
    assert!(both.decouples() && both.adapts_text() && !TrainConfig::default().decouples());
    assert_eq!((both.method.name, both.method.loss), (Method::Mudi, Loss::Mse));
    for (set, key) in [
        ("decoupling.drop=1.5", "decoupling.drop"),
        ("decoupling.experts=0", "decoupling.experts"),
        ("decoupling.top_k=5", "decoupling.top_k"),
        ("decoupling.weak=-1.0", "decoupling.weak"),
        ("decoupling.diffusion=0.0", "decoupling.diffusion"),
        ("decoupling.grow=-2", "decoupling.grow"),
        ("decoupling.fill=\"\"", "decoupling.fill"),
        ("method.prior_preservation=true", "method.prior_preservation"),
        ("base=sdxl", "decoupling.encoder"),
    ] {
        let e = parse(bare(), &["method.name=decoupled", set]).unwrap_err().to_string();
        assert!(e.contains(key), "{set}: {e}");
    }
    assert!(parse(bare(), &["decoupling.routing=both"]).is_err());
}

#[test]
fn a_preset_lies_under_the_file_and_the_file_under_the_overrides() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    let load = |text: &str, preset: Option<&str>, set: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
        TrainConfig::load_over(preset, &file, &set).map_err(|e| e.to_string())
    };
    let own = format!("{}[method]\nprior_images = 7\nprior_weight = 2.0\n", bare());
    let c = load(&own, Some("mudi-v1"), &["method.prior_weight=3.0"]).unwrap();
    assert_eq!(c.preset, "mudi-v1");
    assert!(c.method.prior_preservation, "from the preset");
    assert_eq!((c.method.prior_images, c.method.prior_weight), (7, 3.0));
    assert_eq!(parse(&c.to_toml().unwrap(), &[]).unwrap(), c, "the resolved one reads back");
    // the key in the file does the same, and the flag goes before it
    let keyed = format!("preset = \"mudi-v1\"\n{}", bare());
    assert!(load(&keyed, None, &[]).unwrap().method.prior_preservation);
    assert!(!load(&keyed, Some("mudi-dco"), &[]).unwrap().method.prior_preservation);
    assert!(load(bare(), None, &["preset=mudi-v1"]).unwrap().method.prior_preservation);
    let e = load(bare(), Some("mudi-v3"), &[]).unwrap_err();
    assert!(e.contains("mudi-v3") && e.contains("mudi-dco or mudi-v1"), "{e}");
}

#[test]
fn the_baselines_have_the_plain_loss_unless_a_preset_is_named() {
    for name in ["dreambooth", "cut-mix"] {
        let set = format!("method.name={name}");
        let c = parse(bare(), &[&set]).unwrap();
        assert_eq!((c.method.loss, c.preset.as_str()), (Loss::Mse, ""), "{name}");
        assert!(!c.method.prior_preservation);
        let c = parse(bare(), &[&set, "preset=mudi-v1"]).unwrap();
        assert!(c.method.prior_preservation, "the paper's baseline");
        let c = parse(bare(), &[&set, "method.loss=dco"]).unwrap();
        assert_eq!(c.method.loss, Loss::Dco);
    }
}

#[test]
fn the_method_of_a_subjects_file_is_read_with_its_subjects() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("s.toml");
    let text = format!("{}[method]\nmargin = 31\nscale_max = 0.8\noverlap = false\n", bare());
    std::fs::write(&file, text).unwrap();
    let TrainConfig { subjects, method, .. } = load_for_subjects(&file).unwrap();
    assert_eq!((subjects.len(), method.margin, method.scale_max), (2, 31, 0.8));
    assert!(!method.overlap && method.scale_min == 0.75);
}

#[test]
fn the_target_of_the_base_is_a_key() {
    assert_eq!(parse(TWO, &[]).unwrap().prediction, Target::Auto);
    assert_eq!(parse(TWO, &["prediction=v"]).unwrap().prediction, Target::V);
    assert!(parse(TWO, &["prediction=w"]).unwrap_err().contains("unknown variant `w`"));
}
