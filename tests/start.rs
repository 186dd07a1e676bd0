//! The mean-shifted start is exactly `gamma z0 m + eps` (methods.md §1.7), and pictures repeat bit for bit.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use selvedge::{
    device::Device,
    models::base::Base,
    sample::{MaskResize, PictureEncoder, StartNoise, first_inputs, unit_noise},
    tensor::image::{Picture, resize_plane},
};

const DIMS: [usize; 3] = [16, 16, 4];

/// A mask that is white where `inside`.
fn mask(inside: impl Fn(usize, usize) -> bool) -> Picture {
    let mut mask = Picture::filled(128, 128, 1, 0);
    for y in 0..128 {
        for x in 0..128 {
            mask.at_mut(x, y)[0] = if inside(x, y) { 255 } else { 0 };
        }
    }
    mask
}

/// The devices of this build: the CPU, and with the feature `emulate` the emulated driver.
fn devices() -> Vec<Device> {
    let words: &[&str] = if cfg!(feature = "emulate") { &["cpu", "emulated"] } else { &["cpu"] };
    words.iter().map(|w| Device::parse(w).unwrap()).collect()
}

fn encode_pictures(base: &Base, pictures: &[Picture]) -> Vec<Vec<f32>> {
    let mut encoder = PictureEncoder::new(base, &Device::Cpu);
    pictures.iter().map(|p| encoder.encode(p).unwrap()).collect()
}

#[test]
fn the_first_input_is_the_shifted_noise() {
    let base = Base::open("nano").unwrap();
    let picture = Picture::filled(128, 128, 3, 200);
    let left = mask(|x, _| x < 64); // a whole number of latent cells
    let noise = unit_noise(&Device::Cpu, &[7], DIMS).unwrap();
    assert_ne!(noise, unit_noise(&Device::Cpu, &[8], DIMS).unwrap());
    let z = encode_pictures(&base, std::slice::from_ref(&picture));
    let (gamma, parts) = (0.5, [(picture, left)]);
    for resize in [MaskResize::Bilinear, MaskResize::Nearest] {
        let given = StartNoise::Given(&noise);
        let got = first_inputs(
            &mut PictureEncoder::new(&base, &Device::Cpu),
            &parts,
            given,
            gamma,
            resize,
        )
        .unwrap();
        for (i, value) in got[0].iter().enumerate() {
            let inside = i / 4 % 16 < 8;
            let want = if inside { gamma * z[0][i] + noise[0][i] } else { noise[0][i] };
            assert_eq!(*value, want, "{resize:?} {i}");
        }
    }
    assert!(z[0].iter().any(|v| v.abs() > 0.1), "the encoded picture is not nothing");
}

#[test]
fn mask_edges_between_latent_cells_are_soft_or_hard_as_asked() {
    let base = Base::open("nano").unwrap();
    let edges = [
        mask(|x, y| (13..77).contains(&x) && (36..101).contains(&y)),
        mask(|x, y| (x + 2 * y) % 29 < 11),
    ];
    let pictures = [40, 220].map(|v| Picture::filled(128, 128, 3, v));
    let parts: Vec<(Picture, Picture)> = pictures.iter().cloned().zip(edges.clone()).collect();
    let z = encode_pictures(&base, &pictures);
    let noise = unit_noise(&Device::Cpu, &[3, 4], DIMS).unwrap();
    for resize in [MaskResize::Bilinear, MaskResize::Nearest] {
        let seeds = StartNoise::Seeds(&[3, 4]);
        let got =
            first_inputs(&mut PictureEncoder::new(&base, &Device::Cpu), &parts, seeds, 0.7, resize)
                .unwrap();
        let mut partly = 0;
        for n in 0..2 {
            let plane: Vec<f32> = edges[n].data.iter().map(|v| f32::from(*v) / 255.0).collect();
            let small = match resize {
                MaskResize::Bilinear => resize_plane(&plane, [128, 128], [16, 16]),
                MaskResize::Nearest => {
                    (0..256).map(|i| plane[i / 16 * 8 * 128 + i % 16 * 8]).collect()
                }
            };
            partly += small.iter().filter(|m| (0.01..0.99).contains(*m)).count();
            for (i, value) in got[n].iter().enumerate() {
                let want = 0.7 * (z[n][i] * small[i / 4]) + noise[n][i];
                assert_eq!(*value, want, "{resize:?} picture {n} {i}");
            }
        }
        assert_eq!(partly > 20, resize == MaskResize::Bilinear, "{partly} soft cells");
    }
}

#[test]
fn every_device_draws_the_same_noise_and_adds_it_in_the_same_bits() {
    let base = Base::open("nano").unwrap();
    let parts = [(Picture::filled(64, 64, 3, 90), Picture::filled(64, 64, 1, 255))];
    let (dims, seeds) = ([8, 8, 4], [11]);
    let noise = unit_noise(&Device::Cpu, &seeds, dims).unwrap();
    for device in devices() {
        assert_eq!(unit_noise(&device, &seeds, dims).unwrap(), noise, "{}", device.name());
        let start = |noise, gamma| {
            first_inputs(
                &mut PictureEncoder::new(&base, &device),
                &parts,
                noise,
                gamma,
                MaskResize::Bilinear,
            )
            .unwrap()
        };
        let seeded = start(StartNoise::Seeds(&seeds), 1.0);
        assert_eq!(seeded, start(StartNoise::Given(&noise), 1.0), "{}", device.name());
        assert_eq!(start(StartNoise::Seeds(&seeds), 0.0), noise, "gamma 0 is plain noise");
    }
}

#[test]
fn noise_and_masks_that_do_not_fit_are_refused() {
    let base = Base::open("nano").unwrap();
    let parts = [(Picture::filled(64, 64, 3, 90), Picture::filled(64, 32, 1, 255))];
    let run = |parts: &[(Picture, Picture)], noise| {
        let resize = MaskResize::Bilinear;
        first_inputs(&mut PictureEncoder::new(&base, &Device::Cpu), parts, noise, 1.0, resize)
            .unwrap_err()
            .to_string()
    };
    let e = run(&parts, StartNoise::Seeds(&[1]));
    assert!(e.contains("composition is [32, 64]"), "{e}");
    let good = [(parts[0].0.clone(), Picture::filled(64, 64, 1, 255))];
    let e = run(&good, StartNoise::Seeds(&[1, 2]));
    assert!(e.contains("one for each of 1"), "{e}");
    let e = run(&good, StartNoise::Given(&[vec![0.0; 9]]));
    assert!(e.contains("noise is [9]"), "{e}");
}
