//! Compiles one kernel source at run time: NVRTC for a GPU, the host's C++ compiler for the emulated device.

use super::cubin_table::{EMULATED_SCHEDULER, HEADERS, HOST_FLAGS};
use crate::error::{Error, Result};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

const NVRTC_LIBRARIES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];
/// What NVRTC has no own copy of.
const STANDARD_HEADERS: [(&str, &str); 2] = [
    ("cstdint", "#pragma once\n#include \"stdint.h\"\n"),
    (
        "stdint.h",
        "#pragma once\n\
         typedef signed char int8_t; typedef unsigned char uint8_t;\n\
         typedef short int16_t; typedef unsigned short uint16_t;\n\
         typedef int int32_t; typedef unsigned int uint32_t;\n\
         typedef long long int64_t; typedef unsigned long long uint64_t;\n\
         typedef unsigned long long uintptr_t;\n",
    ),
];

/// A folder that exists as long as this value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("selvedge-compile-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).map_err(Error::file("create", &path))?;
        Ok(Self(path))
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.0.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(Error::file("create", parent))?;
        }
        std::fs::write(&path, content).map_err(Error::file("write", &path))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Where `#include "common/export.cuh"` is found: the source's own `kernels/` folder when it lies in one,
/// otherwise the headers of this program, written to `folder`.
fn include_folder(source: &Path, folder: &Folder) -> Result<PathBuf> {
    let absolute = std::path::absolute(source).map_err(Error::file("find", source))?;
    let own = absolute.ancestors().find(|a| a.join("common/export.cuh").is_file());
    if let Some(own) = own {
        return Ok(own.to_path_buf());
    }
    for (name, text) in HEADERS {
        folder.write(&format!("kernels/{name}"), text.as_bytes())?;
    }
    Ok(folder.0.join("kernels"))
}

fn failed(source: &Path, found: String, expected: &str, fix: &str) -> Error {
    Error::Config {
        key: format!("--kernel-source {}", source.display()),
        found,
        expected: expected.into(),
        fix: fix.into(),
    }
}

/// Compiles `source` for the emulated device with `$CXX` or g++.
///
/// # Errors
/// [`Error::Config`] without a compiler, or with the compiler's own words; [`Error::File`].
pub fn host(source: &Path) -> Result<Vec<u8>> {
    let scheduler = EMULATED_SCHEDULER.ok_or_else(|| {
        let found = "a build without the emulated device".into();
        failed(source, found, "the feature emulate", "build with --features emulate")
    })?;
    std::fs::metadata(source).map_err(Error::file("read", source))?;
    let folder = Folder::new()?;
    let include = include_folder(source, &folder)?;
    let scheduler = folder.write("scheduler.o", scheduler)?;
    let result = folder.0.join("kernel.host.so");
    let compiler = std::env::var_os("CXX").filter(|v| !v.is_empty()).unwrap_or("g++".into());
    let output = Command::new(&compiler)
        .args(HOST_FLAGS)
        .arg("-I")
        .arg(&include)
        .args(["-shared", "-x", "c++"])
        .arg(source)
        .args(["-x", "none"])
        .arg(&scheduler)
        .arg("-o")
        .arg(&result)
        .output();
    match output {
        Ok(o) if o.status.success() => std::fs::read(&result).map_err(Error::file("read", result)),
        Ok(o) => {
            let text = String::from_utf8_lossy(&o.stderr).into_owned();
            Err(failed(source, text, "a source that compiles", "correct it"))
        }
        Err(e) => {
            let found = format!("{}: {e}", compiler.display());
            Err(failed(source, found, "a C++ compiler", "install g++ or set $CXX"))
        }
    }
}

type Program = *mut c_void;
type Code = c_int;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> Code;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Code;
type Size = unsafe extern "C" fn(Program, *mut usize) -> Code;
type Get = unsafe extern "C" fn(Program, *mut c_char) -> Code;
type Destroy = unsafe extern "C" fn(*mut Program) -> Code;

/// The functions of an opened libnvrtc.
struct Nvrtc {
    create: Create,
    compile: Compile,
    log_size: Size,
    log: Get,
    object_size: Size,
    object: Get,
    destroy: Destroy,
    /// `include/` of the toolkit it belongs to, where there is one.
    include: Option<PathBuf>,
    _library: libloading::Library,
}

impl Nvrtc {
    fn open() -> Option<Self> {
        let library = nvrtc_candidates().into_iter().find_map(|path| {
            // SAFETY: NVIDIA's compiler library has no initialiser that depends on our state.
            let library = unsafe { libloading::Library::new(&path) }.ok()?;
            Some((path, library))
        });
        let (path, library) = library?;
        let include = path.parent().and_then(Path::parent).map(|toolkit| toolkit.join("include"));
        // SAFETY: the types are those of the documented functions of these names.
        unsafe {
            Some(Self {
                create: *library.get(b"nvrtcCreateProgram").ok()?,
                compile: *library.get(b"nvrtcCompileProgram").ok()?,
                log_size: *library.get(b"nvrtcGetProgramLogSize").ok()?,
                log: *library.get(b"nvrtcGetProgramLog").ok()?,
                object_size: *library.get(b"nvrtcGetCUBINSize").ok()?,
                object: *library.get(b"nvrtcGetCUBIN").ok()?,
                destroy: *library.get(b"nvrtcDestroyProgram").ok()?,
                include: include.filter(|i| i.is_dir()),
                _library: library,
            })
        }
    }

    /// Text or object of a program, by the two functions that give its size and its content.
    fn content(&self, program: Program, size: Size, get: Get) -> Vec<u8> {
        let mut bytes = 0;
        // SAFETY: a live program; writes one size.
        if unsafe { size(program, &mut bytes) } != 0 {
            return vec![];
        }
        let mut content = vec![0u8; bytes];
        // SAFETY: the buffer has the size that the library asked for.
        let code = unsafe { get(program, content.as_mut_ptr().cast()) };
        if code == 0 { content } else { vec![] }
    }
}

/// Names for the loader, then the places of an installed toolkit.
fn nvrtc_candidates() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = NVRTC_LIBRARIES.iter().map(PathBuf::from).collect();
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let mut toolkits: Vec<PathBuf> =
        ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(|n| set(n)).collect();
    toolkits.push(".cuda/nvidia/cu13".into());
    toolkits.push("/usr/local/cuda".into());
    for toolkit in toolkits {
        for folder in ["lib64", "lib"] {
            all.extend(NVRTC_LIBRARIES.iter().map(|n| toolkit.join(folder).join(n)));
        }
    }
    all
}

/// Compiles `source` for `architecture` (`sm_90a`) with NVRTC.
///
/// # Errors
/// [`Error::Config`] without libnvrtc, or with the compiler's own words; [`Error::File`].
pub fn device(source: &Path, architecture: &str) -> Result<Vec<u8>> {
    let text = std::fs::read(source).map_err(Error::file("read", source))?;
    let nvrtc = Nvrtc::open().ok_or_else(|| {
        failed(
            source,
            format!("none of {} can be opened", NVRTC_LIBRARIES.join(", ")),
            "the CUDA run-time compiler",
            "install it (tools/nvcc.sh --nvrtc, or set CUDA_HOME), or compile with tools/kernel.sh \
             and use --kernel-dir",
        )
    })?;
    let folder = Folder::new()?;
    let include = include_folder(source, &folder)?;
    for (name, text) in STANDARD_HEADERS {
        folder.write(&format!("standard/{name}"), text.as_bytes())?;
    }
    let mut options = vec![
        format!("--gpu-architecture={architecture}"),
        "--std=c++20".into(),
        "-lineinfo".into(),
        "-default-device".into(), // constexpr functions have no execution space of their own
        format!("-I{}", include.display()),
        format!("-I{}", folder.0.join("standard").display()),
    ];
    options.extend(nvrtc.include.iter().map(|i| format!("-I{}", i.display())));
    let c_text = |bytes: Vec<u8>| {
        CString::new(bytes)
            .map_err(|_| failed(source, "a NUL byte".into(), "text", "check the file"))
    };
    let options: Vec<CString> =
        options.into_iter().map(|o| c_text(o.into_bytes())).collect::<Result<_>>()?;
    let name = c_text(source.display().to_string().into_bytes())?;
    nvrtc.run(source, &c_text(text)?, &name, &options)
}

impl Nvrtc {
    fn run(&self, source: &Path, text: &CStr, name: &CStr, options: &[CString]) -> Result<Vec<u8>> {
        let mut program: Program = std::ptr::null_mut();
        let none = std::ptr::null();
        // SAFETY: two NUL-terminated texts and no extra headers; writes one handle.
        let code =
            unsafe { (self.create)(&mut program, text.as_ptr(), name.as_ptr(), 0, none, none) };
        if code != 0 {
            let found = format!("nvrtcCreateProgram answers {code}");
            return Err(failed(source, found, "a program", "check the installation of NVRTC"));
        }
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).unwrap_or(0);
        // SAFETY: a live program and `count` NUL-terminated texts.
        let code = unsafe { (self.compile)(program, count, pointers.as_ptr()) };
        let log = self.content(program, self.log_size, self.log);
        let object = self.content(program, self.object_size, self.object);
        // SAFETY: created above, destroyed once.
        unsafe { (self.destroy)(&mut program) };
        if code == 0 && !object.is_empty() {
            return Ok(object);
        }
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_string();
        Err(failed(source, log, "a source that compiles", "correct it"))
    }
}
