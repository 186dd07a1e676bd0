//! A case: an operation, shapes and data; one list drives tests, gradient checks and benches.

use crate::{
    op::Op,
    tensor::{DType, Spec, philox::Stream},
};
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
    /// Content of the saved values before the call, where they are state that it changes in place; else empty.
    pub state: Vec<Fill>,
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
            state: vec![],
        }
    }

    /// Specs of the inputs with every float stored as `dtype`.
    pub fn specs(&self, dtype: DType) -> Vec<Spec> {
        let stored = |s: &Spec| match s.dtype {
            DType::I32 => s.clone(),
            _ => Spec::new(&s.dims, dtype),
        };
        self.ins.iter().map(stored).collect()
    }

    /// The inputs as bytes, seeded; floats in f32.
    pub fn inputs(&self, seed: u64) -> Vec<Vec<u8>> {
        let all = self.ins.iter().zip(&self.data).zip(0u64..);
        all.map(|((spec, fill), i)| fill.bytes(spec.len(), seed, i)).collect()
    }

    /// What the saved values hold before the call, seeded; `None` where that is undefined.
    pub fn state(&self, saved: &[Spec], seed: u64) -> Option<Vec<Vec<u8>>> {
        let all = saved.iter().zip(&self.state).zip(500u64..);
        let one = |((spec, fill), i): ((&Spec, &Fill), u64)| fill.bytes(spec.len(), seed, i);
        (!self.state.is_empty()).then(|| all.map(one).collect())
    }
}

impl Fill {
    /// `n` numbers of 4 bytes.
    fn bytes(&self, n: usize, seed: u64, i: u64) -> Vec<u8> {
        let mut s = Stream::new(seed, i);
        let f32s: Vec<f32> = match self {
            Fill::Ids(k) => {
                let ids: Vec<i32> =
                    (0..n).map(|_| i32::try_from(s.below(*k)).unwrap_or(0)).collect();
                return bytemuck::cast_slice(&ids).to_vec();
            }
            Fill::Words(words) => return bytemuck::cast_slice(words).to_vec(),
            Fill::Normal(scale) => {
                let mut v = vec![0.0; n];
                crate::tensor::philox::fill_normal(seed, 1000 + i, &mut v);
                v.iter().map(|x| x * scale).collect()
            }
            Fill::Uniform(a, b) => (0..n).map(|_| a + (b - a) * s.uniform()).collect(),
            Fill::Values(v) => (0..n).map(|i| v[i % v.len().max(1)]).collect(),
        };
        bytemuck::cast_slice(&f32s).to_vec()
    }
}
