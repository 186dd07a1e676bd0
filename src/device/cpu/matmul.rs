//! Safe f32 matrix product with strides.

/// A strided matrix to read: element `(i, j)` is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    /// Storage.
    pub data: &'a [f32],
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one column to the next.
    pub col_stride: usize,
}

impl<'a> Mat<'a> {
    /// Dense row-major `rows x cols`.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// Row-major with `row_stride` elements between rows.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose; no data moves.
    pub fn t(self) -> Self {
        Self {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }
}

/// A strided matrix to write.
#[derive(Debug)]
pub struct MatMut<'a> {
    /// Storage.
    pub data: &'a mut [f32],
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Elements from one row to the next.
    pub row_stride: usize,
}

impl<'a> MatMut<'a> {
    /// Dense row-major `rows x cols`.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, row_stride: cols }
    }

    /// Row-major with `row_stride` elements between rows.
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        Self { data, rows, cols, row_stride }
    }
}

/// How many threads one product may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The calling thread: for products inside a parallel loop.
    One,
    /// The whole pool.
    All,
}

/// `c = alpha a b + beta c`, f32 with f32 accumulation; `beta = 0` never reads `c`.
///
/// Bitwise repeatable for a given thread count.
///
/// # Panics
/// When shapes or storage do not fit: a bug of the calling operation, whose `infer` checked them.
pub fn matmul(c: MatMut<'_>, a: Mat<'_>, b: Mat<'_>, alpha: f32, beta: f32, threads: Threads) {
    assert!(a.rows == c.rows && b.cols == c.cols && a.cols == b.rows, "matmul: shapes");
    let (m, n, k) = (c.rows, c.cols, a.cols);
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 || alpha == 0.0 {
        for row in c.data.chunks_mut(c.row_stride.max(1)).take(m) {
            row[..n].iter_mut().for_each(|v| *v = if beta == 0.0 { 0.0 } else { *v * beta });
        }
        return;
    }
    let span = |rows: usize, cols: usize, rs: usize, cs: usize| (rows - 1) * rs + (cols - 1) * cs;
    assert!(span(m, k, a.row_stride, a.col_stride) < a.data.len(), "matmul: a is too short");
    assert!(span(k, n, b.row_stride, b.col_stride) < b.data.len(), "matmul: b is too short");
    assert!(span(m, n, c.row_stride, 1) < c.data.len(), "matmul: c is too short");
    let parallel = match threads {
        Threads::One => gemm_common::Parallelism::None,
        // 0 = as many as the pool has
        Threads::All => gemm_common::Parallelism::Rayon(0),
    };
    let run = gemm_f32::gemm::f32::get_gemm_fn();
    // SAFETY: the three asserts above bound every element the product touches, `c` is uniquely
    // borrowed, and strides of slices never exceed isize.
    unsafe {
        run(
            m,
            n,
            k,
            c.data.as_mut_ptr(),
            1,
            c.row_stride as isize,
            beta != 0.0,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            beta,
            alpha,
            false,
            false,
            false,
            parallel,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_transposition_and_beta_agrees_with_the_triple_loop() {
        let (m, n, k) = (13, 37, 29);
        let value = |i: usize| ((i * 7919) % 101) as f32 / 50.0 - 1.0;
        let a: Vec<f32> = (0..m * k).map(value).collect();
        let b: Vec<f32> = (0..k * n).map(|i| value(i + 5)).collect();
        for (ta, tb, alpha, beta) in
            [(false, false, 1.0, 0.0), (true, false, 0.5, 1.0), (false, true, 2.0, 0.5)]
        {
            let am = if ta { Mat::new(&a, k, m).t() } else { Mat::new(&a, m, k) };
            let bm = if tb { Mat::new(&b, n, k).t() } else { Mat::new(&b, k, n) };
            let start: Vec<f32> =
                (0..m * n).map(|i| if beta == 0.0 { f32::NAN } else { value(i + 9) }).collect();
            for threads in [Threads::One, Threads::All] {
                let mut c = start.clone();
                matmul(MatMut::new(&mut c, m, n), am, bm, alpha, beta, threads);
                for i in 0..m {
                    for j in 0..n {
                        let dot: f32 = (0..k)
                            .map(|t| {
                                a[i * am.row_stride + t * am.col_stride]
                                    * b[t * bm.row_stride + j * bm.col_stride]
                            })
                            .sum();
                        let old = if beta == 0.0 { 0.0 } else { beta * start[i * n + j] };
                        assert!((c[i * n + j] - (alpha * dot + old)).abs() < 1e-4);
                    }
                }
            }
        }
    }
}
