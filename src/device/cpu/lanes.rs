//! Sixteen f32 lanes: one AVX-512 register, two AVX2 registers, four Neon registers, or an array.

use super::isa::Isa;

/// Lanes of every vector, on every instruction set: packed operands look the same everywhere.
pub(super) const LANES: usize = 16;

/// Sixteen numbers.
///
/// # Safety
/// Every method may use the instruction set of its type: call it only where that was detected.
/// `load` and `store` touch sixteen elements at any alignment.
pub(super) trait Lanes: Copy {
    /// Rows of the tile that fits the registers of this set.
    const ROWS: usize;
    /// Vectors of a full panel.
    const VECTORS: usize;
    unsafe fn splat(v: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self + a b`.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
}

/// `to[k * to_stride + j] = scale from[j * from_stride + k]` for 16 by 16 elements.
///
/// # Safety
/// Sixteen rows of sixteen elements are readable and writable; the instruction set `isa` is there.
#[inline(always)]
pub(super) unsafe fn transpose(
    isa: Isa,
    (from, from_stride): (*const f32, usize),
    (to, to_stride): (*mut f32, usize),
    scale: f32,
) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512 | Isa::Avx2 => {
            for (k, j) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
                // SAFETY: the caller's promise; an AVX-512 machine has AVX2.
                unsafe {
                    let from = (from.add(j * from_stride + k), from_stride);
                    x86::transpose_8x8(from, (to.add(k * to_stride + j), to_stride), scale);
                }
            }
        }
        _ => {
            for j in 0..LANES {
                for k in 0..LANES {
                    // SAFETY: the caller's promise.
                    unsafe { *to.add(k * to_stride + j) = *from.add(j * from_stride + k) * scale };
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use super::Lanes;
    use std::arch::x86_64::{
        __m256, __m512, _mm_loadu_ps, _mm256_castps128_ps256, _mm256_fmadd_ps,
        _mm256_insertf128_ps, _mm256_loadu_ps, _mm256_mul_ps, _mm256_set1_ps, _mm256_shuffle_ps,
        _mm256_storeu_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
        _mm512_set1_ps, _mm512_storeu_ps,
    };

    /// [`super::transpose`] for 8 by 8 elements.
    ///
    /// # Safety
    /// Eight rows of eight elements are readable and writable, and AVX2 is there.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn transpose_8x8(
        (from, from_stride): (*const f32, usize),
        (to, to_stride): (*mut f32, usize),
        scale: f32,
    ) {
        // a register holds four elements of row j and, above them, four of row j + 4
        let halves = |j: usize, k: usize| {
            // SAFETY: the caller's promise.
            unsafe {
                let low = _mm_loadu_ps(from.add(j * from_stride + k));
                let high = _mm_loadu_ps(from.add((j + 4) * from_stride + k));
                _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(low), high)
            }
        };
        let scale = _mm256_set1_ps(scale);
        for k in [0, 4] {
            let [a, b, c, d] = [halves(0, k), halves(1, k), halves(2, k), halves(3, k)];
            let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
            let (ab_high, cd_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
            let rows = [
                _mm256_shuffle_ps::<0x44>(ab, cd),
                _mm256_shuffle_ps::<0xee>(ab, cd),
                _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
                _mm256_shuffle_ps::<0xee>(ab_high, cd_high),
            ];
            for (i, row) in rows.into_iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe {
                    _mm256_storeu_ps(to.add((k + i) * to_stride), _mm256_mul_ps(row, scale));
                }
            }
        }
    }

    /// AVX-512 F.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512(__m512);

    // 24 accumulators, 3 vectors of the right operand and a broadcast of the left: 28 of 32 registers
    impl Lanes for Avx512 {
        const ROWS: usize = 8;
        const VECTORS: usize = 3;
        #[inline(always)]
        unsafe fn splat(v: f32) -> Self {
            // SAFETY: the caller detected the instruction set.
            Self(unsafe { _mm512_set1_ps(v) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above, and sixteen elements are readable.
            Self(unsafe { _mm512_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above, and sixteen elements are writable.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: the caller detected the instruction set.
            Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
        }
    }

    /// AVX2 with FMA.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(__m256, __m256);

    // 6 x 2 accumulators, 2 registers of the right operand and a broadcast: 15 of 16 registers
    impl Lanes for Avx2 {
        const ROWS: usize = 6;
        const VECTORS: usize = 1;
        #[inline(always)]
        unsafe fn splat(v: f32) -> Self {
            // SAFETY: the caller detected the instruction set.
            let v = unsafe { _mm256_set1_ps(v) };
            Self(v, v)
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above, and sixteen elements are readable.
            unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above, and sixteen elements are writable.
            unsafe {
                _mm256_storeu_ps(to, self.0);
                _mm256_storeu_ps(to.add(8), self.1);
            }
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: the caller detected the instruction set.
            unsafe { Self(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) mod arm {
    use super::Lanes;
    use std::arch::aarch64::{float32x4_t, vdupq_n_f32, vfmaq_f32, vld1q_f32, vst1q_f32};

    /// Neon.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Neon([float32x4_t; 4]);

    // 6 x 4 accumulators, 4 registers of the right operand and a broadcast: 29 of 32 registers
    impl Lanes for Neon {
        const ROWS: usize = 6;
        const VECTORS: usize = 1;
        #[inline(always)]
        unsafe fn splat(v: f32) -> Self {
            // SAFETY: every processor of this architecture has the instruction.
            Self([unsafe { vdupq_n_f32(v) }; 4])
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above, and sixteen elements are readable.
            unsafe {
                Self([
                    vld1q_f32(from),
                    vld1q_f32(from.add(4)),
                    vld1q_f32(from.add(8)),
                    vld1q_f32(from.add(12)),
                ])
            }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above, and sixteen elements are writable.
            unsafe {
                vst1q_f32(to, self.0[0]);
                vst1q_f32(to.add(4), self.0[1]);
                vst1q_f32(to.add(8), self.0[2]);
                vst1q_f32(to.add(12), self.0[3]);
            }
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            let mut sum = self.0;
            for (i, s) in sum.iter_mut().enumerate() {
                // SAFETY: every processor of this architecture has the instruction.
                *s = unsafe { vfmaq_f32(*s, a.0[i], b.0[i]) };
            }
            Self(sum)
        }
    }
}

/// Any processor.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; LANES]);

// on an x86-64 of the first generation: 2 x 4 accumulators, 4 registers of the right operand, a broadcast
impl Lanes for Portable {
    const ROWS: usize = 2;
    const VECTORS: usize = 1;
    #[inline(always)]
    unsafe fn splat(v: f32) -> Self {
        Self([v; LANES])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: sixteen elements are readable.
        Self(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: sixteen elements are writable.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        let mut sum = self.0;
        for (i, s) in sum.iter_mut().enumerate() {
            *s += a.0[i] * b.0[i];
        }
        Self(sum)
    }
}
