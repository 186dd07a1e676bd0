//! Plans without a backward pass: operations joined with what alone reads them.

#![allow(clippy::unwrap_used)]

use selvedge::{
    device::Device,
    error::Result,
    kernels::{
        activation::{Activation, Kind},
        add::Add,
        geglu::Geglu,
        linear::Linear,
    },
    plan::{Pass, PlanOptions, Recorder, Value, WeightLayout, WeightSource},
    tensor::{Floats, Spec},
};

struct Weights(Vec<Vec<f32>>);

impl WeightSource for Weights {
    fn get(&self, name: &str, _: &[usize], _: WeightLayout) -> Result<Option<Floats>> {
        let i: usize = name[1..].parse().unwrap_or(usize::MAX);
        Ok(self.0.get(i).map(|w| w.clone().into()))
    }
}

/// Rows of a linear layer's output, and what is behind it: GEGLU, an activation, a sum with its input, the same where its
/// output is also read elsewhere.
fn layers(rec: &mut Recorder) -> Vec<(&'static str, Value)> {
    let x = rec.input("x", Spec::f32(&[30, 16]));
    let mut w = |name: &str, dims: &[usize]| rec.param(name, dims, WeightLayout::Dense);
    let (wide, bias, square) = (w("w0", &[32, 16]), w("w1", &[32]), w("w2", &[16, 16]));
    let linear = |r: &mut Recorder, ins: &[Value]| r.apply(Linear { bias: ins.len() == 3 }, ins);
    let h = linear(rec, &[x, wide, bias]).unwrap();
    let gated = rec.apply(Geglu, &[h]).unwrap();
    let h = linear(rec, &[gated, square]).unwrap();
    let sum = rec.apply(Add, &[gated, h]).unwrap();
    let h = linear(rec, &[sum, square]).unwrap();
    let silu = rec.apply(Activation { kind: Kind::Silu }, &[h]).unwrap();
    let read = linear(rec, &[silu, square]).unwrap();
    let twice = rec.apply(Add, &[read, silu]).unwrap();
    let last = rec.apply(Add, &[twice, read]).unwrap();
    let seen = linear(rec, &[last, square]).unwrap();
    let end = rec.apply(Add, &[seen, last]).unwrap();
    vec![("end", end), ("seen", seen)]
}

#[test]
fn a_forward_plan_joins_layers_with_what_alone_reads_them_and_computes_the_same() {
    let weights = || {
        let at = |w: usize, i: usize| ((w * 53 + i * 29) % 41) as f32 / 40.0 - 0.4;
        Weights(
            [512, 32, 256]
                .iter()
                .enumerate()
                .map(|(w, n)| (0..*n).map(|i| at(w, i)).collect())
                .collect(),
        )
    };
    let run = |pass: Pass| {
        let mut rec = Recorder::new();
        rec.train_if(move |_| pass == Pass::Seeded);
        let outputs = layers(&mut rec);
        let options = PlanOptions { pass, poison: true, ..PlanOptions::default() };
        let plan = rec.plan(&outputs, options).unwrap();
        let (text, steps) = (plan.explain(&Device::Cpu), plan.summary().steps);
        let mut p = plan.load(Device::Cpu, &weights()).unwrap();
        p.set("x", &(0..480).map(|i| (i % 13) as f32 / 6.0 - 1.0).collect::<Vec<_>>()).unwrap();
        p.forward().unwrap();
        (text, steps, [p.get("end").unwrap(), p.get("seen").unwrap()])
    };
    let (fused, apart) = (run(Pass::Inference), run(Pass::Seeded));
    // five layers, three of which take along what is behind them; `read` is read twice, `seen` is an output
    assert_eq!(fused.1, 8, "{}", fused.0);
    for what in ["GEGLU", "residual", "Silu"] {
        assert_eq!(fused.0.lines().filter(|l| l.contains(what)).count(), 1, "{what}: {}", fused.0);
    }
    assert!(!apart.0.contains("residual"), "{}", apart.0);
    assert!(fused.2 == apart.2, "the results differ");
}
