//! Compiles `kernels/**/*.cu` one file at a time, with a content-hash cache, and writes
//! `OUT_DIR/kernels.rs`: a table that embeds the objects. It never downloads anything; `tools/nvcc.sh` does.

#[path = "tools/cust_table.rs"]
mod cust_table;
#[path = "tools/prebuilt.rs"]
mod prebuilt;

use prebuilt::Asked;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, thread};

/// One compilation: a source, what it is compiled for, the command and where its result is kept.
struct Job {
    source: PathBuf,
    target: &'static str,
    program: PathBuf,
    args: Vec<String>,
    result: PathBuf,
}

/// Compilation targets of nvcc: name in the table, flags, file name extension.
const DEVICE_TARGETS: [(&str, &[&str], &str); 3] = [
    ("Sm80", &["-gencode=arch=compute_80,code=sm_80", "--cubin"], "sm_80.cubin"),
    ("Sm90a", &["-gencode=arch=compute_90a,code=sm_90a", "--cubin"], "sm_90a.cubin"),
    ("Ptx", &["-gencode=arch=compute_80,code=compute_80", "--ptx"], "compute_80.ptx"),
];
const NVCC_FLAGS: [&str; 5] = ["-O3", "-std=c++20", "-lineinfo", "-I", "kernels"];
const HOST_FLAGS: [&str; 15] = [
    "-std=c++20",
    "-O2",
    "-g1",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-gnu-unique",
    "-ffp-contract=off",
    "-fno-strict-aliasing", // kernels read 16 bytes of any element type, as on the device
    "-ffile-prefix-map==.",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-I",
    "kernels",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=kernels");
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "CXX"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_else(|| fail("OUT_DIR is not set")));
    let cache = cache_folder(&out);
    fs::create_dir_all(&cache).unwrap_or_else(|e| fail(&format!("{}: {e}", cache.display())));

    let sources = kernel_files(&["cu"]);
    let device: Vec<PathBuf> =
        sources.iter().filter(|s| !s.starts_with("kernels/emulator")).cloned().collect();
    let mut packed = vec![];
    let asked = prebuilt::asked();
    let nvcc = if asked == Some(Asked::Embed) { None } else { find_nvcc() };
    let mut jobs = match (nvcc, asked) {
        (Some(nvcc), Some(asked)) => {
            return prebuilt::run(
                asked,
                &device_jobs(&device, &nvcc, &prebuilt::NVCC_FLAGS, &cache),
            );
        }
        (Some(nvcc), None) => device_jobs(&device, &nvcc, &NVCC_FLAGS, &cache),
        (None, Some(Asked::Write | Asked::Check)) => {
            fail("tools/prebuild.sh: no nvcc; run tools/nvcc.sh")
        }
        (None, _) => {
            packed = without_nvcc(&device);
            vec![]
        }
    };
    if env::var_os("CARGO_FEATURE_EMULATE").is_some() {
        let (driver, scheduler) = emulator_jobs(&cache);
        run(&scheduler); // the host objects link it
        jobs.extend(host_jobs(&sources, &scheduler.result, &cache));
        jobs.push(driver);
        jobs.push(scheduler);
    }
    if env::var_os("CARGO_FEATURE_CUST").is_some() {
        cust_table::write(&out);
    }
    run_all(&jobs);
    if env::var("PROFILE").is_ok_and(|p| p == "release") && prebuilt::xz_is_there() {
        let names = ["Driver", "Scheduler"];
        let (plain, objects) = jobs.into_iter().partition(|j| names.contains(&j.target));
        jobs = plain;
        packed.extend(pack_all(&objects));
    }
    write_table(&out.join("kernels.rs"), &jobs, &packed);
}

/// The results of `jobs`, compressed beside them: a tenth of their size in a program that is given away.
fn pack_all(jobs: &[Job]) -> Vec<prebuilt::Prebuilt> {
    let file = |job: &Job| PathBuf::from(format!("{}.lzma", job.result.display()));
    on_all_cores(jobs, |job| {
        let file = file(job);
        if file.is_file() {
            return;
        }
        let part = file.with_extension(format!("{}.part", std::process::id()));
        let packed = fs::write(&part, prebuilt::pack(&job.result));
        packed
            .and_then(|()| fs::rename(&part, &file))
            .unwrap_or_else(|e| fail(&format!("{}: {e}", file.display())));
    });
    (jobs.iter())
        .map(|j| prebuilt::Prebuilt { source: j.source.clone(), target: j.target, file: file(j) })
        .collect()
}

/// The objects to embed when nothing can be compiled, with one warning about what is missing.
fn without_nvcc(sources: &[PathBuf]) -> Vec<prebuilt::Prebuilt> {
    let (usable, stale) = prebuilt::usable(sources);
    let why = "no nvcc (looked in $NVCC, $CUDA_HOME/bin, .cuda/nvidia/cu13/bin, PATH)";
    let fix = "to get it, run tools/nvcc.sh, then build again";
    match (usable.len(), stale.len()) {
        (_, 0) => {}
        (0, _) => println!("cargo:warning={why}: built without CUDA kernels; {fix}"),
        (n, m) => println!(
            "cargo:warning={why}: {n} prebuilt objects fit, {m} are stale or missing and left out: \
             {}; {fix}",
            stale.join(", ")
        ),
    }
    usable
}

/// Ends the build with a message on stderr, which cargo shows.
fn fail(message: &str) -> ! {
    eprintln!("{message}");
    exit(1)
}

/// `target/kernels`, shared by all profiles; the build's own folder where the layout is unknown.
fn cache_folder(out: &Path) -> PathBuf {
    let build = out.ancestors().find(|p| p.file_name().is_some_and(|n| n == "build"));
    match build.and_then(|b| b.parent()).and_then(|profile| profile.parent()) {
        Some(target) => target.join("kernels"),
        None => out.join("kernels"),
    }
}

/// Every file below `kernels/` with one of these extensions, sorted.
fn kernel_files(extensions: &[&str]) -> Vec<PathBuf> {
    fn walk(folder: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
        let entries = fs::read_dir(folder).map(|d| d.flatten().map(|e| e.path()).collect());
        let mut entries: Vec<PathBuf> = entries.unwrap_or_default();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                walk(&path, extensions, found);
            } else if path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x)) {
                found.push(path);
            }
        }
    }
    let mut found = vec![];
    walk(Path::new("kernels"), extensions, &mut found);
    found
}

fn find_nvcc() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(nvcc) = set("NVCC") {
        if nvcc.is_file() {
            return Some(nvcc);
        }
        println!("cargo:warning=$NVCC is {}: no such file; looking elsewhere", nvcc.display());
    }
    let local = Path::new(".cuda/nvidia/cu13");
    let root = env::current_dir().unwrap_or_default();
    let mut folders: Vec<PathBuf> =
        ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(|n| set(n)).map(|p| p.join("bin")).collect();
    folders.push(root.join(local).join("bin"));
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let nvcc = folders.iter().map(|f| f.join("nvcc")).find(|p| p.is_file())?;
    println!("cargo:rerun-if-changed={}", nvcc.display());
    Some(nvcc)
}

/// Three objects a source; `_sm90.cu` files use instructions of Hopper only. The PTX is made here: nvcc makes the
/// object for sm_80 of it, the same as of the source.
fn device_jobs(sources: &[PathBuf], nvcc: &Path, all: &[&str], cache: &Path) -> Vec<Job> {
    let version = output_of(nvcc, "--version");
    let mut jobs = vec![];
    for source in sources {
        for (target, flags, extension) in prebuilt::targets(source) {
            let args = [all, flags].concat();
            jobs.push(job(source, target, nvcc, &args, &version, cache, extension));
        }
    }
    let (ptx, mut objects): (Vec<Job>, _) = jobs.into_iter().partition(|j| j.target == "Ptx");
    run_all(&ptx);
    for object in objects.iter_mut().filter(|o| o.target == "Sm80") {
        let of_same = ptx.iter().find(|p| p.source == object.source);
        if let (Some(ptx), Some(source)) = (of_same, object.args.last_mut()) {
            *source = ptx.result.to_string_lossy().into_owned();
        }
    }
    objects.extend(ptx);
    objects
}

/// The emulated driver and the object that runs grids, compiled by the host's C++ compiler.
fn emulator_jobs(cache: &Path) -> (Job, Job) {
    let (cxx, version) = host_compiler();
    let file = |name: &str, target, flags: &[&str], extension| {
        let source = Path::new("kernels/emulator").join(name);
        job(&source, target, &cxx, &[&HOST_FLAGS[..], flags].concat(), &version, cache, extension)
    };
    (
        file("driver.cpp", "Driver", &["-shared"], "driver.so"),
        file("scheduler.cpp", "Scheduler", &["-c"], "scheduler.o"),
    )
}

fn host_jobs(sources: &[PathBuf], scheduler: &Path, cache: &Path) -> Vec<Job> {
    let (cxx, version) = host_compiler();
    let linked = format!("{version}{}", scheduler.display()); // its name holds its hash
    let make = |source: &PathBuf| {
        let flags = [&HOST_FLAGS[..], &["-shared", "-x", "c++"]].concat();
        let mut job = job(source, "Host", &cxx, &flags, &linked, cache, "host.so");
        job.args.extend(["-x".into(), "none".into(), scheduler.to_string_lossy().into_owned()]);
        job
    };
    sources.iter().map(make).collect()
}

fn host_compiler() -> (PathBuf, String) {
    let cxx = PathBuf::from(env::var_os("CXX").filter(|v| !v.is_empty()).unwrap_or("g++".into()));
    let version = output_of(&cxx, "--version");
    (cxx, version)
}

fn output_of(program: &Path, flag: &str) -> String {
    match Command::new(program).arg(flag).output() {
        Ok(o) if o.status.success() => String::from_utf8_lossy(&o.stdout).into_owned(),
        Ok(o) => fail(&format!("{} {flag}: {}", program.display(), o.status)),
        Err(e) => {
            fail(&format!("{} {flag}: {e}; install it or set $CXX / $NVCC", program.display()))
        }
    }
}

/// A job whose result is named by the hash of source, headers, flags and compiler version.
fn job(
    source: &Path,
    target: &'static str,
    program: &Path,
    args: &[&str],
    version: &str,
    cache: &Path,
    extension: &str,
) -> Job {
    let mut hash = DefaultHasher::new();
    (args, version).hash(&mut hash);
    let files = if target == "Host" { with_headers(source) } else { device_files(source) };
    for file in files {
        file.hash(&mut hash);
        fs::read(&file).unwrap_or_default().hash(&mut hash);
    }
    let stem = source.file_stem().unwrap_or_default().to_string_lossy();
    let result = cache.join(format!("{stem}-{:016x}.{extension}", hash.finish()));
    let mut args: Vec<String> = args.iter().map(|a| a.to_string()).collect();
    args.push(source.to_string_lossy().into_owned());
    Job { source: source.into(), target, program: program.into(), args, result }
}

/// The source and every `#include "..."` it reaches, resolved as `-I kernels` does.
fn with_headers(source: &Path) -> BTreeSet<PathBuf> {
    let mut seen = BTreeSet::new();
    let mut open = vec![source.to_path_buf()];
    while let Some(file) = open.pop() {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        if !seen.insert(file) {
            continue;
        }
        let names = text.lines().filter_map(|l| l.trim().strip_prefix("#include \""));
        open.extend(
            names.filter_map(|n| n.split('"').next()).map(|n| Path::new("kernels").join(n)),
        );
    }
    seen
}

/// Those of [`with_headers`] that nvcc reads: the emulator's stand behind `#ifndef __CUDACC__`.
fn device_files(source: &Path) -> BTreeSet<PathBuf> {
    let emulator = Path::new("kernels/emulator");
    let host = |file: &PathBuf| file.starts_with(emulator) && !source.starts_with(emulator);
    with_headers(source).into_iter().filter(|file| !host(file)).collect()
}

/// Runs the jobs whose results are missing; the first failure ends the build.
fn run_all(jobs: &[Job]) {
    on_all_cores(jobs, run);
}

fn on_all_cores(jobs: &[Job], work: impl Fn(&Job) + Sync) {
    let next = AtomicUsize::new(0);
    let cores = thread::available_parallelism().map_or(1, |n| n.get());
    thread::scope(|scope| {
        for _ in 0..cores.min(jobs.len()) {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(job);
                }
            });
        }
    });
}

fn run(job: &Job) {
    if job.result.is_file() {
        return;
    }
    let part = job.result.with_extension(format!("{}.part", std::process::id()));
    let done = Command::new(&job.program).args(&job.args).arg("-o").arg(&part).output();
    match done {
        Ok(o) if o.status.success() => {}
        Ok(o) => fail(&format!(
            "{} {}\n{}{}",
            job.program.display(),
            job.args.join(" "),
            String::from_utf8_lossy(&o.stdout),
            String::from_utf8_lossy(&o.stderr)
        )),
        Err(e) => fail(&format!("{}: {e}", job.program.display())),
    }
    // Renamed when complete, so that an interrupted build leaves no half object under the final name.
    fs::rename(&part, &job.result)
        .unwrap_or_else(|e| fail(&format!("{}: {e}", job.result.display())));
}

fn write_table(path: &Path, jobs: &[Job], packed: &[prebuilt::Prebuilt]) {
    let mut rows = String::new();
    let (mut driver, mut scheduler) = ("None".to_string(), "None".to_string());
    let mut row = |source: &Path, target: &str, packing: &str, file: &Path| {
        let source = source.to_string_lossy();
        let source = source.strip_prefix("kernels/").unwrap_or(&source);
        rows += &format!(
            "    Object::{packing}({source:?}, Target::{target}, include_bytes!({file:?})),\n"
        );
    };
    for job in jobs {
        let bytes = format!("Some(include_bytes!({:?}))", job.result);
        match job.target {
            "Driver" => driver = bytes,
            "Scheduler" => scheduler = bytes,
            target => row(&job.source, target, "plain", &job.result),
        }
    }
    packed.iter().for_each(|p| row(&p.source, p.target, "packed", &p.file));
    let count = rows.lines().count();
    // Everything but the folder to include from, which is another one at run time.
    let flags = &HOST_FLAGS[..HOST_FLAGS.len() - 2];
    let headers = header_rows();
    let text = format!(
        "/// Every compiled kernel file of this build.\npub static OBJECTS: [Object; {count}] = [\n{rows}];\n\n\
         /// The emulated driver, a shared library; with the feature `emulate` only.\n\
         pub static EMULATED_DRIVER: Option<&[u8]> = {driver};\n\n\
         /// The object that runs grids on the host, linked into every kernel for the emulated device.\n\
         pub static EMULATED_SCHEDULER: Option<&[u8]> = {scheduler};\n\n\
         /// Flags of the host's C++ compiler.\npub static HOST_FLAGS: &[&str] = &{flags:?};\n\n\
         /// Every header that a kernel can include, by its path below `kernels/`.\n\
         pub static HEADERS: &[(&str, &str)] = &[\n{headers}];\n"
    );
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return;
    }
    fs::write(path, text).unwrap_or_else(|e| fail(&format!("{}: {e}", path.display())));
}

/// The headers of `kernels/` as rows of the table.
fn header_rows() -> String {
    let root = env::current_dir().unwrap_or_default();
    let row = |path: &PathBuf| {
        let name = path.strip_prefix("kernels").unwrap_or(path).to_string_lossy();
        format!("    ({name:?}, include_str!({:?})),\n", root.join(path))
    };
    kernel_files(&["cuh", "h"]).iter().map(row).collect()
}
