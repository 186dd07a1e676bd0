//! The trainable parameters of a program as flat buffers.

use super::{Program, buffers::Buffer, weights::wrong_length};
use crate::{
    error::{Error, Result},
    tensor::{DType, Spec},
};
use std::ops::Range;

/// The trainable parameters as flat buffers.
#[derive(Debug)]
pub struct Flat<'a> {
    /// Name and element range of each parameter, in order; gaps are padding.
    pub entries: &'a [(String, Range<usize>)],
    /// f32 master weights.
    pub master: &'a mut [f32],
    /// Gradient; empty without a backward pass.
    pub grad: &'a mut [f32],
}

/// The flat buffers of the trainables in a GPU's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlatOnDevice {
    /// Address of the f32 master weights.
    pub master: u64,
    /// Address of the f32 gradient.
    pub grad: u64,
    /// Address of the f32 number that the gradient of the loss starts from; 0 without a loss.
    pub start: u64,
    /// Elements of each.
    pub len: usize,
}

impl Program {
    /// The trainable parameters and their gradient, in host memory.
    ///
    /// # Errors
    /// [`Error::Plan`] on a GPU: see [`Program::flat_on_device`].
    pub fn trainables(&mut self) -> Result<Flat<'_>> {
        let (m, g) = (self.plan.places.master.clone(), self.plan.places.grad.clone());
        let device = self.device.name();
        let Some(bytes) = self.arena.host(&(m.start..g.end)) else {
            let problem = format!("the flat buffers lie on {device}");
            return Err(Error::Plan { at: "trainables".into(), problem });
        };
        let (master, grad) = bytemuck::cast_slice_mut(bytes).split_at_mut(m.len() / 4);
        Ok(Flat { entries: &self.entries, master, grad })
    }

    /// Name and element range of each trainable, in flat order; gaps are padding.
    pub fn entries(&self) -> &[(String, Range<usize>)] {
        &self.entries
    }

    /// A copy of the flat f32 master weights.
    ///
    /// # Errors
    /// Those of the device.
    pub fn master(&self) -> Result<Vec<f32>> {
        Ok(DType::F32.decode(&self.arena.get(&self.plan.places.master)?))
    }

    /// Replaces the flat master weights.
    ///
    /// # Errors
    /// [`Error::Shape`] for another length; those of the device.
    pub fn set_master(&mut self, master: &[f32]) -> Result<()> {
        let at = self.plan.places.master.clone();
        if at.len() != size_of_val(master) {
            let spec = Spec::f32(&[at.len() / size_of::<f32>()]);
            return Err(wrong_length("trainables", master.len(), &spec));
        }
        self.arena.set(&at, bytemuck::cast_slice(master))
    }

    /// Multiplies the loss by `scale` before its gradient is taken, from the next run on; 1 until it is set.
    ///
    /// # Errors
    /// [`Error::Plan`] when the plan has no loss; those of the device.
    pub fn scale_loss(&mut self, scale: f32) -> Result<()> {
        let problem = "a scaled loss expected, but the plan has none".into();
        let at = self.plan.places.at.get(&Buffer::Start);
        let at = at.ok_or(Error::Plan { at: "loss scale".into(), problem })?;
        self.arena.set(at, bytemuck::bytes_of(&scale))
    }

    /// Where the flat buffers lie on a GPU; addresses 0 on the host.
    pub fn flat_on_device(&self) -> FlatOnDevice {
        let address = |range: &Range<usize>| self.arena.address(range).unwrap_or(0);
        let places = &self.plan.places;
        FlatOnDevice {
            master: address(&places.master),
            grad: address(&places.grad),
            start: places.at.get(&Buffer::Start).map_or(0, address),
            len: places.master.len() / size_of::<f32>(),
        }
    }
}
