//! A photo inside the square that a segmentation network takes, and masks back at the photo's size.

use crate::tensor::image::{Filter, Picture, resize_plane};

/// Mean of the channels, of 255.
const MEAN: [f32; 3] = [123.675, 116.28, 103.53];
/// Deviation of the channels, of 255.
const DEVIATION: [f32; 3] = [58.395, 57.12, 57.375];

/// Where a photo lies in the network's input: resized to `inner`, at the upper left corner of `input`; zeros elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Height and width of the photo.
    pub photo: [usize; 2],
    /// Height and width of the resized photo.
    pub inner: [usize; 2],
    /// Height and width of the input.
    pub input: [usize; 2],
}

impl Frame {
    /// The largest `inner` of the photo's proportions, sides rounded half up (segment_anything's `ResizeLongestSide`).
    pub fn fit(photo: [usize; 2], input: [usize; 2]) -> Self {
        let scale = |axis: usize| input[axis] as f64 / photo[axis].max(1) as f64;
        let scale = scale(0).min(scale(1));
        let side = |axis: usize| {
            ((photo[axis] as f64 * scale + 0.5) as usize).clamp(1, input[axis].max(1))
        };
        Self { photo, inner: [side(0), side(1)], input }
    }

    /// The input `[input_h, input_w, 3]`: resized (Pillow's bilinear), normalised by the channels' mean and deviation,
    /// then padded with zeros.
    pub fn pixels(&self, photo: &Picture) -> Vec<f32> {
        let [height, width] = self.inner;
        let small = photo.rgb().resize(width, height, Filter::Bilinear);
        let mut out = vec![0.0; self.input[0] * self.input[1] * 3];
        let rows = small.data.chunks_exact(width * 3);
        for (row, to) in rows.zip(out.chunks_exact_mut(self.input[1] * 3)) {
            for (pixel, to) in row.chunks_exact(3).zip(to.chunks_exact_mut(3)) {
                for c in 0..3 {
                    to[c] = (f32::from(pixel[c]) - MEAN[c]) / DEVIATION[c];
                }
            }
        }
        out
    }

    /// A point (x, y) of the photo in pixels of the input.
    pub fn place(&self, [x, y]: [f64; 2]) -> [f32; 2] {
        let scaled = |v: f64, axis: usize| v * self.inner[axis] as f64 / self.photo[axis] as f64;
        [scaled(x, 1) as f32, scaled(y, 0) as f32]
    }

    /// 255 where the logits `[size_h, size_w]` are above 0 at the photo's size: bilinear to the input, without the padding,
    /// bilinear to the photo.
    pub fn mask(&self, logits: &[f32], size: [usize; 2]) -> Picture {
        let large = resize_plane(logits, size, self.input);
        let rows = large.chunks_exact(self.input[1].max(1)).take(self.inner[0]);
        let inside: Vec<f32> = rows.flat_map(|r| &r[..self.inner[1]]).copied().collect();
        let full = resize_plane(&inside, self.inner, self.photo);
        let data = full.iter().map(|v| if *v > 0.0 { 255 } else { 0 }).collect();
        Picture { width: self.photo[1], height: self.photo[0], channels: 1, data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_side_fits_and_the_other_is_rounded_half_up() {
        let inner = |h, w| Frame::fit([h, w], [1024, 1024]).inner;
        assert_eq!(inner(480, 640), [768, 1024]);
        assert_eq!(inner(1500, 999), [1024, 682]);
        assert_eq!(inner(3, 2047), [2, 1024]);
        assert_eq!(inner(1, 12_000), [1, 1024]);
        assert_eq!(Frame::fit([10, 10], [32, 48]).inner, [32, 32]);
    }

    #[test]
    fn padding_is_zero_after_the_normalisation() {
        let frame = Frame::fit([2, 4], [8, 8]);
        assert_eq!(frame.inner, [4, 8]);
        let pixels = frame.pixels(&Picture::filled(4, 2, 3, 255));
        assert!((pixels[0] - (255.0 - 123.675) / 58.395).abs() < 1e-6);
        assert!((pixels[4 * 8 * 3 - 1] - (255.0 - 103.53) / 57.375).abs() < 1e-6);
        assert!(pixels[4 * 8 * 3..].iter().all(|v| *v == 0.0));
        assert_eq!(frame.place([4.0, 1.0]), [8.0, 2.0]);
    }

    #[test]
    fn points_follow_the_rounding_of_their_own_axis() {
        let frame = Frame::fit([999, 1500], [1024, 1024]);
        assert_eq!(frame.place([1500.0, 999.0]), [1024.0, 682.0]);
        assert_eq!(frame.place([750.0, 0.0]), [512.0, 0.0]);
        let frame = Frame::fit([3, 2047], [1024, 1024]);
        assert_eq!(frame.place([2047.0, 3.0]), [1024.0, 2.0]);
    }

    #[test]
    fn a_mask_comes_back_where_it_was() {
        // the lower right quarter of the photo, which fills the upper half of the input
        let frame = Frame::fit([40, 80], [64, 64]);
        let logits: Vec<f32> = (0..16 * 16)
            .map(|i| if (4..8).contains(&(i / 16)) && i % 16 >= 8 { 5.0 } else { -5.0 })
            .collect();
        let mask = frame.mask(&logits, [16, 16]);
        assert_eq!((mask.width, mask.height), (80, 40));
        assert_eq!(
            (mask.at(60, 30), mask.at(20, 30), mask.at(60, 10)),
            (&[255][..], &[0][..], &[0][..])
        );
        let share = mask.data.iter().filter(|v| **v == 255).count() as f32 / 3200.0;
        assert!((share - 0.25).abs() < 0.02, "{share}");
    }
}
