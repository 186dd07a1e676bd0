//! The exact Euclidean distance transform, one axis after the other (Felzenszwalb and Huttenlocher 2012).

/// The squared distance of every pixel to the nearest one that is `inside`, of which there is one.
pub fn squared_distance(inside: &[bool], width: usize, height: usize) -> Vec<f32> {
    let far = ((width + height) * (width + height)) as f32;
    let mut all: Vec<f32> = inside.iter().map(|i| if *i { 0.0 } else { far }).collect();
    let mut line = Lines::new(width.max(height));
    for x in 0..width {
        line.along(&mut all, (x, width), height);
    }
    for y in 0..height {
        line.along(&mut all, (y * width, 1), width);
    }
    all
}

/// Buffers for one row or column.
struct Lines {
    values: Vec<f32>,
    /// Where the parabolas of the lower envelope have their lowest point.
    roots: Vec<usize>,
    /// From where on each is the lowest.
    starts: Vec<f32>,
}

impl Lines {
    fn new(longest: usize) -> Self {
        Self { values: vec![0.0; longest], roots: vec![0; longest], starts: vec![0.0; longest + 1] }
    }

    /// `out[i] = min over j of in[j] + (i - j)^2` along `count` elements from `first`, `step` apart.
    fn along(&mut self, all: &mut [f32], (first, step): (usize, usize), count: usize) {
        for i in 0..count {
            self.values[i] = all[first + i * step];
        }
        let square = |i: usize| (i * i) as f32;
        let (values, roots, starts) = (&self.values, &mut self.roots, &mut self.starts);
        let mut last = 0;
        (roots[0], starts[0]) = (0, f32::NEG_INFINITY);
        for i in 1..count {
            loop {
                let j = roots[last];
                let meet =
                    ((values[i] + square(i)) - (values[j] + square(j))) / (2 * (i - j)) as f32;
                if meet > starts[last] || last == 0 {
                    last += usize::from(meet > starts[last]);
                    (roots[last], starts[last]) = (i, meet);
                    break;
                }
                last -= 1;
            }
        }
        let mut at = 0;
        for i in 0..count {
            while at < last && starts[at + 1] < i as f32 {
                at += 1;
            }
            let j = roots[at];
            all[first + i * step] = values[j] + square(i.abs_diff(j));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_nearest_pixel() {
        let (width, height) = (23, 17);
        let inside: Vec<bool> = (0..width * height).map(|i| i * 7919 % 61 == 3).collect();
        let got = squared_distance(&inside, width, height);
        for (at, got) in got.iter().enumerate() {
            let near = |(i, _): (usize, &bool)| {
                let (dx, dy) = ((i % width).abs_diff(at % width), (i / width).abs_diff(at / width));
                dx * dx + dy * dy
            };
            let want = inside.iter().enumerate().filter(|(_, i)| **i).map(near).min().unwrap();
            assert_eq!(*got, want as f32, "pixel {at}");
        }
    }
}
