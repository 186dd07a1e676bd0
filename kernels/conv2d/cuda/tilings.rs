//! The Hopper tiles, and which one a pass gets: the one with the least predicted time.
//!
//! The prediction counts tiles, waves and bytes of an H200; it is a constant of the source, so that a
//! plan is the same on every device. Not measured.

use super::{
    super::shape::Shape,
    problem::{Pass, SLAB, int},
    taps::{Class, tile_of},
};
use crate::{
    device::{COUNTERS, Effort, Engine},
    error::Result,
    kernels::variant::by_dtype,
    tensor::DType,
};

/// Multiprocessors of the chip that times are predicted for.
const MULTIPROCESSORS: usize = 132;
/// Its clock under load, in MHz.
const CLOCK_MHZ: f64 = 1550.0;
/// What a tile costs besides its main loop: filling the pipeline, writing the results.
const EDGE_US: f64 = 1.5;
/// Multiply-adds of a multiprocessor's tensor cores in a clock.
const MULTIPLIES: usize = 2048;
/// Bytes that its shared memory reads or writes in a clock.
const SHARED_BYTES: usize = 128;
/// Its share of what the second-level cache delivers, bytes in a clock.
const CACHE_BYTES: f64 = 38.0;
/// Bytes of a row of a slab.
const ROW_BYTES: usize = SLAB * 2;
/// Blocks of a cluster.
pub(super) const CLUSTER: usize = 2;
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
    /// Symbols by pass, then element type; empty where there is none.
    symbols: [[&'static str; 3]; 3],
}

/// The tiles, largest first.
pub(super) const TILINGS: [Tiling; 3] = [
    Tiling {
        name: "sm90_256x160",
        rows: 256,
        columns: 160,
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
    pass: Pass,
    /// Tiles; those of a cluster count as one, along the rows (weight gradient: along the columns).
    tiles_m: usize,
    tiles_n: usize,
    slabs: usize,
    splits: usize,
}

impl Work {
    fn new(pass: Pass, tiles: [usize; 2], slabs: usize, t: &Tiling) -> Self {
        let [tiles_m, tiles_n] = match pass {
            Pass::Weight => [tiles[0], tiles[1].div_ceil(CLUSTER)],
            _ => [tiles[0].div_ceil(CLUSTER), tiles[1]],
        };
        let one = Self { pass, tiles_m, tiles_n, slabs, splits: 1 };
        let countable = one.tiles().saturating_mul(CONSUMERS) <= COUNTERS;
        let most = if countable { (slabs / SHORTEST_RANGE).max(1) } else { 1 };
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
        Self::new(pass, tiles, class.taps.len() * (depth / SLAB), t)
    }

    /// The weight gradient.
    pub fn weight(s: &Shape, t: &Tiling) -> Self {
        let (h, w) = (s.oh / s.zoom(), s.ow / s.zoom());
        let [tile_w, tile_h] = tile_of(SLAB, h, w);
        let slabs = s.images * h.div_ceil(tile_h) * w.div_ceil(tile_w) * s.zoom() * s.zoom();
        let tiles = [s.o.div_ceil(t.rows), (s.taps() * s.c).div_ceil(t.columns)];
        Self::new(Pass::Weight, tiles, slabs, t)
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
        CLUSTER * self.tiles_m * self.tiles_n
    }

    /// Words that ranges of a sum are counted in, one for each consumer's half of a tile.
    pub fn counters(&self) -> usize {
        if self.splits == 1 { 0 } else { self.tiles() * CONSUMERS }
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

    /// Rows of a slab that a block reads itself: a cluster shares one operand.
    fn own_rows(&self, pass: Pass) -> usize {
        match pass {
            Pass::Weight => self.rows / CLUSTER + self.columns, // dy is multicast
            _ => self.rows + self.columns / CLUSTER,            // the weights are
        }
    }

    /// What a launch takes, for a forecast; `bytes` of operands and results.
    pub fn effort(&self, w: &Work, bytes: f64) -> Effort {
        let slabs = (w.tiles() * w.slabs) as f64;
        Effort {
            engine: Engine::Wgmma,
            flop: 2.0 * slabs * (self.rows * self.columns * SLAB) as f64,
            tiles: (w.tiles() * w.splits) as u64,
            reads: slabs * (self.own_rows(w.pass) * ROW_BYTES) as f64,
            bytes,
            parts: 2.0 * self.parts_bytes(w) as f64, // written and read once
            lead: None,
        }
    }

    /// Clocks of a slab: what the tensor cores, shared memory (the copies' writes, wgmma's reads) and the
    /// second-level cache need for it; the longest hides the others.
    fn clocks(&self, pass: Pass) -> f64 {
        let (rows, columns) = (self.rows, self.columns);
        let tensor = rows * columns * SLAB / MULTIPLIES;
        let shared_rows = (rows + columns) + (rows + rows / 64 * columns); // written, read
        let shared = shared_rows * ROW_BYTES / SHARED_BYTES;
        let cache = (self.own_rows(pass) * ROW_BYTES) as f64 / CACHE_BYTES;
        cache.max(tensor.max(shared) as f64)
    }

    fn predicted_us(&self, w: &Work) -> f64 {
        let waves = (w.tiles() * w.splits).div_ceil(MULTIPROCESSORS) as f64;
        let slabs = w.slabs.div_ceil(w.splits) as f64;
        let block_us = slabs * self.clocks(w.pass) / CLOCK_MHZ + EDGE_US;
        let parts = 2.0 * self.parts_bytes(w) as f64; // written and read once
        waves * block_us + parts / PARTS_BYTES_US
    }

    /// Bytes of partial sums.
    pub fn parts_bytes(&self, w: &Work) -> usize {
        (w.splits - 1) * w.tiles() * self.rows * self.columns * 4
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
        self.works(pass, s).iter().map(|w| self.parts_bytes(w)).max().unwrap_or(0)
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

    /// The clocks that the notes' tables are made of.
    #[test]
    fn a_slab_is_bound_by_the_slowest_of_three() {
        let clocks = |name: &str, pass| named(name).unwrap().clocks(pass).round();
        assert_eq!(clocks("sm90_256x160", Pass::Forward), 1312.0); // shared memory
        assert_eq!(clocks("sm90_256x128", Pass::Data), 1152.0);
        assert_eq!(clocks("sm90_128x160", Pass::Forward), 736.0);
        assert_eq!(clocks("sm90_128x160", Pass::Weight), 755.0); // the second-level cache
        assert_eq!(clocks("sm90_256x160", Pass::Weight), 1312.0);
    }

    #[test]
    fn the_chosen_tile_is_the_one_with_the_least_predicted_time() {
        for s in [same(2, 128, 320, 320), same(2, 64, 640, 640), same(2, 32, 1280, 1280)] {
            for pass in [Pass::Forward, Pass::Data, Pass::Weight] {
                let us = |t: &Tiling| -> f64 {
                    t.works(pass, &s).iter().map(|w| t.predicted_us(w)).sum()
                };
                let chosen = us(best(pass, &s).unwrap());
                assert!(serving(pass).all(|t| chosen <= us(t)), "{pass:?}");
            }
        }
        let chosen = |s: Shape| best(Pass::Weight, &s).unwrap().name;
        assert_eq!(chosen(same(2, 128, 320, 320)), "sm90_128x160"); // 320 rows: three tiles, not four
        assert_eq!(chosen(same(2, 32, 1280, 1280)), "sm90_256x160");
    }

    #[test]
    fn a_sum_with_more_tiles_than_counters_is_not_cut() {
        let t = named("sm90_128x160").unwrap();
        for tiles in [1usize, 64, 20_000] {
            let w = Work::new(Pass::Forward, [tiles, 1], 1000, t);
            assert!(w.counters() <= COUNTERS && (tiles < 20_000 || w.splits == 1), "{w:?}");
        }
    }

    #[test]
    fn one_range_needs_no_scratch() {
        let s = same(2, 128, 320, 320);
        let t = named("sm90_256x160").unwrap();
        assert_eq!(t.scratch(Pass::Forward, &s), 0);
        assert!(scratch_bytes(Pass::Data, &same(1, 32, 2560, 1280)) > 0);
    }
}
