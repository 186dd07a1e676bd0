//! Sixteen f32 lanes: one AVX-512 register, two AVX2 registers, four Neon registers, or an array.

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

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use super::Lanes;
    use std::arch::x86_64::{
        __m256, __m512, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_storeu_ps,
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps,
    };

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
