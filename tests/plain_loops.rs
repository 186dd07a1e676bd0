//! Linear, LoraLinear and Conv2d against plain double-precision loops, forward and backward.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use bytemuck::cast_slice_mut;
use selvedge::{
    device::{Buf, BufMut, Device},
    kernels::{conv2d::Conv2d, linear::Linear, lora_linear::LoraLinear},
    op::{Backward, Forward, Grad, GradMode, Op, Signature},
    tensor::{Spec, philox::fill_normal},
};

fn normal(seed: u64, len: usize) -> Vec<f32> {
    let mut v = vec![0.0; len];
    fill_normal(seed, 0, &mut v);
    v
}

fn host(v: &[f32]) -> Buf<'_> {
    Buf::Host(bytemuck::cast_slice(v))
}

fn host_mut(v: &mut [f32]) -> BufMut<'_> {
    BufMut::Host(cast_slice_mut(v))
}

struct Run {
    sig: Signature,
    ins: Vec<Vec<f32>>,
    out: Vec<f32>,
    saved: Vec<Vec<f32>>,
}

/// Forward on random inputs with every buffer NaN before.
fn forward(op: &dyn Op, specs: &[Spec], ins: Vec<Vec<f32>>) -> Run {
    let sig = op.infer(specs).unwrap();
    let mut out = vec![f32::NAN; sig.out.len()];
    let mut saved: Vec<Vec<f32>> = sig.saved.iter().map(|s| vec![f32::NAN; s.len()]).collect();
    let mut scratch = vec![f32::NAN; sig.forward_scratch.div_ceil(4)];
    op.forward(Forward {
        device: &Device::Cpu,
        specs,
        out_spec: &sig.out,
        ins: ins.iter().map(|v| host(v)).collect(),
        out: host_mut(&mut out),
        saved: saved.iter_mut().map(|v| host_mut(v)).collect(),
        scratch: host_mut(&mut scratch),
    })
    .unwrap();
    Run { sig, ins, out, saved }
}

/// Backward with only what `keeps` names; `start` is the content of each gradient buffer.
fn backward(
    op: &dyn Op,
    specs: &[Spec],
    run: &Run,
    dy: &[f32],
    modes: &[GradMode],
    start: f32,
) -> Vec<Vec<f32>> {
    let wants: Vec<bool> = modes.iter().map(|m| *m != GradMode::Skip).collect();
    let keeps = op.keeps(&wants);
    let mut grads: Vec<Vec<f32>> = specs.iter().map(|s| vec![start; s.len()]).collect();
    let mut scratch = vec![f32::NAN; run.sig.backward_scratch.div_ceil(4)];
    let kept = |i: usize| if keeps.ins.contains(&i) { host(&run.ins[i]) } else { Buf::EMPTY };
    op.backward(Backward {
        device: &Device::Cpu,
        specs,
        out_spec: &run.sig.out,
        ins: (0..specs.len()).map(kept).collect(),
        out: if keeps.out { host(&run.out) } else { Buf::EMPTY },
        saved: if keeps.saved { run.saved.iter().map(|v| host(v)).collect() } else { vec![] },
        d_out: host(dy),
        d_ins: grads
            .iter_mut()
            .zip(modes)
            .map(|(g, mode)| Grad { mode: *mode, buf: host_mut(g) })
            .collect(),
        scratch: host_mut(&mut scratch),
    })
    .unwrap();
    grads
}

fn dot(a: &[f32], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * b).sum()
}

fn relative(got: &[f32], want: &[f64]) -> f64 {
    let norm = want.iter().map(|v| v * v).sum::<f64>().sqrt();
    let gap = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).powi(2)).sum::<f64>().sqrt();
    assert_eq!(got.len(), want.len());
    if norm == 0.0 { gap } else { gap / norm }
}

/// The checks that every multilinear operation must pass; `reference` is the forward pass in f64.
fn check(name: &str, op: &dyn Op, dims: &[&[usize]], reference: impl Fn(&[Vec<f64>]) -> Vec<f64>) {
    let specs: Vec<Spec> = dims.iter().map(|d| Spec::f32(d)).collect();
    let fill = |base: u64| -> Vec<Vec<f32>> {
        (base..).zip(&specs).map(|(seed, s)| normal(seed, s.len())).collect()
    };
    let wide = |v: &[Vec<f32>]| -> Vec<Vec<f64>> {
        v.iter().map(|v| v.iter().map(|x| f64::from(*x)).collect()).collect()
    };
    let run = forward(op, &specs, fill(1));
    let again = forward(op, &specs, fill(1));
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&run.out), bits(&again.out), "{name}: two runs differ");
    let want = reference(&wide(&run.ins));
    let error = relative(&run.out, &want);
    assert!(error < 4e-6, "{name}: forward is off by {error:e}");

    let dy = normal(50, run.out.len());
    let all = vec![GradMode::Overwrite; specs.len()];
    let grads = backward(op, &specs, &run, &dy, &all, f32::NAN);
    let directions = fill(90);
    for i in 0..specs.len() {
        // the output is affine in each input, so one difference is the exact derivative
        let mut moved = wide(&run.ins);
        for (m, d) in moved[i].iter_mut().zip(&directions[i]) {
            *m += f64::from(*d);
        }
        let change: Vec<f64> = reference(&moved).iter().zip(&want).map(|(m, w)| m - w).collect();
        let want = dot(&dy, &change);
        let direction: Vec<f64> = directions[i].iter().map(|d| f64::from(*d)).collect();
        let got = dot(&grads[i], &direction);
        let size = change.iter().map(|c| c * c).sum::<f64>().sqrt().max(1.0)
            * (dy.len().max(1) as f64).sqrt();
        assert!((got - want).abs() < 2e-5 * size, "{name}: gradient {i}: {got} for {want}");
        // alone: exactly this gradient, added to what was there, the others untouched
        let mut modes = vec![GradMode::Skip; specs.len()];
        modes[i] = GradMode::Accumulate;
        let alone = backward(op, &specs, &run, &dy, &modes, 0.5);
        for j in 0..specs.len() {
            let close = |(a, g): (&f32, &f32)| {
                let want = if i == j { g + 0.5 } else { 0.5 };
                (a - want).abs() <= 1e-4 * want.abs().max(1.0) * f32::from(u8::from(i == j))
            };
            assert!(alone[j].iter().zip(&grads[j]).all(close), "{name}: {i} alone, buffer {j}");
        }
    }
}

fn product(x: &[f64], w: &[f64], k: usize, n: usize) -> Vec<f64> {
    let rows = x.len().checked_div(k).unwrap_or(0);
    (0..rows * n)
        .map(|i| (0..k).map(|t| x[i / n * k + t] * w[i % n * k + t]).sum::<f64>())
        .collect()
}

#[test]
fn linear_equals_the_double_loop() {
    for (rows, k, n) in [(1, 1, 1), (7, 5, 3), (64, 48, 96), (130, 77, 145), (33, 400, 49)] {
        for bias in [false, true] {
            let dims: [&[usize]; 3] = [&[1, rows, k], &[n, k], &[n]];
            let dims = &dims[..2 + usize::from(bias)];
            check(&format!("linear {rows} {k} {n} {bias}"), &Linear { bias }, dims, |v| {
                let mut y = product(&v[0], &v[1], k, n);
                if bias {
                    y.iter_mut().enumerate().for_each(|(i, y)| *y += v[2][i % n]);
                }
                y
            });
        }
    }
}

#[test]
fn lora_linear_equals_the_double_loop() {
    for (rows, k, n, r) in [(1, 3, 2, 1), (50, 64, 96, 4), (77, 130, 47, 16), (20, 40, 80, 33)] {
        for (bias, residual) in [(false, false), (true, false), (false, true), (true, true)] {
            let all: [&[usize]; 6] = [&[rows, k], &[n, k], &[n], &[r, k], &[n, r], &[rows, n]];
            let there = [true, true, bias, true, true, residual];
            let dims: Vec<&[usize]> = (0..6).filter(|i| there[*i]).map(|i| all[i]).collect();
            let op = LoraLinear { bias, residual, scale: 0.75 };
            check(&format!("lora_linear {rows} {k} {n} {r} {op:?}"), &op, &dims, |v| {
                let b = usize::from(bias);
                let h = product(&v[0], &v[2 + b], k, r);
                let low = product(&h, &v[3 + b], r, n);
                let mut y = product(&v[0], &v[1], k, n);
                for (i, y) in y.iter_mut().enumerate() {
                    *y += 0.75 * low[i] + if bias { v[2][i % n] } else { 0.0 };
                    *y += if residual { v[4 + b][i] } else { 0.0 };
                }
                y
            });
        }
    }
}

fn convolution(op: &Conv2d, x: &[usize], w: &[usize], out: &[usize], v: &[Vec<f64>]) -> Vec<f64> {
    let mut y = vec![0.0; out.iter().product()];
    let zoom = 1 + usize::from(op.upsample);
    for (at, y) in y.iter_mut().enumerate() {
        let o = at % out[3];
        let (j, i, n) =
            (at / out[3] % out[2], at / out[3] / out[2] % out[1], at / out[3] / out[2] / out[1]);
        *y = if op.bias { v[2][o] } else { 0.0 };
        for tap in 0..w[1] * w[2] {
            let row = (i * op.stride + tap / w[2]) as isize - op.pad[0] as isize;
            let col = (j * op.stride + tap % w[2]) as isize - op.pad[2] as isize;
            if row < 0 || col < 0 || row as usize >= x[1] * zoom || col as usize >= x[2] * zoom {
                continue;
            }
            let pixel = (n * x[1] + row as usize / zoom) * x[2] + col as usize / zoom;
            for c in 0..x[3] {
                *y += v[0][pixel * x[3] + c] * v[1][(o * w[1] * w[2] + tap) * w[3] + c];
            }
        }
    }
    y
}

#[test]
fn conv2d_equals_the_plain_loops() {
    let same = [1; 4];
    // x, w without its channels, stride, pad; the last ones upsample
    type Shape = ([usize; 4], [usize; 3], usize, [usize; 4]);
    let cases: [Shape; 23] = [
        ([1, 1, 1, 1], [1, 1, 1], 1, [0; 4]),
        ([2, 5, 4, 3], [7, 1, 1], 1, [0; 4]),
        ([1, 6, 7, 4], [5, 3, 3], 1, same),
        ([3, 8, 8, 20], [33, 3, 3], 1, same),
        ([2, 13, 11, 17], [18, 3, 3], 1, same),
        ([1, 24, 20, 64], [64, 3, 3], 1, same),
        ([2, 20, 21, 96], [80, 3, 3], 1, same),
        // by tiles: many and few of them, ragged channels, slabs, edges and padding
        ([1, 15, 66, 65], [100, 3, 3], 1, same),
        ([2, 9, 14, 66], [99, 3, 3], 1, same),
        ([1, 12, 12, 300], [64, 3, 3], 1, [0, 2, 2, 1]),
        ([3, 7, 9, 64], [64, 3, 3], 1, [2; 4]),
        ([1, 9, 9, 6], [4, 3, 3], 1, [0; 4]),
        ([2, 9, 8, 5], [6, 3, 3], 2, same),
        ([2, 8, 10, 16], [24, 3, 3], 2, [0, 1, 0, 1]),
        ([1, 12, 9, 3], [8, 5, 2], 3, [2, 0, 1, 1]),
        ([2, 16, 16, 3], [50, 4, 4], 4, [0; 4]),
        ([1, 7, 7, 2], [3, 1, 1], 2, [0; 4]),
        ([1, 1, 1, 1], [1, 3, 3], 1, same),
        ([2, 5, 7, 17], [18, 3, 3], 1, same),
        ([1, 3, 4, 2], [3, 2, 5], 1, [0, 1, 3, 1]),
        ([2, 3, 3, 5], [4, 1, 1], 1, [0; 4]),
        ([1, 6, 7, 64], [72, 3, 3], 1, same),
        ([2, 8, 9, 65], [64, 3, 3], 1, [2, 1, 0, 2]),
    ];
    for (i, (x, [o, kh, kw], stride, pad)) in cases.into_iter().enumerate() {
        let w = [o, kh, kw, x[3]];
        let op = Conv2d { stride, pad, bias: i % 2 == 0, upsample: i >= 17 };
        let dims: [&[usize]; 3] = [&x, &w, &[o]];
        let dims = &dims[..2 + usize::from(op.bias)];
        let specs: Vec<Spec> = dims.iter().map(|d| Spec::f32(d)).collect();
        let out = op.infer(&specs).unwrap().out.dims;
        check(&format!("conv2d {x:?} {w:?} {op:?}"), &op, dims, |v| {
            convolution(&op, &x, &w, &out, v)
        });
    }
}

#[test]
fn empty_extents_give_empty_or_bias_only_results() {
    let run = |op: &dyn Op, dims: &[&[usize]]| {
        let specs: Vec<Spec> = dims.iter().map(|d| Spec::f32(d)).collect();
        let ins = specs.iter().map(|s| vec![2.0; s.len()]).collect();
        let run = forward(op, &specs, ins);
        let dy = vec![1.0; run.out.len()];
        let modes = vec![GradMode::Overwrite; specs.len()];
        let grads = backward(op, &specs, &run, &dy, &modes, f32::NAN);
        assert!(grads.iter().flatten().all(|g| g.is_finite()), "{op:?} {dims:?}: {grads:?}");
        run.out
    };
    let linear = Linear { bias: true };
    assert!(run(&linear, &[&[0, 3], &[2, 3], &[2]]).is_empty());
    assert_eq!(run(&linear, &[&[2, 0], &[1, 0], &[1]]), [2.0, 2.0]);
    assert!(run(&linear, &[&[2, 3], &[0, 3], &[0]]).is_empty());
    let lora = LoraLinear { bias: true, residual: false, scale: 1.0 };
    assert_eq!(run(&lora, &[&[1, 1], &[1, 1], &[1], &[0, 1], &[1, 0]]), [6.0]);
    assert!(run(&lora, &[&[0, 1], &[1, 1], &[1], &[4, 1], &[1, 4]]).is_empty());
    let conv = Conv2d::same(3, true);
    assert!(run(&conv, &[&[0, 4, 4, 2], &[3, 3, 3, 2], &[3]]).is_empty());
    assert_eq!(run(&conv, &[&[1, 1, 2, 0], &[1, 3, 3, 0], &[1]]), [2.0, 2.0]);
    assert!(run(&conv, &[&[1, 4, 4, 2], &[0, 3, 3, 2], &[0]]).is_empty());
    let wide = Conv2d { pad: [2; 4], ..conv };
    assert_eq!(run(&wide, &[&[1, 0, 1, 1], &[1, 3, 3, 1], &[1]]), [2.0; 6]);
}

#[test]
fn shapes_that_do_not_fit_are_refused_in_words() {
    let message = |op: &dyn Op, dims: &[&[usize]]| {
        let specs: Vec<Spec> = dims.iter().map(|d| Spec::f32(d)).collect();
        op.infer(&specs).unwrap_err().to_string()
    };
    let linear = Linear { bias: true };
    assert_eq!(
        message(&linear, &[&[4, 320], &[640, 321], &[640]]),
        "linear: weight is [640, 321], expected [N, 320] for x [4, 320]; \
         check the weight's name and layout"
    );
    assert!(message(&linear, &[&[4, 3], &[2, 3], &[3]]).contains("bias is [3], expected [2]"));
    assert!(message(&linear, &[&[4, 3], &[2, 3]]).contains("2 inputs, expected 3"));
    assert!(message(&Linear { bias: false }, &[&[], &[2, 3]]).contains("[.., K]"));
    let ids = [Spec::i32(&[4, 3]), Spec::f32(&[2, 3])];
    let refused = Linear { bias: false }.infer(&ids).unwrap_err().to_string();
    assert!(refused.starts_with("linear: x: element type i32"), "{refused}");
    let lora = LoraLinear { bias: false, residual: false, scale: 1.0 };
    assert!(message(&lora, &[&[4, 3], &[2, 3], &[8, 4], &[2, 8]]).contains("[rank, 3]"));
    assert!(message(&lora, &[&[4, 3], &[2, 3], &[8, 3], &[2, 4]]).contains("expected [2, 8]"));
    let conv = Conv2d { stride: 0, ..Conv2d::same(1, false) };
    assert!(message(&conv, &[&[1, 4, 4, 2], &[3, 3, 3, 2]]).contains("stride 0"));
    let conv = Conv2d::same(1, false);
    assert!(message(&conv, &[&[1, 2, 4, 2], &[3, 3, 3, 2]]).contains("holds a 3x3 kernel"));
    assert!(message(&conv, &[&[1, 4, 4, 2], &[3, 3, 3, 1]]).contains("[O, kh, kw, 2]"));
    assert!(message(&conv, &[&[4, 4, 2], &[3, 3, 3, 2]]).contains("[N, H, W, C]"));
    let conv = Conv2d::same(3, false);
    let many = message(&conv, &[&[1 << 20, 64, 64, 1], &[1, 3, 3, 1]]);
    assert!(many.contains("smaller batch"), "{many}");
    let both = Conv2d { stride: 2, upsample: true, ..conv };
    assert!(message(&both, &[&[1, 4, 4, 2], &[3, 3, 3, 2]]).contains("stride 1 with upsample"));
    let huge = Conv2d { pad: [usize::MAX; 4], ..conv };
    assert!(message(&huge, &[&[1, 2, 4, 2], &[3, 3, 3, 2]]).contains("expected"));
}
