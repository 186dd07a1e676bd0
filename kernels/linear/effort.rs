//! What the launches of a product take, for a forecast.

use super::{
    problem::{Operands, Problem},
    tilings::Family,
};
use crate::device::{Effort, Engine};

/// How a product is cut for one launch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Instructions.
    pub family: Family,
    /// Rows and columns of a tile.
    pub tile: [usize; 2],
    /// Tiles of the result.
    pub tiles: usize,
    /// Blocks that share what one of them reads of the right operand.
    pub sharing: usize,
    /// Blocks that share a tile's sum.
    pub ranges: usize,
    /// Bytes of partial sums, written or read.
    pub parts: usize,
}

/// Bytes of the operands and the result of `p`, whose result has `columns`.
fn bytes(p: &Problem, o: &Operands, columns: usize) -> f64 {
    let once = |there: bool, len: usize| if there { len } else { 0 };
    let elements = p.m * p.k
        + p.n * p.k
        + (p.m + p.n) * p.rank
        + once(o.bias != 0, p.n)
        + once(o.residual != 0, p.m * columns)
        + p.m * columns
        + once(o.accumulate, p.m * columns);
    (elements * p.dtype.size_bytes()) as f64
}

impl Cut {
    /// What `p` takes when it is cut like this and `columns` come out.
    pub fn effort(&self, p: &Problem, o: &Operands, columns: usize) -> Effort {
        let engine = match self.family {
            Family::Simt => Engine::Ordinary,
            Family::Sm80 => Engine::Mma,
            Family::Sm90 | Family::Narrow => Engine::Wgmma,
        };
        let [rows, cols] = self.tile;
        let deep = (self.tiles * (p.k + p.rank)) as f64;
        let read = (rows + cols / self.sharing) * p.dtype.size_bytes();
        Effort {
            engine,
            flop: 2.0 * deep * (rows * cols) as f64,
            tiles: (self.tiles * self.ranges) as u64,
            reads: deep * read as f64,
            bytes: bytes(p, o, columns),
            parts: self.parts as f64,
            lead: None,
        }
    }
}

/// The sum of `ranges` partial results of `p`.
pub(super) fn reduction(p: &Problem, blocks: u64, ranges: usize) -> Effort {
    let out = p.m * p.n;
    Effort::pass(blocks, (out * p.dtype.size_bytes()) as f64, (4 * out * ranges) as f64)
}
