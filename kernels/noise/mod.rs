//! Standard normal noise from a generator state in device memory.

pub mod cases;
mod cpu;
mod cuda;

pub(super) use cpu::seed_stream;

use crate::{
    device::Device,
    error::{Error, Result},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::{DType, Spec},
};

/// Words of the state of one stream.
pub const STATE_WORDS: usize = 4;

/// The state of stream `stream` under `seed`, as [`Normal`] and seeded mixing read it.
pub fn state(seed: u64, stream: u64) -> [i32; STATE_WORDS] {
    let low = |x: u64| (x as u32).cast_signed();
    [low(seed), low(seed >> 32), low(stream), low(stream >> 32)]
}

/// One stream of normals for each sample.
///
/// `out[n, i] = ` the normal number `i` (last axis fastest) of the stream in `state[n]`: Philox 4x32-10 and
/// Box-Muller. The state is data, so a captured program draws other numbers when the host changes it.
///
/// # Shapes
/// `state: [N, 4]` i32 (seed low, seed high, stream low, stream high) `-> [N, dims..]` f32.
///
/// # Gradient
/// None.
///
/// # Numerics
/// The CPU and the kernel give the same bits (`src/tensor/philox.rs`, `kernels/common/philox.cuh`).
///
/// # Errors
/// [`Error::Shape`], [`Error::DType`], [`Error::Plan`] for another number of inputs.
///
/// # Source
/// Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normal {
    /// Extents of one sample.
    pub dims: Vec<usize>,
}

/// `spec` is `[n, 4]` i32.
pub(super) fn check_state(at: &str, spec: &Spec, n: Option<usize>) -> Result<()> {
    if spec.dtype != DType::I32 {
        let (got, want) = (spec.dtype.to_string(), "i32".into());
        return Err(Error::DType { at: format!("{at}: state"), got, want });
    }
    let fits = matches!(spec.dims[..], [rows, STATE_WORDS] if n.is_none_or(|n| n == rows));
    if fits {
        return Ok(());
    }
    let rows = n.map_or("N".into(), |n| n.to_string());
    let want = format!("[{rows}, {STATE_WORDS}]: seed and stream of each sample");
    Err(super::check::shape(at, "state", spec, want))
}

impl Op for Normal {
    fn name(&self) -> &'static str {
        "noise"
    }

    fn types(&self) -> &'static [DType] {
        &[DType::F32]
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        let [state] = ins else {
            let problem = format!("{} inputs, expected 1: state", ins.len());
            return Err(Error::Plan { at: self.name().into(), problem });
        };
        check_state(self.name(), state, None)?;
        let dims = [&state.dims[..1], &self.dims].concat();
        Ok(Signature::of(Spec::f32(&dims)))
    }

    fn keeps(&self, _wants: &[bool]) -> Keeps {
        Keeps::default()
    }

    /// Per element 5 of Philox's 20 multiplications and 40 logical operations a block, and half of a
    /// Box-Muller pair: about 55 operations.
    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let bytes = ins.iter().map(Spec::bytes).sum::<usize>() + out.bytes();
        Cost { flop: 55.0 * out.len() as f64, bytes: bytes as f64 }
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        match io.device {
            Device::Cpu => cpu::forward(io),
            Device::Cuda(cuda) => return cuda::forward(&cuda.clone(), &io),
        }
        Ok(())
    }

    fn backward(&self, _io: Backward<'_>) -> Result<()> {
        Ok(())
    }
}
