//! A whole base model: configurations, weights and tokenizers of one checkpoint, and how its text becomes
//! conditioning.

use super::{
    architecture::{Architecture, scheduler},
    checkpoint::{Component, Model, model_json},
    clip::{TextConfig, eos_rows},
    noise::{NoiseSchedule, Prediction},
    tokenizer::Tokenizer,
    unet::UnetConfig,
    vae::VaeConfig,
};
use crate::{
    device::Device,
    error::{Error, Result},
    lora::Adapters,
    plan::{ParamInfo, Plan, Program, Recorder, WeightSource},
    tensor::{DType, Types},
};
use serde_json::Value as Json;

pub use super::architecture::{TextValues, learned_rows, text_input_names};

/// One text encoder with its tokenizer.
#[derive(Clone, Debug)]
pub struct TextSide {
    /// First or second.
    pub component: Component,
    /// Its configuration.
    pub config: TextConfig,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// What the tokenizer made of each learned word before it was one.
    pub learned: Vec<Vec<i32>>,
}

/// A base model: SDXL (two text encoders, micro-conditioning) or SD 1.5 / 2.1 (one). A clone shares the weights.
#[derive(Clone, Debug)]
pub struct Base {
    /// What it was opened from.
    pub name: String,
    /// The denoiser.
    pub unet: UnetConfig,
    /// The autoencoder.
    pub vae: VaeConfig,
    /// One or two text encoders.
    pub text: Vec<TextSide>,
    /// `scheduler_config.json`; that of the published models when the checkpoint has none.
    pub scheduler: Json,
    /// False where the checkpoint does not say what the U-Net predicts and the family has both.
    pub prediction_known: bool,
    /// Whether a picture without a negative prompt is guided away from zeros instead of the empty text.
    pub zero_negative: bool,
    /// Every component's weights.
    pub weights: Model,
    /// How its programs store numbers.
    pub types: Types,
    /// How those of the autoencoder do, where it was chosen; see [`Base::vae_types`].
    pub vae_dtype: Option<DType>,
}

/// Prompts as conditioning, row by row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    /// Tokens `[N, L, C]`.
    pub context: Vec<f32>,
    /// Pooled vectors `[N, D]`; empty for a model without micro-conditioning.
    pub pooled: Vec<f32>,
}

/// Sampling steps of the published pipelines of every family here.
pub const SAMPLING_STEPS: usize = 50;

impl Base {
    /// Opens a diffusers folder, a single file, or `nano`.
    ///
    /// # Errors
    /// Those of the files and the configurations.
    pub fn open(name: &str) -> Result<Self> {
        let mut components = vec![Component::Unet, Component::Vae, Component::TextEncoder];
        let first = Model::open(name, &components[..1])?;
        let json = |m: &Model, c| m.part(c).map_or(Json::Null, |p| p.config().clone());
        let unet = UnetConfig::from_json(&json(&first, Component::Unet))?;
        if unet.text_time.is_some() {
            components.push(Component::TextEncoder2);
        }
        let mut weights = Model::open(name, &components[1..])?;
        weights.parts.extend(first.parts);
        let vae = VaeConfig::from_json(&json(&weights, Component::Vae))?;
        let side = |component: &Component| {
            let config = TextConfig::from_json(&json(&weights, *component))?;
            let tokenizer = Tokenizer::open(name, *component)?;
            Ok(TextSide { component: *component, config, tokenizer, learned: vec![] })
        };
        let text = components[2..].iter().map(side).collect::<Result<_>>()?;
        let (scheduler, prediction_known) = scheduler(name, &unet)?;
        // Published SDXL guides away from zeros; SD 1.5 and SD 2.1 from the empty text.
        let index = model_json(name, "model_index.json")?.unwrap_or_default();
        let zeros = index["force_zeros_for_empty_prompt"].as_bool();
        let zero_negative = zeros.unwrap_or(unet.text_time.is_some());
        let name = name.into();
        let base = Self {
            name,
            unet,
            vae,
            text,
            scheduler,
            prediction_known,
            zero_negative,
            weights,
            types: DType::F32.into(),
            vae_dtype: None,
        };
        base.check_widths()?;
        Ok(base)
    }

    /// The same base with programs that store numbers as `types` say.
    pub fn stored_as(self, types: impl Into<Types>) -> Self {
        Self { types: types.into(), ..self }
    }

    /// The same base with an autoencoder whose programs store as `dtype`, where one is given.
    ///
    /// # Errors
    /// [`Error::Config`] for activations in f16 with an autoencoder that leaves its range.
    pub fn vae_stored_as(self, dtype: Option<DType>) -> Result<Self> {
        dtype.map_or(Ok(()), |d| self.vae.check_storage(self.types.with(d).values()))?;
        Ok(Self { vae_dtype: dtype.or(self.vae_dtype), ..self })
    }

    /// As [`Architecture::vae_types`].
    pub fn vae_types(&self) -> Types {
        self.types.with(self.vae_dtype.unwrap_or(self.vae.storage(self.types.products())))
    }

    /// The same base with a U-Net that predicts this, where it is given.
    pub fn predicting(self, prediction: Option<Prediction>) -> Self {
        let Some(p) = prediction else { return self };
        let mut scheduler = self.scheduler;
        scheduler["prediction_type"] = p.published().into();
        Self { scheduler, prediction_known: true, ..self }
    }

    /// The same base with `words` as tokens of their own, whose embeddings are [`learned_rows`].
    pub fn learning(mut self, words: &[String]) -> Self {
        for side in &mut self.text {
            side.learned = words.iter().map(|w| side.tokenizer.tokens(w)).collect();
            let first = i32::try_from(side.config.vocabulary).unwrap_or(i32::MAX);
            side.tokenizer = side.tokenizer.clone().with_words(words, first);
        }
        self
    }

    /// The guidance scale of the published pipelines: 5 for SDXL's architecture, 7.5 for SD 1.5 and SD 2.1.
    pub fn guidance(&self) -> f32 {
        if self.unet.text_time.is_some() { 5.0 } else { 7.5 }
    }

    fn check_widths(&self) -> Result<()> {
        let width: usize = self.text.iter().map(|t| t.config.width).sum();
        match self.unet.context_dim() {
            Some(want) if want != width => Err(Error::Shape {
                at: format!("{}: text encoders", self.name),
                what: "joint width",
                got: vec![width],
                want: format!("{want}, the cross-attention width of the U-Net"),
            }),
            _ => Ok(()),
        }
    }

    /// The noise schedule.
    ///
    /// # Errors
    /// [`Error::Config`] for one that is not known.
    pub fn noise(&self) -> Result<NoiseSchedule> {
        NoiseSchedule::from_json(&self.scheduler)
    }

    /// Side of the pictures the model was made for, pixels.
    pub fn side(&self) -> usize {
        self.unet.sample_size.unwrap_or(64) * self.vae.factor()
    }

    /// SDXL's micro-conditioning of a whole picture: original size, crop corner, target size.
    pub fn time_ids(height: usize, width: usize) -> [f32; 6] {
        let (h, w) = (height as f32, width as f32);
        [h, w, 0.0, 0.0, h, w]
    }

    /// Compares the recorded parameters of a component (adapters aside) with its weights.
    ///
    /// # Errors
    /// One [`Error::Weights`] that lists every name that does not fit.
    pub fn check(&self, component: Component, params: &[ParamInfo]) -> Result<()> {
        let own: Vec<ParamInfo> =
            params.iter().filter(|p| !p.name.contains(".lora_")).cloned().collect();
        self.weights.part(component).map_or(Ok(()), |part| part.check(&own))
    }

    /// Tokens of a prompt.
    pub fn tokens(&self) -> usize {
        self.text.iter().map(|t| t.tokenizer.max_length()).min().unwrap_or(0)
    }

    /// Token ids and end-of-text rows of `prompts` for encoder `i`.
    pub fn ids(&self, i: usize, prompts: &[&str]) -> (Vec<i32>, Vec<i32>) {
        let side = &self.text[i];
        let ids: Vec<i32> = prompts.iter().flat_map(|p| side.tokenizer.encode(p).ids).collect();
        // where the end is the highest id, learned words are not to be taken for it
        let known = |id: &i32| usize::try_from(*id).is_ok_and(|id| id < side.config.vocabulary);
        let plain: Vec<i32> = ids.iter().map(|id| if known(id) { *id } else { 0 }).collect();
        let rows = eos_rows(&plain, self.tokens(), side.config.eos);
        (ids, rows)
    }

    /// The base without its weights.
    pub fn architecture(&self) -> Architecture {
        Architecture {
            name: self.name.clone(),
            unet: self.unet.clone(),
            vae: self.vae.clone(),
            text: self.text.iter().map(|t| (t.component, t.config.clone())).collect(),
            tokens: self.tokens(),
            learned: self.text.first().map_or(0, |t| t.learned.len()),
            scheduler: self.scheduler.clone(),
            prediction_known: self.prediction_known,
            types: self.types,
            vae_dtype: self.vae_dtype,
        }
    }

    /// As [`Architecture::record_text`].
    ///
    /// # Errors
    /// Those of the recording.
    pub fn record_text(
        &self,
        rec: &mut Recorder,
        adapters: &Adapters,
        batch: usize,
    ) -> Result<TextValues> {
        self.architecture().record_text(rec, adapters, batch)
    }

    /// As [`Architecture::text_plan`].
    ///
    /// # Errors
    /// Those of the recording.
    pub fn text_plan(&self, adapters: &Adapters, batch: usize) -> Result<Plan> {
        self.architecture().text_plan(adapters, batch)
    }

    /// The program of [`Base::text_plan`].
    ///
    /// # Errors
    /// Those of the recording and of `weights`.
    pub fn text_program(
        &self,
        device: &Device,
        adapters: &Adapters,
        batch: usize,
        weights: &dyn WeightSource,
    ) -> Result<Program> {
        self.text_plan(adapters, batch)?.load(device.clone(), weights)
    }

    /// Feeds `prompts` to a program that has the inputs of [`Base::record_text`].
    ///
    /// # Errors
    /// [`crate::error::Error::Shape`] when the batch differs.
    pub fn set_text(&self, program: &mut Program, prompts: &[&str]) -> Result<()> {
        for i in 0..self.text.len() {
            let (ids, rows) = self.ids(i, prompts);
            let (name, end) = text_input_names(i);
            program.set_i32(name, &ids)?;
            if self.text.len() > 1 && i + 1 == self.text.len() {
                program.set_i32(end, &rows)?;
            }
        }
        Ok(())
    }

    /// Encodes one batch of prompts with a program of [`Base::text_program`].
    ///
    /// # Errors
    /// [`crate::error::Error::Shape`] when the batch differs; those of the operations.
    pub fn encode(&self, program: &mut Program, prompts: &[&str]) -> Result<Encoded> {
        self.set_text(program, prompts)?;
        program.forward()?;
        let pooled = if self.text.len() > 1 { program.get("pooled")? } else { vec![] };
        Ok(Encoded { context: program.get("context")?, pooled })
    }

    /// As [`Architecture::vae_encoder`].
    ///
    /// # Errors
    /// Those of the recording.
    pub fn vae_encoder(&self, batch: usize, size: [usize; 2]) -> Result<Plan> {
        self.architecture().vae_encoder(batch, size)
    }

    /// As [`Architecture::vae_decoder`].
    ///
    /// # Errors
    /// Those of the recording.
    pub fn vae_decoder(&self, batch: usize, latent: [usize; 2]) -> Result<Plan> {
        self.architecture().vae_decoder(batch, latent)
    }
}
