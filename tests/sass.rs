//! Instructions of the compiled objects, read from their bytes: what a kernel is written for is what it is
//! compiled to.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use selvedge::device::cubin_table::{OBJECTS, Object, Target};

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
}

fn word(image: &[u8], at: usize, bytes: usize) -> usize {
    image[at..at + bytes].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b))
}

/// The code of every kernel: name and instructions' first words.
fn code(object: &Object) -> Vec<(String, Vec<usize>)> {
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
        let code = image[start..start + bytes].chunks_exact(16).map(|i| word(i, 0, 8)).collect();
        Some((name, code))
    };
    sections.filter_map(kernel).collect()
}

fn has(code: &[usize], opcode: Opcode) -> bool {
    code.iter().any(|i| i & 0x1ff == opcode as usize)
}

/// Every kernel of the sources that end in `suffix`, compiled for `target`; empty in a build without them.
fn kernels(target: Target, suffix: &str) -> Vec<(String, Vec<usize>)> {
    let objects = OBJECTS.iter().filter(|o| o.target == target && o.source.ends_with(suffix));
    objects.flat_map(code).collect()
}

#[test]
fn products_on_hopper_are_wgmma_fed_by_tensor_copies() {
    for folder in ["conv2d", "linear"] {
        let objects = OBJECTS.iter().filter(|o| o.target == Target::Sm90a);
        let hopper = objects
            .filter(|o| o.source.starts_with(folder) && o.source.ends_with("_sm90.cu"))
            .flat_map(code);
        for (name, code) in hopper {
            assert!(has(&code, Opcode::Hgmma), "{name} has no HGMMA");
            assert!(has(&code, Opcode::Utmaldg), "{name} has no UTMALDG");
        }
    }
}

#[test]
fn convolutions_on_ampere_are_mma_fed_by_asynchronous_copies() {
    for target in [Target::Sm80, Target::Sm90a] {
        for (name, code) in kernels(target, "conv2d_sm80.cu") {
            for opcode in [Opcode::Hmma, Opcode::Ldgsts, Opcode::Ldsm] {
                assert!(has(&code, opcode), "{name} has no {opcode:?}");
            }
        }
    }
}

#[test]
fn no_kernel_touches_local_memory() {
    for target in [Target::Sm80, Target::Sm90a] {
        for (name, code) in kernels(target, ".cu") {
            assert!(!has(&code, Opcode::Ldl) && !has(&code, Opcode::Stl), "{name} spills");
        }
    }
}

#[test]
fn a_build_with_kernels_has_every_hopper_source() {
    let built = OBJECTS.iter().any(|o| o.target == Target::Sm90a);
    let hopper = kernels(Target::Sm90a, "_sm90.cu");
    assert!(!built || hopper.iter().any(|(name, _)| name.starts_with("conv2d_forward_sm90")));
}
