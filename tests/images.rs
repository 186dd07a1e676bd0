//! Pictures: every file kind by content, Pillow's resize and crop bit for bit, PNG text, damaged
//! files.
#![allow(clippy::unwrap_used)] // helpers of tests

use std::path::{Path, PathBuf};

use selvedge::tensor::image::{self, Filter, Picture};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(name)
}

fn read(name: &str) -> Picture {
    image::read(&fixture(name)).unwrap()
}

#[test]
fn resize_and_crop_equal_pillow_bit_for_bit() {
    let blob = std::fs::read(fixture("resized.bin")).unwrap();
    let cases: Vec<serde_json::Value> =
        serde_json::from_slice(&std::fs::read(fixture("resized.json")).unwrap()).unwrap();
    let mut checked = 0;
    for c in &cases {
        let source = read(&format!("{}.png", c[0].as_str().unwrap()));
        let number = |v: &serde_json::Value| v.as_u64().unwrap() as usize;
        let filter = match c[1].as_str().unwrap() {
            "nearest" => Some(Filter::Nearest),
            "box" => Some(Filter::Box),
            "bilinear" => Some(Filter::Bilinear),
            "bicubic" => Some(Filter::Bicubic),
            "lanczos" => Some(Filter::Lanczos),
            _ => None,
        };
        let got = match filter {
            Some(f) => source.resize(number(&c[2]), number(&c[3]), f),
            None => {
                let b: Vec<f64> =
                    c[2].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
                let [x0, y0, x1, y1] = [0, 1, 2, 3].map(|i| b[i].round_ties_even() as i64);
                let side = |n: i64| usize::try_from(n).unwrap_or(0);
                let out = source.crop(x0, y0, side(x1 - x0), side(y1 - y0));
                assert_eq!([out.width, out.height], [number(&c[3][0]), number(&c[3][1])], "{c}");
                out
            }
        };
        let at = number(&c[4]);
        assert!(got.data == blob[at..at + got.data.len()], "{c}");
        checked += got.data.len();
    }
    assert_eq!(checked, blob.len());
}

#[test]
fn every_kind_of_png_becomes_eight_bits() {
    let rgb = read("rgb.png");
    assert_eq!((rgb.width, rgb.height, rgb.channels), (37, 30, 3));
    assert_eq!(read("rgba.png").channels, 4);
    assert_eq!(read("gray.png"), rgb.gray());
    let palette = std::fs::read(fixture("palette.rgb")).unwrap();
    assert_eq!(read("palette.png").rgb().data, palette);
    assert!(read("one_bit.png").data.iter().all(|v| *v == 0 || *v == 255));
    let wide = read("gray16.png");
    assert_eq!((wide.channels, wide.data.len()), (1, 37 * 30));
    let both = read("gray_alpha.png");
    assert_eq!(both.rgb(), rgb.gray().rgb());
    assert!(both.alpha().unwrap().data.iter().all(|v| *v == 255));
    assert_eq!(read("lossless.webp").rgb(), rgb);
}

fn mean_difference(a: &Picture, b: &Picture) -> f64 {
    assert_eq!((a.width, a.height, a.channels), (b.width, b.height, b.channels));
    let sum: f64 = a.data.iter().zip(&b.data).map(|(x, y)| f64::from(x.abs_diff(*y))).sum();
    sum / a.data.len() as f64
}

#[test]
fn jpeg_orientation_is_applied() {
    let upright = read("upright.jpg");
    assert_eq!((upright.width, upright.height), (48, 32));
    assert!(upright.at(2, 2)[0] > 220 && upright.at(2, 2)[1] < 40);
    for tag in 2..=8 {
        let d = mean_difference(&upright, &read(&format!("turned{tag}.jpg")));
        assert!(d < 1.5, "{tag}: {d}");
    }
    assert!(mean_difference(&upright.gray().rgb(), &read("gray.jpg").rgb()) < 2.0);
    assert!(mean_difference(&upright, &read("progressive.jpg")) < 6.0);
}

#[test]
fn damaged_files_are_errors_that_name_the_file() {
    for name in ["rgb.png", "upright.jpg", "progressive.jpg", "lossless.webp"] {
        let bytes = std::fs::read(fixture(name)).unwrap();
        for cut in [0, 1, 3, 12, 20, bytes.len() / 4, bytes.len() / 2, bytes.len() * 9 / 10] {
            let e = image::decode(&bytes[..cut], Path::new("photos/07.jpg"));
            let e = e.err().unwrap_or_else(|| panic!("{name} cut at {cut} was read")).to_string();
            assert!(e.starts_with("photos/07.jpg: "), "{e}");
        }
        for i in 0..400 {
            let mut broken = bytes.clone();
            let at = (i * 7919) % broken.len();
            broken[at] ^= 1 << (i % 8);
            let _ = image::decode(&broken, Path::new("x")); // an answer, not a panic
        }
    }
    let e = image::decode(b"hello, I am text", Path::new("a.png")).unwrap_err().to_string();
    assert!(e.contains("no picture") && e.contains("give a PNG, JPEG or WebP"), "{e}");
    let e = image::read(Path::new("/nowhere/a.png")).unwrap_err().to_string();
    assert!(e.contains("/nowhere/a.png: read") && e.contains("check the path"), "{e}");
}

#[test]
fn png_text_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/er/a.png");
    let text = vec![
        ("prompt".to_string(), "a photo of a caf\u{e9}, \u{732b}".to_string()),
        ("settings".to_string(), "{\"steps\":50}".to_string()),
    ];
    let p = read("rgb.png");
    image::write_png(&path, &p, &text).unwrap();
    assert_eq!(image::read(&path).unwrap(), p);
    let mut back = image::read_text(&path).unwrap();
    back.sort();
    assert_eq!(back, text);
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn bytes_survive_the_way_through_floats() {
    let p = Picture::new(16, 16, 1, (0..=255).collect()).unwrap();
    assert_eq!(Picture::from_signed(16, 16, 1, &p.signed()).unwrap(), p);
    assert_eq!(Picture::from_signed(1, 1, 3, &[-2.0, 9.0, f32::NAN]).unwrap().data[..2], [0, 255]);
    assert!(Picture::from_signed(2, 1, 1, &[0.0]).is_none());
}

#[test]
fn a_grid_places_pictures_in_reading_order() {
    let dot = |v| Picture::filled(2, 2, 1, v);
    let g = image::grid(&[dot(1), dot(2), dot(3)], 2, 1);
    assert_eq!((g.width, g.height), (7, 7));
    assert_eq!((g.at(1, 1)[0], g.at(4, 1)[0], g.at(1, 4)[0], g.at(4, 4)[0]), (1, 2, 3, 255));
}
