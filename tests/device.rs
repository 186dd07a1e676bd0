//! The device room on the emulated driver: tensor maps, graphs, events, pinned memory.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(feature = "emulate")]

use selvedge::{
    device::{
        COUNTERS, Cuda, Emulated, Schedule, Swap, TensorMapSpec, Touched, compile,
        cubin_table::Target,
    },
    error::Error,
    kernels::{
        case::Case,
        compare::{Outcome, compare},
        conv2d, linear, lora_linear,
    },
    tensor::{DType, Spec},
};
use std::{path::PathBuf, sync::Arc};

fn emulated() -> Arc<Cuda> {
    Cuda::emulated(Schedule::Early).unwrap()
}

/// A map of a (64, 128) bf16 tensor in boxes of (32, 64) elements, 128 bytes a row.
fn matrix(address: u64) -> TensorMapSpec {
    TensorMapSpec {
        what: "x",
        address,
        dtype: DType::Bf16,
        dims: vec![128, 64],
        strides: vec![256],
        block: vec![64, 32],
        swizzle: 128,
    }
}

#[test]
fn a_tensor_map_the_hardware_cannot_use_is_named() {
    let cuda = emulated();
    let memory = cuda.alloc(64 * 256).unwrap();
    type Change = fn(&mut TensorMapSpec);
    let wrong: [(Change, &str); 11] = [
        (|m| m.address += 8, "no multiple of 16"),
        (|m| m.strides = vec![250], "a stride of 250 bytes"),
        (|m| m.strides = vec![], "2 dims, 0 strides"),
        (|m| m.block = vec![64, 257], "a block extent of 257"),
        (|m| m.block = vec![4, 32], "block rows of 8 bytes"),
        (|m| m.block = vec![128, 32], "at most 128, the swizzle pattern"),
        (|m| m.block = vec![64], "a block of 1 extents"),
        (|m| m.dims = vec![128, 0], "an extent of 0"),
        (|m| m.dims = vec![128, 65], "outside every live allocation"),
        (|m| m.swizzle = 48, "block rows of 128 bytes, expected at most 48"),
        (|m| (m.dims, m.strides, m.block) = (vec![1; 6], vec![16; 5], vec![1; 6]), "6 dims"),
    ];
    for (change, expected) in wrong {
        let mut map = matrix(memory.address());
        change(&mut map);
        let error = cuda.tensor_map(&map).unwrap_err().to_string();
        assert!(error.starts_with("plan: tensor map of x") && error.contains(expected), "{error}");
    }
}

/// A kernel of the name and arguments of `noise.cu` that writes 7 everywhere.
const SEVENS: &str = r#"
#include "common/export.cuh"
struct Args { const unsigned* state; float* out; unsigned long long len; };
__device__ inline void sevens(const Args& a) {
  const unsigned long long first = blockIdx.x * 1024ull + threadIdx.x * 4ull;
  for (int i = 0; i < 4; ++i)
    if (first + i < a.len) a.out[blockIdx.y * a.len + first + i] = 7.0f;
}
EXPORT(noise_normal, FlatTile<4>, Args, sevens)
"#;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct NoiseArgs {
    state: u64,
    out: u64,
    len: u64,
}

/// The same without the wait that EXPORT puts in front of a kernel.
fn hasty() -> String {
    let by_hand = "extern \"C\" {
EMULATED_SYMBOL extern const TileRecord noise_normal_tile;
const TileRecord noise_normal_tile = TILE_RECORD(FlatTile<4>, Args);
EMULATED_SYMBOL int emulated_noise_normal(const emulator::Launch* l, const void* args) {
  return emulator::run_grid(*l, [](const void* a) { sevens(*static_cast<const Args*>(a)); }, args);
}
}";
    SEVENS.replace("EXPORT(noise_normal, FlatTile<4>, Args, sevens)", by_hand)
}

fn noise(cuda: &Arc<Cuda>) -> Vec<f32> {
    try_noise(cuda).unwrap()
}

fn try_noise(cuda: &Arc<Cuda>) -> Result<Vec<f32>, Error> {
    let (state, out) = (cuda.alloc(16).unwrap(), cuda.alloc(40).unwrap());
    cuda.upload(state.address(), &[1; 16]).unwrap();
    let kernel = cuda.kernel::<NoiseArgs>("noise", "noise_normal").unwrap();
    let args = NoiseArgs { state: state.address(), out: out.address(), len: 10 };
    let touches = [Touched::new("out", args.out, &Spec::f32(&[10]))];
    cuda.launch(&kernel, [1, 1, 1], &args, &touches)?;
    let mut got = vec![0.0; 10];
    cuda.download(out.address(), bytemuck::cast_slice_mut(&mut got))?;
    Ok(got)
}

fn source(folder: &tempfile::TempDir, text: &str) -> PathBuf {
    let path = folder.path().join("sevens.cu");
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_source_compiled_at_run_time_replaces_the_kernel_of_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let cuda = emulated();
    assert!(noise(&cuda).iter().all(|x| *x != 7.0));
    let swap = Swap { kernel_sources: vec![source(&folder, SEVENS)], ..Swap::default() };
    assert_eq!(cuda.swap(&swap).unwrap(), ["noise_normal"]);
    assert_eq!(noise(&cuda), [7.0; 10]);
    assert!(noise(&emulated()).iter().all(|x| *x != 7.0), "other devices keep their kernels");
}

#[test]
fn a_folder_of_objects_replaces_kernels_and_an_empty_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let object = compile::host(&source(&folder, SEVENS)).unwrap();
    let swap = Swap { kernel_dir: Some(folder.path().into()), ..Swap::default() };
    let cuda = emulated();
    let error = cuda.swap(&swap).unwrap_err().to_string();
    assert!(error.contains("NAME.host.so") && error.contains("tools/kernel.sh"), "{error}");
    std::fs::write(folder.path().join("sevens.host.so"), object).unwrap();
    assert_eq!(cuda.swap(&swap).unwrap(), ["noise_normal"]);
    assert_eq!(noise(&cuda), [7.0; 10]);
    std::fs::write(folder.path().join("sevens.host.so"), b"no object").unwrap();
    assert!(matches!(cuda.swap(&swap), Err(Error::Format { .. })));
}

#[test]
fn kernels_that_start_early_compute_the_same() {
    let (cuda, plain) = (emulated(), emulated());
    assert!(!cuda.is_programmatic());
    cuda.swap(&Swap { programmatic: true, ..Swap::default() }).unwrap();
    assert!(cuda.is_programmatic() && !plain.is_programmatic());
    assert_eq!(noise(&cuda), noise(&plain));
    // one that does not wait is started early all the same, and found
    let folder = tempfile::tempdir().unwrap();
    let swap = Swap { kernel_sources: vec![source(&folder, &hasty())], ..Swap::default() };
    plain.swap(&swap).unwrap();
    assert_eq!(noise(&plain), [7.0; 10]);
    cuda.swap(&swap).unwrap();
    let error = try_noise(&cuda).unwrap_err().to_string();
    assert!(error.contains("noise_normal: started early, and never waited"), "{error}");
    let ampere = Cuda::rehearsal(Target::Sm80).unwrap();
    let error = ampere.start_early().unwrap_err().to_string();
    assert!(error.contains("--programmatic") && !ampere.is_programmatic(), "{error}");
}

#[test]
fn what_cannot_be_swapped_is_said_clearly() {
    let folder = tempfile::tempdir().unwrap();
    let cuda = emulated();
    let word = Swap { variants: vec!["attention".into()], ..Swap::default() };
    let error = cuda.swap(&word).unwrap_err().to_string();
    assert!(error.contains("--variant: found attention, expected OPERATION=VARIANT"), "{error}");
    let broken = source(&folder, "#include \"common/export.cuh\"\nint x = ;");
    let swap = Swap { kernel_sources: vec![broken], ..Swap::default() };
    let error = cuda.swap(&swap).unwrap_err().to_string();
    assert!(error.contains("--kernel-source") && error.contains("sevens.cu:2"), "{error}");
    let swap = Swap { kernel_sources: vec!["/nowhere/x.cu".into()], ..Swap::default() };
    assert!(matches!(cuda.swap(&swap), Err(Error::File { .. })));
}

#[test]
fn the_run_time_compiler_makes_a_cubin_or_is_reported_missing() {
    let folder = tempfile::tempdir().unwrap();
    match compile::device(&source(&folder, SEVENS), "sm_90a") {
        Ok(cubin) => {
            let kernels = selvedge::device::cubin::read("sevens", &cubin).unwrap();
            assert_eq!(kernels[0].name, "noise_normal");
            assert_eq!(kernels[0].local_bytes, Some(0));
            let error = compile::device(&source(&folder, "int x = ;"), "sm_90a").unwrap_err();
            assert!(error.to_string().contains("sevens.cu(1)"), "{error}");
        }
        Err(error) => assert!(error.to_string().contains("libnvrtc.so.13"), "{error}"),
    }
}

#[test]
fn a_graph_runs_what_was_captured_as_often_as_it_is_launched() {
    let cuda = emulated();
    let (state, out) = (cuda.alloc(16).unwrap(), cuda.alloc(40).unwrap());
    let kernel = cuda.kernel::<NoiseArgs>("noise", "noise_normal").unwrap();
    let args = NoiseArgs { state: state.address(), out: out.address(), len: 10 };
    let touches = [
        Touched { what: "state", address: args.state, bytes: 16 },
        Touched::new("out", args.out, &Spec::f32(&[10])),
    ];
    let read = || {
        let mut got = [0.0f32; 10];
        cuda.download(out.address(), bytemuck::cast_slice_mut(&mut got)).unwrap();
        got
    };
    cuda.upload(state.address(), &[1; 16]).unwrap();
    let graph = cuda
        .capture(|| {
            cuda.fill(out.address(), 40, 0)?;
            cuda.launch(&kernel, [1, 1, 1], &args, &touches)
        })
        .unwrap();
    assert!(read().iter().all(|x| x.is_nan()), "a capture runs nothing");
    graph.launch().unwrap();
    let first = read();
    cuda.upload(state.address(), &[2; 16]).unwrap();
    graph.launch().unwrap();
    assert!(first.iter().chain(&read()).all(|x| x.is_finite()));
    assert_ne!(first, read(), "what changes is data");
    drop(state);
    let error = graph.launch().unwrap_err().to_string();
    assert!(error.contains("plan: graph: the memory at"), "{error}");
}

#[test]
fn a_capture_that_fails_leaves_the_stream_usable() {
    let cuda = emulated();
    let memory = cuda.alloc(16).unwrap();
    let refused = || Err(Error::Plan { at: "here".into(), problem: "on purpose".into() });
    let error = cuda.capture(refused).unwrap_err().to_string();
    assert!(error.contains("on purpose"), "{error}");
    assert!(cuda.capture(|| cuda.synchronize()).is_err(), "waiting is not recorded");
    let inner = cuda.capture(|| cuda.capture(|| Ok(())).map(drop)).unwrap_err().to_string();
    assert!(inner.contains("a capture inside a capture"), "{inner}");
    let graph = cuda.capture(|| cuda.fill(memory.address(), 16, 3)).unwrap();
    graph.launch().unwrap();
    let mut got = [0; 16];
    cuda.download(memory.address(), &mut got).unwrap();
    assert_eq!(got, [3; 16]);
}

#[test]
fn memory_dropped_during_a_capture_is_freed_at_its_end() {
    let cuda = emulated();
    let kept = cuda.alloc(16).unwrap();
    let free = || cuda.mem_info().unwrap().0;
    let (dropped, pinned) = (cuda.alloc(1 << 20).unwrap(), cuda.pinned(64).unwrap());
    let before = free();
    let graph = cuda
        .capture(|| {
            cuda.fill(kept.address(), 16, 5)?;
            drop((dropped, pinned));
            assert_eq!(free(), before, "not freed while the stream is captured");
            cuda.fill(kept.address(), 8, 6)
        })
        .unwrap();
    assert!(free() >= before + (1 << 20));
    graph.launch().unwrap();
    let mut got = [0; 16];
    cuda.download(kept.address(), &mut got).unwrap();
    assert_eq!(got, [[6; 8], [5; 8]].concat()[..]);
    let lost = cuda.alloc(1 << 20).unwrap();
    let before = free();
    let failed = cuda.capture(|| {
        drop(lost);
        Err(Error::Plan { at: "here".into(), problem: "on purpose".into() })
    });
    assert!(failed.is_err() && free() >= before + (1 << 20));
}

#[test]
fn an_old_driver_is_named_with_what_is_needed() {
    let old = Emulated { driver_version: 12_080, ..Emulated::default() };
    let error = Cuda::emulated_as(&old).unwrap_err();
    assert!(matches!(error, Error::OldDriver { .. }));
    let text = error.to_string();
    assert!(
        text.contains("driver too old: found CUDA 12.8, needed CUDA 13.0 (driver R580"),
        "{text}"
    );
    assert!(Cuda::emulated_as(&Emulated { driver_version: 13_010, ..old }).is_ok());
}

/// Products and convolutions whose sums are cut into ranges that wait for each other; adapted layers whose tiles wait for h.
fn agree(cuda: &Arc<Cuda>) {
    const CUT: [&[usize]; 4] = [&[16, 1032], &[2, 6, 10, 128], &[2, 290, 264], &[2, 9, 1032]];
    let cut = |c: &Case| CUT.contains(&&c.ins[0].dims[..]);
    let adapted = lora_linear::cases::cases();
    let cases = [linear::cases::cases(), adapted, conv2d::cases::cases()].concat();
    let cases: Vec<_> = cases.into_iter().filter(cut).collect();
    let adapted = cases.iter().filter(|c| c.op.name() == "lora_linear").count();
    assert!(cases.len() >= 3 + adapted && adapted >= 4);
    for case in cases {
        let outcome = compare(&case, DType::Bf16, cuda).unwrap();
        assert!(matches!(outcome, Outcome::Agrees { .. }), "{}: {outcome:?}", case.name);
    }
}

/// With more of them the ranges that run wait for ranges that cannot start: the emulator reports a deadlock.
#[test]
fn persistent_grids_have_no_more_clusters_than_run_at_a_time() {
    let narrow = Emulated { resident_clusters: 1, schedule: Schedule::Late, ..Emulated::default() };
    let cuda = Cuda::emulated_as(&narrow).unwrap();
    cuda.force_variant("linear", "sm90_128x160");
    cuda.force_variant("conv2d.forward", "sm90_128x160");
    cuda.force_variant("conv2d.weight", "sm90_128x160");
    agree(&cuda);
}

/// Ranges of a sum count in words of the device that nobody clears between launches.
#[test]
fn counters_are_zero_again_after_every_launch() {
    let cuda = emulated();
    let counters = || {
        let mut words = vec![1u8; COUNTERS * 4];
        cuda.download(cuda.counters(), &mut words).unwrap();
        words
    };
    assert!(counters().iter().all(|b| *b == 0));
    for tile in ["sm90_128x160_ping", "sm90_256x160"] {
        cuda.force_variant("linear", tile);
        agree(&cuda);
        assert!(counters().iter().all(|b| *b == 0), "{tile}");
    }
}

#[test]
fn events_measure_the_stream() {
    let cuda = emulated();
    let memory = cuda.alloc(1 << 20).unwrap();
    let start = cuda.event().unwrap();
    cuda.fill(memory.address(), 1 << 20, 1).unwrap();
    let end = cuda.event().unwrap();
    let ms = end.elapsed_ms_since(&start).unwrap();
    assert!((0.0..10_000.0).contains(&ms), "{ms}");
    start.record().unwrap();
    assert!(start.elapsed_ms_since(&end).unwrap() >= 0.0);
}

#[test]
fn pinned_memory_is_uploaded_and_can_be_written_again() {
    let cuda = emulated();
    let memory = cuda.alloc(64).unwrap();
    let mut pinned = cuda.pinned(64).unwrap();
    assert_eq!(pinned.read().unwrap(), [0; 64]);
    for value in [7, 9] {
        pinned.write().unwrap().fill(value);
        pinned.upload(memory.address()).unwrap();
        let mut got = [0; 64];
        cuda.download(memory.address(), &mut got).unwrap();
        assert_eq!(got, [value; 64]);
    }
    assert!(pinned.upload(memory.address() + 1).is_err());
}

#[test]
fn the_device_says_what_it_has() {
    let cuda = emulated();
    let before = cuda.mem_info().unwrap();
    let memory = cuda.alloc(1 << 20).unwrap();
    let after = cuda.mem_info().unwrap();
    assert!(before.0 <= before.1 && before.1 == after.1);
    assert!(after.0 + (1 << 20) <= before.0);
    drop(memory);
    assert!(cuda.multiprocessors() >= 1);
    let kernel = cuda.kernel::<NoiseArgs>("noise", "noise_normal").unwrap();
    assert!(cuda.occupancy(&kernel).unwrap().blocks >= 1);
    let memory = cuda.alloc(64 * 256).unwrap();
    let map = cuda.tensor_map(&matrix(memory.address())).unwrap();
    let other = TensorMapSpec { swizzle: 128, block: vec![64, 16], ..matrix(memory.address()) };
    assert_ne!(map, cuda.tensor_map(&other).unwrap());
}

#[test]
fn what_is_fetched_is_what_lay_there_then_and_is_seen_after_a_wait() {
    let cuda = emulated();
    let memory = cuda.alloc(64).unwrap();
    let mut pinned = cuda.pinned(128).unwrap();
    for (i, value) in [3, 5].into_iter().enumerate() {
        cuda.fill(memory.address(), 64, value).unwrap();
        pinned.fetch(64 * i..64 * (i + 1), memory.address()).unwrap();
    }
    cuda.fill(memory.address(), 64, 9).unwrap();
    assert_eq!(pinned.read().unwrap(), [[3; 64], [5; 64]].concat());
    for (to, at) in [(65..129, 0), (0..64, 1)] {
        assert!(pinned.fetch(to, memory.address() + at).is_err());
    }
    assert!(pinned.fetch(7..7, memory.address()).is_ok());
}
