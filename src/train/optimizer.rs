//! AdamW over the flat trainables of a program: groups, clipping, moving average.

use crate::{
    device::Device,
    error::{Error, Result},
    kernels::{
        adamw::{AdamW, StepState},
        ema, grad_norm,
    },
    plan::Flat,
};
use std::ops::Range;

/// Settings of one group of trainables.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Peak learning rate.
    pub learning_rate: f32,
    /// The rest.
    pub adamw: AdamW,
}

/// The optimizer's state and settings.
#[derive(Debug)]
pub struct Optimizer {
    groups: Vec<(Range<usize>, Group)>,
    clip: f32,
    ema: Option<f32>,
    /// Steps done.
    pub step: u64,
    /// First moments, as flat as the trainables.
    pub first: Vec<f32>,
    /// Second moments.
    pub second: Vec<f32>,
    /// Moving average; empty when off.
    pub average: Vec<f32>,
}

impl Optimizer {
    /// An optimizer for `flat`; `group` gives the settings of a trainable by its name; `clip` is the largest gradient
    /// norm (0 = off), `ema` the decay of the moving average.
    pub fn new(
        flat: &Flat<'_>,
        group: impl Fn(&str) -> Group,
        clip: f32,
        ema: Option<f32>,
    ) -> Self {
        let mut groups: Vec<(Range<usize>, Group)> = vec![];
        for (name, range) in flat.entries {
            let settings = group(name);
            match groups.last_mut() {
                Some((all, last)) if *last == settings => all.end = range.end,
                _ => groups.push((range.clone(), settings)),
            }
        }
        let n = flat.master.len();
        let average = if ema.is_some() { flat.master.to_vec() } else { vec![] };
        Self { groups, clip, ema, step: 0, first: vec![0.0; n], second: vec![0.0; n], average }
    }

    /// One step on gradients that are the sum over `accumulated` passes; `factor` is that of the schedule.
    /// Returns the norm of the mean gradient before clipping.
    ///
    /// # Errors
    /// [`Error::Shape`] when `flat` is not what the optimizer was made for; [`Error::Data`] when the
    /// gradient is not finite (nothing was changed then).
    pub fn update(
        &mut self,
        device: &Device,
        flat: &mut Flat<'_>,
        accumulated: usize,
        factor: f64,
    ) -> Result<f32> {
        let mean = 1.0 / accumulated.max(1) as f32;
        if mean != 1.0 {
            flat.grad.iter_mut().for_each(|g| *g *= mean);
        }
        let norm = grad_norm::clip(flat.grad, self.clip);
        if !norm.is_finite() {
            return Err(Error::Data {
                at: format!("step {}", self.step + 1),
                found: "a gradient that is not finite".into(),
                expected: "finite numbers".into(),
                fix: "lower train.learning_rate, or check the weights".into(),
            });
        }
        for (range, group) in &self.groups {
            let learning_rate = (f64::from(group.learning_rate) * factor) as f32;
            let state = StepState { step: self.step, learning_rate };
            let count = flat.entries.len();
            let too_long = || Error::Shape {
                at: "optimizer".into(),
                what: "trainables",
                got: vec![count],
                want: "those the optimizer was made for".into(),
            };
            let master = flat.master.get_mut(range.clone()).ok_or_else(too_long)?;
            let grad = flat.grad.get(range.clone()).ok_or_else(too_long)?;
            let first = self.first.get_mut(range.clone()).ok_or_else(too_long)?;
            let second = self.second.get_mut(range.clone()).ok_or_else(too_long)?;
            group.adamw.step(device, state, (master, grad), (first, second))?;
        }
        if let Some(decay) = self.ema {
            ema::update(&mut self.average, flat.master, ema::warm_decay(decay, self.step));
        }
        self.step += 1;
        Ok(norm)
    }

    /// What is saved as the result: the moving average where there is one, else the trainables.
    pub fn result<'a>(&'a self, flat: &'a Flat<'_>) -> &'a [f32] {
        if self.average.is_empty() { flat.master } else { &self.average }
    }
}
