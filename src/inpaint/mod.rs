//! Photos without their subject: the hole that a mask leaves, a classical fill, and what is seen through the hole.

mod classical;
mod distance;

pub use classical::fill;

use crate::{
    error::{Error, Result},
    tensor::image::Picture,
};
use distance::squared_distance;
use std::path::Path;

/// What is taken out of a photo: the mask, and around it an edge that fades into the photo.
#[derive(Clone, Debug, PartialEq)]
pub struct Hole {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// How much of the fill is seen at a pixel: 1 on the mask, falling to 0 at the edge's outer side.
    pub cover: Vec<f32>,
}

/// Pixels that a mask of a picture of this size grows by: 1 % of the longer side, at least 2.
///
/// The outline of a subject is mixed with what is behind it; methods.md §2.2 asks for 5 to 15 pixels of photos about 1,024
/// wide.
pub fn default_grow(width: usize, height: usize) -> usize {
    (width.max(height) / 100).max(2)
}

impl Hole {
    /// The hole of a mask, values above 128, grown by `grow` pixels in every direction.
    ///
    /// # Errors
    /// [`Error::Data`] for a mask of another size than the photo, and for one that covers nothing or leaves nothing.
    pub fn new(photo: &Picture, mask: &Picture, grow: usize, name: &Path) -> Result<Self> {
        let (width, height) = (photo.width, photo.height);
        let wrong = |found: String, expected: String, fix: &str| Error::Data {
            at: name.display().to_string(),
            found,
            expected,
            fix: fix.into(),
        };
        if (mask.width, mask.height) != (width, height) {
            return Err(wrong(
                format!("a mask of {} x {}", mask.width, mask.height),
                format!("{width} x {height}, the photo's size"),
                "give the mask of this photo",
            ));
        }
        let inside: Vec<bool> = mask.gray().data.iter().map(|v| *v > 128).collect();
        if !inside.contains(&true) {
            let fix = "draw the subject in white, or make the mask with `selvedge segment`";
            return Err(wrong("a mask that covers nothing".into(), "a subject".into(), fix));
        }
        let away = squared_distance(&inside, width, height);
        let reach = (grow + 1) as f32;
        let cover: Vec<f32> =
            away.iter().map(|d| (1.0 - (d.sqrt() - 0.5).max(0.0) / reach).max(0.0)).collect();
        if cover.iter().all(|c| *c > 0.0) {
            return Err(wrong(
                "a mask that leaves nothing of the photo".into(),
                "something to see beside the subject".into(),
                "draw a smaller mask, or pass a smaller --grow",
            ));
        }
        Ok(Self { width, height, cover })
    }

    /// Whether the photo is not fully seen at each pixel.
    pub fn open(&self) -> impl Iterator<Item = bool> {
        self.cover.iter().map(|c| *c > 0.0)
    }

    /// Which cells of a latent `[h, w]` over the whole photo hold a pixel of the hole.
    pub fn cells(&self, [h, w]: [usize; 2]) -> Vec<bool> {
        let mut cells = vec![false; h * w];
        let of = |at: usize, side: usize, cells: usize| {
            let first = at * cells / side.max(1);
            let last = ((at + 1) * cells).div_ceil(side.max(1)).max(first + 1);
            first..last.min(cells)
        };
        for (at, _) in self.open().enumerate().filter(|(_, open)| *open) {
            let (x, y) = (at % self.width, at / self.width);
            for cy in of(y, self.height, h) {
                of(x, self.width, w).for_each(|cx| cells[cy * w + cx] = true);
            }
        }
        cells
    }

    /// The photo with `filled` seen through the hole; outside it every value is the photo's own.
    ///
    /// Both are RGB of the hole's size.
    pub fn seen_through(&self, photo: &Picture, filled: &Picture) -> Picture {
        let mut out = photo.clone();
        let pixels = out.data.chunks_exact_mut(3).zip(filled.data.chunks_exact(3));
        for ((to, from), cover) in pixels.zip(&self.cover) {
            for (to, from) in to.iter_mut().zip(from) {
                let mixed = f32::from(*from) * cover + f32::from(*to) * (1.0 - cover);
                if *cover > 0.0 {
                    *to = mixed.round().clamp(0.0, 255.0) as u8;
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cover_is_one_on_the_mask_fades_around_it_and_marks_every_cell_it_touches() {
        let photo = Picture::filled(40, 20, 3, 9);
        let mut mask = Picture::filled(40, 20, 1, 0);
        mask.at_mut(10, 10)[0] = 255;
        let hole = Hole::new(&photo, &mask, 3, Path::new("m")).unwrap();
        let at = |x: usize, y: usize| hole.cover[y * 40 + x];
        assert_eq!(at(10, 10), 1.0);
        assert!(at(11, 10) > at(12, 10) && at(12, 10) > at(13, 10) && at(13, 10) > 0.0);
        assert_eq!((at(15, 10), at(10, 15)), (0.0, 0.0));
        let cells = hole.cells([5, 10]);
        let open = |x: usize, y: usize| cells[y * 10 + x];
        assert!(open(1, 1) && open(2, 2) && open(3, 3) && !open(4, 2) && !open(0, 2));
        let all = Picture::filled(40, 20, 1, 255);
        assert!(Hole::new(&photo, &all, 3, Path::new("m")).is_err());
        assert!(Hole::new(&photo, &Picture::filled(40, 20, 1, 0), 3, Path::new("m")).is_err());
        assert!(Hole::new(&photo, &Picture::filled(20, 40, 1, 255), 3, Path::new("m")).is_err());
    }
}
