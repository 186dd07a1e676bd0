//! A residual block behind a skip connection that is read where it lies, and behind one that is concatenated: the same numbers.

#![allow(clippy::unwrap_used)]

use selvedge::{
    device::Device,
    error::Result,
    kernels::{
        add::Add,
        concat::Concat,
        group_norm::GroupNorm,
        linear::{Linear, concat::ConcatLinear},
    },
    op::Op,
    plan::{Pass, PlanOptions, Recorder, Value, WeightLayout, WeightSource},
    tensor::{Floats, Spec},
};

const DIMS: [usize; 3] = [2, 6, 5];
const WIDTHS: [usize; 2] = [24, 40];
const OUT: usize = 16;
const PARAMS: [&str; 4] = ["gamma", "beta", "weight", "bias"];

struct Weights;

impl WeightSource for Weights {
    fn get(&self, name: &str, dims: &[usize], _: WeightLayout) -> Result<Option<Floats>> {
        let own = name.bytes().map(usize::from).sum::<usize>();
        let at = |i: usize| ((own * 53 + i * 29) % 41) as f32 / 40.0 - 0.4;
        Ok(Some((0..dims.iter().product()).map(at).collect::<Vec<_>>().into()))
    }
}

fn numbers(seed: usize, len: usize) -> Vec<f32> {
    (0..len).map(|i| ((seed * 31 + i * 17) % 23) as f32 / 11.0 - 1.0).collect()
}

/// `norm([x, skip])` beside `linear([x, skip]) + x'`, as the plan prints it, and every result and gradient.
fn block(joined: bool) -> (String, Vec<Vec<f32>>) {
    let c = WIDTHS.iter().sum();
    let mut rec = Recorder::new();
    rec.train_if(|_| true);
    let spec = |c: usize| Spec::f32(&[&DIMS[..], &[c]].concat());
    let [x, skip] =
        [("x", WIDTHS[0]), ("skip", WIDTHS[1])].map(|(n, c)| rec.input_with_grad(n, spec(c)));
    let r = rec.input_with_grad("r", spec(OUT));
    let dims: [&[usize]; 4] = [&[c], &[c], &[OUT, c], &[OUT]];
    let mut params = PARAMS.iter().zip(dims);
    let mut param = || {
        let (name, dims) = params.next().unwrap();
        rec.param(name, dims, WeightLayout::Dense)
    };
    let [gamma, beta, weight, bias] = [param(), param(), param(), param()];
    let norm = |concat| GroupNorm { groups: 4, eps: 1e-5, silu: true, concat };
    let (n, y): (Value, Value) = if joined {
        let both = rec.apply(Concat, &[x, skip]).unwrap();
        let n = rec.apply(norm(false), &[both, gamma, beta]).unwrap();
        (n, rec.apply(Linear { bias: true }, &[both, weight, bias]).unwrap())
    } else {
        let n = rec.apply(norm(true), &[x, skip, gamma, beta]).unwrap();
        let op = ConcatLinear { bias: true, residual: false };
        (n, rec.apply(op, &[x, skip, weight, bias]).unwrap())
    };
    let y = rec.apply(Add, &[y, r]).unwrap();
    let options = PlanOptions { pass: Pass::Seeded, poison: true, ..PlanOptions::default() };
    let plan = rec.plan(&[("n", n), ("y", y)], options).unwrap();
    let text = plan.explain(&Device::Cpu);
    let mut p = plan.load(Device::Cpu, &Weights).unwrap();
    let rows: usize = DIMS.iter().product();
    let inputs = [("x", WIDTHS[0]), ("skip", WIDTHS[1]), ("r", OUT)];
    let mut seen = vec![];
    for first in [true, false] {
        for (i, (name, c)) in inputs.iter().enumerate() {
            p.set(name, &numbers(i, rows * c)).unwrap();
        }
        p.forward().unwrap();
        seen.extend(["n", "y"].map(|name| p.get(name).unwrap()));
        p.set_grad("n", &numbers(7, rows * c)).unwrap();
        p.set_grad("y", &numbers(8, rows * OUT)).unwrap();
        p.backward(first).unwrap();
    }
    let named = inputs.iter().map(|(name, _)| *name).chain(PARAMS);
    seen.extend(named.map(|name| p.grad(name).unwrap()));
    (text, seen)
}

#[test]
fn a_skip_connection_read_where_it_lies_gives_the_numbers_of_a_concatenated_one() {
    let (apart, joined) = (block(false), block(true));
    assert!(!apart.0.contains(" concat"), "{}", apart.0);
    assert!(joined.0.contains(" concat"), "{}", joined.0);
    assert!(apart.0.contains("of two parts, residual"), "the sum stayed alone:\n{}", apart.0);
    for (i, (a, j)) in apart.1.iter().zip(&joined.1).enumerate() {
        assert!(a.iter().any(|v| v.abs() > 0.01), "result {i} is nothing");
        assert!(a == j, "result {i} differs");
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let spec = |d: &[usize]| Spec::f32(d);
    let refused = |op: &dyn Op, ins: &[Spec], words: &[&str]| {
        let e = op.infer(ins).unwrap_err().to_string();
        assert!(words.iter().all(|w| e.contains(w)), "{e}");
    };
    let norm = GroupNorm { groups: 2, eps: 1e-5, silu: false, concat: true };
    let ab = |a: &[usize], b: &[usize]| [spec(a), spec(b), spec(&[8]), spec(&[8])];
    refused(&norm, &ab(&[2, 3, 4], &[2, 4, 4]), &["group_norm", "b", "[2, 3, 4]"]);
    refused(&norm, &ab(&[2, 3, 8], &[2, 3, 0]), &["group_norm", "b", "channels"]);
    refused(&norm, &ab(&[2, 3, 4], &[2, 3, 5]), &["group_norm", "9"]);
    refused(&norm, &ab(&[2, 3, 4], &[2, 3, 4])[..3], &["group_norm", "3"]);
    let layer = ConcatLinear { bias: true, residual: true };
    let all = |a: &[usize], b: &[usize], w: &[usize], r: &[usize]| {
        [spec(a), spec(b), spec(w), spec(&[6]), spec(r)]
    };
    let (a, b, w, r) = ([2, 3, 4], [2, 3, 5], [6, 9], [2, 3, 6]);
    assert!(layer.infer(&all(&a, &b, &w, &r)).is_ok());
    refused(&layer, &all(&a, &[2, 9, 5], &w, &r), &["linear", "b"]);
    refused(&layer, &all(&a, &b, &[6, 8], &r), &["linear", "weight"]);
    refused(&layer, &all(&a, &b, &w, &[2, 3, 7]), &["linear", "residual"]);
    refused(&layer, &all(&a, &b, &w, &r)[..4], &["linear", "4"]);
}
