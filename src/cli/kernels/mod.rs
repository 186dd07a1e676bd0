//! `selvedge kernels`: what is compiled in, and whether it is right on a device.

use super::common::{Kernels, note, out};
use crate::{
    device::{Cuda, Device, cubin, cubin_table::OBJECTS, cubin_table::Target},
    error::{Error, Result},
    kernels::compare::{Outcome, compare},
};
use clap::Subcommand;
use std::fmt::Write as _;
use std::sync::Arc;

/// Lists and checks the compiled kernels.
///
/// Example: selvedge kernels check --device emulated --op latent_mix
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Action,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// Every embedded kernel: target, threads, shared memory, registers, local memory (spills).
    List {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Compares every kernel with the CPU on its list of cases; exit code 1 if one differs.
    Check {
        /// Where: cuda[:N] or emulated[:early|:late|:random:SEED].
        #[arg(long, default_value = "cuda", value_name = "DEVICE")]
        device: String,
        /// Only cases whose name contains this.
        #[arg(long, default_value = "", value_name = "TEXT")]
        op: String,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
        /// Kernels to check instead of the built-in ones.
        #[command(flatten)]
        kernels: Kernels,
    },
}

/// Runs the command; the value is the exit code.
///
/// # Errors
/// A device that cannot be opened, a driver error, a damaged object.
pub fn run(args: Args) -> Result<u8> {
    match args.command {
        Action::List { json } => list(json),
        Action::Check { device, op, json, kernels } => check(&open(&device, &kernels)?, &op, json),
    }
}

fn list(json: bool) -> Result<u8> {
    let mut text = String::new();
    let header = ("kernel", "target", "threads", "shared", "args", "registers", "local", "source");
    if !json {
        row(&mut text, header);
    }
    let mut refused = 0;
    for object in OBJECTS.iter().filter(|o| o.target != Target::Ptx) {
        for k in cubin::read(object.source, object.image)? {
            let problem = cubin::check(object.source, &k).err().map(|e| e.to_string());
            let known = |n: Option<u32>| n.map_or("-".into(), |n| n.to_string());
            if json {
                let line = serde_json::json!({
                    "kernel": k.name, "target": object.target.name(), "source": object.source,
                    "threads": k.tile.threads, "shared_bytes": k.tile.shared_bytes,
                    "args_bytes": k.tile.args_bytes, "registers": k.registers,
                    "local_bytes": k.local_bytes, "problem": problem,
                });
                let _ = writeln!(text, "{line}");
            } else {
                let threads = k.tile.threads.to_string();
                let (shared, args) =
                    (k.tile.shared_bytes.to_string(), k.tile.args_bytes.to_string());
                let (registers, local) = (known(k.registers), known(k.local_bytes));
                let target = object.target.name();
                let cells = (&*k.name, target, &*threads, &*shared, &*args);
                let (a, b, c, d, e) = cells;
                row(&mut text, (a, b, c, d, e, &registers, &local, object.source));
            }
            if let Some(problem) = problem {
                refused += 1;
                note(&problem);
            }
        }
    }
    out(&text);
    if OBJECTS.is_empty() {
        note(
            "this build has no kernels: run tools/nvcc.sh and build again, or build with --features emulate",
        );
    }
    Ok(u8::from(refused > 0))
}

/// Cells of one line of the list.
type Row<'a> = (&'a str, &'a str, &'a str, &'a str, &'a str, &'a str, &'a str, &'a str);

fn row(text: &mut String, (kernel, target, threads, shared, args, registers, local, source): Row) {
    let _ = writeln!(
        text,
        "{kernel:<36} {target:<7} {threads:>7} {shared:>7} {args:>5} {registers:>9} {local:>6}  {source}"
    );
}

fn open(word: &str, kernels: &Kernels) -> Result<Arc<Cuda>> {
    match kernels.open(word)? {
        Device::Cuda(cuda) => Ok(cuda),
        Device::Cpu => Err(Error::Config {
            key: "--device".into(),
            found: word.into(),
            expected: "cuda[:N] or emulated".into(),
            fix: "the CPU is what the kernels are compared with".into(),
        }),
    }
}

fn check(cuda: &Arc<Cuda>, filter: &str, json: bool) -> Result<u8> {
    note(&format!("{} ({}, {})", cuda.name(), cuda.chip(), cuda.target().name()));
    let (mut compared, mut failed, mut without) = (0, 0, 0);
    for case in crate::kernels::cases().iter().filter(|c| c.name.contains(filter)) {
        let outcome = compare(case, crate::tensor::DType::F32, &cuda)?;
        let (word, detail) = match &outcome {
            Outcome::Agrees { worst: 0.0 } => ("ok", "bit-equal".to_string()),
            Outcome::Agrees { worst } => ("ok", format!("{worst:.2} of the allowed error")),
            Outcome::Differs { problem } => ("WRONG", problem.clone()),
            Outcome::NoKernel => {
                without += 1;
                continue;
            }
        };
        compared += 1;
        failed += usize::from(word == "WRONG");
        if json {
            let line = serde_json::json!({"case": case.name, "ok": word == "ok", "detail": detail});
            out(&format!("{line}\n"));
        } else {
            out(&format!("{word:<5} {}: {detail}\n", case.name));
        }
    }
    note(&format!("{compared} cases compared, {failed} wrong; {without} have no kernel here yet"));
    if compared == 0 {
        return Err(Error::Config {
            key: "--op".into(),
            found: filter.into(),
            expected: "part of the name of a case with a kernel on this device".into(),
            fix: "leave --op out; `selvedge kernels list` shows the kernels".into(),
        });
    }
    Ok(u8::from(failed > 0))
}
