//! Pictures in host memory: reading, writing, resizing and cropping by Pillow's rules.

mod grid;
mod read;
mod resize;
mod write;

pub use grid::grid;
pub use read::{decode, read};
pub use resize::{Filter, resize_plane, taps};
pub use write::{encode_png, read_text, write_png};

/// A picture of 8-bit samples, row-major, channels last.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Picture {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1 (gray, mask), 3 (RGB) or 4 (RGB and alpha, not premultiplied).
    pub channels: usize,
    /// `height * width * channels` samples.
    pub data: Vec<u8>,
}

impl Picture {
    /// A picture with every sample `value`.
    pub fn filled(width: usize, height: usize, channels: usize, value: u8) -> Self {
        Self { width, height, channels, data: vec![value; width * height * channels] }
    }

    /// A picture over `data`; `None` when the count does not fit.
    pub fn new(width: usize, height: usize, channels: usize, data: Vec<u8>) -> Option<Self> {
        let fits = matches!(channels, 1 | 3 | 4) && data.len() == width * height * channels;
        fits.then_some(Self { width, height, channels, data })
    }

    /// The samples of the pixel in column `x`, row `y`.
    pub fn at(&self, x: usize, y: usize) -> &[u8] {
        let i = (y * self.width + x) * self.channels;
        &self.data[i..i + self.channels]
    }

    /// The samples of the pixel in column `x`, row `y`, to write.
    pub fn at_mut(&mut self, x: usize, y: usize) -> &mut [u8] {
        let i = (y * self.width + x) * self.channels;
        &mut self.data[i..i + self.channels]
    }

    fn map(&self, channels: usize, f: impl Fn(&[u8], &mut Vec<u8>)) -> Self {
        let mut data = Vec::with_capacity(self.width * self.height * channels);
        self.data.chunks_exact(self.channels.max(1)).for_each(|p| f(p, &mut data));
        Self { width: self.width, height: self.height, channels, data }
    }

    /// Three channels: gray is repeated, alpha dropped.
    pub fn rgb(&self) -> Self {
        match self.channels {
            1 => self.map(3, |p, out| out.extend([p[0]; 3])),
            4 => self.map(3, |p, out| out.extend_from_slice(&p[..3])),
            _ => self.clone(),
        }
    }

    /// One channel, ITU-R 601 luma in 16-bit fixed point (Pillow's `convert("L")`).
    pub fn gray(&self) -> Self {
        match self.channels {
            1 => self.clone(),
            _ => self.map(1, |p, out| {
                let [r, g, b] = [u32::from(p[0]), u32::from(p[1]), u32::from(p[2])];
                out.push(((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8);
            }),
        }
    }

    /// The alpha channel as a gray picture, when there is one.
    pub fn alpha(&self) -> Option<Self> {
        (self.channels == 4).then(|| self.map(1, |p, out| out.push(p[3])))
    }

    /// The rectangle of `width` by `height` pixels at `(x, y)`; what lies outside is 0 (black).
    pub fn crop(&self, x: i64, y: i64, width: usize, height: usize) -> Self {
        let mut out = Self::filled(width, height, self.channels, 0);
        let x0 = x.clamp(0, self.width as i64);
        let x1 = x.saturating_add(width as i64).clamp(x0, self.width as i64);
        let bytes = (x1 - x0) as usize * self.channels;
        for row in 0..height {
            let source = y.saturating_add(row as i64);
            if bytes == 0 || source < 0 || source >= self.height as i64 {
                continue;
            }
            let from = (source as usize * self.width + x0 as usize) * self.channels;
            let to = (row * width + (x0 - x) as usize) * self.channels;
            out.data[to..to + bytes].copy_from_slice(&self.data[from..from + bytes]);
        }
        out
    }

    /// Pillow's `resize((width, height), filter)`: bit-equal for gray and RGB, and for RGBA
    /// (premultiplied inside).
    pub fn resize(&self, width: usize, height: usize, filter: Filter) -> Self {
        resize::resize(self, width, height, filter)
    }

    /// Resized so that the shorter side is `side` (torchvision's rule: the longer is truncated).
    pub fn shorter_side(&self, side: usize, filter: Filter) -> Self {
        let (w, h) = (self.width.max(1), self.height.max(1));
        let (nw, nh) = if w <= h { (side, side * h / w) } else { (side * w / h, side) };
        self.resize(nw.max(1), nh.max(1), filter)
    }

    /// Samples as an autoencoder takes them, `x / 127.5 - 1` in `[-1, 1]`, layout `[H, W, C]`.
    pub fn signed(&self) -> Vec<f32> {
        self.data.iter().map(|v| f32::from(*v) / 127.5 - 1.0).collect()
    }

    /// The picture of an autoencoder's output `[H, W, C]`: `round(127.5 (clamp(x, -1, 1) + 1))`; `None` when the
    /// count does not fit.
    pub fn from_signed(width: usize, height: usize, channels: usize, data: &[f32]) -> Option<Self> {
        let byte = |v: &f32| ((v.clamp(-1.0, 1.0) + 1.0) * 127.5).round() as u8;
        Self::new(width, height, channels, data.iter().map(byte).collect())
    }
}
