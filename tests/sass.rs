//! Instructions of the compiled objects, read from their bytes: what a kernel is written for is what it is
//! compiled to.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use selvedge::device::cubin_table::{OBJECTS, Object, Target};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The low 9 bits of an instruction of 16 bytes, as the disassembler shows them (CUDA 13, sm_80 and sm_90a).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opcode {
    /// `HGMMA`: wgmma.
    Hgmma = 0x1f0,
    /// `UTMALDG`: a tensor box from global to shared memory.
    Utmaldg = 0x1b4,
    /// `HMMA`: mma.sync of 16-bit operands.
    Hmma = 0x03c,
    /// `LDGSTS`: cp.async.
    Ldgsts = 0x1ae,
    /// `LDSM`: ldmatrix.
    Ldsm = 0x03b,
    /// `LDL`: a load from local memory.
    Ldl = 0x183,
    /// `STL`: a store to local memory.
    Stl = 0x187,
    /// `MEMBAR`: waits until what was written is visible to the block or the chip.
    Membar = 0x192,
    /// `SYNCS`: an mbarrier's instructions.
    Syncs = 0x1a7,
    /// `ELECT`: one lane of those that are active.
    Elect = 0x02f,
    /// `BRA`: a branch.
    Bra = 0x147,
    /// `ACQBULK`: waits for the end of the kernel before.
    Acqbulk = 0x02e,
    /// `PREEXIT`: lets the next kernel start.
    Preexit = 0x02d,
    /// `LDG`: a load from global memory.
    Ldg = 0x181,
    /// `STG`: a store to global memory.
    Stg = 0x186,
    /// `MUFU`: reciprocals, of which divisions are made, and other functions.
    Mufu = 0x108,
}

/// One instruction: its two words.
#[derive(Clone, Copy, Debug)]
struct Instruction(u64, u64);

impl Instruction {
    fn is(self, opcode: Opcode) -> bool {
        self.0 & 0x1ff == opcode as u64
    }

    /// `SYNCS.ARRIVE..RED`: an arrival at a block of the cluster.
    fn arrives_in_cluster(self) -> bool {
        self.is(Opcode::Syncs) && self.0 & 0xfff == 0x9a7 && self.1 & 0x400 != 0
    }

    /// `BRA.U.ANY`: goes on with the next active lane.
    fn is_lane_loop(self) -> bool {
        self.is(Opcode::Bra) && self.1 & 0x10_0000 != 0
    }

    /// How many instructions a branch goes back.
    fn back(self) -> Option<usize> {
        let low = i64::try_from(self.0 >> 16 & 0xff).ok()?;
        let words = (self.0.cast_signed() >> 34) << 8 | low; // of 4 bytes, from the next instruction
        let steps = words / 4 + 1;
        usize::try_from(-steps).ok().filter(|n| self.is(Opcode::Bra) && *n > 0)
    }
}

fn word(image: &[u8], at: usize, bytes: usize) -> usize {
    image[at..at + bytes].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b))
}

/// The code of every kernel.
fn code(object: &Object) -> Vec<(String, Vec<Instruction>)> {
    let image = object.image();
    let (table, size, count) = (word(image, 0x28, 8), word(image, 0x3a, 2), word(image, 0x3c, 2));
    let names = table + word(image, 0x3e, 2) * size;
    let names = word(image, names + 0x18, 8);
    let sections = (0..count).map(|i| table + i * size);
    let kernel = |header: usize| {
        let name = &image[names + word(image, header, 4)..];
        let name = name.split(|b| *b == 0).next()?;
        let name = std::str::from_utf8(name).ok()?.strip_prefix(".text.")?.to_string();
        let (start, bytes) = (word(image, header + 0x18, 8), word(image, header + 0x20, 8));
        let both = |i: &[u8]| Instruction(word(i, 0, 8) as u64, word(i, 8, 8) as u64);
        let code = image[start..start + bytes].chunks_exact(16).map(both).collect();
        Some((name, code))
    };
    sections.filter_map(kernel).collect()
}

fn has(code: &[Instruction], opcode: Opcode) -> bool {
    code.iter().any(|i| i.is(opcode))
}

/// Every kernel of the sources of `folder` (of all, where it is empty) that end in `suffix`, compiled for `target`;
/// there are some: without nvcc they are the prebuilt ones.
fn kernels(target: Target, folder: &str, suffix: &str) -> Vec<(String, Vec<Instruction>)> {
    let wanted = |o: &&Object| {
        o.target == target && o.source.starts_with(folder) && o.source.ends_with(suffix)
    };
    let found: Vec<_> = OBJECTS.iter().filter(wanted).flat_map(code).collect();
    assert!(
        !found.is_empty(),
        "no object of {folder}*{suffix} for {}; run tools/nvcc.sh, or tools/prebuild.sh where it is",
        target.name()
    );
    found
}

/// The kernels of `gemm/pipeline_sm90.cuh`.
fn pipelines() -> Vec<(String, Vec<Instruction>)> {
    let all = ["conv2d", "linear"].map(|folder| kernels(Target::Sm90a, folder, "_sm90.cu"));
    all.concat().into_iter().filter(|(name, _)| !name.contains("skinny")).collect()
}

#[test]
fn products_on_hopper_are_wgmma_fed_by_tensor_copies() {
    for folder in ["conv2d", "linear", "moe"] {
        for (name, code) in kernels(Target::Sm90a, folder, "_sm90.cu") {
            assert!(has(&code, Opcode::Hgmma), "{name} has no HGMMA");
            assert!(has(&code, Opcode::Utmaldg), "{name} has no UTMALDG");
        }
    }
}

/// A MEMBAR before the arrival that frees a slab, or in the cluster's start, is a round trip to the second-level
/// cache.
#[test]
fn no_memory_barrier_stands_between_the_slabs() {
    for (name, code) in pipelines() {
        let last = code.iter().rposition(|i| i.arrives_in_cluster());
        let last = last.unwrap_or_else(|| panic!("{name} frees no slab in its cluster"));
        let first = code.iter().position(|i| i.is(Opcode::Hgmma)).unwrap();
        assert!(first < last, "{name}");
        let waits = |code: &[Instruction]| has(code, Opcode::Membar);
        if !name.contains("adapted") {
            assert!(!waits(&code[..last]), "{name} waits for memory before a slab is free");
            continue;
        }
        // an adapter's own product is told to the other clusters, but not between products and the slabs they free
        let freed = (0..code.len()).filter(|i| code[*i].arrives_in_cluster());
        for at in freed {
            let product = code[..at].iter().rposition(|i| i.is(Opcode::Hgmma)).unwrap();
            assert!(!waits(&code[product..at]), "{name} waits for memory before a slab is free");
        }
    }
}

/// What `--programmatic` needs: no kernel reads or writes before the one before it has ended, and each lets the next start.
#[test]
fn every_hopper_kernel_waits_for_the_one_before_it_and_lets_the_next_start() {
    let all = kernels(Target::Sm90a, "", ".cu");
    assert!(all.len() > 500, "{} kernels", all.len());
    for (name, code) in all {
        let wait = code.iter().position(|i| i.is(Opcode::Acqbulk));
        let wait = wait.unwrap_or_else(|| panic!("{name} has no ACQBULK"));
        for early in [Opcode::Ldg, Opcode::Stg, Opcode::Utmaldg, Opcode::Bra, Opcode::Preexit] {
            assert!(!has(&code[..wait], early), "{name}: {early:?} before its wait");
        }
        assert!(has(&code[wait..], Opcode::Preexit), "{name} has no PREEXIT");
    }
}

/// Where ptxas does not know that one lane is active, it puts a bulk copy into a loop over the lanes.
#[test]
fn tensor_copies_are_issued_by_an_elected_lane() {
    let own = ["linear", "moe"].map(|folder| kernels(Target::Sm90a, folder, "_sm90.cu")).concat();
    for (name, code) in own.into_iter().chain(pipelines()) {
        assert!(has(&code, Opcode::Elect) && !code.iter().any(|i| i.is_lane_loop()), "{name}");
    }
    for (name, code) in kernels(Target::Sm90a, "attention", "_sm90.cu") {
        let looped = |w: &[Instruction]| w[0].is(Opcode::Utmaldg) && w[1].is_lane_loop();
        assert!(!code.windows(2).any(looped), "{name} loads in a loop over the lanes");
    }
}

/// The loop of the weight gradient's producer; it was 361 to 387 instructions with four divisions, longer than the
/// products that it feeds.
#[test]
fn the_weight_gradients_producer_counts_and_does_not_divide() {
    for (name, code) in kernels(Target::Sm90a, "conv2d", "weight_sm90.cu") {
        let ends = (0..code.len()).filter_map(|i| Some((i.checked_sub(code[i].back()?)?, i)));
        let loops = ends.map(|(from, to)| &code[from..=to]);
        let produces = |c: &&[Instruction]| has(c, Opcode::Utmaldg) && !has(c, Opcode::Hgmma);
        let shortest = loops.filter(produces).min_by_key(|c| c.len()).unwrap();
        assert!(shortest.len() <= 200, "{name}: {} instructions a slab", shortest.len());
        assert!(!has(shortest, Opcode::Mufu), "{name} divides in the loop");
    }
}

#[test]
fn convolutions_on_ampere_are_mma_fed_by_asynchronous_copies() {
    for target in [Target::Sm80, Target::Sm90a] {
        for (name, code) in kernels(target, "conv2d", "conv2d_sm80.cu") {
            for opcode in [Opcode::Hmma, Opcode::Ldgsts, Opcode::Ldsm] {
                assert!(has(&code, opcode), "{name} has no {opcode:?}");
            }
        }
    }
}

#[test]
fn no_kernel_touches_local_memory() {
    for target in [Target::Sm80, Target::Sm90a] {
        for (name, code) in kernels(target, "", ".cu") {
            assert!(!has(&code, Opcode::Ldl) && !has(&code, Opcode::Stl), "{name} spills");
        }
    }
}

/// Every `.cu` and `.cuh` below `folder`, without the instruction wrappers and the emulator's own.
fn device_sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "ptx" && name != "emulator" {
            device_sources(&path, found);
        } else if name.ends_with(".cu") || name.ends_with(".cuh") {
            found.push(path);
        }
    }
}

/// A line without its comment and the space around it.
fn statement(line: &str) -> &str {
    line.split("//").next().unwrap_or_default().trim()
}

/// Whether `line` pins accumulators, itself or as the first thing that the function of `text` does which it calls.
fn fences(line: &str, text: &str) -> bool {
    let Some(called) = line.strip_suffix(");").and_then(|l| l.split('(').next()) else {
        return false;
    };
    if called == "ptx::reg_fence" {
        return true;
    }
    let name = called.rsplit('.').next().unwrap_or(called);
    let mut body = text.lines().skip_while(|l| !l.contains(&format!("void {name}("))).skip(1);
    body.next().is_some_and(|l| statement(l).starts_with("ptx::reg_fence("))
}

/// The compiler does not know that a wgmma writes its accumulators until the wait: without a fence behind it a use of
/// them may be moved over it. The fence is no instruction, so it is looked for in the sources; which values it names is
/// not.
#[test]
fn accumulators_are_pinned_behind_every_wait_for_wgmma() {
    let mut sources = vec![];
    device_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels"), &mut sources);
    let (mut waits, mut bare) = (0, vec![]);
    for file in sources {
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().map(statement).collect();
        for (i, line) in lines.iter().enumerate().filter(|(_, l)| l.contains("wgmma_wait<")) {
            waits += 1;
            let next = lines[i + 1..].iter().find(|l| !l.is_empty()).copied().unwrap_or_default();
            // The newest product is still under way, and nothing but the slab of the one before is given back.
            let only_frees = line.contains("wgmma_wait<1>") && next.contains("release<Tile>(");
            if !fences(next, &text) && !only_frees {
                bare.push(format!("{}:{}: {line} {next}", file.display(), i + 1));
            }
        }
    }
    assert!(waits >= 10, "only {waits} waits for wgmma: the sources have moved");
    assert!(bare.is_empty(), "no ptx::reg_fence behind the wait:\n{}", bare.join("\n"));
}
