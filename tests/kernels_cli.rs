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
        ("atention=sm80", "an operation with variants: attention, biased_attention, conv2d"),
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

/// `noise.cu` in a folder of its own, its kernel's work replaced by `body`.
fn planted(folder: &Path, body: &str) -> String {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/noise/noise.cu");
    let whole = std::fs::read_to_string(source).unwrap();
    let planted =
        format!("__device__ inline void planted(const Args& a) {{ {body} }}\nusing Tile =");
    let text = whole.replace("using Tile =", &planted).replace("noise::fill)", "noise::planted)");
    assert!(text.contains("noise::planted"), "noise.cu has changed");
    let file = folder.join("planted.cu");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_string()
}

/// `check --isolate` over the cases of noise and of the sampler's step (`Noise`) with a planted kernel: exit code and lines.
fn isolated_check(body: &str, limit: &str) -> (Option<i32>, Vec<Value>) {
    let folder = tempfile::tempdir().unwrap();
    let file = planted(folder.path(), body);
    let args = ["check", "--device", "emulated", "--op", "oise", "--dtype", "f32", "--json"];
    let more = ["--isolate", "--limit", limit, "--kernel-source", &file];
    let output = selvedge(&[&args[..], &more[..]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), text.lines().map(|l| serde_json::from_str(l).unwrap()).collect())
}

/// The lines of the noise are bad, the first with the kernel's name and `how`, and the rest of the cases is there.
fn one_kernel_is_named_and_the_rest_goes_on(lines: &[Value], how: &str) {
    let noise = |l: &&Value| l["case"].as_str().unwrap().starts_with("noise");
    let (bad, good): (Vec<_>, Vec<_>) = lines.iter().partition(noise);
    let detail = bad[0]["detail"].as_str().unwrap();
    assert!(detail.starts_with("noise_normal: ") && detail.contains(how), "{detail}");
    assert_eq!(bad[0]["word"], "BROKEN");
    assert!(good.len() >= 6 && good.iter().all(|l| l["ok"] == true), "{lines:?}");
}

#[test]
fn a_kernel_that_hangs_is_one_line_with_its_name_and_the_rest_is_checked() {
    let (code, lines) = isolated_check("volatile int on = 1; while (on) {} a.out[0] = 1;", "10");
    assert_eq!(code, Some(1));
    one_kernel_is_named_and_the_rest_goes_on(&lines, "no end within 10 s");
    let hung = lines.iter().filter(|l| l["word"] == "BROKEN").count();
    assert_eq!(hung, 1, "a kernel that hung is left out of the other cases");
    let out =
        |l: &&Value| l["detail"].as_str().unwrap().contains("noise_normal, which was left out");
    assert!(lines.iter().filter(out).count() > 2, "{lines:?}");
}

#[test]
fn a_kernel_that_writes_to_a_bad_address_is_one_line_with_its_name_and_the_rest_is_checked() {
    let (code, lines) = isolated_check("*(volatile float*)(a.len % 64 / 4 * 4 + 64) = 1;", "60");
    assert_eq!(code, Some(1));
    one_kernel_is_named_and_the_rest_goes_on(&lines, "memory fault");
    // So is a kernel that takes the whole process with it.
    let (code, lines) = isolated_check("if (a.len) __builtin_trap();", "60");
    assert_eq!(code, Some(1));
    one_kernel_is_named_and_the_rest_goes_on(&lines, "signal");
    // A driver that notices is quoted, and the kernel is named by it too.
    let outside = "a.out[a.len + 3] = 1.0f;";
    let (code, lines) = isolated_check(outside, "60");
    assert_eq!(code, Some(1));
    let detail = lines.iter().find_map(|l| l["detail"].as_str().filter(|d| d.contains("outside")));
    assert!(detail.is_some_and(|d| d.contains("noise")), "{lines:?}");
}

#[test]
fn isolated_runs_say_what_others_say() {
    let args = ["check", "--device", "emulated", "--op", "geglu", "--json"];
    let alone = lines(&args);
    assert_eq!(lines(&[&args[..], &["--isolate"]].concat()), alone);
    let args = ["bench", "--device", "emulated", "--op", "geglu", "--json", "--isolate=on"];
    let rows = lines(&[&args[..], &["--dtype", "bf16", "--iterations", "1"]].concat());
    assert!(rows.iter().any(|r| r["pass"] == "backward" && r["cold_ms"].as_f64().unwrap() > 0.0));
}

#[test]
fn a_bench_goes_on_after_a_kernel_that_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let file = planted(folder.path(), "volatile int on = 1; while (on) {} a.out[0] = 1;");
    let args = ["bench", "--device", "emulated", "--op", "oise", "--dtype", "f32", "--json"];
    let more = ["--isolate", "--limit", "10", "--kernel-source", &file, "--iterations", "1"];
    let output = selvedge(&[&args[..], &more[..]].concat());
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let problem = |l: &&str| l.contains("noise_normal: no end within 10 s");
    assert_eq!(text.lines().filter(problem).count(), 1, "{text}");
    assert!(text.lines().filter(|l| l.contains("scheduler")).count() >= 6, "{text}");
}

#[test]
fn a_missing_kernel_fails_the_check_and_is_named() {
    let args = ["check", "--device", "emulated", "--op", "geglu", "--json", "--without-kernel"];
    let output = selvedge(&[&args[..], &["geglu_forward_bf16"]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let missing: Vec<&str> = text.lines().filter(|l| l.contains("MISSING")).collect();
    assert!(!missing.is_empty() && missing.iter().all(|l| l.contains("geglu_forward_bf16")));
    assert!(text.lines().any(|l| l.contains("\"ok\":true")), "the other types are compared");
}

#[cfg(feature = "cust")]
#[test]
fn the_launch_cost_of_cust_stands_beside_our_own() {
    let args = ["bench", "--device", "emulated", "--op", "noise", "--launcher", "cust", "--json"];
    let rows = lines(&[&args[..], &["--iterations", "2"]].concat());
    assert!(!rows.is_empty());
    for row in rows {
        let us = |key: &str| row["launch"][key].as_f64().unwrap_or(0.0);
        assert!(us("own_us") > 0.0 && us("cust_us") > 0.0 && us("ratio") > 0.0, "{row}");
        assert!(row["problem"].is_null(), "{row}");
    }
    // Kernels in clusters are what cust cannot launch, and that is said.
    let args = ["bench", "--device", "emulated", "--op", "group_norm", "--launcher", "cust"];
    let more = ["--dtype", "bf16", "--pass", "forward", "--iterations", "1", "--json"];
    let rows = lines(&[&args[..], &more[..]].concat());
    let told = |r: &&Value| r["launch"]["problem"].as_str().is_some_and(|p| p.contains("clusters"));
    assert!(rows.iter().any(|r| told(&r)), "{rows:?}");
}
