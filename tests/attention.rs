//! Every variant of attention on the emulated device against the CPU; what the compiler made of the
//! Hopper kernels.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use selvedge::device::{
    cubin::{self, KernelInfo},
    cubin_table::{OBJECTS, Target},
};

#[cfg(feature = "emulate")]
mod emulated {
    use selvedge::{
        device::{COUNTERS, Cuda, Emulated, Schedule},
        kernels::{
            attention::{self, Attention, cases::cases},
            case::Case,
            compare::{Outcome, compare},
        },
        tensor::{DType, Spec},
    };

    /// All cases that the forced variant takes, in its own pass; how many.
    fn agrees(slot: &str, name: &str, dtype: DType, schedule: Schedule) -> usize {
        let cuda = Cuda::emulated(schedule).unwrap();
        cuda.force_variant(slot, name);
        let (mut compared, backward) = (0, slot.ends_with("backward"));
        for mut case in cases() {
            let specs: Vec<Spec> = case.ins.iter().map(|s| Spec::new(&s.dims, dtype)).collect();
            if case.op.variant(&cuda, &specs, &specs[0], backward) != name {
                continue;
            }
            if !backward {
                case.grads.fill(false);
            }
            match compare(&case, dtype, &cuda).unwrap() {
                Outcome::Agrees { .. } => compared += 1,
                other => panic!("{slot}={name} {dtype}: {}: {other:?}", case.name),
            }
        }
        compared
    }

    /// Three schedules, both types in turn.
    fn agrees_in_every_schedule(slot: &str, name: &str) {
        let runs = [
            (DType::Bf16, Schedule::Early),
            (DType::F16, Schedule::Late),
            (DType::Bf16, Schedule::Random(9)),
        ];
        for (dtype, schedule) in runs {
            let n = agrees(slot, name, dtype, schedule);
            assert!(n > 1, "{name} takes {n} cases");
        }
    }

    #[test]
    fn padded_and_causal_hopper_kernels_agree_in_every_schedule() {
        for name in ["w64_n80", "w48", "w64", "w80", "w128", "w160", "w512"] {
            agrees_in_every_schedule("attention.forward", &format!("sm90_{name}"));
        }
        for name in ["w48", "w64", "w80"] {
            agrees_in_every_schedule("attention.backward", &format!("sm90_{name}"));
        }
    }

    #[test]
    fn every_forward_variant_agrees_with_the_cpu() {
        for (i, variant) in attention::FORWARD.iter().enumerate() {
            let dtype = [DType::Bf16, DType::F16][i % 2];
            let n = agrees("attention.forward", variant.name, dtype, Schedule::Random(5));
            assert!(n > 1, "{} takes {n} cases", variant.name);
        }
    }

    #[test]
    fn every_backward_variant_agrees_with_the_cpu() {
        for (i, variant) in attention::BACKWARD.iter().enumerate() {
            let dtype = [DType::Bf16, DType::F16][i % 2];
            let n = agrees("attention.backward", variant.name, dtype, Schedule::Late);
            assert!(n > 1, "{} takes {n} cases", variant.name);
        }
    }

    /// Self and cross attention of (queries, keys), scores of `scale`.
    fn case((q, keys): ([usize; 4], usize), scale: f32) -> Case {
        let k = [q[0], keys, q[2], q[3]];
        let op = Attention { causal: false, scale, products: DType::F32 };
        Case::normal("attention", op, &[&q, &k, &k])
    }

    /// A forced variant over cases of its own on such a machine, everything twice; the counters are zero again.
    fn all_agree(machine: &Emulated, dtype: DType, (slot, name): (&str, &str), cases: &[Case]) {
        let cuda = Cuda::emulated_as(machine).unwrap();
        cuda.force_variant(slot, name);
        for case in cases {
            let specs: Vec<Spec> = case.ins.iter().map(|s| Spec::new(&s.dims, dtype)).collect();
            let backward = slot.ends_with("backward");
            assert_eq!(case.op.variant(&cuda, &specs, &specs[0], backward), name);
            let outcome = compare(case, dtype, &cuda).unwrap();
            let agrees = matches!(outcome, Outcome::Agrees { .. });
            assert!(agrees, "{machine:?} {dtype} {}: {outcome:?}", case.name);
            let mut words = vec![1u8; COUNTERS * 4];
            cuda.download(cuda.counters(), &mut words).unwrap();
            assert!(words.iter().all(|b| *b == 0), "{}", case.name);
        }
    }

    /// Blocks of 192 keys: one, in part and whole, as many as either ring has stages and more, one key in the last;
    /// several tiles a block; scores so large that the maximum moves from block to block.
    #[test]
    fn blocks_of_192_keys_agree_with_the_cpu_in_every_schedule() {
        let shapes = [
            ([1, 1, 1, 64], 81),
            ([1, 70, 2, 64], 100),
            ([2, 192, 1, 64], 192),
            ([1, 200, 3, 64], 384),
            ([1, 390, 1, 64], 193),
            ([1, 130, 1, 64], 577),
            ([1, 250, 2, 64], 900),
        ];
        let mut cases = shapes.map(|s| case(s, 0.125)).to_vec();
        cases.push(case(([1, 150, 3, 64], 700), 1.0));
        cases.iter_mut().for_each(|c| c.grads.fill(false)); // backward has its own tests
        let forced = ("attention.forward", "sm90_m192_n192");
        for schedule in [Schedule::Early, Schedule::Late, Schedule::Random(3)] {
            for (dtype, resident_clusters) in [(DType::Bf16, 0), (DType::F16, 1)] {
                let machine = Emulated { schedule, resident_clusters, ..Emulated::default() };
                all_agree(&machine, dtype, forced, &cases);
            }
        }
    }

    /// Whole and ragged blocks; a ring over all keys, over parts of them (there are fewer queries), rings of one.
    fn once_agrees(machine: &Emulated, dtype: DType) {
        let shapes = [
            ([2, 384, 2, 64], 384),
            ([1, 700, 1, 64], 520),
            ([1, 390, 1, 64], 650),
            ([2, 260, 1, 64], 129),
            ([1, 100, 2, 64], 300),
        ];
        let cases = shapes.map(|s| case(s, 0.125));
        all_agree(machine, dtype, ("attention.backward", "sm90_once"), &cases);
    }

    #[test]
    fn one_pass_agrees_with_the_cpu_in_every_schedule() {
        for schedule in [Schedule::Early, Schedule::Late, Schedule::Random(3)] {
            for dtype in [DType::Bf16, DType::F16] {
                once_agrees(&Emulated { schedule, ..Emulated::default() }, dtype);
            }
        }
    }

    /// Blocks of a ring wait for each other: they must all run, whatever the machine has room for.
    #[test]
    fn one_pass_ends_where_few_blocks_run_at_a_time() {
        for resident_clusters in [1, 2, 4] {
            let schedule = Schedule::Late;
            once_agrees(
                &Emulated { resident_clusters, schedule, ..Emulated::default() },
                DType::Bf16,
            );
        }
    }
}

/// Kernels of a Hopper source; empty in a build without nvcc.
fn hopper(source: &str) -> Vec<(KernelInfo, Vec<[u64; 2]>)> {
    let object = OBJECTS.iter().find(|o| o.source == source && o.target == Target::Sm90a);
    let Some(object) = object else { return vec![] };
    let kernels = cubin::read(source, object.image()).unwrap();
    kernels.into_iter().map(|k| (k.clone(), instructions(object.image(), &k.name))).collect()
}

/// The instructions of a kernel: 128 bits each, from its ELF section.
fn instructions(image: &[u8], kernel: &str) -> Vec<[u64; 2]> {
    let number = |at: usize, bytes: usize| {
        image[at..at + bytes].iter().rev().fold(0usize, |n, b| n << 8 | usize::from(*b))
    };
    let (table, names_index) = (number(0x28, 8), number(0x3e, 2));
    let section = |i: usize| table + i * 0x40;
    let names = number(section(names_index) + 0x18, 8);
    let wanted = format!(".text.{kernel}\0");
    let text = (0..number(0x3c, 2)).map(section).find(|s| {
        let at = names + number(*s, 4);
        image[at..].starts_with(wanted.as_bytes())
    });
    let text = text.unwrap_or_else(|| panic!("no section {wanted}"));
    let (start, len) = (number(text + 0x18, 8), number(text + 0x20, 8));
    (start..start + len)
        .step_by(16)
        .map(|at| [number(at, 8) as u64, number(at + 8, 8) as u64])
        .collect()
}

/// The operation of an instruction: its lowest nine bits, whatever the form of its operands.
fn op(instruction: &[u64; 2]) -> u64 {
    instruction[0] & 0x1ff
}
const HGMMA: u64 = 0x1f0;
const LOAD_LOCAL: u64 = 0x183;
const STORE_LOCAL: u64 = 0x187;
const STORE_MATRIX: u64 = 0x044;
const TENSOR_LOAD: u64 = 0x1b4;
const TENSOR_STORE: u64 = 0x1b5;
const WAIT_FOR_HGMMA: u64 = 0x1c5;

fn is_exp2(i: &[u64; 2]) -> bool {
    op(i) == 0x108 && (i[1] >> 10) & 0xf == 2
}

const HOPPER: [&str; 7] = [
    "attention/forward_sm90.cu",
    "attention/forward_n192_sm90.cu",
    "attention/forward_widths_sm90.cu",
    "attention/forward_w512_sm90.cu",
    "attention/backward_sm90.cu",
    "attention/backward_once_sm90.cu",
    "attention/backward_widths_sm90.cu",
];

#[test]
fn hopper_kernels_use_the_tensor_cores_and_the_copy_engine_and_no_local_memory() {
    for (kernel, code) in HOPPER.into_iter().flat_map(hopper) {
        let count = |o: u64| code.iter().filter(|i| op(i) == o).count();
        for wanted in [HGMMA, TENSOR_LOAD, TENSOR_STORE] {
            assert!(count(wanted) > 0, "{}: no operation {wanted:#x}", kernel.name);
        }
        assert_eq!(count(LOAD_LOCAL) + count(STORE_LOCAL), 0, "{}", kernel.name);
        assert_eq!(kernel.local_bytes, Some(0), "{}", kernel.name);
    }
}

#[test]
fn hopper_kernels_fit_one_block_a_multiprocessor_with_all_its_registers() {
    for (kernel, _) in HOPPER.into_iter().flat_map(hopper) {
        let registers = kernel.registers.unwrap();
        // what setmaxnreg redistributes must have been allocated at launch
        assert!(registers * kernel.tile.threads > 65_536 * 98 / 100, "{}", kernel.name);
        assert!(registers * kernel.tile.threads <= 65_536, "{}", kernel.name);
        assert!(kernel.tile.shared_bytes <= 227 << 10, "{}", kernel.name);
    }
}

/// Exponentials between a wait for all products but one and the next wait, for every such pair.
fn overlapped(code: &[[u64; 2]]) -> Vec<u32> {
    let (mut found, mut since) = (vec![], None);
    for i in code {
        if op(i) == WAIT_FOR_HGMMA {
            found.extend(since);
            let all_but_one = (i[1] >> 8) & 0xff == 1;
            since = all_but_one.then_some(0);
        } else if is_exp2(i) {
            since = since.map(|n| n + 1);
        }
    }
    found
}

/// ptxas hoists the wait for a product over the exponentials when both share a basic block, and the
/// overlap of the two pipes is gone. In every loop a whole block's stand between the two waits.
#[test]
fn exponentials_run_while_a_product_is_in_flight() {
    for (kernel, code) in HOPPER.into_iter().flat_map(hopper) {
        let polynomials =
            if kernel.name.contains("poly") { kernel.tile.block_cols / 16 } else { 0 };
        // of w512 each consumer has half of a block's keys; of the one pass as many run under a product as find registers
        let groups = if kernel.name.contains("w512") { 2 } else { 1 };
        let once = kernel.name.contains("once");
        let of_block = if once { 40 } else { kernel.tile.block_cols / 2 / groups - polynomials };
        let loops = if kernel.name.contains("backward") { 2 } else { 1 };
        let found = overlapped(&code);
        let whole = found.iter().filter(|n| **n >= of_block).count();
        assert!(whole >= loops, "{}: {found:?} of {of_block}", kernel.name);
    }
}

/// With P in shared memory the product in flight reads the panel that the next P goes to.
#[test]
fn p_is_stored_when_the_product_with_the_last_one_is_done() {
    for (kernel, code) in hopper("attention/forward_n192_sm90.cu") {
        let (mut in_flight, mut stores) = (false, 0);
        for i in &code {
            match op(i) {
                HGMMA => in_flight = true,
                WAIT_FOR_HGMMA => in_flight = (i[1] >> 8) & 0xff != 0,
                STORE_MATRIX => {
                    assert!(!in_flight, "{}", kernel.name);
                    stores += 1;
                }
                _ => {}
            }
        }
        // the first P, that of the loop, O
        assert_eq!(stores, 12 + 12 + 4, "{}", kernel.name);
    }
}
