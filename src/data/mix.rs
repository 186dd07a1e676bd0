//! Seg-Mix and Cut-Mix: two subjects in one training picture (methods.md §1.4).
//!
//! Every pixel constant of the SDXL recipe is scaled with `resolution / 1024`: half width 512, fit
//! margin 32, side margin 256.

use super::{
    config::MethodConfig,
    segment::{Pasted, Placed, Segment, compose},
    subject::{Photo, Subject},
};
use crate::tensor::{
    image::{Filter, Picture},
    philox::Stream,
};

/// One side of a mix.
#[derive(Clone, Copy, Debug)]
pub struct Pick<'a> {
    /// Whose.
    pub subject: &'a Subject,
    /// Which photo.
    pub photo: &'a Photo,
    /// Its cut-out.
    pub segment: &'a Segment,
    /// Fixed factor on the fit; drawn when absent.
    pub scale: Option<f64>,
}

/// How pairs are placed.
#[derive(Clone, Copy, Debug)]
pub struct MixRule {
    /// Side of the square canvas, pixels.
    pub resolution: usize,
    /// Largest side margin, pixels; the smallest is 1.
    pub margin: usize,
    /// Range of drawn factors on the fit.
    pub scale: [f64; 2],
    /// Whether the rectangles may overlap.
    pub overlap: bool,
    /// One height for both (prior pictures) instead of one each.
    pub shared_y: bool,
}

impl MixRule {
    /// The rule of a configuration at `resolution`.
    pub fn new(method: &MethodConfig, resolution: usize) -> Self {
        let margin = (method.margin as f64 * resolution as f64 / 1024.0).round() as usize;
        Self {
            resolution,
            margin: margin.max(1),
            scale: [method.scale_min, method.scale_max],
            overlap: method.overlap,
            shared_y: false,
        }
    }

    /// Width and height a segment must fit into: `R/2 - R/32` by `R - R/32`.
    pub fn room(&self) -> (f64, f64) {
        let r = self.resolution as f64;
        (r / 2.0 - r / 32.0, r - r / 32.0)
    }

    /// The factor on the fit: the fixed one, or a draw.
    pub fn factor(&self, fixed: Option<f64>, random: &mut Stream) -> f64 {
        let u = f64::from(random.uniform());
        fixed.unwrap_or(self.scale[0] + (self.scale[1] - self.scale[0]) * u)
    }
}

/// A mixed picture with its union mask.
#[derive(Clone, Debug)]
pub struct Mix {
    /// RGB, white outside the mask.
    pub picture: Picture,
    /// Union of the masks, 0 or 255.
    pub mask: Picture,
    /// The item's own subject first.
    pub pasted: Vec<Pasted>,
}

/// Pastes `own` and `other` side by side (steps 4 to 8).
///
/// Drawn in this order: two factors, the side coin, two heights, two margins, the depth coin. The
/// depth coin is independent of the side coin; each subject's height is uniform over the canvas.
pub fn seg_mix(own: Pick<'_>, other: Pick<'_>, rule: &MixRule, random: &mut Stream) -> Mix {
    let r = rule.resolution;
    let room = rule.room();
    let factors = [rule.factor(own.scale, random), rule.factor(other.scale, random)];
    let parts = [own, other];
    let scaled = [0, 1]
        .map(|i: usize| parts[i].segment.scaled(parts[i].segment.fit(room.0, room.1) * factors[i]));
    let own_left = random.coin();
    let (left, right) = if own_left { (0, 1) } else { (1, 0) };
    let heights = [0, 1].map(|i: usize| scaled[i].rgb.height.min(r));
    let ys = if rule.shared_y {
        [random.between(0, r - heights[0].max(heights[1])); 2]
    } else {
        [0, 1].map(|i: usize| random.between(0, r - heights[i]))
    };
    let widths = [0, 1].map(|i: usize| scaled[i].rgb.width);
    // Pixels that both margins may take together before the rectangles touch.
    let slack = if rule.overlap { 2 * r } else { r.saturating_sub(widths[0] + widths[1]).max(2) };
    let near = random.between(1, rule.margin.min(slack - 1));
    let far = random.between(1, rule.margin.min(slack - near).max(1));
    let mut xs = [0; 2];
    xs[left] = near.min(r.saturating_sub(widths[left]));
    xs[right] = r.saturating_sub(far + widths[right]);
    let own_above = random.coin();
    let zs = [usize::from(own_above), usize::from(!own_above)];
    let placed = scaled.map(|segment| Placed { segment, x: 0, y: 0, z: 0 });
    let mut placed = placed;
    let mut pasted = Vec::with_capacity(2);
    for (i, p) in placed.iter_mut().enumerate() {
        (p.x, p.y, p.z) = (xs[i], ys[i], zs[i]);
        let side = if i == left { "left" } else { "right" };
        pasted.push(Pasted {
            id: parts[i].subject.id.clone(),
            photo: parts[i].photo.name.clone(),
            rectangle: [p.x, p.y, p.x + widths[i], p.y + p.segment.rgb.height],
            scale: Some(factors[i]),
            side: Some(side),
            z: Some(zs[i]),
        });
    }
    let (picture, mask) = compose(r, r, &[&placed[0], &placed[1]]);
    Mix { picture, mask, pasted }
}

/// The half pictures of `own` and `other` in random order, a hard seam in the middle; the mask is
/// everywhere.
pub fn cut_mix(own: [(&Subject, &Photo); 2], resolution: usize, random: &mut Stream) -> Mix {
    let (r, half) = (resolution, resolution / 2);
    let own_left = random.coin();
    let mut picture = Picture::filled(r, r, 3, 255);
    let mut pasted = Vec::with_capacity(2);
    for (i, (subject, photo)) in own.into_iter().enumerate() {
        let left = (i == 0) == own_left;
        let (x0, width) = if left { (0, half) } else { (half, r - half) };
        let whole = photo.rgb.shorter_side(r, Filter::Bilinear);
        let (dx, dy) = (whole.width as i64 - width as i64, whole.height as i64 - r as i64);
        let part = whole.crop(dx / 2, dy / 2, width, r);
        for y in 0..r {
            let to = (y * r + x0) * 3;
            let from = y * width * 3;
            picture.data[to..to + width * 3].copy_from_slice(&part.data[from..from + width * 3]);
        }
        pasted.push(Pasted {
            id: subject.id.clone(),
            photo: photo.name.clone(),
            rectangle: [x0, 0, x0 + width, r],
            scale: None,
            side: Some(if left { "left" } else { "right" }),
            z: None,
        });
    }
    Mix { picture, mask: Picture::filled(r, r, 1, 255), pasted }
}
