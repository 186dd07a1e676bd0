//! AdamW over the flat trainables of a program, on the device where they lie: groups, clipping, moving average.

use super::{State, scale};
use crate::{
    device::{Cuda, Device, Memory},
    error::{Error, Result},
    kernels::{
        adamw::{
            AdamW, Buffers, Constants, DeviceAdamW, DeviceStep, Part, Scale, Scaling, StepState,
        },
        ema, grad_norm,
    },
    plan::{Flat, Program},
};
use std::{ops::Range, sync::Arc};

/// Settings of one group of trainables.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Peak learning rate.
    pub learning_rate: f32,
    /// The rest.
    pub adamw: AdamW,
}

/// Settings of a run that all groups share.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Passes whose gradients are added up in one step.
    pub passes: usize,
    /// The largest gradient norm; 0 does not clip.
    pub clip: f32,
    /// Decay of the moving average, where there is one.
    pub ema: Option<f32>,
    /// Factor of the learning rates in each step; the last one stays.
    pub factors: Vec<f64>,
    /// How the loss is scaled, where it is.
    pub scaling: Option<Scaling>,
}

impl Rules {
    /// One pass a step at the peak learning rate, without a moving average and a scaled loss.
    pub fn constant(clip: f32) -> Self {
        Self { passes: 1, clip, ema: None, factors: vec![1.0], scaling: None }
    }

    fn factor(&self, step: u64) -> f64 {
        let at = usize::try_from(step).unwrap_or(usize::MAX);
        self.factors.get(at).or(self.factors.last()).copied().unwrap_or(1.0)
    }
}

/// What an update came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Updated {
    /// Norm of the mean gradient before clipping; with a scaled loss it is not finite where the update was skipped.
    pub norm: f32,
    /// Where the scale of the loss stood before and after, where there is one.
    pub scale: Option<[Scale; 2]>,
}

/// The optimizer's state and settings.
#[derive(Debug)]
pub struct Optimizer {
    groups: Vec<(Range<usize>, Group)>,
    rules: Rules,
    /// Steps done, skipped updates included.
    pub step: u64,
    /// Where the scale of the loss stands, where there is one: a copy of what lies on a GPU.
    pub scale: Option<Scale>,
    moments: Moments,
}

/// Moments and moving average, as flat as the trainables.
#[derive(Debug)]
enum Moments {
    Host { first: Vec<f32>, second: Vec<f32>, average: Vec<f32> },
    Cuda(Box<OnDevice>),
}

#[derive(Debug)]
struct OnDevice {
    cuda: Arc<Cuda>,
    adamw: DeviceAdamW,
    buffers: Buffers,
    /// Both moments, then the average.
    memory: Memory,
    len: usize,
}

impl Optimizer {
    /// An optimizer for the trainables of `program`; `group` gives the settings of a trainable by its name.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(program: &mut Program, group: impl Fn(&str) -> Group, rules: Rules) -> Result<Self> {
        let mut groups: Vec<(Range<usize>, Group)> = vec![];
        for (name, range) in program.entries() {
            let settings = group(name);
            match groups.last_mut() {
                Some((all, last)) if *last == settings => all.end = range.end,
                _ => groups.push((range.clone(), settings)),
            }
        }
        let scale = rules.scaling.map(|s| s.start());
        scale.map_or(Ok(()), |s| program.scale_loss(s.value))?;
        let moments = match program.device().clone() {
            Device::Cpu => {
                let flat = program.trainables()?;
                let zeros = vec![0.0; flat.master.len()];
                let average = if rules.ema.is_some() { flat.master.to_vec() } else { vec![] };
                Moments::Host { first: zeros.clone(), second: zeros, average }
            }
            Device::Cuda(cuda) => {
                Moments::Cuda(Box::new(OnDevice::new(&cuda, program, &groups, &rules)?))
            }
        };
        Ok(Self { groups, rules, step: 0, scale, moments })
    }

    /// Passes whose gradients make a step.
    pub fn passes(&self) -> usize {
        self.rules.passes
    }

    /// Launches the step on a GPU, without waiting; nothing on the host, where [`Optimizer::update`] does it.
    ///
    /// # Errors
    /// Those of the device.
    pub fn launch(&self) -> Result<()> {
        match &self.moments {
            Moments::Cuda(d) => d.adamw.step(&d.buffers),
            Moments::Host { .. } => Ok(()),
        }
    }

    /// Ends one step on gradients that are the sum over the passes. On a GPU it was launched before and may be under way:
    /// `None`; [`Optimizer::took`] tells what it came to. A skipped update changes nothing but the scale; the step
    /// counts, for the learning rate too, but not for AdamW's bias correction and the warm-up of the moving average.
    ///
    /// # Errors
    /// [`Error::Shape`] when `program` is not what the optimizer was made for; [`Error::Data`] when the
    /// gradient is not finite and the loss is not scaled (nothing was changed then), or too many updates were skipped.
    pub fn update(&mut self, program: &mut Program) -> Result<Option<Updated>> {
        let Moments::Host { first, second, average } = &mut self.moments else {
            self.step += 1;
            return Ok(None);
        };
        let mut flat = program.trainables()?;
        let (groups, rules, scale) = (&self.groups[..], &self.rules, self.scale);
        let step = HostStep { groups, rules, step: self.step, scale };
        let (norm, scale) = step.run(&mut flat, [first, second, average])?;
        scale.map_or(Ok(()), |s| program.scale_loss(s.value))?;
        self.step += 1;
        self.ended(norm, scale, self.step).map(Some)
    }

    /// Takes note of what the oldest step that was not told yet came to on a GPU: the state there after it.
    ///
    /// # Errors
    /// [`Error::Data`] as in [`Optimizer::update`].
    pub fn took(&mut self, state: DeviceStep) -> Result<Updated> {
        let state = state.check()?;
        self.ended(state.norm, self.scale.map(|_| state.scale), state.step.into())
    }

    fn ended(&mut self, norm: f32, scale: Option<Scale>, step: u64) -> Result<Updated> {
        let before = std::mem::replace(&mut self.scale, scale);
        scale.map_or(Ok(()), |s| scale::check(s, step))?;
        Ok(Updated { norm, scale: before.zip(scale).map(|(before, after)| [before, after]) })
    }

    /// Where the [`DeviceStep`] lies on a GPU.
    pub fn state_address(&self) -> Option<u64> {
        match &self.moments {
            Moments::Cuda(d) => Some(d.adamw.state_address()),
            Moments::Host { .. } => None,
        }
    }

    /// What is saved as the result: the moving average where there is one, else the trainables.
    ///
    /// # Errors
    /// Those of the device.
    pub fn result(&self, program: &Program) -> Result<Vec<f32>> {
        let state = self.state(program)?;
        Ok(if state.average.is_empty() { state.master } else { state.average })
    }

    /// Everything that a run needs to go on.
    ///
    /// # Errors
    /// Those of the device.
    pub fn state(&self, program: &Program) -> Result<State> {
        let master = program.master()?;
        let (step, scale, [first, second, average]) = match &self.moments {
            Moments::Host { first, second, average } => {
                (self.step, self.scale, [first, second, average].map(Clone::clone))
            }
            Moments::Cuda(d) => {
                let now = d.adamw.state()?; // what is still under way, too
                (now.step.into(), self.scale.map(|_| now.scale), d.read()?)
            }
        };
        Ok(State { step, scale, master, first, second, average })
    }

    /// Goes back to `state`.
    ///
    /// # Errors
    /// [`Error::Shape`] when it belongs to other trainables; [`Error::Config`] when one has a scaled loss and the other
    /// has none; those of the device.
    pub fn restore(&mut self, program: &mut Program, state: State) -> Result<()> {
        if state.scale.is_some() != self.scale.is_some() {
            let words = |scaled| if scaled { "a scaled loss" } else { "a loss without a scale" };
            return Err(Error::Config {
                key: "--resume".into(),
                found: format!("a checkpoint with {}", words(state.scale.is_some())),
                expected: words(self.scale.is_some()).into(),
                fix: "start the run again in another --out".into(),
            });
        }
        program.set_master(&state.master)?;
        state.scale.map_or(Ok(()), |s| program.scale_loss(s.value))?;
        (self.step, self.scale) = (state.step, state.scale);
        match &mut self.moments {
            Moments::Host { first, second, average } => {
                (*first, *second, *average) = (state.first, state.second, state.average);
                Ok(())
            }
            Moments::Cuda(d) => d.write(&state),
        }
    }
}

/// One step on the host.
struct HostStep<'a> {
    groups: &'a [(Range<usize>, Group)],
    rules: &'a Rules,
    step: u64,
    scale: Option<Scale>,
}

impl HostStep<'_> {
    /// The norm of the mean gradient before clipping, and where the scale stands then.
    fn run(
        &self,
        flat: &mut Flat<'_>,
        moments: [&mut Vec<f32>; 3],
    ) -> Result<(f32, Option<Scale>)> {
        let [first, second, average] = moments;
        let unit = 1.0 / self.rules.passes.max(1) as f32 / self.scale.map_or(1.0, |s| s.value);
        if unit != 1.0 {
            grad_norm::scale(flat.grad, unit);
        }
        let norm = grad_norm::clip(flat.grad, self.rules.clip);
        let after = self.rules.scaling.zip(self.scale);
        let after = after.map(|(scaling, scale)| scaling.after(scale, norm.is_finite()));
        if !norm.is_finite() && after.is_some() {
            return Ok((norm, after));
        }
        if !norm.is_finite() {
            return Err(Error::Data {
                at: format!("step {}", self.step + 1),
                found: "a gradient that is not finite".into(),
                expected: "finite numbers".into(),
                fix: "lower train.learning_rate, or check the weights".into(),
            });
        }
        let factor = self.rules.factor(self.step);
        let made = self.step - self.scale.map_or(0, |s| u64::from(s.skipped));
        for (range, group) in self.groups {
            let learning_rate = (f64::from(group.learning_rate) * factor) as f32;
            let state = StepState { step: made, learning_rate };
            let count = flat.entries.len();
            let too_long = || Error::Shape {
                at: "optimizer".into(),
                what: "trainables",
                got: vec![count],
                want: "those the optimizer was made for".into(),
            };
            let master = flat.master.get_mut(range.clone()).ok_or_else(too_long)?;
            let grad = flat.grad.get(range.clone()).ok_or_else(too_long)?;
            let first = first.get_mut(range.clone()).ok_or_else(too_long)?;
            let second = second.get_mut(range.clone()).ok_or_else(too_long)?;
            group.adamw.step(state, (master, grad), (first, second))?;
        }
        if let Some(decay) = self.rules.ema {
            ema::update(average, flat.master, ema::warm_decay(decay, made));
        }
        Ok((norm, after))
    }
}

impl OnDevice {
    fn new(
        cuda: &Arc<Cuda>,
        program: &Program,
        groups: &[(Range<usize>, Group)],
        rules: &Rules,
    ) -> Result<Self> {
        let part = |(range, group): &(Range<usize>, Group)| Part {
            range: range.clone(),
            learning_rate: group.learning_rate,
            adamw: group.adamw,
        };
        let parts: Vec<Part> = groups.iter().map(part).collect();
        let flat = program.flat_on_device();
        let constants = Constants {
            len: flat.len,
            passes: rules.passes,
            clip: rules.clip,
            decay: rules.ema,
            factors: rules.factors.clone(),
            scaling: rules.scaling,
        };
        let count = 2 + usize::from(rules.ema.is_some());
        let bytes = flat.len * size_of::<f32>();
        let memory = cuda.alloc(count * bytes)?;
        cuda.fill(memory.address(), count * bytes, 0)?;
        let at = |i: u64| memory.address() + i * bytes as u64;
        let average = rules.ema.map(|_| at(2));
        if let Some(average) = average {
            cuda.copy(average, flat.master, bytes)?;
        }
        let buffers = Buffers {
            master: flat.master,
            grad: flat.grad,
            first: at(0),
            second: at(1),
            average,
            shadow: None,
            start: rules.scaling.map(|_| flat.start),
        };
        let adamw = DeviceAdamW::new(cuda, &parts, &constants)?;
        Ok(Self { cuda: cuda.clone(), adamw, buffers, memory, len: flat.len })
    }

    fn read(&self) -> Result<[Vec<f32>; 3]> {
        let mut all = vec![0.0f32; self.memory.bytes() / size_of::<f32>()];
        self.cuda.download(self.memory.address(), bytemuck::cast_slice_mut(&mut all))?;
        let part = |i: usize| all.get(i * self.len..(i + 1) * self.len).unwrap_or(&[]).to_vec();
        Ok([part(0), part(1), part(2)])
    }

    fn write(&self, state: &State) -> Result<()> {
        let all = [&state.first[..], &state.second, &state.average].concat();
        if all.len() * size_of::<f32>() != self.memory.bytes() {
            return Err(Error::Shape {
                at: "checkpoint".into(),
                what: "moments",
                got: vec![all.len()],
                want: format!("{} elements", self.memory.bytes() / size_of::<f32>()),
            });
        }
        self.cuda.upload(self.memory.address(), bytemuck::cast_slice(&all))?;
        let step = u32::try_from(state.step).unwrap_or(u32::MAX);
        let scale = state.scale.unwrap_or_default();
        self.adamw.set_state(&DeviceStep { step, scale, ..DeviceStep::default() })
    }
}
