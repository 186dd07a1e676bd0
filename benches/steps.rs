//! Ours against PyTorch, the same work in one run: LoRA training step and denoising step of a mid-size SDXL
//! configuration (channels 160/320/640, depth 0/2/4, latent 64x64, one picture, 77 tokens, CPU), in f32 or in bf16 (PyTorch: autocast).
//!
//!     PYTHON=python3 cargo bench --bench steps [-- ITERATIONS] [bf16]
//!
//! Every part runs in its own process, so that the peak memory is that of the part. `THREADS` (2) goes for both;
//! without a Python that has torch, diffusers and peft only our numbers are printed.

use selvedge::{
    device::Device,
    models::unet::UnetConfig,
    tensor::{DType, Types},
    train::{RandomWeights, StepSize, peak_memory_bytes, time_denoising, time_training},
};
use serde_json::{Value, json};
use std::{env, error::Error, process::Command};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    if let Ok(part) = env::var("SELVEDGE_BENCH_PART") {
        return measure(&part);
    }
    let number = |a: String| a.parse::<usize>().ok();
    let iterations = env::args().skip(1).find_map(number).unwrap_or(5).to_string();
    let dtype = if env::args().any(|a| a == "bf16") { "bf16" } else { "f32" };
    let threads = env::var("THREADS").unwrap_or_else(|_| "2".into());
    println!(
        "{:<9} {:>12} {:>12} {:>7}   {:>12} {:>12} {:>7}",
        "step", "ours ms", "torch ms", "ratio", "ours MB", "torch MB", "ratio"
    );
    for part in ["denoise", "train"] {
        let ours = run(Command::new(env::current_exe()?)
            .env("SELVEDGE_BENCH_PART", part)
            .env("SELVEDGE_BENCH_ITERATIONS", &iterations)
            .env("SELVEDGE_BENCH_DTYPE", dtype)
            .env("RAYON_NUM_THREADS", &threads))?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/bench_torch.py");
        let python = env::var("PYTHON").unwrap_or_else(|_| "python3".into());
        let torch = run(Command::new(python)
            .args([script, "--part", part, "--threads", &threads, "--iterations", &iterations])
            .args(["--dtype", dtype])
            .env("OMP_NUM_THREADS", &threads));
        let (time, torch) = (format!("{part}_step_ms"), torch.unwrap_or_default());
        let pair = |key: &str, unit: f64| {
            let get = |v: &Value| v[key].as_f64().map_or(f64::NAN, |x| x / unit);
            (get(&ours), get(&torch))
        };
        let ((a, b), (c, d)) = (pair(&time, 1.0), pair("peak_bytes", 1e6));
        println!(
            "{part:<9} {a:>12.1} {b:>12.1} {:>7.2}   {c:>12.1} {d:>12.1} {:>7.2}",
            a / b,
            c / d
        );
    }
    Ok(())
}

/// Runs a part in this process and prints its JSON line.
fn measure(part: &str) -> Outcome<()> {
    let json: Value = serde_json::from_str(include_str!("midsize.json"))?;
    let config = UnetConfig::from_json(&json)?;
    let half = env::var("SELVEDGE_BENCH_DTYPE").is_ok_and(|d| d == "bf16");
    let types = Types::cpu(if half { DType::Bf16 } else { DType::F32 });
    let size = StepSize { latent: [64, 64], types, ..StepSize::default() };
    let iterations = env::var("SELVEDGE_BENCH_ITERATIONS").ok().and_then(|v| v.parse().ok());
    let (weights, iterations) = (RandomWeights::new(0), iterations.unwrap_or(5));
    let ms = match part {
        "train" => time_training(&config, &size, &Device::Cpu, &weights, iterations)?,
        _ => time_denoising(&config, &size, &Device::Cpu, &weights, iterations)?,
    };
    let key = format!("{part}_step_ms");
    println!("{}", json!({ key: ms, "peak_bytes": peak_memory_bytes() }));
    Ok(())
}

/// The JSON object a process prints last.
fn run(command: &mut Command) -> Outcome<Value> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().rev().find(|l| l.starts_with('{'));
    Ok(serde_json::from_str(line.ok_or("no result")?)?)
}
