//! Extents of one call of a convolution.

/// Extents of one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub images: usize,
    /// Input height, width, channels.
    pub h: usize,
    pub w: usize,
    pub c: usize,
    /// Kernel height, width.
    pub kh: usize,
    pub kw: usize,
    /// Output height, width, channels.
    pub oh: usize,
    pub ow: usize,
    pub o: usize,
    pub stride: usize,
    pub top: usize,
    pub left: usize,
    pub upsample: bool,
}

impl Shape {
    pub fn taps(&self) -> usize {
        self.kh.saturating_mul(self.kw)
    }

    pub fn outputs(&self) -> usize {
        self.images * self.oh * self.ow
    }

    /// How many times larger the image is read than it is, along each axis.
    pub fn zoom(&self) -> usize {
        1 + usize::from(self.upsample)
    }
}
