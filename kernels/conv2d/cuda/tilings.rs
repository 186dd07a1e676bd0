//! The Hopper tiles, and which one a pass gets: the one with the least predicted time.
//!
//! The prediction counts tiles, waves and bytes of an H200; it is a constant of the source, so that a
//! plan is the same on every device. Not measured.

use super::{
    super::Shape,
    Pass, int,
    sm90::SLAB,
    taps::{Class, tile_of},
};
use crate::{error::Result, kernels::variant::by_dtype, tensor::DType};

/// Multiprocessors of the chip that times are predicted for.
const MULTIPROCESSORS: usize = 132;
/// Its clock under load, in MHz.
const CLOCK_MHZ: f64 = 1550.0;
/// What a tile costs besides its main loop: filling the pipeline, writing the results.
const EDGE_US: f64 = 1.5;
/// Setting the counters of a joined sum to zero.
const FILL_US: f64 = 1.5;
/// Partial sums stay in L2 more often than not; bytes a microsecond.
const PARTS_BYTES_US: f64 = 3.0e6;
/// Fewest slabs that are worth a range of their own.
const SHORTEST_RANGE: usize = 8;
const RANGES: [usize; 6] = [1, 2, 3, 4, 6, 8];
/// Rows of the units counted together by the pipeline's consumers.
const CONSUMERS: usize = 2;

/// One tile of the pipeline in all its passes.
#[derive(Debug)]
pub(super) struct Tiling {
    /// The variant's name.
    pub name: &'static str,
    rows: usize,
    columns: usize,
    /// Clocks of a slab: the larger of the tensor cores' and shared memory's, see NOTES.md.
    clocks: f64,
    /// Symbols by pass, then element type; empty where there is none.
    symbols: [[&'static str; 3]; 3],
}

/// The tiles, largest first.
pub(super) const TILINGS: [Tiling; 3] = [
    Tiling {
        name: "sm90_256x160",
        rows: 256,
        columns: 160,
        clocks: 1312.0,
        symbols: [
            ["", "conv2d_forward_sm90_256x160_bf16", "conv2d_forward_sm90_256x160_f16"],
            ["", "conv2d_data_sm90_256x160_bf16", "conv2d_data_sm90_256x160_f16"],
            ["", "conv2d_weight_sm90_256x160_bf16", "conv2d_weight_sm90_256x160_f16"],
        ],
    },
    Tiling {
        name: "sm90_256x128",
        rows: 256,
        columns: 128,
        clocks: 1152.0,
        symbols: [
            ["", "conv2d_forward_sm90_256x128_bf16", "conv2d_forward_sm90_256x128_f16"],
            ["", "conv2d_data_sm90_256x128_bf16", "conv2d_data_sm90_256x128_f16"],
            [""; 3],
        ],
    },
    Tiling {
        name: "sm90_128x160",
        rows: 128,
        columns: 160,
        clocks: 736.0,
        symbols: [
            ["", "conv2d_forward_sm90_128x160_bf16", "conv2d_forward_sm90_128x160_f16"],
            ["", "conv2d_data_sm90_128x160_bf16", "conv2d_data_sm90_128x160_f16"],
            ["", "conv2d_weight_sm90_128x160_bf16", "conv2d_weight_sm90_128x160_f16"],
        ],
    },
];

/// What one launch computes: tiles, slabs of each, ranges the slabs are cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Work {
    /// Blocks that share weights.
    cluster: usize,
    /// Rows of clusters of tiles.
    tiles_m: usize,
    tiles_n: usize,
    slabs: usize,
    splits: usize,
}

impl Work {
    fn new(cluster: usize, tiles: [usize; 2], slabs: usize, t: &Tiling) -> Self {
        let tiles_m = tiles[0].div_ceil(cluster);
        let one = Self { cluster, tiles_m, tiles_n: tiles[1], slabs, splits: 1 };
        let most = (slabs / SHORTEST_RANGE).max(1);
        let all = RANGES.iter().filter(|r| **r <= most).map(|r| Self { splits: *r, ..one });
        all.min_by(|a, b| t.predicted_us(a).total_cmp(&t.predicted_us(b))).unwrap_or(one)
    }

    /// One class of a forward pass or data gradient.
    pub fn gathering(pass: Pass, s: &Shape, class: &Class, t: &Tiling) -> Self {
        let (h, w, columns, depth) = match pass {
            Pass::Forward => (s.oh, s.ow, s.o, s.c),
            _ => (s.h, s.w, s.c, s.o),
        };
        let (h, w) = (h / class.every, w / class.every);
        let [tile_w, tile_h] = tile_of(t.rows, h, w);
        let pixels = s.images * h.div_ceil(tile_h) * w.div_ceil(tile_w);
        let tiles = [pixels, columns.div_ceil(t.columns)];
        Self::new(2, tiles, class.taps.len() * (depth / SLAB), t)
    }

    /// The weight gradient.
    pub fn weight(s: &Shape, t: &Tiling) -> Self {
        let (h, w) = (s.oh / s.zoom(), s.ow / s.zoom());
        let [tile_w, tile_h] = tile_of(SLAB, h, w);
        let slabs = s.images * h.div_ceil(tile_h) * w.div_ceil(tile_w) * s.zoom() * s.zoom();
        let tiles = [s.o.div_ceil(t.rows), (s.taps() * s.c).div_ceil(t.columns)];
        Self::new(1, tiles, slabs, t)
    }

    /// Units of the persistent grid.
    pub fn units(&self) -> usize {
        self.tiles_m * self.tiles_n * self.splits
    }

    /// As the kernel has it.
    pub fn raster(&self) -> Result<[i32; 3]> {
        int(self.slabs.saturating_mul(self.splits))?;
        int(self.units())?;
        Ok([int(self.tiles_m)?, int(self.tiles_n)?, int(self.splits)?])
    }

    fn tiles(&self) -> usize {
        self.cluster * self.tiles_m * self.tiles_n
    }
}

impl Tiling {
    /// The kernel of a pass; empty where there is none.
    pub fn symbol(&self, pass: Pass, dtype: DType) -> &'static str {
        by_dtype(dtype, self.symbols[pass as usize])
    }

    /// Columns of an atom of an MN-major operand, and of a box of results.
    pub fn atom(&self) -> usize {
        if self.columns.is_multiple_of(64) { 64 } else { 32 }
    }

    /// Columns of a box of results.
    pub fn chunk(&self) -> usize {
        self.atom()
    }

    fn predicted_us(&self, w: &Work) -> f64 {
        let waves = (w.tiles() * w.splits).div_ceil(MULTIPROCESSORS) as f64;
        let slabs = w.slabs.div_ceil(w.splits) as f64;
        let block_us = slabs * self.clocks / CLOCK_MHZ + EDGE_US;
        let parts = 2.0 * self.parts_bytes(w) as f64; // written and read once
        let join_us = if w.splits == 1 { 0.0 } else { FILL_US + parts / PARTS_BYTES_US };
        waves * block_us + join_us
    }

    /// Bytes of partial sums.
    pub fn parts_bytes(&self, w: &Work) -> usize {
        (w.splits - 1) * w.tiles() * self.rows * self.columns * 4
    }

    /// Bytes of counters, one word for each consumer's half of a tile.
    pub fn counter_bytes(&self, w: &Work) -> usize {
        if w.splits == 1 { 0 } else { w.tiles() * CONSUMERS * 4 }
    }

    /// The launches of a pass.
    fn works(&self, pass: Pass, s: &Shape) -> Vec<Work> {
        let classes = match pass {
            Pass::Forward => s.forward_classes(),
            Pass::Data => s.data_classes(),
            Pass::Weight => return vec![Work::weight(s, self)],
        };
        classes.iter().map(|c| Work::gathering(pass, s, c, self)).collect()
    }

    /// Scratch of a pass.
    fn scratch(&self, pass: Pass, s: &Shape) -> usize {
        let each = |w: &Work| self.parts_bytes(w) + self.counter_bytes(w);
        self.works(pass, s).iter().map(each).max().unwrap_or(0)
    }
}

fn serving(pass: Pass) -> impl Iterator<Item = &'static Tiling> {
    TILINGS.iter().filter(move |t| !t.symbol(pass, DType::Bf16).is_empty())
}

/// Most scratch of a pass by any of the tiles, so that a forced one finds room too.
pub(super) fn scratch_bytes(pass: Pass, s: &Shape) -> usize {
    serving(pass).map(|t| t.scratch(pass, s)).max().unwrap_or(0)
}

/// The tile of a variant's name.
pub(super) fn named(name: &str) -> Option<&'static Tiling> {
    TILINGS.iter().find(|t| t.name == name)
}

/// The tile with the least predicted time.
pub(super) fn best(pass: Pass, s: &Shape) -> Option<&'static Tiling> {
    let us = |t: &Tiling| t.works(pass, s).iter().map(|w| t.predicted_us(w)).sum::<f64>();
    serving(pass).min_by(|a, b| us(a).total_cmp(&us(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(images: usize, side: usize, c: usize, o: usize) -> Shape {
        let (h, w, kh, kw, stride, top, left) = (side, side, 3, 3, 1, 1, 1);
        let upsample = false;
        Shape { images, h, w, c, kh, kw, oh: h, ow: w, o, stride, top, left, upsample }
    }

    #[test]
    fn the_tile_table_of_sdxl() {
        let chosen = |s: Shape| {
            let t = best(Pass::Forward, &s).unwrap();
            (t.name, t.works(Pass::Forward, &s)[0].splits)
        };
        assert_eq!(chosen(same(2, 128, 320, 320)), ("sm90_256x160", 1));
        assert_eq!(chosen(same(2, 64, 640, 640)), ("sm90_256x160", 1));
        assert_eq!(chosen(same(2, 32, 1280, 1280)), ("sm90_256x160", 2));
        assert_eq!(chosen(same(1, 512, 256, 256)).0, "sm90_256x128");
    }

    #[test]
    fn one_range_needs_no_scratch() {
        let s = same(2, 128, 320, 320);
        let t = named("sm90_256x160").unwrap();
        assert_eq!(t.scratch(Pass::Forward, &s), 0);
        assert!(scratch_bytes(Pass::Data, &same(1, 32, 2560, 1280)) > 0);
    }
}
