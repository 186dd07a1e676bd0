//! Every variant of the matrix products, forced, against the CPU on the emulated driver.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(feature = "emulate")]

use selvedge::{
    device::{
        Cuda, Schedule,
        cubin::{self, KernelInfo},
        cubin_table::{OBJECTS, Object, Target},
    },
    kernels::{
        case::Case,
        compare::{Outcome, compare},
        linear, lora_linear,
    },
    tensor::{DType, Spec},
};

const TYPES: [DType; 3] = [DType::F32, DType::Bf16, DType::F16];

fn cases() -> Vec<Case> {
    [linear::cases::cases(), lora_linear::cases::cases()].concat()
}

/// Whether forward or backward of `case` uses the forced `variant`.
fn uses(case: &Case, dtype: DType, cuda: &Cuda, variant: &str) -> bool {
    let ins: Vec<Spec> = case.ins.iter().map(|s| Spec::new(&s.dims, dtype)).collect();
    let Ok(signature) = case.op.infer(&ins) else { return false };
    let names = [false, true].map(|b| case.op.variant(cuda, &ins, &signature.out, b));
    names.iter().flat_map(|n| n.split([' ', ','])).any(|word| word == variant)
}

/// Compares the cases that use `variant` with the CPU.
fn check(slot: &str, variant: &str, schedule: Schedule, types: &[DType]) {
    check_forced(&[(slot, variant)], variant, schedule, types);
}

/// Compares the cases that use `variant` when all of `forced` are with the CPU.
fn check_forced(forced: &[(&str, &str)], variant: &str, schedule: Schedule, types: &[DType]) {
    let cuda = Cuda::emulated(schedule).unwrap();
    forced.iter().for_each(|(slot, name)| cuda.force_variant(slot, name));
    let mut wrong = vec![];
    for dtype in types {
        let all: Vec<Case> =
            cases().into_iter().filter(|c| uses(c, *dtype, &cuda, variant)).collect();
        assert!(all.len() >= 2, "{variant} {dtype}: {} cases", all.len());
        for case in all {
            match compare(&case, *dtype, &cuda).unwrap() {
                Outcome::Agrees { worst } => println!("{dtype} {}: {worst:.2}", case.name),
                Outcome::Differs { problem } => {
                    wrong.push(format!("{dtype} {}: {problem}", case.name));
                }
                Outcome::Missing { problem } => {
                    wrong.push(format!("{dtype} {}: {problem}", case.name))
                }
                Outcome::OtherType => wrong.push(format!("{dtype} {}: another type", case.name)),
            }
        }
    }
    assert!(wrong.is_empty(), "{variant} {schedule:?}:\n{}", wrong.join("\n"));
}

#[test]
fn simt_agrees_with_the_cpu() {
    check("linear", "simt", Schedule::Early, &TYPES);
    check("linear", "simt", Schedule::Random(5), &[DType::F32]);
}

#[test]
fn sm80_agrees_with_the_cpu_where_it_applies() {
    check("linear", "sm80_128", Schedule::Late, &TYPES[1..]);
    check("linear", "sm80_64", Schedule::Late, &[DType::F16]);
    check("linear", "sm80_64", Schedule::Random(3), &[DType::Bf16]);
}

/// The variants in three schedules: f16 in the first, bf16 in one of the others.
fn check_sm90(variants: &[&str]) {
    for (i, variant) in variants.iter().enumerate() {
        check("linear", variant, Schedule::Early, &[DType::F16]);
        let other = if i % 2 == 0 { Schedule::Late } else { Schedule::Random(9) };
        check("linear", variant, other, &[DType::Bf16]);
    }
}

#[test]
fn sm90_256x160_and_128x256_agree_with_the_cpu_where_they_apply() {
    check_sm90(&["sm90_256x160", "sm90_128x256"]);
}

#[test]
fn sm90_128x160_agrees_with_the_cpu_where_it_applies() {
    check_sm90(&["sm90_128x160", "sm90_128x160_ping"]);
}

#[test]
fn sm90_skinny_agrees_with_the_cpu_where_it_applies() {
    check_sm90(&["sm90_skinny32", "sm90_skinny64", "sm90_skinny128"]);
}

#[test]
fn fused_layers_agree_with_the_cpu_with_and_without_their_own_kernel() {
    let fused =
        [("linear_fused.geglu", "sm90_geglu"), ("linear_fused.activation", "sm90_activated")];
    for (slot, variant) in fused {
        check(slot, variant, Schedule::Early, &TYPES[1..]);
        check(slot, variant, Schedule::Random(4), &[DType::Bf16]);
    }
    let cuda = Cuda::emulated(Schedule::Late).unwrap();
    cuda.force_variant("linear_fused", "two_steps");
    for (case, dtype) in cases().iter().flat_map(|c| TYPES.map(|t| (c, t))) {
        if case.name.starts_with("fused") {
            let outcome = compare(case, dtype, &cuda).unwrap();
            assert!(
                matches!(outcome, Outcome::Agrees { .. }),
                "{dtype} {}: {outcome:?}",
                case.name
            );
        }
    }
}

#[test]
fn layers_around_a_geglu_agree_with_the_cpu_with_and_without_their_own_kernels() {
    let own =
        [("linear_gated.layer", "sm90_geglu_kept"), ("linear_gated.input", "sm90_gated_input")];
    for (slot, variant) in own {
        check(slot, variant, Schedule::Early, &TYPES[1..]);
        check(slot, variant, Schedule::Random(8), &[DType::Bf16]);
        check(slot, variant, Schedule::Late, &[DType::Bf16]);
    }
    let cuda = Cuda::emulated(Schedule::Late).unwrap();
    cuda.force_variant("linear_gated", "two_steps");
    let gated = |c: &&Case| c.name.starts_with("gated") || c.name.starts_with("feed-forward");
    for (case, dtype) in cases().iter().filter(gated).flat_map(|c| TYPES.map(|t| (c, t))) {
        let outcome = compare(case, dtype, &cuda).unwrap();
        assert!(matches!(outcome, Outcome::Agrees { .. }), "{dtype} {}: {outcome:?}", case.name);
    }
}

#[test]
fn joined_layers_agree_with_the_cpu_with_and_without_their_own_kernel() {
    for variant in ["sm90_joined_256x160", "sm90_joined_128x160"] {
        for slot in ["linear.joined", "lora_linear.joined"] {
            check(slot, variant, Schedule::Early, &TYPES[1..]);
            check(slot, variant, Schedule::Random(6), &[DType::Bf16]);
        }
    }
    let cuda = Cuda::emulated(Schedule::Late).unwrap();
    for slot in ["linear.joined", "lora_linear.joined"] {
        cuda.force_variant(slot, "apart");
    }
    for (case, dtype) in cases().iter().flat_map(|c| TYPES.map(|t| (c, t))) {
        if case.name.starts_with("joined") {
            let outcome = compare(case, dtype, &cuda).unwrap();
            assert!(
                matches!(outcome, Outcome::Agrees { .. }),
                "{dtype} {}: {outcome:?}",
                case.name
            );
        }
    }
}

#[test]
fn layers_of_two_parts_agree_with_the_cpu_where_those_lie_and_copied() {
    let ours = |c: &&Case| c.name.starts_with("linear of two parts");
    for (variant, schedule) in [("sm90", Schedule::Random(7)), ("copied", Schedule::Late)] {
        let cuda = Cuda::emulated(schedule).unwrap();
        cuda.force_variant("linear.concat", variant);
        let mut native = 0;
        for (case, dtype) in cases().iter().filter(ours).flat_map(|c| TYPES.map(|t| (c, t))) {
            native += usize::from(!uses(case, dtype, &cuda, "copied:"));
            let outcome = compare(case, dtype, &cuda).unwrap();
            assert!(
                matches!(outcome, Outcome::Agrees { .. }),
                "{dtype} {}: {outcome:?}",
                case.name
            );
        }
        // six of the cases, in both types
        assert_eq!(native, if variant == "sm90" { 12 } else { 0 });
    }
}

/// Adapters' products in the launches of their layers, forward and backward, alone and joined, and before them by the same
/// tiles. The tests above have them within, early, in both types.
#[test]
fn adapters_agree_with_the_cpu_within_their_layers_launch_and_before_it() {
    for (size, other) in [("256x160", Schedule::Late), ("128x160", Schedule::Random(11))] {
        let (tile, joined) = (format!("sm90_{size}"), format!("sm90_joined_{size}"));
        for (adapter, schedule, words) in [
            ("within", other, ["within"; 2]),
            ("before", Schedule::Early, [&tile[..], &joined[..]]),
        ] {
            let forced = [
                ("linear.forward", &tile[..]),
                ("linear.input", &tile[..]),
                ("lora_linear.joined", &joined[..]),
                ("lora_linear.adapter", adapter),
            ];
            for word in &words[usize::from(words[0] == words[1])..] {
                check_forced(&forced, word, schedule, &TYPES[1..2]);
            }
        }
    }
}

/// Instructions of a kernel by the low 12 bits of their encoding (nvdisasm names them).
struct Code(Vec<u16>);

impl Code {
    const HMMA: u16 = 0x23c;
    const LDGSTS: u16 = 0xfae; // cp.async
    const HGMMA: u16 = 0x9f0;
    const UTMALDG: u16 = 0x5b4;
    const UTMALDG_MULTICAST: u16 = 0x3b4;
    const UTMASTG: u16 = 0x3b5;
    const LDL: u16 = 0x983;
    const STL: u16 = 0x387;

    fn of(object: &'static Object, kernel: &KernelInfo) -> Self {
        let code =
            cubin::code(object.source, object.image(), &kernel.name).expect("a text section");
        Self(code.chunks_exact(16).map(|i| u16::from_le_bytes([i[0], i[1]]) & 0xfff).collect())
    }

    fn count(&self, opcode: u16) -> usize {
        self.0.iter().filter(|o| **o == opcode).count()
    }
}

/// Kernels of this folder compiled for `target`; none in a build without nvcc.
fn compiled(target: Target) -> Vec<(&'static Object, KernelInfo)> {
    let ours = OBJECTS.iter().filter(|o| o.target == target && o.source.starts_with("linear/"));
    ours.flat_map(|o| cubin::read(o.source, o.image()).unwrap().into_iter().map(move |k| (o, k)))
        .collect()
}

#[test]
fn hopper_objects_use_wgmma_and_the_copy_engine_and_no_local_memory() {
    for (object, kernel) in compiled(Target::Sm90a) {
        cubin::check(object.source, &kernel).unwrap();
        if !object.source.ends_with("_sm90.cu") {
            continue;
        }
        let (name, code) = (kernel.name.as_str(), Code::of(object, &kernel));
        let has = |opcode| assert!(code.count(opcode) > 0, "{name} lacks opcode {opcode:#x}");
        assert_eq!(code.count(Code::LDL) + code.count(Code::STL), 0, "{name}");
        has(Code::UTMALDG);
        if name.contains("skinny") {
            assert!(code.count(Code::HGMMA) >= 4, "{name}");
            assert!(kernel.registers.unwrap() <= 96, "{name}");
            let blocks = if name.contains("weight") { (288, 8) } else { (128, 4) };
            assert_eq!((kernel.tile.threads, kernel.tile.cluster), blocks, "{name}");
            continue;
        }
        // 4 K-steps of the main loop and of the adapter's, once or twice for 64 or 128 rows a consumer
        assert!(code.count(Code::HGMMA) >= 12, "{name}: {}", code.count(Code::HGMMA));
        has(Code::UTMALDG_MULTICAST);
        has(Code::UTMASTG);
        assert_eq!(kernel.registers, Some(168), "{name}: 40 and 232 after setmaxnreg");
        let small = name.contains("128x160") || name.contains("activated");
        let kib = if small { 197 } else { 225 };
        let tile = kernel.tile;
        assert_eq!((tile.threads, tile.cluster, tile.shared_bytes), (384, 2, kib << 10), "{name}");
    }
}

#[test]
fn ampere_objects_use_the_tensor_cores_and_asynchronous_copies() {
    for (object, kernel) in compiled(Target::Sm80) {
        cubin::check(object.source, &kernel).unwrap();
        if object.source.ends_with("_sm80.cu") {
            let code = Code::of(object, &kernel);
            assert!(code.count(Code::HMMA) >= 16, "{}", kernel.name);
            assert!(code.count(Code::LDGSTS) > 0, "{}", kernel.name);
            assert!(kernel.registers.unwrap() <= 128, "{}", kernel.name);
        }
    }
}
