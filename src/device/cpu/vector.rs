//! Elementwise mathematics that the compiler turns into vector code.
//!
//! [`wide`] runs a closure with the instruction set in use; everything marked
//! `#[inline(always)]` inside it is compiled for them. No fused multiply-add is used, so the results do
//! not depend on the machine.

#![allow(clippy::excessive_precision)] // coefficients are given as published

use super::isa::Isa;
use rayon::prelude::*;

/// Runs `f` compiled for the instruction set in use.
#[inline(always)]
pub fn wide<R>(f: impl FnOnce() -> R) -> R {
    match Isa::current() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the set in use was detected.
        Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512 => unsafe { x86::avx512(f) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { x86::avx2(f) },
        // Neon is part of what the compiler takes for granted
        _ => f(),
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512cd,avx512dq,avx512vl")]
    pub(super) unsafe fn avx512<R>(f: impl FnOnce() -> R) -> R {
        f()
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2<R>(f: impl FnOnce() -> R) -> R {
        f()
    }
}

/// `e^x`, error below 2 ulp; 0 below -87.33, saturated above 88.37.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    let c = x.clamp(-87.33, 88.37);
    let shifted = c * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = (c - n * 0.693_359_4) - n * -2.121_944_4e-4; // ln 2 in two parts
    let p = 1.987_569_1e-4 * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_5e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 5.000_000_1e-1;
    let y = p * (r * r) + r + 1.0;
    // n stands in the low bits of `shifted`; converting n itself would be done lane by lane
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.33 { 0.0 } else { y * scale }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The error function, error below 1e-6 (rational minimax on [-4, 4]).
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let z = x * x;
    let p = -2.726_142_3e-10 * z + 2.770_681_4e-8;
    let p = p * z - 2.101_024_1e-6;
    let p = p * z - 5.692_506_4e-5;
    let p = p * z - 7.349_906_3e-4;
    let p = p * z - 2.954_599_8e-3;
    let p = p * z - 1.609_603_3e-2;
    let q = -1.456_607_2e-5 * z - 2.133_740_6e-4;
    let q = q * z - 1.682_827e-3;
    let q = q * z - 7.373_329e-3;
    let q = q * z - 1.426_473_9e-2;
    x * p / q
}

/// Elements one task handles; below it a loop stays on the calling thread.
pub const CHUNK_LEN: usize = 16 * 1024;

/// Calls `f(offset, chunk)` for consecutive chunks of `out`, in parallel when there are several.
///
/// `chunk_len` is rounded up to a multiple of `multiple`, so that rows stay whole.
pub fn for_chunks(out: &mut [f32], multiple: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let multiple = multiple.max(1);
    let len = CHUNK_LEN.div_ceil(multiple) * multiple;
    if out.len() <= len {
        wide(
            #[inline(always)]
            || f(0, out),
        );
        return;
    }
    out.par_chunks_mut(len).enumerate().for_each(|(i, c)| {
        wide(
            #[inline(always)]
            || f(i * len, c),
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp() {
        for i in -87_000..88_000 {
            let x = i as f32 * 1e-3;
            let want = f64::from(x).exp();
            let err = (f64::from(exp(x)) - want).abs() / want;
            assert!(err < 2.4e-7, "exp({x}) = {} error {err:e}", exp(x));
        }
        assert_eq!(exp(-1000.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan() && exp(f32::INFINITY) > 2e38);
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn erf_is_within_a_millionth() {
        for i in -500..=500 {
            let x = f64::from(i) * 1e-2;
            // Maclaurin series in double precision, accurate here
            let (mut term, mut sum, mut n) = (x, x, 0.0);
            while n < 200.0 {
                n += 1.0;
                term *= -x * x / n;
                sum += term / (2.0 * n + 1.0);
            }
            let want =
                if x.abs() > 4.5 { x.signum() } else { sum * 2.0 / std::f64::consts::PI.sqrt() };
            assert!((f64::from(erf(x as f32)) - want).abs() < 1e-6, "{x} {} {want}", erf(x as f32));
        }
    }
}
