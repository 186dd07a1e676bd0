//! One matrix product on a GPU: scratch and launches.
//!
//! Linear layers with and without adapters are made of these; nothing else launches a product.

use super::{
    effort::Cut,
    narrow,
    problem::{Args, Operands, Problem},
    sums, tensor, tiles,
    tilings::{Family, Tiling},
};
use crate::{device::Cuda, error::Result};

impl Problem {
    /// Scratch of one product, whatever variant computes it.
    pub fn scratch_bytes(&self) -> usize {
        tiles::scratch_bytes(self)
    }

    /// The chosen variant and its ranges, for the printed plan.
    pub fn describe(&self, cuda: &Cuda) -> String {
        tiles::tiling(cuda, self).map_or("none".into(), |t| self.describe_by(t))
    }

    /// The variant `t` and its ranges.
    pub fn describe_by(&self, t: &Tiling) -> String {
        match t.ranges(self) {
            1 => t.name.into(),
            ranges => format!("{} split {ranges}", t.name),
        }
    }

    /// Launches the product; `scratch` has at least [`Problem::scratch_bytes`].
    ///
    /// # Errors
    /// [`Error::NoKernel`] for extents beyond 32 bits; those of the launch.
    pub fn run(&self, cuda: &Cuda, o: &Operands, scratch: u64) -> Result<()> {
        if self.m == 0 || self.n == 0 {
            return Ok(());
        }
        let tiling = tiles::tiling(cuda, self)?;
        match tiling.family {
            Family::Narrow => narrow::run(cuda, self, tiling, o),
            Family::Sm90 => tensor::run(cuda, self, tiling, o, scratch, &self.touches(o, scratch)),
            Family::Simt | Family::Sm80 => self.tiled(cuda, tiling, o, scratch),
        }
    }

    /// One block a tile and range; the ranges are added by a second launch.
    fn tiled(&self, cuda: &Cuda, tiling: &Tiling, o: &Operands, scratch: u64) -> Result<()> {
        let ranges = tiling.ranges(self);
        let args = self.args(o, ranges, scratch)?;
        let touches = self.touches(o, scratch);
        let kernel = cuda.kernel::<Args>("linear", tiling.symbol(self))?;
        let tile = kernel.tile();
        let grid = [
            (self.m as u64).div_ceil(u64::from(tile.block_rows)),
            (self.n as u64).div_ceil(u64::from(tile.block_cols)),
            ranges as u64,
        ];
        let cut = Cut {
            family: tiling.family,
            tile: [tile.block_rows as usize, tile.block_cols as usize],
            tiles: usize::try_from(grid[0] * grid[1]).unwrap_or(usize::MAX),
            sharing: 1,
            ranges,
            parts: if ranges > 1 { ranges * self.m * self.n * 4 } else { 0 },
        };
        let kernel = kernel.taking(cut.effort(self, o, self.n));
        cuda.launch(&kernel, grid, &args, &touches)?;
        if ranges > 1 { sums::reduce(cuda, self, (&args, ranges), &touches) } else { Ok(()) }
    }
}
