//! The compiled products of the experts, and which of them a shape gets: the one with the least predicted time.
//!
//! The prediction counts tiles, multiply-adds and bytes of a Hopper chip; it is a constant of the source. Not measured.

use crate::{
    device::{Effort, Engine, cubin_table::Target},
    kernels::variant::{Slot, Variant, by_dtype},
    tensor::{DType, Spec},
};

/// The argument struct of `experts.cuh`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Args {
    pub left: u64,
    pub right: u64,
    pub bias: u64,
    pub out: u64,
    pub offset: u64,
    pub experts: i32,
    pub n: i32,
    pub k: i32,
    pub accumulate: i32,
}

/// Which of the three products.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pass {
    Forward,
    Rows,
    Weight,
}

impl Pass {
    pub fn slot(self) -> &'static str {
        match self {
            Pass::Forward => "moe_experts.forward",
            Pass::Rows => "moe_experts.rows",
            Pass::Weight => "moe_experts.weight",
        }
    }

    /// The product of `rows: [R, K]` and `w: [E, N, K]` on a chip of `target`.
    pub fn problem(self, rows: &Spec, w: &Spec, target: Target) -> Problem {
        let (r, [e, n, k]) = (rows.dims[0], [w.dims[0], w.dims[1], w.dims[2]]);
        Problem { pass: self, dtype: rows.dtype, rows: r, experts: e, n, k, target }
    }
}

/// What a product is chosen by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem {
    pub pass: Pass,
    pub dtype: DType,
    /// Rows of all experts.
    pub rows: usize,
    pub experts: usize,
    pub n: usize,
    pub k: usize,
    /// What the chip's kernels were compiled for.
    pub target: Target,
}

/// One product an expert.
#[derive(Clone, Copy, Debug)]
struct Shape {
    products: usize,
    down: usize,
    across: usize,
    deep: f64,
}

impl Problem {
    /// Columns of the results.
    pub fn across(&self) -> usize {
        if self.pass == Pass::Forward { self.n } else { self.k }
    }

    /// The host does not know how many rows an expert has: all are taken to have their share.
    fn shape(&self) -> Shape {
        let taken = self.experts.min(self.rows).max(1);
        let (share, across) = (self.rows.div_ceil(taken), self.across());
        let deep = self.rows as f64 / taken as f64;
        match self.pass {
            Pass::Forward => Shape { products: taken, down: share, across, deep: self.k as f64 },
            Pass::Rows => Shape { products: taken, down: share, across, deep: self.n as f64 },
            Pass::Weight => Shape { products: self.experts, down: self.n, across, deep },
        }
    }
}

/// Kernels of every pass and 16-bit type, or the generic ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiling {
    name: &'static str,
    pub engine: Engine,
    rows: usize,
    cols: usize,
    /// Neighbouring blocks that share what one of them reads of the rows.
    pub sharing: usize,
    /// Share of the tensor cores' 2048 multiply-adds a clock that the main loop is assumed to reach.
    rate: f64,
    /// Until the first product, and after the last.
    edge_us: f64,
    /// By pass, then element type.
    symbols: [[&'static str; 3]; 3],
}

/// `moe_<pass>_<tile>_<type>` of the 16-bit types; of f32 there is one kernel a pass.
macro_rules! symbols {
    ($tile:literal) => {
        symbols!($tile, "forward", "rows", "weight")
    };
    ($tile:literal, $($pass:literal),*) => {
        [$([
            concat!("moe_", $pass, "_simt_f32"),
            concat!("moe_", $pass, "_", $tile, "_bf16"),
            concat!("moe_", $pass, "_", $tile, "_f16"),
        ]),*]
    };
}

const SIMT: Tiling = Tiling {
    name: "simt",
    engine: Engine::Ordinary,
    rows: 64,
    cols: 64,
    sharing: 1,
    rate: 0.04,
    edge_us: 2.5,
    symbols: symbols!("simt"),
};
const SMALL: Tiling = Tiling {
    name: "sm80_64",
    engine: Engine::Mma,
    rate: 0.45,
    symbols: symbols!("sm80_64"),
    ..SIMT
};
const LARGE: Tiling =
    Tiling { name: "sm80_128", rows: 128, cols: 128, symbols: symbols!("sm80_128"), ..SMALL };
const TENSOR: Tiling = Tiling {
    name: "sm90",
    engine: Engine::Wgmma,
    sharing: 2,
    rate: 0.89,
    edge_us: 3.6, // tensor maps, barriers, the cluster's start, the first slab; the last results
    symbols: symbols!("sm90"),
    ..LARGE
};
const TILINGS: [Tiling; 4] = [TENSOR, LARGE, SMALL, SIMT];

/// The kernels with this name.
pub(super) fn tiling(name: &str) -> Tiling {
    TILINGS.into_iter().find(|t| t.name == name).unwrap_or(SIMT)
}

/// Pieces of 16 bytes hold 8 elements.
fn mma(p: &Problem) -> bool {
    p.dtype != DType::F32 && p.n.is_multiple_of(8) && p.k.is_multiple_of(8)
}

/// No axis of a tensor map is empty.
fn wgmma(p: &Problem) -> bool {
    let filled = p.rows > 0 && p.experts > 0 && p.n > 0 && p.k > 0;
    mma(p) && filled && matches!(p.target, Target::Sm90a | Target::Host)
}

const BY_TENSOR: Variant<Problem> = Variant { name: TENSOR.name, applies: wgmma };
const BY_LARGE: Variant<Problem> = Variant { name: LARGE.name, applies: mma };
const BY_SMALL: Variant<Problem> = Variant { name: SMALL.name, applies: mma };
const BY_SIMT: Variant<Problem> = Variant { name: SIMT.name, applies: |_| true };

const TENSOR_FIRST: &[Variant<Problem>] = &[BY_TENSOR, BY_LARGE, BY_SMALL, BY_SIMT];
const LARGE_FIRST: &[Variant<Problem>] = &[BY_LARGE, BY_SMALL, BY_TENSOR, BY_SIMT];
const SMALL_FIRST: &[Variant<Problem>] = &[BY_SMALL, BY_LARGE, BY_TENSOR, BY_SIMT];

/// The one with the least predicted time first.
pub(super) fn variants(p: &Problem) -> &'static [Variant<Problem>] {
    let able = TILINGS.into_iter().filter(|t| t.name != TENSOR.name || wgmma(p));
    let first = able.min_by(|a, b| a.predicted_us(p).total_cmp(&b.predicted_us(p)));
    match first.map(|t| t.name) {
        Some("sm90") => TENSOR_FIRST,
        Some("sm80_128") => LARGE_FIRST,
        _ => SMALL_FIRST,
    }
}

/// What there is to choose from; which stands first depends on the extents.
pub(in super::super) fn slots() -> Vec<Slot> {
    let all = [Pass::Forward, Pass::Rows, Pass::Weight];
    all.map(|p| Slot::of(p.slot(), TENSOR_FIRST)).into()
}

/// Multiprocessors of the chip that times are predicted for.
const MULTIPROCESSORS: usize = 132;
/// Its clock under load, in clocks a microsecond.
const CLOCKS_US: f64 = 1550.0;
/// Multiply-adds of a multiprocessor's tensor cores in a clock, 16-bit operands.
const MULTIPLIES: f64 = 2048.0;
/// Bytes a multiprocessor gets from the second-level cache in a clock.
const PORT_BYTES: f64 = 38.0;

impl Tiling {
    pub fn symbol(&self, pass: Pass, dtype: DType) -> &'static str {
        by_dtype(dtype, self.symbols[pass as usize])
    }

    fn tiles(&self, p: &Problem) -> usize {
        let s = p.shape();
        let across = s.across.div_ceil(self.cols * self.sharing) * self.sharing;
        s.products * s.down.div_ceil(self.rows) * across
    }

    /// 16-bit elements that a tile reads for a step of the sum.
    fn read(&self) -> f64 {
        (self.rows / self.sharing + self.cols) as f64
    }

    /// A multiprocessor's tiles one after another, each as long as its products or its reads.
    fn predicted_us(&self, p: &Problem) -> f64 {
        let deep = p.shape().deep;
        let products = (self.rows * self.cols) as f64 * deep / (MULTIPLIES * self.rate);
        let reads = 2.0 * self.read() * deep / PORT_BYTES;
        let tiles = self.tiles(p).div_ceil(MULTIPROCESSORS) as f64;
        self.edge_us + tiles * products.max(reads) / CLOCKS_US
    }

    /// What `p` takes, of whose operands and results `bytes` are moved once.
    pub fn effort(&self, p: &Problem, bytes: f64) -> Effort {
        let tiles = self.tiles(p);
        let deep = tiles as f64 * p.shape().deep;
        Effort {
            engine: self.engine,
            flop: 2.0 * deep * (self.rows * self.cols) as f64,
            tiles: tiles as u64,
            reads: deep * self.read() * p.dtype.size_bytes() as f64,
            bytes,
            parts: 0.0,
            lead: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first variant of a layer `d -> d`.
    fn first(
        pass: Pass,
        dtype: DType,
        [rows, experts, d]: [usize; 3],
        target: Target,
    ) -> &'static str {
        let p = Problem { pass, dtype, rows, experts, n: d, k: d, target };
        variants(&p).iter().find(|v| (v.applies)(&p)).map_or("", |v| v.name)
    }

    #[test]
    fn a_texts_batch_goes_to_wgmma_and_one_text_to_small_tiles() {
        let of = |pass, shape| first(pass, DType::Bf16, shape, Target::Sm90a);
        for pass in [Pass::Forward, Pass::Rows, Pass::Weight] {
            for (tokens, d) in [(308, 768), (308, 1024), (308, 2048), (2464, 1024)] {
                assert_eq!(of(pass, [4 * tokens, 4, d]), "sm90", "{pass:?} {tokens} {d}");
            }
            assert_eq!(of(pass, [4 * 13, 4, 64]), "sm80_64");
        }
        assert_eq!(of(Pass::Forward, [4 * 77, 4, 768]), "sm80_64");
    }

    #[test]
    fn what_wgmma_does_not_serve_goes_to_the_others() {
        let shape = [1232, 4, 1024];
        let of = |dtype, shape, target| first(Pass::Forward, dtype, shape, target);
        assert!(of(DType::F16, shape, Target::Sm80).starts_with("sm80"));
        assert_eq!(of(DType::F32, shape, Target::Sm90a), "simt");
        assert_eq!(of(DType::Bf16, [1232, 4, 1020], Target::Sm90a), "simt");
        assert!(of(DType::Bf16, [0, 4, 1024], Target::Sm90a).starts_with("sm80"));
    }
}
