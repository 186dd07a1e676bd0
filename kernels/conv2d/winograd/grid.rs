//! A convolution cut into tiles of two by two outputs.

use super::super::shape::Shape;
use crate::device::cpu::packed_len;
use std::ops::Range;

/// Positions of a transformed tile.
pub const POSITIONS: usize = 16;
/// Pixels of a tile of the image, along each axis.
pub const SIDE: usize = 4;
/// Elements between the ends and beginnings of neighbouring positions: without them all sixteen would meet in one set
/// of the first-level cache.
pub const GAP: usize = 16;

/// One convolution, or data gradient of one.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Pictures.
    pub images: usize,
    /// Height, width, channels of what is read.
    pub source: [usize; 3],
    /// How many times each pixel of it is repeated along each axis.
    pub zoom: usize,
    /// Zeros above and left of it.
    pub pad: [usize; 2],
    /// Height, width, channels of the convolution's result.
    pub result: [usize; 3],
    /// Whether the four values of a tile are summed into one pixel: the gradient of an enlarged image.
    pub fold: bool,
}

impl Grid {
    /// Of the forward pass.
    pub fn forward(s: &Shape) -> Self {
        Self {
            images: s.images,
            source: [s.h, s.w, s.c],
            zoom: s.zoom(),
            pad: [s.top, s.left],
            result: [s.oh, s.ow, s.o],
            fold: false,
        }
    }

    /// Of the image's gradient: the convolution of `dy` with the mirrored kernel. The padding is at most 2.
    pub fn data_gradient(s: &Shape) -> Self {
        Self {
            images: s.images,
            source: [s.oh, s.ow, s.o],
            zoom: 1,
            pad: [2_usize.saturating_sub(s.top), 2_usize.saturating_sub(s.left)],
            result: [s.h * s.zoom(), s.w * s.zoom(), s.c],
            fold: s.upsample,
        }
    }

    /// Rows of tiles of all pictures.
    pub fn rows(&self) -> usize {
        self.images * self.result[0].div_ceil(2)
    }

    /// Tiles of a row.
    pub fn across(&self) -> usize {
        self.result[1].div_ceil(2)
    }

    /// All tiles.
    pub fn tiles(&self) -> usize {
        self.rows() * self.across()
    }

    /// Channels of what is read.
    pub fn inputs(&self) -> usize {
        self.source[2]
    }

    /// Channels of the result.
    pub fn outputs(&self) -> usize {
        self.result[2]
    }

    /// Rows of the destination that hold rows of tiles.
    pub fn height(&self, rows: Range<usize>) -> usize {
        let one = |row: usize| {
            let left = self.result[0] - 2 * (row % self.result[0].div_ceil(2));
            if self.fold { 1 } else { left.min(2) }
        };
        rows.map(one).sum()
    }

    /// Pixels of a row of the destination.
    pub fn width(&self) -> usize {
        if self.fold { self.across() } else { self.result[1] }
    }

    /// The destination's part of `step` rows of tiles after the other.
    pub fn strips<'a>(
        &self,
        out: &'a mut [f32],
        step: usize,
    ) -> impl Iterator<Item = (Range<usize>, &'a mut [f32])> + Send {
        let (this, mut rest) = (*self, out);
        (0..this.rows()).step_by(step).map(move |first| {
            let rows = first..this.rows().min(first + step);
            let len = this.height(rows.clone()) * this.width() * this.outputs();
            let (own, after) = std::mem::take(&mut rest).split_at_mut(len);
            rest = after;
            (rows, own)
        })
    }

    /// Multiplications and additions between the transforms.
    pub fn flop(&self) -> f64 {
        let pairs = self.inputs() as f64 * self.outputs() as f64;
        2.0 * (self.tiles() * POSITIONS) as f64 * pairs
    }
}

/// Elements of all positions of `tiles` tiles of `width` channels.
pub fn positions(tiles: usize, width: usize) -> usize {
    position(tiles, width).saturating_mul(POSITIONS)
}

/// Elements from one position to the next.
pub fn position(tiles: usize, width: usize) -> usize {
    tiles.saturating_mul(width).saturating_add(GAP)
}

/// Elements of a transformed kernel.
pub fn kernel_len(inputs: usize, outputs: usize) -> usize {
    packed_len(inputs, outputs).saturating_mul(POSITIONS)
}
