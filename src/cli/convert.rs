//! `selvedge convert`: adapter files between conventions.

use super::common::out;
use crate::{
    error::Result,
    lora::{Convention, Lora, Modules},
    models::checkpoint::{Checkpoint, Component},
};
use clap::{Args, Subcommand};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Convert adapter files between conventions.
#[derive(Clone, Debug, Args)]
pub struct ConvertArgs {
    /// What to convert.
    #[command(subcommand)]
    pub what: What,
}

/// What can be converted.
#[derive(Clone, Debug, Subcommand)]
pub enum What {
    /// A LoRA file: reads any convention, writes one, re-reads it and compares every layer.
    ///
    /// Example: selvedge convert lora adapter.safetensors for_comfy.safetensors --to comfy
    Lora(LoraArgs),
}

/// Flags of `convert lora`.
#[derive(Clone, Debug, Args)]
pub struct LoraArgs {
    /// The file to read: diffusers, peft, kohya or ComfyUI names.
    pub input: PathBuf,
    /// The file to write.
    pub output: PathBuf,
    /// Naming of the output.
    #[arg(long, value_enum)]
    pub to: Convention,
    /// The base model, when it is not built like SD 1.5, SD 2.1 or SDXL: folder, file or `nano`.
    #[arg(long, value_name = "BASE")]
    pub base: Option<PathBuf>,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command: 0 when every bit came back, 1 when not.
///
/// # Errors
/// Those of reading and writing.
pub fn run(args: &ConvertArgs) -> Result<u8> {
    let What::Lora(args) = &args.what;
    let own = args.base.as_deref().map(modules_of).transpose()?;
    let modules = own.as_ref().unwrap_or_else(|| Modules::standard());
    let before = Lora::open(&args.input, "unet", modules)?;
    before.save(&args.output, args.to, modules)?;
    let after = Lora::open(&args.output, "unet", modules)?;
    let lines = compare(&before, &after);
    let equal = lines.iter().all(|l| l.equal);
    out(&if args.json { as_json(&lines, equal) } else { as_table(&lines, equal) });
    Ok(u8::from(!equal))
}

/// The modules of all components that `base` has.
fn modules_of(base: &Path) -> Result<Modules> {
    let mut shapes: Vec<(String, Vec<usize>)> = vec![];
    for component in [Component::Unet, Component::TextEncoder, Component::TextEncoder2] {
        let part = match Checkpoint::open(base, component) {
            Ok(part) => part,
            // A model may have one text encoder, or none in its folder.
            Err(e) if component == Component::Unet => return Err(e),
            Err(_) => continue,
        };
        let own = part.shapes().map(|(n, d)| (format!("{}.{n}", component.name()), d.to_vec()));
        shapes.extend(own);
    }
    Ok(Modules::of(shapes.iter().map(|(n, d)| (n.as_str(), d.as_slice()))))
}

/// One layer before and after.
struct Line {
    module: String,
    rank: usize,
    alpha: f32,
    /// Largest absolute difference over down, up and alpha; infinite for a layer that is gone or
    /// new.
    largest: f32,
    equal: bool,
}

fn compare(before: &Lora, after: &Lora) -> Vec<Line> {
    let differ = |a: &[f32], b: &[f32]| {
        let pairs = a
            .iter()
            .zip(b)
            .map(|(x, y)| if x.to_bits() == y.to_bits() { 0.0 } else { (x - y).abs() });
        pairs.fold(0.0, |m: f32, d| if d.is_nan() { f32::INFINITY } else { m.max(d) })
    };
    let mut lines: Vec<Line> = vec![];
    for (module, old) in &before.layers {
        let new = after.layers.get(module);
        let largest = new.map_or(f32::INFINITY, |new| {
            let factor = |a: &crate::tensor::safetensors::Raw,
                          b: &crate::tensor::safetensors::Raw| {
                match (a.to_tensor(), b.to_tensor()) {
                    (Some(a), Some(b)) if a.dims == b.dims => differ(&a.data, &b.data),
                    _ => f32::INFINITY,
                }
            };
            let factors = factor(&old.down, &new.down).max(factor(&old.up, &new.up));
            factors.max(differ(&[old.alpha], &[new.alpha]))
        });
        let equal = new.is_some_and(|new| old.same_bits(new));
        lines.push(Line {
            module: module.clone(),
            rank: old.rank(),
            alpha: old.alpha,
            largest,
            equal,
        });
    }
    let extra = after.layers.values().filter(|l| !before.layers.contains_key(&l.module));
    lines.extend(extra.map(|l| Line {
        module: l.module.clone(),
        rank: l.rank(),
        alpha: l.alpha,
        largest: f32::INFINITY,
        equal: false,
    }));
    lines
}

fn as_table(lines: &[Line], equal: bool) -> String {
    let mut text = String::from("largest difference  rank  alpha  layer\n");
    for l in lines {
        text += &format!("{:>18e}  {:>4}  {:>5}  {}\n", l.largest, l.rank, l.alpha, l.module);
    }
    let verdict = if equal { "bit-equal" } else { "NOT bit-equal" };
    text + &format!("{} layers, {verdict} after reading back\n", lines.len())
}

fn as_json(lines: &[Line], equal: bool) -> String {
    let layers: Vec<_> = lines
        .iter()
        .map(|l| {
            json!({
                "module": l.module, "rank": l.rank, "alpha": l.alpha,
                "largest": l.largest, "equal": l.equal,
            })
        })
        .collect();
    json!({"bit_equal": equal, "layers": layers}).to_string() + "\n"
}
