//! Pillow's resampling: separable, 22-bit fixed-point weights, 8-bit rounding per pass.
//!
//! The horizontal pass comes first, except (since Pillow 13) when the height shrinks by more than
//! twice the pixels the width does. Source: Pillow's `Resample.c` and, for nearest, `Geometry.c`.
//! When making a picture smaller the filter's support grows by the factor (anti-aliasing).

use super::Picture;

/// Resampling filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The pixel under the centre.
    Nearest,
    /// Mean of the covered pixels.
    Box,
    /// Triangle, support 1.
    Bilinear,
    /// Cubic with a = -0.5, support 2.
    Bicubic,
    /// Windowed sinc, support 3.
    Lanczos,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Filter::Nearest | Filter::Box => 0.5,
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let sinc = |x: f64| {
            let y = x * std::f64::consts::PI;
            if x == 0.0 { 1.0 } else { y.sin() / y }
        };
        let r = x.abs();
        match self {
            Filter::Nearest | Filter::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Filter::Bilinear => (1.0 - r).max(0.0),
            Filter::Bicubic if r < 1.0 => ((A + 2.0) * r - (A + 3.0)) * r * r + 1.0,
            Filter::Bicubic if r < 2.0 => (((r - 5.0) * r + 8.0) * r - 4.0) * A,
            Filter::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Filter::Bicubic | Filter::Lanczos => 0.0,
        }
    }
}

const BITS: u32 = 22;

/// For each output position: the first input and the weights, floating point.
fn weights(inputs: usize, outputs: usize, filter: Filter) -> Vec<(usize, Vec<f64>)> {
    let scale = inputs as f64 / outputs as f64;
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    let one = |i: usize| {
        let center = (i as f64 + 0.5) * scale;
        let first = ((center - support + 0.5) as i64).max(0) as usize;
        let end = ((center + support + 0.5) as usize).min(inputs);
        let inverse = 1.0 / stretch;
        let mut w: Vec<f64> = (first..end)
            .map(|x| filter.weight(((x - first) as f64 + first as f64 - center + 0.5) * inverse))
            .collect();
        let sum: f64 = w.iter().sum();
        if sum != 0.0 {
            w.iter_mut().for_each(|v| *v /= sum);
        }
        (first, w)
    };
    (0..outputs).map(one).collect()
}

fn fixed(w: &[f64]) -> Vec<i32> {
    let one = f64::from(1u32 << BITS);
    w.iter().map(|v| (v * one + 0.5f64.copysign(*v)) as i32).collect()
}

fn clip(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

fn horizontal(p: &Picture, width: usize, filter: Filter) -> Picture {
    let plan: Vec<_> =
        weights(p.width, width, filter).into_iter().map(|(i, w)| (i, fixed(&w))).collect();
    let c = p.channels;
    let mut out = Picture::filled(width, p.height, c, 0);
    for (row, to) in p.data.chunks_exact(p.width * c).zip(out.data.chunks_exact_mut(width * c)) {
        for ((first, w), pixel) in plan.iter().zip(to.chunks_exact_mut(c)) {
            for (k, v) in pixel.iter_mut().enumerate() {
                let from = row[first * c + k..].iter().step_by(c);
                let sum: i32 = w.iter().zip(from).map(|(w, s)| w * i32::from(*s)).sum();
                *v = clip(sum + (1 << (BITS - 1)));
            }
        }
    }
    out
}

fn vertical(p: &Picture, height: usize, filter: Filter) -> Picture {
    let row_len = p.width * p.channels;
    let mut out = Picture::filled(p.width, height, p.channels, 0);
    let mut sums = vec![0i32; row_len];
    let plan = weights(p.height, height, filter);
    for ((first, w), to) in plan.into_iter().zip(out.data.chunks_exact_mut(row_len)) {
        sums.fill(1 << (BITS - 1));
        for (w, row) in fixed(&w).into_iter().zip(p.data[first * row_len..].chunks_exact(row_len)) {
            sums.iter_mut().zip(row).for_each(|(s, v)| *s += w * i32::from(*v));
        }
        to.iter_mut().zip(&sums).for_each(|(v, s)| *v = clip(*s));
    }
    out
}

/// Positions of the nearest rule: the running sum of Pillow's affine scaler.
fn nearest_positions(inputs: usize, outputs: usize) -> Vec<usize> {
    let step = inputs as f64 / outputs as f64;
    let mut at = step * 0.5;
    let mut all = Vec::with_capacity(outputs);
    for _ in 0..outputs {
        all.push((at as usize).min(inputs.saturating_sub(1)));
        at += step;
    }
    all
}

fn nearest(p: &Picture, width: usize, height: usize) -> Picture {
    let (xs, ys) = (nearest_positions(p.width, width), nearest_positions(p.height, height));
    let mut data = Vec::with_capacity(width * height * p.channels);
    for y in &ys {
        xs.iter().for_each(|x| data.extend_from_slice(p.at(*x, *y)));
    }
    Picture { width, height, channels: p.channels, data }
}

fn premultiplied(p: &Picture) -> Picture {
    let mut out = p.clone();
    for q in out.data.chunks_exact_mut(4) {
        let a = u32::from(q[3]);
        for v in &mut q[..3] {
            let t = u32::from(*v) * a + 128;
            *v = (((t >> 8) + t) >> 8) as u8;
        }
    }
    out
}

fn unpremultiply(p: &mut Picture) {
    for q in p.data.chunks_exact_mut(4) {
        let a = u32::from(q[3]);
        if a != 0 && a != 255 {
            q[..3].iter_mut().for_each(|v| *v = (255 * u32::from(*v) / a).min(255) as u8);
        }
    }
}

/// [`Picture::resize`].
pub(super) fn resize(p: &Picture, width: usize, height: usize, filter: Filter) -> Picture {
    if (p.width, p.height) == (width, height) {
        return p.clone();
    }
    if p.width * p.height == 0 || width * height == 0 {
        return Picture::filled(width, height, p.channels, 0);
    }
    if filter == Filter::Nearest {
        return nearest(p, width, height);
    }
    let inside = if p.channels == 4 { premultiplied(p) } else { p.clone() };
    let across = |p: Picture| if width == p.width { p } else { horizontal(&p, width, filter) };
    let down = |p: Picture| if height == p.height { p } else { vertical(&p, height, filter) };
    let (less_w, less_h) = (p.width as i64 - width as i64, p.height as i64 - height as i64);
    let vertical_first = less_h > 0 && less_h > 2 * less_w;
    let mut out = if vertical_first { across(down(inside)) } else { down(across(inside)) };
    if p.channels == 4 {
        unpremultiply(&mut out);
    }
    out
}

/// Bilinear interpolation along one axis (torch's `interpolate`, `align_corners` off): the two source indices of
/// `target` and the weight of the second.
pub fn taps(target: usize, targets: usize, sources: usize) -> (usize, usize, f32) {
    let at = ((target as f32 + 0.5) * (sources as f32 / targets as f32) - 0.5).max(0.0);
    let last = sources.saturating_sub(1);
    let low = (at as usize).min(last);
    (low, (low + 1).min(last), at - low as f32)
}

/// Bilinear resizing of an f32 plane `[h, w]` without anti-aliasing (torch's `interpolate`,
/// `align_corners` off).
pub fn resize_plane(data: &[f32], from: [usize; 2], to: [usize; 2]) -> Vec<f32> {
    let axis = |n: usize, m: usize| (0..m).map(|i| taps(i, m, n)).collect::<Vec<_>>();
    let (rows, cols) = (axis(from[0], to[0]), axis(from[1], to[1]));
    let mut out = Vec::with_capacity(to[0] * to[1]);
    for (y0, y1, fy) in &rows {
        let (a, b) = (&data[y0 * from[1]..], &data[y1 * from[1]..]);
        for (x0, x1, fx) in &cols {
            let top = (1.0 - fx) * a[*x0] + fx * a[*x1];
            let bottom = (1.0 - fx) * b[*x0] + fx * b[*x1];
            out.push((1.0 - fy) * top + fy * bottom);
        }
    }
    out
}
