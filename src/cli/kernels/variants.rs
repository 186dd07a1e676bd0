//! `selvedge kernels variants`: which kernel serves which shape, and what else there is to choose from.

use super::super::common::{Kernels, dtype, note, out};
use crate::{
    device::Cuda,
    error::Result,
    kernels::{case::Case, slots, variant::Slot},
    tensor::DType,
};
use std::sync::Arc;

/// Flags of `variants`.
#[derive(Clone, Debug, clap::Args)]
pub struct Variants {
    /// For which device: cuda[:N] or emulated.
    #[arg(long, default_value = "cuda", value_name = "DEVICE")]
    device: String,
    /// Only cases whose name contains this.
    #[arg(long, default_value = "", value_name = "TEXT")]
    op: String,
    /// Element types (repeatable): f32, bf16, f16.
    #[arg(long, value_name = "TYPE", default_values = ["bf16"])]
    dtype: Vec<String>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// Kernels to use instead of the built-in ones.
    #[command(flatten)]
    kernels: Kernels,
}

impl Variants {
    /// Prints the choice for every measured shape, then all names.
    ///
    /// # Errors
    /// A device that cannot be opened.
    pub fn run(&self) -> Result<u8> {
        let dtypes = self.dtype.iter().map(|d| dtype(d)).collect::<Result<Vec<_>>>()?;
        let cuda = super::open(&self.device, &self.kernels)?;
        let mut all = crate::kernels::bench_cases();
        all.extend(crate::kernels::cases());
        all.retain(|c| c.name.contains(&self.op));
        let mut told: Vec<String> = vec![];
        for case in &all {
            for dtype in &dtypes {
                if !told.contains(&case.name) {
                    self.tell(case, *dtype, &cuda);
                }
            }
            told.push(case.name.clone());
        }
        for Slot { name, variants } in slots() {
            if self.json {
                out(&format!("{}\n", serde_json::json!({"slot": name, "variants": variants})));
            } else {
                out(&format!("--variant {name}=  {}\n", variants.join(" ")));
            }
        }
        if all.is_empty() {
            note("no case of that name");
        }
        Ok(0)
    }

    fn tell(&self, case: &Case, dtype: DType, cuda: &Arc<Cuda>) {
        let specs = case.specs(dtype);
        let Ok(signature) = case.op.infer(&specs) else { return };
        let chosen = |backward| case.op.variant(cuda, &specs, &signature.out, backward);
        let (forward, backward) = (chosen(false), chosen(true));
        if forward.is_empty() && backward.is_empty() {
            return;
        }
        if self.json {
            let line = serde_json::json!({
                "case": case.name, "dtype": dtype.to_string(), "forward": forward,
                "backward": backward,
            });
            out(&format!("{line}\n"));
        } else {
            let dtype = dtype.to_string();
            out(&format!("{:<60} {dtype:<5} {forward:<24} {backward}\n", case.name));
        }
    }
}
