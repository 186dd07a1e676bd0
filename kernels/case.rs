//! A case: an operation, shapes and data; one list drives tests, gradient checks and benches.

use crate::{op::Op, tensor::Spec, tensor::philox::Stream};
use std::sync::Arc;

/// One call of one operation.
#[derive(Clone, Debug)]
pub struct Case {
    /// `conv2d 3x3 stride 2 [1,7,9,8]`.
    pub name: String,
    /// The operation.
    pub op: Arc<dyn Op>,
    /// Specs of the inputs.
    pub ins: Vec<Spec>,
    /// Content of the inputs, one for each.
    pub data: Vec<Fill>,
    /// Which inputs have a gradient.
    pub grads: Vec<bool>,
}

/// Content of one input.
#[derive(Clone, Debug)]
pub enum Fill {
    /// Normal with this standard deviation.
    Normal(f32),
    /// Uniform in `[low, high)`.
    Uniform(f32, f32),
    /// Integers in `[0, n)`.
    Ids(usize),
    /// These values, repeated as often as needed.
    Values(Vec<f32>),
    /// These integers.
    Words(Vec<i32>),
}

impl Case {
    /// A case whose inputs are all standard normal f32 and all have a gradient.
    pub fn normal(name: &str, op: impl Op + 'static, dims: &[&[usize]]) -> Self {
        Self {
            name: format!("{name} {dims:?}"),
            op: Arc::new(op),
            ins: dims.iter().map(|d| Spec::f32(d)).collect(),
            data: vec![Fill::Normal(1.0); dims.len()],
            grads: vec![true; dims.len()],
        }
    }

    /// The inputs as bytes, seeded.
    pub fn inputs(&self, seed: u64) -> Vec<Vec<u8>> {
        let one = |(i, (spec, fill)): (usize, (&Spec, &Fill))| {
            let mut s = Stream::new(seed, i as u64);
            let n = spec.len();
            let f32s: Vec<f32> = match fill {
                Fill::Ids(k) => {
                    let ids: Vec<i32> =
                        (0..n).map(|_| i32::try_from(s.below(*k)).unwrap_or(0)).collect();
                    return bytemuck::cast_slice(&ids).to_vec();
                }
                Fill::Words(words) => return bytemuck::cast_slice(words).to_vec(),
                Fill::Normal(scale) => {
                    let mut v = vec![0.0; n];
                    crate::tensor::philox::fill_normal(seed, 1000 + i as u64, &mut v);
                    v.iter().map(|x| x * scale).collect()
                }
                Fill::Uniform(a, b) => (0..n).map(|_| a + (b - a) * s.uniform()).collect(),
                Fill::Values(v) => (0..n).map(|i| v[i % v.len().max(1)]).collect(),
            };
            bytemuck::cast_slice(&f32s).to_vec()
        };
        self.ins.iter().zip(&self.data).enumerate().map(one).collect()
    }
}
