//! What a launch takes, for a forecast: work, tiles, traffic.

use super::touched::Touched;
use std::collections::BTreeMap;

/// What a kernel multiplies with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Ordinary f32 multipliers.
    Ordinary,
    /// Matrix units by `mma.sync`.
    Mma,
    /// Matrix units by `wgmma`.
    Wgmma,
}

/// What a launch does; padding that is computed counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// What it multiplies with.
    pub engine: Engine,
    /// Floating-point operations, 2 per multiply-add.
    pub flop: f64,
    /// Equal parts of the work, each done by one block.
    pub tiles: u64,
    /// Bytes that all tiles together read through the second-level cache.
    pub reads: f64,
    /// Bytes of operands and results, each once.
    pub bytes: f64,
    /// Bytes of partial sums, written or read: between two launches of a step, or within one.
    pub parts: f64,
    /// What some blocks do before their tiles.
    pub lead: Option<Lead>,
}

/// A product that a launch makes before the tiles that read it, with the same instructions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lead {
    /// Floating-point operations, 2 per multiply-add.
    pub flop: f64,
    /// Equal parts of the work, each done by one block.
    pub tiles: u64,
    /// Bytes that they together read through the second-level cache.
    pub reads: f64,
    /// Bytes of what only they read, once.
    pub bytes: f64,
}

impl Effort {
    /// A pass over `bytes` and partial sums of `parts` that multiplies next to nothing.
    pub fn pass(tiles: u64, bytes: f64, parts: f64) -> Self {
        Self { engine: Engine::Ordinary, flop: 0.0, tiles, reads: bytes, bytes, parts, lead: None }
    }

    /// This and `other` in one launch, by the instructions of this.
    pub fn beside(self, other: Self) -> Self {
        Self {
            engine: self.engine,
            flop: self.flop + other.flop,
            tiles: self.tiles + other.tiles,
            reads: self.reads + other.reads,
            bytes: self.bytes + other.bytes,
            parts: self.parts + other.parts,
            lead: self.lead.or(other.lead),
        }
    }

    /// The same with `lead` in front.
    pub fn leading(self, lead: Lead) -> Self {
        Self { bytes: self.bytes + lead.bytes, lead: Some(lead), ..self }
    }
}

/// The name of the driver's fill.
pub(super) const FILL: &str = "fill";
/// The name of the driver's copy on the device.
pub(super) const COPY: &str = "copy";

/// A node of the graph that a run would have captured.
#[derive(Clone, Debug, PartialEq)]
pub struct Launched {
    /// The kernel; `fill` and `copy` are the driver's own.
    pub kernel: &'static str,
    /// What it takes. Where the launch did not say, a pass over what it touches, and [`Launched::told`] is false.
    pub effort: Effort,
    /// Whether the launch said what it takes.
    pub told: bool,
    /// What it reads and writes: address and bytes of each operand.
    pub touched: BTreeMap<u64, usize>,
}

/// Address and bytes of each operand; one that is read and written is named twice.
fn operands(touches: &[Touched]) -> BTreeMap<u64, usize> {
    let mut all = BTreeMap::new();
    for t in touches.iter().filter(|t| t.bytes > 0) {
        *all.entry(t.address).or_insert(0) += t.bytes;
    }
    all
}

/// Bytes of `touches`.
pub fn touched_bytes(touches: &[Touched]) -> f64 {
    operands(touches).values().map(|bytes| *bytes as f64).sum()
}

impl Launched {
    /// A kernel over `blocks` blocks.
    pub(super) fn kernel(
        kernel: &'static str,
        effort: Option<Effort>,
        blocks: u64,
        touches: &[Touched],
    ) -> Self {
        let told = effort.is_some();
        let effort = effort.unwrap_or_else(|| Effort::pass(blocks, touched_bytes(touches), 0.0));
        Self { kernel, effort, told, touched: operands(touches) }
    }

    /// Whether it is a kernel of this program.
    pub fn is_kernel(&self) -> bool {
        self.kernel != FILL && self.kernel != COPY
    }

    /// A fill or copy by the driver, which moves `bytes`.
    pub(super) fn driver(name: &'static str, bytes: usize) -> Self {
        /// What a block of such a kernel is taken to move.
        const BLOCK_BYTES: u64 = 16 << 10;
        let tiles = (bytes as u64).div_ceil(BLOCK_BYTES);
        let effort = Effort::pass(tiles, bytes as f64, 0.0);
        Self { kernel: name, effort, told: true, touched: BTreeMap::new() }
    }
}
