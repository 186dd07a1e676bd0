//! `selvedge forward`: one pass of one model, for comparing with any other implementation.

mod inputs;
mod record;
mod sam;
mod towers;

use crate::{
    cli::common::{self, Compute},
    device::Device,
    error::{Error, Result},
    lora::LoraFile,
    models::checkpoint::{Checkpoint, Component},
    plan::{ParamInfo, Pass, PlanOptions, Program, Recorder, WeightLayout, WeightSource},
    tensor::{
        DType, Floats, Tensor,
        safetensors::{Raw, SafeFile},
        write_safetensors,
    },
};
use clap::{Args as ClapArgs, ValueEnum};
use inputs::{Data, Output};
use record::{Recorded, record};
use std::{collections::BTreeMap, path::PathBuf};

/// Runs one component once: tensors in, tensors out, gradients on request.
///
/// Names and layouts are those of the Python implementations' arguments, for example
/// `selvedge forward unet --model stable-diffusion-xl-base-1.0 --inputs in.safetensors --outputs out.safetensors`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// Which component.
    #[arg(value_enum, value_name = "COMPONENT")]
    pub component: Part,
    /// A diffusers or transformers folder, one component's folder, a file with the original names (.safetensors or
    /// torch's), or `nano`.
    #[arg(long, value_name = "PATH")]
    pub model: PathBuf,
    /// Input tensors; with --gradients also `grad.<output>`.
    #[arg(long, value_name = "FILE")]
    pub inputs: PathBuf,
    /// Where the outputs go.
    #[arg(long, value_name = "FILE")]
    pub outputs: PathBuf,
    /// An adapter file to apply, with a strength after a colon.
    #[arg(long, value_name = "FILE[:SCALE]")]
    pub lora: Option<String>,
    /// Gradients to compute beside those of the floating-point inputs.
    #[arg(long, value_enum, value_name = "WHICH")]
    pub gradients: Option<Gradients>,
    /// Where and how to compute.
    #[command(flatten)]
    pub compute: Compute,
}

/// The components.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// sample, timestep, encoder_hidden_states, for SDXL text_embeds and time_ids -> sample.
    Unet,
    /// sample (picture) -> moments.
    VaeEncoder,
    /// sample (unscaled latent) -> sample (picture).
    VaeDecoder,
    /// input_ids -> last_hidden_state, hidden_states.penultimate, pooler_output or text_embeds.
    TextEncoder,
    /// The same for SDXL's second text encoder.
    #[value(name = "text-encoder-2")]
    TextEncoder2,
    /// pixel_values -> image_embeddings.
    SamImageEncoder,
    /// image_embeddings, input_points, input_labels, input_boxes, input_masks, multimask_output (all but the first may
    /// be left out) -> pred_masks, iou_scores.
    SamMaskDecoder,
    /// pixel_values -> image_embeds (not normalized), last_hidden_state.
    ClipImage,
    /// input_ids -> text_embeds (not normalized), last_hidden_state.
    ClipText,
    /// pixel_values -> last_hidden_state, pooler_output.
    Dinov2,
    /// pixel_values -> last_hidden_state, pooler_output where there is a pooler.
    Dino,
    /// img in [0, 1] -> embed.
    Dreamsim,
    /// image, prompt_ids, prompt_attention_mask -> rewards, last_hidden_state.
    Imagereward,
    /// pixel_values, input_ids, attention_mask (may be left out) -> logits, pred_boxes, objectness_logits, text_embeds,
    /// image_embeds, class_embeds.
    Owlv2,
}

impl Part {
    /// The part of a checkpoint that it needs.
    pub fn component(self) -> Component {
        match self {
            Part::Unet => Component::Unet,
            Part::VaeEncoder | Part::VaeDecoder => Component::Vae,
            Part::TextEncoder => Component::TextEncoder,
            Part::TextEncoder2 => Component::TextEncoder2,
            Part::SamImageEncoder => Component::SamImageEncoder,
            Part::SamMaskDecoder => Component::SamMaskDecoder,
            Part::ClipImage => Component::ClipImage,
            Part::ClipText => Component::ClipText,
            Part::Dinov2 => Component::Dinov2,
            Part::Dino => Component::Dino,
            Part::Dreamsim => Component::DreamSim,
            Part::Imagereward => Component::ImageReward,
            Part::Owlv2 => Component::Owlv2,
        }
    }
}

/// Which parameters' gradients are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Gradients {
    /// Every parameter.
    All,
    /// The adapter's tensors.
    Lora,
    /// No parameter.
    Inputs,
}

/// Runs the command.
///
/// # Errors
/// For files that cannot be read or written, and inputs that do not fit the model.
pub fn run(args: &Args) -> Result<u8> {
    let place = args.compute.place.open()?;
    let checkpoint = Checkpoint::open(&args.model, args.component.component())?;
    let inputs = SafeFile::open(&args.inputs)?;
    let lora = match &args.lora {
        Some(word) => Some(open_lora(word, &checkpoint)?),
        None if args.gradients == Some(Gradients::Lora) => return Err(no_adapter()),
        None => None,
    };
    let tensors = forward(args, place, &checkpoint, &inputs, lora.as_ref())?;
    write_safetensors(
        &args.outputs,
        tensors.iter().map(|(n, t)| (n.as_str(), t)),
        &BTreeMap::new(),
    )?;
    Ok(0)
}

/// Opens an adapter file by the names of this very model.
fn open_lora(word: &str, checkpoint: &Checkpoint) -> Result<LoraFile> {
    let (path, strength) = common::lora_word(word)?;
    let file = LoraFile::open_for(&path, checkpoint.component().name(), &checkpoint.modules())?;
    Ok(file.scaled(strength))
}

fn forward(
    args: &Args,
    (device, dtype): (Device, DType),
    checkpoint: &Checkpoint,
    inputs: &SafeFile,
    lora: Option<&LoraFile>,
) -> Result<Vec<(String, Raw)>> {
    let adapters = lora.map(LoraFile::adapters).unwrap_or_default();
    let mut rec = Recorder::in_dtype(device.types(dtype));
    match args.gradients {
        Some(Gradients::All) => rec.train_if(|_| true),
        Some(Gradients::Lora) => rec.train_if(is_adapter),
        _ => {}
    }
    let recorded = record(args.component, rec, &adapters, checkpoint, inputs)?;
    let Recorded { rec, feeds, outputs } = recorded;
    let params = rec.params();
    let (low_rank, own): (Vec<_>, Vec<_>) = params.into_iter().partition(|p| is_adapter(&p.name));
    checkpoint.check(&own)?;
    let unused = adapters.unused(checkpoint.component().name(), &low_rank);
    if !unused.is_empty() {
        return Err(unknown_modules(args, unused));
    }
    let floating = feeds.iter().any(|f| f.grad);
    let trains = own.iter().chain(&low_rank).any(|p| p.trainable);
    let backward = args.gradients.is_some() && (floating || trains);
    let pass = if backward { Pass::Seeded } else { Pass::Inference };
    let named: Vec<_> = outputs.iter().map(|o| (o.name, o.value)).collect();
    let dims: Vec<_> = outputs.iter().map(|o| rec.spec(o.value).dims.clone()).collect();
    let plan = rec.plan(&named, PlanOptions { pass, ..PlanOptions::default() })?;
    let mut program = plan.load(device, &Weights { checkpoint, lora })?;
    for feed in &feeds {
        match &feed.data {
            Data::Floats(x) => program.set(feed.name, x)?,
            Data::Ids(x) => program.set_i32(feed.name, x)?,
        }
    }
    program.forward()?;
    let mut out = vec![];
    for (o, dims) in outputs.iter().zip(&dims) {
        let data = program.get(o.name)?;
        out.push((o.name.to_string(), o.to_file(dims, data)));
    }
    if backward {
        seed(&mut program, &outputs, &dims, inputs)?;
        program.backward(true)?;
        for feed in feeds.iter().filter(|f| f.grad) {
            out.push((format!("grad.{}", feed.name), feed.gradient(program.grad(feed.name)?)));
        }
        let names = Names { checkpoint, lora, own: &own };
        let mut stacks: BTreeMap<String, Vec<(&ParamInfo, Vec<f32>)>> = BTreeMap::new();
        for p in own.iter().chain(&low_rank).filter(|p| p.trainable) {
            let data = p.layout.to_checkpoint(&p.dims, program.grad(&p.name)?);
            let data = checkpoint.chained(names.plain(&p.name), data);
            match names.stack(p) {
                Some(stored) => stacks.entry(stored.into()).or_default().push((p, data)),
                None => out.push(names.gradient(p, &data)),
            }
        }
        for (stored, parts) in stacks {
            let own: Vec<_> = parts.iter().map(|(p, d)| (names.plain(&p.name), &d[..])).collect();
            match checkpoint.stacked(&own) {
                Some((dims, data)) => {
                    out.push((format!("grad.{stored}"), Raw::f32(&dims, &data)));
                }
                None => out.extend(parts.iter().map(|(p, d)| names.gradient(p, d))),
            }
        }
    }
    Ok(out)
}

/// Gives the program `grad.<output>` of every output that the file has it for.
fn seed(
    program: &mut Program,
    outputs: &[Output],
    dims: &[Vec<usize>],
    inputs: &SafeFile,
) -> Result<()> {
    let mut given = 0;
    for (o, dims) in outputs.iter().zip(dims) {
        let name = format!("grad.{}", o.name);
        if inputs.entries().contains_key(&name) {
            let (got, want) = (inputs.f32(&name)?, o.file_dims(dims));
            if got.dims != want {
                let want = format!("{want:?}");
                return Err(Error::Shape { at: name, what: "gradient", got: got.dims, want });
            }
            program.set_grad(o.name, &o.runtime(got))?;
            given += 1;
        }
    }
    if given == 0 {
        let known: Vec<String> = outputs.iter().map(|o| format!("grad.{}", o.name)).collect();
        return Err(Error::Data {
            at: inputs.path().display().to_string(),
            found: "no gradient of an output".into(),
            expected: known.join(", "),
            fix: "add dL/d(output) to the input file, or leave --gradients out".into(),
        });
    }
    Ok(())
}

fn is_adapter(name: &str) -> bool {
    name.contains(".lora_A.") || name.contains(".lora_B.")
}

/// The checkpoint and the adapter file as one source.
struct Weights<'a> {
    checkpoint: &'a Checkpoint,
    lora: Option<&'a LoraFile>,
}

impl WeightSource for Weights<'_> {
    fn get(&self, name: &str, dims: &[usize], layout: WeightLayout) -> Result<Option<Floats>> {
        self.keeper(name).map_or(Ok(None), |keeper| keeper.get(name, dims, layout))
    }

    fn keeper(&self, name: &str) -> Option<&dyn WeightSource> {
        match self.lora.filter(|_| is_adapter(name)) {
            Some(lora) => Some(lora),
            None => Some(self.checkpoint),
        }
    }
}

/// Parameter names as the files have them.
struct Names<'a> {
    checkpoint: &'a Checkpoint,
    lora: Option<&'a LoraFile>,
    own: &'a [ParamInfo],
}

impl Names<'_> {
    fn of(&self, param: &ParamInfo) -> String {
        if is_adapter(&param.name) {
            let stored = self.lora.and_then(|l| l.stored_name(&param.name));
            return stored.unwrap_or(&param.name).to_string();
        }
        match self.stack(param) {
            // part of a tensor that is not whole here: our name
            Some(_) => self.plain(&param.name).to_string(),
            None => {
                let own = self.plain(&param.name);
                self.checkpoint.stored_name(own).unwrap_or(own).to_string()
            }
        }
    }

    /// The stored tensor of several parameters (stacked q, k and v) that this one lies in.
    fn stack(&self, param: &ParamInfo) -> Option<&str> {
        let own = self.plain(&param.name);
        let stored = self.checkpoint.stored_name(own).filter(|s| *s != own)?;
        let shares =
            |p: &&ParamInfo| self.checkpoint.stored_name(self.plain(&p.name)) == Some(stored);
        (!is_adapter(&param.name) && self.own.iter().filter(shares).count() > 1).then_some(stored)
    }

    /// A parameter's gradient as the file has the parameter.
    fn gradient(&self, param: &ParamInfo, data: &[f32]) -> (String, Raw) {
        let dims = param.layout.checkpoint_dims(&param.dims);
        let raw = Raw::f32(self.dims(param, data.len()).unwrap_or(&dims), data);
        (format!("grad.{}", self.of(param)), raw)
    }

    /// Dims of our own parameter in the file.
    fn dims(&self, param: &ParamInfo, len: usize) -> Option<&[usize]> {
        self.checkpoint.stored_dims(self.plain(&param.name), len)
    }

    fn plain<'n>(&self, name: &'n str) -> &'n str {
        let own = name.strip_prefix(self.checkpoint.component().name());
        own.and_then(|n| n.strip_prefix('.')).unwrap_or(name)
    }
}

fn no_adapter() -> Error {
    Error::Config {
        key: "--gradients".into(),
        found: "lora without --lora".into(),
        expected: "an adapter file".into(),
        fix: "add --lora FILE".into(),
    }
}

fn unknown_modules(args: &Args, unknown: Vec<String>) -> Error {
    Error::Weights {
        source_name: args.lora.clone().unwrap_or_default(),
        missing: vec![],
        unknown,
        misshaped: vec![],
    }
}

/// Tells about tensors that nothing reads.
fn warn_unread(inputs: &SafeFile, read: &[&str]) {
    for name in inputs.entries().keys() {
        if !read.contains(&name.as_str()) && !name.starts_with("grad.") {
            common::warn(&format!("{}: {name} is not an input", inputs.path().display()));
        }
    }
}

/// `[N, C, H, W]` of a file to `[N, H, W, C]`.
fn channels_last(t: &Tensor) -> Tensor {
    t.permuted(&[0, 2, 3, 1])
}

/// `[N, H, W, C]` to `[N, C, H, W]` of a file.
fn channels_first(t: &Tensor) -> Tensor {
    t.permuted(&[0, 3, 1, 2])
}
