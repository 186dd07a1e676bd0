//! A tensor in host memory, as files and tests see it.

/// Dense row-major f32 tensor in host memory.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Tensor {
    /// Extents, outermost first.
    pub dims: Vec<usize>,
    /// `dims.iter().product()` elements.
    pub data: Vec<f32>,
}

impl Tensor {
    /// A tensor of `dims` filled by `f(index)`.
    pub fn from_fn(dims: &[usize], f: impl FnMut(usize) -> f32) -> Self {
        Self { dims: dims.to_vec(), data: (0..dims.iter().product()).map(f).collect() }
    }

    /// A tensor of `dims` over `data`; `None` when the counts differ.
    pub fn new(dims: &[usize], data: Vec<f32>) -> Option<Self> {
        (dims.iter().product::<usize>() == data.len()).then(|| Self { dims: dims.to_vec(), data })
    }

    /// Axes in the order `axes` (out axis i is in axis `axes[i]`): `[N,C,H,W]` by `[0,2,3,1]` is `[N,H,W,C]`.
    pub fn permuted(&self, axes: &[usize]) -> Self {
        let n = self.dims.len();
        let mut strides = vec![1usize; n];
        for i in (0..n.saturating_sub(1)).rev() {
            strides[i] = strides[i + 1] * self.dims[i + 1];
        }
        let dims: Vec<usize> = axes.iter().map(|a| self.dims[*a]).collect();
        let steps: Vec<usize> = axes.iter().map(|a| strides[*a]).collect();
        let mut at = vec![0usize; n];
        let mut data = Vec::with_capacity(self.data.len());
        for _ in 0..self.data.len() {
            data.push(self.data[at.iter().zip(&steps).map(|(i, s)| i * s).sum::<usize>()]);
            for i in (0..n).rev() {
                at[i] += 1;
                if at[i] < dims[i] {
                    break;
                }
                at[i] = 0;
            }
        }
        Self { dims, data }
    }
}
