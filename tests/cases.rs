//! Every case of every kernel folder: contract, gradients, repeatability.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use selvedge::{
    device::{
        Device,
        cpu::{ISA_VARIABLE, Isa},
    },
    kernels::{
        self,
        case::{Case, Fill},
        linear::Linear,
        lora_linear::LoraLinear,
    },
    op::{Backward, Buf, BufMut, Forward, Grad, GradMode, Signature},
    tensor::{DType, Spec, philox::fill_normal},
};

/// Sentinels on both sides of every written buffer, in elements.
const GUARD: usize = 64;
const SENTINEL: f32 = 1234.567;

/// A buffer inside a larger allocation.
struct Guarded {
    all: Vec<f32>,
    bytes: usize,
}

impl Guarded {
    fn new(bytes: usize, fill: f32) -> Self {
        let len = bytes.div_ceil(4);
        let mut all = vec![SENTINEL; len + 2 * GUARD];
        all[GUARD..GUARD + len].fill(fill);
        Self { all, bytes }
    }

    fn holding(content: &[f32]) -> Self {
        let mut g = Self::new(content.len() * 4, 0.0);
        g.all[GUARD..GUARD + content.len()].copy_from_slice(content);
        g
    }

    fn buf(&mut self) -> BufMut<'_> {
        BufMut::Host(&mut bytemuck::cast_slice_mut(&mut self.all[GUARD..])[..self.bytes])
    }

    /// The content, after a look at the guards.
    fn take(self, what: &str) -> Vec<f32> {
        let len = self.bytes.div_ceil(4);
        let guards = self.all[..GUARD].iter().chain(&self.all[GUARD + len..]);
        assert!(guards.into_iter().all(|v| *v == SENTINEL), "{what}: written outside its buffer");
        self.all[GUARD..GUARD + len].to_vec()
    }
}

/// Inputs, outputs and saved values of one forward run.
struct Ran {
    ins: Vec<Vec<f32>>,
    signature: Signature,
    out: Vec<f32>,
    saved: Vec<Vec<f32>>,
}

fn host(bits: &[f32], len: usize) -> Buf<'_> {
    Buf::Host(&bytemuck::cast_slice(bits)[..len])
}

/// The inputs of a case; integers as their bits, so that the storage is aligned.
fn inputs(case: &Case, seed: u64) -> Vec<Vec<f32>> {
    let floats = |b: &Vec<u8>| b.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
    case.inputs(seed).iter().map(floats).collect()
}

/// Runs forward; everything written starts as `poison`.
fn forward(case: &Case, ins: Vec<Vec<f32>>, poison: f32) -> Ran {
    let signature = case.op.infer(&case.ins).unwrap();
    let mut out = Guarded::new(signature.out.bytes(), poison);
    let state = case.state(&signature.saved, 1);
    let mut saved: Vec<_> = match &state {
        Some(state) => state.iter().map(|b| Guarded::holding(&DType::F32.decode(b))).collect(),
        None => signature.saved.iter().map(|s| Guarded::new(s.bytes(), poison)).collect(),
    };
    let mut scratch = Guarded::new(signature.forward_scratch, poison);
    case.op
        .forward(Forward {
            device: &Device::Cpu,
            specs: &case.ins,
            out_spec: &signature.out,
            ins: ins.iter().zip(&case.ins).map(|(b, s)| host(b, s.bytes())).collect(),
            out: out.buf(),
            saved: saved.iter_mut().map(Guarded::buf).collect(),
            scratch: scratch.buf(),
        })
        .unwrap();
    scratch.take("forward scratch");
    let out = out.take("out");
    let saved = saved.into_iter().map(|s| s.take("saved")).collect();
    Ran { ins, signature, out, saved }
}

/// Runs backward with only what `keeps` asks for; `old` is the content of the gradients before.
fn backward(
    case: &Case,
    ran: &Ran,
    d_out: &[f32],
    modes: &[GradMode],
    old: &dyn Fn(usize) -> Vec<f32>,
    poison: f32,
) -> Vec<Vec<f32>> {
    let wants: Vec<bool> = modes.iter().map(|m| *m != GradMode::Skip).collect();
    let keeps = case.op.keeps(&wants);
    let s = &ran.signature;
    let mut grads: Vec<_> = wants
        .iter()
        .enumerate()
        .map(|(i, w)| if *w { Guarded::holding(&old(i)) } else { Guarded::new(0, 0.0) })
        .collect();
    let mut scratch = Guarded::new(s.backward_scratch, poison);
    let mut kept = vec![Buf::EMPTY; ran.ins.len()];
    for i in keeps.ins.iter().copied() {
        kept[i] = host(&ran.ins[i], case.ins[i].bytes());
    }
    case.op
        .backward(Backward {
            device: &Device::Cpu,
            specs: &case.ins,
            out_spec: &s.out,
            ins: kept,
            out: if keeps.out { host(&ran.out, s.out.bytes()) } else { Buf::EMPTY },
            saved: if keeps.saved {
                ran.saved.iter().zip(&s.saved).map(|(v, s)| host(v, s.bytes())).collect()
            } else {
                vec![]
            },
            d_out: host(d_out, s.out.bytes()),
            d_ins: grads
                .iter_mut()
                .zip(modes)
                .map(|(g, mode)| Grad { mode: *mode, buf: g.buf() })
                .collect(),
            scratch: scratch.buf(),
        })
        .unwrap();
    scratch.take("backward scratch");
    grads.into_iter().map(|g| g.take("gradient")).collect()
}

fn normal(seed: u64, n: usize) -> Vec<f32> {
    let mut v = vec![0.0; n];
    fill_normal(seed, 77, &mut v);
    v
}

fn modes(case: &Case, mode: GradMode) -> Vec<GradMode> {
    case.grads.iter().map(|g| if *g { mode } else { GradMode::Skip }).collect()
}

fn nan(spec: &Spec) -> Vec<f32> {
    vec![f32::NAN; spec.len()]
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    bytemuck::cast_slice::<f32, u32>(a) == bytemuck::cast_slice::<f32, u32>(b)
}

/// Cases whose run is one of the few slow ones (feature maps of real models).
fn small(case: &Case) -> bool {
    case.ins.iter().map(Spec::len).sum::<usize>() < 20_000
}

fn for_all(only: impl Fn(&Case) -> bool, check: impl Fn(&Case)) {
    let cases = kernels::cases();
    assert!(cases.len() > 30, "the list of cases has shrunk");
    let mut failed = vec![];
    for case in cases.iter().filter(|c| only(c)) {
        assert_eq!((case.data.len(), case.grads.len()), (case.ins.len(), case.ins.len()));
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(case))).is_err() {
            failed.push(format!("{} {}", case.op.name(), case.name));
        }
    }
    assert!(failed.is_empty(), "each failed with a message above:\n{}", failed.join("\n"));
}

#[test]
fn forward_writes_its_whole_output_and_nothing_else_and_repeats_bitwise() {
    for_all(
        |_| true,
        |case| {
            let a = forward(case, inputs(case, 1), f32::NAN);
            let b = forward(case, inputs(case, 1), 7.5);
            if a.signature.out.dtype == DType::F32 {
                assert!(a.out.iter().all(|v| v.is_finite()), "the output is not finite");
            }
            assert!(same_bits(&a.out, &b.out), "the output depends on old memory or on the run");
            for (a, b) in a.saved.iter().zip(&b.saved) {
                assert!(same_bits(a, b), "a saved value depends on old memory or on the run");
            }
        },
    );
}

#[test]
fn gradients_overwrite_add_or_stay_away_as_they_are_told() {
    for_all(
        |c| c.grads.contains(&true),
        |case| {
            let ran = forward(case, inputs(case, 2), f32::NAN);
            let d_out = normal(3, ran.out.len());
            let fresh = |i: usize| nan(&case.ins[i]);
            let over = modes(case, GradMode::Overwrite);
            let whole = backward(case, &ran, &d_out, &over, &fresh, f32::NAN);
            assert!(whole.iter().flatten().all(|v| v.is_finite()), "a gradient is not finite");
            let again = backward(case, &ran, &d_out, &over, &fresh, 7.5);
            assert!(
                whole.iter().zip(&again).all(|(a, b)| same_bits(a, b)),
                "a gradient depends on old memory or on the run"
            );
            let old = |i: usize| normal(40 + i as u64, case.ins[i].len());
            let add = modes(case, GradMode::Accumulate);
            let added = backward(case, &ran, &d_out, &add, &old, f32::NAN);
            for (i, (sum, g)) in added.iter().zip(&whole).enumerate() {
                let want: Vec<f32> = old(i).iter().zip(g).map(|(o, g)| o + g).collect();
                assert!(case.grads[i] || sum.is_empty());
                close(&format!("added gradient {i}"), sum, &want[..sum.len()]);
            }
            for only in (0..case.ins.len()).filter(|i| case.grads[*i]) {
                let mut one = vec![GradMode::Skip; case.ins.len()];
                one[only] = GradMode::Overwrite;
                let alone = backward(case, &ran, &d_out, &one, &fresh, f32::NAN);
                close(&format!("gradient {only} alone"), &alone[only], &whole[only]);
            }
        },
    );
}

#[test]
fn a_gradient_that_an_operation_passes_on_is_that_of_its_output() {
    for_all(
        |c| !c.op.passes().is_empty() && c.grads.contains(&true),
        |case| {
            let ran = forward(case, inputs(case, 2), f32::NAN);
            let d_out = normal(3, ran.out.len());
            let fresh = |i: usize| nan(&case.ins[i]);
            let over = modes(case, GradMode::Overwrite);
            let grads = backward(case, &ran, &d_out, &over, &fresh, f32::NAN);
            for i in case.op.passes() {
                assert!(same_bits(&grads[*i], &d_out), "gradient {i}");
            }
        },
    );
}

/// Equal up to the order of summation: the error is measured against the largest value.
fn close(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let top = want.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= 1e-5 * top, "{what}[{i}] is {g}, expected {w} (largest {top})");
    }
}

/// `sum r out`, in f64.
fn projected(case: &Case, ins: Vec<Vec<f32>>, r: &[f32]) -> f64 {
    let out = forward(case, ins, f32::NAN).out;
    out.iter().zip(r).map(|(o, r)| f64::from(*o) * f64::from(*r)).sum()
}

/// The slope of the projected output along `direction` of input `i`: central differences at two steps,
/// extrapolated to fourth order.
fn slope(case: &Case, i: usize, direction: &[f32], r: &[f32]) -> f64 {
    let at = |t: f32| {
        let mut ins = inputs(case, 4);
        ins[i].iter_mut().zip(direction).for_each(|(x, d)| *x += t * d);
        projected(case, ins, r)
    };
    let h = 8e-3f32;
    let central = |h: f32| (at(h) - at(-h)) / (2.0 * f64::from(h));
    (4.0 * central(h) - central(2.0 * h)) / 3.0
}

/// Whether a difference of two f32 results still shows a slope: not for inputs far from zero.
fn has_slopes(case: &Case) -> bool {
    !case.data.iter().any(|d| matches!(d, Fill::Uniform(low, _) if *low >= 100.0))
}

#[test]
fn gradients_are_the_slopes_of_the_output() {
    for_all(
        |c| c.grads.contains(&true) && small(c) && has_slopes(c),
        |case| {
            let ran = forward(case, inputs(case, 4), f32::NAN);
            let r = normal(5, ran.out.len());
            let over = modes(case, GradMode::Overwrite);
            let fresh = |i: usize| nan(&case.ins[i]);
            let grads = backward(case, &ran, &r, &over, &fresh, f32::NAN);
            for (i, g) in grads.iter().enumerate().filter(|(_, g)| !g.is_empty()) {
                let rms = (g.iter().map(|g| f64::from(g * g)).sum::<f64>() / g.len() as f64).sqrt();
                let scale = r.iter().map(|r| f64::from(r * r)).sum::<f64>().sqrt();
                let check = |what: String, direction: &[f32], norm: f64| {
                    let want = slope(case, i, direction, &r);
                    let dot = g.iter().zip(direction);
                    let got: f64 = dot.map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
                    let bound = 2e-3 * (got.abs() + rms * norm) + 2e-5 * scale;
                    assert!((got - want).abs() <= bound, "{what} is {got}, expected {want}");
                };
                for k in 0..g.len().min(12) {
                    // a stride without common factors walks over the whole input
                    let at = (k * 7919 + 13) % g.len();
                    let mut direction = vec![0.0; g.len()];
                    direction[at] = 1.0;
                    check(format!("gradient {i}[{at}]"), &direction, 1.0);
                }
                let direction = normal(6, g.len());
                let norm = direction.iter().map(|d| f64::from(d * d)).sum::<f64>().sqrt();
                check(format!("gradient {i} along a random direction"), &direction, norm);
            }
        },
    );
}

#[test]
fn costs_are_positive_and_finite() {
    for_all(
        |_| true,
        |case| {
            let out = case.op.infer(&case.ins).unwrap().out;
            let wants = &case.grads;
            for c in [case.op.cost(&case.ins, &out), case.op.backward_cost(&case.ins, &out, wants)]
            {
                assert!(c.flop >= 0.0 && c.bytes >= 0.0 && (c.flop + c.bytes).is_finite());
            }
        },
    );
}

#[test]
fn infer_refuses_missing_inputs_and_other_ranks_without_a_panic() {
    for_all(
        |_| true,
        |case| {
            for n in 0..case.ins.len() {
                assert!(case.op.infer(&case.ins[..n]).is_err(), "{n} inputs were taken");
            }
            for i in 0..case.ins.len() {
                for dims in [vec![], vec![0], vec![3, 0, 2], vec![1; 6]] {
                    let mut ins = case.ins.clone();
                    ins[i].dims = dims;
                    // refused or taken, but never a panic
                    drop(case.op.infer(&ins));
                }
            }
        },
    );
}

#[test]
fn everything_here_holds_on_the_narrower_instruction_sets_too() {
    for isa in Isa::available().into_iter().skip(1) {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--skip", "narrower_instruction_sets", "--skip", "slopes"])
            .env(ISA_VARIABLE, isa.name())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("test result: ok"), "{isa:?}:\n{text}");
    }
}

#[test]
fn an_adapter_without_effect_leaves_every_bit_of_the_base() {
    for (m, k, n) in
        [(1, 64, 65), (7, 5, 16), (16, 300, 40), (23, 160, 1), (24, 257, 96), (77, 640, 64)]
    {
        let base = Case::normal("linear", Linear { bias: true }, &[&[m, k], &[n, k], &[n]]);
        let plain = forward(&base, inputs(&base, 3), 0.0).out;
        for (scale, up) in [(0.5, 0.0), (0.0, 1.0)] {
            let op = LoraLinear { bias: true, residual: false, scale };
            let dims: [&[usize]; 5] = [&[m, k], &[n, k], &[n], &[4, k], &[n, 4]];
            let adapted = Case::normal("lora", op, &dims);
            let mut ins = inputs(&adapted, 3);
            ins[..3].clone_from_slice(&inputs(&base, 3));
            ins[4].iter_mut().for_each(|v| *v *= up);
            let out = forward(&adapted, ins, 0.0).out;
            assert!(out == plain, "{m} {k} {n}, scale {scale}");
        }
    }
}
