//! Shapes of test, gradient check and bench.

use super::{Cosine, MeanTokens};
use crate::{
    kernels::case::{Case, Fill},
    tensor::philox::fill_normal,
};

fn mean(x: &[usize]) -> Case {
    Case::normal("mean_tokens", MeanTokens, &[x])
}

fn cosine(dims: [usize; 2]) -> Case {
    Case::normal("cosine", Cosine, &[&dims, &dims])
}

/// Normal numbers in rows of `c`, those of `zero` all 0.
fn rows([n, c]: [usize; 2], seed: u64, zero: &[usize]) -> Fill {
    let mut values = vec![0.0; n * c];
    fill_normal(seed, 0, &mut values);
    zero.iter().for_each(|i| values[i * c..(i + 1) * c].fill(0.0));
    Fill::Values(values)
}

/// Ragged, one row, one column, wide, no sample, CLIP's 77 tokens; rows without a direction.
pub fn cases() -> Vec<Case> {
    let dims: [&[usize]; 8] = [
        &[3, 5, 7],
        &[2, 3, 2, 6],
        &[1, 1, 9],
        &[4, 3],
        &[2, 7, 1],
        &[0, 4, 3],
        &[2, 77, 40],
        &[1, 77, 2048],
    ];
    let mut all: Vec<Case> = dims.map(mean).into();
    all.extend([[3, 7], [1, 5], [9, 33], [20, 24], [2, 2048]].map(cosine));
    // Away from zero, where a cosine of numbers jumps.
    let mut signs = cosine([5, 1]);
    signs.data[0] = Fill::Values(vec![0.9, -0.7, 0.3, -1.1, 0.5]);
    signs.data[1] = Fill::Values(vec![0.4, 1.3, -0.6, -0.2, 0.8]);
    all.push(signs);
    // Too large for finite differences, which mean nothing where a row is zero.
    let dims = [20, 700];
    let mut zeros = cosine(dims);
    zeros.name.push_str(" zero rows");
    zeros.data = vec![rows(dims, 1, &[0, 5]), rows(dims, 2, &[5, 19])];
    all.push(zeros);
    all
}

/// SDXL's text tokens and their means, four pictures.
pub fn bench_cases() -> Vec<Case> {
    vec![mean(&[4, 77, 2048]), cosine([4, 2048])]
}
