//! Masked latent mixing through a recorded program: what enters the U-Net first.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use selvedge::{
    device::Device,
    error::Error,
    kernels::{
        latent_mix::{LatentMix, Noise, Segment},
        noise,
    },
    plan::{Layout, Pass, PlanOptions, Program, Recorder, WeightSource},
    tensor::{Floats, Spec, philox},
};

const CANVAS: [usize; 2] = [16, 16];
const LEN: usize = 16 * 16 * 4;

struct NoWeights;

impl WeightSource for NoWeights {
    fn get(&self, _: &str, _: &[usize], _: Layout) -> Result<Option<Floats>, Error> {
        Ok(None)
    }
}

fn normal(stream: u64, n: usize) -> Vec<f32> {
    let mut v = vec![0.0; n];
    philox::fill_normal(5, stream, &mut v);
    v
}

/// A program that mixes `segments` of the canvas' size with masks of 128 x 128 pixels.
fn program(device: &Device, segments: &[Segment], noise: Noise) -> Program {
    let mut rec = Recorder::new();
    let mut ins = vec![];
    for i in 0..segments.len() {
        ins.push(rec.input_with_grad(&format!("z{i}"), Spec::f32(&[1, 16, 16, 4])));
        ins.push(rec.input_with_grad(&format!("m{i}"), Spec::f32(&[1, 128, 128])));
    }
    ins.push(match noise {
        Noise::Given => rec.input("last", Spec::f32(&[1, 16, 16, 4])),
        Noise::Seeded => rec.input("last", Spec::i32(&[1, 4])),
    });
    let op = LatentMix { segments: segments.to_vec(), canvas: CANVAS, noise };
    let out = rec.apply(op, &ins).unwrap();
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
        let mut p = program(&device, &[Segment::at_origin(1.25)], Noise::Given);
        p.set("z0", &z).unwrap();
        p.set("m0", &mask).unwrap();
        p.set("last", &eps).unwrap();
        p.forward().unwrap();
        let want: Vec<f32> =
            (0..LEN).map(|i| 1.25 * (z[i] * latent_mask[i / 4]) + eps[i]).collect();
        assert_eq!(p.get("out").unwrap(), want, "{}", device.name());
    }
}

#[test]
fn the_later_subject_lies_on_top_and_soft_edges_blend() {
    let (a, b) = (normal(2, LEN), normal(3, LEN));
    for (top, weight_a, weight_b) in [(1.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.25, 0.75, 0.25)] {
        for device in devices() {
            let segments = [Segment::at_origin(1.0), Segment::at_origin(1.0)];
            let mut p = program(&device, &segments, Noise::Given);
            p.set("z0", &a).unwrap();
            p.set("m0", &[1.0; 128 * 128]).unwrap();
            p.set("z1", &b).unwrap();
            p.set("m1", &[top; 128 * 128]).unwrap();
            p.set("last", &[0.0; LEN]).unwrap();
            p.forward().unwrap();
            let want: Vec<f32> =
                a.iter().zip(&b).map(|(a, b)| a * weight_a + b * weight_b).collect();
            assert_eq!(p.get("out").unwrap(), want, "mask {top} on {}", device.name());
            p.set_grad("out", &[1.0; LEN]).unwrap();
            p.backward(true).unwrap();
            assert!(p.grad("z0").unwrap().iter().all(|d| *d == weight_a));
            assert!(p.grad("z1").unwrap().iter().all(|d| *d == weight_b));
        }
    }
}

#[test]
fn an_empty_mask_leaves_the_seeded_noise_alone() {
    for device in devices() {
        let mut p = program(&device, &[Segment::at_origin(3.0)], Noise::Seeded);
        p.set("z0", &normal(4, LEN)).unwrap();
        p.set("m0", &[0.0; 128 * 128]).unwrap();
        p.set_i32("last", &noise::state(5, 9)).unwrap();
        p.forward().unwrap();
        assert_eq!(p.get("out").unwrap(), normal(9, LEN), "{}", device.name());
    }
}

#[test]
fn shapes_that_do_not_fit_are_named() {
    let op =
        LatentMix { segments: vec![Segment::at_origin(1.0)], canvas: CANVAS, noise: Noise::Given };
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
    assert!(text.contains("mask is [2, 128, 128], expected [1, H, W]"), "{text}");
    let text = message(rec.apply(op, &[z, m]));
    assert!(text.contains("2 inputs for 1 subjects"), "{text}");
}
