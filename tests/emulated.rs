//! The kernels on the emulated driver: every line of Rust is the one that runs on a GPU.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(feature = "emulate")]

use selvedge::{
    device::{Buf, BufMut, Cuda, Device, Schedule, Touched, cubin_table::Target},
    error::Error,
    kernels::{
        self,
        case::Case,
        compare::{Outcome, exists, for_each_reference},
        coverage,
    },
    op::{Forward, Op as _},
    tensor::{DType, Spec, philox},
};
use std::{collections::BTreeSet, sync::Arc};

const SCHEDULES: [Schedule; 4] =
    [Schedule::Early, Schedule::Late, Schedule::Random(1), Schedule::Random(77)];

/// The argument struct of `kernels/emulator/selftest.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct SelfTest {
    input: u64,
    out: u64,
    len: i32,
    offset: i32,
}

/// Launches a self-test kernel over two blocks of 64 numbers; the output, or what was refused.
fn selftest(cuda: &Arc<Cuda>, symbol: &'static str, offset: i32) -> Result<Vec<f32>, Error> {
    let spec = Spec::f32(&[128]);
    let input: Vec<f32> = (0..128u8).map(f32::from).collect();
    let (a, b) = (cuda.alloc(512)?, cuda.alloc(512)?);
    cuda.upload(a.address(), bytemuck::cast_slice(&input))?;
    let kernel = cuda.kernel::<SelfTest>("selftest", symbol)?;
    let args = SelfTest { input: a.address(), out: b.address(), len: 128, offset };
    let touches = [Touched::new("in", a.address(), &spec), Touched::new("out", b.address(), &spec)];
    cuda.launch(&kernel, [2, 1, 1], &args, &touches)?;
    let mut out = vec![0.0f32; 128];
    cuda.download(b.address(), bytemuck::cast_slice_mut(&mut out))?;
    Ok(out)
}

fn reversed() -> Vec<f32> {
    (0..128u8).map(|i| f32::from(if i < 64 { 63 - i } else { 191 - i })).collect()
}

/// Compares every case in one element type; a kernel that is missing is a failure like a wrong result.
fn compare_all(schedule: Schedule, dtype: DType, max_flop: f64) {
    let cuda = Cuda::emulated(schedule).unwrap();
    let (all, mut wrong) = (kernels::cases(), vec![]);
    let wanted = |c: &&Case| {
        let signature = c.op.infer(&c.ins).unwrap();
        exists(c, dtype) && c.op.cost(&c.ins, &signature.out).flop <= max_flop
    };
    let cases: Vec<&Case> = all.iter().filter(wanted).collect();
    for_each_reference(&cases, &[dtype], |i, reference| {
        let case = cases[i];
        match reference.compare(dtype, &cuda)? {
            Outcome::Agrees { worst } => {
                let exact = ["latent_mix", "noise", "adamw"].contains(&case.op.name());
                assert!(!exact || worst == 0.0, "{}: this kernel is bit-equal", case.name);
            }
            other => wrong.push(format!("{}: {other:?}", case.name)),
        }
        Ok(())
    })
    .unwrap();
    assert!(wrong.is_empty(), "{schedule:?} {dtype}:\n{}", wrong.join("\n"));
}

/// Cases of more multiply-adds than this run in one schedule only.
const SMALL_FLOP: f64 = 1e6;

#[test]
fn every_case_agrees_with_the_cpu_in_f32() {
    compare_all(Schedule::Early, DType::F32, f64::INFINITY);
}

#[test]
fn every_case_agrees_with_the_cpu_in_bf16() {
    compare_all(Schedule::Early, DType::Bf16, f64::INFINITY);
}

#[test]
fn every_case_agrees_with_the_cpu_in_f16() {
    compare_all(Schedule::Late, DType::F16, f64::INFINITY);
}

#[test]
fn small_cases_agree_with_the_cpu_in_every_other_schedule() {
    for schedule in [Schedule::Late, Schedule::Random(1), Schedule::Random(77)] {
        compare_all(schedule, DType::F32, SMALL_FLOP);
    }
    compare_all(Schedule::Late, DType::Bf16, SMALL_FLOP);
    compare_all(Schedule::Random(3), DType::Bf16, SMALL_FLOP);
}

/// Chips whose kernels this build has: all of them where nvcc or fitting prebuilt objects are, else the host's.
fn targets() -> Vec<Target> {
    let mut all = vec![Target::Host, Target::Sm80, Target::Sm90a, Target::Ptx];
    all.retain(|t| !coverage::compiled(*t).unwrap().is_empty());
    all
}

/// Operations with kernels that only a model's sizes are given to.
const LARGE: [&str; 2] = ["group_norm", "lora_linear"];

#[test]
fn every_listed_kernel_exists_for_every_chip_and_every_compiled_one_is_asked_for() {
    let mut cases = kernels::cases();
    assert_eq!(coverage::unlisted(&cases), [""; 0]);
    cases.extend(kernels::cast::cases::narrowing_cases());
    let mut asked = BTreeSet::new();
    for target in targets() {
        let found = coverage::rehearse_all(&cases, target, &[]).unwrap();
        assert!(found.missing.is_empty(), "{}", found.missing.join("\n"));
        asked.extend(found.kernels);
    }
    // what only a --variant chooses, and what only a model's size does
    let bytes = |c: &Case| c.ins.iter().map(Spec::bytes).sum::<usize>();
    cases.retain(|c| bytes(c) < 1 << 20);
    let large = kernels::bench_cases().into_iter();
    let large: Vec<Case> =
        large.filter(|c| LARGE.contains(&c.op.name()) && bytes(c) < 64 << 20).collect();
    for target in [Target::Sm80, Target::Sm90a] {
        asked.extend(coverage::rehearse_variants(&cases, target).unwrap());
    }
    asked.extend(coverage::rehearse_all(&large, Target::Sm90a, &[]).unwrap().kernels);
    if targets().len() < 4 {
        return; // kernels of a chip whose objects are not here are asked for by nobody
    }
    let compiled = coverage::compiled(Target::Host).unwrap();
    let unused: Vec<_> = compiled.iter().filter(|k| !asked.contains(k.as_str())).collect();
    assert!(unused.is_empty(), "no case asks for {unused:?}");
}

#[test]
fn a_kernel_that_vanishes_is_named_with_its_operation_type_and_chip() {
    let cases: Vec<Case> =
        kernels::cases().into_iter().filter(|c| c.op.name() == "layer_norm").collect();
    for target in targets() {
        let whole = coverage::rehearse_all(&cases, target, &[]).unwrap();
        let gone = whole.kernels.iter().find(|k| k.contains("_input_")).unwrap().to_string();
        let found = coverage::rehearse_all(&cases, target, std::slice::from_ref(&gone)).unwrap();
        let line = found.missing.first().expect("a missing kernel counts");
        assert!(line.contains(&gone) && line.contains(target.name()), "{line}");
        assert!(line.starts_with("layer_norm"), "{line}");
    }
}

#[test]
fn a_folder_cannot_drop_a_pass_or_a_type_unseen() {
    let mut cases = kernels::cases();
    cases.retain(|c| c.op.name() == "geglu");
    cases.iter_mut().for_each(|c| c.grads.fill(false));
    let problems = coverage::unlisted(&cases).join("\n");
    assert!(
        problems.contains("geglu") && problems.contains("no case has a gradient"),
        "{problems}"
    );
}

#[test]
fn barriers_order_shared_memory_and_a_missing_one_shows() {
    for schedule in SCHEDULES {
        let cuda = Cuda::emulated(schedule).unwrap();
        assert_eq!(selftest(&cuda, "selftest_reverse", 0).unwrap(), reversed(), "{schedule:?}");
        let wrong = selftest(&cuda, "selftest_unsynced", 0).unwrap();
        assert_ne!(wrong, reversed(), "{schedule:?}");
        assert!(wrong.iter().any(|x| x.is_nan()), "shared memory starts as NaN");
    }
}

#[test]
fn a_divergent_barrier_is_named_with_both_lines() {
    let cuda = Cuda::emulated(Schedule::Early).unwrap();
    let error = selftest(&cuda, "selftest_diverge", 0).unwrap_err().to_string();
    assert!(error.contains("selftest_diverge") && error.contains("divergent __syncthreads: lines"));
}

#[test]
fn a_write_outside_an_allocation_fails_the_launch() {
    let cuda = Cuda::emulated(Schedule::Early).unwrap();
    assert_eq!(selftest(&cuda, "selftest_overrun", 127).unwrap()[127], 1.0);
    for offset in [128, -1] {
        let error = selftest(&cuda, "selftest_overrun", offset).unwrap_err().to_string();
        assert!(error.contains("wrote outside an allocation of 512 bytes"), "{error}");
    }
}

#[test]
fn a_write_past_shared_memory_fails_the_launch() {
    let cuda = Cuda::emulated(Schedule::Early).unwrap();
    assert!(selftest(&cuda, "selftest_shared_overrun", 0).is_ok());
    let error = selftest(&cuda, "selftest_shared_overrun", 1).unwrap_err().to_string();
    assert!(error.contains("past the end of shared memory"), "{error}");
}

#[test]
fn a_launch_out_of_range_is_refused_before_it_reaches_the_driver() {
    let cuda = Cuda::emulated(Schedule::Early).unwrap();
    let kernel = cuda.kernel::<SelfTest>("selftest", "selftest_reverse").unwrap();
    let memory = cuda.alloc(512).unwrap();
    let args = SelfTest { input: memory.address(), out: memory.address(), len: 128, offset: 0 };
    for grid in [[0, 1, 1], [1, 65_536, 1], [1, 1, 65_536], [1 << 31, 1, 1]] {
        let error = cuda.launch(&kernel, grid, &args, &[]).unwrap_err().to_string();
        assert!(error.contains("a grid of"), "{error}");
    }
    let short = Touched::new("out", memory.address() + 4, &Spec::f32(&[128]));
    let error = cuda.launch(&kernel, [2, 1, 1], &args, &[short]).unwrap_err().to_string();
    assert!(error.contains("out") && error.contains("508 bytes are left"), "{error}");
    let freed = Touched::new("in", memory.address(), &Spec::f32(&[128]));
    drop(memory);
    let error = cuda.launch(&kernel, [2, 1, 1], &args, &[freed]).unwrap_err().to_string();
    assert!(error.contains("outside every live allocation"), "{error}");
}

#[test]
fn an_argument_struct_of_another_size_is_refused_at_load() {
    let cuda = Cuda::emulated(Schedule::Early).unwrap();
    let error = cuda.kernel::<[u64; 4]>("selftest", "selftest_reverse").unwrap_err().to_string();
    assert!(error.contains("32 bytes, the kernel's tile record says 24"), "{error}");
}

#[test]
fn an_unknown_kernel_is_an_error_that_names_it() {
    let cuda = Cuda::emulated(Schedule::Early).unwrap();
    let error = cuda.kernel::<u64>("attention", "attention_forward_sm90").unwrap_err();
    assert!(matches!(&error, Error::NoKernel { op: "attention", .. }), "{error}");
    assert!(error.to_string().contains("attention_forward_sm90"), "{error}");
}

#[test]
fn copies_outside_an_allocation_are_refused() {
    let cuda = Cuda::emulated(Schedule::Early).unwrap();
    let memory = cuda.alloc(16).unwrap();
    assert!(cuda.upload(memory.address() + 8, &[0; 9]).is_err());
    assert!(cuda.download(memory.address() - 1, &mut [0; 4]).is_err());
    assert!(cuda.fill(u64::MAX - 2, 8, 0).is_err());
    assert!(cuda.upload(memory.address() + 8, &[0; 8]).is_ok());
}

#[test]
fn more_memory_than_the_device_has_is_out_of_memory() {
    let cuda = Cuda::emulated(Schedule::Early).unwrap();
    let error = cuda.alloc(1 << 40).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { need_bytes, .. } if need_bytes == 1 << 40));
}

#[test]
fn fresh_device_memory_is_nan() {
    let cuda = Cuda::emulated(Schedule::Early).unwrap();
    let memory = cuda.alloc(64).unwrap();
    let mut got = [0.0f32; 16];
    cuda.download(memory.address(), bytemuck::cast_slice_mut(&mut got)).unwrap();
    assert!(got.iter().all(|x| x.is_nan()));
}

#[test]
fn device_words_are_parsed_and_unknown_ones_refused() {
    for word in ["emulated", "emulated:early", "emulated:late", "emulated:random:9"] {
        assert_eq!(Device::parse(word).unwrap().name(), "emulated", "{word}");
    }
    for word in ["emulated:never", "emulated:random:x", "gpu", "cpu:1", "cuda:x", ""] {
        assert!(matches!(Device::parse(word), Err(Error::Config { .. })), "{word}");
    }
}

#[test]
fn seeded_noise_is_the_hosts_stream_wherever_it_is_drawn() {
    let state = kernels::noise::state(0x1234_5678_9abc_def0, 0xffff_ffff_0000_0001);
    assert_eq!(state.map(i32::cast_unsigned), [0x9abc_def0, 0x1234_5678, 1, 0xffff_ffff]);
    let mut host = vec![0.0; 10];
    philox::fill_normal(0x1234_5678_9abc_def0, 0xffff_ffff_0000_0001, &mut host);
    let device = Device::parse("emulated:late").unwrap();
    let Device::Cuda(cuda) = &device else { panic!("not the emulated device") };
    let (words, out) = (cuda.alloc(16).unwrap(), cuda.alloc(40).unwrap());
    cuda.upload(words.address(), bytemuck::cast_slice(&state)).unwrap();
    let op = kernels::noise::Normal { dims: vec![10] };
    let specs = [Spec::i32(&[1, 4])];
    let forward = Forward {
        device: &device,
        specs: &specs,
        out_spec: &op.infer(&specs).unwrap().out,
        ins: vec![Buf::Device(words.address(), 16)],
        out: BufMut::Device(out.address(), 40),
        saved: vec![],
        scratch: BufMut::Device(0, 0),
    };
    op.forward(forward).unwrap();
    let mut drawn = vec![0.0f32; 10];
    cuda.download(out.address(), bytemuck::cast_slice_mut(&mut drawn)).unwrap();
    assert_eq!(drawn, host);
}
