//! The mean-shifted start is exactly `gamma z0 m + eps` (methods.md §1.7), and pictures repeat bit for bit.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use selvedge::{
    device::Device,
    models::base::Base,
    sample::{MaskResize, PictureEncoder, first_inputs, start_noise},
    tensor::image::Picture,
};

#[test]
fn the_first_input_is_the_shifted_noise() {
    let base = Base::open("nano").unwrap();
    let picture = Picture::filled(128, 128, 3, 200);
    let mut mask = Picture::filled(128, 128, 1, 0);
    for y in 0..128 {
        for x in 0..64 {
            mask.at_mut(x, y)[0] = 255; // the left half, a whole number of latent cells
        }
    }
    let noise = start_noise(7, 16 * 16 * 4);
    assert_eq!(noise, start_noise(7, 16 * 16 * 4));
    assert_ne!(noise, start_noise(8, 16 * 16 * 4));
    let mut encoder = PictureEncoder::new(&base, &Device::Cpu);
    let z = [encoder.encode(&picture).unwrap()];
    let (gamma, parts) = (0.5, [(picture, mask)]);
    for resize in [MaskResize::Bilinear, MaskResize::Nearest] {
        let got = first_inputs(&mut encoder, &parts, std::slice::from_ref(&noise), gamma, resize)
            .unwrap();
        for (i, value) in got[0].iter().enumerate() {
            let inside = i / 4 % 16 < 8;
            let want = if inside { gamma * z[0][i] + noise[i] } else { noise[i] };
            assert_eq!(*value, want, "{resize:?} {i}");
        }
    }
    assert_eq!(encoder.loads, 1, "three pictures, one encoder");
    assert!(z[0].iter().any(|v| v.abs() > 0.1), "the encoded picture is not nothing");
}
