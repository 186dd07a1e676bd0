//! A convolution as lists of taps for the Hopper kernels: which shift of which view each kernel
//! position is, for every class of result pixels. `taps_sm90.cuh` walks these lists.

use super::super::shape::Shape;
use crate::{device::TensorMapSpec, tensor::DType};

/// Most taps of one launch: 3x3 for each of the four copies of an enlarged pixel.
pub(super) const MAX_TAPS: usize = 36;

/// One tap, as the kernel has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Tap {
    /// First channel in the source's view.
    pub channel: i32,
    /// Shift along a row, in the view's pixels.
    pub dx: i16,
    /// Shift along a column.
    pub dy: i16,
    /// Row parity in the view.
    pub plane: i16,
    /// Kernel position `u * kw + v`.
    pub kernel: i16,
}

/// Result pixels of one row parity and column parity (of all rows and columns where `every` is 1), and
/// the taps that reach them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Class {
    /// 1, or 2 where a launch writes every second row and column.
    pub every: usize,
    /// First row and column.
    pub first: [usize; 2],
    /// The gathered taps.
    pub taps: Vec<Tap>,
}

/// Extents of an NHWC tensor.
pub(super) type Extents = [usize; 4];

/// A signed number that the kernel has 16 bits for; the variants' conditions keep it there.
fn short(n: i64) -> i16 {
    i16::try_from(n).unwrap_or(i16::MAX)
}

/// The tap at (`y`, `x`) source pixels from a result pixel of a view with `parity` planes.
fn tap(y: i64, x: i64, parity: usize, channels: usize, kernel: usize) -> Tap {
    let p = parity as i64;
    let channel = x.rem_euclid(p) * channels as i64;
    Tap {
        channel: i32::try_from(channel).unwrap_or(i32::MAX),
        dx: short(x.div_euclid(p)),
        dy: short(y.div_euclid(p)),
        plane: short(y.rem_euclid(p)),
        kernel: short(kernel as i64),
    }
}

impl Shape {
    /// How many parity planes forward sees the image as having along each axis.
    pub(super) fn image_parity(&self) -> usize {
        self.stride
    }

    /// As [`Shape::image_parity`] of the output gradient in the data gradient.
    pub(super) fn output_parity(&self) -> usize {
        self.zoom()
    }

    /// Every kernel position.
    fn positions(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        (0..self.kh).flat_map(move |u| (0..self.kw).map(move |v| (u, v)))
    }

    /// Taps over the image: one class, or four where the image is enlarged.
    pub(super) fn forward_classes(&self) -> Vec<Class> {
        let (top, left) = (self.top as i64, self.left as i64);
        let zoom = self.zoom();
        let of = |(p, q): (usize, usize)| {
            let one = |(u, v): (usize, usize)| {
                let (y, x) = ((p + u) as i64 - top, (q + v) as i64 - left);
                let kernel = u * self.kw + v;
                match self.upsample {
                    true => tap(y.div_euclid(2), x.div_euclid(2), 1, self.c, kernel),
                    false => tap(y, x, self.stride, self.c, kernel),
                }
            };
            Class { every: zoom, first: [p, q], taps: self.positions().map(one).collect() }
        };
        (0..zoom).flat_map(|p| (0..zoom).map(move |q| (p, q))).map(of).collect()
    }

    /// Taps over the output gradient: a class for each parity of the stride; all four copies of an
    /// enlarged pixel in one.
    pub(super) fn data_classes(&self) -> Vec<Class> {
        let (top, left) = (self.top as i64, self.left as i64);
        if self.upsample {
            let copies = (0..2).flat_map(|e| (0..2).map(move |f| (e, f)));
            let one = |(e, f): (i64, i64), (u, v): (usize, usize)| {
                let kernel = u * self.kw + v;
                tap(e + top - u as i64, f + left - v as i64, 2, self.o, kernel)
            };
            let taps = copies.flat_map(|ef| self.positions().map(move |uv| one(ef, uv))).collect();
            return vec![Class { every: 1, first: [0, 0], taps }];
        }
        let s = self.stride as i64;
        let of = |(p, q): (i64, i64)| {
            let meets = |(u, v): &(usize, usize)| {
                (p + top - *u as i64).rem_euclid(s) == 0
                    && (q + left - *v as i64).rem_euclid(s) == 0
            };
            let one = |(u, v): (usize, usize)| {
                let (y, x) = ((p + top - u as i64) / s, (q + left - v as i64) / s);
                tap(y, x, 1, self.o, u * self.kw + v)
            };
            let taps = self.positions().filter(meets).map(one).collect();
            Class { every: self.stride, first: [p as usize, q as usize], taps }
        };
        (0..s).flat_map(|p| (0..s).map(move |q| (p, q))).map(of).collect()
    }
}

/// Which pixels of an NHWC tensor a map sees.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pixels {
    /// All of them, as (C parity, W / parity, parity, H / parity, N).
    Planes(usize),
    /// Every so many-th row and column from a first one, as (C, W / every, 1, H / every, N).
    Class {
        /// The distance.
        every: usize,
        /// The first.
        first: [usize; 2],
    },
}

/// The map of `pixels` of a tensor, with boxes of (channels, pixels along a row, rows).
pub(super) fn map_of(
    (what, address, dtype): (&'static str, u64, DType),
    [n, h, w, c]: Extents,
    pixels: Pixels,
    [channels, across, rows]: [usize; 3],
    swizzle: usize,
) -> TensorMapSpec {
    let bytes = |elements: usize| (elements * dtype.size_bytes()) as u64;
    let (every, planes, address) = match pixels {
        Pixels::Planes(parity) => (parity, parity, address),
        Pixels::Class { every, first: [y, x] } => (every, 1, address + bytes((y * w + x) * c)),
    };
    let row = bytes(w * c);
    let extent = |n: usize| n as u64;
    let block = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    TensorMapSpec {
        what,
        address,
        dtype,
        dims: [planes * c, w / every, planes, h / every, n].map(extent).to_vec(),
        strides: vec![bytes(every * c), row, row * every as u64, row * h as u64],
        block: [channels, across, 1, rows, 1].map(block).to_vec(),
        swizzle: block(swizzle),
    }
}

/// How `area` pixels of a tile lie in images of `h` x `w`: the one with the fewest tiles, and of those
/// the most square. A tile is 8 pixels wide or a larger power of two, and at least two rows if it is 8.
pub(super) fn tile_of(area: usize, h: usize, w: usize) -> [usize; 2] {
    let widths = (3..=8).map(|log| 1usize << log).filter(|width| area / width >= 1);
    let cost = |width: &usize| {
        let (across, rows) = (*width, area / width);
        (w.div_ceil(across) * h.div_ceil(rows), across.abs_diff(rows))
    };
    let width = widths.min_by_key(cost).unwrap_or(8);
    [width, area / width]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(stride: usize, upsample: bool) -> Shape {
        let out = if upsample { 16 } else { 8 / stride };
        let (images, h, w, c, kh, kw, oh, ow, o) = (1, 8, 8, 64, 3, 3, out, out, 72);
        Shape { images, h, w, c, kh, kw, oh, ow, o, stride, top: 1, left: 1, upsample }
    }

    #[test]
    fn the_classes_of_a_gradient_share_out_the_taps() {
        let counts = |s: Shape| s.data_classes().iter().map(|c| c.taps.len()).collect::<Vec<_>>();
        assert_eq!(counts(shape(1, false)), [9]);
        assert_eq!(counts(shape(2, false)), [1, 2, 2, 4]);
        assert_eq!(counts(shape(1, true)), [36]);
    }

    #[test]
    fn a_stride_of_two_is_a_parity_plane_and_a_shift() {
        let s = shape(2, false);
        let taps = &s.forward_classes()[0].taps;
        assert_eq!(taps[0], Tap { channel: 64, dx: -1, dy: -1, plane: 1, kernel: 0 });
        assert_eq!(taps[4], Tap { channel: 0, dx: 0, dy: 0, plane: 0, kernel: 4 });
        assert_eq!(taps[8], Tap { channel: 64, dx: 0, dy: 0, plane: 1, kernel: 8 });
    }

    #[test]
    fn tiles_fit_the_image() {
        assert_eq!(tile_of(256, 128, 128), [16, 16]);
        assert_eq!(tile_of(128, 38, 26), [16, 8]);
        assert_eq!(tile_of(64, 1, 4096), [64, 1]);
        for area in [64, 128, 256] {
            let [width, rows] = tile_of(area, 5, 7);
            assert!(width >= 8 && width * rows == area && (width > 8 || rows >= 2));
        }
    }
}
