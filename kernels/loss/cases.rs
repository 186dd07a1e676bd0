//! Shapes of test, gradient check and bench.

use super::{Dco, MaskedMse};
use crate::{
    kernels::case::{Case, Fill},
    op::Op,
    tensor::Spec,
};
use std::sync::Arc;

fn case(dims: &[usize], name: &str, op: Arc<dyn Op>) -> Case {
    let (pred, map) = (Spec::f32(dims), Spec::f32(&dims[..dims.len() - 1]));
    let dco = name == "dco";
    let rest = if dco { [pred.clone(), map] } else { [map, Spec::f32(&dims[..1])] };
    let last = if dco { Fill::Normal(1.0) } else { Fill::Uniform(0.0, 1.0) };
    Case {
        name: format!("loss {name} {dims:?}"),
        op,
        ins: [vec![pred.clone(), pred], rest.to_vec()].concat(),
        data: vec![Fill::Normal(1.0), Fill::Normal(1.0), last, Fill::Uniform(0.0, 1.0)],
        grads: vec![true; 4],
        state: vec![],
    }
}

/// Both losses on an odd small shape, a batch, tokens, and the SDXL latent.
pub fn cases() -> Vec<Case> {
    let dims: [&[usize]; 4] = [&[1, 3, 5, 4], &[3, 2, 2, 4], &[2, 7, 3], &[1, 128, 128, 4]];
    let both = |d: &'static [usize]| {
        let dco: Arc<dyn Op> = Arc::new(Dco { beta: 0.7 });
        [case(d, "masked", Arc::new(MaskedMse)), case(d, "dco", dco)]
    };
    dims.into_iter().flat_map(both).collect()
}

/// Latents of four pictures.
pub fn bench_cases() -> Vec<Case> {
    let dims = [4, 128, 128, 4];
    vec![
        case(&dims, "masked", Arc::new(MaskedMse)),
        case(&dims, "dco", Arc::new(Dco { beta: 1000.0 })),
    ]
}
