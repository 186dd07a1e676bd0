//! What every step of a program would launch on a chip that is not there.

use super::{Action, Program, StoredBytes, WeightLayout, WeightSource};
use crate::{
    device::{Device, Launched},
    error::{Error, Result},
    op::{Cost, GradMode},
    tensor::{DType, Floats},
};

/// Weights of every name, all zero: for a program that is rehearsed.
#[derive(Clone, Copy, Debug)]
pub struct NoWeights;

impl WeightSource for NoWeights {
    fn get(&self, _: &str, dims: &[usize], _: WeightLayout) -> Result<Option<Floats>> {
        Ok(Some(vec![0.0; dims.iter().product()].into()))
    }

    fn stored(
        &self,
        _: &str,
        dims: &[usize],
        _: WeightLayout,
        dtype: DType,
    ) -> Result<Option<StoredBytes>> {
        let bytes = dims.iter().product::<usize>() * dtype.size_bytes();
        Ok(Some(std::sync::Arc::new(vec![0u8; bytes]))) // pages that nobody reads are never made
    }
}

/// One step of a rehearsed program.
#[derive(Clone, Debug)]
pub struct Rehearsed {
    /// `attention`, `attention backward`.
    pub what: String,
    /// Scope with its dots.
    pub scope: String,
    /// The operation; empty for what concerns all trainables.
    pub op: &'static str,
    /// Extents of every operand.
    pub dims: Vec<Vec<usize>>,
    /// Element type of the result.
    pub dtype: DType,
    /// Which gradients are wanted; none of a forward pass.
    pub wants: Option<Vec<bool>>,
    /// Kernel variant, where there is a choice.
    pub variant: String,
    /// Work.
    pub cost: Cost,
    /// What it launches.
    pub launches: Vec<Launched>,
}

impl Program {
    /// The steps of a program on [`crate::device::Cuda::stand_in`], with what each would launch.
    ///
    /// # Errors
    /// [`Error::Plan`] on a processor; [`Error::NoKernel`] for a kernel that the chip lacks.
    pub fn rehearse(&mut self) -> Result<Vec<Rehearsed>> {
        let Device::Cuda(cuda) = self.device().clone() else {
            let problem = "a program on a processor launches nothing".into();
            return Err(Error::Plan { at: "forecast".into(), problem });
        };
        cuda.take_launched(); // what loading would have copied
        let steps = 0..self.plan().steps.len();
        let one = |t: usize| {
            self.step(t, true)?;
            Ok(self.rehearsed(t, cuda.take_launched()))
        };
        steps.map(one).collect()
    }

    fn rehearsed(&self, t: usize, launches: Vec<Launched>) -> Rehearsed {
        let plan = self.plan();
        let step = &plan.steps[t];
        let (scope, what) = plan.label(t);
        let wants = match &step.action {
            Action::Backward { modes, .. } => {
                Some(modes.iter().map(|m| *m != GradMode::Skip).collect())
            }
            _ => None,
        };
        let of_node =
            matches!(step.action, Action::Forward | Action::Again | Action::Backward { .. });
        let node = plan.nodes.get(step.node).filter(|_| of_node);
        Rehearsed {
            what,
            scope,
            op: node.map_or("", |n| n.op.name()),
            dims: node.map_or_else(Vec::new, |n| n.specs.iter().map(|s| s.dims.clone()).collect()),
            dtype: node.map_or(DType::F32, |n| n.signature.out.dtype),
            wants,
            variant: plan.variant(step, self.device()),
            cost: plan.cost(step),
            launches,
        }
    }
}
