//! The reference: pixel by pixel, in the order of the formula. The kernel rounds at the same places.

use super::{Extent, LatentMix, Noise, Segment};
use crate::{
    kernels::noise,
    op::{Backward, Forward, Grad},
    tensor::{Spec, image::taps, philox},
};

/// One subject's data of one sample; the latents are empty where backward does not read them.
struct Subject<'a> {
    place: Segment,
    extent: Extent,
    z: &'a [f32],
    mask: &'a [f32],
}

/// All subjects of one sample.
struct Scene<'a> {
    subjects: Vec<Subject<'a>>,
    canvas: [usize; 2],
    channels: usize,
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

impl Subject<'_> {
    /// The segment's own row and column of a canvas pixel; `None` outside.
    fn own(&self, y: usize, x: usize) -> Option<(usize, usize)> {
        let inside = |p: usize, start: i32, n: usize| {
            let own = i64::try_from(p).ok()? - i64::from(start);
            usize::try_from(own).ok().filter(|o| *o < n)
        };
        Some((
            inside(y, self.place.top, self.extent.h)?,
            inside(x, self.place.left, self.extent.w)?,
        ))
    }

    /// The canvas pixel of an own row and column; `None` outside the canvas.
    fn canvas(&self, own: (usize, usize), canvas: [usize; 2]) -> Option<(usize, usize)> {
        let inside = |p: usize, start: i32, n: usize| {
            let at = i64::try_from(p).ok()? + i64::from(start);
            usize::try_from(at).ok().filter(|o| *o < n)
        };
        Some((
            inside(own.0, self.place.top, canvas[0])?,
            inside(own.1, self.place.left, canvas[1])?,
        ))
    }

    /// The resized mask.
    fn mask(&self, (y, x): (usize, usize)) -> f32 {
        let e = &self.extent;
        let (ty, tx) = (Tap::new(y, e.h, e.mask_h), Tap::new(x, e.w, e.mask_w));
        let row = |i: usize| {
            let row = &self.mask[i * e.mask_w..][..e.mask_w];
            tx.weight[0] * row[tx.at[0]] + tx.weight[1] * row[tx.at[1]]
        };
        ty.weight[0] * row(ty.at[0]) + ty.weight[1] * row(ty.at[1])
    }
}

impl Scene<'_> {
    /// `mix_n` of the first `n` subjects at one canvas pixel and channel.
    fn composite(&self, n: usize, y: usize, x: usize, c: usize) -> f32 {
        let mut mix = 0.0;
        for s in &self.subjects[..n] {
            if let Some((oy, ox)) = s.own(y, x) {
                let m = s.mask((oy, ox));
                let z = s.z[(oy * s.extent.w + ox) * self.channels + c];
                mix = mix * (1.0 - m) + s.place.gamma * (z * m);
            }
        }
        mix
    }

    /// How much of subject `i` shows through the later ones.
    fn visible(&self, i: usize, y: usize, x: usize) -> f32 {
        let later = self.subjects[i + 1..].iter();
        later.filter_map(|s| s.own(y, x).map(|o| s.mask(o))).fold(1.0, |t, m| t * (1.0 - m))
    }

    fn d_latents(&self, i: usize, d_out: &[f32], write: &mut impl FnMut(usize, f32)) {
        let s = &self.subjects[i];
        for oy in 0..s.extent.h {
            for ox in 0..s.extent.w {
                let at = s.canvas((oy, ox), self.canvas);
                let share = at
                    .map_or(0.0, |(y, x)| s.place.gamma * s.mask((oy, ox)) * self.visible(i, y, x));
                for c in 0..self.channels {
                    let d = at.map_or(0.0, |(y, x)| {
                        share * d_out[(y * self.canvas[1] + x) * self.channels + c]
                    });
                    write((oy * s.extent.w + ox) * self.channels + c, d);
                }
            }
        }
    }

    /// Gradient of the resized mask of subject `i` at one canvas pixel.
    fn d_resized(&self, i: usize, (y, x): (usize, usize), own: (usize, usize), d: &[f32]) -> f32 {
        let s = &self.subjects[i];
        let mut sum = 0.0;
        for c in 0..self.channels {
            let z = s.z[(own.0 * s.extent.w + own.1) * self.channels + c];
            let change = s.place.gamma * z - self.composite(i, y, x, c);
            sum += d[(y * self.canvas[1] + x) * self.channels + c] * change;
        }
        sum * self.visible(i, y, x)
    }

    fn d_mask(&self, i: usize, d_out: &[f32], write: &mut impl FnMut(usize, f32)) {
        let s = &self.subjects[i];
        let e = &s.extent;
        for my in 0..e.mask_h {
            for mx in 0..e.mask_w {
                let mut sum = 0.0;
                for oy in touched_by(my, e.h, e.mask_h) {
                    let wy = Tap::new(oy, e.h, e.mask_h).share(my);
                    for ox in touched_by(mx, e.w, e.mask_w) {
                        let wx = Tap::new(ox, e.w, e.mask_w).share(mx);
                        let at = s.canvas((oy, ox), self.canvas);
                        if let (true, Some(at)) = (wy != 0.0 && wx != 0.0, at) {
                            sum += wy * wx * self.d_resized(i, at, (oy, ox), d_out);
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

fn scene<'a>(op: &LatentMix, specs: &[Spec], ins: &[crate::op::Buf<'a>], n: usize) -> Scene<'a> {
    let subject = |(i, place): (usize, &Segment)| Subject {
        place: *place,
        extent: Extent::of(&specs[2 * i], &specs[2 * i + 1]),
        z: sample(ins[2 * i].f32(), &specs[2 * i], n),
        mask: sample(ins[2 * i + 1].f32(), &specs[2 * i + 1], n),
    };
    let subjects = op.segments.iter().enumerate().map(subject).collect();
    Scene { subjects, canvas: op.canvas, channels: specs[0].dims[3] }
}

pub(super) fn forward(op: &LatentMix, mut io: Forward<'_>) {
    let (samples, last) = (io.out_spec.dims[0], op.segments.len() * 2);
    let [h, w] = op.canvas;
    let channels = io.out_spec.dims[3];
    let each = h * w * channels;
    for n in 0..samples {
        let scene = scene(op, io.specs, &io.ins, n);
        let out = &mut io.out.f32()[n * each..][..each];
        match op.noise {
            Noise::Given => out.copy_from_slice(sample(io.ins[last].f32(), io.out_spec, n)),
            Noise::Seeded => {
                let (seed, stream) = noise::seed_stream(&io.ins[last].i32()[n * 4..]);
                philox::fill_normal(seed, stream, out);
            }
        }
        for y in 0..h {
            for x in 0..w {
                for c in 0..channels {
                    let eps = &mut out[(y * w + x) * channels + c];
                    *eps += scene.composite(scene.subjects.len(), y, x, c);
                }
            }
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
    let subjects = op.segments.len();
    for n in 0..io.out_spec.dims[0] {
        let d_out = sample(io.d_out.f32(), io.out_spec, n);
        let scene = scene(op, io.specs, &io.ins, n);
        for (k, grad) in io.d_ins.iter_mut().enumerate().filter(|(_, g)| g.wanted()) {
            let mut write = writer(grad, &io.specs[k], n);
            match (k / 2, k % 2) {
                (i, 0) if i < subjects => scene.d_latents(i, d_out, &mut write),
                (i, _) if i < subjects => scene.d_mask(i, d_out, &mut write),
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
