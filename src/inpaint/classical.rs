//! A fill without weights: colours flow in from the hole's edge.

use super::Hole;
use crate::tensor::image::Picture;

/// Sweeps over a level of the pyramid.
const SWEEPS: usize = 24;

/// The photo with smooth colours in the hole: the harmonic function whose values at the edge are the photo's,
/// `laplace u = 0`, per channel, solved from coarse to fine.
///
/// What the photo shows in the hole is never read. RGB of the hole's size.
pub fn fill(photo: &Picture, hole: &Hole) -> Picture {
    let [x0, y0, x1, y1] = around(hole);
    let (width, height) = (x1 - x0, y1 - y0);
    let mut level = Level {
        width,
        height,
        values: vec![[0.0; 3]; width * height],
        open: vec![false; width * height],
    };
    for y in 0..height {
        for x in 0..width {
            let open = hole.cover[(y0 + y) * hole.width + x0 + x] > 0.0;
            level.open[y * width + x] = open;
            if !open {
                let pixel = photo.at(x0 + x, y0 + y);
                level.values[y * width + x] = [0, 1, 2].map(|c| f32::from(pixel[c]));
            }
        }
    }
    level.solve();
    let mut out = photo.clone();
    for y in 0..height {
        for x in 0..width {
            if level.open[y * width + x] {
                let to = out.at_mut(x0 + x, y0 + y);
                for (to, value) in to.iter_mut().zip(level.values[y * width + x]) {
                    *to = value.round().clamp(0.0, 255.0) as u8;
                }
            }
        }
    }
    out
}

/// The rectangle of the hole and one pixel of the photo around it.
fn around(hole: &Hole) -> [usize; 4] {
    let mut area = [hole.width, hole.height, 0, 0];
    for (at, _) in hole.open().enumerate().filter(|(_, open)| *open) {
        let (x, y) = (at % hole.width, at / hole.width);
        area = [area[0].min(x), area[1].min(y), area[2].max(x + 1), area[3].max(y + 1)];
    }
    let [x0, y0, x1, y1] = area;
    [
        x0.saturating_sub(1),
        y0.saturating_sub(1),
        (x1 + 1).min(hole.width),
        (y1 + 1).min(hole.height),
    ]
}

/// Colours, of which those of `open` pixels are looked for.
struct Level {
    width: usize,
    height: usize,
    values: Vec<[f32; 3]>,
    open: Vec<bool>,
}

impl Level {
    fn solve(&mut self) {
        if !self.open.contains(&true) || !self.open.contains(&false) {
            return;
        }
        if self.width > 2 || self.height > 2 {
            let mut half = self.half();
            half.solve();
            for y in 0..self.height {
                for x in 0..self.width {
                    if self.open[y * self.width + x] {
                        self.values[y * self.width + x] = half.between(x, y);
                    }
                }
            }
        }
        for sweep in 0..2 * SWEEPS {
            self.relax(sweep % 2);
        }
    }

    /// The mean of the known pixels of every two by two; open where there is none.
    fn half(&self) -> Self {
        let (width, height) = (self.width.div_ceil(2), self.height.div_ceil(2));
        let (mut values, mut open) = (vec![[0.0; 3]; width * height], vec![true; width * height]);
        for at in 0..width * height {
            let (x, y) = (at % width * 2, at / width * 2);
            let mut count = 0.0;
            for (x, y) in [(x, y), (x + 1, y), (x, y + 1), (x + 1, y + 1)] {
                if x < self.width && y < self.height && !self.open[y * self.width + x] {
                    let known = self.values[y * self.width + x];
                    values[at]
                        .iter_mut()
                        .zip(known)
                        .for_each(|(sum, v): (&mut f32, f32)| *sum += v);
                    count += 1.0;
                }
            }
            if count > 0.0 {
                values[at].iter_mut().for_each(|v| *v /= count);
                open[at] = false;
            }
        }
        Self { width, height, values, open }
    }

    /// The value at pixel `(x, y)` of a level of twice the size, linearly between the centres.
    fn between(&self, x: usize, y: usize) -> [f32; 3] {
        let place = |at: usize, count: usize| {
            let at = (at as f32 / 2.0 - 0.25).clamp(0.0, (count - 1) as f32);
            (at as usize, (at as usize + 1).min(count - 1), at.fract())
        };
        let ((xa, xb, u), (ya, yb, v)) = (place(x, self.width), place(y, self.height));
        let at = |x: usize, y: usize| self.values[y * self.width + x];
        [0, 1, 2].map(|c| {
            let row = |y: usize| at(xa, y)[c] * (1.0 - u) + at(xb, y)[c] * u;
            row(ya) * (1.0 - v) + row(yb) * v
        })
    }

    /// Puts the mean of the neighbours into the open pixels of one colour of the chessboard.
    fn relax(&mut self, colour: usize) {
        let (width, height) = (self.width, self.height);
        for y in 0..height {
            for x in ((y + colour) % 2..width).step_by(2) {
                let at = y * width + x;
                if !self.open[at] {
                    continue;
                }
                let near = [
                    (x > 0).then(|| at - 1),
                    (x + 1 < width).then(|| at + 1),
                    (y > 0).then(|| at - width),
                    (y + 1 < height).then(|| at + width),
                ];
                let (mut sum, mut count) = ([0.0f32; 3], 0.0);
                for i in near.into_iter().flatten() {
                    sum.iter_mut().zip(self.values[i]).for_each(|(s, v)| *s += v);
                    count += 1.0;
                }
                if count > 0.0 {
                    self.values[at] = sum.map(|s| s / count);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_gradient_goes_on_through_the_hole_and_nothing_of_the_subject_is_read() {
        let (width, height) = (96, 64);
        let mut photo = Picture::filled(width, height, 3, 0);
        let mut mask = Picture::filled(width, height, 1, 0);
        for y in 0..height {
            for x in 0..width {
                let pixel = [40 + x as u8, 60 + 2 * y as u8, 100];
                photo.at_mut(x, y).copy_from_slice(&pixel);
                if (30..60).contains(&x) && (20..45).contains(&y) {
                    mask.at_mut(x, y)[0] = 255;
                }
            }
        }
        let hole = Hole::new(&photo, &mask, 4, Path::new("m")).unwrap();
        let mut painted = photo.clone();
        for (at, open) in hole.open().enumerate() {
            if open {
                painted.data[at * 3..][..3].copy_from_slice(&[255, 0, 255]);
            }
        }
        let filled = fill(&painted, &hole);
        assert_eq!(filled, fill(&photo, &hole), "the fill reads the hole");
        // a linear function is harmonic
        for (got, want) in filled.data.iter().zip(&photo.data) {
            assert!(got.abs_diff(*want) <= 2, "{got} {want}");
        }
        let seen = hole.seen_through(&photo, &filled);
        for (at, open) in hole.open().enumerate().filter(|(_, open)| !open) {
            assert!(!open && seen.data[at * 3..][..3] == photo.data[at * 3..][..3]);
        }
    }
}
