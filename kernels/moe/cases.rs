//! Shapes of test, gradient check and bench.

use super::{Combine, Experts, Permute, Route, Table, cpu};
use crate::{
    kernels::case::{Case, Fill},
    op::Op,
    tensor::Spec,
};
use std::sync::Arc;

/// Logits whose order no rounding changes: seven values; of more experts than that the lower of equals counts.
const LOGITS: [f32; 7] = [0.1, -0.7, 0.9, -0.3, 0.5, -1.1, 1.3];

fn logits(t: Table) -> Vec<f32> {
    (0..t.tokens * t.experts).map(|i| LOGITS[(i + i / 21) % 7]).collect()
}

/// The table of `t` for [`logits`], as an input.
fn table(t: Table) -> Fill {
    Fill::Words(cpu::table(&logits(t), t))
}

fn case(name: &str, op: impl Op + 'static, ins: Vec<Spec>, data: Vec<Fill>) -> Case {
    let dims: Vec<_> = ins.iter().map(|s| s.dims.clone()).collect();
    let grads = data.iter().map(|f| matches!(f, Fill::Normal(_))).collect();
    Case { name: format!("{name} {dims:?}"), op: Arc::new(op), ins, data, grads, state: vec![] }
}

fn route(t: Table) -> Case {
    let spec = Spec::f32(&[t.tokens, t.experts]);
    let name = format!("moe_route {} of {}", t.slots, t.experts);
    let mut case = case(&name, Route { slots: t.slots }, vec![spec], vec![Fill::Values(logits(t))]);
    case.grads = vec![false];
    case
}

fn permute(t: Table, c: usize) -> Case {
    let op = Permute { experts: t.experts, slots: t.slots };
    let ins = vec![Spec::f32(&[t.tokens, c]), t.spec()];
    case("moe_permute", op, ins, vec![Fill::Normal(1.0), table(t)])
}

fn experts(t: Table, n: usize, k: usize) -> Case {
    let (rows, w, b) =
        (Spec::f32(&[t.rows(), k]), Spec::f32(&[t.experts, n, k]), Spec::f32(&[t.experts, n]));
    let scale = Fill::Normal(1.0 / (k.max(1) as f32).sqrt());
    let data = vec![Fill::Normal(1.0), table(t), scale, Fill::Normal(0.3)];
    case("moe_experts", Experts, vec![rows, t.spec(), w, b], data)
}

/// Experts whose shares of the tokens are `shares`, one each.
fn uneven(shares: &[usize], n: usize, k: usize) -> Case {
    let t = Table { tokens: shares.iter().sum(), experts: shares.len(), slots: 1 };
    let of = |e: usize| (0..t.experts).map(move |i| if i == e { 1.0 } else { 0.0 });
    let chosen = shares.iter().enumerate().flat_map(|(e, n)| vec![e; *n]);
    let logits: Vec<f32> = chosen.flat_map(of).collect();
    let mut case = experts(t, n, k);
    case.data[1] = Fill::Words(cpu::table(&logits, t));
    case.name = format!("{} rows {shares:?}", case.name);
    case
}

fn combine(t: Table, top_k: usize, c: usize) -> Case {
    let ins = vec![Spec::f32(&[t.rows(), c]), t.spec(), Spec::f32(&[t.tokens, t.experts])];
    let data = vec![Fill::Normal(1.0), table(t), Fill::Values(logits(t))];
    let mut case = case(&format!("moe_combine top {top_k}"), Combine { top_k }, ins, data);
    case.grads = vec![true, false, true];
    case
}

/// One token, no token, more tokens than a block chooses for, experts without rows, with one, with all, rows that begin anywhere
/// in a tile, sums longer than a ring of slabs, the dense mixture, ragged and whole columns, the feature fusion of 77 tokens, and more experts than a mask word
/// or a block holds.
pub fn cases() -> Vec<Case> {
    let t = |tokens, experts, slots| Table { tokens, experts, slots };
    let mut all: Vec<Case> =
        [t(5, 4, 2), t(1, 3, 1), t(0, 4, 2), t(300, 7, 3), t(77, 4, 4), t(2, 7, 7), t(3, 7, 1)]
            .map(route)
            .into();
    all.extend([t(260, 130, 3), t(5, 512, 70)].map(route)); // masks of several words
    all.extend([permute(t(5, 4, 2), 3), permute(t(9, 7, 3), 16), permute(t(0, 4, 2), 8)]);
    all.push(permute(t(77, 4, 4), 64));
    all.extend([experts(t(5, 4, 2), 3, 5), experts(t(1, 3, 1), 8, 16), experts(t(0, 2, 1), 4, 4)]);
    all.extend([experts(t(90, 4, 2), 72, 40), experts(t(77, 4, 4), 128, 128)]);
    all.extend([uneven(&[0, 130, 0, 1, 169], 136, 200), uneven(&[0, 200, 0], 72, 264)]);
    all.extend([uneven(&[64, 70, 0, 5], 40, 72), uneven(&[20, 0, 3], 264, 456)]);
    all.extend([combine(t(5, 4, 2), 2, 3), combine(t(4, 5, 5), 2, 16), combine(t(0, 4, 2), 2, 8)]);
    all.extend([combine(t(6, 7, 3), 3, 24), combine(t(77, 4, 4), 4, 64)]);
    all.push(combine(t(2, 130, 130), 130, 8)); // more slots than threads
    all
}

/// Feature fusion of a training batch of 4 at d = 1024, dense over 4 experts, and 2 of 7 experts at d = 2048.
pub fn bench_cases() -> Vec<Case> {
    let of = |t: Table, top_k, d| [route(t), permute(t, d), experts(t, d, d), combine(t, top_k, d)];
    let dense = Table { tokens: 308, experts: 4, slots: 4 };
    let sparse = Table { tokens: 616, experts: 7, slots: 2 };
    of(dense, 4, 1024).into_iter().chain(of(sparse, 2, 2048)).collect()
}
