//! Layers on one input as one operation: the same numbers, fewer steps.

#![allow(clippy::unwrap_used)]

use selvedge::{
    device::Device,
    error::Result,
    kernels::{
        add::Add, affine::Affine, linear::Linear, lora_linear::LoraLinear, multiply::Multiply,
    },
    plan::{Pass, PlanOptions, Program, Recorder, Value, WeightLayout, WeightSource},
    tensor::{Floats, Spec},
};

struct Weights;

impl WeightSource for Weights {
    fn get(&self, name: &str, dims: &[usize], _: WeightLayout) -> Result<Option<Floats>> {
        let own = name.bytes().map(usize::from).sum::<usize>();
        let at = |i: usize| ((own * 53 + i * 29) % 41) as f32 / 40.0 - 0.4;
        Ok(Some((0..dims.iter().product()).map(at).collect::<Vec<_>>().into()))
    }
}

const ROWS: usize = 512;
const WIDTH: usize = 48;

/// `x w^T` of a recorded weight.
fn linear(rec: &mut Recorder, name: &str, x: Value, n: usize) -> Value {
    let k = rec.spec(x).last();
    let w = rec.param(name, &[n, k], WeightLayout::Dense);
    rec.apply(Linear { bias: false }, &[x, w]).unwrap()
}

/// What a test records on an input of `[ROWS, WIDTH]`; the first output is compared.
type Record = dyn Fn(&mut Recorder, Value) -> Vec<(&'static str, Value)>;

/// Runs what `record` records, as a forward plan and as one that keeps gradients in mind: the steps, the planned bytes and
/// the first output of both.
fn both(record: &Record) -> [(String, usize, usize, Vec<f32>); 2] {
    [Pass::Inference, Pass::Seeded].map(|pass| {
        let mut rec = Recorder::new();
        rec.train_if(move |_| pass == Pass::Seeded);
        let x = rec.input("x", Spec::f32(&[ROWS, WIDTH]));
        let outputs = record(&mut rec, x);
        let options = PlanOptions { pass, poison: true, ..PlanOptions::default() };
        let plan = rec.plan(&outputs, options).unwrap();
        let text = plan.explain(&Device::Cpu);
        let forward = text.lines().filter(|l| l.contains(" linear ")).count();
        let bytes = plan.summary().arena_bytes;
        let mut p = plan.load(Device::Cpu, &Weights).unwrap();
        (text, forward, bytes, run(&mut p, outputs[0].0))
    })
}

fn run(p: &mut Program, output: &str) -> Vec<f32> {
    p.set("x", &(0..ROWS * WIDTH).map(|i| (i % 13) as f32 / 6.0 - 1.0).collect::<Vec<_>>())
        .unwrap();
    p.forward().unwrap();
    p.get(output).unwrap()
}

/// `q (k + v)`, of views of them.
fn mixed(rec: &mut Recorder, [q, k, v]: [Value; 3]) -> Value {
    let dims = [ROWS / 4, 4, rec.spec(q).last()];
    let [q, k, v] = [q, k, v].map(|x| rec.view(x, &dims).unwrap());
    let sum = rec.apply(Add, &[k, v]).unwrap();
    rec.apply(Multiply, &[q, sum]).unwrap()
}

#[test]
fn queries_keys_and_values_are_one_step_with_the_same_numbers() {
    let [joined, apart] = both(&|rec, x| {
        let all = ["q", "k", "v"].map(|n| linear(rec, n, x, WIDTH));
        vec![("y", mixed(rec, all))]
    });
    assert_eq!(joined.1, 1, "{}", joined.0);
    assert!(joined.0.contains("3 parts"), "{}", joined.0);
    assert!(apart.1 >= 3, "{}", apart.0);
    assert!(joined.3 == apart.3, "the results differ");
    assert!(joined.3.iter().any(|v| v.abs() > 0.1));
}

/// `x w^T` with an adapter.
fn adapted(rec: &mut Recorder, name: &str, x: Value, n: usize) -> Value {
    let k = rec.spec(x).last();
    let mut param =
        |what, dims: [usize; 2]| rec.param(&format!("{name}.{what}"), &dims, WeightLayout::Dense);
    let (w, a, up) = (param("weight", [n, k]), param("lora_a", [8, k]), param("lora_b", [n, 8]));
    rec.apply(LoraLinear { bias: false, residual: false, scale: 0.5 }, &[x, w, a, up]).unwrap()
}

#[test]
fn adapted_layers_train_as_one_step_with_the_same_gradients() {
    let names = ["q", "k", "v"];
    // where the weights are trained too, the layers stay apart
    let run = |all: bool, checkpoint: bool| {
        let mut rec = Recorder::new();
        rec.train_if(move |name| all || name.contains("lora"));
        let x = rec.input_with_grad("x", Spec::f32(&[ROWS, WIDTH]));
        let y = rec.checkpoint("block", |rec| {
            let y = names.map(|n| adapted(rec, n, x, WIDTH));
            Ok(mixed(rec, y))
        });
        let pass = Pass::Seeded;
        let options = PlanOptions { pass, checkpoint, poison: true };
        let plan = rec.plan(&[("y", y.unwrap())], options).unwrap();
        let (text, steps) = (plan.explain(&Device::Cpu), plan.summary().steps);
        let mut p = plan.load(Device::Cpu, &Weights).unwrap();
        let mut seen = vec![];
        // twice: gradients of trainables add up
        for first in [true, false] {
            seen.extend(run(&mut p, "y"));
            let dy: Vec<f32> = (0..ROWS * WIDTH).map(|i| (i % 11) as f32 / 5.0 - 1.0).collect();
            p.set_grad("y", &dy).unwrap();
            p.backward(first).unwrap();
        }
        seen.extend(p.grad("x").unwrap());
        for name in names.iter().flat_map(|n| [format!("{n}.lora_a"), format!("{n}.lora_b")]) {
            let grad = p.grad(&name).unwrap();
            assert!(grad.iter().any(|g| *g != 0.0), "{name}");
            seen.extend(grad);
        }
        (text, steps, seen)
    };
    for checkpoint in [false, true] {
        let (joined, apart) = (run(false, checkpoint), run(true, checkpoint));
        assert!(joined.0.contains("3 parts, scale 0.5"), "{}", joined.0);
        assert!(!apart.0.contains("parts"), "{}", apart.0);
        // two layers less forward (and once more) and backward; a sum's gradient into parts is written, not an alias
        assert_eq!(joined.1 + 3 + 2 * usize::from(checkpoint), apart.1, "{}", joined.0);
        assert!(joined.2 == apart.2, "checkpoint {checkpoint}: the gradients differ");
    }
}

#[test]
fn other_widths_other_inputs_outputs_and_far_steps_stay_apart() {
    let [plan, apart] = both(&|rec, x| {
        let q = linear(rec, "q", x, WIDTH);
        let wide = linear(rec, "wide", x, 2 * WIDTH); // another width
        let seen = linear(rec, "seen", x, WIDTH); // an output
        let mut y = q;
        for i in 0..5 {
            y = linear(rec, &format!("step {i}"), y, WIDTH); // each on another value
        }
        let far = linear(rec, "far", x, WIDTH); // would wait for five steps
        let y = mixed(rec, [y, far, q]);
        let wide = linear(rec, "narrow", wide, WIDTH);
        let wide = rec.view(wide, &[ROWS / 4, 4, WIDTH]).unwrap();
        vec![("y", rec.apply(Add, &[y, wide]).unwrap()), ("seen", seen)]
    });
    assert!(!plan.0.contains("parts"), "{}", plan.0);
    assert!(plan.3 == apart.3);
}

#[test]
fn small_results_wait_and_those_of_a_prompt_are_made_once() {
    let steps = |rows: usize, steady: bool| {
        let mut rec = Recorder::new();
        let (x, c) =
            (rec.input("x", Spec::f32(&[ROWS, WIDTH])), rec.input("c", Spec::f32(&[rows, 16])));
        if steady {
            rec.steady(c);
        }
        let mut y = x;
        for i in 0..11 {
            y = linear(&mut rec, &format!("layer {i}"), y, WIDTH);
            y = linear(&mut rec, &format!("behind {i}"), y, WIDTH);
            y = linear(&mut rec, &format!("more {i}"), y, WIDTH);
            // segments matter to plans that compute them again only
            let own = rec.checkpoint("block", |rec| Ok(linear(rec, &format!("own {i}"), c, WIDTH)));
            let own = own.unwrap();
            let own = rec.view(own, &[1, rows * WIDTH]).unwrap();
            let fits = linear(&mut rec, &format!("fit {i}"), own, WIDTH);
            let all = rec.table("ones", &[ROWS, 1], vec![0.01; ROWS]);
            let turned = rec.view(fits, &[WIDTH, 1]).unwrap();
            let spread = rec.apply(Linear { bias: false }, &[all, turned]).unwrap();
            y = rec.apply(Add, &[y, spread]).unwrap();
        }
        let plan = rec.plan(&[("y", y)], PlanOptions::default()).unwrap();
        let text = plan.explain(&Device::Cpu);
        let joined: Vec<String> =
            text.lines().filter(|l| l.contains("parts")).map(str::to_string).collect();
        (joined, plan.summary().once_steps, plan)
    };
    // 11 of them: one step of the most that one takes, and one of the rest
    let (small, once, _) = steps(2, false);
    assert_eq!((small.len(), once), (2, 0), "{small:?}");
    assert!(small[0].contains("8 parts") && small[1].contains("3 parts"), "{small:?}");
    let (large, _, _) = steps(400, false);
    assert!(large.is_empty(), "{large:?}");
    let (steady, once, plan) = steps(400, true);
    assert_eq!(steady.len(), 2, "{steady:?}");
    assert!(once >= 2);
    // what is made once is there for the second run too
    let mut p = plan.load(Device::Cpu, &Weights).unwrap();
    p.set("c", &(0..400 * 16).map(|i| (i % 7) as f32 / 9.0 - 0.3).collect::<Vec<_>>()).unwrap();
    let first = run(&mut p, "y");
    assert!(run(&mut p, "y") == first && first.iter().all(|v| v.is_finite()));
}

#[test]
fn what_a_backward_pass_keeps_is_made_together_for_all_layers() {
    // rows of the text, whether the blocks are computed again
    let plan = |rows: usize, checkpoint: bool| {
        let mut rec = Recorder::new();
        rec.train_if(|name| name.contains("lora"));
        let (x, text) =
            (rec.input("x", Spec::f32(&[1, WIDTH])), rec.input("c", Spec::f32(&[rows, 16])));
        let mut y = x;
        for i in 0..10 {
            let block = rec.checkpoint("block", |rec| {
                let own = adapted(rec, &format!("own {i}"), text, WIDTH);
                let mut y = y;
                for step in 0..6 {
                    y = linear(rec, &format!("step {i} {step}"), y, WIDTH); // far from the next block
                }
                // kept: scores of the rows
                let scores = rec.apply(Linear { bias: false }, &[own, y])?;
                let turned = rec.view(scores, &[1, rows])?;
                let scale = rec.table("scale", &[rows, WIDTH], vec![0.01; rows * WIDTH]);
                let own = rec.apply(Multiply, &[own, scale])?;
                let flat = rec.view(own, &[1, rows * WIDTH])?;
                let fit = linear(rec, &format!("fit {i}"), flat, WIDTH);
                let scored = linear(rec, &format!("scored {i}"), turned, WIDTH);
                let sum = rec.apply(Add, &[fit, scored])?;
                rec.apply(Affine { scale: 1e-3, shift: 0.0 }, &[sum]) // numbers stay small
            });
            y = block.unwrap();
        }
        let options = PlanOptions { pass: Pass::Seeded, checkpoint, poison: true };
        rec.plan(&[("y", y)], options).unwrap()
    };
    let run = |checkpoint: bool| {
        let plan = plan(400, checkpoint);
        let text = plan.explain(&Device::Cpu);
        let forward = text.lines().filter(|l| l.contains(" fwd ") && l.contains("parts"));
        let parts: Vec<String> = forward.map(str::to_string).collect();
        let params = plan.params().into_iter().filter(|p| p.trainable).map(|p| p.name);
        let names: Vec<String> = params.collect();
        let mut p = plan.load(Device::Cpu, &Weights).unwrap();
        p.set("x", &[0.1; WIDTH]).unwrap();
        p.set("c", &(0..400 * 16).map(|i| (i % 7) as f32 / 9.0 - 0.3).collect::<Vec<_>>()).unwrap();
        p.forward().unwrap();
        p.set_grad("y", &[0.5; WIDTH]).unwrap();
        p.backward(true).unwrap();
        let grads: Vec<Vec<f32>> = names.iter().map(|n| p.grad(n).unwrap()).collect();
        assert!(
            grads.iter().flatten().any(|g| *g != 0.0)
                && grads.iter().flatten().all(|g| g.is_finite())
        );
        (parts, names.into_iter().zip(grads).collect::<std::collections::BTreeMap<_, _>>())
    };
    let (together, again) = (run(false), run(true));
    assert_eq!(together.0.len(), 2, "{:?}", together.0);
    assert!(
        together.0[0].contains("8 parts") && together.0[1].contains("2 parts"),
        "{:?}",
        together.0
    );
    assert!(again.0.is_empty(), "{:?}", again.0);
    assert!(together.1 == again.1, "the gradients differ");
}

/// What trained layers of 512 x 48 on one input give as a training plan of the outputs of `record`, which names the loss's
/// part first: the plan's text, and the gradients of these trainables.
fn gradients(names: &[&str], record: &Record) -> (String, Vec<Vec<f32>>) {
    let mut rec = Recorder::new();
    rec.train_if(|name| name.contains("lora"));
    let x = rec.input("x", Spec::f32(&[ROWS, WIDTH]));
    let outputs = record(&mut rec, x);
    let ones = rec.table("ones", &[1, ROWS * WIDTH], vec![0.01; ROWS * WIDTH]);
    let flat = rec.view(outputs[0].1, &[1, ROWS * WIDTH]).unwrap();
    let loss = rec.apply(Linear { bias: false }, &[flat, ones]).unwrap();
    let options = PlanOptions { pass: Pass::Loss(loss), poison: true, ..PlanOptions::default() };
    let plan = rec.plan(&outputs[1..], options).unwrap();
    let text = plan.explain(&Device::Cpu);
    let mut p = plan.load(Device::Cpu, &Weights).unwrap();
    p.set("x", &(0..ROWS * WIDTH).map(|i| (i % 13) as f32 / 6.0 - 1.0).collect::<Vec<_>>())
        .unwrap();
    p.forward_backward(true, None).unwrap();
    (text, names.iter().map(|n| p.grad(n).unwrap()).collect())
}

#[test]
fn an_adapted_layer_that_no_gradient_reaches_is_not_joined_with_one_that_trains() {
    let names = ["q.lora_a", "q.lora_b"];
    let (text, both) = gradients(&names, &|rec, x| {
        let [q, k] = ["q", "k"].map(|n| adapted(rec, n, x, WIDTH));
        let seen = rec.apply(Affine { scale: 2.0, shift: 0.0 }, &[k]).unwrap();
        vec![("y", q), ("seen", seen)]
    });
    assert!(!text.contains("parts"), "{text}");
    let (_, alone) = gradients(&names, &|rec, x| vec![("y", adapted(rec, "q", x, WIDTH))]);
    assert!(both == alone && both.iter().all(|g| g.iter().any(|v| *v != 0.0)));
}

/// The sum of `all`, as the output of a loss.
fn summed(rec: &mut Recorder, all: &[Value]) -> Vec<(&'static str, Value)> {
    // not directly behind the last layer, which would take it in
    let mut y = rec.apply(Affine { scale: 1.0, shift: 0.0 }, &all[..1]).unwrap();
    for v in &all[1..] {
        y = rec.apply(Add, &[y, *v]).unwrap();
    }
    vec![("y", y)]
}

#[test]
fn layers_whose_adapter_another_layer_reads_too_stay_apart_and_its_gradients_add_up() {
    let names = ["q.lora_a", "q.lora_b"];
    let (text, shared) = gradients(&names, &|rec, x| {
        let [q, k] = ["q", "k"].map(|n| adapted(rec, n, x, WIDTH));
        let other = rec.apply(Affine { scale: 0.5, shift: 0.0 }, &[x]).unwrap();
        let again = adapted(rec, "q", other, WIDTH);
        summed(rec, &[q, k, again])
    });
    assert!(!text.contains("parts"), "{text}");
    // on half of the input it has half of the gradient
    let (text, alone) = gradients(&names, &|rec, x| {
        let all = ["q", "k"].map(|n| adapted(rec, n, x, WIDTH));
        summed(rec, &all)
    });
    assert!(text.contains("2 parts"), "{text}");
    for (a, b) in shared.iter().flatten().zip(alone.iter().flatten()) {
        assert!((a - 1.5 * b).abs() <= 1e-4 * (1.0 + b.abs()), "{a} {b}");
    }
}

#[test]
fn layers_of_two_segments_that_are_computed_again_stay_apart() {
    let plan = |checkpoint: bool| {
        let mut rec = Recorder::new();
        rec.train_if(|name| name.contains("lora"));
        let x = rec.input("x", Spec::f32(&[ROWS, WIDTH]));
        let [q, k] = ["q", "k"].map(|name| {
            let block = rec.checkpoint(name, |rec| {
                let h = adapted(rec, name, x, WIDTH);
                rec.apply(Multiply, &[h, x])
            });
            block.unwrap()
        });
        let y = rec.apply(Add, &[q, k]).unwrap();
        let options = PlanOptions { pass: Pass::Seeded, checkpoint, poison: true };
        rec.plan(&[("y", y)], options).unwrap().explain(&Device::Cpu)
    };
    let (once, again) = (plan(false), plan(true));
    assert!(once.contains("2 parts"), "{once}");
    assert!(!again.contains("parts"), "{again}");
}
