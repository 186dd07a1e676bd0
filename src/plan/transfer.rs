//! What goes from a program to another one, or to the host, without waiting for the device.

use super::{Program, Value, buffers::Buffer, program::unknown};
use crate::{
    device::{Device, Pinned},
    error::{Error, Result},
    tensor::Spec,
};
use std::{ops::Range, sync::Arc};

impl Program {
    /// An input or an output: its extents and where it lies in the arena.
    fn place(&self, name: &str) -> Result<(&Spec, Range<usize>)> {
        let output = self.plan.outputs.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
        let Value(v) = self.names.get(name).copied().or(output).ok_or_else(|| unknown(name))?;
        let slot = &self.plan.rec.slots[v];
        let at = self.plan.places.at.get(&Buffer::Value(slot.root));
        Ok((&slot.spec, at.cloned().ok_or_else(|| unknown(name))?))
    }

    /// Where an input or an output lies in a GPU's memory; `None` on the host.
    ///
    /// # Errors
    /// [`Error::Plan`] for an unknown name.
    pub fn address(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.arena.address(&self.place(name)?.1))
    }

    /// Extents and type of an input or an output.
    ///
    /// # Errors
    /// [`Error::Plan`] for an unknown name.
    pub fn spec(&self, name: &str) -> Result<&Spec> {
        Ok(self.place(name)?.0)
    }

    /// Puts output `output` of `from` into this program's `input` as its row `row` (of the first axis), when `from`
    /// has computed it; on a GPU without waiting.
    ///
    /// # Errors
    /// [`Error::Plan`] for unknown names, programs on two devices, or an output that is no such row; those of the driver.
    pub fn adopt(
        &mut self,
        (input, row): (&str, usize),
        from: &Program,
        output: &str,
    ) -> Result<()> {
        let ((spec, to), (given, at)) = (self.place(input)?, from.place(output)?);
        let rows = spec.dims.first().copied().unwrap_or(0);
        if given.dtype != spec.dtype || row >= rows || given.len() * rows != spec.len() {
            let (dims, want) = (&given.dims, &spec.dims);
            let problem = format!("{output} {dims:?} {} as row {row} of {want:?}", given.dtype);
            return Err(Error::Plan { at: input.into(), problem });
        }
        let start = to.start + row * given.bytes();
        let to = start..start + given.bytes();
        match (&self.device, &from.device) {
            (Device::Cuda(here), Device::Cuda(there)) if Arc::ptr_eq(here, there) => {
                let address = |p: &Program, at| p.arena.address(at).unwrap_or(0);
                here.copy(address(self, &to), address(from, &at), to.len())
            }
            (Device::Cpu, Device::Cpu) => self.arena.set(&to, &from.arena.get(&at)?),
            (here, there) => {
                let problem = format!("{output} lies on {}, not on {}", there.name(), here.name());
                Err(Error::Plan { at: input.into(), problem })
            }
        }
    }

    /// Copies an output to the bytes of `into` from `at` on, after what was launched so far, without waiting; on the host
    /// there is nothing to wait for and nothing is copied.
    ///
    /// # Errors
    /// [`Error::Plan`] for an unknown name or too few bytes; those of the driver.
    pub fn fetch(&self, output: &str, into: &mut Pinned, at: usize) -> Result<()> {
        let (spec, place) = self.place(output)?;
        match self.arena.address(&place) {
            Some(address) => into.fetch(at..at + spec.bytes(), address),
            None => Ok(()),
        }
    }
}
