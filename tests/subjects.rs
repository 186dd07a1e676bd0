//! Folders of photos, initial compositions, mattes: what is read, where it stands, what is refused.
#![allow(clippy::unwrap_used)] // helpers of tests

use std::{collections::HashMap, path::Path};

use selvedge::{
    data::{
        Dataset, Layout, Photo, Subject, TrainConfig,
        config::MethodConfig,
        layout::{arranged, columns},
        matte,
        mix::MixRule,
        segment::Segment,
    },
    tensor::{
        image::{Picture, write_png},
        philox::Stream,
    },
};

const COLORS: [[u8; 3]; 3] = [[200, 30, 30], [30, 160, 40], [40, 60, 220]];

/// A photo of `w` by `h` with an ellipse of the subject's colour (radii `a`, `b`) and its mask.
fn photo(w: usize, h: usize, a: f64, b: f64, color: [u8; 3]) -> Photo {
    let mut rgb = Picture::filled(w, h, 3, 90);
    let mut mask = Picture::filled(w, h, 1, 0);
    for y in 0..h {
        for x in 0..w {
            let (dx, dy) = (x as f64 + 0.5 - w as f64 / 2.0, y as f64 + 0.5 - h as f64 / 2.0);
            if (dx / a).powi(2) + (dy / b).powi(2) <= 1.0 {
                rgb.at_mut(x, y).copy_from_slice(&color);
                mask.at_mut(x, y)[0] = 255;
            }
        }
    }
    let segment = Segment::cut(&rgb, &mask);
    Photo { name: format!("{a}x{b}.png"), rgb, mask: Some(mask), segment, captions: vec![] }
}

fn subject(i: usize, scale: Option<f64>) -> Subject {
    let shapes = [(15.0, 30.0), (27.0, 10.0), (20.0, 20.0)];
    let photos = shapes.iter().map(|(a, b)| photo(64, 70, *a, *b, COLORS[i])).collect();
    let id = ["a", "b", "c"][i].to_string();
    let words = format!("tok{i} class{i}");
    let (token, class, query) = (format!("tok{i}"), format!("class{i}"), String::new());
    Subject { id, words, token, class, query, scale, photos }
}

#[test]
fn columns_hold_each_subject_once_and_inside() {
    let subjects: Vec<Subject> = (0..3).map(|i| subject(i, None)).collect();
    let rule = MixRule::new(&MethodConfig::default(), 96);
    let mut orders = HashMap::new();
    for n in 0..600 {
        let mut random = Stream::new(5, n);
        let all: Vec<&Subject> = subjects.iter().collect();
        let start = columns(&all, [96, 64], &rule, &mut random).unwrap();
        let mut seen: Vec<_> =
            start.pasted.iter().map(|p| (p.rectangle[0], p.id.clone())).collect();
        start.pasted.iter().for_each(|p| assert!(p.rectangle[2] <= 96 && p.rectangle[3] <= 64));
        seen.sort();
        *orders.entry(seen.into_iter().map(|s| s.1).collect::<String>()).or_insert(0) += 1;
        assert!(start.mask.data.contains(&255));
    }
    assert_eq!(orders.len(), 6, "{orders:?}");
}

#[test]
fn the_rule_of_the_method_holds_in_the_columns() {
    let subjects: Vec<Subject> = (0..3).map(|i| subject(i, None)).collect();
    let all: Vec<&Subject> = subjects.iter().collect();
    let draw = |method: MethodConfig, n| {
        let rule = MixRule::new(&method, 128);
        columns(&all, [192, 128], &rule, &mut Stream::new(5, n)).unwrap().pasted
    };
    let apart = |a: [usize; 4], b: [usize; 4]| a[2] <= b[0] || b[2] <= a[0];
    let mut touching = [0; 2];
    for n in 0..200 {
        for (i, overlap) in [false, true].into_iter().enumerate() {
            let pasted = draw(MethodConfig { overlap, ..MethodConfig::default() }, n);
            let pairs = [(0, 1), (0, 2), (1, 2)];
            let one = |(a, b): &(usize, usize)| !apart(pasted[*a].rectangle, pasted[*b].rectangle);
            touching[i] += usize::from(pairs.iter().any(one));
        }
        let small = MethodConfig { scale_min: 0.2, scale_max: 0.3, ..MethodConfig::default() };
        assert!(draw(small, n).iter().all(|p| (0.2..=0.3).contains(&p.scale.unwrap())));
        let near = MethodConfig { margin: 8, ..MethodConfig::default() }; // one pixel here
        let outer = draw(near, n).iter().map(|p| p.rectangle[0]).min().unwrap();
        assert_eq!(outer, 1, "the left one stands at the margin");
    }
    assert_eq!(touching[0], 0);
    assert!(touching[1] > 10, "{touching:?}");
}

#[test]
fn photos_without_captions_are_said_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = TrainConfig::default();
    for (i, id) in ["a", "b"].into_iter().enumerate() {
        let folder = dir.path().join(id);
        std::fs::create_dir(&folder).unwrap();
        for name in ["00", "01", "02"] {
            let p = photo(40, 30, 10.0, 8.0, COLORS[i]);
            write_png(&folder.join(format!("{name}.png")), &p.rgb, &[]).unwrap();
            write_png(&folder.join(format!("{name}_mask.png")), &p.mask.unwrap(), &[]).unwrap();
        }
        config
            .subjects
            .push(selvedge::data::SubjectConfig { id: id.into(), ..folder_config(&folder) });
    }
    std::fs::write(dir.path().join("a/01.txt"), "a toy").unwrap();
    let mut warnings = vec![];
    Dataset::open(&config, Path::new(""), &mut warnings).unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("5 of 6 photos have no caption"), "{warnings:?}");
}

#[test]
fn layout_files_put_subjects_into_their_boxes() {
    let folder = tempfile::tempdir().unwrap();
    let subjects: Vec<Subject> = (0..2).map(|i| subject(i, None)).collect();
    let file = folder.path().join("l.json");
    let read = |text: &str| {
        std::fs::write(&file, text).unwrap();
        Layout::read(&file)
    };
    let json = r#"{"canvas": [100, 100], "subjects": [
        {"id": "b", "box": [50, 0, 100, 100], "z": 2},
        {"id": "a", "box": [0, 0, 60, 50], "z": 1}]}"#;
    let layout = read(json).unwrap();
    let start = arranged(&subjects, &layout, [200, 200], &mut Stream::new(1, 1)).unwrap();
    for p in &start.pasted {
        let [x0, y0, x1, y1] = p.rectangle;
        let b = if p.id == "a" { [0, 0, 120, 100] } else { [100, 0, 200, 200] };
        assert!(x0 >= b[0] && y0 >= b[1] && x1 <= b[2] && y1 <= b[3], "{p:?}");
        let (w, h) = (b[2] - b[0], b[3] - b[1]);
        assert!(x1 - x0 >= w - 1 || y1 - y0 >= h - 1, "as large as fits: {p:?}");
        assert!((x0 + x1).abs_diff(b[0] + b[2]) <= 2 && (y0 + y1).abs_diff(b[1] + b[3]) <= 2);
    }
    // The order asked of language models: x1, x2, y1, y2; the second lies below the first.
    let layout = read("class0 (300,700,300,700), b: (300, 700, 700, 900)").unwrap();
    assert_eq!(layout.subjects[1].rectangle, [300.0, 700.0, 700.0, 900.0]);
    assert_eq!(layout.subjects[0].rectangle, [300.0, 300.0, 700.0, 700.0]);
    assert!(arranged(&subjects, &layout, [128, 128], &mut Stream::new(1, 1)).is_ok());
    for bad in ["", "{}", "hello", "a (1,2,3)", "a (5,1,0,9)", r#"{"subjects":[]}"#] {
        assert!(read(bad).is_err(), "{bad}");
    }
    let stranger = read("z (0,10,0,10)").unwrap();
    let e = arranged(&subjects, &stranger, [64, 64], &mut Stream::new(1, 1)).unwrap_err();
    assert!(e.to_string().contains("subject z, expected one of a, b"), "{e}");
    assert!(stranger.check(&subjects).is_err() && layout.check(&subjects).is_ok());
}

fn folder_config(dir: &Path) -> selvedge::data::SubjectConfig {
    let images = dir.to_path_buf();
    selvedge::data::SubjectConfig {
        id: "a".into(),
        class: "toy".into(),
        images,
        ..Default::default()
    }
}

#[test]
fn folders_are_read_and_their_faults_named() {
    let dir = tempfile::tempdir().unwrap();
    let c = folder_config(dir.path());
    let load = |w: &mut Vec<String>| Subject::load(&c, w);
    let e = Subject::load(&folder_config(Path::new("/nowhere")), &mut vec![]).unwrap_err();
    assert!(e.to_string().contains("/nowhere: read folder"), "{e}");
    assert!(load(&mut vec![]).unwrap_err().to_string().contains("no pictures"));

    let p = photo(40, 30, 10.0, 8.0, COLORS[0]);
    write_png(&dir.path().join("00.jpg"), &p.rgb, &[]).unwrap(); // by content, not extension
    write_png(&dir.path().join("00_mask.png"), &p.mask.clone().unwrap(), &[]).unwrap();
    std::fs::write(dir.path().join("00.txt"), "first\n\n second \n").unwrap();
    let mut with_alpha = Picture::filled(40, 30, 4, 0);
    (0..60)
        .for_each(|i| with_alpha.at_mut(10 + i % 10, 5 + i / 10).copy_from_slice(&[9, 8, 7, 255]));
    write_png(&dir.path().join("01.png"), &with_alpha, &[]).unwrap();
    let s = load(&mut vec![]).unwrap();
    assert_eq!(s.photos.len(), 2);
    assert_eq!(s.photos[0].captions, ["first", "second"]);
    let cut = s.photos[1].segment.as_ref().unwrap();
    assert_eq!((cut.rgb.width, cut.rgb.height), (10, 6));
    assert!(s.need_masks().is_ok());

    let half = p.mask.clone().unwrap().resize(20, 15, selvedge::tensor::image::Filter::Box);
    write_png(&dir.path().join("00_mask.png"), &half, &[]).unwrap();
    let mut warnings = vec![];
    load(&mut warnings).unwrap();
    assert!(warnings[0].contains("00_mask.png: mask of 20 x 15 resized"), "{warnings:?}");

    write_png(&dir.path().join("02.png"), &p.rgb, &[]).unwrap();
    let e = load(&mut vec![]).unwrap().need_masks().unwrap_err().to_string();
    assert!(e.contains("02.png: no mask") && e.contains("02_mask.png"), "{e}");
    write_png(&dir.path().join("02_mask.png"), &Picture::filled(40, 30, 1, 128), &[]).unwrap();
    let e = load(&mut vec![]).unwrap_err().to_string();
    assert!(e.contains("02_mask.png: an empty mask"), "{e}");
    std::fs::write(dir.path().join("02_mask.png"), "no picture").unwrap();
    assert!(load(&mut vec![]).unwrap_err().to_string().contains("02_mask.png: no picture"));
}

#[test]
fn a_simple_background_gives_a_matte_and_a_busy_one_none() {
    let p = photo(60, 60, 15.0, 20.0, COLORS[2]);
    let mut ring = p.rgb.clone();
    // a hole in the subject
    (25..35).for_each(|i| ring.at_mut(i, 30).copy_from_slice(&[90, 90, 90]));
    let found = matte(&ring).unwrap();
    assert_eq!(found, p.mask.unwrap());
    assert!(matte(&Picture::filled(60, 60, 3, 90)).is_none());
    let mut random = Stream::new(1, 1);
    let noise = (0..60 * 60 * 3).map(|_| random.below(256) as u8).collect();
    assert!(matte(&Picture::new(60, 60, 3, noise).unwrap()).is_none());
}

#[test]
fn a_matte_needs_a_border_of_one_colour_and_leaves_some_of_the_picture() {
    // dark where `dark` says so, light elsewhere
    let area = |dark: &dyn Fn(usize, usize) -> bool| {
        let pixel = |i: usize| [if dark(i % 60, i / 60) { 20 } else { 220 }; 3];
        let data = (0..60 * 60).flat_map(pixel).collect();
        let mask = matte(&Picture::new(60, 60, 3, data).unwrap())?;
        Some(mask.data.iter().filter(|v| **v > 0).count())
    };
    let square =
        |from: usize, to: usize| area(&|x, y| (from..to).contains(&x) && (from..to).contains(&y));
    assert_eq!(square(4, 56), Some(52 * 52));
    assert_eq!(square(2, 58), None, "87 % of the picture");
    assert_eq!(square(20, 28), None, "less than 2 %");
    assert_eq!(square(20, 29), Some(81));
    // a third of the border and less may belong to the subject
    assert_eq!(area(&|_, y| y < 10), Some(600));
    assert_eq!(area(&|_, y| y < 25), None);
}

#[test]
fn prompts_name_subjects_by_token() {
    let s = subject(0, None);
    assert!(s.named_in("a photo of Tok0, at sea"));
    assert!(!s.named_in("a photo of tok01"));
}
