//! Masked latent mixing through a recorded program: what enters the U-Net first.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use selvedge::{
    device::Device,
    error::Error,
    kernels::{
        latent_mix::{LatentMix, Noise},
        noise,
    },
    plan::{Pass, PlanOptions, Program, Recorder, WeightLayout, WeightSource},
    tensor::{Floats, Spec, philox},
};

const LEN: usize = 16 * 16 * 4;

struct NoWeights;

impl WeightSource for NoWeights {
    fn get(&self, _: &str, _: &[usize], _: WeightLayout) -> Result<Option<Floats>, Error> {
        Ok(None)
    }
}

fn normal(stream: u64, n: usize) -> Vec<f32> {
    let mut v = vec![0.0; n];
    philox::fill_normal(5, stream, &mut v);
    v
}

/// A program that masks latents with masks of 128 x 128 pixels.
fn program(device: &Device, gamma: f32, noise: Noise) -> Program {
    let mut rec = Recorder::new();
    let z = rec.input_with_grad("z", Spec::f32(&[1, 16, 16, 4]));
    let mask = rec.input_with_grad("mask", Spec::f32(&[1, 128, 128]));
    let last = match noise {
        Noise::Given => rec.input("last", Spec::f32(&[1, 16, 16, 4])),
        Noise::Seeded => rec.input("last", Spec::i32(&[1, 4])),
    };
    let out = rec.apply(LatentMix { gamma, noise }, &[z, mask, last]).unwrap();
    let options = PlanOptions { pass: Pass::Seeded, checkpoint: false, poison: true };
    rec.plan(&[("out", out)], options).unwrap().load(device.clone(), &NoWeights).unwrap()
}

/// The devices of this build: the CPU, and with the feature `emulate` the emulated driver.
fn devices() -> Vec<Device> {
    let words: &[&str] = if cfg!(feature = "emulate") { &["cpu", "emulated"] } else { &["cpu"] };
    words.iter().map(|w| Device::parse(w).unwrap()).collect()
}

#[test]
fn one_subject_gives_exactly_gamma_z_mask_plus_noise() {
    // Each latent pixel's mask is constant over its 8 x 8 picture pixels, so resizing returns it as it is.
    let latent_mask: Vec<f32> = (0..256u16).map(|i| f32::from(i % 17) / 16.0).collect();
    let mask: Vec<f32> =
        (0..128 * 128).map(|i| latent_mask[i / 128 / 8 * 16 + i % 128 / 8]).collect();
    let (z, eps) = (normal(0, LEN), normal(1, LEN));
    for device in devices() {
        let mut p = program(&device, 1.25, Noise::Given);
        p.set("z", &z).unwrap();
        p.set("mask", &mask).unwrap();
        p.set("last", &eps).unwrap();
        p.forward().unwrap();
        let want: Vec<f32> =
            (0..LEN).map(|i| 1.25 * (z[i] * latent_mask[i / 4]) + eps[i]).collect();
        assert_eq!(p.get("out").unwrap(), want, "{}", device.name());
    }
}

#[test]
fn gradients_are_the_masked_and_the_weighted_output_gradient() {
    let z = normal(2, LEN);
    for device in devices() {
        let mut p = program(&device, 0.5, Noise::Given);
        p.set("z", &z).unwrap();
        p.set("mask", &[0.25; 128 * 128]).unwrap();
        p.set("last", &[0.0; LEN]).unwrap();
        p.forward().unwrap();
        p.set_grad("out", &[1.0; LEN]).unwrap();
        p.backward(true).unwrap();
        assert!(p.grad("z").unwrap().iter().all(|d| *d == 0.125), "{}", device.name());
        // every latent pixel samples the four middle ones of its 8 x 8, a quarter each
        let d_mask = p.grad("mask").unwrap();
        let row = 3 * 128 + 3;
        let want = 0.25 * (0.5 * z[0] + 0.5 * z[1] + 0.5 * z[2] + 0.5 * z[3]);
        assert!((d_mask[row] - want).abs() < 1e-6, "{} {want}", d_mask[row]);
        assert_eq!(d_mask[0], 0.0);
    }
}

#[test]
fn an_empty_mask_leaves_the_seeded_noise_alone() {
    for device in devices() {
        let mut p = program(&device, 3.0, Noise::Seeded);
        p.set("z", &normal(4, LEN)).unwrap();
        p.set("mask", &[0.0; 128 * 128]).unwrap();
        p.set_i32("last", &noise::state(5, 9)).unwrap();
        p.forward().unwrap();
        assert_eq!(p.get("out").unwrap(), normal(9, LEN), "{}", device.name());
    }
}

#[test]
fn shapes_that_do_not_fit_are_named() {
    let op = LatentMix { gamma: 1.0, noise: Noise::Given };
    let mut rec = Recorder::new();
    let z = rec.input("z", Spec::f32(&[1, 16, 16, 4]));
    let m = rec.input("m", Spec::f32(&[1, 128, 128]));
    let wrong_mask = rec.input("wrong", Spec::f32(&[2, 128, 128]));
    let eps = rec.input("eps", Spec::f32(&[1, 16, 15, 4]));
    let message =
        |r: Result<_, Error>| r.map(|_: selvedge::plan::Value| ()).unwrap_err().to_string();
    let text = message(rec.apply(op.clone(), &[z, m, eps]));
    assert!(text.contains("latent_mix") && text.contains("eps is [1, 16, 15, 4]"), "{text}");
    let text = message(rec.apply(op.clone(), &[z, wrong_mask, eps]));
    assert!(text.contains("mask is [2, 128, 128], expected [1, h, w]"), "{text}");
    let text = message(rec.apply(op, &[z, m]));
    assert!(text.contains("2 inputs, expected 3"), "{text}");
}
