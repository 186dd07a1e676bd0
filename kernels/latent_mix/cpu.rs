//! The reference: pixel by pixel, in the order of the formula. The kernel rounds at the same places.

use super::{Extent, LatentMix, Noise};
use crate::{
    kernels::noise,
    op::{Backward, Buf, Forward, Grad},
    tensor::{Spec, image::taps, philox},
};

/// One sample's latents and mask; what backward does not read is empty.
struct Scene<'a> {
    gamma: f32,
    extent: Extent,
    z: &'a [f32],
    mask: &'a [f32],
}

/// The two source pixels and weights of one target pixel along one axis (torch's `interpolate`, bilinear).
struct Tap {
    at: [usize; 2],
    weight: [f32; 2],
}

impl Tap {
    fn new(target: usize, targets: usize, sources: usize) -> Self {
        let (first, second, w) = taps(target, targets, sources);
        Self { at: [first, second], weight: [1.0 - w, w] }
    }

    /// The part of source pixel `i`; both halves where the edge folds them together.
    fn share(&self, i: usize) -> f32 {
        let part = |k: usize| if self.at[k] == i { self.weight[k] } else { 0.0 };
        part(0) + part(1)
    }
}

/// The targets that may touch source pixel `i`, a little more than needed.
fn touched_by(i: usize, targets: usize, sources: usize) -> std::ops::Range<usize> {
    let inverse = targets as f32 / sources as f32;
    let first = ((i as f32 - 0.5) * inverse).max(0.0) as usize;
    let last = if i + 1 == sources { targets } else { ((i as f32 + 1.5) * inverse) as usize + 2 };
    first.saturating_sub(2)..last.min(targets)
}

impl Scene<'_> {
    /// The resized mask.
    fn mask(&self, y: usize, x: usize) -> f32 {
        let e = &self.extent;
        let (ty, tx) = (Tap::new(y, e.h, e.mask_h), Tap::new(x, e.w, e.mask_w));
        let row = |i: usize| {
            let row = &self.mask[i * e.mask_w..][..e.mask_w];
            tx.weight[0] * row[tx.at[0]] + tx.weight[1] * row[tx.at[1]]
        };
        ty.weight[0] * row(ty.at[0]) + ty.weight[1] * row(ty.at[1])
    }

    /// Every pixel with the range of its channels.
    fn pixels(&self) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> + use<> {
        let Extent { h, w, channels: c, .. } = self.extent;
        (0..h * w).map(move |p| (p / w, p % w, p * c..(p + 1) * c))
    }

    fn d_latents(&self, d_out: &[f32], write: &mut impl FnMut(usize, f32)) {
        for (y, x, at) in self.pixels() {
            let share = self.gamma * self.mask(y, x);
            at.for_each(|i| write(i, share * d_out[i]));
        }
    }

    /// Gradient of the resized mask at one pixel.
    fn d_resized(&self, y: usize, x: usize, d_out: &[f32]) -> f32 {
        let Extent { w, channels: c, .. } = self.extent;
        let at = (y * w + x) * c;
        (at..at + c).map(|i| d_out[i] * (self.gamma * self.z[i])).fold(0.0, |sum, v| sum + v)
    }

    fn d_mask(&self, d_out: &[f32], write: &mut impl FnMut(usize, f32)) {
        let e = &self.extent;
        for my in 0..e.mask_h {
            for mx in 0..e.mask_w {
                let mut sum = 0.0;
                for y in touched_by(my, e.h, e.mask_h) {
                    let wy = Tap::new(y, e.h, e.mask_h).share(my);
                    for x in touched_by(mx, e.w, e.mask_w) {
                        let wx = Tap::new(x, e.w, e.mask_w).share(mx);
                        if wy != 0.0 && wx != 0.0 {
                            sum += wy * wx * self.d_resized(y, x, d_out);
                        }
                    }
                }
                write(my * e.mask_w + mx, sum);
            }
        }
    }
}

/// Sample `n` of a buffer of `spec`; nothing where the buffer was not kept.
fn sample<'a>(all: &'a [f32], spec: &Spec, n: usize) -> &'a [f32] {
    let each = spec.len() / spec.dims[0].max(1);
    all.get(n * each..(n + 1) * each).unwrap_or(&[])
}

fn scene<'a>(op: &LatentMix, specs: &[Spec], ins: &[Buf<'a>], n: usize) -> Scene<'a> {
    Scene {
        gamma: op.gamma,
        extent: Extent::of(&specs[0], &specs[1]),
        z: sample(ins[0].f32(), &specs[0], n),
        mask: sample(ins[1].f32(), &specs[1], n),
    }
}

pub(super) fn forward(op: &LatentMix, mut io: Forward<'_>) {
    let each = io.out_spec.len() / io.out_spec.dims[0].max(1);
    for n in 0..io.out_spec.dims[0] {
        let scene = scene(op, io.specs, &io.ins, n);
        let out = &mut io.out.f32()[n * each..][..each];
        match op.noise {
            Noise::Given => out.copy_from_slice(sample(io.ins[2].f32(), io.out_spec, n)),
            Noise::Seeded => {
                let (seed, stream) = noise::seed_stream(&io.ins[2].i32()[n * 4..]);
                philox::fill_normal(seed, stream, out);
            }
        }
        for (y, x, at) in scene.pixels() {
            let m = scene.mask(y, x);
            at.for_each(|i| out[i] += op.gamma * (scene.z[i] * m));
        }
    }
}

/// A writer into sample `n` of a gradient.
fn writer<'a>(grad: &'a mut Grad<'_>, spec: &Spec, n: usize) -> impl FnMut(usize, f32) + 'a {
    let each = spec.len() / spec.dims[0].max(1);
    let add = grad.beta() != 0.0;
    let target = &mut grad.buf.f32()[n * each..][..each];
    move |i, d| target[i] = if add { target[i] + d } else { d }
}

pub(super) fn backward(op: &LatentMix, mut io: Backward<'_>) {
    for n in 0..io.out_spec.dims[0] {
        let d_out = sample(io.d_out.f32(), io.out_spec, n);
        let scene = scene(op, io.specs, &io.ins, n);
        for (k, grad) in io.d_ins.iter_mut().enumerate().filter(|(_, g)| g.wanted()) {
            let mut write = writer(grad, &io.specs[k], n);
            match k {
                0 => scene.d_latents(d_out, &mut write),
                1 => scene.d_mask(d_out, &mut write),
                _ => d_out.iter().enumerate().for_each(|(at, d)| write(at, *d)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_of_the_latents_size_is_taken_as_it_is() {
        for i in 0..7 {
            let t = Tap::new(i, 7, 7);
            assert_eq!((t.at[0], t.weight), (i, [1.0, 0.0]));
        }
    }

    #[test]
    fn a_mask_eight_times_finer_is_the_mean_of_the_two_middle_pixels() {
        let t = Tap::new(2, 16, 128);
        assert_eq!((t.at, t.weight), ([19, 20], [0.5, 0.5]));
    }

    #[test]
    fn every_target_that_samples_a_pixel_is_visited_by_its_gradient() {
        for (targets, sources) in [(1, 9), (9, 1), (16, 128), (128, 16), (7, 11), (11, 7), (5, 5)] {
            for target in 0..targets {
                let tap = Tap::new(target, targets, sources);
                for i in (0..sources).filter(|i| tap.share(*i) != 0.0) {
                    assert!(
                        touched_by(i, targets, sources).contains(&target),
                        "{targets} {sources}"
                    );
                }
            }
        }
    }
}
