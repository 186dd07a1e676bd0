//! The emulator itself: what it must compute under every schedule, and the planted mistakes it must find,
//! plain and with the sanitizers. Kernels: `kernels/emulator/selftest*.cu`; programs: `tests/emulator/*.cpp`.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(feature = "emulate")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;
use std::{env, fs, thread};

/// How the program is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Build {
    Plain,
    /// AddressSanitizer and UndefinedBehaviorSanitizer.
    Address,
    /// ThreadSanitizer: kernels are instrumented, the emulator tells it what orders them.
    Thread,
    /// The same program, which tells what only fences of the asynchronous proxy order too.
    Proxies,
}
use Build::{Address, Plain, Proxies, Thread};

/// The order of threads and the moment of asynchronous operations; the seed of the last is fixed.
const SCHEDULES: [(&str, &str); 3] = [("early", "0"), ("late", "1"), ("random", "2")];

const COMMON: [&str; 9] = [
    "-std=c++20",
    "-g1",
    "-fPIC",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-Wall",
    "-Wno-unknown-pragmas",
    "-I",
    "kernels",
];

impl Build {
    /// Flags for the emulator, for kernels, for linking.
    fn flags(self) -> [&'static [&'static str]; 3] {
        match self {
            Plain => [&["-O2"], &["-O2"], &[]],
            Address => {
                let both: &[&str] = &["-O1", "-fsanitize=address,undefined"];
                [both, both, &["-fsanitize=address,undefined"]]
            }
            Thread | Proxies => [
                &["-O1", "-DEMULATOR_TSAN"],
                &["-O1", "-DEMULATOR_TSAN", "-fsanitize=thread"],
                &["-fsanitize=thread"],
            ],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Plain => "plain",
            Address => "address",
            Thread | Proxies => "thread",
        }
    }

    /// The program, compiled once a change.
    fn program(self) -> &'static Path {
        static PROGRAMS: [OnceLock<PathBuf>; 3] = [const { OnceLock::new() }; 3];
        let built = if self == Proxies { Thread } else { self };
        PROGRAMS[built as usize].get_or_init(|| {
            let folder = scratch(&format!("emulator-{}", self.name()));
            let program = folder.join("main");
            if stale(&program) {
                let [emulator, kernels, link] = self.flags();
                let parts = [
                    ("kernels/emulator/scheduler.cpp", emulator),
                    ("kernels/emulator/selftest.cu", kernels),
                    ("kernels/emulator/selftest_warp.cu", kernels),
                    ("kernels/emulator/selftest_sm90.cu", kernels),
                    ("kernels/emulator/selftest_cluster.cu", kernels),
                    ("tests/emulator/main.cpp", kernels),
                ];
                let objects = compile_all(&folder, &parts);
                let mut line = link.iter().map(|s| s.to_string()).collect::<Vec<_>>();
                line.extend(objects);
                compiler(&line, &program);
            }
            program
        })
    }

    /// Output of one case, and whether it ended well.
    fn run(self, case: &str, schedule: &str) -> (bool, String) {
        let program = self.program();
        let args = [case, schedule, "5"];
        let start = |name: &Path| {
            let mut command = Command::new(name);
            if self == Proxies {
                command.env("EMULATOR_PROXIES", "1");
            }
            command
        };
        let (ok, text) = output(start(program).args(args));
        // ThreadSanitizer of older compilers cannot live with every address layout.
        if text.contains("unexpected memory mapping") {
            return output(start(Path::new("setarch")).arg("-R").arg(program).args(args));
        }
        (ok, text)
    }
}

fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Whether a source is newer than the program.
fn stale(program: &Path) -> bool {
    let time = |p: &Path| fs::metadata(p).and_then(|m| m.modified()).ok();
    let folders = ["kernels/emulator", "kernels/ptx", "kernels/common", "tests/emulator"];
    let files = folders.iter().flat_map(|f| fs::read_dir(f).unwrap()).map(|e| e.unwrap().path());
    let newest = files.filter_map(|p| time(&p)).max().unwrap_or(SystemTime::now());
    time(program).is_none_or(|built| built < newest)
}

fn compile_all(folder: &Path, parts: &[(&str, &[&str])]) -> Vec<String> {
    thread::scope(|scope| {
        let jobs: Vec<_> = parts
            .iter()
            .map(|(source, flags)| {
                let name = Path::new(source).file_name().unwrap().to_string_lossy();
                let object = folder.join(format!("{name}.o"));
                scope.spawn(move || {
                    let mut line: Vec<String> = flags.iter().map(|s| s.to_string()).collect();
                    line.extend(["-c", "-x", "c++", source].map(String::from));
                    compiler(&line, &object);
                    object.to_string_lossy().into_owned()
                })
            })
            .collect();
        jobs.into_iter().map(|job| job.join().unwrap()).collect()
    })
}

fn compiler(line: &[String], result: &Path) {
    let cxx = env::var("CXX").ok().filter(|v| !v.is_empty()).unwrap_or("g++".into());
    let (ok, text) = output(Command::new(cxx).args(COMMON).args(line).arg("-o").arg(result));
    assert!(ok, "{line:?}\n{text}");
}

fn output(command: &mut Command) -> (bool, String) {
    command.env("TSAN_OPTIONS", "halt_on_error=0").env("ASAN_OPTIONS", "detect_leaks=0");
    let done = command.output().unwrap();
    let text = [done.stdout, done.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
    (done.status.success(), text.concat())
}

const CLEAN: [&str; 16] = [
    "selftest_reverse",
    "warp_functions",
    "warp_copies",
    "warp_chain",
    "warp_atomics",
    "warp_mma_bf16",
    "warp_mma_f16",
    "warp_mma_tf32",
    "product_bf16_n64",
    "product_f16_n80",
    "product_bf16_n256",
    "product_bf16_n64_mn128",
    "product_bf16_n96_mn64",
    "product_f16_n48_mn32",
    "product_bf16_n64_pair",
    "cluster_exchange",
];

fn clean(build: Build, cases: &[&str]) {
    for case in cases {
        for (name, schedule) in SCHEDULES {
            let (ok, text) = build.run(case, schedule);
            assert!(ok && text == "ok\n", "{build:?} {case} {name}: {text}");
        }
    }
}

#[test]
fn every_feature_computes_what_it_should_under_every_schedule() {
    clean(Plain, &CLEAN);
}

#[test]
fn right_kernels_report_nothing_to_the_address_sanitizer() {
    clean(Address, &CLEAN);
}

#[test]
fn right_kernels_report_nothing_to_the_thread_sanitizer() {
    let one_of_each = [
        "selftest_reverse",
        "warp_functions",
        "warp_copies",
        "warp_chain",
        "warp_mma_bf16",
        "product_bf16_n64",
        "product_bf16_n64_pair",
        "cluster_exchange",
    ];
    clean(Thread, &one_of_each);
    clean(Proxies, &one_of_each);
}

/// Mistakes with the build and schedule that show them, and what the message must say (one of several words where
/// `|` parts them): a kernel that must not pass, or must be reported by a sanitizer.
fn found(planted: &[(&str, Build, &str, &[&str])]) {
    for (case, build, schedule, words) in planted {
        let (ok, text) = build.run(case, schedule);
        assert!(!ok, "{build:?} {case} under schedule {schedule} was not found");
        for word in *words {
            let said = word.split('|').any(|w| text.contains(w));
            assert!(said, "{build:?} {case}: no {word:?} in\n{text}");
        }
    }
}

/// What blocks of a cluster and warps of a block owe each other, whatever the order they run in.
#[test]
fn broken_promises_are_named_under_every_schedule() {
    let planted: [(&str, &str); 13] = [
        ("cluster_arrive_twice", "and has not waited since"),
        ("cluster_wait_only", "without barrier.cluster.arrive"),
        ("cluster_leave_arrived", "the thread ends between barrier.cluster.arrive (line "),
        ("cluster_leave_early", "leaves its cluster|has already left"),
        ("cluster_leave_before_arrivals", "of 2 arrivals at its mbarrier"),
        ("cluster_relaxed_store", "barrier.cluster.arrive.relaxed (line "),
        ("cluster_relaxed_load", "the last cluster barrier was relaxed"),
        ("cluster_arrival_store", "does not publish the st.shared::cluster of line "),
        ("cluster_no_init_fence", "fence.mbarrier_init missing"),
        ("cluster_named_count", "bar.sync 1: "),
        ("cluster_named_twice", "bar.arrive 1 (line "),
        ("cluster_named_left", "the block ends with 32 of 64 threads at barrier 2 (line "),
        ("cluster_elect_part", "elect.sync"),
    ];
    for (case, words) in planted {
        for (_, schedule) in SCHEDULES {
            found(&[(case, Plain, schedule, &[words])]);
        }
    }
}

const EARLY: &str = "0";
const LATE: &str = "1";

#[test]
fn mistakes_of_synchronization_are_named() {
    found(&[
        ("selftest_diverge", Plain, EARLY, &["thread (1,0,0)", "divergent __syncthreads: lines"]),
        ("warp_divergent_shuffle", Plain, EARLY, &["__shfl_down_sync", "wait at __shfl_xor_sync"]),
        ("warp_lost_lanes", Plain, LATE, &["deadlock", "0..6 wait at __syncwarp", "__syncthreads"]),
        ("warp_chain_unset", Plain, EARLY, &["deadlock", "poll of a flag in global memory"]),
        ("product_wrong_bytes", Plain, EARLY, &["deadlock", "16 expected bytes have not arrived"]),
        ("product_wrong_count", Plain, LATE, &["deadlock", "1 of 5 arrivals missing"]),
        ("product_no_full_wait", Plain, LATE, &["more arrivals than the 1"]),
        ("product_weak_wait", Plain, EARLY, &["wgmma in flight", "wgmma.wait_group missing"]),
        ("product_no_store_wait", Plain, EARLY, &["cp.async.bulk.wait_group missing"]),
        ("product_no_proxy_fence", Plain, EARLY, &["without fence.proxy.async"]),
        ("product_no_cluster_start", Plain, EARLY, &["cluster barrier missing"]),
        ("product_no_store_barrier", Plain, LATE, &["what thread 1 wrote with stmatrix"]),
    ]);
}

#[test]
fn too_early_reads_see_poison_where_operations_are_late() {
    found(&[
        ("selftest_unsynced", Plain, EARLY, &["nan, expected"]),
        ("warp_copies_weak_wait", Plain, LATE, &["nan, expected"]),
        ("product_early_release", Plain, LATE, &["nan, expected"]),
        ("product_no_full_wait", Plain, EARLY, &["nan, expected"]),
    ]);
}

#[test]
fn wrong_addresses_are_found() {
    found(&[
        ("selftest_shared_overrun", Plain, EARLY, &["write past the end of shared memory"]),
        ("product_shared_overrun", Plain, LATE, &["write past the end of shared memory"]),
        ("warp_misaligned", Plain, EARLY, &["thread (0,0,0): memory fault", "not aligned"]),
        ("warp_wild", Plain, EARLY, &["memory fault at 0x"]),
        (
            "selftest_overrun",
            Address,
            EARLY,
            &["heap-buffer-overflow", "WRITE of size 4", "selftest.cu"],
        ),
        ("selftest_shared_overrun", Address, EARLY, &["use-after-poison", "selftest.cu"]),
        ("product_shared_overrun", Address, EARLY, &["use-after-poison", "selftest_sm90.cu"]),
        ("warp_misaligned", Address, EARLY, &["misaligned address", "selftest_warp.cu"]),
    ]);
}

#[test]
fn races_are_found_even_where_the_result_is_right() {
    let race: &[&str] = &["ThreadSanitizer: data race"];
    found(&[
        ("selftest_unsynced", Thread, EARLY, &["ThreadSanitizer: data race", "selftest.cu"]),
        ("warp_copies_weak_wait", Thread, EARLY, race),
        ("product_early_release", Thread, EARLY, race),
        ("product_no_full_wait", Thread, EARLY, race),
        ("product_plain_no_fence", Proxies, EARLY, race),
        ("product_plain_no_fence", Proxies, LATE, race),
        ("warp_block_race", Thread, EARLY, race),
    ]);
}

#[test]
fn the_driver_records_and_refuses_as_the_real_one() {
    let folder = scratch("emulator-driver");
    let emulator = Plain.flags()[0];
    let parts = [
        ("kernels/emulator/scheduler.cpp", emulator),
        ("kernels/emulator/selftest.cu", emulator),
        ("kernels/emulator/driver.cpp", emulator),
        ("tests/emulator/driver.cpp", emulator),
    ];
    // The two driver.cpp are objects of one name: each part in its own folder.
    let objects: Vec<String> = parts
        .iter()
        .enumerate()
        .flat_map(|(i, part)| compile_all(&scratch(&format!("emulator-driver/{i}")), &[*part]))
        .collect();
    let (module, program) = (folder.join("selftest.so"), folder.join("driver"));
    compiler(&["-shared".into(), objects[0].clone(), objects[1].clone()], &module);
    compiler(&objects[2..], &program);
    let (ok, text) = output(Command::new(program).arg(module));
    assert!(ok, "{text}");
}
