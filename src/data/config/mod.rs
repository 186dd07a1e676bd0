//! The training configuration: one TOML file, every key with a default, every unknown key an error.
//!
//! [`TrainConfig::load`] reads a file and `--set` overrides; [`print_config`] lists every key with
//! its default and meaning. The defaults are the published SDXL settings (methods.md §1.6), and those
//! of the method are the preset [`DEFAULT_PRESET`].

mod caption;
mod check;
mod decoupling;
mod keys;
mod load;
mod loss_scale;
mod preset;
mod schedule;
mod segment;
mod subject;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use caption::CaptionSection;
pub use decoupling::{CLASSICAL, DecouplingSection, DropLoss, TextFeature, TrainText};
pub use keys::print_config;
pub use load::{load_for_subjects, load_subjects};
pub use loss_scale::LossScale;
pub use preset::{DEFAULT_PRESET, preset_names};
pub use schedule::LrSchedule;
pub use segment::SegmentSection;
pub use subject::{CLASS_FILE, SubjectConfig};

/// Everything a training run needs to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainConfig {
    /// A diffusers folder, a single-file checkpoint, or `nano`.
    pub base: String,
    /// The preset whose values lie under those of the file; empty for none.
    pub preset: String,
    /// What the base predicts.
    pub prediction: Target,
    /// What is learned, and how mixes are made.
    pub method: MethodConfig,
    /// How subjects are decoupled from their backgrounds.
    pub decoupling: DecouplingSection,
    /// How it is learned.
    pub train: TrainSection,
    /// How photos without masks get them.
    pub segment: SegmentSection,
    /// Who writes the captions that photos lack.
    pub caption: CaptionSection,
    /// The subjects, one table each.
    #[serde(rename = "subject")]
    pub subjects: Vec<SubjectConfig>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            base: "nano".into(),
            preset: DEFAULT_PRESET.into(),
            prediction: Target::Auto,
            method: MethodConfig::default(),
            decoupling: DecouplingSection::default(),
            train: TrainSection::default(),
            segment: SegmentSection::default(),
            caption: CaptionSection::default(),
            subjects: vec![],
        }
    }
}

/// What the U-Net of the base predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// What the checkpoint says.
    Auto,
    /// The noise.
    Epsilon,
    /// The velocity.
    V,
}

/// How pictures are combined and what the loss is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MethodConfig {
    /// Which method.
    pub name: Method,
    /// Probability that a training picture is a mix.
    pub mix_probability: f64,
    /// No mixes before this step.
    pub start_step: u64,
    /// Whether the two pasted subjects may overlap.
    pub overlap: bool,
    /// Smallest factor drawn on a subject's own fit.
    pub scale_min: f64,
    /// Largest factor drawn on a subject's own fit.
    pub scale_max: f64,
    /// Largest distance of a subject from its side of the canvas, pixels at 1024 (scaled to the
    /// resolution).
    pub margin: usize,
    /// Loss weight outside the union mask of a mix: 1 = no masking.
    pub soft_alpha: f64,
    /// The loss.
    pub loss: Loss,
    /// Strength of the DCO loss.
    pub dco_beta: f64,
    /// Whether class pictures made by the base model are trained on beside the subjects.
    pub prior_preservation: bool,
    /// Weight of the prior loss.
    pub prior_weight: f64,
    /// Prior pictures per class.
    pub prior_images: usize,
    /// Sampling steps of a prior picture (Euler).
    pub prior_steps: usize,
    /// Guidance of a prior picture.
    pub prior_guidance: f64,
    /// Folder of the prior set; `RUN/prior` when empty.
    pub prior_dir: PathBuf,
    /// Clamp of the signal-to-noise loss weight; 0 = off.
    pub min_snr_gamma: f64,
}

impl Default for MethodConfig {
    fn default() -> Self {
        Self {
            name: Method::Mudi,
            mix_probability: 0.3,
            start_step: 0,
            overlap: true,
            scale_min: 0.75,
            scale_max: 1.0,
            margin: 256,
            soft_alpha: 1.0,
            loss: Loss::Dco,
            dco_beta: 1000.0,
            prior_preservation: false,
            prior_weight: 1.0,
            prior_images: 50,
            prior_steps: 50,
            prior_guidance: 5.0,
            prior_dir: PathBuf::new(),
            min_snr_gamma: 0.0,
        }
    }
}

/// Which way of combining subjects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Seg-Mix: segmented subjects pasted on white (methods.md §1.4).
    Mudi,
    /// No mixes.
    Dreambooth,
    /// Two half pictures side by side.
    CutMix,
    /// No mixes; backgrounds are decoupled on two levels (methods.md §2).
    Decoupled,
    /// No mixes; DisenBooth: the implicit branch alone, without fusion.
    Disenbooth,
}

impl Method {
    /// Its word in a configuration, and in the metadata of an adapter.
    pub fn word(self) -> &'static str {
        match self {
            Method::Mudi => "mudi",
            Method::Dreambooth => "dreambooth",
            Method::CutMix => "cut-mix",
            Method::Decoupled => "decoupled",
            Method::Disenbooth => "disenbooth",
        }
    }

    /// Whether two subjects come into one picture.
    pub fn mixes(self) -> bool {
        matches!(self, Method::Mudi | Method::CutMix)
    }

    /// What its pictures are guided away from, where the method says so (methods.md §1.7): traces of the mixes.
    pub fn negative_prompt(self) -> Option<&'static str> {
        (self == Method::Mudi).then_some(MUDI_NEGATIVE)
    }
}

/// MuDI's negative prompt.
const MUDI_NEGATIVE: &str = "sticker, collage.";

/// Which loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// Mean squared error of the predicted noise.
    Mse,
    /// Direct consistency optimization against the base model (methods.md §1.5).
    Dco,
}

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Low-rank adapters on the layers of `targets`.
    Lora,
    /// The weights named by `parts` themselves.
    Full,
}

/// Which sampler makes pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sampler {
    /// Euler on the probability-flow ODE.
    #[serde(rename = "euler")]
    Euler,
    /// DDIM, eta 0.
    #[serde(rename = "ddim")]
    Ddim,
    /// DPM-Solver++ 2M.
    #[serde(rename = "dpm++")]
    Dpm,
}

/// How sample pictures start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SampleInit {
    /// As the method wants it: `seg-mix` for `mudi` where every subject has a mask, else `none`.
    Auto,
    /// From plain noise.
    None,
    /// From noise shifted by the segmented subjects (methods.md §1.7).
    SegMix,
}

/// Optimizer, adapters, schedule, outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainSection {
    /// Side of the square training pictures, pixels; a multiple of 8.
    pub resolution: usize,
    /// Optimizer steps.
    pub steps: u64,
    /// Pictures per pass.
    pub batch: usize,
    /// Passes per optimizer step.
    pub accumulate: usize,
    /// Learning rate of the U-Net.
    pub learning_rate: f64,
    /// Learning rate of the text encoders.
    pub text_learning_rate: f64,
    /// Shape of the learning rate over the run.
    pub schedule: LrSchedule,
    /// Steps of linear warm-up from 0.
    pub warmup_steps: u64,
    /// Decoupled weight decay of the U-Net.
    pub weight_decay: f64,
    /// Decoupled weight decay of the text encoders.
    pub text_weight_decay: f64,
    /// AdamW's two decay rates.
    pub betas: [f64; 2],
    /// AdamW's epsilon.
    pub eps: f64,
    /// Largest gradient norm; 0 = no clipping.
    pub clip_norm: f64,
    /// By what the loss is multiplied before its gradient is taken.
    pub loss_scale: LossScale,
    /// What is trained.
    pub mode: Mode,
    /// Adapter rank.
    pub rank: usize,
    /// Adapter alpha; 0 = equal to the rank. The adapter's factor is alpha / rank.
    pub alpha: f64,
    /// An adapter file to start from; fresh adapters when empty.
    pub from: PathBuf,
    /// Adapted U-Net layers: ends of layer names, or regular expressions when they hold `*`, `(` or
    /// `^`.
    pub targets: Vec<String>,
    /// Whether the text encoders get adapters too.
    pub train_text_encoder: bool,
    /// Adapted text-encoder layers, as `targets`.
    pub text_targets: Vec<String>,
    /// Trained weights in mode `full`, patterns on full names (`unet.`, `text_encoder.`, ...).
    pub parts: Vec<String>,
    /// Recompute activations in the backward pass to save memory.
    pub checkpoint_gradients: bool,
    /// Keep an exponential moving average of what is trained.
    pub ema: bool,
    /// Its decay.
    pub ema_decay: f64,
    /// Keep the VAE moments of un-mixed pictures.
    pub cache_latents: bool,
    /// Seed of everything random.
    pub seed: u64,
    /// Steps between checkpoints; 0 = only at the end.
    pub save_every: u64,
    /// Checkpoints kept; 0 = all.
    pub keep_checkpoints: usize,
    /// Steps between sample pictures; 0 = never.
    pub sample_every: u64,
    /// Prompts of the sample pictures; one made of all subjects when empty.
    pub sample_prompts: Vec<String>,
    /// Sampler of the sample pictures.
    pub sample_sampler: Sampler,
    /// Sampling steps of the sample pictures.
    pub sample_steps: usize,
    /// Guidance of the sample pictures.
    pub sample_guidance: f64,
    /// What the sample pictures are guided away from; `auto` is the method's own.
    pub sample_negative: String,
    /// How the sample pictures start.
    pub sample_init: SampleInit,
    /// Strength of their initialization.
    pub sample_gamma: f64,
    /// Conventions the adapter is written in: peft, kohya, comfy.
    pub formats: Vec<String>,
}

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|s| (*s).to_string()).collect()
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            resolution: 1024,
            steps: 1400,
            batch: 1,
            accumulate: 2,
            learning_rate: 1e-4,
            text_learning_rate: 5e-6,
            schedule: LrSchedule::Constant,
            warmup_steps: 0,
            weight_decay: 1e-4,
            text_weight_decay: 1e-3,
            betas: [0.9, 0.999],
            eps: 1e-8,
            clip_norm: 1.0,
            loss_scale: LossScale::Auto,
            mode: Mode::Lora,
            rank: 32,
            alpha: 0.0,
            from: PathBuf::new(),
            targets: strings(&["to_q", "to_k", "to_v", "to_out.0"]),
            train_text_encoder: false,
            text_targets: strings(&["q_proj", "k_proj", "v_proj", "out_proj"]),
            parts: vec![],
            checkpoint_gradients: false,
            ema: false,
            ema_decay: 0.999,
            cache_latents: true,
            seed: 42,
            save_every: 200,
            keep_checkpoints: 2,
            sample_every: 200,
            sample_prompts: vec![],
            sample_sampler: Sampler::Dpm,
            sample_steps: 25,
            sample_guidance: 5.0,
            sample_negative: "auto".into(),
            sample_init: SampleInit::Auto,
            sample_gamma: 1.0,
            formats: strings(&["peft"]),
        }
    }
}

impl TrainSection {
    /// The adapter's alpha with the 0 rule applied.
    pub fn effective_alpha(&self) -> f64 {
        if self.alpha == 0.0 { self.rank as f64 } else { self.alpha }
    }
}
