//! A cut-out subject, and several of them pasted on white.

use serde::Serialize;

use crate::tensor::image::{Filter, Picture};

/// A mask value above this counts for the tight box.
pub const BOX_THRESHOLD: u8 = 128;
/// A mask value above this is pasted.
pub const PASTE_THRESHOLD: u8 = 122;

/// The tight rectangle around a subject: picture and mask.
#[derive(Clone, Debug)]
pub struct Segment {
    /// RGB.
    pub rgb: Picture,
    /// Gray, of the same size.
    pub mask: Picture,
}

impl Segment {
    /// Cuts the tight box of `mask > 128`, last row and column included; `None` when nothing is
    /// above.
    pub fn cut(rgb: &Picture, mask: &Picture) -> Option<Self> {
        let [x0, y0, x1, y1] = tight_box(mask, BOX_THRESHOLD)?;
        let cut = |p: &Picture| p.crop(x0 as i64, y0 as i64, x1 - x0, y1 - y0);
        Some(Self { rgb: cut(rgb), mask: cut(mask) })
    }

    /// The largest factor with which the segment fits into `width` by `height`.
    pub fn fit(&self, width: f64, height: f64) -> f64 {
        (width / self.rgb.width as f64).min(height / self.rgb.height as f64)
    }

    /// Both resized (Pillow's bicubic) to `int(width f)` by `int(height f)`, at least one pixel.
    pub fn scaled(&self, factor: f64) -> Self {
        let side = |n: usize| ((n as f64 * factor) as usize).max(1);
        let (w, h) = (side(self.rgb.width), side(self.rgb.height));
        let resize = |p: &Picture| p.resize(w, h, Filter::Bicubic);
        Self { rgb: resize(&self.rgb), mask: resize(&self.mask) }
    }
}

/// `[x0, y0, x1, y1)` around the values above `threshold`.
pub fn tight_box(mask: &Picture, threshold: u8) -> Option<[usize; 4]> {
    let mut found: Option<[usize; 4]> = None;
    for (y, row) in mask.data.chunks_exact(mask.width.max(1)).enumerate() {
        let Some(first) = row.iter().position(|v| *v > threshold) else { continue };
        let last = row.iter().rposition(|v| *v > threshold).unwrap_or(first);
        let [x0, y0, x1, _] = found.unwrap_or([first, y, last + 1, y + 1]);
        found = Some([x0.min(first), y0, x1.max(last + 1), y + 1]);
    }
    found
}

/// A segment at its place on the canvas.
#[derive(Clone, Debug)]
pub struct Placed {
    /// At its final size.
    pub segment: Segment,
    /// Left column.
    pub x: usize,
    /// Top row.
    pub y: usize,
    /// Higher is nearer.
    pub z: usize,
}

/// What was pasted where, as it is logged.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pasted {
    /// The subject.
    pub id: String,
    /// The photo it came from.
    pub photo: String,
    /// The rectangle `[x0, y0, x1, y1)` in canvas pixels.
    #[serde(rename = "box")]
    pub rectangle: [usize; 4],
    /// Factor on the subject's own fit; absent where it was not mixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// `left` or `right`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side: Option<&'static str>,
    /// Higher is nearer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub z: Option<usize>,
}

/// Pastes the segments on white; where two masks are set the higher `z` wins. Returns picture and
/// union mask (0, 255).
pub fn compose(width: usize, height: usize, placed: &[&Placed]) -> (Picture, Picture) {
    let mut picture = Picture::filled(width, height, 3, 255);
    let mut union = Picture::filled(width, height, 1, 0);
    let mut order = placed.to_vec();
    order.sort_by_key(|p| p.z);
    for p in order {
        let s = &p.segment;
        for y in 0..s.rgb.height.min(height.saturating_sub(p.y)) {
            for x in 0..s.rgb.width.min(width.saturating_sub(p.x)) {
                if s.mask.at(x, y)[0] > PASTE_THRESHOLD {
                    picture.at_mut(p.x + x, p.y + y).copy_from_slice(s.rgb.at(x, y));
                    union.at_mut(p.x + x, p.y + y)[0] = 255;
                }
            }
        }
    }
    (picture, union)
}
