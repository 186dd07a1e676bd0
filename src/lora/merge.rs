//! Folding adapters into weights, and finding the best adapter for a given change.

use super::{
    Loras,
    layer::{Layer, Lora},
};
use crate::{
    error::{Error, Result},
    plan::{WeightLayout, WeightSource},
    tensor::{Floats, Tensor, safetensors::Dtype},
};
use rayon::prelude::*;

/// What the layer adds to its weight at `strength`: `strength * alpha / r * up @ down`, in the
/// published layout `[out, in]` or `[out, in, kh, kw]`, accumulated in f32 over r in order.
///
/// # Errors
/// [`Error::Weights`] for a layer whose factors are unsound.
pub fn delta(layer: &Layer, strength: f32) -> Result<Tensor> {
    let unsound = || wrong(&layer.module, layer.misfit().unwrap_or_else(|| "damaged".into()));
    if layer.misfit().is_some() {
        return Err(unsound());
    }
    let down = layer.down.to_tensor().ok_or_else(unsound)?.data;
    let up = layer.up.to_tensor().ok_or_else(unsound)?.data;
    let rank = layer.rank();
    let scale = layer.scale() * strength;
    let dims = layer.weight_dims();
    let cols = down.len() / rank;
    let mut data = vec![0.0; dims.iter().product()];
    if cols > 0 {
        data.par_chunks_mut(cols).zip(up.par_chunks(rank)).for_each(|(row, up)| {
            for (u, down) in up.iter().zip(down.chunks(cols)) {
                let u = u * scale;
                row.iter_mut().zip(down).for_each(|(x, d)| *x += u * d);
            }
        });
    }
    Ok(Tensor { dims, data })
}

/// Adds the layer to `weight` (published layout).
///
/// # Errors
/// [`Error::Weights`] when the shapes differ.
pub fn merge(weight: &mut Tensor, layer: &Layer, strength: f32) -> Result<()> {
    let delta = delta(layer, strength)?;
    if delta.data.len() != weight.data.len() || delta.dims.first() != weight.dims.first() {
        let line = format!("adapts {:?}, the weight is {:?}", delta.dims, weight.dims);
        return Err(wrong(&layer.module, line));
    }
    weight.data.iter_mut().zip(&delta.data).for_each(|(w, d)| *w += d);
    Ok(())
}

/// The adapter of rank `rank` that is nearest to `delta` (`[out, in]` or `[out, in, kh, kw]`) in
/// the Frobenius norm: the largest singular triples, the root of each value on either side; alpha =
/// rank.
///
/// # Errors
/// [`Error::Weights`] for a rank of 0 or above the matrix's, or when the decomposition does not
/// converge.
pub fn extract(module: &str, delta: &Tensor, rank: usize, dtype: Dtype) -> Result<Layer> {
    let out = delta.dims.first().copied().unwrap_or(0);
    let cols = delta.data.len().checked_div(out).unwrap_or(0);
    if rank == 0 || rank > out.min(cols) || !matches!(delta.dims.len(), 2 | 4) {
        let line =
            format!("rank {rank} of a {:?} change, expected 1 to its smaller side", delta.dims);
        return Err(wrong(module, line));
    }
    let matrix =
        nalgebra::DMatrix::from_row_iterator(out, cols, delta.data.iter().map(|x| f64::from(*x)));
    let svd = matrix.try_svd(true, true, f64::EPSILON, 0);
    let parts = svd.and_then(|s| Some((s.u?, s.singular_values, s.v_t?)));
    let (u, values, v_t) =
        parts.ok_or_else(|| wrong(module, "no singular values (is a value not finite?)".into()))?;
    let root = |k: usize| values[k].max(0.0).sqrt();
    #[allow(clippy::cast_possible_truncation)]
    let narrow = |x: f64| x as f32;
    let mut down_dims = vec![rank];
    down_dims.extend(&delta.dims[1..]);
    let mut up_dims = vec![out, rank];
    up_dims.extend(delta.dims[2..].iter().map(|_| 1));
    let down = Tensor::from_fn(&down_dims, |i| narrow(root(i / cols) * v_t[(i / cols, i % cols)]));
    let up = Tensor::from_fn(&up_dims, |i| narrow(u[(i / rank, i % rank)] * root(i % rank)));
    Layer::new(module, &down, &up, rank as f32, dtype)
}

impl Lora {
    /// The adapter times `strength`, folded into alpha.
    pub fn scaled(mut self, strength: f32) -> Self {
        self.layers.values_mut().for_each(|l| l.alpha *= strength);
        self
    }
}

/// Base weights with adapters folded in as they are read: nothing is left to compute at run time.
#[derive(Debug)]
pub struct Merged<'a, S> {
    /// The base.
    pub base: &'a S,
    /// What is folded in.
    pub loras: &'a Loras,
}

impl<S: WeightSource> WeightSource for Merged<'_, S> {
    fn get(&self, name: &str, dims: &[usize], layout: WeightLayout) -> Result<Option<Floats>> {
        let Some(weight) = self.base.get(name, dims, layout)? else {
            return Ok(None);
        };
        let module = name.strip_suffix(".weight").unwrap_or("");
        let mut sum: Option<Vec<f32>> = None;
        for (lora, strength) in self.loras.iter() {
            let Some(layer) = lora.layers.get(module) else { continue };
            let shape = layout.checkpoint_dims(dims);
            let data = sum.take().unwrap_or_else(|| layout.to_checkpoint(dims, weight.to_vec()));
            let mut whole = Tensor { dims: shape, data };
            merge(&mut whole, layer, strength)?;
            sum = Some(whole.data);
        }
        Ok(Some(sum.map_or(weight, |data| layout.to_runtime(dims, data).into())))
    }

    fn keeper(&self, name: &str) -> Option<&dyn WeightSource> {
        let module = name.strip_suffix(".weight").unwrap_or("");
        let merged = self.loras.iter().any(|(lora, _)| lora.layers.contains_key(module));
        if merged { None } else { Some(self.base) }
    }
}

fn wrong(module: &str, problem: String) -> Error {
    Error::Weights {
        source_name: "adapter".into(),
        missing: vec![],
        unknown: vec![],
        misshaped: vec![format!("{module}: {problem}")],
    }
}
