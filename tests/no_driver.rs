//! A machine without an NVIDIA driver: errors, no failure to start.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use selvedge::{device::Device, error::Error};

#[test]
fn a_missing_driver_is_an_error_value_with_the_way_out() {
    match Device::parse("cuda") {
        Err(e @ Error::NoDriver { .. }) => {
            let text = e.to_string();
            assert!(text.contains("libcuda.so.1") && text.contains("--device cpu"), "{text}");
        }
        Err(Error::Config { .. } | Error::NoKernel { .. } | Error::Driver { .. }) | Ok(_) => {
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
