//! How a plan is printed: steps, work, memory; a table or JSON.

use super::{
    forecast::{After, Forecast, Forecaster},
    measured::Measured,
    report,
};
use crate::{
    cli::{
        bench::{Latent, parse_latent},
        chips::Chip,
        common::{Kernels, dtype, out},
    },
    device::Device,
    error::Result,
    plan::{Plan, Summary},
    tensor::Types,
    train::is_adapter,
};
use clap::Args as ClapArgs;
use serde_json::json;
use std::path::PathBuf;

/// What is common to all plans: sizes that no configuration has, and how the plan is shown.
#[derive(Clone, Debug, ClapArgs)]
pub(super) struct View {
    /// Latent side, or HEIGHTxWIDTH; by default what the model was made for.
    #[arg(long, value_parser = parse_latent)]
    pub latent: Option<Latent>,
    /// Element type of weights and activations: f32, bf16 or f16 (adapters and their optimizer stay f32).
    #[arg(long, default_value = "f32")]
    pub dtype: String,
    /// Plan for this device: cpu stores in half precision only the frozen weights of products and convolutions; with
    /// cuda[:N] and emulated the kernel variants are named; a GPU without them when left out.
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// Only the summary, not every step.
    #[arg(long)]
    pub summary: bool,
    /// Print JSON (the summary).
    #[arg(long)]
    pub json: bool,
    /// Forecast the time on a chip: h200, h100, gh200, a100, a800, rtx4090, l40s, or a file like those in
    /// src/cli/chips.
    #[arg(long, value_name = "NAME|FILE.toml", conflicts_with = "device")]
    pub chip: Option<String>,
    /// With --chip: take the time of steps that were measured on it from results of `kernels bench --json`, a file or a
    /// folder (repeatable).
    #[arg(long, value_name = "FILE|DIR", requires = "chip")]
    pub measured: Vec<PathBuf>,
    /// With --chip: take this variant of an operation wherever it applies, attention.forward=NAME (repeatable).
    #[arg(long = "variant", value_name = "OP=NAME", requires = "chip")]
    pub variants: Vec<String>,
}

/// What a plan is shown for.
pub(super) enum On {
    /// A device, whose kernel variants are named.
    Device(Device),
    /// A chip that is not there.
    Chip(Box<Forecaster>),
}

impl View {
    /// What the flags name.
    ///
    /// # Errors
    /// Those of the device, of the chip's file and of the measured results.
    pub fn on(&self) -> Result<On> {
        let Some(word) = &self.chip else { return self.device().map(On::Device) };
        let chip = Chip::parse(word)?;
        let measured = Measured::read(&self.measured, &chip)?;
        let kernels = Kernels { variants: self.variants.clone(), ..Kernels::default() };
        kernels.check_variants()?;
        Ok(On::Chip(Box::new(Forecaster { chip, measured, kernels })))
    }

    /// The device whose kernel variants are named; the CPU has none.
    pub fn device(&self) -> Result<Device> {
        self.device.as_deref().map_or(Ok(Device::Cpu), Device::parse)
    }

    /// How the programs of the planned device store numbers.
    pub fn types(&self) -> Result<Types> {
        let dtype = dtype(&self.dtype)?;
        Ok(match &self.device {
            None => dtype.into(),
            Some(_) => self.device()?.types(dtype),
        })
    }
}

/// Memory of a plan, bytes.
#[derive(Debug, PartialEq)]
struct Memory {
    weights: usize,
    arena: usize,
    /// Both moments of the optimizer; master weights, gradient and shadow lie in the arena.
    moments: usize,
    peak: usize,
}

fn memory(s: &Summary) -> Memory {
    let moments = 8 * s.trainable_elements;
    let (weights, arena) = (s.weight_bytes, s.arena_bytes);
    Memory { weights, arena, moments, peak: weights + arena + moments }
}

/// What one pass may be of.
pub(super) const COMPONENTS: [&str; 14] = [
    "unet",
    "vae-encoder",
    "vae-decoder",
    "text-encoder",
    "text-encoder-2",
    "sam-image-encoder",
    "sam-mask-decoder",
    "clip-image",
    "clip-text",
    "dinov2",
    "dino",
    "dreamsim",
    "imagereward",
    "owlv2",
];

/// What a plan is called, and how it is shown.
pub(super) struct Title {
    pub what: &'static str,
    pub model: String,
    pub view: View,
}

impl Title {
    /// The title of one component's plan.
    pub fn of(component: &str, model: &str, view: &View) -> Self {
        let what = COMPONENTS.into_iter().find(|k| *k == component).unwrap_or("plan");
        Self { what, model: model.into(), view: view.clone() }
    }
}

/// What stands in memory beside a plan: in words, as a JSON key, bytes.
pub(super) type Beside = (&'static str, &'static str, u64);

/// What is printed with a plan.
#[derive(Default)]
pub(super) struct Around<'a> {
    /// What stands beside it in the peak.
    pub beside: Vec<Beside>,
    /// What is launched after its steps.
    pub after: Option<After<'a>>,
    /// More times that follow from its forecast: in words, as a JSON key, ms.
    pub more: Option<More<'a>>,
}

/// Times that follow from a forecast.
pub(super) type More<'a> = &'a dyn Fn(&Forecast) -> Vec<Further>;

/// A time in words, as a JSON key, ms.
pub(super) type Further = (String, &'static str, f64);

/// Prints a plan as `title` asks for it; its forecast on a chip.
pub(super) fn print(
    plan: Plan,
    title: &Title,
    on: &On,
    around: Around<'_>,
) -> Result<Option<Forecast>> {
    match on {
        On::Device(device) => {
            show(&plan, title, &around, device, None);
            Ok(None)
        }
        On::Chip(forecaster) => {
            let (program, forecast) = forecaster.of(plan, around.after)?;
            show(program.plan(), title, &around, program.device(), Some(&forecast));
            Ok(Some(forecast))
        }
    }
}

fn show(
    plan: &Plan,
    title: &Title,
    around: &Around<'_>,
    device: &Device,
    forecast: Option<&Forecast>,
) {
    let (s, m) = (plan.summary(), memory(&plan.summary()));
    let adapters: usize = (plan.params().iter().filter(|p| is_adapter(&p.name)))
        .map(|p| p.dims.iter().product::<usize>())
        .sum();
    let flop = s.forward_flop + s.backward_flop;
    let beside = &around.beside;
    let peak = m.peak as u64 + beside.iter().map(|b| b.2).sum::<u64>();
    let Title { what, model, view } = title;
    let further = match (forecast, around.more) {
        (Some(forecast), Some(more)) => more(forecast),
        _ => vec![],
    };
    if view.json {
        let mut all = json!({
            "what": what, "model": model, "dtype": view.dtype, "steps": s.steps, "once_steps": s.once_steps, "once_flop": s.once_flop,
            "parameters": s.parameters - adapters, "trainable_parameters": s.trainable_parameters,
            "forward_flop": s.forward_flop, "backward_flop": s.backward_flop, "flop": flop,
            "weight_bytes": m.weights, "arena_bytes": m.arena, "moment_bytes": m.moments,
            "planned_bytes": peak, "forecast_ms": null,
        });
        beside.iter().for_each(|(_, key, bytes)| all[*key] = json!(bytes));
        forecast.iter().for_each(|f| report::json(&mut all, &f.chip, &f.total()));
        for once in forecast.iter().filter(|f| f.once > 0).map(|f| f.prompt()) {
            all["once_nodes"] = json!(once.nodes);
            all["once_ms"] = json!(once.time.us() / 1e3);
        }
        further.iter().for_each(|(_, key, ms)| all[*key] = json!(ms));
        out(&format!("{all}\n"));
        return;
    }
    match forecast {
        Some(forecast) if !view.summary => out(&report::table(forecast)),
        None if !view.summary => out(&plan.explain(device)),
        _ => {}
    }
    let mb = |bytes: usize| bytes as f64 / 1e6;
    let mut text = format!("{what} of {model}, {}\n", view.dtype);
    text += &format!("  steps                  {}\n", s.steps);
    if s.once_steps > 0 {
        let flop = s.once_flop / 1e12;
        text += &format!("  of them once a prompt  {} ({flop:.3} TFLOP)\n", s.once_steps);
    }
    text += &format!("  parameters             {}\n", grouped(s.parameters - adapters));
    text += &format!("  trainable parameters   {}\n", grouped(s.trainable_parameters));
    text += &format!("  forward                {:.3} TFLOP\n", s.forward_flop / 1e12);
    text += &format!("  backward               {:.3} TFLOP\n", s.backward_flop / 1e12);
    text += &format!("  together               {:.3} TFLOP\n", flop / 1e12);
    text += &format!("  weights                {:.1} MB\n", mb(m.weights));
    text += &format!("  arena                  {:.1} MB\n", mb(m.arena));
    text += &format!("  optimizer moments      {:.1} MB\n", mb(m.moments));
    for (words, _, bytes) in beside {
        text += &format!("  {words:<22} {:.1} MB\n", *bytes as f64 / 1e6);
    }
    text += &format!("  planned peak memory    {:.1} MB\n", peak as f64 / 1e6);
    if let Some(forecast) = forecast {
        text += &report::text(&forecast.chip, &forecast.total());
        if forecast.once > 0 {
            let once = forecast.prompt();
            let (nodes, ms) = (once.nodes, once.time.us() / 1e3);
            text += &format!("  of it once a prompt    {nodes} nodes, {ms:.3} ms\n");
        }
    }
    for (words, _, ms) in further {
        text += &format!("  {words:<26} {}, forecast\n", report::duration(ms));
    }
    out(&text);
}

/// `2,567,463,684`.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(d);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        models::{builtin, unet::UnetConfig},
        tensor::DType,
        train::{StepSize, plan_denoising, plan_training},
    };

    #[test]
    fn the_published_sdxl_numbers_come_from_the_configuration_alone() {
        let config = UnetConfig::from_json(&builtin("sdxl", "unet").unwrap()).unwrap();
        let plan = plan_training(&config, &StepSize::default()).unwrap();
        let s = plan.summary();
        assert_eq!(s.trainable_parameters, 46_448_640);
        assert_eq!(s.parameters - s.trainable_parameters, 2_567_463_684);
        let forward = plan_denoising(&config, &StepSize::default()).unwrap().summary();
        assert!((forward.forward_flop / 1e12 - 6.76).abs() < 0.01, "{}", forward.forward_flop);
        let step = (s.forward_flop + s.backward_flop) / 1e12;
        assert!((step - 14.7).abs() < 0.05, "{step}");
    }

    #[test]
    fn half_precision_halves_the_weights_and_shrinks_the_arena() {
        let config = UnetConfig::from_json(&builtin("sdxl", "unet").unwrap()).unwrap();
        let size = |types| StepSize { types, latent: [32; 2], ..StepSize::default() };
        let plan = |types: Types| memory(&plan_training(&config, &size(types)).unwrap().summary());
        let (full, half) = (plan(DType::F32.into()), plan(DType::Bf16.into()));
        assert_eq!(full.weights, 2 * half.weights);
        assert_eq!(full.moments, half.moments);
        assert!(half.arena < full.arena, "{} {}", half.arena, full.arena);
        let cpu = plan(Types::cpu(DType::Bf16));
        assert!(cpu.weights * 100 < full.weights * 51, "{} {}", cpu.weights, full.weights);
        assert!(cpu.arena <= full.arena, "{} {}", cpu.arena, full.arena);
    }

    #[test]
    fn digits_are_grouped() {
        assert_eq!(grouped(2_567_463_684), "2,567,463,684");
        assert_eq!(grouped(12), "12");
    }
}
