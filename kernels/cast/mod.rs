//! Conversion between element types.
use crate::{
    error::Result,
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::{DType, Spec},
};

/// Converts.
#[derive(Clone, Copy, Debug)]
pub struct Cast {
    /// Target.
    pub to: DType,
}

impl Op for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }
    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        Ok(Signature::of(Spec::new(&ins[0].dims, self.to)))
    }
    fn keeps(&self, _: &[bool]) -> Keeps {
        Keeps::default()
    }
    fn cost(&self, _: &[Spec], _: &Spec) -> Cost {
        Cost::default()
    }
    fn forward(&self, mut io: Forward<'_>) -> Result<()> {
        if !matches!(io.device, crate::device::Device::Cpu) || self.to != DType::F32 {
            return Err(crate::kernels::no_kernel("cast", io.device));
        }
        io.out.f32().copy_from_slice(io.ins[0].f32());
        Ok(())
    }
    fn backward(&self, mut io: Backward<'_>) -> Result<()> {
        if !matches!(io.device, crate::device::Device::Cpu) || self.to != DType::F32 {
            return Err(crate::kernels::no_kernel("cast", io.device));
        }
        let beta = io.d_ins[0].beta();
        for (d, g) in io.d_ins[0].buf.f32().iter_mut().zip(io.d_out.f32()) {
            *d = if beta == 0.0 { *g } else { *d + g };
        }
        Ok(())
    }
}
