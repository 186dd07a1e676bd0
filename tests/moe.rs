//! Mixtures of experts as recorded programs: both ways agree, and every kernel of the products computes them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use selvedge::{
    device::Device,
    error::Result,
    kernels::{
        activation::Kind,
        moe::{Combine, MAX_EXPERTS, Route},
    },
    lora::Adapters,
    nn::{Bias, Mixture, Net, Routing, Way, linear, mixture},
    op::Op,
    plan::{Pass, PlanOptions, Recorder, Value, WeightLayout, WeightSource},
    tensor::{DType, Floats, Spec, philox::fill_normal},
};

const TOKENS: usize = 13;
const WIDTH: usize = 8;
const HIDDEN: usize = 16;

/// Normal weights, the same for the same name; experts in the order of `order`, `fc2` zero where `silent`.
#[derive(Clone, Default)]
struct Weights {
    order: Vec<usize>,
    silent: bool,
}

fn normal(seed: u64, n: usize) -> Vec<f32> {
    let mut v = vec![0.0; n];
    fill_normal(seed, 5, &mut v);
    v.iter_mut().for_each(|v| *v *= 0.4);
    v
}

impl WeightSource for Weights {
    fn get(&self, name: &str, dims: &[usize], _: WeightLayout) -> Result<Option<Floats>> {
        let n = dims.iter().product();
        let bare = name.replace("experts.", "");
        let mut all =
            normal(bare.bytes().fold(7, |h: u64, b| h.wrapping_mul(31) + u64::from(b)), n);
        if self.silent && name.contains("fc2") {
            all.fill(0.0);
        }
        if !self.order.is_empty() {
            let one = n / self.order.len();
            all = self.order.iter().flat_map(|e| all[e * one..(e + 1) * one].to_vec()).collect();
        }
        Ok(Some(all.into()))
    }
}

/// Output and gradient of the tokens, then of every parameter.
struct Ran {
    out: Vec<f32>,
    dx: Vec<f32>,
    params: Vec<f32>,
}

fn run(
    (device, dtype): (&Device, DType),
    weights: &Weights,
    body: impl FnOnce(&mut Net<'_>, Value) -> Result<Value>,
) -> Ran {
    let mut rec = Recorder::in_dtype(dtype);
    rec.train_if(|_| true);
    let adapters = Adapters::default();
    let x = rec.input_with_grad("x", Spec::f32(&[1, TOKENS, WIDTH]));
    let h = rec.compute(x).unwrap();
    let h = body(&mut Net::new(&mut rec, &adapters), h).unwrap();
    let y = rec.cast(h, DType::F32).unwrap();
    let names: Vec<String> = rec.params().into_iter().map(|p| p.name).collect();
    let options = PlanOptions { pass: Pass::Seeded, poison: true, ..PlanOptions::default() };
    let plan = rec.plan(&[("y", y)], options).unwrap();
    let mut p = plan.load(device.clone(), weights).unwrap();
    p.set("x", &normal(1, TOKENS * WIDTH)).unwrap();
    p.set_grad("y", &normal(2, TOKENS * WIDTH)).unwrap();
    p.forward_backward(true, None).unwrap();
    let params = names.iter().flat_map(|n| p.grad(n).unwrap()).collect();
    Ran { out: p.get("y").unwrap(), dx: p.grad("x").unwrap(), params }
}

fn of(m: Mixture) -> impl FnOnce(&mut Net<'_>, Value) -> Result<Value> {
    move |net, x| Ok(mixture(net, "ffm", x, m)?.out)
}

fn mix(experts: usize, top_k: usize, way: Way) -> Mixture {
    Mixture { experts, top_k, hidden: HIDDEN, routing: Routing::Token, way }
}

fn close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let top = want.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * top, "{what}[{i}] is {g}, expected {w}");
    }
}

fn same(a: &Ran, b: &Ran, tolerance: f32) {
    close("output", &a.out, &b.out, tolerance);
    close("gradient of the tokens", &a.dx, &b.dx, tolerance);
    close("gradients of the parameters", &a.params, &b.params, tolerance);
}

const CPU: (&Device, DType) = (&Device::Cpu, DType::F32);

#[test]
fn dense_and_routed_mixtures_agree() {
    for (experts, top_k) in [(4, 1), (4, 2), (7, 3), (3, 3)] {
        let dense = run(CPU, &Weights::default(), of(mix(experts, top_k, Way::Dense)));
        let routed = run(CPU, &Weights::default(), of(mix(experts, top_k, Way::Routed)));
        same(&dense, &routed, 1e-5);
    }
}

#[test]
fn of_equal_logits_the_lower_expert_counts() {
    let devices = if cfg!(feature = "emulate") { vec!["cpu", "emulated"] } else { vec!["cpu"] };
    for device in devices {
        let mut rec = Recorder::new();
        let logits = rec.input("logits", Spec::f32(&[TOKENS, 2]));
        let rows = rec.input("rows", Spec::f32(&[2 * TOKENS, WIDTH]));
        let table = rec.apply(Route { slots: 2 }, &[logits]).unwrap();
        let y = rec.apply(Combine { top_k: 1 }, &[rows, table, logits]).unwrap();
        let plan = rec.plan_inference(y).unwrap();
        let mut p = plan.load(Device::parse(device).unwrap(), &Weights::default()).unwrap();
        p.set("logits", &[0.5; 2 * TOKENS]).unwrap();
        // the rows of the first expert, then those of the second
        p.set("rows", &[[1.0; TOKENS * WIDTH], [2.0; TOKENS * WIDTH]].concat()).unwrap();
        p.forward().unwrap();
        assert_eq!(p.get("out").unwrap(), [1.0; TOKENS * WIDTH], "{device}");
    }
}

#[test]
fn one_expert_is_a_plain_network() {
    let one = run(CPU, &Weights::default(), of(mix(1, 1, Way::Auto)));
    let plain = run(CPU, &Weights::default(), |net, x| {
        net.within("ffm", |net| {
            let h = linear(net, "fc1", x, HIDDEN, Bias::Learned)?;
            let h = net.activate(h, Kind::Gelu)?;
            let y = linear(net, "fc2", h, WIDTH, Bias::Learned)?;
            net.add(x, y)
        })
    });
    close("output", &one.out, &plain.out, 1e-5);
    close("gradient of the tokens", &one.dx, &plain.dx, 1e-5);
}

#[test]
fn a_choice_for_the_whole_sequence_is_that_of_its_mean_token() {
    let whole = Mixture { routing: Routing::Sequence, ..mix(4, 2, Way::Dense) };
    let dense = run(CPU, &Weights::default(), of(whole));
    same(&dense, &run(CPU, &Weights::default(), of(Mixture { way: Way::Routed, ..whole })), 1e-5);
    let own = run(CPU, &Weights::default(), of(mix(4, 2, Way::Dense)));
    assert_ne!(own.out, dense.out, "the routing does nothing");
    let [shared, each] = [whole, mix(4, 2, Way::Dense)].map(logits);
    for e in 0..4 {
        let of = |rows: &[f32]| rows.iter().skip(e).step_by(4).copied().collect::<Vec<_>>();
        let mean = of(&each).iter().sum::<f32>() / TOKENS as f32;
        close("logit", &of(&shared), &[mean; TOKENS], 1e-5);
    }
}

/// The router's logits `[1, TOKENS, experts]`.
fn logits(m: Mixture) -> Vec<f32> {
    let mut rec = Recorder::new();
    let x = rec.input("x", Spec::f32(&[1, TOKENS, WIDTH]));
    let none = Adapters::default();
    let y = mixture(&mut Net::new(&mut rec, &none), "ffm", x, m).unwrap().logits;
    let mut p = rec.plan_inference(y).unwrap().load(Device::Cpu, &Weights::default()).unwrap();
    p.set("x", &normal(1, TOKENS * WIDTH)).unwrap();
    p.forward().unwrap();
    p.get("out").unwrap()
}

#[test]
fn silent_experts_leave_the_tokens_as_they_are() {
    let weights = Weights { silent: true, ..Weights::default() };
    let ran = run(CPU, &weights, of(mix(4, 4, Way::Auto)));
    assert_eq!(ran.out, normal(1, TOKENS * WIDTH));
}

#[test]
fn the_order_of_experts_does_not_matter() {
    let order = vec![2, 0, 3, 1];
    let one = Weights { order: vec![0, 1, 2, 3], ..Weights::default() };
    let other = Weights { order, ..Weights::default() };
    for way in [Way::Dense, Way::Routed] {
        let (a, b) = (run(CPU, &one, of(mix(4, 2, way))), run(CPU, &other, of(mix(4, 2, way))));
        close("output", &a.out, &b.out, 1e-5);
        close("gradient of the tokens", &a.dx, &b.dx, 1e-5);
    }
}

#[test]
fn more_experts_than_the_masks_hold_are_refused_while_recording() {
    let logits = |experts| Spec::f32(&[3, experts]);
    let route = Route { slots: 2 };
    assert!(route.infer(&[logits(MAX_EXPERTS)]).is_ok());
    let e = route.infer(&[logits(MAX_EXPERTS + 1)]).unwrap_err().to_string();
    assert!(e.contains("at most 512 experts"), "{e}");
    let mut rec = Recorder::new();
    let x = rec.input("x", Spec::f32(&[1, TOKENS, WIDTH]));
    let none = Adapters::default();
    for way in [Way::Dense, Way::Routed] {
        let m = mix(MAX_EXPERTS + 1, 2, way);
        let e = mixture(&mut Net::new(&mut rec, &none), "ffm", x, m).unwrap_err().to_string();
        assert!(e.contains("at most 512 experts"), "{e}");
    }
}

#[test]
fn a_logit_that_is_no_number_still_gives_a_whole_table() {
    let mut rec = Recorder::new();
    let x = rec.input("x", Spec::f32(&[1, TOKENS, WIDTH]));
    let none = Adapters::default();
    let y = mixture(&mut Net::new(&mut rec, &none), "ffm", x, mix(4, 2, Way::Routed));
    let y = y.unwrap().out;
    let mut p = rec.plan_inference(y).unwrap().load(Device::Cpu, &Weights::default()).unwrap();
    p.set("x", &[f32::NAN; TOKENS * WIDTH]).unwrap();
    p.forward().unwrap(); // every slot has its row: nothing lies outside the buffers
    assert!(p.get("out").unwrap().iter().all(|v| v.is_nan()));
}

#[cfg(feature = "emulate")]
mod emulated {
    use super::*;
    use selvedge::{
        device::{Cuda, Emulated, Schedule},
        kernels::{
            case::{Case, Fill},
            compare::{Outcome, compare},
            moe::cases::cases,
        },
    };
    use std::sync::Arc;

    #[test]
    fn a_mixture_on_a_gpu_is_that_of_the_cpu() {
        for schedule in [Schedule::Early, Schedule::Random(5)] {
            let device = Device::Cuda(Cuda::emulated(schedule).unwrap());
            for way in [Way::Dense, Way::Routed] {
                let cpu = run(CPU, &Weights::default(), of(mix(4, 2, way)));
                let gpu = run((&device, DType::F32), &Weights::default(), of(mix(4, 2, way)));
                same(&gpu, &cpu, 1e-5);
            }
            // All experts count: no rounding of a logit changes who is chosen.
            let cpu = run(CPU, &Weights::default(), of(mix(4, 4, Way::Auto)));
            for dtype in [DType::Bf16, DType::F16] {
                let gpu = run((&device, dtype), &Weights::default(), of(mix(4, 4, Way::Auto)));
                same(&gpu, &cpu, 0.03);
            }
        }
    }

    const SLOTS: [&str; 3] = ["moe_experts.forward", "moe_experts.rows", "moe_experts.weight"];

    /// A device that takes the products of `name`, and runs so many clusters at a time.
    fn forced(name: &str, schedule: Schedule, resident_clusters: u32) -> Arc<Cuda> {
        let machine = Emulated { schedule, resident_clusters, ..Emulated::default() };
        let cuda = Cuda::emulated_as(&machine).unwrap();
        SLOTS.iter().for_each(|slot| cuda.force_variant(slot, name));
        cuda
    }

    /// All cases of the folder with the products of `name` and the table made by routing.
    fn agrees(name: &str, cuda: &Arc<Cuda>) {
        cuda.force_variant("moe_route", "top_k"); // also where all experts are chosen
        for dtype in [DType::Bf16, DType::F16] {
            let mut taken = 0;
            for case in cases() {
                let outcome = compare(&case, dtype, cuda).unwrap();
                let agrees = matches!(outcome, Outcome::Agrees { .. });
                assert!(agrees, "{name} {dtype} {}: {outcome:?}", case.name);
                let specs = case.specs(dtype);
                let out = case.op.infer(&specs).unwrap().out;
                let both = [false, true].map(|b| case.op.variant(cuda, &specs, &out, b));
                taken += usize::from(both == [name.to_string(), format!("{name}, {name}")]);
            }
            assert!(taken >= 6, "{name} {dtype} is taken {taken} times");
        }
    }

    #[test]
    fn every_variant_of_the_operations_agrees_with_the_cpu() {
        for name in ["sm80_128", "sm80_64", "simt"] {
            agrees(name, &forced(name, Schedule::Late, 0));
        }
    }

    /// One cluster has all tiles of a launch, two have every other one.
    #[test]
    fn the_hopper_products_agree_with_the_cpu_however_the_tiles_are_dealt() {
        let machines = [(Schedule::Early, 0), (Schedule::Late, 1), (Schedule::Random(3), 1)];
        for (schedule, clusters) in machines.into_iter().chain([(Schedule::Random(8), 2)]) {
            agrees("sm90", &forced("sm90", schedule, clusters));
        }
    }

    /// A tile reads rows of the next expert; nothing of them may reach this one's gradient.
    #[test]
    fn what_is_no_number_stays_with_its_expert() {
        let wide = |c: &Case| c.name.starts_with("moe_experts") && c.ins[0].dims[0] > 100;
        for mut case in cases().into_iter().filter(wide) {
            let [rows, k] = case.ins[0].dims[..] else { panic!("{}", case.name) };
            let Fill::Words(table) = &case.data[1] else { panic!("{}", case.name) };
            let last = rows - 1;
            let expert = table[3 * rows..].iter().filter(|first| **first as usize <= last).count();
            let from = table[3 * rows + expert - 1] as usize;
            let mut values = normal(3, rows * k);
            values[from * k..].fill(f32::NAN);
            case.data[0] = Fill::Values(values);
            let outcome = compare(&case, DType::Bf16, &forced("sm90", Schedule::Late, 0)).unwrap();
            assert!(matches!(outcome, Outcome::Agrees { .. }), "{}: {outcome:?}", case.name);
        }
    }
}
