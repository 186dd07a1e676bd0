//! A machine without an NVIDIA driver: errors, no failure to start.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use selvedge::{device::Device, error::Error};
use std::process::Command;

#[test]
fn a_missing_driver_is_an_error_value_with_the_way_out() {
    match Device::parse("cuda") {
        Err(e @ Error::NoDriver { .. }) => {
            let text = e.to_string();
            assert!(text.contains("libcuda.so.1") && text.contains("--device cpu"), "{text}");
        }
        Err(
            Error::Config { .. }
            | Error::NoKernel { .. }
            | Error::OldDriver { .. }
            | Error::Driver { .. },
        )
        | Ok(_) => {
            eprintln!("this machine has a driver; nothing to see here");
        }
        Err(other) => panic!("{other}"),
    }
}

#[cfg(not(feature = "emulate"))]
#[test]
fn the_emulated_device_says_how_to_get_it() {
    let error = Device::parse("emulated").unwrap_err().to_string();
    assert!(error.contains("--features emulate"), "{error}");
}

#[cfg(not(feature = "cust"))]
#[test]
fn the_launcher_cust_says_how_to_get_it() {
    let args = ["kernels", "bench", "--op", "noise", "--launcher", "cust"];
    let out = Command::new(env!("CARGO_BIN_EXE_selvedge")).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    let told = text.contains("--launcher") && text.contains("--features cust");
    assert!(out.status.code() == Some(2) && told, "{text}");
}

/// A driver library that lacks newer functions is refused for its age, not for the first function it lacks.
#[test]
fn a_driver_before_cuda_13_is_refused_for_its_age() {
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("old.c"), folder.path().join("libcuda.so.1"));
    let old = "unsigned cuDriverGetVersion(int* v) { return *v = 12080, 0; }";
    std::fs::write(&source, old).unwrap();
    let mut cc = Command::new("cc");
    let built = cc.args(["-shared", "-fPIC"]).arg(&source).arg("-o").arg(&library);
    assert!(built.status().unwrap().success());
    let out = Command::new(env!("CARGO_BIN_EXE_selvedge"))
        .args(["kernels", "check", "--device", "cuda", "--op", "activation"])
        .env("LD_LIBRARY_PATH", folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    let expected = "libcuda.so.1: driver too old: found CUDA 12.8, needed CUDA 13.0 (driver R580";
    assert!(out.status.code() == Some(2) && text.contains(expected), "{text}");
}
