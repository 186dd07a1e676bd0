//! Random weights of any model, for plans that run without a checkpoint.

use crate::{
    error::Result,
    plan::{StoredBytes, WeightLayout, WeightSource, rounded},
    tensor::{DType, Floats, philox},
};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// What was drawn for programs that store it in half precision.
#[derive(Default)]
struct Halves(HashMap<String, StoredBytes>);

impl std::fmt::Debug for Halves {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Halves({})", self.0.len())
    }
}

/// Weights of a fresh model: `N(0, 1/fan_in)` matrices and kernels, scales 1, biases 0; each drawn once and shared.
#[derive(Debug, Default)]
pub struct RandomWeights {
    seed: u64,
    made: Mutex<HashMap<String, Floats>>,
    halves: Mutex<Halves>,
}

impl RandomWeights {
    /// Weights under `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, made: Mutex::default(), halves: Mutex::default() }
    }

    /// Bytes drawn so far.
    pub fn bytes(&self) -> usize {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        let half: usize = halves.0.values().map(|w| (**w).as_ref().len()).sum();
        half + made.values().map(|w| w.len() * 4).sum::<usize>()
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
    fn get(&self, name: &str, dims: &[usize], layout: WeightLayout) -> Result<Option<Floats>> {
        let made = || self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(w) = made().get(name) {
            return Ok(Some(w.clone()));
        }
        let drawn = self.draw(name, &layout.unpadded(dims)); // the others need not wait for it
        let w = Floats::from(layout.pad(dims, drawn));
        Ok(Some(made().entry(name.into()).or_insert(w).clone()))
    }

    fn halves(
        &self,
        name: &str,
        dims: &[usize],
        layout: WeightLayout,
        dtype: DType,
    ) -> Result<Option<StoredBytes>> {
        let made = || self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        let key = format!("{name} {dtype}");
        if let Some(w) = made().0.get(&key) {
            return Ok(Some(w.clone()));
        }
        let drawn = self.draw(name, &layout.unpadded(dims));
        let w = rounded(&layout.pad(dims, drawn), dtype);
        Ok(Some(made().0.entry(key).or_insert(w).clone()))
    }
}

impl WeightSource for &RandomWeights {
    fn get(&self, name: &str, dims: &[usize], layout: WeightLayout) -> Result<Option<Floats>> {
        (**self).get(name, dims, layout)
    }

    fn halves(
        &self,
        name: &str,
        dims: &[usize],
        layout: WeightLayout,
        dtype: DType,
    ) -> Result<Option<StoredBytes>> {
        (**self).halves(name, dims, layout, dtype)
    }
}
