//! Stored elements as f32, on every core.

use half::{bf16, f16, slice::HalfFloatSliceExt};
use rayon::prelude::*;
use safetensors::Dtype;

/// Elements that one task converts.
const PIECE: usize = 1 << 18;

/// Bytes of a little-endian F32, F16 or BF16 element; `None` for any other type.
pub(super) fn element_bytes(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F32 => Some(4),
        Dtype::F16 | Dtype::BF16 => Some(2),
        _ => None,
    }
}

/// `out[i]` is element `i` of `bytes`; exact. The type must be one of [`element_bytes`].
pub(super) fn widen(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    if out.len() <= PIECE {
        return widen_piece(dtype, bytes, out); // not worth waking anyone
    }
    let size = element_bytes(dtype).unwrap_or(4);
    let pieces = bytes.par_chunks(PIECE * size).zip(out.par_chunks_mut(PIECE));
    pieces.for_each(|(from, to)| widen_piece(dtype, from, to));
}

/// Matrices `[rows, from, to]` stored become `[rows, to, from]` as f32: `[O, I, kh kw]` to `[O, kh kw, I]`.
pub(super) fn widen_swapped(dtype: Dtype, bytes: &[u8], [from, to]: [usize; 2], out: &mut [f32]) {
    let (size, row) = (element_bytes(dtype).unwrap_or(4), from * to);
    if row == 0 {
        return;
    }
    let rows = (PIECE / row).max(1) * row;
    let pieces = bytes.par_chunks(rows * size).zip(out.par_chunks_mut(rows));
    pieces.for_each_init(
        || vec![0.0f32; row],
        |scratch, (bytes, out)| {
            for (b, o) in bytes.chunks_exact(row * size).zip(out.chunks_exact_mut(row)) {
                widen_piece(dtype, b, scratch);
                for (j, line) in o.chunks_exact_mut(from).enumerate() {
                    let column = scratch[j..].iter().step_by(to);
                    line.iter_mut().zip(column).for_each(|(v, s)| *v = *s);
                }
            }
        },
    );
}

/// Elements that a stack copy of misaligned bytes holds.
const ALIGNED: usize = 512;

/// One piece on this thread. `half` takes F16C, or NEON's conversions, where the machine has them.
fn widen_piece(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::F16 => through::<f16>(bytes, out, |from, to| from.convert_to_f32_slice(to)),
        Dtype::BF16 => through::<bf16>(bytes, out, |from, to| from.convert_to_f32_slice(to)),
        _ => bytemuck::cast_slice_mut(out).copy_from_slice(bytes),
    }
}

/// Calls `convert` on `bytes` as elements, through an aligned copy where they are not.
fn through<T: bytemuck::Pod>(bytes: &[u8], out: &mut [f32], convert: impl Fn(&[T], &mut [f32])) {
    if let Ok(elements) = bytemuck::try_cast_slice(bytes) {
        return convert(elements, out);
    }
    let mut copy = [T::zeroed(); ALIGNED];
    for (from, to) in bytes.chunks(ALIGNED * size_of::<T>()).zip(out.chunks_mut(ALIGNED)) {
        let aligned = &mut copy[..to.len()];
        bytemuck::cast_slice_mut(aligned).copy_from_slice(from);
        convert(aligned, to);
    }
}

/// Matrices `[rows, from, to]` of elements of `size` bytes become `[rows, to, from]`, bit for bit.
pub(super) fn swapped(size: usize, bytes: &[u8], [from, to]: [usize; 2]) -> Vec<u8> {
    let mut out = vec![0; bytes.len()];
    let row = from * to * size;
    if row > 0 {
        let rows = bytes.par_chunks_exact(row).zip(out.par_chunks_exact_mut(row));
        rows.for_each(|(b, o)| {
            for (i, v) in o.chunks_exact_mut(size).enumerate() {
                let at = (i % from * to + i / from) * size;
                v.copy_from_slice(&b[at..at + size]);
            }
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every f16 and bf16 there is, at an odd address.
    #[test]
    fn every_half_widens_exactly_at_any_address() {
        for dtype in [Dtype::F16, Dtype::BF16] {
            let mut bytes = vec![0u8];
            bytes.extend((0..=u16::MAX).flat_map(u16::to_le_bytes));
            let mut out = vec![0.0; 1 << 16];
            widen(dtype, &bytes[1..], &mut out);
            for (i, v) in (0..=u16::MAX).zip(&out) {
                let want = match dtype {
                    Dtype::F16 => f16::from_bits(i).to_f32(),
                    _ => bf16::from_bits(i).to_f32(),
                };
                assert!(*v == want || v.is_nan() && want.is_nan(), "{dtype:?} {i:#x}: {v} {want}");
            }
        }
    }

    #[test]
    fn kernels_are_swapped_alike_as_numbers_and_as_bytes() {
        let [rows, from, to] = [700, 65, 9]; // more than one piece
        let stored: Vec<f16> =
            (0..rows * from * to).map(|i| f16::from_f32((i % 2039) as f32)).collect();
        let bytes: &[u8] = bytemuck::cast_slice(&stored);
        let mut out = vec![0.0; stored.len()];
        widen_swapped(Dtype::F16, bytes, [from, to], &mut out);
        let halves: Vec<f16> = swapped(2, bytes, [from, to])
            .chunks_exact(2)
            .map(|b| f16::from_le_bytes([b[0], b[1]]))
            .collect();
        for (at, v) in out.iter().enumerate() {
            let (r, j, i) = (at / (from * to), at / from % to, at % from);
            let want = stored[(r * from + i) * to + j];
            assert_eq!((*v, halves[at]), (want.to_f32(), want), "{at}");
        }
    }
}
