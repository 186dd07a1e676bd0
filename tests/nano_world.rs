//! What nano was trained on: no scene of the run shows or names a subject of a held-out pair.
#![allow(clippy::unwrap_used)]

use std::{path::Path, process::Command};

#[test]
#[ignore = "needs Python with NumPy, which .ci/run installs; PYTHON names it"]
fn held_out_subjects_are_in_no_training_scene() {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let output = Command::new(&python)
        .arg("test_heldout.py")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/nano"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("Ran 3 tests"), "{said}");
}
