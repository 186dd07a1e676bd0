//! Objects of `kernels/prebuilt/`: what nvcc made, compressed, for builds without nvcc.
//!
//! `MANIFEST` has one line an object: the hash of everything it was made from, and its file. An object whose
//! hash is not that of today's sources is not used.

use super::{DEVICE_TARGETS, Job, device_files, fail, pack_all, run_all};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const FOLDER: &str = "kernels/prebuilt";
const MANIFEST: &str = "kernels/prebuilt/MANIFEST";
/// No line tables: they would hold half of the bytes, and the paths of the machine that compiled.
pub const NVCC_FLAGS: [&str; 4] = ["-O3", "-std=c++20", "-I", "kernels"];

/// A compressed object that can be embedded.
pub struct Prebuilt {
    /// The `.cu`.
    pub source: PathBuf,
    /// Name of its target in the table.
    pub target: &'static str,
    /// The file, absolute.
    pub file: PathBuf,
}

/// What `$SELVEDGE_PREBUILT` asks for.
#[derive(Clone, Copy, PartialEq)]
pub enum Asked {
    /// Embed `kernels/prebuilt/` although nvcc is there.
    Embed,
    /// Write it; `tools/prebuild.sh`.
    Write,
    /// Compare it with what nvcc makes; `tools/prebuild.sh --check`.
    Check,
}

/// What this build is asked for.
pub fn asked() -> Option<Asked> {
    println!("cargo:rerun-if-env-changed=SELVEDGE_PREBUILT");
    match env::var("SELVEDGE_PREBUILT").unwrap_or_default().as_str() {
        "" => None,
        "embed" => Some(Asked::Embed),
        "write" => Some(Asked::Write),
        "check" => Some(Asked::Check),
        other => fail(&format!("SELVEDGE_PREBUILT={other}: one of embed, write, check")),
    }
}

/// The targets a source is compiled for: name, flags, extension.
pub fn targets(
    source: &Path,
) -> impl Iterator<Item = (&'static str, &'static [&'static str], &'static str)> {
    let hopper_only = source.to_string_lossy().ends_with("_sm90.cu");
    DEVICE_TARGETS.into_iter().filter(move |(target, ..)| !hopper_only || *target == "Sm90a")
}

/// `linear/linear_sm90.cu` for sm_90a is `linear.linear_sm90.sm_90a.cubin.lzma`.
fn file_name(source: &Path, extension: &str) -> String {
    let below = source.strip_prefix("kernels").unwrap_or(source).with_extension("");
    format!("{}.{extension}.lzma", below.to_string_lossy().replace('/', "."))
}

/// FNV-1a of paths, contents and flags: the same on every machine and with every compiler of this file.
fn hash(source: &Path, flags: &[&str]) -> String {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |bytes: &[u8]| {
        for b in bytes.iter().chain(&[0]) {
            h = (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3);
        }
    };
    NVCC_FLAGS.iter().chain(flags).for_each(|f| add(f.as_bytes()));
    for file in device_files(source) {
        add(file.to_string_lossy().as_bytes());
        add(&fs::read(&file).unwrap_or_default());
    }
    format!("{h:016x}")
}

/// The objects that fit today's sources, and the names of those that do not.
pub fn usable(sources: &[PathBuf]) -> (Vec<Prebuilt>, Vec<String>) {
    let text = fs::read_to_string(MANIFEST).unwrap_or_default();
    let known: BTreeMap<&str, &str> =
        text.lines().filter_map(|l| l.split_once(' ')).map(|(hash, file)| (file, hash)).collect();
    let root = env::current_dir().unwrap_or_default();
    let (mut usable, mut stale) = (vec![], vec![]);
    for source in sources {
        for (target, flags, extension) in targets(source) {
            let name = file_name(source, extension);
            let file = root.join(FOLDER).join(&name);
            let fits = known.get(name.as_str()).is_some_and(|h| *h == hash(source, flags));
            if fits && file.is_file() {
                usable.push(Prebuilt { source: source.clone(), target, file });
            } else {
                stale.push(name.trim_end_matches(".lzma").to_string());
            }
        }
    }
    (usable, stale)
}

/// Writes or compares the objects of `jobs`.
pub fn run(asked: Asked, jobs: &[Job]) {
    run_all(jobs);
    match asked {
        Asked::Embed => {}
        Asked::Write => write(jobs),
        Asked::Check => check(jobs),
    }
}

/// `MANIFEST` and file names, in order.
fn manifest(jobs: &[Job]) -> (String, Vec<String>) {
    let rows = jobs.iter().filter_map(|job| {
        let (_, flags, extension) = targets(&job.source).find(|(t, ..)| *t == job.target)?;
        Some((file_name(&job.source, extension), hash(&job.source, flags)))
    });
    let rows: Vec<(String, String)> = rows.collect();
    let mut lines: Vec<String> = rows.iter().map(|(name, h)| format!("{h} {name}\n")).collect();
    lines.sort_by(|a, b| a[17..].cmp(&b[17..]));
    (lines.concat(), rows.into_iter().map(|(name, _)| name).collect())
}

/// Replaces the folder's content.
fn write(jobs: &[Job]) {
    let ok = |r: std::io::Result<()>| r.unwrap_or_else(|e| fail(&format!("{FOLDER}: {e}")));
    let _ = fs::remove_dir_all(FOLDER);
    ok(fs::create_dir_all(FOLDER));
    let (manifest, names) = manifest(jobs);
    for (packed, name) in pack_all(jobs).iter().zip(names) {
        ok(fs::copy(&packed.file, Path::new(FOLDER).join(name)).map(|_| ()));
    }
    ok(fs::write(MANIFEST, manifest));
}

/// Ends the build where the folder holds anything else. Objects are compared unpacked: another release of xz may
/// pack otherwise.
fn check(jobs: &[Job]) {
    if !xz_is_there() {
        fail("xz: not found; install xz-utils");
    }
    let (manifest, names) = manifest(jobs);
    let mut wrong = vec![];
    if fs::read_to_string(MANIFEST).ok().as_ref() != Some(&manifest) {
        wrong.push(MANIFEST.to_string());
    }
    for (job, name) in jobs.iter().zip(names) {
        let kept = xz(&["-dc"], &Path::new(FOLDER).join(&name));
        if kept.ok() != fs::read(&job.result).ok() {
            wrong.push(name);
        }
    }
    if !wrong.is_empty() {
        let what = wrong.join("\ndiffers: ");
        fail(&format!(
            "differs: {what}\n{FOLDER} is not what the sources give; run tools/prebuild.sh"
        ));
    }
}

/// Whether there is a compressor.
pub fn xz_is_there() -> bool {
    Command::new("xz").arg("--version").output().is_ok_and(|o| o.status.success())
}

/// A file, compressed as `src/device/cubin_table.rs` reads it.
pub fn pack(file: &Path) -> Vec<u8> {
    let packed = xz(&["--format=lzma", "--lzma1=preset=9e,dict=4MiB", "-c"], file);
    packed.unwrap_or_else(|e| fail(&format!("xz: {e}")))
}

/// What xz makes of a file.
fn xz(args: &[&str], file: &Path) -> Result<Vec<u8>, String> {
    match Command::new("xz").args(args).arg(file).output() {
        Ok(o) if o.status.success() => Ok(o.stdout),
        Ok(o) => Err(String::from_utf8_lossy(&o.stderr).into_owned()),
        Err(e) => Err(format!("{e}; install xz-utils")),
    }
}
