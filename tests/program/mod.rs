//! The built program, as a person calls it.

use std::process::{Command, Output};

/// What the program answers to `args`.
pub fn selvedge(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_selvedge")).args(args).output().unwrap()
}

/// What it prints when all is well.
pub fn text(args: &[&str]) -> String {
    let output = selvedge(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The one line with which it refuses.
pub fn refusal(args: &[&str]) -> String {
    let output = selvedge(args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
    assert!(!error.contains("panicked"), "{error}");
    error
}
