//! A plan with memory: runs, step by step, over fixed addresses.

use super::{
    Plan, Value,
    buffers::Buffer,
    limits::{Limit, limits},
    operands::{Operands, Place, resolve},
    record::Class,
    replay::{Replay, Replays, Stretch},
    run::run_step,
    weights::{WeightSource, Weights, wrong_length},
};
use crate::{
    device::{Arena, Buf, Device, Pinned},
    error::{Error, Result},
    kernels::recorded,
    tensor::DType,
};
use std::collections::HashMap;
use std::ops::Range;

/// A planned run with its memory and weights.
#[derive(Debug)]
pub struct Program {
    pub(super) plan: Plan,
    pub(super) device: Device,
    pub(super) arena: Arena,
    weights: Weights,
    operands: Vec<Operands>,
    pub(super) names: HashMap<String, Value>,
    pub(super) entries: Vec<(String, Range<usize>)>,
    replays: Replays,
    /// Where each input waits for its copy to a GPU.
    stages: HashMap<usize, Option<Pinned>>,
    /// What integer inputs may hold, by value.
    limits: HashMap<usize, Limit>,
    /// Whether the steps that run once are due: a steady input was fed.
    due: bool,
}

impl Plan {
    /// Allocates the arena and takes the weights; every missing name is listed in one error.
    ///
    /// # Errors
    /// [`Error::Weights`], [`Error::OutOfMemory`], or those of the source.
    pub fn load(self, device: Device, weights: &dyn WeightSource) -> Result<Program> {
        Program::new(self, device, weights)
    }
}

impl Program {
    fn new(plan: Plan, device: Device, source: &dyn WeightSource) -> Result<Self> {
        let mut arena = Arena::new(&device, plan.places.total_bytes, &plan.largest(5))?;
        let (weights, index) = Weights::take(&plan, &device, &mut arena, source)?;
        Self::over(plan, device, arena, (weights, &index))
    }

    /// The program of another plan with the frozen weights of this one, which stay where they are; the memory
    /// of its activations is given back first.
    ///
    /// # Errors
    /// [`Error::Weights`] when the other plan reads a weight that this one does not,
    /// [`Error::OutOfMemory`], or those of the driver.
    pub fn replan(self, plan: Plan) -> Result<Self> {
        let Self { device, arena, weights, replays, stages, .. } = self;
        drop((arena, replays, stages));
        let index = weights.index(&plan)?;
        let arena = Arena::new(&device, plan.places.total_bytes, &plan.largest(5))?;
        Self::over(plan, device, arena, (weights, &index))
    }

    fn over(
        plan: Plan,
        device: Device,
        arena: Arena,
        (weights, index): (Weights, &HashMap<usize, usize>),
    ) -> Result<Self> {
        let entries = (plan.places.flat.iter())
            .map(|(r, range)| (plan.rec.slots[*r].name.clone(), range.clone()))
            .collect();
        let fed = |class: &Class| matches!(class, Class::Input { .. } | Class::Param { .. });
        let named = plan.rec.slots.iter().enumerate().filter(|(_, slot)| fed(&slot.class));
        let names = named.map(|(r, slot)| (slot.name.clone(), Value(r))).collect();
        let mut p = Self {
            device,
            arena,
            weights,
            operands: vec![],
            names,
            entries,
            replays: Replays::default(),
            stages: HashMap::new(),
            limits: limits(&plan),
            due: true,
            plan,
        };
        p.fill_tables()?;
        p.operands =
            (0..p.plan.steps.len()).map(|t| resolve(&p.plan, t, index)).collect::<Result<_>>()?;
        Ok(p)
    }

    fn fill_tables(&mut self) -> Result<()> {
        if let Some(at) = self.plan.places.at.get(&Buffer::Start) {
            self.arena.set(at, bytemuck::bytes_of(&1f32))?;
        }
        for (r, slot) in self.plan.rec.slots.iter().enumerate() {
            if let (Class::Table(data), Some(at)) =
                (&slot.class, self.plan.places.at.get(&Buffer::Value(r)))
            {
                self.arena.set(at, bytemuck::cast_slice(data))?;
            }
        }
        Ok(())
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where it runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    fn feed(&mut self, name: &str, dtype: DType, data: &[u8]) -> Result<()> {
        let v = self.names.get(name).copied().ok_or_else(|| unknown(name))?;
        let slot = &self.plan.rec.slots[v.0];
        if !matches!(slot.class, Class::Input { .. }) {
            return Err(unknown(name));
        }
        if slot.spec.dtype != dtype || slot.spec.bytes() != data.len() {
            return Err(wrong_length(name, data.len() / dtype.size_bytes(), &slot.spec));
        }
        let at = &self.plan.places.at[&Buffer::Value(slot.root)];
        self.due |= slot.steady;
        self.arena.feed(at, data, self.stages.entry(v.0).or_default())
    }

    /// Feeds an f32 input.
    ///
    /// # Errors
    /// [`Error::Plan`] for an unknown name, [`Error::Shape`] for another length.
    pub fn set(&mut self, input: &str, data: &[f32]) -> Result<()> {
        self.feed(input, DType::F32, bytemuck::cast_slice(data))
    }

    /// Feeds an i32 input.
    ///
    /// # Errors
    /// As [`Program::set`]; [`Error::Data`] for a value outside what an operation that reads it indexes.
    pub fn set_i32(&mut self, input: &str, data: &[i32]) -> Result<()> {
        if let Some(limit) = self.names.get(input).and_then(|v| self.limits.get(&v.0)) {
            limit.check(input, data)?;
        }
        self.feed(input, DType::I32, bytemuck::cast_slice(data))
    }

    /// Gives the gradient of an output ([`super::Pass::Seeded`]); zero until given.
    ///
    /// # Errors
    /// [`Error::Plan`] for an output without a gradient, [`Error::Shape`] for another length.
    pub fn set_grad(&mut self, output: &str, data: &[f32]) -> Result<()> {
        let i = self.output_index(output)?;
        let Some(at) = self.plan.places.at.get(&Buffer::Seed(i)) else {
            return Err(Error::Plan {
                at: output.into(),
                problem: "nothing upstream needs a gradient".into(),
            });
        };
        let spec = self.plan.rec.spec(self.plan.outputs[i].1);
        if spec.len() != data.len() {
            return Err(wrong_length(output, data.len(), spec));
        }
        self.arena.set(&at.clone(), &spec.dtype.encode(data))
    }

    fn output_index(&self, name: &str) -> Result<usize> {
        self.plan.outputs.iter().position(|(n, _)| n == name).ok_or_else(|| unknown(name))
    }

    /// An output of the last run.
    ///
    /// # Errors
    /// [`Error::Plan`] for an unknown name.
    pub fn get(&self, output: &str) -> Result<Vec<f32>> {
        let v = self.plan.outputs[self.output_index(output)?].1;
        self.read(Buffer::Value(self.plan.rec.slots[v.0].root), output)
    }

    /// The loss of the last run.
    ///
    /// # Errors
    /// [`Error::Plan`] when the plan has no loss.
    pub fn loss(&self) -> Result<f32> {
        let v = self.plan.loss.ok_or_else(|| unknown("loss"))?;
        let l = self.read(Buffer::Value(self.plan.rec.slots[v.0].root), "loss")?;
        Ok(l.first().copied().unwrap_or(f32::NAN))
    }

    /// The gradient of an input or a trainable parameter (runtime layout) after `backward`; zero when no
    /// gradient reaches it.
    ///
    /// # Errors
    /// [`Error::Plan`] for an unknown name.
    pub fn grad(&self, name: &str) -> Result<Vec<f32>> {
        let v = self.names.get(name).copied().ok_or_else(|| unknown(name))?;
        let slot = &self.plan.rec.slots[v.0];
        if !self.plan.places.at.contains_key(&Buffer::Grad(v.0)) {
            return match slot.class {
                Class::Input { grad: true } => Ok(vec![0.0; slot.spec.len()]),
                _ => Err(Error::Plan { at: name.into(), problem: "no gradient planned".into() }),
            };
        }
        self.read(Buffer::Grad(v.0), name)
    }

    /// The content of a value's, or its gradient's, buffer.
    fn read(&self, b: Buffer, name: &str) -> Result<Vec<f32>> {
        let trained = self.plan.places.flat_of(b);
        let (at, dtype) = match (trained, b) {
            (Some(at), _) => (Some(at), DType::F32),
            (None, Buffer::Value(r) | Buffer::Grad(r)) => {
                (self.plan.places.at.get(&b).cloned(), self.plan.rec.slots[r].spec.dtype)
            }
            _ => (None, DType::F32),
        };
        let problem = "the plan holds no such buffer".into();
        let at = at.ok_or(Error::Plan { at: name.into(), problem })?;
        Ok(dtype.decode(&self.arena.get(&at)?))
    }

    /// Runs the forward pass.
    ///
    /// # Errors
    /// Those of the operations.
    pub fn forward(&mut self) -> Result<()> {
        let steps = self.once()?..self.plan.forward_steps;
        self.run(steps, true, None)
    }

    /// Runs what is due of the steps that run once; the first step after them.
    fn once(&mut self) -> Result<usize> {
        let count = self.plan.once_steps;
        if self.due && count > 0 {
            self.run(0..count, true, None)?;
            self.due = false;
        }
        Ok(count)
    }

    /// Runs the forward pass and then `then`, which launches and does not wait; on a GPU both as one graph.
    ///
    /// # Errors
    /// Those of the operations and of `then`.
    pub fn forward_then(&mut self, then: &dyn Fn() -> Result<()>) -> Result<()> {
        let steps = self.once()?..self.plan.forward_steps;
        self.run(steps, true, Some(then))
    }

    /// Runs the backward pass; `first` overwrites the gradients of trainables, otherwise they add up.
    ///
    /// # Errors
    /// Those of the operations.
    pub fn backward(&mut self, first: bool) -> Result<()> {
        self.run(self.plan.forward_steps..self.plan.steps.len(), first, None)
    }

    /// Runs both passes and then `then` (an optimizer that launches and does not wait); on a GPU all as one graph.
    ///
    /// # Errors
    /// Those of the operations and of `then`.
    pub fn forward_backward(
        &mut self,
        first: bool,
        then: Option<&dyn Fn() -> Result<()>>,
    ) -> Result<()> {
        self.run(0..self.plan.steps.len(), first, then)
    }

    /// Runs `steps`. On a GPU they are launched one by one the first time, which loads their kernels, captured as
    /// a graph the second, and replayed from then on; a poisoned program is always stepped, and every
    /// program while the inputs of an operation are asked for.
    fn run(
        &mut self,
        steps: Range<usize>,
        first: bool,
        then: Option<&dyn Fn() -> Result<()>>,
    ) -> Result<()> {
        let stretch = Stretch { start: steps.start, end: steps.end, first, then: then.is_some() };
        let cuda = match &self.device {
            Device::Cuda(cuda) if !self.plan.poison && !recorded::is_asked() => cuda.clone(),
            _ => return self.steps(steps, first, then),
        };
        match self.replays.get(&stretch) {
            Some(Replay::Captured(graph)) => graph.launch(),
            Some(Replay::Stepped) => {
                let graph = cuda.capture(|| self.steps(steps, first, then))?;
                graph.launch()?;
                self.replays.insert(stretch, Replay::Captured(graph));
                Ok(())
            }
            None => {
                self.steps(steps, first, then)?;
                self.replays.insert(stretch, Replay::Stepped);
                Ok(())
            }
        }
    }

    /// Drops every captured graph: the next runs step and capture again.
    pub fn forget_graphs(&mut self) {
        self.replays.clear();
    }

    fn steps(
        &mut self,
        mut steps: Range<usize>,
        first: bool,
        then: Option<&dyn Fn() -> Result<()>>,
    ) -> Result<()> {
        steps.try_for_each(|t| self.step(t, first))?;
        then.map_or(Ok(()), |then| then())
    }

    /// Runs the steps `0..=step` only.
    ///
    /// # Errors
    /// Those of the operations.
    pub fn run_until(&mut self, step: usize) -> Result<()> {
        (0..self.plan.steps.len().min(step + 1)).try_for_each(|t| self.step(t, true))
    }

    /// Runs forward up to the last operation of `scope` and returns its output.
    ///
    /// # Errors
    /// [`Error::Plan`] for an unknown scope; those of the operations.
    pub fn value(&mut self, scope: &str) -> Result<Vec<f32>> {
        let forward = &self.plan.steps[..self.plan.forward_steps];
        let at = forward.iter().rposition(|s| self.plan.nodes[s.node].scope == scope);
        let t = at.ok_or_else(|| unknown(scope))?;
        self.run_until(t)?;
        let out = self.plan.nodes[self.plan.steps[t].node].out;
        self.read(Buffer::Value(out.0), scope)
    }

    pub(super) fn step(&mut self, t: usize, first: bool) -> Result<()> {
        let (plan, operands) = (&self.plan, &self.operands[t]);
        if plan.poison {
            for (w, old) in operands.writes.iter().zip(&operands.keeps_old) {
                if !old {
                    self.arena.fill(w, 0xFF)?;
                }
            }
        }
        let in_arena: Vec<Range<usize>> = (operands.reads.iter())
            .filter_map(|p| if let Place::Arena(r) = p { Some(r.clone()) } else { None })
            .collect();
        let (lent, written) = self.arena.lend(&in_arena, &operands.writes);
        let mut lent = lent.into_iter();
        let mut reads = operands.reads.iter().map(|p| match p {
            Place::Arena(_) => lent.next().unwrap_or(Buf::EMPTY),
            Place::Weight(i) => self.weights.list[*i].buf(),
            Place::None => Buf::EMPTY,
        });
        let mut writes = written.into_iter();
        let step = &plan.steps[t];
        run_step(plan, &self.device, step, first, &mut reads, &mut writes)?;
        if plan.poison {
            operands.dies.iter().try_for_each(|r| self.arena.fill(r, 0xFF))?;
        }
        Ok(())
    }
}

pub(super) fn unknown(name: &str) -> Error {
    Error::Plan {
        at: name.into(),
        problem: "no input, output, parameter or scope of that name".into(),
    }
}
