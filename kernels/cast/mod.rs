//! Conversion between float types.

pub mod cases;
mod cpu;
mod cuda;

use crate::{
    device::Device,
    error::{Error, Result},
    kernels::check,
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::{DType, Spec},
};

/// `y = x` in another float type, rounded to nearest, ties to even: the only operation that mixes types.
///
/// # Shapes
/// `x`: any, f32, bf16 or f16; `y` has the same dims in `to`.
///
/// # Gradient
/// `dx = dy` converted back; reads nothing of forward.
///
/// # Numerics
/// One rounding; beyond the range of f16 a number becomes infinite. Bitwise the same on every device.
///
/// # Errors
/// [`Error::DType`] for an integer `x` or `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cast {
    /// The type of the result.
    pub to: DType,
}

impl Op for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        check::float_inputs(self.name(), ins, &["x"])?;
        if self.to == DType::I32 {
            let (got, want) = (self.to.to_string(), "f32, bf16 or f16".into());
            return Err(Error::DType { at: "cast: to".into(), got, want });
        }
        Ok(Signature::of(Spec::new(&ins[0].dims, self.to)))
    }

    fn keeps(&self, _: &[bool]) -> Keeps {
        Keeps::default()
    }

    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let bytes = ins.iter().map(Spec::bytes).sum::<usize>() + out.bytes();
        Cost { flop: 0.0, bytes: bytes as f64 }
    }

    fn detail(&self) -> String {
        format!("to {}", self.to)
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        match io.device {
            Device::Cpu => cpu::forward(io),
            Device::Cuda(cuda) => return cuda::forward(cuda, &io),
        }
        Ok(())
    }

    fn backward(&self, io: Backward<'_>) -> Result<()> {
        match io.device {
            Device::Cpu => cpu::backward(io),
            Device::Cuda(cuda) => return cuda::backward(cuda, &io),
        }
        Ok(())
    }
}
