//! Loops over the rows of a matrix.

/// Writes `row` into every row of `out`.
pub fn fill_rows(out: &mut [f32], row: &[f32]) {
    if row.is_empty() {
        return;
    }
    out.chunks_exact_mut(row.len()).for_each(|r| r.copy_from_slice(row));
}

/// `sums = beta sums + sum over the rows of matrix`; `beta = 0` never reads `sums`.
pub fn add_row_sums(sums: &mut [f32], matrix: &[f32], beta: f32) {
    if beta == 0.0 {
        sums.fill(0.0);
    }
    if sums.is_empty() {
        return;
    }
    for row in matrix.chunks_exact(sums.len()) {
        sums.iter_mut().zip(row).for_each(|(s, v)| *s += v);
    }
}
