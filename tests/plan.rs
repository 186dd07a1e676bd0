//! The planner: a planned run equals a naive one, whatever is trained, recomputed or poisoned.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;
use selvedge::{
    device::Device,
    error::Result,
    kernels::{add::Add, embedding::Embedding},
    op::{Backward, Cost, Forward, Grad, Keeps, Op, Signature},
    plan::{Pass, PlanOptions, Program, Recorder, Value, WeightLayout, WeightSource},
    tensor::{Floats, Spec},
};

const LEN: usize = 20;

/// `a * b` (kept inputs), or `a + b` (nothing kept), elementwise.
#[derive(Debug)]
struct Pair {
    product: bool,
}

impl Op for Pair {
    fn name(&self) -> &'static str {
        "pair"
    }
    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        let saved = if self.product { vec![ins[0].clone()] } else { vec![] };
        let out = ins[0].clone();
        Ok(Signature { out, saved, forward_scratch: 40, backward_scratch: 100 })
    }
    fn keeps(&self, wants: &[bool]) -> Keeps {
        let ins = if self.product && wants[0] { vec![1] } else { vec![] };
        Keeps { ins, out: false, saved: self.product && wants[1] }
    }
    fn cost(&self, ins: &[Spec], _: &Spec) -> Cost {
        Cost { flop: ins[0].len() as f64, bytes: 12.0 * ins[0].len() as f64 }
    }
    fn forward(&self, mut io: Forward<'_>) -> Result<()> {
        io.scratch.f32().fill(5.0);
        let (a, b) = (io.ins[0].f32(), io.ins[1].f32());
        for (i, o) in io.out.f32().iter_mut().enumerate() {
            *o = if self.product { a[i] * b[i] } else { a[i] + b[i] };
        }
        if self.product {
            io.saved[0].f32().copy_from_slice(a);
        }
        Ok(())
    }
    fn backward(&self, mut io: Backward<'_>) -> Result<()> {
        io.scratch.f32().fill(6.0);
        let d = io.d_out.f32();
        let write = |g: &mut Grad<'_>, f: &dyn Fn(usize) -> f32| {
            if g.wanted() {
                let beta = g.beta();
                for (i, v) in g.buf.f32().iter_mut().enumerate() {
                    *v = if beta == 0.0 { f(i) } else { *v + f(i) };
                }
            }
        };
        let product = self.product;
        let (ins, saved) = (io.ins, io.saved);
        write(&mut io.d_ins[0], &|i| if product { d[i] * ins[1].f32()[i] } else { d[i] });
        write(&mut io.d_ins[1], &|i| if product { d[i] * saved[0].f32()[i] } else { d[i] });
        Ok(())
    }
}

/// Sum of all elements.
#[derive(Debug)]
struct Sum;

impl Op for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }
    fn infer(&self, _: &[Spec]) -> Result<Signature> {
        Ok(Signature::of(Spec::f32(&[1])))
    }
    fn keeps(&self, _: &[bool]) -> Keeps {
        Keeps::default()
    }
    fn cost(&self, _: &[Spec], _: &Spec) -> Cost {
        Cost::default()
    }
    fn forward(&self, mut io: Forward<'_>) -> Result<()> {
        io.out.f32()[0] = io.ins[0].f32().iter().sum();
        Ok(())
    }
    fn backward(&self, mut io: Backward<'_>) -> Result<()> {
        let d = io.d_out.f32()[0];
        let beta = io.d_ins[0].beta();
        for v in io.d_ins[0].buf.f32() {
            *v = if beta == 0.0 { d } else { *v + d };
        }
        Ok(())
    }
}

struct Weights(Vec<Vec<f32>>);

impl WeightSource for Weights {
    fn get(&self, name: &str, _: &[usize], _: WeightLayout) -> Result<Option<Floats>> {
        let i: usize = name[1..].parse().unwrap_or(usize::MAX);
        Ok(self.0.get(i).map(|w| w.clone().into()))
    }
}

#[derive(Clone, Debug)]
struct Graph {
    weights: usize,
    trained: Vec<bool>,
    /// product, left, right, segment boundary before it
    nodes: Vec<(bool, usize, usize, bool)>,
}

fn graphs() -> impl Strategy<Value = Graph> {
    (2usize..5, 2usize..24).prop_flat_map(|(weights, n)| {
        let node = (any::<bool>(), any::<prop::sample::Index>(), any::<prop::sample::Index>());
        let nodes = prop::collection::vec((node, any::<bool>()), n);
        (prop::collection::vec(any::<bool>(), weights), nodes).prop_map(
            move |(mut trained, raw)| {
                trained[0] = true;
                let mut nodes = vec![];
                for (i, ((product, a, b), cut)) in raw.into_iter().enumerate() {
                    // the left operand is always the newest value: everything stays reachable
                    let newest = weights + i;
                    let left = if i == 0 { 0 } else { newest - 1 };
                    let mut right = b.index(newest);
                    if right == left {
                        right = if left == 0 { 1 } else { a.index(left) };
                    }
                    nodes.push((product, left, right, cut));
                }
                Graph { weights, trained, nodes }
            },
        )
    })
}

fn values(g: &Graph) -> Vec<Vec<f32>> {
    let at = |w: usize, i: usize| 0.6 + ((w * 37 + i * 11) % 17) as f32 / 20.0;
    (0..g.weights).map(|w| (0..LEN).map(|i| at(w, i)).collect()).collect()
}

/// Every value, of these first ones.
fn all_values(g: &Graph, mut v: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    for (product, a, b, _) in &g.nodes {
        let f = |i: usize| if *product { v[*a][i] * v[*b][i] } else { v[*a][i] + v[*b][i] };
        v.push((0..LEN).map(f).collect());
    }
    v
}

/// Loss and weight gradients without any planning.
fn naive(g: &Graph) -> (f32, Vec<Vec<f32>>) {
    let v = all_values(g, values(g));
    let mut d = vec![vec![0.0f32; LEN]; v.len()];
    d[v.len() - 1] = vec![1.0; LEN];
    for (n, (product, a, b, _)) in g.nodes.iter().enumerate().rev() {
        for i in 0..LEN {
            let up = d[g.weights + n][i];
            let (da, db) = if *product { (v[*b][i], v[*a][i]) } else { (1.0, 1.0) };
            d[*a][i] += up * da;
            d[*b][i] += up * db;
        }
    }
    (v[v.len() - 1].iter().sum(), d[..g.weights].to_vec())
}

/// `always`: each second segment is computed again whatever the plan's options say.
fn program(g: &Graph, (checkpoint, always): (bool, bool), poison: bool) -> Program {
    let mut rec = Recorder::new();
    let trained = g.trained.clone();
    rec.train_if(move |name| name[1..].parse::<usize>().is_ok_and(|i| trained[i]));
    let mut v: Vec<Value> =
        (0..g.weights).map(|i| rec.param(&format!("w{i}"), &[LEN], WeightLayout::Dense)).collect();
    let mut from = 0;
    while from < g.nodes.len() {
        let cut = |n: &(bool, usize, usize, bool)| n.3;
        let to = (from + 1..g.nodes.len()).find(|i| cut(&g.nodes[*i])).unwrap_or(g.nodes.len());
        let mut body = |rec: &mut Recorder| {
            for (product, a, b, _) in &g.nodes[from..to] {
                let out = rec.apply(Pair { product: *product }, &[v[*a], v[*b]])?;
                v.push(out);
            }
            Ok(())
        };
        let name = format!("s{from}");
        match always && from % 2 == 0 {
            true => rec.recompute(&name, &mut body),
            false => rec.checkpoint(&name, &mut body),
        }
        .unwrap();
        from = to;
    }
    let loss = rec.apply(Sum, &[v[v.len() - 1]]).unwrap();
    let options = PlanOptions { pass: Pass::Loss(loss), checkpoint, poison };
    rec.plan(&[], options).unwrap().load(Device::Cpu, &Weights(values(g))).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_planned_run_equals_a_naive_one(
        g in graphs(),
        checkpoint: bool,
        always: bool,
        poison: bool,
    ) {
        let (loss, grads) = naive(&g);
        let largest = grads.iter().flatten().fold(loss.abs(), |m, v| m.max(v.abs()));
        prop_assume!(largest < 1e12); // products of products may overflow
        let mut p = program(&g, (checkpoint, always), poison);
        prop_assert!(p.plan().arena_bytes() <= p.plan().summary().naive_bytes);
        for first in [true, true, false] {
            p.forward().unwrap();
            p.backward(first).unwrap();
            let factor = if first { 1.0 } else { 2.0 };
            prop_assert!((p.loss().unwrap() - loss).abs() <= 1e-4 * loss.abs());
            for (w, want) in grads.iter().enumerate().filter(|(w, _)| g.trained[*w]) {
                let got = p.grad(&format!("w{w}")).unwrap_or(vec![0.0; LEN]);
                for (a, b) in got.iter().zip(want) {
                    prop_assert!((a - factor * b).abs() <= 1e-3 * (1.0 + b.abs()), "{a} {b}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_computed_once_is_the_same_as_computed_each_time(g in graphs(), poison: bool) {
        let mut rec = Recorder::new();
        let mut v: Vec<Value> =
            (0..g.weights).map(|i| rec.input(&format!("w{i}"), Spec::f32(&[LEN]))).collect();
        let steady = &g.trained; // the first one is, so that there is something to compute once
        (0..g.weights).filter(|i| steady[*i]).for_each(|i| rec.steady(v[i]));
        let mut fixed = steady.clone();
        for (product, a, b, _) in &g.nodes {
            v.push(rec.apply(Pair { product: *product }, &[v[*a], v[*b]]).unwrap());
            fixed.push(fixed[*a] && fixed[*b]);
        }
        let options = PlanOptions { poison, ..PlanOptions::default() };
        let plan = rec.plan(&[("out", v[v.len() - 1])], options).unwrap();
        prop_assert_eq!(plan.summary().once_steps, fixed[g.weights..].iter().filter(|f| **f).count());
        let mut p = plan.load(Device::Cpu, &Weights(vec![])).unwrap();
        let mut given = values(&g);
        (0..g.weights).for_each(|i| p.set(&format!("w{i}"), &given[i]).unwrap());
        // an input of a run, again, a steady one, and again an input of a run
        for changed in [None, Some(false), Some(false), Some(true), Some(false)] {
            for i in (0..g.weights).filter(|i| Some(steady[*i]) == changed) {
                given[i].iter_mut().for_each(|x| *x = 0.3 + 0.7 * *x);
                p.set(&format!("w{i}"), &given[i]).unwrap();
            }
            p.forward().unwrap();
            let want = all_values(&g, given.clone()).pop().unwrap();
            prop_assume!(want.iter().all(|w| w.abs() < 1e12));
            for (a, b) in p.get("out").unwrap().iter().zip(&want) {
                prop_assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "{a} {b}");
            }
        }
    }
}

#[test]
fn what_depends_on_steady_inputs_alone_runs_once_and_no_training_plan_has_any() {
    let build = |pass: bool| {
        let mut rec = Recorder::new();
        rec.train_if(|_| true);
        let w = rec.param("w0", &[LEN], WeightLayout::Dense);
        let [prompt, sample] = ["prompt", "sample"].map(|name| rec.input(name, Spec::f32(&[LEN])));
        rec.steady(prompt);
        let key = rec.scope("key", |r| r.apply(Pair { product: true }, &[prompt, w])).unwrap();
        let twice = rec.scope("twice", |r| r.apply(Pair { product: false }, &[prompt, prompt]));
        let sum = rec.apply(Pair { product: false }, &[sample, twice.unwrap()]).unwrap();
        let out = rec.apply(Pair { product: true }, &[sum, key]).unwrap();
        let loss = rec.apply(Sum, &[out]).unwrap();
        let pass = if pass { Pass::Loss(loss) } else { Pass::Inference };
        rec.plan(&[("out", out)], PlanOptions { pass, ..PlanOptions::default() }).unwrap()
    };
    let plan = build(false);
    let text = plan.explain(&Device::Cpu);
    let once: Vec<&str> = text.lines().filter(|l| l.contains(" once ")).collect();
    // what reads a trained weight may change between two runs
    assert!(once.len() == 1 && once[0].contains("twice"), "{text}");
    assert_eq!(plan.summary().once_flop, LEN as f64);
    assert_eq!(build(true).summary().once_steps, 0);
}

/// The program of `y = a + b` with `a = x w0` and `b` as the branch behind `a` makes it; the steps of the sum's backward.
fn residual(branch: impl Fn(&mut Recorder, Value, &[Value]) -> Value) -> (Vec<String>, Program) {
    let mut rec = Recorder::new();
    rec.train_if(|_| true);
    let x = rec.input("x", Spec::f32(&[LEN]));
    let w = ["w0", "w1", "w2"].map(|n| rec.param(n, &[LEN], WeightLayout::Dense));
    let a = rec.apply(Pair { product: true }, &[x, w[0]]).unwrap();
    let b = branch(&mut rec, a, &w);
    let y = rec.apply(Add, &[a, b]).unwrap();
    let loss = rec.apply(Sum, &[y]).unwrap();
    let options = PlanOptions { pass: Pass::Loss(loss), poison: true, ..PlanOptions::default() };
    let plan = rec.plan(&[], options).unwrap();
    let text = plan.explain(&Device::Cpu);
    let sums = text.lines().filter(|l| l.contains(" bwd ") && l.contains(" add "));
    let sums = sums.map(String::from).collect();
    let given = [2.0, 3.0, 7.0].map(|v| vec![v; LEN]).to_vec();
    let mut p = plan.load(Device::Cpu, &Weights(given)).unwrap();
    p.set("x", &[5.0; LEN]).unwrap();
    p.forward_backward(true, None).unwrap();
    (sums, p)
}

#[test]
fn gradients_that_a_sum_passes_on_are_copied_only_where_one_changes_before_another_is_read() {
    let pair = |rec: &mut Recorder, a, b| rec.apply(Pair { product: true }, &[a, b]).unwrap();
    // y = a + a w1 w2: something is added to the gradient of a after that of the branch's end was read
    let (sums, p) = residual(|rec, a, w| {
        let h = pair(rec, a, w[1]);
        pair(rec, h, w[2])
    });
    assert!(sums.is_empty(), "{sums:?}");
    let grads = ["w0", "w1", "w2"].map(|w| p.grad(w).unwrap()[LEN - 1]);
    assert_eq!(grads, [5.0 * 22.0, 10.0 * 7.0, 10.0 * 3.0]);
    // y = a + a w1: in the step that reads the gradient of the branch, so one of them is a copy
    let (sums, p) = residual(|rec, a, w| pair(rec, a, w[1]));
    assert!(sums.len() == 1 && sums[0].contains("d[-o]"), "{sums:?}");
    let grads = ["w0", "w1"].map(|w| p.grad(w).unwrap()[LEN - 1]);
    assert_eq!(grads, [5.0 * 4.0, 10.0]);
}

#[test]
fn a_frozen_prefix_has_no_backward_step() {
    let g = Graph {
        weights: 3,
        trained: vec![false, false, true],
        nodes: vec![(true, 0, 1, false), (false, 3, 1, false), (true, 4, 2, false)],
    };
    let p = program(&g, (false, false), false);
    let text = p.plan().explain(&Device::Cpu);
    assert_eq!(text.lines().filter(|l| l.contains(" bwd ")).count(), 2, "{text}");
    assert!(text.contains("d[-o]"), "only the trained operand gets a gradient: {text}");
}

#[test]
fn recomputation_needs_less_memory() {
    let nodes = (0..24).map(|i| (true, if i == 0 { 0 } else { i + 1 }, 1, i % 6 == 0)).collect();
    let g = Graph { weights: 2, trained: vec![true, true], nodes };
    let bytes = |again| program(&g, again, false).plan().arena_bytes();
    let [all, some, none] = [(true, false), (false, true), (false, false)].map(bytes);
    assert!(all < none && some < none, "{all} {some} {none}");
    assert_eq!(bytes((true, true)), all);
}

#[test]
fn missing_weights_are_listed_in_one_error() {
    let mut rec = Recorder::new();
    let (a, b) =
        (rec.param("w7", &[4], WeightLayout::Dense), rec.param("w8", &[4], WeightLayout::Dense));
    let out = rec.apply(Pair { product: true }, &[a, b]).unwrap();
    let plan = rec.plan_inference(out).unwrap();
    let text = plan.load(Device::Cpu, &Weights(vec![])).unwrap_err().to_string();
    assert!(text.contains("w7, w8"), "{text}");
}

#[test]
fn an_index_that_two_tables_share_has_to_lie_in_the_smaller_one_whichever_comes_first() {
    for rows in [[9, 5], [5, 9]] {
        let mut rec = Recorder::new();
        let ids = rec.input("ids", Spec::i32(&[1, 2]));
        let places = rec.table("places", &[2, 4], vec![0.0; 8]);
        let [a, b] = rows.map(|n| {
            let table = rec.table("table", &[n, 4], vec![1.0; n * 4]);
            rec.apply(Embedding { added: false }, &[ids, table, places]).unwrap()
        });
        let out = rec.apply(Add, &[a, b]).unwrap();
        let mut p = rec.plan_inference(out).unwrap().load(Device::Cpu, &Weights(vec![])).unwrap();
        p.set_i32("ids", &[0, 4]).unwrap();
        let error = p.set_i32("ids", &[0, 5]).unwrap_err().to_string();
        assert!(error.contains("ids") && error.contains("0 to 4"), "{error}");
    }
}

#[test]
fn a_segment_inside_another_is_a_part_of_it() {
    let again = |checkpoint: bool| {
        let mut rec = Recorder::new();
        rec.train_if(|_| true);
        let w = ["w0", "w1", "w2"].map(|n| rec.param(n, &[LEN], WeightLayout::Dense));
        let pair = |rec: &mut Recorder, a, b| rec.apply(Pair { product: true }, &[a, b]);
        let y = rec.checkpoint("outer", |rec| {
            let y = rec.recompute("inner", |rec| pair(rec, w[0], w[1]))?;
            pair(rec, y, w[2])
        });
        let loss = rec.apply(Sum, &[y.unwrap()]).unwrap();
        let options = PlanOptions { pass: Pass::Loss(loss), checkpoint, poison: true };
        let text = rec.plan(&[], options).unwrap().explain(&Device::Cpu);
        text.lines().filter(|l| l.contains(" again ")).map(String::from).collect::<Vec<_>>()
    };
    assert!(again(false).is_empty(), "{:?}", again(false));
    assert!(again(true).iter().any(|l| l.contains("outer.inner")), "{:?}", again(true));
}
