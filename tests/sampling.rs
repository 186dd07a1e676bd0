//! What a run of pictures loads, and how often.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use clap::Parser;
use selvedge::{
    cli::generate::{Generate, Made},
    device::Device,
    lora::{Adapters, Loras},
    models::base::Base,
    sample::{Loads, Pipeline, Request, Sampler, Texts},
};
use std::{fs, path::Path};

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

#[test]
fn an_initialization_loads_one_encoder() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for (id, token, value) in [("a", "olis", 40), ("b", "hta", 200)] {
        let photos = dir.path().join(id);
        fs::create_dir(&photos).unwrap();
        png(&photos.join("00.png"), png::ColorType::Rgb, value);
        png(&photos.join("00_mask.png"), png::ColorType::Grayscale, 255);
        let photos = photos.display();
        text += &format!(
            "[[subject]]\nid = \"{id}\"\ntoken = \"{token}\"\nclass = \"bear\"\nimages = \"{photos}\"\n"
        );
    }
    let file = dir.path().join("subjects.toml");
    fs::write(&file, text).unwrap();
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
