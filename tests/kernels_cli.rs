//! `selvedge kernels` as a user runs it, on the emulated device.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(feature = "emulate")]

use selvedge::tensor::{philox, safetensors::Raw, write_safetensors};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Output},
};

fn selvedge(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_selvedge")).arg("kernels").args(args).output().unwrap()
}

/// The JSON lines of a command that succeeds.
fn lines(args: &[&str]) -> Vec<Value> {
    let output = selvedge(args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {error}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn refusal(args: &[&str]) -> String {
    let output = selvedge(args);
    assert_eq!(output.status.code(), Some(2), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_list_names_tiles_registers_and_occupancy() {
    let all = lines(&["list", "--json"]);
    for k in &all {
        assert!(k["problem"].is_null(), "{k}");
    }
    assert!(all.iter().any(|k| k["kernel"] == "noise_normal" && k["target"] == "host"));
    for k in all.iter().filter(|k| k["target"] != "host") {
        // Attention of 512 channels does not fit Ampere, and is not chosen there.
        let too_large = k["target"] == "sm_80" && k["kernel"].as_str().unwrap().contains("_d512_");
        assert!(too_large || k["blocks_per_sm"].as_u64().unwrap() >= 1, "{k}");
        assert_eq!(k["local_bytes"], 0, "{k}");
    }
    let table = String::from_utf8(selvedge(&["list", "--op", "noise"]).stdout).unwrap();
    assert!(table.starts_with("kernel") && table.contains("1x1024x1"), "{table}");
}

#[test]
fn a_check_reports_the_share_of_the_allowed_error() {
    let all = lines(&["check", "--device", "emulated", "--op", "noise", "--json"]);
    assert!(!all.is_empty() && all.iter().all(|c| c["ok"] == true && c["error"] == 0.0));
    let error = refusal(&["check", "--device", "emulated", "--op", "nothing like this"]);
    assert!(error.contains("--op: found nothing like this"), "{error}");
    let error = refusal(&["check", "--device", "cpu"]);
    assert!(error.contains("expected cuda[:N] or emulated"), "{error}");
}

#[test]
fn a_bench_measures_and_plots_on_the_emulated_device() {
    let folder = tempfile::tempdir().unwrap();
    let svg = folder.path().join("roofline.svg");
    let args = ["bench", "--device", "emulated", "--op", "add", "--json", "--dtype", "bf16"];
    let args = [&args[..], &["--svg", svg.to_str().unwrap()]].concat();
    let rows = lines(&args);
    assert!(rows.iter().any(|r| r["pass"] == "forward"));
    assert!(rows.iter().any(|r| r["pass"] == "backward"));
    for r in &rows {
        assert!(r["cold_ms"].as_f64().unwrap() > 0.0 && r["floor_ms"].as_f64().unwrap() > 0.0);
        assert!(r["emulated"] == true && r["problem"].is_null(), "{r}");
    }
    assert!(std::fs::read_to_string(svg).unwrap().contains("<circle"));
}

#[test]
fn two_variants_are_compared_in_turns() {
    let args = ["bench", "--device", "emulated", "--op", "layer_norm", "--json", "--pass"];
    let compare = ["forward", "--compare", "layer_norm.forward=block,warp_scalar"];
    let rows = lines(&[&args[..], &compare].concat());
    let compared = rows.iter().filter(|r| r["compared"]["ratio"].is_number()).count();
    assert!(compared > 0, "{rows:?}");
    let error = refusal(&["bench", "--device", "emulated", "--compare", "layer_norm"]);
    assert!(error.contains("expected OP=A,B"), "{error}");
}

#[test]
fn kernels_from_a_file_are_checked_and_compared_with_the_built_in_ones() {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/noise/noise.cu");
    let file = ["--kernel-source", source];
    let check = ["check", "--device", "emulated", "--op", "noise", "--json"];
    assert!(lines(&[&check[..], &file].concat()).iter().all(|c| c["ok"] == true));
    let bench = ["bench", "--device", "emulated", "--op", "noise", "--json", "--dtype", "f32"];
    let rows = lines(&[&bench[..], &file, &["--against-built-in"]].concat());
    assert!(rows.iter().all(|r| r["compared"]["verdict"].as_str().unwrap().contains("built-in")));
}

#[test]
fn a_variant_of_an_unknown_operation_or_name_is_refused_with_the_known_ones() {
    let check = ["check", "--device", "emulated", "--op", "layer_norm", "--variant"];
    let error = refusal(&[&check[..], &["attenton=sm90"]].concat());
    assert!(error.contains("found attenton") && error.contains("attention"), "{error}");
    let error = refusal(&[&check[..], &["layer_norm=sm90"]].concat());
    assert!(error.contains("found layer_norm=sm90, expected a variant of"), "{error}");
}

/// `selvedge forward vae-decoder --model nano --capture WORD`.
fn decode(folder: &Path, word: &str) -> Output {
    let mut latent = vec![0.0; 4 * 4 * 4];
    philox::fill_normal(3, 0, &mut latent);
    let sample = Raw::f32(&[1, 4, 4, 4], &latent);
    let (inputs, outputs) = (folder.join("in.safetensors"), folder.join("out.safetensors"));
    write_safetensors(&inputs, [("sample", &sample)], &BTreeMap::new()).unwrap();
    Command::new(env!("CARGO_BIN_EXE_selvedge"))
        .args(["forward", "vae-decoder", "--model", "nano", "--device", "cpu", "--capture", word])
        .arg("--inputs")
        .arg(inputs)
        .arg("--outputs")
        .arg(outputs)
        .output()
        .unwrap()
}

#[test]
fn one_operation_of_a_run_is_recorded_and_replayed_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("op.safetensors");
    let word = |scope: &str| format!("{scope}={}", file.display());
    let output = decode(folder.path(), &word("no.such.scope"));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("found no.such.scope"), "{error}");
    // The message lists scopes that ran, `scope:operation`.
    let ran = error.split("such as ").nth(1).unwrap().split([',', ';']).next().unwrap();
    let output = decode(folder.path(), &word(ran));
    assert!(output.status.success(), "{ran}: {}", String::from_utf8_lossy(&output.stderr));
    let file = file.to_str().unwrap();
    let output = selvedge(&["replay", file, "--device", "emulated", "--repeat", "2"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with("ok: ") && text.contains("forward: "), "{text}");
    let error = refusal(&["replay", folder.path().join("in.safetensors").to_str().unwrap()]);
    assert!(error.contains("no operation"), "{error}");
}

#[test]
fn variants_are_listed_with_the_shapes_they_serve() {
    let all = lines(&["variants", "--device", "emulated", "--op", "attention", "--json"]);
    assert!(all.iter().any(|v| v["case"].is_string() && v["forward"] != ""), "{all:?}");
    let slot = all.iter().find(|v| v["slot"] == "attention.forward").unwrap();
    assert!(slot["variants"].as_array().unwrap().len() > 1, "{slot}");
}

#[test]
fn a_variant_that_does_not_exist_is_refused_before_anything_runs() {
    for (word, expected) in [
        ("attention.sideways=sm80", "attention.forward, attention.backward"),
        ("atention=sm80", "an operation with variants: attention, conv2d"),
        ("attention=sm81", "a variant of attention: "),
        ("attention.backward=sm90_m128", "sm80"),
        ("attention", "OPERATION.PASS=VARIANT"),
    ] {
        let args = ["check", "--device", "emulated", "--op", "noise", "--variant", word];
        let error = refusal(&args);
        assert!(error.contains("--variant") && error.contains(expected), "{word}: {error}");
        let args = ["bench", "--device", "emulated", "--small", "--op", "noise", "--compare"];
        let error = refusal(&[&args[..], &[&format!("{word},x")]].concat());
        assert!(error.contains("--variant") || error.contains("--compare"), "{word}: {error}");
    }
}

#[test]
fn a_variant_that_applied_to_nothing_is_told_at_the_end() {
    let told = |op: &str| {
        let word = "moe_route.forward=top_k";
        let args = ["check", "--device", "emulated", "--op", op, "--variant", word];
        let output = selvedge(&args);
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(
        told("noise").contains("--variant moe_route.forward=top_k applied to nothing that ran")
    );
    assert!(!told("moe_route 2 of 4").contains("applied to nothing"), "it ran");
}

#[test]
fn every_slot_that_is_chosen_for_is_published() {
    use selvedge::{
        device::{Cuda, Schedule},
        kernels::{cases, slots},
    };
    let cuda = Cuda::emulated(Schedule::Early).unwrap();
    let known: Vec<&str> = slots().iter().flat_map(|s| s.variants.clone()).collect();
    let mut unnamed = vec![];
    for case in cases() {
        let Ok(signature) = case.op.infer(&case.ins) else { continue };
        for backward in [false, true] {
            let text = case.op.variant(&cuda, &case.ins, &signature.out, backward);
            let names = text.split([',', ' ']).filter(|w| w.contains("sm") || *w == "simt");
            unnamed
                .extend(names.filter(|n| !known.contains(n)).map(|n| format!("{} {n}", case.name)));
        }
    }
    assert!(unnamed.is_empty(), "{unnamed:?}");
    let operations: Vec<&str> = slots().iter().map(|s| s.operation()).collect();
    for op in [
        "attention",
        "conv2d",
        "group_norm",
        "layer_norm",
        "linear",
        "linear_fused",
        "moe_experts",
        "moe_route",
    ] {
        assert!(operations.contains(&op), "{op}");
    }
}
