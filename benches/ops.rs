//! Time of forward and of each gradient of linear layers, convolutions, attention and norms:
//! `cargo bench --bench ops [-- part of a name]`; the same shapes in torch: `benches/ops.py`.
//! On a busy machine set `RAYON_NUM_THREADS=1`: then the time on the core counts.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

use selvedge::{
    device::{Buf, BufMut, Device, cpu::Isa},
    kernels::{
        attention::Attention, conv2d::Conv2d, group_norm::GroupNorm, layer_norm::LayerNorm,
        linear::Linear, lora_linear::LoraLinear,
    },
    op::{Backward, Forward, Grad, GradMode, Op},
    tensor::{DType, Spec, philox::fill_normal},
};
use std::time::Instant;

fn host(v: &[f32]) -> Buf<'_> {
    Buf::Host(bytemuck::cast_slice(v))
}

fn host_mut(v: &mut [f32]) -> BufMut<'_> {
    BufMut::Host(bytemuck::cast_slice_mut(v))
}

/// Seconds this thread has spent on a core, where one thread works (`RAYON_NUM_THREADS=1`).
fn on_core() -> Option<f64> {
    std::env::var("RAYON_NUM_THREADS").ok().filter(|n| n == "1")?;
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse::<f64>().ok().map(|ns| ns * 1e-9)
}

/// Time of a call in ms over at least 5 calls and 0.4 s: the least by the wall; with one thread the mean
/// on the core, which other jobs do not lengthen (that clock ticks every few ms).
fn time(mut f: impl FnMut()) -> f64 {
    f();
    let (begin, start) = (Instant::now(), on_core());
    let (mut least, mut calls) = (f64::INFINITY, 0.0);
    while calls < 5.0 || begin.elapsed().as_secs_f64() < 0.4 {
        let t = Instant::now();
        f();
        least = least.min(t.elapsed().as_secs_f64());
        calls += 1.0;
    }
    let mean = on_core().zip(start).map(|(end, start)| (end - start) / calls);
    mean.unwrap_or(least) * 1e3
}

fn run(name: &str, op: &dyn Op, dims: &[&[usize]]) {
    if std::env::args().skip(1).any(|a| !a.starts_with("--") && !name.contains(&a)) {
        return;
    }
    let specs: Vec<Spec> = dims.iter().map(|d| Spec::f32(d)).collect();
    let sig = op.infer(&specs).unwrap();
    let normal = |i: usize, len: usize| {
        let mut v = vec![0.0; len];
        fill_normal(i as u64, 0, &mut v);
        v
    };
    let ins: Vec<Vec<f32>> = specs.iter().enumerate().map(|(i, s)| normal(i, s.len())).collect();
    let mut out = vec![0.0; sig.out.len()];
    let mut saved: Vec<Vec<f32>> = sig.saved.iter().map(|s| vec![0.0; s.len()]).collect();
    let mut scratch = vec![0.0; sig.forward_scratch.max(sig.backward_scratch).div_ceil(4)];
    let flop = op.cost(&specs, &sig.out).flop;
    let ms = time(|| {
        op.forward(Forward {
            device: &Device::Cpu,
            specs: &specs,
            out_spec: &sig.out,
            ins: ins.iter().map(|v| host(v)).collect(),
            out: host_mut(&mut out),
            saved: saved.iter_mut().map(|v| host_mut(v)).collect(),
            scratch: host_mut(&mut scratch),
        })
        .unwrap();
    });
    let mut line = format!("{name:34} forward {ms:8.3} ms {:6.1} GFLOP/s", flop / ms / 1e6);
    let dy = normal(9, out.len());
    let mut grads: Vec<Vec<f32>> = specs.iter().map(|s| vec![0.0; s.len()]).collect();
    let sets: &[(&str, &[usize])] = match specs.len() {
        4 => &[("dx da dup", &[0, 2, 3])],
        3 => &[("all", &[0, 1, 2])],
        _ => &[("dx", &[0]), ("dw", &[1])],
    };
    for (what, wanted) in sets {
        let wants: Vec<bool> = (0..specs.len()).map(|i| wanted.contains(&i)).collect();
        let flop = op.backward_cost(&specs, &sig.out, &wants).flop;
        let ms = time(|| {
            let mode = |w: &bool| if *w { GradMode::Overwrite } else { GradMode::Skip };
            let to = grads.iter_mut().zip(&wants);
            op.backward(Backward {
                device: &Device::Cpu,
                specs: &specs,
                out_spec: &sig.out,
                ins: ins.iter().map(|v| host(v)).collect(),
                out: host(&out),
                saved: saved.iter().map(|v| host(v)).collect(),
                d_out: host(&dy),
                d_ins: to.map(|(g, w)| Grad { mode: mode(w), buf: host_mut(g) }).collect(),
                scratch: host_mut(&mut scratch),
            })
            .unwrap();
        });
        line += &format!(" | {what} {ms:8.3} ms {:6.1}", flop / ms / 1e6);
    }
    println!("{line} | scratch {:.1} MB", scratch.len() as f64 * 4e-6);
}

fn main() {
    if std::env::var("RAYON_NUM_THREADS").is_ok_and(|n| n == "1") {
        // the main thread is the pool: its clock on the core counts all work
        rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global().unwrap();
    }
    println!("{}, {} threads", Isa::current().name(), rayon::current_num_threads());
    let conv = |x: [usize; 4], o: usize, k: usize, stride: usize| {
        let op = Conv2d { stride, pad: [k / 2; 4], bias: false, upsample: false };
        let name = format!("conv {k}x{k}/{stride} {}x{}x{}x{} {o}", x[0], x[1], x[2], x[3]);
        run(&name, &op, &[&x, &[o, k, k, x[3]]]);
    };
    conv([1, 64, 64, 4], 160, 3, 1);
    conv([1, 64, 64, 160], 160, 3, 1);
    conv([1, 64, 64, 320], 160, 3, 1);
    conv([1, 64, 64, 160], 160, 3, 2);
    conv([1, 32, 32, 320], 320, 3, 1);
    conv([1, 32, 32, 640], 320, 3, 1);
    conv([1, 32, 32, 640], 320, 1, 1);
    conv([1, 16, 16, 640], 640, 3, 1);
    conv([1, 16, 16, 1280], 640, 3, 1);
    conv([8, 16, 16, 64], 64, 3, 1);
    conv([8, 8, 8, 128], 128, 3, 1);
    conv([1, 256, 256, 128], 128, 3, 1);
    conv([1, 256, 256, 128], 3, 3, 1);
    let linear = |rows: usize, k: usize, n: usize| {
        let name = format!("linear {rows} {k} {n}");
        run(&name, &Linear { bias: false }, &[&[rows, k], &[n, k]]);
    };
    linear(1, 640, 1280);
    linear(64, 64, 64);
    linear(77, 2048, 640);
    linear(256, 640, 640);
    linear(256, 640, 5120);
    linear(1024, 320, 320);
    linear(1024, 320, 2560);
    linear(4096, 1280, 320);
    let lora = |rows: usize, k: usize, n: usize, r: usize| {
        let name = format!("lora {rows} {k} {n} rank {r}");
        let op = LoraLinear { bias: false, residual: false, scale: 0.5 };
        run(&name, &op, &[&[rows, k], &[n, k], &[r, k], &[n, r]]);
    };
    lora(256, 640, 640, 8);
    lora(1024, 320, 320, 8);
    lora(1024, 320, 320, 32);
    lora(77, 2048, 640, 8);
    attention_and_norms();
}

fn attention_and_norms() {
    let attention = |n: usize, lq: usize, lk: usize, h: usize, d: usize| {
        let op = Attention { causal: false, scale: 1.0 / (d as f32).sqrt(), products: DType::F32 };
        let k = [n, lk, h, d];
        run(&format!("attention {n} {lq} {lk} {h} {d}"), &op, &[&[n, lq, h, d], &k, &k]);
    };
    attention(1, 4096, 4096, 5, 64);
    attention(1, 1024, 1024, 10, 64);
    attention(1, 1024, 77, 10, 64);
    attention(16, 256, 256, 2, 32);
    attention(16, 16, 16, 4, 32);
    for silu in [false, true] {
        let op = GroupNorm { groups: 32, eps: 1e-5, silu, concat: false };
        let name = if silu { "group_norm silu" } else { "group_norm" };
        run(&format!("{name} 64 64 320"), &op, &[&[1, 64, 64, 320], &[320], &[320]]);
        run(&format!("{name} 32 32 1280"), &op, &[&[1, 32, 32, 1280], &[1280], &[1280]]);
    }
    run("layer_norm 1024 640", &LayerNorm { eps: 1e-5 }, &[&[1, 1024, 640], &[640], &[640]]);
    run("layer_norm 4096 320", &LayerNorm { eps: 1e-5 }, &[&[1, 4096, 320], &[320], &[320]]);
}
