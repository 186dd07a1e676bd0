//! Operands as tiles want them: strips of 32 rows and panels of 32 columns, rounded to bf16.
//!
//! A strip holds, `DEPTH` by `DEPTH` of `k`, two tiles of 16 rows `[row][k]`; a panel two tiles of 16 columns
//! `[pair of k][column][2]`. Seen as pairs of `k` one is the other transposed, so both are packed alike. Every tap
//! starts a new step; what is missing is zero.

use super::{
    super::{
        elements::Elements,
        pack::Unpacked,
        product::{Left, index},
    },
    shape::{BLOCK, DEPTH, Form, SIDE, STEP},
};
use std::{
    arch::x86_64::{
        __m512bh, __m512i, _mm256_loadu_epi16, _mm256_maskz_loadu_epi16, _mm512_cvtepu16_epi32,
        _mm512_cvtne2ps_pbh, _mm512_loadu_epi16, _mm512_loadu_ps, _mm512_loadu_si512,
        _mm512_maskz_loadu_epi16, _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_or_si512,
        _mm512_permutexvar_epi16, _mm512_set1_ps, _mm512_setzero_si512, _mm512_shuffle_i32x4,
        _mm512_slli_epi32, _mm512_storeu_si512, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64,
        _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    },
    ops::Range,
};

/// Elements of a line of an operand that a tile takes.
trait Number: Copy {
    /// 32 neighbours along `k`, rounded; those from `count` on are zero and not read.
    unsafe fn along(from: *const Self, count: usize, scale: f32) -> __m512i;
    /// 16 neighbours of two lines as pairs; those from `count` on are zero and not read, and so is a null line.
    unsafe fn across(from: [*const Self; 2], count: usize, scale: f32) -> __m512i;
}

fn mask16(count: usize) -> u16 {
    if count >= 16 { u16::MAX } else { (1 << count) - 1 }
}

/// The bits of rounded numbers.
fn bits(v: __m512bh) -> __m512i {
    // SAFETY: plain bits of the same size.
    unsafe { std::mem::transmute(v) }
}

/// Places of words that interleave the two halves of a register.
static INTERLEAVED: [u16; 32] = [
    0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28,
    13, 29, 14, 30, 15, 31,
];

impl Number for f32 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn along(from: *const Self, count: usize, scale: f32) -> __m512i {
        // SAFETY: the caller's promise: `count` elements are readable.
        unsafe {
            let (low, high) = if count >= DEPTH {
                (_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16)))
            } else {
                let rest = mask16(count.saturating_sub(16));
                (
                    _mm512_maskz_loadu_ps(mask16(count), from),
                    _mm512_maskz_loadu_ps(rest, from.wrapping_add(16)),
                )
            };
            let scale = _mm512_set1_ps(scale);
            bits(_mm512_cvtne2ps_pbh(_mm512_mul_ps(high, scale), _mm512_mul_ps(low, scale)))
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn across(from: [*const Self; 2], count: usize, scale: f32) -> __m512i {
        // SAFETY: the caller's promise: `count` elements of each line are readable.
        unsafe {
            let line = |from: *const f32| match from.is_null() {
                true => _mm512_set1_ps(0.0),
                false => _mm512_maskz_loadu_ps(mask16(count), from),
            };
            let scale = _mm512_set1_ps(scale);
            let [a, b] = [line(from[0]), line(from[1])];
            let both = _mm512_cvtne2ps_pbh(_mm512_mul_ps(b, scale), _mm512_mul_ps(a, scale));
            let places = _mm512_loadu_si512(INTERLEAVED.as_ptr().cast());
            _mm512_permutexvar_epi16(places, bits(both))
        }
    }
}

impl Number for u16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn along(from: *const Self, count: usize, _: f32) -> __m512i {
        // SAFETY: the caller's promise: `count` elements are readable.
        unsafe {
            if count >= DEPTH {
                return _mm512_loadu_epi16(from.cast());
            }
            _mm512_maskz_loadu_epi16((1u32 << count) - 1, from.cast())
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn across(from: [*const Self; 2], count: usize, _: f32) -> __m512i {
        // SAFETY: the caller's promise: `count` elements of each line are readable.
        unsafe {
            let line = |from: *const u16| match (from.is_null(), count >= SIDE) {
                (true, _) => _mm512_setzero_si512(),
                (_, true) => _mm512_cvtepu16_epi32(_mm256_loadu_epi16(from.cast())),
                _ => _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask16(count), from.cast())),
            };
            let [a, b] = [line(from[0]), line(from[1])];
            _mm512_or_si512(a, _mm512_slli_epi32::<16>(b))
        }
    }
}

/// 16 x 16 pairs, rows to columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(r: [__m512i; SIDE]) -> [__m512i; SIDE] {
    let mut pairs = r;
    for i in 0..SIDE / 2 {
        pairs[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    let mut fours = pairs;
    for i in 0..SIDE / 4 {
        for j in 0..2 {
            let (a, b) = (pairs[4 * i + j], pairs[4 * i + 2 + j]);
            fours[4 * i + 2 * j] = _mm512_unpacklo_epi64(a, b);
            fours[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(a, b);
        }
    }
    // fours[4 i + j] holds, lane by lane l, elements 4 l + j of rows 4 i ..
    let mut out = fours;
    for j in 0..4 {
        let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
        let (ab_even, ab_odd) =
            (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (cd_even, cd_odd) =
            (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
        out[j] = _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even);
        out[8 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_even, cd_even);
        out[4 + j] = _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd);
        out[12 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd);
    }
    out
}

/// A tile from 16 lines along `k`; null lines are zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn tile_along<T: Number>(
    to: *mut u16,
    line: impl Fn(usize) -> *const T,
    count: usize,
    (scale, form): (f32, Form),
) {
    let mut rows = [_mm512_setzero_si512(); SIDE];
    for (i, row) in rows.iter_mut().enumerate() {
        let from = line(i);
        if !from.is_null() {
            // SAFETY: the caller's promise: `count` elements of the line are readable.
            *row = unsafe { T::along(from, count, scale) };
        }
    }
    // SAFETY: a tile is writable.
    unsafe { store(to, rows, form == Form::Panel) };
}

/// A tile from 32 lines of 16 neighbours across; null lines are zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn tile_across<T: Number>(
    to: *mut u16,
    line: impl Fn(usize) -> *const T,
    count: usize,
    (scale, form): (f32, Form),
) {
    let mut pairs = [_mm512_setzero_si512(); SIDE];
    for (i, pair) in pairs.iter_mut().enumerate() {
        // SAFETY: the caller's promise: `count` elements of each line are readable.
        *pair = unsafe { T::across([line(2 * i), line(2 * i + 1)], count, scale) };
    }
    // SAFETY: a tile is writable.
    unsafe { store(to, pairs, form == Form::Strip) };
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn store(to: *mut u16, rows: [__m512i; SIDE], turned: bool) {
    let rows = if turned { transposed(rows) } else { rows };
    for (i, row) in rows.into_iter().enumerate() {
        // SAFETY: the caller's promise: a tile is writable.
        unsafe { _mm512_storeu_si512(to.add(i * DEPTH).cast(), row) };
    }
}

/// Calls `f(number of the step in the range, tap, first k, elements)` for every step of a range.
fn each_step(range: Range<usize>, len: usize, mut f: impl FnMut(usize, usize, usize, usize)) {
    let per_tap = len.div_ceil(DEPTH).max(1);
    for (i, step) in range.enumerate() {
        let (tap, k) = (step / per_tap, step % per_tap * DEPTH);
        f(i, tap, k, DEPTH.min(len - k));
    }
}

/// Packs `range` of the steps of 32 columns of `source` from `first` on; as a strip they are rows of a left operand.
///
/// # Panics
/// When `to` or the source is too short: a bug of the caller.
pub fn pack_columns(
    to: &mut [u16],
    source: &Unpacked<'_>,
    first: usize,
    range: Range<usize>,
    form: Form,
) {
    assert!(range.len() * STEP <= to.len(), "bf16: a packed operand is too short");
    if range.is_empty() {
        return;
    }
    match source.data {
        Elements::F32(data) => pack_numbers(to, (data, source), first, range, form),
        Elements::Bf16(data) => {
            assert!(source.scale == 1.0, "bf16: a factor on rounded numbers");
            pack_numbers(to, (bytemuck::cast_slice::<_, u16>(data), source), first, range, form);
        }
        Elements::F16(_) => unreachable!("bf16: an f16 operand"),
    }
}

fn pack_numbers<T: Number>(
    to: &mut [u16],
    (data, s): (&[T], &Unpacked<'_>),
    first: usize,
    range: Range<usize>,
    form: Form,
) {
    let along = s.row_stride == 1;
    assert!(along || s.column_stride == 1, "bf16: a stride on both sides");
    let width = s.n.saturating_sub(first).min(BLOCK);
    let base = data.as_ptr();
    each_step(range, s.len, |i, tap, k, count| {
        let start = s.taps.get(tap) * s.tap_stride + k * s.row_stride + first * s.column_stride;
        if width > 0 {
            let last = start + (count - 1) * s.row_stride + (width - 1) * s.column_stride;
            assert!(last < data.len(), "bf16: an operand is too short");
        }
        for half in 0..2 {
            let own = width.saturating_sub(half * SIDE).min(SIDE);
            let to = to[i * STEP + half * SIDE * DEPTH..][..SIDE * DEPTH].as_mut_ptr();
            let at = base.wrapping_add(start + half * SIDE * s.column_stride);
            let null = std::ptr::null();
            // SAFETY: the bounds of the step were checked; the unit was detected, and with it these instructions.
            unsafe {
                if along {
                    let line = |j| {
                        if j < own { at.wrapping_add(j * s.column_stride) } else { null }
                    };
                    tile_along(to, line, count, (s.scale, form));
                } else {
                    let line = |k| {
                        if k < count { at.wrapping_add(k * s.row_stride) } else { null }
                    };
                    tile_across(to, line, own, (s.scale, form));
                }
            }
        }
    });
}

/// Packs `range` of the steps of rows `rows`, at most 32, of a left operand with lists of `count` rows.
///
/// # Panics
/// When `to` or the operand is too short: a bug of the caller.
pub fn pack_rows(
    to: &mut [u16],
    left: &Left<'_>,
    (rows, count): (Range<usize>, usize),
    range: Range<usize>,
) {
    assert!(range.len() * STEP <= to.len(), "bf16: a packed operand is too short");
    each_step(range, left.len, |i, tap, k, elements| {
        for half in 0..2 {
            let to = to[i * STEP + half * SIDE * DEPTH..][..SIDE * DEPTH].as_mut_ptr();
            let line = |j: usize| {
                let row = rows.start + half * SIDE + j;
                if row >= rows.end {
                    return std::ptr::null();
                }
                match index(left.rows, tap * count + row) {
                    Some(r) => left.data[r * left.len + k..][..elements].as_ptr(),
                    None => std::ptr::null(),
                }
            };
            // SAFETY: every line was sliced; the unit was detected, and with it these instructions.
            unsafe { tile_along(to, line, elements, (1.0, Form::Strip)) };
        }
    });
}
