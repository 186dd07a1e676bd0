//! `selvedge inpaint`: the photo without its subject, by colours from around it and by a base.
#![allow(clippy::unwrap_used)]

use selvedge::tensor::{
    image::{Picture, read, write_png},
    philox::fill_normal,
    safetensors::{Raw, SafeFile},
    write_safetensors,
};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
};

fn selvedge(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_selvedge")).args(args).output().unwrap()
}

fn error_of(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!error.contains("panicked"), "{error}");
    error
}

const WIDTH: usize = 96;
const HEIGHT: usize = 64;

fn subject(x: usize, y: usize) -> bool {
    (40..64).contains(&x) && (20..44).contains(&y)
}

/// A photo whose subject has the colour `inside`, and its mask.
fn photo(folder: &Path, name: &str, inside: [u8; 3]) -> String {
    let mut photo = Picture::filled(WIDTH, HEIGHT, 3, 0);
    let mut mask = Picture::filled(WIDTH, HEIGHT, 1, 0);
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            let colour = if subject(x, y) { inside } else { [90, 60 + 2 * y as u8, 200 - x as u8] };
            photo.at_mut(x, y).copy_from_slice(&colour);
            mask.at_mut(x, y)[0] = if subject(x, y) { 255 } else { 0 };
        }
    }
    write_png(&folder.join("mask.png"), &mask, &[]).unwrap();
    let path = folder.join(name);
    write_png(&path, &photo, &[]).unwrap();
    path.display().to_string()
}

/// The result of `inpaint` with `flags`.
fn filled(folder: &Path, photo: &str, out: &str, flags: &[&str]) -> Picture {
    let (mask, to) = (folder.join("mask.png").display().to_string(), folder.join(out));
    let out = to.display().to_string();
    let common = ["inpaint", photo, "--mask", &mask, "--out", &out, "--device", "cpu"];
    let run = selvedge(&[&common[..], flags].concat());
    assert_eq!(run.status.code(), Some(0), "{}", error_of(&run));
    read(&to).unwrap()
}

/// Pixels further than `edge` from the subject are the photo's own, those of the subject are not.
fn only_the_subject_changed(before: &Picture, after: &Picture, edge: usize) {
    assert_eq!((after.width, after.height, after.channels), (WIDTH, HEIGHT, 3));
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            let near = (x.saturating_sub(edge)..=x + edge)
                .any(|x| (y.saturating_sub(edge)..=y + edge).any(|y| subject(x, y)));
            if !near {
                assert_eq!(before.at(x, y), after.at(x, y), "pixel {x}, {y}");
            }
        }
    }
}

#[test]
fn colours_flow_in_from_around_and_nothing_of_the_subject_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let red = photo(folder, "red.png", [255, 0, 0]);
    let black = photo(folder, "black.png", [0, 0, 0]);
    let (a, b) = (filled(folder, &red, "a.png", &[]), filled(folder, &black, "b.png", &[]));
    only_the_subject_changed(&read(Path::new(&red)).unwrap(), &a, 4);
    for y in 0..HEIGHT {
        for x in (0..WIDTH).filter(|x| subject(*x, y)) {
            assert_eq!(a.at(x, y), b.at(x, y), "the subject shows through at {x}, {y}");
            let behind = [90, 60 + 2 * y as u8, 200 - x as u8];
            let far = a.at(x, y).iter().zip(behind).map(|(a, b)| a.abs_diff(b)).max().unwrap();
            assert!(far <= 3, "{x}, {y}: {:?} {behind:?}", a.at(x, y));
        }
    }
    let classical = filled(folder, &red, "c.png", &["--fill", "classical", "--grow", "2"]);
    assert_eq!(classical, a, "2 is what this size has by itself");
    only_the_subject_changed(&read(Path::new(&red)).unwrap(), &classical, 4);
}

#[test]
fn a_base_paints_the_hole_alike_whatever_the_subject_was() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let red = photo(folder, "red.png", [255, 0, 0]);
    let black = photo(folder, "black.png", [0, 0, 0]);
    let flags = ["--base", "nano", "--steps", "6", "--resample", "2", "--seed", "5"];
    let (a, b) = (filled(folder, &red, "a.png", &flags), filled(folder, &black, "b.png", &flags));
    only_the_subject_changed(&read(Path::new(&red)).unwrap(), &a, 4);
    for y in 0..HEIGHT {
        for x in (0..WIDTH).filter(|x| subject(*x, y)) {
            assert_eq!(a.at(x, y), b.at(x, y), "the subject shows through at {x}, {y}");
        }
    }
    // what is seen beside the hole decides what is painted in it
    let mut bright = read(Path::new(&red)).unwrap();
    bright.data.iter_mut().for_each(|v| *v = v.saturating_add(90));
    let path = folder.join("bright.png");
    write_png(&path, &bright, &[]).unwrap();
    let c = filled(folder, &path.display().to_string(), "bright_out.png", &flags);
    let inside = |p: &Picture| p.at(52, 32).to_vec();
    assert_ne!(inside(&c), inside(&a), "the hole does not see the photo");
    let other = [&flags[..6], &["--seed", "6"]].concat();
    assert_ne!(filled(folder, &red, "c.png", &other), a, "the seed does nothing");
    let once = ["--base", "nano", "--steps", "6", "--resample", "1", "--seed", "5"];
    assert_ne!(filled(folder, &red, "d.png", &once), a, "--resample does nothing");
    let guided = [&flags[..], &["--prompt", "a photo of grass", "--guidance", "4"]].concat();
    assert_ne!(filled(folder, &red, "e.png", &guided), a, "the prompt does nothing");
}

/// nano with a U-Net that takes the mask and the photo too; `weight` is what the added channels weigh.
fn trained_to_fill(folder: &Path, weight: f32) -> String {
    let to = folder.join(format!("base{weight}"));
    let base = to.display().to_string();
    assert!(selvedge(&["export", "nano", &base]).status.success());
    let config = to.join("unet/config.json");
    let text = fs::read_to_string(&config).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["in_channels"] = 9.into();
    fs::write(&config, json.to_string()).unwrap();
    let path = to.join("unet/diffusion_pytorch_model.safetensors");
    let file = SafeFile::open(&path).unwrap();
    let mut all: BTreeMap<String, Raw> =
        file.entries().keys().map(|n| (n.clone(), file.raw(n).unwrap())).collect();
    let old = file.f32("conv_in.weight").unwrap();
    let [o, i, h, w] = old.dims[..] else { panic!("{:?}", old.dims) };
    let mut new = vec![0.0; o * 9 * h * w];
    fill_normal(1, 0, &mut new);
    new.iter_mut().for_each(|v| *v *= weight);
    for (new, old) in new.chunks_exact_mut(9 * h * w).zip(old.data.chunks_exact(i * h * w)) {
        new[..old.len()].copy_from_slice(old);
    }
    drop(file);
    all.insert("conv_in.weight".into(), Raw::f32(&[o, 9, h, w], &new));
    let list = all.iter().map(|(n, t)| (n.as_str(), t));
    write_safetensors(&path, list, &BTreeMap::new()).unwrap();
    base
}

#[test]
fn a_base_trained_to_fill_sees_the_mask_and_the_photo_and_does_not_generate() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let red = photo(folder, "red.png", [255, 0, 0]);
    let black = photo(folder, "black.png", [0, 0, 0]);
    let (blind, seeing) = (trained_to_fill(folder, 0.0), trained_to_fill(folder, 0.1));
    let run = |photo: &str, base: &str, out: &str, rest: &[&str]| {
        filled(folder, photo, out, &[&["--base", base, "--steps", "4"], rest].concat())
    };
    let a = run(&red, &seeing, "a.png", &[]);
    only_the_subject_changed(&read(Path::new(&red)).unwrap(), &a, 4);
    let b = run(&black, &seeing, "b.png", &[]);
    let centre = |p: &Picture| p.at(52, 32).to_vec();
    assert_eq!(centre(&a), centre(&b), "the subject shows through");
    assert_ne!(run(&red, &blind, "c.png", &[]), a, "mask and photo do nothing");
    assert_eq!(run(&red, &seeing, "d.png", &["--resample", "9"]), a, "it walks once");
    let out = folder.join("none").display().to_string();
    let args = ["generate", "--base", &seeing, "--prompt", "a bear", "--steps", "1", "--out", &out];
    let refused = selvedge(&[&args[..], &["--device", "cpu"]].concat());
    assert_eq!(refused.status.code(), Some(2));
    assert!(error_of(&refused).contains("selvedge inpaint"), "{}", error_of(&refused));
}

#[test]
fn masks_that_cannot_be_used_are_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let red = photo(folder, "red.png", [255, 0, 0]);
    let out = folder.join("out.png");
    let refused = |mask: &Picture, flags: &[&str], words: &[&str]| {
        let path = folder.join("other.png");
        write_png(&path, mask, &[]).unwrap();
        let (mask, to) = (path.display().to_string(), out.display().to_string());
        let run = selvedge(&[&["inpaint", &red, "--mask", &mask, "--out", &to], flags].concat());
        let error = error_of(&run);
        assert_eq!(run.status.code(), Some(2), "{error}");
        words.iter().for_each(|word| assert!(error.contains(word), "{word}: {error}"));
        assert!(!out.exists());
    };
    let plain = |value| Picture::filled(WIDTH, HEIGHT, 1, value);
    refused(&plain(0), &[], &["covers nothing", "selvedge segment"]);
    refused(&plain(255), &[], &["leaves nothing", "--grow"]);
    refused(&Picture::filled(HEIGHT, WIDTH, 1, 255), &[], &["64 x 96", "96 x 64"]);
    let mut one = plain(0);
    one.at_mut(3, 3)[0] = 255;
    refused(&one, &["--base", "nano", "--steps", "0"], &["--steps"]);
    refused(&one, &["--base", "nano", "--guidance", "nan"], &["--guidance"]);
    refused(&one, &["--base", "nano", "--fill", "classical"], &["--fill"]);
    refused(&one, &["--steps", "3"], &["--base"]);
    refused(&one, &["--base", "nothing/here"], &["nothing/here"]);
    let mask = folder.join("missing.png").display().to_string();
    let to = out.display().to_string();
    let run = selvedge(&["inpaint", &red, "--mask", &mask, "--out", &to]);
    assert!(run.status.code() == Some(2) && error_of(&run).contains("missing.png"));
}
