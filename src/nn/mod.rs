//! Layers: each names its parameters by the module path, and is frozen, trained or adapted by policy.
//!
//! A model is a straight line of calls on a [`Net`]. The recorder's `train_if` decides which parameters
//! are trained; [`Adapters`] decides which modules carry a low-rank adapter; model code says neither.

mod attention;
mod conv;
mod linear;
mod mixture;
mod norm;
mod resnet;

pub use attention::{Attend, DIFFUSERS, Masked, attention, padded_attention, repeated};
pub use conv::{Conv, conv, conv_without_bias, depthwise, double, patches, repeat};
pub use linear::{Bias, conv1x1, conv1x1_of, embedding_mlp, linear};
pub use mixture::{Mixed, Mixture, Routing, Way, mixture};
pub use norm::{After, group_norm, group_norm_of, layer_norm};
pub use resnet::{Resnet, resnet};

use crate::{
    error::{Error, Result},
    kernels::{activation, add, affine},
    lora::{Adapters, down_name, up_name},
    plan::{Recorder, Unpadded, Value, WeightLayout},
    tensor::DType,
};

/// The tensor cores' kernels read rows of 16 bytes: adapters have a multiple of so many 16-bit numbers.
const RANK_UNIT: usize = 8;

/// A recorder, the adapters, and the path of the module that is being recorded.
#[derive(Debug)]
pub struct Net<'a> {
    /// Where operations go.
    pub rec: &'a mut Recorder,
    /// Which modules are adapted.
    pub adapters: &'a Adapters,
    path: String,
}

impl<'a> Net<'a> {
    /// At the root; a component enters its prefix with [`Net::within`].
    pub fn new(rec: &'a mut Recorder, adapters: &'a Adapters) -> Self {
        Self { rec, adapters, path: String::new() }
    }

    /// Records `body` one module deeper: `name` joins the parameter path and the scope.
    ///
    /// # Errors
    /// Those of `body`.
    pub fn within<T>(
        &mut self,
        name: &str,
        body: impl FnOnce(&mut Net<'_>) -> Result<T>,
    ) -> Result<T> {
        let (path, adapters) = (self.join(name), self.adapters);
        self.rec.scope(name, |rec| body(&mut Net { rec, adapters, path }))
    }

    /// As [`Net::within`], and a segment that may be recomputed before its backward pass.
    ///
    /// # Errors
    /// Those of `body`.
    pub fn segment<T>(
        &mut self,
        name: &str,
        body: impl FnOnce(&mut Net<'_>) -> Result<T>,
    ) -> Result<T> {
        let (path, adapters) = (self.join(name), self.adapters);
        self.rec.checkpoint(name, |rec| body(&mut Net { rec, adapters, path }))
    }

    /// As [`Net::within`], and a segment that is always recomputed before its backward pass.
    ///
    /// # Errors
    /// Those of `body`.
    pub fn recomputed<T>(
        &mut self,
        name: &str,
        body: impl FnOnce(&mut Net<'_>) -> Result<T>,
    ) -> Result<T> {
        let (path, adapters) = (self.join(name), self.adapters);
        self.rec.recompute(name, |rec| body(&mut Net { rec, adapters, path }))
    }

    /// The parameter `name` of the current module, with runtime `dims`.
    pub fn param(&mut self, name: &str, dims: &[usize], layout: WeightLayout) -> Value {
        let full = self.join(name);
        self.rec.param(&full, dims, layout)
    }

    /// The weight of a product or a convolution of the current module, [`Recorder::weight`].
    pub fn weight(&mut self, name: &str, dims: &[usize], layout: WeightLayout) -> Value {
        let full = self.join(name);
        self.rec.weight(&full, dims, layout)
    }

    /// Extents of a value.
    pub fn dims(&self, v: Value) -> Vec<usize> {
        self.rec.spec(v).dims.clone()
    }

    /// Extent of the last axis; 0 for a scalar.
    pub fn channels(&self, v: Value) -> usize {
        self.rec.spec(v).dims.last().copied().unwrap_or(0)
    }

    /// Extents of a picture `[N, H, W, C]`.
    ///
    /// # Errors
    /// [`Error::Shape`] for any other number of axes.
    pub fn image_dims(&self, v: Value) -> Result<[usize; 4]> {
        self.known(v, "image", "4 axes [N, H, W, C]")
    }

    /// Extents of tokens `[N, L, C]`.
    ///
    /// # Errors
    /// [`Error::Shape`] for any other number of axes.
    pub fn token_dims(&self, v: Value) -> Result<[usize; 3]> {
        self.known(v, "tokens", "3 axes [N, L, C]")
    }

    fn known<const K: usize>(
        &self,
        v: Value,
        what: &'static str,
        want: &str,
    ) -> Result<[usize; K]> {
        let dims = &self.rec.spec(v).dims;
        dims.as_slice().try_into().map_err(|_| self.shape(v, what, want))
    }

    /// An [`Error::Shape`] about `v` at the current scope.
    pub fn shape(&self, v: Value, what: &'static str, want: impl Into<String>) -> Error {
        let (at, got) = (self.rec.here(), self.rec.spec(v).dims.clone());
        Error::Shape { at, what, got, want: want.into() }
    }

    /// `a + b` of one shape.
    ///
    /// # Errors
    /// Those of the operation.
    pub fn add(&mut self, a: Value, b: Value) -> Result<Value> {
        self.rec.apply(add::Add, &[a, b])
    }

    /// `scale * x + shift`; `x` itself when that changes nothing.
    ///
    /// # Errors
    /// Those of the operation.
    pub fn affine(&mut self, x: Value, scale: f32, shift: f32) -> Result<Value> {
        if scale == 1.0 && shift == 0.0 {
            return Ok(x);
        }
        self.rec.apply(affine::Affine { scale, shift }, &[x])
    }

    /// An activation function on every element.
    ///
    /// # Errors
    /// Those of the operation.
    pub fn activate(&mut self, x: Value, kind: activation::Kind) -> Result<Value> {
        self.rec.apply(activation::Activation { kind }, &[x])
    }

    /// Both matrices of adapter `index` of the current module: down `[rank, ..width]`, up `[out, rank]`. In 16 bits a rank
    /// that is no multiple of 8 is filled up with zeros, which training leaves as they are: the gradients of A's further
    /// rows are products with B's zero columns, those of B's further columns products with A's zero rows.
    fn adapter(
        &mut self,
        index: usize,
        rank: usize,
        width: &[usize],
        out: usize,
        of: Unpadded,
    ) -> [Value; 2] {
        let (a, b) = (down_name(&self.path, index), up_name(&self.path, index));
        let wide = match self.rec.dtype() {
            DType::F32 | DType::I32 => rank,
            DType::Bf16 | DType::F16 => rank.next_multiple_of(RANK_UNIT),
        };
        let up_of = if of == Unpadded::Dense { Unpadded::Dense } else { Unpadded::Conv1x1 };
        let (last, columns) = (width.last().copied().unwrap_or(1), rank);
        let layouts = match wide == rank {
            true => [of.into(), up_of.into()],
            false => [
                WeightLayout::Padded { rows: rank, columns: last, of },
                WeightLayout::Padded { rows: out, columns, of: up_of },
            ],
        };
        let down: Vec<usize> = [wide].iter().chain(width).copied().collect();
        [self.rec.param(&a, &down, layouts[0]), self.rec.param(&b, &[out, wide], layouts[1])]
    }

    fn join(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }
}
