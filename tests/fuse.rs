//! Operations joined with what alone reads them, in plans without a backward pass and with one.

#![allow(clippy::unwrap_used)]

use selvedge::{
    device::Device,
    error::Result,
    kernels::{
        activation::{Activation, Kind},
        add::Add,
        geglu::Geglu,
        linear::Linear,
        lora_linear::LoraLinear,
    },
    plan::{Pass, Plan, PlanOptions, Recorder, Value, WeightLayout, WeightSource},
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

const ROWS: usize = 30;
const WIDTH: usize = 16;

/// Weights of any name.
struct Named;

impl WeightSource for Named {
    fn get(&self, name: &str, dims: &[usize], _: WeightLayout) -> Result<Option<Floats>> {
        let own = name.bytes().map(usize::from).sum::<usize>();
        let at = |i: usize| ((own * 53 + i * 29) % 41) as f32 / 40.0 - 0.4;
        Ok(Some((0..dims.iter().product()).map(at).collect::<Vec<_>>().into()))
    }
}

/// `x w^T + b`, with an adapter where the name says so.
fn layer(rec: &mut Recorder, name: &str, x: Value) -> Value {
    let mut param =
        |what, dims: &[usize]| rec.param(&format!("{name}.{what}"), dims, WeightLayout::Dense);
    let mut ins = vec![x, param("weight", &[WIDTH; 2]), param("bias", &[WIDTH])];
    if !name.contains("adapted") {
        return rec.apply(Linear { bias: true }, &ins).unwrap();
    }
    ins.extend([param("lora_a", &[4, WIDTH]), param("lora_b", &[WIDTH, 4])]);
    rec.apply(LoraLinear { bias: true, residual: false, scale: 0.5 }, &ins).unwrap()
}

fn silu(rec: &mut Recorder, x: Value) -> Value {
    rec.apply(Activation { kind: Kind::Silu }, &[x]).unwrap()
}

fn add(rec: &mut Recorder, a: Value, b: Value) -> Value {
    rec.apply(Add, &[a, b]).unwrap()
}

/// A block of a transformer and one with a shortcut, the sum once before and once behind what it is added to. Where the layers
/// are to stay `apart` another operation, which leads nowhere, reads their results.
fn blocks(rec: &mut Recorder, x: Value, apart: bool) -> Value {
    let end = |rec: &mut Recorder, name: &str, x: Value| {
        let h = layer(rec, name, x);
        if apart {
            silu(rec, h);
        }
        h
    };
    let x = rec.checkpoint("transformer", |rec| {
        let h = silu(rec, x);
        let h = end(rec, "adapted out", h);
        let x = add(rec, x, h);
        let h = silu(rec, x);
        let h = end(rec, "more adapted", h);
        let x = add(rec, h, x);
        let h = silu(rec, x);
        let h = end(rec, "frozen", h);
        Ok(add(rec, x, h))
    });
    let x = x.unwrap();
    let y = rec.checkpoint("resnet", |rec| {
        let h = layer(rec, "inner", x);
        let h = silu(rec, h);
        let x = end(rec, "shortcut", x);
        Ok(add(rec, x, h))
    });
    y.unwrap()
}

/// Two passes forward and backward with every trainable's gradient summed over them; what was computed, in order.
fn trained(plan: Plan, names: &[String]) -> Vec<f32> {
    let mut p = plan.load(Device::Cpu, &Named).unwrap();
    let mut seen = vec![];
    for (first, step) in [(true, 6.0), (false, 7.0)] {
        let x = (0..ROWS * WIDTH).map(|i| (i % 13) as f32 / step - 1.0);
        p.set("x", &x.collect::<Vec<_>>()).unwrap();
        p.forward().unwrap();
        seen.extend(p.get("y").unwrap());
        let dy = (0..ROWS * WIDTH).map(|i| (i % 11) as f32 / step - 0.7);
        p.set_grad("y", &dy.collect::<Vec<_>>()).unwrap();
        p.backward(first).unwrap();
    }
    seen.extend(p.grad("x").unwrap());
    for name in names {
        let grad = p.grad(name).unwrap();
        assert!(grad.iter().any(|g| *g != 0.0), "{name}");
        seen.extend(grad);
    }
    seen
}

#[test]
fn a_training_plan_takes_sums_into_their_layers_with_the_same_gradients() {
    for (all, checkpoint) in [(false, false), (false, true), (true, false), (true, true)] {
        let run = |apart: bool| {
            let mut rec = Recorder::new();
            rec.train_if(move |name| all || name.contains("lora"));
            let x = rec.input_with_grad("x", Spec::f32(&[ROWS, WIDTH]));
            let y = blocks(&mut rec, x, apart);
            let options = PlanOptions { pass: Pass::Seeded, checkpoint, poison: true };
            let plan = rec.plan(&[("y", y)], options).unwrap();
            let (text, s) = (plan.explain(&Device::Cpu), plan.summary());
            let params = plan.params().into_iter().filter(|p| p.trainable).map(|p| p.name);
            let names: Vec<String> = params.collect();
            (text, s.steps, s.arena_bytes, trained(plan, &names))
        };
        let (fused, apart) = (run(false), run(true));
        let lines = |text: &str, what: &str| text.lines().filter(|l| l.contains(what)).count();
        assert!(!fused.0.contains(" add "), "{}", fused.0);
        assert_eq!(lines(&apart.0, "residual"), 0, "{}", apart.0);
        // four sums forward, two of them once more, and the copy of a gradient that the caller reads
        let again = 2 * usize::from(checkpoint);
        assert_eq!(lines(&apart.0, " add "), 4 + again + 1, "{}", apart.0);
        assert_eq!(fused.1 + 4 + again + 1, apart.1, "{}", fused.0);
        assert_eq!(lines(&fused.0, "again"), lines(&apart.0, "again") - again, "{}", fused.0);
        assert!(fused.2 <= apart.2, "{} {}", fused.2, apart.2);
        assert!(fused.3 == apart.3, "all {all}, checkpoint {checkpoint}: the numbers differ");
    }
}

/// What is recorded on an input and gives the output.
type Record = dyn Fn(&mut Recorder, Value) -> Value;

#[test]
fn sums_that_a_backward_pass_needs_apart_stay_apart() {
    let cases: [(&str, &Record); 6] = [
        ("of a layer's own input", &|rec, x| {
            let h = layer(rec, "adapted", x);
            add(rec, h, x)
        }),
        ("of a view of it", &|rec, x| {
            let h = layer(rec, "adapted", x);
            let seen = rec.view(x, &[ROWS, WIDTH]).unwrap();
            add(rec, seen, h)
        }),
        ("of another segment", &|rec, x| {
            let h = silu(rec, x);
            let h = rec.checkpoint("block", |rec| Ok(layer(rec, "adapted", h))).unwrap();
            add(rec, x, h)
        }),
        ("not directly behind", &|rec, x| {
            let h = silu(rec, x);
            let h = layer(rec, "adapted", h);
            let x = silu(rec, x);
            add(rec, h, x)
        }),
        ("read twice", &|rec, x| {
            let h = silu(rec, x);
            let h = layer(rec, "adapted", h);
            let x = add(rec, h, x);
            add(rec, x, h)
        }),
        ("no sum", &|rec, x| {
            let h = layer(rec, "adapted", x);
            silu(rec, h)
        }),
    ];
    for (name, record) in cases {
        for checkpoint in [false, true] {
            let mut rec = Recorder::new();
            rec.train_if(|name| name.contains("lora"));
            let x = rec.input_with_grad("x", Spec::f32(&[ROWS, WIDTH]));
            let y = record(&mut rec, x);
            let options = PlanOptions { pass: Pass::Seeded, checkpoint, poison: true };
            let plan = rec.plan(&[("y", y)], options).unwrap();
            let text = plan.explain(&Device::Cpu);
            assert!(!text.contains("residual"), "{name}: {text}");
            trained(plan, &["adapted.lora_a", "adapted.lora_b"].map(String::from));
        }
    }
}

/// Values between the layers of a feed-forward part.
const HIDDEN: usize = 24;

/// A feed-forward part with its residual, `second` the name of its second layer. Where everything is to stay `apart` another
/// operation, which leads nowhere, reads what lies between.
fn feed_forward(rec: &mut Recorder, x: Value, second: &str, apart: bool) -> Value {
    let y = rec.checkpoint("ff", |rec| {
        let seen = |rec: &mut Recorder, v: Value| {
            if apart {
                silu(rec, v);
            }
        };
        let mut param = |name: &str, dims: &[usize]| rec.param(name, dims, WeightLayout::Dense);
        let (w1, b1) =
            (param("first.weight", &[2 * HIDDEN, WIDTH]), param("first.bias", &[2 * HIDDEN]));
        let mut other = vec![
            param(&format!("{second}.weight"), &[WIDTH, HIDDEN]),
            param(&format!("{second}.bias"), &[WIDTH]),
        ];
        if second.contains("adapted") {
            other.extend([param("lora_a", &[4, HIDDEN]), param("lora_b", &[WIDTH, 4])]);
        }
        let h = silu(rec, x);
        let h = rec.apply(Linear { bias: true }, &[h, w1, b1])?;
        seen(rec, h);
        let h = rec.apply(Geglu, &[h])?;
        seen(rec, h);
        let ins = [vec![h], other].concat();
        let h = match second.contains("adapted") {
            true => rec.apply(LoraLinear { bias: true, residual: false, scale: 0.5 }, &ins)?,
            false => rec.apply(Linear { bias: true }, &ins)?,
        };
        seen(rec, h);
        Ok(add(rec, x, h))
    });
    y.unwrap()
}

#[test]
fn a_training_plan_takes_a_feed_forward_part_as_one_operation_with_the_same_gradients() {
    // what is trained, the second layer
    let cases = [("nothing", "second"), ("first", "second"), ("", "second"), ("lora", "adapted")];
    for (trains, second) in cases {
        for checkpoint in [false, true] {
            // where it is computed again only the second layer takes the sum along: one backward step for both would
            // need the memory of both
            let (detail, forward) = match (second, checkpoint) {
                ("second", false) => ("feed-forward, GEGLU, residual", 1),
                (_, false) => ("GEGLU, values and gates kept", 2),
                (_, true) => ("residual", 3),
            };
            let run = |apart: bool| {
                let mut rec = Recorder::new();
                rec.train_if(move |name| name.contains(trains));
                let x = rec.input_with_grad("x", Spec::f32(&[ROWS, WIDTH]));
                let y = feed_forward(&mut rec, x, second, apart);
                let options = PlanOptions { pass: Pass::Seeded, checkpoint, poison: true };
                let plan = rec.plan(&[("y", y)], options).unwrap();
                let (text, s) = (plan.explain(&Device::Cpu), plan.summary());
                let params = plan.params().into_iter().filter(|p| p.trainable).map(|p| p.name);
                let names: Vec<String> = params.collect();
                (text, s.arena_bytes, trained(plan, &names))
            };
            let (fused, apart) = (run(false), run(true));
            let of = |kind: &str| {
                let lines = fused.0.lines().filter(|l| l.contains(kind));
                lines.filter(|l| !l.contains("activation")).count()
            };
            assert_eq!(of(" fwd "), forward, "{}", fused.0);
            // an adapted layer saves what it is computed again for
            let again = usize::from(checkpoint && second == "adapted");
            assert_eq!(of(detail), 2 + again, "{}", fused.0);
            assert!(!apart.0.contains(detail) && apart.0.contains(" geglu "), "{}", apart.0);
            // scratch of few rows outweighs all else here: what lay in two steps' may lie in one's
            let most = apart.1 + 8 * ROWS * HIDDEN;
            assert!(fused.1 <= most, "{} {}", fused.1, apart.1);
            assert!(fused.2 == apart.2, "{trains}, {second}, {checkpoint}: the numbers differ");
        }
    }
}

#[test]
fn what_no_gradient_goes_through_keeps_nothing_in_a_training_plan() {
    let mut rec = Recorder::new();
    rec.train_if(|name| name.starts_with("adapted"));
    let x = rec.input("x", Spec::f32(&[ROWS, WIDTH]));
    let frozen = feed_forward(&mut rec, x, "second", false);
    let y = layer(&mut rec, "adapted", frozen);
    let options = PlanOptions { pass: Pass::Seeded, ..PlanOptions::default() };
    let text = rec.plan(&[("y", y)], options).unwrap().explain(&Device::Cpu);
    assert!(text.lines().any(|l| l.contains(" GEGLU")), "{text}");
    assert!(!text.contains("feed-forward") && !text.contains("kept"), "{text}");
}
