//! The reference: one stream a sample.

use super::STATE_WORDS;
use crate::{op::Forward, tensor::philox};

/// Seed and stream of a state.
pub(crate) fn seed_stream(words: &[i32]) -> (u64, u64) {
    let two = |i: usize| {
        let word = |k: usize| u64::from(words.get(k).copied().unwrap_or(0).cast_unsigned());
        word(i) | word(i + 1) << 32
    };
    (two(0), two(2))
}

pub(super) fn forward(mut io: Forward<'_>) {
    let states = io.ins[0].i32();
    let out = io.out.f32();
    let each = out.len() / (states.len() / STATE_WORDS).max(1);
    if each == 0 {
        return;
    }
    for (out, words) in out.chunks_exact_mut(each).zip(states.chunks_exact(STATE_WORDS)) {
        let (seed, stream) = seed_stream(words);
        philox::fill_normal(seed, stream, out);
    }
}
