//! `selvedge quickstart`: the whole job from bare photos to scores.
#![allow(clippy::unwrap_used)]

use selvedge::tensor::image::read;
use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

fn quickstart(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.arg("quickstart").args(args).args(["--device", "cpu", "--steps", "2", "--count", "2"]);
    command.output().unwrap()
}

fn error_of(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!error.contains("panicked"), "{error}");
    error
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn bare_photos_become_masks_adapters_pictures_and_scores_on_one_page() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("quick");
    let run = quickstart(&["--out", &out.display().to_string()]);
    assert_eq!(run.status.code(), Some(0), "{}", error_of(&run));
    for (name, letter) in [("bears/a", 'a'), ("bears/b", 'b')] {
        let photos = out.join("subjects").join(name);
        for number in 1..=5 {
            assert!(photos.join(format!("{number:02}_mask.png")).is_file());
        }
        assert!(photos.join("segments.json").is_file());
        assert!(out.join(format!("references_{letter}.png")).is_file());
    }
    for grid in ["dreambooth", "dreambooth_init", "mudi", "mudi_init"] {
        assert_eq!(fs::read_dir(out.join("pictures").join(grid)).unwrap().count(), 2);
        assert!(out.join(format!("{grid}.png")).is_file());
    }
    let page = text(&out.join("report.html"));
    for word in [
        "D&amp;C",
        "CLIP score",
        "with 2 boxes",
        "the worst first",
        "selvedge segment",
        "selvedge train",
        "selvedge generate",
        "selvedge score",
        "segmenting",
        "scoring mudi",
        "prefers-color-scheme:dark",
    ] {
        assert!(page.contains(word), "{word} is not on the page");
    }
    assert_eq!(page.matches("<svg viewBox").count(), 8, "a figure for every picture");

    // every command of the page runs as it stands
    let commands = page.split("<pre>").nth(1).unwrap().split("</pre>").next().unwrap();
    let commands = commands.replace("&quot;", "\"").replace("&amp;", "&");
    let score = commands.lines().find(|line| line.starts_with("selvedge score")).unwrap();
    let words = score.replacen("selvedge", env!("CARGO_BIN_EXE_selvedge"), 1);
    let again = Command::new("sh").args(["-c", &words]).output().unwrap();
    assert_eq!(again.status.code(), Some(0), "{score}: {}", error_of(&again));
    let generate = |line: &&str| line.contains("selvedge generate") && line.contains("mudi_init");
    let line = commands.lines().find(generate).unwrap();
    assert!(line.contains("--gamma 1 --apart "), "{line}");
    let other = out.join("again").display().to_string();
    let folder = out.join("pictures/mudi_init");
    let words = line.replacen("selvedge", env!("CARGO_BIN_EXE_selvedge"), 1);
    let words = words.replace(&folder.display().to_string(), &other);
    let again = Command::new("sh").args(["-c", &words]).output().unwrap();
    assert_eq!(again.status.code(), Some(0), "{line}: {}", error_of(&again));
    let pixels = |folder: &Path| read(&folder.join("00000.png")).unwrap().data;
    assert!(pixels(&folder) == pixels(&out.join("again")), "{line} paints another picture");

    // again: nothing is segmented or trained a second time
    let run = quickstart(&["--out", &out.display().to_string()]);
    let error = error_of(&run);
    assert_eq!(run.status.code(), Some(0), "{error}");
    assert!(error.contains("10 masks are there already"), "{error}");
}

#[test]
fn a_subject_leaves_its_background_and_the_page_shows_how() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("quick");
    let to = out.display().to_string();
    let run = quickstart(&["--method", "decoupled", "--out", &to]);
    assert_eq!(run.status.code(), Some(0), "{}", error_of(&run));
    for name in ["dreambooth", "decoupled"] {
        assert_eq!(fs::read_dir(out.join("pictures").join(name)).unwrap().count(), 26);
        assert!(out.join(format!("{name}.png")).is_file());
    }
    assert!(out.join("decoupled/backgrounds/a/01.png").is_file());
    let page = text(&out.join("report.html"));
    for word in ["scene right", "of 24", "identity", "diversity", "router", "behind their subject"]
    {
        assert!(page.contains(word), "{word} is not on the page");
    }
    let run = quickstart(&["--method", "decoupled", "--out", &to, "--place", "on the moon"]);
    assert!(run.status.code() == Some(2) && error_of(&run).contains("--place"));
    let two = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/assets/nano/subjects/bears");
    let two = two.join("subjects.toml").display().to_string();
    let run = quickstart(&["--method", "decoupled", "--out", &to, "--subjects", &two]);
    assert!(run.status.code() == Some(2) && error_of(&run).contains("2 subjects"));
}

#[test]
fn own_photos_are_copied_and_their_folder_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("nano");
    let export = Command::new(env!("CARGO_BIN_EXE_selvedge"))
        .args(["export", "nano"])
        .arg(&base)
        .output()
        .unwrap();
    assert!(export.status.success());
    for part in ["detector", "segmenter", "dino", "clip"] {
        assert!(base.join("eyes").join(part).join("model.safetensors").is_file());
    }
    let examples =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/assets/nano/subjects/robot_duck");
    let own = folder.path().join("own");
    for id in ["a", "b"] {
        fs::create_dir_all(own.join(id)).unwrap();
        for number in ["01", "02"] {
            for end in [".png", "_mask.png", ".txt"] {
                let name = format!("{id}/{number}{end}");
                fs::copy(examples.join(&name), own.join(&name)).unwrap();
            }
        }
    }
    fs::copy(examples.join("subjects.toml"), own.join("subjects.toml")).unwrap();
    let out = folder.path().join("quick");
    let list = own.join("subjects.toml").display().to_string();
    let run = quickstart(&["--subjects", &list, "--out", &out.display().to_string()]);
    let error = error_of(&run);
    assert_eq!(run.status.code(), Some(0), "{error}");
    assert!(error.contains("4 masks are there already"), "{error}");
    assert_eq!(fs::read_dir(own.join("a")).unwrap().count(), 6, "something was written");
    assert!(text(&out.join("subjects/subjects.toml")).contains("orange and blue checkered robot"));
    assert!(text(&out.join("report.html")).contains("orange and blue checkered robot"));
    let run = quickstart(&["--subjects", &list, "--pair", "bears"]);
    assert_eq!(run.status.code(), Some(2));
    let run = quickstart(&["--subjects", "nowhere.toml", "--out", &out.display().to_string()]);
    assert!(run.status.code() == Some(2) && error_of(&run).contains("nowhere.toml"));
}
