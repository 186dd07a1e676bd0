//! Objects of `kernels/prebuilt/`: what nvcc made, compressed, for builds without nvcc.
//!
//! `MANIFEST` has one line an object: the hash of everything it was made from, and its file. An object whose
//! hash is not that of today's sources is not used.

use super::{DEVICE_TARGETS, Job, device_files, fail};
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

/// Whether this build shall write `kernels/prebuilt/`; `tools/prebuild.sh` asks for it.
pub fn wanted() -> bool {
    println!("cargo:rerun-if-env-changed=SELVEDGE_PREBUILD");
    env::var_os("SELVEDGE_PREBUILD").is_some_and(|v| v == "1")
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

/// Replaces the folder's content by the results of `jobs`.
pub fn write(jobs: &[&Job]) {
    let check = |r: std::io::Result<()>| r.unwrap_or_else(|e| fail(&format!("{FOLDER}: {e}")));
    let _ = fs::remove_dir_all(FOLDER);
    check(fs::create_dir_all(FOLDER));
    let mut lines = vec![];
    for job in jobs {
        let of_target = targets(&job.source).find(|(target, ..)| *target == job.target);
        let Some((_, flags, extension)) = of_target else { continue };
        let name = file_name(&job.source, extension);
        check(fs::write(Path::new(FOLDER).join(&name), pack(&job.result)));
        lines.push(format!("{} {name}\n", hash(&job.source, flags)));
    }
    lines.sort_by(|a, b| a[17..].cmp(&b[17..]));
    check(fs::write(MANIFEST, lines.concat()));
}

/// Whether there is a compressor.
pub fn xz_is_there() -> bool {
    Command::new("xz").arg("--version").output().is_ok_and(|o| o.status.success())
}

/// A file, compressed as `src/device/cubin_table.rs` reads it.
pub fn pack(file: &Path) -> Vec<u8> {
    let format = ["--format=lzma", "--lzma1=preset=9e,dict=4MiB", "-c"];
    match Command::new("xz").args(format).arg(file).output() {
        Ok(o) if o.status.success() => o.stdout,
        Ok(o) => fail(&format!("xz: {}", String::from_utf8_lossy(&o.stderr))),
        Err(e) => fail(&format!("xz: {e}; install xz-utils")),
    }
}
