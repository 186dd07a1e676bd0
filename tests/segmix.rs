//! Seg-Mix by the published rule: statistics over 10,000 mixes, relative sizes, prompts, batches.
#![allow(clippy::unwrap_used)] // helpers of tests

use std::{collections::HashMap, path::Path};

use selvedge::{
    data::{
        Dataset, Photo, Sample, Subject, TrainConfig,
        mix::MixRule,
        segment::{Pasted, Segment, tight_box},
    },
    tensor::image::Picture,
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

fn config(set: &[&str], subjects: usize) -> TrainConfig {
    let mut text = String::new();
    for id in ["a", "b", "c"].iter().take(subjects) {
        text += &format!("[[subject]]\nid = \"{id}\"\nclass = \"x\"\nimages = \"/x\"\n");
    }
    let mut all = vec!["train.resolution=64".to_string()];
    all.extend(set.iter().map(|s| s.to_string()));
    TrainConfig::parse(&text, "test", Path::new("/"), &all).unwrap()
}

fn data(set: &[&str], scales: &[Option<f64>]) -> Dataset {
    let subjects = scales.iter().enumerate().map(|(i, s)| subject(i, *s)).collect();
    Dataset::new(&config(set, scales.len()), subjects, vec![]).unwrap()
}

/// Fit of a segment by the published numbers: `min((512 - 32) / w, (1024 - 32) / h)` times `R /
/// 1024`.
fn fit(photo: &Photo, r: f64) -> f64 {
    let s = photo.segment.as_ref().unwrap();
    let (w, h) = (s.rgb.width as f64, s.rgb.height as f64);
    (480.0 * r / 1024.0 / w).min(992.0 * r / 1024.0 / h)
}

fn near(got: f64, want: f64, tolerance: f64, what: &str) {
    assert!((got - want).abs() <= tolerance, "{what}: {got}, expected {want} +- {tolerance}");
}

#[test]
fn ten_thousand_mixes_have_the_published_statistics() {
    let d = data(&["method.mix_probability=0.3"], &[None, None]);
    let r = 64usize;
    let (mut mixed, mut left, mut upper, mut both, mut overlapping) = (0, 0, 0, 0, 0);
    let (mut scales, mut margins, mut tops) = (vec![], vec![], vec![]);
    let mut n = 0;
    while mixed < 10_000 {
        let s = d.sample(n);
        n += 1;
        if !s.draw.mixed {
            continue;
        }
        mixed += 1;
        let [own, other] = &s.draw.subjects[..] else { panic!("{:?}", s.draw) };
        assert_ne!(own.id, other.id);
        let (a, b) = if own.id == "a" { (0, 1) } else { (1, 0) };
        let words =
            format!("a photo of a tok{a} class{a} and a tok{b} class{b}, simple background.");
        assert_eq!(s.draw.prompt, words);
        left += usize::from(own.side == Some("left"));
        upper += usize::from(own.z == Some(1));
        both += usize::from((own.side == Some("left")) == (own.z == Some(1)));
        assert_ne!(own.side, other.side);
        assert_eq!(own.z.unwrap() + other.z.unwrap(), 1);
        for p in [own, other] {
            let subject = &d.subjects()[usize::from(p.id == "b")];
            let photo = subject.photos.iter().find(|q| q.name == p.photo).unwrap();
            let segment = photo.segment.as_ref().unwrap();
            let f = fit(photo, r as f64) * p.scale.unwrap();
            let [x0, y0, x1, y1] = p.rectangle;
            assert_eq!(x1 - x0, (segment.rgb.width as f64 * f) as usize, "{p:?}");
            assert_eq!(y1 - y0, (segment.rgb.height as f64 * f) as usize, "{p:?}");
            assert!(x1 <= r && y1 <= r && (x1 - x0) as f64 <= 30.0 && (y1 - y0) as f64 <= 62.0);
            scales.push(p.scale.unwrap());
            margins.push(if p.side == Some("left") { x0 } else { r - x1 });
            tops.push(y0 as f64 / (r - (y1 - y0)) as f64);
        }
        let (p, q) = (own.rectangle, other.rectangle);
        let meet = |i: usize| p[i].max(q[i]) < p[i + 2].min(q[i + 2]);
        overlapping += usize::from(meet(0) && meet(1));
        for (pixel, m) in s.picture.data.chunks_exact(3).zip(&s.mask.data) {
            assert!(*m == 0 || *m == 255);
            assert!(*m == 255 || pixel == [255, 255, 255], "not white outside the union");
        }
    }
    near(f64::from(mixed) / n as f64, 0.3, 0.01, "mixing rate");
    near(left as f64 / 1e4, 0.5, 0.02, "own subject left");
    near(upper as f64 / 1e4, 0.5, 0.02, "own subject above");
    near(both as f64 / 1e4, 0.5, 0.02, "side and depth independent");
    assert!((0.02..0.8).contains(&(overlapping as f64 / 1e4)), "{overlapping}");
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    near(mean(&scales), 0.875, 0.003, "mean factor");
    assert!(scales.iter().all(|s| (0.75..1.0).contains(s)));
    assert!(scales.iter().any(|s| *s < 0.752) && scales.iter().any(|s| *s > 0.998));
    near(mean(&tops), 0.5, 0.01, "mean height");
    let mut counts = [0; 17];
    margins.iter().for_each(|m| counts[*m] += 1);
    assert_eq!(counts[0], 0);
    for c in &counts[1..] {
        near(f64::from(*c) / 2e4, 1.0 / 16.0, 0.007, "margins uniform in 1..=R/4");
    }
}

#[test]
fn the_upper_subject_wins_where_masks_meet() {
    let d = data(&["method.mix_probability=1.0"], &[None, None]);
    let mut met = 0;
    for n in 0..400 {
        let s = d.sample(n);
        let [p, q] = &s.draw.subjects[..] else { panic!() };
        let (x0, x1) = (p.rectangle[0].max(q.rectangle[0]), p.rectangle[2].min(q.rectangle[2]));
        let center = |p: &[usize; 4]| ((p[0] + p[2]) / 2, (p[1] + p[3]) / 2);
        let top = if p.z > q.z { p } else { q };
        let (x, y) = center(&top.rectangle);
        let color = COLORS[usize::from(top.id == "b")];
        assert_eq!(s.picture.at(x, y), color, "{:?}", s.draw);
        met += usize::from(x0 < x1);
    }
    assert!(met > 50, "{met}");
}

#[test]
fn without_overlap_the_rectangles_never_meet() {
    let d = data(&["method.mix_probability=1.0", "method.overlap=false"], &[None, None, None]);
    for n in 0..3000 {
        let s = d.sample(n);
        let [p, q] = &s.draw.subjects[..] else { panic!() };
        let (p, q) = (p.rectangle, q.rectangle);
        assert!(p[2] <= q[0] || q[2] <= p[0], "{p:?} {q:?}");
        assert!(p[0] >= 1 && q[0] >= 1 && p[2] < 64 && q[2] < 64);
    }
}

#[test]
fn relative_sizes_are_kept_to_a_pixel() {
    let set = ["method.mix_probability=1.0", "train.resolution=128"];
    let d = data(&set, &[Some(1.0), Some(0.5)]);
    for n in 0..300 {
        for p in d.sample(n).draw.subjects {
            let subject = &d.subjects()[usize::from(p.id == "b")];
            let photo = subject.photos.iter().find(|q| q.name == p.photo).unwrap();
            let want = fit(photo, 128.0) * subject.scale.unwrap();
            let h = photo.segment.as_ref().unwrap().rgb.height as f64 * want;
            near((p.rectangle[3] - p.rectangle[1]) as f64, h, 1.0, "height");
            assert_eq!(p.scale, subject.scale);
        }
    }
}

#[test]
fn three_subjects_are_mixed_in_pairs_only_and_evenly() {
    let d = data(&["method.mix_probability=1.0"], &[None, None, None]);
    let mut pairs = HashMap::new();
    for n in 0..3000 {
        let s = d.sample(n).draw.subjects;
        assert_eq!(s.len(), 2);
        *pairs.entry((s[0].id.clone(), s[1].id.clone())).or_insert(0) += 1;
    }
    assert_eq!(pairs.len(), 6);
    pairs.values().for_each(|c| near(f64::from(*c), 500.0, 80.0, "pair"));
}

#[test]
fn the_worked_example_fits_by_one_point_six() {
    let picture = Picture::filled(400, 700, 3, 7);
    let mut mask = Picture::filled(400, 700, 1, 0);
    for y in 50..650 {
        (20..320).for_each(|x| mask.at_mut(x, y)[0] = 255);
    }
    let s = Segment::cut(&picture, &mask).unwrap();
    assert_eq!((s.rgb.width, s.rgb.height), (300, 600));
    let rule = MixRule::new(&config(&[], 2).method, 1024);
    let (w, h) = rule.room();
    assert_eq!((s.fit(w, h), rule.margin), (1.6, 256));
    let small = s.scaled(s.fit(w, h) * 0.75);
    assert_eq!((small.rgb.width, small.rgb.height), (360, 720));
    assert_eq!(tight_box(&mask, 128), Some([20, 50, 320, 650]));
}

#[test]
fn nothing_is_mixed_before_the_start_step_or_by_dreambooth() {
    let d = data(&["method.mix_probability=1.0", "method.start_step=10"], &[None, None]);
    (0..20).for_each(|n| assert!(!d.sample(n).draw.mixed)); // two passes a step
    assert!(d.sample(20).draw.mixed);
    let d = data(&["method.mix_probability=1.0", "method.name=dreambooth"], &[None, None]);
    (0..50).for_each(|n| assert!(!d.sample(n).draw.mixed));
}

#[test]
fn an_unmixed_sample_is_a_crop_of_the_photo_with_its_caption() {
    let mut s = subject(0, None);
    s.photos[1].captions = vec!["one".into(), "two".into()];
    let set = ["method.name=dreambooth"];
    let d = Dataset::new(&config(&set, 1), vec![s], vec![]).unwrap();
    let mut seen = HashMap::new();
    for n in 0..300 {
        let sample = d.sample(n);
        let source = sample.source.unwrap();
        assert_eq!(source.crop[0], 0);
        assert!(source.crop[1] <= 6); // 64 x 70
        assert_eq!((sample.picture.width, sample.picture.height), (64, 64));
        assert_eq!((sample.mask.width, sample.mask.height), (64, 64));
        *seen.entry((source.photo, sample.draw.prompt)).or_insert(0) += 1;
    }
    assert_eq!(seen[&(0, "A photo of a tok0 class0".into())], 100);
    let (one, two) = (seen[&(1, "one".into())], seen[&(1, "two".into())]);
    assert!(one + two == 100 && one > 30 && two > 30);
}

#[test]
fn cut_mix_has_a_hard_seam_in_the_middle() {
    let d = data(&["method.name=cut-mix", "method.mix_probability=1.0"], &[None, None]);
    let mut lefts = 0;
    for n in 0..200 {
        let s = d.sample(n);
        assert!(s.draw.prompt.ends_with("class0.") || s.draw.prompt.ends_with("class1."));
        let own = &s.draw.subjects[0];
        lefts += usize::from(own.side == Some("left"));
        let color = COLORS[usize::from(own.id == "b")];
        let x = if own.side == Some("left") { 16 } else { 48 };
        assert_eq!(s.picture.at(x, 32), color);
        assert!(s.mask.data.iter().all(|m| *m == 255));
    }
    assert!((70..130).contains(&lefts), "{lefts}");
}

#[test]
fn prior_pictures_are_mixed_at_one_height_when_the_item_is() {
    let set = ["method.loss=mse", "method.prior_preservation=true", "method.mix_probability=0.5"];
    let c = config(&set, 2);
    let subjects = vec![subject(0, Some(0.5)), subject(1, None)];
    let mut classes = vec![subject(0, None), subject(1, None)];
    classes.iter_mut().for_each(|s| s.words = s.class.clone());
    let d = Dataset::new(&c, subjects, classes).unwrap();
    let mut mixed = 0;
    for step in 0..200 {
        let b = d.batch(step, 1);
        let (s, p) = (&b.samples[0], &b.prior[0]);
        assert_eq!(s.draw.mixed, p.draw.mixed);
        assert_eq!(s.draw.subjects[0].id, p.draw.subjects[0].id);
        if p.draw.mixed {
            mixed += 1;
            let [q, r] = &p.draw.subjects[..] else { panic!() };
            assert_eq!(q.rectangle[1], r.rectangle[1]);
            assert_ne!(q.id, r.id);
            assert!(q.scale.unwrap() >= 0.75 && p.draw.prompt.contains("a photo of a class"));
        } else {
            assert!(p.draw.prompt.starts_with("A photo of a class"));
            assert!(p.source.unwrap().prior);
        }
    }
    assert!((70..130).contains(&mixed), "{mixed}");
}

#[test]
fn the_loss_weight_follows_the_mask_of_mixes_only() {
    let d = data(&["method.mix_probability=0.5"], &[None, None]);
    let find = |mixed| (0..).map(|n| d.sample(n)).find(|s: &Sample| s.draw.mixed == mixed).unwrap();
    let s = find(true);
    assert!(s.weight(8, 8, 1.0).iter().all(|w| *w == 1.0));
    let w = s.weight(64, 64, 0.25);
    for (w, m) in w.iter().zip(&s.mask.data) {
        assert_eq!(*w, if *m == 255 { 1.0 } else { 0.25 });
    }
    let half = s.weight(32, 32, 0.0); // each weight is the mean of 2 x 2 pixels
    let quarter = |i: usize| -> f32 {
        let (x, y) = (2 * (i % 32), 2 * (i / 32));
        let at = |x, y| f32::from(s.mask.at(x, y)[0]) / 255.0;
        (at(x, y) + at(x + 1, y) + at(x, y + 1) + at(x + 1, y + 1)) / 4.0
    };
    half.iter().enumerate().for_each(|(i, w)| assert_eq!(*w, quarter(i)));
    assert!(find(false).weight(8, 8, 0.0).iter().all(|w| *w == 1.0));
}

#[test]
fn a_batch_is_the_samples_of_its_positions() {
    let d = data(&["train.batch=2", "train.accumulate=2"], &[None, None]);
    for (step, pass, first) in [(0, 0, 0), (0, 1, 2), (3, 1, 14)] {
        let batch = d.batch(step, pass);
        assert_eq!((batch.step, batch.pass, batch.samples.len()), (step, pass, 2));
        for (sample, n) in batch.samples.iter().zip(first..) {
            let own = d.sample(n);
            assert!(sample.picture == own.picture && sample.draw == own.draw);
        }
    }
}

#[test]
fn cut_mix_is_drawn_at_its_rate_and_never_before_its_first_step() {
    let set = ["method.name=cut-mix", "method.mix_probability=0.3", "method.start_step=100"];
    let d = data(&set, &[None, None]);
    let per_step = 2; // accumulate
    assert!((0..100 * per_step).all(|n| !d.sample(n).draw.mixed));
    let mixed = (200..2200).filter(|n| d.sample(*n).draw.mixed).count();
    // 2000 draws at 0.3: 600, standard deviation 20.5
    assert!((540..660).contains(&mixed), "{mixed}");
}

#[test]
fn cut_mix_joins_the_middles_of_both_photos_at_the_middle_column() {
    let d = data(&["method.name=cut-mix", "method.mix_probability=1.0"], &[None, None]);
    for n in 0..20 {
        let s = d.sample(n);
        let own_left = s.draw.subjects[0].side == Some("left");
        // photos are 64 x 70: the middle 32 columns and 64 rows of each
        let of = |p: &Pasted| {
            let own = d.subjects().iter().find(|s| s.id == p.id).unwrap();
            &own.photos.iter().find(|f| f.name == p.photo).unwrap().rgb
        };
        let [own, other] = [0, 1].map(|i| of(&s.draw.subjects[i]));
        let [left, right] = if own_left { [own, other] } else { [other, own] };
        for y in 0..64 {
            for x in 0..32 {
                assert_eq!(s.picture.at(x, y), left.at(16 + x, 3 + y), "{n} at {x}, {y}");
                assert_eq!(s.picture.at(32 + x, y), right.at(16 + x, 3 + y), "{n} at {x}, {y}");
            }
        }
        let [q, r] = &s.draw.subjects[..] else { panic!() };
        let halves = [q.rectangle, r.rectangle];
        assert!(halves.contains(&[0, 0, 32, 64]) && halves.contains(&[32, 0, 64, 64]));
    }
}

#[test]
fn every_prompt_that_comes_up_is_listed() {
    let d = data(&["method.mix_probability=0.5"], &[None, None, None]);
    let known = d.prompts();
    (0..500).for_each(|n| assert!(known.contains(&d.sample(n).draw.prompt)));
}
