//! `selvedge kernels list`.

use super::super::common::{note, out};
use crate::{
    device::{
        cubin::{self, KernelInfo},
        cubin_table::{OBJECTS, Object, Target},
        occupancy::{blocks_per_multiprocessor, warp_share},
    },
    error::Result,
};

/// Flags of `list`.
#[derive(Clone, Debug, clap::Args)]
pub struct List {
    /// Only kernels whose name contains this.
    #[arg(long, default_value = "", value_name = "TEXT")]
    op: String,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

impl List {
    /// Prints the list; exit code 1 when a kernel is refused.
    ///
    /// # Errors
    /// A damaged object.
    pub fn run(&self) -> Result<u8> {
        let mut text = if self.json { String::new() } else { line(&HEADER.map(String::from)) };
        let mut refused = 0;
        for object in OBJECTS.iter().filter(|o| o.target != Target::Ptx) {
            for kernel in cubin::read(object.source, object.image())? {
                if !kernel.name.contains(&self.op) {
                    continue;
                }
                let problem = cubin::check(object.source, &kernel).err().map(|e| e.to_string());
                text += &match self.json {
                    true => json(object, &kernel, problem.as_deref()),
                    false => line(&cells(object, &kernel)),
                };
                if let Some(problem) = problem {
                    refused += 1;
                    note(&problem);
                }
            }
        }
        out(&text);
        if OBJECTS.is_empty() {
            note(
                "this build has no kernels: run tools/nvcc.sh and build again, or build with \
                 --features emulate",
            );
        }
        Ok(u8::from(refused > 0))
    }
}

const HEADER: [&str; 10] = [
    "kernel",
    "target",
    "tile",
    "cluster",
    "threads",
    "registers",
    "shared",
    "spills",
    "blocks/SM",
    "source",
];

fn cells(object: &Object, k: &KernelInfo) -> [String; 10] {
    let known = |n: Option<u32>| n.map_or("-".into(), |n| n.to_string());
    let t = k.tile;
    let blocks = blocks_per_multiprocessor(object.target, k);
    let share = |b: u32| format!("{b} ({:.0} %)", warp_share(b, t.threads) * 100.0);
    [
        k.name.clone(),
        object.target.name().into(),
        format!("{}x{}x{}", t.block_rows, t.block_cols, t.stages),
        t.cluster.to_string(),
        t.threads.to_string(),
        known(k.registers),
        t.shared_bytes.to_string(),
        known(k.local_bytes),
        blocks.map_or("-".into(), share),
        object.source.into(),
    ]
}

fn line(c: &[String; 10]) -> String {
    format!(
        "{:<44} {:<7} {:>12} {:>7} {:>7} {:>9} {:>7} {:>6} {:>10}  {}\n",
        c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[9]
    )
}

fn json(object: &Object, k: &KernelInfo, problem: Option<&str>) -> String {
    let t = k.tile;
    let blocks = blocks_per_multiprocessor(object.target, k);
    let line = serde_json::json!({
        "kernel": k.name, "target": object.target.name(), "source": object.source,
        "block_rows": t.block_rows, "block_cols": t.block_cols, "stages": t.stages,
        "cluster": t.cluster, "threads": t.threads, "shared_bytes": t.shared_bytes,
        "args_bytes": t.args_bytes, "registers": k.registers, "local_bytes": k.local_bytes,
        "blocks_per_sm": blocks, "warp_share": blocks.map(|b| warp_share(b, t.threads)),
        "packed": object.is_packed(), "problem": problem,
    });
    format!("{line}\n")
}
