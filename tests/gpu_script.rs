//! `tools/gpu.sh` keeps to its budget whatever its parts do, and its report names what is missing.
#![allow(clippy::unwrap_used)]
#![cfg(unix)]

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command, time::Instant};

/// An executable file of `text`.
fn program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs the script with stubs for the program, for `nvidia-smi` and for Python (the report is the real one).
fn run(selvedge: &str, budget: &str) -> (String, String, u64) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    program(&at("nvidia-smi"), "#!/bin/sh\necho Stub GPU, 1.0\n");
    program(&at("selvedge"), &format!("#!/bin/sh\n{selvedge}\n"));
    let python = "#!/bin/sh\ncase \"$1\" in *report*) exec python3 \"$@\" ;; *) echo none >&2; exit 1 ;; esac\n";
    program(&at("python"), python);
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let begin = Instant::now();
    let output = Command::new("bash")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tools/gpu.sh"))
        .arg(at("selvedge"))
        .envs([("PATH", path.as_str()), ("BUDGET", budget), ("DEVICE", "cuda")])
        .env("PYTHON", at("python"))
        .env("OUT", at("results"))
        .output()
        .unwrap();
    let seconds = begin.elapsed().as_secs();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}{}", String::from_utf8_lossy(&output.stderr));
    (said, fs::read_to_string(at("results/results.md")).unwrap(), seconds)
}

#[test]
fn a_part_that_hangs_is_cut_when_the_budget_ends_and_the_rest_is_named() {
    let first = r#"echo '{"case": "a", "dtype": "f32", "ok": true, "word": "ok", "detail": ""}'; sleep 600"#;
    let (said, report, seconds) = run(first, "10");
    assert!(seconds < 30, "{seconds} s\n{said}");
    assert!(said.contains("check.jsonl: cut after"), "{said}");
    assert!(said.contains("quickstart.txt: left out, the budget of 10 s is spent"), "{said}");
    assert!(
        report.contains("1 comparisons with the CPU, 0 failed"),
        "partial results stay: {report}"
    );
    assert!(report.contains("- check.jsonl: cut after"), "{report}");
}

#[test]
fn parts_that_fail_are_one_line_each_and_results_stand_in_one_table() {
    let stub = r#"case "$*" in
  *train*batch\ 1*|*--batch\ 1*) echo '{"train_step_ms": 200.0, "peak_bytes": 12000000000}' ;;
  *check*) echo '{"case": "b", "dtype": "bf16", "ok": false, "word": "BROKEN", "detail": "k: hung"}'; exit 1 ;;
  *attention*) echo '{"case": "attention", "op": "attention", "dims": [[1]], "dtype": "bf16", "pass": "forward", "variant": "v", "cold_ms": 0.5, "cold_low_ms": 0.4, "cold_high_ms": 0.6, "flop": 1e9, "bytes": 1e6, "cublas_ms": 1.0}' ;;
  *) echo "no such thing" >&2; exit 2 ;;
esac"#;
    let (said, report, _) = run(stub, "120");
    assert!(said.contains("quickstart.txt: failed with 2: no such thing"), "{said}");
    assert!(report.contains("| b | bf16 | BROKEN k: hung |"), "{report}");
    assert!(report.contains(
        "| attention bf16 forward | 0.5000 | 0.4000 to 0.6000 | cuBLAS | 1.0000 | 0.50 |"
    ));
    assert!(report.contains("SDXL train, batch 1 | 200.0000"), "{report}");
    assert!(report.contains("MuDI dco on SDXL, the run | 280000.0000"), "{report}");
}
