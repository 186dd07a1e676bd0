//! AdamW over one flat buffer of trainables.

pub mod cases;
mod cpu;
mod device;
mod pieces;
mod scaling;

pub use device::{Buffers, Constants, DeviceAdamW, DeviceStep};
pub use pieces::Part;
pub use scaling::{Scale, Scaling};

use crate::error::{Error, Result};

/// What changes from step to step; kernels read it from memory, it is never an argument of a
/// launch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepState {
    /// Optimizer steps done before this one, skipped ones not counted.
    pub step: u64,
    /// Learning rate of this step.
    pub learning_rate: f32,
}

/// Adam with decoupled weight decay.
///
/// `p -= lr wd p; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
/// p -= lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)`.
///
/// # Shapes
/// `master, grad, first, second`: the same length, f32.
///
/// # Numerics
/// Element by element, in the operation order of `torch.optim.AdamW`: bitwise the same on every
/// run.
///
/// # Errors
/// [`Error::Shape`] when the lengths differ.
///
/// # Source
/// Loshchilov & Hutter 2019.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-4 }
    }
}

impl AdamW {
    /// One step on the host, in place; the gradient is only read. [`DeviceAdamW`] does it on a GPU.
    ///
    /// # Errors
    /// [`Error::Shape`] when the lengths differ.
    pub fn step(
        &self,
        state: StepState,
        (master, grad): (&mut [f32], &[f32]),
        (first, second): (&mut [f32], &mut [f32]),
    ) -> Result<()> {
        let lengths = [master.len(), grad.len(), first.len(), second.len()];
        if lengths.iter().any(|l| *l != lengths[0]) {
            let want = "four equal lengths: weights, gradient, moments".into();
            let got = lengths.to_vec();
            return Err(Error::Shape { at: "adamw".into(), what: "buffers", got, want });
        }
        cpu::step(self, state, master, grad, first, second);
        Ok(())
    }
}
