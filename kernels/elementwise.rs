//! What the launches of elementwise kernels share: where a gradient goes, 32-bit extents, the grid.

use crate::{
    device::{Buf, Cuda, Touched},
    error::{Error, Result},
    op::{Grad, GradMode},
    tensor::Spec,
};
use bytemuck::Pod;

/// `elementwise::Mode::Overwrite` of `common/elementwise.cuh`.
pub(crate) const OVERWRITE: i32 = 1;

/// `elementwise::Mode` of a gradient.
pub(crate) fn mode(grad: &Grad<'_>) -> i32 {
    match grad.mode {
        GradMode::Skip => 0,
        GradMode::Overwrite => OVERWRITE,
        GradMode::Accumulate => 2,
    }
}

/// Device addresses of one call's operands, and the memory they stand for.
#[derive(Debug, Default)]
pub(crate) struct Operands {
    pub touches: Vec<Touched>,
}

impl Operands {
    /// An operand that is read.
    pub fn read(&mut self, what: &'static str, buf: Buf<'_>, spec: &Spec) -> u64 {
        self.at(what, buf.address(), spec)
    }

    /// An operand at an address.
    pub fn at(&mut self, what: &'static str, address: u64, spec: &Spec) -> u64 {
        self.touches.push(Touched::new(what, address, spec));
        address
    }

    /// Address and mode of a gradient; 0 and skip where it is not wanted.
    pub fn gradient(&mut self, what: &'static str, grad: &Grad<'_>, spec: &Spec) -> (u64, i32) {
        match grad.mode {
            GradMode::Skip => (0, 0),
            _ => {
                if grad.mode == GradMode::Accumulate {
                    self.at(what, grad.buf.address(), spec); // read, then written
                }
                (self.at(what, grad.buf.address(), spec), mode(grad))
            }
        }
    }
}

/// `n` as a 32-bit extent of a kernel's argument.
///
/// # Errors
/// [`Error::NoKernel`] when it does not fit.
pub(crate) fn extent(op: &'static str, n: usize) -> Result<u32> {
    u32::try_from(n).ok().filter(|n| *n <= i32::MAX.cast_unsigned()).ok_or_else(|| {
        Error::NoKernel {
            op,
            key: format!("an extent of {n}"),
            tried: "31-bit extents; split the batch".into(),
        }
    })
}

/// Launches a flat kernel over `len` elements of each of `samples`; nothing for an empty result.
///
/// # Errors
/// [`Error::NoKernel`] for more 16-byte pieces than 32 bits count, and those of [`Cuda::launch`].
pub(crate) fn launch<A: Pod>(
    cuda: &Cuda,
    (op, symbol): (&'static str, &'static str),
    (len, samples): (usize, usize),
    args: &A,
    touches: &[Touched],
) -> Result<()> {
    if len == 0 || samples == 0 {
        return Ok(());
    }
    let kernel = cuda.kernel::<A>(op, symbol)?;
    let tile = kernel.tile();
    let blocks = len.div_ceil(tile.block_cols as usize);
    extent(op, blocks.saturating_mul(tile.threads as usize / 2))?;
    cuda.launch(&kernel, [blocks as u64, samples as u64, 1], args, touches)
}
