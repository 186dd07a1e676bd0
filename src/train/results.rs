//! What the steps of a run gave: on a GPU it comes to the host while later steps run.

use super::{Optimizer, optimizer::Updated};
use crate::{
    device::{Device, Pinned},
    error::Result,
    kernels::adamw::DeviceStep,
    plan::Program,
    tensor::DType,
};
use std::collections::VecDeque;

/// The outputs of a step's passes and its update, in the order of the steps.
#[derive(Debug)]
pub(super) struct Results {
    /// Outputs that are taken after every pass, and their elements.
    outputs: Vec<(&'static str, usize)>,
    /// Passes of a step.
    passes: usize,
    open: Numbers,
    ended: VecDeque<Numbers>,
    /// Memory of steps that were read.
    idle: Vec<Pinned>,
}

/// The numbers of one step.
#[derive(Debug, Default)]
struct Numbers {
    /// Passes so far.
    passes: usize,
    /// Their outputs, of each pass in the order of `Results::outputs`.
    here: Vec<f32>,
    /// The same on their way from a GPU, then its [`DeviceStep`].
    coming: Option<Pinned>,
    /// The update, where the host made it.
    updated: Option<Updated>,
}

impl Results {
    /// Of a program with `outputs`, of which `passes` runs make a step.
    pub fn new(outputs: Vec<(&'static str, usize)>, passes: usize) -> Self {
        Self { outputs, passes, open: Numbers::default(), ended: VecDeque::new(), idle: vec![] }
    }

    /// Elements of the outputs of a pass.
    fn of_a_pass(&self) -> usize {
        self.outputs.iter().map(|(_, len)| len).sum()
    }

    /// Where the state of the optimizer lies behind the outputs, bytes.
    fn state_at(&self) -> usize {
        self.passes * self.of_a_pass() * size_of::<f32>()
    }

    /// Passes of the step that has not ended.
    pub fn open_passes(&self) -> usize {
        self.open.passes
    }

    /// Takes the outputs of the pass that `program` ran last, or launched.
    ///
    /// # Errors
    /// Those of the device.
    pub fn take(&mut self, program: &Program) -> Result<()> {
        let (mut at, bytes) = (self.open.passes * self.of_a_pass(), self.state_at());
        if let Device::Cuda(cuda) = program.device()
            && self.open.coming.is_none()
        {
            let bytes = bytes + size_of::<DeviceStep>();
            self.open.coming = Some(self.idle.pop().map_or_else(|| cuda.pinned(bytes), Ok)?);
        }
        for (name, len) in &self.outputs {
            match &mut self.open.coming {
                Some(pinned) => program.fetch(name, pinned, at * size_of::<f32>())?,
                None => self.open.here.extend(program.get(name)?),
            }
            at += len;
        }
        self.open.passes += 1;
        Ok(())
    }

    /// Ends a step with the update of `optimizer`.
    ///
    /// # Errors
    /// As [`Optimizer::update`].
    pub fn end(&mut self, program: &mut Program, optimizer: &mut Optimizer) -> Result<()> {
        let mut numbers = std::mem::take(&mut self.open);
        numbers.updated = optimizer.update(program)?;
        if let (Some(pinned), Some(address)) = (&mut numbers.coming, optimizer.state_address()) {
            let at = self.state_at();
            pinned.fetch(at..at + size_of::<DeviceStep>(), address)?;
        }
        self.ended.push_back(numbers);
        Ok(())
    }

    /// The oldest step that was not read: the outputs of each pass, and its update. Waits for it where more than `ahead`
    /// are under way; `None` where no step is to be read.
    ///
    /// # Errors
    /// As [`Optimizer::took`]; what the launches failed with.
    pub fn read(
        &mut self,
        optimizer: &mut Optimizer,
        ahead: usize,
    ) -> Result<Option<(Vec<Vec<f32>>, Updated)>> {
        let due = |n: &Numbers| n.coming.is_none();
        if self.ended.len() <= ahead && !self.ended.front().is_some_and(due) {
            return Ok(None);
        }
        let Some(numbers) = self.ended.pop_front() else { return Ok(None) };
        let (record, at) = (self.of_a_pass().max(1), self.state_at());
        let (outputs, updated) = match numbers.coming {
            None => (numbers.here, numbers.updated.unwrap_or_default()),
            Some(mut pinned) => {
                let bytes = pinned.read()?;
                let outputs = DType::F32.decode(&bytes[..at]);
                let state = bytemuck::pod_read_unaligned(&bytes[at..]);
                self.idle.push(pinned);
                (outputs, optimizer.took(state)?)
            }
        };
        Ok(Some((outputs.chunks_exact(record).map(<[f32]>::to_vec).collect(), updated)))
    }

    /// Drops the passes of the step that has not ended.
    pub fn drop_open(&mut self) {
        self.idle.extend(std::mem::take(&mut self.open).coming);
    }
}
