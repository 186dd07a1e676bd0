//! Random weights of any model, for plans that run without a checkpoint.

use crate::{
    error::Result,
    plan::{WeightLayout, WeightSource},
    tensor::{Floats, philox},
};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// Weights of a fresh model: `N(0, 1/fan_in)` matrices and kernels, scales 1, biases 0; each drawn once and shared.
#[derive(Debug, Default)]
pub struct RandomWeights {
    seed: u64,
    made: Mutex<HashMap<String, Floats>>,
}

impl RandomWeights {
    /// Weights under `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, made: Mutex::default() }
    }

    /// Bytes drawn so far.
    pub fn bytes(&self) -> usize {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.values().map(|w| w.len() * 4).sum()
    }

    fn draw(&self, name: &str, dims: &[usize]) -> Vec<f32> {
        let mut data = vec![0.0; dims.iter().product()];
        if name.ends_with(".bias") {
            return data;
        }
        if dims.len() < 2 {
            data.fill(1.0);
            return data;
        }
        let stream =
            name.bytes().fold(17u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        philox::fill_normal(self.seed, stream, &mut data);
        let fan_in: usize = dims[1..].iter().product();
        let deviation = 1.0 / (fan_in.max(1) as f32).sqrt();
        data.iter_mut().for_each(|v| *v *= deviation);
        data
    }
}

impl WeightSource for RandomWeights {
    fn get(&self, name: &str, dims: &[usize], _: WeightLayout) -> Result<Option<Floats>> {
        let made = || self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(w) = made().get(name) {
            return Ok(Some(w.clone()));
        }
        let w = Floats::from(self.draw(name, dims)); // the others need not wait for it
        Ok(Some(made().entry(name.into()).or_insert(w).clone()))
    }
}

impl WeightSource for &RandomWeights {
    fn get(&self, name: &str, dims: &[usize], layout: WeightLayout) -> Result<Option<Floats>> {
        (**self).get(name, dims, layout)
    }
}
