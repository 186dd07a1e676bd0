//! Where the trainables start: adapters from their distribution or a file, everything else from the base.

use super::is_decoupling;
use crate::{
    error::Result,
    plan::{WeightLayout, WeightSource},
    tensor::{
        Floats,
        philox::{self, Stream},
    },
};
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// The base's weights, and fresh adapters: `A ~ N(0, 1/r)` (standard deviation, as peft's "gaussian"), `B = 0`.
///
/// A decoupling starts with its mask at sigmoid(0) = 0.5, the experts' second layers at 0, so that what it makes of a text
/// is the sum of text and background, every other matrix `U(-1/sqrt(in), 1/sqrt(in))` as torch's linear layers, biases 0.
///
/// The draw of a matrix is addressed by its name, so it does not depend on which others exist.
#[derive(Debug)]
pub struct InitialWeights<S> {
    base: S,
    seed: u64,
    given: HashMap<String, Floats>,
}

impl<S: WeightSource> InitialWeights<S> {
    /// Fresh adapters under `seed` over `base`.
    pub fn new(base: S, seed: u64) -> Self {
        Self { base, seed, given: HashMap::new() }
    }

    /// Takes the parameter `name` (runtime layout, with or without a padded one's zeros) from `data` instead.
    pub fn give(&mut self, name: &str, data: Vec<f32>) {
        self.given.insert(name.into(), data.into());
    }
}

impl<S: WeightSource> WeightSource for InitialWeights<S> {
    fn get(&self, name: &str, dims: &[usize], layout: WeightLayout) -> Result<Option<Floats>> {
        if let Some(data) = self.given.get(name) {
            let bare = data.len() == layout.elements(dims) && data.len() < dims.iter().product();
            return Ok(Some(match bare {
                true => layout.pad(dims, data.to_vec()).into(),
                false => data.clone(),
            }));
        }
        if name.contains(".lora_A.") {
            let drawn = gaussian(self.seed, name, &layout.unpadded(dims));
            return Ok(Some(layout.pad(dims, drawn).into()));
        }
        if name.contains(".lora_B.") {
            return Ok(Some(vec![0.0; dims.iter().product()].into()));
        }
        if is_decoupling(name) {
            return Ok(Some(decoupling(self.seed, name, dims).into()));
        }
        self.base.get(name, dims, layout)
    }

    fn keeper(&self, name: &str) -> Option<&dyn WeightSource> {
        if self.given.contains_key(name) { None } else { Some(&self.base) }
    }
}

/// The stream of a parameter's draw.
fn stream(name: &str) -> u64 {
    let digest = Sha256::digest(name.as_bytes());
    let mut stream = [0u8; 8];
    stream.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(stream)
}

fn decoupling(seed: u64, name: &str, dims: &[usize]) -> Vec<f32> {
    let mut data = vec![0.0; dims.iter().product()];
    let silent = name.ends_with(".bias") || name.ends_with(".mask");
    if !silent && !name.ends_with("experts.fc2.weight") {
        let bound = 1.0 / (dims.last().copied().unwrap_or(1).max(1) as f32).sqrt();
        let mut random = Stream::new(seed, stream(name));
        data.iter_mut().for_each(|v| *v = (2.0 * random.uniform() - 1.0) * bound);
    }
    data
}

fn gaussian(seed: u64, name: &str, dims: &[usize]) -> Vec<f32> {
    let mut data = vec![0.0; dims.iter().product()];
    philox::fill_normal(seed, stream(name), &mut data);
    let deviation = 1.0 / dims.first().copied().unwrap_or(1).max(1) as f32;
    data.iter_mut().for_each(|v| *v *= deviation);
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Unpadded;

    struct Nothing;
    impl WeightSource for Nothing {
        fn get(&self, _: &str, _: &[usize], _: WeightLayout) -> Result<Option<Floats>> {
            Ok(None)
        }
    }

    #[test]
    fn adapters_start_as_peft_starts_them() {
        let start = InitialWeights::new(Nothing, 1);
        let get = |name: &str, dims: &[usize]| start.get(name, dims, WeightLayout::Dense).unwrap();
        let a = get("unet.x.lora_A.weight", &[8, 4096]).unwrap();
        let variance = a.iter().map(|v| v * v).sum::<f32>() / a.len() as f32;
        assert!((variance.sqrt() - 0.125).abs() < 0.002, "{variance}");
        assert_ne!(a, get("unet.y.lora_A.weight", &[8, 4096]).unwrap());
        let padded = WeightLayout::Padded { rows: 4, columns: 64, of: Unpadded::Dense };
        let name = "unet.x.lora_A.weight";
        let four = start.get(name, &[8, 64], padded).unwrap().unwrap();
        assert_eq!(four[..256], *get(name, &[4, 64]).unwrap());
        assert_eq!(four[256..], [0.0; 256]);
        assert!(get("unet.x.lora_B.weight", &[6, 8]).unwrap().iter().all(|v| *v == 0.0));
        assert!(get("unet.x.weight", &[1]).is_none());
    }
}
