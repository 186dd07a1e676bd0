//! What the launches of attention take, for a forecast.

use super::Problem;
use crate::device::{Effort, Engine, Touched, touched_bytes};

/// Blocks of `rows` rows each that walk over all rows of the other side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    /// What multiplies.
    pub engine: Engine,
    /// Rows of a block.
    pub rows: usize,
    /// Blocks for each head of each sample; ranges of the other side count as blocks.
    pub blocks: usize,
    /// Rows that a block walks over, padded.
    pub over: usize,
    /// Channels of a product over the head, padded.
    pub depth: usize,
    /// Products of a pair of rows.
    pub products: usize,
    /// Tensors of its own side that a block reads or writes; of the other side it reads two.
    pub own: usize,
    /// Bytes of f32 sums of the other side that every block adds to, in the second-level cache.
    pub sums: usize,
}

impl Walk {
    /// What it takes for the heads of `p`.
    pub fn effort(&self, p: &Problem, touches: &[Touched]) -> Effort {
        let blocks = p.samples * p.heads * self.blocks;
        let pairs = (blocks * self.rows * self.over) as f64;
        let rows = (blocks * (2 * self.over + self.own * self.rows)) as f64;
        // an addition reads and writes; `sums` are of all heads
        let added = (2 * self.blocks * self.sums) as f64;
        Effort {
            engine: self.engine,
            flop: 2.0 * pairs * (self.products * self.depth) as f64,
            tiles: blocks as u64,
            reads: rows * (p.head_dim * p.dtype.size_bytes()) as f64 + added,
            bytes: touched_bytes(touches),
            parts: 0.0,
            lead: None,
        }
    }

    /// Forward: the scores and their product with the values.
    pub fn forward(engine: Engine, p: &Problem, rows: usize, [keys, depth]: [usize; 2]) -> Self {
        let (blocks, over) = (p.len_q.div_ceil(rows), p.len_k.next_multiple_of(keys.max(1)));
        Self { engine, rows, blocks, over, depth, products: 2, own: 2, sums: 0 }
    }

    /// The gradient of the queries: scores, gradient of the weights, product with the keys.
    pub fn queries(engine: Engine, p: &Problem, rows: usize, depth: usize) -> Self {
        let (blocks, over) = (p.len_q.div_ceil(rows), p.len_k.next_multiple_of(rows));
        Self { engine, rows, blocks, over, depth, products: 3, own: 3, sums: 0 }
    }

    /// The gradients of keys and values: scores, gradient of the weights, one product for each.
    pub fn keys(engine: Engine, p: &Problem, rows: usize, [splits, depth]: [usize; 2]) -> Self {
        let over = p.len_q.next_multiple_of(rows).div_ceil(splits.max(1));
        let products = 2 + usize::from(p.wants[1]) + usize::from(p.wants[2]);
        let blocks = p.len_k.div_ceil(rows) * splits;
        Self { engine, rows, blocks, over, depth, products, own: 4, sums: 0 }
    }

    /// All gradients: what [`Walk::keys`] does and the product for the queries, whose `sums` take so many bytes.
    pub fn once(p: &Problem, rows: usize, sums: usize) -> Self {
        let keys = Self::keys(Engine::Wgmma, p, rows, [1, p.head_dim]);
        Self { products: keys.products + 1, sums, ..keys }
    }
}

/// Both in one launch.
pub(super) fn together(one: Effort, other: Effort) -> Effort {
    Effort {
        flop: one.flop + other.flop,
        tiles: one.tiles + other.tiles,
        reads: one.reads + other.reads,
        ..one
    }
}
