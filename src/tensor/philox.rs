//! Philox 4x32-10: the same numbers on the CPU and in `kernels/common/philox.cuh`, bit for bit.
//!
//! A draw is addressed, never consumed: `(seed, stream, index)` gives it, so resume needs no generator state.

const MUL: (u32, u32) = (0xD251_1F53, 0xCD9E_8D57);
const WEYL: (u32, u32) = (0x9E37_79B9, 0xBB67_AE85);

/// Who draws from which stream: the one table of this program's random numbers. A run's streams hold the number of
/// the pass, the picture or the epoch in their low 56 bits.
pub mod streams {
    /// Changes the seed of training, whose streams would else meet those of the data.
    pub const TRAINING_SEED: u64 = 0x7472_6169_6e00_0000;
    /// Training: noise of the posterior, by pass.
    pub const POSTERIOR: u64 = 1 << 56;
    /// Training: noise of the forward process, by pass.
    pub const NOISE: u64 = 2 << 56;
    /// Training: timesteps, by pass.
    pub const TIMESTEP: u64 = 3 << 56;
    /// Data: the order of the photos, by epoch.
    pub const EPOCH: u64 = 0xD0 << 56;
    /// Data: everything about a subject's picture, by picture.
    pub const SAMPLE: u64 = 0xD1 << 56;
    /// Data: everything about a prior picture, by picture.
    pub const PRIOR: u64 = 0xD2 << 56;
    /// Which samples of a pass keep their background; numbered by pass.
    pub const BACKGROUND: u64 = 4 << 56;
    /// Sampling: the unit noise that a picture starts from; its seed is the picture's.
    pub const START_NOISE: u64 = 0x5E1;
    /// Sampling: where the initialization puts the subjects; its seed is the picture's.
    pub const COMPOSITION: u64 = 0x1417;

    /// Filling a hole: all noise of a walk, by draw; its seed is the picture's.
    pub const FILL_NOISE: u64 = 0xF1 << 56;

    /// A study with people: which pictures, which side, which order.
    pub const STUDY: u64 = 0x57D7;
    /// Scores: which pictures are drawn again for the interval of a mean.
    pub const INTERVAL: u64 = 0x117E;

    /// Number `index` of the stream `of`.
    pub fn numbered(of: u64, index: u64) -> u64 {
        of | (index & ((1 << 56) - 1))
    }
}

/// Ten rounds of Philox 4x32 on `counter` under `key` (Salmon et al. 2011).
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(MUL.0) * u64::from(counter[0]);
        let b = u64::from(MUL.1) * u64::from(counter[2]);
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(WEYL.0), key[1].wrapping_add(WEYL.1)];
    }
    counter
}

/// The four 32-bit words number `block` of stream `stream` under `seed`.
pub fn words(seed: u64, stream: u64, block: u64) -> [u32; 4] {
    philox4x32(
        [block as u32, (block >> 32) as u32, stream as u32, (stream >> 32) as u32],
        [seed as u32, (seed >> 32) as u32],
    )
}

/// `u / 2^24` in `[0, 1)` from the high 24 bits of a word; exact in f32.
pub fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// Natural logarithm of `x` in `(0, 1]` with multiplications, additions and fma only (error < 2 ulp).
fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let shifted = bits.wrapping_sub(0x3F35_04F3); // sqrt(1/2): the mantissa lands in [sqrt 1/2, sqrt 2)
    let exponent = (shifted as i32) >> 23;
    let mantissa = f32::from_bits((shifted & 0x007F_FFFF).wrapping_add(0x3F35_04F3));
    let f = mantissa - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    // atanh series: ln(1 + f) = 2 s (1 + z/3 + z^2/5 + z^3/7 + z^4/9)
    let p = f32::mul_add(z, 2.0 / 9.0, 2.0 / 7.0);
    let p = f32::mul_add(z, p, 2.0 / 5.0);
    let p = f32::mul_add(z, p, 2.0 / 3.0);
    let tail = s * (z * p);
    let lead = f32::mul_add(s, 2.0, tail);
    f32::mul_add(exponent as f32, std::f32::consts::LN_2, lead)
}

/// `(cos, sin)` of `2 pi turns` for `turns` in `[0, 1)`, with multiplications, additions and fma only.
fn cos_sin_turns(turns: f32) -> (f32, f32) {
    let eighths = turns * 4.0;
    let quadrant = (eighths + 0.5) as i32; // nearest quarter turn
    let x = (eighths - quadrant as f32) * std::f32::consts::FRAC_PI_2; // [-pi/4, pi/4]
    let z = x * x;
    let c = f32::mul_add(z, 2.480_158_7e-5, -1.388_888_9e-3);
    let c = f32::mul_add(z, c, 4.166_666_8e-2);
    let c = f32::mul_add(z, c, -0.5);
    let c = f32::mul_add(z, c, 1.0);
    let s = f32::mul_add(z, 2.755_731_9e-6, -1.984_127e-4);
    let s = f32::mul_add(z, s, 8.333_334e-3);
    let s = f32::mul_add(z, s, -1.666_666_7e-1);
    let s = f32::mul_add(z * x, s, x);
    match quadrant & 3 {
        0 => (c, s),
        1 => (-s, c),
        2 => (-c, -s),
        _ => (s, -c),
    }
}

/// Two standard normals from two words (Box-Muller): `sqrt(-2 ln u) (cos, sin)(2 pi v)`, `u` in `(0, 1]`.
pub fn normal_pair(a: u32, b: u32) -> (f32, f32) {
    let u = ((a >> 8) + 1) as f32 * (1.0 / 16_777_216.0);
    let radius = (-2.0 * ln(u)).max(0.0).sqrt();
    let (c, s) = cos_sin_turns(unit(b));
    (radius * c, radius * s)
}

/// The standard normals `4 block .. 4 block + 4` of a stream.
pub fn normals(seed: u64, stream: u64, block: u64) -> [f32; 4] {
    let w = words(seed, stream, block);
    let (a, b) = normal_pair(w[0], w[1]);
    let (c, d) = normal_pair(w[2], w[3]);
    [a, b, c, d]
}

/// Fills `out` with the first `out.len()` normals of a stream.
pub fn fill_normal(seed: u64, stream: u64, out: &mut [f32]) {
    for (block, chunk) in out.chunks_mut(4).enumerate() {
        chunk.copy_from_slice(&normals(seed, stream, block as u64)[..chunk.len()]);
    }
}

/// A sequential reader of one stream, for decisions on the host (data picks, coins, crops).
#[derive(Clone, Debug)]
pub struct Stream {
    seed: u64,
    stream: u64,
    at: u64,
}

impl Stream {
    /// The stream `stream` under `seed`, from its start.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self { seed, stream, at: 0 }
    }

    /// The next 32 random bits.
    pub fn word(&mut self) -> u32 {
        let w = words(self.seed, self.stream, self.at / 4)[(self.at % 4) as usize];
        self.at += 1;
        w
    }

    /// Uniform in `[0, 1)`, 24 bits.
    pub fn uniform(&mut self) -> f32 {
        unit(self.word())
    }

    /// Uniform integer in `[0, n)`; 0 when `n` is 0. Unbiased (rejection).
    pub fn below(&mut self, n: usize) -> usize {
        let n = n.min(u32::MAX as usize) as u32;
        if n == 0 {
            return 0;
        }
        let zone = u32::MAX - (u32::MAX % n + 1) % n;
        loop {
            let w = self.word();
            if w <= zone {
                return (w % n) as usize;
            }
        }
    }

    /// Uniform integer in `[low, high]`.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// A fair coin.
    pub fn coin(&mut self) -> bool {
        self.word() & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_equals_the_published_vectors() {
        assert_eq!(
            philox4x32([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32([0xffff_ffff; 4], [0xffff_ffff; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn box_muller_agrees_with_double_precision() {
        for i in 0..20_000u32 {
            let w = words(3, 1, u64::from(i));
            let (a, b) = normal_pair(w[0], w[1]);
            let u = f64::from((w[0] >> 8) + 1) / 16_777_216.0;
            let v = f64::from(w[1] >> 8) / 16_777_216.0 * std::f64::consts::TAU;
            let r = (-2.0 * u.ln()).sqrt();
            assert!((f64::from(a) - r * v.cos()).abs() < 3e-6, "{i} {a} {}", r * v.cos());
            assert!((f64::from(b) - r * v.sin()).abs() < 3e-6, "{i} {b} {}", r * v.sin());
        }
    }

    #[test]
    fn moments_are_standard_normal() {
        let mut x = vec![0.0; 200_000];
        fill_normal(7, 0, &mut x);
        let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / 2e5;
        let var = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>() / 2e5;
        assert!(mean.abs() < 0.01 && (var - 1.0).abs() < 0.015, "{mean} {var}");
    }
}
