//! Shapes of test, gradient check and bench.

use super::{Embedding, GatherRows, Sinusoid};
use crate::{
    kernels::case::{Case, Fill},
    tensor::Spec,
};
use std::sync::Arc;

/// Repeated ids, unused positions, odd widths, batches.
pub fn cases() -> Vec<Case> {
    let embed = Case {
        name: "embedding".into(),
        op: Arc::new(Embedding { added: false }),
        ins: vec![Spec::i32(&[2, 5]), Spec::f32(&[7, 3]), Spec::f32(&[6, 3])],
        data: vec![Fill::Ids(7), Fill::Normal(1.0), Fill::Normal(1.0)],
        grads: vec![false, true, true],
        state: vec![],
    };
    let learned = Case {
        name: "embedding_added".into(),
        op: Arc::new(Embedding { added: true }),
        ins: vec![Spec::i32(&[3, 5]), Spec::f32(&[4, 3]), Spec::f32(&[6, 3]), Spec::f32(&[3, 3])],
        data: vec![Fill::Ids(7), Fill::Normal(1.0), Fill::Normal(1.0), Fill::Normal(1.0)],
        grads: vec![false, true, true, true],
        ..embed.clone()
    };
    let gather = Case {
        name: "gather_rows".into(),
        op: Arc::new(GatherRows),
        ins: vec![Spec::f32(&[3, 4, 5]), Spec::i32(&[3])],
        data: vec![Fill::Normal(1.0), Fill::Ids(4)],
        grads: vec![true, false],
        state: vec![],
    };
    let wave = |dim, flip_sin_to_cos, shift, dims: &[usize]| {
        let op = Sinusoid { dim, flip_sin_to_cos, shift, max_period: 10_000.0 };
        let mut case = Case::normal("sinusoid", op, &[dims]);
        case.data = vec![Fill::Uniform(0.0, 3.0)];
        case
    };
    vec![embed, learned, gather, wave(8, true, 0.0, &[3]), wave(9, false, 1.0, &[2, 6])]
}
