//! `selvedge segment` from words, and masks that training makes itself, on small random networks.
#![allow(clippy::unwrap_used)]

mod small_sam;

use selvedge::{
    device::Device,
    models::owlv2::Padding,
    segment::detector::Detector,
    tensor::{
        DType,
        image::{Picture, read, write_png},
        philox::fill_normal,
    },
};
use serde_json::Value;
use small_sam::{error_of, fixtures, refusal, sam, selvedge};
use std::{fs, path::Path, sync::OnceLock};

fn detector() -> String {
    fixtures().join("detect/model").display().to_string()
}

fn photo(seed: u64) -> Picture {
    let mut data = vec![0.0; 90 * 50 * 3];
    fill_normal(seed, 0, &mut data);
    let data = data.iter().map(|v| (128.0 + 60.0 * v).clamp(0.0, 255.0) as u8).collect();
    Picture::new(90, 50, 3, data).unwrap()
}

/// Seeds of photos in which exactly one box, several and none are like a dog, and the threshold for that.
struct Photos {
    threshold: f64,
    one: u64,
    several: u64,
    none: u64,
}

fn photos() -> &'static Photos {
    static FOUND: OnceLock<Photos> = OnceLock::new();
    FOUND.get_or_init(|| {
        let path = fixtures().join("detect/model");
        let mut d = Detector::open(&path, Device::Cpu, DType::F32, Padding::Grey).unwrap();
        let mut scores: Vec<(u64, [f64; 2])> = (0..60)
            .map(|seed| {
                let found = d.detect(&photo(seed), &["dog"], 0.0).unwrap();
                (seed, [found[0].score, found[1].score])
            })
            .collect();
        scores.sort_by(|a, b| (a.1[0] - a.1[1]).total_cmp(&(b.1[0] - b.1[1])));
        // the widest gap that leaves one photo above it and one below
        scores
            .iter()
            .rev()
            .find_map(|(one, [first, second])| {
                let threshold = (first + second) / 2.0;
                let several = scores.iter().find(|(_, s)| s[1] > threshold + 1e-6)?.0;
                let none = scores.iter().find(|(_, s)| s[0] < threshold - 1e-6)?.0;
                Some(Photos { threshold, one: *one, several, none })
            })
            .unwrap()
    })
}

fn list(folder: &Path) -> Vec<Value> {
    serde_json::from_slice(&fs::read(folder.join("segments.json")).unwrap()).unwrap()
}

/// A folder `dog` with four photos, a subjects file, a segmenter.
fn setting(folder: &Path) -> String {
    let dog = folder.join("dog");
    fs::create_dir(&dog).unwrap();
    let p = photos();
    for (name, seed) in [("00", p.one), ("01", p.one), ("02", p.several), ("03", p.none)] {
        write_png(&dog.join(format!("{name}.png")), &photo(seed), &[]).unwrap();
    }
    let text = "[[subject]]\nid = \"a\"\ntoken = \"olis\"\nclass = \"dog\"\nimages = \"dog\"\n";
    fs::write(folder.join("subjects.toml"), text).unwrap();
    sam(&folder.join("sam.safetensors"))
}

#[test]
fn exactly_one_box_becomes_a_mask_and_the_rest_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let segmenter = setting(folder.path());
    let dog = folder.path().join("dog");
    let subjects = folder.path().join("subjects.toml").display().to_string();
    let (model, threshold) = (detector(), photos().threshold.to_string());
    let models = ["--detector", &model, "--segmenter", &segmenter, "--threshold", &threshold];
    let common = [&["segment", &subjects][..], &models, &["--device", "cpu"]].concat();
    let run = selvedge(&common);
    let error = error_of(&run);
    assert_eq!(run.status.code(), Some(1), "two photos failed: {error}");
    assert!(error.contains("boxes like \"dog\"") && error.contains("yellow 0."), "{error}");
    assert!(error.contains("nothing like \"dog\""), "{error}");
    let mask = |name: &str| dog.join(format!("{name}_mask.png"));
    assert!(mask("00").is_file() && mask("01").is_file(), "where training looks: {error}");
    assert!(!mask("02").exists() && !mask("03").exists());
    let entries = list(&dog);
    assert_eq!(entries.len(), 4);
    assert!(
        entries[2]["detections"].as_array().unwrap().len() > 1 && entries[2]["failed"].is_string()
    );
    for name in ["00", "01", "02", "03"] {
        assert!(dog.join(format!("overlays/{name}.png")).is_file());
    }
    let page = fs::read_to_string(dog.join("report.html")).unwrap();
    assert_eq!(page.matches("data:image/png").count(), 4);
    assert!(page.contains("nothing like") && page.contains("2 photos with a mask, 2 without"));

    // the box grew by 5 % on every side, and is the prompt of the segmenter
    let number = |v: &Value| -> Vec<f64> {
        v.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    };
    let (found, grown) =
        (number(&entries[0]["detections"][0]["box"]), number(&entries[0]["prompt"]["box"]));
    for (i, (a, b)) in found.iter().zip(&grown).enumerate() {
        let most = [90.0, 50.0][i % 2];
        let moved = if i < 2 { a - 0.05 * most } else { a + 0.05 * most };
        assert!((moved.clamp(0.0, most) - b).abs() < 1e-9, "{found:?} {grown:?}");
    }
    let words: Vec<String> = grown.iter().map(f64::to_string).collect();
    let (file, other) = (dog.join("00.png").display().to_string(), folder.path().join("other"));
    let (area, out) = (words.join(","), other.display().to_string());
    let by_hand = ["segment", &file, "--box", &area, "--segmenter", &segmenter, "--out", &out];
    assert!(selvedge(&[&by_hand[..], &["--device", "cpu"]].concat()).status.success());
    assert_eq!(read(&other.join("00_mask.png")).unwrap(), read(&mask("00")).unwrap());

    // what failed is shown by hand; what is there stays as it is
    fs::write(mask("01"), fs::read(mask("00")).unwrap()).unwrap();
    let before = fs::metadata(mask("00")).unwrap().modified().unwrap();
    write_png(&dog.join("drawn.gif.png"), &Picture::filled(90, 50, 1, 200), &[]).unwrap();
    fs::rename(dog.join("drawn.gif.png"), dog.join("drawn")).unwrap();
    let toml = "[\"02.png\"]\nbox = [9, 5, 60, 45]\npoints = [[30, 20, 1], [80, 48, 0]]\n\
                [\"03.png\"]\nmask = \"drawn\"\n";
    fs::write(dog.join("segment.toml"), toml).unwrap();
    let run = selvedge(&common);
    let error = error_of(&run);
    assert_eq!(run.status.code(), Some(0), "{error}");
    assert!(error.contains("2 masks are there already"), "{error}");
    assert_eq!(before, fs::metadata(mask("00")).unwrap().modified().unwrap());
    assert!(read(&mask("03")).unwrap().data.iter().all(|v| *v == 255));
    let entries = list(&dog);
    assert_eq!(entries.len(), 4, "{entries:?}");
    assert!(entries.iter().all(|e| e["failed"].is_null()));
    assert!(entries.iter().any(|e| e["prompt"]["points"][1]["inside"] == false));
    let run = selvedge(&[&common[..], &["--force"]].concat());
    assert_eq!(run.status.code(), Some(0), "{}", error_of(&run));
    assert_ne!(before, fs::metadata(mask("00")).unwrap().modified().unwrap());
}

#[test]
fn pictures_of_every_kind_fail_or_pass_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let segmenter = sam(&folder.path().join("sam.safetensors"));
    let images = fixtures().join("images");
    let names =
        ["turned6.jpg", "gray.jpg", "gray16.png", "rgba.png", "palette.png", "lossless.webp"];
    let mut files: Vec<String> =
        names.iter().map(|n| images.join(n).display().to_string()).collect();
    let tiny = folder.path().join("tiny.png");
    write_png(&tiny, &Picture::filled(1, 1, 3, 77), &[]).unwrap();
    fs::write(folder.path().join("damaged.png"), "no picture").unwrap();
    files.push(tiny.display().to_string());
    files.push(folder.path().join("damaged.png").display().to_string());
    let (model, out) = (detector(), folder.path().join("out"));
    let to = out.display().to_string();
    let photos: Vec<&str> = files.iter().map(String::as_str).collect();
    let models = ["--query", "dog", "--detector", &model, "--segmenter", &segmenter, "--out", &to];
    let run = |threshold: &str| {
        let rest = ["--threshold", threshold, "--device", "cpu"];
        let run = selvedge(&[&["segment"][..], &photos, &models, &rest].concat());
        assert_eq!(run.status.code(), Some(1), "{}", error_of(&run));
        list(&out)
    };
    let none = run("1");
    assert_eq!(none.len(), files.len());
    let last = none.last().unwrap();
    assert!(last["failed"].as_str().unwrap().contains("damaged.png") && last["overlay"].is_null());
    assert!(none[..7].iter().all(|e| e["failed"].as_str().unwrap().contains("nothing like")));
    let all = run("0");
    assert!(all[..7].iter().all(|e| e["detections"].as_array().unwrap().len() == 16), "{all:?}");
    // boxes are in pixels of the turned photo
    let turned = read(&images.join("turned6.jpg")).unwrap();
    for found in all[0]["detections"].as_array().unwrap() {
        let area: Vec<f64> =
            found["box"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert!(area[2] <= turned.width as f64 && area[3] <= turned.height as f64);
    }
    let one = &files[6];
    let by_hand = ["segment", one, "--box", "0,0,1,1", "--segmenter", &segmenter, "--out", &to];
    selvedge(&[&by_hand[..], &["--device", "cpu"]].concat());
    assert_eq!(read(&out.join("tiny_mask.png")).unwrap().data.len(), 1);
}

#[test]
fn what_cannot_be_looked_for_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let segmenter = setting(folder.path());
    let dog = folder.path().join("dog");
    let file = |name: &str| dog.join(name).display().to_string();
    let (model, a, b) = (detector(), file("00.png"), file("01.png"));
    let out = folder.path().join("out").display().to_string();
    let networks = ["--detector", &model, "--segmenter", &segmenter, "--out", &out];
    let run = |photos: &[&str], more: &[&str]| {
        refusal(&[&["segment"][..], photos, &networks, more, &["--device", "cpu"]].concat())
    };
    assert!(run(&[&a, &b], &[]).contains("--query"));
    assert!(run(&[&a, &b], &["--box", "1,1,5,5"]).contains("one photo"));
    assert!(run(&[&a], &["--query", "dog", "--threshold", "2"]).contains("--threshold"));
    assert!(run(&[&a], &["--query", "dog", "--nms", "1.5"]).contains("--nms"));
    assert!(run(&[&a], &["--query", "dog", "--padding", "white"]).contains("grey or black"));
    assert!(run(&[&dog.display().to_string()], &["--query", "dog"]).contains("no folder"));
    let long = "a b c d e f g h i j k l m n o p q";
    assert!(run(&[&a, &b], &["--query", long]).contains("at most 14 tokens"));
    let neither = refusal(&["segment", &a, "--segmenter", &segmenter, "--out", &out]);
    assert!(neither.contains("neither"), "{neither}");
    let bare = refusal(&["segment", &a, "--query", "dog", "--detector", &model, "--out", &out]);
    assert!(bare.contains("--segmenter"), "{bare}");
    let lost = refusal(&["segment", &a, "--query", "dog", "--detector", &model]);
    assert!(lost.contains("--out"), "{lost}");
    fs::create_dir(folder.path().join("cat")).unwrap();
    let twin = folder.path().join("cat/00.png");
    fs::copy(dog.join("00.png"), &twin).unwrap();
    let error = run(&[&a, &twin.display().to_string()], &["--query", "dog"]);
    assert!(error.contains("the stem of"), "{error}");
    // prompts by hand
    fs::write(dog.join("small.png"), fs::read(fixtures().join("images/gray.png")).unwrap())
        .unwrap();
    for (text, want) in [
        ("[\"00.png\"]\nbx = [1, 2, 3, 4]\n", "bx"),
        ("[\"07.png\"]\nbox = [1, 2, 3, 4]\n", "07.png"),
        ("[\"00.png\"]\nbox = [9, 2, 3, 4]\n", "x0 < x1"),
        ("[\"00.png\"]\nbox = [0, 0, 91, 4]\n", "00.png: box: found 0,0,91,4"),
        ("[\"00.png\"]\npoints = [[1]]\n", "x,y"),
        ("[\"00.png\"]\nmask = \"none.png\"\n", "none.png"),
        ("[\"00.png\"]\nmask = \"small.png\"\n", "for a photo of 90 x 50"),
        ("[\"00.png\"]\nmask = \"small.png\"\nbox = [1, 2, 3, 4]\n", "one of them"),
        ("[\"00.png\"]\n", "nothing"),
        ("[\"00.png\"\n", "line 1"),
    ] {
        fs::write(dog.join("segment.toml"), text).unwrap();
        let error = run(&[&a], &["--query", "dog"]);
        assert!(error.contains(want) && error.lines().count() == 1, "{want}: {error}");
    }
    fs::remove_file(dog.join("segment.toml")).unwrap();
    fs::copy(dog.join("00.png"), dog.join("00.jpg")).unwrap();
    let subjects = folder.path().join("subjects.toml").display().to_string();
    let error = run(&[&subjects], &[]);
    assert!(error.contains("00.jpg and 00.png"), "{error}");
    assert!(run(&[&subjects, &a], &[]).contains("one subjects file"));
    assert!(!Path::new(&out).exists());
}

#[test]
fn two_boxes_that_hardly_differ_are_one_thing_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let segmenter = sam(&folder.path().join("sam.safetensors"));
    let path = fixtures().join("detect/model");
    let mut d = Detector::open(&path, Device::Cpu, DType::F32, Padding::Grey).unwrap();
    let (seed, threshold, iou) = (0..60)
        .find_map(|seed| {
            let found = d.detect(&photo(seed), &["dog"], 0.0).unwrap();
            let iou = found[0].uncut.iou(&found[1].uncut);
            let clear = found[1].score - found[2].score > 1e-5 && iou > 0.1;
            clear.then_some((seed, (found[1].score + found[2].score) / 2.0, iou))
        })
        .unwrap();
    let (low, high) = ((iou - 0.05).to_string(), (iou + 0.05).min(1.0).to_string());
    let (model, threshold) = (detector(), threshold.to_string());
    let file = folder.path().join("00.png");
    write_png(&file, &photo(seed), &[]).unwrap();
    let photo = file.display().to_string();
    let run = |nms: &[&str], name: &str| {
        let to = folder.path().join(name);
        let out = to.display().to_string();
        let models = ["--detector", &model, "--segmenter", &segmenter, "--threshold", &threshold];
        let flags = ["segment", &photo, "--query", "dog", "--out", &out, "--device", "cpu"];
        let code = selvedge(&[&flags[..], &models, nms].concat()).status.code();
        (code, list(&to)[0]["detections"].as_array().unwrap().len())
    };
    assert_eq!(run(&[], "published"), (Some(1), 2));
    assert_eq!(run(&["--nms", &high], "two"), (Some(1), 2));
    assert_eq!(run(&["--nms", &low], "one"), (Some(0), 1));

    // the same key of a configuration, where the photo belongs to both subjects
    let mix = |nms: &str| {
        let config = configuration(
            folder.path(),
            &format!(
                "[segment]\ndetector = {model:?}\nsegmenter = {segmenter:?}\nthreshold = {threshold}\nnms = {nms}\n"
            ),
        );
        for name in ["a", "b"] {
            fs::copy(&file, folder.path().join(name).join("00.png")).unwrap();
        }
        let to = folder.path().join("mixes").display().to_string();
        let run = selvedge(&["mix", &config, "--count", "2", "--out", &to, "--device", "cpu"]);
        (run.status.code(), error_of(&run))
    };
    let (code, error) = mix(&high);
    assert!(code == Some(2) && error.contains("2 boxes like"), "{error}");
    let (code, error) = mix(&low);
    assert_eq!(code, Some(0), "{error}");
    let (code, error) = mix("-1.0");
    assert!(code == Some(2) && error.contains("segment.nms"), "{error}");
}

/// A configuration with two dogs without masks.
fn configuration(folder: &Path, segment: &str) -> String {
    for name in ["a", "b"] {
        fs::create_dir_all(folder.join(name)).unwrap();
        write_png(&folder.join(name).join("00.png"), &photo(photos().one), &[]).unwrap();
    }
    let mut text = String::from("base = \"nano\"\n[train]\nresolution = 128\n");
    text += segment;
    for (id, token) in [("a", "olis"), ("b", "hta")] {
        text += &format!(
            "[[subject]]\nid = \"{id}\"\ntoken = \"{token}\"\nclass = \"dog\"\nimages = \"{id}\"\n"
        );
    }
    let file = folder.join("train.toml");
    fs::write(&file, text).unwrap();
    file.display().to_string()
}

#[test]
fn photos_without_masks_are_segmented_once_before_they_are_mixed() {
    let folder = tempfile::tempdir().unwrap();
    let segmenter = sam(&folder.path().join("sam.safetensors"));
    let out = folder.path().join("out");
    let to = out.display().to_string();
    let mix = |config: &str| {
        let set = "method.mix_probability=1.0";
        let args = ["mix", config, "--count", "2", "--out", &to, "--set", set, "--device", "cpu"];
        let run = selvedge(&args);
        (run.status.code(), error_of(&run))
    };
    let (code, error) = mix(&configuration(folder.path(), ""));
    assert_eq!(code, Some(2), "{error}");
    for way in ["00_mask.png", "selvedge segment", "detector and segmenter in [segment]"] {
        assert!(error.contains(way), "{way}: {error}");
    }
    let section = |threshold: f64| {
        let model = detector();
        format!(
            "[segment]\ndetector = {model:?}\nsegmenter = {segmenter:?}\nthreshold = {threshold}\n"
        )
    };
    let (code, error) = mix(&configuration(folder.path(), &section(1.0)));
    assert_eq!(code, Some(2), "{error}");
    for word in ["a/00.png: nothing like", "b/00.png: nothing like", "segment.toml"] {
        assert!(error.contains(word), "{word}: {error}");
    }
    let config = configuration(folder.path(), &section(photos().threshold));
    let (code, error) = mix(&config);
    assert_eq!(code, Some(0), "{error}");
    let masks = || fs::read_dir(out.join("masks")).unwrap().count();
    assert!(error.contains("segmented into"), "{error}");
    assert_eq!(masks(), 1, "the same photo, the same word: one mask");
    assert!(!folder.path().join("a/00_mask.png").exists());
    let first = fs::read(out.join("00000.png")).unwrap();
    let (code, error) = mix(&config);
    assert!(code == Some(0) && !error.contains("segmented into"), "not again: {error}");
    assert_eq!(first, fs::read(out.join("00000.png")).unwrap());
    // other settings, another mask
    fs::write(folder.path().join("b/segment.toml"), "[\"00.png\"]\nbox = [9, 5, 60, 45]\n")
        .unwrap();
    let (code, error) = mix(&config);
    assert_eq!((code, masks()), (Some(0), 2), "{error}");
    let (code, error) = mix(&configuration(folder.path(), "[segment]\nthreshold = 3\n"));
    assert!(code == Some(2) && error.contains("segment.threshold"), "{error}");
    let (code, error) = mix(&configuration(folder.path(), "[segment]\nsegmenter = \"x\"\n"));
    assert!(code == Some(2) && error.contains("segment.detector"), "{error}");
}

#[test]
fn pictures_start_from_subjects_whose_masks_are_made_on_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let segmenter = sam(&folder.path().join("sam.safetensors"));
    let (model, out) = (detector(), folder.path().join("out"));
    let threshold = photos().threshold;
    let section = format!(
        "[segment]\ndetector = {model:?}\nsegmenter = {segmenter:?}\nthreshold = {threshold}\n"
    );
    let config = configuration(folder.path(), &section);
    let to = out.display().to_string();
    let words =
        ["--prompt", "a olis dog and a hta dog", "--subjects", &config, "--init", "seg-mix"];
    let rest = ["--steps", "1", "--count", "1", "--out", &to, "--device", "cpu"];
    let run = selvedge(&[&["generate", "--base", "nano"][..], &words, &rest].concat());
    assert_eq!(run.status.code(), Some(0), "{}", error_of(&run));
    assert_eq!(fs::read_dir(out.join("masks")).unwrap().count(), 1);
}

#[test]
fn an_evaluation_segments_each_photo_once_for_all_its_trainings_and_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let segmenter = sam(&folder.path().join("sam.safetensors"));
    let (model, threshold) = (detector(), photos().threshold);
    configuration(folder.path(), "");
    let plan = folder.path().join("plan.toml");
    let text = format!(
        "base = \"nano\"\nseeds = 1\nprompts = [\"{{subjects}}\"]\n\
         [training.train]\nresolution = 64\nsteps = 1\nrank = 2\nsample_every = 0\n\
         [training.segment]\ndetector = {model:?}\nsegmenter = {segmenter:?}\nthreshold = {threshold}\n\
         [generate]\nsteps = 1\nheight = 64\nwidth = 64\n\
         [[combination]]\nname = \"dogs\"\nsubjects = \"train.toml\"\n\
         [[row]]\nname = \"one\"\n[[row]]\nname = \"other\"\nset = [\"train.seed=7\"]\n"
    );
    fs::write(&plan, text).unwrap();
    let out = folder.path().join("out");
    let (plan, to) = (plan.display().to_string(), out.display().to_string());
    let run = selvedge(&["evaluate", &plan, "--out", &to, "--device", "cpu"]);
    let error = error_of(&run);
    assert_eq!(run.status.code(), Some(0), "{error}");
    assert_eq!(error.matches("segmented into").count(), 1, "{error}");
    assert_eq!(fs::read_dir(out.join("masks")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(out.join("runs/dogs")).unwrap().count(), 2);
}

#[test]
fn a_prior_picture_without_exactly_one_subject_is_made_again_and_then_refused() {
    let folder = tempfile::tempdir().unwrap();
    let segmenter = sam(&folder.path().join("sam.safetensors"));
    let (model, run) = (detector(), folder.path().join("run"));
    let section = format!(
        "[method]\nloss = \"mse\"\nprior_preservation = true\nprior_images = 1\nprior_steps = 1\n\
         [segment]\ndetector = {model:?}\nsegmenter = {segmenter:?}\nprior_threshold = 1.0\nthreshold = {}\n",
        photos().threshold
    );
    let config = configuration(folder.path(), &section);
    let to = run.display().to_string();
    let set = "train.sample_every=0";
    let error = refusal(&["train", &config, "--out", &to, "--set", set, "--device", "cpu"]);
    for word in ["prior set, class `dog`", "10 pictures", "nothing like \"dog\""] {
        assert!(error.contains(word), "{word}: {error}");
    }
    assert_eq!(fs::read_dir(run.join("masks")).unwrap().count(), 1, "the photo's mask stays");
    assert!(!run.join("config.toml").exists());
}

#[test]
fn a_prior_picture_with_exactly_one_subject_is_kept_with_the_mask_of_the_models() {
    let folder = tempfile::tempdir().unwrap();
    let segmenter = sam(&folder.path().join("sam.safetensors"));
    let model = detector();
    let own = photos().threshold;
    let train = |name: &str, prior_threshold: f64| {
        let section = format!(
            "[method]\nloss = \"mse\"\nprior_preservation = true\nprior_images = 1\nprior_steps = 1\n\
             [segment]\ndetector = {model:?}\nsegmenter = {segmenter:?}\nthreshold = {own}\n\
             prior_threshold = {prior_threshold}\n"
        );
        let config = configuration(folder.path(), &section);
        let to = folder.path().join(name).display().to_string();
        let args = ["train", &config, "--out", &to, "--device", "cpu"];
        let set = ["--set", "train.sample_every=0", "--set", "train.steps=1"];
        selvedge(&[&args[..], &set].concat())
    };
    // what the last of ten tries says tells on which side of a good threshold this one is
    let (mut low, mut high) = (0.0, 1.0);
    let name = (0..40).find_map(|i| {
        let (name, threshold) = (format!("run-{i}"), (low + high) / 2.0);
        let run = train(&name, threshold);
        let error = error_of(&run);
        match error.contains(" boxes like ") {
            _ if run.status.success() => return Some(name),
            true => low = threshold,
            false => high = threshold,
        }
        assert!(error.contains("10 pictures"), "{error}");
        None
    });
    let prior = folder.path().join(name.unwrap()).join("prior/dog");
    let (picture, mask) =
        (read(&prior.join("000.png")).unwrap(), read(&prior.join("000_mask.png")).unwrap());
    assert_eq!((picture.width, picture.height), (mask.width, mask.height));
    assert!(mask.data.contains(&255) && mask.data.iter().all(|v| [0, 255].contains(v)));
}
