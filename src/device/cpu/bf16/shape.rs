//! The shapes of packed operands.

/// Rows and columns of a block of sums.
pub const BLOCK: usize = 32;
/// Elements of `k` that a packed tile holds.
pub const DEPTH: usize = 32;
/// Rows of a tile of the left operand, columns of one of the right operand.
pub const SIDE: usize = 16;
/// Elements of one `DEPTH` of a packed strip of 32 rows, or panel of 32 columns.
pub const STEP: usize = BLOCK * DEPTH;

/// What 32 rows or columns become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Rows of a left operand.
    Strip,
    /// Columns of a right operand.
    Panel,
}

/// Steps of a sum over `taps` times `len` elements.
pub fn steps(taps: usize, len: usize) -> usize {
    taps.saturating_mul(len.div_ceil(DEPTH))
}
