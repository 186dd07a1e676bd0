//! How parameters lie in checkpoints.

/// How a parameter lies in the published checkpoint, relative to the runtime layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightLayout {
    /// The same.
    Dense,
    /// Checkpoint `[O, I, kh, kw]`, runtime `[O, kh, kw, I]`.
    Conv,
    /// Checkpoint `[O, I, 1, 1]`, runtime `[O, I]`.
    Conv1x1,
    /// Checkpoint `[I, O]`, runtime `[O, I]`.
    Transposed,
    /// A transposed convolution: checkpoint `[I, O, kh, kw]`, runtime `[kh, kw, O, I]`.
    ConvTransposed,
    /// Checkpoint `[C, 1, kh, kw]`, runtime `[kh, kw, C]`.
    Depthwise,
}

impl WeightLayout {
    /// Dims in the checkpoint for runtime dims.
    pub fn checkpoint_dims(self, dims: &[usize]) -> Vec<usize> {
        match (self, dims) {
            (WeightLayout::Conv, [o, h, w, i]) => vec![*o, *i, *h, *w],
            (WeightLayout::Conv1x1, [o, i]) => vec![*o, *i, 1, 1],
            (WeightLayout::Transposed, [o, i]) => vec![*i, *o],
            (WeightLayout::ConvTransposed, [h, w, o, i]) => vec![*i, *o, *h, *w],
            (WeightLayout::Depthwise, [h, w, c]) => vec![*c, 1, *h, *w],
            _ => dims.to_vec(),
        }
    }

    /// Checkpoint data to runtime data; `dims` are the runtime dims.
    pub fn to_runtime(self, dims: &[usize], data: Vec<f32>) -> Vec<f32> {
        let from = self.checkpoint_dims(dims);
        self.permute(&from, data, [&[0, 2, 3, 1], &[2, 3, 1, 0], &[1, 2, 3, 0]])
    }

    /// Runtime data to checkpoint data; `dims` are the runtime dims.
    pub fn to_checkpoint(self, dims: &[usize], data: Vec<f32>) -> Vec<f32> {
        self.permute(dims, data, [&[0, 3, 1, 2], &[3, 2, 0, 1], &[2, 0, 1]])
    }

    /// `axes`: of a convolution, a transposed one, a depthwise one.
    fn permute(self, dims: &[usize], data: Vec<f32>, axes: [&[usize]; 3]) -> Vec<f32> {
        let axes: &[usize] = match self {
            WeightLayout::Conv => axes[0],
            WeightLayout::ConvTransposed => axes[1],
            WeightLayout::Depthwise => axes[2],
            WeightLayout::Transposed => &[1, 0],
            WeightLayout::Dense | WeightLayout::Conv1x1 => return data,
        };
        if axes.len() != dims.len() {
            return data;
        }
        crate::tensor::Tensor { dims: dims.to_vec(), data }.permuted(axes).data
    }
}
