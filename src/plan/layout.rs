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
    /// As another one, with zeros behind the rows and the columns (the first and the last runtime dimension).
    Padded {
        /// Rows without the zeros.
        rows: usize,
        /// Columns without the zeros.
        columns: usize,
        /// How it lies without them.
        of: Unpadded,
    },
}

/// What [`WeightLayout::Padded`] pads: the layout of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "WeightLayout says what they are")]
pub enum Unpadded {
    Dense,
    Conv,
    Conv1x1,
}

impl From<Unpadded> for WeightLayout {
    fn from(of: Unpadded) -> Self {
        match of {
            Unpadded::Dense => WeightLayout::Dense,
            Unpadded::Conv => WeightLayout::Conv,
            Unpadded::Conv1x1 => WeightLayout::Conv1x1,
        }
    }
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
            (WeightLayout::Padded { of, .. }, _) => {
                WeightLayout::from(of).checkpoint_dims(&self.unpadded(dims))
            }
            _ => dims.to_vec(),
        }
    }

    /// Runtime dims without the zeros that are not in the checkpoint.
    pub fn unpadded(self, dims: &[usize]) -> Vec<usize> {
        let mut own = dims.to_vec();
        if let WeightLayout::Padded { rows, columns, .. } = self
            && let [first, .., last] = own.as_mut_slice()
        {
            (*first, *last) = (rows, columns);
        }
        own
    }

    /// Data of [`WeightLayout::unpadded`] dims in `dims`, with the zeros.
    pub fn pad(self, dims: &[usize], data: Vec<f32>) -> Vec<f32> {
        let (WeightLayout::Padded { columns, .. }, Some(wide)) = (self, dims.last()) else {
            return data;
        };
        let mut all = vec![0.0; dims.iter().product()];
        for (to, from) in all.chunks_mut(*wide).zip(data.chunks(columns)) {
            to[..columns].copy_from_slice(from);
        }
        all
    }

    /// Elements in the checkpoint for runtime dims.
    pub fn elements(self, dims: &[usize]) -> usize {
        self.checkpoint_dims(dims).iter().product()
    }

    /// Checkpoint data to runtime data; `dims` are the runtime dims.
    pub fn to_runtime(self, dims: &[usize], data: Vec<f32>) -> Vec<f32> {
        if let WeightLayout::Padded { of, .. } = self {
            let own = self.unpadded(dims);
            return self.pad(dims, WeightLayout::from(of).to_runtime(&own, data));
        }
        let from = self.checkpoint_dims(dims);
        self.permute(&from, data, [&[0, 2, 3, 1], &[2, 3, 1, 0], &[1, 2, 3, 0]])
    }

    /// Runtime data to checkpoint data; `dims` are the runtime dims.
    pub fn to_checkpoint(self, dims: &[usize], data: Vec<f32>) -> Vec<f32> {
        if let (WeightLayout::Padded { columns, of, .. }, Some(wide)) = (self, dims.last()) {
            let own = self.unpadded(dims);
            let data = data.chunks(*wide).flat_map(|row| row.iter().take(columns).copied());
            let data = data.take(own.iter().product()).collect();
            return WeightLayout::from(of).to_checkpoint(&own, data);
        }
        self.permute(dims, data, [&[0, 3, 1, 2], &[3, 2, 0, 1], &[2, 0, 1]])
    }

    /// `axes`: of a convolution, a transposed one, a depthwise one.
    fn permute(self, dims: &[usize], data: Vec<f32>, axes: [&[usize]; 3]) -> Vec<f32> {
        let axes: &[usize] = match self {
            WeightLayout::Conv => axes[0],
            WeightLayout::ConvTransposed => axes[1],
            WeightLayout::Depthwise => axes[2],
            WeightLayout::Transposed => &[1, 0],
            WeightLayout::Dense | WeightLayout::Conv1x1 | WeightLayout::Padded { .. } => {
                return data;
            }
        };
        if axes.len() != dims.len() {
            return data;
        }
        crate::tensor::Tensor { dims: dims.to_vec(), data }.permuted(axes).data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_padded_matrix_comes_back_and_the_rest_is_zero() {
        let layout = WeightLayout::Padded { rows: 2, columns: 3, of: Unpadded::Conv1x1 };
        assert_eq!(layout.checkpoint_dims(&[4, 5]), [2, 3, 1, 1]);
        assert_eq!(layout.elements(&[4, 5]), 6);
        let data = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let mut want = vec![0.0; 20];
        want[..3].copy_from_slice(&data[..3]);
        want[5..8].copy_from_slice(&data[3..]);
        let wide = layout.to_runtime(&[4, 5], data.clone());
        assert_eq!(wide, want);
        assert_eq!(layout.to_checkpoint(&[4, 5], wide), data);
    }

    #[test]
    fn a_padded_kernel_has_more_filters() {
        let (dims, own) = ([4, 3, 3, 2], [3, 3, 3, 2]);
        let layout = WeightLayout::Padded { rows: 3, columns: 2, of: Unpadded::Conv };
        assert_eq!(layout.checkpoint_dims(&dims), [3, 2, 3, 3]);
        let data: Vec<f32> = (1..=54).map(|v| v as f32).collect();
        let wide = layout.to_runtime(&dims, data.clone());
        assert_eq!(wide[..54], WeightLayout::Conv.to_runtime(&own, data.clone()));
        assert_eq!(wide[54..], [0.0; 18]);
        assert_eq!(layout.to_checkpoint(&dims, wide), data);
    }
}
