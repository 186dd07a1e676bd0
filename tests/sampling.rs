//! What a run of pictures loads, and how often.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use clap::Parser;
use selvedge::{
    cli::{
        generate::{Generate, Made},
        scene::Scene,
        train::train,
    },
    data::{TrainConfig, prior},
    device::Device,
    lora::{Adapters, Loras},
    models::{Texts, base::Base},
    sample::{Loads, Pipeline, Request, Sampler},
    tensor::{DType, image},
    train::Report,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    generate: Generate,
}

/// Two steps on nano, 64 pixels wide, with `more` flags.
fn made(more: &[&str]) -> Made {
    let fixed = "generate --base nano --device cpu --steps 2 --height 64 --width 64 --out unused";
    let prompt = ["--prompt", "a photo of a olis bear and a hta bear"];
    let words = fixed.split(' ').chain(prompt).chain(more.iter().copied());
    Command::try_parse_from(words).unwrap().generate.make().unwrap()
}

fn png(path: &Path, colour: png::ColorType, value: u8) {
    let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), 64, 64);
    encoder.set_color(colour);
    let data = vec![value; 64 * 64 * colour.samples()];
    encoder.write_header().unwrap().write_image_data(&data).unwrap();
}

#[test]
fn every_program_is_loaded_once_whatever_count_and_batch() {
    let plain = Loads { text: 1, encoder: 0, denoiser: 1, decoder: 1 };
    let three = made(&["--count", "3", "--batch", "1", "--seed", "5"]);
    assert_eq!((three.loads, three.pictures.len()), (plain, 3));
    // The last pass has one picture: planned anew, over the same weights.
    let pairs = made(&["--count", "3", "--batch", "2", "--seed", "5"]);
    assert_eq!((pairs.loads, pairs.pictures.len()), (plain, 3));
    assert_eq!(pairs.pictures[2], three.pictures[2], "the same numbers after planning anew");
    let single = made(&["--seed", "7"]);
    assert_eq!(single.pictures[0], three.pictures[2]);
}

/// A file with two bears, each a grey square in one photo.
fn two_bears(folder: &Path) -> PathBuf {
    let mut text = String::new();
    for (id, token, value) in [("a", "olis", 40), ("b", "hta", 200)] {
        let photos = folder.join(id);
        fs::create_dir(&photos).unwrap();
        png(&photos.join("00.png"), png::ColorType::Rgb, value);
        png(&photos.join("00_mask.png"), png::ColorType::Grayscale, 255);
        let photos = photos.display();
        text += &format!(
            "[[subject]]\nid = \"{id}\"\ntoken = \"{token}\"\nclass = \"bear\"\nimages = \"{photos}\"\n"
        );
    }
    let file = folder.join("subjects.toml");
    fs::write(&file, text).unwrap();
    file
}

#[test]
fn apart_keeps_every_subject_in_its_own_columns() {
    let dir = tempfile::tempdir().unwrap();
    let file = two_bears(dir.path());
    let open = |init: &str, apart| {
        let place = (&Device::Cpu, dir.path());
        Scene::open((init, apart), Some(&file), "a olis bear and a hta bear", place)
    };
    let overlapping = |apart| {
        let scene = open("seg-mix", apart).unwrap().unwrap();
        let shared = |seed| {
            let (picture, _) = scene.compose(seed, [128, 128]).unwrap();
            let seen =
                |x: usize, value: u8| (0..128).any(|y| picture.at(x, y)[0].abs_diff(value) < 9);
            assert!([40, 200].iter().all(|v| (0..128).any(|x| seen(x, *v))));
            (0..128).any(|x| seen(x, 40) && seen(x, 200))
        };
        (0..40).filter(|seed| shared(*seed)).count()
    };
    assert_eq!(overlapping(true), 0);
    assert!(overlapping(false) > 5, "the rule of training lets them overlap");
    assert!(open("none", true).unwrap_err().to_string().contains("--apart"));
    assert!(open("none", false).unwrap().is_none());
}

#[test]
fn an_initialization_loads_one_encoder() {
    let dir = tempfile::tempdir().unwrap();
    let file = two_bears(dir.path());
    let init = ["--init", "seg-mix", "--subjects", file.to_str().unwrap()];
    let made = made(&[&init[..], &["--count", "3", "--batch", "1"]].concat());
    assert_eq!(made.loads, Loads { text: 1, encoder: 1, denoiser: 1, decoder: 1 });
}

#[test]
fn texts_are_encoded_once_in_a_run_of_several_pipelines() {
    let base = Base::open("nano").unwrap();
    let (none, nothing) = (Adapters::new(), Loras::default());
    let request = |prompt: &str| Request {
        prompt: prompt.into(),
        negative: None,
        height: 64,
        width: 64,
        sampler: Sampler::Euler,
        spacing: None,
        steps: 1,
        guidance: 1.0,
    };
    let (one, two) = (request("a bear"), request("a cat"));
    let mut texts = Texts::default();
    for _ in 0..3 {
        let pipeline = Pipeline::new(&base, Device::Cpu, &none, &nothing);
        let mut pipeline = pipeline.with_texts(texts);
        pipeline.encode_prompts(&[&one, &two, &one]).unwrap();
        assert_eq!(pipeline.loads().text, 1);
        texts = pipeline.into_texts();
    }
    assert!(texts.get("a cat").is_some() && texts.get("a cat") != texts.get("a bear"));
}

/// Two steps on nano with one photo a subject, `text` added to the configuration.
fn trained(folder: &Path, preset: &str, text: &str) -> Report {
    let assets = concat!(env!("CARGO_MANIFEST_DIR"), "/src/assets/nano/subjects/bears");
    let subject = |id: &str, class: &str| {
        format!("[[subject]]\nid = \"{id}\"\nclass = \"{class}\"\nimages = \"{assets}/{id}\"\n")
    };
    let text = format!(
        "preset = \"{preset}\"\nbase = \"nano\"\n[train]\nresolution = 64\nsteps = 2\naccumulate = 1\nrank = 2\n\
         sample_steps = 1\n{text}\n{}{}",
        subject("a", "dotted bear"),
        subject("b", "striped bear")
    );
    let config = TrainConfig::parse(&text, "run.toml", folder, &[]).unwrap();
    let place = (Device::Cpu, DType::F32);
    let run = folder.join("run");
    train(&config, place, (&run, &run.join("masks")), false, "", Default::default()).unwrap()
}

#[test]
fn a_training_run_loads_its_text_encoders_once_for_prior_set_training_and_samples() {
    let samples = "sample_every = 1\nsample_prompts = [\"a cat\", \"a dog\"]";
    let prior = format!("{samples}\n[method]\nprior_images = 1\nprior_steps = 2");
    for (preset, text) in [("mudi-dco", samples), ("mudi-v1", &prior)] {
        let folder = tempfile::tempdir().unwrap();
        let report = trained(folder.path(), preset, text);
        assert!(folder.path().join("run/samples/step-000002/01.png").exists());
        assert_eq!(folder.path().join("run/prior").exists(), preset == "mudi-v1");
        assert_eq!(report.text_loads, 1, "{preset}");
    }
}

/// A prior picture of a run whose sample pictures have settings of their own.
fn prior_picture(preset: &str) -> image::Picture {
    let folder = tempfile::tempdir().unwrap();
    let others = "sample_every = 2\nsample_sampler = \"dpm++\"\nsample_guidance = 2.0\nseed = 11";
    let prior = "[method]\nloss = \"mse\"\nprior_preservation = true\nprior_images = 1";
    trained(folder.path(), preset, &format!("{others}\n{prior}"));
    image::read(&folder.path().join("run/prior/dotted_bear/000.png")).unwrap()
}

#[test]
fn a_prior_picture_is_the_bases_own_by_euler_in_fifty_steps_with_guidance_5() {
    let made = ["mudi-v1", ""].map(prior_picture);
    let prompt = prior::prompt("dotted bear");
    let words = "generate --base nano --device cpu --height 64 --width 64 --out unused --sampler euler \
                 --steps 50 --guidance 5 --prompt";
    // Every try has a seed of its own; one without a subject that stands out is not kept.
    let tries = (0..prior::TRIES).map(|attempt| {
        let seed = (11 ^ (attempt << 20)).to_string();
        let more = [prompt.as_str(), "--negative", prior::NEGATIVE, "--seed", &seed];
        let words = words.split_whitespace().chain(more);
        Command::try_parse_from(words).unwrap().generate.make().unwrap().pictures.remove(0)
    });
    let kept = tries.into_iter().find(|picture| *picture == made[0]);
    assert!(kept.is_some(), "no seed gives the prior picture of the preset");
    assert!(kept.unwrap() == made[1], "the defaults of the keys are not the preset's");
}
