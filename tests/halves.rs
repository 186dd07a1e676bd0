//! Half precision on the CPU: operations against their f32 selves, and whole commands on nano.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use selvedge::{
    device::{
        Buf, BufMut, Device,
        cpu::{ISA_VARIABLE, Isa},
    },
    kernels::{attention, attention::Attention, case::Case, conv2d, linear, lora_linear},
    models::base::Base,
    op::{Backward, Forward, Grad, GradMode, Op},
    plan::{Unpadded, WeightLayout, WeightSource},
    tensor::{DType, Spec, image, philox::fill_normal},
    train::RandomWeights,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A result with its name: the output, what is saved, gradients.
type Results = Vec<(String, Vec<f32>)>;

/// How numbers are rounded before an operation sees them.
#[derive(Clone, Copy)]
struct Rounded(DType);

impl Rounded {
    fn all(self, values: &[f32]) -> Vec<f32> {
        self.0.decode(&self.0.encode(values))
    }
}

/// 16-byte aligned bytes of numbers as `dtype`.
fn stored(values: &[f32], dtype: DType) -> Vec<u64> {
    let bytes = dtype.encode(values);
    let mut words = vec![0u64; bytes.len().div_ceil(8)];
    bytemuck::cast_slice_mut::<_, u8>(&mut words)[..bytes.len()].copy_from_slice(&bytes);
    words
}

fn host(words: &[u64], len: usize) -> Buf<'_> {
    Buf::Host(&bytemuck::cast_slice(words)[..len])
}

fn floats(v: &mut [f32]) -> BufMut<'_> {
    BufMut::Host(bytemuck::cast_slice_mut(v))
}

/// The weight, those of the layers joined with it, which are frozen, and that of a second layer.
fn weights(case: &Case) -> impl Iterator<Item = usize> + '_ {
    let joined = case.name.starts_with("joined");
    let like = move |i: &usize| joined && !case.grads[*i] && case.ins[*i] == case.ins[1];
    let second = case.name.starts_with("feed-forward");
    let second = (2..case.ins.len()).find(|i| second && case.ins[*i].dims.len() == 2);
    let first = if case.name.starts_with("linear of two parts") { 2 } else { 1 };
    [first].into_iter().chain(second).chain((2..case.ins.len()).filter(like))
}

/// Forward and backward of `op` on inputs rounded to `values`, the weight stored as `weight`; every buffer starts as NaN,
/// gradients are added to 1.
fn run(op: &dyn Op, case: &Case, values: DType, weight: Option<DType>) -> Results {
    let mut specs = case.ins.clone();
    if let Some(dtype) = weight {
        weights(case).for_each(|i| specs[i].dtype = dtype);
    }
    let signature = op.infer(&specs).unwrap();
    let ins: Vec<Vec<u64>> = (case.inputs(5).iter().zip(&specs))
        .map(|(b, s)| stored(&Rounded(values).all(&DType::F32.decode(b)), s.dtype))
        .collect();
    let bufs = || ins.iter().zip(&specs).map(|(w, s)| host(w, s.bytes())).collect::<Vec<_>>();
    let mut out = vec![f32::NAN; signature.out.len()];
    let mut saved: Vec<Vec<f32>> =
        signature.saved.iter().map(|s| vec![f32::NAN; s.len()]).collect();
    let longest = signature.forward_scratch.max(signature.backward_scratch);
    let mut scratch = vec![f32::NAN; longest.div_ceil(4)];
    op.forward(Forward {
        device: &Device::Cpu,
        specs: &specs,
        out_spec: &signature.out,
        ins: bufs(),
        out: floats(&mut out),
        saved: saved.iter_mut().map(|v| floats(v)).collect(),
        scratch: floats(&mut scratch[..signature.forward_scratch / 4]),
    })
    .unwrap();
    let mut d_out = vec![0.0; out.len()];
    fill_normal(9, 0, &mut d_out);
    let d_out = stored(&Rounded(values).all(&d_out), DType::F32);
    let wanted = |i: usize| case.grads[i] && specs[i].dtype == DType::F32;
    let mut grads: Vec<Vec<f32>> = specs
        .iter()
        .enumerate()
        .map(|(i, s)| vec![1.0; if wanted(i) { s.len() } else { 0 }])
        .collect();
    scratch.fill(f32::NAN);
    let (out_words, saved_words) =
        (stored(&out, DType::F32), saved.iter().map(|s| stored(s, DType::F32)).collect::<Vec<_>>());
    let mode = |i: usize| if wanted(i) { GradMode::Accumulate } else { GradMode::Skip };
    op.backward(Backward {
        device: &Device::Cpu,
        specs: &specs,
        out_spec: &signature.out,
        ins: bufs(),
        out: host(&out_words, signature.out.bytes()),
        saved: saved_words.iter().zip(&signature.saved).map(|(w, s)| host(w, s.bytes())).collect(),
        d_out: host(&d_out, signature.out.bytes()),
        d_ins: (grads.iter_mut().enumerate())
            .map(|(i, g)| Grad { mode: mode(i), buf: floats(g) })
            .collect(),
        scratch: floats(&mut scratch[..signature.backward_scratch / 4]),
    })
    .unwrap();
    let mut all = vec![("output".to_string(), out)];
    all.extend(saved.into_iter().enumerate().map(|(i, v)| (format!("saved {i}"), v)));
    let grads = grads.into_iter().enumerate().filter(|(i, _)| wanted(*i));
    all.extend(grads.map(|(i, v)| (format!("gradient {i}"), v)));
    all
}

/// The kernels' rule: twice the change that rounded inputs make, and two units in the last place of `dtype`.
fn check(name: &str, dtype: DType, got: &Results, plain: &Results, rounded: &Results) {
    let digits = if dtype == DType::Bf16 { 7 } else { 10 };
    for (what, got) in got {
        let find = |all: &Results| all.iter().find(|r| r.0 == *what).map(|r| r.1.clone()).unwrap();
        let (plain, rounded) = (find(plain), find(rounded));
        let change = plain.iter().zip(&rounded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        for (i, (g, p)) in got.iter().zip(&plain).enumerate() {
            let exponent = if *p == 0.0 { -126 } else { p.abs().log2().floor() as i32 };
            let allowed = 2.0 * change + 2.0 * 2f32.powi(exponent - digits);
            assert!((g - p).abs() <= allowed, "{name}, {what} [{i}]: {g} {p}, allowed {allowed}");
        }
    }
}

#[test]
fn products_with_half_weights_follow_the_error_rule() {
    let cases =
        [linear::cases::cases(), lora_linear::cases::cases(), conv2d::cases::cases()].concat();
    let mut seen = 0;
    for case in &cases {
        let signature = case.op.infer(&case.ins).unwrap();
        if case.op.cost(&case.ins, &signature.out).flop > 3e8 || case.op.forward_only().is_some() {
            continue;
        }
        for dtype in [DType::Bf16, DType::F16] {
            let mut specs = case.ins.clone();
            weights(case).for_each(|i| specs[i].dtype = dtype);
            if case.op.infer(&specs).is_err() {
                assert_eq!(case.op.name(), "batched_linear");
                continue;
            }
            let plain = run(&*case.op, case, DType::F32, None);
            let rounded = run(&*case.op, case, dtype, None);
            let got = run(&*case.op, case, DType::F32, Some(dtype));
            check(&format!("{} {dtype}", case.name), dtype, &got, &plain, &rounded);
            assert_eq!(got, run(&*case.op, case, DType::F32, Some(dtype)), "{}: bits", case.name);
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen}");
}

#[test]
fn attention_with_rounded_operands_follows_the_error_rule() {
    for case in attention::cases::cases() {
        let text = format!("{:?}", case.op);
        if case.op.name() != "attention" || case.op.cost(&case.ins, &case.ins[0]).flop > 3e8 {
            continue;
        }
        let causal = text.contains("causal: true");
        let scale: f32 = text
            .split("scale: ")
            .nth(1)
            .unwrap()
            .split([',', ' '])
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let op = Attention { causal, scale, products: DType::Bf16 };
        let plain = run(&*case.op, &case, DType::F32, None);
        let rounded = run(&*case.op, &case, DType::Bf16, None);
        let got = run(&op, &case, DType::F32, None);
        check(&case.name, DType::Bf16, &got, &plain, &rounded);
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let alone = one.install(|| run(&op, &case, DType::F32, None));
        assert_eq!(alone, run(&op, &case, DType::F32, None), "{}: threads", case.name);
    }
}

#[test]
fn a_frozen_half_weight_has_no_gradient_and_trains_nowhere() {
    let case = &linear::cases::cases()[1];
    let mut specs = case.ins.clone();
    specs[1] = Spec::new(&specs[1].dims, DType::Bf16);
    let signature = case.op.infer(&specs).unwrap();
    let (x, w) = (vec![0u64; specs[0].len()], vec![0u64; specs[1].len()]);
    let (mut dw, mut scratch) = (vec![0.0; specs[1].len()], vec![0.0; signature.backward_scratch]);
    let skip = || Grad { mode: GradMode::Skip, buf: BufMut::Host(&mut []) };
    let mut d_ins = vec![skip(), Grad { mode: GradMode::Overwrite, buf: floats(&mut dw) }];
    d_ins.extend(specs[2..].iter().map(|_| skip()));
    let wrong = case.op.backward(Backward {
        device: &Device::Cpu,
        specs: &specs,
        out_spec: &signature.out,
        ins: vec![host(&x, specs[0].bytes()), host(&w, specs[1].bytes()), Buf::EMPTY],
        out: Buf::EMPTY,
        saved: vec![],
        d_out: host(&vec![0u64; signature.out.len()], signature.out.bytes()),
        d_ins,
        scratch: floats(&mut scratch),
    });
    assert!(wrong.unwrap_err().to_string().contains("gradient of a weight in bf16"));
}

#[test]
fn everything_here_holds_on_the_narrower_instruction_sets_too() {
    for isa in Isa::available().into_iter().skip(1) {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["error_rule"])
            .env(ISA_VARIABLE, isa.name())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("2 passed"), "{isa:?}:\n{text}");
    }
}

#[test]
fn a_file_of_the_wanted_type_is_used_where_it_lies_and_shared() {
    let base = Base::open("nano").unwrap(); // its files are f16
    let name = "unet.time_embedding.linear_1.weight";
    let dims = base.weights.parts.iter().flat_map(|p| p.shapes()).find(|(n, _)| name.ends_with(n));
    let dims = dims.unwrap().1.to_vec();
    let get =
        |dtype| base.weights.halves(name, &dims, WeightLayout::Dense, dtype).unwrap().unwrap();
    let stored =
        base.weights.stored(name, &dims, WeightLayout::Dense, DType::F16).unwrap().unwrap();
    let address = |bytes: &dyn AsRef<[u8]>| bytes.as_ref().as_ptr();
    assert_eq!(address(&*get(DType::F16)), address(&*stored), "copied");
    let rounded = get(DType::Bf16);
    assert_eq!(address(&*rounded), address(&*get(DType::Bf16)), "rounded again while it is there");
    let wide = DType::F16.decode((*stored).as_ref());
    assert_eq!((*rounded).as_ref(), DType::Bf16.encode(&wide));
}

#[test]
fn random_weights_are_the_same_numbers_in_every_type() {
    let weights = RandomWeights::new(5);
    let padded = WeightLayout::Padded { rows: 3, columns: 2, of: Unpadded::Dense };
    for (name, layout) in [("plain.weight", WeightLayout::Dense), ("padded.weight", padded)] {
        let full = weights.get(name, &[4, 6], layout).unwrap().unwrap();
        for dtype in [DType::Bf16, DType::F16] {
            let half = weights.halves(name, &[4, 6], layout, dtype).unwrap().unwrap();
            assert_eq!((*half).as_ref(), dtype.encode(&full), "{name} {dtype}");
        }
    }
}

fn selvedge(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_selvedge")).args(args).output().unwrap()
}

fn good(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn config(folder: &Path, steps: usize) -> PathBuf {
    let assets = concat!(env!("CARGO_MANIFEST_DIR"), "/src/assets/nano/subjects/bears");
    let subject = |id: &str, class: &str| {
        format!("[[subject]]\nid = \"{id}\"\nclass = \"{class}\"\nimages = \"{assets}/{id}\"\n")
    };
    let text = format!(
        "base = \"nano\"\n[train]\nresolution = 64\nsteps = {steps}\naccumulate = 1\nrank = 4\n\
         learning_rate = 1e-3\nsample_every = 0\nsave_every = 2\n[method]\nloss = \"mse\"\n{}{}",
        subject("a", "dotted bear"),
        subject("b", "striped bear")
    );
    let path = folder.join(format!("train{steps}.toml"));
    fs::write(&path, text).unwrap();
    path
}

fn losses(out: &Path) -> Vec<f32> {
    let log = fs::read_to_string(out.join("log.csv")).unwrap();
    log.lines().skip(1).map(|l| l.split(',').nth(1).unwrap().parse().unwrap()).collect()
}

fn adapter(out: &Path) -> Vec<u8> {
    fs::read(out.join("adapter.safetensors")).unwrap()
}

#[test]
fn nano_trains_in_half_precision_near_f32_with_the_same_bits_on_any_threads() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(folder.path(), 4);
    let train = |name: &str, dtype: &str, threads: &str, isa: &str| {
        let out = folder.path().join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
        command.args(["--threads", threads, "train"]).arg(&file).arg("--out").arg(&out);
        command.args(["--device", "cpu", "--dtype", dtype]);
        if !isa.is_empty() {
            command.env(ISA_VARIABLE, isa);
        }
        good(&command.output().unwrap());
        out
    };
    let full = losses(&train("f32", "f32", "2", ""));
    for dtype in ["bf16", "f16"] {
        let out = train(dtype, dtype, "2", "");
        let near = losses(&out).iter().zip(&full).all(|(a, b)| (a - b).abs() < 0.03 * b.abs());
        assert!(near, "{dtype}: {:?} {full:?}", losses(&out));
        // nano's files are f16: nothing is rounded there
        assert_eq!(losses(&out) == full, dtype == "f16", "{dtype}");
        assert!(adapter(&train(&format!("{dtype}-1"), dtype, "1", "")) == adapter(&out), "threads");
    }
    for isa in Isa::available() {
        let own = losses(&train(isa.name(), "bf16", "2", isa.name()));
        let near = own.iter().zip(&full).all(|(a, b)| (a - b).abs() < 0.03 * b.abs());
        assert!(near, "{isa:?}: {own:?} {full:?}");
    }
}

#[test]
fn a_resumed_run_in_bf16_ends_in_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(folder.path(), 6);
    let train = |name: &str, more: &[&str]| {
        let out = folder.path().join(name);
        let args =
            ["train", file.to_str().unwrap(), "--out", out.to_str().unwrap(), "--device", "cpu"];
        good(&selvedge(&[&args[..], &["--dtype", "bf16"], more].concat()));
        out
    };
    let (whole, broken) = (train("whole", &[]), train("broken", &[]));
    let last = fs::read_dir(broken.join("checkpoints")).unwrap().map(|e| e.unwrap().path()).max();
    fs::remove_dir_all(last.unwrap()).unwrap();
    fs::remove_file(broken.join("adapter.safetensors")).unwrap();
    let args = ["train", file.to_str().unwrap(), "--out", broken.to_str().unwrap(), "--resume"];
    let other = selvedge(&[&args[..], &["--device", "cpu", "--dtype", "f32"]].concat());
    let text = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(other.status.code() == Some(2) && text.contains("--dtype bf16"), "{text}");
    train("broken", &["--resume"]);
    assert!(adapter(&whole) == adapter(&broken), "the adapters differ");
}

#[test]
fn pictures_in_half_precision_look_like_those_in_f32() {
    let folder = tempfile::tempdir().unwrap();
    let make = |dtype: &str| {
        let out = folder.path().join(dtype);
        let base =
            ["generate", "--base", "nano", "--prompt", "a photo of a dotted bear", "--steps", "6"];
        let more = ["--count", "1", "--device", "cpu", "--out", out.to_str().unwrap()];
        good(&selvedge(&[&base[..], &more, &["--dtype", dtype, "--vae-dtype", dtype]].concat()));
        let files = fs::read_dir(&out).unwrap().map(|e| e.unwrap().path());
        let file = files.filter(|f| f.extension().is_some_and(|x| x == "png")).min().unwrap();
        image::read(&file).unwrap().data
    };
    let full = make("f32");
    for dtype in ["bf16", "f16"] {
        let got = make(dtype);
        let apart: f64 = got.iter().zip(&full).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
        let mean = apart / full.len() as f64;
        // nano's files are f16: nothing is rounded there
        assert!(mean < 2.0 && (mean > 0.0) == (dtype == "bf16"), "{dtype}: {mean} levels apart");
    }
}

#[test]
fn a_plan_for_the_cpu_halves_the_weights_and_names_what_is_half() {
    let plan = |more: &[&str]| {
        let output = selvedge(&[&["plan", "train", "--model", "nano"], more].concat());
        good(&output);
        String::from_utf8(output.stdout).unwrap()
    };
    let bytes = |dtype: &str| {
        let text = plan(&["--device", "cpu", "--dtype", dtype, "--json"]);
        let json: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        json["weight_bytes"].as_u64().unwrap()
    };
    for dtype in ["bf16", "f16"] {
        assert!(bytes(dtype) * 100 < bytes("f32") * 53, "{} {}", bytes(dtype), bytes("f32"));
    }
    let text = plan(&["--device", "cpu", "--dtype", "bf16"]);
    assert!(text.contains("] bf16"), "{text}");
    // attention rounds its operands too, where the processor multiplies them
    let rounded = Attention { causal: false, scale: 1.0, products: DType::Bf16 }.detail();
    let mut attention = text.lines().filter(|l| l.contains(" attention ")).peekable();
    assert!(attention.peek().is_some() && attention.all(|l| l.contains(&rounded)), "{text}");
    let output =
        selvedge(&["plan", "train", "--model", "nano", "--device", "cpu", "--dtype", "bf17"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("bf17"));
}
