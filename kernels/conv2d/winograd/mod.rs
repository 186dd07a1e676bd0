//! CPU: Winograd's F(2x2, 3x3), for 3x3 kernels of stride 1.
//!
//! Two by two outputs are read off sixteen products where nine multiplications each would be thirty-six: with `d` the
//! 4x4 pixels under them and `g` the kernel, `y = A^T [(G g G^T) * (B^T d B)] A` (Lavin and Gray 2015, 1509.09308,
//! section 4.1). The products of one of the sixteen positions over all tiles are a matrix product over channels. All
//! factors are 0, 1, -1 and 1/2, so the rounding stays near that of the direct sum.

mod few;
mod grid;
mod many;
mod transform;

use self::grid::Grid;
use super::shape::Shape;
use crate::device::cpu::{Initial, Unpacked};

/// Fewest channels on both sides for which the transforms of pixels cost less than they save.
const FEWEST_CHANNELS: usize = 64;
/// Fewest tiles for which the transform of the kernel does.
const FEWEST_TILES: usize = 32;
/// Most tiles for which threads share out channels: with more, the products of a group leave the second-level cache.
const FEW: usize = 256;

/// A convolution that is computed so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Winograd(Grid);

impl Winograd {
    /// The forward pass, where it is worth while.
    pub fn forward(s: &Shape) -> Option<Self> {
        Self::worthwhile(s, Grid::forward)
    }

    /// The gradient of the image, where it is worth while.
    pub fn data_gradient(s: &Shape) -> Option<Self> {
        Self::worthwhile(s, Grid::data_gradient)
    }

    fn worthwhile(s: &Shape, grid: impl Fn(&Shape) -> Grid) -> Option<Self> {
        let fits = (s.kh, s.kw, s.stride) == (3, 3, 1) && s.top <= 2 && s.left <= 2;
        let enough = |grid: &Grid| grid.tiles() >= FEWEST_TILES;
        (fits && s.c.min(s.o) >= FEWEST_CHANNELS).then(|| grid(s)).filter(enough).map(Self)
    }

    fn few(&self) -> bool {
        self.0.tiles() <= FEW && self.0.outputs() >= self.0.tiles()
    }

    /// Elements of scratch.
    pub fn scratch(&self) -> usize {
        if self.few() { few::scratch(&self.0) } else { many::scratch(&self.0) }
    }

    /// `out = initial + convolution of data with the kernel`, whose taps are in the order in which they meet the image.
    pub fn run(
        &self,
        out: &mut [f32],
        data: &[f32],
        kernel: &Unpacked<'_>,
        initial: Initial<'_>,
        scratch: &mut [f32],
    ) {
        if self.few() {
            few::run(&self.0, out, data, kernel, initial, scratch);
        } else {
            many::run(&self.0, out, data, kernel, initial, scratch);
        }
    }
}
